"""EnCodecMAE: a masked autoencoder on the latents of EnCodec (Pepino et al., arXiv 2309.07391), its first release.

    python extract_item_embeddings/emae.py --audio DIR [--workdir DIR] [--layer last|mean|N|all]

| weights                 | licence | rate      | window               | layer               | pooling | dimension |
|-------------------------|---------|-----------|----------------------|---------------------|---------|-----------|
| lpepino/encodecmae-base | MIT     | 24,000 Hz | 4 s, one after other | output of 10 layers | mean    | 768       |

The EnCodec encoder is that of transformers, the ten layers are in extract_item_embeddings/networks/encodecmae.py.
All frames have equal weight, including a partly filled last one. States 0 to 9 of --layer are the first branch; the
last is the output.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.errors import WorkError
from harness.readers import read_json

# no commit of these weights is known, so the branch is named; the json records the commit it resolved to
SOURCE = weights.Source("lpepino/encodecmae-base", "main", "model.pt", "MIT")
HOP = 320   # samples per frame of EnCodec
HEAD = 64   # channels of an attention head, unless a config.json beside the weights gives num_heads


class EnCodecMAE(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST, WINDOW, BATCH = "encodecmae", 24000, 768, 10, 4.0, 16
    MILLIONS = 37.4  # of 63.8 in the file; the others are used in training only
    FRAME_LEVEL = "75 per second"

    def source(self):
        return SOURCE

    def sizes(self):
        from extract_item_embeddings.networks import encodecmae
        self.state = encodecmae.renamed(weights.read(self.files.weights), self.files.weights)
        self.dim = self.state["projector.weight"].shape[0]
        self.depth = 1 + max(int(k.split(".")[1]) for k in self.state if k.startswith("layers."))
        config = self.files.weights.parent / "config.json"
        heads = read_json(config).get("num_heads") if config.is_file() else None
        self.heads = heads or max(self.dim // HEAD, 1)
        if self.dim % self.heads:
            raise WorkError(f"{config} gives num_heads {self.heads}, which does not divide {self.dim} channels")

    def request(self):
        return {**super().request(), "heads": self.heads}

    def build(self):
        from extract_item_embeddings.networks.encodecmae import Encoder
        model = weights.empty(lambda: Encoder(self.state, self.dim, self.depth, self.heads))
        weights.fill(model, self.state, self.files.weights)
        del self.state
        return model

    def place(self):
        self.model.to(self.device, self.dtype)
        self.model.codec.float()  # small and recurrent; its rounding errors would propagate to all layers

    def prepare(self, samples):
        return pretrained.cut(samples, self.size)

    def states(self, x, wanted):
        return self.model.states(x, wanted)

    def pool(self, values, lengths):
        return super().pool(values, np.ceil(lengths / HOP))


def main(argv=None):
    return extraction.main(EnCodecMAE, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
