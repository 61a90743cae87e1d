"""VGG: the last pooling of a convolutional music tagger, 256 values (Pons and Serra, arXiv 1909.06654).

    python extract_item_embeddings/vgg.py --audio DIR [--variant MTT_vgg] [--workdir DIR]

| weights                           | licence | rate      | window               | layer | pooling | dimension |
|-----------------------------------|---------|-----------|----------------------|-------|---------|-----------|
| MSD_vgg, MTT_vgg of musicnn 0.1.0 | ISC     | 16,000 Hz | 3 s, one after other | pool5 | mean    | 256       |

The weights are those in the installed `musicnn` package, read without TensorFlow and without running the package. The
log-mel spectrogram, the patches of 187 frames and the training data are those of MusiCNN, so that vgg-msd, vgg-mtt,
musicnn and musicnn-mtt differ in architecture and training data alone. An incomplete last window is dropped. The
network hears windows of one length only, so the frames of a shorter track are repeated until they fill one.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings.engine import extraction
from extract_item_embeddings.networks import musicnn_package
from harness import cli


class VGG(musicnn_package.PatchBackend):
    NAME, DIM = "vgg", 256
    DIMENSIONS = {"pool5": 256, "taggram": 50}
    VARIANTS = ((), ("--variant", "MTT_vgg"))

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--variant", choices=("MSD_vgg", "MTT_vgg"), default="MSD_vgg",
                            help="weights: trained on Million Song Dataset or MagnaTagATune (default MSD_vgg)")
        parser.add_argument("--layer", choices=tuple(cls.DIMENSIONS), default="pool5",
                            help="layer whose output is averaged over the windows (default pool5)")

    def suffix(self):
        return f"-{self.args.variant[:3].lower()}"

    def layer_suffix(self):
        return "" if self.args.layer == "pool5" else f"-{self.args.layer}"

    def build(self):
        from extract_item_embeddings.networks import vgg_model
        weights = musicnn_package.read_weights(musicnn_package.checkpoint(self.args.variant)[0],
                                               vgg_model.expected_shapes(), "the VGG network")
        return vgg_model.Network(weights).to(self.device).eval()

    def prepare(self, samples):
        """As MusiCNN's, with the frames of a short track repeated to 187."""
        patches, lengths = super().prepare(samples)
        if lengths[0] < len(patches[0]):
            patches = patches[:, np.arange(patches.shape[1]) % lengths[0]]
        return patches, lengths


def main(argv=None):
    return extraction.main(VGG, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
