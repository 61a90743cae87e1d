"""How much data: the same rows in workspaces of growing shares, where plays alone catch up, and what is refused."""
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from exploration import data_curve
from harness.errors import UsageError, WorkError
from harness.files import write_json
from harness.readers import read_json
from tests.test_table import make_run

SHARES = ((0.1, 1000), (0.3, 3000), (1.0, 10000))
USERS = range(200)


def workspace(folder, share, pairs, plays, content, seed=42, protocol="random"):
    """Runs whose users' values scatter around `plays` (EASE) and `content` (KNN, with two permutations at .1)."""
    rng = np.random.default_rng(int(1000 * share))
    write_json(folder / "data" / "split.json", {
        "protocol": protocol, "track_checksum": "abc", "stats": {"Train": {"Rows": pairs}},
        "request": {"seed": seed, "train_share": share, **({"hidden": True} if share < 1 else {})}})
    for name, embedding, mean, flags in (("ease", None, plays, {}), ("popularity", None, 0.05, {}),
                                         ("knn", "mfcc", content, {}), ("knn", "mfcc", 0.1, {"shuffle": True}),
                                         ("knn", "mfcc", 0.1, {"shuffle": True, "seed": 2})):
        values = mean + rng.normal(0, 0.05, len(USERS))
        make_run(folder, name, embedding, values, USERS, val=values, **flags)
    return str(folder)


@pytest.fixture
def worlds(tmp_path):
    """Plays alone are below content at a tenth, equal to it at three tenths, above it with everything."""
    return [workspace(tmp_path / f"w{share}", share, pairs, plays, 0.3) for (share, pairs), plays
            in zip(SHARES, (0.1, 0.3, 0.5), strict=True)]


def run(tmp_path, *argv):
    data_curve.main([*argv, "--metric", "Recall@2", "--out", str(tmp_path / "curve")])
    return pd.read_csv(tmp_path / "curve.csv"), (tmp_path / "curve.md").read_text()


def test_the_shares_at_which_content_stops_being_above_are_named(worlds, tmp_path):
    frame, text = run(tmp_path, *worlds[::-1])   # in any order
    content = frame[frame.method == "KNN"]
    assert list(content.share) == [0.1, 0.3, 1.0] and list(content.pairs) == [1000, 3000, 10000]
    assert list(content.mark.fillna("")) == ["↑", "", "↓"]
    np.testing.assert_allclose(content.difference, [0.2, 0, -0.2], atol=0.02)    # four standard errors of the worlds
    np.testing.assert_allclose(content.worth, 0.2, atol=0.02)
    assert ("KNN mfcc: above the best method without content up to 1,000 pairs, not distinguishable with 3,000, "
            "below from 10,000") in text
    assert "0.1 (1,000 pairs)" in text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_equal_files_twice(worlds, tmp_path):
    run(tmp_path, *worlds)
    before = [(tmp_path / f"curve.{end}").read_bytes() for end in ("csv", "md", "png")]
    run(tmp_path, *worlds)
    assert before == [(tmp_path / f"curve.{end}").read_bytes() for end in ("csv", "md", "png")]


@pytest.mark.parametrize(("plays", "says"), [
    ((0.1, 0.1, 0.1), "above the best method without content with all 10,000 pairs"),
    ((0.5, 0.5, 0.5), "never above the best method without content, below it from 1,000 pairs"),
    ((0.1, 0.1, 0.3), "above the best method without content up to 3,000 pairs, not distinguishable from 10,000 on")])
def test_content_that_is_always_or_never_above(tmp_path, plays, says):
    worlds = [workspace(tmp_path / f"w{share}", share, pairs, mean, 0.3)
              for (share, pairs), mean in zip(SHARES, plays, strict=True)]
    assert f"KNN mfcc: {says}" in run(tmp_path, *worlds)[1]


@pytest.mark.parametrize(("marks", "says"), [
    ("↓↑ ", "up to 20 pairs, but not with 10, not distinguishable from 30 on"),
    ("↑ ↑↓", "up to 30 pairs, but not with 20, below from 40"),
    ("↑↓ ", "up to 10 pairs, not distinguishable with 30, below with 20"),
    ("↓ ↓ ", "never above the best method without content, below it with 10, 30 pairs"),
    (" ↑", "with all 20 pairs, but not with 10")])
def test_the_sentence_of_a_curve_says_no_more_than_its_marks(marks, says):
    curve = [data_curve.Point(n / 10, 10 * n, 9, "with content", "KNN", "a_", .1, .01, 0, 0, "", 0, mark.strip())
             for n, mark in enumerate(marks, 1)]
    assert data_curve.caught_up(curve).endswith(says)
    assert r"| KNN a\_ |" in data_curve.markdown(curve, "NDCG@10", "test")
    assert data_curve.cell(dataclasses.replace(curve[0], half=np.nan)).startswith("0.1000") \
        and "nan" not in data_curve.cell(dataclasses.replace(curve[0], half=np.nan))


def test_a_row_that_is_absent_at_one_share_leaves_a_gap(worlds, tmp_path):
    make_run(tmp_path / "w0.3", "knn", "clap", np.linspace(0, 1, 200), USERS)
    frame, text = run(tmp_path, *worlds)
    assert list(frame[frame.representation == "clap"].share) == [0.3]
    assert "| KNN clap |  | 0.5" in text


def test_other_splits_and_equal_shares_are_refused(worlds, tmp_path):
    other = workspace(tmp_path / "other", 0.5, 5000, 0.1, 0.3, seed=1)
    with pytest.raises(UsageError, match="another split"):
        run(tmp_path, *worlds, other)
    with pytest.raises(UsageError, match="same --train-share 0.1"):
        run(tmp_path, *worlds, workspace(tmp_path / "same", 0.1, 1000, 0.1, 0.3))
    old = workspace(tmp_path / "old", 0.2, 2000, 0.1, 0.3)
    path = tmp_path / "old" / "data" / "split.json"
    content = read_json(path)
    del content["request"]["hidden"]
    write_json(path, content)
    with pytest.raises(UsageError, match="old was split by an earlier version"):
        run(tmp_path, *worlds, old)
    with pytest.raises(UsageError, match="at least two"):
        run(tmp_path, worlds[0])
    with pytest.raises(UsageError, match="split.json is missing"):
        run(tmp_path, worlds[0], str(tmp_path))
    for metric in ("NDCG", "NDCG@\N{SUPERSCRIPT TWO}", "NDCG@\N{ARABIC-INDIC DIGIT TWO}", "NDCG@02", "@2"):
        with pytest.raises(UsageError, match="NAME@K"):
            data_curve.main([*worlds, "--metric", metric])
    with pytest.raises(UsageError, match="--out '' names no file"):
        data_curve.main([*worlds, "--out", ""])


@pytest.mark.parametrize("change", [{"stats": {}}, {"request": None}, {"request": {"train_share": "x"}},
                                    {"stats": {"Train": {"Rows": "x"}}}, {"stats": None}, {"status": "writing"}])
def test_a_split_that_does_not_say_its_share_is_refused(worlds, tmp_path, change):
    path = tmp_path / f"w{SHARES[0][0]}" / "data" / "split.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(WorkError, match=re.escape(str(path))):
        run(tmp_path, *worlds)


def test_the_whole_of_a_published_split_has_no_seed_and_belongs_to_its_shares(tmp_path, capsys):
    made = [workspace(tmp_path / f"w{share}", share, pairs, 0.1, 0.3, seed, "given")
            for (share, pairs), seed in zip(SHARES[::2], (42, None), strict=True)]
    split = tmp_path / f"w{SHARES[-1][0]}" / "data" / "split.json"
    content = read_json(split)
    del content["request"]["seed"]
    write_json(split, content)
    run(tmp_path, *made)
    assert "above the best method without content" in capsys.readouterr().out


def test_where_the_best_without_content_is_not_chosen_on_val_the_table_says_so(tmp_path):
    made = []
    for share, pairs in SHARES[:2]:
        folder = tmp_path / f"w{share}"
        made.append(workspace(folder, share, pairs, 0.1, 0.3))
        make_run(folder, "itemknn", None, np.full(len(USERS), 0.2), USERS)      # none of these has val
        for config in (folder / "runs").glob("*/config.json"):
            write_json(config, {**read_json(config), "parts": ["test"]})
    frame, text = run(tmp_path, *made)
    assert set(frame["best"]) == {"ItemKNN"} and "best on test at that share" in text


def test_a_workspace_without_runs_of_both_kinds_is_refused(worlds, tmp_path):
    for config in (tmp_path / "w0.3" / "runs").glob("*mfcc*/config.json"):
        config.unlink()
    with pytest.raises(WorkError, match="has no finished run with content"):
        run(tmp_path, *worlds)
