"""The MusiCNN network in torch, arranged for matrix products (Pons and Serra, arXiv 1909.06654).

The published graph convolves a log-mel patch (T, 96) with few, very long kernels on one input
channel, which convolution routines run at a tenth of a processor's speed. The same sums are written
here as products of matrices, and the maximum over frequency that follows is taken at once, so that
the (B, T, frequencies, filters) tensor never exists. Two identities make that possible:

* Batch norm after ReLU is a per-filter a * relu(x) + b, so its maximum over x is that of relu at the
  largest x where a > 0 and at the smallest where a < 0: filters with a < 0 are negated beforehand.
* A correlation along frequency is a product of discrete Fourier transforms (96 points; nothing wraps,
  as kernel plus positions just fit). Positions n and -n around the middle one share their sums:
  y(+-n) = E(n) -+ O(n), whose maximum is E(n) + |O(n)|.

Letters: B patches, T frames, F = 96 mel bands, K = 49 frequencies of the transform, O filters.
"""
import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-3  # of every batch norm of the published graph
BANDS = 96


def affine(weights, i):
    """Batch norm i of the checkpoint in eval mode as (scale, shift), float32 numpy."""
    name = f"batch_normalization_{i}" if i else "batch_normalization"
    scale = weights[f"{name}/gamma"] / np.sqrt(weights[f"{name}/moving_variance"] + EPSILON)
    return scale, weights[f"{name}/beta"] - weights[f"{name}/moving_mean"] * scale


def convolution(weights, i):
    name = f"conv2d_{i}" if i else "conv2d"
    return weights[f"{name}/kernel"][:, :, 0], weights[f"{name}/bias"]  # (time, frequency, O), (O,)


def has_bfloat16(device):
    """Whether the device multiplies bfloat16 faster than float32 (AVX512-BF16, AMX, CUDA)."""
    if device.type == "cuda":
        return True
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"  # the processor may have more than is to be used of it
    return used and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Constants(nn.Module):
    """A module whose arrays are fixed: float32 buffers that follow .to(device)."""

    def constant(self, **arrays):
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array, np.float32)))


class Products(Constants):
    """Matrix products in float32, or in bfloat16 with sums in float32.

    A processor without bfloat16 units multiplies bfloat16 slower than float32; there the weights and
    inputs are rounded to bfloat16 and multiplied as float32, which gives the same accuracy.
    """
    precision, native = "fp32", True

    def operand(self, x):
        if self.precision == "fp32":
            return x
        rounded = x.to(torch.bfloat16)
        return rounded if self.native else rounded.float()


class FilterMax(Products):
    """What ends both kinds of front-end blocks: bias, ReLU, batch norm, on maxima of sign * x."""

    def finish(self, best):
        return functional.relu(best.float() * self.sign + self.bias) * self.scale + self.shift


class Timbral(FilterMax):
    """Kernels (7 frames, L bands), valid in frequency, then the maximum over the 97 - L positions."""
    ROWS = 16  # frames at a time on a processor: the spectra of so many stay in its cache

    def __init__(self, weights, conv, norm):
        super().__init__()
        kernel, bias = convolution(weights, conv)
        scale, shift = affine(weights, norm)
        sign = np.where(scale < 0, -1.0, 1.0)
        length, k = kernel.shape[1], np.arange(BANDS // 2 + 1)
        middle = (BANDS - length) / 2  # of the positions 0 .. 96 - L
        waves = np.exp(2j * np.pi / BANDS * np.outer(k, np.arange(length) + middle))
        spectrum = np.einsum("tfo,kf->kto", kernel.astype(np.float64) * sign, waves)
        spectrum *= (np.where((k == 0) | (k == BANDS // 2), 1, 2) / BANDS)[:, None, None]
        n = np.arange(middle % 1, middle + 0.5)  # 0, 1, .. or 0.5, 1.5, ..
        angles = 2 * np.pi / BANDS * np.outer(n, k)
        self.constant(real=np.concatenate([spectrum.real, -spectrum.imag], 1),      # (K, 14, O)
                      imaginary=np.concatenate([spectrum.imag, spectrum.real], 1),  # (K, 14, O)
                      cosine=np.cos(angles), sine=np.sin(angles),                   # (positions / 2, K)
                      sign=sign, bias=bias, scale=scale, shift=shift)

    def forward(self, frames):
        """(K, B * T, 14) spectra of seven frames -> (B * T, O)"""
        real, imaginary = self.operand(self.real), self.operand(self.imaginary)
        cosine, sine = self.cosine.to(real.dtype), self.sine.to(real.dtype)
        K, N, _ = frames.shape
        rows = self.ROWS if frames.device.type == "cpu" else 4096
        best = frames.new_empty(N, real.shape[2])
        for s in range(0, N, rows):
            part = frames[:, s:s + rows]
            even = cosine @ torch.bmm(part, real).view(K, -1)    # (positions / 2, rows * O)
            odd = sine @ torch.bmm(part, imaginary).view(K, -1)
            best[s:s + rows] = odd.abs_().add_(even).amax(0).view(part.shape[1], -1)
        return self.finish(best)


class Temporal(FilterMax):
    """Kernels (L frames, 1 band), same length in time, then the maximum over the bands.

    STEP successive frames are one product: their shifted copies of the kernel fill a band matrix.
    """
    STEP = 8

    def __init__(self, weights, conv, norm):
        super().__init__()
        kernel, bias = convolution(weights, conv)
        scale, shift = affine(weights, norm)
        sign = np.where(scale < 0, -1.0, 1.0)
        self.length, filters = kernel.shape[0], kernel.shape[2]
        band = np.zeros((self.length + self.STEP - 1, self.STEP, filters))
        for j in range(self.STEP):
            band[j:j + self.length, j] = kernel[:, 0] * sign
        self.constant(band=band.reshape(len(band), -1), sign=sign, bias=bias, scale=scale, shift=shift)

    def forward(self, x):
        """(B, T, F) -> (B, T, O)"""
        B, T, _ = x.shape
        steps = -(-T // self.STEP)
        before = (self.length - 1) // 2  # TensorFlow puts the odd zero of an even kernel at the end
        x = functional.pad(x.transpose(1, 2), (before, steps * self.STEP - T + self.length - 1 - before))
        rows, band = self.operand(x).reshape(B * BANDS, -1), self.operand(self.band)
        best = [(rows[:, s:s + len(band)] @ band).view(B, BANDS, -1).amax(1)  # (B, STEP * O)
                for s in range(0, steps * self.STEP, self.STEP)]
        best = torch.stack(best, 1).view(B, steps * self.STEP, -1)[:, :T]
        return self.finish(best)


class Dense(Constants):
    """Convolution over 7 frames of all features, ReLU, batch norm: the mid-end of the network."""

    def __init__(self, weights, conv, norm):
        super().__init__()
        kernel, bias = convolution(weights, conv)
        scale, shift = affine(weights, norm)
        self.constant(kernel=kernel.transpose(2, 1, 0), bias=bias, scale=scale[:, None], shift=shift[:, None])

    def forward(self, x):
        """(B, C, T) -> (B, O, T)"""
        return functional.relu(functional.conv1d(x, self.kernel, self.bias, padding=3)) * self.scale + self.shift


class Network(Constants):
    """Log-mel patches to {layer: (B, D)}: taggram 50, penultimate 200, mean_pool and max_pool 753."""

    def __init__(self, weights):
        super().__init__()
        transform = np.exp(-2j * np.pi / BANDS * np.outer(np.arange(BANDS), np.arange(BANDS // 2 + 1)))
        scale, shift = affine(weights, 0)
        flat, dense = affine(weights, 9), affine(weights, 10)
        self.constant(scale=scale, shift=shift, flat_scale=flat[0], flat_shift=flat[1],
                      dense_scale=dense[0], dense_shift=dense[1],
                      transform=np.concatenate([transform.real, transform.imag], 1),  # (F, 2 K)
                      dense=weights["dense/kernel"], dense_bias=weights["dense/bias"],
                      tags=weights["dense_1/kernel"], tags_bias=weights["dense_1/bias"])
        self.timbral = nn.ModuleList(Timbral(weights, i, i + 1) for i in (0, 1))
        self.temporal = nn.ModuleList(Temporal(weights, i, i + 1) for i in (2, 3, 4))
        self.mid = nn.ModuleList(Dense(weights, i, i + 1) for i in (5, 6, 7))

    def set_precision(self, precision, native):
        for module in self.modules():
            if isinstance(module, Products):
                module.precision, module.native = precision, native

    def forward(self, patches, lengths):
        """(B, T, 96), (B,) frames of each patch that are sound; what lies behind them changes nothing.

        Zeros after the sound before every convolution are what a patch of that length alone would be
        padded with, and the pooling leaves the frames behind out.
        """
        sound = torch.arange(patches.shape[1], device=patches.device) < lengths[:, None]  # (B, T)
        x = (patches * self.scale + self.shift) * sound[:, :, None]
        sound = sound[:, None]  # (B, 1, T)
        front = self.front(x).transpose(1, 2) * sound  # (B, 561, T)
        first = self.mid[0](front) * sound
        second = (self.mid[1](first) + first) * sound
        third = self.mid[2](second) + second
        features = torch.cat([front, first, second, third], 1)  # (B, 753, T)
        mean_pool = (features * sound).sum(2) / lengths[:, None]
        max_pool = features.masked_fill(~sound, -torch.inf).amax(2)
        flat = torch.stack([max_pool, mean_pool], 2).flatten(1) * self.flat_scale + self.flat_shift  # interleaved
        penultimate = functional.relu(flat @ self.dense + self.dense_bias) * self.dense_scale + self.dense_shift
        taggram = torch.sigmoid(penultimate @ self.tags + self.tags_bias)
        return {"taggram": taggram, "penultimate": penultimate, "mean_pool": mean_pool, "max_pool": max_pool}

    def front(self, x):
        """(B, T, F) -> (B, T, 561)"""
        B, T, _ = x.shape
        spectra = functional.pad(x, (0, 0, 3, 3)) @ self.transform  # (B, T + 6, 2 K)
        frames = spectra.view(B, T + 6, 2, -1).unfold(1, 7, 1)      # (B, T, 2, K, 7)
        frames = frames.permute(3, 0, 1, 2, 4).reshape(-1, B * T, 14)
        frames = self.timbral[0].operand(frames)
        return torch.cat([m(frames).view(B, T, -1) for m in self.timbral] + [m(x) for m in self.temporal], 2)
