"""Paired tests over users for table.py --against: is the difference to one run more than chance among these users?

Both have values of the same users, so a test looks at the differences d_u of each user's two values (a mean over
the repeats where there are several) alone:

    t          mean(d) / (sd(d) / sqrt(U)) against Student's t with U - 1 degrees of freedom, two-sided
    bootstrap  RESAMPLES draws of U users with replacement, the same draws for every row: the percentile interval
               of mean(d), and p = (1 + #{|m* - mean(d)| >= |mean(d)|}) / (RESAMPLES + 1)
    effect     Cohen's d of paired samples, mean(d) / sd(d): what a larger sample does not make larger

p values are corrected by Holm over all rows tested in one metric of a table, as many rows are many tests. A row is
marked where both tests stay below LEVEL. Signed-rank and sign tests are left out on purpose: with thousands of users
they detect differences too small to matter, and not in the mean that the table shows.

Sources: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
Evaluation", CIKM 2007; Holm, Scand. J. Statist. 6, 1979; Davison and Hinkley, "Bootstrap Methods and their
Application", 1997, chapter 4.
"""
from dataclasses import dataclass

import numpy as np

from harness.errors import WorkError

LEVEL = 0.05
RESAMPLES = 10_000
SEED = 42
BLOCK = 1 << 22   # draws of users held at once


@dataclass
class Paired:
    """A row's difference to the reference and its tests. p values are corrected for the rows beside it."""
    difference: float
    low: float        # 95 % interval of the difference, bootstrap
    high: float
    p_t: float
    p_bootstrap: float
    effect: float     # difference in standard deviations of the users' differences

    @property
    def mark(self):
        """'↑' or '↓' where the row is above or below the reference in both tests, '' where not."""
        if not max(self.p_t, self.p_bootstrap) < LEVEL:
            return ""
        return "↑" if self.difference > 0 else "↓"


def compare(values, reference, resamples=RESAMPLES, seed=SEED):
    """Tests of R rows against one, a Paired for each row.

    values: float64 (R, U), a value of each user; reference: float64 (U,), of the same users. A user whose value is
    NaN in the row or in the reference (no list, so no Popularity of it) is left out of that row's tests; a row that
    keeps fewer than two such users has NaN throughout, no mark, and no part in the correction.
    Rows that differ by the same amount at every user have no spread: their effect is infinite, their t test
    certain; equal rows have p 1 and effect 0. Raises WorkError with fewer than two users.
    """
    values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    each = values - reference                                                          # (R, U)
    each[np.abs(each) <= 1e-12 * np.maximum(np.abs(values), np.abs(reference))] = 0.0  # the last bits of means
    n = each.shape[1]
    if n < 2:
        raise WorkError(f"paired tests need at least two users, and there {'is one' if n else 'are none'}")
    known = ~np.isnan(each)
    columns = np.full((6, len(each)), np.nan)                    # mean, low, high, p of t, p of the bootstrap, effect
    for kept in np.unique(known, axis=0):                        # rows of the same users share their draws
        if kept.sum() > 1:
            rows = (known == kept).all(axis=1)
            some = np.ascontiguousarray(each[rows][:, kept])
            mean, effect, p_t = t_test(some)
            low, high, p_bootstrap = bootstrap(some, resamples, seed)
            columns[:, rows] = mean, low, high, p_t, p_bootstrap, effect
    tested = ~np.isnan(columns[3])
    for p in columns[3:5]:
        p[tested] = holm(p[tested])
    return [Paired(*map(float, row)) for row in columns.T]


def t_test(each):
    """Mean, effect size and two-sided p of paired differences (R, U), each (R,); not corrected.

    The test is scipy's, except where differences are constant up to rounding: there it warns, and equal rows get NaN.
    """
    from scipy.stats import ttest_1samp
    mean, sd = each.mean(axis=1), each.std(axis=1, ddof=1)
    constant = sd <= 1e-12 * np.abs(each).max(axis=1)
    sd[constant] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(mean == 0, 0.0, mean / sd)
    p = np.where(mean == 0, 1.0, 0.0)
    if not constant.all():
        p[~constant] = ttest_1samp(each[~constant], 0.0, axis=1).pvalue
    return mean, effect, p


def bootstrap(each, resamples=RESAMPLES, seed=SEED):
    """95 % percentile interval (low, high) and two-sided p of the mean of differences (R, U), each (R,)."""
    rng, n = np.random.default_rng(seed), each.shape[1]
    means, size = np.empty((resamples, len(each))), max(1, BLOCK // n)
    for start in range(0, resamples, size):
        block = means[start:start + size]
        drawn = rng.integers(n, size=(len(block), n)) + n * np.arange(len(block))[:, None]
        times = np.bincount(drawn.ravel(), minlength=len(block) * n).reshape(len(block), n)
        np.matmul(times.astype(np.float64), each.T / n, out=block)                     # (resamples, R)
    mean = each.mean(axis=1)
    # a resample of equal differences is as far as they are, whatever the last bit says
    beyond = (np.abs(means - mean) >= np.abs(mean) * (1 - 1e-12)).sum(axis=0)
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return low, high, (1 + beyond) / (resamples + 1)


def holm(p):
    """Holm's step-down correction of p values (R,): each is at least as large as before, and at most 1."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def mark_table(table, reference):
    """Give the figures of a render.Table their tests against those of one cell ({column: results.Figure}).

    Shuffled rows are not tested: their repeats are permutations, each one ranking for all users. A figure that
    appears in several columns of the table is one hypothesis.
    """
    for column in table.columns:
        ours = reference[column]
        ours.mark = "reference"
        slots = (slot for _, slots in table.rows for slot in slots if column in slot.figures and not slot.shuffled)
        tested = {id(f): f for f in (slot.figures[column] for slot in slots) if f is not ours and f.each is not None}
        if ours.each is None or not tested:
            continue
        results = compare(np.stack([f.each for f in tested.values()]), ours.each)
        for figure, result in zip(tested.values(), results, strict=True):
            figure.against, figure.mark = result, result.mark
