"""Without /proc and sched_getaffinity, as on macOS: whole scripts run, and memory is still known."""
import json
import os
import resource
import subprocess
import sys
import types

import pytest

from harness import machine, runs
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace

# Run as a child: takes away what macOS lacks, counts the attempts to read /proc, then runs the script named after it.
WITHOUT = """
import builtins, io, os, runpy, sys
del os.sched_getaffinity
def closed(real):
    def call(path, *args, **kwargs):
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, *args, **kwargs)
    return call
builtins.open = io.open = closed(builtins.open)
os.open, os.stat, os.listdir, os.readlink = map(closed, (os.open, os.stat, os.listdir, os.readlink))
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without(*words):
    done = subprocess.run([sys.executable, "-c", WITHOUT, *map(str, words)], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_knn_and_the_tables_run_without_proc_and_affinity(tmp_path):
    work = tiny_workspace(tmp_path / "tiny")
    without("knn.py", "content", "--workdir", work, "--device", "cpu")
    (name, manifest), = runs.find_runs(work)
    assert manifest["status"] == "finished" and manifest["peak_memory_bytes"] > 1 << 20 and manifest["threads"] >= 1
    without("metrics.py", "--workdir", work)
    assert "KNN" in without("table.py", "--workdir", work).stdout and (work / "metrics" / f"{name}_test.csv").exists()


def test_ease_asks_for_free_memory_without_proc(tmp_path):
    work = tiny_workspace(tmp_path / "tiny")
    without("recommenders/ease.py", "--workdir", work)
    assert [m["status"] for _, m in runs.find_runs(work)] == ["finished"]


def test_stage_1_runs_without_proc_and_affinity(tmp_path):
    log = "".join(f"u{u} t{t}\n" for u in range(12) for t in range(u, u + 9))
    (tmp_path / "pairs.txt").write_text(log)
    without("preprocess/0_get_plays_pqt.py", "pairs", "--raw", tmp_path / "pairs.txt", "--workdir", tmp_path / "w")
    without("preprocess/1_train_test_split.py", "--protocol", "leave-one-out", "--workdir", tmp_path / "w")
    assert json.loads((tmp_path / "w" / "data" / "split.json").read_text())["status"] == "finished"


def test_a_small_grid_runs_without_proc_and_affinity(tmp_path):
    work = tiny_workspace(tmp_path / "tiny")
    without("slurm/grid.py", "knn.py", "content", "--seed", "1", "2", "--workdir", work, "--local",
            "--jobs", "2")
    assert [m["status"] for _, m in runs.find_runs(work)] == ["finished"] * 2


@pytest.mark.parametrize("system, unit", [("darwin", 1), ("linux", 1024)])
def test_peak_memory_without_proc_is_in_bytes(monkeypatch, system, unit):
    def no_proc(*args, **kwargs):
        raise FileNotFoundError
    monkeypatch.setattr("builtins.open", no_proc)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=5 << 20))
    assert machine._peak_resident() == (5 << 20) * unit


def test_free_memory_with_and_without_psutil(monkeypatch):
    with_psutil = machine.free_memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.free_memory() <= pages and 0 < with_psutil <= pages
