"""harness/locks.py: a lock that another process holds, and a file system without locks, at every place that locks."""
import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from extract_item_embeddings.engine import shards
from harness import download, files, locks, run_files, runs
from harness.errors import WorkError
from preprocess import demo, partitions, stage
from tests.conftest import ROOT

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def a_shard(folder):
    @contextlib.contextmanager
    def opened():
        with shards.Shard(folder, 0, 1, shards.Plan(2, 1, 1)) as shard:
            shard.begin({})
            yield
    return opened()


def a_partition(folder):
    made = object.__new__(partitions.Partitions)
    made.folder, made.n = folder, 4
    return made._alone(1)


PLACES = {
    "stage": lambda folder: stage.atomic_outputs(folder / "dataset.json"),
    "run": lambda folder: runs.Run(folder, "knn", {}),
    "files of a run": run_files.alone,
    "shard": a_shard,
    "demo": demo._locked,
    "download": lambda folder: download._locked(folder / ".x.part"),
    "partition": a_partition,
}


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(locks, "_without", [])


def refusing(monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_work_goes_on_where_there_are_no_locks(tmp_path, monkeypatch, capsys, place, number):
    refusing(monkeypatch, number)
    for _ in range(2):
        with PLACES[place](tmp_path):
            files.write_text(tmp_path / "table.csv", "new")
    mount = tmp_path
    while not os.path.ismount(mount):
        mount = mount.parent
    said = capsys.readouterr().err
    assert said.count("warning:") == 1 and f"the file system of {mount} has no locks ({os.strerror(number)})" in said


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_held_is_told_from_none(tmp_path, monkeypatch, capsys, place, number):
    refusing(monkeypatch, number)
    with pytest.raises(WorkError, match="another process"), PLACES[place](tmp_path):
        pass
    assert "warning" not in capsys.readouterr().err


def test_a_lock_that_another_process_holds(tmp_path, capsys):
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder, open(path, "a") as file:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            locks.take(file)
        holder.communicate(b"")
        assert locks.take(file) is True
    assert capsys.readouterr().err == ""


def test_a_lock_that_is_waited_for(tmp_path, capsys):
    """Two processes add a line each to one file, read before it is written: neither loses the other's."""
    path, table = tmp_path / ".lock", tmp_path / "table"
    table.write_text("")
    with subprocess.Popen([sys.executable, "-c", HOLDER + "open(sys.argv[2], 'a').write('theirs ')", str(path),
                           str(table)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.3, holder.stdin.close).start()
        with locks.waited(path):
            assert table.read_text() == "theirs "
    with locks.waited(path):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_waiting_without_locks_goes_on(tmp_path, monkeypatch, capsys, number):
    refusing(monkeypatch, number)
    with locks.waited(tmp_path / ".lock"):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_nothing_else_locks():
    """Each place would have to tell the two apart by itself."""
    listed = subprocess.run(["git", "grep", "--untracked", "-l", "flock(", "--", "*.py", ":!tests"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["harness/locks.py"]
