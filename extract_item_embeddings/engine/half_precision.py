"""Half precision on a processor: convolutions that the library computes wrongly are kept in float32.

oneDNN, as torch 2.13 has it, gives wrong sums for grouped convolutions in bfloat16 on processors with AMX when the
kernel is even and a group has fewer than 16 channels: nothing of the result is right and nothing is said. Which
shapes a version and a processor get wrong is not documented, so each convolution is compared once, when the model is
loaded, on the input that it has when the network hears noise.
"""
import copy
import sys

import torch
from torch import nn

OPERATIONS = (nn.Conv1d, nn.Conv2d)
TOLERANCE = 0.02  # of the norm: rounding input, weights and sums to bfloat16 makes .003 (measured), a wrong sum 1


def wrong_operations(model, dtype, hear):
    """{name: relative error} of the convolutions of `model` (float32) whose sums in `dtype` are not those of float32.

    hear: a function that runs the model once; convolutions it does not reach are not compared
    """
    errors, handles = {}, []
    for name, operation in model.named_modules():
        if isinstance(operation, OPERATIONS):
            def compare(operation, given, exact, name=name):
                if name not in errors:
                    errors[name] = relative_error(operation, given[0], exact, dtype)
            handles.append(operation.register_forward_hook(compare))
    try:
        with torch.inference_mode():
            hear()
    finally:
        for handle in handles:
            handle.remove()
    return {name: error for name, error in errors.items() if not error <= TOLERANCE}  # NaN is wrong, too


def relative_error(operation, x, exact, dtype):
    """|half - exact| / |exact| of a convolution of x, as a float; 0 where both are zero."""
    bias = None if operation.bias is None else operation.bias.to(dtype)
    half = operation._conv_forward(x.to(dtype), operation.weight.to(dtype), bias).float()
    return ((half - exact).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()


def place(model, dtype, move, hear, said):
    """Call move(), which casts `model` (float32, on a processor) to `dtype`, and bring back what dtype gets wrong.

    hear: runs the float32 model once; said: the name under which the line on stderr is printed
    returns: names of the convolutions that stay in float32, sorted
    """
    wrong = wrong_operations(model, dtype, hear)
    exact = {name: copy.deepcopy(model.get_submodule(name)) for name in wrong}
    move()
    kept = sorted(name for name in exact if model.get_submodule(name).weight.dtype == dtype)
    for name in kept:
        model.set_submodule(name, InFloat32(exact[name]))
    if kept:
        more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
        print(f"{said}: kept in float32, because this processor computes it wrongly in {dtype}: the convolution "
              f"{kept[0]}{more} (relative error {max(wrong[name] for name in kept):.2g})", file=sys.stderr)
    return kept


class InFloat32(nn.Module):
    """A float32 operation within a network of another precision: what it gives has the precision of what it is given"""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x.float()).to(x.dtype)
