"""Dropout whose mask costs little on a processor: an instrument of the models of sequences.

torch draws a mask there one number after the other on one core, a seventh of a training step of SASRec. Here sixteen
bits of a fast generator (numpy's SFC64, seeded by torch's own, so that torch.manual_seed decides) stand for a place.
On other devices it is torch's.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STEPS = 1 << 16


def dropout(x, p, training):
    """x with each value set to 0 with chance p (to within 2 ** -17) and the others divided by 1 - p, as F.dropout."""
    chance = round(p * STEPS)
    if not training or not chance or not x.numel():
        return x
    if x.device.type != "cpu" or chance == STEPS:
        return F.dropout(x, p)
    draw = np.random.SFC64(int(torch.randint(1 << 62, ())))
    bits = draw.random_raw(-(-x.numel() // 4)).view(np.int16)[:x.numel()].reshape(x.shape)   # four of 16 out of 64
    kept = torch.from_numpy(bits) >= chance - STEPS // 2
    return x * kept.to(x.dtype).mul_(STEPS / (STEPS - chance))


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`."""

    def forward(self, x):
        return dropout(x, self.p, self.training)


def replace(model):
    """Let every nn.Dropout inside a model be a Dropout."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
