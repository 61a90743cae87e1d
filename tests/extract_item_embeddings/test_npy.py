"""Vectors of one's own, in every form that is read, through the command line."""
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset
from harness.errors import UsageError, WorkError
from harness.files import checksum, write_text
from tests.conftest import ROOT
from tests.worlds.vectors import (
    KEYS,
    ORDER,
    VALUES,
    check,
    frame,
    made,
    refused,
    run,
    workspace,  # noqa: F401 - a fixture
)

# --------------------------------------------------------------------------- every form

def ids_lines(folder):
    (folder / "ids").write_text("\n".join(KEYS) + "\n")
    return folder / "ids"


def ids_csv(folder):
    pd.DataFrame({"idx": range(4), "trackid": KEYS}).to_csv(folder / "ids.csv", index=False)
    return folder / "ids.csv"


def ids_npy(folder):
    np.save(folder / "ids.npy", np.array(KEYS))
    return folder / "ids.npy"


@pytest.mark.parametrize("ids", [ids_lines, ids_csv, ids_npy])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_matrix_and_its_ids(work, tmp_path, ids, dtype):
    np.save(tmp_path / "m.npy", VALUES.astype(dtype))
    run(work, "--file", tmp_path / "m.npy", "--ids", ids(tmp_path), "--about", "my model, layer 3", "--licence", "CC0")
    about = check(work)
    assert (about["about"], about["licence"], about["backend"]) == ("my model, layer 3", "CC0", "given")
    assert about["source_checksum"].split()[0] == checksum(tmp_path / "m.npy")


def test_a_matrix_in_the_order_of_the_workspace(work, tmp_path):
    np.save(tmp_path / "m.npy", np.arange(10).reshape(5, 2))
    run(work, "--file", tmp_path / "m.npy", "--ids", work / "trackid_sorted.csv")
    values, about = made(work)
    assert values.tolist() == np.arange(10).reshape(5, 2).tolist() and about["failed"] == {}
    assert dataset.open_embedding(work, "mine", 5, about["track_checksum"]).shape == (5, 2)


@pytest.mark.parametrize("arrays", [{"ids": np.array(KEYS), "vectors": VALUES}, dict(zip(KEYS, VALUES, strict=True))])
def test_npz(work, tmp_path, arrays):
    np.savez(tmp_path / "m.npz", **arrays)
    run(work, "--file", tmp_path / "m.npz")
    check(work)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)])
def test_parquet_of_lists(work, tmp_path, kind):
    table = pa.table({"id": KEYS, "words": ["x"] * 4, "vector": pa.array(VALUES.tolist(), kind)})
    pq.write_table(table, tmp_path / "m.pqt")
    run(work, "--file", tmp_path / "m.pqt")
    assert check(work)["columns_left_out"] == ["words"]


def test_tables_of_numbers(work, tmp_path):
    frame().to_parquet(tmp_path / "m.parquet")
    run(work, "--file", tmp_path / "m.parquet")
    check(work)
    for name, options in (("m.csv", {}), ("m.tsv", {"sep": "\t"}), ("m.csv.gz", {}), ("m.tsv.bz2", {"sep": "\t"})):
        frame().to_csv(tmp_path / name, index=False, **options)
        run(work, "--file", tmp_path / name, "--overwrite")
        assert check(work)["keys"] == "track ids"


# what pandas and R write beside the vectors, and further keys: (column, whether it is the index of the frame)
BESIDE = [(None, True), ("Unnamed: 0", False), ("index", False), ("idx", False), ("track_id", False), ("id", False)]


@pytest.mark.parametrize("name, indexed", BESIDE)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_row_numbers_and_further_keys_are_no_dimensions(work, tmp_path, capsys, name, indexed, suffix):
    table = frame().set_index(pd.Index([7, 8, 9, 10]))
    if not indexed:
        table.insert(0, name, table.index)
    if suffix == "csv":
        table.to_csv(tmp_path / "mine.csv", index=indexed)
    else:
        table.to_parquet(tmp_path / "mine.parquet", index=indexed)
    run(work, "--file", tmp_path / f"mine.{suffix}")
    unnamed = "" if suffix == "csv" else "__index_level_0__"
    assert check(work)["columns_left_out"] == [unnamed if indexed else name]
    assert "1 columns that hold no values of the vectors are left out" in capsys.readouterr().err


@pytest.mark.parametrize("weights", [[.5, 0, 0, .25], [0, 0, 0, 0]])
def test_a_word_called_index_is_a_dimension(work, tmp_path, weights):
    pd.DataFrame({"trackid": KEYS, "index": weights, "other": VALUES[:, 0]}).to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv")
    assert np.array_equal(made(work)[0][ORDER, 0], np.float32(weights)) and made(work)[1]["dim"] == 2


@pytest.mark.parametrize("values", [[["loud"], ["soft"]], [[[1.0, 2.0]], [[3.0, 4.0]]]])
def test_lists_that_are_no_vectors_are_left_out(work, tmp_path, values):
    table = pd.DataFrame({"trackid": KEYS[:2], "words": values})
    table.to_parquet(tmp_path / "words.parquet")
    refused(work, "no column of numbers", "--file", tmp_path / "words.parquet")
    frame().assign(words=values * 2).to_parquet(tmp_path / "both.parquet")
    run(work, "--file", tmp_path / "both.parquet")
    assert check(work)["columns_left_out"] == ["words"]


@pytest.mark.parametrize("column, keys, flags", [
    ("idx", ORDER, ()), ("track_id", ORDER, ()), ("track_id", KEYS, ()), ("song", KEYS, ("--id-column", "song")),
    ("song", ORDER, ("--id-column", "song", "--keys", "row"))])
def test_rows_or_ids(work, tmp_path, column, keys, flags):
    table = frame().drop(columns="trackid").assign(**{column: keys})
    table.to_parquet(tmp_path / "m.parquet")
    run(work, "--file", tmp_path / "m.parquet", *flags)
    assert check(work)["keys"] == ("rows" if keys is ORDER else "track ids")
    table.to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv", *flags, "--overwrite")
    assert check(work)["keys"] == ("rows" if keys is ORDER else "track ids")


def test_numbers_that_are_ids(tmp_path):
    """A collection whose own ids are numbers: a column of ids is of ids, whatever stands in it."""
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,30\n1,40\n")
    pd.DataFrame({"id": [40, 30], "a": [1.0, 2.0]}).to_parquet(tmp_path / "m.parquet")
    run(tmp_path, "--file", tmp_path / "m.parquet")
    assert made(tmp_path)[0].tolist() == [[2], [1]]
    pd.DataFrame({"track_id": [40, 30], "a": [1.0, 2.0]}).to_csv(tmp_path / "m.csv", index=False)
    run(tmp_path, "--file", tmp_path / "m.csv", "--keys", "id", "--overwrite")
    assert made(tmp_path)[0].tolist() == [[2], [1]]


NUMBERS = ["2", "0", "10", "1", "30"]       # ids of a list that also look like rows, in the order of the list


@pytest.fixture
def numbered(tmp_path):
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n" + "".join(f"{r},{i}\n" for r, i in enumerate(NUMBERS)))
    return tmp_path


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_track_id_that_may_be_row_or_id_is_a_question(numbered, suffix):
    path = numbered / f"m.{suffix}"

    def write(keys, kind="int64"):
        table = pd.DataFrame({"track_id": pd.Series(keys).astype(kind), "a": np.arange(1.0, len(keys) + 1)})
        table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
        return "--file", path
    refused(numbered, "the values of track_id may be rows of trackid_sorted.csv, and are ids in it, too; say --keys id",
            *write([2, 0, 1]), error=UsageError)
    run(numbered, *write([2, 0, 1]), "--keys", "id")
    assert np.array_equal(made(numbered)[0][:, 0], [1, 2, np.nan, 3, np.nan], equal_nan=True)
    run(numbered, *write([2, 0, 1]), "--keys", "row", "--overwrite")
    assert np.array_equal(made(numbered)[0][:, 0], [2, 3, 1, np.nan, np.nan], equal_nan=True)
    run(numbered, *write([2, 10, 30]), "--overwrite")        # 10 and 30 are no rows: ids
    assert np.array_equal(made(numbered)[0][:, 0], [1, np.nan, 2, np.nan, 3], equal_nan=True)
    run(numbered, *write([3, 4]), "--overwrite")             # no ids of the list: rows
    assert np.array_equal(made(numbered)[0][:, 0], [np.nan] * 3 + [1, 2], equal_nan=True)
    run(numbered, *write([2, 10, 30], "uint64"), "--overwrite")
    assert made(numbered)[1]["keys"] == "track ids"


def test_a_list_whose_ids_are_its_rows_asks_nothing(tmp_path):
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,0\n1,1\n")
    pd.DataFrame({"track_id": [1, 0], "a": [1.0, 2.0]}).to_parquet(tmp_path / "m.parquet")
    run(tmp_path, "--file", tmp_path / "m.parquet")
    assert made(tmp_path)[0].tolist() == [[2], [1]]


def test_zeros_before_a_number_are_part_of_the_id(tmp_path):
    (tmp_path / "trackid_sorted.csv").write_text("idx,trackid\n0,007\n1,07\n2,7\n")
    (tmp_path / "m.csv").write_text("track_id,a\n07,1\n7,2\n007,3\n")
    run(tmp_path, "--file", tmp_path / "m.csv")
    assert made(tmp_path)[0].tolist() == [[3], [1], [2]]
    (tmp_path / "m.csv").write_text("idx,a\n1,1\n02,2\n")
    with pytest.raises(WorkError, match="'02' in the column idx is no row of trackid_sorted.csv"):
        run(tmp_path, "--file", tmp_path / "m.csv", "--overwrite")


@pytest.mark.parametrize("form", ["csv", "ids", "categories", "large", "npz"])
def test_keys_in_another_form_are_those_of_the_list(tmp_path, form):
    names = ["b", "caf\u00e9", "x"]
    write_text(tmp_path / "trackid_sorted.csv", "idx,trackid\n" + "".join(f"{r},{i}\n" for r, i in enumerate(names)))
    keys, values = ["cafe\u0301", " x"], np.array([[1.0], [2.0]])
    path, flags = tmp_path / "m.parquet", ()
    table = pd.DataFrame({"trackid": keys, "a": values[:, 0]})
    if form == "csv":
        path = tmp_path / "m.csv"
        table.to_csv(path, index=False)
    elif form in ("categories", "large"):
        table.astype({"trackid": "category" if form == "categories" else "large_string[pyarrow]"}).to_parquet(path)
    elif form == "npz":
        path = tmp_path / "m.npz"
        np.savez(path, ids=np.array(keys), vectors=values)
    else:
        path, flags = tmp_path / "m.npy", ("--ids", tmp_path / "ids.txt")
        np.save(path, values)
        write_text(tmp_path / "ids.txt", "song_id\n" + "\n".join(keys) + "\n")
    run(tmp_path, "--file", path, *flags)
    assert np.array_equal(made(tmp_path)[0][:, 0], [np.nan, 1, 2], equal_nan=True)


def test_a_list_with_two_forms_of_an_id_is_refused(tmp_path):
    write_text(tmp_path / "trackid_sorted.csv", "idx,trackid\n0,caf\u00e9\n1,cafe\u0301\n")
    pd.DataFrame({"id": ["x"], "a": [1.0]}).to_csv(tmp_path / "m.csv", index=False)
    refused(tmp_path, "which differ only in their Unicode form", "--file", tmp_path / "m.csv")


@pytest.mark.parametrize("text, sentence", [
    ('id,word,a\nalpha,"12 inch,1\nbeta,x,2\n', "line 2: the quoted cell that begins there never ends"),
    ('id,word,a\nalpha,"12 inch,1\nbeta,7",2\n', "line 2: the row has a quoted cell over 2 lines"),
    ("id,a\nalpha,1\nbeta,1,2\n", "line 3: Expected 2 columns, got 3"),
    ("id,a\nalpha,1\nbeta\n", "line 3: Expected 2 columns, got 1")])
def test_malformed_rows_of_vectors_are_named(work, tmp_path, text, sentence):
    (tmp_path / "m.csv").write_text(text)
    refused(work, sentence, "--file", tmp_path / "m.csv")


@pytest.mark.parametrize("text, sentence", [
    ('alpha\n"beta\ngamma\nomega\n', "line 2: a quoted cell runs over several lines"),
    ("trackid,n\nalpha,1\nbeta\n", "line 3: the row has not the 2 cells of the header")])
def test_malformed_rows_of_ids_are_named(work, tmp_path, text, sentence):
    (tmp_path / "ids").write_text(text)
    refused(work, sentence, "--file", *_saved(tmp_path / "m.npy", VALUES), "--ids", tmp_path / "ids")


def test_values_that_are_no_numbers_are_named(work, tmp_path, capsys):
    values = VALUES.copy()
    values[0, 1], values[1, 2] = np.inf, 1e300  # the second is too large for float32
    np.save(tmp_path / "m.npy", values)
    run(work, "--file", tmp_path / "m.npy", "--ids", ids_lines(tmp_path))
    matrix, about = made(work)
    assert np.isnan(matrix[[3, 0, 2]]).all() and np.isfinite(matrix[[4, 1]]).all()
    assert about["failed"]["3"] == {"trackid": "gamma", "reason": "1 of 3 values are not finite numbers (infinite)"}
    assert "mine: 2 of 5 tracks have an embedding of 3 values, 3 have none; 0 track ids of m.npy are not in the list" \
        in capsys.readouterr().out


# --------------------------------------------------------------------------- what is refused

def test_matrices_that_are_refused(work, tmp_path):
    m, ids = tmp_path / "m.npy", ids_lines(tmp_path)
    refused(work, "m.npy has no track ids; name a file", "--file", *_saved(m, VALUES), error=UsageError)
    for array, sentence in ((VALUES[:3], "has 3 rows, but there are 4 track ids"),
                            (VALUES[:, 0], r"but is float64 \(4,\)"), (VALUES[:, :0], r"but is float64 \(4, 0\)"),
                            (VALUES.astype(str), "must be a matrix of numbers"),
                            (VALUES.astype(complex), "but is complex128")):
        refused(work, sentence, "--file", *_saved(m, array), "--ids", ids)
    np.save(m, np.array([{}, {}, {}, {}]), allow_pickle=True)
    refused(work, "it contains Python objects, not numbers", "--file", m, "--ids", ids)
    m.write_bytes(b"no array")
    refused(work, "m.npy cannot be read as numbers", "--file", m, "--ids", ids)
    _saved(m, VALUES)
    refused(work, "--ids .*nowhere does not exist", "--file", m, "--ids", tmp_path / "nowhere", error=UsageError)
    ids.write_text("alpha\nalpha\nbeta\ngamma\n")
    refused(work, "m.npy has the track alpha more than once", "--file", m, "--ids", ids)
    ids.write_text("a,b\nc,d\ne,f\ng,h\n")
    refused(work, "line 1: 'a,b' has 2 cells; one id per line, or a header .*: put ids that", "--file", m, "--ids", ids)
    ids.write_text("a\nb\nc\nd\n")
    refused(work, "none of the 4 tracks of m.npy .* look like a, b, c, the list's like alp", "--file", m, "--ids", ids)
    ids.write_bytes(b"\xff\xfe\x00")
    refused(work, "is not text in UTF-8", "--file", m, "--ids", ids)
    np.save(tmp_path / "ids.npy", VALUES)
    refused(work, "must be one string or integer per row", "--file", m, "--ids", tmp_path / "ids.npy")


def test_ids_as_bytes_are_text_in_utf8(work, tmp_path):
    ids = tmp_path / "ids.npy"
    words = ["--file", *_saved(tmp_path / "m.npy", VALUES), "--ids", ids]
    np.save(ids, np.array([*KEYS[:3], "bj\u00f6rk".encode("latin-1")], dtype="S"))
    refused(work, r"ids.npy: the track id of row 3, b'bj\\xf6rk', is not text in UTF-8 .*; write the ids", *words)
    np.savez(tmp_path / "m.npz", ids=np.load(ids), vectors=VALUES)
    refused(work, "m.npz: the track id of row 3", "--file", tmp_path / "m.npz")
    np.save(ids, np.array(KEYS, dtype="S"))
    run(work, *words)
    check(work)


def _saved(path, array):
    np.save(path, array)
    return [path]


def test_archives_that_are_refused(work, tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, a=VALUES, b=VALUES)
    refused(work, "must contain one matrix and one array of track ids, .*but contains 2 arrays", "--file", path)
    np.savez(path, a=VALUES, ids=VALUES[:, 0])
    refused(work, "must be one string or integer per row", "--file", path)
    np.savez(path, alpha=VALUES[0], beta=VALUES[1, :2])
    refused(work, "but contains 2 arrays of 2 shapes", "--file", path)
    np.savez(path, a=np.array([{}], dtype=object))
    refused(work, "it contains Python objects, not numbers", "--file", path)
    path.write_bytes(path.read_bytes()[:100])
    refused(work, "cannot be read as numbers", "--file", path)
    np.savez(path)
    refused(work, "but contains 0 arrays", "--file", path)


def test_tables_that_are_refused(work, tmp_path):
    path = tmp_path / "m.parquet"

    def holding(**columns):
        pq.write_table(pa.table(columns), path)
        return "--file", path
    refused(work, "has no column trackid, track_id, id or idx .* --id-column names one", *holding(song=KEYS, a=KEYS))
    refused(work, "has no column of numbers beside 'id'", *holding(id=KEYS, a=KEYS))
    refused(work, "differ in length: 1, 2", *holding(id=KEYS, v=[[1.0], [1.0, 2.0], [1.0], [1.0]]))
    refused(work, "has 2 columns of lists", *holding(id=KEYS, v=[[1.0]] * 4, w=[[1.0]] * 4))
    refused(work, "2 rows from row 0 on have no id", *holding(id=["alpha", None, None, "beta"], v=[1.0] * 4))
    refused(work, "must hold track ids or row numbers, but holds double", *holding(id=[1.0] * 4, v=[1.0] * 4))
    refused(work, "'song' in the column idx is no row", *holding(idx=["song"] * 4, v=[1.0] * 4))
    refused(work, "has no rows", *holding(id=pa.array([], pa.string()), v=pa.array([], pa.float64())))
    path.write_bytes(b"PAR1 no table")
    refused(work, "cannot be read as parquet", "--file", path)
    (tmp_path / "m.csv").write_text("id,a\nalpha,1\nbeta,1,2\n")
    refused(work, "m.csv is damaged: .*Expected 2 columns, got 3", "--file", tmp_path / "m.csv")
    refused(work, "has no column 'x'", "--file", tmp_path / "m.csv", "--id-column", "x", error=UsageError)


def test_a_list_that_is_missing_is_a_track_without_a_vector(work, tmp_path):
    pq.write_table(pa.table({"id": KEYS, "v": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]]}), tmp_path / "m.parquet")
    run(work, "--file", tmp_path / "m.parquet")
    matrix, about = made(work)
    assert np.isnan(matrix[0]).all() and about["failed"]["0"]["reason"] == "2 of 2 values are not finite numbers (NaN)"


def test_the_command_line(work, tmp_path):
    def command(*argv):
        done = subprocess.run([sys.executable, "extract_item_embeddings/npy.py", *map(str, argv), "--workdir", work],
                              cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr
    frame().to_csv(tmp_path / "m.csv", index=False)
    assert command("mine", "--file", tmp_path / "m.csv")[0] == 0
    check(work)
    assert "finished before, skipped" in command("mine", "--file", tmp_path / "m.csv")[1]
    (tmp_path / "other.csv").write_bytes((tmp_path / "m.csv").read_bytes())
    status, said = command("mine", "--file", tmp_path / "other.csv")
    assert status == 2 and 'was made with other settings (file "m.csv", now "other.csv")' in said
    (work / "embeddings/bare.npy").write_bytes((work / "embeddings/mine.npy").read_bytes())
    assert "exists without the json" in command("bare", "--file", tmp_path / "m.csv")[1]
    for words, sentence in ((("a/b", "--file", tmp_path / "m.csv"), "is not a name of an embedding"),
                            (("random", "--file", tmp_path / "m.csv"), "'random' is no name for an embedding"),
                            (("x", "--file", "/nowhere.csv"), "--file /nowhere.csv does not exist"),
                            (("x", "--file", tmp_path / "m.csv", "--ids", tmp_path / "m.csv"), "--ids applies to .npy"),
                            (("x", "--file", ROOT / "train.py"), "must be a .npy, .npz, .parquet, .csv or .tsv file")):
        status, said = command(*words)
        assert status == 2 and sentence in said
