"""Artists of items.pqt: one name in several spellings is one artist, and a name that says nothing is none."""
import pandas as pd

from harness.metadata import read_artists


def artists_of(tmp_path, names, column="artists"):
    pd.DataFrame({"track_id": range(len(names)), column: names}).to_parquet(tmp_path / "items.pqt")
    matrix = read_artists(tmp_path, len(names))
    return None if matrix is None else matrix.toarray().tolist()


def test_spellings_of_a_name_are_one_artist_and_nobody_is_none(tmp_path):
    names = [["Bj\u00f6rk"], ["BJO\u0308RK ", "Guest"], ["Various  Artists"], ["unknown artist"], [], None]
    assert artists_of(tmp_path, names) == [[1, 0], [1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert artists_of(tmp_path, ["A", "a", "[unknown]"], "artist") == [[1], [1], [0]]


def test_without_any_artist_there_is_no_matrix(tmp_path):
    assert artists_of(tmp_path, ["Various Artists", ""]) is None
