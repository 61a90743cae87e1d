"""EASE as its paper prints it, the baseline of bench/recommenders.py: invert the items' Gram matrix.

    python -m bench._ease_inverse WORKDIR ROAD OUT       ROAD: inverse (this file) or ours (recommenders/ease.py)

Steck, WWW 2019, algorithm 1, in float64: G = X'X + l I, P = inv(G), B = P / -diag(P) with a diagonal of 0. Writes
OUT.json (seconds until the model stands, on the clock and of the processors) and OUT.npy (scores of the first hundred
users), so that both can be compared.
"""
import sys
import time
from pathlib import Path

import numpy as np

L2 = 100.0


def inverse(matrix, l2):
    """Function of user codes (b,) giving scores (b, I), of a csr (U, I) of ones."""
    matrix = matrix.astype(np.float64)
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices_from(gram)] += l2
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return lambda users: matrix[users] @ weights


def ours(matrix, l2):
    from recommenders.ease import Ease
    return Ease(matrix, l2).scores


def main(workdir, road, out):
    import scipy.linalg  # noqa: F401  (loaded before the clock starts)

    import dataset
    from harness.files import write_json, write_npy
    matrix = dataset.load(Path(workdir)).matrix()
    start, processor = time.perf_counter(), time.process_time()
    scores = {"inverse": inverse, "ours": ours}[road](matrix, L2)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    write_npy(Path(f"{out}.npy"), np.asarray(scores(np.arange(min(100, matrix.shape[0])))))
    write_json(Path(f"{out}.json"), {"seconds": seconds, "processor": processor, "shape": matrix.shape})


if __name__ == "__main__":
    main(*sys.argv[1:4])
