"""The order of ties: pseudo-random, the same for the same user and track, another one for each user."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tie_key(users: torch.Tensor, tracks: torch.Tensor, seed: int) -> torch.Tensor:
    """Pseudo-random int64 >= 0 of (seed, user id, track id); broadcasts, depends on nothing else."""
    return _mix(user_key(users, seed) ^ (tracks * -7046029254386353131)) & 0x7FFFFFFFFFFFFFFF


def user_key(users: torch.Tensor, seed: int) -> torch.Tensor:
    """The part of `tie_key` that depends on (seed, user id) alone, int64; training/overlaps.py compiles the other."""
    return _mix(users * 2 + 1 + _mix_int(seed))


def _mix(x):
    """The splitmix64 finaliser (Steele et al., OOPSLA 2014) on int64 tensors, wrapping."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _mix_int(seed):
    import torch
    return _mix(torch.tensor(int(seed), dtype=torch.int64)).item() >> 2
