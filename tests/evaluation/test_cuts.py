"""table.py --by: each segment's figures against an independent computation, and cuts that say nothing."""
import importlib

import numpy as np
import pandas as pd
import pytest

import dataset
import metrics
import table
from evaluation.cuts import segments
from harness import runs
from harness.errors import UsageError
from harness.files import write_parquet
from tests.worlds.world import tiny_workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny workspace with a KNN, two permutations of it, and popularity; two artists have cold tracks only."""
    workdir = tiny_workspace(tmp_path_factory.mktemp("cuts") / "w")
    split = dataset.load(workdir)
    artists = [[f"artist {t // 3}"] if t % 11 else None for t in range(80)]
    for track in split.tracks[split.n_hot:][:4]:
        artists[track] = ["New One", " new one "]     # one artist, written in two ways
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artists": artists}))
    for module, *flags in (("knn", "content"), ("knn", "content", "--shuffle", "--seed", "1"),
                           ("knn", "content", "--shuffle", "--seed", "2"), ("recommenders.popularity",)):
        importlib.import_module(module).main([*flags, "--workdir", str(workdir), "--k", "20"])
    return workdir


@pytest.mark.parametrize("cut", ["item-popularity", "user-activity", "artist"])
def test_a_segment_has_the_figures_of_its_pairs_alone(world, cut, capsys):
    table.main(["--workdir", str(world), "--metrics", "NDCG@10", "Recall@5", "--by", cut])
    assert f"results_test_by_{cut.replace('-', '_')}.csv" in capsys.readouterr().out
    split = dataset.load(world)
    for part in ("test", "cold_test"):
        shown = pd.read_csv(world / "tables" / f"results_{part}_by_{cut.replace('-', '_')}.csv")
        cut_up = segments(split, part, cut)
        assert list(dict.fromkeys(shown["segment"])) == list(cut_up)
        for name, truth in cut_up.items():
            pairs = pd.DataFrame({"user_id": truth.users[truth.user], "track_id": truth.track})
            run = next(n for n, c in runs.find_runs(world) if c["recommender"] == "knn"
                       and not runs.is_shuffled(c["request"]))
            values = metrics.evaluate(pd.read_parquet(world / "preds" / f"{run}_{part}.pqt"), pairs, (5, 10))
            row = shown[(shown.segment == name) & (shown.recommender == "knn") & ~shown.shuffled
                        & (shown.metric == "NDCG")].iloc[0]
            assert row["mean"] == pytest.approx(values["NDCG@10"].mean()) and row["pairs"] == len(pairs)
            assert row["users"] == len(values) and row["permutations"] == 2 and np.isfinite(row["worth"])


def test_pairs_of_a_segment_are_those_its_name_says(world):
    split = dataset.load(world)
    items = pd.read_parquet(world / "items.pqt")["artists"].map(
        lambda a: {x.strip().casefold() for x in a} if a is not None else set())
    train = split.truth("train")
    of_train = set().union(*items[train.track_id])
    by_user = train.groupby("user_id")["track_id"].agg(lambda t: set().union(*items[t]))
    for part in ("test", "cold_test"):
        truth = split.truth(part)
        known = truth.track_id.map(lambda t: bool(items[t] & of_train))
        has = truth.track_id.map(lambda t: bool(items[t]))
        played = np.array([bool(items[t] & by_user[u]) for u, t in truth.itertuples(index=False)])
        found = segments(split, part, "artist")
        sizes = {name.split(":")[0]: len(pairs.track) for name, pairs in found.items()}
        expected = {"known artist": known.sum(), "new artist": (has & ~known).sum(), "exploit": (has & played).sum(),
                    "discovery": (has & ~played).sum()}
        assert sizes == {name: n for name, n in expected.items() if n}
    assert segments(split, "cold_test", "item-popularity").keys() == {"cold"}
    popular = segments(split, "test", "item-popularity")
    plays = train["track_id"].value_counts()
    assert plays[popular["head"].track].min() > plays[popular["tail"].track].max()


def test_cuts_that_say_nothing_are_one_sentence(world, tmp_path):
    import shutil
    workdir = tmp_path / "w"
    shutil.copytree(world, workdir)
    with pytest.raises(UsageError, match="Coverage@10 is none of a segment"):
        table.main(["--workdir", str(workdir), "--metrics", "Coverage@10", "--by", "artist"])
    own = [f"a{t}" for t in range(80)]
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artist": own}))
    with pytest.raises(UsageError, match="every track has an artist of its own"):
        table.main(["--workdir", str(workdir), "--k", "10", "--by", "artist"])
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(80), "artist": [None, " "] * 40}))
    with pytest.raises(UsageError, match="this workspace has none"):
        table.main(["--workdir", str(workdir), "--k", "10", "--by", "artist"])
