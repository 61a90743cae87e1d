"""MusicFM: a conformer trained to predict masked tokens of music (Won et al., arXiv 2311.03318).

    python extract_item_embeddings/mfm.py --audio DIR [--workdir DIR] [--trained-on MSD] [--layer last|mean|N|all]

| weights                             | licence | rate      | window | layer                | pooling | dimension |
|-------------------------------------|---------|-----------|--------|----------------------|---------|-----------|
| minzwon/MusicFM pretrained_fma, msd | MIT     | 24,000 Hz | 30 s   | 12 (last) of 0 to 12 | mean    | 1024      |

The log-mel is z-scored with the statistics file published with the weights. The published extraction averaged over the
1024 channels instead of the frames: --as-published gives its 750 values, one per 40 ms of 30 s, with short tracks
zero-padded. According to the authors, weights from before 13 February 2024 were wrong.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import math

import numpy as np

from extract_item_embeddings.engine import extraction, pretrained, weights
from harness import cli
from harness.errors import UsageError, WorkError
from harness.readers import read_json

COMMIT = "546287d5e3e9ea5b42a4135d1dbca96ac12a0a9c"  # at which another public project pins the weights
SOURCES = {
    "FMA": weights.Source("minzwon/MusicFM", COMMIT, "pretrained_fma.pt", "MIT", ("fma_stats.json",)),
    "MSD": weights.Source("minzwon/MusicFM", COMMIT, "pretrained_msd.pt", "MIT", ("msd_stats.json",),
                          "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded"),
}
FRONT = "preprocessor_melspec_2048.mel_stft."  # the mel front-end among the weights


def statistics(path, table):
    """(mean, standard deviation) of the log-mel in dB from a json table; WorkError if they are missing or invalid."""
    try:
        mean, std = float(table["melspec_2048_mean"]), float(table["melspec_2048_std"])
    except (KeyError, TypeError, ValueError):
        mean = std = float("nan")
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise WorkError(f"{path} must have melspec_2048_mean and a positive melspec_2048_std for the z-score of the "
                        "log-mel; download it again")
    return mean, std


def check_front_end(path, state, front, mel, name):
    """WorkError unless the window and mel filters in the weights, with names behind `front`, are those computed here"""
    for key, ours in ((f"{front}spectrogram.window", mel.window), (f"{front}mel_scale.fb", mel.filters)):
        if key in state and (state[key].shape != ours.shape or (state[key].float() - ours).abs().max() > 1e-4):
            raise WorkError(f"{path} is for another spectrogram: {key} differs from the Hann window of {mel.n_fft} and "
                            f"the HTK filters of {name}; use the published weights")


class MusicFM(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, LAST = "musicfm", 24000, 1024, 12
    FRAME_LEVEL = "25 per second"
    VARIANTS = ((), ("--trained-on", "MSD"))
    MILLIONS = 324.7  # of the 329.2 in the 1,316,802,088 bytes of the file; the others are used in training only

    @classmethod
    def add_flags(cls, parser):
        parser.add_argument("--trained-on", choices=tuple(SOURCES), default="FMA",
                            help="training data of the weights: Free Music Archive or Million Song Dataset (default "
                                 "FMA)")
        super().add_flags(parser)
        parser.add_argument("--as-published", action="store_true",
                            help="average over channels instead of time, giving 25 values per second (default: off)")

    def __init__(self, args):
        super().__init__(args)
        if args.as_published:
            if not 0 < args.seconds <= self.WINDOW:
                raise UsageError(f"--as-published gives 25 values per second of one window; --seconds must be above 0 "
                                 f"and at most {self.WINDOW:g}, not {args.seconds:g}")
            if args.frames:
                raise UsageError("--frames does not apply with --as-published, which averages the channels of each "
                                 "frame; leave one of the two out")
            self.POOLING = "mean over channels"

    def suffix(self):
        return ("-msd" if self.args.trained_on == "MSD" else "") + super().suffix() \
            + ("-as-published" if self.args.as_published else "")

    def source(self):
        return SOURCES[self.args.trained_on]

    def variant(self):
        return self.args.trained_on

    def request(self):
        return {**super().request(), "as_published": self.args.as_published,
                "statistics": dict(zip(("mean", "std"), self.statistics, strict=True))}

    def sizes(self):
        from extract_item_embeddings.networks import conformer
        path = self.files.beside[self.source().beside[0]]
        self.statistics = statistics(path, read_json(path))
        self.state = weights.read(self.files.weights)
        self.shape = conformer.sizes(self.state, self.files.weights)
        self.dim, self.depth = self.shape["dim"], self.shape["depth"]

    def outputs(self):
        if not self.args.as_published:
            return super().outputs()
        frames = math.ceil(math.ceil(self.size // 240 / 2) / 2)  # mel frames, halved by each of two convolutions
        return {name: frames for name in super().outputs()}

    def build(self):
        from extract_item_embeddings.networks.conformer import TRAINING, Conformer
        model = weights.empty(lambda: Conformer(self.shape, *self.statistics))
        check_front_end(self.files.weights, self.state, FRONT, model.mel, "MusicFM")
        weights.fill(model, self.state, self.files.weights, TRAINING)
        del self.state
        return model

    def before_rounding(self):
        self.model.fold()

    def place(self):
        self.model.place(self.device, self.dtype)

    def prepare(self, samples):
        windows, lengths = super().prepare(samples)
        return windows, np.full_like(lengths, self.size) if self.args.as_published else lengths

    def average(self, frames):
        return frames.float().mean(dim=2) if self.args.as_published else super().average(frames)

    def states(self, x, wanted):
        return self.model.states(x, wanted)


def main(argv=None):
    return extraction.main(MusicFM, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
