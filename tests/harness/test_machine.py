"""harness/machine.py: what a run was computed on, with and without the system's help."""
import os
import sys
import types

import pytest

from harness import cgroups, machine


def test_cores_are_those_of_the_affinity():
    assert machine.cores() == len(os.sched_getaffinity(0)) >= 1


@pytest.mark.parametrize("affinity, expected", [([0, 3, 5], 3), (None, 7)])
def test_without_sched_getaffinity_psutil_answers_and_then_the_count_of_all(monkeypatch, affinity, expected):
    process = types.SimpleNamespace(cpu_affinity=lambda: affinity) if affinity else types.SimpleNamespace()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: process))
    assert machine.cores() == expected


def test_without_psutil_the_count_of_all_answers(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


# --------------------------------------------------------------------------- memory of control groups

GB = 1 << 30


def group(folder, limit, used, version=2, **stat):
    """Write the files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("anon 5\n" + "".join(f"{key} {value}\n" for key, value in stat.items()))


def left(tmp_path, own):
    (tmp_path / "own").write_text(own)
    return cgroups.free_memory(tmp_path, tmp_path / "own")


def test_the_nearest_limit_of_the_own_group_and_those_above_counts(tmp_path):
    group(tmp_path / "jobs", 8 * GB, 7 * GB, inactive_file=2 * GB)
    group(tmp_path / "jobs" / "one", "max", GB)
    group(tmp_path / "jobs" / "one" / "task", 6 * GB, GB, inactive_file=0)
    group(tmp_path / "jobs" / "other", 1, 1)
    assert left(tmp_path, "0::/jobs/one/task\n") == 3 * GB
    group(tmp_path / "jobs" / "one" / "task", 2 * GB, GB, inactive_file=GB // 2)
    assert left(tmp_path, "0::/jobs/one/task\n") == 3 * GB // 2
    group(tmp_path / "jobs" / "one" / "task", GB, 2 * GB)
    assert left(tmp_path, "0::/jobs/one/task\n") == 0


@pytest.mark.parametrize("own", ["4:memory:/docker/x\n3:cpuset:/\n0::/\n", "4:cpu,memory:/docker/x\n",
                                 "4:memory:/docker/x/y\n"])
def test_version_1_counts_the_cache_of_the_groups_below(tmp_path, own):
    mount = tmp_path / ("cpu,memory" if "cpu," in own else "memory")
    group(mount, 0x7FFFFFFFFFFFF000, GB, 1)
    group(mount / "docker" / "x", 4 * GB, 3 * GB, 1, inactive_file=1, total_inactive_file=GB)
    assert left(tmp_path, own) == 2 * GB


@pytest.mark.parametrize("own", ["4:memory:/docker/x\n", "4:memory:/../x\n"])
def test_a_container_whose_own_group_is_mounted_as_the_root(tmp_path, own):
    group(tmp_path / "memory", 4 * GB, GB, 1)
    assert left(tmp_path, own) == 3 * GB


def test_both_versions_beside_each_other(tmp_path):
    group(tmp_path / "unified" / "a", 3 * GB, GB)
    assert left(tmp_path, "2:cpu:/b\n0::/a\n") == 2 * GB


@pytest.mark.parametrize("own", ["", "0::/\n", "0::/a\n", "nonsense\n", "2:cpu:/a\n"])
def test_without_a_limit_there_is_none(tmp_path, own):
    group(tmp_path / "a", "max", GB)
    assert left(tmp_path, own) is None and cgroups.free_memory(tmp_path / "none", tmp_path / "none") is None


def test_free_memory_is_the_least_of_machine_and_group(monkeypatch):
    monkeypatch.setattr(cgroups, "free_memory", lambda: 1000)
    assert machine.free_memory() == 1000
    for unlimited in (None, 1 << 59):
        monkeypatch.setattr(cgroups, "free_memory", lambda unlimited=unlimited: unlimited)
        assert 1000 < machine.free_memory() < 1 << 59
