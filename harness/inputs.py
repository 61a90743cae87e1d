"""Files that a result depends on, hashed before they are read, and looked at again before the result counts.

Every stage publishes by renaming, so a file is never written in place: while its inode, size and times are those that
it had when it was hashed, whatever was read from it since is what the hash is of.
"""
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import WorkError
from harness.files import checksum


@dataclass(frozen=True)
class Input:
    """A file as it was hashed; open(), Path() and checksum() take it like its path.

    digest: sha256 of its bytes, hex; state: what `state_of` saw before it was hashed
    """
    path: Path
    digest: str
    state: tuple

    def __fspath__(self) -> str:
        return str(self.path)

    def replaced(self) -> bool:
        """Whether the path may hold other bytes by now: another file, or the same one written again."""
        return state_of(self.path) != self.state

    def changed(self) -> bool:
        """Whether the path holds other bytes by now, or no file at all."""
        if not self.replaced():
            return False
        return not self.path.exists() or checksum(self.path) != self.digest


def state_of(path: Path) -> tuple:
    """Inode, size and times of a file, () where there is none."""
    try:
        seen = os.stat(path)
    except FileNotFoundError:
        return ()
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def hashed(path: Path) -> Input:
    """The Input of a file, hashed now; hash a file before reading it. OSError where it cannot be read."""
    path = Path(path)
    while True:
        state = state_of(path)
        found = Input(path, checksum(path), state)
        if not found.replaced():
            return found


def check_unchanged(inputs: Iterable[Input]) -> None:
    """WorkError that names the first of these files that by now is gone or holds other bytes than those hashed."""
    if changed := next((i.path for i in inputs if i.changed()), None):
        raise WorkError(f"{changed} changed while it was read; run this again when nothing writes there")


def read_whole(paths: Callable[[], list[Path]], read: Callable[[list[Input]], Any],
               tries: int = 3) -> tuple[list[Input], Any]:
    """`read([Input])` of files that belong together, read again where one of them was replaced meanwhile.

    paths: function that lists them; returns (inputs, what `read` returned). WorkError when they keep changing.
    """
    for _ in range(tries):
        inputs = [hashed(path) for path in paths()]
        result = read(inputs)
        if not any(i.replaced() for i in inputs):
            return inputs, result
    changing = next(i.path for i in inputs if i.replaced())
    raise WorkError(f"{changing} was replaced {tries} times while it was read; "
                    "run this again when nothing writes there")
