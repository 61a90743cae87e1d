"""MFCC: mean and covariance of 13 mel-frequency cepstral coefficients, 104 values per track.

    python extract_item_embeddings/mfcc.py --audio DIR [--workdir DIR]

| weights        | rate      | frames                                 | pooling             | dimension     |
|----------------|-----------|----------------------------------------|---------------------|---------------|
| none (librosa) | 22,050 Hz | 2048 samples every 512 (43 per second) | mean and covariance | 13 + 91 = 104 |

128 mel bands; first the 13 means, then the upper triangle with diagonal of the 13 x 13 frame covariance, row by row.
The layout is that of Music4All-Onion's `id_mfcc_stats`, which the papers used; the values may differ from that file,
as its frame settings are not published.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

from extract_item_embeddings.engine import extraction
from harness import cli

COEFFICIENTS = 13


def statistics(coefficients):
    """(C, T) -> (C + C (C + 1) / 2,): means, then covariances of the upper triangle, row by row.

    For a single frame all covariances are zero.
    """
    C, T = coefficients.shape
    mean = coefficients.mean(axis=1)
    deviations = coefficients - mean[:, None]
    covariance = deviations @ deviations.T / max(T - 1, 1)  # (C, C)
    return np.concatenate([mean, covariance[np.triu_indices(C)]])


class MFCC(extraction.Backend):
    NAME, SAMPLE_RATE, DIM = "mfcc", 22050, COEFFICIENTS + COEFFICIENTS * (COEFFICIENTS + 1) // 2
    WINDOW = None
    POOLING = "mean and covariance over time"
    PACKAGES = ("librosa", "scipy")

    def load(self):
        self.prepare(np.zeros(self.SAMPLE_RATE, np.float32))  # librosa's slow first call, before timing starts

    def prepare(self, samples):
        import librosa
        frames = librosa.feature.mfcc(y=samples, sr=self.SAMPLE_RATE, n_mfcc=COEFFICIENTS, n_fft=2048,
                                      hop_length=512, n_mels=128)  # (13, T)
        values = statistics(frames.astype(np.float64)).astype(np.float32)
        return values[None], np.array([frames.shape[1]])

    def forward(self, inputs, lengths):
        return inputs  # computed in prepare


def main(argv=None):
    return extraction.main(MFCC, __doc__, argv)


if __name__ == "__main__":
    cli.run(main)
