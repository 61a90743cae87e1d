"""Logs of other shapes than the usual: columns without a name, delimiters inside cells, line ends, types, packing."""
import datetime
import gzip
import hashlib
import importlib
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import cli
from harness.readers import read_json

SCRIPT = importlib.import_module("preprocess.0_get_plays_pqt")
LOG = "user_id,track_id,timestamp\n1,10,1500000000\n1,11,1500000100\n2,10,1500000200\n"


@pytest.fixture
def read(tmp_path, capsys):
    """Read the files of tmp_path with these names: (exit status, stdout, stderr, workspace)."""
    def run(names, *flags):
        argv = ["interactions", "--log", *(str(tmp_path / name) for name in names), "--workdir", str(tmp_path / "w x"),
                *map(str, flags)]
        with pytest.raises(SystemExit) as end:
            cli.run(SCRIPT.main, argv)
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err, tmp_path / "w x"
    return run


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path.name


def pairs(workdir):
    """[(user, track)] by the ids of the log."""
    plays = pd.read_parquet(workdir / "plays.pqt")
    tracks = pd.read_csv(workdir / "trackid_sorted.csv", dtype=str)["trackid"]
    path = workdir / "userid_sorted.csv"
    users = pd.read_csv(path, dtype=str)["userid"] if path.exists() else None
    names = [str(u) if users is None else users[u] for u in plays["user_id"]]
    return sorted(zip(names, tracks[plays["track_id"]], strict=True))


EXPECTED = [("1", "10"), ("1", "11"), ("2", "10")]


@pytest.mark.parametrize("text", [
    ",user_id,track_id,timestamp\n0,1,10,1500000000\n1,1,11,1500000100\n2,2,10,1500000200\n",       # to_csv of pandas
    "user_id,track_id,timestamp,\n1,10,1500000000,\n1,11,1500000100,\n2,10,1500000200,\n",
    ",,user_id,track_id\n0,x,1,10\n1,y,1,11\n2,z,2,10\n"])
def test_columns_without_a_name_are_left_alone(read, tmp_path, text):
    status, out, err, workdir = read([write(tmp_path / "log.csv", text)])
    assert (status, err) == (0, "") and pairs(workdir) == EXPECTED
    assert "not read: column " in out


def test_a_table_of_items_may_have_an_index_and_lists_with_semicolons(read, tmp_path):
    write(tmp_path / "items.csv", ",track_id,title,genres\n0,10,A,rock;pop\n1,11,B,jazz;folk\n")
    status, _, err, workdir = read([write(tmp_path / "log.csv", LOG)], "--items", tmp_path / "items.csv")
    assert (status, err) == (0, "")
    items = pd.read_parquet(workdir / "items.pqt")
    assert [list(row) for row in items["genres"]] == [["rock", "pop"], ["jazz", "folk"]]


@pytest.mark.parametrize(("text", "flags", "expected"), [
    ("user_id,track_id,genres\n1,10,rock;pop\n1,11,a;b\n2,10,c;d\n", (), EXPECTED),
    ("1,s;10,1\n1,s;11,2\n2,s;10,1\n", ("--recipe", "triplets"), [("1", "s;10"), ("1", "s;11"), ("2", "s;10")]),
    ("user_id,track_id\n1,a::10\n1,a::11\n2,a::10\n", (), [("1", "a::10"), ("1", "a::11"), ("2", "a::10")]),
    ("user_id,track_id,title\n1,10,\"x\ty\"\n1,11,\"p\tq\"\n2,10,\"x\ty\"\n", (), EXPECTED),
    ("user_id;track_id;count\n1;10;1,5\n1;11;2,5\n2;10;1,5\n", ("--count", "none"), EXPECTED),
    ("1\t10\ta, b, c, d\n1\t11\te, f, g, h\n2\t10\ta, b, c, d\n",
     ("--header", "no", "--user", "column1", "--item", "column2"), EXPECTED),
    ("1,10,a|b|c|d\n1,11,e|f|g|h\n2,10,a|b|c|d\n",
     ("--header", "no", "--user", "column1", "--item", "column2"), EXPECTED)])
def test_what_stands_inside_of_cells_delimits_none(read, tmp_path, text, flags, expected):
    status, _, err, workdir = read([write(tmp_path / "log.csv", text)], *flags)
    assert (status, err) == (0, "") and pairs(workdir) == expected


@pytest.mark.parametrize("text", [LOG.replace("\n", "\r\n", 1), LOG.replace("\n", "\r\n").replace("\r\n", "\n", 1)])
def test_lines_may_end_in_two_ways(read, tmp_path, text):
    status, _, err, workdir = read([write(tmp_path / "log.csv", text)])
    assert (status, err) == (0, "") and pairs(workdir) == EXPECTED


@pytest.mark.parametrize("name", ["log.csv.gz", "log.csv.zst", "log.csv.bz2"])
def test_an_ending_of_packed_files_does_not_make_a_text_packed(read, tmp_path, name):
    assert read([write(tmp_path / name, LOG)])[0] == 0


def test_packed_files_by_their_bytes(read, tmp_path):
    status, _, _, workdir = read([write(tmp_path / "log.csv", gzip.compress(LOG.encode()))])
    assert status == 0 and pairs(workdir) == EXPECTED


def test_the_same_rows_in_another_order_give_the_same_bytes(read, tmp_path):
    rows = [f"{user},{track},{count}" for user in range(40) for track in range(30) for count in (3, 1, 2)]
    digests = set()
    for turned in (rows, rows[::-1]):
        status, *_, workdir = read([write(tmp_path / "log.csv", "\n".join(["user_id,track_id,count", *turned]) + "\n")],
                                   "--overwrite")
        assert status == 0
        digests.add(hashlib.sha256((workdir / "plays.pqt").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert read_json(workdir / "dataset.json")["plays_checksum"] == digests.pop()


def test_json_with_a_byte_order_mark(read, tmp_path):
    rows = json.dumps([{"user_id": 1, "track_id": 10}, {"user_id": 1, "track_id": 11}, {"user_id": 2, "track_id": 10}])
    status, _, err, workdir = read([write(tmp_path / "log.json", b"\xef\xbb\xbf" + rows.encode())])
    assert (status, err) == (0, "") and pairs(workdir) == EXPECTED
    status, _, err, _ = read([write(tmp_path / "log.json", "{}")])
    assert status == 1 and "has no json objects with fields" in err


def test_texts_of_a_parquet_file_that_does_not_say_so(read, tmp_path):
    pq.write_table(pa.table({"user_id": pa.array([b"\xc3\xa9", b"b"]), "track_id": pa.array([b"x", b"y"])}),
                   tmp_path / "log.parquet")
    status, _, _, workdir = read(["log.parquet"])
    assert status == 0 and pairs(workdir) == [("b", "y"), ("é", "x")]


MOMENT = [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2)]


def refused_tables():
    """(tables by file name, what is said) of parquet and json that cannot be read as values."""
    yield {"log.parquet": pa.table({"user_id": [1, 2], "track_id": [{"id": 1}, {"id": 2}]})}, "holds objects"
    yield {"log.parquet": pa.table({"user_id": [1, 2], "track_id": [[[1]], [[2]]]})}, "holds lists"
    yield {"log.parquet": pa.table({"user_id": [1, 2], "track_id": [1, 2],
                                    "timestamp": pa.array([1.5e9, 1.6e9], pa.float32())})}, "32-bit floats"
    zoned = pa.table({"user_id": [1, 2], "track_id": [1, 2], "timestamp": pa.array(MOMENT, pa.timestamp("s", "UTC"))})
    naive = pa.table({"user_id": [1, 2], "track_id": [3, 4], "timestamp": pa.array(MOMENT, pa.timestamp("s"))})
    yield {"a.parquet": zoned, "b.parquet": naive}, "has a time zone in"


@pytest.mark.parametrize(("tables", "says"), list(refused_tables()), ids=lambda x: x if isinstance(x, str) else "")
def test_types_that_hold_no_plain_values_are_named(read, tmp_path, tables, says):
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name)
    status, _, err, workdir = read(list(tables))
    assert status == 1 and says in err and err.count("\n") == 1 and not (workdir / "plays.pqt").exists()


def test_objects_of_json_are_no_ids(read, tmp_path):
    rows = ['{"user": 1, "track": {"id": 7, "name": "x"}}', '{"user": 2, "track": {"name": "x", "id": 7}}']
    status, _, err, _ = read([write(tmp_path / "log.jsonl", "\n".join(rows))])
    assert status == 1 and "track, the item, holds objects with fields of their own" in err


def test_what_is_not_read_is_named_and_times_by_their_look(read, tmp_path):
    text = "listener,song,heard_at,note\nu,s,2020-01-01 10:00:00,x\nv,s,2020-01-02 10:00:00,y\n"
    status, out, _, workdir = read([write(tmp_path / "log.csv", text)], "--user", "listener", "--item", "song")
    assert status == 0 and "not read: heard_at (it holds times: --time heard_at)\n  not read: note\n" in out
    assert f"--workdir '{workdir}'" in out      # a blank in the name: the command can be typed as it is printed


def test_a_table_of_users_becomes_users_pqt(read, tmp_path):
    """By the ids of the log, whatever their order; numbers are numbers, and a user without a line has nothing."""
    write(tmp_path / "users.csv", "age,Country,member since,user_id\n40,AT,2011-02-03,b\n,DE,,a\n30,FR,2012-01-01,zz\n")
    log = write(tmp_path / "log.csv", "user_id,track_id\na,1\nb,2\nc,3\n")
    status, out, err, workdir = read([log], "--users", tmp_path / "users.csv")
    assert (status, err) == (0, "") and "users: 2 users of the log are described in users.csv" in out
    users = pd.read_parquet(workdir / "users.pqt")
    assert users["user_id"].tolist() == [0, 1, 2] and users["age"].dropna().tolist() == [40]
    assert users["country"].fillna("").tolist() == ["DE", "AT", ""] and users["age"].dtype.kind in "if"
    assert users["membersince"].fillna("").tolist() == ["", "2011-02-03", ""]
    assert read([log], "--overwrite")[0] == 0 and not (workdir / "users.pqt").exists()
    status, _, err, _ = read([write(tmp_path / "other.csv", "user_id,track_id\nx,1\n")], "--users",
                             tmp_path / "users.csv", "--overwrite")
    assert status == 1 and "none of its ids (column user_id) is one of the log's users" in err


def test_a_column_of_numbers_and_texts_is_one_of_texts(read, tmp_path):
    write(tmp_path / "users.csv", "user_id,age,score,zip,mood\n1,40,1.5,00123,nan\n2,old,2,99999,1\n")
    status, _, _, workdir = read([write(tmp_path / "log.csv", LOG)], "--users", tmp_path / "users.csv")
    users = pd.read_parquet(workdir / "users.pqt")
    assert status == 0 and users["age"].tolist() == ["40", "old"] and users["score"].tolist() == [1.5, 2.0]
    assert users["zip"].tolist() == ["00123", "99999"] and users["mood"].tolist() == ["nan", "1"]


def test_a_table_of_users_made_by_hand_stays(read, tmp_path):
    log = write(tmp_path / "log.csv", LOG)
    assert read([log])[0] == 0
    made = tmp_path / "w x" / "users.pqt"
    pd.DataFrame({"user_id": [1, 2], "age": [30, 40]}).to_parquet(made)
    assert read([log], "--licence", "mine")[0] == 0 and made.exists()
