"""WSDM-KKBOX into a workspace: points, their split, and encodings. Reading and filters: test_kkbox.py."""
import numpy as np
import pandas as pd
import pytest

import dataset
from harness.errors import WorkError
from harness.files import write_parquet
from harness.readers import read_json
from preprocess.kkbox import filters as kkbox_filters
from preprocess.kkbox import generate as kkbox_generate
from tests.worlds.kkbox import LOOSE, MANY, get, splitter, table, world, write


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


def test_counts_of_the_split_are_of_their_part_alone(raw, tmp_path):
    """Ann plays a three times, twice of them in train.csv: train must not know the third."""
    work = get(raw, tmp_path / "w", *LOOSE, "--test", "csv", "--min-playlist-len", 1)
    splitter.main(["--protocol", "given", "--workdir", str(work)])
    train = pd.read_parquet(work / "data" / "train.pqt").set_index(["user_id", "track_id"])["count"]
    assert (table(work, "plays").query("user_id == 0").track_id == 0).sum() == 3
    assert train[0].to_dict() == {0: 2, 1: 1, 2: 1, 3: 1}
    split = table(work, "split")
    split["count"] = split["count"].astype("Int64").mask(split.track_id == 0)
    write_parquet(work / "split.pqt", split)
    splitter.main(["--protocol", "given", "--workdir", str(work)])
    train = pd.read_parquet(work / "data" / "train.pqt").set_index(["user_id", "track_id"])["count"]
    assert train[0].to_dict() == {0: 3, 1: 1, 2: 1, 3: 1}, "where the split tells no count, all plays are one"
    split["count"] = 0
    write_parquet(work / "split.pqt", split)
    with pytest.raises(WorkError, match="pairs have a count below 1"):
        splitter.main(["--protocol", "given", "--workdir", str(work)])


def test_counts_as_the_source_makes_them(raw, tmp_path):
    """Ann has 6 plays of a to e in train, 4 after two, and 2 in test; Cy 3 in train; Di 5 in test alone."""
    tables = world()
    tables["test"] += [[9, "Di=", s, "radio", "", "radio"] for s in "abcab"]
    tables["members"] += [["Di=", 1, 40, "", 7, 20150628, 20170622]]
    about = read_json(get(write(raw, tables), tmp_path / "w", *LOOSE) / "dataset.json")
    assert about["as_the_source_counts"] == {"users": 2, "train_points": 4 + 1, "test_points": 5 - 2}
    assert about["counts"]["points"] == {"history": 4, "train": 2, "val": 1, "test": 2}, "and ours: Di has no history"


def test_without_test_points_the_end_of_each_playlist_is_test(raw, tmp_path, capsys):
    """Two kept plays in test.csv are not more than two."""
    work = get(raw, tmp_path / "w", *LOOSE)
    assert "test from the last tenth of each playlist" in capsys.readouterr().out
    ann = table(work, "points").query("user_id == 0")
    assert ann.part.tolist() == ["history"] * 2 + ["train"] * 2 + ["val", "test"]
    with pytest.raises(WorkError, match="--test csv gives no test point.*the most is 2.*--test last"):
        get(raw, tmp_path / "w2", *LOOSE, "--test", "csv")


def test_pairs_first_heard_between_val_and_test_are_in_no_part():
    user, track = np.zeros(7, np.int32), np.array([0, 1, 2, 3, 4, 0, 3])
    part = np.array([0, 1, 1, 2, 0, 0, 3])   # history train train val | history history test
    first, parts, count = kkbox_filters.split_pairs(user, track, part, 5)
    assert first.tolist() == [0, 1, 2, 3] and [kkbox_filters.PARTS[p] for p in parts] == ["train"] * 3 + ["val"]
    assert count.tolist() == [1, 1, 1, 1], "the second play of song 0 comes after train, that of 3 is no val play"


def test_the_beginning_of_a_test_playlist_is_no_train_where_nothing_is_val():
    """One train point is too few for a val point: what follows it is test.csv's all the same."""
    user, track, part = np.zeros(5, np.int32), np.arange(5), np.array([0, 1, 0, 0, 3])
    first, parts, _ = kkbox_filters.split_pairs(user, track, part, 5)
    assert first.tolist() == [0, 1, 4] and [kkbox_filters.PARTS[p] for p in parts] == ["train", "train", "test"]


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
    about = read_json(made / "embeddings" / "metadata.json")
    assert about["failed"] == {"7": {"trackid": "z", "reason": "not in songs.csv"}} and about["dim"] == 3
    work = get(write(tmp_path / "raw", world()), tmp_path / "full", "--top", 0, "--min-playlist-len", 2, "--dim", 64)
    full, matrix = np.load(work / "embeddings" / "metadata.npy"), load_npz(work / "embeddings" / "metadata.npz")
    assert full.shape == (8, 5), "five kept songs span five dimensions at most"
    np.testing.assert_allclose(full[:5] @ full[:5].T, (matrix[:5] @ matrix[:5].T).toarray(), atol=1e-4)


def test_a_vocabulary_of_one_value_is_told_and_works(raw, tmp_path, capsys):
    get(raw, tmp_path / "w", *LOOSE)
    assert "warning: language has 1 value" in capsys.readouterr().out
