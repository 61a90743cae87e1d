"""WSDM-KKBOX into a workspace: reading, filters, points and encodings."""
import csv

import numpy as np
import pandas as pd
import pytest

import dataset
import runs
from preprocess import kkbox_filters, kkbox_generate, kkbox_raw
from tests.kkbox import HEADERS, LOOSE, MANY, get, play, song, splitter, table, world, write


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", world())


@pytest.fixture
def made(raw, tmp_path):
    return get(raw, tmp_path / "w", *LOOSE)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Files of the generator, 1 % of the challenge's size."""
    folder = tmp_path_factory.mktemp("kkbox")
    kkbox_generate.generate(folder, scale=0.01, seed=3)
    return folder


# --------------------------------------------------------------------------- reading

def test_every_row_is_a_play_in_order_with_its_context(made):
    plays = table(made, "plays")
    tracks, users = (pd.read_csv(made / f"{n}id_sorted.csv")[f"{n}id"] for n in ("track", "user"))
    assert list(tracks) == list("abcdefgz") and list(users) == ["Ann=", "Bo=", "Cy="]
    assert "".join(tracks[plays.track_id]) == "abc" + "a" + "ade" + "abzc" + "fgab"
    assert "".join(users[plays.user_id].str[0]) == "AAA" + "B" + "AAA" + "CCCC" + "AAAA"
    assert (plays.timestamp.astype("datetime64[s]").astype(np.int64) == np.arange(15)).all()
    assert plays.target.tolist()[:4] == [1, 1, 1, 0] and plays.target.isna().tolist() == [False] * 11 + [True] * 4
    assert plays.source_system_tab.tolist()[11:] == ["radio"] * 4 and plays.source_system_tab[7:10].isna().all()
    assert plays.source_screen_name[11:].isna().all()
    about = runs.read_json(made / "dataset.json")
    assert about["time"] == "ordinal" and about["counts"]["train_rows"] == 11 and about["counts"]["plays"] == 15


def test_metadata_is_typed_and_unknown_is_null(made):
    items, users = table(made, "items").set_index("track_id"), table(made, "users").set_index("user_id")
    a, b, c, d, z = (items.loc["abcdefgz".index(s)] for s in "abcdz")
    assert list(a.genres) == ["465", "1259"] and list(b.artists) == ["Cid Dee", "Eve Fox"]
    assert c.genres is None and c.song_length == 180.5 and list(d.composers) == ['Al "Jr." Ott, Sr.']
    assert a["name"] == "Line one\nline two, with comma" and a.language == "52"
    assert (a.country, a.year, b.year) == ("TW", 2012, 1999) and pd.isna(c.isrc) and pd.isna(c.year)
    assert z.artists is None and pd.isna(z.song_length) and not z.kept
    assert items.plays.tolist() == [3 + 1, 2, 2, 1, 1, 0, 0, 1]
    assert users.age.tolist()[::2] == [30, 20] and pd.isna(users.age[1]), "1051 is no age"
    assert users.gender.tolist()[::2] == ["female", "male"] and pd.isna(users.gender[1])
    assert str(users.registered[0]) == "2011-08-20" and pd.isna(users.expires[2]), "2017 alone is no date"
    assert users.city.tolist() == ["5", "1", "13"]


def test_the_reader_agrees_with_the_csv_module_on_generated_files(generated, tmp_path):
    work = get(generated, tmp_path / "w", "--dim", 0)
    rows = [r for name in ("train", "test") for r in csv.DictReader(open(generated / f"{name}.csv", newline=""))]
    plays = table(work, "plays")
    for column, key in (("user", "msno"), ("track", "song_id")):
        ids = sorted({r[key] for r in rows})
        assert pd.read_csv(work / f"{column}id_sorted.csv")[f"{column}id"].tolist() == ids
        assert [ids[i] for i in plays[f"{column}_id"]] == [r[key] for r in rows]
    for column in ("source_system_tab", "source_screen_name", "source_type"):
        assert plays[column].astype(object).where(plays[column].notna(), "").tolist() == [r[column] for r in rows]


def test_a_small_memory_and_a_second_run_give_the_same_bytes(generated, tmp_path, capsys):
    one, two = (get(generated, tmp_path / w, "--memory", m) for w, m in (("one", "2GB"), ("two", "512MB")))
    for name in ("plays.pqt", "items.pqt", "users.pqt", "points.pqt", "split.pqt", "vocabulary.pqt",
                 "embeddings/metadata.npz", "embeddings/metadata.npy"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    capsys.readouterr()
    get(generated, one)
    assert "skipped" in capsys.readouterr().out
    get(generated, one, "--top", 0.002)
    assert "top changed" in capsys.readouterr().out


def test_generated_files_are_the_same_for_the_same_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        kkbox_generate.generate(tmp_path / name, 0.0005, seed)
    for file in kkbox_raw.COLUMNS:
        a, b, c = ((tmp_path / x / f"{file}.csv").read_bytes() for x in "abc")
        assert a == b != c


def test_empty_rows_are_left_out_and_counted(tmp_path, capsys):
    tables = world()
    tables["test"] += [["", "", "", "", "", ""]] * 3
    work = get(write(tmp_path / "raw", tables), tmp_path / "w", *LOOSE)
    assert "test.csv: 3 rows without msno or song_id left out" in capsys.readouterr().out
    assert len(table(work, "plays")) == 15


def test_columns_in_another_order_and_windows_line_ends(raw, made, tmp_path):
    for name, header in HEADERS.items():
        frame = pd.read_csv(raw / f"{name}.csv", dtype=str, keep_default_na=False)
        (tmp_path / "other").mkdir(exist_ok=True)
        frame[header[::-1]].to_csv(tmp_path / "other" / f"{name}.csv", index=False, lineterminator="\r\n")
    other = get(tmp_path / "other", tmp_path / "w2", *LOOSE)
    for name in ("plays", "users", "points"):
        pd.testing.assert_frame_equal(table(other, name), table(made, name))


# --------------------------------------------------------------------------- filters

def test_latin_names_are_those_of_the_source():
    import pyarrow as pa
    cells = [["Ann Lee"], ["Ann"], ["Ann Lee", "Bo Tan"], ["Ann Lee", "Bo"], None, ["張 學友"], ["カ ナ"], ["한 국"],
             ["ก ข"], ["A" * 12 + " " + "B" * 12], ["A" * 13 + " " + "B" * 12], ["Ан Ли"], ["A\u3000B"]]
    fine = kkbox_filters.latin(pa.chunked_array([cells[:5], cells[5:]], pa.list_(pa.string())))
    assert fine.tolist() == [True, False, True, False, False, False, False, False, False, True, False, True, True]


@pytest.mark.parametrize("flags, kept", [
    ((), "abce"),                           # d: a name of 26 letters; f, g: not in train.csv; z: not in songs.csv
    (("--composer-names", "known"), "abcde"),
    (("--top", 0.34), "abc"),               # a has 4 plays, c 4, b 2; d and e 1 of 4, which is below .34
    (("--top", 0.5), "ac"),                 # 2 of 4 is not above .5
    (("--max-seconds", 200), "c")])         # the others last 200 s, and shorter is asked for
def test_song_filters(raw, tmp_path, flags, kept):
    tables = world()
    tables["songs"][3] = song("d", composer="Al Ott, composer of songs.")
    tables["train"] += [play("Cy=", "c")] * 2
    work = get(write(raw, tables), tmp_path / "w", "--top", 0, "--dim", 0, "--min-playlist-len", 1, *flags)
    items = table(work, "items")
    assert "".join("abcdefgz"[i] for i in items.track_id[items.kept]) == kept


def test_what_each_filter_removes_is_printed(raw, tmp_path, capsys):
    work = get(raw, tmp_path / "w", *LOOSE)
    out = capsys.readouterr().out
    assert "not in songs.csv: removes 1 of 8 songs, 7 left" in out
    assert "--top 0: removes 2 of 7 songs, 5 left" in out, "f and g were not played in train.csv"
    assert "--min-age 16 --max-age 59: removes 1 of 3 listeners, 2 left" in out
    removed = {r["filter"]: r["removed"] for r in runs.read_json(work / "dataset.json")["filters"]}
    assert removed["--top 0"] == 2 and removed["--min-playlist-len 2"] == 0


def test_unknown_ages_pass_with_min_age_0(raw, tmp_path):
    work = get(raw, tmp_path / "w", "--top", 0, "--min-age", 0, "--min-playlist-len", 1, "--dim", 0)
    assert table(work, "users").playlist.tolist() == [6, 1, 3]
    assert table(work, "users").kept.tolist() == [True, False, True]


# --------------------------------------------------------------------------- points

def test_points_of_a_hand_made_playlist(raw, tmp_path):
    """Ann: a b | c a d e are points, the last (a tenth, at least one) val. f, g are not played in train: not kept."""
    work = get(raw, tmp_path / "w", *LOOSE, "--test", "csv", "--min-playlist-len", 1)
    points = table(work, "points")
    ann = points[points.user_id == 0]
    assert "".join("abcdefgz"[i] for i in ann.track_id) == "abcade" + "ab"
    assert ann.part.tolist() == ["history"] + ["train"] * 4 + ["val"] + ["history", "test"]
    assert ann.position.tolist() == list(range(8)) and ann.target.isna().tolist() == [False] * 6 + [True] * 2
    split = table(work, "split")
    pairs = {(u, "abcdefgz"[t]): (p, n) for u, t, p, n in split[split.user_id == 0][
        ["user_id", "track_id", "part", "count"]].itertuples(index=False)}
    assert pairs == {(0, "a"): ("train", 2), (0, "b"): ("train", 1), (0, "c"): ("train", 1), (0, "d"): ("train", 1),
                     (0, "e"): ("val", 1)}, "a and b belong to train, and their counts do not know test"


def test_counts_as_the_source_makes_them(raw, tmp_path):
    """Ann has 6 plays of a to e in train, 4 after two, and 2 in test; Cy 3 in train; Di 5 in test alone."""
    tables = world()
    tables["test"] += [[9, "Di=", s, "radio", "", "radio"] for s in "abcab"]
    tables["members"] += [["Di=", 1, 40, "", 7, 20150628, 20170622]]
    about = runs.read_json(get(write(raw, tables), tmp_path / "w", *LOOSE) / "dataset.json")
    assert about["as_the_source_counts"] == {"users": 2, "train_points": 4 + 1, "test_points": 5 - 2}
    assert about["counts"]["points"] == {"history": 4, "train": 2, "val": 1, "test": 2}, "and ours: Di has no history"


def test_without_test_points_the_end_of_each_playlist_is_test(raw, tmp_path, capsys):
    """Two kept plays in test.csv are not more than two."""
    work = get(raw, tmp_path / "w", *LOOSE)
    assert "test from the last tenth of each playlist" in capsys.readouterr().out
    ann = table(work, "points").query("user_id == 0")
    assert ann.part.tolist() == ["history"] * 2 + ["train"] * 2 + ["val", "test"]
    with pytest.raises(runs.WorkError, match="--test csv gives no test point.*the most is 2.*--test last"):
        get(raw, tmp_path / "w2", *LOOSE, "--test", "csv")


def test_pairs_first_heard_between_val_and_test_are_in_no_part():
    user, track = np.zeros(7, np.int32), np.array([0, 1, 2, 3, 4, 0, 3])
    part = np.array([0, 1, 1, 2, 0, 0, 3])   # history train train val | history history test
    first, parts, count = kkbox_filters.split_pairs(user, track, part, 5)
    assert first.tolist() == [0, 1, 2, 3] and [kkbox_filters.PARTS[p] for p in parts] == ["train"] * 3 + ["val"]
    assert count.tolist() == [1, 1, 1, 1], "the second play of song 0 comes after train, that of 3 is no val play"


@pytest.mark.parametrize("length, least, share, last, expected", [
    (6, 2, 0.1, False, "hhtttv"), (3, 2, 0.1, False, "hht"), (23, 2, 0.1, False, "hh" + "t" * 19 + "vv"),
    (6, 2, 0, False, "hhtttt"), (6, 2, 0.1, True, "hhttvT"), (3, 2, 0.1, True, "hhT"),
    (32, 2, 0.1, True, "hh" + "t" * 25 + "vv" + "TTT")])
def test_parts_of_one_playlist(length, least, share, last, expected):
    part = kkbox_filters._parts(np.arange(length), np.full(length, length), least, share, last)
    assert "".join("htvT"[p] for p in part) == expected


def test_points_of_generated_files_are_whole_playlists(generated, tmp_path):
    work = get(generated, tmp_path / "w", *MANY, "--dim", 0)
    points, users = table(work, "points"), table(work, "users")
    assert set(points.part) == {"history", "train", "val", "test"}
    length = points[points.target.notna()].groupby("user_id").size()
    assert length.equals(users.set_index("user_id").playlist[users.kept.to_numpy()].rename(None))
    assert ((length > 8) & (length < 200)).all()
    assert (points.position == points.groupby("user_id").cumcount()).all()
    assert points.groupby("user_id").timestamp.is_monotonic_increasing.all()
    of_train = points[points.target.notna()]
    assert (of_train.part == "history").sum() == 8 * len(length) and (of_train.part != "test").all()
    n_points = length - 8
    expected = np.where(n_points < 2, 0, np.maximum(1, n_points // 10))
    assert of_train[of_train.part == "val"].groupby("user_id").size().sum() == expected.sum()


def test_the_split_of_the_points_loads(generated, tmp_path):
    work = get(generated, tmp_path / "w", *MANY)
    splitter.main(["--protocol", "given", "--workdir", str(work)])
    split = dataset.load(work)
    pairs = table(work, "split")
    assert split.time == "ordinal" and len(split.train) == (pairs.part == "train").sum()
    assert len(split.part("val")) and len(split.part("test"))
    assert np.isin(split.tracks, np.flatnonzero(table(work, "items").kept)).all()
    vectors = dataset.load_embedding(split, "metadata")
    assert vectors.shape == (split.n_items, 64) and np.isfinite(vectors).all()


# --------------------------------------------------------------------------- encodings

def test_the_sparse_matrix_says_what_the_metadata_say(made):
    from scipy.sparse import load_npz
    vocabulary, matrix = table(made, "vocabulary"), load_npz(made / "embeddings" / "metadata.npz").toarray()
    names = [(f, None if pd.isna(v) else v) for f, v in zip(vocabulary.field, vocabulary.value, strict=True)]
    assert names == [("length", None), ("genre", "1259"), ("genre", "465"), ("genre", None), ("artist", "Ann Lee"),
                     ("artist", "Cid Dee"), ("artist", "Eve Fox"), ("artist", None), ("composer", 'Al "Jr." Ott, Sr.'),
                     ("composer", "Bo Tan"), ("composer", None), ("language", "52"), ("language", None)]
    assert matrix.shape == (8, 13) and matrix[:, 0].tolist() == pytest.approx([1, 1, 180.5 / 200, 1, 1, 1, 1, 0])
    ones = {s: [names[c] for c in np.flatnonzero(matrix["abcdefgz".index(s), 1:]) + 1] for s in "abcz"}
    assert ones["a"] == [("genre", "1259"), ("genre", "465"), ("artist", "Ann Lee"), ("composer", "Bo Tan"),
                         ("language", "52")]
    assert ones["b"][1:3] == [("artist", "Cid Dee"), ("artist", "Eve Fox")]
    assert ones["c"][0] == ("genre", None) and ones["z"] == []
    assert vocabulary.songs.tolist() == [5, 1, 4, 1, 4, 1, 1, 0, 1, 4, 0, 5, 0], "among a to e, which are kept"


def test_the_reduced_matrix_keeps_products_of_songs(made, generated, tmp_path):
    from scipy.sparse import load_npz
    vectors = np.load(made / "embeddings" / "metadata.npy")
    assert vectors.shape == (8, 3) and np.isnan(vectors[7]).all() and np.isfinite(vectors[:7]).all()
    about = runs.read_json(made / "embeddings" / "metadata.json")
    assert about["failed"] == {"7": {"trackid": "z", "reason": "not in songs.csv"}} and about["dim"] == 3
    work = get(write(tmp_path / "raw", world()), tmp_path / "full", "--top", 0, "--min-playlist-len", 2, "--dim", 64)
    full, matrix = np.load(work / "embeddings" / "metadata.npy"), load_npz(work / "embeddings" / "metadata.npz")
    assert full.shape == (8, 5), "five kept songs span five dimensions at most"
    np.testing.assert_allclose(full[:5] @ full[:5].T, (matrix[:5] @ matrix[:5].T).toarray(), atol=1e-4)


def test_a_vocabulary_of_one_value_is_told_and_works(raw, tmp_path, capsys):
    get(raw, tmp_path / "w", *LOOSE)
    assert "beware: language has 1 value" in capsys.readouterr().out
