"""What the content of a representation is worth: its figure minus that of the control, with an interval.

The control has the same vectors on the wrong tracks, one random permutation for each run. Both the users and the
permutations are samples, and every user meets every permutation: two crossed random factors, whose layout, components
and variance evaluation/crossed.py has (its seeds s are permutations p here):

    Var(d..) = s2_a / U + s2_b / P + s2_e / (U P)        = (MS_users + MS_permutations - MS_rest) / (U P),

the last where no component was negative. Repeats of the value itself (seeds) that are those of the permutations are
paired with them, each permutation with its seed, and their spread is part of d_up. Other repeats are averaged for each
user, and their component s2_seed / S, of the same layout on the values, is added.

To that comes the true order of the rows, which is one more draw from all orders: if the vectors said nothing about
their tracks, the value would be one more of the control's figures, and would lie as far from their mean as any of them.
Its variance is the component of the permutations in the control, not divided by P (a prediction interval). Where each
permutation is a training of its own, that has the spread of trainings in it, too: it then stands for the seed of a
value that ran once, and makes the interval of one with several seeds somewhat wide. Without it vectors of noise were
worth something, or cost something, in 28 to 47 % of simulated worlds in which orders matter.

The interval is d.. +- t(nu) sqrt(Var), with Satterthwaite's degrees of freedom nu for the sum of all mean squares.
"""
from dataclasses import dataclass

import numpy as np

from evaluation.crossed import half_width, layout

CROSSED = "users and permutations"
USERS_ONLY = "control: 1, interval over users only"
PERMUTATIONS_ONLY = "permutations only"     # of a metric of all users together
NO_INTERVAL = "one user, no interval"
COLUMNS = np.array([0.0, 1.0, -1.0])        # of mean squares (rows, columns, rest): the columns' component, times rows


@dataclass
class Worth:
    """Value minus control. NaN where something cannot be estimated; the squares of the four errors sum to the variance.

    half: half-width of the 95 % interval; over: what it is an interval over
    se_users, se_permutations, se_rest, se_seeds: parts of the standard error: sqrt(s2_a / U), sqrt(s2_b / P),
        sqrt(s2_e / (U P)) and sqrt(s2_seed / S)
    se_draw: that of the true order as one more draw; NaN with one permutation, which says nothing of it
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
    se_draw: float = np.nan


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
    if (value == value[:, :1]).all():        # nothing in it is random: one value, which has no seeds to pair
        value, paired = value[:, :1], False
    each = (value if paired else value.mean(axis=1, keepdims=True)) - control          # (U, P)
    result = Worth(float(each.mean()) if users else np.nan, np.nan, NO_INTERVAL, users, permutations, paired)
    if users < 2:
        return result
    ours, seeds = layout(each), layout(value) if value.shape[1] > 1 else None
    if permutations == 1:
        squares, coefficients, freedom = ours.squares[:1], np.array([1 / users]), ours.freedom[:1]
        result.over = USERS_ONLY
        result.se_users = float(np.sqrt(ours.squares[0] / users))
    else:
        squares, coefficients, freedom = ours.squares, ours.terms(), ours.freedom
        result.over = CROSSED
        of_users, of_permutations, rest = ours.components()
        result.se_users = float(np.sqrt(of_users / users))
        result.se_permutations = float(np.sqrt(of_permutations / permutations))
        result.se_rest = float(np.sqrt(rest / each.size))
    more = []                           # (layout, how often its component of columns counts)
    if seeds is not None and not paired:
        result.se_seeds = float(np.sqrt(seeds.components()[1] / value.shape[1]))
        more += [(seeds, 1 / value.shape[1])]
    if permutations > 1:
        orders = layout(control)
        result.se_draw = float(np.sqrt(orders.components()[1]))
        if paired:
            more += [(orders, 1.0)]
        elif result.se_draw > 0:        # the differences' own, as the value is one constant of each user
            coefficients = coefficients + COLUMNS / users
    for table, count in more:
        if table.components()[1] > 0:
            squares, freedom = np.append(squares, table.squares), np.append(freedom, table.freedom)
            coefficients = np.append(coefficients, count * COLUMNS / users)
    result.half, result.freedom = half_width(squares, coefficients, freedom)
    return result


def worth_of_means(value, control, paired=False):
    """The Worth in a metric of all users together (Coverage): value float64 (S,), control float64 (P,).

    The interval is over permutations, the true order as one more of them, and over the value's repeats where they are
    others and several.
    """
    value, control = np.asarray(value, np.float64), np.asarray(control, np.float64)
    if (value == value[0]).all():
        value, paired = value[:1], False
    result = Worth(float(value.mean() - control.mean()), np.nan, PERMUTATIONS_ONLY, 0, len(control), paired)
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
    result.se_draw = float(control.std(ddof=1))
    if paired:
        squares, sizes = np.append(squares, control.var(ddof=1)), np.append(sizes, float(len(control)))
        shares = np.append(shares, 1.0)
    else:                                   # the first column is the control
        shares = shares + np.eye(len(shares))[0]
    result.half, result.freedom = half_width(squares, shares, sizes - 1)
    return result
