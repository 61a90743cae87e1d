"""MAEST: a spectrogram transformer trained on 400 music styles of Discogs (Alonso-Jimenez et al., arXiv 2309.16418).

    python extract_item_embeddings/maest.py --audio DIR [--workdir DIR] [--variant NAME] [--layer last|mean|N|all]

| weights                           | licence         | rate      | window | layer             | pooling | dimension |
|-----------------------------------|-----------------|-----------|--------|-------------------|---------|-----------|
| mtg-upf/discogs-maest-30s-pw-129e | CC BY-NC-SA 4.0 | 16,000 Hz | 30 s   | 7 of 12, or other | mean    | 2304      |

The vector of a window is what the authors recommend for other tasks: the state after the seventh of twelve blocks, of
which the CLS token, the DIST token and the mean of all patches stand side by side, 768 values each. Run as AST of
transformers; the code published with the weights, a feature extractor, is not needed: the log-mel is computed here. A
clip shorter than the window is heard at its own length, as in the authors' repository; that feature extractor pads.
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

CC, BESIDE, OLD = "CC BY-NC-SA 4.0", ("config.json", "preprocessor_config.json"), "pytorch_model.bin"


def source(name, revision="main", file=OLD, licence=CC, sha256=""):
    return weights.Source(f"mtg-upf/discogs-maest-{name}", revision, file, licence, BESIDE, sha256)


# commits are those that the model hub's pages, or other public projects, name; where none is known, the branch is
# named, and the json records the commit it resolved to
SOURCES = {
    "30s-pw-129e": source("30s-pw-129e"),
    "30s-pw-129e-519l": source("30s-pw-129e-519l", "6c35f32a350f74351870937d5ae0bae1d898d1df", "model.safetensors",
                               "not stated", "881cec6abdcb6ef986367e6c0db02dc760cc0f88a52b625cb9d6e2b54d505548"),
    "30s-pw-73e-ts": source("30s-pw-73e-ts", "e4b3ac6ecb8dbac478b01821b45d15d3fc52c029"),
    "20s-pw-129e": source("20s-pw-129e"),
    "10s-pw-129e": source("10s-pw-129e", "1183932dcd15cbf62ff5c63413e84f5561330e11"),
    "5s-pw-129e": source("5s-pw-129e"),
}
USUAL = "30s-pw-129e"
MILLIONS = {30: 86.5, 20: 86.1, 10: 85.7, 5: 85.5}  # parameters without the classifier, by seconds of the window


class MAEST(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST, LAYER = "maest", 16000, 2304, 12, "7"
    POOLING, FRAME_LEVEL = "CLS, DIST and the mean over patches", "one vector per window"
    VARIANTS = tuple(("--variant", name) if name != USUAL else () for name in SOURCES)

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--variant", choices=tuple(SOURCES), default=USUAL,
                            help="weights: seconds of the window; pw for weights that began as PaSST's; 519l for "
                                 f"519 styles on more music; ts for teacher and student (default {USUAL})")
        super().add_flags(parser)

    def __init__(self, args):
        seconds = int(args.variant.partition("s")[0])
        self.WINDOW, self.MILLIONS = float(seconds), MILLIONS[seconds]
        super().__init__(args)

    def suffix(self):
        return ("" if self.args.variant == USUAL else f"-{self.args.variant}") + super().suffix()

    def source(self):
        return SOURCES[self.args.variant]

    def variant(self):
        return self.args.variant

    def request(self):
        return {**super().request(), "spectrogram": self.spectrogram}

    def sizes(self):
        """Read both configurations; WorkError unless they are of MAEST and its input holds a window."""
        from extract_item_embeddings.networks import maest
        path, sound = (self.files.beside[name] for name in BESIDE)
        config = read_json(path)
        self.spectrogram = maest.spectrogram(read_json(sound), sound)
        self.config = {k: config[k] for k in maest.SIZES if k in config}
        frames = self.size // self.spectrogram["hop_length"] + 1
        width, self.depth, holds = weights.sizes(config, path, self.source(), "hidden_size", "num_hidden_layers",
                                                 "max_length")
        self.dim = 3 * width
        patch, stride = self.config.get("patch_size", 16), self.config.get("time_stride", 10)
        if (frames - patch) // stride > (holds - patch) // stride:
            raise WorkError(f"{path} is for {holds} frames, fewer than the {frames} of "
                            f"{self.size / self.SAMPLE_RATE:g} s; give the --variant of these weights, or at most "
                            f"--seconds {(holds - 1) * self.spectrogram['hop_length'] / self.SAMPLE_RATE:.3g}")

    def build(self):
        from transformers import ASTConfig

        from extract_item_embeddings.networks import maest
        config = ASTConfig(**self.config, attn_implementation="sdpa")
        model = weights.empty(lambda: maest.MAEST(config, self.spectrogram))
        state = weights.renamed(weights.read(self.files.weights), maest.NAMES)
        weights.fill(model.ast, state, self.files.weights, maest.HEAD)
        return model

    def place(self):
        self.model.to(self.device)
        self.model.ast.to(self.dtype)

    def states(self, x, wanted):
        return self.model.states(x, wanted)


def main(argv=None):
    return extraction.main(MAEST, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
