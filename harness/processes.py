"""The processes that torchrun starts for one training: which one this is, and what the main one decides for all.

    torchrun --nproc-per-node 2 train.py --model musicnn

Without torchrun there is one process, the main one, and nothing here does anything. With it every process reads the
same files, and the main one, rank 0, alone writes and prints. CPU tensors are exchanged by gloo, CUDA tensors by NCCL.
training/parallel.py divides the batches.
"""
from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from harness.errors import UsageError, WorkError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")   # of those that torchrun sets
JOIN_SECONDS = 300.0             # within which all processes must have started
WAIT = timedelta(days=1)         # for another process that is still busy; one that ends is noticed at once
LOST = "gloo/transport|connection closed by peer|connection reset|broken pipe|remote process exited"


@dataclass(frozen=True)
class Place:
    """rank of world processes; local_rank of local_world on this machine."""
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


@dataclass
class Stop:
    """asked: a signal asked this process to stop; agreed: all processes stop after the present step."""
    asked: bool = False
    agreed: bool = False


_place, _store, stop = Place(), None, Stop()


def place() -> Place:
    return _place


def world() -> int:
    """Number of processes of this training, 1 without torchrun."""
    return _place.world


def is_main() -> bool:
    """Whether this process writes and prints: that of rank 0."""
    return _place.rank == 0


def of_environment(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment names; that of a single process where it names none.

    UsageError where only some of the variables are set, or not to numbers that fit each other.
    """
    if not environ.get("RANK") and not environ.get("WORLD_SIZE"):
        return Place()
    given, missing = ([n for n in NEEDED if bool(environ.get(n)) == is_set] for is_set in (True, False))
    if missing:
        raise UsageError(f"the environment sets {', '.join(given)} and not {', '.join(missing)}; start several "
                         "processes with torchrun, which sets all of them, or unset them")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [environ.get(name) or environ["WORLD_SIZE"] for name in names]
    shown = ", ".join(f"{name}={value[:20]}" for name, value in zip(names, values, strict=True))
    if not all(re.fullmatch("[0-9]{1,6}", value) for value in values):
        raise UsageError(f"the environment sets {shown}, which should be whole numbers; start with torchrun")
    rank, size, local_rank, local_size = map(int, values)
    if not (rank < size and local_rank < local_size <= size):
        raise UsageError(f"the environment sets {shown}: a rank is below the number of processes; start with torchrun")
    return Place(rank, size, local_rank, local_size)


@contextlib.contextmanager
def joined(parallel: bool) -> Iterator[None]:
    """Context of a script: within it the processes of torchrun are joined, and only the main one prints.

    parallel: whether the script trains with several processes; one that does not is refused under torchrun
    """
    global _place, stop
    wanted = of_environment() if parallel or os.environ.get("RANK") else Place()
    if wanted.world == 1:
        yield
        return
    if not parallel:
        if wanted.rank:
            sys.exit(2)
        raise UsageError(f"this works in one process, and torchrun started {wanted.world}; start it with python")
    _join(wanted)
    import torch.distributed as dist
    before, _place, stop = _place, wanted, Stop()
    try:
        with contextlib.nullcontext() if is_main() else _silent():
            yield
    except RuntimeError as e:
        if re.search(LOST, str(e), re.IGNORECASE):
            raise WorkError(f"process {wanted.rank} has lost another of the {wanted.world} processes, which has ended; "
                            "the same command continues from the last checkpoint") from None
        if isinstance(e, dist.DistError):
            raise WorkError(f"process {wanted.rank} of {wanted.world} cannot exchange data: {str(e)[:300]}") from e
        raise
    finally:
        _place = before
        with contextlib.suppress(RuntimeError):   # another one has ended
            dist.destroy_process_group()


@contextlib.contextmanager
def _silent():
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


def _join(wanted: Place) -> None:
    """Meet the other processes; WorkError where they do not come."""
    global _store
    import torch
    import torch.distributed as dist
    import torch.distributed.nn  # before there is a group: later, its functions' defaults keep the group
    limit = timedelta(seconds=JOIN_SECONDS)
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=limit))
        store.set(f"come/{wanted.rank}", "1")
        store.wait([f"come/{rank}" for rank in range(wanted.world)], limit)
    except (RuntimeError, ValueError, OSError):
        raise WorkError(f"WORLD_SIZE={wanted.world}, but not all of these processes have met at "
                        f"{os.environ['MASTER_ADDR'][:60]}:{os.environ['MASTER_PORT'][:10]} within {JOIN_SECONDS:g} s; "
                        "start them with torchrun and one number of processes") from None
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=wanted.rank, world_size=wanted.world, timeout=WAIT)
    _store = store


# --------------------------------------------------------------------------- one for all

def from_main(function: Callable[[], Any]) -> Any:
    """What `function()` gives, called in the main process only: in every process, which waits for it.

    Where it fails, the main process ends, and so do the others.
    """
    if world() == 1:
        return function()
    import torch.distributed as dist
    answer = [function() if is_main() else None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def rows(n: int) -> slice:
    """This process' contiguous share of n rows; it is empty where there are fewer rows than processes."""
    first, end = (n * rank // _place.world for rank in (_place.rank, _place.rank + 1))
    return slice(first, end)


def of_all(value: Any) -> list[Any]:
    """What each process gives, by rank, in every process; [value] with one process."""
    if world() == 1:
        return [value]
    import torch.distributed as dist
    every: list[Any] = [None] * world()
    dist.all_gather_object(every, value)
    return every


def to_main(value: Any) -> list[Any]:
    """What each process gives, by rank, in the main one; [] in the others."""
    if world() == 1:
        return [value]
    import torch.distributed as dist
    every: list[Any] | None = [None] * world() if is_main() else None
    dist.gather_object(value, every, dst=0)
    return every or []


def check_same(values: dict[str, Any], remedy: str) -> None:
    """WorkError in every process where one has another value than the main one; the sentence names what differs.

    values: {what it is: value}, compared by ==; remedy: how to mend it
    """
    every = of_all(values)
    for rank, theirs in enumerate(every):
        names = sorted(n for n in {*every[0], *theirs} if every[0].get(n) != theirs.get(n))
        if names:
            raise WorkError(f"process {rank} of {world()} has another {', '.join(names[:5])} than process 0; {remedy}")


def speaks() -> bool:
    """Whether this process says why it fails: the first one that does, as the others then fail because of it."""
    if _store is None:
        return True
    me = f"process {os.environ.get('RANK')}"
    try:
        return _store.compare_set("failed first", "", me).decode() == me
    except RuntimeError:   # the process that kept the store has ended
        return True


def end_others() -> None:
    """End every process but the main one, which writes the results by itself."""
    if not is_main():
        sys.exit(0)
