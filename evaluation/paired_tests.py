"""Paired tests for table.py: is the difference to one run more than the chance of these users, and of these seeds?

Both have values of the same users, so a test looks at the differences d_u of each user's two values:

    t          mean(d) / (sd(d) / sqrt(U)) against Student's t with U - 1 degrees of freedom, two-sided
    bootstrap  RESAMPLES draws of U users with replacement, the same draws for every row: the percentile interval
               of mean(d), and p = (1 + #{|m* - mean(d)| >= |mean(d)|}) / (RESAMPLES + 1)
    effect     Cohen's d of paired samples, mean(d) / sd(d): what a larger sample does not make larger

Where one of the two has several seeds, these are a sample as the users are: another training would have another
value. t and the interval then are those of users and seeds crossed, seed by seed where both have the same, against
Student's t of both, weighted by what varies more (crossed.Estimate.critical). The bootstrap stays over users. With one
seed nothing is known of the others, and a difference of two trainings may be that of their seeds. Two or three seeds
say little of their spread: where it decides, such tests find more differences than they say, corrected ones above all
(in simulations without a difference up to 6 % at .05 and .7 % at .001 with three seeds, 8 and 3 % with two).

p values are corrected over all rows compared with one run in one metric, a family, as many rows are many tests: by
Holm, which keeps the probability of any false difference below LEVEL, or by Benjamini and Hochberg, which keeps the
expected share of false ones among the differences it reports below LEVEL. A row is above or below where both tests stay
below LEVEL; where not, the two are not distinguishable here, which is no evidence of equality. Signed-rank and sign
tests are left out on purpose: with thousands of users they detect differences too small to matter, and not in the mean
that the table shows.

Sources: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
Evaluation", CIKM 2007; Holm, Scand. J. Statist. 6, 1979; Benjamini and Hochberg, J. R. Statist. Soc. B 57, 1995, valid
for the positively dependent tests of comparisons with one run (Benjamini and Yekutieli, Ann. Statist. 29, 2001);
Davison and Hinkley, "Bootstrap Methods and their Application", 1997, chapter 4.
"""
from dataclasses import dataclass

import numpy as np

from evaluation import crossed
from harness.errors import WorkError

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 10_000
SEED = 42
CORRECTIONS = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
BLOCK = 1 << 22   # draws of users held at once


@dataclass
class Paired:
    """A row's difference to the reference and its tests. p values are corrected for the rows beside it."""
    difference: float
    low: float        # 95 % interval of the difference, bootstrap; with seeds that of t
    high: float
    p_t: float
    p_bootstrap: float
    effect: float     # difference in standard deviations of the users' differences
    reach: float = np.nan    # the difference that t shows with a power of .8 at p < LEVEL, uncorrected
    over_seeds: bool = False

    @property
    def mark(self):
        """'↑' or '↓' where the row is above or below the reference in both tests, '' where not."""
        if not max(self.p_t, self.p_bootstrap) < LEVEL:
            return ""
        return "↑" if self.difference > 0 else "↓"

    @property
    def undecided(self):
        """Whether the tests do not distinguish the two; False where nothing could be tested."""
        return not self.mark and not np.isnan(self.p_t)


def compare(values, reference, resamples=RESAMPLES, seed=SEED, families=None, correction="holm", repeats=None):
    """Tests of R rows against one, or each against its own, a Paired for each row.

    values: float64 (R, U), a value of each user; reference: float64 (U,) or (R, U), of the same users
    repeats: for each row None, or the crossed.Terms of the row and of its reference, whose means over their seeds are
        its values and its reference: at least one has two seeds or more (default: None for all)
    families: a number for each row; p values are corrected within a family (default: all rows are one)
    correction: holm or bh
    A user whose value is NaN in the row or in the reference (no list, so no Popularity of it) is left out of that
    row's tests; a row that keeps fewer than two such users has NaN throughout, no mark, and no part in the correction.
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
    columns = np.full((7, len(each)), np.nan)       # mean, low, high, p of t, p of the bootstrap, effect, reach
    for kept in np.unique(known, axis=0):                        # rows of the same users share their draws
        if kept.sum() > 1:
            rows = (known == kept).all(axis=1)
            some = np.ascontiguousarray(each[rows][:, kept])
            mean, effect, p_t = t_test(some)
            low, high, p_bootstrap = bootstrap(some, resamples, seed)
            columns[:6, rows] = mean, low, high, p_t, p_bootstrap, effect
            columns[6, rows] = crossed.reach(some.std(axis=1, ddof=1) / np.sqrt(kept.sum()), kept.sum() - 1)
    repeats = [None] * len(each) if repeats is None else repeats
    for row, terms in enumerate(repeats):
        if terms is not None and not np.isnan(columns[3, row]):
            columns[[1, 2, 3, 6], row] = over_seeds(terms)
    families = np.zeros(len(each), int) if families is None else np.asarray(families)
    for family in np.unique(families):
        tested = ~np.isnan(columns[3]) & (families == family)
        for p in columns[3:5]:
            p[tested] = corrected(p[tested], correction)
    return [Paired(*map(float, row), terms is not None) for row, terms in zip(columns.T, repeats, strict=True)]


def over_seeds(terms):
    """(low, high, p of t, reach) of a contrast of crossed.Terms; p not corrected."""
    result = crossed.estimate(terms)
    if not result.se > 0:   # the same difference for every user and seed
        return result.effect, result.effect, result.p_two_sided(), 0.0
    half = result.critical(LEVEL) * result.se
    reach = half + result.critical(2 * (1 - POWER)) * result.se
    return result.effect - half, result.effect + half, result.p_two_sided(), reach


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


def corrected(p, correction="holm"):
    """p values (R,) corrected for being R: by Holm, or by Benjamini and Hochberg (scipy's)."""
    if correction == "holm" or not len(p):
        return holm(p)
    from scipy.stats import false_discovery_control
    return false_discovery_control(p, method=correction)


def holm(p):
    """Holm's step-down correction of p values (R,): each is at least as large as before, and at most 1."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(stepped, 1.0)
    return result
