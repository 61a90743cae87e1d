"""Stage 2, second half: every protocol, by hand-made plays and by the published code's results.

    python -m pytest tests/preprocess/test_split.py
"""
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import dataset
from evaluation import provenance
from harness.errors import WorkError
from harness.files import write_json, write_parquet
from harness.readers import read_json
from preprocess import parts, protocols
from tests.conftest import ROOT
from tests.worlds.listening import (  # noqa: F401 - the fixture `split` among them
    ALL,
    HAND,
    crowd,
    files,
    manifest,
    pairs,
    part,
    rows_of,
    split_command,
    workspace,
)
from tests.worlds.world import write_embedding

# --------------------------------------------------------------------------- the published splits

@pytest.fixture(scope="module")
def golden(tmp_path_factory, request):
    """A workspace of the golden log."""
    folder = request.getfixturevalue("shared") / "golden"
    workdir = tmp_path_factory.mktemp("golden")
    subprocess.run([sys.executable, "preprocess/0_get_plays_pqt.py", "music4all", "--log", folder / "log.tsv",
                    "--tracks", folder / "trackid_sorted.csv", "--workdir", workdir], cwd=ROOT, check=True)
    return workdir, folder


@pytest.mark.parametrize("style", ["file", "module"])
def test_recsys24_equals_the_published_code(golden, style):
    workdir, folder = golden
    start = {"file": ["preprocess/1_train_test_split.py"], "module": ["-m", "preprocess.1_train_test_split"]}[style]
    subprocess.run([sys.executable, *start, "--overwrite"], cwd=ROOT, check=True,
                   env={**os.environ, "WORKDIR": str(workdir)})
    for name in ("train", "val", "test"):
        expected = pd.read_parquet(folder / f"recsys24_{name}.parquet").astype({"timestamp": "datetime64[us]"})
        pd.testing.assert_frame_equal(part(workdir, name), expected)


def test_hotcold_equals_the_published_code(golden, split):
    workdir, folder = golden
    assert split(workdir, "--protocol", "hotcold", "--test-date", "2020-02-20")[0] == 0
    for name in ALL:
        source = folder / f"hotcold_{'hot_test' if name == 'test' else name}.parquet"
        expected = pd.read_parquet(source).astype({"timestamp": "datetime64[us]"})
        pd.testing.assert_frame_equal(part(workdir, name), expected)
    assert split(workdir, "--protocol", "recsys24")[0] == 0
    assert not (workdir / "data" / "cold_test.pqt").exists()   # no part of the other protocol stays


def test_counts_are_those_of_the_published_stats(shared):
    folder = shared / "data" / "music4all"
    log = protocols.Log(folder / "val.pqt", ["user_id", "track_id"], 1 << 28, "unused")
    published = parts.read_stats(folder / "stats.csv")
    with log:
        ours = parts.stats(log, {"val": folder / "val.pqt", "cold_test": folder / "cold_test.pqt"})
    assert ours["Val"] == published["Val"] and ours["ColdTest"] == published["ColdTest"]
    parts.compare(ours, {name: published[name] for name in ours}, "stats.csv")


@pytest.mark.parametrize("share", [0.5, 0.3, 0.1, 0.25, 1 / 3, 0.9])
def test_users_are_shared_out_as_scikit_learn_does(share):
    from sklearn.model_selection import train_test_split
    for n in (*range(2, 40), 12697):
        for seed in (42, 7):
            users = list(range(100, 100 + n))
            if math.ceil(round(1 - share, 12) * n) == n:   # train_test_split refuses to leave the first part empty
                assert protocols.first_part(users, share, seed) == []
                continue
            first, _ = train_test_split(users, test_size=round(1 - share, 12), random_state=seed)
            assert protocols.first_part(users, share, seed) == first


def test_the_same_rows_as_plain_pandas(tmp_path, split):
    from bench import splits
    splits.make_log(tmp_path / "log", 60_000, 90, 900)
    for command in splits.ours(tmp_path / "log", tmp_path / "ours", "1GB"):
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    splits.by_pandas(tmp_path / "log", tmp_path / "pandas")
    splits.compare(tmp_path / "ours", tmp_path / "pandas")
    assert len(part(tmp_path / "ours", "test")) > 100


# --------------------------------------------------------------------------- by date, by hand

def test_recsys24_by_hand(tmp_path, split):
    workdir = workspace(tmp_path / "w", HAND)
    status, out, _ = split(workdir)
    assert status == 0
    assert rows_of(workdir, "train") == [
        (1, 0, "2019-02-20 00:00:00", 2), (1, 2, "2020-02-19 23:59:59", 1),
        (2, 1, "2019-03-01 00:00:00", 1), (4, 2, "2019-05-05 00:00:00", 1)]
    # test pairs: (1, 1) with its two plays since train began, (2, 0), (4, 0); user 3 and track 3 go
    users = [1, 2, 4]
    val = protocols.first_part(users, 0.5, 42)
    assert len(val) == 1 == math.floor(0.5 * 3)
    expected = {1: (1, 1, "2020-02-20 00:00:00", 2), 2: (2, 0, "2020-03-20 00:00:00", 1),
                4: (4, 0, "2020-03-02 00:00:00", 1)}
    for name, who in (("val", val), ("test", [u for u in users if u not in val])):
        assert rows_of(workdir, name) == [expected[u] for u in who]
    assert manifest(workdir)["dropped"] == {"users absent from train": 1, "tracks absent from train": 1}
    assert "left out: 1 pairs, users absent from train" in out
    loaded = dataset.load(workdir)
    assert loaded.n_hot == 3 and loaded.parts == ("val", "test")


def test_dates_are_flags(tmp_path, split):
    workdir = workspace(tmp_path / "w", HAND)
    assert split(workdir, "--train-start", "2019-03-01", "--test-date", "2020-02-21 00:00:00",
                 "--test-end", "2020-03-02 00:00:01", "--val-share", "0")[0] == 0
    assert pairs(workdir, "train") == [(1, 0), (1, 1), (1, 2), (2, 1), (4, 2)]
    assert part(workdir, "train")["count"].tolist() == [1, 1, 1, 1, 1]
    assert pairs(workdir, "test") == [(4, 0)] and not len(part(workdir, "val"))


def test_hotcold_by_hand(tmp_path, split):
    rows = [(u, t, "2018-06-01") for u in range(20) for t in (u % 3, 3)]
    rows += [(u, 4 + u % 2, "2019-02-10") for u in range(6)]             # 0..5 meet a new track: cold
    rows += [(u, (u + 1) % 3, "2019-02-11") for u in range(16)]          # 0..15 have hot pairs
    rows += [(99, 0, "2019-02-11"), (99, 4, "2019-02-11")]               # nobody in train
    rows += [(7, 5, "2019-03-01"), (8, 2, "2018-01-31"), (8, 1, "2018-02-01")]   # after, before, at the window's edge
    workdir = workspace(tmp_path / "w", rows)
    assert split(workdir, "--protocol", "hotcold")[0] == 0
    request = manifest(workdir)["request"]
    assert (request["train_start"], request["test_end"]) == ("2018-02-01 00:00:00", "2019-03-01 00:00:00")
    warm = list(range(6, 16))
    val = sorted(protocols.first_part(warm, 0.3, 42))
    assert len(val) == 3
    assert pairs(workdir, "cold_test") == [(u, 4 + u % 2) for u in range(6)]
    assert pairs(workdir, "val") == [(u, (u + 1) % 3) for u in val]
    assert pairs(workdir, "test") == [(u, (u + 1) % 3) for u in range(16) if u not in val]
    assert (8, 1) in pairs(workdir, "train") and len(part(workdir, "train")) == 41
    assert dataset.load(workdir).parts == ("val", "test", "cold_test")


def test_all_test_items_cold(tmp_path, split):
    rows = [(u, u % 4, "2019-06-01") for u in range(8)] + [(u, 5, "2020-03-01") for u in range(8)]
    workdir = workspace(tmp_path / "w", rows)
    status, _, err = split(workdir)
    assert status == 1 and "all 8 test pairs are of users or tracks absent from train; --protocol hotcold" in err
    assert not list((workdir / "data").glob("*.pqt"))
    status, out, _ = split(workdir, "--protocol", "hotcold", "--test-date", "2020-02-20")
    assert status == 0 and "warning: all test pairs are of cold tracks" in out
    assert [len(part(workdir, p)) for p in ALL] == [8, 0, 0, 8]
    assert dataset.load(workdir).parts == ("cold_test",)


@pytest.mark.parametrize("argv, sentence", [
    (["--test-date", "2031-01-01"], "no test pair from 2031-01-01 00:00:00 to its end: the log runs from 2019-02-19"),
    (["--train-start", "2001-01-01", "--test-date", "2002-01-01"], "no train pair from 2001-01-01"),
])
def test_windows_without_plays(tmp_path, split, argv, sentence):
    status, _, err = split(workspace(tmp_path / "w", HAND), *argv)
    assert status == 1 and sentence in err


# --------------------------------------------------------------------------- without dates

def test_random_shares_of_each_user(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    assert split(workdir, "--protocol", "random", "--val-share", ".1", "--test-share", ".2")[0] == 0
    whole = pd.concat([part(workdir, p).assign(part=p) for p in ALL[:3]])
    gone = manifest(workdir)["dropped"].get("tracks absent from train", 0)
    plays = pd.read_parquet(workdir / "plays.pqt").groupby(["user_id", "track_id"]).agg(
        timestamp=("timestamp", "min"), count=("timestamp", "size")).reset_index()
    assert len(whole) + gone == len(plays)
    merged = whole.merge(plays, on=["user_id", "track_id"], suffixes=("", "_made"))
    assert (merged["count"] == merged["count_made"]).all() and (merged["timestamp"] == merged["timestamp_made"]).all()
    n = plays.groupby("user_id").size()
    taken = {p: whole[whole["part"] == p].groupby("user_id").size().reindex(n.index, fill_value=0) for p in ALL[:3]}
    test, val = np.ceil(.2 * n - 1e-9), np.ceil(.1 * n - 1e-9)
    assert (taken["train"] == n - test - val).all()
    assert gone or (taken["test"] == test).all() and (taken["val"] == val).all()


def test_random_is_seeded_and_a_pair_is_not_moved_by_others(tmp_path, split):
    workdir, few = crowd(tmp_path / "w"), crowd(tmp_path / "few")
    split(workdir, "--protocol", "random")
    first = files(workdir / "data")
    split(workdir, "--protocol", "random", "--overwrite", "--memory", "512MB")
    assert {k: v for k, v in files(workdir / "data").items() if k.endswith("pqt")} == {
        k: v for k, v in first.items() if k.endswith("pqt")}
    test = pairs(workdir, "test")
    split(workdir, "--protocol", "random", "--seed", "1")
    assert 0 < len(set(test) & set(pairs(workdir, "test"))) < .4 * len(test)
    plays = pd.read_parquet(few / "plays.pqt")
    write_parquet(few / "plays.pqt", plays[plays["user_id"] > 40])
    split(few, "--protocol", "random")
    assert pairs(few, "test") == [p for p in test if p[0] > 40]


def test_random_leaves_everybody_a_train_pair(tmp_path, split):
    rows = [(u, t, None, 1) for u in range(1, 4) for t in range(u)] + [(9, t, None, 1) for t in range(3)]
    workdir = workspace(tmp_path / "w", rows, time="none")
    assert split(workdir, "--protocol", "random", "--val-share", ".4", "--test-share", ".4")[0] == 0
    assert part(workdir, "train").groupby("user_id").size().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("rows", [[(0, 0), (0, 0), (0, 1), (1, 1)], [(0, t) for t in range(12)]])
def test_counts_that_add_up_beyond_int64(tmp_path, split, rows):
    """Those of a pair, and those of a user's pairs."""
    workdir = workspace(tmp_path / "w", [(*row, None, 1) for row in rows], time="none")
    plays = pd.read_parquet(workdir / "plays.pqt")
    write_parquet(workdir / "plays.pqt", plays.assign(count=np.int64(1) << 62))
    status, _, err = split(workdir, "--protocol", "random")
    assert status == 1 and "the counts of plays add up to more than int64 holds" in err and err.count("\n") == 1


def test_aggregated_plays_have_counts_and_no_times(tmp_path, split):
    workdir = crowd(tmp_path / "w", timed=False)
    status, _, err = split(workdir, "--protocol", "recsys24")
    assert status == 2 and "the time of this data set is 'none'; use --protocol random or given" in err
    assert split(workdir, "--protocol", "leave-one-out")[0] == 2
    assert split(workdir, "--protocol", "random")[0] == 0
    plays = pd.read_parquet(workdir / "plays.pqt").set_index(["user_id", "track_id"])["count"]
    whole = pd.concat([part(workdir, p) for p in ALL[:3]])
    assert whole["timestamp"].isna().all()
    assert (plays.loc[list(whole[["user_id", "track_id"]].itertuples(index=False))].values == whole["count"]).all()
    loaded = dataset.load(workdir)
    assert loaded.time == "none" and loaded.train.time is None


def test_leave_one_out_with_ordinal_times(tmp_path, split):
    order = [(1, 5), (2, 0), (1, 3), (1, 5), (3, 3), (2, 3), (1, 0), (1, 1), (3, 0), (2, 5), (3, 1)]
    rows = [(u, t, pd.Timestamp(i, unit="s")) for i, (u, t) in enumerate(order)]
    workdir = workspace(tmp_path / "w", rows, time="ordinal")
    status, _, err = split(workdir, "--protocol", "recsys24")
    assert status == 2 and "is 'ordinal'; use --protocol random, leave-one-out or given" in err
    assert split(workdir, "--protocol", "leave-one-out", "--unseen", "drop")[0] == 0
    # user 1: 5 3 0 1 -> test 1, val 0; user 2: 0 3 5 -> test 5, val 3; user 3: 3 0 1 -> test 1, val 0.
    # train: (1, 5) (1, 3) (2, 0) (3, 3); track 1 is in no train, so both its test pairs go
    assert pairs(workdir, "train") == [(1, 3), (1, 5), (2, 0), (3, 3)]
    assert part(workdir, "train")["count"].tolist() == [1, 2, 1, 1]
    assert pairs(workdir, "val") == [(1, 0), (2, 3), (3, 0)] and pairs(workdir, "test") == [(2, 5)]
    assert manifest(workdir)["dropped"] == {"tracks absent from train": 2}
    assert dataset.load(workdir).time == "ordinal"
    status, out, _ = split(workdir, "--protocol", "leave-one-out")       # as published: they stay
    assert status == 0 and "unseen: 2 of 6 held-out pairs are of tracks absent from train" in out
    assert pairs(workdir, "test") == [(1, 1), (2, 5), (3, 1)] and manifest(workdir)["unseen"] == 2
    assert manifest(workdir)["items_ranked"] == 4
    assert read_json(workdir / "data" / "rules.json") == {"history": {"test": ["train", "val"]}, "unseen": "keep"}
    said = provenance.head(workdir, "test", [], 3)
    assert said["split"] == "leave-one-out (val belongs to the history)" and said["items"] == 4
    assert provenance.head(workdir, "val", [], 3)["split"] == "leave-one-out"
    kept = dataset.load(workdir)
    assert kept.tracks.tolist() == [0, 1, 3, 5] and kept.n_hot == 4
    assert kept.unseen.tolist() == [False, True, False, False]
    indptr, items = kept.sequences(part="test")
    assert kept.tracks[items].tolist() == [5, 3, 0, 0, 3, 3, 0] and indptr.tolist() == [0, 3, 5, 7]
    assert kept.tracks[kept.sequences()[1]].tolist() == [5, 3, 0, 3]
    assert kept.history("test").toarray().tolist() == [[1, 0, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert kept.history("test", "count")[0].toarray().tolist() == [[1, 0, 1, 2]]
    assert (kept.history("val") != kept.matrix()).nnz == 0
    assert split(workdir, "--protocol", "random")[0] == 0 and not (workdir / "data" / "rules.json").exists()
    assert dataset.load(workdir).history_parts("test") == ("train",)


def test_equal_times_are_broken_for_each_user_otherwise(tmp_path, split):
    """Plays with dates only: which of a day's tracks is held out has nothing to do with their ids."""
    rows = [(u, t, "2020-01-01") for u in range(400) for t in range(5)]
    workdir = workspace(tmp_path / "w", rows)
    status, out, _ = split(workdir, "--protocol", "leave-one-out")
    assert status == 0 and "equal times: 800 of 800 held-out pairs share their time" in out
    assert "equal times: 1200 train pairs share theirs" in out
    assert manifest(workdir)["ties"] == {"held out": 800, "train": 1200}
    first = part(workdir, "test")["track_id"].to_numpy()
    assert np.bincount(first, minlength=5).min() > 45       # 80 expected, sd 8: four and a half of them
    loaded = dataset.load(workdir)
    places = loaded.tracks[loaded.sequences()[1]].reshape(400, 3)
    assert (np.diff(places) > 0).all(axis=1).mean() < .3    # in ascending order by chance: a sixth, sd .02
    assert split(workdir, "--protocol", "leave-one-out", "--seed", "7")[0] == 0
    assert (part(workdir, "test")["track_id"].to_numpy() != first).mean() > .5


@pytest.mark.parametrize("days, held", [((1, 2, 3, 3), 2), ((1, 2, 2, 3), 1), ((1, 2, 2, 2), 2), ((1, 1, 2, 3), 0)])
def test_held_out_pairs_whose_place_rests_on_a_tie_are_counted(tmp_path, split, days, held):
    """Days of a user's four tracks: val and test share one; val shares it with train; all three; train's alone."""
    workdir = workspace(tmp_path / "w", [(1, t, f"2020-01-0{day}") for t, day in enumerate(days)])
    assert split(workdir, "--protocol", "leave-one-out")[0] == 0
    assert manifest(workdir)["ties"]["held out"] == held


def test_times_without_ties_are_not_moved_by_the_seed(tmp_path, split):
    rows = [(u, (u + t) % 9, f"2020-01-0{1 + t}") for u in range(9) for t in range(5)]
    workdir, found = workspace(tmp_path / "w", rows), []
    for seed in ("1", "2"):
        status, out, _ = split(workdir, "--protocol", "leave-one-out", "--seed", seed)
        assert status == 0 and "equal times" not in out
        found.append([pairs(workdir, p) for p in ALL[:3]])
    assert found[0] == found[1]


# --------------------------------------------------------------------------- a published split

GIVEN = [(1, 0, "train"), (1, 1, "val"), (2, 1, "train"), (2, 0, "test"), (1, 2, "test"), (3, 0, "val")]


def given_workspace(folder, rows=GIVEN, suffix="pqt"):
    plays = [(u, t, None, 2 + u) for u, t, _ in GIVEN] + [(1, 3, None, 1)]
    workdir = workspace(folder, plays, n_tracks=5, time="none")
    frame = pd.DataFrame(rows, columns=["user_id", "track_id", "part"])
    if suffix == "pqt":
        write_parquet(workdir / "split.pqt", frame)
    else:
        frame.to_csv(workdir / "published.csv", index=False)
    return workdir


@pytest.mark.parametrize("suffix", ["pqt", "csv"])
def test_given_split(tmp_path, split, suffix):
    workdir = given_workspace(tmp_path / "w", suffix=suffix)
    flag = [] if suffix == "pqt" else ["--split", workdir / "published.csv"]
    status, out, _ = split(workdir, "--protocol", "given", *flag)
    assert status == 0
    assert [pairs(workdir, p) for p in ALL[:3]] == [[(1, 0), (2, 1)], [(1, 1)], [(2, 0)]]
    assert part(workdir, "test")["count"].tolist() == [4]
    # the val user 3 and the test track 2 are absent from train; (1, 3) was played, but is in no part
    assert manifest(workdir)["dropped"] == {"not in the given split": 1, "users absent from train": 1,
                                            "tracks absent from train": 1}
    assert "left out: 1 pairs, users absent from train" in out
    assert not (workdir / "data" / "cold_test.pqt").exists()


def test_given_split_with_a_cold_part(tmp_path, split):
    workdir = given_workspace(tmp_path / "w", [*GIVEN[:4], (1, 2, "cold_test")])
    assert split(workdir, "--protocol", "given")[0] == 0
    assert pairs(workdir, "cold_test") == [(1, 2)]
    assert list(manifest(workdir)["stats"]) == ["Train", "Val", "HotTest", "ColdTest"]
    workdir = given_workspace(tmp_path / "w", [*GIVEN[:4], (3, 0, "train"), (1, 2, "train"), (1, 3, "cold_test")])
    assert split(workdir, "--protocol", "given")[0] == 0


@pytest.mark.parametrize("rows, sentence", [
    ([*GIVEN, (1, 0, "test")], "contains 1 duplicate (user_id, track_id) pairs"),
    ([*GIVEN, (1, 3, "holdout")], "part must be one of train, val, test, cold_test, cold_val, not 'holdout'"),
    ([*GIVEN, (1, 4, "train")], "1 of its pairs have no play in plays.pqt"),
    ([(2, 0, "cold_test"), (1, 0, "train"), (2, 1, "train")], "leak: 1 cold pairs are of tracks of train"),
])
def test_bad_given_splits(tmp_path, split, rows, sentence):
    workdir = given_workspace(tmp_path / "w", rows)
    status, _, err = split(workdir, "--protocol", "given")
    assert status == 1 and sentence in err
    assert not list((workdir / "data").glob("*.pqt"))


def test_given_needs_a_split_of_the_right_form(tmp_path, split):
    workdir = given_workspace(tmp_path / "w")
    (workdir / "wrong.csv").write_text("user,item\n1,2\n")
    status, _, err = split(workdir, "--protocol", "given", "--split", workdir / "wrong.csv")
    assert status == 1 and "has no column user_id or track_id or part; it has user, item" in err
    (workdir / "split.pqt").unlink()
    status, _, err = split(workdir, "--protocol", "given")
    assert status == 2 and "no published split at" in err


@pytest.mark.parametrize("text, sentence", [
    ("user_id,track_id,part\n1,0,train\n007,1,train\n", "user_id holds '007', which is no whole number"),
    ("user_id,track_id,part\n1,0,train\nx,1,train\n", "user_id holds 'x', which is no whole number"),
    ("user_id,track_id,part,count\n1,0,train,1.5\n", "count holds '1.5', which is no whole number"),
    ("user_id,track_id,part\n1,0,train\n2,1,train,x\n", "CSV Error on Line: 3"),
    ("user_id,track_id,part\n1,0,train\n2,1\n", "CSV Error on Line: 3"),
    ('user_id,track_id,part\n1,0,"train\n2,1,train\n', "line 2: the quoted cell that begins there never ends"),
    ('user_id,track_id,part\n1,0,"train\n2,1,train"\n', "line 2: the row has a quoted cell over 2 lines"),
])
def test_malformed_rows_of_a_given_split_are_named(tmp_path, split, text, sentence):
    workdir = given_workspace(tmp_path / "w")
    (workdir / "published.csv").write_text(text)
    status, _, err = split(workdir, "--protocol", "given", "--split", workdir / "published.csv")
    assert status == 1 and sentence in err and err.count("\n") == 1 and not list((workdir / "data").glob("*.pqt"))


def test_a_given_split_may_have_any_delimiter_and_quotes(tmp_path, split):
    workdir = given_workspace(tmp_path / "w")
    assert split(workdir, "--protocol", "given")[0] == 0
    before = [pairs(workdir, p) for p in ALL[:3]]
    for delimiter in ("\t", ";"):
        text = "user_id,track_id,part,note\n" + "".join(f'{u}, {t},"{p}","a, ""b"""\n' for u, t, p in GIVEN)
        text = text.replace(",", delimiter).replace(f"a{delimiter} ", "a, ")
        (workdir / "published.csv").write_text(text)
        assert split(workdir, "--protocol", "given", "--split", workdir / "published.csv")[0] == 0
        assert [pairs(workdir, p) for p in ALL[:3]] == before


@pytest.mark.parametrize("column, values, kind, sentence", [
    ("user_id", [2**63 + 5, 2**63 + 6], "uint64", "user_id holds 9223372036854775813, which is no"),
    ("track_id", [2**63 + 5, 0], "uint64", "track_id holds 9223372036854775813"),
    ("count", [1.5, 2.0], "float64", "count holds 1.5, which is no whole number"),
    ("user_id", ["a", "b"], "object", "must have an integer column user_id"),
])
@pytest.mark.parametrize("protocol", ["leave-one-out", "random", "recsys24"])
def test_plays_that_do_not_fit_are_one_sentence(tmp_path, split, column, values, kind, sentence, protocol):
    workdir = workspace(tmp_path / "w", [(1, 0, "2019-03-01"), (2, 1, "2019-03-02")])
    frame = pd.read_parquet(workdir / "plays.pqt")
    frame[column] = pd.Series(values).astype(kind)
    frame.to_parquet(workdir / "plays.pqt")
    status, _, err = split(workdir, "--protocol", protocol)
    assert status == 1 and sentence in err and err.count("\n") == 1
    assert not list((workdir / "data").glob("*.pqt"))


def test_small_unsigned_users_are_users(tmp_path, split):
    workdir = workspace(tmp_path / "w", [(u, t, f"2019-03-0{1 + t}") for u in (1, 2, 3) for t in range(4)])
    assert split(workdir, "--protocol", "leave-one-out")[0] == 0
    before = [pairs(workdir, p) for p in ALL[:3]]
    pd.read_parquet(workdir / "plays.pqt").astype({"user_id": "uint64"}).to_parquet(workdir / "plays.pqt")
    assert split(workdir, "--protocol", "leave-one-out")[0] == 0
    assert [pairs(workdir, p) for p in ALL[:3]] == before


# --------------------------------------------------------------------------- restricting

def test_tracks_with_restricts_before_splitting(tmp_path, split):
    workdir = workspace(tmp_path / "w", HAND)
    audio, text = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    audio[1, 2], text[3] = np.nan, np.inf
    write_embedding(workdir, "audio", audio)
    write_embedding(workdir, "text", text)
    status, out, _ = split(workdir, "--tracks-with", "text", "audio", "--val-share", "0")
    # tracks 0 and 2 are left: user 2, who had played track 1 only, is nobody in train any more
    assert status == 0 and "2 of 4 tracks have a row in text, audio" in out.splitlines()[0]
    assert pairs(workdir, "train") == [(1, 0), (1, 2), (4, 2)] and pairs(workdir, "test") == [(4, 0)]
    assert manifest(workdir)["dropped"] == {"users absent from train": 2}


def test_tracks_with_by_name_and_content(tmp_path, split):
    workdir = crowd(tmp_path / "w")
    matrix = np.ones((50, 3), np.float32)
    matrix[::2] = np.nan
    write_embedding(workdir, "half", matrix)
    split(workdir)
    before = files(workdir / "data")
    status, _, err = split(workdir, "--tracks-with", "nobody")
    assert status == 2 and "no embedding 'nobody'" in err
    assert files(workdir / "data") == before
    assert "done again, because embedding half, tracks_with changed" in split(workdir, "--tracks-with", "half")[1]
    for name in ALL[:3]:
        assert (part(workdir, name)["track_id"] % 2 == 1).all() and len(part(workdir, name))
    assert "skipped" in split(workdir, "--tracks-with", "half", "half")[1]
    matrix[1] = np.nan
    write_embedding(workdir, "half", matrix)
    assert "embedding half changed" in split(workdir, "--tracks-with", "half")[1]
    assert not (part(workdir, "train")["track_id"] == 1).any()
    write_embedding(workdir, "none", np.full((50, 3), np.nan, np.float32))
    assert "no track has a finite row in each of none" in split(workdir, "--tracks-with", "none")[2]
    write_embedding(workdir, "short", np.ones((7, 3), np.float32))
    assert "has 7 rows, but trackid_sorted.csv has 50" in split(workdir, "--tracks-with", "short")[2]


@pytest.mark.parametrize("protocol", ["recsys24", "hotcold", "random"])
def test_train_share_is_seeded_and_nested(tmp_path, split, protocol):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=400, n=6000)
    flags = ["--protocol", protocol] + ["--test-date", "2020-02-20"] * (protocol == "hotcold")
    split(workdir, *flags)
    whole, test = part(workdir, "train"), set(pairs(workdir, "test"))
    cold = pairs(workdir, "cold_test") if protocol == "hotcold" else None
    n = whole.groupby("user_id").size()
    larger = set(pairs(workdir, "train"))
    for share in (.5, .1, .001):
        assert split(workdir, *flags, "--train-share", share)[0] == 0
        train = part(workdir, "train")
        assert train.groupby("user_id").size().equals(np.maximum(1, np.floor(share * n + .5)).astype(n.dtype))
        smaller = set(pairs(workdir, "train"))
        assert smaller < larger and train.merge(whole).shape == train.shape
        out = set(pairs(workdir, "hidden"))
        assert out | smaller == set(zip(whole.user_id, whole.track_id, strict=True)) and not out & smaller
        assert (dataset.load(workdir).seen("val").sum(axis=1) > 0).all()
        hidden = workdir / "data" / "hidden.pqt"
        hidden.rename(workdir / "aside")
        with pytest.raises(WorkError, match="hidden.pqt, what that took out of train, is missing"):
            dataset.load(workdir)
        (workdir / "aside").rename(hidden)
        assert set(pairs(workdir, "test")) == {p for p in test if p[1] in set(train["track_id"])}
        if cold is not None:
            assert pairs(workdir, "cold_test") == cold
        larger = smaller
    assert split(workdir, *flags)[0] == 0 and not (workdir / "data" / "hidden.pqt").exists()


def other_log(folder):
    """Plays of another data set than Music4All: ten days, one play an hour."""
    times, rng = pd.date_range("2012-01-01", periods=237, freq="h"), np.random.default_rng(1)
    rows = [(u, int(rng.integers(40)), str(times[h])) for u in range(6) for h in range(0, 237, 4)]
    folder = workspace(folder, rows)
    write_json(folder / "dataset.json", {"name": "own data", "time": "real"})
    return folder


@pytest.mark.parametrize("protocol", ["recsys24", "hotcold"])
def test_the_dates_of_music4all_are_not_taken_for_another_log(tmp_path, split, protocol):
    folder = other_log(tmp_path / "w")
    status, _, err = split(folder, "--protocol", protocol)
    assert status == 2 and "are those of Music4All, and these plays run from 2012-01-01 00:00:00 to 2012-01-10" in err
    assert "--test-share-time .1" in err and not (folder / "data").exists()


def test_the_last_share_of_the_time_span_is_one_global_date(tmp_path, split):
    folder = other_log(tmp_path / "w")
    status, out, err = split(folder, "--protocol", "recsys24", "--test-share-time", ".25", "--val-share", "0")
    first, last = pd.Timestamp("2012-01-01 00:00"), pd.Timestamp("2012-01-10 20:00")
    date = last - .25 * (last - first)
    assert status == 0, err
    assert f"test begins on {date}: the last 0.25 of {first} to {last}" in out
    assert part(folder, "train").timestamp.max() < date and part(folder, "test").timestamp.min() >= date
    assert manifest(folder)["request"]["test_date"] == str(date)


@pytest.mark.parametrize("flags, sentence", [
    (("--protocol", "random", "--test-share-time", ".1"), "--test-share-time does not apply to --protocol random"),
    (("--test-share-time", ".1", "--test-date", "2012-01-05"), "takes the dates from the log; leave out --test-date"),
    (("--test-share-time", "1"), "must be a number above 0 and below 1, not 1")])
def test_a_share_of_time_that_cannot_be_used_is_one_sentence(tmp_path, split, flags, sentence):
    status, _, err = split(other_log(tmp_path / "w"), *flags)
    assert status == 2 and sentence in err
