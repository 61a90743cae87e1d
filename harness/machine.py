"""What a run was computed on: memory, device, versions, commit."""
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

from harness.cli import pick_device


def cores():
    """Number of processor cores this process may use, at least 1: its affinity where the system tells, else all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    with contextlib.suppress(ImportError, AttributeError, OSError):  # AttributeError: macOS has no affinity
        import psutil
        return len(psutil.Process().cpu_affinity()) or 1
    return os.cpu_count() or 1


def peak_memory():
    """Peak resident memory of this process, bytes (and of the GPU, where one was used, if larger)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as f:  # getrusage would count the parent's
        peak = next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return peak


def computed_on(name):
    """{"device", "threads"} of a finished run; name: its --device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": cores()}
    device = pick_device(name)
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {"device": f"{device}{model}", "threads": torch.get_num_threads()}


def free_memory():
    """Memory this machine has free for a new array, bytes."""
    with open("/proc/meminfo", encoding="ascii") as f:
        fields = dict(line.split(":") for line in f)
    return int(fields["MemAvailable"].split()[0]) * 1024


@functools.cache
def versions():
    """Versions of Python and of the libraries that can change a figure, those that are installed."""
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "transformers", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy",
                    "faiss-cpu", "implicit", "lightgbm", "librosa", "duckdb", "rs_metrics"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_state():
    """Commit of the code and whether the tree differs from it; empty outside a git checkout."""
    def git(*words):
        return subprocess.run(["git", "-C", str(Path(__file__).parents[1]), *words], check=True,
                              capture_output=True, text=True).stdout.strip()
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
