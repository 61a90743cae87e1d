"""Jukebox: a middle layer of a language model of compressed audio (Castellon et al., arXiv 2107.05677).

    python extract_item_embeddings/jb.py --audio DIR [--workdir DIR] --python ENVIRONMENT [--layer N] [--as-published]

| weights    | licence        | rate      | window                  | layer    | pooling | dimension |
|------------|----------------|-----------|-------------------------|----------|---------|-----------|
| Jukebox 5b | non-commercial | 44,100 Hz | 23.8 s, one after other | 36 of 72 | mean    | 4800      |

The model is run by the package jukemirlib in a separate environment (see requirements/jukebox.txt; needs a GPU with
13 GB), one window at a time, because that package confuses its axes in larger batches. The excerpt is scaled to a peak
of 1, as in that package. The published extraction used 24 s, of which the model processes the first window only:
--as-published reproduces that. Missing weights are an error (upstream downloads them without a checksum).
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import argparse
import sys
from pathlib import Path

import numpy as np

from extract_item_embeddings.engine import extraction, pretrained, worker
from harness import cli
from harness.errors import WorkError
from harness.files import checksum

CONTEXT = 1048576        # samples: 8192 tokens of 128
PUBLISHED_SECONDS = 24
FILES = ("vqvae.pth.tar", "prior_level_2.pth.tar")
URL = "https://openaipublic.azureedge.net/jukebox/models/5b/"
LAYERS, DEFAULT_LAYER = 72, 36
SHORTEST = 0.1           # seconds; a shorter last window is dropped


def layer(text):
    """argparse type of --layer."""
    if not text.isdecimal() or not 1 <= int(text) <= LAYERS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {LAYERS}, not {text}")
    return int(text)


class Jukebox(worker.Remote):
    NAME, SAMPLE_RATE, DIM, BATCH = "jukemir", 44100, 4800, 4
    WINDOW = CONTEXT / SAMPLE_RATE
    LICENCE = "non-commercial"
    MODULES, REQUIREMENTS = ("jukemirlib", "jukebox", "torch"), "requirements/jukebox.txt"
    WEIGHTS = "~/.cache/jukemirlib"

    @classmethod
    def add_flags(cls, parser):
        super().add_flags(parser)
        parser.add_argument("--layer", type=layer, default=DEFAULT_LAYER, metavar="N",
                            help=f"layer whose output is averaged over time, 1 to {LAYERS} (default {DEFAULT_LAYER})")
        parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16",
                            help="precision of the language model; published with fp16 (default fp16)")
        parser.add_argument("--as-published", action="store_true",
                            help=f"use the first {PUBLISHED_SECONDS} s only, that is one window (default: off)")

    def __init__(self, args):
        super().__init__(args)
        if args.as_published:
            self.POOLING = "mean over time of the first window"
        self.size = round(min(self.WINDOW, args.seconds or self.WINDOW) * self.SAMPLE_RATE)

    def suffix(self):
        return ("" if self.args.precision == "fp16" else "-fp32") + ("-as-published" if self.args.as_published else "")

    def layer_suffix(self):
        return "" if self.args.layer == DEFAULT_LAYER else f"-layer{self.args.layer}"

    def weights_of(self):
        folder = Path(self.args.weights or self.WEIGHTS).expanduser()
        if absent := [name for name in FILES if not (folder / name).is_file()]:
            raise WorkError(f"{folder} has no {' and no '.join(absent)}; download {URL}{absent[0]} into it, or name "
                            "the folder of the weights with --weights")
        return folder

    def request(self):
        folder, a = self.weights_of(), self.args
        return {"weights": {"id": "Jukebox 5b", "revision": None, "licence": self.LICENCE,
                            "checksum": {name: checksum(folder / name) for name in FILES}},
                "variant": "5b", "layer": a.layer, "precision": a.precision, "as_published": a.as_published}

    def settings(self):
        return super().settings() | {"layer": self.args.layer, "fp16": self.args.precision == "fp16"}

    def prepare(self, samples):
        if self.args.as_published:
            samples = samples[:PUBLISHED_SECONDS * self.SAMPLE_RATE]
        samples = samples / max(np.abs(samples).max(), np.finfo(np.float32).tiny)
        windows, lengths = pretrained.cut(samples, self.size, least=round(SHORTEST * self.SAMPLE_RATE))
        return (windows[:1], lengths[:1]) if self.args.as_published else (windows, lengths)


def start(settings):
    """In the environment of jukemirlib: load the model; see worker.serve."""
    from jukemirlib import lib, setup_models
    lib.VQVAE, lib.TOP_PRIOR = setup_models(cache_dir=settings["weights"])

    def describe(windows):
        (samples,) = windows
        frames = lib.extract(audio=samples, layers=[settings["layer"]], fp16=settings["fp16"])[settings["layer"]]
        return frames.reshape(-1, frames.shape[-1]).mean(axis=0, dtype=np.float64)[None]  # (tokens, 4800) -> (1, 4800)
    return describe, lib.TOP_PRIOR.prior.width


def main(argv=None):
    return extraction.main(Jukebox, __doc__, argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker.serve(start, sys.argv[2])
    cli.run(main)
