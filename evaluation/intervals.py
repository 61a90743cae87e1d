"""Intervals of means over users, seeds or permutations."""
import numpy as np


def mean_and_half_width(values):
    """Mean of values (n, ...) over the first axis and half-width of its 95 % interval: t(n - 1) * sd / sqrt(n).

    NaN values are left out; of fewer than two the half-width is NaN, of none the mean too.
    """
    from scipy.special import stdtrit
    values = np.asarray(values, np.float64)
    n = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0) / n
        sd = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / (n - 1))
        return mean, np.where(n > 1, stdtrit(np.maximum(n - 1, 1), 0.975) * sd / np.sqrt(n), np.nan)
