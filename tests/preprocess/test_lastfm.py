"""Last.fm 2k from files of HetRec's own format: tables, tags, Spotify features, downloads, bad input."""
import hashlib
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataset
from harness.errors import WorkError
from harness.files import checksum, write_json
from harness.readers import read_json
from preprocess import lastfm
from preprocess.lastfm import audio as lastfm_audio
from preprocess.lastfm import features as lastfm_features
from tests.conftest import ROOT
from tests.worlds.hetrec import FILES, get_plays, say, table, vectors, write_raw


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "hetrec")



# --------------------------------------------------------------------------- tables

def test_tables_of_the_workspace(raw, tmp_path):
    w = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "w")
    assert (w / "trackid_sorted.csv").read_bytes() == b"idx,trackid\n0,1\n1,10\n2,2\n3,30\n"
    plays = pq.read_table(w / "plays.pqt")
    assert plays.schema.types == [pa.int64(), pa.int64(), pa.timestamp("us"), pa.int64()]
    assert plays.to_pydict() == {"user_id": [2, 2, 4, 7, 7], "track_id": [0, 3, 2, 0, 1],
                                 "timestamp": [None] * 5, "count": [10 + 2, 1, 8, 3, 5]}
    assert table(w / "items.pqt") == {
        "track_id": [0, 1, 2, 3], "artist_id": [1, 10, 2, 30],
        "artist": ['"Weird Al" Yankovic', "The Beatles", "Sigur Rós", "NA"],
        "url": ["http://w", "http://b", "http://s", ""],
        "tags": [["metal", "français"], ["pop"], ["français"], []], "tag_counts": [[2, 1], [1], [1], []]}
    assert table(w / "users.pqt") == {"user_id": [2, 4, 7], "friends": [[7], [7], [2, 4]]}
    about = read_json(w / "dataset.json")
    assert (about["name"], about["time"], about["status"]) == ("lastfm", "none", "finished")
    assert about["counts"] == {"users": 3, "tracks": 4, "pairs": 5, "plays": 29}
    assert about["checksums"] == {n: hashlib.sha256((raw / n).read_bytes()).hexdigest() for n in FILES}
    assert about["dropped"] == {
        "plays left out: artist absent from artists.dat": 1,
        "play rows added to an earlier row of the same user and artist": 1,
        "tags left out: artist absent from artists.dat": 1, "tags left out: tag absent from tags.dat": 1,
        "tags left out: user without plays": 1, "tags left out: given twice by one user to one artist": 1,
        "friends left out: without plays": 1}
    assert "non-commercial" in about["licence"] and "hetrec" in about["source"]


def test_line_ends_and_encodings_do_not_matter(raw, tmp_path):
    w = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "w")
    plain = write_raw(tmp_path / "plain")
    for name, (_, text) in FILES.items():
        (plain / name).write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    v = get_plays("lastfm", "--raw", plain, workdir=tmp_path / "v")
    for name in ("trackid_sorted.csv", "plays.pqt", "items.pqt", "users.pqt", "embeddings/tags.npy"):
        assert (w / name).read_bytes() == (v / name).read_bytes(), name


def test_second_run_is_skipped_and_a_changed_file_is_not(raw, tmp_path):
    w = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "w")
    before = {p: p.stat().st_mtime_ns for p in w.rglob("*.[npc]*")}
    status, out, _ = say("lastfm", "--raw", raw, workdir=w)
    assert status == 0 and "skipped" in out
    assert before == {p: p.stat().st_mtime_ns for p in w.rglob("*.[npc]*")}
    (w / "embeddings" / "tags.npy").unlink()
    get_plays("lastfm", "--raw", raw, workdir=w)
    assert (w / "embeddings" / "tags.npy").exists()
    with open(raw / "user_artists.dat", "a") as f:
        f.write("7\t30\t1\n")
    status, out, _ = say("lastfm", "--raw", raw, workdir=w)
    assert status == 0 and "because user_artists.dat changed" in out
    assert len(table(w / "plays.pqt")["count"]) == 6


def test_a_folder_of_something_else_is_not_overwritten(raw, tmp_path):
    w = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "w")
    (w / "data").mkdir()
    (w / "data" / "train.pqt").write_bytes(b"rows of the old track list")
    with open(raw / "artists.dat", "a") as f:
        f.write("3\tNew\thttp://n\thttp://p\n")
    old = (w / "plays.pqt").read_bytes()
    status, _, err = say("lastfm", "--raw", raw, workdir=w)
    assert status == 2 and "lists other tracks; use a fresh --workdir, or --overwrite" in err
    assert (w / "plays.pqt").read_bytes() == old and (w / "data" / "train.pqt").exists()
    get_plays("lastfm", "--raw", raw, "--overwrite", workdir=w)
    assert len(dataset.read_tracks(w)[0]) == 5 and not (w / "data" / "train.pqt").exists()
    write_json(w / "dataset.json", {"name": "demo"})
    status, _, err = say("lastfm", "--raw", raw, workdir=w)
    assert status == 2 and "holds the data set 'demo'; choose another --workdir for 'lastfm'" in err


@pytest.mark.parametrize("name, content, sentence", [
    ("artists_dat", "id\tname\turl\tp\n1\tCafé\t\t\n".encode("latin-1"), "artists.dat .*invalid UTF8"),
    ("artists_dat", b"id\tname\turl\tp\n1\tA\t\t\n1\tB\t\t\n", "artists.dat contains 1 duplicate values of id"),
    ("artists_dat", b"id\ttitle\turl\n1\tA\t\n", "artists.dat has no column name; it has id, title, url"),
    ("tags_dat", b"tagID\ttagValue\n1\ta\n2\tb\tc\n", "tags.dat .*line 3: 3 cells where the header has 2"),
    ("user_artists_dat", b"userID\tartistID\tweight\n2\t1\tmany\n", "user_artists.dat .*line 2: weight holds 'many'"),
    ("user_artists_dat", b"userID\tartistID\tweight\n2\t1\t5\n02\t1\t5\n",
     "user_artists.dat .*line 3: userID holds '02'"),
    ("user_artists_dat", b"userID\tartistID\tweight\n2\t1\t0\n", "1 rows have fewer than one play"),
    ("user_artists_dat", b"userID\tartistID\tweight\n2\t99\t5\n", "has no play of an artist of artists.dat"),
    ("user_artists_dat", b"userID\tartistID\tweight\n", "has no play of an artist of artists.dat"),
    ("user_friends_dat", b"", "user_friends.dat .*Empty CSV file"),
    ("user_taggedartists_dat", b"2 1 1 1 4 2009\n", "has no column userID, artistID, tagID"),
], ids=["encoding", "twice", "column", "cells", "number", "zeros", "no plays",
        "unknown artists", "no rows", "empty", "spaces"])
def test_bad_files_are_one_sentence(tmp_path, name, content, sentence):
    raw = write_raw(tmp_path / "bad", **{name: content})
    status, _, err = say("lastfm", "--raw", raw, workdir=tmp_path / "w")
    assert status == 1 and err.count("\n") == 1
    assert re.search(sentence, err), err
    assert sorted(p.name for p in (tmp_path / "w").iterdir() if not p.name.startswith(".")) == []


def test_command_line_without_a_traceback(tmp_path):
    script = ROOT / "preprocess" / "0_get_plays_pqt.py"
    done = subprocess.run([sys.executable, script, "lastfm", "--raw", tmp_path, "--workdir", tmp_path / "w"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("0_get_plays_pqt.py: --raw") and "lacks artists.dat, tags.dat" in done.stderr


def test_missing_files_and_folders(raw, tmp_path):
    (raw / "tags.dat").unlink()
    (raw / "user_friends.dat").unlink()
    status, _, err = say("lastfm", "--raw", raw, workdir=tmp_path / "w")
    assert status == 1 and "lacks tags.dat, user_friends.dat; it must hold the unpacked hetrec2011-lastfm-2k.zip" in err
    status, _, err = say("lastfm", "--raw", tmp_path / "nowhere", workdir=tmp_path / "w")
    assert status == 2 and "nowhere is not a folder" in err
    raw = write_raw(tmp_path / "whole")
    status, _, err = say("lastfm", "--raw", raw, "--spotify", tmp_path / "none.csv", workdir=tmp_path / "w")
    assert status == 2 and "none.csv is not a file" in err
    status, _, err = say("lastfm", "--raw", raw, "--audio-features", raw, workdir=tmp_path / "w")
    assert status == 2 and "has neither artists.csv nor vggish.json" in err


# --------------------------------------------------------------------------- tags

def test_tags_keep_the_cosines_of_tfidf(raw, tmp_path):
    """With as many dimensions as there are artists, the reduction loses nothing: cosines are those of TF-IDF."""
    w = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "w")
    matrix, about = vectors(w, "tags")
    assert matrix.dtype == np.float32 and matrix.shape == (4, 3) and about["dim"] == 3
    # rows: artists 1, 10, 2 (three tagged); columns: metal, français, pop
    counts = np.array([[2, 1, 0], [0, 0, 1], [0, 1, 0]])
    idf = 1 + np.log((1 + 3) / (1 + np.array([1, 2, 1])))
    weight = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix[:3] @ matrix[:3].T, weight @ weight.T, atol=1e-6)
    assert np.isnan(matrix[3]).all()
    assert about["failed"] == {"3": {"trackid": "30", "reason": "artist without tags"}}
    assert about["track_checksum"] == checksum(w / "trackid_sorted.csv") == dataset.read_tracks(w)[1]
    # plays (2,1) (7,1) (7,10) (4,2) were tagged by their listener, (2,30) was not
    assert f"{4 / 5:.1%} of the plays" in about["beware"]
    assert dataset.open_embedding(w, "tags", 4, about["track_checksum"]).shape == (4, 3)


def test_tags_are_the_same_bytes_for_the_same_seed():
    rng = np.random.default_rng(0)
    artist, tag = rng.integers(300, size=4000), rng.integers(400, size=4000)
    first, facts = lastfm_features.tag_vectors(artist, tag, 301, 400, 50, seed=3)
    again, _ = lastfm_features.tag_vectors(artist, tag, 301, 400, 50, seed=3)
    assert first.tobytes() == again.tobytes() and first.shape == (301, 50)
    np.testing.assert_allclose(np.linalg.norm(first[:300], axis=1), 1, atol=1e-5)
    assert np.isnan(first[300]).all() and facts["artists"] == 300 and 0 < facts["explained_variance"] < 1


@pytest.mark.parametrize("artist, tag", [([], []), ([1], [0]), ([0, 1], [0, 0])], ids=["none", "one", "same tag"])
def test_hardly_any_tags(artist, tag):
    matrix, facts = lastfm_features.tag_vectors(np.array(artist, int), np.array(tag, int), 2, 3)
    assert matrix.shape == (2, 1) and facts["artists"] == len(set(artist))
    assert np.isfinite(matrix[:, 0]).tolist() == [a in artist for a in range(2)]
    json.dumps(facts, allow_nan=False)


# --------------------------------------------------------------------------- Spotify

@pytest.mark.parametrize("ours, theirs", [
    ("The Beatles", "beatles"), ("Ke$ha", "Kesha"), ("N.W.A", "N.W.A."), ("Jason Derülo", "JASON DERULO"),
    ("Florence and the Machine", "Florence + The Machine"), ("Guns N’ Roses", "Guns N' Roses"), ("Mø", "MO"),
    ("Blink 182", "blink-182"), ("Søren  Æther", "Soren Aether")])
def test_names_that_mean_one_artist(ours, theirs):
    assert lastfm_features.loose_name(ours) == lastfm_features.loose_name(theirs)


@pytest.mark.parametrize("one, other", [("!!!", "+/-"), ("The The", "The"), ("Air", "Airs"), ("椎名林檎", "東京事変")])
def test_names_that_do_not(one, other):
    if one == "The The":  # only a leading 'the' with something behind it goes
        assert lastfm_features.loose_name(one) == "the" == lastfm_features.loose_name(other)
    else:
        assert lastfm_features.loose_name(one) != lastfm_features.loose_name(other)
    assert lastfm_features.loose_name(one)


def spotify_file(path, rows):
    """rows: (track id, artist, first feature, second feature); the other ten are 1."""
    names = ["track_id", "track_name", "track_artist", "track_album_name", *lastfm_features.SPOTIFY]
    frame = pd.DataFrame([[i, "NA" if a == "NA" else "song, with comma", a, "NA" if a == "NA" else "x", d, e] + [1] * 10
                          for i, a, d, e in rows], columns=names)
    frame.to_csv(path, index=False)
    return path


def test_spotify_is_the_standardised_mean_of_distinct_songs(raw, tmp_path):
    songs = spotify_file(tmp_path / "s.csv", [
        ("a", "Beatles", 1, 0.2), ("b", "Beatles", 3, 0.4), ("a", "Beatles", 1, 0.2),  # a stands in two playlists
        ("c", "sigur rós", 8, 0.9), ("d", "Sigur Ros", 100, 9), ("e", "NA", 50, 5), ("f", "beatles", "loud", 1)])
    w = get_plays("lastfm", "--raw", raw, "--spotify", songs, workdir=tmp_path / "w")
    matrix, about = vectors(w, "spotify")
    beatles, sigur = np.array([(1 + 3) / 2, (0.2 + 0.4) / 2]), np.array([8, 0.9])  # 'Sigur Ros' is not the exact name
    assert matrix.shape == (4, 12) and np.isnan(matrix[[0, 3]]).all()  # artist 30 is called NA, the row e is lost
    np.testing.assert_allclose(matrix[1, :2], np.sign(beatles - sigur), rtol=1e-6)  # two artists: one spread apart
    np.testing.assert_allclose(matrix[2, :2], np.sign(sigur - beatles), rtol=1e-6)
    assert (matrix[[1, 2], 2:] == 0).all()
    np.testing.assert_allclose(about["facts"]["mean"][:2], (beatles + sigur) / 2)
    np.testing.assert_allclose(about["facts"]["std"][:3], [*np.abs(beatles - sigur) / 2, 0])
    assert {k: about["facts"][k] for k in ("by_exact_name", "by_loose_name", "artists", "songs", "share_of_pairs")} == {
        "by_exact_name": 1, "by_loose_name": 1, "artists": 2, "songs": 4, "share_of_pairs": 2 / 5}
    assert sorted(about["failed"]) == ["0", "3"]


def test_spotify_files_that_do_not_fit(raw, tmp_path):
    songs = spotify_file(tmp_path / "s.csv", [("a", "Nobody", 1, 2)])
    status, _, err = say("lastfm", "--raw", raw, "--spotify", songs, workdir=tmp_path / "w")
    assert status == 1 and "no artist of the Spotify file has the name of an artist" in err
    songs.write_text("track_id,track_artist\na,b\n")
    status, _, err = say("lastfm", "--raw", raw, "--spotify", songs, workdir=tmp_path / "w")
    assert status == 1 and "has no column track_name, track_album_name, danceability" in err


# --------------------------------------------------------------------------- downloads

def test_without_raw_a_kept_download_is_unpacked(tmp_path, monkeypatch):
    raw, kept = write_raw(tmp_path / "files"), tmp_path / "kept"
    kept.mkdir()
    with zipfile.ZipFile(kept / "hetrec2011-lastfm-2k.zip", "w") as z:
        for name in FILES:
            z.write(raw / name, name)
    digest = hashlib.md5((kept / "hetrec2011-lastfm-2k.zip").read_bytes()).hexdigest()
    status, _, err = say("lastfm", "--downloads", kept, workdir=tmp_path / "w")
    assert status == 1 and f"its md5 is {digest}, not 296d61afe4e8632b173fc2dd3be20ce2" in err
    monkeypatch.setattr(lastfm, "CHECKSUM", f"md5:{digest}")
    w = get_plays("lastfm", "--downloads", kept, workdir=tmp_path / "w")
    v = get_plays("lastfm", "--raw", raw, workdir=tmp_path / "v")
    assert (w / "plays.pqt").read_bytes() == (v / "plays.pqt").read_bytes()
    status, out, _ = say("lastfm", "--downloads", kept, workdir=w)
    assert status == 0 and "skipped" in out


def test_offline_says_what_to_do(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(lastfm, "URL", "https://127.0.0.1:9/hetrec2011-lastfm-2k.zip")
    monkeypatch.setattr(lastfm_audio, "URL", "https://127.0.0.1:9/lfm2k_mm_json.zip")
    status, _, err = say("lastfm", workdir=tmp_path / "w")
    assert (status, err.count("\n")) == (1, 1)
    assert "a network is needed once, or unpack a copy of it and name the folder with --raw" in err
    for flags in (("--audio-only",), ("--audio-features", "download")):
        status, _, err = say("lastfm", "--raw", raw, *flags, workdir=tmp_path / "w")
        assert status == 1 and "or name a copy of it (624 MB) with --audio-features" in err


@pytest.mark.parametrize("row, sentence", [("x", "line 3: 1 cells where the header has 16"),
                                           ('x,"12 inch' + ",1" * 14, "line 3: the quoted cell that begins there"),
                                           ("x" + ",1" * 16, "line 3: 17 cells where the header has 16")])
def test_malformed_rows_of_the_spotify_file_are_named(tmp_path, row, sentence):
    from preprocess.lastfm import features
    names = ["track_id", "track_name", "track_artist", "track_album_name", *features.SPOTIFY]
    (tmp_path / "s.csv").write_text(",".join(names) + "\na" + ",1" * 15 + "\n" + row + "\n")
    with pytest.raises(WorkError, match=sentence):
        features.read_spotify(tmp_path / "s.csv")
