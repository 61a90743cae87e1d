"""Files of vectors that may mean two things, or that are damaged in a cell: questions and errors, never a guess."""
import numpy as np
import pandas as pd
import pytest

from harness.errors import UsageError, WorkError
from harness.files import write_text
from tests.worlds.vectors import KEYS, ORDER, VALUES, check, frame, made, refused, run, workspace  # noqa: F401 - a fixture


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_ids_that_lost_their_zeros_are_never_taken_for_rows(tmp_path, suffix, capsys):
    def write(keys, column="track_id"):
        table, path = pd.DataFrame({column: keys, "a": np.arange(1.0, len(keys) + 1)}), tmp_path / f"m.{suffix}"
        table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
        return "--file", path

    def listing(first):
        (tmp_path / "trackid_sorted.csv").write_text(
            "idx,trackid\n" + "".join(f"{r},{i:03d}\n" for r, i in enumerate(range(first, first + 6))))
    listing(1)
    refused(tmp_path, "may be rows of .*, and are ids in it, too, such as '001' without its zeros; say --keys id or",
            *write([1, 2, 3]), error=UsageError)
    refused(tmp_path, "none of the 6 tracks .*; 1 may be 001 without its zeros: write ids as text",
            *write([1, 2, 3, 4, 5, 6]))
    run(tmp_path, *write([1, 2, 3]), "--keys", "row")
    assert np.array_equal(made(tmp_path)[0][:, 0], [np.nan, 1, 2, 3, np.nan, np.nan], equal_nan=True)
    listing(0)
    run(tmp_path, *write([1, 2, 3]), "--overwrite")      # rows and ids are the same
    assert np.array_equal(made(tmp_path)[0][:, 0], [np.nan, 1, 2, 3, np.nan, np.nan], equal_nan=True)
    listing(97)
    capsys.readouterr()
    run(tmp_path, *write([97, 98, 99, 100, 101], "id"), "--overwrite")
    assert "3 track ids of m." in (said := capsys.readouterr().out) and "97 may be 097 without its zeros" in said


@pytest.mark.parametrize("column", ["idx", "track_id"])
def test_row_numbers_by_default_are_said(work, tmp_path, column, capsys):
    frame().drop(columns="trackid").assign(**{column: ORDER}).to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv")
    assert f"m.csv: the values of {column} are read as row numbers of trackid_sorted.csv" in capsys.readouterr().err
    run(work, "--file", tmp_path / "m.csv", "--keys", "row", "--overwrite")
    assert "read as row numbers" not in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["oops", "0,5", "-"])
@pytest.mark.parametrize("place, where", [(2, "line 4:"), (300, "row 301:")])
def test_a_cell_that_is_no_number_takes_no_dimension_away(work, tmp_path, cell, place, where):
    table = pd.DataFrame({"trackid": [f"t{n}" for n in range(400)], "a": 1.5, "word": "x", "b": 2.5}, dtype=object)
    table.loc[0, "word"], table.loc[place, "b"], table.loc[1, "b"] = 7, cell, None
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    refused(work, f"m.tsv.*{where} '{cell}' in the column b cannot be read as a number", "--file", tmp_path / "m.tsv")


def test_columns_of_text_are_left_out_and_said(work, tmp_path, capsys):
    frame().assign(title=["1999", "Creep", "Karma", "Lucky"]).to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv")
    assert check(work)["columns_left_out"] == ["title"] and "are left out: title" in capsys.readouterr().err


def test_a_text_of_ids_is_read_as_it_is(work, tmp_path):
    names = ["Love, Love", 'Say "Hi"', '"x"', "y"]
    write_text(work / "trackid_sorted.csv",
               'idx,trackid\n0,"Love, Love"\n1,"Say ""Hi"""\n2,"""x"""\n3,y\n')
    np.save(tmp_path / "m.npy", VALUES)
    for header, end in (("", "\n"), ("trackid\n", "\n"), ("", "\r\n")):
        ids = tmp_path / "ids.txt"
        ids.write_bytes((header + end.join(names) + end).encode("utf-8-sig"))
        if header:      # a csv of one column
            write_text(ids, header + '"Love, Love"\n"Say ""Hi"""\n"""x"""\ny\n')
        run(work, "--file", tmp_path / "m.npy", "--ids", ids, "--overwrite")
        assert np.array_equal(made(work)[0], np.float32(VALUES))
    write_text(tmp_path / "ids.list", "\ny\nLove, Love\nx\nz\n")
    with pytest.raises(WorkError, match="ids.list, line 3: 'Love, Love' has 2 cells; .* a comma in quotes, or call"):
        run(work, "--file", tmp_path / "m.npy", "--ids", tmp_path / "ids.list", "--overwrite")


def test_vectors_of_zeros_are_counted(work, tmp_path, capsys):
    values = VALUES.copy()
    values[[0, 2]] = 0
    values[3] = 1e-60       # 0 in float32
    pd.DataFrame({"trackid": KEYS, "v": values.tolist()}).to_parquet(tmp_path / "m.pqt")
    run(work, "--file", tmp_path / "m.pqt")
    assert "mine: 3 of 4 vectors are all zeros" in capsys.readouterr().err
    frame().to_parquet(tmp_path / "m.pqt")
    run(work, "--file", tmp_path / "m.pqt", "--overwrite")
    assert "zeros" not in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, 2.5])
def test_vectors_that_are_all_equal_are_refused(work, tmp_path, value):
    frame().assign(v0=value, v1=value, v2=1).to_csv(tmp_path / "m.csv", index=False)
    refused(work, "the 4 usable vectors of m.csv are all equal", "--file", tmp_path / "m.csv")
    frame().head(1).to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv")


@pytest.mark.parametrize("value, kind", [(np.nan, "NaN"), (np.inf, "infinite"), (1e300, "beyond float32")])
def test_the_reason_is_that_of_the_values(work, tmp_path, value, kind):
    frame().assign(v0=value, v1=value, v2=value).to_parquet(tmp_path / "m.pqt")
    refused(work, f"no track .* the first reason: alpha: 3 of 3 values are not finite numbers .{kind}", "--file",
            tmp_path / "m.pqt")


def test_the_next_command_fits_the_vectors_and_the_workspace(work, tmp_path, capsys):
    frame().to_csv(tmp_path / "m.csv", index=False)
    run(work, "--file", tmp_path / "m.csv")
    assert capsys.readouterr().out.endswith("\nnext: split with preprocess/1_train_test_split.py, then python knn.py "
                                            f"mine --missing mean --workdir {work}\n")
    (work / "data").mkdir()
    (work / "data" / "train.pqt").touch()
    np.save(tmp_path / "m.npy", np.eye(5))
    run(work, "--file", tmp_path / "m.npy", "--ids", work / "trackid_sorted.csv", "--overwrite")
    assert capsys.readouterr().out.endswith(f"\nnext: python knn.py mine --workdir {work}\n")
