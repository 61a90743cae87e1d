"""Whether content is worth more in one segment than in another: a test of the differences, not of each by itself.

The worth of a segment s is m_s, the mean over its users of d_u, value minus control, the mean over P permutations
(evaluation/worth.py). A user may be in several segments (cuts by popularity) or in one (cuts by user). The hypothesis
that all m_s are equal is tested by Wald's statistic

    W = (C m)' (C V C')^-1 (C m) / q,    C the q = S - 1 differences of neighbouring segments,
    V = V_users + V_perm + V_seeds,

where V_users is the covariance of the means over users, who are the clusters (a user's residuals in all its segments
stay together; of each segment with its own n - 1, as it may be small), V_perm that over permutations, divided by P, and
V_seeds that of the value over seeds of its own, divided by their number, where they are not those of the permutations.
The true order of the rows is one more draw, as in evaluation/worth.py: the covariance of the control over permutations
counts once more, undivided (with that of the seeds in it, where each permutation is a training). The spread of users
within a permutation or seed is in all, which makes the test cautious (of worlds without a difference .3 to 5 % alarm at
.05, with three permutations up to 7 %). V has nu degrees of freedom, by Satterthwaite's formula
from the traces of the parts, so that W (nu - q + 1) / nu is compared with F(q, nu - q + 1), as Hotelling's T2 is. With
one permutation, or one seed, there is no such part; tables test from three permutations on (profits.py).

Sources: Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference", J. Human Resources 50, 2015; Gelman
and Stern, "The difference between significant and not significant is not itself statistically significant", The
American Statistician 60, 2006; Hotelling, Ann. Math. Statist. 2, 1931.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST = 5     # users of a segment; of fewer the variance is not known well enough for any degrees of freedom


@dataclass
class Interaction:
    """means: float64 (S,) worth of each segment; statistic: W; q, freedom: its degrees of freedom; p: of equal worth,
    NaN where a segment has fewer than LEAST users, nothing varies, or there are too few permutations for the segments.
    """
    means: np.ndarray
    statistic: float
    q: int
    freedom: float
    p: float


def interaction(users: list[np.ndarray], differences: list[np.ndarray],
                seeds: list[np.ndarray] | None = None, controls: list[np.ndarray] | None = None) -> Interaction:
    """The test over segments. users: ids (U_s,) of each of S segments, at least 2; differences: float64 (P, U_s) each.

    seeds: the value under each of its seeds, float64 (seeds, U_s) each, where every difference is of their mean
    controls: the control alone, float64 (P, U_s) each; None where the differences have its spread, of a value whose
        seeds are not the permutations'
    A user with a NaN in a segment is left out there.
    """
    from scipy.stats import f
    known = [np.isfinite(d).all(axis=0) for d in differences]
    users = [u[k] for u, k in zip(users, known, strict=True)]
    differences = [d[:, k] for d, k in zip(differences, known, strict=True)]
    s = len(users)
    means = np.array([d.mean() if d.size else np.nan for d in differences])
    nothing = Interaction(means, np.nan, s - 1, np.nan, np.nan)
    if s < 2 or min(map(len, users)) < LEAST:
        return nothing
    everybody = np.unique(np.concatenate(users))
    residuals = np.zeros((len(everybody), s))
    for i, (ids, d) in enumerate(zip(users, differences, strict=True)):
        n = len(ids)
        residuals[np.searchsorted(everybody, ids), i] = (d.mean(axis=0) - means[i]) / (n * (n - 1)) ** 0.5
    contrast = np.diff(np.eye(s), axis=0)                                        # (q, S)
    own = (residuals ** 2).sum(axis=0) * (contrast ** 2).sum(axis=0)             # of each segment, without covariances
    nu = own.sum() ** 2 / max((own ** 2 / (np.array([len(ids) for ids in users]) - 1)).sum(), np.finfo(float).tiny)
    parts = [(contrast @ residuals.T @ residuals @ contrast.T, min(max(nu, 1.0), len(everybody) - 1))]
    others = [tables and [v[:, k] for v, k in zip(tables, known, strict=True)] for tables in (seeds, controls)]
    if (n := len(differences[0])) > 1:
        parts.append((_covariance(differences, contrast) / n + _covariance(others[1] or differences, contrast), n - 1))
    if others[0] and len(others[0][0]) > 1:
        parts.append((_covariance(others[0], contrast) / len(others[0][0]), len(others[0][0]) - 1))
    variance = sum(part for part, _ in parts)
    if np.linalg.matrix_rank(variance) < s - 1:
        return nothing
    wanted = contrast @ means
    statistic = float(wanted @ np.linalg.solve(variance, wanted)) / (s - 1)
    freedom = np.trace(variance) ** 2 / sum(np.trace(part) ** 2 / n for part, n in parts)
    left = freedom - (s - 1) + 1
    p = float(f.sf(statistic * left / freedom, s - 1, left)) if left > 0 else np.nan
    return Interaction(means, statistic, s - 1, float(freedom), p)


def _covariance(tables, contrast):
    """Over the rows of tables (n, U_s), float64 (q, q): of the contrasts of their means over users."""
    each = np.stack([table.mean(axis=1) for table in tables], axis=1) @ contrast.T      # (n, q)
    return np.cov(each.T).reshape(len(contrast), len(contrast))
