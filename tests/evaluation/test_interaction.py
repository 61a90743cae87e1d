"""Whether content is worth more in one segment than in another: the test's false alarms, its power, its edges."""
import numpy as np
import pytest
from scipy import stats

from evaluation.interaction import interaction
from evaluation.leaderboard import Leaderboard, Row
from evaluation.profits import who_profits
from evaluation.results import Cell, Figure


def world(rng, worth, users=150, permutations=5, spread=0.1, overlap=False):
    """Differences of three segments with the given worth; each user's own level is in all of its segments, each
    permutation has an effect of its own in each segment, and so has the true order."""
    level, ids, differences = rng.standard_exponential(users) - 1, [], []
    for i, mean in enumerate(worth):
        own = (np.sort(rng.choice(users, users // 2, replace=False)) if overlap
               else np.arange(i * users // len(worth), (i + 1) * users // len(worth)))
        noise = rng.normal(size=(permutations, len(own))) + rng.normal(0, spread, (permutations, 1))
        ids.append(own)
        differences.append(mean + level[own] + noise + (rng.normal(0, spread) if permutations > 1 else 0))
    return ids, differences


@pytest.mark.parametrize(("permutations", "spread", "overlap"), [
    (1, 0.0, False), (5, 0.3, False), (5, 0.1, False), (5, 0.3, True)])
def test_equal_worth_is_called_unequal_no_more_often_than_stated(permutations, spread, overlap):
    """1,000 worlds: the lower 99 % limit of the rate is at most 5 % where at most 66 alarms are given."""
    rng = np.random.default_rng(7)
    alarms = sum(interaction(*world(rng, (0.2, 0.2, 0.2), 150, permutations, spread, overlap)).p < 0.05
                 for _ in range(1000))
    assert stats.beta.ppf(0.01, alarms, 1000 - alarms + 1) <= 0.05
    assert alarms > 5     # it is a test, not silence


@pytest.mark.parametrize("small", [5, 12])
def test_a_segment_of_few_users_alarms_no_more_often(small):
    """Beside 150 users in the other segment; with all users' degrees of freedom 5 users alarmed in 15 % of worlds."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(1000):
        sizes = (small, 150)
        ids = [np.arange(small), np.arange(small, small + 150)]
        alarms += interaction(ids, [rng.normal(size=(1, n)) for n in sizes]).p < 0.05
    assert 2 < alarms and stats.beta.ppf(0.01, alarms, 1000 - alarms + 1) <= 0.05


def test_users_who_all_have_one_difference_leave_the_permutations_to_test_with():
    each = [np.repeat(np.array(values, float)[:, None], 20, 1) for values in ((0, 1, 2, 3, 4), (1, 1, 3, 2, 8))]
    found = interaction([np.arange(20), np.arange(20, 40)], each)
    assert found.freedom == 4 and 0 < found.p < 1


def test_where_permutations_alone_vary_it_is_hotellings_test():
    """Three segments of users who are all alike, six permutations: T2 with n - 1 degrees of freedom, by hand."""
    rows = np.random.default_rng(21).normal(size=(6, 3)) + [0, 1, 2]
    users = [np.arange(i * 9, i * 9 + 9) for i in range(3)]
    found = interaction(users, [np.repeat(row[:, None], 9, 1) for row in rows.T])
    contrasts = np.diff(rows, axis=1)                                                   # (6, 2)
    mean, covariance = contrasts.mean(axis=0), np.cov(contrasts.T) * (1 + 1 / 6)
    t2 = mean @ np.linalg.solve(covariance, mean)
    assert found.freedom == pytest.approx(5)
    assert found.p == pytest.approx(stats.f.sf(t2 * (5 - 2 + 1) / (5 * 2), 2, 5 - 2 + 1), rel=1e-9)


def test_seeds_of_the_value_that_are_not_the_permutations_count_too():
    """Five seeds whose effect differs from segment to segment, ten permutations: false alarms as often as stated."""
    rng, alarms = np.random.default_rng(14), 0
    for _ in range(400):
        ids, controls = world(rng, (0.0, 0.0), 150, 10, 0.03)
        values = [rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.1, (5, len(one))) for one in ids]
        each = [value.mean(axis=0) - control for value, control in zip(values, controls, strict=True)]
        alarms += interaction(ids, each, values).p < 0.05
    assert 2 < alarms and stats.beta.ppf(0.01, alarms, 400 - alarms + 1) <= 0.05


def test_one_run_of_a_trained_method_alarms_no_more_often_either():
    """Value and permutations are trainings whose effect differs from segment to segment, the value a single one."""
    rng, alarms = np.random.default_rng(16), 0
    for _ in range(400):
        ids, controls = world(rng, (0.0, 0.0), 150, 10, 0.3)
        each = [rng.normal(0, 0.1, len(own)) - control        # `world` draws the value's, too
                for own, control in zip(ids, controls, strict=True)]
        alarms += interaction(ids, each).p < 0.05
    assert 2 < alarms and stats.beta.ppf(0.01, alarms, 400 - alarms + 1) <= 0.05


@pytest.mark.parametrize(("permutations", "own"), [((1, 2, 3), False), ((1, 2, 3, 4), True)])
def test_the_table_hands_over_seeds_that_are_not_the_permutations(permutations, own):
    rng, boards, each, values, controls = np.random.default_rng(15), {}, [], [], []

    def cell(seeds):
        return Cell("shallow", "a", False, {}, [(f"r{seed}", {"request": {"seed": seed}}) for seed in seeds])

    def figure(table):
        return Figure(table.mean(), 0, 0, len(table), table.mean(axis=0), table, table.mean(axis=1))
    cells = cell((2, 1, 3)), cell(permutations)
    for name in ("light", "heavy"):
        value, control = rng.normal(size=(3, 30)), rng.normal(size=(len(permutations), 30))
        row = Row("with content", "shallow", "Shallow Net", "a", "", "", cells[0], cells[1],
                  {"NDCG@10": figure(value)}, {"NDCG@10": figure(control)}, {"NDCG@10": "worth"})
        boards[name] = Leaderboard("test", ["NDCG@10"], [row], {}), np.arange(30)
        each.append((value.mean(axis=0) if own else value) - (control if own else control[[1, 0, 2]]))
        values.append(value)
        controls.append(control)
    (result,) = who_profits(boards, "user-activity")
    expected = interaction([np.arange(30)] * 2, each, *((values, None) if own else (None, controls)))
    assert result["test"].p == expected.p and result["test"].freedom == expected.freedom


def test_unequal_worth_is_seen():
    rng = np.random.default_rng(8)
    assert np.mean([interaction(*world(rng, (0.0, 0.0, 1.5))).p < 0.05 for _ in range(200)]) > 0.8


def test_two_segments_of_other_users_and_one_permutation_are_welchs_t_test():
    rng = np.random.default_rng(9)
    a, b = rng.normal(0, 1, 4000), rng.normal(0.05, 2, 3000)
    result = interaction([np.arange(4000), np.arange(4000, 7000)], [a[None], b[None]])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert result.statistic == pytest.approx(welch.statistic ** 2, rel=1e-9)
    assert result.p == pytest.approx(welch.pvalue, rel=1e-9)
    np.testing.assert_allclose(result.means, [a.mean(), b.mean()])


def test_the_same_users_in_both_segments_are_compared_within_themselves():
    rng = np.random.default_rng(10)
    level, ids = rng.normal(0, 50, 300), np.arange(300)
    pair = [(level + rng.normal(0, 0.1, 300))[None], (level + 0.1 + rng.normal(0, 0.1, 300))[None]]
    paired = stats.ttest_rel(pair[0][0], pair[1][0])
    assert interaction([ids, ids], pair).p == pytest.approx(paired.pvalue, rel=1e-9) and paired.pvalue < 1e-6


def test_the_order_of_segments_does_not_matter():
    ids, differences = world(np.random.default_rng(11), (0.1, 0.2, 0.4), overlap=True)
    turned = [2, 0, 1]
    one, two = interaction(ids, differences), interaction([ids[i] for i in turned], [differences[i] for i in turned])
    assert one.statistic == pytest.approx(two.statistic)


def test_users_without_a_value_are_left_out():
    ids, differences = world(np.random.default_rng(12), (0.1, 0.2, 0.3))
    gaps = [d.copy() for d in differences]
    gaps[0][2, :5] = np.nan
    left = [ids[0][5:], *ids[1:]], [differences[0][:, 5:], *differences[1:]]
    assert interaction(ids, gaps).p == interaction(*left).p


@pytest.mark.parametrize(("ids", "differences"), [
    ([np.arange(5)], [np.ones((2, 5))]),                                          # one segment
    ([np.arange(5), np.array([7])], [np.ones((2, 5)), np.ones((2, 1))]),          # one user
    ([np.arange(5), np.arange(5, 9)], [np.ones((2, 5)), np.zeros((2, 4))]),       # nothing varies
    ([np.arange(5), np.zeros(0, int)], [np.ones((2, 5)), np.zeros((2, 0))]),      # nobody
])
def test_what_cannot_be_tested_has_no_p(ids, differences):
    assert np.isnan(interaction(ids, differences).p)
