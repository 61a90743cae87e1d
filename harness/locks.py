"""One writer at a time: the lock of an open file, which ends with the process that holds it, whatever ends it."""
import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_without: list[Path] = []     # the file system that the warning of this process has named


def take(file: IO[Any]) -> bool:
    """Lock an open file for this process, without waiting; False on a file system without locks, after a warning.

    BlockingIOError where another process holds the lock. A file system without locks (Lustre that was mounted without
    -o flock, some network disks) refuses every lock, with ENOSYS, ENOLCK or EOPNOTSUPP: then nobody can know who else
    is at work, and the caller goes on.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(e.errno, os.strerror(e.errno)) from None
        _warn(Path(file.name), e)
        return False
    return True


@contextlib.contextmanager
def waited(path: str | Path) -> Iterator[None]:
    """Hold the lock of a file, made where there is none, waiting for whoever has it; no lock where `take` has none."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as e:
            _warn(Path(path), e)
        yield


def _warn(path, error):
    """Say once per process that a file system has no locks."""
    if _without:
        return
    folder = path.resolve().parent
    while not os.path.ismount(folder):
        folder = folder.parent
    _without.append(folder)
    print(f"warning: the file system of {folder} has no locks ({error.strerror}), so two processes that make the same "
          "file are not kept apart; start only one at a time, or have it mounted with locks (Lustre: -o flock)",
          file=sys.stderr)
