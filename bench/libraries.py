"""Linear models beside the library that a user would take instead. python -m bench.libraries [--quick]

Generated plays of Music4All-Onion's size (21,018 users, 55,262 items, 4.8 million pairs; --quick: a tenth of the users
and items); one thread, processor seconds, called in turn. ItemKNN: fit, 200 neighbours by the cosine, against
`implicit.nearest_neighbours.CosineRecommender` (same similarities; implicit leaves ties to chance of its heap). EASE's
fit against LAPACK's potrf and potri alone for the smaller side's matrix, its scores of all users against torch's
product of the plays as a csr tensor with the inverse alone, 512 users at a time.
"""
import numpy as np

from bench._compare import gain, one_thread
from harness import cli

FULL = (21_018, 55_262, 4_800_000)
QUICK = (2_100, 5_500, 120_000)
NEIGHBOURS, L2, BLOCK = 200, 100.0, 512


def plays(users, items, pairs):
    """csr float32 (users, items) of ones."""
    from scipy.sparse import csr_matrix

    from bench.recommenders import draw_pairs
    user, item = draw_pairs(users, items, pairs)
    matrix = csr_matrix((np.ones(len(user), np.float32), (user, item)), shape=(users, items))
    matrix.sort_indices()
    return matrix


def itemknn(matrix, shape, repeats):
    from implicit.nearest_neighbours import CosineRecommender

    from recommenders.itemknn import neighbours

    def library():
        model = CosineRecommender(K=NEIGHBOURS + 1, num_threads=1)     # each item is its own first neighbour
        model.fit(matrix, show_progress=False)
        near = model.similarity.tocsr()
        near.setdiag(0)
        return near
    return gain(f"ItemKNN fit, {NEIGHBOURS} neighbours, {shape}", lambda: neighbours(matrix, NEIGHBOURS), library,
                "implicit, one thread", repeats,
                lambda a, b: np.allclose(a.sum(axis=1), b.sum(axis=1), rtol=1e-4, atol=1e-6))


def ease(matrix, shape, repeats):
    import torch
    from scipy.linalg.lapack import get_lapack_funcs

    from recommenders.ease import Ease
    from training.gram import gram_of
    users = matrix.shape[0]
    made = gram_of(matrix, np.float32 if users > 12_000 else np.float64)
    made.flat[::users + 1] += L2
    factor, invert = get_lapack_funcs(("potrf", "potri"), (made,))

    def lapack():
        return invert(factor(made.T, lower=True, clean=False)[0], lower=True, overwrite_c=True)[0]
    yield gain(f"EASE fit, {shape}", lambda: Ease(matrix, L2), lapack, "LAPACK's potrf and potri alone", repeats,
               lambda a, b: np.allclose(np.tril(a.kernel[:999, :999]), np.tril(b[:999, :999]), rtol=1e-3, atol=1e-6))
    model = Ease(matrix, L2)
    kernel, columns = torch.from_numpy(model.kernel), model._columns

    def scores():
        for start in range(0, users, BLOCK):
            last = model.scores(np.arange(start, min(start + BLOCK, users)))
        return last

    def product():
        for start in range(0, users, BLOCK):
            last = columns @ kernel[start:start + BLOCK].T
        return last
    yield gain(f"EASE, scores of all users, {shape}", scores, product, "torch's csr product alone", repeats,
               lambda a, b: np.allclose(a, matrix[users - len(a):].toarray() - b.T.numpy() / model.diagonal, atol=1e-3))


def run(quick):
    with one_thread():
        matrix = plays(*(QUICK if quick else FULL))
        shape = f"{matrix.shape[0]:,} users, {matrix.shape[1]:,} items, {matrix.nnz:,} pairs"
        return [itemknn(matrix, shape, 3), *ease(matrix, shape, 3)]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("libraries", argv))
