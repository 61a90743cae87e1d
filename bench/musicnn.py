"""MusiCNN from mp3 file to embedding, ours against the original TensorFlow library. python -m bench.musicnn [--quick]

Baselines, each decoding with librosa and computing in fp32 on all cores: `library` is musicnn 0.1.0 called file by
file, as the papers' script calls it; `kept` is its graph and session made once, with all patches of a file in one
run. They live in an environment of their own, named by the variable MUSICNN_TF_PYTHON:

    python3.11 -m venv musicnn-tf && musicnn-tf/bin/pip install -r requirements/musicnn-tf.txt
    musicnn-tf/bin/pip install --no-deps musicnn==0.1.0
    MUSICNN_TF_PYTHON=musicnn-tf/bin/python python -m bench.musicnn

Tracks are 30 s of stereo at 44.1 kHz. Ours runs as an extraction does (workers decode ahead, batches of 16 tracks)
but for writing; start-up is left out on both sides. Repeats alternate, medians are reported, in seconds per
track; mean taggrams are compared before. A processor without bfloat16 units rounds operands and multiplies in
float32, so there bf16 is no faster. Further rows: the network alone against plain convolutions, and the parts of
ours, one thread each. Without the variable, only those.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness import cli
from harness.errors import WorkError
from harness.machine import cores

TRACKS = 16


def music(seed, seconds=30, rate=44100):
    """Drums, chords and a melody, (N, 2) float32: what the encoder and the network are made for."""
    rng, t = np.random.default_rng(seed), np.arange(seconds * rate) / rate
    beat = np.exp(-((t * rng.uniform(1.5, 2.5)) % 1) * 12) * rng.normal(0, 0.4, t.size)
    chord = sum(np.sin(2 * np.pi * 110 * 2 ** (n / 12) * t) for n in (0, 4, 7)) * 0.08
    notes = 440 * 2 ** (rng.integers(-12, 13, seconds * 4) / 12)
    melody = np.sin(2 * np.pi * np.cumsum(np.repeat(notes, rate // 4)) / rate) * 0.15
    return np.stack([beat + chord, beat + melody], axis=1).astype(np.float32)


def load():
    from extract_item_embeddings.musicnn import MusiCNN
    made = MusiCNN(argparse.Namespace(variant="MSD_musicnn", layer="penultimate", precision="fp32",
                                      as_published=False, device="cpu"))
    made.load()
    return made


class Ours:
    """Batches of an extraction, without the disk."""

    def __init__(self, backend, precision):
        self.backend, self.precision = backend, precision

    def __call__(self, paths):
        """[(wall, processor)] seconds per track"""
        from extract_item_embeddings.engine import pipeline, shards
        from extract_item_embeddings.networks.musicnn_model import has_bfloat16
        self.backend.network.set_precision(self.precision, has_bfloat16(self.backend.device))
        plan, args = shards.Plan(len(paths), TRACKS, 200), argparse.Namespace(seconds=30.0, offset="start")
        wall, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(cores()) as pool:
            items = pipeline.prepared(pool, self.backend, paths, args, 2 * TRACKS)
            for b in range(plan.n_batches):
                rows = plan.rows(b)
                pipeline.compute(self.backend, rows, paths, [next(items) for _ in rows], plan)
        return [((time.perf_counter() - wall) / len(paths), (time.process_time() - cpu) / len(paths))]


class Original:
    """The library in its own environment, kept alive between repeats."""

    def __init__(self, python, way):
        n = str(cores())
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("_musicnn_original.py")), way], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_NUM_INTRAOP_THREADS": n, "TF_NUM_INTEROP_THREADS": n})

    def ask(self, path):
        try:
            self.process.stdin.write(f"{path}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise WorkError("the original library does not run in the environment of MUSICNN_TF_PYTHON; "
                                 "make it as python -m bench.musicnn --help says") from None

    def __call__(self, paths):
        answers = [self.ask(p) for p in paths]
        return [(a["wall"], a["cpu"]) for a in answers]

    def close(self):
        self.process.communicate()


def whole(paths, ours, python, quick):
    """Rows of file to embedding: alternating repeats of all roads."""
    roads = {"library": Original(python, "library"), "kept": Original(python, "kept"),
             "fp32": Ours(ours, "fp32"), "bf16": Ours(ours, "bf16")}
    difference = compare(paths[0], ours, roads["kept"])
    taken = {name: [] for name in roads}
    for road in roads.values():
        road(paths[:2])  # warm
    for _ in range(3 if quick else 7):
        for name, road in roads.items():
            taken[name] += road(paths[:(2 if quick else 4) if isinstance(road, Original) else TRACKS])
    for name in ("library", "kept"):
        roads[name].close()
    wall, cpu = ({k: statistics.median(t[i] for t in v) for k, v in taken.items()} for i in (0, 1))
    return [{"what": f"30 s mp3 to embedding, {ours} vs {other}", "ours": wall[ours], "baseline": wall[other],
             "unit": "s/track", "ratio": wall[other] / wall[ours],
             "note": f"processor seconds {cpu[ours]:.3f} vs {cpu[other]:.3f}; taggrams differ by {difference:.1e}"}
            for other in ("library", "kept") for ours in ("fp32", "bf16")]


def compare(path, ours, original):
    """Largest difference of the mean taggram; an error when it is no rounding."""
    import torch

    from extract_item_embeddings.engine import audio
    inputs, lengths = map(torch.from_numpy, ours.prepare(audio.resample(audio.decode(path), 16000)))
    with torch.inference_mode():
        taggram = ours.network(inputs, lengths)["taggram"].mean(dim=0).numpy()
    difference = np.abs(taggram - original.ask(path)["taggram"]).max()
    if difference > 1e-3:
        raise WorkError(f"the taggrams of ours and of the original differ by {difference:.2g}")
    return difference


def parts(paths, ours, quick):
    """Rows of one thread: the stages of ours, and the network against plain convolutions."""
    import torch

    from bench._musicnn_plain import published
    from extract_item_embeddings import musicnn
    from extract_item_embeddings.engine import audio
    clip = audio.decode(paths[0])
    samples = audio.resample(clip, 16000)
    inputs, lengths = ours.prepare(samples)
    weights, x = musicnn.read_weights(musicnn.checkpoint("MSD_musicnn")[0]), torch.from_numpy(inputs)

    def network():
        for s in range(0, len(inputs), musicnn.PART):
            ours.run(inputs[s:s + musicnn.PART], lengths[s:s + musicnn.PART])

    def plain(memory_format):
        with torch.inference_mode():
            return published(weights, x, memory_format)
    stages = {"decode mp3": lambda: audio.decode(paths[0]), "resample to 16 kHz": lambda: audio.resample(clip, 16000),
              "log-mel": lambda: ours.prepare(samples), "network": network,
              "convolutions": lambda: plain(torch.contiguous_format),
              "channels-last convolutions": lambda: plain(torch.channels_last)}
    taken = {name: [] for name in stages}
    for _ in range(2 if quick else 5):
        for name, stage in stages.items():
            start = time.process_time()
            stage()
            taken[name].append(time.process_time() - start)
    t = {name: statistics.median(v) for name, v in taken.items()}
    rows = [{"what": f"part of ours: {name}", "ours": t[name], "unit": "processor s/track"} for name in list(t)[:3]]
    return rows + [{"what": f"network alone vs {other}", "ours": t["network"], "baseline": t[other],
                    "unit": "processor s/track", "ratio": t[other] / t["network"]} for other in list(t)[4:]]


def run(quick):
    import soundfile
    python = os.environ.get("MUSICNN_TF_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i:02}.mp3") for i in range(TRACKS)]
        for i, path in enumerate(paths):
            soundfile.write(path, music(i), 44100)
        ours = load()
        try:
            if python:
                return whole(paths, ours, python, quick) + parts(paths, ours, quick)
            ((wall, _),) = Ours(ours, "fp32")(paths)
            return [{"what": "30 s mp3 to embedding, fp32", "ours": wall, "unit": "s/track",
                     "note": "no baseline: MUSICNN_TF_PYTHON names no environment of the original"},
                    *parts(paths, ours, quick)]
        finally:
            ours.unload()


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("musicnn", argv))
