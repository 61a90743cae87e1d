"""What the four networks in the `musicnn` package share: their weights, the log-mel patches, and the threads.

MSD_musicnn, MTT_musicnn, MSD_vgg and MTT_vgg hear patches of 187 frames of one log-mel spectrogram and give 50 tags.
"""
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine.backend import Backend
from extract_item_embeddings.networks import tf_checkpoint
from harness import cli
from harness.errors import WorkError
from harness.files import checksum

FRAMES, BANDS, HOP, FFT = 187, 96, 256, 512
PART = 4  # patches per task of a thread
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


def read_weights(prefix, expected, network):
    """{name: array} of a network's variables; WorkError for missing, unexpected or misshapen variables.

    expected: {variable: shape}; network: its name in the error
    """
    weights = tf_checkpoint.load(prefix, keep=lambda n: "Adam" not in n and "_power" not in n)  # not the optimiser's
    shapes = {name: array.shape for name, array in weights.items()}
    if shapes != expected:
        wrong = sorted(n for n in {*shapes, *expected} if shapes.get(n) != expected.get(n))
        raise WorkError(f"the weights {prefix} are not those of {network}: {wrong[0]} has shape "
                        f"{shapes.get(wrong[0])}, expected {expected.get(wrong[0])} ({len(wrong)} such variables); "
                        f"install the package again: {INSTALL}")
    return weights


def norm_shapes(widths):
    """{variable: shape} of the batch norms 0, 1, ... of these widths."""
    shapes = {}
    for i, width in enumerate(widths):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        shapes |= {f"{name}/{v}": (width,) for v in ("beta", "gamma", "moving_mean", "moving_variance")}
    return shapes


def tag_names(variant):
    """The 50 tags that the network was trained to give, in the order of its outputs."""
    from musicnn import configuration
    return list(configuration.MTT_LABELS if variant.startswith("MTT") else configuration.MSD_LABELS)


class PatchBackend(Backend):
    """A backend whose network, made by `build`, hears patches. Its arguments have variant, layer and device.

    DIMENSIONS: {layer: values}, of what the network gives
    """
    SAMPLE_RATE = 16000
    FRAME_LEVEL = "one vector per 3 s"
    WINDOW = FRAMES * HOP / SAMPLE_RATE
    DEVICE = True
    PACKAGES = ("librosa", "torch", "scipy")
    LICENCE = "ISC"
    DIMENSIONS = {}
    threads_pool = None

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
                "variant": self.args.variant, "layer": self.args.layer,
                **({"features": tag_names(self.args.variant)} if self.args.layer == "taggram" else {})}

    def outputs(self):
        return {"": self.DIMENSIONS[self.args.layer]}

    def build(self):
        """The network, on self.device, in eval mode: (patches, lengths) -> {layer: (B, D)}."""
        raise NotImplementedError

    def load(self):
        """Load the network. On a CPU each thread computes PART patches by itself: threads that share each matrix
        product would synchronise thousands of times per second, ten times slower on a busy machine."""
        import librosa
        import torch
        self.device = cli.pick_device(self.args.device)
        torch.backends.cudnn.allow_tf32 = False  # true fp32
        torch.backends.cudnn.deterministic = True
        self.network = self.build()
        if self.device.type == "cpu":
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
            # some trained weights are so small that products with silence are subnormal, thirty times slower to compute
            self.threads_pool = ThreadPoolExecutor(self.threads, initializer=torch.set_flush_denormal, initargs=(True,))
        self.mel = librosa.filters.mel(sr=self.SAMPLE_RATE, n_fft=FFT, n_mels=BANDS).T  # (257, 96)
        self.hann = librosa.filters.get_window("hann", FFT).astype(np.float32)

    def log_mel(self, samples, rounded=True):
        """Samples (N,) -> float32 (T, 96), log10(1 + 10000 mel power).

        The powers are rounded to float16 (clipped at its maximum), as in the training of the networks; the
        logarithm is computed in float32, as by NumPy 1. NumPy 2 would overflow to infinity at powers above 6.55.
        """
        import scipy.fft
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, FFT // 2), FFT)[::HOP]  # (T, 512)
        spectrum = scipy.fft.rfft(windows * self.hann)  # (T, 257)
        mel = (spectrum.real ** 2 + spectrum.imag ** 2) @ self.mel  # (T, 96)
        if rounded:
            mel = np.minimum(mel, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
        return np.log10(1 + 10000 * mel)

    def prepare(self, samples):
        """Samples (N,) -> patches (n, 187, 96) of log_mel, and the number of frames in each."""
        log_mel = self.log_mel(samples)
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
