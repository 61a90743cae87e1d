"""Content to factors: the closed form, the MLP, cold items against the control, and bad input."""
from functools import partial

import numpy as np
import pandas as pd
import pytest

import dataset
from harness.errors import WorkError
from harness.files import write_json
from harness.readers import read_json
from recommenders import content_factors, ials
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from training import factor_maps, ridge


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workdir = factor_world(tmp_path_factory.mktemp("factors") / "w")
    ials.main(["--factors", "12", "--regularization", "10", "--workdir", str(workdir), "--k", "20"])
    return workdir


made = partial(made_by, content_factors)


@pytest.mark.numeric
@pytest.mark.parametrize("part", ["test", "cold_test", "all_test"])
def test_scores_are_those_of_a_dense_computation(world, part):
    name, config = made(world, "--l2", "2", "--evidence", "4")
    split, source = dataset.load(world), config["sources"]["ials"]
    e, users = (np.load(world / "model_embeddings" / f"{source}_{which}.npy").astype(np.float64)
                for which in ("items", "users"))
    x = dataset.load_embedding(split, "content").astype(np.float64)
    x = (x - x[:split.n_hot].mean(axis=0)) / x[:split.n_hot].std(axis=0) / np.sqrt(x.shape[1])
    n = np.asarray(split.matrix().sum(axis=0)).ravel()
    w = n / (n + 4) / (n / (n + 4)).mean()
    ones = np.hstack([np.ones((len(x), 1)), x])
    hot = ones[:split.n_hot]
    penalty = 2 * np.diag([0.0] + [1.0] * x.shape[1])

    def fitted(rows):   # (1 + C, D)
        weighted = w[rows, None] * hot[rows]
        return np.linalg.solve(hot[rows].T @ weighted + penalty, weighted.T @ e[rows])
    predicted, every = ones @ fitted(np.arange(split.n_hot)), np.arange(split.n_hot)
    for fold in np.array_split(np.random.default_rng(ridge.SEED).permutation(split.n_hot), ridge.FOLDS):
        predicted[fold] = ones[fold] @ fitted(np.setdiff1d(every, fold))   # hot items: by the others
    scores = users @ predicted.T
    preds = pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
    user = {u: i for i, u in enumerate(split.users)}
    item = {t: i for i, t in enumerate(split.tracks)}
    expected = scores[[user[u] for u in preds.user_id], [item[t] for t in preds.track_id]]
    assert np.abs(preds.score - expected).max() < 1e-4    # saved and multiplied in float32


@pytest.mark.parametrize("flags", [(), ("--length", "predicted"), ("--map", "mlp", "--epochs", "60", "--lr", "0.01")])
def test_cold_items_are_found_by_content_and_not_by_the_wrong_content(world, flags):
    real, _ = made(world, *flags)
    control, config = made(world, *flags, "--shuffle")
    assert "shuffled" in control and config["sources"]
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert value(world, real, "cold_test", "Recall@10") > 2 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.4 * chance
    assert value(world, real, "test") > 1.3 * value(world, control, "test")   # a control has the popularity


@pytest.mark.parametrize("by", ["ridge", "mlp"])
def test_content_that_says_nothing_gives_no_factor_back(by):
    """More columns than items: a map fitted to an item's factor returns it; that of the other items knows nothing."""
    rng = np.random.default_rng(5)
    x, e = rng.normal(size=(150, 300)), rng.normal(size=(140, 6))
    if by == "ridge":
        predicted, fit = factor_maps.by_ridge(x, e, np.ones(140), 1.0)
        assert cosines(fit.predict(x)[:140], e).mean() > 0.9
    else:
        settings = factor_maps.Settings(lr=0.003, epochs=40, patience=40, batch_size=32, seed=1)
        predicted, _ = factor_maps.by_mlp(x, e, np.ones(140), settings)
    assert predicted.shape == (150, 6) and abs(cosines(predicted[:140], e).mean()) < 0.15


def test_the_fold_that_is_predicted_neither_trains_nor_selects_the_epoch(monkeypatch):
    trained, roles = factor_maps._trained, []

    def noted(x, y, w, fitted, held, *others):
        roles.append((set(map(int, fitted)), set(map(int, held))))
        return trained(x, y, w, fitted, held, *others)
    monkeypatch.setattr(factor_maps, "_trained", noted)
    rng = np.random.default_rng(2)
    x, y, weights = rng.normal(size=(45, 3)), rng.normal(size=(40, 2)), np.arange(40) > 4
    settings = factor_maps.Settings(lr=.01, epochs=2, patience=2, batch_size=9, seed=1)
    factor_maps.by_mlp(x, y, weights.astype(float), settings)
    left = [{*range(5, 40)} - fitted - held for fitted, held in roles]
    assert sorted(i for fold in left for i in fold) == list(range(5, 40)) and len(roles) == 10
    assert all(held and not fitted & held for fitted, held in roles)
    few, _ = factor_maps.by_mlp(x[:3], y[:2], np.ones(2), settings)
    assert np.isfinite(few).all() and few.shape == (3, 2)


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_predicted_lengths_are_those_that_content_expects(world):
    split = dataset.load(world)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(split.n_items, 3))
    e = rng.normal(size=(split.n_hot, 4))
    e *= ((3 + features[:split.n_hot, 0]).clip(0.5) / np.linalg.norm(e, axis=1))[:, None]
    predicted = factor_maps.lengths(features, e, np.ones(split.n_hot), "gcv")
    assert np.corrcoef(predicted[split.n_hot:], features[split.n_hot:, 0])[0, 1] > 0.99
    unit = factor_maps.of_length(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([10.0, 2.0]))
    assert np.allclose(unit, [[6, 8], [0, 0]])


def test_the_network_learns_what_a_line_cannot_and_stops(world):
    """Targets are absolute values of the content: a linear map explains nothing of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 4))
    y = np.abs(x) - np.abs(x).mean(axis=0)
    settings = factor_maps.Settings(lr=0.01, epochs=300, patience=20, batch_size=128, seed=1)
    by_network, epochs = factor_maps.by_mlp(x, y[:800], np.ones(800), settings)
    by_line, _ = factor_maps.by_ridge(x, y[:800], np.ones(800), "gcv")
    error = [((p[800:] - y[800:]) ** 2).sum() / (y[800:] ** 2).sum() for p in (by_network, by_line)]
    assert error[0] < 0.6 and error[1] > 0.9 and 0 < epochs <= 300
    again, _ = factor_maps.by_mlp(x, y[:800], np.ones(800), settings)
    assert np.array_equal(by_network, again)


def test_content_that_is_constant_ranks_all_items_alike(world):
    from tests.worlds.world import write_embedding
    split = dataset.load(world)
    write_embedding(world, "flat", np.full((split.n_tracks, 5), 0.7, np.float32))
    name, config = made(world, embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert config["degrees_of_freedom"] == 1 and (preds.groupby("user_id").score.nunique() == 1).all()


def test_factors_and_content_of_different_track_lists(world):
    split = dataset.load(world)
    from tests.worlds.world import write_embedding
    write_embedding(world, "elsewhere", np.ones((split.n_tracks, 5), np.float32), track_checksum="another")
    with pytest.raises(WorkError, match="was made for another track list"):
        made(world, embedding="elsewhere")


def test_a_factor_run_of_the_oracle_or_a_control_makes_a_control(world):
    """candidates.find_runs follows `sources`, so what was built on a control is never selected by itself."""
    name, config = made(world)
    source = config["sources"]["ials"]
    manifest = world / "runs" / source / "config.json"
    before = read_json(manifest)
    from ranking import candidates
    split = dataset.load(world)
    assert candidates.find_runs(split, ["content_factors"])[0].run
    write_json(manifest, {**before, "request": {**before["request"], "shuffle": True}})
    try:
        with pytest.raises(WorkError, match="make it first: python -m recommenders.content_factors"):
            candidates.find_runs(split, ["content_factors"])
    finally:
        write_json(manifest, before)


def test_a_map_that_bursts_is_said_to():
    rng = np.random.default_rng(0)
    settings = factor_maps.Settings(lr=1e20, epochs=3, patience=2, batch_size=16, seed=1)
    with pytest.raises(WorkError, match="loss is NaN or infinite in epoch"):
        factor_maps.by_mlp(rng.normal(size=(64, 4)), rng.normal(size=(64, 3)), np.ones(64), settings)
