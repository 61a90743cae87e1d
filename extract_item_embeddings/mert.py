"""MERT: a music encoder trained on acoustic and musical pseudo-labels (Li et al., arXiv 2306.00107).

    python extract_item_embeddings/mert.py --audio DIR [--workdir DIR] [--size 95M] [--layer last|mean|N|all]

| weights                  | licence      | rate      | window | layer                     | pooling | dimension |
|--------------------------|--------------|-----------|--------|---------------------------|---------|-----------|
| m-a-p/MERT-v1-330M, -95M | CC BY-NC 4.0 | 24,000 Hz | 30 s   | last of 25 (13), or other | mean    | 1024, 768 |

Run as HuBERT of transformers; the code published with the weights is not needed, as both configurations disable its
additions. The audio is neither normalised (as in pre-training) nor padded. The authors recommend choosing the layer by
task: `--layer all` writes one file per layer.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.errors import WorkError
from harness.readers import read_json

# the commits are those at which other public projects pin the weights
SOURCES = {
    "330M": weights.Source("m-a-p/MERT-v1-330M", "5240c2708a5acaee1007f43fb9735c7dcd0b78c9", "pytorch_model.bin",
                           "CC BY-NC 4.0", ("config.json",)),
    "95M": weights.Source("m-a-p/MERT-v1-95M", "12af15fef9d0ac838c3f475bfbbf26d2060dd4f5", "pytorch_model.bin",
                          "CC BY-NC 4.0", ("config.json",)),
}
PUBLISHED = {"330M": (1024, 24, 315.4), "95M": (768, 12, 94.4)}  # dimension, layers, million parameters


class MERT(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST = "mert", 24000, 1024, 24
    FRAME_LEVEL = "75 per second"
    VARIANTS = ((), ("--size", "95M"))

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--size", choices=tuple(SOURCES), default="330M",
                            help="number of parameters of the model (default 330M)")
        super().add_flags(parser)

    def __init__(self, args):
        self.DIM, self.LAST, self.MILLIONS = PUBLISHED[args.size]
        super().__init__(args)

    def suffix(self):
        return ("-95m" if self.args.size == "95M" else "") + super().suffix()

    def source(self):
        return SOURCES[self.args.size]

    def variant(self):
        return self.args.size

    def sizes(self):
        """Read the configuration; WorkError if it enables what MERT's own code adds to HuBERT."""
        config = read_json(self.files.beside["config.json"])
        added = [k for k in ("feature_extractor_cqt", "deepnorm") if config.get(k)]
        if added:
            raise WorkError(f"{self.files.beside['config.json']} enables {' and '.join(added)}, which HuBERT does not "
                            "have; use the weights of MERT v1")
        self.config = {k: v for k, v in config.items() if k not in ("model_type", "auto_map", "architectures")}
        self.dim, self.depth = weights.sizes(config, self.files.beside["config.json"], self.source(), "hidden_size",
                                             "num_hidden_layers")

    def build(self):
        from transformers import HubertConfig, HubertModel
        config = HubertConfig(**self.config, attn_implementation="sdpa")
        model = weights.empty(lambda: HubertModel(config))
        return weights.fill(model, weights.read(self.files.weights), self.files.weights)

    def states(self, x, wanted):
        return pretrained.huggingface_states(self.model, x.to(self.dtype), wanted, self.depth)


def main(argv=None):
    return extraction.main(MERT, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
