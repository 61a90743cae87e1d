"""Stage 2, first half: logs of every form become plays.pqt, bad ones one sentence, and killed runs nothing.

    python -m pytest tests/preprocess/test_plays.py
"""
import bz2
import gzip
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from harness import cli
from harness import text_blocks as log_blocks
from harness.errors import WorkError
from harness.files import checksum, write_json
from preprocess import log, stage
from tests.conftest import ROOT
from tests.worlds.listening import files, mount_small_disk  # noqa: F401 - a fixture

script = importlib.import_module("preprocess.0_get_plays_pqt")
IDS = [f"track{i:03d}" for i in range(40)]


@pytest.fixture
def command(capsys):
    """Run the script with a command line; returns exit status, stdout and stderr."""
    def run(*argv):
        with pytest.raises(SystemExit) as end:
            cli.run(script.main, [str(a) for a in argv])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err
    return run


@pytest.fixture
def world(tmp_path):
    """A folder with a log of 5,000 plays (one in ten of unlisted tracks), its track list, and the plays expected."""
    rng = np.random.default_rng(3)
    n = 5000
    user, track = rng.integers(70, size=n) * 7 - 21, rng.integers(44, size=n)
    time = pd.Timestamp("2019-01-01") + pd.to_timedelta(rng.integers(10**7, size=n), unit="s")
    name = [IDS[t] if t < 40 else f"unlisted{t}" for t in track]
    frame = pd.DataFrame({"user_id": user, "track_id": name, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S")})
    frame.to_csv(tmp_path / "log.tsv", sep="\t", index=False)
    (tmp_path / "tracks.csv").write_text("idx,trackid\n" + "".join(f"{i},{t}\n" for i, t in enumerate(IDS)))
    known = track < 40
    expected = pd.DataFrame({"user_id": user, "track_id": track, "timestamp": time})[known].reset_index(drop=True)
    return tmp_path, expected


def plays(workdir):
    return pd.read_parquet(workdir / "plays.pqt")


def same(frame, expected):
    pd.testing.assert_frame_equal(frame, expected.astype({"timestamp": "datetime64[us]"}))


# --------------------------------------------------------------------------- what comes out

def test_golden_log(shared, tmp_path, command):
    golden = shared / "golden"
    assert command("music4all", "--log", golden / "log.tsv", "--tracks", golden / "trackid_sorted.csv",
                   "--workdir", tmp_path)[0] == 0
    ids = pd.read_csv(golden / "trackid_sorted.csv").set_index("trackid")["idx"]
    raw = pd.read_csv(golden / "log.tsv", sep="\t", parse_dates=["timestamp"])
    same(plays(tmp_path), raw.assign(track_id=raw["track_id"].map(ids)))
    assert (tmp_path / "trackid_sorted.csv").read_bytes() == (golden / "trackid_sorted.csv").read_bytes()


def test_order_of_the_log_and_unknown_tracks(world, command):
    folder, expected = world
    status, out, _ = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w")
    assert status == 0
    same(plays(folder / "w"), expected)
    left_out = 5000 - len(expected)
    assert left_out > 300
    assert f"left out: {left_out} plays ({left_out / 5000:.2%}) of 4 tracks" in out
    about = json.loads((folder / "w" / "dataset.json").read_text())
    assert about["time"] == "real" and about["name"] == "music4all"
    assert about["raw"]["log.tsv"]["sha256"] == checksum(folder / "log.tsv")
    counts = about["counts"]
    assert counts["log_rows"] == 5000 and counts["plays"] == len(expected)
    assert counts["users"] == expected["user_id"].nunique() and counts["tracks"] == 40
    assert (counts["first"], counts["last"]) == (str(expected["timestamp"].min()), str(expected["timestamp"].max()))
    assert not (folder / "w" / "userid_sorted.csv").exists()


@pytest.mark.parametrize("pack, suffix", [(bz2.compress, ".bz2"), (gzip.compress, ".gz")])
def test_packed_logs_and_small_blocks_give_the_same_bytes(world, monkeypatch, command, pack, suffix):
    folder, _ = world
    text = (folder / "log.tsv").read_bytes()
    half = text.index(b"\n", len(text) // 2) - 5   # two streams joined inside a row, as parallel packers write them
    (folder / f"log.tsv{suffix}").write_bytes(pack(text[:half]) + pack(text[half:]))
    for source, workdir in (("log.tsv", "plain"), (f"log.tsv{suffix}", "packed")):
        assert command("music4all", "--log", folder / source, "--tracks", folder / "tracks.csv",
                       "--workdir", folder / workdir)[0] == 0
        monkeypatch.setattr(log, "BLOCK", 1000)
    assert (folder / "plain" / "plays.pqt").read_bytes() == (folder / "packed" / "plays.pqt").read_bytes()


def test_row_groups_do_not_depend_on_blocks(world, monkeypatch):
    folder, expected = world
    monkeypatch.setattr(log, "ROWS", 700)
    made = []
    for block in (500, 3000, 1 << 20):
        monkeypatch.setattr(log, "BLOCK", block)
        log.write_plays(folder / "log.tsv", folder / "tracks.csv", folder / str(block), name="x", source="", licence="")
        same(plays(folder / str(block)), expected)
        made.append((folder / str(block) / "plays.pqt").read_bytes())
    assert made[0] == made[1] == made[2]


def test_parallel_unpacker_is_a_pipe(world, monkeypatch):
    folder, expected = world
    if not shutil.which("bzip2"):
        pytest.skip("needs the program bzip2")
    monkeypatch.setitem(log_blocks.PACKED, b"BZh", (None, ("bzip2",)))   # the same call, without its threads
    monkeypatch.setattr(log, "BLOCK", 10_000)
    packed = folder / "log.tsv.bz2"
    packed.write_bytes(bz2.compress((folder / "log.tsv").read_bytes()))
    log.write_plays(packed, folder / "tracks.csv", folder / "w", name="x", source="", licence="")
    same(plays(folder / "w"), expected)
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(WorkError, match="is damaged: bzip2 says"):
        log.write_plays(packed, folder / "tracks.csv", folder / "w", name="x", source="", licence="")
    same(plays(folder / "w"), expected)


def test_comma_separated_log_with_more_columns_in_any_order(tmp_path):
    (tmp_path / "log.csv").write_text('\ufefftimestamp,artist,track_id,user_id\r\n'
                                      '2020-01-01T00:00:01,"a, b",x,5\r\n2019-12-31,c,"q,r",-3\r\n')
    log.write_plays(tmp_path / "log.csv", ["x", "q,r"], tmp_path / "w", name="x", source="", licence="")
    assert (tmp_path / "w" / "trackid_sorted.csv").read_text() == 'idx,trackid\n0,"q,r"\n1,x\n'
    same(plays(tmp_path / "w"), pd.DataFrame({
        "user_id": [5, -3], "track_id": [1, 0],
        "timestamp": pd.to_datetime(["2020-01-01 00:00:01", "2019-12-31 00:00:00"])}))


@pytest.mark.parametrize("late", [False, True])
def test_users_that_are_no_integers_are_numbered_in_sorted_order(world, monkeypatch, command, late):
    folder, expected = world
    monkeypatch.setattr(log, "BLOCK", 5000)
    lines = (folder / "log.tsv").read_text().splitlines()
    names = [line.split("\t")[0] for line in lines[1:]]
    if late:
        names[4321] = "zoe"                    # after many blocks of integers
    else:
        names = [f"user {n}" for n in names]
    rest = [line.split("\t", 1)[1] for line in lines[1:]]
    (folder / "text.tsv").write_text("\n".join([lines[0], *map("\t".join, zip(names, rest, strict=True))]) + "\n")
    status, out, _ = command("music4all", "--log", folder / "text.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w")
    assert status == 0 and "numbered as in userid_sorted.csv" in out
    known = np.array([not r.startswith("unlisted") for r in rest])
    ids = sorted(set(np.array(names)[known]))
    table = pd.read_csv(folder / "w" / "userid_sorted.csv", dtype=str)
    assert list(table.columns) == ["idx", "userid"]
    assert table["userid"].tolist() == ids and table["idx"].tolist() == [str(i) for i in range(len(ids))]
    code = {name: i for i, name in enumerate(ids)}
    same(plays(folder / "w"), expected.assign(user_id=[code[n] for n in np.array(names)[known]]))
    assert {p.name for p in (folder / "w").iterdir() if not p.name.startswith(".")} == {
        "plays.pqt", "trackid_sorted.csv", "userid_sorted.csv", "dataset.json"}
    assert command("music4all", "--log", folder / "log.tsv", "--workdir", folder / "w")[0] == 0
    assert not (folder / "w" / "userid_sorted.csv").exists()   # integers again: no list from before stays


HEAD = "user_id,track_id,timestamp,name\n"
AT = "2019-02-20 10:00:0"


@pytest.fixture
def read(tmp_path, command):
    """Read a log with the tracks A, B, C: (status, stdout, stderr, users by play, userid_sorted.csv or None)."""
    def run(text, listed="A\nB\nC\n", name="log.csv"):
        w = tmp_path / "w"
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        (tmp_path / "tracks.txt").write_text(listed, encoding="utf-8")
        status, out, err = command("music4all", "--log", tmp_path / name, "--tracks", tmp_path / "tracks.txt",
                                   "--workdir", w, "--overwrite")
        users = plays(w)["user_id"].tolist() if status == 0 else [*w.glob("plays.pqt")]
        path = w / "userid_sorted.csv"
        return status, out, err, users, pd.read_csv(path, dtype=str)["userid"].tolist() if path.exists() else None
    return run


@pytest.mark.parametrize("ids, expected", [
    (["007", "7", "07"], ["007", "07", "7"]), (["7", "0x1F", "31"], ["0x1F", "31", "7"]),
    (["-0", "0", "1"], ["-0", "0", "1"]), (["9223372036854775808", "1", "2"], ["1", "2", "9223372036854775808"]),
    (["1.0", "1", "2"], ["1", "1.0", "2"]), (["-5", "12", "9223372036854775807"], None)])
def test_users_are_numbers_only_where_all_are_canonical(read, ids, expected):
    for name, sign in (("log.csv", ","), ("log.tsv", "\t")):
        text = "user_id,track_id,timestamp\n" + "".join(f"{u},A,{AT}{i}\n" for i, u in enumerate(ids))
        status, _, _, users, table = read(text.replace(",", sign), name=name)
        assert status == 0 and table == expected
        assert users == (list(map(int, ids)) if expected is None else [expected.index(u) for u in ids])


def test_ids_in_two_forms_are_one_and_named(read):
    ids = ["caf\u00e9", "cafe\u0301", "x", " x"]
    text = "user_id,track_id,timestamp\n" + "".join(f"{u},{t},{AT}0\n" for u, t in zip(ids, ids, strict=True))
    status, out, _, users, table = read(text, "cafe\u0301\nx\n")
    assert status == 0 and table == ["caf\u00e9", "x"] and users == [0, 0, 1, 1]
    for what in ("users", "tracks"):
        assert (f"log.csv, {what}: 2 ids are compared in another form than they are written in (Unicode NFC, without "
                r"blanks around them): 'cafe\u0301' as 'caf\xe9', ' x' as 'x'") in out
    status, out, _, users, table = read(f"user_id,track_id,timestamp\n 7,A,{AT}0\n7,B ,{AT}0\n")
    assert status == 0 and users == [7, 7] and table is None and "' 7' as '7'" in out and "'B ' as 'B'" in out


def test_an_empty_user_is_named_among_texts_too(read):
    for user in ("", " "):
        status, _, err, left, _ = read(f"user_id,track_id,timestamp\nx,A,{AT}0\n{user},A,{AT}0\n")
        assert status == 1 and "line 3: user_id is empty" in err and left == []


@pytest.mark.parametrize("rows, sentence", [
    (f'1,A,{AT}0,"12 inch\n2,B,{AT}0,fine\n', "line 2: the quoted cell that begins there never ends"),
    (f'1,A,{AT}0,"12 inch\n2,B,{AT}0,fine\n2,A,{AT}0,7" mix\n', "line 2: the row has text behind the closing quote"),
    (f'1,A,{AT}0,a\n1,A,{AT}0,"12 inch\n2,B,{AT}0,7"\n', "line 3: the row has a quoted cell over 2 lines"),
    (f'1,A,{AT}0,"two\nlines"\n2,B,{AT}0\n', "line 4: 4 cells expected (user_id, track_id, timestamp, name), but "
     "there are 3"),
    (f"1,A,{AT}0,x\n2,B,{AT}0,x,y\n", "line 3: 4 cells expected"),
])
@pytest.mark.parametrize("block", [20, 1 << 20])
def test_rows_that_a_quote_swallows_are_named(read, monkeypatch, rows, sentence, block):
    monkeypatch.setattr(log, "BLOCK", block)
    status, _, err, left, _ = read(HEAD + rows)
    assert status == 1 and sentence in err and err.count("\n") == 1 and left == []


@pytest.mark.parametrize("block", [20, 1 << 20])
def test_quoted_cells_are_read_however_the_log_is_cut(read, monkeypatch, block):
    monkeypatch.setattr(log, "BLOCK", block)
    rows = f'1,A,{AT}0,"two\nlines, and a comma"\n2,"B",{AT}1,"say ""x"""\n3,C,{AT}2,7" mix\n'
    status, out, err, users, _ = read(HEAD + rows)
    assert status == 0, err
    assert users == [1, 2, 3] and out.startswith("3 plays of 3 tracks by 3 users")


# --------------------------------------------------------------------------- lists of tracks

@pytest.mark.parametrize("text", ["idx,trackid\n0,b\n1,a\n", "0,b\n1,a\n", '"idx","trackid"\n"0","b"\n"1","a"\n'])
def test_track_lists_with_idx_keep_their_order(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    assert log_blocks.read_track_list(tmp_path / "t.csv") == ["b", "a"]


@pytest.mark.parametrize("text", ["b\na\n", "trackid\nb\na\n", "id\r\nb\r\na\r\n"])
def test_bare_track_lists_are_sorted(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    assert log_blocks.read_track_list(tmp_path / "t.txt") == ["a", "b"]


@pytest.mark.parametrize("text, sentence", [
    ("idx,trackid\n0,a\n1,b\n2,a\n3,a\n", "has 2 duplicates, such as a; every id must stand once"),
    ("b\na\nb\n", "has 1 duplicates, such as b"),
    ("idx,trackid\n0,a\n2,b\n", "idx must count 0, 1, 2"),
    ("idx,trackid\n0,a\n1,b,c\n", "its lines have 2 or 3 cells (line 3: 3); put an id that holds a comma in"),
    ("idx,trackid\n0,a\n1,\n", "has an empty id"),
    ("idx,trackid\n", "has no ids"),
    ("", "has no ids"),
    ("caf\u00e9\ncafe\u0301\n", "'caf\\xe9' and 'cafe\\u0301' differ only in their Unicode form"),
    ("a\na \n", "'a' and 'a ' differ only in their Unicode form or in blanks around them"),
    ('"a\nb\nc\n', "line 3: stray quote or damaged text (unexpected end of data)"),
    ('a\n"b\nc"\n', "a quoted id ends in line 3 and begins above it"),
    ('"a"b\nc\n', "line 1: stray quote"),
])
def test_bad_track_lists(world, command, text, sentence):
    folder, _ = world
    (folder / "bad.csv").write_text(text)
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "bad.csv",
                             "--workdir", folder / "w")
    assert status == 1 and sentence in err and err.count("\n") == 1
    assert not (folder / "w" / "plays.pqt").exists()


@pytest.mark.parametrize("text, listed, out, err", [
    ("song_id\nB\nA\n", ["A", "B"], "t.txt: its first line, song_id, is taken as a header", ""),
    ("item_id:token\nB\nA\n", ["A", "B"], "its first line, item_id:token, is taken as a header", ""),
    ("row,isrc\n0,B\n1,A\n", ["B", "A"], "its first line, row,isrc, is taken as a header", ""),
    ("my_songs\nB\nA\n", ["A", "B", "my_songs"], "", "warning: .*its first line, 'my_songs', is taken as a track"),
    ("B\nA\n", ["A", "B"], "", ""), ("trackid\nB\nA\n", ["A", "B"], "", "")])
def test_the_header_of_a_track_list_is_a_header_or_named(tmp_path, capsys, text, listed, out, err):
    (tmp_path / "t.txt").write_text(text)
    assert log_blocks.read_track_list(tmp_path / "t.txt") == listed
    said = capsys.readouterr()
    assert (out in said.out if out else not said.out) and (re.search(err, said.err) if err else not said.err)


def test_no_track_list_yet(world, command):
    folder, _ = world
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--workdir", folder / "w")
    assert status == 2 and "--tracks" in err


# --------------------------------------------------------------------------- bad logs

@pytest.mark.parametrize("text, sentence", [
    ("", "is empty"),
    ("user_id\n1\n2\n", "has no column track_id, timestamp; its first line must name"),
    ("user_id\ttrack_id\ttimestamp\n", "has no plays"),
    ("user_id\ttrack_id\ttimestamp\ttimestamp\n1\ttrack001\t2020-01-01\t2021-01-01\n",
     "has two columns of the name timestamp; rename the one that is not to be read"),
    ('user_id,track_id,"user_id",timestamp\n1,track001,2,2020-01-01\n', "has two columns of the name user_id"),
    ("1\ttrack001\t2020-01-01 00:00:00\n", "has no column user_id, track_id, timestamp"),
    ("user_id\ttrack_id\ttimestamp\n1\ttrack001\t2020-01-01 00:00:00\n2\ttrack001\tyesterday\n",
     "line 3: timestamp 'yesterday' is no time like 2019-02-20 13:45:10"),
    ("user_id\ttrack_id\ttimestamp\n1\ttrack001\t2020-02-30 00:00:00\n", "line 2: timestamp '2020-02-30 00:00:00'"),
    ("user_id\ttrack_id\ttimestamp\n1\ttrack001\t1577836800\n", "line 2: timestamp '1577836800' is no time"),
    ("user_id\ttrack_id\ttimestamp\n1\ttrack001\t\n", "line 2: timestamp '' is no time"),
    ("user_id\ttrack_id\ttimestamp\n\ttrack001\t2020-01-01\n", "line 2: user_id is empty"),
    ("user_id\ttrack_id\ttimestamp\n1\ttrack001\n", "line 2: 3 cells expected (user_id, track_id, timestamp), "
     "but there are 2"),
    ("user_id\ttrack_id\ttimestamp\n1\tnobody\t2020-01-01\n", "none of the 1 plays of"),
])
def test_bad_logs(tmp_path, world, command, text, sentence):
    folder, expected = world
    good = ("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv", "--workdir", folder / "w")
    command(*good)
    before = files(folder / "w")
    (folder / "bad.tsv").write_text(text)
    status, _, err = command("music4all", "--log", folder / "bad.tsv", "--workdir", folder / "w")
    assert status == 1 and sentence in err and "Traceback" not in err
    assert files(folder / "w") == before and command(*good)[1].endswith("(--overwrite does it again)\n")


def test_the_line_of_a_late_error_is_right(world, monkeypatch, command):
    folder, _ = world
    monkeypatch.setattr(log, "BLOCK", 2000)
    lines = (folder / "log.tsv").read_text().splitlines()
    lines[3456] = "1\ttrack001\t2020-13-01 00:00:00"   # the file's line 3457, as editors count
    (folder / "log.tsv").write_text("\n".join(lines))
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w")
    assert status == 1 and "line 3457: timestamp '2020-13-01 00:00:00'" in err


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress])
@pytest.mark.parametrize("spoil", ["cut", "flip"])
def test_damaged_archives(world, monkeypatch, command, pack, spoil):
    folder, _ = world
    monkeypatch.setenv("PATH", "")   # Python's own readers
    packed = bytearray(pack((folder / "log.tsv").read_bytes()))
    if spoil == "cut":
        packed = packed[:-1000]
    else:
        packed[len(packed) // 2] ^= 0xFF
    (folder / "log.packed").write_bytes(packed)
    status, _, err = command("music4all", "--log", folder / "log.packed", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w")
    assert status == 1 and ("is damaged" in err or "no time like" in err or "cells expected" in err)
    assert not (folder / "w" / "plays.pqt").exists()


def test_a_log_that_is_no_text(tmp_path, command):
    (tmp_path / "log.tsv").write_bytes(os.urandom(5000).replace(b"\n", b"."))
    (tmp_path / "t.csv").write_text("a\n")
    status, _, err = command("music4all", "--log", tmp_path / "log.tsv", "--tracks", tmp_path / "t.csv",
                             "--workdir", tmp_path / "w")
    assert status == 1 and "is no UTF-8 text; unpack it" in err and err.count("\n") == 1


# --------------------------------------------------------------------------- usage, again, killed, full

@pytest.mark.parametrize("argv, sentence", [
    (["music4all", "--log", "nowhere.tsv"], "no log at nowhere.tsv"),
    (["music4all"], "required: --log"),
    (["nothing"], "invalid choice: 'nothing'"),
    ([], "required: DATASET"),
    (["music4all", "--log", "x", "--memory", "lots"], "--memory lots is not a memory size"),
    (["music4all", "--log", "x", "--memory", "10MB"], "at least 512MB is required"),
])
def test_usage(tmp_path, command, argv, sentence):
    status, _, err = command(*argv, *(["--workdir", tmp_path / "w"] if argv[:1] == ["music4all"] else []))
    assert status == 2 and sentence in err


def test_amounts_of_memory():
    assert stage.memory_bytes("2GB") == stage.memory_bytes("2g") == stage.memory_bytes("2048 MiB") == 2 * 2**30
    assert stage.memory_bytes(3 * 2**30) == 3 * 2**30 and stage.memory_bytes("1.5GiB") == 1.5 * 2**30


def test_the_engine_leaves_room_for_what_it_does_not_count():
    assert stage.engine_memory(512 << 20) == 256 << 20 and stage.engine_memory(1 << 30) == 768 << 20
    assert stage.engine_memory(6 << 30) == pytest.approx(5.4 * 2**30)      # 5.75 GiB took 6.04
    assert stage.engine_memory(1 << 20) == 128 << 20


def test_an_engine_keeps_no_files_and_spills_in_time(tmp_path):
    """349 million pairs were not sorted within 5.4 GiB, as DuckDB's own cache and a sort filled the memory."""
    with stage.session(256 << 20, tmp_path / "spill") as con:
        held = dict(con.execute("select name, value from duckdb_settings()").fetchall())
    assert held.get("enable_external_file_cache", "false") == "false"
    assert held.get("operator_memory_limit", "64.0 MiB") == "64.0 MiB"
    assert held["memory_limit"] == "256.0 MiB" and held["temp_directory"] == str(tmp_path / "spill")


def test_finished_work_is_skipped_and_changed_work_done_again(world, command):
    folder, expected = world
    run = ("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv", "--workdir", folder / "w")
    command(*run)
    made = (folder / "w" / "plays.pqt").stat().st_mtime_ns
    assert "finished before, skipped" in command(*run)[1]
    assert (folder / "w" / "plays.pqt").stat().st_mtime_ns == made
    assert "skipped" not in command(*run, "--overwrite")[1]
    (folder / "w" / "plays.pqt").unlink()
    assert "plays.pqt missing or modified" in command(*run)[1]
    same(plays(folder / "w"), expected)
    with open(folder / "log.tsv", "a") as f:
        f.write("999\ttrack000\t2021-01-01 00:00:00\n")
    assert "done again, because log changed" in command(*run)[1]
    assert len(plays(folder / "w")) == len(expected) + 1


def test_killed_while_files_are_swapped(world, monkeypatch, command):
    folder, expected = world
    run = ("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv", "--workdir", folder / "w")
    command(*run)
    whole, swapped = os.replace, []

    def killed(source, target):
        if str(target).endswith("trackid_sorted.csv"):
            swapped.append(target)
            raise KeyboardInterrupt
        whole(source, target)
    monkeypatch.setattr(os, "replace", killed)
    assert command(*run, "--overwrite")[0] == 130 and swapped
    monkeypatch.setattr(os, "replace", whole)
    assert json.loads((folder / "w" / "dataset.json").read_text())["status"] == "writing"
    split = importlib.import_module("preprocess.1_train_test_split")
    with pytest.raises(WorkError, match="was interrupted; run 0_get_plays_pqt.py again"):
        split.main(["--protocol", "random", "--workdir", str(folder / "w")])
    assert "the last run was interrupted" in command(*run)[1]
    same(plays(folder / "w"), expected)
    assert not list((folder / "w").glob(".*.new"))


def test_two_at_once(world, command):
    folder, _ = world
    with stage.atomic_outputs(folder / "w" / "dataset.json"):
        status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                                 "--workdir", folder / "w")
    assert status == 1 and "another process is writing" in err


def test_a_file_where_the_workspace_should_be(world, command):
    folder, _ = world
    (folder / "file").write_text("mine")
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "file" / "w")
    assert status == 1 and "a folder is needed here, but a file of that name is in the way" in err
    assert (folder / "file").read_text() == "mine"


def test_full_disk(world, small_disk, command):
    folder, _ = world
    run = ("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv", "--workdir", small_disk / "w")
    assert command(*run)[0] == 0
    before = files(small_disk / "w")
    lines = (folder / "log.tsv").read_text().splitlines()
    rng = np.random.default_rng(0)
    with open(folder / "log.tsv", "w") as f:      # 200,000 plays that do not compress into a megabyte
        f.write(lines[0] + "\n")
        for u, t, s in zip(rng.integers(10**9, size=200_000), rng.integers(40, size=200_000),
                           rng.integers(10**9, size=200_000), strict=True):
            f.write(f"{u}\t{IDS[t]}\t{pd.Timestamp(int(s), unit='s')}\n")
    status, _, err = command(*run)
    assert status == 1 and "the disk is full" in err.splitlines()[-1]
    assert files(small_disk / "w") == before and not list((small_disk / "w").glob(".*.new"))


# --------------------------------------------------------------------------- the script

def test_data_sets_are_found_by_file():
    found = script.datasets()
    assert "music4all" in found and not {"log", "stage", "parts", "protocols", "log_blocks"} & set(found)
    for module in found.values():
        assert module.HELP and "\n" not in module.HELP and callable(module.add_arguments)


@pytest.mark.parametrize("style", ["file", "module"])
def test_help_imports_nothing_heavy(style):
    start = {"file": ["preprocess/0_get_plays_pqt.py"], "module": ["-m", "preprocess.0_get_plays_pqt"]}[style]
    said = subprocess.run([sys.executable, "-X", "importtime", *start, "music4all", "--help"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert "--log" in said.stdout
    loaded = {line.rsplit("|", 1)[1].strip() for line in said.stderr.splitlines() if "|" in line}
    assert not loaded & {"pyarrow", "pandas", "duckdb", "torch", "sklearn"}


def test_another_data_sets_workspace_is_left_alone(world, command):
    folder, _ = world
    write_json(folder / "w" / "dataset.json", {"name": "lastfm"})
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w", "--overwrite")
    assert status == 2 and err.count("\n") == 1 and "holds the data set 'lastfm'" in err
    assert not (folder / "w" / "plays.pqt").exists()


@pytest.mark.parametrize("row, expected", [
    (b"1\tx\xe9\t2020-01-01 00:00:00\n", "line 3: 1, x\ufffd, 2020-01-01 00:00:00 is not UTF-8 text"),
    ("1\tx\u2028y\t2020-01-01 00:00:00\n1\tx\tnever\n".encode(), "line 4: timestamp 'never' is no time"),
])
def test_the_line_of_a_bad_row_is_the_files(tmp_path, row, expected):
    (tmp_path / "log.tsv").write_bytes(b"user_id\ttrack_id\ttimestamp\n1\tx\t2020-01-01 00:00:00\n" + row)
    with pytest.raises(WorkError, match=re.escape(expected)):
        log.write_plays(tmp_path / "log.tsv", ["x"], tmp_path / "w", name="x", source="", licence="")


def test_a_plus_makes_a_user_a_text(tmp_path):
    (tmp_path / "log.tsv").write_text("user_id\ttrack_id\ttimestamp\n+5\tx\t2020-01-01\n7\tx\t2020-01-01\n")
    log.write_plays(tmp_path / "log.tsv", ["x"], tmp_path / "w", name="x", source="", licence="")
    assert (tmp_path / "w" / "userid_sorted.csv").read_text() == "idx,userid\n0,+5\n1,7\n"


def test_years_that_python_does_not_know_are_refused(tmp_path):
    (tmp_path / "log.tsv").write_text("user_id\ttrack_id\ttimestamp\n5\tx\t0000-01-01 00:00:00\n7\tx\t2020-01-01\n")
    with pytest.raises(WorkError, match="has the time 0000-01-01T00:00:00, which is outside of the years 1900 to 2200"):
        log.write_plays(tmp_path / "log.tsv", ["x"], tmp_path / "w", name="x", source="", licence="")


def test_a_log_that_grows_while_it_is_read_is_refused(world, command, monkeypatch):
    folder, _ = world
    convert = log._convert

    def growing(path, *args, **kwargs):
        counts = convert(path, *args, **kwargs)
        with open(path, "a", encoding="utf-8") as f:
            f.write("7\ttrack001\t2019-01-01 00:00:00\n")
        return counts
    monkeypatch.setattr(log, "_convert", growing)
    status, _, err = command("music4all", "--log", folder / "log.tsv", "--tracks", folder / "tracks.csv",
                             "--workdir", folder / "w")
    assert status == 1 and "changed while it was read" in err and not (folder / "w" / "plays.pqt").exists()
