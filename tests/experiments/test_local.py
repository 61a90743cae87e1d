"""experiments/local.py: every run is a process of its own, counted and never lost; signals, crashes, two grids."""
import fcntl
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from experiments import local
from experiments.expand import Job
from harness import runs
from harness.progress import EXIT_RESUMABLE
from slurm import grid
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace, write_embedding

ENDLESS = ["epochs=1000000", "patience=1000000", "checkpoint-seconds=0", "eval-every=1000000"]


@pytest.fixture(autouse=True)
def no_facts(monkeypatch, tmp_path):
    (tmp_path / "empty.env").write_text("")
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "empty.env"))


def names_of(workdir):
    return sorted(name for name, config in runs.find_runs(workdir) if config["status"] == "finished")


def call(words, **kwargs):
    """A grid that hears SIGINT also where these tests run in the background of a shell, which ignores it."""
    kwargs.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen([sys.executable, "slurm/grid.py", *map(str, words)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def until(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=60)
        time.sleep(0.1)
    return result


def runs_of(process):
    """Ids of the processes in which a grid makes its runs."""
    servers = psutil.Process(process.pid).children()
    return [run.pid for server in servers for run in server.children()]


def alive(ids):
    return [i for i in ids if psutil.pid_exists(i)]


# --------------------------------------------------------------------------- counted, and nothing is lost

def test_failed_runs_are_counted_and_the_others_go_on(tiny, capsys):
    write_embedding(tiny, "broken", np.full((80, 8), np.nan, np.float32))
    words = ["knn.py", "--names", "broken", "content", "noise", "--set", "k=10", "--workdir", str(tiny), "--local"]
    assert grid.main(words) == 1
    stderr = capsys.readouterr().err
    assert re.search(r"FAILED knn.py broken --k 10: embedding 'broken' has no finite row", stderr)
    assert "grid: 2 of 3 runs are done, 1 failed" in stderr
    assert [config["embedding"] for _, config in runs.find_runs(tiny) if config["status"] == "finished"] == [
        "content", "noise"]
    # the next time the finished ones are skipped by themselves, the failed one is tried again
    write_embedding(tiny, "broken", np.ones((80, 8), np.float32))
    assert grid.main(words) == 0
    assert capsys.readouterr().err.count("finished before, skipped") == 2


CRASHES = {
    "raise KeyError('nosuch')": r"KeyError: 'nosuch' \(crash_\d.py:1\)",
    "import os; os.kill(os.getpid(), 9)": r"its process was killed by signal 9 \(Killed\); the system does so",
    "import os; os.abort()": r"its process was killed by signal 6 \(Aborted\)",
    "import sys; sys.exit(3)": r"ended with status 3",
    "import sys; sys.exit('no more\\x1b[2J')": r"no moreU\+001B\[2J",
    "import sys; sys.stderr.buffer.write(b'crash\\xff no newline'); sys.exit(1)": "crash\ufffd no newline",
    "import ctypes; ctypes.string_at(0)": r"its process was killed by signal 11 \(Segmentation fault\)",
}


@pytest.mark.parametrize("forked", [True, False])
def test_a_crash_takes_no_other_run_along(tmp_path, monkeypatch, capsys, forked):
    """Scripts that raise, abort, are killed or exit: one sentence each, and the ones after them run."""
    monkeypatch.setattr("experiments.expand.script_of", lambda script: (str(tmp_path / script),))
    monkeypatch.setattr(local, "libraries", lambda jobs: ("json",) if forked else ())
    jobs = []
    for i, code in enumerate(CRASHES):
        for name, text in ((f"crash_{i}.py", code), (f"fine_{i}.py", f"print('fine {i}')")):
            (tmp_path / name).write_text(text + "\n")
            jobs.append(Job(name, ()))
    for at_once in (1, 3):
        failed, elsewhere = local.run_stage(jobs, at_once)
        out = capsys.readouterr().out
        assert sorted(out.split("\n"))[1:] == sorted(f"fine {i}" for i in range(len(CRASHES))) and not elsewhere
        assert sorted(job.script for job, _ in failed) == [f"crash_{i}.py" for i in range(len(CRASHES))]
        for job, why in failed:
            pattern = list(CRASHES.values())[int(job.script[6:-3])]
            assert re.match(pattern, local.one_line(why)), (job, why)


def test_a_run_with_the_number_of_an_earlier_process_is_not_over():
    """Numbers of processes come again, after 32,768 of them on some systems."""
    with selectors.DefaultSelector() as selector, local.Server((), None, selector) as server:
        real, answers = server.control, iter([b'{"started": 77}\n{"ended": 77, "status": 0}\n', b'{"started": 77}\n'])
        server.control = SimpleNamespace(recv=lambda _: next(answers))
        assert server.forward() == 77 and server.ended == {77: 0}
        assert server.forward() == 77 and 77 not in server.ended
        server.control = real


def test_lines_of_runs_side_by_side_are_not_mixed(tmp_path, monkeypatch, capfd):
    """Two processes that write halves of lines: every line that comes out is one that a process wrote."""
    monkeypatch.setattr("experiments.expand.script_of", lambda script: (str(tmp_path / script),))
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(
            "import sys, time\n"
            "for i in range(200):\n"
            f"    for half in ('{name}' * 40, '{name}' * 40 + '\\n'):\n"
            "        sys.stdout.write(half); sys.stdout.flush(); time.sleep(0.001)\n"
            f"sys.stdout.write('{name}' * 200_000)\n")
    local.run_stage([Job("a.py", ()), Job("b.py", ())], 2)
    lines = capfd.readouterr().out.splitlines()
    expected = [c * 80 for c in "ab" for _ in range(200)] + [c * 200_000 for c in "ab"]
    assert sorted(lines) == sorted(expected)


def test_a_run_records_its_own_command_line(tiny):
    assert grid.main(["knn.py", "--names", "content", "noise", "--workdir", str(tiny), "--local"]) == 0
    for name, config in runs.find_runs(tiny):
        assert config["command"] == ["knn.py", name.removesuffix("_cosine"), "--workdir", str(tiny)]


def test_several_processes_make_the_same_lists(tiny, tmp_path):
    words = ["knn.py", "--names", "content", "noise", "nosuch", "--center", "on", "off", "--set", "k=10", "--local"]
    other = tiny_workspace(tmp_path / "other")
    process = call([*words, "--workdir", other, "--jobs", "2"])
    assert grid.main([*words, "--workdir", str(tiny)]) == 0
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "4 of 4 runs are done, 0 failed" in err, err
    assert len(names_of(tiny)) == 4 and names_of(tiny) == names_of(other)
    for path in (tiny / "preds").iterdir():
        assert path.read_bytes() == (other / "preds" / path.name).read_bytes()


def test_threads_are_shared_by_runs_side_by_side(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [local.share(n) for n in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [local.share(n) for n in (1, 2, 4)] == [None, 3, 2]


# --------------------------------------------------------------------------- signals, and the grid's own end

@pytest.mark.parametrize("at_once, number", [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_signal_stops_the_grid_and_says_that_it_continues(tiny, at_once, number):
    process = call(["train.py", "--model", "content", "--seed", "1", "2", "3", "--workdir", tiny, "--local",
                    "--jobs", at_once, "--set", *ENDLESS])
    until(lambda: len(list(tiny.glob("checkpoints/content/*_last.pt"))) == at_once, process)
    children = runs_of(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == EXIT_RESUMABLE, err
    assert "grid: stopped by a signal; everything is saved, the same command continues" in err
    assert len(runs.find_runs(tiny)) == at_once == len(children) and not names_of(tiny) and not alive(children)


def test_a_run_that_is_asked_to_stop_ends_the_grid(tiny):
    """One run of two gets the signal: the other is passed it, and the third never begins."""
    process = call(["train.py", "--model", "content", "--seed", "1", "2", "3", "--workdir", tiny, "--local",
                    "--jobs", 2, "--set", *ENDLESS])
    until(lambda: len(list(tiny.glob("checkpoints/content/*_last.pt"))) == 2, process)
    os.kill(runs_of(process)[0], signal.SIGUSR1)
    _, err = process.communicate(timeout=200)
    assert process.returncode == EXIT_RESUMABLE and err.count("everything is saved") == 3, err
    assert len(runs.find_runs(tiny)) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_run_outlives_the_grid(tiny, number):
    process = call(["train.py", "--model", "content", "--seed", "1", "2", "--workdir", tiny, "--local",
                    "--jobs", 2, "--set", *ENDLESS])
    until(lambda: len(list(tiny.glob("checkpoints/content/*_last.pt"))) == 2, process)
    children = runs_of(process)
    assert len(children) == 2
    process.send_signal(number)
    process.wait(60)
    end = time.monotonic() + 60
    while alive(children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(children)
    assert process.returncode == (130 if number == signal.SIGINT else -number), process.stderr.read()


# --------------------------------------------------------------------------- two grids on one workspace

def test_a_run_that_another_process_makes_is_not_a_failed_one(tiny, capsys):
    """The lock of one of two runs is held, as by another grid: it is named as such, and the other one is made."""
    words = ["knn.py", "--names", "content", "noise", "--workdir", str(tiny), "--local"]
    assert grid.main(words) == 0
    (tiny / "runs" / "noise_cosine" / "config.json").unlink()
    capsys.readouterr()
    with open(tiny / "runs" / "noise_cosine" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert grid.main(words) == 0
        by_hand = subprocess.run([sys.executable, "knn.py", "noise", "--workdir", str(tiny)], cwd=ROOT,
                                 capture_output=True, text=True)
    stderr = capsys.readouterr().err
    assert "grid: being made elsewhere: knn.py noise" in stderr and "FAILED" not in stderr
    assert "grid: 1 of 2 runs are done, 0 failed, 1 being made elsewhere" in stderr
    assert by_hand.returncode == 1 and "is being made by another process right now" in by_hand.stderr


def test_two_grids_at_once_make_every_run_once(tiny):
    words = ["knn.py", "--names", "content", "noise", "--center", "on", "off", "--unit", "on", "off",
             "--workdir", tiny, "--local", "--jobs", "2"]
    both = [call(words), call(words)]
    output = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert not any("FAILED" in err for _, err in output) and len(names_of(tiny)) == 8
    assert sorted(line.split(":")[0] for out, _ in output for line in out.splitlines()) == names_of(tiny)
