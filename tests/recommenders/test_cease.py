"""CEASE and AddEASE: the closed forms by dense algebra, cold columns, the control, and bad input."""
from functools import partial

import numpy as np
import pandas as pd
import pytest

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from recommenders import cease, ease
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from tests.worlds.world import write_embedding, write_pairs


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workdir = factor_world(tmp_path_factory.mktemp("cease") / "w")
    ease.main(["--l2", "20", "--workdir", str(workdir), "--k", "20"])
    return workdir


made = partial(made_by, cease)


def linear_autoencoder(rows, l2):
    """EASE's B by its definition: each column is a ridge regression on the other columns. rows: (n, I)."""
    n = rows.shape[1]
    result = np.zeros((n, n))
    for j in range(n):
        others = np.arange(n) != j
        x = rows[:, others]
        result[others, j] = np.linalg.solve(x.T @ x + l2 * np.eye(n - 1), x.T @ rows[:, j])
    return result


@pytest.mark.numeric
@pytest.mark.parametrize("combine", ["collective", "additive"])
def test_scores_are_those_of_regressions_column_by_column(world, combine):
    name, _ = made(world, "--combine", combine, "--l2", "20", "--alpha", "5", "--beta", "0.7", "--l2-side", "2")
    split = dataset.load(world)
    f = dataset.load_embedding(split, "content").astype(np.float64)
    f = (f - f[:split.n_hot].mean(axis=0)) / f[:split.n_hot].std(axis=0) / np.sqrt(f.shape[1])
    x, hot, cold = split.matrix().toarray().astype(np.float64), f[:split.n_hot], f[split.n_hot:]
    if combine == "collective":
        b, l2 = linear_autoencoder(np.vstack([x, np.sqrt(5) * hot.T]), 20), 20 / 5
    else:
        b, l2 = 0.7 * linear_autoencoder(x, 20) + 0.3 * linear_autoencoder(hot.T, 2), 2
    columns = np.linalg.solve(hot @ hot.T + l2 * np.eye(len(hot)), hot @ cold.T)
    scores = x @ np.hstack([b, columns])
    user = {u: i for i, u in enumerate(split.users)}
    item = {t: i for i, t in enumerate(split.tracks)}
    for part in split.parts:
        preds = pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
        wanted = scores[[user[u] for u in preds.user_id], [item[t] for t in preds.track_id]]
        assert np.abs(preds.score - wanted).max() < 1e-5    # solved in float64, saved in float32


@pytest.mark.numeric
@pytest.mark.parametrize("combine", ["collective", "additive"])
def test_tracks_that_nobody_played_in_train_are_scored_as_cold_ones(tmp_path, combine):
    """Those of cold_test, put into test by a split that keeps tracks absent from train, and all others as before."""
    workdir = factor_world(tmp_path / "w", n_users=60, n_tracks=80, n_cold=20)
    args = cease.build_parser().parse_args(["--combine", combine, "--l2", "20", "--alpha", "5", "--l2-side", "2"])
    before, content = dataset.load(workdir), np.random.default_rng(0).normal(size=(80, 7))
    test, cold = (pd.read_parquet(workdir / "data" / f"{part}.pqt") for part in ("test", "cold_test"))
    write_pairs(workdir, "test", *(np.append(test[c], cold[c]) for c in ("user_id", "track_id")))
    (workdir / "data" / "cold_test.pqt").unlink()
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    after, users = dataset.load(workdir), np.arange(60)
    assert after.unseen.sum() == cold.track_id.nunique() and not before.unseen.any()

    def scores(split, parts):
        own, side = cease.fitted(split, content[split.tracks], args)
        return pd.concat([pd.DataFrame(
            cease.scorer(split.history(part), split, part, own, side, args)(users),
            columns=split.tracks[split.candidates(part)]) for part in parts], axis=1).sort_index(axis=1)
    pd.testing.assert_frame_equal(scores(after, ["test"]), scores(before, ["test", "cold_test"]), rtol=1e-5)


@pytest.mark.parametrize("combine", ["collective", "additive"])
def test_an_item_of_the_history_that_train_lacks_counts_nothing(tmp_path, combine):
    """As val's in the history of leave-one-out: B has no row for it."""
    workdir = factor_world(tmp_path / "w", n_users=60, n_tracks=80, n_cold=20)
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    gone = pd.read_parquet(workdir / "data" / "test.pqt").track_id[0]
    write_parquet(workdir / "data" / "train.pqt", train[train.track_id != gone])
    split, args = dataset.load(workdir), cease.build_parser().parse_args(["--combine", combine])
    own, side = cease.fitted(split, np.random.default_rng(0).normal(size=(split.n_items, 7)), args)
    history, (item,) = split.history("test"), np.flatnonzero(split.unseen)
    more = history.tolil()
    more[:, item] = 1

    def scores(rows):
        return cease.scorer(rows.tocsr(), split, "test", own, side, args)(np.arange(60))
    assert np.array_equal(scores(more.astype(np.float32)), scores(history))


@pytest.mark.parametrize("combine", ["collective", "additive"])
def test_content_finds_cold_items_and_the_wrong_content_does_not(world, combine):
    name, _ = made(world, "--combine", combine, "--l2", "20")
    control, _ = made(world, "--combine", combine, "--l2", "20", "--shuffle")
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert value(world, name, "cold_test", "Recall@10") > 1.8 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.4 * chance
    assert value(world, name, "test") > value(world, control, "test")


def test_without_weight_of_the_content_it_is_ease(world):
    without = next(name for name, c in runs.find_runs(world) if c["recommender"] == "ease")
    for flags in (("--combine", "additive", "--beta", "1"), ("--alpha", "1e-9")):
        name, _ = made(world, *flags, "--l2", "20")
        ours, theirs = (pd.read_parquet(world / "preds" / f"{run}_test.pqt") for run in (name, without))
        assert np.allclose(ours.score, theirs.score, rtol=0, atol=1e-4)   # ease computes in other products


def test_constant_content_and_the_limits(world, capsys):
    split = dataset.load(world)
    write_embedding(world, "flat", np.full((split.n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert (preds.score == 0).all() and np.isfinite(pd.read_parquet(world / "preds" / f"{name}_test.pqt").score).all()
    with pytest.raises(WorkError, match="inverts a 180 x 180 matrix|inverts a 1.. x 1.. matrix"):
        made(world, "--memory", "0.0001", "--comment", "small")
    with pytest.raises(SystemExit):
        made(world, "--beta", "1.5")
    assert "must be from 0 to 1" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no embedding"):
        made(world, embedding="nothing")


def test_the_same_request_gives_the_same_bytes(tmp_path):
    files = []
    for place in ("a", "b"):
        workdir = factor_world(tmp_path / place, n_users=60, n_tracks=80, n_cold=20)
        name, _ = made(workdir)
        files.append((workdir / "preds" / f"{name}_all_test.pqt").read_bytes())
    assert files[0] == files[1]
