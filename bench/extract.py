"""Extraction at true sizes: tracks per second, and where the time goes. python -m bench.extract [NAME ...] [--quick]

Each backend reads a checkpoint of its published size with random weights from files, as a user's real one, and runs
its own command line over mp3 files of 30 s (stereo, 44.1 kHz), on CUDA where there is a device, else on all
processors. Tracks per second are those of its summary line, start-up left out; the parts are the seconds of one track
on one thread (decode, resample, mel, model). `of its matrix products` is what the network's multiplications and
additions are of those the same device does in one large matrix product of the same precision, measured beside it.
Jukebox and MULE run upstream's packages and weights in environments of their own and cannot be measured without them.
NAMEs are those of the rows; --quick leaves out all above 100 million parameters.
"""
import contextlib
import importlib
import io
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.musicnn import music
from harness import cli
from harness.errors import UsageError
from harness.machine import cores

QUICK = ("mfcc", "musicnn", "encodecmae", "clap", "mert-95m")
BACKENDS = {  # name: (module, class, flags, checkpoint, is it light)
    "mfcc": ("mfcc", "MFCC", [], None, True),
    "musicnn": ("musicnn", "MusiCNN", [], None, True),
    "vgg-msd": ("vgg", "VGG", [], None, True),
    "pitch": ("pitch", "Pitch", [], None, True),
    "encodecmae": ("emae", "EnCodecMAE", [], "encodecmae", False),
    "clap": ("clap", "CLAP", [], "clap", False),
    "music2vec": ("m2v", "Music2Vec", [], "music2vec", False),
    "mert-95m": ("mert", "MERT", ["--size", "95M"], "mert_95m", False),
    "musicfm": ("mfm", "MusicFM", [], "musicfm", False),
    "muq_msd": ("muq", "MuQ", [], "muq", False),
    "muq_mulan": ("muq", "MuQ", ["--mulan"], "mulan", False),
    "mert": ("mert", "MERT", [], "mert", False),
}
FILES = 16                       # different tracks; more are links to them
CATALOGUES = (56_512, 10_000_000)
NOT_HERE = {"jukemir": "Jukebox: upstream's package and 5 billion parameters in an environment of its own",
            "mule": "MULE: upstream's package (TensorFlow) and weights in an environment of its own"}


def seconds_of(call, repeats):
    """Least time of a call; on CUDA a call ends with a copy to the host, so the clock need not wait."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


# --------------------------------------------------------------------------- one backend

class Measured:
    """One backend with its checkpoint in a folder, and files to hear."""

    def __init__(self, name, folder, paths, quick):
        import torch
        module, kind, flags, checkpoint, self.light = BACKENDS[name]
        self.module = importlib.import_module(f"extract_item_embeddings.{module}")
        self.kind, self.flags, self.paths, self.quick = getattr(self.module, kind), list(flags), paths, quick
        self.cuda = torch.cuda.is_available()
        if checkpoint:
            import bench._checkpoints
            getattr(bench._checkpoints, checkpoint)(folder / "weights")
            self.flags += ["--weights", str(folder / "weights")]
        self.folder = folder

    def count(self):
        processors = cores()
        return (64 if self.quick else 512) if self.cuda else 2 * FILES if self.light else processors

    def rate(self):
        """(tracks per second, share of the time the model waited) of the command line."""
        (self.folder / "audio").mkdir()
        for i in range(self.count()):
            (self.folder / "audio" / f"{i:03}.mp3").symlink_to(self.paths[i % FILES])
        flags = [] if self.light or self.cuda else ["--batch", str(self.count())]  # so few tracks fill no pass
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()):
            self.module.main(["--audio", str(self.folder / "audio"), "--workdir", str(self.folder / "work"),
                              *self.flags, *flags])
        found = re.search(r"([\d.e+-]+) tracks/s.* waited for audio (\d+) %", said.getvalue())
        return float(found[1]), int(found[2]) / 100

    def backend(self):
        from extract_item_embeddings.engine import extraction
        made = self.kind(extraction.parser(self.kind, "").parse_args(self.flags))
        made.request()
        made.load()
        return made

    def parts(self):
        """{part: seconds of one track on one thread}, and what the model reached of the device's matrix products."""
        import threadpoolctl
        import torch

        from extract_item_embeddings.engine import audio
        backend, repeats = self.backend(), 3 if self.light or self.cuda else 1
        try:
            with threadpoolctl.threadpool_limits(1):
                clip = audio.decode(self.paths[0])
                samples = audio.resample(clip, backend.SAMPLE_RATE)
                inputs, lengths = backend.prepare(samples)
                taken = {"decode": seconds_of(lambda: audio.decode(self.paths[0]), 3),
                         "resample": seconds_of(lambda: audio.resample(clip, backend.SAMPLE_RATE), 3),
                         "mel": seconds_of(lambda: backend.prepare(samples), 3)}
                passes = backend.BATCH if self.cuda else 1  # tracks at a time
                x, n = np.tile(inputs, (passes, *[1] * (inputs.ndim - 1))), np.tile(lengths, passes)
                with mel_clock() as mel:
                    whole = seconds_of(lambda: forward(backend, x, n), repeats) / passes
                inside = sum(mel) / repeats / passes
                taken |= {"mel": taken["mel"] + inside, "model": whole - inside}
                reached = None
                if hasattr(backend, "model") or hasattr(backend, "network"):
                    reached = flops(backend, inputs, lengths) / whole / peak(torch, backend)
        finally:
            backend.unload()
        return taken, reached


def forward(backend, inputs, lengths):
    """All windows on this thread, as a worker of the pass would hear them one by one, or together on CUDA."""
    if not hasattr(backend, "run") or getattr(backend, "device", None) is None:
        return backend.forward(inputs, lengths)
    if backend.device.type == "cuda":
        return backend.forward(inputs, lengths)
    if hasattr(backend, "alone"):
        return [backend.alone(window, n, False) for window, n in zip(inputs, lengths, strict=True)]
    from extract_item_embeddings.musicnn import PART
    return [backend.run(inputs[s:s + PART], lengths[s:s + PART]) for s in range(0, len(inputs), PART)]


@contextlib.contextmanager
def mel_clock():
    """Seconds of each log-mel that is computed inside a network meanwhile."""
    import torch

    from extract_item_embeddings.networks.logmel import LogMel
    taken, plain = [], LogMel.forward

    def timed(self, x):
        if x.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        out = plain(self, x)
        if x.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
        return out
    LogMel.forward = timed
    try:
        yield taken
    finally:
        LogMel.forward = plain


def flops(backend, inputs, lengths):
    """Multiplications and additions of a track's windows, attention counted as the matrix products it is."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(backend, inputs, lengths)
    return counter.get_total_flops()


def peak(torch, backend):
    """Operations per second of one large matrix product in the precision of the backend, on one thread or CUDA."""
    size = 8192 if backend.device.type == "cuda" else 2048
    dtype = getattr(backend, "dtype", torch.float32)
    a, b = (torch.randn(size, size, device=backend.device).to(dtype) for _ in range(2))

    def product():
        (a @ b)[0, 0].item()
    product()
    return 2 * size ** 3 / seconds_of(product, 5)


def measure(name, paths, quick):
    with tempfile.TemporaryDirectory() as folder:
        one = Measured(name, Path(folder), paths, quick)
        taken, reached = one.parts()
        rate, waited = one.rate()
    total, device = sum(taken.values()), "GPU" if one.cuda else "machine"
    hours = ", ".join(f"{n:,} tracks {n / rate / 3600:.3g} {device} hours" for n in CATALOGUES)
    note = [" ".join(f"{part} {100 * t / total:.3g} %" for part, t in taken.items()),
            f"waited for audio {100 * waited:.0f} %", hours]
    if reached is not None:
        note.append(f"{100 * reached:.0f} % of the device's matrix products")
    return {"what": f"{name}, {one.count()} tracks", "ours": rate, "unit": "tracks/s", "note": "; ".join(note),
            "seconds_per_part": taken, "share_of_matrix_products": reached, "waited": waited}


# --------------------------------------------------------------------------- the run

def run(quick, names=()):
    import soundfile
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i:02}.mp3") for i in range(FILES)]
        for i, path in enumerate(paths):
            soundfile.write(path, music(i), 44100)
        rows = []
        for name in names or (QUICK if quick else BACKENDS):
            rows.append(measure(name, paths, quick))
    return rows + [{"what": name, "note": f"not measured: {why}"} for name, why in NOT_HERE.items() if not names]


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.extract", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BACKENDS)} (default all)")
    parser.add_argument("--quick", action="store_true", help="fewer tracks, and none of the large networks")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(BACKENDS)):
        raise UsageError(f"no measurement of {', '.join(unknown)}; there: {', '.join(BACKENDS)}")
    print_rows("extract", run(args.quick, args.names))


if __name__ == "__main__":
    cli.run(main)
