"""runs: whole files or none, one-sentence errors, names from requests, skip / redo / resume, locks."""
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from harness import runs
from harness.errors import WorkError
from harness.files import atomic, checksum, write_text
from harness.progress import Progress, StopRequest
from harness.readers import load_checkpoint
from tests.conftest import ROOT


def script(tmp_path, body, *argv, **kwargs):
    """Run a small script through cli.run, as a user's script would be."""
    path = tmp_path / "script.py"
    path.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom harness import cli, runs\n"
                    "from harness.errors import UsageError, WorkError\n"
                    "from harness.files import write_npy, write_text\n"
                    f"def main(argv=None):\n{textwrap.indent(textwrap.dedent(body), '    ')}\ncli.run(main)\n")
    return subprocess.run([sys.executable, str(path), *argv], capture_output=True, text=True, timeout=60, **kwargs)


@pytest.mark.parametrize("error, status", [
    ("UsageError('no such thing')", 2), ("WorkError('no such thing')", 1), ("OSError('no such thing')", 1),
])
def test_errors_are_one_sentence_with_a_status(tmp_path, error, status):
    done = script(tmp_path, f"raise {error}")
    assert done.returncode == status
    assert done.stderr == "script.py: no such thing\n"


def test_a_wrong_flag_is_one_line(tmp_path):
    body = "p = cli.Parser(prog='x'); p.add_argument('--number', type=int); p.parse_args()"
    done = script(tmp_path, body, "--num", "3")
    assert done.returncode == 2
    assert done.stderr == "x: unrecognized arguments: --num 3\n"


def test_atomic_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("in the way")
    done = script(tmp_path, f"write_text({str(tmp_path / 'out' / 'file')!r}, 'x')")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "a file of that name is in the way" in done.stderr
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]).returncode:
        pytest.skip("cannot mount a small tmpfs here")
    try:
        write_text(disk / "table.csv", "old")
        done = script(tmp_path, f"import numpy as np\nwrite_npy({str(disk / 'table.csv')!r}, np.zeros(10**6))")
        assert done.returncode == 1
        assert "disk is full" in done.stderr and done.stderr.count("\n") == 1
        assert (disk / "table.csv").read_text() == "old"
        assert os.listdir(disk) == ["table.csv"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_names_come_from_the_request():
    one = runs.run_name("shallow", "musicnn", {"lr": 0.1, "seed": 3}, 3, "my comment: a/b")
    assert one.startswith("shallow_musicnn_s3_my-comment-a-b_")
    assert not set(one) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    assert one == runs.run_name("shallow", "musicnn", {"seed": 3, "lr": 0.1}, 3, "my comment: a/b")
    others = {runs.run_name("shallow", "musicnn", {"lr": 0.1 + i, "seed": 3}, 3, "") for i in range(1000)}
    assert len(others) == 1000


def open_run(workdir, source, request=None, overwrite=False):
    args = type("Args", (), {"overwrite": overwrite})()
    return runs.Run(workdir, "test", request or {"a": 1}, inputs=[source], args=args)


def test_finished_is_skipped_changed_is_redone_interrupted_is_resumed(tmp_path, capsys):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source) as run:
        assert not run.finished and not run.resume
        write_text(run.checkpoint("last"), "state")
    with open_run(tmp_path, source) as run:
        assert run.resume and run.checkpoint("last").exists()
        for path in (run.preds("test"), run.metrics("test")):
            write_text(path, "x")
        run.finish(parts=["test"])
    with open_run(tmp_path, source) as run:
        assert run.finished
    assert "skipped" in capsys.readouterr().err
    run.preds("test").unlink()
    with open_run(tmp_path, source) as run:
        assert not run.finished                     # its lists are gone
        run.finish()
    source.write_text("2")
    with open_run(tmp_path, source) as run:
        assert not run.finished and not run.resume and not run.checkpoint("last").exists()
        run.finish()
    assert "input changed" in capsys.readouterr().err
    with open_run(tmp_path, source, overwrite=True) as run:
        assert not run.finished and not run.resume


def test_the_manifest_says_how_it_was_made(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source, {"seed": 7, "rate": 0.5}) as run:
        run.finish(parts=[], epochs=3)
    (name, manifest), = runs.find_runs(tmp_path)
    assert name == run.name and manifest["status"] == "finished" and manifest["epochs"] == 3
    assert manifest["request"] == {"seed": 7, "rate": 0.5} and manifest["seed"] == 7
    assert manifest["inputs"] == {"input": checksum(source)}
    assert {"python", "numpy"} <= set(manifest["versions"]) and manifest["peak_memory_bytes"] > 1 << 20
    if shutil.which("git") and (ROOT / ".git").exists():
        assert len(manifest["git"]["commit"]) == 40 and manifest["git"]["dirty"] in (True, False)


@pytest.mark.parametrize("parts, said", [
    (["test", "val"], r"lists in preds/demo_s42_\w+_\{test,val\}\.pqt; next: python table\.py"),
    ([], r"no lists, as this split has no part that it can rank$")])
def test_the_last_line_names_lists_that_are_there(tmp_path, capsys, parts, said):
    with runs.Run(tmp_path, "demo", {"seed": 42}) as run:
        run.finish(parts=parts)
    assert re.search(said, capsys.readouterr().out.strip())


def test_two_runs_of_one_request_at_once(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source):
        with pytest.raises(WorkError, match="made by another process"), open_run(tmp_path, source):
            pass
        with open_run(tmp_path, source, {"a": 2}):   # a different request is free to go
            pass
    with open_run(tmp_path, source) as run:
        assert run.resume


def test_checkpoints_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(WorkError, match="cannot be read"):
        load_checkpoint(path)


def test_progress_without_a_terminal_is_plain_lines(capsys):
    with Progress(10, "work", "tracks", every=0) as progress:
        for _ in range(10):
            progress.update(1, loss="0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work: 1/10 tracks") and "loss=0.5" in lines[0]
    assert lines[-1].startswith("work: 10/10 tracks")


def test_a_line_of_progress_has_the_rate_and_the_time_left(capsys):
    with Progress(10, "work", "tracks", every=0, initial=5) as progress:
        time.sleep(0.05)
        progress.update(1, loss="0.5", lr=1)
    assert re.fullmatch(r"work: 6/10 tracks, [\d.]+tracks/s, 00:0\d left, loss=0.5, lr=1\n", capsys.readouterr().err)
    with Progress(None, "work", "rows", every=0) as progress:
        time.sleep(0.05)
        progress.update(3)
    assert re.fullmatch(r"work: 3 rows, [\d.]+rows/s\n", capsys.readouterr().err)


def test_an_error_ends_progress_without_a_line(capsys):
    with pytest.raises(WorkError), Progress(10, "work") as progress:
        progress.update(3)
        raise WorkError
    assert capsys.readouterr().err == ""


def test_progress_says_each_line_once(capsys):
    with Progress(4, "here", every=0.0) as progress:
        progress.update(4)
    assert capsys.readouterr().err.count("here: 4/4") == 1


def test_signals_are_given_back_when_the_run_ends(tmp_path):
    source = tmp_path / "data"
    source.write_text("x")
    before = signal.getsignal(signal.SIGTERM)
    with open_run(tmp_path, source) as run:
        assert not run.stop.requested and run.stop is run.stop
        signal.raise_signal(signal.SIGUSR1)
        assert run.stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_ctrl_c_is_a_request_and_the_second_ends(capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # ignored where tests run in the background
    stop = StopRequest()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.hear_interrupt()
        signal.raise_signal(signal.SIGINT)
        assert stop.requested and stop.interrupted and "a checkpoint is written first" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.leave_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.hear_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        stop.restore()
        signal.signal(signal.SIGINT, before)


def test_a_request_to_stop_that_came_too_late_for_a_run_reaches_the_grid_around_it(tmp_path):
    source, grid = tmp_path / "data", StopRequest()
    source.write_text("x")
    try:
        with open_run(tmp_path, source) as run:
            _ = run.stop
            signal.raise_signal(signal.SIGTERM)
            assert not grid.requested
        assert grid.requested
    finally:
        grid.requested = False
        grid.restore()


def test_an_interrupted_overwrite_is_resumed_and_a_finished_run_is_not(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source) as run:
        write_text(run.checkpoint("last"), "of the first run")
        run.finish(parts=[])
    with open_run(tmp_path, source, overwrite=True) as run:     # begun anew ...
        assert not run.resume and not run.checkpoint("last").exists()
        write_text(run.checkpoint("last"), "of the second")
    for _ in range(2):                                          # ... interrupted, and continued by the same command
        with open_run(tmp_path, source, overwrite=True) as run:
            assert run.resume and run.checkpoint("last").read_text() == "of the second"
    with open_run(tmp_path, source) as run:                     # or by the plain one
        assert run.resume
        run.finish(parts=[])
    with open_run(tmp_path, source, overwrite=True) as run:     # finished: begun anew
        assert not run.resume and not run.checkpoint("last").exists()


def test_an_interrupted_run_is_begun_anew_by_overwrite(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source) as run:
        write_text(run.checkpoint("last"), "x")
    with open_run(tmp_path, source, overwrite=True) as run:
        assert not run.resume and not run.checkpoint("last").exists()


@pytest.mark.parametrize("text", ["", '{"status": "finished", ', "[1]", '{"request": 3}'])
def test_a_damaged_manifest_is_an_error_that_overwrite_mends(tmp_path, text):
    class Args:
        overwrite = True
    with runs.Run(tmp_path, "knn", {"k": 5}) as run:
        run.finish()
    (run.folder / "config.json").write_text(text)
    write_text(run.checkpoint("last"), "of the damaged run")
    with pytest.raises(WorkError, match=r"config.json.*; the same command with --overwrite makes the run again"), \
            runs.Run(tmp_path, "knn", {"k": 5}):
        pass
    with runs.Run(tmp_path, "knn", {"k": 5}, args=Args) as again:
        assert not again.finished and not again.resume and not again.checkpoint("last").exists()
        again.finish()
    assert [config["status"] for _, config in runs.find_runs(tmp_path)] == ["finished"]


def test_a_run_whose_input_changed_meanwhile_does_not_finish(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source) as run:
        write_text(source, "2")
        with pytest.raises(WorkError, match="input changed while run test_.* was being made from it"):
            run.finish(parts=[])
    with open_run(tmp_path, source) as run:
        assert not run.finished and not run.resume              # made again from the new one
        write_text(source, "2")                                 # published again with the same bytes
        run.finish(parts=[])
    with open_run(tmp_path, source) as run:
        assert run.finished


def test_an_input_removed_meanwhile_is_a_change(tmp_path):
    source = tmp_path / "input"
    source.write_text("1")
    with open_run(tmp_path, source) as run:
        source.unlink()
        with pytest.raises(WorkError, match="changed while"):
            run.finish(parts=[])


def test_quiet_progress_speaks_only_of_long_work(capsys):
    with Progress(4, "short", "users", every=1000, quiet=True) as progress:
        progress.update(4)
    assert capsys.readouterr().err == ""
    with Progress(4, "long", "users", every=0, quiet=True) as progress:
        progress.update(1)
        progress.every = 1000
        progress.update(3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" users")[0] for line in lines] == ["long: 1/4", "long: 4/4"]


@pytest.mark.parametrize("script, words", [("recommenders.itemknn", ()), ("recommenders.elsa", ("--epochs", "2")),
                                           ("recommenders.ials", ()), ("recommenders.content_knn", ("content",)),
                                           ("recommenders.ease", ())])
def test_long_fits_and_rankings_say_how_long_they_take(tiny, script, words, monkeypatch, capsys):
    from harness import progress, registry
    begin = progress.Progress.__init__
    monkeypatch.setattr(progress.Progress, "__init__", lambda self, *args, **kwargs: begin(
        self, *args, **{**kwargs, "every": 0}))             # as if every step took its ten seconds
    registry.load(script).main([*words, "--workdir", str(tiny), "--k", "5"])
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(script.partition(".")[2]) and " left" in line for line in lines), lines
    assert any(line.startswith("test: ranking: ") and " left" in line for line in lines), lines


@pytest.mark.parametrize(("more", "said"), [
    ({}, "3 epochs"), ({"best_epoch": 2}, "3 epochs, number 2 kept"),
    ({"best_epoch": 2, "selected_on": ["val", "cold_val"], "best_value": 1.2},
     "3 epochs, number 2 kept (by val and cold_val)"),
    ({"best_epoch": 2, "selected_on": ["val"], "best_value": .01, "value_by_chance": .0146},
     "3 epochs, number 2 kept (by val, no better than chance (0.0146))"),
    ({"best_epoch": 2, "selected_on": ["val"], "best_value": .02, "value_by_chance": .0146},
     "3 epochs, number 2 kept (by val)")])
def test_the_last_line_says_which_epoch_was_kept_and_whether_it_has_learned(more, said):
    assert runs._epochs({"epochs": 3, **more}) == said
