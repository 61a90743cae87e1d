"""extract(): token t of layer L is gain * L * the mean of its 128 samples, times 1, 2, ... 4800."""
import numpy as np

VQVAE = TOP_PRIOR = None


def extract(audio=None, fpath=None, meanpool=False, layers=None, offset=0.0, duration=None, fp16=False):
    assert audio.dtype == np.float32 and audio.ndim == 1 and VQVAE == "vqvae"
    tokens = len(audio) // 128
    assert 0 < tokens <= 8192
    means = audio[:tokens * 128].reshape(tokens, 128).mean(axis=1)  # (T,)
    scale = np.arange(1, TOP_PRIOR.prior.width + 1) * (0.5 if fp16 else 1.0)
    return {n: np.float32(TOP_PRIOR.gain * n * means[:, None] * scale).squeeze() for n in layers}
