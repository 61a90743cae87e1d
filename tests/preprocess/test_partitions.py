"""A split made in partitions of the users: the same bytes as in one piece, and what may go wrong on the way.

    python -m pytest tests/preprocess/test_partitions.py
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from harness.files import write_json, write_parquet
from preprocess import partitions, parts, protocols
from tests.conftest import ROOT
from tests.worlds.listening import crowd, files, manifest, mount_small_disk, split_command, workspace  # noqa: F401
from tests.worlds.world import write_embedding, write_tracks

N = "--partitions", "4"


def hidden(workdir):
    """The folders of partitions of a workspace."""
    return sorted((workdir / "data" / ".partitions").glob("*"))


def one_and_many(split, workdir, *flags):
    """Files of data/ of a request in one piece and in partitions, and what both say in split.json."""
    status, _, said = split(workdir, *flags, "--overwrite")
    assert status == 0, said
    whole, about = files(workdir / "data"), manifest(workdir)
    shutil.rmtree(workdir / "data")
    status, _, said = split(workdir, *flags, *N)
    assert status == 0, said
    assert not hidden(workdir)
    return (whole, about), (files(workdir / "data"), manifest(workdir))


def yambda_crowd(folder, seed):
    """Random plays in the days around Yambda's test day, one user without train among them."""
    rng = np.random.default_rng(seed)
    user, track = rng.integers(25, size=3000) * 7, (60 * rng.random(3000) ** 2).astype(int)
    seconds = protocols.TEST_START + 86_400 - rng.integers(6 * 86_400, size=3000)
    seconds[user == 7] = protocols.TEST_START + 5
    times = pd.to_datetime(seconds, unit="s")
    return workspace(folder, list(zip(user, track, times, strict=True)), 60)


DATED = ("--train-start", "2019-02-20", "--test-date", "2020-02-01")
REQUESTS = [("--protocol", "recsys24"), ("--protocol", "recsys24", "--train-share", ".4"),
            ("--protocol", "hotcold", "--test-date", "2020-02-20"),
            ("--protocol", "hotcold", "--test-share-time", ".1"),
            ("--protocol", "random"), ("--protocol", "random", "--train-share", ".5", "--seed", "3"),
            ("--protocol", "random", "--tracks-with", "half"),
            ("--protocol", "leave-one-out"), ("--protocol", "leave-one-out", "--unseen", "drop"),
            ("--protocol", "leave-one-out", "--train-share", ".3"),
            ("--protocol", "cold-items"), ("--protocol", "cold-items", *DATED),
            ("--protocol", "cold-items", "--train-share", ".5"), ("--protocol", "given")]


@pytest.mark.parametrize("flags", REQUESTS, ids=" ".join)
def test_the_same_bytes_as_in_one_piece(tmp_path, split, flags):
    for seed in (1, 2):
        workdir = crowd(tmp_path / f"w{seed}", n_users=22, n_tracks=120, n=1500, seed=seed)
        write_embedding(workdir, "half", np.where(np.arange(120)[:, None] % 2, 1, np.nan).astype(np.float32))
        titles = [f"song {i // 2}" for i in range(120)]
        write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": range(120), "title": titles, "artist": "a"}))
        if "given" in flags:
            plays = pd.read_parquet(workdir / "plays.pqt").drop_duplicates(["user_id", "track_id"])
            names = np.random.default_rng(seed).choice(["train", "train", "val", "test"], len(plays))
            write_parquet(workdir / "split.pqt", plays[["user_id", "track_id"]].assign(part=names).iloc[5:])
        (whole, about), (many, about_many) = one_and_many(split, workdir, *flags)
        assert "train.pqt" in whole and "test.pqt" in whole and about["stats"]["Train"]["Rows"]
        assert ("hidden.pqt" in whole) == ("--train-share" in flags)
        assert many == whole     # split.json among them: counts, what was left out, checksums


@pytest.mark.parametrize("flags", [(), ("--final",), ("--train-share", ".5")], ids=" ".join)
def test_the_same_bytes_of_yambdas_protocol(tmp_path, split, flags):
    (whole, about), (many, _) = one_and_many(split, yambda_crowd(tmp_path / "w", 3), "--protocol", "yambda", *flags)
    assert many == whole
    assert about["dropped"]["users absent from train"] and about["dropped"]["in the gaps"]


@pytest.mark.parametrize("flags", [("--protocol", "leave-one-out"), ("--protocol", "random", "--train-share", ".7")],
                         ids=" ".join)
def test_a_part_sorted_range_by_range_has_the_bytes_of_one_sort(tmp_path, split, monkeypatch, flags):
    """One user has more tracks than a range has rows, so that its rows are divided."""
    rng = np.random.default_rng(0)
    pairs = {(3, t) for t in rng.choice(9000, 7000, replace=False)}
    pairs |= set(zip(rng.integers(30, size=6000), rng.integers(9000, size=6000), strict=True))
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta([int(u * t) % 9973 for u, t in pairs], unit="min")
    workdir = workspace(tmp_path / "w", [(*pair, time) for pair, time in zip(pairs, times, strict=True)], 9000)
    monkeypatch.setattr(parts, "ROWS", 2048)
    (whole, about), (joined, _) = one_and_many(split, workdir, *flags)
    made, ranges = [], parts._ranges
    monkeypatch.setattr(parts, "_ranges", lambda *args: made.append(ranges(*args)) or made[-1])
    monkeypatch.setattr(parts, "SORTED", 1 << 40)
    (again, same), (again_joined, _) = one_and_many(split, workdir, *flags)
    assert max(map(len, made)) >= 4 and again == whole == joined == again_joined and same == about


def test_counts_without_times(tmp_path, split):
    workdir = crowd(tmp_path / "w", timed=False)
    (whole, _), (many, _) = one_and_many(split, workdir, "--protocol", "random")
    assert many == whole


def test_more_partitions_than_users_and_spilling(tmp_path, split, monkeypatch):
    workdir = crowd(tmp_path / "w", n_users=3)
    assert split(workdir, "--protocol", "random")[0] == 0
    whole = files(workdir / "data")
    assert split(workdir, "--protocol", "random", "--partitions", "17", "--overwrite")[0] == 0
    assert files(workdir / "data") == whole


def test_tasks_and_merge_in_any_order(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir)[0] == 0
    whole = files(workdir / "data")
    shutil.rmtree(workdir / "data")
    for number in ("3", "0", "2"):
        assert split(workdir, *N, "--partition", number)[0] == 0
    before = {p.name: p.stat().st_mtime_ns for p in hidden(workdir)[0].iterdir() if p.suffix == ".pqt"}
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and said.count("\n") == 1 and not (workdir / "data" / "split.json").exists()
    assert "1 of 4 partitions cannot be joined: 1 (not made yet); the others are kept: run `" in said    # the hole
    assert f"1_train_test_split.py --partitions 4 --workdir {workdir} --partition 1`, then --merge again" in said
    status, out, _ = split(workdir, *N, "--partition", "0", "1")
    assert status == 0
    assert {p.name: p.stat().st_mtime_ns for p in hidden(workdir)[0].iterdir() if p.name in before} == before
    assert split(workdir, *N, "--merge")[0] == 0 and files(workdir / "data") == whole and not hidden(workdir)
    status, out, _ = split(workdir, *N, "--partition", "2")     # a task that Slurm starts late makes nothing
    assert status == 0 and "the split is finished, so no partition is made" in out and not hidden(workdir)


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--partition", "1"], "--partition goes with --partitions N"), (["--merge"], "--merge goes with --partitions N"),
    ([*N, "--partition", "4"], "--partition 4 is not from 0 to 3"),
    ([*N, "--partition", "1", "--merge"], "not both"),
    ([*N, "--k-core", "2"], "--k-core does not go with --partitions"),
    (["--partitions", "1001"], "more than 1000"), (["--partitions", "0"], "--partitions")])
def test_usage(tmp_path, split, flags, sentence):
    status, _, said = split(crowd(tmp_path / "w", n=200), *flags)
    assert status == 2 and sentence in said and "Traceback" not in said
    assert not hidden(tmp_path / "w")


def test_a_partition_that_fails_three_times(tmp_path, split, monkeypatch):
    workdir = crowd(tmp_path / "w")
    write = partitions.Partitions._write

    def fails(self, number, spill):
        if number == 2:
            raise partitions.WorkError("the node has no memory left")
        return write(self, number, spill)
    monkeypatch.setattr(partitions.Partitions, "_write", fails)
    for number in ("0", "1", "2", "2", "2", "3"):
        assert split(workdir, *N, "--partition", number)[0] == (number == "2")
    kept = files(hidden(workdir)[0])
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and "1 of 4 partitions cannot be joined: 2 (failed 3 times, the last time: the node has no " \
        "memory left); the others are kept: run `python preprocess/1_train_test_split.py" in said
    assert "--partition 2`" in said
    monkeypatch.undo()
    assert {name: kept[name] for name in kept if name.endswith(".pqt")} == {
        name: data for name, data in files(hidden(workdir)[0]).items() if name.endswith(".pqt")}
    assert split(workdir, *N, "--partition", "2")[0] == 0 and split(workdir, *N, "--merge")[0] == 0


def spoil(path):
    """Overwrite the pages of the last row group of a parquet file; the number of that row group."""
    import pyarrow.parquet as pq
    about = pq.ParquetFile(path).metadata
    group = about.row_group(about.num_row_groups - 1)
    with open(path, "r+b") as f:
        for column in range(group.num_columns):
            chunk = group.column(column)
            f.seek(min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o))
            f.write(b"\xff" * chunk.total_compressed_size)
    return about.num_row_groups - 1


def test_a_damaged_row_group_of_a_partition_is_named(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    damaged = hidden(workdir)[0] / "00002.pqt"
    spoil(damaged)
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and said.count("\n") == 1
    assert "1 of 4 partitions cannot be joined: 2 (row group 0 of 1, with " in said and "--partition 2`" in said
    kept = {p.name: p.stat().st_mtime_ns for p in hidden(workdir)[0].glob("*.pqt")}
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0       # only the damaged one is made again
    again = {p.name: p.stat().st_mtime_ns for p in hidden(workdir)[0].glob("*.pqt")}
    assert [name for name in kept if kept[name] != again[name]] == ["00002.pqt"]
    assert split(workdir, *N, "--merge")[0] == 0


def test_one_bit_of_a_partition_is_not_joined(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    path = hidden(workdir)[0] / "00001.pqt"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and "cannot be joined: 1 (" in said and not (workdir / "data" / "split.json").exists()


def test_a_damaged_row_group_of_the_plays_is_named(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    plays = pd.read_parquet(workdir / "plays.pqt")
    plays.to_parquet(workdir / "plays.pqt", row_group_size=1000, compression="zstd")
    number = spoil(workdir / "plays.pqt")
    for flags in ((), N, (*N, "--partition", "1")):
        status, _, said = split(workdir, *flags)
        assert status == 1 and said.count("\n") == 1
        assert f"{workdir / 'plays.pqt'} cannot be read to its end (row group {number} of 4, with 1000 rows, is" in said


def test_inputs_that_change_between_the_tasks_and_the_merge(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    write_parquet(workdir / "plays.pqt", pd.read_parquet(workdir / "plays.pqt").iloc[1:])
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and f"plays.pqt changed since the partitions in {hidden(workdir)[0]} were made" in said
    assert split(workdir)[0] == 0
    whole = files(workdir / "data")
    status, out, _ = split(workdir, *N, "--overwrite")
    assert status == 0 and files(workdir / "data") == whole
    assert "holds partitions of another request" in out and len(hidden(workdir)) == 1


@pytest.mark.parametrize("what", ["task", "merge"])
def test_plays_that_change_meanwhile(tmp_path, split, monkeypatch, what):
    workdir = crowd(tmp_path / "w")
    if what == "merge":
        assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    name = {"task": "local_pairs", "merge": "Joined"}[what]
    real = getattr(partitions, name)

    def replaced(*args):
        write_parquet(workdir / "plays.pqt", pd.read_parquet(workdir / "plays.pqt"))
        return real(*args)
    monkeypatch.setattr(partitions, name, replaced)
    status, _, said = split(workdir, *N, *(["--partition", "1"] if what == "task" else ["--merge"]))
    assert status == 1 and "plays.pqt changed while" in said
    assert not (workdir / "data" / "split.json").exists()


def test_two_requests_on_one_workspace_share_nothing(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    for seed in ("1", "2"):
        assert split(workdir, "--seed", seed, "--protocol", "random")[0] == 0
        shutil.copytree(workdir / "data", tmp_path / seed)
    for number in "0123":       # two arrays at once, of two requests
        for seed in ("1", "2"):
            assert split(workdir, *N, "--partition", number, "--seed", seed, "--protocol", "random",
                         "--overwrite")[0] == 0
    for seed in ("2", "1"):
        assert split(workdir, *N, "--merge", "--seed", seed, "--protocol", "random", "--overwrite")[0] == 0
        assert files(workdir / "data") == files(tmp_path / seed)
    assert not hidden(workdir)


def start(workdir, *flags, before="pass"):
    """The splitter in a process of its own, after a line of Python."""
    code = (f"import importlib, sys; from preprocess import partitions, parts; from harness import cli\n{before}\n"
            "cli.run(importlib.import_module('preprocess.1_train_test_split').main)")
    return subprocess.Popen([sys.executable, "-c", code, "--workdir", str(workdir), *flags], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


HANGS = """
import time
def hang(*args, **named):
    print("here", flush=True)
    time.sleep(600)
"""


def test_two_arrays_of_one_request(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    with start(workdir, *N, "--partition", "1", before=HANGS + "partitions.local_pairs = hang") as first:
        assert first.stdout.readline() == "here\n"
        status, _, said = split(workdir, *N, "--partition", "1")
        assert status == 1 and "another process is making partition 1 of 4 of this request; wait" in said
        assert split(workdir, *N, "--partition", "0")[0] == 0
        first.kill()
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and "1 (failed 1 time, the last time: its process was killed)" in said
    assert split(workdir, *N)[0] == 0       # the rest is made, and joined


def test_a_node_that_is_lost_while_joining(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, "--seed", "9")[0] == 0
    old = files(workdir / "data")
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    with start(workdir, *N, "--merge", before=HANGS + "parts.check_leaks = hang") as merge:
        assert "here\n" in iter(merge.stdout.readline, "")
        merge.send_signal(signal.SIGKILL)
    assert files(workdir / "data") == old           # the earlier split is whole
    lost = hidden(workdir)[0] / "00003.pqt"
    lost.unlink()
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and f"cannot be joined: 3 ({lost} is lost or cut); the others are kept" in said
    assert files(workdir / "data") == old
    assert split(workdir, *N, "--partition", "3")[0] == 0 and split(workdir, *N, "--merge")[0] == 0
    joined = files(workdir / "data")
    assert split(workdir, "--overwrite")[0] == 0 and files(workdir / "data") == joined


def test_a_merge_killed_after_the_parts_were_there_leaves_nothing(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    with start(workdir, *N, before=HANGS + "partitions.Partitions.remove = hang") as merge:
        assert "here\n" in iter(merge.stdout.readline, "")
        merge.kill()
    whole = files(workdir / "data")
    assert len(hidden(workdir)) == 1
    status, out, _ = split(workdir, *N, "--merge")
    assert status == 0 and "finished before" in out and not hidden(workdir) and files(workdir / "data") == whole


def test_partitions_that_vanish_while_they_are_joined(tmp_path, split, monkeypatch):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, *N, "--partition", "0", "1", "2", "3")[0] == 0
    windowed = protocols.windowed

    def vanishing(*args):
        for name in ("00001.pqt", "00001.json"):
            (hidden(workdir)[0] / name).unlink()
        return windowed(*args)
    monkeypatch.setattr(protocols, "windowed", vanishing)
    status, _, said = split(workdir, *N, "--merge")
    assert status == 1 and "1 of 4 partitions cannot be joined: 1 (not made yet)" in said and "plays.pqt" not in said
    assert not (workdir / "data" / "split.json").exists()


def test_killed_again_and_again_ends_in_the_same_bytes(tmp_path, split):
    """kill -9 at random moments of the whole command, which goes on from what is finished."""
    workdir = crowd(tmp_path / "w", n_tracks=3000, n=20_000)
    assert split(workdir)[0] == 0
    whole = files(workdir / "data")
    shutil.rmtree(workdir / "data")
    rng = np.random.default_rng(0)
    for _ in range(3):
        with start(workdir, *N) as run:
            time.sleep(0.8 + 0.8 * rng.random())
            run.kill()
    assert split(workdir, *N)[0] == 0 and files(workdir / "data") == whole and not hidden(workdir)


def test_full_disk(small_disk, split):
    workdir = crowd(small_disk / "w", n=3000)
    (small_disk / "filler").write_bytes(os.urandom(free := shutil.disk_usage(small_disk).free - 40_000))
    status, _, said = split(workdir, *N)
    assert free and status == 1 and said.count("\n") <= 3 and "Traceback" not in said
    (small_disk / "filler").unlink()
    assert split(workdir, *N)[0] == 0


def test_errors_are_those_of_one_piece(tmp_path, split):
    for n, (flags, change) in enumerate([
            (("--protocol", "recsys24", "--train-start", "2030-01-01", "--test-date", "2031-01-01"), {}),
            (("--protocol", "hotcold", "--test-date", "2020-03-21", "--test-end", "2020-04-01"), {}),
            (("--protocol", "random"), {"track_id": 77}), (("--protocol", "yambda"), {})]):
        workdir = crowd(tmp_path / f"w{n}", n=300)
        if change:
            write_parquet(workdir / "plays.pqt", pd.read_parquet(workdir / "plays.pqt").assign(**change))
            write_tracks(workdir, 50)
        said = [split(workdir, *flags, *more) for more in ((), N)]
        assert [s[0] for s in said] == [1, 1] and said[0][2].splitlines()[-1] == said[1][2].splitlines()[-1]


def test_the_record_holds_what_the_plan_is_made_of(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, *N, "--partition", "1")[0] == 0
    about = json.loads((hidden(workdir)[0] / "00001.json").read_text())
    assert about["rows"] and about["seconds"] > 0 and about["peak_memory"] > 1 << 20 and about["of"] == 4
    write_json(hidden(workdir)[0] / "00001.json", {**about, "bytes": about["bytes"] + 1})
    assert "1 (" in split(workdir, *N, "--merge")[2]
