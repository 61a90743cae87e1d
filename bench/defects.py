"""What the published mistakes change: cosine to ours, track by track. python -m bench.defects [--quick]

Real music where the Debian packages of bench/_real_music.py are installed, else synthesised pieces. MusiCNN has its
real weights; Music2Vec, MusicFM and MERT have random ones of the published sizes (bench/_checkpoints.py), so their
rows show that the numbers differ, and not by how much the real ones would. Vectors of random networks all point much
the same way; what matters more is which tracks are alike: the note gives the rank correlation between the cosines of
all pairs of tracks on both sides.
"""
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np

from bench import _checkpoints
from bench.musicnn import music
from harness import cli

SECONDS = 30


def excerpts(folder, most):
    """Write up to `most` excerpts of 30 s as wav, from the middle of real pieces if there are any; says which."""
    import soundfile

    from bench._real_music import pieces
    from extract_item_embeddings.engine import audio
    found = list(pieces().values())[:most]
    for i in range(len(found) or most):
        clip = audio.decode(found[i], SECONDS, "middle") if found else None
        samples, rate = (clip.samples, clip.rate) if found else (music(i).mean(axis=1), 44100)
        soundfile.write(folder / f"{i:02}.wav", samples, rate, subtype="FLOAT")
    return f"{len(found)} real pieces" if found else f"{most} synthesised pieces"


def extracted(module, audio, work, *flags):
    """Rows of an embedding made by a backend's command line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        module.main(["--audio", str(audio), "--workdir", str(work), "--name", "x", *flags])
    return np.load(work / "embeddings" / "x.npy")


def row(what, ours, published, note):
    """Mean cosine of the same tracks, and how far both agree on which tracks are alike."""
    from scipy.stats import spearmanr

    def alike(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (x @ x.T)[np.triu_indices(len(x), 1)]
    ranks = spearmanr(alike(ours), alike(published)).statistic
    said = f"pairs of tracks rank alike to {ranks:.2f}; {note}"
    if ours.shape != published.shape:
        return {"what": what, "note": f"{ours.shape[1]} against {published.shape[1]} values; {said}"}
    cosines = (ours * published).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(published, axis=1)
    return {"what": what, "ours": float(cosines.mean()), "unit": f"cosine (least {cosines.min():.3f})", "note": said}


def of_musicnn(folder, said):
    from bench.musicnn import load
    from extract_item_embeddings import musicnn
    from extract_item_embeddings.engine import audio
    flags = ["--device", "cpu"]
    rows = [row("MusiCNN: the first patch repeated, not the mean",
                extracted(musicnn, folder / "audio", folder / "ours", *flags),
                extracted(musicnn, folder / "audio", folder / "published", "--as-published", *flags), said)]
    backend, bad = load(), []
    for path in sorted((folder / "audio").iterdir()):
        inputs, _ = backend.prepare(audio.resample(audio.decode(path), 16000))
        power = ((10 ** inputs.astype(np.float64) - 1) / 10000).astype(np.float16)  # as the library holds it
        with np.errstate(over="ignore"):
            bad += (~np.isfinite(np.log10(10000 * power + 1))).any(axis=(1, 2)).tolist()
    backend.unload()
    return rows + [{"what": "MusiCNN: float16 times 10000 under NumPy 2", "ours": float(np.mean(bad)),
                    "unit": f"of {len(bad)} patches not finite", "note": said}]


def of_random_weights(folder, said, quick):
    """Rows of Music2Vec, of short tracks, and of MusicFM."""
    import soundfile

    from extract_item_embeddings import m2v, mert, mfm
    rows, note = [], f"random weights, {said}"
    seconds = ["--seconds", "5"] if quick else []

    def both(module, checkpoint, name, *flags):
        checkpoint(folder / name)
        flags = ["--weights", str(folder / name), "--device", "cpu", *flags]
        return [extracted(module, folder / "audio", folder / f"{name}-{way}", *flags, *more)
                for way, more in (("ours", []), ("published", ["--as-published"]))]
    rows.append(row("Music2Vec: 24 kHz into a model of 16 kHz, not normalised",
                    *both(m2v, _checkpoints.music2vec, "m2v", *seconds), note))
    _checkpoints.mert_95m(folder / "mert")
    for name in ("short", "padded"):
        (folder / name).mkdir()
    for path in sorted((folder / "audio").iterdir()):
        samples, rate = soundfile.read(path, dtype="float32")
        sound = samples[:(2 if quick else 10) * rate]
        soundfile.write(folder / "short" / path.name, sound, rate, subtype="FLOAT")
        padded = np.pad(sound, (0, 2 * len(sound)))
        soundfile.write(folder / "padded" / path.name, padded, rate, subtype="FLOAT")
    flags = ["--weights", str(folder / "mert"), "--device", "cpu", "--size", "95M"]
    rows.append(row("MERT-95M: a third of sound and two thirds of zeros behind it",
                    *(extracted(mert, folder / name, folder / f"mert-{name}", *flags) for name in ("short", "padded")),
                    note))
    if not quick:
        rows.append(row("MusicFM: mean over channels instead of time", *both(mfm, _checkpoints.musicfm, "mfm"), note))
    return rows


def run(quick):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "audio").mkdir()
        said = excerpts(folder / "audio", 5 if quick else 12)
        return of_musicnn(folder, said) + of_random_weights(folder, said, quick)


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("defects", argv))
