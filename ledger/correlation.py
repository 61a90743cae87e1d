"""The rank correlation of a claim, with the methods of crossed.Estimate that a verdict asks for."""
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr, ndtri


@dataclass
class Correlation:
    """Spearman's rank correlation of n pairs; interval and tests by Fisher's z with Bonett and Wright's error.

    Source: Bonett and Wright, Psychometrika 65, 2000.
    """
    effect: float
    n: int
    users: int = 0
    seeds: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def se(self):
        return float(np.sqrt((1 + self.effect ** 2 / 2) / (self.n - 3)))

    def _z(self):
        return np.arctanh(np.clip(self.effect, -1 + 1e-9, 1 - 1e-9))

    def interval(self, level=0.95):
        half = ndtri((1 + level) / 2) * self.se
        return float(np.tanh(self._z() - half)), float(np.tanh(self._z() + half))

    def p_above(self, bound):
        return float(ndtr((np.arctanh(bound) - self._z()) / self.se))

    def p_below(self, bound):
        return float(ndtr((self._z() - np.arctanh(bound)) / self.se))
