"""cold_val and all_test, the parts of --protocol cold-items, of every recommender: who ranks them, and what they rank.

The lists of the other parts are those of test_contract.py, whose quick calls are used.
"""
import numpy as np
import pandas as pd
import pytest

import dataset
from harness import runs
from harness.readers import read_json
from tests.recommenders.test_contract import NAMES, call, module_of, run
from tests.worlds.world import hidden_pairs, tiny_workspace, with_cold_val


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each recommender run once on a tiny world with all parts: {name: (workdir, run name, config)}."""
    cache = {}

    def get(name):
        if name not in cache:
            workdir = with_cold_val(tiny_workspace(tmp_path_factory.mktemp(name.replace(".", "_")) / "w"))
            cache[name] = (workdir, *run(name, workdir))
        return cache[name]
    return get


@pytest.mark.trains
@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_lists_of_its_own_candidates(made, name):
    workdir, run_name, config = made(name)
    split = dataset.load(workdir)
    assert config["parts"] == sorted(split.parts if module_of(name).COLD else split.hot_parts)
    for part in config["parts"]:
        preds = pd.read_parquet(workdir / "preds" / f"{run_name}_{part}.pqt")
        candidates = set(split.tracks[split.candidates(part)])
        assert set(preds.track_id) <= candidates
        assert set(preds.user_id) == set(split.users[split.eval_users(part)])
        assert not hidden_pairs(workdir, part) & {*zip(preds.user_id, preds.track_id, strict=True)}
        assert preds.groupby("user_id").size().min() >= min(10, len(candidates))
        assert len(pd.read_parquet(workdir / "metrics" / f"{run_name}_{part}.pqt")) == preds.user_id.nunique()


@pytest.mark.trains
@pytest.mark.parametrize("name", [name for name in NAMES if not module_of(name).COLD])
def test_a_method_of_the_plays_alone_lists_cold_items_last(made, name):
    workdir, run_name, config = made(name)
    split = dataset.load(workdir)
    cold = set(split.tracks[split.n_hot:])
    preds = pd.read_parquet(workdir / "preds" / f"{run_name}_all_test.pqt")
    assert not set(preds.track_id) & cold                          # ten places, and more hot items than that
    if name == "recommenders.random_forest":                       # it ranks the lists of others, which have k places
        return
    test = pd.read_parquet(workdir / "preds" / f"{run_name}_test.pqt")
    both = preds.merge(test, on=["user_id", "rank"], suffixes=("", "_test"))
    assert len(both) == len(test) and (both.track_id == both.track_id_test).all()    # the same scores


def test_long_lists_of_a_hot_only_method_end_in_the_cold_items(tmp_path):
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    module_of("recommenders.popularity").main(["--workdir", str(workdir), "--k", "100"])
    split, (name, _) = dataset.load(workdir), *runs.find_runs(workdir)
    preds = pd.read_parquet(workdir / "preds" / f"{name}_all_test.pqt")
    is_cold = preds.track_id.isin(split.tracks[split.n_hot:split.n_items - split.n_cold_val])
    n_cold = split.n_items - split.n_cold_val - split.n_hot
    assert (is_cold.groupby(preds.user_id).sum() == n_cold).all() and n_cold == 8
    assert (preds["rank"][is_cold].groupby(preds.user_id).min() > preds["rank"][~is_cold].groupby(
        preds.user_id).max()).all()
    means = pd.read_csv(workdir / "metrics" / f"{name}_all_test.csv", index_col=0).loc["mean"]
    assert means["ColdShare@10"] == 0 and means["Coverage@50"] > 0


def test_content_has_the_same_scores_in_all_parts(tmp_path):
    """In all_test, the order of hot items is that of test, and the order of cold items that of cold_test."""
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    module_of("knn").main(["content", "--workdir", str(workdir), "--k", "100"])
    split = dataset.load(workdir)
    lists = {p: pd.read_parquet(workdir / "preds" / f"content_cosine_{p}.pqt") for p in split.parts}
    cold = lists["all_test"].track_id.isin(split.tracks[split.n_hot:])
    for part, own in (("test", ~cold), ("cold_test", cold)):
        mine = lists["all_test"][own].merge(lists[part], on=["user_id", "track_id"], suffixes=("", "_own"))
        assert len(mine) == len(lists[part])
        assert np.allclose(mine.score, mine.score_own, rtol=0, atol=1e-5)   # products in blocks of another shape
    means = pd.read_csv(workdir / "metrics" / "content_cosine_all_test.csv", index_col=0).loc["mean"]
    top = lists["all_test"][lists["all_test"]["rank"] < 5]
    expected = top.track_id.isin(split.tracks[split.n_hot:]).groupby(top.user_id).mean().mean()
    assert means["ColdShare@5"] == pytest.approx(expected, abs=1e-12) and 0 < expected < 1
    assert "ColdShare@5" not in pd.read_csv(workdir / "metrics" / "content_cosine_test.csv", index_col=0)
    assert "Popularity@5" not in pd.read_csv(workdir / "metrics" / "content_cosine_cold_val.csv", index_col=0)


def test_the_hybrid_mixes_what_can_rank_a_part(tmp_path):
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    for name in ("recommenders.popularity", "recommenders.itemknn"):
        call(name, workdir)
    call("recommenders.hybrid", workdir, "popularity", "itemknn")
    config = next(c for _, c in runs.find_runs(workdir) if c["recommender"] == "hybrid")
    assert config["parts"] == ["all_test", "test", "val"]
    assert config["left_out"] == {"cold_test": "no component ranks it", "cold_val": "no component ranks it"}


@pytest.mark.trains
def test_embeddings_of_ids_leave_both_cold_parts_out(tmp_path):
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    module_of("train").main(["--model", "random", "--epochs", "1", "--hidden-dim", "8", "--workdir", str(workdir)])
    (name, config), = runs.find_runs(workdir)
    assert config["parts"] == ["all_test", "test", "val"] and config["left_out"].keys() == {"cold_test", "cold_val"}
    split = dataset.load(workdir)
    lists = pd.read_parquet(workdir / "preds" / f"{name}_all_test.pqt")
    hot = lists.track_id.isin(split.tracks[:split.n_hot])
    assert (lists["rank"][hot].groupby(lists.user_id).max() < lists["rank"][~hot].groupby(lists.user_id).min()).all()


def test_tables_show_the_test_parts_and_cold_val_on_demand(tmp_path, capsys):
    import table
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    call("recommenders.popularity", workdir)
    module_of("knn").main(["content", "noise", "--workdir", str(workdir)])
    table.main(["--workdir", str(workdir), "--metrics", "NDCG@10", "ColdShare@10"])
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("###")] == [
        "test:", "cold_test:", "all_test:"]
    assert "cannot rank cold items: Popularity" in said and "bold: best of its block on cold_val" in said
    val = {name: pd.read_csv(workdir / "metrics" / f"{name}_cosine_cold_val.csv", index_col=0).loc["mean", "NDCG@10"]
           for name in ("content", "noise")}
    results = pd.read_csv(workdir / "tables" / "results_cold_test.csv")
    assert results[results.best].representation.tolist() == [max(val, key=val.get)]
    assert set(results.best_on) == {"cold_val"}
    table.main(["--workdir", str(workdir), "--metrics", "NDCG@10", "--parts", "cold_val"])
    assert "### cold_val:" in capsys.readouterr().out and (workdir / "tables" / "cold_val.md").exists()
    assert read_json(workdir / "data" / "rules.json")["all_test"] is True
