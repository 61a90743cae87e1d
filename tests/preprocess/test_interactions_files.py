"""A log of several files, and what stands beside it: headers, the request of a finished workspace, ids, --items."""

import gzip
import importlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from harness import cli
from harness import ids as forms
from harness.readers import read_json
from preprocess.interactions import labels

SCRIPT = importlib.import_module("preprocess.0_get_plays_pqt")
PACKERS = {".gz": gzip.compress}


@pytest.fixture
def folder(tmp_path, capsys):
    """Write files {name: text} and read them with flags: (exit status, stdout, stderr, workspace)."""

    def run(files, *flags, log=None):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = text.encode() if isinstance(text, str) else text
            path.write_bytes(PACKERS.get(path.suffix, bytes)(content))
        logs = [str(tmp_path / name) for name in log or files]
        argv = ["interactions", "--log", *logs, "--workdir", str(tmp_path / "w"), *map(str, flags)]
        with pytest.raises(SystemExit) as end:
            cli.run(SCRIPT.main, argv)
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err, tmp_path / "w"

    return run


def ids(workdir, kind="track"):
    return pd.read_csv(workdir / f"{kind}id_sorted.csv", dtype=str, keep_default_na=False)[f"{kind}id"].tolist()


def plays(workdir):
    return pd.read_parquet(workdir / "plays.pqt")


# --------------------------------------------------------------------------- headers


HEADERS = [
    ({"1.csv": "user_id,item_id\n1,a\n", "2.csv": "item_id,user_id\nb,2\n"}, (),
     "2.csv: its header is not that of the first file: column 1 is 'item_id' where {0}/1.csv has 'user_id'"),
    ({"1.csv.gz": "user_id,item_id\n1,a\n", "2.csv.gz": "item_id,user_id\nb,2\n"}, (),
     "2.csv.gz: its header is not that of the first file: column 1 is 'item_id' where {0}/1.csv.gz has"),
    ({"1.csv": "user,item\n1,a\n", "2.csv": "user,item,count\n2,b,1\n"}, (),
     "2.csv: its header is not that of the first file: it has 3 columns where {0}/1.csv has 2"),
    ({"1.txt": "user item time\n1 a 1550000000\n", "2.txt": "user  time item\n2  1550000000 b\n"}, (),
     "2.txt: its header is not that of the first file: column 2 is 'time' where {0}/1.txt has 'item'"),
    ({"1.csv": "user,item\n1,a\n", "2.csv": "2,b\n3,c\n"}, (),
     "2.csv: its first line, '2,b', is no header, but {0}/1.csv has one ('user,item')"),
    ({"1.csv": "user,item\nx,a\n", "2.csv": "y,b\nz,c\n"}, (), "2.csv: its first line, 'y,b', is no header"),
    ({"1.csv": "user,item\n1,a\n", "2.csv": "2,b\n3,c\n"}, ("--header", "yes"), "2.csv: its first line, '2,b', is no"),
    ({"1.csv": "1,a\n", "2.csv": "user,item\n2,b\n"}, ("--user", "column1", "--item", "column2"),
     "2.csv: its first line, 'user,item', looks like a header, but {0}/1.csv has none"),
    ({"1.csv": "1,a\n", "2.csv": "wer,was\n2,b\n"}, ("--user", "column1", "--item", "column2"),
     "2.csv: its first line, 'wer,was', looks like a header"),
    ({"1.dat": "1::a::4\n", "2.dat": "user_id::item_id::rating\n2::b::3\n"}, ("--recipe", "movielens"),
     "2.dat: its first line, 'user_id::item_id::rating', looks like a header"),
    ({"1.inter": "user_id:token\titem_id:token\n1\ta\n", "2.inter": "item_id:token\tuser_id:token\nb\t2\n"},
     ("--recipe", "recbole"), "2.inter: its header is not that of the first file: column 1 is 'item_id:token'"),
]


@pytest.mark.parametrize("files, flags, sentence", HEADERS)
def test_files_of_a_log_with_different_headers_are_refused(folder, tmp_path, files, flags, sentence):
    status, _, err, w = folder(files, *flags)
    assert status == 1 and sentence.format(tmp_path) in err and err.count("\n") == 1
    assert not (w / "plays.pqt").exists()


ALIKE = [
    ({"1.csv": "user_id,item_id\n1,a\n", "2.csv": "\ufeff\"User ID\",ITEM_ID\r\n2,b\r\n"}, (), 2),
    ({"1.csv": "user,item\n1,a\n", "2.csv.gz": "user,item\n2,b\n", "3.csv": "user,item\n"}, (), 2),
    ({"1.csv": "1,a\n2,b\n", "2.csv": "3,c\n", "3.csv": "1,a\n"}, ("--user", "column1", "--item", "column2"), 4),
    ({"1.csv": "1,a\n", "2.csv": "user,item\n2,b\n"},
     ("--user", "column1", "--item", "column2", "--header", "no"), 3),
    ({"1.csv": "1,a\n", "2.csv": "2,track\n2,b\n"}, ("--user", "column1", "--item", "column2"), 3),
    ({"1.csv": "1,a\n", "2.csv": "x,b\ny,c\n"}, ("--user", "column1", "--item", "column2"), 3),
    ({"1.txt": "user item\n1 a\n", "2.txt": "  user   item\n2   b\n"}, (), 2),
    ({"1.csv": "a,b\nx,y\n", "2.csv": "a,b\nx,z\n"}, ("--user", "a", "--item", "b", "--header", "yes"), 2),
]


@pytest.mark.parametrize("files, flags, count", ALIKE)
def test_files_alike_are_read_whole(folder, files, flags, count):
    status, _, err, w = folder(files, *flags)
    assert (status, err) == (0, "") and len(plays(w)) == count


# --------------------------------------------------------------------------- the request of a finished workspace

SKIPPED, AGAIN = "finished before, skipped", "done again, because {} changed"


def test_a_change_in_one_of_two_files_of_a_name_is_seen(folder):
    files = {"a/plays.csv": "user,item\n1,x\n", "b/plays.csv": "user,item\n2,y\n"}
    assert folder(files)[0] == 0 and SKIPPED in folder(files)[1]
    status, out, _, w = folder(files | {"a/plays.csv": "user,item\n1,z\n"})
    assert status == 0 and AGAIN.format("log") in out and ids(w) == ["y", "z"]
    about = read_json(w / "dataset.json")
    assert [name for name, _ in about["request"]["log"]] == ["plays.csv", "plays.csv"]
    assert set(about["checksums"]) == {"a/plays.csv", "b/plays.csv"} and len(set(about["checksums"].values())) == 2
    assert about["source"] == "plays.csv, plays.csv"


def test_the_same_file_as_another_input_is_another_request(folder, tmp_path):
    files, beside = {"log.csv": "user,item\n1,x\n2,y\n"}, tmp_path / "only.csv"
    beside.write_text("idx,trackid\n0,x\n")
    assert folder(files, "--tracks", beside)[0] == 0 and SKIPPED in folder(files, "--tracks", beside)[1]
    status, out, _, w = folder(files, "--items", beside)
    assert status == 0 and AGAIN.format("items, tracks") in out and ids(w) == ["x", "y"]
    assert set(read_json(w / "dataset.json")["checksums"]) == {"log.csv", "only.csv"}


def test_another_order_of_the_files_is_another_request(folder):
    files = {"a.csv": "user,item\n1,x\n", "b.csv": "user,item\n1,y\n"}
    folder(files, "--in-order")
    status, out, _, w = folder(files, "--in-order", log=["b.csv", "a.csv"])
    assert status == 0 and AGAIN.format("log") in out
    assert plays(w).sort_values("timestamp").track_id.tolist() == [1, 0]


def test_names_that_tell_paths_apart():
    paths = ["/m/a/x.csv", "/m/b/x.csv", "/n/b/x.csv", "/m/y.csv", "/x.csv", "/m/a/../a/x.csv"]
    assert labels(paths) == ["a/x.csv", "m/b/x.csv", "n/b/x.csv", "y.csv", "/x.csv", "a/x.csv"]


# --------------------------------------------------------------------------- ids


def test_sql_strips_what_python_strips():
    assert set(forms.SPACES) == {c for c in map(chr, range(0x110000)) if c.isspace()}
    rng, letters = np.random.default_rng(1), [*forms.SPACES, *"ab\u540d\xe9\u200b\ufeff'"]
    texts = ["".join(rng.choice(letters, size)) for size in rng.integers(0, 6, 5_000)]
    con = duckdb.connect()
    con.register("texts", pd.DataFrame({"text": texts}))
    stripped = con.execute(f"select {forms.STRIPPED.format('text')} from texts").fetchall()
    assert [row[0] for row in stripped] == [text.strip() for text in texts]


@pytest.mark.parametrize("space", ["\t", "\xa0", "\u3000", " \x1f"])
def test_white_space_around_an_id_is_no_part_of_it(folder, tmp_path, space):
    rows = [("u", f"x{space}"), (f"{space}u", "x"), ("v", f"{space}y")]
    (tmp_path / "items.csv").write_text(f"item,title\ny{space},Y\n", encoding="utf-8")
    text = "".join(json.dumps({"user": u, "item": i}) + "\n" for u, i in rows)
    status, out, _, w = folder({"log.json": text}, "--items", tmp_path / "items.csv")
    assert status == 0 and ids(w) == ["x", "y"] and ids(w, "user") == ["u", "v"]
    assert "items: 2 ids are compared in another form" in out and "1 items of the log are described" in out


def test_a_blank_part_of_a_joined_id_is_left_out(folder):
    text = "user\tartist_name\ttrack_name\n1\tA\tB\n1\t \tC\n"
    status, _, _, w = folder({"log.tsv": text}, "--item", "artist_name + track_name")
    assert status == 0 and ids(w) == ["A - B", "C"]


@pytest.mark.parametrize("rows, sentence", [
    ([("u", "a\nb"), ("v", "c")], r"the item 'a\nb' has a line end inside"),
    ([("u", "a"), ("v\rw", "c\n")], r"the user 'v\rw' has a line end inside")])
def test_an_id_with_a_line_end_inside_is_refused(folder, rows, sentence):
    texts = {"log.json": "".join(json.dumps({"user": u, "item": i}) + "\n" for u, i in rows),
             "log.csv": "user,item\n" + "".join(f'"{u}","{i}"\n' for u, i in rows)}
    for name, flags in (("log.json", ()), ("log.csv", ("--multiline",))):
        status, _, err, w = folder({name: texts[name]}, *flags)
        assert status == 1 and sentence in err and err.count("\n") == 1 and not (w / "plays.pqt").exists()


def test_a_line_end_around_an_id_is_no_part_of_it(folder):
    status, _, _, w = folder({"log.csv": 'user,item\nu,"a\n"\nv,a\n'}, "--multiline")
    assert status == 0 and ids(w) == ["a"]


# --------------------------------------------------------------------------- --items


@pytest.mark.parametrize("column, header, found", [
    ("item", "track_id,item_id,year", None), ("item_id", "track_id,item_id,year", "y"),
    ("track_id", "artist_id,track_id,year", "y"), ("item", "artist_id,song_id,year", None),
    ("item", "song,artist,year", None), ("foo", "artist_id,foo,year", "y"), ("song", "artist,song_id,year", "y"),
    ("track", "track,item_id,year", "x")])
def test_the_ids_of_items_are_never_guessed(folder, tmp_path, column, header, found):
    """Each column holds ids of the log; found: the one that describes x=1999, None where it is refused."""
    (tmp_path / "items.csv").write_text(f"{header}\nx,y,1999\n")
    status, _, err, w = folder({"log.csv": f"user,{column}\n1,x\n2,y\n"}, "--item", column, "--items",
                               tmp_path / "items.csv")
    if found is None:
        assert status == 2 and "columns that may be the item: " in err and err.count("\n") == 1
        assert f"call the one with the log's ids {column!r} as the log does" in err and not (w / "plays.pqt").exists()
        return
    frame = pd.read_parquet(w / "items.pqt")
    assert status == 0 and frame.track_id.tolist() == [0, 1] and frame.shape == (2, 3)
    assert frame.year.fillna("").tolist() == ["1999" * (found == "x"), "1999" * (found == "y")]


def test_columns_of_items_keep_their_names_whatever_these_are(folder, tmp_path):
    (tmp_path / "items.csv").write_text("track,item_id,number,the id\nx,i7,5,q\n")
    status, _, _, w = folder({"log.csv": "user,track,artist_name\n1,x,A\n2,y,B\n"}, "--items", tmp_path / "items.csv")
    frame = pd.read_parquet(w / "items.pqt")
    assert status == 0 and frame.columns.tolist() == ["track_id", "artists", "itemid", "number", "theid"]
    assert frame.loc[0, ["itemid", "number", "theid"]].tolist() == ["i7", "5", "q"]


def test_columns_in_another_script_are_distinguished(folder, tmp_path):
    (tmp_path / "items.csv").write_text("曲,年,言語\nx,1999,ja\n", encoding="utf-8")
    status, _, err, w = folder({"log.csv": "人,曲\na,x\nb,y\n"}, "--user", "人", "--item", "曲", "--header", "yes",
                               "--items", tmp_path / "items.csv")
    assert status == 0, err
    frame = pd.read_parquet(w / "items.pqt")
    assert frame.columns.tolist() == ["track_id", "年", "言語"]
    assert frame.loc[0, ["年", "言語"]].tolist() == ["1999", "ja"]


def test_an_items_table_with_ids_alone(folder, tmp_path):
    pd.DataFrame({"item_id": ["x"]}).to_parquet(tmp_path / "items.parquet")
    status, _, _, w = folder({"log.csv": "user,item\n1,x\n2,y\n"}, "--items", tmp_path / "items.parquet")
    assert status == 0 and not (w / "items.pqt").exists()


@pytest.mark.parametrize("users, found", [
    (["12345678901234567890123", "12345678901234567890124"], None),       # more digits than a float has
    (["1", '"x"'], ["1", "x"]),
    (['"9D5ED678-FE57-BCCA-6104-08D5B10BC9C7"', '"0D5ED678-FE57-BCCA-6104-08D5B10BC9C7"'], None),
    (['"12:30"', '"08:15"'], None), (['"2019-2-3"', '"2019-2-4"'], None), (['"007"', '"7"'], None)])
def test_ids_in_json_are_the_texts_that_are_written(folder, users, found):
    lines = [f'{{"user": {user}, "item": {user}, "time": 155000000{n}}}' for n, user in enumerate(users)]
    for text in ("\n".join(lines), f"[{', '.join(lines)}]"):
        status, _, err, w = folder({"log.json": text + "\n"}, "--overwrite")
        assert status == 0, err
        assert ids(w, "user") == ids(w) == sorted(found or [user.strip('"') for user in users])
        assert sorted(plays(w).timestamp.astype("int64")) == [1550000000 * 10**6, 1550000001 * 10**6]


@pytest.mark.parametrize("name", ["log.json", "log.parquet"])
def test_a_list_that_describes_an_item_makes_no_plays(folder, tmp_path, name):
    """Neither more of them, where it has several values, nor none, where it is empty; in --items likewise."""
    frame = pd.DataFrame({"user": [1, 2, 3], "item": ["a", "b", "c"], "genres": [["rock", "pop"], [], None]})
    about = frame[["item"]].assign(styles=[["x", "y", "z"], ["w"], []], artists=[["A", "B"], ["C"], []])
    for path, table in ((tmp_path / name, frame), (tmp_path / f"items{Path(name).suffix}", about)):
        table.to_json(path, orient="records") if path.suffix == ".json" else table.to_parquet(path)
    status, _, err, w = folder({}, "--items", tmp_path / f"items{Path(name).suffix}", log=[name])
    assert status == 0, err
    assert plays(w)[["user_id", "track_id"]].to_numpy().tolist() == [[1, 0], [2, 1], [3, 2]]
    items = pd.read_parquet(w / "items.pqt")
    assert list(map(list, items.genres)) == [["rock", "pop"], [], []]
    assert list(map(list, items.artists)) == [["A", "B"], ["C"], []]
    assert items.styles.fillna("").tolist() == ["x|y|z", "w", ""]


def test_a_field_of_json_is_read_wherever_it_is_first_named(folder):
    lines = [f'{{"user": {n % 9}, "item": "i{n % 7}"}}' for n in range(30_000)]
    status, _, err, w = folder({"log.json": "\n".join([*lines, '{"user": 1, "item": "late", "title": "Last"}\n'])})
    assert status == 0, err
    assert pd.read_parquet(w / "items.pqt").title[ids(w).index("late")] == "Last"


def test_descriptions_do_not_depend_on_the_order_of_rows(folder, tmp_path):
    """Of an item's names the commonest is kept, of equally common ones the least; of its rows in --items likewise."""
    log = ["1,a,Song", "2,a,song (live)", "3,b,Other", "4,b,An other", "5,b,Other"]
    beside = ["a,1999,", "a,1998,rock", "b,,pop"]
    found = []
    for order in (1, -1):
        (tmp_path / "items.csv").write_text("\n".join(["item,year,genre", *beside[::order]]) + "\n")
        text = "\n".join(["user,item,title", *log[::order]]) + "\n"
        status, _, err, w = folder({"log.csv": text}, "--items", tmp_path / "items.csv", "--overwrite")
        assert status == 0, err
        found.append((w / "items.pqt").read_bytes())
    frame = pd.read_parquet(w / "items.pqt")
    assert frame.title.tolist() == ["Song", "Other"] and frame.year.fillna("").tolist() == ["1998", ""]
    assert list(map(list, frame.genres)) == [["rock"], ["pop"]] and found[0] == found[1]
