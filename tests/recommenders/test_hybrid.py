"""The hybrid and the pool of saved lists under it: by hand, against topk, and with runs that are not there."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
import metrics
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from harness.readers import read_json
from ranking import candidates, topk
from ranking.save import write
from recommenders import content_knn, hybrid, itemknn, popularity
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks

PARTS = ("popularity", "content_knn", "itemknn")


def save(split, recommender, scores, k=10, seed=42, **request):
    """A finished run of a recommender whose score of item i for user u is scores[part][u, i]; returns its name."""
    request = {"k": k, "seed": seed, **request}
    with runs.Run(split.workdir, recommender, request, inputs=split.inputs) as run:
        write(run, split, k, seed, list(scores),
              scores={part: lambda codes, values=values: values[codes] for part, values in scores.items()})
        run.finish(parts=sorted(scores))
    return run.name


def three_runs(workdir, k="10"):
    popularity.main(["--workdir", str(workdir), "--k", k])
    content_knn.main(["content", "--workdir", str(workdir), "--k", k])
    itemknn.main(["--workdir", str(workdir), "--k", k])
    return workdir


def made(workdir):
    (name, config), = [r for r in runs.find_runs(workdir) if r[1]["recommender"] == "hybrid"]
    return name, config


@pytest.fixture
def four(tmp_path):
    """Two users and six tracks; in val user 0 plays track 4 and user 1 track 0, in test 5 and 1."""
    write_tracks(tmp_path, 6)
    write_pairs(tmp_path, "train", [0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    write_pairs(tmp_path, "val", [0, 1], [4, 0])
    write_pairs(tmp_path, "test", [0, 1], [5, 1])
    return dataset.load(tmp_path)


# --------------------------------------------------------------------------- the pool

def test_a_pool_and_its_scores_by_hand(four):
    save(four, "a", {"val": np.array([[0, 0, 1, 2, 3, 5], [7, 9, 0, 0, 0, 0.]])}, k=3)
    save(four, "b", {"val": np.array([[0, 0, 8, -np.inf, 4, -np.inf], [-np.inf] * 6])}, k=3)
    found = [candidates.Source(w, n, ("val",), 1, four.workdir) for (n, c) in runs.find_runs(four.workdir)
             for w in [c["recommender"]]]
    pool = candidates.pool(four, "val", found)
    rows = {(u, i): (s, p) for u, i, s, p in zip(pool.user, pool.item, pool.score.tolist(), pool.place.tolist(),
                                                 strict=True)}
    assert rows.keys() == {(0, 2), (0, 3), (0, 4), (0, 5), (1, 0), (1, 1)}
    assert rows[0, 4] == ([3, 4], [1, 1]) and rows[0, 5][1] == [0, -1] and np.isnan(rows[0, 5][0][1])
    each = dict(zip(rows, candidates.normalised(pool).tolist(), strict=True))
    assert each[0, 5] == [1, 0] and each[0, 3] == [0, 0] and each[0, 2] == [0, 1]
    assert np.allclose(each[0, 4], [(3 - 2) / (5 - 2), 0])
    assert each[1, 1] == [1, 0] and each[1, 0] == [0, 0]
    by_place = dict(zip(rows, candidates.normalised(pool, "rrf").tolist(), strict=True))
    assert by_place[0, 4] == [1 / 62, 1 / 62] and by_place[1, 0] == [1 / 62, 0]
    value = dict(zip(rows, hybrid.mixed(pool, candidates.normalised(pool), np.array([.25, .75])), strict=True))
    assert math.isclose(value[0, 4], .25 / 3) and value[0, 2] == .75
    only = dict(zip(rows, hybrid.mixed(pool, candidates.normalised(pool), np.array([0., 1])), strict=True))
    assert only[0, 2] == 1 and only[0, 4] == 0 and only[0, 5] == only[1, 1] == -np.inf
    assert dict(zip(rows, pool.hits(), strict=True)) == {r: r in ((0, 4), (1, 0)) for r in rows}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 4), k=st.integers(1, 12))
def test_the_best_of_a_pool_are_the_lists_of_topk(tmp_path_factory, seed, levels, k):
    """Few levels make many ties; a tenth of the candidates must never be recommended."""
    workdir = tmp_path_factory.getbasetemp() / "pool"
    if not workdir.exists():
        tiny_workspace(workdir)
        split = dataset.load(workdir)
        save(split, "a", {p: np.random.default_rng(1).random((60, split.n_hot)) for p in ("val", "test")}, k=20)
    split, generator = dataset.load(workdir), np.random.default_rng(seed)
    for part in ("val", "test"):
        pool = candidates.pool(split, part, candidates.find_runs(split, ["a"]), seed)
        values = generator.integers(levels, size=len(pool)).astype(float)
        values[generator.random(len(pool)) < 0.1] = -np.inf
        expected = topk.recommend(split, part, k, seed, scores=pool.scorer(values))
        assert pool.best(values, k).reset_index(drop=True).astype(expected.dtypes).equals(expected)


@settings(max_examples=30, deadline=None)
@given(parts=st.integers(2, 5), steps=st.integers(1, 6))
def test_the_grid_is_every_weighting_once(parts, steps):
    grid = hybrid.simplex(parts, steps)
    assert len(grid) == math.comb(steps + parts - 1, steps) == len(np.unique(grid, axis=0))
    assert np.allclose(grid.sum(axis=1), 1) and np.allclose(grid * steps, (grid * steps).round()) and grid.min() == 0
    assert all((grid == row).all(axis=1).any() for row in np.eye(parts))


# --------------------------------------------------------------------------- the choice

def test_weights_are_chosen_on_val_and_never_on_test(four):
    """Run a knows val and is wrong on test, run b the reverse: all weight goes to a."""
    right, wrong = np.zeros((2, 6)), np.zeros((2, 6))
    right[0, 4] = right[1, 0] = wrong[0, 5] = wrong[1, 1] = 1
    save(four, "a", {"val": right, "test": right}, k=4)
    save(four, "b", {"val": wrong, "test": wrong}, k=4)
    hybrid.main(["a", "b", "--workdir", str(four.workdir), "--steps", "1", "--k", "4"])
    _, config = made(four.workdir)
    assert config["weights"] == {"a": 1, "b": 0} and config["trials"] == 2
    assert config["val"]["hybrid"] == config["val"]["alone"]["a"] == 1 > config["val"]["alone"]["b"]


def test_on_val_no_part_alone_is_better_and_the_figures_are_those_of_metrics(tiny, capsys):
    three_runs(tiny)
    hybrid.main(["--workdir", str(tiny), "--k", "10"])
    name, config = made(tiny)
    alone = config["val"]["alone"]
    assert set(alone) == set(PARTS) and config["val"]["hybrid"] >= max(alone.values())
    for run, value in [(name, config["val"]["hybrid"]), *((config["sources"][w], alone[w]) for w in PARTS)]:
        saved = pd.read_csv(tiny / "metrics" / f"{run}_val.csv", index_col=0).loc["mean", "NDCG@10"]
        assert math.isclose(saved, value, abs_tol=1e-12)
    trials = pd.read_csv(tiny / "runs" / name / "trials.csv")
    assert len(trials) == 66 == config["trials"]
    best = trials.loc[trials["NDCG@10"].idxmax()]
    assert all(math.isclose(best[w], config["weights"][w]) for w in PARTS)
    assert "best of 66 weightings" in capsys.readouterr().out


def test_all_weight_on_one_part_gives_its_own_lists(tiny):
    three_runs(tiny)
    split = dataset.load(tiny)
    sources = candidates.find_runs(split, list(PARTS))
    for part in ("val", "test"):
        pool = candidates.pool(split, part, sources)
        for i, source in enumerate(sources):
            lists = pool.best(hybrid.mixed(pool, candidates.normalised(pool), np.eye(3)[i]), 10)
            saved = pd.read_parquet(source.path(part))
            assert (lists[["user_id", "track_id"]].to_numpy() == saved[["user_id", "track_id"]].to_numpy()).all()


def test_the_cold_test_takes_the_parts_that_rank_it():
    able = candidates.Source("a", "a", ("cold_test", "val"), 1, None)
    unable = candidates.Source("b", "b", ("val",), 1, None)
    both = hybrid.weights_for("cold_test", [able, unable, able], np.array([.2, .5, .3]))
    assert np.allclose(both, [.4, 0, .6])
    assert np.allclose(hybrid.weights_for("cold_test", [able, unable, able], np.array([0, 1., 0])), [.5, 0, .5])
    assert hybrid.weights_for("cold_test", [unable], np.array([1.])) is None


def test_without_a_part_for_cold_items_the_cold_test_is_left_out(tiny):
    three_runs(tiny)
    hybrid.main(["popularity", "itemknn", "--workdir", str(tiny), "--k", "10"])
    _, config = made(tiny)
    assert config["parts"] == ["test", "val"] and config["left_out"] == {"cold_test": "no component ranks it"}


# --------------------------------------------------------------------------- little to recommend

def test_a_user_without_candidates_gets_an_empty_list_and_zeros(four):
    nothing = np.full((2, 6), -np.inf)
    nothing[0, 4] = 1
    for name in "ab":
        save(four, name, {"val": nothing, "test": nothing}, k=4)
    hybrid.main(["a", "b", "--workdir", str(four.workdir), "--k", "4"])
    name, _ = made(four.workdir)
    assert pd.read_parquet(four.workdir / "preds" / f"{name}_val.pqt").user_id.tolist() == [0]
    assert pd.read_parquet(four.workdir / "metrics" / f"{name}_val.pqt")["HitRate@4"].tolist() == [1, 0]
    assert not len(pd.read_parquet(four.workdir / "preds" / f"{name}_test.pqt"))  # val hides the only candidate


@pytest.mark.parametrize("train, val", [([(1, 0), (2, 0)], [(1, 0)]), ([(1, 0), (1, 1)], [(1, 1)])])
def test_one_track_or_one_user(tmp_path, train, val):
    write_tracks(tmp_path, 2)
    for part, pairs in (("train", train), ("val", val)):
        write_pairs(tmp_path, part, *np.array(pairs).T)
    popularity.main(["--workdir", str(tmp_path)])
    itemknn.main(["--workdir", str(tmp_path)])
    hybrid.main(["popularity", "itemknn", "--workdir", str(tmp_path)])
    name, config = made(tmp_path)
    assert config["val"]["hybrid"] == 0 and not len(pd.read_parquet(tmp_path / "preds" / f"{name}_val.pqt"))


# --------------------------------------------------------------------------- which runs

def test_a_recommenders_best_run_on_val_is_taken_and_named_runs_as_they_are(tiny):
    three_runs(tiny)
    split = dataset.load(tiny)
    worse = save(split, "itemknn", {p: np.zeros((60, split.n_hot)) for p in ("val", "test")}, comment="constant")
    source, = candidates.find_runs(split, ["itemknn"])
    assert source.among == 2 and source.run != worse
    assert candidates.find_runs(split, [worse])[0].run == worse


def test_which_run_is_best_on_val_is_read_from_their_metrics_and_evaluated_only_where_they_lack_it(tiny, monkeypatch):
    three_runs(tiny)
    split = dataset.load(tiny)
    save(split, "itemknn", {p: np.zeros((60, split.n_hot)) for p in ("val", "test")}, comment="constant")
    best = candidates.find_runs(split, ["itemknn"], "NDCG@10")[0].run
    wanted = []
    evaluate = metrics.evaluate
    monkeypatch.setattr(metrics, "evaluate", lambda *args: wanted.append(args[2]) or evaluate(*args))
    assert candidates.find_runs(split, ["itemknn"], "NDCG@10")[0].run == best and not wanted
    assert candidates.find_runs(split, ["itemknn"], "NDCG@3")[0].run == best and wanted == [(3,)] * 2
    for path in (tiny / "metrics").glob("itemknn*_val.csv"):
        path.unlink()
    assert candidates.find_runs(split, ["itemknn"], "NDCG@10")[0].run == best and wanted[2:] == [(10,)] * 2


def test_of_equally_good_runs_the_one_with_longer_lists_is_taken(four):
    scores = {"val": np.array([[0, 0, 1, 2, 9, 5], [7, 1, 0, 0, 0, 0.]])}
    save(four, "a", scores, k=3)
    longer = save(four, "a", scores, k=4)
    assert candidates.find_runs(four, ["a"])[0].run == longer


def test_a_shuffled_control_is_never_taken_for_the_real_thing(tiny):
    content_knn.main(["content", "--workdir", str(tiny), "--k", "10", "--shuffle"])
    split = dataset.load(tiny)
    with pytest.raises(WorkError, match="there is no run of content_knn in .*make it first: python -m "
                                             "recommenders.content_knn --workdir"):
        candidates.find_runs(split, ["content_knn"])
    (name, _), = runs.find_runs(tiny)
    assert candidates.find_runs(split, [name])[0].run == name  # asked for by its name, it is what is wanted


def test_neither_the_oracle_nor_what_was_built_on_it_stands_for_a_recommender(tiny):
    three_runs(tiny)
    split = dataset.load(tiny)
    honest = candidates.find_runs(split, ["content_knn"])[0].run
    direction = np.array([int(s[0][6:]) for s in pd.read_parquet(tiny / "items.pqt").styles])
    write_embedding(tiny, "oracle", np.eye(4, dtype=np.float32)[direction])
    content_knn.main(["oracle", "--workdir", str(tiny), "--k", "10", "--neighbours", "5"])
    (oracle,) = [name for name, config in runs.find_runs(tiny) if config["embedding"] == "oracle"]
    source, = candidates.find_runs(split, ["content_knn"])
    assert (source.run, source.among) == (honest, 1)
    assert candidates.find_runs(split, [oracle])[0].run == oracle
    hybrid.main([oracle, "popularity", "--workdir", str(tiny), "--k", "10"])
    built, _ = made(tiny)
    with pytest.raises(WorkError, match="no run of hybrid in .* but on shuffled embeddings or the oracle; make"):
        candidates.find_runs(split, ["hybrid"])
    assert candidates.find_runs(split, [built])[0].run == built
    two = {"embedding": "content+oracle", "recommender": "two_tower"}
    assert candidates._is_control("a", {"a": two}) and not candidates._is_control("a", {"a": {"sources": {"a": "a"}}})


def test_missing_runs_are_one_sentence_with_the_command(tiny):
    for words, sentence in (
            ([], "there is no run of popularity in .*; make it first: python -m recommenders.popularity --workdir"),
            (["knn", "ease"], "there is no run of knn in .*; make it first: python knn.py --workdir"),
            (["shallow", "ease"], "make it first: python train.py --workdir")):
        with pytest.raises(WorkError, match=sentence):
            hybrid.main([*words, "--workdir", str(tiny)])
    assert not (tiny / "runs").exists() or not runs.find_runs(tiny)


def test_runs_of_another_split_unfinished_ones_and_lost_lists(tiny):
    three_runs(tiny)
    split = dataset.load(tiny)
    name = candidates.find_runs(split, ["itemknn"])[0].run
    path = tiny / "preds" / f"{name}_val.pqt"
    saved = path.read_bytes()
    path.unlink()
    with pytest.raises(WorkError, match=f"run {name} has no saved lists of val; make it first: python -m"):
        candidates.find_runs(split, ["itemknn"])
    path.write_bytes(saved)
    config = read_json(tiny / "runs" / name / "config.json")
    write_json(tiny / "runs" / name / "config.json", {**config, "status": "running"})
    with pytest.raises(WorkError, match=f"run {name} has not finished"):
        candidates.find_runs(split, [name])
    write_json(tiny / "runs" / name / "config.json", config)
    write_pairs(tiny, "val", [3], [int(split.tracks[0])])
    with pytest.raises(WorkError, match=f"run {name} was made on another split; make it first"):
        hybrid.main(["itemknn", "popularity", "--workdir", str(tiny)])


def test_invalid_components_metrics_and_steps(tiny):
    three_runs(tiny)
    for words, sentence in ((["popularty", "itemknn"], "'popularty' is no run of .* and no recommender; there are runs "
                                                       "of: content_knn, itemknn, popularity"),
                            (["itemknn", "itemknn"], "itemknn is asked for twice"),
                            (["itemknn"], "a hybrid has at least two components"),
                            (["itemknn", "ease", "--metric", "NDGC@10"], "--metric must be one of HitRate, .*NDGC@10"),
                            (["itemknn", "ease", "--metric", "NDCG@0"], "--metric must be one of"),
                            (["itemknn", "popularity", "--metric", "NDCG@010"], "--metric must be one of .*NDCG@010"),
                            (["itemknn", "popularity", "--metric", "NDCG@١"], "--metric must be one of"),
                            (["itemknn", "ease", "popularity", "--steps", "500"], "are 125751 trials, more than")):
        with pytest.raises(UsageError, match=sentence):
            hybrid.main([*words, "--workdir", str(tiny)])


def test_a_split_without_val_has_nothing_to_choose_on(tiny):
    (tiny / "data" / "val.pqt").unlink()
    with pytest.raises(WorkError, match="no val part to choose or learn on; split again with a --val-share"):
        hybrid.main(["--workdir", str(tiny)])


def test_lists_of_tracks_that_the_part_does_not_rank(tiny):
    three_runs(tiny)
    split = dataset.load(tiny)
    source, = candidates.find_runs(split, ["itemknn"])
    frame = pd.read_parquet(source.path("val"))
    frame.loc[0, "track_id"] = 0  # in no part
    write_parquet(source.path("val"), frame)
    with pytest.raises(WorkError, match="lists 1 tracks that val does not rank"):
        candidates.pool(split, "val", [source])


def test_a_changed_part_makes_the_hybrid_again(tiny, capsys):
    three_runs(tiny)
    flags = ["popularity", "itemknn", "--workdir", str(tiny), "--k", "10"]
    hybrid.main(flags)
    hybrid.main(flags)
    assert "skipped" in capsys.readouterr().err
    itemknn.main(["--workdir", str(tiny), "--k", "10", "--neighbours", "3", "--weight", "bm25"])
    itemknn.main(["--workdir", str(tiny), "--k", "20"])
    hybrid.main(flags)
    assert "made again, because preds/itemknn" in capsys.readouterr().err


def test_a_track_that_a_run_could_only_rank_last_takes_no_scale_from_the_others(four):
    score = np.array([[3.0, 1.0], [2.0, topk.LOWEST], [1.0, np.nan]])
    pool = candidates.Pool(four, "val", np.zeros(3, np.int64), np.arange(3), score, np.array([[0, 0], [1, 1], [2, -1]]))
    assert candidates.normalised(pool).tolist() == [[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]]
    score[2, 1] = 0.0
    pool.place[2, 1] = 2
    assert candidates.normalised(pool).tolist() == [[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]]
