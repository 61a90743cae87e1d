"""Shrinkage: the formula, the estimated lambda, wrong content on a planted world, and cold items beside hot ones."""
from functools import partial

import numpy as np
import pandas as pd
import pytest

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from ranking import factors
from recommenders import elsa, ials, shrinkage
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from tests.worlds.world import write_embedding


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workdir = factor_world(tmp_path_factory.mktemp("shrinkage") / "w")
    ials.main(["--factors", "12", "--regularization", "10", "--workdir", str(workdir), "--k", "20"])
    elsa.main(["--factors", "16", "--epochs", "10", "--workdir", str(workdir), "--k", "20"])
    return workdir


made = partial(made_by, shrinkage)


def run_of(workdir, recommender):
    return next(name for name, c in runs.find_runs(workdir) if c["recommender"] == recommender)


# --------------------------------------------------------------------------- the formula

def regression(x, y, w, l2, n_hot):
    """Weighted ridge of y (n_hot, K) on all rows of x, as one augmented system."""
    ones = np.hstack([np.ones((len(x), 1)), x])
    hot, w = ones[:n_hot], w / w.mean()
    penalty = l2 * np.diag([0.0] + [1.0] * x.shape[1])
    return ones @ np.linalg.solve(hot.T @ (w[:, None] * hot) + penalty, hot.T @ (w[:, None] * y))


@pytest.mark.numeric
@pytest.mark.parametrize("of", ["direction", "factor"])
def test_scores_are_those_of_a_dense_computation(world, of):
    name, config = made(world, "--of", of, "--shrink", "3", "--l2", "2")
    split, source = dataset.load(world), config["sources"]["ials"]
    e, users = (np.load(world / "model_embeddings" / f"{source}_{which}.npy").astype(np.float64)
                for which in ("items", "users"))
    x = dataset.load_embedding(split, "content").astype(np.float64)
    x = (x - x[:split.n_hot].mean(axis=0)) / x[:split.n_hot].std(axis=0) / np.sqrt(x.shape[1])
    n = np.asarray(split.matrix().sum(axis=0)).ravel()
    w, size = n / (n + 3), np.linalg.norm(e, axis=1)
    target = e / size[:, None] if of == "direction" else e
    f = regression(x, target, w, 2, split.n_hot)
    expected = f.copy()
    expected[:split.n_hot] = w[:, None] * target + (1 - w)[:, None] * f[:split.n_hot]
    length = np.clip(regression(x, size[:, None], w, 2, split.n_hot)[:, 0], size.min(), size.max())
    if of == "direction":
        length[:split.n_hot] = size
    else:
        length[:split.n_hot] = np.linalg.norm(expected[:split.n_hot], axis=1)
    scores = users @ (expected / np.linalg.norm(expected, axis=1)[:, None] * length[:, None]).T
    user = {u: i for i, u in enumerate(split.users)}
    item = {t: i for i, t in enumerate(split.tracks)}
    for part in split.parts:
        preds = pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
        wanted = scores[[user[u] for u in preds.user_id], [item[t] for t in preds.track_id]]
        assert np.abs(preds.score - wanted).max() < 1e-4    # saved and multiplied in float32


def test_without_shrinkage_hot_items_keep_their_factors(world):
    name, _ = made(world, "--shrink", "0")
    source = run_of(world, "ials")
    for part in ("val", "test"):
        ours, theirs = (pd.read_parquet(world / "preds" / f"{run}_{part}.pqt") for run in (name, source))
        assert (ours.track_id == theirs.track_id).mean() > 0.995    # equal up to rounding at equal scores


def test_elsa_has_factors_of_length_one_and_keeps_them(world):
    name, config = made(world, "--factors", "elsa", "--shrink", "5")
    split = dataset.load(world)
    learned = factors.read(split, "elsa")
    rng = np.random.default_rng(0)
    items, _ = shrinkage.Fused(rng.normal(size=(split.n_items, 3)), learned).items(5.0)
    assert np.allclose(np.linalg.norm(items, axis=1), 1, atol=1e-6)
    assert config["sources"] == {"elsa": run_of(world, "elsa")}
    assert value(world, name, "cold_test") > 1.5 * value(world, made(world, "--factors", "elsa", "--shuffle")[0],
                                                         "cold_test")


# --------------------------------------------------------------------------- lambda

def planted(seed, tau, sigma, explained=1.0, n_items=3000, width=8):
    """Targets whose content explains `explained` per dimension, with spread tau about it and noise sigma / sqrt(n)."""
    rng = np.random.default_rng(seed)
    plays = rng.integers(1, 60, n_items)
    features = rng.normal(size=(n_items, 5))
    targets = features @ np.linalg.qr(rng.normal(size=(width, 5)))[0].T * explained
    targets += tau * rng.normal(size=targets.shape) + sigma * rng.normal(size=targets.shape) / np.sqrt(plays)[:, None]
    return features, targets, plays


@pytest.mark.numeric
def test_lambda_is_the_ratio_of_the_variances_less_that_without_content():
    features, targets, plays = planted(0, tau=0.5, sigma=2.0)
    lam, evidence = shrinkage.estimate(features, targets, plays)
    # 8 dimensions: tau^2 = 2, sigma^2 = 32, and the 5 that content explains with variance 1 make tau0^2 = 7;
    # 3000 items estimate the slope to some 5 %
    assert evidence == pytest.approx(32 / 2, rel=0.15)
    assert lam == pytest.approx(32 / 2 - 32 / 7, rel=0.2)


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(5))
def test_lambda_of_wrong_content_is_nearly_0(seed):
    features, targets, plays = planted(seed, tau=0.5, sigma=2.0)
    wrong = features[np.random.default_rng(seed).permutation(len(features))]
    assert shrinkage.estimate(wrong, targets, plays)[0] < 0.1 < 5 < shrinkage.estimate(features, targets, plays)[0]


def test_variances_of_a_line_and_of_equal_plays():
    plays = np.array([1, 2, 4, 8])
    assert shrinkage.variances(3 + 5 / plays, plays) == pytest.approx((3, 5))
    assert shrinkage.variances(3 - 1 / plays, plays)[1] == 0       # growing with the plays: no noise to be seen
    assert shrinkage.variances(np.array([1.0, 3.0]), np.array([7, 7])) == (2.0, 0.0)


# --------------------------------------------------------------------------- a planted world

@pytest.mark.parametrize("rule", ["auto", "val"])
def test_wrong_content_leaves_the_hot_items_alone(world, rule):
    name, config = made(world, "--shrink", rule)
    control, wrong = made(world, "--shrink", rule, "--shuffle")
    without = run_of(world, "ials")
    if rule == "auto":
        assert wrong["shrink"] < 0.1 * config["shrink"]
    assert value(world, control, "test") > 0.97 * value(world, without, "test")
    assert value(world, name, "test") > 0.97 * value(world, without, "test")
    assert value(world, name, "cold_test") > 1.5 * value(world, control, "cold_test")
    if rule == "val":
        best = max(config["on_val"], key=config["on_val"].get)
        assert float(best) == config["shrink"] and config["on_val"][best] >= config["on_val"]["0"]
        assert value(world, name, "val") == pytest.approx(config["on_val"][best], abs=1e-9)


def test_cold_items_compete_with_hot_ones(world):
    """In all_test 40 of 220 items are cold and as popular as the others: with predicted lengths they take at least
    half of their share of the lists, and the union is served better than by the plays alone."""
    name, _ = made(world)
    short, _ = made(world, "--length", "regression")
    share = value(world, name, "all_test", "ColdShare@10")
    assert 0.5 * 40 / 220 < share < 0.95 and value(world, short, "all_test", "ColdShare@10") < share
    assert value(world, name, "all_test") > 1.2 * value(world, run_of(world, "ials"), "all_test")


def test_constant_content_shrinks_nothing(world):
    split = dataset.load(world)
    write_embedding(world, "flat", np.full((split.n_tracks, 5), 0.7, np.float32))
    name, config = made(world, embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert config["shrink"] == 0 and (preds.groupby("user_id").score.nunique() == 1).all()


def test_a_named_run_needs_no_val(tmp_path):
    """Nothing is chosen then; the best of several cannot be said without it."""
    workdir = factor_world(tmp_path / "w")
    (workdir / "data" / "val.pqt").unlink()
    ials.main(["--factors", "4", "--workdir", str(workdir)])
    (name, _), = runs.find_runs(workdir)
    shrinkage.main(["--embedding", "content", "--factors", name, "--workdir", str(workdir)])
    assert any(config["recommender"] == "shrinkage" for _, config in runs.find_runs(workdir))
    with pytest.raises(WorkError, match="no val part to choose or learn on.*, or name a run"):
        shrinkage.main(["--embedding", "content", "--factors", "ials", "--workdir", str(workdir)])


def test_val_needs_a_part_to_choose_on(world, capsys):
    split = dataset.load(world)
    split.others = {"test": split.others["test"]}
    with pytest.raises(UsageError, match="needs a val part"):
        shrinkage.chosen_on_val(split, None, None, 1.0, 42)
    with pytest.raises(SystemExit):
        shrinkage.main(["--embedding", "content", "--shrink", "-1", "--workdir", str(world)])
    assert "--shrink" in capsys.readouterr().err
