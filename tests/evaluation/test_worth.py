"""What content is worth: the crossed interval by hand, against simulations of known variance, and at its edges."""
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.crossed import layout
from evaluation.worth import CROSSED, NO_INTERVAL, PERMUTATIONS_ONLY, USERS_ONLY, worth_of, worth_of_means

ZERO = np.zeros((1, 3))


@pytest.mark.numeric
def test_the_crossed_interval_by_hand():
    """Three users (lines), two permutations; the differences are 1 2, 3 5, 5 11, their mean 27/6 = 4.5.

    User means 1.5, 4, 8: MS_users = 2 (3^2 + .5^2 + 3.5^2) / 2 = 21.5. Permutation means 3, 6: MS_permutations =
    3 (1.5^2 + 1.5^2) / 1 = 13.5. Rest: 1, -1, .5, -.5, -1.5, 1.5, squares 7 in sum: MS_rest = 7 / 2 = 3.5.
    """
    each = np.array([[1.0, 3, 5], [2, 5, 11]])
    assert layout(each.T).squares.tolist() == pytest.approx([21.5, 13.5, 3.5])
    worth = worth_of(ZERO, -each)
    variance = (21.5 + 13.5 - 3.5) / 6 + (13.5 - 3.5) / 3                   # the true order is one more draw: s2_b
    components = [(21.5 - 3.5) / 2 / 3, (13.5 - 3.5) / 3 / 2, 3.5 / 6,      # s2_a / U, s2_b / P, s2_e / (U P)
                  (13.5 - 3.5) / 3]
    assert worth.difference == 4.5 and worth.over == CROSSED and (worth.users, worth.permutations) == (3, 2)
    errors = [worth.se_users, worth.se_permutations, worth.se_rest, worth.se_draw]
    assert np.square(errors).tolist() == pytest.approx(components)
    assert sum(components) == pytest.approx(variance)
    parts = 21.5 / 6, 13.5 * (1 / 6 + 1 / 3), 3.5 * (1 / 6 + 1 / 3)
    freedom = variance ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1 + parts[2] ** 2 / 2)
    assert worth.freedom == pytest.approx(max(freedom, 1)) and worth.freedom >= 1
    assert worth.half == pytest.approx(stats.t.ppf(0.975, max(freedom, 1)) * math.sqrt(variance))


@pytest.mark.numeric
def test_a_negative_component_is_zero_and_the_errors_still_sum_to_the_variance():
    """Permutation means equal: MS_permutations = 0 is below MS_rest, so the variance is MS_users / (U P), df U - 1."""
    each = np.array([[1.0, 5, 9], [3, 5, 7]])
    squares = layout(each.T).squares
    worth = worth_of(ZERO, -each)
    assert worth.se_permutations == worth.se_draw == 0 and squares[1] == 0
    variance = squares[0] / 6
    assert worth.se_users ** 2 + worth.se_rest ** 2 == pytest.approx(variance)
    assert worth.half == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(variance)) and worth.freedom == 2


@pytest.mark.numeric
def test_one_permutation_is_the_paired_t_interval_over_users():
    rng = np.random.default_rng(0)
    value, control = rng.random(40), rng.random(40)
    worth = worth_of(value[None], control[None])
    expected = stats.ttest_rel(value, control).confidence_interval(0.95)
    assert worth.over == USERS_ONLY == "control: 1, interval over users only"
    assert (worth.difference - worth.half, worth.difference + worth.half) == pytest.approx(tuple(expected))
    assert np.isnan(worth.se_permutations) and np.isnan(worth.se_draw)


@pytest.mark.numeric
def test_seeds_of_other_numbers_than_the_permutations_add_their_component():
    """Values 0 and 2 of all users by seed: the seeds' variance is 2, that of their mean 1, and nothing else varies."""
    value = np.array([[0.0, 0, 0], [2, 2, 2]])
    worth = worth_of(value, np.zeros((4, 3)))
    assert worth.difference == 1 and worth.se_seeds == pytest.approx(1) and worth.se_users == 0
    assert worth.half == pytest.approx(stats.t.ppf(0.975, 1))
    paired = worth_of(value, value - 0.5, paired=True)      # the control's own spread, whether of orders or of seeds
    assert paired.difference == 0.5 and paired.se_draw ** 2 == pytest.approx(2) and paired.paired
    assert paired.half == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(2))


@pytest.mark.numeric
def test_metrics_of_all_users_together_have_an_interval_over_permutations():
    control = np.array([0.1, 0.2, 0.3, 0.4])
    worth = worth_of_means([0.5], control)
    assert worth.over == PERMUTATIONS_ONLY and worth.difference == pytest.approx(0.25)
    assert worth.half == pytest.approx(stats.t.ppf(0.975, 3) * control.std(ddof=1) * math.sqrt(1 + 1 / 4))
    assert np.isnan(worth_of_means([0.5], [0.2]).half)
    both = worth_of_means([0.5, 0.6], control)
    parts = np.array([control.var(ddof=1) * (1 + 1 / 4), 0.005 / 2])
    freedom = parts.sum() ** 2 / (parts ** 2 / [3, 1]).sum()
    assert both.freedom == pytest.approx(freedom)
    assert both.half == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum()))


def test_edges():
    """One user, none, a user without a value, and differences that are all alike."""
    one = worth_of([[0.4]], [[0.1], [0.3]])
    assert one.difference == pytest.approx(0.2) and np.isnan(one.half) and one.over == NO_INTERVAL
    none = worth_of(np.full((1, 2), np.nan), np.zeros((2, 2)))
    assert np.isnan(none.difference) and none.users == 0 and none.over == NO_INTERVAL
    rng = np.random.default_rng(1)
    value, control = rng.random((1, 30)), rng.random((5, 30))
    kept = worth_of(value[:, :-1], control[:, :-1])
    control[2, -1] = np.nan
    assert worth_of(value, control) == kept and kept.users == 29
    same = worth_of(np.ones((1, 4)), np.ones((5, 4)))
    assert (same.difference, same.half) == (0, 0)


# --------------------------------------------------------------------------- simulations with known components

WORTH, WORLDS = 0.3, 1500


def coverage(users, permutations, seeds, spread, paired, seed, worth=WORTH):
    """Shares of simulated worlds whose intervals hold the worth: the crossed one, and one over users alone.

    spread: standard deviations of users, orders of the rows, rest and seeds; the true order is one more draw of the
    control's, and each permutation a training of its own. Users have a level of their own besides, which value and
    control share.
    """
    rng = np.random.default_rng(seed)
    of_users, of_permutations, rest, of_seeds = spread
    hits = np.zeros(2)
    for _ in range(WORLDS):
        level = rng.normal(size=users)
        value = (level + worth + rng.normal(0, of_users, users) + rng.normal(0, of_permutations)
                 + rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, rest, (seeds, users)))
        orders = rng.normal(0, of_permutations, (permutations, 1)) + rng.normal(0, of_seeds, (permutations, 1))
        control = level + orders + rng.normal(0, rest, (permutations, users))
        found = worth_of(value, control, paired)
        each = value.mean(axis=0) - control.mean(axis=0)
        over_users = stats.t.ppf(0.975, users - 1) * each.std(ddof=1) / math.sqrt(users)
        hits += abs(found.difference - worth) <= np.array([found.half, over_users])
    return hits / WORLDS


@pytest.mark.parametrize(("users", "permutations", "seeds", "spread", "paired"), [
    (200, 5, 1, (1, 0.2, 0.5, 0), False),      # both factors matter
    (200, 10, 1, (1, 0.2, 0.5, 0), False),
    (60, 5, 1, (0.01, 0.5, 0.1, 0), False),    # permutations alone: nu is near P - 1 = 4
    (200, 5, 1, (1, 0, 0.5, 0), False),        # users alone: nu is near U - 1
    (200, 5, 5, (1, 0.1, 0.5, 0.1), True),     # each permutation with a seed
    (200, 10, 5, (1, 0.1, 0.5, 0.1), False),   # seeds of other numbers
    (200, 5, 5, (0.1, 0.4, 0.5, 0.4), True),   # orders and seeds are nearly all of it
    (200, 10, 10, (0.1, 0.4, 0.5, 0.4), True),
    (200, 3, 3, (0.1, 0.4, 0.5, 0), True),     # runs without chance, repeated under the permutations' seeds
])
def test_the_interval_holds_the_truth_95_times_of_100(users, permutations, seeds, spread, paired):
    """1,500 worlds: binomial sd .0056, four of them are .023; Satterthwaite's nu itself is off by less than .01."""
    crossed, _ = coverage(users, permutations, seeds, spread, paired, seed=users + permutations)
    assert crossed > 0.95 - 0.033
    if seeds == 1 or not spread[3]:     # the spread of several seeds counts twice, which makes the interval wide
        assert crossed < 0.95 + 0.033


@pytest.mark.parametrize("permutations", [5, 10])
@pytest.mark.parametrize("of_seeds", [0.02, 0.2, 0.6])
def test_one_run_of_a_trained_method_has_the_spread_of_the_permutations(permutations, of_seeds):
    """Value and permutations are trainings, the value a single one; with five, nu is off by up to .02."""
    held, _ = coverage(200, permutations, 1, (1, of_seeds, 0.5, of_seeds), False, seed=permutations)
    assert 0.91 < held < 0.985


@pytest.mark.parametrize("permutations", [5, 10])
def test_noise_is_worth_something_no_more_often_than_stated(permutations):
    """Vectors of noise: the true order is one of the permutations. The lower 99 % limit of the rate of alarms."""
    held, over_users = coverage(60, permutations, 1, (0.01, 0.2, 0.1, 0), False, seed=permutations, worth=0.0)
    alarms = round((1 - held) * WORLDS)
    assert alarms > 20 and stats.beta.ppf(0.01, alarms, WORLDS - alarms + 1) <= 0.05 < (1 - over_users) / 4


@pytest.mark.numeric
def test_paired_seeds_leave_the_spread_of_the_control_as_one_more_draw():
    """s2 of the differences' columns over P, and that of the control's, each of all users alike."""
    value, control = np.repeat([[0.1], [0.5], [0.3]], 4, 1), np.repeat([[0.0], [1.0], [2.0]], 4, 1)
    worth = worth_of(value, control, paired=True)
    each, draw = (value - control)[:, 0], control[:, 0].var(ddof=1)
    assert worth.se_draw ** 2 == pytest.approx(draw)
    assert worth.se_permutations ** 2 == pytest.approx(each.var(ddof=1) / 3)
    assert worth.half == pytest.approx(stats.t.ppf(0.975, worth.freedom) * np.sqrt(draw + each.var(ddof=1) / 3))


def test_an_interval_over_users_alone_is_too_short_where_permutations_matter():
    """s2_b (1 + 1 / P) = .048 beside s2_a / U + s2_e (1 + 1 / P) / U = .0065: 1.96 sqrt(.0065 / .0545) = .68 sd."""
    _, over_users = coverage(200, 5, 1, (1, 0.2, 0.5, 0), False, seed=5)
    assert abs(over_users - 0.50) < 0.05


@pytest.mark.numeric
def test_equal_values_under_the_seeds_of_the_permutations_are_one_value():
    """Runs without chance, repeated: pairing them would count the control's spread twice, as if it were two samples."""
    control = np.random.default_rng(6).normal(size=(4, 12)) + np.arange(4)[:, None]
    value = np.random.default_rng(7).normal(size=12)
    assert worth_of(np.tile(value, (4, 1)), control, paired=True) == worth_of(value[None], control)
    means = control.mean(axis=1)
    repeated, once = worth_of_means([0.5] * 4, means, paired=True), worth_of_means([0.5], means)
    assert (repeated.half, repeated.freedom) == (once.half, once.freedom)
