"""Spotify playlists from a file of the published form: tables, embedding, rows that are odd, bad input, a run on it."""
import csv
import datetime
import importlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset
import knn
from harness import runs
from harness.files import checksum, write_json
from harness.readers import read_json
from preprocess.lastfm.features import SPOTIFY
from tests.worlds.hetrec import get_plays, say, table, vectors

SPLIT = importlib.import_module("preprocess.1_train_test_split")
HEADER = ["track_id", "track_name", "track_artist", "track_popularity", "track_album_id", "track_album_name",
          "track_album_release_date", "playlist_name", "playlist_id", "playlist_genre", "playlist_subgenre", *SPOTIFY]


def row(track, playlist, title="Song", artist="Somebody", date="2019-06-14", genre="pop", sub="dance pop",
        popularity=50, album="Album", features=(0.5, 0.6)):
    return [track, title, artist, popularity, "x", album, date, f"List {playlist}", playlist, genre, sub,
            *features, *[1] * (12 - len(features))]


def write(path, rows, header=HEADER):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])
    return path


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "spotify_songs.csv", [
        row("b", "P2", 'Tyler, "T"', "Tyler, The Creator", "1999", "rap", "trap", 7, features=(0.2, -5)),
        row("b", "P1", 'Tyler, "T"', "Tyler, The Creator", "1999", "pop", "indie", 7, features=(0.2, -5)),
        row("a", "P2", "two\nlines", "Beyoncé", "2012-05", "rap", "trap", features=(0.4, -7)),
        row("a", "P2", "two\nlines", "Beyoncé", "2012-05", "r&b", "soul", features=(0.4, -7)),    # the list again
        row("c", "P1", "NA", "NA", "2012-01-05", album="NA", features=(0.9, -9)),
        row("d", "P1", "NA", "NA", "none", album="Real", features=("loud", -9))])


def test_tables_of_the_workspace(raw, tmp_path):
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    assert (w / "trackid_sorted.csv").read_bytes() == b"idx,trackid\n0,a\n1,b\n2,c\n3,d\n"
    assert (w / "userid_sorted.csv").read_bytes() == b"idx,userid\n0,P1\n1,P2\n"
    plays = pq.read_table(w / "plays.pqt")
    assert plays.schema.types == [pa.int64(), pa.int64(), pa.timestamp("us"), pa.int64()]
    assert plays.to_pydict() == {"user_id": [0, 0, 0, 1, 1], "track_id": [1, 2, 3, 0, 1], "timestamp": [None] * 5,
                                 "count": [1] * 5}
    day = datetime.date
    assert table(w / "items.pqt") == {
        "track_id": [0, 1, 2, 3], "title": ["two\nlines", 'Tyler, "T"', None, "NA"],
        "artists": [["Beyoncé"], ["Tyler, The Creator"], None, ["NA"]], "album": ["Album", "Album", None, "Real"],
        "released": [day(2012, 5, 1), day(1999, 1, 1), day(2012, 1, 5), None],
        "release_precision": ["month", "year", "day", None], "popularity": [50, 7, 50, 50],
        "genres": [["r&b", "rap"], ["pop", "rap"], ["pop"], ["pop"]],
        "subgenres": [["soul", "trap"], ["indie", "trap"], ["dance pop"], ["dance pop"]]}
    assert table(w / "users.pqt") == {
        "user_id": [0, 1], "playlist": ["List P1", "List P2"], "genres": [["pop"], ["rap", "r&b"]],
        "subgenres": [["dance pop", "indie"], ["trap", "soul"]]}
    about = read_json(w / "dataset.json")
    assert (about["name"], about["time"], about["status"]) == ("spotify", "none", "finished")
    assert about["counts"] == {"users": 2, "tracks": 4, "pairs": 5, "plays": 5}
    assert about["dropped"] == {"rows that repeat a track of a playlist": 1, "tracks without a title": 1,
                                "tracks without a date of release": 1, "tracks without a number in each feature": 1}
    assert about["checksums"] == {raw.name: checksum(raw)}


def test_the_embedding_is_standardised_over_the_tracks_and_not_over_the_rows(raw, tmp_path):
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    matrix, about = vectors(w, "spotify")
    first = np.array([0.4, 0.2, 0.9])                    # danceability of a, b, c; b stands in two playlists
    np.testing.assert_allclose(matrix[:3, 0], (first - first.mean()) / first.std(), rtol=1e-6)
    assert matrix.dtype == np.float32 and matrix.shape == (4, 12) and (matrix[:3, 2:] == 0).all()
    assert np.isnan(matrix[3]).all()
    assert about["failed"] == {"3": {"trackid": "d", "reason": "a feature is not a number"}}
    assert about["facts"]["features"] == list(SPOTIFY) and about["facts"]["std"][2:] == [0] * 10
    np.testing.assert_allclose(about["facts"]["mean"][:2], [first.mean(), -7])
    assert dataset.open_embedding(w, "spotify", 4, dataset.read_tracks(w)[1]).shape == (4, 12)


def test_a_value_that_one_row_lacks_is_taken_from_another(tmp_path):
    raw = write(tmp_path / "s.csv", [row("a", "P1", "NA", "NA", "", album="NA", features=("nan", 1)),
                                     row("a", "P2", "Song", "Me", "2001-02-03", features=(0.3, 1)), row("b", "P1")])
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    items = table(w / "items.pqt")
    assert (items["title"][0], items["artists"][0], items["released"][0]) == ("Song", ["Me"], datetime.date(2001, 2, 3))
    assert np.isfinite(vectors(w, "spotify")[0]).all() and read_json(w / "dataset.json")["dropped"] == {}


def test_rows_without_ids_are_left_out_and_counted(raw, tmp_path):
    with open(raw, "a", encoding="utf-8") as f:
        f.write(",".join(map(str, row("", "P1"))) + "\n" + ",".join(map(str, row("e", "NA"))) + "\n")
        f.write(",".join(map(str, row("f", "P9", date="2020-13-45"))) + "\n")
    status, out, err = say("spotify", "--raw", raw, workdir=tmp_path / "w")
    assert status == 0, err
    dropped = read_json(tmp_path / "w/dataset.json")["dropped"]
    assert dropped["rows left out: no track or playlist id"] == 2 and dropped["tracks without a date of release"] == 2
    assert dataset.read_tracks(tmp_path / "w")[0] == ["a", "b", "c", "d", "f"]


@pytest.mark.parametrize("cells, sentence", [
    (["too", "few", "cells"], "line {n}: 3 cells where the header has {width}"),
    (["x"] * (len(HEADER) + 1), "line {n}: {wide} cells where the header has {width}"),
    (["e", '"12 inch', *["x"] * (len(HEADER) - 2)], "line {n}: the quoted cell"),
], ids=["few", "many", "quote"])
def test_malformed_rows_are_named_and_nothing_is_written(raw, tmp_path, cells, sentence):
    n = len(raw.read_text(encoding="utf-8").splitlines()) + 1
    with open(raw, "a", encoding="utf-8") as f:
        f.write(",".join(cells) + "\n")
    status, _, err = say("spotify", "--raw", raw, workdir=tmp_path / "w")
    assert status == 1 and err.count("\n") == 1
    assert sentence.format(n=n, width=len(HEADER), wide=len(HEADER) + 1) in err
    assert not (tmp_path / "w/plays.pqt").exists()


def test_a_finished_workspace_is_skipped_and_a_changed_file_is_not(raw, tmp_path):
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    before = {p: p.stat().st_mtime_ns for p in w.rglob("[!.]*.*")}
    status, out, _ = say("spotify", "--raw", raw, workdir=w)
    assert status == 0 and "skipped" in out and before == {p: p.stat().st_mtime_ns for p in before}
    (w / "embeddings/spotify.npy").unlink()
    get_plays("spotify", "--raw", raw, workdir=w)
    assert (w / "embeddings/spotify.npy").exists()
    (w / "data").mkdir()
    (w / "data/train.pqt").write_bytes(b"rows of the old list")
    write(raw, [row("z", "P1"), row("y", "P1", features=(0.1, 2))])
    status, _, err = say("spotify", "--raw", raw, workdir=w)
    assert status == 2 and "lists other tracks; use a fresh --workdir, or --overwrite" in err
    assert len(dataset.read_tracks(w)[0]) == 4
    get_plays("spotify", "--raw", raw, "--overwrite", workdir=w)
    assert dataset.read_tracks(w)[0] == ["y", "z"] and not (w / "data/train.pqt").exists()


def test_a_popularity_that_is_none_is_counted_and_null(tmp_path):
    told = dict(zip("abcdefg", (0, 100, 100000, "inf", -1, "x", ""), strict=True))
    raw = write(tmp_path / "s.csv", [row(t, "P", popularity=value, features=(0.1 * i, i)) for i, (t, value)
                                     in enumerate(told.items())])
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    assert table(w / "items.pqt")["popularity"] == [0, 100, None, None, None, None, None]
    assert read_json(w / "dataset.json")["dropped"] == {"rows with a popularity outside 0 to 100": 3}


def test_it_is_a_workspace_for_the_splitter_and_a_recommender(tmp_path):
    rng = np.random.default_rng(0)
    raw = write(tmp_path / "s.csv", [row(f"t{t:02}", f"P{p}", features=rng.random(12))
                                     for p in range(6) for t in rng.permutation(20)[:12]])
    w = get_plays("spotify", "--raw", raw, workdir=tmp_path / "w")
    SPLIT.main(["--protocol", "random", "--workdir", str(w)])
    knn.main(["spotify", "--k", "5", "--workdir", str(w)])
    split = dataset.load(w)
    assert split.time == "none" and split.n_users == 6
    (run, config), = runs.find_runs(w)
    assert config["parts"] == ["test", "val"] and (w / "preds" / f"{run}_test.pqt").exists()


@pytest.mark.parametrize("content, sentence", [
    (b"", "is not the expected table .*Empty CSV file"),
    (b"track_id,playlist_id\na,b\n", "has no column track_name, track_artist"),
    (",".join(HEADER).encode() + b"\n", "has no row with a track and a playlist"),
    (",".join(HEADER).encode() + b"\n" + ",".join(map(str, row("a", "P", "Caf\u00e9"))).encode("latin-1") + b"\n",
     "is not the expected table .*UTF8"),
    (",".join(HEADER).encode() + b"\n" + ",".join(map(str, row("a", "P", features=["x"] * 12))).encode() + b"\n",
     "no track has a number in each of the twelve audio features"),
], ids=["empty", "columns", "no rows", "encoding", "no features"])
def test_bad_files_are_one_sentence_and_leave_nothing(tmp_path, content, sentence):
    (tmp_path / "s.csv").write_bytes(content)
    status, _, err = say("spotify", "--raw", tmp_path / "s.csv", workdir=tmp_path / "w")
    assert (status, err.count("\n")) == (1, 1) and re.search(sentence, err), err
    assert [p.name for p in (tmp_path / "w").iterdir() if not p.name.startswith(".")] == []


def test_bad_requests_are_one_sentence(raw, tmp_path):
    status, _, err = say("spotify", "--raw", tmp_path / "none.csv", workdir=tmp_path / "w")
    assert status == 2 and "none.csv is not a file; name the csv of playlist songs" in err
    (tmp_path / "v").mkdir()
    write_json(tmp_path / "v/dataset.json", {"name": "demo"})
    status, _, err = say("spotify", "--raw", raw, workdir=tmp_path / "v")
    assert status == 2 and "holds the data set 'demo'; choose another --workdir" in err


def test_the_published_file(shared, tmp_path):
    w = get_plays("spotify", "--raw", shared / "data/spotify_songs.csv", workdir=tmp_path / "w")
    about = read_json(w / "dataset.json")
    assert about["counts"] == {"users": 471, "tracks": 28_356, "pairs": 32_251, "plays": 32_251}
    assert about["dropped"] == {"rows that repeat a track of a playlist": 582, "tracks without a title": 4}
    assert np.isfinite(vectors(w, "spotify")[0]).all() and table(w / "items.pqt")["released"].count(None) == 0
