"""Weighted ridge regression of item targets on content in closed form, its strength by generalised cross-validation.

    fit = ridge.fit(features[:n_hot], targets, weights)      # minimises sum of w |t - b - B'x|^2 + l2 |B|^2
    predicted = fit.predict(features)
    predicted, fit = ridge.cross_fitted(features, targets, weights)      # of no item by its own target

The intercept b is not penalised. With the eigenvalues s of the weighted Gram matrix of the centred features the error

    GCV(l2) = (RSS(l2) / n) / (1 - dof(l2) / n)^2,   dof = 1 + sum of s / (s + l2)

is evaluated on a grid of l2 after one decomposition, and so are the residuals of leaving each item out: r / (1 - h)
with the leverage h, and those of leaving a fold F out: (I - H_FF)^-1 r_F with its block of the hat matrix H. Source:
Golub, Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter", Technometrics
21, 1979. Cost: a D x D eigendecomposition, whatever the number of items.
"""
from dataclasses import dataclass

GRID = (-6, 4, 81)   # decimal powers of l2 relative to the sum of the eigenvalues, and how many
FOLDS, LARGEST_FOLD, SEED = 10, 2000, 0   # of items whose targets are predicted by the others


@dataclass
class Ridge:
    """A fitted regression. l2: the penalty in use; dof: effective degrees of freedom, intercept included;
    residuals: (n, K) of the n items it was fitted on, each left out, or its fold; NaN where the weight is 0."""
    centre: object        # (D,)
    intercept: object     # (K,)
    coefficients: object  # (D, K)
    l2: float
    dof: float
    residuals: object

    def predict(self, features):
        """Predicted targets, float64 (m, K), of features (m, D)."""
        return (features - self.centre) @ self.coefficients + self.intercept


def cross_fitted(features, targets, weights=None, l2="gcv"):
    """Predicted targets, float64 (m, K), of features (m, D) whose first n are fitted to targets (n, K); and the Ridge.

    An item that was fitted is predicted by the fit on the others' folds, by nine tenths of the items or more: its own
    target would else be in its prediction, the more the more columns there are. All other items, and those of weight
    0, are predicted by the fit on all; so is an item without others.
    """
    import numpy as np
    n = len(targets)
    used = np.ones(n, bool) if weights is None else np.asarray(weights) > 0
    order = np.random.default_rng(SEED).permutation(np.flatnonzero(used))
    number = min(max(FOLDS, -(-len(order) // LARGEST_FOLD)), max(len(order), 1))
    fitted = fit(features[:n], targets, weights, l2, folds=np.array_split(order, number))
    predicted = fitted.predict(np.asarray(features, np.float64))
    predicted[:n][used] = np.asarray(targets, np.float64)[used] - fitted.residuals[used]
    return predicted, fitted


def fit(features, targets, weights=None, l2="gcv", folds=None):
    """Ridge of targets (n, K) on features (n, D) with weights (n,) >= 0, None for equal ones.

    folds: int arrays of items that are left out together for `residuals`, all that take part in one of them; None for
    each by itself
    l2: a number above 0, or "gcv". Items of weight 0 take no part; with none left the prediction is 0. Weights are
    scaled to mean 1 over the items that take part. Features without any variation give the weighted mean.
    """
    import numpy as np
    every, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    weights = np.ones(len(every)) if weights is None else np.asarray(weights, np.float64)
    used = weights > 0
    if not used.any():
        width, outputs = every.shape[1], targets.shape[1]
        return Ridge(np.zeros(width), np.zeros(outputs), np.zeros((width, outputs)), np.inf, 0.0,
                     np.full(targets.shape, np.nan))
    w = weights[used] / weights[used].mean()
    centre, intercept = np.average(every[used], axis=0, weights=w), np.average(targets[used], axis=0, weights=w)
    x, y = every[used] - centre, targets[used] - intercept
    root = np.sqrt(w)[:, None]
    values, vectors = np.linalg.eigh((root * x).T @ (root * x))
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    rotated = root * (x @ vectors)                                                    # (n, rank)
    products = rotated.T @ (root * y)                                                 # (rank, K)
    if l2 == "gcv":
        l2 = _gcv(values, (products ** 2).sum(axis=1), ((root * y) ** 2).sum(), len(x))
    coefficients = vectors @ (products / (values + l2)[:, None])
    residuals = np.full(targets.shape, np.nan)
    if folds is None:
        leverage = (rotated ** 2 / (values + l2)).sum(axis=1) + w / w.sum()
        residuals[used] = (y - x @ coefficients) / np.maximum(1 - leverage, 1e-9)[:, None]
    else:
        place = np.cumsum(used) - 1
        for items in folds:
            rows = place[items]
            hat = (rotated[rows] / (values + l2)) @ rotated[rows].T + root[rows] @ root[rows].T / w.sum()
            left = root[rows] * (y[rows] - x[rows] @ coefficients)
            residuals[items] = np.linalg.solve((1 + 1e-12) * np.eye(len(rows)) - hat, left) / root[rows]
    return Ridge(centre, intercept, coefficients, float(l2), float(1 + (values / (values + l2)).sum()), residuals)


def _gcv(values, explained, total, n):
    """The l2 of the grid with the smallest error; of equal errors the largest l2.

    values: (rank,) eigenvalues; explained: (rank,) squared products; total: weighted sum of squares of the targets
    """
    import numpy as np
    grid = np.logspace(*GRID)[::-1] * max(values.sum(), np.finfo(np.float64).tiny)
    shrunk = values / (values + grid[:, None])                                        # (grid, rank)
    residual = np.maximum(total - ((2 - shrunk) * shrunk * (explained / values)).sum(axis=1), 0)
    left = np.maximum(1 - (1 + shrunk.sum(axis=1)) / n, 0)
    error = np.divide(residual, left ** 2, out=np.full(len(grid), np.inf), where=left > 1e-3)
    return float(grid[error.argmin()])
