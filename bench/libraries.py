"""Linear models beside the library that a user would take instead. python -m bench.libraries [--quick]

Generated plays of Music4All-Onion's size (21,018 users, 55,262 items, 4.8 million pairs; --quick: a tenth of the users
and items); one thread, processor seconds, called in turn. ItemKNN: fit, 200 neighbours by the cosine, against
`implicit.nearest_neighbours.CosineRecommender` (same similarities; implicit leaves ties to chance of its heap). EASE's
fit against LAPACK's potrf and potri alone for the smaller side's matrix, its scores of all users against torch's
product of the plays as a csr tensor with the inverse alone, 512 users at a time.
"""
import numpy as np

from bench._compare import one_thread
from harness import cli
from harness.errors import WorkError

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


def in_turn(roads, repeats):
    """Median processor seconds of each function, called in turn, and what each returned last."""
    import time
    seconds, results = [[] for _ in roads], [None] * len(roads)
    for _ in range(repeats):
        for at, road in enumerate(roads):
            results[at] = None                     # what it held is free again
            start = time.process_time()
            results[at] = road()
            seconds[at].append(time.process_time() - start)
    return [float(np.median(taken)) for taken in seconds], results


def row(what, seconds, note):
    ours, theirs = seconds
    return {"what": what, "ours": ours, "baseline": theirs, "unit": "s", "ratio": theirs / ours, "note": note}


def itemknn(matrix, repeats):
    from implicit.nearest_neighbours import CosineRecommender

    from recommenders.itemknn import neighbours

    def library():
        model = CosineRecommender(K=NEIGHBOURS + 1, num_threads=1)     # each item is its own first neighbour
        model.fit(matrix, show_progress=False)
        return model.similarity.tocsr()
    neighbours(matrix[:50], 5)                                          # compiled before the clock starts
    seconds, (ours, theirs) = in_turn([lambda: neighbours(matrix, NEIGHBOURS), library], repeats)
    theirs.setdiag(0)
    sums = [np.asarray(near.sum(axis=1)).ravel() for near in (ours, theirs)]
    if not np.allclose(*sums, rtol=1e-4, atol=1e-6):
        raise WorkError(f"the similarities of ItemKNN and implicit differ by {np.abs(sums[0] - sums[1]).max():.2g}")
    return row(f"ItemKNN fit, {NEIGHBOURS} neighbours", seconds, "implicit, one thread; sums of similarities agree")


def ease(matrix, repeats):
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
    fit, (model, _) = in_turn([lambda: Ease(matrix, L2), lapack], repeats)
    kernel, columns = torch.from_numpy(model.kernel), model._columns

    def scores():
        for start in range(0, users, BLOCK):
            model.scores(np.arange(start, min(start + BLOCK, users)))

    def product():
        for start in range(0, users, BLOCK):
            columns @ kernel[start:start + BLOCK].T
    ranking, _ = in_turn([scores, product], repeats)
    return [row("EASE fit", fit, "LAPACK's potrf and potri alone"),
            row("EASE, scores of all users", ranking, "torch's csr product alone")]


def run(quick):
    with one_thread():
        matrix = plays(*(QUICK if quick else FULL))
        repeats = 3
        shape = f"{matrix.shape[0]:,} users, {matrix.shape[1]:,} items, {matrix.nnz:,} pairs"
        return [{**r, "what": f"{r['what']}, {shape}"} for r in [itemknn(matrix, repeats), *ease(matrix, repeats)]]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("libraries", argv))
