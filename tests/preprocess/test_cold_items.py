"""The protocol cold-items, recordings with several ids and the k-core: properties of random logs, and bad input.

    python -m pytest tests/preprocess/test_cold_items.py
"""
import contextlib
import io
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dataset
import knn
from evaluation import provenance
from harness import cli
from harness.errors import WorkError
from harness.files import write_parquet
from harness.readers import read_json
from preprocess import recordings
from tests.worlds.hetrec import get_plays
from tests.worlds.listening import (  # noqa: F401 - the fixture `split` among them
    crowd,
    files,
    manifest,
    pairs,
    part,
    script,
    split_command,
    workspace,
)
from tests.worlds.world import write_embedding

PARTS = ("train", "val", "test", "cold_test", "cold_val")
COLD = ("--protocol", "cold-items")


def call(workdir, *argv):
    """(exit status, stderr) of the splitter, quietly."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.run(script.main, [*map(str, argv), "--workdir", str(workdir)])
    return end.value.code, err.getvalue()


def frames(workdir):
    return {p: part(workdir, p) for p in PARTS if (workdir / "data" / f"{p}.pqt").exists()}


def plays_of(workdir):
    """Distinct pairs of the log with their counts."""
    plays = pd.read_parquet(workdir / "plays.pqt")
    if "count" not in plays:
        plays["count"] = 1
    return plays.groupby(["user_id", "track_id"], as_index=False)["count"].sum()


# --------------------------------------------------------------------------- properties

@st.composite
def logs(draw):
    """Random logs: (user, track, None, count) rows, tracks of very different popularity."""
    n_users, n_tracks = draw(st.integers(2, 25)), draw(st.integers(3, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 12)) * n_users
    user = rng.integers(n_users, size=size)
    track = (n_tracks * rng.random(size) ** draw(st.sampled_from([1, 3]))).astype(int)
    together = pd.DataFrame({"u": user, "t": track}).value_counts().reset_index()
    return [(u, t, None, c) for u, t, c in together.itertuples(index=False)]


@settings(max_examples=60, deadline=None)
@given(rows=logs(), seed=st.integers(0, 5), shares=st.sampled_from([(.15, .05), (.3, .3), (.05, 0), (.5, .2)]))
@example(rows=[(u, t, None, 1) for u in range(2) for t in range(3)], seed=0, shares=(.15, .05))
def test_every_play_is_in_one_part_and_no_cold_item_in_a_hot_one(rows, seed, shares):
    workdir = Path(tempfile.mkdtemp())
    try:
        workspace(workdir, rows, n_tracks=60, time="none")
        argv = (*COLD, "--cold-share", shares[0], "--cold-val-share", shares[1], "--seed", seed)
        status, err = call(workdir, *argv)
        if status:
            assert err.count("\n") == 1 and ("leave no item for train" in err or "would be empty" in err)
            assert not list((workdir / "data").glob("*.pqt"))
            return
        made = frames(workdir)
        items = {p: set(frame.track_id) for p, frame in made.items()}
        assert not items["train"] & (items["cold_test"] | items.get("cold_val", set()))
        assert not items["cold_test"] & items.get("cold_val", set())
        assert items["val"] | items["test"] <= items["train"]
        whole = pd.concat(made.values())
        assert not whole.duplicated(["user_id", "track_id"]).any()
        left = manifest(workdir)["dropped"]
        log = plays_of(workdir)
        assert len(whole) + sum(left.values()) == len(log)
        assert len(whole.merge(log, on=["user_id", "track_id", "count"])) == len(whole)
        assert set(whole.user_id) == set(made["train"].user_id)
        gone = set(log.user_id) - set(made["train"].user_id)
        assert manifest(workdir)["users_without_train"] == len(gone)
        before = files(workdir / "data")
        assert call(workdir, *argv, "--overwrite")[0] == 0
        assert {n: b for n, b in files(workdir / "data").items() if n.endswith("pqt")} == {
            n: b for n, b in before.items() if n.endswith("pqt")}
    finally:
        shutil.rmtree(workdir)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(60, 400), seed=st.integers(0, 3), cold=st.integers(5, 40), val=st.integers(0, 20))
def test_every_tenth_of_popularity_has_its_share_within_one_item(n, seed, cold, val):
    """The items are numbered by popularity: item i has more listeners than item i + 1."""
    import duckdb

    from preprocess import cold_items
    n_test, n_val = cold / 100, val / 100

    class Log:
        con = duckdb.connect()
        run = con.execute

        def one(self, sql):
            return self.run(sql).fetchone()[0]
    log = Log()
    log.run("create type part as enum ('cold_test', 'cold_val')")
    log.run(f"create temp table own as select unnest(range({n} - item)) as user_id, item as track_id "
            f"from (select unnest(range({n})) as item)")
    log.run("create temp table items as select distinct track_id, track_id as item from own")
    wanted = cold_items.draw_items(log, n_test, n_val, seed)
    drawn = log.run("select track_id, part from cold_tracks").fetchdf()
    log.con.close()
    assert not drawn.duplicated("track_id").any()
    for which, share in (("cold_test", n_test), ("cold_val", n_val)):
        own = drawn.track_id[drawn.part == which].to_numpy()
        assert len(own) == wanted[which] == math.ceil(share * n - 1e-9)
        for tenth in range(10):
            start, end = n * tenth // 10, n * (tenth + 1) // 10
            assert abs(((own >= start) & (own < end)).sum() - share * (end - start)) <= 1


def test_another_seed_draws_other_items(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=60, n_tracks=80, timed=False)
    drawn = []
    for seed in (1, 2):
        assert split(workdir, *COLD, "--seed", seed)[0] == 0
        drawn.append(set(part(workdir, "cold_test").track_id))
    assert len(drawn[0]) == len(drawn[1]) == 12 and len(drawn[0] & drawn[1]) < 8


# --------------------------------------------------------------------------- in memory

def test_the_parts_in_memory(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    assert split(workdir, *COLD)[0] == 0
    loaded = dataset.load(workdir)
    assert loaded.parts == PARTS[1:4] + ("cold_val", "all_test") and loaded.hot_parts == ("val", "test", "all_test")
    made = frames(workdir)
    ranked = {p: set(loaded.tracks[loaded.candidates(p)]) for p in loaded.parts}
    for p in ("cold_test", "cold_val"):
        assert ranked[p] == set(made[p].track_id) and loaded.seen(p).nnz == 0
        assert loaded.seen(p).shape == (loaded.n_users, len(ranked[p]))
    assert ranked["test"] == ranked["val"] == set(made["train"].track_id)
    assert ranked["all_test"] == ranked["test"] | ranked["cold_test"]
    union = pd.concat([made["test"], made["cold_test"]]).sort_values(["user_id", "track_id"])
    truth = loaded.truth("all_test").sort_values(["user_id", "track_id"])
    assert truth.to_numpy().tolist() == union[["user_id", "track_id"]].to_numpy().tolist()
    whole = loaded.part("all_test")
    assert (np.lexsort((whole.item, whole.user)) == np.arange(len(whole))).all()
    assert loaded.seen("all_test").nnz == len(made["train"]) + len(made["val"])
    assert provenance.items_ranked(manifest(workdir), "all_test") == len(ranked["all_test"])
    assert provenance.items_ranked(manifest(workdir), "cold_val") == len(ranked["cold_val"])
    assert split(workdir, "--protocol", "random")[0] == 0          # another protocol has none of it
    assert not (workdir / "data" / "cold_val.pqt").exists() and not (workdir / "data" / "rules.json").exists()
    assert dataset.load(workdir).parts == ("val", "test")


def test_an_item_of_both_cold_parts_is_one_sentence(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    split(workdir, *COLD)
    write_parquet(workdir / "data" / "cold_val.pqt", part(workdir, "cold_test"))
    with pytest.raises(WorkError, match=r"cold_val.pqt: 9 of its tracks are in the cold test, too"):
        dataset.load(workdir)


def test_without_cold_val_there_is_no_such_part(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    assert split(workdir, *COLD, "--cold-val-share", 0)[0] == 0
    assert dataset.load(workdir).parts == ("val", "test", "cold_test", "all_test")
    assert set(manifest(workdir)["parts"]) == {"train", "val", "test", "cold_test"}


def test_cold_items_without_content_are_named_as_those_of_train_are(tmp_path, split, capsys):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    split(workdir, *COLD)
    cold = sorted(set(part(workdir, "cold_val").track_id))
    matrix = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    matrix[cold] = np.nan
    write_embedding(workdir, "gaps", matrix)
    with pytest.raises(WorkError, match=f"'gaps' has no row for {len(cold)} of the [0-9]+ tracks of this split; split "
                                        "again with --tracks-with gaps, or fill the gaps with --missing mean"):
        knn.main(["gaps", "--workdir", str(workdir)])
    assert split(workdir, *COLD, "--tracks-with", "gaps")[0] == 0
    knn.main(["gaps", "--workdir", str(workdir)])
    assert read_json(workdir / "runs/gaps_cosine/config.json")["parts"] == [
        "all_test", "cold_test", "cold_val", "test", "val"]


# --------------------------------------------------------------------------- by one date

def test_a_global_date_splits_the_hot_items(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=60, n_tracks=80, n=6000)
    status, out, err = split(workdir, *COLD, "--test-date", "2019-12-01")
    assert status == 0, err
    date, made = pd.Timestamp("2019-12-01"), frames(workdir)
    plays = pd.read_parquet(workdir / "plays.pqt")
    first = plays.groupby(["user_id", "track_id"])["timestamp"].min()
    cold = set(made["cold_test"].track_id) | set(made["cold_val"].track_id)
    hot = first[~first.index.get_level_values(1).isin(cold)]
    assert set(pairs(workdir, "train")) == set(hot[hot < date].index)
    held = set(pairs(workdir, "val")) | set(pairs(workdir, "test"))
    assert held <= set(hot[hot >= date].index) and len(held) > 20
    assert not set(made["val"].user_id) & set(made["test"].user_id)
    before = plays[(plays.timestamp < date) & ~plays.track_id.isin(cold)]
    assert made["train"]["count"].sum() == len(before)
    cold_pairs = {(u, t) for u, t in first.index if t in cold}
    assert set(pairs(workdir, "cold_test")) | set(pairs(workdir, "cold_val")) == cold_pairs
    assert manifest(workdir)["request"]["train_start"] == str(plays.timestamp.min())
    status, out, _ = split(workdir, *COLD, "--test-share-time", ".1")
    assert status == 0 and "test begins on" in out


# --------------------------------------------------------------------------- one recording, several ids

@pytest.mark.parametrize("one, other", [
    ("Song 2", "SONG  2"), ("Song 2", "Song 2 - Remastered 2012"), ("Song 2", "Song 2 - 2012 Remaster"),
    ("Song 2", "Song 2 (2012 Remastered Version)"), ("Song 2", "Song 2 (feat. Somebody Else)"),
    ("Song 2", "Song 2 [Remastered]"), ("Song 2", "Song 2 - Mono"), ("Song 2", "Song 2 feat. Somebody"),
    ("Song 2", "Song 2 (Remastered) [feat. A & B]"), ("Ｓong 2", "Song 2"), ("Cafe\u0301", "Café"),
    ("Song 2", "Song 2 - Single Version"), ("Song 2 - Live", "Song 2 - live"),
])
def test_titles_of_one_recording(one, other):
    assert recordings.title_key(one) == recordings.title_key(other)


@pytest.mark.parametrize("one, other", [
    ("Song 2", "Song 3"), ("Song 2", "Song 2 - Live"), ("Song 2", "Song 2 (Acoustic)"), ("Song 2", "Song 2 - X Remix"),
    ("Song 2", "Song 2 (Part II)"), ("Mono", "Stereo"), ("1999", "1999 - Edit"), ("Song 2", "Song 2 - Radio Edit"),
    ("Remastered 2011", "Remastered 2012"), ("Defeat. A Song", "De"),
])
def test_titles_of_two_recordings(one, other):
    assert recordings.title_key(one) != recordings.title_key(other)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_the_key_of_a_key_is_itself(title):
    key = recordings.title_key(title)
    assert recordings.title_key(key) == key


def test_ids_of_one_recording_are_on_one_side(tmp_path, split):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    song = np.arange(60) // 3                                     # three ids each
    title = [f"Song {s}" + ["", " - Remastered 2011", " (feat. Guest)"][i % 3] for i, s in enumerate(song)]
    title[57:] = [None, "Untitled", ""]                           # nothing is known of these three
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(60), "title": title, "artists": [["Band"] if i % 2 else ["BAND", "Guest"]
                                                                 for i in range(60)]}))
    status, out, err = split(workdir, *COLD, "--cold-share", ".3", "--cold-val-share", ".2")
    assert status == 0, err
    played = set(plays_of(workdir).track_id)
    several = [s for s in range(19) if len(played & {*range(3 * s, 3 * s + 3)}) > 1]
    n = sum(len(played & {*range(3 * s, 3 * s + 3)}) for s in several)
    assert f"kept together: {n} tracks are {len(several)} recordings, by title and artist" in out
    sides = {p: set(song[sorted(set(part(workdir, p).track_id) & {*range(57)})])
             for p in ("train", "cold_test", "cold_val")}
    assert not sides["train"] & sides["cold_test"] and not sides["train"] & sides["cold_val"]
    assert not sides["cold_test"] & sides["cold_val"] and len(sides["cold_test"]) >= 5
    items = manifest(workdir)["items"]
    assert items["all"] == len(played) - n + len(several) and items["cold_test"] == math.ceil(.3 * items["all"])
    title[0] = "Another Song"
    write_parquet(workdir / "items.pqt", pd.read_parquet(workdir / "items.pqt").assign(title=title))
    assert "because items.pqt changed" in split(workdir, *COLD, "--cold-share", ".3", "--cold-val-share", ".2")[1]


# --------------------------------------------------------------------------- k-core

def peeled(log, k):
    """The k-core by its definition, one removal after the other."""
    while True:
        few = next(((c, v) for c in ("user_id", "track_id") for v, n in log[c].value_counts().items() if n < k), None)
        if few is None:
            return log
        log = log[log[few[0]] != few[1]]


@settings(max_examples=40, deadline=None)
@given(rows=logs(), k=st.integers(2, 5))
def test_the_k_core_is_that_of_removing_one_at_a_time(rows, k):
    workdir = Path(tempfile.mkdtemp())
    try:
        workspace(workdir, rows, n_tracks=60, time="none")
        log = plays_of(workdir)
        core = peeled(log, k)
        status, err = call(workdir, "--protocol", "random", "--k-core", k, "--val-share", 0, "--test-share", 0)
        if not len(core):
            assert status == 1 and err.count("\n") == 1 and f"--k-core {k} leaves no play" in err
            return
        assert status == 0 and pairs(workdir, "train") == sorted(
            core[["user_id", "track_id"]].itertuples(index=False, name=None))
        left = manifest(workdir)["k_core"]
        assert (left["pairs"], left["users"], left["tracks"]) == (
            len(log) - len(core), log.user_id.nunique() - core.user_id.nunique(),
            log.track_id.nunique() - core.track_id.nunique())
    finally:
        shutil.rmtree(workdir)


@pytest.mark.parametrize("protocol", ["recsys24", "hotcold", "leave-one-out", "cold-items"])
def test_the_k_core_goes_before_every_protocol(tmp_path, split, protocol):
    workdir = crowd(tmp_path / "w", n_users=30, n_tracks=90, n=1600)
    flags = ["--protocol", protocol] + ["--test-date", "2019-12-01"] * (protocol in ("recsys24", "hotcold"))
    core = peeled(plays_of(workdir), 9)
    assert 100 < len(core) < len(plays_of(workdir))
    status, out, err = split(workdir, *flags, "--k-core", 9, "--memory", "512MB")
    assert status == 0, err
    lost = len(plays_of(workdir)) - len(core)
    assert f"left out: {lost} pairs, " in out and "outside the 9-core" in out
    whole = pd.concat(frames(workdir).values())
    assert set(whole.user_id) <= set(core.user_id) and set(whole.track_id) <= set(core.track_id)
    assert manifest(workdir)["request"]["k_core"] == 9
    split(workdir, *flags)
    assert "k_core" not in manifest(workdir)["request"]           # splits of earlier versions stay as they are


# --------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("argv, sentence", [
    ([*COLD, "--cold-share", "1"], "--cold-share must be above 0 and below 1, not 1"),
    ([*COLD, "--cold-share", "0"], "--cold-share must be above 0 and below 1, not 0"),
    ([*COLD, "--cold-val-share", "-.1"], "--cold-val-share must be at least 0 and below 1, not -0.1"),
    ([*COLD, "--cold-share", ".7", "--cold-val-share", ".3"], "--cold-share and --cold-val-share add up to 1"),
    ([*COLD, "--val-share", ".5", "--test-share", ".5"], "--val-share and --test-share add up to 1"),
    (["--protocol", "random", "--cold-share", ".1"], "--cold-share does not apply to --protocol random"),
    (["--protocol", "given", "--k-core", "5"], "--k-core does not apply to --protocol given"),
    ([*COLD, "--k-core", "1"], "--k-core: must be a whole number of at least 2"),
    ([*COLD, "--train-start", "2019-03-01"], "--train-start goes with --test-date"),
    ([*COLD, "--test-date", "2019-03-01", "--test-share", ".1"], "--test-share does not apply where a date says"),
    ([*COLD, "--cold-share", ".97", "--cold-val-share", ".02"], "leave no item for train: of 4 items 4 would be in"),
])
def test_usage(tmp_path, split, argv, sentence):
    workdir = workspace(tmp_path / "w", [(u, t, "2019-03-01") for u in range(5) for t in range(4)])
    status, _, err = split(workdir, *argv)
    assert status == 2 and sentence in err and err.count("\n") == 1
    assert not list((workdir / "data").glob("*.pqt"))


@pytest.mark.parametrize("flags", [(), ("--k-core", "2")])
def test_no_plays_are_one_sentence(tmp_path, split, flags):
    workdir = workspace(tmp_path / "w", [(0, 0, None, 1)], time="none")
    write_parquet(workdir / "plays.pqt", pd.read_parquet(workdir / "plays.pqt").head(0))
    status, _, err = split(workdir, *COLD, *flags)
    assert status == 1 and ("leaves no play" if flags else "nothing to split") in err and err.count("\n") == 1


def test_one_item_has_no_cold_split(tmp_path, split):
    workdir = workspace(tmp_path / "w", [(u, 0, None, 1) for u in range(5)], time="none")
    status, _, err = split(workdir, *COLD)
    assert status == 2 and "leave no item for train: of 1 item 1 would be in cold_test and 1 in cold_val" in err


def test_a_share_of_less_than_an_item(tmp_path, split):
    workdir = workspace(tmp_path / "w", [(u, t, None, 1) for u in range(3) for t in range(20)], time="none")
    status, _, err = split(workdir, *COLD, "--cold-share", "1e-12")
    assert status == 2 and "--cold-share 1e-12 of 20 items is none; use a share of at least 0.05, or 0 for no" in err


def test_a_cold_share_that_leaves_nobody_with_train_plays(tmp_path, split):
    workdir = workspace(tmp_path / "w", [(u, u, None, 1) for u in range(20)], time="none")   # a track each
    status, _, err = split(workdir, *COLD)
    assert status == 1 and "cold_test would be empty: no user of its 3 items has a play of another item in train" in err
    assert not list((workdir / "data").glob("*.pqt"))


def test_dates_need_times_and_plays(tmp_path, split):
    rows = [(u, t, f"2019-03-{1 + t:02d}") for u in range(8) for t in range(8)]
    timed, untimed = workspace(tmp_path / "w", rows), crowd(tmp_path / "v", timed=False)
    status, _, err = split(untimed, *COLD, "--test-date", "2019-12-01")
    assert status == 2 and "requires timestamps, but the time of this data set is 'none'" in err
    status, _, err = split(timed, *COLD, "--test-date", "2031-01-01")
    assert status == 1 and "no test pair from 2031-01-01 00:00:00 to its end" in err


def test_k_above_the_number_of_candidates_gives_all_of_them(tmp_path, split, capsys):
    """A list of a part with fewer candidates than k ends; NDCG then is that of the whole order."""
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    split(workdir, *COLD)
    write_embedding(workdir, "x", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    knn.main(["x", "--workdir", str(workdir)])
    n = part(workdir, "cold_val").track_id.nunique()
    lists = pd.read_parquet(workdir / "preds/x_cosine_cold_val.pqt")
    assert n < 5 and (lists.groupby("user_id").size() == n).all()
    means = pd.read_csv(workdir / "metrics/x_cosine_cold_val.csv", index_col=0).loc["mean"]
    assert means["Recall@5"] == means["Recall@50"] == means["HitRate@50"] == 1
    assert means["NDCG@10"] == means["NDCG@50"] < 1


def test_on_real_artists(shared, tmp_path, split):
    """15 % of the 1,425 artists with audio: 214, with the popularity of the rest and nearly all users."""
    data = shared / "data"
    workdir = get_plays("lastfm", "--raw", data / "lastfm-2k", "--audio-features", data / "lastfm-2k-audio",
                        "--audio-only", workdir=tmp_path / "w")
    assert split(workdir, *COLD)[0] == 0
    counts = {name: row["Items"] for name, row in manifest(workdir)["stats"].items()}
    assert (counts["ColdTest"], counts["ColdVal"], counts["Train"]) == (214, 72, 1139)
    cold = manifest(workdir)["stats"]["ColdTest"]
    share = .15 * sum(row["Rows"] for row in manifest(workdir)["stats"].values())
    assert abs(cold["Rows"] - 8400) < 200 and abs(cold["Rows"] / share - 1) < .05   # strata: as popular as the others
    assert abs(cold["Users"] - 1800) < 20
    assert not manifest(workdir).get("same_recording")          # an item is an artist: no titles


def test_a_pair_without_a_track_is_refused_as_by_the_other_protocols(tmp_path):
    workdir = crowd(tmp_path / "w", n_users=40, n_tracks=60, timed=False)
    plays = pd.read_parquet(workdir / "plays.pqt")
    plays["track_id"] = plays["track_id"].astype("Int64").where(plays.index != 4)
    write_parquet(workdir / "plays.pqt", plays)
    for protocol in (COLD, ("--protocol", "random")):
        status, err = call(workdir, *protocol)
        assert status == 1 and "1 of its " in err and "rows have no track_id" in err, protocol
