"""Content kNN: similarities and scores against the plain formula, --like, and features that say nothing."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_parquet, write_text
from recommenders import content_knn
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks


def lists(workdir, part="test"):
    (name, config), = [r for r in runs.find_runs(workdir) if r[1]["status"] == "finished"]
    return pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt"), config


# --------------------------------------------------------------------------- similarity and score

@pytest.mark.numeric
def test_three_tracks_by_hand():
    """Cosines .6 (0, 1), .8 (1, 2) and 0 (0, 2); with one neighbour each, 0 and 2 have 1, and 1 has 2."""
    unit = np.array([[1, 0], [.6, .8], [0, 1]], np.float32)
    ids = np.arange(3)
    assert np.allclose(content_knn.neighbours(unit, unit, 5, ids, ids).toarray(), [[0, .6, 0], [.6, 0, .8], [0, .8, 0]])
    assert np.allclose(content_knn.neighbours(unit, unit, 1, ids, ids).toarray(), [[0, .6, 0], [0, 0, .8], [0, .8, 0]])


@pytest.mark.numeric
def test_equal_rows_have_equal_cosines_and_are_drawn_by_the_seed():
    rng = np.random.default_rng(0)
    few = content_knn.directions(rng.normal(size=(40, 24)))
    unit = few[rng.permutation(np.repeat(np.arange(40), 25))]           # 25 tracks of each kind
    ids = np.arange(len(unit))
    near = content_knn.neighbours(few, unit, len(unit), np.arange(-40, 0), ids).toarray()
    for row in near:
        assert all(len(np.unique(row[(unit == one).all(axis=1)])) == 1 for one in few)
    first, second = (content_knn.neighbours(few, unit, 10, np.arange(-40, 0), ids, seed) for seed in (1, 2))
    assert np.allclose(np.sort(first.data), np.sort(second.data), atol=1e-6)
    assert (first != second).nnz > 0


def test_directions_by_hand():
    """Columns (1, 3, 5) and (0, 0, 3): z-scores -a, 0, a with a = sqrt(1.5), and -b, -b, 2b with b = 1 / sqrt(2)."""
    a, b = 1.5 ** 0.5, 0.5 ** 0.5
    z = np.array([[-a, -b], [0, -b], [a, 2 * b]])
    expected = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert np.allclose(content_knn.directions(np.array([[1, 0], [3, 0], [5, 3]], np.float32)), expected, atol=1e-6)
    centred = np.array([[-2, -1], [0, -1], [2, 2]]) / np.array([[5 ** .5], [1], [8 ** .5]])
    assert np.allclose(content_knn.directions(np.array([[1, 0], [3, 0], [5, 3]]), "center"), centred, atol=1e-6)
    assert np.allclose(content_knn.directions(np.array([[3, 4], [0, 0]]), "none"), [[.6, .8], [0, 0]])


@pytest.mark.numeric
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 12), columns=st.integers(1, 5))
def test_neighbours_by_the_plain_formula(seed, n, columns):
    generator = np.random.default_rng(seed)
    unit = content_knn.directions(generator.normal(size=(9, columns)))
    near = content_knn.neighbours(unit[:6], unit, n, np.arange(6), np.arange(9), seed).toarray()
    cosine = unit[:6] @ unit.T
    cosine[np.arange(6), np.arange(6)] = 0
    for row, found in zip(cosine, near, strict=True):
        expected = np.sort(row[row > 0])[::-1][:n]
        assert np.allclose(np.sort(found[found > 0])[::-1], expected, atol=1e-6)
        assert np.allclose(found[found > 0], row[found > 0], atol=1e-6)


@pytest.mark.numeric
@pytest.mark.parametrize("part", ["test", "cold_test"])
@pytest.mark.parametrize("values", ["binary", "count", "log"])
def test_saved_scores_are_the_sum_over_the_history(tiny, part, values):
    content_knn.main(["content", "--workdir", str(tiny), "--neighbours", "7", "--values", values, "--k", "5"])
    split = dataset.load(tiny)
    unit = content_knn.directions(dataset.load_embedding(split, "content"), fitted=split.n_hot)
    ranked = split.candidates(part)
    cosine = unit[:split.n_hot] @ unit[ranked].T
    if part == "test":
        np.fill_diagonal(cosine, -1)
    near = np.zeros_like(cosine)
    for row, out in zip(cosine, near, strict=True):
        best = [i for i in np.argsort(-row)[:7] if row[i] > 0]
        out[best] = row[best]
    weight = split.matrix("binary" if values == "binary" else "count").toarray()
    score = (np.log1p(weight) if values == "log" else weight) @ near
    user = {u: i for i, u in enumerate(split.users)}
    item = {t: i for i, t in enumerate(split.tracks[ranked])}
    preds, _ = lists(tiny, part)
    expected = [score[user[u], item[t]] for u, t in zip(preds.user_id, preds.track_id, strict=True)]
    assert np.allclose(preds.score, expected, rtol=1e-5) and (preds.score > 0).any()


def test_content_finds_cold_tracks_and_the_wrong_tracks_vectors_do_not(tmp_path):
    """300 listeners of one of four directions: their cold tracks are found far above the 10 of 40 of chance."""
    recall = {}
    for flags in ([], ["--shuffle"]):
        workdir = tiny_workspace(tmp_path / f"w{len(flags)}", n_users=300, n_tracks=200, n_cold=40)
        content_knn.main(["content", "--workdir", str(workdir), "--k", "10", *flags])
        (name, _), = runs.find_runs(workdir)
        recall[len(flags)] = pd.read_csv(workdir / "metrics" / f"{name}_cold_test.csv", index_col=0).loc["mean",
                                                                                                         "Recall@10"]
    assert recall[0] > 0.5 and abs(recall[1] - 0.25) < 0.15


# --------------------------------------------------------------------------- features that say nothing

def test_a_constant_column_changes_nothing(tmp_path):
    found = []
    for extra in (0, 1):
        workdir = tiny_workspace(tmp_path / f"w{extra}")
        matrix = np.load(workdir / "embeddings" / "content.npy")
        write_embedding(workdir, "content", np.hstack([matrix, np.full((len(matrix), extra), 0.1, np.float32)]))
        content_knn.main(["content", "--workdir", str(workdir), "--k", "10"])
        found.append(lists(workdir)[0])
    assert found[0].equals(found[1])


@pytest.mark.numeric
def test_units_change_nothing_when_standardised(tmp_path):
    found = []
    for scale in (1, 1000):
        workdir = tiny_workspace(tmp_path / f"w{scale}")
        matrix = np.load(workdir / "embeddings" / "content.npy")
        matrix[:, 0] *= scale
        write_embedding(workdir, "content", matrix)
        content_knn.main(["content", "--workdir", str(workdir), "--k", "10"])
        found.append(lists(workdir)[0])
    assert (found[0].track_id == found[1].track_id).mean() > 0.999 and np.allclose(found[0].score, found[1].score,
                                                                                  rtol=1e-3)


def test_lists_of_val_do_not_depend_on_the_content_of_cold_test(tiny, tmp_path):
    """Means and deviations of the columns are those of hot items: tuning, which has no cold_test, sees the same."""
    split, found = dataset.load(tiny), []
    matrix = np.load(tiny / "embeddings" / "content.npy")
    for shift in (0, 50):
        matrix[split.tracks[split.n_hot:]] += shift
        write_embedding(tiny, "content", matrix)
        content_knn.main(["content", "--workdir", str(tiny), "--overwrite"])
        found.append([pd.read_parquet(path) for path in sorted((tiny / "preds").glob("*.pqt"))])
    cold, test, val = ([lists[i] for lists in found] for i in range(3))
    pd.testing.assert_frame_equal(*val)
    pd.testing.assert_frame_equal(*test)
    assert not cold[0].equals(cold[1])


def test_missing_rows_stop_or_are_similar_to_none(tiny):
    matrix = np.load(tiny / "embeddings" / "content.npy")
    split = dataset.load(tiny)
    absent = split.tracks[[3, 5]]
    matrix[absent, 0] = np.nan
    write_embedding(tiny, "content", matrix + 7)
    with pytest.raises(WorkError, match="no row for 2 of the .* --missing mean"):
        content_knn.main(["content", "--workdir", str(tiny)])
    content_knn.main(["content", "--workdir", str(tiny), "--missing", "mean", "--k", "100"])
    preds, _ = lists(tiny)
    assert (preds[preds.track_id.isin(absent)].score == 0).all() and (preds.score > 0).any()
    matrix[:, 0] = np.nan
    write_embedding(tiny, "content", matrix)
    with pytest.raises(WorkError, match="no finite row for any of the .* tracks"):
        content_knn.main(["content", "--workdir", str(tiny), "--missing", "mean"])


def test_an_unknown_embedding_and_none_at_all(tiny):
    with pytest.raises(UsageError, match="no embedding 'vgish'.*available: content, noise"):
        content_knn.main(["vgish", "--workdir", str(tiny)])
    for path in (tiny / "embeddings").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="no embeddings in"):
        content_knn.main(["--workdir", str(tiny)])


@pytest.mark.parametrize("train, val", [([(1, 0), (2, 0)], [(1, 0)]),              # one track, which everybody knows
                                        ([(1, 0), (1, 1), (1, 2)], [(1, 2)])])    # one user, who knows everything
def test_one_track_or_one_user(tmp_path, train, val):
    write_tracks(tmp_path, 3)
    for part, pairs in (("train", train), ("val", val)):
        write_pairs(tmp_path, part, *np.array(pairs).T)
    write_embedding(tmp_path, "content", np.eye(3, dtype=np.float32))
    content_knn.main(["--workdir", str(tmp_path)])
    preds, config = lists(tmp_path, "val")
    assert config["parts"] == ["val"] and not len(preds)


def test_a_bad_embedding_does_not_stop_the_others(tiny, capsys):
    write_embedding(tiny, "bad", np.full((80, 4), np.nan, np.float32))
    with pytest.raises(WorkError, match="^1 of 3 embeddings failed: bad; see the errors above$"):
        content_knn.main(["--workdir", str(tiny)])
    assert "bad: embedding 'bad' has no finite row" in capsys.readouterr().err
    assert {c["embedding"] for _, c in runs.find_runs(tiny) if c["status"] == "finished"} == {"content", "noise"}
    with pytest.raises(WorkError, match="embedding 'bad' has no finite row"):
        content_knn.main(["bad", "--workdir", str(tiny)])


@pytest.mark.parametrize("flags, sentence", [
    (["--show", "3"], "--show is the number of tracks printed by --like"),
    (["--like", "a", "--shuffle"], "--shuffle does not apply to --like"),
    (["--like", "a", "--neighbours", "50"], "--neighbours is about recommending"),
    (["--like", "a", "--values", "log"], "--values is about recommending"),
    (["--like", "a", "--missing", "mean"], "--missing is about recommending")])
def test_a_flag_that_would_be_ignored_is_refused(tiny, flags, sentence):
    with pytest.raises(UsageError, match=sentence):
        content_knn.main(["content", "--workdir", str(tiny), *flags])


# --------------------------------------------------------------------------- --like

@pytest.fixture
def songs(tmp_path):
    """Four songs: 'c' is nearest to 'a' in tempo and energy, 'b' next; 'd' has no features."""
    write_text(tmp_path / "trackid_sorted.csv", "idx,trackid\n0,a\n1,b\n2,c\n3,d\n")
    write_parquet(tmp_path / "items.pqt", pd.DataFrame({
        "track_id": range(4), "title": ["Hello", "Moon", "Sun", "Moon"], "artists": [["X", "Y"], ["X"], [], ["Z"]]}))
    write_embedding(tmp_path, "sound", np.array([[1, 1], [1, 0], [1, .9], [np.nan, 1]], np.float32),
                    facts={"features": ["tempo", "energy"], "mean": [120, 0.5], "std": [10, 0.1]})
    return tmp_path


@pytest.mark.parametrize("track", ["a", "Hello", " hello ", "x, y"])
def test_like_prints_the_nearest_with_names_and_features_and_writes_nothing(songs, capsys, track):
    before = sorted(p.name for p in songs.iterdir())
    content_knn.main(["sound", "--workdir", str(songs), "--like", track, "--scale", "none"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("most similar by sound") and "of 3 tracks" in out[0]
    assert out[1].split() == ["cosine", "id", "title", "artists", "tempo", "energy"]
    assert [line.split()[:3] for line in out[2:]] == [["1.000", "a", "Hello"], ["0.999", "c", "Sun"],
                                                      ["0.707", "b", "Moon"]]
    assert out[2].split()[-2:] == ["130", "0.6"] and out[3].split()[-2:] == ["130", "0.59"]
    assert sorted(p.name for p in songs.iterdir()) == before


def test_like_shows_as_many_as_asked_and_does_without_names(songs, capsys):
    (songs / "items.pqt").unlink()
    write_embedding(songs, "sound", np.array([[1, 1], [1, 0], [1, .9], [np.nan, 1]], np.float32))
    content_knn.main(["sound", "--workdir", str(songs), "--like", "a", "--show", "1"])
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["cosine", "id"] and [line.split()[1] for line in out[2:]] == ["a", "c"]


@pytest.mark.parametrize("facts", [{"features": ["a", "b"], "mean": [1, 2, 3]}, {"features": 2}, [1],
                                   {"features": ["a", "b"], "mean": ["x", 2]}])
def test_like_does_without_features_that_do_not_fit(songs, capsys, facts):
    write_embedding(songs, "sound", np.array([[1, 1], [1, 0], [1, .9], [np.nan, 1]], np.float32), facts=facts)
    content_knn.main(["sound", "--workdir", str(songs), "--like", "a"])
    assert capsys.readouterr().out.splitlines()[1].split() == ["cosine", "id", "title", "artists"]


@pytest.mark.parametrize("items, sentence", [
    ({"track_id": [0, 0, 1], "title": ["a", "b", "c"]}, "track_id must be distinct rows of trackid_sorted.csv"),
    ({"id": [0, 1], "title": ["a", "b"]}, "has no column track_id of integers; it has id, title")])
def test_like_refuses_names_of_no_tracks(songs, items, sentence):
    write_parquet(songs / "items.pqt", pd.DataFrame(items))
    with pytest.raises(WorkError, match=sentence):
        content_knn.main(["sound", "--workdir", str(songs), "--like", "a"])
    write_text(songs / "items.pqt", "no parquet")
    with pytest.raises(WorkError, match="cannot be read as parquet"):
        content_knn.main(["sound", "--workdir", str(songs), "--like", "a"])


@pytest.mark.parametrize("track, error, sentence", [
    ("Helo", UsageError, "no track has the id or name 'Helo'; near it: Hello"),
    ("zzzzzz", UsageError, "no track has the id or name 'zzzzzz'$"),
    ("", UsageError, "no track has the id or name ''"),
    ("Moon", UsageError, "2 tracks have the title 'Moon'; name one by its id: b, d"),
    ("d", WorkError, "embedding 'sound' has no row for track d"),
])
def test_like_of_a_track_that_is_not_there(songs, track, error, sentence):
    with pytest.raises(error, match=sentence):
        content_knn.main(["sound", "--workdir", str(songs), "--like", track])
