"""From an mp3 file to MusiCNN's log-mel: other decoders, qualities and mel roads. python -m bench.front_end [--quick]

Processor seconds per track of 30 s (stereo, 44.1 kHz) on one thread, child processes counted. The last row is what
all of it must stay below: the network. PyAV takes part where it is installed; nothing of the project needs it.
"""
import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np

from bench.musicnn import load, music
from harness import cli


def compare(paths):
    """Rows of all comparisons."""
    import threadpoolctl

    from extract_item_embeddings.engine import audio, quality
    ours = load()
    try:
        with threadpoolctl.threadpool_limits(1):
            decoded = {"soundfile": lambda p: quality.mixed(audio._soundfile(p, 30.0, "start")[0]),
                       "ffmpeg": lambda p: quality.mixed(audio._ffmpeg(p, 30.0, "start")[0]), "PyAV": pyav}
            seconds = {road: cost(call, paths) for road, call in decoded.items()}
            clips = [audio.decode(p) for p in paths]
            rows = [{"what": f"decode: soundfile vs {road}", "ours": seconds["soundfile"], "baseline": taken,
                     "unit": "processor s/track", "ratio": taken / seconds["soundfile"] if taken else None,
                     "note": "" if taken else "not installed"}
                    for road, taken in seconds.items() if road != "soundfile"]
            rows += qualities(ours, clips) + mels(ours, clips)
            before = seconds["soundfile"] + cost(lambda c: ours.prepare(audio.resample(c, 16000)), clips)
            heard = [ours.prepare(audio.resample(c, 16000)) for c in clips]
            network = cost(lambda h: hear(ours, h), heard)
    finally:
        ours.unload()
    return [*rows, {"what": "decode + resample + log-mel vs network", "ours": before, "baseline": network,
                    "unit": "processor s/track", "ratio": network / before}]


def hear(ours, heard):
    """(windows, 200) on this thread alone, as a thread of the pass hears them"""
    from extract_item_embeddings.musicnn import PART
    inputs, lengths = heard
    return np.concatenate([ours.run(inputs[s:s + PART], lengths[s:s + PART]) for s in range(0, len(inputs), PART)])


def cost(call, values):
    """Mean processor seconds of a call, child processes counted; None where it cannot be made."""
    taken = []
    try:
        call(values[0])
    except ImportError:
        return None
    for value in [*values, *values]:
        start = spent()
        call(value)
        taken.append(spent() - start)
    return statistics.mean(taken)


def spent():
    """Processor seconds of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def pyav(path):
    """float32 mono of the first 30 s, through ffmpeg's libraries in this process."""
    import av
    blocks, have = [], 0
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        for frame in container.decode(audio=0):
            blocks.append(frame.to_ndarray().mean(axis=0, dtype=np.float32))
            have += frame.samples
            if have >= 30 * rate:
                break
    return np.concatenate(blocks)[:30 * rate]


def qualities(ours, clips):
    """Rows: soxr's qualities from 44.1 to 16 kHz, and what they change in MusiCNN's embedding."""
    import soxr

    def vectors(quality):
        heard = [ours.prepare(soxr.resample(c.samples, c.rate, 16000, quality=quality)) for c in clips]
        return np.stack([hear(ours, h).mean(axis=0) for h in heard])
    best, rows = vectors("VHQ"), []
    usual = cost(lambda c: soxr.resample(c.samples, c.rate, 16000, quality="HQ"), clips)
    for quality in ("VHQ", "MQ", "LQ", "QQ"):
        taken = cost(lambda c, q=quality: soxr.resample(c.samples, c.rate, 16000, quality=q), clips)
        v, hq = vectors(quality), vectors("HQ")
        cosines = [(a * best).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(best, axis=1) for a in (hq, v)]
        rows.append({"what": f"resample: soxr HQ vs {quality}", "ours": usual, "baseline": taken,
                     "unit": "processor s/track", "ratio": taken / usual,
                     "note": f"least cosine of MusiCNN to VHQ {cosines[0].min():.6f} vs {cosines[1].min():.6f}"})
    return rows


def mels(ours, clips):
    """Row: MusiCNN's log-mel by scipy (ours) and by torch on one thread."""
    import torch

    from extract_item_embeddings.engine import audio
    from extract_item_embeddings.musicnn import FFT, HOP
    sounds = [audio.resample(c, 16000) for c in clips]
    window, mel = torch.from_numpy(ours.hann), torch.from_numpy(ours.mel)

    def by_torch(samples):
        spectrum = torch.stft(torch.from_numpy(samples), FFT, HOP, window=window, center=True, pad_mode="constant",
                              return_complex=True)
        power = (spectrum.real ** 2 + spectrum.imag ** 2).T @ mel
        return torch.log10(1 + 10000 * power.clamp(max=65504).half().float()).numpy()
    inputs, _ = ours.prepare(sounds[0])
    theirs = by_torch(sounds[0])[:inputs.shape[0] * inputs.shape[1]].reshape(inputs.shape)
    a, b = cost(ours.prepare, sounds), cost(by_torch, sounds)
    return [{"what": "log-mel: scipy vs torch", "ours": a, "baseline": b, "unit": "processor s/track", "ratio": b / a,
             "note": f"largest difference {np.abs(inputs - theirs).max():.1e}"}]


def run(quick):
    import soundfile
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i:02}.mp3") for i in range(3 if quick else 8)]
        for i, path in enumerate(paths):
            soundfile.write(path, music(i), 44100)
        return compare(paths)


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("front_end", argv))
