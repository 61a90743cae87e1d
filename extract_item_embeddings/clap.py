"""CLAP for music: the audio tower of a joint audio-text embedding (Wu et al., arXiv 2211.06687).

    python extract_item_embeddings/clap.py --audio DIR [--workdir DIR]

| weights                 | licence    | rate      | window                | layer       | pooling | dimension |
|-------------------------|------------|-----------|-----------------------|-------------|---------|-----------|
| laion/larger_clap_music | Apache-2.0 | 48,000 Hz | 10 s, one after other | joint space | mean    | 512       |

Windows are consecutive, not the random crop of the model's own processor, so the embedding of a track is
deterministic. A shorter window is repeated to fill 10 s, as in that processor, and weighted by its length. The
vectors of the joint space are not normalised. The settings of the spectrogram are read from
preprocessor_config.json.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings.engine import audio, extraction, pretrained, weights
from harness import cli
from harness.errors import WorkError
from harness.readers import read_json

# the commit is the one at which other public projects pin the weights
SOURCE = weights.Source("laion/larger_clap_music", "a0b4534a14f58e20944452dff00a22a06ce629d1", "pytorch_model.bin",
                        "Apache-2.0", ("config.json", "preprocessor_config.json"),
                        "5c289311f4a030d768af7ffbfdecd01b008aa64824211899a4e59f4f9d154fd1")
TEXT = ("text_model.", "text_projection.", "logit_scale")  # the text tower, not used


class CLAP(pretrained.Pretrained):
    NAME, SAMPLE_RATE, DIM, WINDOW = "clap", 48000, 512, 10.0
    LAYERED, MILLIONS, FRAME_LEVEL = False, 68.6, "one vector per 10 s"

    def __init__(self, args):
        super().__init__(args)
        self.size = round(self.WINDOW * self.SAMPLE_RATE)  # also for shorter excerpts: they are repeated

    def source(self):
        return SOURCE

    def sizes(self):
        """Read both configurations; WorkError unless the windows have 10 s at 48 kHz."""
        config = read_json(self.files.beside["config.json"])
        self.config = {k: config[k] for k in ("audio_config", "projection_dim", "projection_hidden_act") if k in config}
        self.mel = read_json(self.files.beside["preprocessor_config.json"])
        (self.dim,) = weights.sizes({"projection_dim": self.DIM, **config}, self.files.beside["config.json"], SOURCE,
                                    "projection_dim")
        if not isinstance(audio_config := config.get("audio_config", {}), dict):
            raise WorkError(f"{self.files.beside['config.json']} gives audio_config {audio_config!r}, no object; use "
                            f"the file published with the weights of {SOURCE.repo}")
        if audio_config.get("enable_fusion"):
            raise WorkError(f"{self.files.beside['config.json']} enables the fusion of random crops; use weights "
                            "without it, such as laion/larger_clap_music")
        if self.mel.get("sampling_rate", 48000) != self.SAMPLE_RATE or self.mel.get("max_length_s", 10) != self.WINDOW:
            raise WorkError(f"{self.files.beside['preprocessor_config.json']} is not for windows of 10 s at 48,000 Hz; "
                            "use the weights of laion/larger_clap_music")

    def build(self):
        from transformers import ClapAudioModelWithProjection, ClapConfig

        from extract_item_embeddings.networks.logmel import LogMel
        config = ClapConfig(**self.config).audio_config
        model = weights.empty(lambda: ClapAudioModelWithProjection(config))
        weights.fill(model, weights.read(self.files.weights), self.files.weights, TEXT)
        # the model's processor has one filter bank for fused and one for other inputs
        scale, norm = ("htk", None) if self.mel.get("truncation", "fusion") == "fusion" else ("slaney", "slaney")
        self.spectrogram = LogMel(self.SAMPLE_RATE, self.mel.get("fft_window_size", 1024),
                                  self.mel.get("hop_length", 480), self.mel.get("feature_size", 64),
                                  self.mel.get("frequency_min", 0), self.mel.get("frequency_max", 14000), scale, norm)
        return model

    def place(self):
        self.model.to(self.device, self.dtype)
        self.spectrogram.to(self.device)

    def prepare(self, samples):
        """Samples (N,) -> (windows (n, 480000), number of samples of audio in each)."""
        windows, lengths = pretrained.cut(samples, self.size, round(audio.SHORTEST * self.SAMPLE_RATE))
        padding = self.mel.get("padding", "repeatpad")
        sound, n = windows[-1, :lengths[-1]].copy(), lengths[-1]
        if n < self.size and padding != "pad":
            times = self.size / n if padding == "repeat" else self.size // n  # repeatpad: whole repeats, then zeros
            windows[-1, :round(times * n)] = np.resize(sound, round(times * n))
        return windows, lengths

    def together(self, inputs, lengths, frames):
        return self.run(inputs, frames)

    def alone(self, window, n, frames):
        return super().alone(window, len(window), frames)

    def describe(self, x):
        mel = self.spectrogram(x).transpose(1, 2)[:, None]  # (b, 1, frames, bands)
        return self.model(input_features=mel.to(self.dtype)).audio_embeds


def main(argv=None):
    return extraction.main(CLAP, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
