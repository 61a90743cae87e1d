"""The accuracy of a test song among sampled others, for any recommender's lists."""
import re

import numpy as np
import pandas as pd
import pytest

import dataset
import metrics
import table
from evaluation import subset_accuracy
from evaluation.lists import read_lists
from harness import cli, runs
from harness.errors import WorkError
from harness.files import write_parquet
from recommenders import chance, popularity
from tests.worlds.world import take_out, tiny_workspace


def lists_of(split, part, order):
    """Whole lists of everybody in a part: each user's candidates in the order of order(user, tracks)."""
    tracks = split.tracks[split.candidates(part)]
    rows = [(split.users[u], t, i) for u in split.eval_users(part)
            for i, t in enumerate(sorted(tracks, key=lambda t, u=u: order(split.users[u], t)))]
    return pd.DataFrame(rows, columns=["user_id", "track_id", "rank"])


def values_of(lists, drawn):
    """Values by user of a frame of lists, and the share of subsets beyond their ends."""
    users = np.unique(drawn.user_id)
    values, tied = subset_accuracy.accuracy(read_lists(lists, users), drawn)
    return pd.Series(values, users), tied


def pairs_of(frame):
    return {*zip(frame.user_id, frame.track_id, strict=True)}


@pytest.fixture
def split(tmp_path):
    return dataset.load(tiny_workspace(tmp_path / "w"))


@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
def test_the_truth_wins_always_and_its_reverse_never(split, part):
    drawn = subset_accuracy.subsets(split, part, 4, 0)
    true = {*split.truth(part).itertuples(index=False, name=None)}
    for sign, value in ((-1, 1), (1, 0)):
        lists = lists_of(split, part, lambda u, t, sign=sign: (sign * ((u, t) in true), t))
        values, tied = values_of(lists, drawn)
        assert (values == value).all() and tied == 0 and values.index.tolist() == split.users[
            split.eval_users(part)].tolist()


def test_subsets_hold_no_song_that_the_user_knows(split):
    files = {p: pd.read_parquet(split.workdir / "data" / f"{p}.pqt") for p in ("train", *split.parts)}
    drawn = subset_accuracy.subsets(split, "test", 6, 1)
    assert {*zip(drawn.user_id, drawn.track[:, 0], strict=True)} == pairs_of(files["test"])
    known = set().union(*map(pairs_of, files.values()))
    assert not known & {(u, t) for u, row in zip(drawn.user_id, drawn.track[:, 1:], strict=True) for t in row}
    assert all(len(set(row)) == 6 for row in drawn.track.tolist())
    assert set(drawn.track.flat) <= set(files["train"].track_id)


def test_subsets_hold_nothing_that_was_taken_out_of_train(tiny):
    out = take_out(tiny)
    drawn = subset_accuracy.subsets(dataset.load(tiny), "test", 6, 1)
    assert out and not out & {(u, t) for u, row in zip(drawn.user_id, drawn.track[:, 1:], strict=True) for t in row}


def test_beyond_the_end_of_a_list_songs_tie(split):
    """Lists of one song, the first of the truth: its subset is won, the user's others are shared by four."""
    first = split.truth("test").drop_duplicates("user_id").assign(rank=0)
    values, tied = values_of(first, subset_accuracy.subsets(split, "test", 4, 0))
    n = split.truth("test").groupby("user_id").size()
    assert values.to_dict() == pytest.approx(((1 + (n - 1) / 4) / n).to_dict())
    assert tied == pytest.approx(1 - len(n) / n.sum()) and tied > 0


def test_a_user_who_knows_the_whole_catalogue_has_no_value(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    split = dataset.load(workdir)
    user = split.users[split.part("test").user[0]]
    held = pd.concat([pd.read_parquet(workdir / "data" / f"{p}.pqt") for p in ("val", "test")])
    held = held[held.user_id == user]
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    rest = pd.DataFrame({"user_id": user, "track_id": sorted({*train.track_id} - {*held.track_id}), "count": 1,
                         "timestamp": train.timestamp.iloc[0]})
    write_parquet(workdir / "data" / "train.pqt",
                       pd.concat([train[train.user_id != user], rest])[train.columns].astype(train.dtypes))
    popularity.main(["--workdir", str(workdir), "--k", "5"])
    capsys.readouterr()
    metrics.main(["--workdir", str(workdir), "--subset-size", "5"])
    said = capsys.readouterr()
    assert "test pairs left out, because their 1 users have fewer than 4" in said.err and "SubsetAccuracy" in said.out
    (name, _), = runs.find_runs(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{name}_test.pqt").set_index("user_id")["SubsetAccuracy@5"]
    assert values.isna().sum() == 1 and pd.isna(values[user])


def saved(workdir, name, part="test"):
    """Means and intervals, and values by user, of a run's metrics."""
    path = workdir / "metrics" / f"{name}_{part}.csv"
    return pd.read_csv(path, index_col=0), pd.read_parquet(path.with_suffix(".pqt")).set_index("user_id")


def test_columns_join_the_metrics_of_every_run_and_chance_is_chance(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w", n_users=400, n_tracks=100)
    chance.main(["--workdir", str(workdir), "--k", "100"])
    popularity.main(["--workdir", str(workdir), "--k", "10"])
    names = [name for name, _ in runs.find_runs(workdir)]
    before = saved(workdir, names[0])[0]
    metrics.main(["--workdir", str(workdir), "--subset-size", "5"])
    said = capsys.readouterr()
    assert said.out.count("SubsetAccuracy") == 5 and said.err.count("beyond the lists' ends") == 2  # popularity's parts
    after, users = saved(workdir, names[0])
    pd.testing.assert_frame_equal(after.drop(columns="SubsetAccuracy@5")[before.columns], before)
    mean, conf = after["SubsetAccuracy@5"]
    assert abs(mean - 0.2) < 2 * conf < 0.1
    assert users["SubsetAccuracy@5"].mean() == pytest.approx(mean)


def test_a_later_call_keeps_what_it_does_not_compute_as_long_as_the_lists_are_the_same(tiny, capsys):
    """What another size, or other lengths, leave out stays; where it is of other lists it goes and is named."""
    chance.main(["--workdir", str(tiny), "--k", "30"])
    (name, _), = runs.find_runs(tiny)
    metrics.main(["--workdir", str(tiny), "--subset-size", "5"])
    means, users = saved(tiny, name)
    for words in ([], ["--subset-size", "3"], ["--k", "7"]):
        metrics.main(["--workdir", str(tiny), *words])
    later, of_users = saved(tiny, name)
    assert "7" in {c.split("@")[1] for c in later if c.startswith("Recall")} > {"7"}
    for column in means:
        assert later[column].equals(means[column]), column
    assert later["SubsetAccuracy@5"].equals(means["SubsetAccuracy@5"]) and "SubsetAccuracy@3" in later
    assert of_users["SubsetAccuracy@5"].equals(users["SubsetAccuracy@5"])
    metrics.main(["--workdir", str(tiny), "--subset-size", "5", "--seed", "7"])
    assert not saved(tiny, name)[1]["SubsetAccuracy@5"].equals(users["SubsetAccuracy@5"])
    path = tiny / "preds" / f"{name}_test.pqt"
    lists = pd.read_parquet(path)
    lists["rank"] = 29 - lists["rank"]
    write_parquet(path, lists.sort_values(["user_id", "rank"]))
    capsys.readouterr()
    metrics.main(["--workdir", str(tiny)])
    said = capsys.readouterr().err
    assert re.search(f"^{name}_test: SubsetAccuracy@., SubsetAccuracy@. of other lists dropped$", said, re.MULTILINE)
    assert not [c for c in saved(tiny, name)[0] if "Subset" in c or c.endswith("@7")]
    assert "SubsetAccuracy@5" in saved(tiny, name, "val")[0]


@pytest.mark.parametrize("flags, status, words", [
    (["--subset-size", "1"], 2, "at least 2"), (["--subset-size", "90"], 1, "use at most"),
    (["--subset-size", "5", "--seed", "-1"], 2, "--seed"), (["--seed", "1"], 2, "add --subset-size N"),
    (["--subset-size", "5", "--preds", "a.csv", "--truth", "b.csv"], 2, "it is for runs, not for --preds"),
    (["no_such_run", "--subset-size", "5"], 2, "no saved recommendations of a run 'no_such_run'")])
def test_impossible_requests_are_one_sentence(tiny, capsys, flags, status, words):
    chance.main(["--workdir", str(tiny), "--k", "5"])
    with pytest.raises(SystemExit) as e:
        cli.run(metrics.main, ["--workdir", str(tiny), *flags])
    assert e.value.code == status and words in capsys.readouterr().err.splitlines()[-1]


def test_metrics_that_are_gone_are_made_again(tiny):
    chance.main(["--workdir", str(tiny), "--k", "5"])
    (path,) = (tiny / "metrics").glob("*_val.csv")
    path.unlink()
    metrics.main(["--workdir", str(tiny), "--subset-size", "5"])
    assert "SubsetAccuracy@5" in pd.read_csv(path, index_col=0)


def test_runs_on_subsets_of_different_seeds_are_not_compared(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    for module in (chance, popularity):
        module.main(["--workdir", str(workdir), "--k", "20"])
    (one, _), (other, _) = runs.find_runs(workdir)
    asked = ["--workdir", str(workdir), "--metrics", "SubsetAccuracy@5", "--parts", "test"]
    for name, seed in ((one, "1"), (other, "2")):
        metrics.main([name, "--subset-size", "5", "--seed", seed, "--workdir", str(workdir)])
    metrics.main(["--workdir", str(workdir)])       # keeps the columns, and what they rest on
    with pytest.raises(WorkError, match=f"SubsetAccuracy@5 of {other} is of subsets drawn with seed 2, that of {one} "
                                        "with seed 1; .* python metrics.py --subset-size 5"):
        table.main(asked)
    table.main([*asked[:3], "NDCG@10", *asked[4:]])
    metrics.main([other, "--subset-size", "5", "--seed", "1", "--workdir", str(workdir)])
    table.main(asked)
