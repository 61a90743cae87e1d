"""Files of `user item` lines: ids, order, leave-one-out on them, a recommender, bad lines."""
import bz2
import importlib

import pyarrow.parquet as pq
import pytest

import dataset
from harness.readers import read_json
from recommenders import popularity
from tests.worlds.hetrec import get_plays, say

SPLIT = importlib.import_module("preprocess.1_train_test_split")
TEXT = "u2 b\nu2 a\nu2 c\nu2 b\n\nu1\t10\nu1 9\nu1  a\r\nu1 c\n3 a\n4 c\n4 10\n4 9\n"


def made(tmp_path, text=TEXT):
    raw = tmp_path / "data.txt"
    raw.write_text(text, newline="")
    return get_plays("pairs", "--raw", raw, workdir=tmp_path / "w")


def test_words_become_rows_in_order(tmp_path):
    w = made(tmp_path)
    assert (w / "trackid_sorted.csv").read_text() == "idx,trackid\n0,10\n1,9\n2,a\n3,b\n4,c\n"
    assert (w / "userid_sorted.csv").read_text() == "idx,userid\n0,3\n1,4\n2,u1\n3,u2\n"
    plays = pq.read_table(w / "plays.pqt").to_pandas()
    assert plays["user_id"].tolist() == [3, 3, 3, 3, 2, 2, 2, 2, 0, 1, 1, 1]
    assert plays["track_id"].tolist() == [3, 2, 4, 3, 0, 1, 2, 4, 2, 4, 0, 1]
    assert plays["timestamp"].astype("int64").diff().dropna().eq(1_000_000).all()
    told = read_json(w / "dataset.json")
    assert told["time"] == "ordinal" and told["counts"] == {"users": 4, "tracks": 5, "plays": 12}


def test_leave_one_out_takes_the_last_line_of_each_user(tmp_path):
    w = made(tmp_path)
    SPLIT.main(["--protocol", "leave-one-out", "--workdir", str(w)])
    ids = ["10", "9", "a", "b", "c"]
    parts = {p: {(int(u), ids[t]) for u, t in pq.read_table(w / "data" / f"{p}.pqt", columns=["user_id", "track_id"])
                 .to_pandas().itertuples(index=False)} for p in ("train", "val", "test")}
    assert (2, "c") in parts["test"] and (2, "a") in parts["val"] and {(2, "10"), (2, "9")} <= parts["train"]
    assert (0, "a") in parts["train"]
    assert dataset.load(w).time == "ordinal"
    popularity.main(["--workdir", str(w), "--k", "2"])
    assert list((w / "preds").glob("popularity*_test.pqt"))


def test_zeros_are_part_of_an_id_and_unicode_forms_are_not(tmp_path):
    raw = tmp_path / "data.txt"
    raw.write_text("007 caf\u00e9\n7 cafe\u0301\n07 b\n", encoding="utf-8")
    status, out, _ = say("pairs", "--raw", raw, workdir=tmp_path / "w")
    assert status == 0 and r"tracks: 1 ids are compared in another form" in out and r"'cafe\u0301' as 'caf\xe9'" in out
    w = tmp_path / "w"
    assert (w / "userid_sorted.csv").read_text() == "idx,userid\n0,007\n1,07\n2,7\n"
    assert (w / "trackid_sorted.csv").read_text(encoding="utf-8") == "idx,trackid\n0,b\n1,caf\u00e9\n"
    table = pq.read_table(w / "plays.pqt")
    assert table["user_id"].to_pylist() == [0, 2, 1] and table["track_id"].to_pylist() == [1, 1, 0]


def test_packed_files_and_a_mark_at_the_start(tmp_path):
    raw = tmp_path / "data.txt.bz2"
    raw.write_bytes(bz2.compress(b"\xef\xbb\xbfu a\nu NA\n"))
    w = get_plays("pairs", "--raw", raw, workdir=tmp_path / "w")
    assert (w / "userid_sorted.csv").read_text() == "idx,userid\n0,u\n"
    assert (w / "trackid_sorted.csv").read_text() == "idx,trackid\n0,NA\n1,a\n"


@pytest.mark.parametrize("content, sentence", [
    (b"a b\nc\n", "pair 2, 'c', is not two words"), (b"a b 5\n", "pair 1, 'a b 5', is not two words"),
    (b"a b\na b 5 6\n", "line 2 has more than two words"), (b"\n \n", "has no pairs"), (b"", "has no pairs"),
    (b"a \xff\n", "cannot be read"),
    ("a b\n\n \nu \u00a0\nv \u2003\n".encode(), r"data.txt, line 4: the item is '\xa0', which is a blank and no id"),
    ("\ufeff\r\na b\r\n\u3000 b\r\n".encode(), r"data.txt, line 3: the user is '\u3000', which is a blank"),
])
def test_other_files_are_refused_in_one_sentence(content, sentence, tmp_path):
    raw = tmp_path / "data.txt"
    raw.write_bytes(content)
    status, _, err = say("pairs", "--raw", raw, workdir=tmp_path / "w")
    assert status == 1 and sentence in err and "Traceback" not in err
    assert not (tmp_path / "w" / "plays.pqt").exists()
    status, _, err = say("pairs", "--raw", tmp_path / "none.txt", workdir=tmp_path / "w")
    assert status == 2 and "is not a file" in err
