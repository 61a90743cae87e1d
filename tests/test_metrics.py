"""Metrics against arithmetic, against the golden values and against rs_metrics itself, and the command line."""
import json
import math
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
import knn
import metrics
from evaluation import beyond_accuracy as beyond
from evaluation.intervals import mean_and_half_width
from evaluation.lists import read_lists, read_truth, saved_lists
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from tests.conftest import ROOT


def frame_of(lists):
    """{user: [tracks from the top]} as a frame of lists."""
    rows = [(user, track, rank) for user, tracks in lists.items() for rank, track in enumerate(tracks)]
    return pd.DataFrame(rows, columns=["user_id", "track_id", "rank"], dtype=np.int64)


def truth_of(pairs):
    rows = [(user, track) for user, tracks in pairs.items() for track in tracks]
    return pd.DataFrame(rows, columns=["user_id", "track_id"], dtype=np.int64)


def discount(place):
    return 1 / math.log2(place + 1)  # place from 1


# --------------------------------------------------------------------------- values

@pytest.mark.numeric
def test_values_as_arithmetic():
    values = metrics.evaluate(frame_of({7: [10, 11, 12, 13, 14]}), truth_of({7: [11, 14, 99]}), ks=(1, 3, 5)).loc[7]
    assert [values[f"HitRate@{k}"] for k in (1, 3, 5)] == [0, 1, 1]
    assert [values[f"MRR@{k}"] for k in (1, 3, 5)] == [0, 1 / 2, 1 / 2]
    assert [values[f"Precision@{k}"] for k in (1, 3, 5)] == [0, 1 / 3, 2 / 5]
    assert [values[f"Recall@{k}"] for k in (1, 3, 5)] == [0, 1 / 3, 2 / 3]
    assert values["NDCG@3"] == pytest.approx(discount(2) / (discount(1) + discount(2) + discount(3)), abs=1e-15)
    assert values["NDCG@5"] == pytest.approx((discount(2) + discount(5))
                                             / (discount(1) + discount(2) + discount(3)), abs=1e-15)
    assert values["MAP@3"] == pytest.approx((1 / 2) / 3, abs=1e-15)
    assert values["MAP@5"] == pytest.approx((1 / 2 + 2 / 5) / 3, abs=1e-15)


@pytest.mark.numeric
def test_the_ideal_has_as_many_hits_as_the_list_could_hold():
    """Ten true tracks, lists of two: two hits are perfect for NDCG@2, a fifth for Recall@2."""
    values = metrics.evaluate(frame_of({0: [1, 2]}), truth_of({0: range(1, 11)}), ks=(2, 4)).loc[0]
    assert values["NDCG@2"] == 1 and values["Recall@2"] == 2 / 10 and values["MAP@2"] == pytest.approx(2 / 10)
    assert values["NDCG@4"] == pytest.approx((discount(1) + discount(2)) / sum(discount(j) for j in (1, 2, 3, 4)))
    assert values["Precision@4"] == 1  # two of the two that are listed


def test_the_k_in_the_name_is_the_k_of_the_value():
    """The one hit of user u stands at place u, so HitRate@k is the share of users up to k (the published
    cold table printed the figures of 50 under the name of 20)."""
    n = 60
    lists = {u: [1000 + j for j in range(u)] + [u] + [2000 + j for j in range(n - u)] for u in range(n)}
    values = metrics.evaluate(frame_of(lists), truth_of({u: [u] for u in range(n)}), ks=(1, 5, 20, 50))
    for k in (1, 5, 20, 50):
        assert values[f"HitRate@{k}"].mean() == pytest.approx(k / n)
        assert values[f"Precision@{k}"].mean() == pytest.approx(1 / n)
        assert values[f"MRR@{k}"].sum() == pytest.approx(sum(1 / j for j in range(1, k + 1)))


def test_edges():
    lists = frame_of({1: [5, 5, 6, 5, 7], 2: [8], 9: [5]})
    truth = truth_of({1: [6, 6, 7], 2: [4], 3: [5], 4: [8]})
    values = metrics.evaluate(lists, truth, ks=(2, 3))
    assert values.index.tolist() == [1, 2, 3, 4] and values.notna().all(axis=None)
    assert values.loc[1, "MRR@2"] == 1 / 2, "6 moves up to the second place when the second 5 goes"
    assert values.loc[1, "Recall@3"] == 2 / 2, "the pair (1, 6) counts once"
    assert values.loc[1, "Precision@3"] == 2 / 3
    assert (values.loc[[2, 3, 4]] == 0).all(axis=None)


def test_an_empty_truth_and_an_empty_frame_of_lists():
    truth = truth_of({3: [1]})
    assert metrics.evaluate(frame_of({1: [2]}), truth.iloc[:0]).shape == (0, 24)
    assert (metrics.evaluate(frame_of({}), truth) == 0).all(axis=None)


@pytest.mark.numeric
def test_golden(shared):
    golden = shared / "golden"
    preds, truth, expected = (pd.read_parquet(golden / f"metrics_{n}.parquet") for n in ("pred", "true", "expected"))
    expected = expected.pivot(index="user_id", columns="metric", values="value")
    ks = sorted({int(name.split("@")[1]) for name in expected})
    values = metrics.evaluate(preds.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2), ks)
    assert sorted(values) == sorted(expected)
    assert np.abs(values[expected.columns] - expected).max(axis=None) <= 1e-12


listening = st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True),
                            min_size=1)
recommended = st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 14), min_size=1, max_size=12, unique=True))


@given(recommended, listening, st.lists(st.integers(1, 15), min_size=1, max_size=3, unique=True))
@settings(max_examples=100, deadline=None)
def test_any_lists_have_the_values_of_rs_metrics(lists, truth, ks):
    """Called as a stranger would: frames in the library's own column names, a column at a time."""
    import rs_metrics
    ours = metrics.evaluate(frame_of(lists), truth_of(truth), ks)
    columns = {"track_id": "item_id"}
    for name in metrics.METRICS:
        scorer = getattr(rs_metrics, {"MAP": "mapr"}.get(name, name.lower()))
        for k in ks:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # its mean of an empty list
                theirs = scorer(truth_of(truth).rename(columns=columns), frame_of(lists).rename(columns=columns), k=k,
                                apply_mean=False)
            assert np.allclose(ours[f"{name}@{k}"], np.nan_to_num(theirs), rtol=0, atol=1e-12), (name, k)


def test_big_and_small_ids():
    big = 10**12
    values = metrics.evaluate(frame_of({-big: [big, 3]}), truth_of({-big: [big], big: [3]}), ks=(1,))
    assert values["HitRate@1"].tolist() == [1, 0]


@pytest.mark.numeric
def test_interval_by_hand():
    """Four values 0, 0, 1, 3: mean 1, sd sqrt(6 / 3), t(3) at 97.5 % is 3.182446."""
    mean, half = mean_and_half_width(np.array([0.0, 0.0, 1.0, 3.0]))
    assert mean == 1 and half == pytest.approx(3.1824463052842638 * math.sqrt(2) / math.sqrt(4), rel=1e-12)
    assert np.isnan(mean_and_half_width([0.5])[1])
    mean, half = mean_and_half_width(np.array([[1.0, np.nan], [2.0, np.nan]]))
    assert mean[0] == 1.5 and np.isnan(mean[1]) and np.isnan(half[1])


# --------------------------------------------------------------------------- beyond accuracy

@pytest.mark.numeric
def test_coverage_gini_and_popularity():
    truth = read_truth(truth_of({1: [0], 2: [0], 3: [0]}))
    lists = read_lists(frame_of({1: [10, 20], 2: [10, 40]}), truth.users)
    share = np.array([0.5, 0.25, 0.125, 1.0])
    whole, each = beyond.beyond(lists, np.array([10, 20, 30, 40]), {"Popularity": share}, (1, 2))
    assert whole["Coverage@1"] == 1 / 4 and whole["Coverage@2"] == 3 / 4
    assert whole["Gini@1"] == pytest.approx(3 / 4), "one of four has all"
    # appearances 0, 1, 1, 2: sum over pairs of |difference| / (2 n^2 mean) = 2 * (1+1+2+0+1+1) / (2 * 16 * 1)
    assert whole["Gini@2"] == pytest.approx(2 * 6 / 32)
    assert each.loc[1, "Popularity@2"] == (0.5 + 0.25) / 2 and each.loc[2, "Popularity@2"] == (0.5 + 1) / 2
    assert np.isnan(each.loc[3, "Popularity@2"])
    assert beyond.gini(np.array([3, 3, 3])) == 0 and np.isnan(beyond.gini(np.zeros(3)))


@pytest.mark.numeric
def test_beyond_accuracy_equals_rs_metrics(tiny):
    import rs_metrics
    knn.main(["content", "--workdir", str(tiny)])
    preds = pd.read_parquet(tiny / "preds/content_cosine_test.pqt").rename(columns={"track_id": "item_id"})
    train = pd.read_parquet(tiny / "data/train.pqt").rename(columns={"track_id": "item_id"})
    saved = pd.read_csv(tiny / "metrics/content_cosine_test.csv", index_col=0)
    for k in (5, 10):
        popular = rs_metrics.popularity(train, preds, k=k)
        covered = rs_metrics.coverage(train.item_id.unique(), preds, k=k)
        assert saved.loc["mean", f"Popularity@{k}"] == pytest.approx(popular, abs=1e-12)
        assert saved.loc["mean", f"Coverage@{k}"] == pytest.approx(covered, abs=1e-12)
        assert saved.loc["conf", f"Popularity@{k}"] > 0 and np.isnan(saved.loc["conf", f"Coverage@{k}"])
    cold = pd.read_csv(tiny / "metrics/content_cosine_cold_test.csv", index_col=0)
    assert "Coverage@10" in cold and "Popularity@10" not in cold


# --------------------------------------------------------------------------- files

def test_report_writes_means_intervals_and_users(tmp_path):
    truth = truth_of({4: [1], 2: [2], 6: [9]})
    means = metrics.report(tmp_path, "mine", "val", frame_of({2: [2], 4: [3, 1], 6: [4]}), truth, ks=(2,))
    table = pd.read_csv(tmp_path / "metrics/mine_val.csv", index_col=0)
    users = pd.read_parquet(tmp_path / "metrics/mine_val.pqt")
    assert table.index.tolist() == ["mean", "conf"] and list(table) == [f"{m}@2" for m in metrics.METRICS]
    assert users.user_id.tolist() == [2, 4, 6] and users["MRR@2"].tolist() == [1, 1 / 2, 0]
    assert means["MRR@2"] == table.loc["mean", "MRR@2"] == (1 + 1 / 2) / 3
    assert table.loc["conf", "MRR@2"] == pytest.approx(4.302652729749464 * users["MRR@2"].std(ddof=1) / math.sqrt(3))


def test_one_user_has_no_interval(tmp_path):
    metrics.report(tmp_path, "mine", "val", frame_of({2: [2]}), truth_of({2: [2]}), ks=(2,))
    assert pd.read_csv(tmp_path / "metrics/mine_val.csv", index_col=0).loc["conf"].isna().all()


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda f: f.drop(columns="rank"), "must have a column rank"),
    (lambda f: f.assign(rank=f["rank"] + 1), "ranks of each user must count 0, 1, 2"),
    (lambda f: f.assign(rank=f["rank"] - 1), "ranks of each user must count 0, 1, 2"),
    (lambda f: f.assign(rank=0), "ranks of each user must count 0, 1, 2"),
    (lambda f: f.drop(index=1), "user_id 1 has 2 where 1 is due"),
    (lambda f: f.assign(rank=[0, 1, np.nan]), "whole numbers without gaps, but is float64 with 1 gaps"),
    (lambda f: f.assign(user_id=["a", "b", "c"]), "user_id of the lists must be whole numbers"),
    (lambda f: f.assign(track_id=[1.5, 2, 3]), "track_id of the lists must be whole numbers"),
    (lambda f: f.assign(track_id=[4, -1, 3]), "runs from -1 to 4"),
    (lambda f: f.assign(track_id=f.track_id + 2**62), "must be rows of trackid_sorted.csv"),
])
def test_broken_lists_are_one_sentence_and_nothing_is_written(tmp_path, change, sentence):
    with pytest.raises(WorkError, match=sentence):
        metrics.report(tmp_path, "mine", "val", change(frame_of({1: [4, 5, 6]})), truth_of({1: [5], 2: [4]}))
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("ks", [(0,), (-5,), (2.5,), (True,), ()])
def test_k_must_be_a_whole_number_of_at_least_one(ks):
    with pytest.raises(UsageError, match="k"):
        metrics.evaluate(frame_of({1: [4]}), truth_of({1: [4]}), ks)


# --------------------------------------------------------------------------- command line

def cli(*words, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "metrics.py"), *map(str, words)], cwd=cwd, text=True,
                          capture_output=True, timeout=120)


def test_the_command_line_evaluates_saved_lists_again(tiny):
    knn.main(["--workdir", str(tiny), "--k", "12"])
    (content, _), (noise, _) = runs.find_runs(tiny)
    before = {p.name: p.read_bytes() for p in (tiny / "metrics").iterdir()}
    assert len(before) == 2 * 3 * 2
    for path in (tiny / "metrics").iterdir():
        path.unlink()
    metrics.main(["--workdir", str(tiny)])
    assert {p.name: p.read_bytes() for p in (tiny / "metrics").iterdir()} == before
    done = cli(content, "--k", 3, 20, "--long", "--workdir", tiny)
    assert done.returncode == 0 and "its lists have 12 places, so k = 20 is left out" in done.stderr
    assert [w.split()[0] for w in done.stdout.splitlines() if w.startswith("   ")] == ["k", "3"] * 3
    again = pd.read_csv(tiny / f"metrics/{content}_test.csv", index_col=0)
    assert {name.split("@")[1] for name in again} == {"3", "5", "10"}       # those of the same lists stay
    assert (tiny / f"metrics/{noise}_test.csv").read_bytes() == before[f"{noise}_test.csv"]


def test_a_line_for_each_run_and_part_sorted_with_intervals(tiny, capsys):
    """By part, then by NDCG@10, the best first; the figures are those of the csv, and it says where they are."""
    knn.main(["--workdir", str(tiny), "--k", "12"])
    names = [name for name, _ in runs.find_runs(tiny)]
    capsys.readouterr()
    metrics.main(["--workdir", str(tiny)])
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"written to {tiny / 'metrics'}: 6 times") and len(lines) == 6
    lines = [text.split() for text in lines]
    assert [words[0] for words in lines] == ["val"] * 2 + ["test"] * 2 + ["cold_test"] * 2
    for part, name, *words in lines:
        saved = pd.read_csv(tiny / f"metrics/{name}_{part}.csv", index_col=0)
        assert words == [text for c in ("NDCG@10", "Recall@10", "HitRate@10")
                         for text in (c, f"{saved.loc['mean', c]:.4f}", f"±{saved.loc['conf', c]:.4f}")]
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        assert {first[1], second[1]} == set(names) and float(first[3]) >= float(second[3])
    metrics.main([names[0], "--k", "3", "--workdir", str(tiny)])
    assert capsys.readouterr().out.count("NDCG@3 ") == 3
    metrics.main([names[0], "--k", "20", "50", "--workdir", str(tiny)])     # its lists have 12 tracks
    assert capsys.readouterr().out.count("NDCG@12 ") == 3


def test_a_line_of_one_user_has_no_interval():
    rows = {("test", "b"): ({"NDCG@5": 0.5, "Recall@5": 1.0, "HitRate@5": 1.0}, {"NDCG@5": math.nan}),
            ("test", "a"): ({"NDCG@5": 0.5, "Recall@5": 0.5, "HitRate@5": 1.0}, {})}
    assert metrics.lines_of(rows, (5, 50)) == ["test       a  NDCG@5 0.5000  Recall@5 0.5000  HitRate@5 1.0000",
                                               "test       b  NDCG@5 0.5000  Recall@5 1.0000  HitRate@5 1.0000"]


def test_lists_without_a_manifest_and_names_that_end_like_parts(tiny):
    """preds/mine_cold_test.pqt is the cold test of `mine`, unless there is a run `mine_cold`."""
    users = pd.read_parquet(tiny / "data/cold_test.pqt").user_id.unique()
    track = int(pd.read_parquet(tiny / "data/cold_test.pqt").track_id.iloc[0])
    write_parquet(tiny / "preds/mine_cold_test.pqt", frame_of({u: [track] for u in users}))
    assert [job[:2] for job in saved_lists(tiny, [])] == [("mine", "cold_test")]
    done = cli("mine", "--workdir", tiny)
    assert done.returncode == 0 and "k = 5, 10, 20, 50 is left out" in done.stderr
    assert pd.read_csv(tiny / "metrics/mine_cold_test.csv", index_col=0).loc["mean", "HitRate@1"] > 0
    write_json(tiny / "runs/mine_cold/config.json", {"request": {"k": 1}})
    assert [job[:2] for job in saved_lists(tiny, [])] == [("mine_cold", "test")]


def test_cross_check_agrees_and_notices(tiny, capsys, monkeypatch):
    knn.main(["content", "--workdir", str(tiny)])
    metrics.main(["--workdir", str(tiny), "--scorer", "rs_metrics"])
    assert "largest difference to rs_metrics" in capsys.readouterr().out
    right, saved = metrics.values_of, (tiny / "metrics/content_cosine_test.csv").read_bytes()
    monkeypatch.setattr(metrics, "values_of", lambda *a: right(*a) * (1 + 1e-6))
    with pytest.raises(WorkError, match="differs from rs_metrics"):
        metrics.main(["--workdir", str(tiny), "--scorer", "rs_metrics"])
    assert (tiny / "metrics/content_cosine_test.csv").read_bytes() == saved


@pytest.mark.parametrize("suffix", [".pqt", ".csv", ".tsv"])
def test_any_pair_of_files(tmp_path, suffix):
    preds, truth = frame_of({1: [4, 5], 2: [6]}), truth_of({1: [5], 2: [4], 3: [1]})
    for name, frame in (("p", preds), ("t", truth)):
        if suffix == ".pqt":
            frame.to_parquet(tmp_path / f"{name}{suffix}")
        else:
            frame.to_csv(tmp_path / f"{name}{suffix}", index=False, sep="\t" if suffix == ".tsv" else ",")
    done = cli("--preds", tmp_path / f"p{suffix}", "--truth", tmp_path / f"t{suffix}", "--k", 1, 2,
               "--out", tmp_path / "o.csv", "--scorer", "rs_metrics")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "o.csv", index_col=0).loc["mean", "HitRate@2"] == pytest.approx(1 / 3)
    assert pd.read_parquet(tmp_path / "o.pqt")["Recall@2"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("words", "status", "sentence"), [
    (["--workdir", "{empty}"], 2, "no saved recommendations in"),
    (["nothing", "--workdir", "{full}"], 2, "no saved recommendations of a run 'nothing'"),
    (["--k", "0", "--workdir", "{full}"], 2, "must be a whole number of at least 1"),
    (["--k", "five", "--workdir", "{full}"], 2, "must be a whole number of at least 1"),
    (["--workdir", "{full}/nowhere"], 2, "is not a folder"),
    (["--preds", "{full}/x.csv"], 2, "with --preds FILE --truth FILE"),
    (["--preds", "{full}/x.csv", "--truth", "{full}/y.csv"], 2, "there is no file"),
    (["--preds", "{full}/x.csv", "--truth", "{full}/y.csv", "--out", "o.pqt"], 2, "--out must end in .csv"),
    (["--preds", "{full}/trackid_sorted.csv", "--truth", "{full}/data/test.pqt"], 1, "track_id, rank, but has idx"),
    (["--preds", "{full}/dataset.json", "--truth", "{full}/data/test.pqt"], 1, "cannot be read as parquet"),
    (["--preds", "{full}/preds/x_test.pqt", "--truth", "{full}/data/test.pqt", "--out", "{full}/dataset.json/o.csv"],
     1, "a file of that name is in the way"),
])
def test_bad_input_is_one_sentence(tmp_path, tiny, words, status, sentence):
    someone = int(pd.read_parquet(tiny / "data/test.pqt")["user_id"].iloc[0])
    write_parquet(tiny / "preds/x_test.pqt", frame_of({someone: [4]}))
    (tmp_path / "empty").mkdir()
    done = cli(*(w.format(empty=tmp_path / "empty", full=tiny) for w in words))
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert sentence in done.stderr and not (tiny / "metrics").exists()


def test_lists_of_another_split_are_refused(tiny):
    write_parquet(tiny / "preds/x_test.pqt", frame_of({13: [0]}))  # track 0 is in no part
    with pytest.raises(WorkError, match="x_test.pqt: 1 tracks of the lists are not in the catalogue"):
        metrics.main(["--workdir", str(tiny)])
    write_parquet(tiny / "preds/x_test.pqt", frame_of({13: [2]}).assign(rank=1))
    with pytest.raises(WorkError, match="x_test.pqt: the ranks of each user"):
        metrics.main(["--workdir", str(tiny)])
    (tiny / "data/test.pqt").unlink()
    with pytest.raises(WorkError, match="is of part test, but this split has val, cold_test"):
        metrics.main(["x", "--workdir", str(tiny)])


def test_runs_of_another_split_are_skipped_and_named_and_the_others_evaluated(tiny, capsys):
    """Of two runs the first in order is stale: the second is evaluated, and nothing of the first changes."""
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    before = {p.name: p.read_bytes() for p in (tiny / "metrics").iterdir()}
    test = pd.read_parquet(tiny / "data/test.pqt")
    write_parquet(tiny / "data/test.pqt", test.iloc[1:])
    capsys.readouterr()
    with pytest.raises(WorkError, match=r"content_cosine_\S+ was made on another split "
                                        r"\(data/test.pqt changed since\); run it again"):
        metrics.main(["--workdir", str(tiny)])
    knn.main(["noise", "--workdir", str(tiny), "--k", "5"])
    for path in (tiny / "metrics").glob("noise*"):
        path.unlink()
    capsys.readouterr()
    metrics.main(["--workdir", str(tiny)])
    said = capsys.readouterr()
    assert re.fullmatch(r"skipped: content_cosine_\S+ was made on another split .*; run it again",
                        said.err.splitlines()[0]) and said.err.count("content_cosine") == 1
    assert said.out.count("noise_cosine") == 3 and "content_cosine" not in said.out
    after = {p.name: p.read_bytes() for p in (tiny / "metrics").iterdir()}
    assert {name: after[name] for name in before} == before and len([n for n in after if "noise" in n]) == 6


def test_lists_of_a_run_that_has_not_finished_are_skipped(tiny, capsys):
    """A killed run has the inputs of the new split in its manifest, and still the lists of the old one."""
    knn.main(["content", "--workdir", str(tiny), "--k", "5"])
    knn.main(["noise", "--workdir", str(tiny), "--k", "5"])
    path = next((tiny / "runs").glob("noise*/config.json"))
    write_json(path, json.loads(path.read_text()) | {"status": "running"})
    before = {p.name: p.read_bytes() for p in (tiny / "metrics").glob("noise*")}
    capsys.readouterr()
    metrics.main(["--workdir", str(tiny)])
    said = capsys.readouterr()
    assert re.match(r"skipped: noise_cosine_\S+ has not finished; run it again\n", said.err)
    assert said.out.count("content_cosine") == 3 and "noise" not in said.out
    assert {p.name: p.read_bytes() for p in (tiny / "metrics").glob("noise*")} == before
    with pytest.raises(WorkError, match="has not finished"):
        metrics.main(["--workdir", str(tiny), path.parent.name])


def test_popularity_is_the_share_of_train_users_of_this_split(tiny):
    truth = truth_of({3: [5]})
    train = pd.read_parquet(tiny / "data/train.pqt")
    track = int(train.track_id.iloc[0])
    preds = frame_of({3: [track]})
    means = metrics.report(tiny, "x", "test", preds, truth, ks=(1,), split=dataset.load(tiny))
    assert means["Popularity@1"] == pytest.approx((train.track_id == track).sum() / train.user_id.nunique())
    assert means["Coverage@1"] == pytest.approx(1 / train.track_id.nunique())
    assert "Popularity@1" not in metrics.report(tiny, "y", "test", preds, truth, ks=(1,))


def test_a_pair_of_files_may_have_any_whole_numbers_as_tracks(tmp_path, capsys):
    pd.DataFrame({"user_id": [1, 1], "track_id": [2**60, -7], "rank": [0, 1]}).to_csv(tmp_path / "p.csv", index=False)
    pd.DataFrame({"user_id": [1], "track_id": [-7]}).to_csv(tmp_path / "t.csv", index=False)
    metrics.main(["--preds", str(tmp_path / "p.csv"), "--truth", str(tmp_path / "t.csv"), "--k", "2"])
    assert "0.5000" in capsys.readouterr().out  # MRR of the second place


def test_a_wrong_list_is_named_by_its_file_and_its_users_own_id(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,track_id\nzoe,2\nann,2\n")
    (tmp_path / "p.csv").write_text("user_id,track_id,rank\nann,2,0\nzoe,2,1\n")
    with pytest.raises(WorkError, match=r"p.csv: the ranks of each user .* but user_id zoe has 1 where 0 is due"):
        metrics.main(["--preds", str(tmp_path / "p.csv"), "--truth", str(tmp_path / "t.csv")])


@pytest.mark.parametrize("out", ["p.csv", "t.csv"])
def test_out_does_not_overwrite_what_is_read(tmp_path, out):
    pd.DataFrame({"user_id": [1], "track_id": [3], "rank": [0]}).to_parquet(tmp_path / "p.pqt")
    pd.DataFrame({"user_id": [1], "track_id": [3]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UsageError, match="would overwrite"):
        metrics.main(["--preds", str(tmp_path / "p.pqt"), "--truth", str(tmp_path / "t.csv"), "--k", "1",
                      "--out", str(tmp_path / out)])


# --------------------------------------------------------------------------- ids of a pair of files

def evaluated(tmp_path, preds, truth, kind="csv"):
    """The metrics of two tables of texts, by user as the file names it."""
    for name, table in (("p", preds), ("t", truth)):
        if kind == "csv":
            (tmp_path / f"{name}.csv").write_text(table, encoding="utf-8")
        else:
            table.to_parquet(tmp_path / f"{name}.pqt")
    metrics.main(["--preds", str(tmp_path / f"p.{kind}"), "--truth", str(tmp_path / f"t.{kind}"), "--k", "2",
                  "--out", str(tmp_path / "o.csv")])
    frame = pd.read_parquet(tmp_path / "o.pqt")
    return dict(zip(frame["user_id"], frame["HitRate@2"], strict=True))


def test_ids_are_texts_where_one_of_either_file_is_no_number(tmp_path):
    preds = "user_id,track_id,rank\n007,10,0\n007,12,1\n"
    assert evaluated(tmp_path, preds, "user_id,track_id\n007,10\n7,11\n") == {"007": 1, "7": 0}
    assert evaluated(tmp_path, preds.replace("007", "7"), "user_id,track_id\n7,10\n8,11\n") == {7: 1, 8: 0}
    assert evaluated(tmp_path, preds.replace("007", "7"), "user_id,track_id\n7,10\nx,10\n") == {"7": 1, "x": 0}
    assert evaluated(tmp_path, preds, "user_id,track_id\n007,010\n") == {"007": 0}


def test_ids_in_two_forms_are_one_in_lists_and_truth(tmp_path, capsys):
    preds, truth = "user_id,track_id,rank\ncaf\u00e9,a,0\n", "user_id,track_id\ncafe\u0301,a \n"
    assert evaluated(tmp_path, preds, truth) == {"caf\u00e9": 1}
    said = capsys.readouterr().err
    assert r"'cafe\u0301' as 'caf\xe9'" in said and "'a ' as 'a'" in said


@pytest.mark.parametrize("kind", ["uint64", "category", "large_string[pyarrow]"])
def test_hashes_categories_and_large_texts_are_ids(tmp_path, kind):
    users = np.array([2**63 + 5, 2**63 + 6], np.uint64)
    users = pd.Series(users if kind == "uint64" else users.astype(str)).astype(kind)
    truth = pd.DataFrame({"user_id": users, "track_id": [1, 2]})
    preds = pd.DataFrame({"user_id": users, "track_id": [1, 1], "rank": [0, 0]})
    assert evaluated(tmp_path, preds, truth, "pqt") == {str(2**63 + 5): 1, str(2**63 + 6): 0}


@pytest.mark.parametrize("rows, sentence", [
    ('a,"x,0\nb,y,0\n', "line 2: the quoted cell that begins there never ends"),
    ("a,x,0\nb,y\n", "line 3: 2 cells where the header has 3"), ("a,x,0,1\nb,y,0\n", "line 2: 4 cells where"),
    ("a,x,zero\n", "rank holds 'zero', which is no whole number"), (",x,0\n", "user_id is empty in a row"),
    ("7.0,1,0\n", "user_id holds '7.0', a whole number written as a float")])
def test_malformed_rows_of_lists_are_named(tmp_path, rows, sentence):
    with pytest.raises(WorkError, match=sentence):
        evaluated(tmp_path, "user_id,track_id,rank\n" + rows, "user_id,track_id\na,x\n")
    assert not (tmp_path / "o.csv").exists()


def test_lists_of_no_user_of_the_truth_are_refused(tmp_path):
    with pytest.raises(WorkError, match="no user of .*t.csv has a list in .*p.csv; are the ids of both the same"):
        evaluated(tmp_path, "user_id,track_id,rank\n7,1,0\n", "user_id,track_id\n8,1\n")
    assert not (tmp_path / "o.csv").exists()
