"""What a run was computed on: memory, device, versions, commit, code."""
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import cgroups, processes
from harness.cli import pick_device
from harness.files import checksum


def cores() -> int:
    """Number of processor cores this process may use, at least 1: its affinity where the system tells, else all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    with contextlib.suppress(Exception):  # macOS has no affinity; psutil does not even load without /proc on Linux
        import psutil
        return len(psutil.Process().cpu_affinity()) or 1
    return os.cpu_count() or 1


def peak_memory() -> int:
    """Peak resident memory of this process, bytes (and of the GPU, where one was used, if larger)."""
    peak = _peak_resident()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak


def _peak_resident():
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # macOS has no /proc; on Linux, getrusage would count the parent's peak as well
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def computed_on(name: str) -> dict[str, Any]:
    """{"device", "threads"} of a finished run, and {"processes"} where there were several; name: its --device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": cores()}
    device = pick_device(name)
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    several = {"processes": processes.world()} if processes.world() > 1 else {}
    return {"device": f"{device}{model}", "threads": torch.get_num_threads(), **several}


def free_memory() -> int:
    """Memory that is free for a new array, bytes: of this machine and of the control group of this process."""
    left = cgroups.free_memory()
    return _free_of_machine() if left is None else min(_free_of_machine(), left)


def _free_of_machine():
    try:
        import psutil
        return psutil.virtual_memory().available
    except Exception:  # not installed, or a Linux without /proc: then psutil fails while it is imported
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(
            "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a figure, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "transformers", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy",
                    "faiss-cpu", "implicit", "lightgbm", "librosa", "duckdb", "rs_metrics"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def code() -> dict[str, str]:
    """sha256 of the project's modules that this process has imported, {path in the project: first 16 of hex}, sorted.

    Those of tests/ and bench/ are left out. A module whose file is gone by now is left out, too.
    """
    root, found = Path(__file__).parents[1], {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file) if file and file.endswith(".py") else None
        if path is not None and path.is_relative_to(root) and path.is_file():
            name = path.relative_to(root).as_posix()
            if not name.startswith(("tests/", "bench/", ".")):
                found[name] = checksum(path)[:16]
    return dict(sorted(found.items()))


def git_state() -> dict[str, Any]:
    """Commit of the code and whether the tree differs from it; empty outside a git checkout."""
    def git(*words):
        return subprocess.run(["git", "-C", str(Path(__file__).parents[1]), *words], check=True,
                              capture_output=True, text=True).stdout.strip()
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
