"""MERT-v2: a conformer of 632 million parameters on log-mels (released September 2026; no report published yet).

    python extract_item_embeddings/mert2.py --audio DIR [--workdir DIR] [--variant fs] [--layer last|mean|N|all]

| weights                         | licence      | rate      | window      | layer              | pooling | dimension |
|---------------------------------|--------------|-----------|-------------|--------------------|---------|-----------|
| m-a-p/MERT-v2-30s, -v2-FullSong | CC BY-NC 4.0 | 24,000 Hz | 30 s, 360 s | 24 of 24, or other | mean    | 1024      |

The code published with the weights is not needed: the network is written here. State N of --layer comes after block N
(`hidden_states[N - 1]` upstream), state 0 enters the first. The audio is not normalised. The layers that the authors
found best differ by task, from 4 to 24. Full-song weights hear windows of 360 s, with --seconds 0 of whole tracks.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

from extract_item_embeddings import mfm
from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.errors import WorkError
from harness.readers import read_json

# the commits are those at which other public projects pin the weights
SOURCES = {
    "30s": weights.Source("m-a-p/MERT-v2-30s", "12130d22fd947c24b0299c9368900fb06a608512", "model.safetensors",
                          "CC BY-NC 4.0", ("config.json",)),
    "fs": weights.Source("m-a-p/MERT-v2-FullSong", "d8ba1c745e733b3908ce6ad16ebeb17ac7600a42", "model.safetensors",
                         "CC BY-NC 4.0", ("config.json",),
                         "e6dd2ab187d6dd62b6521cd7d8f932e237acf0c5757745a7232082e28391350d"),
}
WINDOWS = {"30s": 30.0, "fs": 360.0}


class MERT2(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST, MILLIONS = "mert2", 24000, 1024, 24, 632.3
    FRAME_LEVEL = "25 per second"
    VARIANTS = ((), ("--variant", "fs"))

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--variant", choices=tuple(SOURCES), default="30s",
                            help="weights: 30s, or fs, trained further on full songs (default 30s)")
        super().add_flags(parser)

    def __init__(self, args):
        self.WINDOW = WINDOWS[args.variant]
        super().__init__(args)

    def suffix(self):
        return ("-fs" if self.args.variant == "fs" else "") + super().suffix()

    def source(self):
        return SOURCES[self.args.variant]

    def variant(self):
        return self.args.variant

    def sizes(self):
        from extract_item_embeddings.networks import mert2
        path = self.files.weights
        self.state = weights.renamed(weights.read(path), mert2.NAMES)
        self.shape = mert2.sizes(self.state, read_json(self.files.beside["config.json"]), path)
        self.dim, self.depth = self.shape["channels"][-1], self.shape["depth"]
        if self.dim % (2 * self.shape["heads"]):
            raise WorkError(f"{self.files.beside['config.json']} gives num_attention_heads {self.shape['heads']}, "
                            f"which does not divide {self.dim} channels into heads of even size; use the file "
                            "published with the weights")

    def build(self):
        from extract_item_embeddings.networks import mert2
        model = weights.empty(lambda: mert2.MERT2(self.shape))
        mfm.check_front_end(self.files.weights, self.state, mert2.FRONT, model.mel, "MERT-v2")
        weights.fill(model, self.state, self.files.weights, (mert2.FRONT,))
        del self.state
        return model

    def place(self):
        self.model.place(self.device, self.dtype)

    def states(self, x, wanted):
        return self.model.states(x, wanted)


def main(argv=None):
    return extraction.main(MERT2, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
