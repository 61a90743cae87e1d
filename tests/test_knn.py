"""KNN against the published lists, through the command line, and its options as arithmetic."""
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import dataset
import knn
from harness import runs
from harness.errors import UsageError, WorkError
from tests.worlds.world import hidden_pairs, write_embedding, write_gaps, write_pairs, write_tracks


@pytest.mark.numeric
def test_equals_the_published_lists(shared, tmp_path):
    """golden/knn_*: through files and the command line; the two lists' scores agree to 1e-6."""
    golden = shared / "golden"
    history = pd.read_parquet(golden / "knn_history.parquet")
    expected = pd.read_parquet(golden / "knn_expected.parquet")
    vectors = np.load(golden / "knn_embeddings.npy")
    write_tracks(tmp_path, len(vectors))
    # A listener of everything puts the whole catalogue into train, as the published code had it.
    everyone = history.user_id.max() + 1
    users = np.concatenate([history.user_id, np.full(len(vectors), everyone)])
    write_pairs(tmp_path, "train", users, np.concatenate([history.track_id, np.arange(len(vectors))]))
    heard = {user: set(rows) for user, rows in history.groupby("user_id").track_id}
    unheard = {user: next(t for t in range(len(vectors)) if t not in heard[user]) for user in heard}
    write_pairs(tmp_path, "test", list(unheard), list(unheard.values()))
    write_embedding(tmp_path, "golden", vectors.astype(np.float32))
    knn.main(["golden", "--workdir", str(tmp_path), "--k", "20"])
    (name, _), = runs.find_runs(tmp_path)
    preds = pd.read_parquet(tmp_path / "preds" / f"{name}_test.pqt")
    merged = expected.merge(preds, on=["user_id", "rank"], suffixes=("", "_ours"), how="left")
    assert (merged.track_id == merged.track_id_ours).all()
    assert np.allclose(merged.score, merged.score_ours, atol=1e-6)


@pytest.mark.numeric
def test_user_vectors_are_means(tiny):
    history = csr_matrix(np.array([[1, 0, 3], [0, 0, 0]], np.float32))
    vectors = np.array([[1, 2], [9, 9], [3, 4], [7, 7]], np.float32)
    assert np.allclose(knn.user_vectors(history, vectors), [[(1 + 9) / 4, (2 + 12) / 4], [0, 0]])
    assert np.array_equal(knn.unit(np.array([[3, 4], [0, 0]], np.float32)), np.array([[0.6, 0.8], [0, 0]], np.float32))


def brute(split, part, vectors, weight, k):
    """Lists by a loop over users, in float64."""
    vectors = vectors.astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    window, hidden = split.candidates(part), hidden_pairs(split.workdir, part)
    for code in split.eval_users(part):
        mine = split.train.user == code
        w = split.train.count[mine] if weight == "count" else np.ones(mine.sum())
        user = np.average(vectors[split.train.item[mine]], axis=0, weights=w)
        score = unit[window] @ (user / np.linalg.norm(user))
        score[[(split.users[code], track) in hidden for track in split.tracks[window]]] = -np.inf
        yield split.users[code], split.tracks[window][np.argsort(-score)[:k]]


@pytest.mark.numeric
@pytest.mark.parametrize("flags", [[], ["--center"], ["--weight", "count"], ["--shuffle", "--seed", "5"],
                                   ["--unit", "--center"]])
@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
def test_options_against_a_plain_loop(tiny, flags, part):
    knn.main(["content", "--workdir", str(tiny), "--k", "7", *flags])
    split = dataset.load(tiny)
    vectors = dataset.load_embedding(split, "content", shuffle=5 if "--shuffle" in flags else None)
    if "--center" in flags:
        vectors = vectors - vectors[:split.n_hot].mean(axis=0)
    if "--unit" in flags:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    (name, config), = runs.find_runs(tiny)
    preds = pd.read_parquet(tiny / "preds" / f"{name}_{part}.pqt")
    for user, tracks in brute(split, part, vectors, "count" if "count" in flags else "binary", 7):
        assert preds[preds.user_id == user].track_id.tolist() == tracks.tolist()
    assert config["recommender"] == "knn" and config["embedding"] == "content" and config["dim"] == 8


def test_published_names_and_files(tiny):
    knn.main(["--workdir", str(tiny)])
    for name in ("content", "noise"):
        for part in ("val", "test", "cold_test"):
            assert (tiny / "metrics" / f"{name}_cosine_{part}.csv").exists()
    knn.main(["content", "--center", "--workdir", str(tiny)])
    assert len(runs.find_runs(tiny)) == 3
    mean = pd.read_csv(tiny / "metrics/content_cosine_cold_test.csv", index_col=0).loc["mean"]
    noise = pd.read_csv(tiny / "metrics/noise_cosine_cold_test.csv", index_col=0).loc["mean"]
    assert mean["HitRate@5"] > noise["HitRate@5"] + 0.2        # the planted taste is found through content


@pytest.mark.parametrize("normed", [False, True])
def test_a_track_without_a_vector_has_no_direction_once_centred(tiny, normed):
    """The mean that fills a gap, less the mean, is 1e-5 here: scaled to length 1 it would be content."""
    split = dataset.load(tiny)
    gaps = write_gaps(tiny, split, seed=4)
    vectors = dataset.load_embedding(split, "gaps", "mean")
    centred = knn.prepared(vectors, ~gaps, split.n_hot, True, normed)
    assert not centred[gaps].any() and centred[~gaps].any(axis=1).all()
    assert np.array_equal(knn.prepared(vectors, ~gaps, split.n_hot, False, False), vectors)
    with pytest.raises(WorkError, match="has no row for"):
        dataset.load_embedding(split, "gaps")
    knn.main(["gaps", "--missing", "mean", "--center", *(["--unit"] if normed else []), "--workdir", str(tiny)])
    lists = pd.concat([pd.read_parquet(path) for path in (tiny / "preds").glob("gaps*_test.pqt")])
    of_gaps = lists[lists.track_id.isin(split.tracks[gaps])]
    assert len(of_gaps) and (of_gaps.score == 0).all()


def test_a_constant_embedding_is_chance(tiny):
    write_embedding(tiny, "constant", np.full((80, 8), 0.37, np.float32))
    write_embedding(tiny, "zero", np.zeros((80, 8), np.float32))
    knn.main(["constant", "zero", "--workdir", str(tiny)])
    lists = [pd.read_parquet(tiny / f"preds/{name}_cosine_test.pqt") for name in ("constant", "zero")]
    assert lists[0].track_id.equals(lists[1].track_id) and np.isfinite(lists[1].score).all()
    assert lists[0][lists[0]["rank"] == 0].track_id.nunique() > 20   # not one list for everybody


def test_the_published_row_mix_up_on_request(tiny):
    knn.main(["content", "--workdir", str(tiny), "--as-published", "--k", "5"])
    (name, config), = runs.find_runs(tiny)
    split = dataset.load(tiny)
    raw = np.load(tiny / "embeddings/content.npy")
    users = knn.unit(knn.user_vectors(split.matrix(), raw[:split.n_hot]))     # item codes used as track rows
    score = users @ knn.unit(raw[split.tracks[split.n_hot:]]).T
    preds = pd.read_parquet(tiny / "preds" / f"{name}_cold_test.pqt")
    code = split.eval_users("cold_test")[0]
    expected = split.tracks[split.n_hot:][np.argsort(-score[code])[:5]]
    assert preds[preds.user_id == split.users[code]].track_id.tolist() == expected.tolist()
    assert config["request"]["as_published"] is True


def test_published_rows_without_a_vector_are_refused(tiny):
    """Not of the split's tracks: the row mix-up reads those of others, whose users would be at chance."""
    raw = np.load(tiny / "embeddings/content.npy")
    raw[0] = np.nan
    write_embedding(tiny, "gappy", raw)
    with pytest.raises(WorkError, match=r"as the tracks of train, and 1 of these have no vector"):
        knn.main(["gappy", "--workdir", str(tiny), "--as-published", "--missing", "mean", "--k", "5"])


def test_bad_requests(tiny, capsys):
    with pytest.raises(UsageError, match="no embedding 'nosuch'.*content, noise"):
        knn.main(["nosuch", "--workdir", str(tiny)])
    with pytest.raises(SystemExit) as stop:
        knn.main(["content", "--workdir", str(tiny), "--k", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "knn.py: argument --k: must be a whole number of at least 1, not 0\n"
    assert not (tiny / "preds").exists()
