"""Verdicts by their definition, their false alarms and their power, on estimates that are drawn."""
import dataclasses

import numpy as np
import pytest
from scipy import stats

from evaluation.crossed import Estimate, Term, estimate, power, reach
from ledger import verdicts
from ledger.correlation import Correlation
from ledger.evidence import Line
from ledger.statements import Claim
from ledger.verdicts import FAILS, HOLDS, MADE, MIXED, REAL, UNDECIDED, UNTESTABLE, judge, overall

RULES = {"level": 0.05, "chance": 0.8, "seeds": 5, "controls": 10}


def known(effect, se=1.0, users=100):
    return Estimate(effect, se, users - 1.0, users, np.empty(0), se ** 2 * users, np.empty(0), np.empty(0))


def line(*estimates, name="c", direction="above", smallest=1.0, made=False, **more):
    claim = Claim(name, "A sentence.", "a paper", direction=direction, smallest=smallest)
    return Line(claim, "made" if made else "one", made, "", list(estimates), [f"e{i}" for i in range(len(estimates))],
                [np.nan] * len(estimates), **more)


@pytest.mark.parametrize(("direction", "words"), [
    ("above", {-6: FAILS, 0: UNDECIDED, 2: UNDECIDED, 6: HOLDS}),
    ("not-below", {-6: FAILS, -2: UNDECIDED, 0: UNDECIDED, 6: HOLDS}),
    ("differs", {-6: HOLDS, -2: UNDECIDED, 2: UNDECIDED, 6: HOLDS}),
    ("equal", {-6: FAILS, 0: UNDECIDED, 6: FAILS})])
def test_one_claim_by_the_95_percent_interval(direction, words):
    for effect, word in words.items():
        verdict, = judge([line(known(effect), direction=direction)], RULES)
        assert verdict.word == word, effect
        assert (verdict.low, verdict.high) == pytest.approx(known(effect).interval(.95))
    small, = judge([line(known(0, .1), direction="equal")], RULES)
    near, = judge([line(known(0, .1), direction="differs")], RULES)
    assert (small.word, near.word) == (HOLDS, FAILS)


@pytest.mark.parametrize("seed", range(6))
def test_verdict_interval_and_procedure_are_one_decision(seed):
    """Of many claims: exactly what Benjamini and Hochberg find is decided, and its interval excludes the bound."""
    rng = np.random.default_rng(seed)
    found = judge([line(known(e)) for e in rng.normal(1, 3, 40)], RULES)
    two_sided = np.array([2 * stats.t.sf(abs(v.effect - 1), 99) for v in found])
    expected = stats.false_discovery_control(two_sided) <= .05
    assert 3 < expected.sum() < 37
    for verdict, decided in zip(found, expected, strict=True):
        assert (verdict.word != UNDECIDED) == decided == (verdict.low > 1 or verdict.high < 1)
        assert verdict.word == (HOLDS if verdict.low > 1 else FAILS if verdict.high < 1 else UNDECIDED)
        assert verdict.level == pytest.approx(1 - .05 * expected.sum() / 40) and verdict.p_holm >= verdict.p_bh


def test_of_two_effects_in_the_same_words_the_judged_one_is_shown():
    both = line(known(6), known(-6))
    both.labels[1] = both.labels[0]
    verdict, = judge([both], RULES)
    assert verdict.word == FAILS and verdict.low < verdict.effect == -6 < verdict.high


@pytest.mark.parametrize("effect, word", [(-6, FAILS), (-1.2, UNDECIDED), (-1.0, UNDECIDED), (6, HOLDS)])
def test_the_interval_of_several_effects_is_that_by_which_one_refutes_the_claim(effect, word):
    """An effect of -1.2 lies outside at 95 %, and not at the level that is divided by three."""
    verdict, = judge([line(known(6), known(effect), known(6))], RULES)
    assert verdict.word == word and (verdict.low > 1 or verdict.high < 1) == (word != UNDECIDED)
    assert verdict.level == pytest.approx(1 - .05 / (1 if word == HOLDS else 3))


def test_generated_worlds_are_a_family_of_their_own_and_enter_no_overall_verdict():
    real = [line(known(6), name="a"), line(known(-6), name="b")]
    alone = judge(real, RULES)
    beside = judge([*real, *[line(known(-9), name="a", made=True) for _ in range(50)]], RULES)
    assert [v.level for v in alone] == [v.level for v in beside[:2]]
    assert {v.kind for v in beside[2:]} == {MADE} and beside[0].kind == REAL
    assert overall(beside) == {"a": HOLDS, "b": FAILS}
    assert overall(judge([line(known(-9), name="x", made=True)], RULES)) == {"x": UNTESTABLE}


def test_overall_is_what_all_that_could_be_tested_agree_on():
    def words(*effects, lacking=0):
        lines = [line(known(e)) for e in effects] + [line(reason="no runs") for _ in range(lacking)]
        return overall(judge(lines, RULES))["c"]
    assert words(9, 9) == words(9, lacking=2) == HOLDS and words(-9, -9) == FAILS
    assert words(9, -9) == words(9, 1) == MIXED and words(1, 1) == UNDECIDED and words(lacking=1) == UNTESTABLE


def test_a_claim_of_several_effects_needs_all_of_them_and_one_refutes_it():
    both, = judge([line(known(9), known(8))], RULES)
    one, = judge([line(known(9), known(1))], RULES)
    wrong, = judge([line(known(9), known(-2.5), known(9), known(9))], RULES)
    barely, = judge([line(known(9), known(-1.1), known(9), known(9))], RULES)
    assert [v.word for v in (both, one, wrong, barely)] == [HOLDS, UNDECIDED, FAILS, UNDECIDED]
    assert both.effect == 8 and one.label == "e1" and "the least of 2 effects" in one.notes
    assert barely.p_outside == pytest.approx(4 * 2 * stats.t.sf(2.1, 99)), "for the number of chances to be refuted"


def test_one_seed_decides_nothing_and_does_not_widen_the_others():
    lines = [line(known(9), name="a"), line(known(9), name="b", single=["Shallow Net a"])]
    sure, single = judge(lines, RULES)
    assert sure.word == HOLDS and sure.level == pytest.approx(.95) and single.word == UNDECIDED
    assert "one seed of Shallow Net a" in single.notes[0] and verdicts.what_it_takes(single) == "at least 2 seeds"
    verdicts.unjudged(single, RULES)
    assert single.low < 9 < single.high and single.level == .95


def test_zero_variance_is_said_and_needs_no_number():
    same, = judge([line(known(0, 0))], RULES)
    all_alike, = judge([line(known(2, 0))], RULES)
    at_the_bound, = judge([line(known(1, 0))], RULES)
    assert (same.word, all_alike.word, at_the_bound.word) == (FAILS, HOLDS, UNDECIDED)
    assert all("no variance to test with" in v.notes[0] for v in (same, all_alike, at_the_bound))
    assert same.low == same.high == 0 and verdicts.what_it_takes(at_the_bound).startswith("no number")


def test_undecided_says_how_many_would_do():
    rng = np.random.default_rng(0)
    tables = rng.normal(1.1, 1, (5, 50)) + rng.normal(0, .3, (5, 1))
    result = estimate([Term(1, tables, tuple(range(5)))])
    verdict, = judge([line(result)], RULES)
    gap = abs(result.effect - 1)
    assert verdict.word == UNDECIDED and verdict.seeds_needed > 5
    assert reach(result.error(seeds=verdict.seeds_needed), verdict.seeds_needed - 1) <= gap
    assert verdicts.what_it_takes(verdict).endswith(f"{verdict.seeds_needed} seeds")
    many = dataclasses.replace(verdict, users_needed=202_264, seeds_needed=128)
    assert verdicts.what_it_takes(many) == "200,000 users or 130 seeds"      # to two digits


@pytest.mark.numeric
def test_a_rank_correlation_has_fishers_interval():
    result = Correlation(.6, 12)
    error = np.sqrt((1 + .36 / 2) / 9)
    assert result.interval() == pytest.approx(tuple(np.tanh(np.arctanh(.6) + np.array([-1, 1]) * 1.959964 * error)))
    assert result.p_above(0) == pytest.approx(stats.norm.sf(np.arctanh(.6) / error))
    verdict, = judge([line(result, direction="equal", smallest=.5)], RULES)
    assert verdict.word == UNDECIDED and verdict.users_needed is None


# --------------------------------------------------------------------------- false alarms and power

DRAWS, USERS = 1000, 40


def drawn(rng, effect, seeds):
    """An estimate from users x seeds with a known effect (seeds 0: nothing random)."""
    if not seeds:
        return estimate([Term(1, rng.normal(effect, 1, (1, USERS)), (0,))])
    table = effect + rng.normal(0, 1, USERS) + rng.normal(0, .3, (seeds, 1)) + rng.normal(0, .5, (seeds, USERS))
    return estimate([Term(1, table, tuple(range(seeds)))])


def test_false_alarms_are_no_more_often_than_stated():
    """Ledgers of 12 claims whose effects all are exactly the smallest that matters, so that any verdict is wrong.

    Such a ledger should decide anything at most .05 of the time: the one-sided 99 % lower binomial limit of the
    observed rate is not above .05 (fixed seed). And without correction it would be.
    """
    rng = np.random.default_rng(20)
    alarms = plain = 0
    for _ in range(DRAWS):
        results = [drawn(rng, 1.0, seeds) for seeds in (0, 0, 0, 0, 0, 0, 3, 3, 5, 5, 10, 10)]
        found = judge([line(r) for r in results], RULES)
        alarms += any(v.word != UNDECIDED for v in found)
        plain += any(min(v.p_inside, v.p_outside) < .05 for v in found)
    assert stats.binomtest(alarms, DRAWS).proportion_ci(.98).low <= .05, alarms / DRAWS
    assert plain / DRAWS > .15


def test_verdicts_have_the_power_that_is_computed():
    """A claim true by .5 beyond the smallest effect, 40 users, nothing random: holds as often as noncentral t says."""
    rng, effect = np.random.default_rng(21), 1.5
    held = sum(judge([line(drawn(rng, effect, 0))], RULES)[0].word == HOLDS for _ in range(DRAWS))
    expected = power(.5, 1 / np.sqrt(USERS), USERS - 1)
    low, high = stats.binomtest(round(expected * DRAWS), DRAWS).proportion_ci(.999)
    assert .5 < expected < .95 and low <= held / DRAWS <= high, (held / DRAWS, expected)
