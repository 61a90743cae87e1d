"""What the content of a representation is worth: its figure minus that of the control, with an interval.

The control has the same vectors on the wrong tracks, one random permutation for each run. Both the users and the
permutations are samples, and every user meets every permutation: two crossed random factors. With d_up the difference
of user u (of U) under permutation p (of P), d_up = mu + a_u + b_p + e_up, and the mean squares of the two-way layout
with one observation per cell

    MS_users = P sum_u (d_u. - d..)^2 / (U - 1)          MS_permutations = U sum_p (d_.p - d..)^2 / (P - 1)
    MS_rest  = sum_up (d_up - d_u. - d_.p + d..)^2 / ((U - 1) (P - 1))

the components are s2_e = MS_rest, s2_a = (MS_users - MS_rest) / P and s2_b = (MS_permutations - MS_rest) / U, a
negative one set to 0, and

    Var(d..) = s2_a / U + s2_b / P + s2_e / (U P)        = (MS_users + MS_permutations - MS_rest) / (U P),

the last where no component was negative. The interval is d.. +- t(nu) sqrt(Var(d..)), with Satterthwaite's degrees of
freedom nu for that sum of mean squares. An interval over users alone leaves s2_b / P out: it takes the permutations
that were drawn for all there are.

Repeats of the value itself (seeds) that are those of the permutations are paired with them, each permutation with its
seed, and their spread is part of d_up. Other repeats are averaged for each user, and their component s2_seed / S, of
the same layout on the values, is added. A single run of a trained method shows no spread over seeds, so none is in its
interval.

Sources: Searle, Casella and McCulloch, "Variance Components", Wiley 1992, section 4.3 (crossed classification, one
observation per cell: the mean squares' expectations, negative estimates); Satterthwaite, Biometrics Bulletin 2, 1946;
Cornfield and Tukey, Ann. Math. Statist. 27, 1956 (which components enter the variance of a mean).
"""
from dataclasses import dataclass

import numpy as np

CROSSED = "users and permutations"
USERS_ONLY = "control: 1, interval over users only"
PERMUTATIONS_ONLY = "permutations only"     # of a metric of all users together
NO_INTERVAL = "one user, no interval"


@dataclass
class Worth:
    """Value minus control. NaN where something cannot be estimated; the squares of the four errors sum to the variance.

    half: half-width of the 95 % interval; over: what it is an interval over
    se_users, se_permutations, se_rest, se_seeds: parts of the standard error: sqrt(s2_a / U), sqrt(s2_b / P),
        sqrt(s2_e / (U P)) and sqrt(s2_seed / S)
    """
    difference: float
    half: float
    over: str
    users: int
    permutations: int
    paired: bool = False              # each permutation with a seed of the value
    freedom: float = np.nan
    se_users: float = np.nan
    se_permutations: float = np.nan
    se_rest: float = np.nan
    se_seeds: float = np.nan


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
        return np.array([max(0.0, (self.squares[0] - rest) / m), max(0.0, (self.squares[1] - rest) / n), rest])

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


def half_width(squares, coefficients, freedom, least):
    """(half-width of the 95 % interval, degrees of freedom) of a mean whose variance is coefficients @ squares.

    Satterthwaite's degrees of freedom, but at least `least`: with a negative coefficient they can fall below the
    smallest of their own.
    """
    from scipy.special import stdtrit
    parts = coefficients * squares
    variance = parts.sum()
    if not variance > 0:
        return (0.0 if variance == 0 else np.nan), np.nan
    used = parts != 0
    nu = max(variance ** 2 / (parts[used] ** 2 / freedom[used]).sum(), least)
    return float(stdtrit(nu, 0.975) * np.sqrt(variance)), float(nu)


def worth_of(value, control, paired=False):
    """The Worth of a value over its control.

    value:   float64 (S, U), each user's value in each repeat; control: float64 (P, U), of the same users in each
             permutation; paired: whether row i of both is one seed (then S = P)
    A user with a NaN in any row is left out. With one user, or none, there is no interval.
    """
    value, control = np.asarray(value, np.float64), np.asarray(control, np.float64)
    known = np.isfinite(value).all(axis=0) & np.isfinite(control).all(axis=0)
    value, control = value[:, known].T, control[:, known].T                            # (U, S), (U, P)
    users, permutations = control.shape
    each = (value if paired else value.mean(axis=1, keepdims=True)) - control          # (U, P)
    result = Worth(float(each.mean()) if users else np.nan, np.nan, NO_INTERVAL, users, permutations, paired)
    if users < 2:
        return result
    ours, seeds = layout(each), None
    if not paired and value.shape[1] > 1:
        seeds = layout(value)
    if permutations == 1:
        squares, coefficients, freedom = ours.squares[:1], np.array([1 / users]), ours.freedom[:1]
        result.over, least = USERS_ONLY, users - 1
        result.se_users = float(np.sqrt(ours.squares[0] / users))
    else:
        squares, coefficients, freedom = ours.squares, ours.terms(), ours.freedom
        result.over, least = CROSSED, min(users, permutations) - 1
        of_users, of_permutations, rest = ours.components()
        result.se_users = float(np.sqrt(of_users / users))
        result.se_permutations = float(np.sqrt(of_permutations / permutations))
        result.se_rest = float(np.sqrt(rest / each.size))
    if seeds is not None:
        component = seeds.components()[1] / value.shape[1]
        result.se_seeds = float(np.sqrt(component))
        if component > 0:
            more = np.array([0.0, 1.0, -1.0]) / np.prod(seeds.shape)
            squares, freedom = np.append(squares, seeds.squares), np.append(freedom, seeds.freedom)
            coefficients, least = np.append(coefficients, more), min(least, value.shape[1] - 1)
    result.half, result.freedom = half_width(squares, coefficients, freedom, least)
    return result


def worth_of_means(value, control, paired=False):
    """The Worth in a metric of all users together (Coverage): value float64 (S,), control float64 (P,).

    The interval is over permutations, and over the value's repeats where they are others and several.
    """
    value, control = np.asarray(value, np.float64), np.asarray(control, np.float64)
    result = Worth(float(value.mean() - control.mean()), np.nan, PERMUTATIONS_ONLY, 0, len(control), paired)
    columns = [value - control] if paired else [control] + ([value] if len(value) > 1 else [])
    if len(control) < 2:
        result.over = "control: 1, no interval"
        return result
    squares = np.array([c.var(ddof=1) for c in columns])
    sizes = np.array([len(c) for c in columns], np.float64)
    result.se_permutations = float(np.sqrt(squares[0] / sizes[0]))
    if len(columns) > 1:
        result.se_seeds = float(np.sqrt(squares[1] / sizes[1]))
    result.half, result.freedom = half_width(squares, 1 / sizes, sizes - 1, sizes.min() - 1)
    return result
