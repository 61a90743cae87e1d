"""Artist mean: the means by hand, new artists by their content, and the workspaces in which it says nothing."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import dataset
from harness.errors import WorkError
from harness.files import write_parquet
from ranking import factors
from recommenders import artist_mean, ials
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from training import content, factor_maps
from training.artists import artists_of, means

FLAGS = {"embedding": ["content"], "shuffle": False, "missing": "fail", "seed": 42, "evidence": 10.0, "l2": "gcv"}


def artists_by_taste(workdir, seed=0):
    """items.pqt of a factor world: artists of tracks that are near each other in content, a tenth without an artist."""
    matrix = np.load(workdir / "embeddings" / "content.npy")[:, :6]
    rng = np.random.default_rng(seed)
    centres = matrix[rng.choice(len(matrix), 30, replace=False)]
    nearest = ((matrix[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    names = [[f"Artist {a}"] if rng.random() > 0.1 else None for a in nearest]
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(len(matrix)), "artists": names}))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workdir = factor_world(tmp_path_factory.mktemp("artists") / "w")
    artists_by_taste(workdir)
    ials.main(["--factors", "12", "--regularization", "10", "--workdir", str(workdir), "--k", "20"])
    return workdir


call = partial(made_by, artist_mean)


@pytest.mark.numeric
def test_means_by_hand():
    """Tracks 0, 1 of artist a; 2 of a and b; 3 (hot, no factor) of b; cold 4 of b, 5 of c, 6 of nobody."""
    artists = csr_matrix([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=float)
    values = np.array([[1.0, 0], [3, 2], [5, 4], [0, 0]])
    mean, count = means(artists, values, np.array([True, True, True, False]))
    assert count.tolist() == [2, 2, 2, 1, 1, 0, 0]
    assert np.allclose(mean, [[4, 3], [3, 2], [2, 1], [5, 4], [5, 4], [0, 0], [0, 0]])


def test_new_artists_are_their_content_and_others_their_artist(world):
    split = dataset.load(world)
    learned, artists = factors.read(split, "ials"), artists_of(split, "artist_mean")
    args = SimpleNamespace(**FLAGS, length="mean")
    features = content.features(split, args)
    items, count = artist_mean.item_vectors(features, artists, learned, args)
    weights = factor_maps.evidence_weights(learned.plays, 10.0)
    predicted, _ = factor_maps.by_ridge(features, learned.items, weights, "gcv")
    assert 0 < (count == 0).sum() < len(count) and np.array_equal(items[count == 0], predicted[count == 0])
    shared = (artists @ artists.T).toarray()[:, :split.n_hot] > 0
    for i in np.flatnonzero(count)[::7]:
        others = shared[i] & (np.arange(split.n_hot) != i)
        assert np.allclose(items[i], learned.items[others].mean(axis=0))
    args.length = "predicted"
    longer, _ = artist_mean.item_vectors(features, artists, learned, args)
    i = int(np.flatnonzero(count[split.n_hot:])[0]) + split.n_hot
    expected = np.linalg.norm(learned.items[shared[i]], axis=1).mean()
    assert np.linalg.norm(longer[i]) == pytest.approx(expected)


def test_cold_tracks_are_found_by_their_artist(world):
    name, config = call(world)
    split = dataset.load(world)
    n = split.candidates("cold_test")
    assert value(world, name, "cold_test", "Recall@10") > 1.8 * 10 / (n.stop - n.start)
    assert config["tracks_by_content"].keys() == set(split.parts) and config["tracks_by_content"]["cold_test"] > 0
    control, _ = call(world, "--shuffle")                 # the artists are right, the content of the others is wrong
    assert value(world, control, "cold_test") < value(world, name, "cold_test")


@pytest.mark.parametrize("artists, said", [
    (None, "is missing or names no artists"),
    ({}, "is missing or names no artists"),
    ({"artists": lambda t: ["one"]}, "names one artist for the tracks"),
    ({"artists": lambda t: None}, "is missing or names no artists"),
    ({"artist": lambda t: f"artist {t}"}, "no artist of .* has two tracks in this split, as where the items are"),
])
def test_workspaces_in_which_it_says_nothing(tmp_path, artists, said):
    workdir = factor_world(tmp_path / "w", n_users=20, n_tracks=60, n_cold=12)
    if artists is not None:
        write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(60), **{
            column: [make(t) for t in range(60)] for column, make in artists.items()}}))
    with pytest.raises(WorkError, match=said) as error:
        artist_mean.main(["--embedding", "content", "--workdir", str(workdir)])
    assert "\n" not in str(error.value) and not (workdir / "runs").exists()


def test_names_are_compared_without_case_and_lists_may_hold_several(tmp_path):
    workdir = factor_world(tmp_path / "w", n_users=20, n_tracks=60, n_cold=12)
    names = [["The Band", "Guest"], ["the band "], [None, "Guest"], [], *([f"artist {t}"] for t in range(4, 60))]
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(60), "artists": names}))
    split = dataset.load(workdir)
    matrix = artists_of(split, "artist_mean").toarray()
    row = {track: matrix[i] for i, track in enumerate(split.tracks) if track < 4}
    pairs = [(a, b) for a in row for b in row if a < b and row[a] @ row[b] > 0]
    assert set(pairs) == {pair for pair in ((0, 1), (0, 2)) if set(pair) <= set(row)} and len(pairs) >= 1
    assert 3 not in row or row[3].sum() == 0
