"""What the content of a representation is worth: its figure minus that of the control, with an interval.

The control has the same vectors on the wrong tracks, one random permutation for each run. Both the users and the
permutations are samples, and every user meets every permutation: two crossed random factors, whose layout, components
and variance evaluation/crossed.py has (its seeds s are permutations p here):

    Var(d..) = s2_a / U + s2_b / P + s2_e / (U P)        = (MS_users + MS_permutations - MS_rest) / (U P),

the last where no component was negative. The interval is d.. +- t(nu) sqrt(Var(d..)), with Satterthwaite's degrees of
freedom nu for that sum of mean squares.

Repeats of the value itself (seeds) that are those of the permutations are paired with them, each permutation with its
seed, and their spread is part of d_up. Other repeats are averaged for each user, and their component s2_seed / S, of
the same layout on the values, is added. A single run of a method that trains by chance shows no spread over seeds; each
permutation is a training of its own, so s2_p, in which that spread is, then counts once more, undivided (`once`).
"""
from dataclasses import dataclass

import numpy as np

from evaluation.crossed import half_width, layout

CROSSED = "users and permutations"
USERS_ONLY = "control: 1, interval over users only"
PERMUTATIONS_ONLY = "permutations only"     # of a metric of all users together
NO_INTERVAL = "one user, no interval"


@dataclass
class Worth:
    """Value minus control. NaN where something cannot be estimated; the squares of the four errors sum to the variance.

    half: half-width of the 95 % interval; over: what it is an interval over
    se_users, se_permutations, se_rest, se_seeds: parts of the standard error: sqrt(s2_a / U), sqrt(s2_b / P),
        sqrt(s2_e / (U P)) and sqrt(s2_seed / S), or sqrt(s2_b) with `once`
    """
    difference: float
    half: float
    over: str
    users: int
    permutations: int
    paired: bool = False              # each permutation with a seed of the value
    once: bool = False                # the spread of permutations stands for that of the value's seeds, too
    freedom: float = np.nan
    se_users: float = np.nan
    se_permutations: float = np.nan
    se_rest: float = np.nan
    se_seeds: float = np.nan


def worth_of(value, control, paired=False, once=False):
    """The Worth of a value over its control.

    value:   float64 (S, U), each user's value in each repeat; control: float64 (P, U), of the same users in each
             permutation; paired: whether row i of both is one seed (then S = P)
    once:    whether the value is one run (S = 1) of a method in which something is random
    A user with a NaN in any row is left out. With one user, or none, there is no interval.
    """
    value, control = np.asarray(value, np.float64), np.asarray(control, np.float64)
    known = np.isfinite(value).all(axis=0) & np.isfinite(control).all(axis=0)
    value, control = value[:, known].T, control[:, known].T                            # (U, S), (U, P)
    users, permutations = control.shape
    each = (value if paired else value.mean(axis=1, keepdims=True)) - control          # (U, P)
    result = Worth(float(each.mean()) if users else np.nan, np.nan, NO_INTERVAL, users, permutations, paired,
                   once and permutations > 1)
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
        if result.once and of_permutations > 0:
            result.se_seeds = float(np.sqrt(of_permutations))
            coefficients = coefficients + np.array([0.0, 1.0, -1.0]) / users
    if seeds is not None:
        component = seeds.components()[1] / value.shape[1]
        result.se_seeds = float(np.sqrt(component))
        if component > 0:
            more = np.array([0.0, 1.0, -1.0]) / np.prod(seeds.shape)
            squares, freedom = np.append(squares, seeds.squares), np.append(freedom, seeds.freedom)
            coefficients, least = np.append(coefficients, more), min(least, value.shape[1] - 1)
    result.half, result.freedom = half_width(squares, coefficients, freedom, least)
    return result


def worth_of_means(value, control, paired=False, once=False):
    """The Worth in a metric of all users together (Coverage): value float64 (S,), control float64 (P,).

    The interval is over permutations, and over the value's repeats where they are others and several; with `once`, a
    single value of a random method, the permutations' variance counts once more.
    """
    value, control = np.asarray(value, np.float64), np.asarray(control, np.float64)
    result = Worth(float(value.mean() - control.mean()), np.nan, PERMUTATIONS_ONLY, 0, len(control), paired,
                   once and len(control) > 1)
    columns = [value - control] if paired else [control] + ([value] if len(value) > 1 else [])
    if len(control) < 2:
        result.over = "control: 1, no interval"
        return result
    squares = np.array([c.var(ddof=1) for c in columns])
    sizes = np.array([len(c) for c in columns], np.float64)
    shares = 1 / sizes
    result.se_permutations = float(np.sqrt(squares[0] / sizes[0]))
    if len(columns) > 1:
        result.se_seeds = float(np.sqrt(squares[1] / sizes[1]))
    elif result.once:
        result.se_seeds, shares = float(np.sqrt(squares[0])), shares + 1
    result.half, result.freedom = half_width(squares, shares, sizes - 1, sizes.min() - 1)
    return result
