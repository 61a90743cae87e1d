"""Means over users and seeds at once: mean squares of the two-way layout, and intervals of linear contrasts of runs.

The same users occur under every seed, so users and seeds are crossed random factors. A contrast is a weighted sum of
methods, each with a table of values (seeds, users). With d_us the contrast of user u (of U) under seed s (of S),
d_us = mu + a_u + b_s + e_us, and the mean squares of the two-way layout with one observation per cell

    MS_users = S sum_u (d_u. - d..)^2 / (U - 1)          MS_seeds = U sum_s (d_.s - d..)^2 / (S - 1)
    MS_rest  = sum_us (d_us - d_u. - d_.s + d..)^2 / ((U - 1) (S - 1))

the components are s2_e = MS_rest, s2_a = (MS_users - MS_rest) / S and s2_b = (MS_seeds - MS_rest) / U, a negative one
set to 0, and Var(d..) = s2_a / U + s2_b / S + s2_e / (U S). Methods that ran with the same seeds are one table, seed by
seed. Those with other seeds, or another number of them, are a table each: tables g share their users, so that
Var(d..) = var_u(d_u.) / U + sum_g s2_b,g / S_g. A method in which nothing is random has one value of each user.

An interval over users alone takes the seeds that were drawn for all there are. Intervals of contrasts use Student's t
with the seeds' degrees of freedom, the least S_g - 1 (without seeds U - 1): few seeds make them wide, and where the
users vary more than the seeds they hold the truth more often than they say. The paired tests of the tables weigh
the two by what varies more (`Estimate.critical`).

Sources: Searle, Casella and McCulloch, "Variance Components", Wiley 1992, section 4.3 (crossed classification, one
observation per cell: the mean squares' expectations, negative estimates); Satterthwaite, Biometrics Bulletin 2, 1946;
Cornfield and Tukey, Ann. Math. Statist. 27, 1956 (which components enter the variance of a mean); Cochran and Cox,
"Experimental Designs", Wiley 1957, section 4.14 (a sum of variances with degrees of freedom of their own).
"""
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-12
SMALLEST_P = 1e-100   # stdtrit is no longer exact far below
MOST = 10 ** 9   # users or seeds: a larger number says no more than that it is out of reach


@dataclass
class Layout:
    """Two-way layout of one observation per cell: mean squares of rows, columns and rest, and their degrees of freedom.

    A factor with a single level has no mean square (NaN) and no degrees of freedom (0).
    """
    squares: np.ndarray     # (3,) rows, columns, rest
    freedom: np.ndarray     # (3,)
    shape: tuple

    def components(self):
        """Variance components (rows, columns, rest), float64 (3,); negative estimates are 0, unknown ones NaN."""
        n, m = self.shape
        rest = self.squares[2]
        return np.append(np.maximum(0.0, (self.squares[:2] - rest) / np.array([m, n])), rest)   # NaN stays NaN

    def terms(self):
        """Coefficients of the mean squares in Var(mean), float64 (3,), with negative components set to 0."""
        rows, columns = (float(self.squares[i] > self.squares[2]) for i in (0, 1))
        return np.array([rows, columns, 1 - rows - columns]) / np.prod(self.shape)


def layout(table):
    """The Layout of a table (n, m) of finite numbers."""
    table = np.asarray(table, np.float64)
    n, m = table.shape
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    rest = table - rows[:, None] - columns[None, :] + mean
    sums = np.array([m * ((rows - mean) ** 2).sum(), n * ((columns - mean) ** 2).sum(), (rest ** 2).sum()])
    freedom = np.array([n - 1, m - 1, (n - 1) * (m - 1)], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Layout(np.where(freedom > 0, sums / freedom, np.nan), freedom, (n, m))


def half_width(squares, coefficients, freedom):
    """(half-width of the 95 % interval, degrees of freedom) of a mean whose variance is coefficients @ squares.

    Satterthwaite's degrees of freedom, but at least 1: with a negative coefficient they can fall below the smallest of
    their own.
    """
    from scipy.special import stdtrit
    parts = coefficients * squares
    variance = parts.sum()
    if not variance > 0:
        return (0.0 if variance == 0 else np.nan), np.nan
    used = parts != 0
    nu = max(variance ** 2 / (parts[used] ** 2 / freedom[used]).sum(), 1.0)
    return float(stdtrit(nu, 0.975) * np.sqrt(variance)), float(nu)


# --------------------------------------------------------------------------- contrasts

@dataclass
class Term:
    """One method of a contrast: weight times its values.

    table: float64 (S, U), each user's value under each seed; seeds: the seed of each row, by which methods are paired
    control: whether its seeds are permutations of an embedding whose own order is one of the values beside it: then
        that order is one more draw, and its variance s2_b counts once besides
    once: whether it is one run of a method in which something is random: its seed is one more draw, and the largest
        s2_b of the terms beside it counts for it, undivided
    """
    weight: float
    table: np.ndarray
    seeds: tuple
    control: bool = False
    once: bool = False


@dataclass
class Estimate:
    """A contrast's mean over users and seeds, with what its standard error is made of.

    s2_users: variance between users of what does not depend on the seed; s2_seeds, s2_rest: float64 (G,), the
    components of each table of seeds; seeds: (G,) how many each has
    se, freedom: NaN with fewer than two users
    """
    effect: float
    se: float
    freedom: float
    users: int
    seeds: np.ndarray
    s2_users: float
    s2_seeds: np.ndarray
    s2_rest: np.ndarray
    more: float = 0.0            # variance of single draws: neither more users nor more seeds make it less

    def interval(self, level=0.95):
        """(low, high) at a level of confidence; a point where nothing varies."""
        from scipy.special import stdtrit
        half = 0.0 if self.se == 0 else stdtrit(self.freedom, (1 + level) / 2) * self.se
        return self.effect - half, self.effect + half

    def p_above(self, bound):
        """One-sided p value of `effect <= bound`: small where the effect is above. 0, .5 or 1 where nothing varies."""
        from scipy.special import stdtr
        if self.se == 0:
            return 0.5 - 0.5 * float(np.sign(self.effect - bound))
        return float(stdtr(self.freedom, (bound - self.effect) / self.se))

    def p_below(self, bound):
        """One-sided p value of `effect >= bound`: small where the effect is below."""
        return 1.0 - self.p_above(bound) if self.se == 0 else _p_below(self, bound)

    def parts(self):
        """[(part of se ** 2, its degrees of freedom)]: what varies between users, and the seeds of each table."""
        of_users = (self.s2_users + float((self.s2_rest / self.seeds).sum())) / self.users
        single = [(self.more, self.seeds.min() - 1)] if self.more > 0 else []
        return [(of_users, self.users - 1), *zip(self.s2_seeds / self.seeds, self.seeds - 1, strict=True), *single]

    def critical(self, level):
        """How many standard errors an effect is from 0 with a two-sided p of `level`, after Cochran and Cox.

        Student's t of each part's own degrees of freedom, weighted by the part. One t with the degrees of freedom of
        the whole (Satterthwaite) is too small for the low levels that a correction for many tests asks for.
        """
        from scipy.special import stdtrit
        parts = [(size, freedom) for size, freedom in self.parts() if size > 0]
        return sum(-size * float(stdtrit(freedom, level / 2)) for size, freedom in parts) / sum(s for s, _ in parts)

    def p_two_sided(self):
        """The level at which the effect is `critical` standard errors from 0; 1 or 0 where nothing varies."""
        from scipy.optimize import brentq
        if not self.se > 0:
            return float(self.effect == 0)
        away = abs(self.effect) / self.se
        if away == 0 or self.critical(SMALLEST_P) <= away:
            return 1.0 if away == 0 else SMALLEST_P
        return float(np.exp(brentq(lambda log: self.critical(np.exp(log)) - away, np.log(SMALLEST_P), 0, xtol=1e-10)))

    def error(self, users=None, seeds=None):
        """The standard error that other numbers of users and of seeds (of every table) would give."""
        users, each = users or self.users, self.seeds if seeds is None else seeds
        variance = self.s2_users / users + self.more
        if len(self.seeds):
            variance = variance + ((self.s2_seeds + self.s2_rest / users) / each).sum()
        return float(np.sqrt(variance))

    def degrees(self, users=None, seeds=None):
        """Degrees of freedom with other numbers of users and seeds."""
        if not len(self.seeds):
            return (users or self.users) - 1
        return (self.seeds.min() if seeds is None else seeds) - 1


def _p_below(estimate, bound):
    from scipy.special import stdtr
    return float(stdtr(estimate.freedom, (estimate.effect - bound) / estimate.se))


def estimate(terms):
    """The Estimate of a contrast of Terms on the same users. A user with a NaN in any of them is left out.

    Terms with the same seeds, two or more, are paired seed by seed. A term with a single row adds its users' values and
    no component of seeds; where it ran once and something in it is random (`once`), it is given that of the others.
    """
    known = np.all([np.isfinite(term.table).all(axis=0) for term in terms], axis=0)
    users = int(known.sum())
    base, tables = np.zeros(users), {}
    for term in terms:
        table, seeds = term.weight * np.asarray(term.table, np.float64)[:, known], tuple(term.seeds)
        if len(table) == 1:
            base += table[0]
            continue
        order = sorted(range(len(seeds)), key=lambda i: str(seeds[i]))
        key = tuple(str(seeds[i]) for i in order)
        tables[key] = tables.get(key, 0) + table[order]
    each = base + sum(table.mean(axis=0) for table in tables.values())
    sizes = np.array([len(key) for key in tables], np.int64)
    if users < 2:
        nothing = np.full(len(sizes), np.nan)
        return Estimate(float(each.mean()) if users else np.nan, np.nan, np.nan, users, sizes, np.nan, nothing, nothing)
    size = max(float(np.abs(term.weight * term.table[:, known]).max()) for term in terms)
    parts = np.array([layout(table.T).components() for table in tables.values()]).reshape(-1, 3)
    seeds, rest = _zeroed(parts[:, 1], size), _zeroed(parts[:, 2], size)
    of_users = max(0.0, float(_zeroed(each.var(ddof=1), size)) - float((rest / sizes).sum()))
    more = sum(term.weight ** 2 * float(_zeroed(layout(term.table[:, known].T).components()[1], size))
               for term in terms if term.control and len(term.table) > 1)
    several = [_zeroed(layout(term.table[:, known].T).components()[1], size) for term in terms if len(term.table) > 1]
    more += sum(term.weight ** 2 * float(max(several)) for term in terms if term.once and several)
    effect = float(each.mean())
    result = Estimate(effect if abs(effect) > ROUNDING * size else 0.0, np.nan, np.nan, users, sizes, of_users, seeds,
                      rest, more)
    result.se, result.freedom = result.error(), float(result.degrees())
    return result


def _zeroed(variance, size):
    """Variances that are no more than the last bits of values of this size are 0: equal runs have no spread."""
    return np.where(variance <= (ROUNDING * size) ** 2, 0.0, variance)


# --------------------------------------------------------------------------- how many would do

def power(distance, se, freedom, level=0.95, variance_freedom=None):
    """Probability that an interval of this level ends on the near side of a bound `distance` (> 0) from the truth.

    variance_freedom: degrees of freedom of the estimated variance, where t's are fewer (default: the same)
    """
    from scipy.special import stdtrit
    from scipy.stats import nct
    if not se > 0:
        return float(distance > 0)
    critical = stdtrit(freedom, (1 + level) / 2)
    return float(nct.sf(critical, freedom if variance_freedom is None else variance_freedom, distance / se))


def reach(se, freedom, level=0.95, chance=0.8):
    """The smallest distance from a bound that an interval of this level shows with this probability: (t + t) se."""
    from scipy.special import stdtrit
    return (stdtrit(freedom, (1 + level) / 2) + stdtrit(freedom, chance)) * se


def users_needed(result, distance, level=0.95, chance=0.8):
    """How many users, with the seeds there are, would show a distance from the bound; None where no number would."""
    return _least(lambda n: reach(result.error(users=n), result.degrees(users=n), level, chance) <= distance, 2)


def seeds_needed(result, distance, level=0.95, chance=0.8):
    """How many seeds of every random method, with the users there are, would; None without seeds or where none do."""
    if not len(result.seeds):
        return None
    return _least(lambda n: reach(result.error(seeds=n), result.degrees(seeds=n), level, chance) <= distance, 2)


def _least(enough, low):
    """The least number from `low` on at which a condition that stays true is true; None beyond MOST."""
    high = low
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
