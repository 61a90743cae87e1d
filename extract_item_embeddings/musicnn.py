"""MusiCNN: the penultimate layer of a convolutional music tagger, 200 values (Pons and Serra, arXiv 1909.06654).

    python extract_item_embeddings/musicnn.py --audio DIR [--workdir DIR]

| weights                      | licence | rate      | window               | layer       | pooling | dimension |
|------------------------------|---------|-----------|----------------------|-------------|---------|-----------|
| MSD_musicnn of musicnn 0.1.0 | ISC     | 16,000 Hz | 3 s, one after other | penultimate | mean    | 200       |

The weights are those in the installed `musicnn` package, read without TensorFlow and without running the package. As
in the package, a window is 187 frames of the log-mel spectrogram, and an incomplete last window is dropped. A track
shorter than one window is a window of its own length, pooled over its frames only (the package fails on these).
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine import extraction
from extract_item_embeddings.networks import tf_checkpoint
from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import checksum

FRAMES, BANDS, HOP, FFT = 187, 96, 256, 512
PART = 4  # patches per task of a thread
DIMENSIONS = {"penultimate": 200, "max_pool": 753, "mean_pool": 753, "taggram": 50}
INSTALL = "pip install --no-deps musicnn==0.1.0"


def checkpoint(variant):
    """Prefix of the variant's checkpoint inside the installed package, as str, and the package's version."""
    try:
        package = importlib.metadata.distribution("musicnn")
    except importlib.metadata.PackageNotFoundError:
        raise WorkError(f"the package musicnn, which contains the weights, is not installed; {INSTALL}") from None
    folder = package.locate_file(f"musicnn/{variant}")
    for name in (".index", ".data-00000-of-00001"):
        if not folder.joinpath(name).is_file():
            raise WorkError(f"{folder} has no {name}; install the package again: {INSTALL}")
    return f"{folder}/", package.version


def read_weights(prefix):
    """{name: array} of the network's 64 variables; WorkError for missing, unexpected or misshapen variables."""
    weights = tf_checkpoint.load(prefix, keep=lambda n: "Adam" not in n and "_power" not in n)  # not the optimiser's
    expected = expected_shapes()
    shapes = {name: array.shape for name, array in weights.items()}
    if shapes != expected:
        wrong = sorted(n for n in {*shapes, *expected} if shapes.get(n) != expected.get(n))
        raise WorkError(f"the weights {prefix} are not those of MusiCNN: {wrong[0]} has shape "
                        f"{shapes.get(wrong[0])}, expected {expected.get(wrong[0])} ({len(wrong)} such variables); "
                        f"install the package again: {INSTALL}")
    return weights


def expected_shapes():
    """{variable: shape} of the graph the package builds; kernels are (time, frequency, in, out)."""
    kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51),
               (7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    shapes = {}
    for i, shape in enumerate(kernels):
        name = f"conv2d_{i}" if i else "conv2d"
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[-1:]}
    for name, shape in (("dense", (1506, 200)), ("dense_1", (200, 50))):
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[-1:]}
    for i, width in enumerate([1, *(k[-1] for k in kernels), 1506, 200]):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        shapes |= {f"{name}/{v}": (width,) for v in ("beta", "gamma", "moving_mean", "moving_variance")}
    return shapes


def tag_names(variant):
    """The 50 tags that the network was trained to give, in the order of its outputs."""
    from musicnn import configuration
    return list(configuration.MTT_LABELS if variant == "MTT_musicnn" else configuration.MSD_LABELS)


class MusiCNN(extraction.Backend):
    NAME, SAMPLE_RATE, DIM = "musicnn", 16000, 200
    FRAME_LEVEL = "one vector per 3 s"
    WINDOW = FRAMES * HOP / SAMPLE_RATE
    DEVICE = True
    PACKAGES = ("librosa", "torch", "scipy")
    LICENCE = "ISC"
    threads_pool = None

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--variant", choices=("MSD_musicnn", "MTT_musicnn"), default="MSD_musicnn",
                            help="weights: trained on Million Song Dataset or MagnaTagATune (default MSD_musicnn)")
        parser.add_argument("--layer", choices=tuple(DIMENSIONS), default="penultimate",
                            help="layer whose output is averaged over the windows (default penultimate)")
        parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                            help="precision of the matrix products; bf16 is faster only with hardware support "
                                 "(default fp32)")
        parser.add_argument("--as-published", action="store_true",
                            help="use the first 3 s instead of the mean, as musicnn 0.1.0 repeats the first window "
                                 "(default: off)")

    def __init__(self, args):
        super().__init__(args)
        if args.as_published and args.layer != "penultimate":
            raise UsageError("--as-published applies to --layer penultimate only, as the package averages "
                             f"{args.layer} correctly; leave one of the two out")
        if args.as_published:
            self.POOLING = "first window"

    def suffix(self):
        a = self.args
        return "".join(s for s, wanted in ((f"-{a.variant[:3].lower()}", a.variant != "MSD_musicnn"),
                                           ("-bf16", a.precision != "fp32"),
                                           ("-as-published", a.as_published)) if wanted)

    def layer_suffix(self):
        return "" if self.args.layer == "penultimate" else f"-{self.args.layer}"

    def missing(self):
        try:
            checkpoint(self.args.variant)
        except WorkError:
            return f"package musicnn ({INSTALL})"
        return super().missing()

    def request(self):
        prefix, version = checkpoint(self.args.variant)
        return {"weights": {"id": f"musicnn/{self.args.variant}", "revision": version, "licence": self.LICENCE,
                            "checksum": checksum(f"{prefix}.data-00000-of-00001")},
                "variant": self.args.variant, "layer": self.args.layer, "precision": self.args.precision,
                "as_published": self.args.as_published,
                **({"features": tag_names(self.args.variant)} if self.args.layer == "taggram" else {})}

    def outputs(self):
        return {"": DIMENSIONS[self.args.layer]}

    def load(self):
        """Load the network. On a CPU each thread computes PART patches by itself: threads that share each matrix
        product would synchronise thousands of times per second, ten times slower on a busy machine."""
        import librosa
        import torch

        from extract_item_embeddings.networks.musicnn_model import Network, has_bfloat16
        self.device = cli.pick_device(self.args.device)
        torch.backends.cudnn.allow_tf32 = False  # true fp32
        torch.backends.cudnn.deterministic = True
        self.network = Network(read_weights(checkpoint(self.args.variant)[0])).to(self.device).eval()
        self.network.set_precision(self.args.precision, has_bfloat16(self.device))
        if self.device.type == "cpu":
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
            # some trained weights are so small that products with silence are subnormal, thirty times slower to compute
            self.threads_pool = ThreadPoolExecutor(self.threads, initializer=torch.set_flush_denormal, initargs=(True,))
        self.mel = librosa.filters.mel(sr=self.SAMPLE_RATE, n_fft=FFT, n_mels=BANDS).T  # (257, 96)
        self.hann = librosa.filters.get_window("hann", FFT).astype(np.float32)

    def prepare(self, samples):
        """Samples (N,) -> patches (n, 187, 96) of log10(1 + 10000 mel power), and the number of frames in each.

        The powers are rounded to float16 (clipped at its maximum), as in the training of the network; the
        logarithm is computed in float32, as by NumPy 1. NumPy 2 would overflow to infinity at powers above 6.55.
        """
        import scipy.fft
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, FFT // 2), FFT)[::HOP]  # (T, 512)
        spectrum = scipy.fft.rfft(windows * self.hann)  # (T, 257)
        mel = (spectrum.real ** 2 + spectrum.imag ** 2) @ self.mel  # (T, 96)
        mel = np.minimum(mel, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
        log_mel = np.log10(1 + 10000 * mel)
        if len(log_mel) < FRAMES:
            patch = np.zeros((1, FRAMES, BANDS), np.float32)
            patch[0, :len(log_mel)] = log_mel
            return patch, np.array([len(log_mel)])
        n = len(log_mel) // FRAMES
        return log_mel[:n * FRAMES].reshape(n, FRAMES, BANDS), np.full(n, FRAMES)

    def unload(self):
        if self.threads_pool is not None:
            import torch
            torch.set_num_threads(self.threads)
            self.threads_pool.shutdown()
            self.threads_pool = None

    def forward(self, inputs, lengths):
        if self.threads_pool is None:
            return self.run(inputs, lengths)
        parts = range(0, len(inputs), PART)
        return np.concatenate(list(self.threads_pool.map(
            lambda s: self.part(inputs[s:s + PART], lengths[s:s + PART]), parts)))

    def part(self, inputs, lengths):
        """As run, always with PART patches: the sums of a matrix product depend on its shape, in their last digits."""
        missing = PART - len(inputs)
        padded = np.pad(inputs, ((0, missing), (0, 0), (0, 0)))
        return self.run(padded, np.pad(lengths, (0, missing), constant_values=FRAMES))[:len(inputs)]

    def run(self, inputs, lengths):
        import torch
        with torch.inference_mode():
            given = [torch.from_numpy(a) for a in (inputs, lengths)]
            if self.device.type == "cuda":
                given = [a.pin_memory() for a in given]
            out = self.network(*(a.to(self.device, non_blocking=True) for a in given))
            return out[self.args.layer].float().cpu().numpy()

    def pool(self, values, lengths):
        return values[0] if self.args.as_published else super().pool(values, lengths)


def main(argv=None):
    return extraction.main(MusiCNN, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
