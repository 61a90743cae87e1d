"""MULE: a convolutional network trained by contrastive learning on excerpts (McCallum et al., arXiv 2210.03799).

    python extract_item_embeddings/mule.py --audio DIR [--workdir DIR] --python ENVIRONMENT --weights model.keras

| weights           | licence      | rate      | window        | layer  | pooling | dimension |
|-------------------|--------------|-----------|---------------|--------|---------|-----------|
| MULE, model.keras | CC BY-NC 4.0 | 16,000 Hz | 3 s every 2 s | output | mean    | 1728      |

The spectrogram and its slices are computed here, as in upstream's configuration; the network is run by the package
sxmp-mule (GPL-3.0) with TensorFlow, in a separate environment (see requirements/mule.txt), because of its licence and
its pinned dependencies. A slice is 300 frames around every 200th, the first at 2 s, the last moved back to the end,
each normalised to zero mean and unit variance. The input level is that of upstream for a stereo file (upstream sums
channels at half their level, which halves the level of a mono file). A track shorter than a slice is repeated to its
length. The published extraction used the sum over the slices instead of the mean: --as-published reproduces that.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import sys
from pathlib import Path

import numpy as np

from extract_item_embeddings.engine import extraction, worker
from harness import cli
from harness.errors import WorkError
from harness.files import checksum

HOP, BANDS = 160, 96            # samples per frame, mel bands
SLICE, EVERY = 300, 200         # frames
COMMIT = "f90a47216d7bd5297843abe541c34c7f789fcf20"
CHECKSUM = "1da111d619bac0d422e41f153cbfb903f7ec3c5d3b2768f5d68f04452ed18180"
SOURCE = "github.com/PandoraMedia/music-audio-representations"
POINTER = b"version https://git-lfs"


def log_mel(samples):
    """(N,) at 16 kHz -> (96, 1 + N // 160): log10 of 1 + 10000 mel powers, filters of unit Euclidean norm."""
    import librosa
    mel = librosa.feature.melspectrogram(
        y=samples, sr=Mule.SAMPLE_RATE, n_fft=2048, hop_length=HOP, win_length=400, window="hann", center=True,
        pad_mode="reflect", power=2.0, n_mels=BANDS, fmin=0.0, fmax=8000.0, norm=2.0, htk=True, dtype=np.float32)
    return np.log10(10000.0 * mel + 1.0)


def slices(mel):
    """(96, T) with T >= 300 -> (n, 96, 300), each of zero mean and unit variance."""
    centres = np.minimum(np.arange(EVERY, mel.shape[1], EVERY), mel.shape[1] - SLICE // 2)
    parts = np.stack([mel[:, c - SLICE // 2:c + SLICE // 2] for c in centres])
    parts -= parts.mean(axis=(1, 2), keepdims=True)
    return (parts / np.maximum(parts.std(axis=(1, 2), keepdims=True), 0.01)).astype(np.float32)


class Mule(worker.Remote):
    NAME, SAMPLE_RATE, DIM = "mule", 16000, 1728
    WINDOW, TOGETHER = SLICE * HOP / SAMPLE_RATE, True
    POOLING = "mean over slices"
    PACKAGES = ("librosa",)
    LICENCE = "CC BY-NC 4.0"
    MODULES, REQUIREMENTS = ("mule", "tensorflow"), "requirements/mule.txt"
    WEIGHTS = "~/.cache/mule/model.keras"

    @classmethod
    def add_flags(cls, parser):
        super().add_flags(parser)
        parser.add_argument("--as-published", action="store_true",
                            help="sum over the slices instead of the mean (default: off)")

    def __init__(self, args):
        super().__init__(args)
        if args.as_published:
            self.POOLING = "sum over slices"

    def suffix(self):
        return "-as-published" if self.args.as_published else ""

    def weights_of(self):
        path = Path(self.args.weights or self.WEIGHTS).expanduser()
        path = path / "model.keras" if path.is_dir() else path
        remedy = f"download supporting_data/model/model.keras (251,054,764 bytes) of {SOURCE} with git lfs"
        if not path.is_file():
            raise WorkError(f"{path} does not exist; {remedy}, and put it there or name it with --weights")
        with open(path, "rb") as f:
            if f.read(len(POINTER)) == POINTER:
                raise WorkError(f"{path} is a git lfs pointer and not the weights; {remedy}")
        return path

    def request(self):
        path = self.weights_of()
        digest = checksum(path)
        if not self.args.weights and digest != CHECKSUM:
            raise WorkError(f"{path} is not the published file (its sha256 should be {CHECKSUM}); download it again, "
                            "or name other weights with --weights")
        return {"weights": {"id": SOURCE, "revision": COMMIT if digest == CHECKSUM else "given by --weights",
                            "licence": self.LICENCE, "checksum": digest},
                "variant": None, "layer": None, "as_published": self.args.as_published}

    def prepare(self, samples):
        shortest = SLICE * HOP
        parts = slices(log_mel(samples if len(samples) >= shortest else np.resize(samples, shortest)))
        return parts, np.full(len(parts), SLICE)

    def pool(self, values, lengths):
        return values.astype(np.float64).sum(axis=0) if self.args.as_published else super().pool(values, lengths)


def start(settings):
    """In the environment of sxmp-mule: load the network; see worker.serve."""
    import tensorflow as tf
    from mule.models.layers import ScalarMultiply, StochDepth, WeightStandardization
    layers = {kind.__name__: kind for kind in (ScalarMultiply, StochDepth, WeightStandardization)}
    model = tf.keras.models.load_model(settings["weights"], custom_objects=layers, compile=False)
    return lambda parts: np.asarray(model.predict_on_batch(parts[..., None])), model.output_shape[-1]


def main(argv=None):
    return extraction.main(Mule, __doc__, argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker.serve(start, sys.argv[2])
    cli.run(main)
