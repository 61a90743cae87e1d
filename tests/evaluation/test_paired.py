"""Paired tests over users: by hand, against scipy.stats, and through table.py --against."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import table
from evaluation import paired_tests as paired
from evaluation.files import write_metrics
from evaluation.render import Slot, Table
from evaluation.results import Figure
from harness.errors import WorkError
from tests.test_table import cli, make_run, row_of, tables

# --------------------------------------------------------------------------- statistics

@pytest.mark.numeric
def test_a_case_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 sqrt(3) with two degrees of freedom."""
    (result,) = paired.compare([[2, 4, 6]], [1, 2, 3])
    t = 2 * math.sqrt(3)
    two_sided = 1 - t / math.sqrt(2 + t ** 2)          # Student's t with two degrees of freedom has this closed form
    assert result.difference == 2 and result.effect == 2
    assert result.p_t == pytest.approx(two_sided)
    # a resample's mean is 1 or 3, the farthest, with all three draws alike: 1/27 each; |m* - 2| >= 2 never happens
    assert result.p_bootstrap == 1 / (paired.RESAMPLES + 1)
    assert (result.low, result.high) == (1, 3)         # either end has 1/27 = 3.7 % > 2.5 %


@pytest.mark.numeric
def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and no step may go down."""
    assert paired.holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert paired.holm([0.9, 0.8]).tolist() == [1, 1] and paired.holm([0.3]).tolist() == [0.3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p):
    corrected, p = paired.holm(p), np.array(p)
    assert (corrected >= np.minimum(p, 1)).all() and (corrected <= np.minimum(1, len(p) * p) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    reject = corrected < 0.05                            # the step-down procedure itself: stop at the first that fails
    for i, j in enumerate(np.argsort(p, kind="stable")):
        if not p[j] * (len(p) - i) < 0.05:
            assert not reject[np.argsort(p, kind="stable")[i:]].any()
            break
        assert reject[j]


@pytest.mark.numeric
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.integers(2, 200))
def test_t_is_scipys(seed, n):
    rng = np.random.default_rng(seed)
    values, reference = rng.random((3, n)), rng.random(n)
    mean, effect, p = paired.t_test(values - reference)
    expected = stats.ttest_rel(values, reference[None], axis=1)
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(effect * np.sqrt(n), expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(mean, values.mean(axis=1) - reference.mean(), atol=1e-12)


@pytest.mark.numeric
def test_the_bootstrap_interval_is_scipys():
    rng = np.random.default_rng(3)
    each = np.stack([rng.exponential(size=300) - 0.9, (rng.random(300) < 0.2) - 0.2])
    low, high, _ = paired.bootstrap(each, 20_000, seed=1)
    for i, row in enumerate(each):
        theirs = stats.bootstrap((row,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
        spread = row.std() / math.sqrt(300)
        assert abs(low[i] - theirs.confidence_interval.low) < 0.05 * spread
        assert abs(high[i] - theirs.confidence_interval.high) < 0.05 * spread


def test_bootstrap_p_is_near_that_of_t_and_holds_its_level():
    """At 400 users and no difference, one of twenty tests may say there is one: binomial(300, .05) within 4 sd."""
    rng = np.random.default_rng(5)
    each = rng.normal(size=(300, 400))
    _, _, p_t = paired.t_test(each)
    _, _, p = paired.bootstrap(each, 2_000)
    assert np.abs(p - p_t).max() < 0.06
    assert abs((p < 0.05).sum() - 15) < 4 * math.sqrt(300 * 0.05 * 0.95)


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    each = np.random.default_rng(0).normal(size=(2, 50))
    first = paired.bootstrap(each, 500, seed=7)
    np.testing.assert_array_equal(first, paired.bootstrap(each, 500, seed=7))
    assert not np.array_equal(first[0], paired.bootstrap(each, 500, seed=8)[0])
    monkeypatch.setattr(paired, "BLOCK", 130)            # two draws at a time
    np.testing.assert_allclose(first, paired.bootstrap(each, 500, seed=7), rtol=1e-12)


def test_rows_that_are_equal_or_apart_by_a_constant():
    reference = np.array([0.1, 0.7, 0.3, 0.2])
    same, above = paired.compare([reference, reference + 0.1], reference, resamples=99)
    assert (same.difference, same.effect, same.p_t, same.p_bootstrap, same.mark) == (0, 0, 1, 1, "")
    assert above.effect == math.inf and above.p_t == 0 and above.p_bootstrap == 2 / 100 and above.mark == "↑"


def test_a_user_without_a_value_is_left_out_of_that_row_alone():
    rng = np.random.default_rng(2)
    values, reference = rng.random((4, 50)), rng.random(50)
    values[1, 3] = values[2, 1:] = reference[7] = math.nan
    values[3] = math.nan
    found = paired.compare(values, reference)
    kept = [np.isfinite(row - reference) for row in values]
    for row, mask in zip((0, 1), kept[:2], strict=True):
        alone, = paired.compare(values[row:row + 1, mask], reference[mask])
        assert (found[row].difference, found[row].low, found[row].high, found[row].effect) == pytest.approx(
            (alone.difference, alone.low, alone.high, alone.effect), rel=1e-12)
    assert [r.p_t for r in found[:2]] == pytest.approx(paired.holm(
        [stats.ttest_rel(values[r, kept[r]], reference[kept[r]]).pvalue for r in (0, 1)]))
    for result in found[2:]:
        assert np.isnan([result.difference, result.low, result.p_t, result.p_bootstrap, result.effect]).all()
        assert result.mark == ""


@pytest.mark.parametrize("users, words", [(1, "there is one"), (0, "there are none")])
def test_fewer_than_two_users_are_one_sentence(users, words):
    with pytest.raises(WorkError, match=f"at least two users, and {words}"):
        paired.compare(np.zeros((1, users)), np.zeros(users))


def test_a_mark_needs_both_tests_and_says_the_direction():
    assert [paired.Paired(d, 0, 0, t, b, 0).mark for d, t, b in (
        (1, .01, .01), (-1, .01, .01), (1, .06, .01), (1, .01, .05), (1, math.nan, .01))] == ["↑", "↓", "", "", ""]


def test_a_figure_in_several_columns_is_one_hypothesis():
    """p = .03 alone stays below .05; two hypotheses would double it."""
    rng = np.random.default_rng(1)
    each = rng.normal(size=400)
    each = (each - each.mean()) / each.std(ddof=1) + stats.t.isf(0.015, 399) / 20      # p of t is .03
    popular, ours = Figure(0, 0, 0, 1, each), Figure(0, 0, 0, 1, np.zeros(400))
    shuffled, whole = Figure(0, 0, 0, 1, each), Figure(0, 0, 0, 1)
    rows = [("popularity", [Slot({"R@5": popular, "C@5": whole})] * 3), ("ours", [Slot({"R@5": ours, "C@5": whole})]),
            ("shuffled", [Slot({"R@5": shuffled}, shuffled=True)]), ("none", [Slot(why="no run")])]
    paired.mark_table(Table("t", list("abc"), ["R@5", "C@5"], rows, []), {"R@5": ours, "C@5": whole})
    assert popular.against.p_t == pytest.approx(0.03) and popular.mark == "↑"
    assert ours.mark == "reference" and ours.against is None
    assert shuffled.against is whole.against is None


# --------------------------------------------------------------------------- table.py --against

def world(workdir, n=60):
    """A reference of two seeds, one run above it at every user, one below at most, one equal, one shuffled."""
    rng = np.random.default_rng(0)
    base, users = rng.random(n), range(n)
    for seed, shift in ((1, 0.0), (2, 0.2)):
        make_run(workdir, "ease", None, base + shift, users, seed=seed)
    values = {"mfcc": base + 0.1 + rng.random(n), "mert": base + 0.1 - rng.random(n) * 0.8, "even": base + 0.1}
    for name, each in values.items():
        make_run(workdir, "knn", name, each, users)
    make_run(workdir, "knn", "mfcc", base + 9, users, shuffle=True)
    return base + 0.1, values


def test_against_marks_markdown_latex_and_csv(tmp_path):
    reference, values = world(tmp_path)
    numbers, text = tables(tmp_path, "--against", "ease")
    results = dict(zip(values, paired.compare(list(values.values()), reference), strict=True))
    for name, result in results.items():
        row = numbers.loc[name]
        for column, value in (("difference", result.difference), ("low", result.low), ("high", result.high),
                              ("p t", result.p_t), ("p bootstrap", result.p_bootstrap), ("effect", result.effect)):
            assert row[f"KNN Recall@2 {column}"] == pytest.approx(value, abs=1e-12), (name, column)
        assert row["KNN Recall@2 difference"] == pytest.approx(
            row["KNN Recall@2"] - numbers.loc["ease", "KNN Recall@2"], abs=1e-12)
    assert row_of(text, "mfcc")[0].endswith(" ↑") and row_of(text, "mert")[0].endswith(" ↓")
    assert not set(row_of(text, "even")[0]) & set("↑↓") and row_of(text, "ease")[0].endswith(" reference")
    assert not set(row_of(text, "shuffled mfcc")[0]) & set("↑↓")
    assert numbers.loc[["shuffled mfcc", "ease"], "KNN Recall@2 p t"].isna().all()
    assert "(mean of 2 seeds) in a paired t test" in text and "Holm's p" in text
    latex = [line for line in (tmp_path / "tables/test.tex").read_text().splitlines() if not line.startswith("%")]
    assert sum(r"$\uparrow$" in line for line in latex) == 1 and sum(r"$\downarrow$" in line for line in latex) == 1


def test_the_same_bytes_twice_and_no_trace_without_the_flag(tmp_path):
    world(tmp_path)
    plain = tables(tmp_path)
    assert not any("p t" in column for column in plain[0]) and not set(plain[1]) & set("↑↓")
    first = [tables(tmp_path, "--against", "ease"), (tmp_path / "tables/test.csv").read_bytes()]
    again = [tables(tmp_path, "--against", "ease"), (tmp_path / "tables/test.csv").read_bytes()]
    assert first[1] == again[1] and first[0][1] == again[0][1]
    tables(tmp_path)
    assert (tmp_path / "tables/test.md").read_text() == plain[1]


def test_figures_of_all_users_together_are_not_tested(tmp_path):
    world(tmp_path)
    numbers, text = tables(tmp_path, "--metrics", "Recall", "Coverage", "--against", "ease")
    assert numbers["KNN Coverage@2 p t"].isna().all() and numbers.loc["mfcc", "KNN Recall@2 p t"] < 0.05
    assert row_of(text, "mfcc", panel=1) == ["0.2500", ""]


def test_a_part_without_the_reference_says_so(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1, 0.2, 0.3, 0.5], parts=("test", "cold_test"))
    make_run(tmp_path, "knn", "mert", [0.1, 0.2, 0.3, 0.4], parts=("test", "cold_test"))
    name = make_run(tmp_path, "popularity", None, [0.1, 0.1, 0.1, 0.1])
    assert "a paired bootstrap" in tables(tmp_path, "--against", "popularity")[1]
    numbers, text = tables(tmp_path, "--against", "popularity", part="cold_test")
    assert f"not tested against {name}, which has no lists of cold_test" in text
    assert not any("p t" in column for column in numbers)


def test_different_users_are_refused_and_nothing_is_written(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4)
    name = make_run(tmp_path, "popularity", None, [0.9] * 3, users=(1, 2, 5))
    with pytest.raises(WorkError, match=f"on 4 users and {name} on 3, 2 of them the same"):
        tables(tmp_path, "--against", name)
    assert not (tmp_path / "tables").exists()


def test_the_same_users_in_another_order_are_other_users(tmp_path):
    """Rows of metrics are ascending in user_id; a file that is not would pair the wrong users."""
    make_run(tmp_path, "knn", "mfcc", [0.1, 0.2, 0.3, 0.4])
    make_run(tmp_path, "popularity", None, [0.1, 0.2, 0.3, 0.4], users=(2, 1, 3, 4))
    with pytest.raises(WorkError, match="4 of them the same"):
        tables(tmp_path, "--against", "popularity")


@pytest.mark.parametrize(("words", "status", "sentence"), [
    (["--against", "knn_mfc_"], 2, "no finished run 'knn_mfc_'; there are 4, among them knn_mfcc_s1"),
    (["--against", "knn_mfcc"], 2, "begins the names of runs of different requests (knn_mfcc_s1"),
    (["--against", "{running}"], 2, "is left out of the tables (unfinished); run it again"),
    (["--against", "{shuffled}"], 2, "is shuffled: each repeat is one permutation"),
    (["--against", "popularity", "--parts", "cold_test"], 2, "has no lists of cold_test; it has test"),
    (["--against", "popularity", "--k", "2", "9"], 1, "has no Recall@9 of test to test against; python metrics.py"),
])
def test_bad_references_are_one_sentence(tmp_path, words, status, sentence):
    make_run(tmp_path, "knn", "mfcc", [0.1] * 4, parts=("test", "cold_test"))
    make_run(tmp_path, "popularity", None, [0.1] * 4)
    names = {"running": make_run(tmp_path, "shallow", "mfcc", [0.1] * 4, status="running"),
             "shuffled": make_run(tmp_path, "knn", "mfcc", [0.3] * 4, shuffle=True)}
    name = make_run(tmp_path, "knn", "mert", [0.1] * 4)
    frame = pd.DataFrame({"Recall@2": [0.1] * 4, "Recall@9": [0.1] * 4}, index=pd.Index([1, 2, 3, 4], name="user_id"))
    write_metrics(tmp_path / "metrics" / f"{name}_test.csv", frame)
    done = cli("--workdir", tmp_path, "--k", 2, "--metrics", "Recall", *(w.format(**names) for w in words))
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert sentence in done.stderr and not (tmp_path / "tables").exists()


def test_one_user_cannot_be_paired(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1], users=(1,))
    make_run(tmp_path, "popularity", None, [0.2], users=(1,))
    with pytest.raises(WorkError, match="at least two users"):
        table.main(["--workdir", str(tmp_path), "--k", "2", "--metrics", "Recall", "--against", "popularity"])
