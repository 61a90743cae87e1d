"""Log-mel spectrograms in torch, for the networks whose input is a spectrogram."""
import numpy as np
import torch
from torch import nn


class LogMel(nn.Module):
    """(B, N) samples -> (B, bands, frames) of mel power in dB: 10 log10(max(power, 1e-10)), nothing else.

    Hann window, frames centred. The ends are reflected, so more than n_fft / 2 samples are needed, or with pad
    "constant" continued by zeros. Computed in float64 and given as float32, whatever the network behind it
    computes in: the rounding of a float32 transform lies about 140 dB below a frame's peak, so that a band 80 dB
    below it would differ by .01 dB from one processor's instructions to another's.
    """

    def __init__(self, rate, n_fft, hop, bands, low=0.0, high=None, scale="htk", norm=None, pad="reflect"):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank
        filters = mel_filter_bank(n_fft // 2 + 1, bands, low, high or rate / 2, rate, norm=norm, mel_scale=scale)
        self.n_fft, self.hop, self.pad = n_fft, hop, pad
        self.window = nn.Buffer(torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        self.filters = nn.Buffer(torch.from_numpy(filters.astype(np.float32)), persistent=False)  # (bins, bands)

    def power(self, x):
        """(B, N) samples -> float64 (B, bands, frames), before the logarithm"""
        spectrum = torch.stft(x.double(), self.n_fft, self.hop, window=self.window.double(), center=True,
                              pad_mode=self.pad, return_complex=True)  # (B, bins, frames)
        power = spectrum.real ** 2 + spectrum.imag ** 2
        return torch.einsum("bft,fm->bmt", power, self.filters.double())

    def forward(self, x):
        return (10 * torch.log10(self.power(x).clamp(min=1e-10))).float()
