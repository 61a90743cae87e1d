"""MuQ and MuQ-MuLan: a conformer trained on mel residual tokens, and a joint audio-text embedding (arXiv 2501.01108).

    python extract_item_embeddings/muq.py --audio DIR [--workdir DIR] [--layer last|mean|N|all] [--mulan]

| weights                    | licence      | rate      | window | layer                | pooling       | dimension |
|----------------------------|--------------|-----------|--------|----------------------|---------------|-----------|
| OpenMuQ/MuQ-large-msd-iter | CC BY-NC 4.0 | 24,000 Hz | 30 s   | last of 13, or other | mean          | 1024      |
| OpenMuQ/MuQ-MuLan-large    | CC BY-NC 4.0 | 24,000 Hz | 10 s   | joint space          | mean of units | 512       |

MuQ-MuLan as in its authors' code: clips of 10 s, each a unit vector, and their mean, which is not normalised again.
The last clip is filled up from the start of the excerpt and has full weight.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings import mfm
from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.errors import UsageError, WorkError
from harness.readers import read_json

# the commits are those at which other public projects pin the weights
MUQ = weights.Source("OpenMuQ/MuQ-large-msd-iter", "0562a57814f6f8bbd9fdea0a25921a2fce1a841a", "model.safetensors",
                     "CC BY-NC 4.0", ("config.json",))
MULAN = weights.Source("OpenMuQ/MuQ-MuLan-large", "2e01c796b71dca71b45251384c04cd7b237c9020", "pytorch_model.bin",
                       "CC BY-NC 4.0", ("config.json",))
MSD = {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623}  # MuLan's config has none
BACKBONE, AUDIO = "mulan.audio.model.model.", "mulan.audio."


class MuQ(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST = "muq_msd", 24000, 1024, 12
    MILLIONS, DIGITS = 300, -2  # published as about 300 million
    FRAME_LEVEL = "25 per second; with --mulan one vector per 10 s"
    VARIANTS = ((), ("--mulan",))

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--mulan", action="store_true",
                            help="use MuQ-MuLan, the joint audio-text embedding, instead of MuQ (default: off)")
        super().add_flags(parser)

    def __init__(self, args):
        if args.mulan:
            self.NAME, self.DIM, self.WINDOW, self.POOLING = "muq_mulan", 512, 10.0, "mean of unit vectors of clips"
            self.LAYERED = False
            if args.layer != "last":
                raise UsageError(f"--layer {args.layer} does not apply to --mulan, which has one output; leave it out")
        super().__init__(args)

    def source(self):
        return MULAN if self.args.mulan else MUQ

    def variant(self):
        return "MuLan" if self.args.mulan else "MuQ"

    def request(self):
        return {**super().request(), "statistics": dict(zip(("mean", "std"), self.statistics, strict=True))}

    def sizes(self):
        from extract_item_embeddings.networks import conformer
        path = self.files.beside["config.json"]
        config = read_json(path)
        self.statistics = mfm.statistics(path, config.get("stat") or (MSD if self.args.mulan else {}))
        self.state = weights.read(self.files.weights)
        if self.args.mulan:
            self.split_weights(config, path)
        self.shape = conformer.sizes(self.state, self.files.weights)
        self.depth = self.shape["depth"]
        if not self.args.mulan:
            self.dim = self.shape["dim"]

    def split_weights(self, config, path):
        """Read MuLan's settings and split its weights into audio tower and backbone, without the text tower."""
        try:
            self.WINDOW = float(int(config["mulan"]["clip_secs"]))
            self.heard = config.get("audio_model", {}).get("use_layer_idx", -1)  # state of MuQ that the tower reads
            self.dim = self.state["mulan.audio_to_latents.weight"].shape[0]
        except (KeyError, TypeError, ValueError) as e:
            raise WorkError(f"{self.files.weights} with {path.name} is not MuQ-MuLan, as it lacks {e}; use the "
                            f"weights of {MULAN.repo}") from None
        self.size = round(self.WINDOW * self.SAMPLE_RATE)
        tower = {k[len(AUDIO):]: v for k, v in self.state.items()
                 if k.startswith(AUDIO) and not k.startswith("mulan.audio.model.")}
        self.tower = tower | {k[len("mulan."):]: v for k, v in self.state.items()
                              if k.startswith("mulan.audio_to_latents.")}
        self.state = weights.strip(self.state, BACKBONE)

    def build(self):
        from extract_item_embeddings.networks.conformer import TRAINING, Conformer
        model = weights.empty(lambda: Conformer(self.shape, *self.statistics))
        weights.fill(model, self.state, self.files.weights, TRAINING)
        if self.args.mulan:
            from extract_item_embeddings.networks.mulan import Tower
            self.joint = weights.empty(lambda: Tower(self.tower))
            weights.fill(self.joint, self.tower, self.files.weights, ("aggregator.",))  # a layer that is never used
            del self.tower
        del self.state
        return model

    def before_rounding(self):
        self.model.fold()

    def place(self):
        self.model.place(self.device, self.dtype)
        if self.args.mulan:
            self.joint.to(self.device, self.dtype)

    def prepare(self, samples):
        """MuQ: windows. MuLan: clips, the last filled up from the start of the excerpt, which may be repeated."""
        if not self.args.mulan:
            return super().prepare(samples)
        clips, lengths = pretrained.cut(samples, self.size)
        fill = samples[:self.size - lengths[-1]]
        end = lengths[-1] + len(fill)
        clips[-1, lengths[-1]:end] = fill
        lengths[-1] = end
        return clips, lengths

    def describe(self, x):
        if not self.args.mulan:
            return super().describe(x)
        heard = range(self.depth + 1)[self.heard]
        return self.joint(self.model.states(x, [heard])[heard])

    def pool(self, values, lengths):
        return values.astype(np.float64).mean(axis=0) if self.args.mulan else super().pool(values, lengths)

    def states(self, x, wanted):
        return self.model.states(x, wanted)


def main(argv=None):
    return extraction.main(MuQ, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
