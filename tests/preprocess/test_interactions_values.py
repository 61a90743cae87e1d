"""Cells of a log that are read as a time or an id but are none: infinity, far years, NaN, fractions."""
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.readers import read_json
from tests.worlds.logs import bring_log, ids, plays  # noqa: F401 - the fixture `bring` among them

UNKNOWN, FAR = "is no time of a known writing", "is no time between the years 1900 and 2200"
DAYS = [f"2020-01-0{n} 10:00:00" for n in range(1, 5)]


def log(*times):
    return "user,item,time\n" + "".join(f"{n},{n % 2},{time}\n" for n, time in enumerate(times))


def refused(bring, content, sentence, *flags, status=1, **kwargs):
    code, _, err, w = bring(content, *flags, **kwargs)
    assert code == status and sentence in err and err.count("\n") == 1, err
    assert not (w / "plays.pqt").exists() and not (w / "dataset.json").exists()


def parquet(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    return {"name": "log.parquet"}


# --------------------------------------------------------------------------- times


@pytest.mark.parametrize("time, sentence", [
    *((time, f"{time!r} {UNKNOWN}") for time in (
        "infinity", "-infinity", "epoch", "Epoch", "NaT", "inf", "2020-03-29T02:30:00+99:00",
        "2020-03-29T02:30:00+15:00", "Sat Feb 20 13:45:10 +9900 2019", "99999-12-31 23:59:59")),
    *((time, f"{time!r} {FAR}") for time in (
        "0001-01-01", "0000-01-01", "1899-12-31 23:59:59", "2201-01-01", "9999-12-31 23:59:59.999999"))])
def test_a_time_that_is_none_is_a_bad_row(bring, time, sentence):
    refused(bring, log(*DAYS, time), sentence)
    refused(bring, log(time, time), sentence if FAR in sentence else UNKNOWN)
    status, out, err, w = bring(log(*DAYS, time), "--bad-rows", "skip")
    assert (status, err) == (0, "") and sorted(plays(w).timestamp.astype(str)) == DAYS
    assert f"left out: 1 rows without a time between the years 1900 and 2200, such as {time!r}" in out
    assert read_json(w / "dataset.json")["counts"]["bad_times"] == 1


@pytest.mark.parametrize("value", [2**63 - 1, -2**63 + 1])
def test_the_ends_of_a_typed_timestamp_are_no_times(bring, tmp_path, value):
    times = pa.array([value, 1577836800 * 10**6]).cast(pa.timestamp("us"))
    refused(bring, None, UNKNOWN, **parquet(tmp_path, user=[1, 2], item=["a", "b"], time=times))


@pytest.mark.parametrize("time", ["1900-01-01", "2200-12-31 23:59:59", "2020-01-01 10:00:00+14:00",
                                  "2020-01-01 10:00:00-1200", "2020-01-01T10:00:00Z"])
def test_times_at_the_edges_are_read(bring, time):
    status, _, err, w = bring(log(*DAYS, time))
    assert (status, err) == (0, "") and len(plays(w)) == 5
    assert "bad_times" not in read_json(w / "dataset.json")["counts"]


def test_skipping_leaves_out_empty_times_and_words_among_unix_times(bring):
    status, out, _, w = bring(log("1577836800", "1577836801", "1577836802.5", "", "soon"), "--bad-rows", "skip")
    assert status == 0 and "left out: 2 rows without a time" in out
    assert plays(w).timestamp.max() == pd.Timestamp("2020-01-01 00:00:02.5")


def test_a_column_of_which_half_is_no_time_is_not_skipped(bring):
    refused(bring, log(DAYS[0], DAYS[1], "a", "b"), UNKNOWN, "--bad-rows", "skip")


# --------------------------------------------------------------------------- ids in columns of floats


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.list_(pa.float64())])
def test_whole_floats_are_whole_numbers(bring, tmp_path, kind):
    items = [[1.0, 7.0], [1.0]] if pa.types.is_list(kind) else [1.0, 7.0]
    users = pa.array([0.0, -0.0], pa.float64())
    log = parquet(tmp_path, user=users, item=pa.array(items, kind))
    (tmp_path / "tracks.csv").write_text("idx,trackid\n0,7\n1,1\n")
    pd.DataFrame({"item": [1.0, 7.0], "title": ["one", "seven"]}).to_parquet(tmp_path / "items.parquet")
    status, out, err, w = bring(None, "--tracks", tmp_path / "tracks.csv", "--items", tmp_path / "items.parquet", **log)
    assert (status, err) == (0, "") and ids(w) == ["7", "1"] and "another form" not in out
    assert set(plays(w).user_id) == {0} and set(plays(w).track_id) == {0, 1}
    assert pd.read_parquet(w / "items.pqt").title.tolist() == ["seven", "one"]


@pytest.mark.parametrize("value", [2.5, float("inf"), 2.0**53, -1e300])
def test_a_float_that_is_no_whole_number_is_refused(bring, tmp_path, value):
    log = parquet(tmp_path, user=["u", "v"], item=[1.0, value])
    for flags in ((), ("--bad-rows", "skip")):
        refused(bring, None, "log.parquet: item is a column of floats and holds ", *flags, **log)


def test_single_floats_round_sooner(bring, tmp_path):
    refused(bring, None, "item is a column of floats and holds 16777216.0", **parquet(
        tmp_path, user=["u"], item=pa.array([2.0**24], pa.float32())))
    assert bring(None, **parquet(tmp_path, user=["u"], item=pa.array([2.0**24 - 1], pa.float32())))[0] == 0


@pytest.mark.parametrize("name", ["log.parquet", "log.json"])
def test_nan_is_no_id(bring, tmp_path, name):
    if name == "log.json":
        (tmp_path / name).write_text('[{"user":NaN,"item":"a"},{"user":1,"item":"b"},{"user":2.0,"item":"b"}]')
    else:
        parquet(tmp_path, user=pa.array([np.nan, 1, 2], pa.float64()), item=["a", "b", "b"])
    refused(bring, None, f"{name}: user holds NaN in 1 rows, which is no id", name=name)
    status, out, _, w = bring(None, "--bad-rows", "skip", name=name)
    assert status == 0 and "left out: 1 rows without a user or an item" in out
    assert sorted(plays(w).user_id) == [1, 2] and ids(w) == ["b"]


def test_the_text_nan_is_an_id(bring):
    status, _, _, w = bring('{"user":"NaN","item":"a"}\n{"user":"x","item":"b"}\n', name="log.json")
    assert status == 0 and ids(w, "user") == ["NaN", "x"]


# --------------------------------------------------------------------------- files


@pytest.mark.parametrize("second", ["user", "USER"])
def test_two_columns_of_a_parquet_with_one_name_are_refused(bring, tmp_path, second):
    pq.write_table(pa.table([[1], [2], ["a"]], names=["user", second, "item"]), tmp_path / "log.parquet")
    refused(bring, None, "log.parquet: two of its columns are called 'user'", name="log.parquet")


@pytest.mark.parametrize("flags", [(), ("--bad-rows", "skip")])
def test_a_damaged_parquet_advises_no_flag(bring, tmp_path, flags):
    pq.write_table(pa.table({"user": np.arange(5000), "item": np.arange(5000) * 7919 % 5003}), tmp_path / "log.parquet")
    data = bytearray((tmp_path / "log.parquet").read_bytes())
    data[40:2000] = bytes(1960)
    refused(bring, bytes(data), "log.parquet cannot be read to its end (", *flags, name="log.parquet")
    code, _, err, _ = bring(bytes(data), *flags, name="log.parquet")
    assert code == 1 and "--bad-rows" not in err


# --------------------------------------------------------------------------- floats in texts


@pytest.mark.parametrize("content", [
    "user,item\n1.0,5.0\n2.0,6.0\n,6.0\n", "user,item\n1.0,5\nnan,5\n 2 ,6.0\n", "user,item\n1,5\n2,6\nNaN,6\n",
    '{"user":"1.0","item":"5"}\n{"user":2,"item":"6."}\n{"user":"nan","item":"6"}\n'])
def test_a_column_of_texts_that_was_one_of_floats(bring, content):
    name = "log.json" if content[0] == "{" else "log.csv"
    sentence = "holds NaN in 1 rows" if "nan" in content.lower() else "1 of 3 rows have no user"
    refused(bring, content, sentence, name=name)
    status, out, _, w = bring(content, "--bad-rows", "skip", name=name)
    assert status == 0 and "left out: 1 rows without a user or an item" in out
    assert sorted(plays(w).user_id) == [1, 2] and ids(w) == ["5", "6"] and not (w / "userid_sorted.csv").exists()


def test_floats_in_one_file_of_a_log_and_whole_numbers_in_the_next_are_the_same_users(bring, tmp_path):
    for n, user in enumerate(("1.0", "1")):
        (tmp_path / f"{n}.csv").write_text(f"user,item\n{user},a\n{user},b\n")
    status, _, _, w = bring(None, "--log", str(tmp_path / "0.csv"), str(tmp_path / "1.csv"))
    assert status == 0 and plays(w).user_id.tolist() == [1] * 4


@pytest.mark.parametrize("other", ["u7", "2.5", "1e5"])
def test_whole_floats_beside_other_ids_are_refused(bring, other):
    sentence = f"user holds '1.0', a whole number written as a float, beside {other!r}, which is no whole number"
    for rows in (f"1.0,a\n{other},b\n", f"{other},b\n1.0,a\n2,a\n"):
        refused(bring, "user,item\n" + rows, f"log.csv: {sentence}")


def test_names_may_look_like_floats(bring):
    status, _, _, w = bring("user,artist name,track name\n1,2.0,nan\n2,The 1975,1.0\n3,nan,1\n",
                            "--item", "artist name + track name")
    assert status == 0 and ids(w) == ["2.0 - nan", "The 1975 - 1.0", "nan - 1"]
    status, _, _, w = bring("user,artist name\n1,2.0\n2,2\n3,nan\n4,x\n", "--item", "artist name", "--overwrite")
    assert status == 0 and ids(w) == ["2", "2.0", "nan", "x"]
    status, _, _, w = bring("user,item\nu1,1.1\nu2,nan\n", "--overwrite")
    assert status == 0 and ids(w) == ["1.1", "nan"]


def test_parts_of_an_id_and_the_table_of_items_may_be_floats(bring, tmp_path):
    (tmp_path / "items.csv").write_text("item,title\n1.0,one\n3.0,three\n")
    status, _, _, w = bring("user,item\n7,1\n8,3\n", "--items", tmp_path / "items.csv")
    assert status == 0 and pd.read_parquet(w / "items.pqt").title.tolist() == ["one", "three"]
    text = "user,disc,place\n" + "7,1.0,2\n8,3, 4.0\n" * 10 + "9\n"
    status, out, _, w = bring(text, "--item", "disc + place", "--overwrite", "--bad-rows", "skip")
    assert status == 0 and ids(w) == ["1 - 2", "3 - 4"] and "left out: 1 rows that do not parse" in out


def test_plays_are_added_up_and_rows_are_rows(bring):
    status, out, _, w = bring("user,item,count\n1,a,3\n1,a,4\n2,b,9000000000000\n")
    assert status == 0 and "9000000000007 plays in 3 rows, 2 distinct pairs of 2 users and 2 items\n" in out
    assert "1 rows repeat a pair" in out and "--protocol random --workdir" in out
    counts = read_json(w / "dataset.json")["counts"]
    assert (counts["log_rows"], counts["rows"], counts["plays"], counts["pairs"]) == (3, 3, 9_000_000_000_007, 2)
    status, out, _, w = bring("user,item\n1,a\n2,b\n", "--overwrite")
    assert "\n2 plays, 2 distinct pairs" in out and read_json(w / "dataset.json")["counts"]["rows"] == 2


@pytest.mark.parametrize("header, flags, sentence", [
    ("rate", ("--min-rating", "4"), "--min-rating needs a rating column; name it with --rating"),
    ("rating", ("--min-rating", "4", "--rating", "none"), "--min-rating needs a rating column; name it with --rating"),
    ("rating", ("--timezone", "Europe/Vienna"), "--timezone needs a column of times that is read")])
def test_a_flag_about_a_column_that_is_not_read_is_refused(bring, header, flags, sentence):
    status, _, err, w = bring(f"user,item,{header}\n1,a,5\n", *flags)
    assert status == 2 and sentence in err and err.count("\n") == 1 and not (w / "plays.pqt").exists()
    assert bring("user,item,rate\n1,a,5\n1,b,2\n", "--min-rating", "4", "--rating", "rate")[0] == 0


@pytest.mark.parametrize("flag", ["--items", "--tracks"])
def test_a_file_beside_the_log_that_is_none_is_a_wrong_command_line(bring, tmp_path, flag):
    for path in (tmp_path / "nowhere.csv", tmp_path):
        refused(bring, "user,item\n1,a\n", f"{flag} {path} is no file", flag, path, status=2)
