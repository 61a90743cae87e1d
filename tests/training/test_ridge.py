"""Weighted ridge regression: coefficients, leave-one-out residuals and the cross-validated penalty by brute force."""
from types import SimpleNamespace

import numpy as np
import pytest

import dataset
from harness.errors import UsageError
from tests.worlds.world import write_embedding
from training import content, ridge


def direct(x, y, w, l2):
    """Ridge with an unpenalised intercept as one augmented system, weights of mean 1 over those above 0."""
    w = np.diag(w / w[w > 0].mean())
    ones = np.hstack([np.ones((len(x), 1)), x])
    penalty = np.diag([0.0] + [l2] * x.shape[1])
    return np.linalg.solve(ones.T @ w @ ones + penalty, ones.T @ w @ y)


def world(n=30, d=6, k=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 2
    return x, x @ rng.normal(size=(d, k)) + rng.normal(size=(n, k)), rng.uniform(0.2, 3, n)


@pytest.mark.numeric
@pytest.mark.parametrize("d", [6, 45])   # fewer and more columns than items
@pytest.mark.parametrize("l2", [0.5, 30.0])
def test_predictions_are_those_of_the_augmented_system(d, l2):
    x, y, w = world(d=d)
    w[3] = 0
    beta = direct(x, y, w, l2)
    fit = ridge.fit(x, y, w, l2)
    # float64 throughout; the eigendecomposition loses at most the condition number, here below 1e6
    assert np.allclose(fit.predict(x), beta[0] + x @ beta[1:], rtol=0, atol=1e-8)


@pytest.mark.numeric
def test_residuals_are_those_of_fits_without_the_item():
    """The weights keep their scale when an item is left out, so l2 is scaled with the mean weight of the others."""
    x, y, w = world()
    fit = ridge.fit(x, y, w, 5.0)
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        beta = direct(x[rest], y[rest], w[rest], 5.0 * w.mean() / w[rest].mean())
        assert np.allclose(fit.residuals[i], y[i] - beta[0] - x[i] @ beta[1:], rtol=0, atol=1e-8)


@pytest.mark.numeric
def test_an_item_is_predicted_by_the_other_folds():
    """As fits without the fold, whose l2 is scaled with the mean weight of the rest; items of weight 0 and those
    without a target by the fit on all."""
    x, y, w = world(n=57)
    w[[3, 11]] = 0
    more = np.vstack([x, x[:4] + 1])
    predicted, fit = ridge.cross_fitted(more, y, w, 5.0)
    used = np.flatnonzero(w)
    folds = np.array_split(np.random.default_rng(ridge.SEED).permutation(used), 10)
    for fold in folds:
        rest = np.setdiff1d(used, fold)
        beta = direct(x[rest], y[rest], w[rest], 5.0 * w[used].mean() / w[rest].mean())
        assert np.allclose(predicted[fold], beta[0] + x[fold] @ beta[1:], rtol=0, atol=1e-7)
    whole = direct(x[used], y[used], w[used], 5.0)
    others = np.r_[3, 11, 57:61]
    assert np.allclose(predicted[others], whole[0] + more[others] @ whole[1:], rtol=0, atol=1e-8)
    assert np.array_equal(fit.predict(more)[others], predicted[others])


@pytest.mark.numeric
@pytest.mark.parametrize("n", [2, 7, 25])
def test_no_items_own_target_is_in_its_prediction(n):
    """Also with fewer items than folds, and with as many columns as items, where a fit on all would return it."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 20)), rng.normal(size=(n, 2))
    before, _ = ridge.cross_fitted(x, y, None, 0.01)
    for i in range(n):
        moved = y.copy()
        moved[i] += 100
        after, fit = ridge.cross_fitted(x, moved, None, 0.01)
        assert np.allclose(after[i], before[i], rtol=0, atol=1e-5)   # 1e-12 of the identity keeps folds solvable
        assert n < 7 or np.abs(fit.predict(x)[i] - before[i]).max() > 10


@pytest.mark.numeric
@pytest.mark.parametrize(("n", "d"), [(60, 6), (12, 6), (15, 10)])     # few items: the mean's degree of freedom matters
def test_gcv_takes_the_grid_point_with_the_smallest_error(n, d):
    x, y, w = world(n=n, d=d)
    fit = ridge.fit(x, y, w)
    v = w / w.mean()
    root, centred = np.sqrt(v)[:, None], x - np.average(x, axis=0, weights=v)
    total = np.linalg.eigvalsh((root * centred).T @ (root * centred)).sum()
    errors = {}
    for l2 in np.logspace(*ridge.GRID) * total:
        hat = root * centred @ np.linalg.solve(centred.T @ (v[:, None] * centred) + l2 * np.eye(d), (root * centred).T)
        target = root * (y - np.average(y, axis=0, weights=v))
        errors[l2] = ((target - hat @ target) ** 2).sum() / (1 - (1 + np.trace(hat)) / n) ** 2
    best = min(errors, key=errors.get)
    assert fit.l2 == pytest.approx(best, rel=1e-6)
    if n == 60:
        assert fit.l2 < total                            # inside the grid, and no trivial solution
        assert fit.dof == pytest.approx(1 + 6, abs=1)    # six informative columns


def test_noise_is_answered_by_nearly_the_mean_and_signal_is_not():
    """GCV keeps some degrees of freedom in single draws of noise, so the median of 15 draws is compared."""
    rng = np.random.default_rng(0)
    x, y, _ = world(n=200)
    noise = [ridge.fit(rng.normal(size=(200, 6)), rng.normal(size=(200, 8))).dof for _ in range(15)]
    assert np.median(noise) < 3 and ridge.fit(x, y).dof > 6


def test_no_variation_and_no_items():
    fit = ridge.fit(np.zeros((4, 2)), np.array([[1.0], [2.0], [3.0], [6.0]]), [1, 1, 1, 3])
    assert np.allclose(fit.predict(np.zeros((2, 2))), 4.0) and fit.dof == 1
    none = ridge.fit(np.ones((4, 2)), np.ones((4, 1)), np.zeros(4))
    assert (none.predict(np.ones((3, 2))) == 0).all() and np.isnan(none.residuals).all()


# --------------------------------------------------------------------------- the features it is fitted on

def wanted(*names, **more):
    return SimpleNamespace(embedding=list(names), shuffle=False, missing="fail", seed=1, **more)


def test_embeddings_side_by_side_have_equal_weight_and_constant_columns_none(tiny):
    split = dataset.load(tiny)
    matrix = np.load(tiny / "embeddings" / "content.npy")
    write_embedding(tiny, "wide", np.hstack([matrix * 1000, np.full((len(matrix), 3), 0.1, np.float32)]))
    both = content.features(split, wanted("content", "wide"))
    hot = both[:split.n_hot]
    assert both.shape == (split.n_items, 8 + 11) and (both[:, 16:] == 0).all()
    assert np.allclose(hot.mean(axis=0), 0, atol=1e-6)
    assert np.allclose((hot[:, :8] ** 2).sum(axis=1).mean(), 1, atol=1e-6)
    assert np.allclose(hot[:, :8], hot[:, 8:16], atol=1e-5)      # units do not matter; float32 input


def test_shuffled_blocks_are_permuted_together(tiny):
    split, args = dataset.load(tiny), wanted("content", "content2")
    write_embedding(tiny, "content2", np.load(tiny / "embeddings" / "content.npy"))
    args.shuffle = True
    both = content.features(split, args)
    assert np.array_equal(both[:, :8], both[:, 8:])
    args.shuffle = False
    assert not np.allclose(both, content.features(split, args))


def test_no_embedding_and_the_same_one_twice():
    for names, said in (([], "is needed"), (["a", "a"], "twice")):
        with pytest.raises(UsageError, match=said):
            content.check(wanted(*names))
