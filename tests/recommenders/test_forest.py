"""The forest: features by hand, no label reaches a feature or the user's own val list, reports, bad input."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_parquet
from ranking import candidates
from recommenders import content_knn, itemknn, popularity
from recommenders.random_forest import __main__ as random_forest
from recommenders.random_forest.features import features_of, pool_features
from tests.worlds.world import tiny_workspace, write_pairs, write_tracks

PARTS = ("popularity", "content_knn", "itemknn")


def three_runs(workdir, k="20"):
    popularity.main(["--workdir", str(workdir), "--k", k])
    content_knn.main(["content", "--workdir", str(workdir), "--k", k])
    itemknn.main(["--workdir", str(workdir), "--k", k])
    return workdir


def made(workdir):
    (name, config), = [r for r in runs.find_runs(workdir) if r[1]["recommender"] == "random_forest"]
    return name, config


def forest(workdir, *flags, trees="10", k="10"):
    random_forest.main(["--workdir", str(workdir), "--trees", trees, "--k", k, *flags])
    name, config = made(workdir)
    return {part: pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt") for part in config["parts"]}


def ranker_of(workdir, *flags):
    args = random_forest.parse(["--trees", "10", *flags])
    split = dataset.load(workdir)
    pool = candidates.pool(split, "val", candidates.find_runs(split, list(PARTS)), args.seed)
    return random_forest.Ranker(args, *pool_features(pool, PARTS), pool)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny world of 240 listeners (80 in val) with the candidates' runs made."""
    return three_runs(tiny_workspace(tmp_path_factory.mktemp("forest") / "w", n_users=240))


# --------------------------------------------------------------------------- what boosting cannot learn from

def test_lambdarank_refuses_too_many_candidates_and_too_few_before_it_fits(world, tmp_path, monkeypatch):
    monkeypatch.setattr(random_forest, "fit", lambda *_: pytest.fail("fitted"))
    with monkeypatch.context() as patch, pytest.raises(WorkError, match="accepts at most 20 candidates per user, "
                                                                             "but one has [0-9]+; use --negatives"):
        patch.setattr(random_forest, "MOST_OF_A_USER", 20)
        ranker_of(world, "--model", "lambdarank")
    write_tracks(tmp_path, 4)                                            # each user has one candidate left
    write_pairs(tmp_path, "train", [1, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 3])
    write_pairs(tmp_path, "val", [1, 2], [3, 2])
    popularity.main(["--workdir", str(tmp_path)])
    with pytest.raises(WorkError, match="at least two candidates to train on, but without one fold 1 of 2"):
        random_forest.main(["popularity", "--workdir", str(tmp_path), "--model", "lambdarank"])


# --------------------------------------------------------------------------- features

def test_features_by_hand():
    """User 0 plays items 0 (3 times) and 1 (1), user 1 item 1 (4); asked for (0, 1) and (1, 0)."""
    train = dataset.Interactions(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([3, 1, 4], np.float32), None)
    names, x = features_of(train, np.array([0, 1]), np.array([1, 0]), 2, 2)
    ln = np.log
    expected = {"user_tracks": [ln(3), ln(2)], "user_plays": [ln(5), ln(5)], "user_top_share": [3 / 4, 1],
                "user_mean_plays": [(ln(4) + ln(2)) / 2, ln(5)], "user_popularity": [(ln(2) + ln(3)) / 2, ln(3)],
                "item_listeners": [ln(3), ln(2)], "item_plays": [ln(6), ln(4)],
                "item_mean_plays": [(ln(2) + ln(5)) / 2, ln(4)], "item_listeners_tracks": [(ln(3) + ln(2)) / 2, ln(3)],
                "pair_popularity_gap": [ln(3) - (ln(2) + ln(3)) / 2, ln(2) - ln(3)]}
    assert names == list(expected)
    assert np.allclose(x, np.array(list(expected.values())).T, atol=1e-6)


def test_a_pairs_lists_scores_and_places():
    train = dataset.Interactions(np.array([0]), np.array([2]), np.ones(1, np.float32), None)
    split = dataset.Split(None, np.array([1]), np.arange(3), 3, train, {}, 3, "", "none")
    pool = candidates.Pool(split, "val", np.array([0, 0]), np.array([2, 2]), np.array([[5, np.nan], [3, 8.]]),
                           np.array([[0, -1], [1, 0]]))
    names, x = pool_features(pool, ("a", "b"))
    assert names[-5:] == ["pair_lists", "a_score", "b_score", "a_place", "b_place"]
    assert np.allclose(x[:, -5:], [[1, 1, 0, np.log2(2), np.log2(3)], [2, 0, 0, np.log2(3), np.log2(2)]])


def permuted(workdir, part, seed):
    """Deal the part's tracks out to its pairs anew (each user keeps as many, none twice) and the plays, too."""
    frame, generator = pd.read_parquet(workdir / "data" / f"{part}.pqt"), np.random.default_rng(seed)
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    tracks = np.unique(train.track_id)
    drawn = np.concatenate([generator.choice(tracks, n, replace=False)
                            for n in frame.groupby("user_id", sort=False).size()])
    assert (drawn != frame.track_id).mean() > 0.9
    write_pairs(workdir, part, frame.user_id, drawn, generator.permutation(frame["count"]) + 100)


def all_features(workdir, part):
    split = dataset.load(workdir)
    pool = candidates.pool(split, part, candidates.find_runs(split, list(PARTS)))
    return {(u, i): tuple(row) for u, i, row in zip(pool.user, pool.item, pool_features(pool, PARTS)[1].tolist(),
                                                    strict=True)}


def test_permuting_the_targets_changes_no_feature_and_changing_train_does(tmp_path):
    """All is made again on the permuted workspace, the candidates' runs as well.

    One part at a time: val permuted may change the features of test, whose lists hide val.
    """
    before = three_runs(tiny_workspace(tmp_path / "a"))
    for part in ("val", "test"):
        after = tiny_workspace(tmp_path / part)
        permuted(after, part, seed=7)
        three_runs(after)
        old, new = all_features(before, part), all_features(after, part)
        assert len(old) > 500 and old == new
    train = pd.read_parquet(after / "data" / "train.pqt")
    write_pairs(after, "train", train.user_id, train.track_id, np.random.default_rng(1).permutation(train["count"]),
                train.timestamp.astype("datetime64[s]").astype("int64"))
    three_runs(after)
    assert all_features(after, "val") != all_features(before, "val")


def test_a_users_own_labels_never_reach_the_users_val_list(tmp_path):
    """Another truth for one user: this user's predictions are the same bytes, other users' are not."""
    workdir = three_runs(tiny_workspace(tmp_path / "w"))
    before = ranker_of(workdir)
    mine, others = before.pool.user == before.pool.user[0], before.fold != before.fold[0]
    before.pool.hits = lambda: before.hits ^ mine
    after = random_forest.Ranker(before.args, before.names, before.x, before.pool)
    assert (before.fold == after.fold).all() and (before.hits != after.hits).any()
    old, new = before.on_val(), after.on_val()
    assert (old[mine] == new[mine]).all() and (old[others] != new[others]).any()


# --------------------------------------------------------------------------- learning

@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), negatives=st.integers(0, 5))
def test_rows_to_learn_from(seed, negatives):
    generator = np.random.default_rng(seed)
    user = np.sort(generator.integers(6, size=40))
    hits = generator.random(40) < 0.2
    rows = random_forest.to_learn(user, hits, negatives, generator)
    assert (np.diff(rows) > 0).all() and set(np.flatnonzero(hits)) <= set(rows)
    for u in np.unique(user):
        misses = ((user == u) & ~hits).sum()
        assert (~hits[rows[user[rows] == u]]).sum() == (min(negatives, misses) if negatives else misses)


@pytest.mark.parametrize("model, flags", [("forest", ["--max-features", "1", "--negatives", "0"]), ("lambdarank", [])])
def test_it_learns_a_planted_rule(world, model, flags):
    """One column says which candidates are right: they come first in val, and nothing else is important."""
    args = random_forest.parse(["--model", model, "--trees", "20", "--min-leaf", "2", *flags])
    split = dataset.load(world)
    pool = candidates.pool(split, "val", candidates.find_runs(split, list(PARTS)))
    noise = np.random.default_rng(0).random(len(pool))
    x = np.stack([noise, pool.hits() + noise / 2, np.zeros(len(pool))], axis=1).astype(np.float32)
    ranker = random_forest.Ranker(args, ["noise", "rule", "constant"], x, pool)
    frame = pd.DataFrame({"user": pool.user, "hit": ranker.hits, "value": ranker.on_val()})
    least = frame[frame.hit].groupby("user").value.min()
    assert (least > frame[~frame.hit].groupby("user").value.max()[least.index]).mean() > 0.95 and len(least) > 40
    table = ranker.importances(seed=1).set_index("feature")
    assert table.index[0] == "rule" and table.importance["rule"] > 0.3 and table.in_model["rule"] > 0.8
    assert table.importance["constant"] == 0 == table.conf["constant"]
    assert abs(table.importance["noise"]) < table.importance["rule"] / 10
    assert (ranker.x == x).all()  # every column is put back


def test_predictions_do_not_depend_on_the_threads_or_the_blocks(world, monkeypatch):
    import torch
    ranker = ranker_of(world)
    whole = random_forest.guess(ranker.final, ranker.x)
    assert np.allclose(whole, ranker.final.predict(ranker.x), rtol=1e-12)
    for n, block in ((1, 100), (3, 7), (4, 10**6)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n: n)
        assert (random_forest.guess(ranker.final, ranker.x, block) == whole).all()
    assert random_forest.guess(ranker.final, ranker.x[:0]).shape == (0,)


def test_the_list_is_a_choice_of_the_candidates(world):
    preds = forest(world)
    split = dataset.load(world)
    for part, frame in preds.items():
        pool = candidates.pool(split, part, candidates.find_runs(split, list(PARTS)))
        there = {*zip(split.users[pool.user], split.tracks[pool.item], strict=True)}
        assert {*zip(frame.user_id, frame.track_id, strict=True)} <= there
    name, config = made(world)
    assert set(config["sources"]) == set(PARTS) and 0 < config["found"] <= 1
    recall = pd.read_csv(world / "metrics" / f"{name}_val.csv", index_col=0).loc["mean", "Recall@10"]
    assert recall <= config["found"] + 0.02  # one is a mean over users, the other over pairs


# --------------------------------------------------------------------------- reports

def test_importances_and_their_plot_are_made_and_made_again_when_lost(tmp_path, capsys):
    workdir = three_runs(tiny_workspace(tmp_path / "w"))
    forest(workdir, "--model", "lambdarank", "--min-leaf", "5")
    name, _ = made(workdir)
    assert f"\n{name}: LambdaMART, " in capsys.readouterr().out
    folder = workdir / "runs" / name
    table = pd.read_csv(folder / "importances.csv")
    assert list(table.columns) == ["feature", "importance", "conf", "in_model"] and len(table) == 17
    assert table.importance.is_monotonic_decreasing and abs(table.in_model.sum() - 1) < 1e-9
    assert (folder / "importances.png").read_bytes()[:4] == b"\x89PNG"
    (folder / "importances.png").unlink()
    forest(workdir, "--model", "lambdarank", "--min-leaf", "5")
    assert (folder / "importances.png").exists()


def test_plays_are_guessed_from_train_alone(tmp_path):
    """Plays are the product of a user's and a track's own number: the forest sees both, the user's mean one."""
    workdir = tiny_workspace(tmp_path / "w", n_users=400, n_tracks=60, n_cold=5)
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        frame = pd.read_parquet(workdir / "data" / f"{part}.pqt")
        plays = (frame.user_id % 7 + 1) * (frame.track_id % 5 + 1) * 10 + generator.integers(3, size=len(frame))
        write_pairs(workdir, part, frame.user_id, frame.track_id, plays)
    split = dataset.load(workdir)
    args = random_forest.parse(["--trees", "30"])
    table = random_forest.plays_report(split, args).set_index(["target", "model"])
    true, known = split.part("test").count.astype(float), split.part("val").count
    constant = table.loc["plays", "constant"]
    assert np.isclose(constant.rmse, ((true - known.mean()) ** 2).mean() ** 0.5) and np.isnan(constant.correlation)
    assert np.isclose(constant.mae, np.abs(true - known.mean()).mean()) and constant.pairs == len(true)
    mean = pd.Series(split.train.count).groupby(split.train.user).mean()[split.part("test").user].to_numpy()
    assert np.isclose(table.loc["plays", "user"].correlation, np.corrcoef(mean, true)[0, 1])
    assert np.isclose(table.loc["log(1 + plays)", "constant"].mae,
                      np.abs(np.log1p(true) - np.log1p(known.astype(float)).mean()).mean())
    for target in ("plays", "log(1 + plays)"):
        assert table.loc[target, "forest"].rmse < 0.5 * table.loc[target, "user"].rmse


# --------------------------------------------------------------------------- bad input

def test_flags_that_do_not_apply_to_the_model_or_are_out_of_range(tiny):
    for flags, sentence in ((["--leaves", "7"], "--leaves does not apply to --model forest"),
                            (["--model", "lambdarank", "--max-features", "1"], "--max-features does not apply to"),
                            (["--max-features", "0"], "--max-features must be above 0 and at most 1, not 0"),
                            (["--folds", "1"], "--folds at least 2, not 15 and 1"),
                            (["--model", "lambdarank", "--lr", "0"], "--lr above 0 and below 1e.37, not 15 and 0"),
                            (["--model", "lambdarank", "--lr", "1e300"], "not 15 and 1e.300"),
                            (["--negatives", "-1"], "--negatives must be at least 0")):
        with pytest.raises(UsageError, match=sentence):
            random_forest.main([*flags, "--workdir", str(tiny)])


def test_without_candidates_runs_it_names_the_command(tiny):
    with pytest.raises(WorkError, match="make it first: python -m recommenders.popularity --workdir"):
        random_forest.main(["--workdir", str(tiny)])
    popularity.main(["--workdir", str(tiny)])
    with pytest.raises(WorkError, match="make it first: python -m recommenders.content_knn --workdir"):
        random_forest.main(["--workdir", str(tiny)])


@pytest.mark.parametrize("train, val", [([(1, 0), (2, 0)], [(1, 0)]),              # one track, which everybody knows
                                        ([(1, 0), (1, 1), (1, 2)], [(1, 2)]),     # one user, who knows everything
                                        ([(1, 0), (2, 1)], [(1, 0), (2, 1)])])    # no right candidate
def test_nothing_to_learn_is_one_sentence(tmp_path, train, val):
    write_tracks(tmp_path, 3)
    for part, pairs in (("train", train), ("val", val)):
        write_pairs(tmp_path, part, *np.array(pairs).T)
    popularity.main(["--workdir", str(tmp_path)])
    with pytest.raises(WorkError, match="val has [02] users with candidates and 0 relevant candidates"):
        random_forest.main(["popularity", "--workdir", str(tmp_path)])


def test_users_without_candidates_get_empty_lists(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    three_runs(workdir)
    split = dataset.load(workdir)
    gone = split.users[split.eval_users("val")[0]], split.users[split.eval_users("test")[0]]
    for source in candidates.find_runs(split, list(PARTS)):
        for part in ("val", "test"):
            frame = pd.read_parquet(source.path(part))
            write_parquet(source.path(part), frame[~frame.user_id.isin(gone)])
    preds = forest(workdir)
    assert not preds["val"].user_id.isin(gone).any() and not preds["test"].user_id.isin(gone).any()
    name, _ = made(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{name}_test.pqt").set_index("user_id")
    assert values.loc[gone[1], "HitRate@10"] == 0 and len(values) == len(split.eval_users("test"))


def test_a_split_without_test_still_learns(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    for part in ("test", "cold_test"):
        (workdir / "data" / f"{part}.pqt").unlink()
    three_runs(workdir)
    assert set(forest(workdir)) == {"val"}
    assert not (workdir / "runs" / made(workdir)[0] / "plays.csv").exists()
