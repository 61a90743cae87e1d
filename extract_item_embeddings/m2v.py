"""Music2Vec: data2vec trained on music (Li et al., arXiv 2212.02508).

    python extract_item_embeddings/m2v.py --audio DIR [--workdir DIR] [--layer last|mean|N|all] [--as-published]

| weights            | licence      | rate      | window | layer                | pooling | dimension |
|--------------------|--------------|-----------|--------|----------------------|---------|-----------|
| m-a-p/music2vec-v1 | CC BY-NC 4.0 | 16,000 Hz | 30 s   | last of 13, or other | mean    | 768       |

As in the model card, each window is normalised to zero mean and unit variance at 16 kHz. The published extraction
passed samples at 24 kHz to the model (so 1.5 times too slow), not normalised, and zero-padded to 30 s:
--as-published reproduces that.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.readers import read_json

# no commit of these weights is known, so the branch is named; the json records the commit it resolved to
SOURCE = weights.Source("m-a-p/music2vec-v1", "main", "pytorch_model.bin", "CC BY-NC 4.0", ("config.json",))
PUBLISHED_RATE = 24000


class Music2Vec(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST, MILLIONS = "music2vec", 16000, 768, 12, 93.2
    FRAME_LEVEL = "50 per second"

    @classmethod
    def add_flags(cls, parser):
        super().add_flags(parser)
        parser.add_argument("--as-published", action="store_true", help="pass samples at 24 kHz to the 16 kHz model, "
                            "not normalised, short tracks zero-padded (default: off)")

    def __init__(self, args):
        if args.as_published:
            self.SAMPLE_RATE = PUBLISHED_RATE
        super().__init__(args)

    def suffix(self):
        return super().suffix() + ("-as-published" if self.args.as_published else "")

    def source(self):
        return SOURCE

    def request(self):
        return {**super().request(), "normalised": not self.args.as_published, "as_published": self.args.as_published}

    def sizes(self):
        config = read_json(self.files.beside["config.json"])
        self.config = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
        self.dim, self.depth = weights.sizes(config, self.files.beside["config.json"], self.source(), "hidden_size",
                                             "num_hidden_layers")

    def build(self):
        from transformers import Data2VecAudioConfig, Data2VecAudioModel
        config = Data2VecAudioConfig(**self.config, attn_implementation="sdpa")
        model = weights.empty(lambda: Data2VecAudioModel(config))
        return weights.fill(model, weights.read(self.files.weights), self.files.weights)

    def prepare(self, samples):
        windows, lengths = super().prepare(samples)
        if self.args.as_published:
            return windows, np.full_like(lengths, self.size)
        for window, n in zip(windows, lengths, strict=True):
            sound = window[:n].astype(np.float64)
            window[:n] = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        return windows, lengths

    def states(self, x, wanted):
        return pretrained.huggingface_states(self.model, x.to(self.dtype), wanted, self.depth)


def main(argv=None):
    return extraction.main(Music2Vec, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
