"""A split in partitions as stages of a grid, and the plan of what it takes; sbatch is a script that writes down."""
import json
import os

import pytest

from harness.errors import UsageError, WorkError
from slurm import grid, split_plan, submit
from tests.worlds.listening import crowd, files, split_command  # noqa: F401

SPLIT = "--split", "--protocol random --partitions 3"
WORDS = ["preprocess/1_train_test_split.py", "--protocol", "random", "--partitions", "3", "--workdir"]


@pytest.fixture(autouse=True)
def no_facts(monkeypatch, tmp_path):
    """Neither this machine's cluster.env nor its environment."""
    (tmp_path / "empty.env").write_text("")
    monkeypatch.setenv("CLUSTER_ENV", str(tmp_path / "empty.env"))
    monkeypatch.delenv("WORKDIR", raising=False)


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A folder first on PATH whose sbatch numbers the jobs and writes their words down; returns a function for them."""
    (tmp_path / "bin").mkdir()
    log = tmp_path / "submitted"
    (tmp_path / "bin" / "sbatch").write_text(
        f'#!/bin/sh\necho "$*" >> {log}\necho $((100 + $(wc -l < {log})))\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return lambda: log.read_text().splitlines()


def test_partitions_are_printed_one_a_line_and_then_the_merge(tmp_path, capsys):
    assert grid.main([*SPLIT, "--workdir", str(tmp_path / "W")]) == 0
    line = f"python {' '.join(WORDS)} {tmp_path / 'W'}"
    assert capsys.readouterr().out.splitlines() == [*(f"{line} --partition {i}" for i in range(3)), f"{line} --merge"]


def test_the_array_and_the_merge_are_submitted(tmp_path, sbatch, monkeypatch):
    monkeypatch.setattr(submit, "largest_array", lambda: 2)      # more partitions than an array of the cluster holds
    workdir = crowd(tmp_path / "w", n=300)
    assert grid.main([*SPLIT, "--workdir", str(workdir), "knn.py", "--names", "x", "--submit"]) in (0, None)
    first, second, merge, runs, report = sbatch()
    assert "--job-name=split-partitions --array=0-1 " in first and "--array=0-0 " in second
    assert "--dependency=afterany:101:102 --job-name=split --array=0-0" in merge
    assert "--dependency=afterok:103 --job-name=grid" in runs and "--dependency=afterany:101:102:103:104" in report
    lines = (workdir / "slurm" / "001" / "split-partitions.txt").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [["python", *WORDS, str(workdir), "--partition", str(i)]
                                                    for i in range(3)]
    assert json.loads((workdir / "slurm" / "001" / "split.txt").read_text())[-1] == "--merge"


def test_what_was_submitted_before_slurm_refused_is_in_the_plan(tmp_path, sbatch, monkeypatch, capsys):
    monkeypatch.setattr(submit, "largest_array", lambda: 2)
    script = tmp_path / "bin" / "sbatch"
    script.write_text(script.read_text() + f"[ $(wc -l < {tmp_path / 'submitted'}) = 1 ] || exit 1\n")
    workdir = crowd(tmp_path / "w", n=300)
    with pytest.raises(WorkError, match="sbatch refuses"):
        grid.main([*SPLIT, "--workdir", str(workdir), "--submit"])
    assert grid.main(["--report", str(workdir / "slurm" / "001")]) == 1
    assert "split-partitions: 0 of 3 runs done, 0 failed, 3 unfinished (job 101)" in capsys.readouterr().out


def test_the_stages_run_here_make_the_split(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, "--protocol", "random")[0] == 0
    whole = files(workdir / "data")
    (workdir / "data" / "train.pqt").unlink()
    assert grid.main([*SPLIT, "--workdir", str(workdir), "--local"]) == 0
    assert files(workdir / "data") == whole


def test_a_split_in_one_piece_or_one_task_is_one_job():
    for words in (["--protocol", "random"], ["--partitions", "4", "--merge"], ["--partitions=4", "--partition", "1"],
                  ["--partitions", "4", "--partition=1"]):
        stage, = split_plan.stages(words, "W", ["mfcc-merge"])
        assert stage.name == "split" and stage.after == ["mfcc-merge"] and len(stage.jobs) == 1


def test_the_plan(tmp_path, capsys):
    assert grid.main(["--split", "--protocol yambda --partitions=64", "--plan", "4649567411", "--workdir",
                      str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "4,649,567,411 plays in 64 partitions: 64 tasks of " in said and "not by a run of this size" in said
    one, two = split_plan.plan(64, 4_000_000_000), split_plan.plan(128, 4_000_000_000)
    assert 0 < two["task_hours"] < one["task_hours"] and two["merge_hours"] == one["merge_hours"] > 0
    twice = split_plan.plan(64, 8_000_000_000)
    assert all(twice[name] == pytest.approx(2 * one[name]) for name in one)     # linear; float division


@pytest.mark.parametrize(("words", "sentence"), [
    (["--plan", "5"], "--plan goes with --split"),
    (["--file", "slurm/grids/lastfm.yaml", "--plan", "5"], "--plan goes with --split"),
    (["knn.py", "--names", "x", "--shards", "4"], "--shards divides an extraction"),
    (["--split", "--protocol random", "--plan", "5"], "--partitions N"),
    (["--split", "--protocol random --partitions x"], "not 'x'"),
    (["--split", "--protocol random --partitions"], "not ''"),
    (["--split", "--protocol random --partitions 0"], "not '0'"),
    (["--split", "--protocol rnadom"], "invalid choice: 'rnadom'"),
    (["--split", "--protocol random --test-shar .1"], "unrecognized arguments: --test-shar .1"),
    (["--split", "--protocol random --partitions 3 --seed many"], "argument --seed")])
def test_usage(tmp_path, words, sentence):
    with pytest.raises(UsageError, match=sentence):
        grid.main([*words, "--workdir", str(tmp_path)])
