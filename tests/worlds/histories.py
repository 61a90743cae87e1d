"""What tests of sequence models share: a world to learn, a process to stop, the largest tensor of a computation."""
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.files import write_json
from tests.worlds.world import write_pairs, write_tracks

ROOT = Path(__file__).resolve().parents[2]


def ring(workdir, users=240, n=30, length=8):
    """Everybody walks around a ring of tracks from somewhere; val and test are the next step."""
    workdir.mkdir()
    write_tracks(workdir, n)
    start = np.random.default_rng(0).integers(n, size=users)
    walk = (start[:, None] + np.arange(length + 1)) % n
    who = np.repeat(np.arange(users), length)
    write_pairs(workdir, "train", who, walk[:, :length].ravel(), seconds=np.tile(np.arange(length), users))
    for part, of in (("val", 0), ("test", 1)):
        mine = np.arange(users) % 2 == of
        write_pairs(workdir, part, np.flatnonzero(mine), walk[mine, length])
    write_json(workdir / "dataset.json", {"name": "ring", "time": "ordinal"})
    return workdir


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stopped(command, workdir, number, epoch):
    """Start a command line, send the signal once epochs are checkpointed, and wait for its end; its status."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and process.poll() is None:
            last = next((workdir / "checkpoints").glob("*/*_last.pt"), None)
            if last is not None and torch.load(last, weights_only=True)["epoch"] >= epoch:
                break
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        process.kill()


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor any operation made."""
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


def largest_allocation(call):
    """Bytes of the largest block of memory that one operation inside call() took, those of torch's own kernels too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    return max(event.self_cpu_memory_usage for event in profile.events())
