"""The accuracy of a test song among sampled others, for any recommender's lists."""
import pandas as pd
import pytest

import dataset
import metrics
from evaluation import subset_accuracy as dtnmr_subsets
from harness import cli, runs
from harness.errors import WorkError
from harness.files import write_parquet
from recommenders import chance, popularity
from tests.worlds.world import tiny_workspace


def lists_of(split, part, order):
    """Whole lists of everybody in a part: each user's candidates in the order of order(user, tracks)."""
    tracks = split.tracks[split.candidates(part)]
    rows = [(split.users[u], t, i) for u in split.eval_users(part)
            for i, t in enumerate(sorted(tracks, key=lambda t, u=u: order(split.users[u], t)))]
    return pd.DataFrame(rows, columns=["user_id", "track_id", "rank"])


@pytest.fixture
def split(tmp_path):
    return dataset.load(tiny_workspace(tmp_path / "w"))


@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
def test_the_truth_wins_always_and_its_reverse_never(split, part):
    subsets = dtnmr_subsets.subsets(split, part, 4, 0)
    true = {*split.truth(part).itertuples(index=False, name=None)}
    for sign, value in ((-1, 1), (1, 0)):
        lists = lists_of(split, part, lambda u, t, sign=sign: (sign * ((u, t) in true), t))
        values, lost = dtnmr_subsets.accuracy(lists, split, part, *subsets)
        assert (values == value).all() and lost == 0 and values.index.tolist() == split.users[
            split.eval_users(part)].tolist()


def test_subsets_hold_no_song_that_the_user_knows(split):
    pairs = split.part("test")
    rows, songs = dtnmr_subsets.subsets(split, "test", 6, 1)
    assert rows.tolist() == list(range(len(pairs))) and (songs[:, 0] == pairs.item).all() and songs.max() < split.n_hot
    known = {(u, i) for p in (split.train, *split.others.values()) for u, i in zip(p.user, p.item, strict=True)}
    assert not known & {(u, i) for u, row in zip(pairs.user, songs[:, 1:], strict=True) for i in row}
    assert all(len(set(row)) == 6 for row in songs.tolist())


def test_beyond_the_end_of_a_list_songs_tie(split):
    """Lists of one song, the first of the truth: its subset is won, the user's others are shared by four."""
    first = split.truth("test").drop_duplicates("user_id").assign(rank=0)
    values, lost = dtnmr_subsets.accuracy(first, split, "test", *dtnmr_subsets.subsets(split, "test", 4, 0))
    n = split.truth("test").groupby("user_id").size()
    assert values.to_dict() == pytest.approx(((1 + (n - 1) / 4) / n).to_dict())
    assert lost == pytest.approx(1 - len(n) / n.sum()) and lost > 0


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
    dtnmr_subsets.main(["--workdir", str(workdir)])
    told = capsys.readouterr()
    assert "test pairs left out, because their 1 users have fewer than 4" in told.err and "SubsetAccuracy" in told.out
    (name, _), = runs.find_runs(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{name}_test.pqt").set_index("user_id")["SubsetAccuracy@5"]
    assert values.isna().sum() == 1 and pd.isna(values[user])


def test_columns_join_the_metrics_of_every_run_and_chance_is_chance(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w", n_users=400, n_tracks=100)
    chance.main(["--workdir", str(workdir), "--k", "100"])
    popularity.main(["--workdir", str(workdir), "--k", "10"])
    names = [name for name, _ in runs.find_runs(workdir)]
    before = pd.read_csv(workdir / "metrics" / f"{names[0]}_test.csv", index_col=0)
    dtnmr_subsets.main(["--workdir", str(workdir)])
    out = capsys.readouterr().out
    assert out.count("SubsetAccuracy@5") == 5 and out.count("beyond the lists' ends") == 2    # popularity's two parts
    after = pd.read_csv(workdir / "metrics" / f"{names[0]}_test.csv", index_col=0)
    pd.testing.assert_frame_equal(after.drop(columns="SubsetAccuracy@5")[before.columns], before)
    mean, conf = after["SubsetAccuracy@5"]
    assert abs(mean - 0.2) < 2 * conf < 0.1
    users = pd.read_parquet(workdir / "metrics" / f"{names[0]}_test.pqt")
    assert users["SubsetAccuracy@5"].mean() == pytest.approx(mean)
    dtnmr_subsets.main(["--workdir", str(workdir), names[0], "--subset-size", "3"])
    metrics.main(["--workdir", str(workdir), names[1]])
    assert "SubsetAccuracy@3" in pd.read_csv(workdir / "metrics" / f"{names[0]}_test.csv").columns


@pytest.mark.parametrize("flags, status, words", [
    (["--subset-size", "1"], 2, "at least 2"), (["--subset-size", "90"], 1, "use at most"),
    (["--seed", "-1"], 2, "--seed"), (["no_such_run"], 2, "no saved recommendations of a run 'no_such_run'")])
def test_requests_that_cannot_be_meant_are_one_sentence(tiny, capsys, flags, status, words):
    chance.main(["--workdir", str(tiny), "--k", "5"])
    with pytest.raises(SystemExit) as e:
        cli.run(dtnmr_subsets.main, ["--workdir", str(tiny), *flags])
    assert e.value.code == status and words in capsys.readouterr().err.splitlines()[-1]


def test_metrics_that_are_gone_are_named(tiny):
    chance.main(["--workdir", str(tiny), "--k", "5"])
    (path,) = (tiny / "metrics").glob("*_val.csv")
    path.unlink()
    with pytest.raises(WorkError, match="_val.csv or its .pqt is gone; python metrics.py"):
        dtnmr_subsets.main(["--workdir", str(tiny)])
