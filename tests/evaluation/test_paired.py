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
from evaluation.crossed import Term, estimate
from evaluation.files import write_metrics
from evaluation.leaderboard import Leaderboard, Row, compare_rows
from evaluation.results import Cell, Figure
from evaluation.worth import worth_of
from harness.errors import WorkError
from tests.test_table import cli, line, make_run, row_of, tables

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


@pytest.mark.numeric
def test_benjamini_and_hochberg_by_hand():
    """Sorted .01 .02 .03 .5 times 4/1 4/2 4/3 4/4 is .04 .04 .04 .5, and no step may be above the next."""
    assert paired.corrected([0.5, 0.01, 0.03, 0.02], "bh").tolist() == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert paired.corrected([0.5, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.5, 0.04, 0.06, 0.06]), "Holm's"
    assert paired.corrected([], "bh") is not None


def test_each_family_is_corrected_by_itself_and_has_its_own_reference():
    rng = np.random.default_rng(3)
    values, reference = rng.random((4, 60)), rng.random((4, 60))
    together = paired.compare(values, reference, families=[0, 1, 0, 1])
    for family in (0, 1):
        rows = [i for i in range(4) if i % 2 == family]
        raw = [stats.ttest_rel(values[i], reference[i]).pvalue for i in rows]
        assert [together[i].p_t for i in rows] == pytest.approx(paired.holm(raw))
        alone = paired.compare(values[rows], reference[rows])
        assert [together[i].p_bootstrap for i in rows] == [r.p_bootstrap for r in alone]


def test_not_distinguishable_is_said_of_tested_rows_only():
    assert [paired.Paired(1, 0, 0, t, b, 0).undecided for t, b in ((.01, .01), (.06, .01), (math.nan, math.nan))] == [
        False, True, False]


def test_a_block_is_a_family_of_its_own_and_many_rows_are_many_tests():
    """p = .03 alone stays below .05; two rows in its block double it, a row of another block does not."""
    rng = np.random.default_rng(1)
    each = rng.normal(size=400)
    each = (each - each.mean()) / each.std(ddof=1) + stats.t.isf(0.015, 399) / 20      # p of t is .03
    cell = Cell("ease", None, False, {})

    def row(block, values, best=False):
        figures = {"R@5": Figure(0, 0, 0, 1, values), "C@5": Figure(0, 0, 0, 1)}
        return Row(block, "ease", "EASE", "", "", "", cell, figures=figures, best={"R@5", "C@5"} if best else set())
    rows = [row("without content", np.zeros(400), True), row("without content", each),
            row("with content", np.zeros(400), True), row("with content", each), row("with content", each)]
    compare_rows(Leaderboard("test", ["R@5", "C@5"], rows, {"users": 400}))
    assert rows[1].tests["R@5"].p_t == pytest.approx(0.03) and rows[1].tests["R@5"].mark == "↑"
    assert rows[3].tests["R@5"].p_t == pytest.approx(0.06) and rows[3].tests["R@5"].undecided
    assert not rows[0].tests and not any("C@5" in r.tests for r in rows), "of all users together: not tested"
    compare_rows(Leaderboard("test", ["R@5"], rows, {"users": 400}, correction="bh"))
    assert rows[3].tests["R@5"].p_t == pytest.approx(0.03)


# --------------------------------------------------------------------------- seeds

def rows_of_seeds(rng, users, seeds, spread):
    """A null contrast: users, seeds of a standard deviation in standard errors of the users' mean, and a rest."""
    shared = rng.normal(size=users) + 0.7 * rng.normal(size=(seeds, users))
    return shared + spread * rng.normal(size=(seeds, 1)) * np.sqrt(seeds / users)


@pytest.mark.numeric
@pytest.mark.parametrize(("seeds", "most"), [(3, (0.08, 0.03)), (5, (0.07, 0.02)), (10, (0.07, 0.02))])
@pytest.mark.parametrize("spread", [0, 1, 3])
def test_the_t_test_over_seeds_keeps_its_level_where_that_over_users_does_not(seeds, spread, most):
    """1,000 worlds without a difference, at .05 and .01: within three standard errors of 1,000 draws (.02, .01); with
    3 seeds that decide all a little above."""
    rng, p, over_users = np.random.default_rng(7), [], 0
    for _ in range(1000):
        table = rows_of_seeds(rng, 200, seeds, spread)
        p.append(paired.over_seeds([Term(1, table, tuple(range(seeds)))])[2])
        over_users += stats.ttest_1samp(table.mean(axis=0), 0).pvalue < 0.05
    rejected = [np.mean(np.array(p) < level) for level in (0.05, 0.01)]
    assert rejected[0] < most[0] and rejected[1] < most[1]
    if spread:
        assert over_users / 1000 > 0.11


@pytest.mark.numeric
def test_t_is_that_of_users_or_of_seeds_where_only_one_varies():
    """Users alone: Student's t with U - 1 degrees of freedom; seeds alone: with S - 1. Each as scipy's, to 1e-6."""
    rng = np.random.default_rng(3)
    of_users, of_seeds = rng.normal(size=90) + 0.2, rng.normal(size=(5, 1)) + 1
    for values, sample in ((np.tile(of_users, (5, 1)), of_users), (np.tile(of_seeds, (1, 90)), of_seeds[:, 0])):
        low, high, p, _ = paired.over_seeds([Term(1, values, (1, 2, 3, 4, 5)), Term(-1, np.zeros((1, 90)), (1,))])
        expected = stats.ttest_1samp(sample, 0)
        assert p == pytest.approx(expected.pvalue, rel=1e-6)
        assert (low, high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6)


@pytest.mark.numeric
def test_where_both_vary_p_lies_between_and_the_interval_agrees_with_it():
    rng = np.random.default_rng(4)
    ours, theirs = rng.random((5, 90)) + 0.2 * rng.random((5, 1)), rng.random((5, 90))
    terms = [Term(1, ours, (1, 2, 3, 4, 5)), Term(-1, theirs, (1, 2, 3, 4, 5))]
    low, high, p, reach = paired.over_seeds(terms)
    result, worth = estimate(terms), worth_of(ours, theirs, paired=True)
    assert result.effect == pytest.approx(worth.difference) and sum(part for part, _ in result.parts()) == \
        pytest.approx(result.se ** 2)
    away = abs(result.effect) / result.se
    assert 2 * stats.t.sf(away, 89) < p < 2 * stats.t.sf(away, 4)
    assert result.critical(p) == pytest.approx(away, rel=1e-6)
    assert reach == pytest.approx((result.critical(0.05) + result.critical(0.4)) * result.se)   # t of .05 and of .8
    assert (p < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize("seeds", [2, 5, 10, 30])
def test_a_large_difference_has_a_small_p(seeds):
    rng = np.random.default_rng(seeds)
    table = 50 + rng.normal(size=(seeds, 40))
    p = paired.over_seeds([Term(1, table, tuple(range(seeds)))])[2]
    assert 0 < p < (0.02 if seeds == 2 else 1e-5)


@pytest.mark.numeric
def test_a_mark_that_is_the_seeds_goes():
    """Two rows whose users agree and whose seeds do not: by users alone a clear difference."""
    rng = np.random.default_rng(5)
    reference, shifts = rng.random(500), np.array([0.00, 0.01, 0.06])
    row = reference + shifts[:, None] + 0.1 * rng.normal(size=(3, 500))
    terms = [Term(1, row, (1, 2, 3)), Term(-1, reference[None], (1,))]
    (alone,) = paired.compare([row.mean(axis=0)], reference)
    (crossed,) = paired.compare([row.mean(axis=0)], reference, repeats=[terms])
    assert alone.mark == "↑" and not alone.over_seeds
    assert crossed.undecided and crossed.over_seeds and crossed.p_bootstrap == alone.p_bootstrap
    assert crossed.low < 0 < alone.low and crossed.difference == pytest.approx(alone.difference)
    assert crossed.reach > 2 * alone.reach > 0


@pytest.mark.parametrize(("shift", "p"), [(0, 1), (0.5, 0)])
def test_seeds_without_any_spread(shift, p):
    table = np.full((3, 20), 0.25)
    (result,) = paired.compare([table[0] + shift], table[0], repeats=[
        [Term(1, table + shift, (1, 2, 3)), Term(-1, table, (4, 5, 6))]])
    assert (result.p_t, result.low, result.high) == (p, shift, shift)


# --------------------------------------------------------------------------- table.py --against

def world(workdir, n=60):
    """A reference of two near seeds, one run above it at every user, one below at most, one equal, one shuffled."""
    rng = np.random.default_rng(0)
    base, users = rng.random(n), range(n)
    for seed, shift in ((1, 0.099), (2, 0.101)):
        make_run(workdir, "ease", None, base + shift, users, seed=seed)
    values = {"mfcc": base + 0.1 + rng.random(n), "mert": base + 0.1 - rng.random(n) * 0.8, "even": base + 0.1}
    for name, each in values.items():
        make_run(workdir, "knn", name, each, users)
    make_run(workdir, "knn", "mfcc", base + 9, users, shuffle=True)
    return base + 0.1, values


def test_against_marks_markdown_latex_and_csv(tmp_path):
    reference, values = world(tmp_path)
    numbers, text = tables(tmp_path, "--against", "ease")
    seeds = Term(-1, np.stack([reference - 0.001, reference + 0.001]), (1, 2))
    results = dict(zip(values, paired.compare(list(values.values()), reference, repeats=[
        [Term(1, own[None], (1,)), seeds] for own in values.values()]), strict=True))
    for name, result in results.items():
        row = line(numbers, "KNN", name)
        assert row.against_over_seeds
        for column in ("difference", "low", "high", "p_t", "p_bootstrap", "effect"):
            assert row[f"against_{column}"] == pytest.approx(getattr(result, column), abs=1e-12), (name, column)
        assert row.against_difference == pytest.approx(row["mean"] - line(numbers, "EASE")["mean"], abs=1e-12)
    shown = {name: row_of(text, "KNN", name)["Recall@2"] for name in values}
    assert shown["mfcc"].endswith(" ↑") and shown["mert"].endswith(" ↓") and not set(shown["even"]) & set("↑↓")
    assert row_of(text, "EASE")["Recall@2"].endswith(" reference")
    untested = [line(numbers, "KNN", "mfcc", shuffled=True), line(numbers, "EASE")]
    assert all(np.isnan(row.against_p_t) for row in untested)
    assert ("(mean of 2 seeds) (paired t test over users and the seeds of rows that have several and bootstrap over "
            "users, Holm's correction") in text
    latex = [row for row in (tmp_path / "tables/test.tex").read_text().splitlines() if not row.startswith("%")]
    assert sum(r"$\uparrow$" in row for row in latex) == 1 and sum(r"$\downarrow$" in row for row in latex) == 1


def test_the_other_correction_is_named_and_used(tmp_path):
    """Benjamini and Hochberg's p is never above Holm's, and below it where several rows differ."""
    world(tmp_path)
    holm, text = tables(tmp_path, "--against", "ease")
    bh, other = tables(tmp_path, "--against", "ease", "--correction", "bh")
    tested = holm.against_p_t.notna()
    assert (bh.against_p_t[tested] <= holm.against_p_t[tested]).all() and (bh.against_p_t < holm.against_p_t).any()
    assert "Holm's" in text and "Benjamini-Hochberg's" in other and "Holm" not in other
    assert set(bh.correction) == {"bh"}


def test_the_same_bytes_twice_and_no_trace_without_the_flag(tmp_path):
    world(tmp_path)
    plain = tables(tmp_path)
    assert not any("against" in column for column in plain[0]) and not set(plain[1]) & set("↑↓")
    path = tmp_path / "tables/results_test.csv"
    first = [tables(tmp_path, "--against", "ease"), path.read_bytes()]
    again = [tables(tmp_path, "--against", "ease"), path.read_bytes()]
    assert first[1] == again[1] and first[0][1] == again[0][1]
    tables(tmp_path)
    assert (tmp_path / "tables/test.md").read_text() == plain[1]


def test_figures_of_all_users_together_are_not_tested(tmp_path):
    world(tmp_path)
    numbers, text = tables(tmp_path, "--metrics", "Recall", "Coverage", "--against", "ease")
    assert np.isnan(line(numbers, "KNN", "mfcc", metric="Coverage").against_p_t)
    assert line(numbers, "KNN", "mfcc").against_p_t < 0.05
    assert row_of(text, "KNN", "mfcc")["Coverage@2"] == "0.2500"


def test_a_part_without_the_reference_says_so(tmp_path):
    make_run(tmp_path, "knn", "mfcc", [0.1, 0.2, 0.3, 0.5], parts=("test", "cold_test"))
    make_run(tmp_path, "knn", "mert", [0.1, 0.2, 0.3, 0.4], parts=("test", "cold_test"))
    name = make_run(tmp_path, "popularity", None, [0.1, 0.1, 0.1, 0.1])
    assert f"↑ ↓: above or below {name}" in tables(tmp_path, "--against", "popularity")[1]
    numbers, text = tables(tmp_path, "--against", "popularity", part="cold_test")
    assert f"not tested against {name}, which has no lists of cold_test" in text
    assert numbers.against_p_t.isna().all()


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
