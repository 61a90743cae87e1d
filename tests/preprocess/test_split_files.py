"""Stage 2, second half: counts, leaks, bad input, and files that survive a kill or a full disk.

    python -m pytest tests/preprocess/test_split_files.py
"""
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import WorkError
from harness.files import checksum, write_parquet
from preprocess import parts, protocols, stage
from tests.conftest import ROOT
from tests.worlds.listening import (  # noqa: F401 - some are fixtures
    ALL,
    HAND,
    crowd,
    files,
    manifest,
    mount_small_disk,
    part,
    split_command,
    workspace,
)

# --------------------------------------------------------------------------- memory

def test_a_table_of_ids_is_made_without_python_numbers(tmp_path):
    write_parquet(tmp_path / "plays.pqt", pd.DataFrame({"user_id": [1], "track_id": [1]}))
    with protocols.Log(tmp_path / "plays.pqt", ["user_id", "track_id"], 1 << 28, tmp_path / "spill") as log:
        for ids in (np.arange(500_000), [7, 3], []):
            assert log.one("select count(*) from plays") == 1
            tracemalloc.start()
            log.ids("chosen", ids)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert log.run("select id from chosen order by id").fetchnumpy()["id"].tolist() == sorted(ids)
            assert peak < 4 << 20


# --------------------------------------------------------------------------- counts and leaks

def test_counts_by_hand(tmp_path, split):
    workdir = workspace(tmp_path / "w", [(1, 0, None, 5), (1, 1, None, 1), (2, 0, None, 2), (2, 2, None, 9),
                                         (2, 1, None, 1), (3, 1, None, 4)], time="none")
    split(workdir, "--protocol", "random", "--val-share", "0", "--test-share", "0")
    assert manifest(workdir)["stats"]["Train"] == {
        "Rows": 6, "Users": 3, "Items": 3, "TracksMedian": 2, "TracksMin": 1, "TracksMax": 3,
        "PlaysMedian": 6, "PlaysMin": 4, "PlaysMax": 12}
    assert (workdir / "data" / "stats.csv").read_text() == (
        ",Rows,Users,Items,TracksMedian,TracksMin,TracksMax,PlaysMedian,PlaysMin,PlaysMax\n"
        "Train,6,3,3,2,1,3,6,4,12\nVal,0,0,0,0,0,0,0,0,0\nTest,0,0,0,0,0,0,0,0,0\n")


def test_expect(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    split(workdir)
    expected = tmp_path / "stats.csv"
    expected.write_bytes((workdir / "data" / "stats.csv").read_bytes())
    assert split(workdir, "--expect", expected)[0] == 0                     # on a finished split
    assert split(workdir, "--expect", expected, "--overwrite")[0] == 0      # on a new one
    before = files(workdir / "data")
    rows = part(workdir, "train").shape[0]
    status, _, err = split(workdir, "--expect", expected, "--train-share", ".5")
    assert status == 1 and err.count("\n") == 1 and f"Train Rows is {round(rows / 2)}"[:-3] in err
    assert f"and not {rows} (and " in err and "nothing was written" in err
    assert files(workdir / "data") == before
    expected.write_text("a,b\n1,2\n")
    assert split(workdir, "--expect", expected)[0] == 2
    assert split(workdir, "--expect", tmp_path / "nowhere.csv")[0] == 2


def test_leaks_are_seen_in_the_files(tmp_path, split):
    rows = [(u, t, f"2019-06-{1 + t:02d}") for u in range(8) for t in range(u % 3, u % 3 + 3)]
    rows += [(u, u % 3 + 3, "2020-03-01") for u in range(8)] + [(u, 9, "2020-03-02") for u in range(2)]
    workdir = workspace(tmp_path / "w", rows)
    assert split(workdir, "--protocol", "hotcold", "--test-date", "2020-02-20")[0] == 0
    data = {p: part(workdir, p) for p in ALL}
    assert all(len(frame) for frame in data.values())

    def check(**changed):
        folder = tmp_path / "changed"
        for name, frame in {**data, **changed}.items():
            write_parquet(folder / f"{name}.pqt", frame)
        with protocols.Log(workdir / "plays.pqt", ["user_id", "track_id", "timestamp"], 1 << 28, "unused") as log:
            parts.check_leaks(log, {p: folder / f"{p}.pqt" for p in ALL}, "2020-02-20", "2019-02-20")

    check()
    train, test, val, cold = (data[p] for p in ("train", "test", "val", "cold_test"))

    def join(one, other):
        return pd.concat([one, other]).sort_values(["user_id", "track_id"])
    leaks = {
        "pairs are in train and in another part": {"train": join(train, test.head(1))},
        "duplicate pairs": {"train": join(train, train.head(1))},
        "of users absent from train": {"test": test.assign(user_id=test["user_id"] + 100)},
        "val and test pairs are of tracks absent": {"test": join(test, cold), "cold_test": cold.head(0)},
        "cold pairs are of tracks of train": {"cold_test": join(cold, test), "test": test.head(0)},
        "first play outside the train window": {"train": train.assign(timestamp=pd.Timestamp("2020-02-20"))},
        "users played held-out pairs in the train window": {"train": train[1:], "test": join(test, train.head(1))},
        "users have other plays in train than in the train window": {"train": train.assign(count=train["count"] + 1)},
        "of users of a test part": {"val": val.head(0), "test": join(test, val)[:-1], "cold_test": cold} | {
            "val": join(test, val)[-1:].assign(user_id=test["user_id"].iloc[0], track_id=train["track_id"].max())}}
    for sentence, changed in leaks.items():
        with pytest.raises(WorkError, match=f"leak: .*{sentence}"):
            check(**changed)


def test_counts_and_leaks_do_not_depend_on_the_ranges_of_users(tmp_path, split, monkeypatch):
    workdir = crowd(tmp_path / "w", n_users=400, n_tracks=200, n=20_000)
    plays = pd.read_parquet(workdir / "plays.pqt")
    write_parquet(workdir / "plays.pqt", plays.assign(timestamp=plays["timestamp"].dt.floor("D")))   # many ties
    assert split(workdir)[0] == 0
    whole = manifest(workdir)
    assert whole["ties"]["train"] > 100
    monkeypatch.setattr(parts, "ROWS", 2048)    # several row groups, each a range by itself
    monkeypatch.setattr(parts, "RANGE", 1)
    assert split(workdir, "--overwrite")[0] == 0
    assert (again := manifest(workdir))["ties"] == whole["ties"] and again["stats"] == whole["stats"]
    path = workdir / "data" / "train.pqt"
    train = part(workdir, "train")
    for row in (0, 2047, 2048, len(train) - 1):      # twice in a range, and over the end of a row group
        pd.concat([train[:row + 1], train[row:]]).to_parquet(path, row_group_size=2048)
        with protocols.Log(workdir / "plays.pqt", ["user_id", "track_id", "timestamp"], 1 << 28, "unused") as log, \
                pytest.raises(WorkError, match="leak: 1 duplicate pairs"):
            parts.check_leaks(log, {p: workdir / "data" / f"{p}.pqt" for p in ("train", "val", "test")})


# --------------------------------------------------------------------------- usage and bad plays

@pytest.mark.parametrize("argv, sentence", [
    (["--protocol", "random", "--test-date", "2020-01-01"], "--test-date does not apply to --protocol random"),
    (["--test-share", ".1"], "--test-share does not apply to --protocol recsys24"),
    (["--protocol", "leave-one-out", "--val-share", ".1"], "--val-share does not apply"),
    (["--split", "x.csv"], "--split does not apply to --protocol recsys24"),
    (["--protocol", "random", "--val-share", ".6", "--test-share", ".4"], "leave nothing for train"),
    (["--val-share", "1.5"], "--val-share must be at least 0 and below 1, not 1.5"),
    (["--train-share", "0"], "--train-share must be above 0 and at most 1, not 0"),
    (["--test-date", "soon"], "--test-date soon is not a date in UTC; write it like 2020-02-20"),
    (["--train-start", "2020-03-01"], "--train-start, --test-date and --test-end must increase"),
    (["--protocol", "coldhot"], "invalid choice: 'coldhot'"),
    (["--memory", "1KB"], "at least 512MB is required"),
])
def test_usage(tmp_path, split, argv, sentence):
    status, _, err = split(workspace(tmp_path / "w", HAND), *argv)
    assert status == 2 and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "w" / "data" / "train.pqt").exists()


@pytest.mark.parametrize("change, sentence", [
    (lambda f: f.assign(user_id=f["user_id"].astype(str)), "must have an integer column user_id"),
    (lambda f: f.drop(columns="track_id"), "must have an integer column track_id"),
    (lambda f: f.assign(track_id=f["track_id"] + 2), "track_id runs from 2 to 5, "
     "but trackid_sorted.csv has 4 rows"),
    (lambda f: f.assign(timestamp=f["timestamp"].where(f.index > 2)), "without nulls, but is timestamp with 3 nulls"),
    (lambda f: f.assign(timestamp=f["timestamp"].dt.tz_localize("UTC")), "must be UTC timestamps without time zone"),
    (lambda f: f.assign(user_id=f["user_id"].astype("Int64").where(f.index > 0)), "1 of its 13 rows have no user_id"),
    (lambda f: f.assign(count=-1), "every count must be at least 1"),
    (lambda f: f.head(0), "nothing to split"),
    (None, "cannot be read as parquet"),
    ("gone", "run preprocess/0_get_plays_pqt.py first"),
])
def test_bad_plays(tmp_path, split, change, sentence):
    workdir = workspace(tmp_path / "w", HAND)
    split(workdir, "--protocol", "random")
    before = files(workdir / "data")
    path = workdir / "plays.pqt"
    if change is None:
        path.write_bytes(path.read_bytes()[:-50])
    elif change == "gone":
        path.unlink()
    else:
        write_parquet(path, change(pd.read_parquet(path)))
    status, _, err = split(workdir, "--protocol", "random")
    assert status == 1 and sentence in err and err.count("\n") == 1
    assert files(workdir / "data") == before


def test_no_workspace(tmp_path, split):
    assert split(tmp_path / "nowhere")[0] == 2
    (tmp_path / "file").write_text("mine")
    status, _, err = split(tmp_path / "file")
    assert status == 2 and "is not a folder" in err


# --------------------------------------------------------------------------- again, killed, full

def test_finished_work_is_skipped_and_changed_work_done_again(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    table = split(workdir)[1]
    before = {p: (workdir / "data" / p).stat().st_mtime_ns for p in files(workdir / "data")}
    said = split(workdir)[1]
    assert "finished before, skipped" in said and said.splitlines()[1:5] == table.splitlines()[:4]
    assert "skipped" in split(workdir, "--train-start", "2019-02-20 00:00:00", "--memory", "1GB")[1]
    assert {p: (workdir / "data" / p).stat().st_mtime_ns for p in files(workdir / "data")} == before
    assert "done again, because seed changed" in split(workdir, "--seed", "1")[1]
    (workdir / "data" / "val.pqt").write_bytes(b"")
    assert "val.pqt missing or modified" in split(workdir, "--seed", "1")[1]
    plays = pd.read_parquet(workdir / "plays.pqt")
    write_parquet(workdir / "plays.pqt", plays.iloc[:-100])
    assert "done again, because plays.pqt changed" in split(workdir, "--seed", "1")[1]


def test_split_json_says_what_readers_need(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    split(workdir)
    about = manifest(workdir)
    assert about["status"] == "finished" and about["protocol"] == "recsys24" and about["time"] == "real"
    assert about["track_checksum"] == checksum(workdir / "trackid_sorted.csv")
    for name, digest in about["parts"].items():
        path = workdir / "data" / f"{name}.pqt"
        assert digest == checksum(path) and about["bytes"][path.name] == path.stat().st_size
    assert about["request"]["plays.pqt"] == checksum(workdir / "plays.pqt")
    assert set(about["parts"]) == {"train", "val", "test"}
    import pyarrow.parquet as pq
    kinds = {field.name: str(field.type) for field in pq.read_schema(workdir / "data" / "train.pqt")}
    assert kinds == {"user_id": "int64", "track_id": "int64", "timestamp": "timestamp[us]", "count": "int64"}


def test_killed_while_parts_are_swapped(tmp_path, monkeypatch, split):
    workdir = crowd(tmp_path / "w")
    split(workdir)
    old, whole = files(workdir / "data"), os.replace

    def killed(source, target):
        if Path(target).name == "train.pqt":
            raise KeyboardInterrupt
        whole(source, target)
    monkeypatch.setattr(os, "replace", killed)
    assert split(workdir, "--protocol", "hotcold", "--test-date", "2020-02-20")[0] == 130
    monkeypatch.setattr(os, "replace", whole)
    mixed = files(workdir / "data")
    assert mixed["train.pqt"] == old["train.pqt"] and "cold_test.pqt" in mixed    # this is the mix ...
    assert manifest(workdir)["status"] == "writing"                               # ... that says so
    assert "was interrupted; done again" in split(workdir)[1]
    assert {k: v for k, v in files(workdir / "data").items() if k != "split.json"} == {
        k: v for k, v in old.items() if k != "split.json"}
    assert manifest(workdir)["status"] == "finished" and not list((workdir / "data").glob(".*.new"))


def test_killed_with_minus_nine_leaves_the_old_split(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    split(workdir)
    old = files(workdir / "data")
    body = ("import importlib, os, signal, sys; from preprocess import parts; "
            "parts.write_stats = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
            "importlib.import_module('preprocess.1_train_test_split').main(sys.argv[1:])")
    died = subprocess.run([sys.executable, "-c", body, "--seed", "9", "--workdir", workdir], cwd=ROOT,
                          capture_output=True)
    assert died.returncode == -9 and list((workdir / "data").glob(".split.new/*.pqt"))
    assert files(workdir / "data") == old
    assert split(workdir, "--seed", "9")[0] == 0 and not list((workdir / "data").glob(".*.new"))


def test_two_at_once(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    with stage.atomic_outputs(workdir / "data" / "split.json"):
        status, _, err = split(workdir)
    assert status == 1 and "another process is writing" in err
    assert split(workdir)[0] == 0


def test_full_disk(small_disk, split):
    workdir = crowd(small_disk / "w", n_users=300, n_tracks=2000, n=60_000)
    assert split(workdir, "--train-share", ".1")[0] == 0
    before = files(workdir / "data")
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk) - 150_000))
    status, _, err = split(workdir)
    assert status == 1 and "the disk is full" in err.splitlines()[-1] and err.count("\n") == 1
    assert files(workdir / "data") == before and not list((workdir / "data").glob(".*.new"))


def small_disk_free(disk):
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize


def test_a_file_where_the_parts_should_be(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    (workdir / "data").write_text("mine")
    status, _, err = split(workdir)
    assert status == 1 and "data: a folder is needed here" in err
    assert (workdir / "data").read_text() == "mine"


def test_spilling_to_disk_gives_the_same_parts(tmp_path, monkeypatch, split):
    workdir = crowd(tmp_path / "w", n_users=2000, n_tracks=9000, n=200_000)
    split(workdir)
    roomy, real = files(workdir / "data"), protocols.Log

    def tight(disk):
        def log(*args):
            made = real(*args)
            made.run("set memory_limit='24MiB'")
            made.run(f"set max_temp_directory_size='{disk}'")
            return made
        return log
    monkeypatch.setattr(protocols, "Log", tight("1MiB"))       # so memory alone does not do
    status, _, err = split(workdir, "--overwrite")
    assert status == 1 and "raise --memory" in err and err.count("\n") == 1
    assert files(workdir / "data") == roomy
    monkeypatch.setattr(protocols, "Log", tight("1GiB"))
    assert split(workdir, "--overwrite")[0] == 0
    for name in ("train.pqt", "val.pqt", "test.pqt"):
        assert (workdir / "data" / name).read_bytes() == roomy[name]


@pytest.mark.parametrize("text", ["a,b\n", ",Rows\n", ",Other\nTrain,3\n", ",Rows\nTrain,nan\n", "\x00"])
def test_expect_wants_something_to_compare(tmp_path, split, text):
    workdir = crowd(tmp_path / "w")
    (tmp_path / "stats.csv").write_text(text)
    status, _, err = split(workdir, "--expect", tmp_path / "stats.csv")
    assert status == 2 and err.count("\n") == 1 and "is not a table of counts" in err
    assert not (workdir / "data").exists()


def damaged_in_the_middle(path):
    """Zero the first half of a parquet file: the footer is whole, so the schema is read, and a page is not."""
    data = bytearray(path.read_bytes())
    data[40:len(data) // 2] = bytes(len(data[40:len(data) // 2]))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("flags", [("--protocol", "random"), ("--protocol", "hotcold", "--test-share-time", ".1")])
def test_plays_damaged_in_the_middle_are_one_sentence(tmp_path, split, flags):
    folder = crowd(tmp_path / "w")
    damaged_in_the_middle(folder / "plays.pqt")
    status, _, err = split(folder, *flags)
    assert status == 1 and "plays.pqt" in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (folder / "data" / "train.pqt").exists()


def test_a_given_split_damaged_in_the_middle_is_named_itself(tmp_path, split):
    folder = crowd(tmp_path / "w")
    pairs = pd.DataFrame({"user_id": range(20000), "track_id": range(20000), "part": "train"})
    pairs.to_parquet(tmp_path / "split.pqt")
    damaged_in_the_middle(tmp_path / "split.pqt")
    status, _, err = split(folder, "--protocol", "given", "--split", tmp_path / "split.pqt")
    assert status == 1 and "split.pqt must be a table" in err and "plays.pqt" not in err and err.count("\n") == 1
