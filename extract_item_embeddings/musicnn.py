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

from extract_item_embeddings.engine import extraction
from extract_item_embeddings.networks import musicnn_package
from extract_item_embeddings.networks.musicnn_package import FFT, FRAMES, HOP, INSTALL, PART, checkpoint, norm_shapes
from harness import cli
from harness.errors import UsageError

__all__ = ["FFT", "FRAMES", "HOP", "INSTALL", "PART", "MusiCNN", "checkpoint", "expected_shapes", "main",
           "read_weights"]

DIMENSIONS = {"penultimate": 200, "max_pool": 753, "mean_pool": 753, "taggram": 50}


def read_weights(prefix):
    """{name: array} of the network's 64 variables; WorkError for missing, unexpected or misshapen variables."""
    return musicnn_package.read_weights(prefix, expected_shapes(), "MusiCNN")


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
    return shapes | norm_shapes([1, *(k[-1] for k in kernels), 1506, 200])


class MusiCNN(musicnn_package.PatchBackend):
    NAME, DIM = "musicnn", 200
    DIMENSIONS = DIMENSIONS

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

    def request(self):
        return {**super().request(), "precision": self.args.precision, "as_published": self.args.as_published}

    def build(self):
        from extract_item_embeddings.networks.musicnn_model import Network, has_bfloat16
        network = Network(read_weights(checkpoint(self.args.variant)[0])).to(self.device).eval()
        network.set_precision(self.args.precision, has_bfloat16(self.device))
        return network

    def pool(self, values, lengths):
        return values[0] if self.args.as_published else super().pool(values, lengths)


def main(argv=None):
    return extraction.main(MusiCNN, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
