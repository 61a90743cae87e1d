"""dataset: codes are right, and whatever is wrong with a file is said in one sentence."""
import os

import numpy as np
import pandas as pd
import pytest

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import checksum, write_json, write_parquet
from harness.readers import read_json
from tests.worlds.world import hidden_pairs, take_out, tiny_workspace, write_embedding, write_gaps, write_pairs


def test_codes_point_back_to_ids(tiny):
    split = dataset.load(tiny)
    for part in ("train", *split.parts):
        raw = pd.read_parquet(tiny / "data" / f"{part}.pqt").sort_values(["user_id", "track_id"])
        pairs = split.part(part)
        assert split.users[pairs.user].tolist() == raw.user_id.tolist()
        assert split.tracks[pairs.item].tolist() == raw.track_id.tolist()
        assert pairs.count.tolist() == raw["count"].tolist()
        assert pairs.time.tolist() == raw.timestamp.astype("datetime64[us]").astype("int64").tolist()
    assert split.n_items < split.n_tracks                      # the code is not the track id, or the test is blind
    assert not np.array_equal(split.tracks, np.arange(split.n_items))



def test_hot_items_are_those_of_train_and_cold_ones_follow(tiny):
    split = dataset.load(tiny)
    train = pd.read_parquet(tiny / "data/train.pqt").track_id.unique()
    cold = pd.read_parquet(tiny / "data/cold_test.pqt").track_id.unique()
    assert split.tracks[:split.n_hot].tolist() == sorted(train)
    assert split.tracks[split.n_hot:].tolist() == sorted(cold)
    assert split.candidates("cold_test") == slice(split.n_hot, split.n_items)
    assert split.candidates("test") == split.candidates("val") == slice(0, split.n_hot)


def test_matrix_and_sequences(tiny):
    split = dataset.load(tiny)
    raw = pd.read_parquet(tiny / "data/train.pqt")
    counts = raw.pivot(index="user_id", columns="track_id", values="count").fillna(0).to_numpy()
    assert np.array_equal(split.matrix("count").toarray(), counts)
    assert np.array_equal(split.matrix().toarray(), counts > 0)
    indptr, items = split.sequences()
    by_count = split.sequences("count")[1]
    for code, user in enumerate(split.users):
        mine = raw[raw.user_id == user]
        window = slice(indptr[code], indptr[code + 1])
        assert split.tracks[items[window]].tolist() == mine.sort_values("timestamp").track_id.tolist()
        plays = mine.set_index("track_id")["count"]
        played = plays.loc[split.tracks[by_count[window]]]
        assert played.is_monotonic_increasing and played.index.sort_values().equals(plays.index.sort_values())


@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
def test_lists_of_val_hide_train_and_lists_of_test_hide_train_and_val(tiny, part):
    split = dataset.load(tiny)
    seen, tracks = split.seen(part), split.tracks[split.candidates(part)]
    assert seen.shape == (split.n_users, len(tracks))
    rows, columns = seen.nonzero()
    assert {*zip(split.users[rows], tracks[columns], strict=True)} == hidden_pairs(tiny, part)


def test_without_val_lists_of_test_hide_train_alone(tiny):
    (tiny / "data/val.pqt").unlink()
    split = dataset.load(tiny)
    rows, columns = split.seen("test").nonzero()
    assert {*zip(split.users[rows], split.tracks[columns], strict=True)} == hidden_pairs(tiny, "val")


@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
def test_what_was_taken_out_of_train_is_no_candidate(tiny, part):
    out = take_out(tiny)
    split = dataset.load(tiny)
    assert out and not out & {*zip(split.users[split.train.user], split.tracks[split.train.item], strict=True)}
    assert "hidden" not in split.parts and tiny / "data/hidden.pqt" in [i.path for i in split.inputs]
    seen, tracks = split.seen(part), split.tracks[split.candidates(part)]
    rows, columns = seen.nonzero()
    wanted = hidden_pairs(tiny, part) | (out if part != "cold_test" else set())
    assert {*zip(split.users[rows], tracks[columns], strict=True)} == wanted
    assert split.matrix().nnz == split.history(part).nnz == len(split.train), "it is no history, either"


def test_lists_hold_nothing_that_was_taken_out_of_train(tiny):
    from recommenders import popularity
    out = take_out(tiny)
    popularity.main(["--workdir", str(tiny), "--k", "100"])
    ((name, config),) = runs.find_runs(tiny)
    assert config["inputs"]["data/hidden.pqt"] == checksum(tiny / "data/hidden.pqt")
    for part in ("val", "test"):
        lists = pd.read_parquet(tiny / "preds" / f"{name}_{part}.pqt")
        assert len(lists) and not out & {*zip(lists.user_id, lists.track_id, strict=True)}


@pytest.mark.parametrize(("pairs", "words"), [
    ([(999, 2)], "hidden.pqt: 1 users have no plays in train"),
    ("train", "hidden.pqt: 1 of its pairs are in train, too"),
    ("test", "hidden.pqt: 1 of its pairs are in test, too"),
    ([(0, 10_000)], "hidden.pqt: track_id runs from 10000 to 10000")])
def test_hidden_pairs_are_checked(tiny, pairs, words):
    if isinstance(pairs, str):
        first = pd.read_parquet(tiny / "data" / f"{pairs}.pqt").iloc[0]
        pairs = [(first.user_id, first.track_id)]
    if pairs == [(999, 2)]:
        pairs = [(999, pd.read_parquet(tiny / "data/train.pqt").track_id[0])]
    write_parquet(tiny / "data/hidden.pqt", pd.DataFrame(pairs, columns=["user_id", "track_id"]))
    with pytest.raises(WorkError, match=words):
        dataset.load(tiny)


def test_data_without_times_asks_for_an_order(tmp_path):
    split = dataset.load(tiny_workspace(tmp_path / "w", timed=False))
    assert split.time == "none" and split.train.time is None
    with pytest.raises(UsageError, match="--order count"):
        split.sequences()
    assert len(split.sequences("count")[1]) == len(split.train)


def test_embedding_rows_follow_the_items(tiny):
    split = dataset.load(tiny)
    raw = np.load(tiny / "embeddings/content.npy")
    vectors = dataset.load_embedding(split, "content")
    assert np.array_equal(vectors, raw[split.tracks])
    shuffled = dataset.load_embedding(split, "content", shuffle=1)
    assert not np.array_equal(shuffled, vectors)
    assert np.array_equal(np.sort(shuffled, axis=0), np.sort(vectors, axis=0))
    assert np.array_equal(shuffled, dataset.load_embedding(split, "content", shuffle=1))
    assert not np.array_equal(shuffled, dataset.load_embedding(split, "content", shuffle=2))


def test_a_control_exchanges_rows_of_tracks_that_have_one(tiny):
    """Which tracks have a row is related to popularity; a control that moved the gaps would count that as content."""
    split = dataset.load(tiny)
    gaps = write_gaps(tiny, split, seed=5)
    plain, control = (dataset.load_embedding(split, "gaps", "mean", shuffle) for shuffle in (None, 7))
    assert 0 < gaps.sum() < split.n_items
    assert np.array_equal(control[gaps], plain[gaps])          # the mean, where there is no row
    assert (control[~gaps] != plain[~gaps]).any(axis=1).mean() > .8
    assert sorted(map(tuple, control[~gaps])) == sorted(map(tuple, plain[~gaps]))


def test_missing_rows_stop_or_are_filled_with_the_mean(tiny):
    split = dataset.load(tiny)
    raw = np.load(tiny / "embeddings/content.npy")
    gap = split.tracks[[3, 5]]
    raw[gap] = np.nan
    write_embedding(tiny, "gaps", raw)
    with pytest.raises(WorkError, match=f"no row for 2 of the {split.n_items} tracks.*--tracks-with gaps"):
        dataset.load_embedding(split, "gaps")
    filled = dataset.load_embedding(split, "gaps", missing="mean")
    others = np.delete(raw[split.tracks], [3, 5], axis=0)
    assert np.allclose(filled[[3, 5]], others.mean(axis=0), atol=1e-6)
    unplayed = np.setdiff1d(np.arange(split.n_tracks), split.tracks)
    assert len(unplayed)
    raw = np.load(tiny / "embeddings/content.npy")
    raw[unplayed] = np.nan
    write_embedding(tiny, "gaps", raw)
    assert np.isfinite(dataset.load_embedding(split, "gaps")).all()  # tracks nobody needs may be missing


@pytest.mark.parametrize("matrix, sentence", [
    (np.zeros((79, 4), np.float32), "79 rows.*80 tracks"),
    (np.zeros((80, 4), np.int64), "float32.*int64"),
    (np.zeros(80, np.float32), r"shape \(80,\)"),
    (np.array([["a"] * 4] * 80), "float32"),
    (np.full((80, 4), np.nan, np.float32), "no finite row"),
    (np.full((80, 4), np.inf, np.float32), "no finite row"),
])
def test_bad_embeddings(tiny, matrix, sentence):
    write_embedding(tiny, "bad", matrix)
    with pytest.raises(WorkError, match=sentence):
        dataset.load_embedding(dataset.load(tiny), "bad")


@pytest.mark.parametrize("kind, scale", [(np.float32, 1e25), (np.float32, 1e-30), (np.float64, 1e200),
                                         (np.float64, 1e-200)])
def test_vectors_whose_lengths_float32_cannot_square_are_refused(tiny, kind, scale):
    """Their cosines would be 0, and a model at chance without a word."""
    split = dataset.load(tiny)
    matrix = np.load(tiny / "embeddings" / "content.npy").astype(kind) * kind(scale)
    np.save(tiny / "embeddings" / "content.npy", matrix)
    with pytest.raises(WorkError, match=f"the vectors of {split.n_items} tracks are too long or too short for float32"):
        dataset.load_embedding(split, "content")


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_vectors_within_float32_are_read(tiny, scale):
    matrix = np.load(tiny / "embeddings" / "content.npy").astype(np.float64) * scale
    matrix[0] = 0                                       # a vector without a direction is no fault of its scale
    np.save(tiny / "embeddings" / "content.npy", matrix)
    assert np.isfinite(dataset.load_embedding(dataset.load(tiny), "content")).all()


def test_embeddings_of_objects_text_or_another_track_list(tiny):
    split = dataset.load(tiny)
    folder = tiny / "embeddings"
    np.save(folder / "objects.npy", np.array([{}] * 80, dtype=object), allow_pickle=True)
    with pytest.raises(WorkError, match="Python objects"):
        dataset.load_embedding(split, "objects")
    (folder / "text.npy").write_text("1,2,3\n")
    with pytest.raises(WorkError, match="cannot be read as a .npy matrix"):
        dataset.load_embedding(split, "text")
    write_embedding(tiny, "foreign", np.zeros((80, 4), np.float32), track_checksum="0" * 64)
    with pytest.raises(WorkError, match="another track list"):
        dataset.load_embedding(split, "foreign")
    with pytest.raises(UsageError, match="no embedding 'nosuch'.*content, foreign"):
        dataset.load_embedding(split, "nosuch")


@pytest.mark.parametrize("part, users, tracks, sentence", [
    ("val", [999], [5], "val.pqt: 1 users have no plays in train.*999"),
    ("test", [3], [0], "test.pqt: all pairs are of tracks absent from train"),
    ("test", [3], [80], "track_id runs from 80 to 80, but trackid_sorted.csv has 80 rows"),
    ("test", [3], [-1], "track_id runs from -1"),
    ("train", [], [], "train.pqt has no rows"),
])
def test_bad_parts(tiny, part, users, tracks, sentence):
    write_pairs(tiny, part, users, tracks)
    with pytest.raises(WorkError, match=sentence):
        dataset.load(tiny)


def test_more_bad_parts(tiny):
    hot = int(dataset.load(tiny).tracks[0])
    write_pairs(tiny, "cold_test", [3], [hot])
    with pytest.raises(WorkError, match="1 of its tracks were played in train"):
        dataset.load(tiny)
    write_pairs(tiny, "cold_test", [3, 3], [hot, hot])
    write_pairs(tiny, "val", [3, 3], [hot, hot])
    (tiny / "data/cold_test.pqt").unlink()
    with pytest.raises(WorkError, match="val.pqt contains 1 duplicate"):
        dataset.load(tiny)
    write_parquet(tiny / "data/val.pqt", pd.DataFrame({"user_id": [3]}))
    with pytest.raises(WorkError, match="no column track_id"):
        dataset.load(tiny)
    (tiny / "data/val.pqt").write_text("not parquet")
    with pytest.raises(WorkError, match="cannot be read as parquet"):
        dataset.load(tiny)


def test_a_split_that_was_killed_half_way_is_refused(tiny):
    write_json(tiny / "data/split.json", {"status": "writing"})
    with pytest.raises(WorkError, match="interrupted; run preprocess/1_train_test_split.py again"):
        dataset.load(tiny)
    write_json(tiny / "data/split.json", {"status": "finished"})
    assert dataset.load(tiny).n_users == 60


def test_a_folder_that_is_no_workspace(tmp_path):
    with pytest.raises(WorkError, match="trackid_sorted.csv is missing"):
        dataset.load(tmp_path)


def test_a_data_set_whose_making_was_interrupted_is_refused(tiny):
    """Its files may be of two requests: an error for readers of the split and of the tracks alone."""
    told = read_json(tiny / "dataset.json")
    write_json(tiny / "dataset.json", {**told, "status": "writing"})
    for read in (dataset.load, dataset.read_tracks):
        with pytest.raises(WorkError, match="dataset.json is not finished: .* interrupted; run preproc"):
            read(tiny)
    write_json(tiny / "dataset.json", {**told, "status": "finished"})
    dataset.load(tiny)


def test_a_split_published_while_it_is_read_is_read_again(tiny, monkeypatch):
    """The recorded checksums are those of what was read, and all parts are of one split."""
    read, other = dataset.read_pairs, tiny_workspace(tiny.parent / "other", seed=1)
    calls = []

    def published_meanwhile(path):
        calls.append(path.name)
        if len(calls) == 1:
            for part in ("train", "val", "test", "cold_test"):
                os.replace(other / "data" / f"{part}.pqt", tiny / "data" / f"{part}.pqt")
        return read(path)
    monkeypatch.setattr(dataset, "read_pairs", published_meanwhile)
    split = dataset.load(tiny)
    assert calls == ["train.pqt", "val.pqt", "test.pqt", "cold_test.pqt"] * 2
    assert [i.digest for i in split.inputs] == [checksum(i.path) for i in split.inputs]
    assert not any(i.replaced() for i in split.inputs)


@pytest.mark.parametrize("what", ["data/train.pqt", "embeddings/content.npy"])
def test_a_run_on_an_input_that_changed_meanwhile_is_not_finished(tiny, monkeypatch, what):
    import knn
    from ranking import save
    write, other = save.write, tiny_workspace(tiny.parent / "other", seed=1)

    def changed_meanwhile(*args, **kwargs):
        results = write(*args, **kwargs)
        os.replace(other / what, tiny / what)
        return results
    monkeypatch.setattr(save, "write", changed_meanwhile)
    with pytest.raises(WorkError, match=f"{what} changed while run content_cosine.* was being made"):
        knn.main(["content", "--k", "10", "--workdir", str(tiny)])
    (_, config), = runs.find_runs(tiny)
    assert config["status"] == "running"


def test_order_within_a_second_survives_into_sequences(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    tracks = np.unique(pd.read_parquet(workdir / "data" / "train.pqt").track_id)[:20]
    order = np.random.default_rng(3).permutation(tracks)
    for part in ("val", "test", "cold_test"):
        (workdir / "data" / f"{part}.pqt").unlink()
    write_parquet(workdir / "data" / "train.pqt", pd.DataFrame({
        "user_id": 3, "track_id": order, "count": 1,
        "timestamp": pd.Timestamp("2019-02-20") + pd.to_timedelta(np.arange(20) * 40, unit="ms")}))
    split = dataset.load(workdir)
    _, items = split.sequences()
    assert split.tracks[items].tolist() == order.tolist()


def test_a_split_with_users_beyond_int64_is_one_sentence(tiny):
    for part in ("train", "val", "test"):
        path = tiny / f"data/{part}.pqt"
        frame = pd.read_parquet(path)
        frame.assign(user_id=frame["user_id"].astype("uint64") + np.uint64(2**63)).to_parquet(path)
    with pytest.raises(WorkError, match=r"train.pqt: user_id holds 922337203685477\d+, which does not fit int64"):
        dataset.load(tiny)
