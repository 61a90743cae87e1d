"""How much memory the control groups of this process leave it: a container or a job has less than its machine."""
import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
FILES = (("memory.max", "memory.current", "inactive_file"),                                  # version 2
         ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))          # version 1


def free_memory(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes to the nearest limit of the own control group and of those above it; None where none has a limit.

    root: where the groups are mounted; own: the file that names those of this process. Both versions are read. The
    cache of files that were not used lately is free, as the system gives it up before it refuses memory.
    """
    left = [bytes_ for folder in _folders(root, own) for names in FILES
            if (bytes_ := _left(folder, *names)) is not None]
    return min(left, default=None)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the own groups and of those above, as far as they are visible here."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (line + "::").split(":")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        mounts = [root / controllers, root / "memory"] if controllers else [root, root / "unified"]
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:        # outside of what this container sees
            inside = PurePosixPath()
        for mount in dict.fromkeys(mounts):
            for group in (inside, *inside.parents):
                yield mount / group


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Bytes that a group may still take; None where it has no limit, or no such files."""
    with contextlib.suppress(OSError, ValueError):      # ValueError: the limit is `max`
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
        if most < 1 << 60:      # version 1 writes the largest multiple of a page where there is none
            return max(most - used + _cache(folder, cache), 0)
    return None


def _cache(folder: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        found = dict(line.split(maxsplit=1) for line in lines)
        return int(found.get(name, found.get("inactive_file", 0)))
    return 0
