"""What leave-one-out splits change for every recommender: val in the history at test, tracks without plays in train.

The rules are those of data/rules.json; Kang and McAuley, ICDM 2018, and the papers that follow it, evaluate so.
"""
import importlib

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import dataset
import tune
from harness import runs
from harness.errors import WorkError
from harness.files import write_json
from recommenders import ease, ials
from recommenders.sasrec import __main__ as sasrec
from tests.recommenders.test_contract import NAMES, run
from tests.worlds.listening import workspace
from tests.worlds.world import tiny_workspace, write_pairs

KNOW_NOTHING_NEW = {"train": "learns one vector per user", "recommenders.chance": "", "recommenders.popularity": "",
                    "recommenders.clcrec": "learns one vector per user",
                    "recommenders.content_prior": "the same for every user"}
SOLVED = {"recommenders.ials", "recommenders.acarec", "recommenders.artist_mean", "recommenders.content_factors",
          "recommenders.dropoutnet", "recommenders.heater", "recommenders.shrinkage"}
COMBINE = {"recommenders.hybrid", "recommenders.random_forest"}   # of lists that the others have made
UNSEEN = (0, 1)   # of the tiny workspace's tracks: in no part


def world(folder, history):
    """A tiny workspace whose test part has tracks without plays in train; history: of test, in rules.json."""
    workdir = tiny_workspace(folder)
    test = pd.read_parquet(workdir / "data" / "test.pqt")
    users = np.concatenate([test.user_id, test.user_id.unique()[:6]])
    tracks = np.concatenate([test.track_id, np.repeat(UNSEEN, 3)])
    write_pairs(workdir, "test", users, tracks)
    write_json(workdir / "data" / "rules.json", {"history": {"test": history}, "unseen": "keep"})
    return workdir


def lists(workdir, run_name, part):
    return pd.read_parquet(workdir / "preds" / f"{run_name}_{part}.pqt")


@pytest.mark.trains
@pytest.mark.parametrize("name", NAMES)
def test_val_is_history_at_test_and_nowhere_else(tmp_path, name):
    short, whole = world(tmp_path / "short", ["train"]), world(tmp_path / "whole", ["train", "val"])
    run_name, config = run(name, short)
    assert run(name, whole)[0] == run_name and "data/rules.json" in config["inputs"]
    if name not in COMBINE:
        assert lists(short, run_name, "val").equals(lists(whole, run_name, "val"))
    split = dataset.load(whole)
    before, after = lists(short, run_name, "test"), lists(whole, run_name, "test")
    informed = split.users[np.intersect1d(split.eval_users("val"), split.eval_users("test"))]
    changed = {user for user, rows in after.groupby("user_id")
               if rows.track_id.tolist() != before.track_id[before.user_id == user].tolist()}
    if name in KNOW_NOTHING_NEW:
        assert not changed
    elif name not in COMBINE:
        assert len(changed & set(informed)) > len(informed) / 4
        if name not in SOLVED:   # these solve every user anew
            assert changed <= set(informed)


@pytest.mark.trains
@pytest.mark.parametrize("name", [n for n in NAMES if n not in COMBINE])
def test_tracks_absent_from_train_are_candidates_that_only_content_finds(tmp_path, name):
    """With lists of all tracks: who has no content ranks them behind every other, who has it need not."""
    workdir = world(tmp_path / "w", ["train", "val"])
    run_name, config = run(name, workdir, "--k", "80")
    preds = lists(workdir, run_name, "test")
    split = dataset.load(workdir)
    assert split.tracks[:split.n_hot][split.unseen].tolist() == list(UNSEEN)
    assert preds.groupby("user_id").size().min() > split.n_hot - 20   # all but the history
    new = preds.track_id.isin(UNSEEN)
    assert new.groupby(preds.user_id).sum().eq(2).all()
    behind = preds.groupby("user_id")["rank"].transform("max") - preds["rank"]
    if config.get("embedding") or name in ("recommenders.chance", "recommenders.dtnmr"):
        assert (behind[new] >= 2).any()
    else:
        assert (behind[new] < 2).all()


def histories(rng, users=7, items=11):
    return csr_matrix((rng.random((users, items)) < .4).astype(np.float32))


@pytest.mark.parametrize("users", [5, 30])   # fewer than items: the dual form; more: the primal
def test_ease_scores_histories_it_was_not_fitted_on(users):
    rng = np.random.default_rng(0)
    x, new = histories(rng, users), histories(rng, 4)
    model = ease.Ease(x, l2=3.0)
    p = np.linalg.inv((x.T @ x).toarray().astype(np.float64) + 3.0 * np.eye(11))
    b = np.eye(11) - p / np.diag(p)
    assert model.dual == (users < 11)
    assert np.allclose(model.scores_of(new), new.toarray() @ b, atol=1e-9)          # float64 throughout
    assert np.allclose(model.scores_of(x), model.scores(np.arange(users)), atol=1e-9)


def test_ials_folds_a_history_in_by_the_normal_equations():
    rng = np.random.default_rng(0)
    x, new = histories(rng, 30), histories(rng, 4)
    settings = ials.Settings(factors=3, regularization=.5, alpha=4.0, iterations=3, seed=1)
    model = ials.factorise(x, settings)
    y = model.item_factors.astype(np.float64)
    for row, found in zip(new.toarray(), ials.fold_in(model, new, 4.0), strict=True):
        confidence = np.where(row > 0, 1 + 4.0, 1.0)
        expected = np.linalg.solve(y.T @ (confidence[:, None] * y) + .5 * np.eye(3), y.T @ (confidence * row))
        assert np.allclose(found, expected, atol=1e-4)                               # float32 Cholesky


def test_rules_that_are_not_known_are_one_sentence(tmp_path):
    workdir = world(tmp_path / "w", ["train"])
    for rules in ({"unseen": "maybe"}, {"history": {"test": ["val"]}}, {"history": {"val": ["train", "val"]}},
                  {"history": {"other": ["train"]}}, {"history": []}):
        write_json(workdir / "data" / "rules.json", rules)
        with pytest.raises(WorkError, match="rules.json"):
            dataset.load(workdir)


@pytest.mark.trains
def test_sequences_of_equal_times_teach_nothing(tmp_path):
    """Random plays on two days: with ties in the order of ids SASRec reached .31 on test and .56 on val."""
    rng, users, tracks = np.random.default_rng(1), 400, 200
    rows = [(u, t, f"2019-03-0{1 + j // 12}") for u in range(users)
            for j, t in enumerate(rng.choice(tracks, 24, replace=False))]
    workdir = workspace(tmp_path / "w", rows, n_tracks=tracks)
    splitter = importlib.import_module("preprocess.1_train_test_split")
    splitter.main(["--protocol", "leave-one-out", "--workdir", str(workdir)])
    sasrec.main(["random", "--epochs", "8", "--seed", "1", "--hidden-dim", "64", "--batch-size", "32", "--workdir",
                 str(workdir)])
    (name, _), = runs.find_runs(workdir)
    for part, hidden in (("val", 22), ("test", 23)):
        chance = 50 / (tracks - hidden)
        rate = pd.read_parquet(workdir / "metrics" / f"{name}_{part}.pqt")["HitRate@50"].mean()
        assert abs(rate - chance) < 4 * (chance * (1 - chance) / users) ** .5, (part, rate, chance)


def test_the_rules_hold_while_it_is_tuned(tmp_path):
    """The workspace of trials has no tracks of test, and knows that val may have tracks absent from train."""
    workdir = world(tmp_path / "w", ["train", "val"])
    val = pd.read_parquet(workdir / "data" / "val.pqt")
    write_pairs(workdir, "val", np.append(val.user_id, val.user_id.iloc[0]), np.append(val.track_id, UNSEEN[0]))
    split = dataset.load(tune.link_workspace(workdir))
    assert split.parts == ("val",) and split.tracks[:split.n_hot][split.unseen].tolist() == [UNSEEN[0]]
    assert split.rules["unseen"] == "keep"


def test_exceptions_name_recommenders_that_exist():
    assert KNOW_NOTHING_NEW.keys() | COMBINE <= set(NAMES)


def test_elsa_writes_no_factors_for_tracks_without_plays(tmp_path):
    workdir = world(tmp_path / "w", ["train"])
    run("recommenders.elsa", workdir, "--embedding", "factors", "--epochs", "1")
    matrix = np.load(workdir / "embeddings" / "factors.npy")
    split = dataset.load(workdir)
    assert np.flatnonzero(np.isfinite(matrix).all(axis=1)).tolist() == sorted(split.tracks[:split.n_hot][~split.unseen])


def test_elsa_takes_nothing_from_a_track_of_the_history_that_train_lacks(tmp_path):
    """Its factor is what the start and the negatives made of it: it would turn the user's vector at random."""
    lists_of = []
    for name, unseen in (("with", [UNSEEN[0]]), ("without", [])):
        workdir = world(tmp_path / name, ["train", "val"])
        user = pd.read_parquet(workdir / "data" / "test.pqt").user_id.iloc[0]
        write_pairs(workdir, "test", [user] * 2, UNSEEN)          # so that both worlds rank the same tracks
        write_pairs(workdir, "val", [user] * len(unseen), unseen)
        run_name, _ = run("recommenders.elsa", workdir, "--epochs", "2", "--factors", "8")
        lists_of.append(lists(workdir, run_name, "test"))
        split = dataset.load(workdir)
        factors = np.load(workdir / "model_embeddings" / f"{run_name}_items.npy")
        assert not factors[split.unseen].any() and np.allclose(np.linalg.norm(factors[~split.unseen], axis=1), 1)
    assert lists_of[0].equals(lists_of[1])
