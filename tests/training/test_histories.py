"""Histories play by play: --order plays, compared with plain pandas; models of sequences run on them."""
import importlib

import numpy as np
import pandas as pd
import pytest

import dataset
import train_bert
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json
from ranking import decay, plays
from tests.worlds.world import write_tracks
from training import histories

sasrec_script = importlib.import_module("recommenders.sasrec.__main__")
split_stage = importlib.import_module("preprocess.1_train_test_split")
PLAYS = 2400


def log_of(seed=0):
    """Plays of 12 users and 30 tracks, some at the same second: user_id, track_id, timestamp."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.integers(0, 40 * 86_400, PLAYS)) + 1_600_000_000
    return pd.DataFrame({"user_id": rng.integers(0, 12, PLAYS), "track_id": rng.integers(0, 30, PLAYS) ** 2 // 30,
                         "timestamp": pd.to_datetime(seconds, unit="s").astype("datetime64[us]")})


def made(workdir, *protocol, log=None):
    workdir.mkdir(parents=True)
    write_tracks(workdir, 30)
    (log_of() if log is None else log).to_parquet(workdir / "plays.pqt")
    write_json(workdir / "dataset.json", {"name": "made", "status": "finished", "time": "real"})
    split_stage.main(["--protocol", *protocol, "--workdir", str(workdir)])
    return workdir


def expected(split, log, until, latest=None):
    """{user code: item codes} of the plays of train's pairs for which `until(frame)` holds, oldest first."""
    code = pd.Series(np.arange(split.n_items), index=split.tracks)
    frame = log[log.track_id.isin(split.tracks) & log.user_id.isin(split.users)].copy()
    frame["user"] = np.searchsorted(split.users, frame.user_id)
    frame["item"] = code[frame.track_id].to_numpy()
    known = set(zip(split.train.user, split.train.item, strict=True))
    frame = frame[[pair in known for pair in zip(frame.user, frame.item, strict=True)]]
    frame = frame[until(frame)]
    return {user: own.sort_values("timestamp", kind="stable")["item"].to_numpy()[-(latest or PLAYS):]
            for user, own in frame.groupby("user")}


def check(found, wanted, log):
    indptr, items = found
    for user, own in wanted.items():
        mine = items[indptr[user]:indptr[user + 1]]
        assert len(mine) == len(own)
        if not log.duplicated(["user_id", "timestamp"], keep=False).any():
            assert list(mine) == list(own)
    assert len(items) == sum(map(len, wanted.values())) and items.dtype == np.int64


@pytest.mark.parametrize("latest", [None, 7])
def test_every_play_before_the_test_date_with_its_repeats(tmp_path, latest):
    log = log_of().drop_duplicates(["user_id", "timestamp"])
    split = dataset.load(made(tmp_path / "w", "recsys24", "--test-share-time", ".2", log=log))
    date = np.datetime64(plays.end_of(split), "us")
    found = histories.of(split, "plays", latest=latest)
    check(found, expected(split, log, lambda frame: frame.timestamp < date, latest), log)
    once = split.sequences("time")
    assert latest or len(found[1]) > len(once[1]) == len(split.train)      # repeats
    assert all(np.array_equal(a, b) for a, b in zip(histories.of(split, "time"), once, strict=True))


def test_plays_before_the_train_period_are_not_in_the_history(tmp_path):
    """Of a split by dates, so that the plays of a pair are as many as train counts."""
    log = log_of()
    start, date = (str(log.timestamp.sort_values().iloc[n]) for n in (PLAYS // 2, PLAYS * 9 // 10))
    workdir = made(tmp_path / "w", "recsys24", "--train-start", start, "--test-date", date, log=log)
    split = dataset.load(workdir)
    check(histories.of(split, "plays"), expected(
        split, log, lambda f: (f.timestamp >= start) & (f.timestamp < date)), log)
    assert len(histories.of(split, "plays")[1]) == split.train.count.sum()
    assert np.allclose(decay.weights(split, 1e15).toarray(), split.matrix("count").toarray())


def test_plays_after_the_held_out_track_are_not_in_the_history(tmp_path):
    log = log_of().drop_duplicates(["user_id", "timestamp"])
    split = dataset.load(made(tmp_path / "w", "leave-one-out", log=log))
    held = pd.Series(split.part("val").time, index=split.part("val").user)
    before = expected(split, log, lambda frame: (
        frame.timestamp.astype("int64") <= frame.user.map(held).fillna(np.inf)))
    check(histories.of(split, "plays"), before, log)
    assert len(histories.of(split, "plays", "test")[1]) > len(histories.of(split, "plays")[1])


@pytest.mark.parametrize("latest", [None, 7])
def test_a_row_of_several_plays_counts_as_so_many(tmp_path, latest):
    """In the history and in the decayed weights: as where each of them has a row of its own."""
    log = log_of().drop_duplicates(["user_id", "timestamp"])
    log = log.assign(count=np.random.default_rng(1).integers(1, 4, len(log)))
    each = log.loc[log.index.repeat(log["count"])].drop(columns="count")
    ours, theirs = (dataset.load(made(tmp_path / name, "random", log=rows)) for name, rows in (("a", log), ("b", each)))
    for found, wanted in zip(*(histories.of(split, "plays", latest=latest) for split in (ours, theirs)), strict=True):
        assert np.array_equal(found, wanted)
    for by_user in (False, True):
        assert np.allclose(*(decay.weights(split, 50, by_user=by_user).toarray() for split in (ours, theirs)))


@pytest.mark.parametrize("counted", [False, True])
def test_of_a_given_split_a_pair_has_the_plays_of_its_part(tmp_path, counted):
    """The plays of a pair of train in the weeks of test are the future, which its count leaves out."""
    log = log_of()
    date = log.timestamp.sort_values().iloc[PLAYS // 2]
    dated = dataset.load(made(tmp_path / "dated", "recsys24", "--test-date", str(date), "--train-start", "2020-01-01",
                              log=log))
    parts = [pd.read_parquet(path).assign(part=path.stem) for path in (tmp_path / "dated" / "data").glob("*.pqt")]
    pd.concat(parts).to_parquet(tmp_path / "split.pqt")
    if counted:
        log = log.groupby(["user_id", "track_id", "timestamp"]).size().reset_index(name="count")
    split = dataset.load(made(tmp_path / "w", "given", "--split", str(tmp_path / "split.pqt"), log=log))
    assert np.allclose(decay.weights(split, 50).toarray(), decay.weights(dated, 50).toarray())
    assert all(np.array_equal(a, b) for a, b in zip(histories.of(split, "plays"), histories.of(dated, "plays"),
                                                    strict=True))


def test_equal_times_are_broken_for_each_user_otherwise(tmp_path):
    log = pd.DataFrame({"user_id": np.repeat(np.arange(30), 8), "track_id": np.tile(np.arange(8), 30)})
    log["timestamp"] = pd.Timestamp("2020-01-01").as_unit("us")
    split = dataset.load(made(tmp_path / "w", "random", "--val-share", "0", "--test-share", ".2", log=log))
    indptr, items = histories.of(split, "plays")
    first = [tuple(items[a:b]) for a, b in zip(indptr, indptr[1:], strict=False)]
    assert len(set(first)) > 15 and all(np.array_equal(x, y) for x, y in zip(
        (indptr, items), split.sequences("time"), strict=True))        # the tie-break of the pairs
    assert [tuple(own[-3:]) for own in first] == [
        tuple(own) for own in np.split(histories.of(split, "plays", latest=3)[1], 30)]


def test_models_of_sequences_read_them_and_are_runs_of_their_own(tmp_path):
    workdir = made(tmp_path / "w", "recsys24", "--test-share-time", ".2")
    for order in ("plays", "time"):
        flags = ["--workdir", str(workdir), "--order", order, "--epochs", "1", "--max-seq-len", "12", "--k", "5"]
        sasrec_script.main([*flags, "--hidden-dim", "8", "--heads", "2"])
        train_bert.main(["--model", "random", *flags, "--hidden-dim", "8"])
    found = [config for _, config in runs.find_runs(workdir)]
    assert len(found) == 4 and {config["order"] for config in found} == {"plays", "time"}
    for config in found:
        assert ("plays.pqt" in str(config["inputs"])) == (config["order"] == "plays")


def test_without_times_or_plays_it_is_one_sentence(tmp_path):
    workdir = made(tmp_path / "w", "random")
    split = dataset.load(workdir)
    (workdir / "plays.pqt").rename(workdir / "away.pqt")
    with pytest.raises(UsageError, match="plays.pqt is missing, and --order plays reads every play"):
        histories.inputs(split, "plays")
    with pytest.raises(WorkError, match="cannot be read as plays with times"):
        histories.of(split, "plays")
    split.time = "none"
    with pytest.raises(UsageError, match="--order plays requires timestamps"):
        histories.inputs(split, "plays")
    other = log_of().assign(user_id=99)
    other.to_parquet(workdir / "plays.pqt")
    with pytest.raises(WorkError, match="no play of the pairs of train"):
        histories.of(split, "plays")
    assert histories.inputs(split, "count") == []


def test_decayed_weights_are_the_same_in_every_run(tmp_path):
    """Threads meet the plays in another order each time, and a sum of floats depends on it."""
    rng, plays_of_all = np.random.default_rng(0), 400_000      # in several row groups, which threads divide
    user, track = (rng.integers(n, size=plays_of_all) for n in (20, 10))
    log = pd.DataFrame({"user_id": user, "track_id": track})
    seconds = 1_500_000_000 + rng.integers(10_000_000, size=plays_of_all)
    log["timestamp"] = pd.to_datetime(seconds, unit="s").as_unit("us")
    split = dataset.load(made(tmp_path / "w", "random", "--val-share", "0", "--test-share", ".2", log=log))
    for by_user in (False, True):
        first, *others = (decay.weights(split, 12, by_user=by_user) for _ in range(4))
        assert all(np.array_equal(getattr(first, name), getattr(other, name))
                   for other in others for name in ("indptr", "indices", "data"))
    pairs = log[log.user_id == 3].assign(age=lambda f: (f.timestamp.max() - f.timestamp).dt.total_seconds() / 43_200)
    pairs = pairs[pairs.track_id.isin(split.tracks[split.history("val")[3].indices])]
    wanted = (0.9 ** (pairs.age - pairs.age.min())).groupby(pairs.track_id).sum()
    assert np.allclose(first[3].data, wanted, rtol=1e-12)
