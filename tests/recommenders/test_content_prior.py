"""Content prior: the scores by an independent regression, cold items against chance, and bad input."""
import numpy as np
import pandas as pd
import pytest

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from recommenders import content_prior
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks
from training import ridge


def popular_world(workdir, n_users=300, n_tracks=200, n_cold=40, seed=0):
    """Users without tastes; how often a track is played is the exponential of a direction of its content."""
    workdir.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    write_tracks(workdir, n_tracks)
    features = rng.normal(size=(n_tracks, 6))
    weight = np.exp(features @ [1.0, -0.8, 0, 0, 0, 0])
    hot, cold = np.arange(n_tracks - n_cold), np.arange(n_tracks - n_cold, n_tracks)
    rows = {part: [] for part in ("train", "val", "test", "cold_test")}
    for user in range(n_users):
        mine = rng.choice(hot, 12, replace=False, p=weight[hot] / weight[hot].sum())
        for part, some in (("train", mine[:8]), ("val", mine[8:10]), ("test", mine[10:])):
            rows[part] += [(user, t) for t in some]
        new = rng.choice(cold, 2, replace=False, p=weight[cold] / weight[cold].sum())
        rows["cold_test"] += [(user, t) for t in new]
    known = {t for _, t in rows["train"]}
    for part, pairs in rows.items():
        pairs = np.array(sorted(p for p in pairs if part in ("train", "cold_test") or p[1] in known))
        write_pairs(workdir, part, *pairs.T)
    write_embedding(workdir, "content", features.astype(np.float32))
    return workdir


def lists(workdir, part):
    (name, config), = [r for r in runs.find_runs(workdir) if r[1]["status"] == "finished"]
    return pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt"), config


@pytest.mark.numeric
@pytest.mark.parametrize("of", ["users", "plays"])
def test_the_score_is_what_a_regression_on_content_expects(tiny, of):
    content_prior.main(["--embedding", "content", "--of", of, "--l2", "3", "--workdir", str(tiny), "--k", "10"])
    split = dataset.load(tiny)
    x = dataset.load_embedding(split, "content").astype(np.float64)
    x = (x - x[:split.n_hot].mean(axis=0)) / x[:split.n_hot].std(axis=0) / np.sqrt(8)
    frame = pd.read_parquet(tiny / "data" / "train.pqt").groupby("track_id")["count"].agg(["size", "sum"])
    y = np.log1p(frame.loc[split.tracks[:split.n_hot], "size" if of == "users" else "sum"].to_numpy())

    def expects(rows):   # of all items, by a fit on some of the hot ones
        hot, mean = x[rows] - x[rows].mean(axis=0), y[rows].mean()
        solved = np.linalg.solve(hot.T @ hot + 3 * np.eye(8), hot.T @ (y[rows] - mean))
        return mean + (x - x[rows].mean(axis=0)) @ solved
    every = np.arange(split.n_hot)
    expected = expects(every)
    for fold in np.array_split(np.random.default_rng(ridge.SEED).permutation(split.n_hot), ridge.FOLDS):
        expected[fold] = expects(np.setdiff1d(every, fold))[fold]   # a hot item by the others
    for part in split.parts:
        preds, _ = lists(tiny, part)
        item = {t: i for i, t in enumerate(split.tracks)}
        got = preds.score.to_numpy() - expected[[item[t] for t in preds.track_id]]
        assert np.abs(got).max() < 1e-5   # scores are saved as float32


def test_it_ranks_cold_items_by_what_their_content_promises(tmp_path):
    """Popularity spans two orders of magnitude here: far above the 10 of 40 of chance, and the control is not."""
    recall = {}
    for flags in ((), ("--shuffle",)):
        workdir = popular_world(tmp_path / f"w{len(flags)}")
        content_prior.main(["--embedding", "content", "--workdir", str(workdir), "--k", "10", *flags])
        (name, _), = runs.find_runs(workdir)
        recall[len(flags)] = pd.read_csv(workdir / "metrics" / f"{name}_cold_test.csv",
                                         index_col=0).loc["mean", "Recall@10"]
    assert recall[0] > 0.6 and recall[1] < 0.45


def test_every_user_has_the_same_order_of_cold_items(tmp_path):
    workdir = popular_world(tmp_path / "w")
    content_prior.main(["--embedding", "content", "--workdir", str(workdir), "--k", "10"])
    preds, config = lists(workdir, "cold_test")
    assert (preds.groupby("rank").track_id.nunique() == 1).all()
    assert config["l2"] > 0 and 1 < config["degrees_of_freedom"] <= 7


def test_bad_input_is_one_sentence(tiny):
    matrix = np.load(tiny / "embeddings" / "content.npy")
    matrix[-3:] = np.nan
    write_embedding(tiny, "holes", matrix)
    with pytest.raises(UsageError, match="--embedding is needed"):
        content_prior.main(["--workdir", str(tiny)])
    with pytest.raises(UsageError, match="there is no embedding 'nothing'"):
        content_prior.main(["--embedding", "nothing", "--workdir", str(tiny)])
    with pytest.raises(WorkError, match="has no row for"):
        content_prior.main(["--embedding", "holes", "--workdir", str(tiny)])
    content_prior.main(["--embedding", "holes", "--missing", "mean", "--workdir", str(tiny), "--k", "100"])
    preds, _ = lists(tiny, "cold_test")          # k above the number of cold items: the list is as long as they are
    split = dataset.load(tiny)
    assert (preds.groupby("user_id").size() == split.n_items - split.n_hot).all()


def test_two_embeddings_make_one_run(tiny):
    content_prior.main(["--embedding", "content", "noise", "--workdir", str(tiny), "--k", "5"])
    (name, config), = runs.find_runs(tiny)
    assert config["embedding"] == "content+noise" and name.startswith("content-prior_content-noise_s42_")


def test_the_same_seed_gives_the_same_lists(tmp_path):
    both = []
    for place in ("a", "b"):
        workdir = tiny_workspace(tmp_path / place)
        content_prior.main(["--embedding", "content", "--shuffle", "--seed", "7", "--k", "5",
                            "--workdir", str(workdir)])
        both.append(lists(workdir, "test")[0])
    assert both[0].equals(both[1])
