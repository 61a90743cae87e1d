"""How far embeddings of the same tracks differ between instruction sets: python -m bench.processors [NAME ...]

Every backend that runs here extracts the same tracks (10 s of synthetic music, stereo, 44.1 kHz, wav) in one process
per setting of bench/_instruction_sets.py, on one thread; the libraries' own switches restrict the processor. MFCC and
MusiCNN are the real ones; the others are the tests' tiny networks with random weights, or with --published-sizes
networks of the published sizes with random weights, as released weights cannot be shipped. Each setting is compared
with SSE4, which every x86 processor has: 1 - the least cosine over tracks, and the largest difference of a value
divided by the largest value. A setting that changes nothing on this processor is left out and named. NAMEs are those
of the rows; json goes to bench/results/.
"""
import contextlib
import importlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench import _instruction_sets as instruction_sets
from bench.extract import BACKENDS
from bench.musicnn import music
from harness import cli
from harness.errors import UsageError, WorkError

TRACKS, SECONDS, RATE = 4, 10, 44100
BASELINE = "SSE4"
FRONT_ENDS = {"log-mel of MusicFM and MuQ": 24000, "log-mel of CLAP": 48000, "log-mel of MusiCNN": 16000}  # Hz
QUICK = ("log-mel of MusicFM and MuQ", "mfcc", "musicnn")
LOUD = 40  # dB below the largest value of a track, where a spectrogram's differences are listed separately
NO_SWITCH = ("pitch",)  # onnxruntime chooses instructions by the processor alone
ONE_PRECISION = ("mfcc", "vgg-msd")  # backends without --precision
SIZES = ("mert-95m",)  # the same network as another row's at another size; measured with --published-sizes only


def rows(published):
    """Names of all that is measured, in order: front ends, then NAME and NAME-bf16 of the backends."""
    names = [name for name in BACKENDS if name not in NO_SWITCH and (published or name not in SIZES)]
    return [*FRONT_ENDS, *names, *(f"{name}-bf16" for name in names if name not in ONE_PRECISION)]


# --------------------------------------------------------------------------- in a process per setting

def child(folder, setting, names):
    """Write what the rows `names` give for the tracks of folder/audio to folder/SETTING/ROW.npy, as things stand."""
    folder = Path(folder)
    (folder / setting).mkdir()
    for name in names:
        values = spectrograms(name, folder) if name in FRONT_ENDS else embeddings(name, folder, setting)
        np.save(folder / setting / f"{name}.npy", values)


def embeddings(name, folder, setting):
    """float32 (tracks, D) by the backend's own command line"""
    backend, precision = (name.removesuffix("-bf16"), "bf16" if name.endswith("-bf16") else "fp32")
    module, _, flags, checkpoint, _ = BACKENDS[backend]
    weights = ["--weights", str(folder / "weights" / backend)] if checkpoint else []
    network = ["--precision", precision] if backend not in ONE_PRECISION else []
    network += ["--device", "cpu"] if backend != "mfcc" else []
    work = folder / f"work {setting}"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module(f"extract_item_embeddings.{module}").main([
            "--audio", str(folder / "audio"), "--workdir", str(work), "--name", name, "--batch", str(TRACKS),
            *flags, *weights, *network])
    return np.load(work / "embeddings" / f"{name}.npy")


def spectrograms(name, folder):
    """(tracks, ...) in dB, as the network is given it but not yet standardised"""
    import torch

    from extract_item_embeddings.engine import audio
    from extract_item_embeddings.networks.logmel import LogMel
    samples = [audio.resample(audio.decode(path, SECONDS, "start"), FRONT_ENDS[name])
               for path in sorted((folder / "audio").glob("*.wav"))]
    if name == "log-mel of MusiCNN":
        from bench.musicnn import load
        backend = load()
        compressed = np.stack([backend.prepare(x)[0] for x in samples]).astype(np.float64)  # log10(1 + 10000 power)
        backend.unload()
        return 10 * np.log10(np.maximum(10 ** compressed - 1, 1e-6))
    mel = LogMel(24000, 2048, 240, 128) if name == "log-mel of MusicFM and MuQ" else \
        LogMel(48000, 1024, 480, 64, 50, 14000, "slaney", "slaney")
    return mel(torch.from_numpy(np.stack(samples))).numpy()


# --------------------------------------------------------------------------- all settings

def prepare(folder, names, published):
    """Write the tracks and, once for all settings, the weights."""
    import soundfile
    import torch
    (folder / "audio").mkdir()
    for i in range(TRACKS):
        soundfile.write(folder / "audio" / f"{i}.wav", music(i, SECONDS), RATE)
    for backend in sorted({name.removesuffix("-bf16") for name in names} - FRONT_ENDS.keys()):
        checkpoint = BACKENDS[backend][3]
        torch.manual_seed(0)
        if checkpoint and published:
            import bench._checkpoints
            getattr(bench._checkpoints, checkpoint)(folder / "weights" / backend)
        elif checkpoint:
            from tests.worlds.checkpoints import MAKERS
            MAKERS[backend][1](folder / "weights" / backend)


def settings():
    """({setting: report}, {setting: why it is left out}); the baseline comes first."""
    reports, left_out = {}, {}
    for name in sorted(instruction_sets.SETTINGS, key=lambda name: name != BASELINE):
        report = instruction_sets.effective(instruction_sets.environment(name, 1))
        if reason := instruction_sets.without_effect(report, reports):
            left_out[name] = reason
        else:
            reports[name] = report
    return reports, left_out


def measure(names, published, reports):
    """{row: {setting: figures}} of every setting but the baseline"""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder, names, published)
        for setting in reports:
            call = f"from bench.processors import child; child({str(folder)!r}, {setting!r}, {list(names)!r})"
            done = subprocess.run([sys.executable, "-c", call], cwd=instruction_sets.ROOT, capture_output=True,
                                  text=True, env=instruction_sets.environment(setting, 1))
            if done.returncode:
                raise WorkError(f"extraction fails under {setting}: {(done.stderr.strip().splitlines() or ['-'])[-1]}")
        return {name: {setting: compared(name, *(np.load(folder / s / f"{name}.npy") for s in (setting, BASELINE)))
                       for setting in reports if setting != BASELINE} for name in names}


def compared(name, values, baseline):
    """Figures of one row: of spectrograms the largest differences in dB, of embeddings cosine and largest difference.

    values, baseline: (tracks, ...) of the same shape
    """
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (values, baseline))
    difference = np.abs(a - b)
    if name in FRONT_ENDS:
        loud = b > b.max(axis=1, keepdims=True) - LOUD
        return {"loud": difference[loud].max(), "quiet": difference[~loud].max(initial=0)}
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"1 - cosine": max(0.0, 1 - cosine.min()), "difference": difference.max() / np.abs(b).max()}


def table(found):
    """Markdown lines of {row: {setting: figures}}"""
    columns, lines = list(next(iter(found.values()))), []
    for title, kinds in ((f"log-mel, dB: above / below -{LOUD} dB of the peak", ("loud", "quiet")),
                         ("embedding: 1 - cosine / largest difference", ("1 - cosine", "difference"))):
        part = {name: row for name, row in found.items() if kinds[0] in row[columns[0]]}
        if part:
            lines += ["", f"| {title} | " + " | ".join(f"{c} to {BASELINE}" for c in columns) + " |",
                      "|---" * (1 + len(columns)) + "|"]
        for name, row in part.items():
            figures = (" / ".join(f"{row[c][kind]:.0e}" for kind in kinds) for c in columns)
            lines.append(f"| `{name}` | " + " | ".join(figures).replace("0e+00", "0") + " |")
    return lines


def run(quick, names=(), published=False):
    chosen = names or [name for name in rows(published) if not quick or name in QUICK]
    reports, left_out = settings()
    noted = [{"what": name, "note": f"left out: {why}"} for name, why in left_out.items()]
    if len(reports) < 2:
        return noted
    found = measure(chosen, published, reports)
    print("\n".join([*(f"{name}: {', '.join(f'{k} {v}' for k, v in report.items())}"
                       for name, report in reports.items()), *table(found)]))
    return noted + [{"what": f"{name}, {setting} to {BASELINE}", **figures,
                     "note": ", ".join(f"{kind} {value:.1e}" for kind, value in figures.items())}
                    for name, row in found.items() for setting, figures in row.items()]


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.processors", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--published-sizes", action="store_true",
                        help="networks of the published sizes with random weights (an hour, 12 GB of memory)")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in rows(args.published_sizes)]:
        raise UsageError(f"no row {', '.join(unknown)}; choose among {', '.join(rows(args.published_sizes))}")
    print_rows("processors", run(args.quick, args.names, args.published_sizes))


if __name__ == "__main__":
    cli.run(main)
