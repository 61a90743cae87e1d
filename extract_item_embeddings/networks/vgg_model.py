"""The VGG tagger of the musicnn package in torch (Pons and Serra, arXiv 1909.06654).

Five times a 3 x 3 convolution of 128 filters, ReLU, batch norm and maximum. Batch norm after ReLU is a
per-filter a * relu(x) + b, whose maximum over x is that of relu at the largest x where a > 0 and at the
smallest where a < 0. So filters with a < 0 are negated, and the maximum is taken of the convolution
itself: bias, ReLU and batch norm then work on a quarter of the values. Channels are last in memory.
"""
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from extract_item_embeddings.networks.musicnn_model import Constants, affine
from extract_item_embeddings.networks.musicnn_package import norm_shapes

FILTERS = 128
POOLS = (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4)))


def expected_shapes():
    """{variable: shape} of the graph the package builds; kernels are (time, frequency, in, out)."""
    shapes = {}
    for i in range(len(POOLS)):
        shapes |= {f"{i + 1}CNN/kernel": (3, 3, FILTERS if i else 1, FILTERS), f"{i + 1}CNN/bias": (FILTERS,)}
    shapes |= {"dense/kernel": (256, 50), "dense/bias": (50,)}
    return shapes | norm_shapes([1, *[FILTERS] * len(POOLS)])


class Block(Constants):
    """Convolution, ReLU, batch norm i, and the maximum over windows (height, width) at steps."""

    def __init__(self, weights, i, window, step):
        super().__init__()
        scale, shift = affine(weights, i)
        sign = np.where(scale < 0, -1.0, 1.0)
        self.window, self.step = window, step
        kernel = (weights[f"{i}CNN/kernel"] * sign).transpose(3, 2, 0, 1)
        column = {"sign": sign, "bias": weights[f"{i}CNN/bias"], "scale": scale, "shift": shift}
        self.constant(kernel=kernel, **{name: array[:, None, None] for name, array in column.items()})
        self.kernel = self.kernel.contiguous(memory_format=torch.channels_last)

    def forward(self, x):
        """(B, C, T, F) -> (B, 128, T', F')"""
        best = functional.max_pool2d(functional.conv2d(x, self.kernel, padding=1), self.window, self.step)
        return functional.relu(best * self.sign + self.bias) * self.scale + self.shift


class Network(Constants):
    """Log-mel patches to {layer: (B, D)}: pool5 256 (two steps of time, 128 filters each), taggram 50."""

    def __init__(self, weights):
        super().__init__()
        scale, shift = affine(weights, 0)
        self.constant(scale=scale, shift=shift, tags=weights["dense/kernel"], tags_bias=weights["dense/bias"])
        self.blocks = nn.Sequential(*(Block(weights, i, *pool) for i, pool in enumerate(POOLS, 1)))

    def forward(self, patches, lengths):
        """(B, 187, 96), and lengths, which change nothing."""
        x = (patches * self.scale + self.shift)[:, None].contiguous(memory_format=torch.channels_last)
        pool5 = self.blocks(x).permute(0, 2, 3, 1).flatten(1)
        return {"pool5": pool5, "taggram": torch.sigmoid(pool5 @ self.tags + self.tags_bias)}
