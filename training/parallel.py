"""Data parallel training: the shares of a batch, and the gradient of the whole one.

    torchrun --nproc-per-node 4 train.py --model musicnn

Every process draws the same batch from the same generators, so that what is drawn belongs to the seed, the epoch and
the step and not to the number of processes, and takes its contiguous share of the rows. Losses are weighted by the
rows, so that the sum of the gradients is the gradient of the whole batch's mean:

    own = parallel.share(len(batch))
    loss = parallel.backward(model.parameters(), lambda: model.loss(batch[own.rows]), own)
    optimizer.step()                                      the same in every process

Gradients are summed after the backward pass by one all-reduce, not by DistributedDataParallel, whose hooks sum them
during it: they would mix with the sums that a loss over the whole batch makes there (`gathered`, BatchNorm), and they
ask for one fixed set of parameters, all used in each step, and for autograd. Item tables are released in mid-training,
BERT4Rec has unused parameters, and ELSA's gradient is written out. The price is that communication does not overlap
with computation. A trained item table is exchanged whole at every step.
As with DistributedDataParallel, each process keeps its own copy of the parameters, which start alike and take the same
steps.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from harness import processes

LARGE = 1 << 18   # numbers from which a gradient is summed in its place, without being copied beside the others


@dataclass(frozen=True)
class Share:
    """rows: of the batch, those of this process; weight: of their mean in the mean of the batch; of: rows of the batch;
    divided: whether other processes have other rows."""
    rows: slice
    weight: float
    of: int
    divided: bool

    def reweighted(self, mine: int, all_rows: int) -> "Share":
        """The share where the loss is a mean over `mine` of `all_rows` other things, such as targets."""
        if not self.divided:
            return self
        return Share(self.rows, mine / max(all_rows, 1), self.of, True)


def share(n: int) -> Share:
    """This process' share of a batch of n rows, n at least 1.

    A batch with fewer rows than there are processes is not divided: each process computes all of it.
    """
    place = processes.place()
    if place.world == 1 or n < place.world:
        return Share(slice(0, n), 1 / place.world, n, False)
    rows = processes.rows(n)
    return Share(rows, (rows.stop - rows.start) / n, n, True)


def own_seed(seed: int) -> int:
    """The seed of dropout in this process: `seed` in the main one, another in each other."""
    if processes.is_main():
        return seed
    return int(np.random.SeedSequence([seed, processes.place().rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def computed(function: Callable, codes: np.ndarray) -> torch.Tensor:
    """function(codes), a tensor (n, ...), in every process, each of which computes its share of the rows."""
    if processes.world() == 1:
        return function(codes)
    own = function(codes[processes.rows(len(codes))])
    return torch.cat(processes.of_all(own.cpu())).to(own.device)


# --------------------------------------------------------------------------- gradients

def backward(parameters, loss: Callable, own: Share, scaled: Callable = lambda value: value):
    """The gradient of the whole batch in the parameters' `grad`; its mean loss, detached.

    loss: function giving the mean loss of this process' rows, with a gradient; own: the share, of weight 0 where there
    is nothing to compute; scaled: what a GradScaler makes of a loss
    """
    if processes.world() == 1:
        value = loss()
        scaled(value).backward()
        return value.detach()
    parameters = [p for p in parameters if p.requires_grad]
    value = torch.zeros((), device=parameters[0].device)
    BatchNorm.divided = own.divided
    if own.weight:
        value = loss() * own.weight
        scaled(value).backward()
    return _summed(parameters, value.detach())


def combine(parameters, loss, own: Share):
    """As `backward`, where the gradient of this process' mean loss, a tensor, is in the parameters' `grad` already."""
    if processes.world() == 1:
        return loss
    for p in parameters:
        p.grad.mul_(own.weight)
    return _summed(parameters, loss * own.weight)


def _summed(parameters, value):
    """Sum the gradients of all processes in place, and a number, which is returned.

    A parameter that no process has a gradient of keeps none. A signal that asked one process to stop is known to all
    afterwards: all stop after the same step.
    """
    head = [float(p.grad is not None) for p in parameters] + [float(processes.stop.asked)]
    small = [p for p in parameters if p.numel() < LARGE]
    parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in small]
    flat = torch.cat([value.new_tensor(head), value.reshape(1), *parts])
    dist.all_reduce(flat)
    *used, asked = flat[:len(head)].tolist()
    processes.stop.agreed |= asked > 0
    sums = iter(flat[len(head) + 1:].split([p.numel() for p in small]))
    for p, count in zip(parameters, used, strict=True):
        mine = next(sums) if p.numel() < LARGE else None
        if not count:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        if mine is None:
            dist.all_reduce(p.grad)
        else:
            p.grad.copy_(mine.view_as(p))
    return flat[len(head)]


# --------------------------------------------------------------------------- losses over the whole batch

class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes, with its gradient."""

    @staticmethod
    def forward(ctx, x):
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


def gathered(x, own: Share):
    """The rows of all processes (N, ...) in the batch's order, with a gradient to those of this one, x (n, ...)."""
    if not own.divided:
        return x
    whole = x.new_zeros(own.of, *x.shape[1:])
    return _Sum.apply(torch.cat([whole[:own.rows.start], x, whole[own.rows.stop:]]))


class BatchNorm(nn.BatchNorm1d):
    """nn.BatchNorm1d by the rows of all processes. torch's SyncBatchNorm is for CUDA only."""
    divided = True   # whether the processes have different rows

    def forward(self, x):
        """(n, C) -> (n, C)"""
        if not self.training:
            return super().forward(x)
        if self.divided:
            sums = _Sum.apply(torch.cat([x.sum(0), x.new_tensor([len(x)])]))
            n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
            variance = _Sum.apply((x - mean).square().sum(0)) / n
            seen = torch.stack([mean, variance]).detach()
        else:   # all rows in every process, but another dropout before: outputs by its own, statistics by all
            n, mean = len(x), x.mean(0)
            variance = (x - mean).square().mean(0)
            seen = torch.stack([mean, variance]).detach()
            dist.all_reduce(seen)
            seen /= dist.get_world_size()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(seen[0], self.momentum)
            self.running_var.lerp_(seen[1] * n / (n - 1), self.momentum)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


def prepare(network):
    """Let a network's batch normalisation see the rows of all processes; the network."""
    if processes.world() > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm1d:
                module.__class__ = BatchNorm
    return network
