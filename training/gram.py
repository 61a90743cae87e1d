"""Dense Gram matrices and their inverses, of the linear models in closed form (EASE, CEASE)."""
import sys

from harness.errors import WorkError
from harness.progress import Progress

FLOAT64_ROWS = 12_000
SILENT_ROWS = 8000      # an inversion of more takes longer than ten seconds


def inverse(gram, l2):
    """(gram + l2 I)^-1 of a symmetric positive semidefinite (n, n), by Cholesky, overwriting `gram`."""
    import numpy as np
    from scipy.linalg.lapack import get_lapack_funcs
    if len(gram) > SILENT_ROWS:
        print(f"inverting a {len(gram)} x {len(gram)} matrix, one step without progress of its own",
              file=sys.stderr)
    factor, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
    gram.flat[::len(gram) + 1] += l2
    fortran = gram.T  # symmetric: the transpose of a C array is the same matrix in LAPACK's order, without a copy
    lower, failed = factor(fortran, lower=True, overwrite_a=True, clean=False)
    if not failed:
        result, failed = invert(lower, lower=True, overwrite_c=True)
    if failed:
        raise WorkError(f"the {len(gram)} x {len(gram)} system cannot be inverted; use a larger --l2")
    below = np.tril_indices(1024, -1)
    for i in range(0, len(result), 1024):  # mirror the lower triangle in blocks, so that no second matrix is needed
        size = min(1024, len(result) - i)
        result[i:i + size, i + size:] = result[i + size:, i:i + size].T
        block = result[i:i + size, i:i + size]
        row, column = (below if size == 1024 else np.tril_indices(size, -1))
        block[column, row] = block[row, column]
    return result.T


def gram_of(rows, dtype, block=256):
    """rows @ rows.T of a csr (n, m), dense (n, n), in blocks of rows on as many threads as torch uses."""
    import numpy as np

    from training.overlaps import gram as add
    from training.overlaps import in_blocks, parts_of
    rows = rows.astype(dtype)
    by_row, by_column = parts_of(rows), parts_of(rows.T.tocsr())
    gram = np.zeros((rows.shape[0], rows.shape[0]), dtype)

    def fill(start, stop):
        add(start, stop, by_row, by_column, gram[start:stop])
        return stop - start
    with Progress(len(gram), "products", "rows", quiet=True) as bar:
        for done in in_blocks(fill, len(gram), block):
            bar.update(done)
    return gram
