"""EASE: the linear item-item autoencoder in closed form, inverting the smaller side.

    python -m recommenders.ease --l2 100

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8. With X (U, I)
binary, P = (X'X + l I)^-1 and B = I - P / diag(P) the scores are X B. By the push-through identity
X P = K X with K = (XX' + l I)^-1, and by Woodbury diag(P) = (1 - colsum(X * KX)) / l, so where users are
fewer than items only a U x U system is solved: the scores are X - KX / diag(P). Both forms are exact.

Practical limit: one dense square matrix of the smaller side, in float64 up to 12,000 rows and float32
beyond (21,018 users: 1.8 GB), and the time of its inversion, which grows with the cube.
"""
import math
from functools import cached_property

from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.machine import free_memory
from harness.progress import Progress
from training.gram import FLOAT64_ROWS, gram_of, inverse

TITLE = "EASE"
NEEDS = ()
COLD = False
DETERMINISTIC = True
TILE = 32   # rows of one sparse product
SEARCH_SPACE = {"l2": {"log": [5.0, 5000.0]}}


def build_parser():
    parser = cli.Parser(prog="recommenders.ease", description=__doc__)
    parser.add_argument("--l2", type=float, default=100.0, help="ridge penalty, above 0 (default 100)")
    parser.add_argument("--memory", type=float, default=None, metavar="GB",
                        help="refuse what needs more than this (default: what the machine has free)")
    cli.recommender_flags(parser)
    return parser


class Ease:
    """Scores of all users over the items of train; see the module for the mathematics."""

    def __init__(self, matrix, l2):
        """matrix: csr float32 (U, I) of 0 and 1; l2 > 0."""
        import numpy as np
        n = min(matrix.shape)
        dtype = np.float64 if n <= FLOAT64_ROWS else np.float32
        self.matrix, self.l2 = matrix.astype(dtype), l2
        self.dual = matrix.shape[0] < matrix.shape[1]
        if self.dual:
            self.kernel = inverse(gram_of(self.matrix, dtype), l2)          # K (U, U)
            self.diagonal = self._dual_diagonal(l2)                         # diag P (I,)
        else:
            inverted = inverse(gram_of(self.matrix.T.tocsr(), dtype), l2)   # P (I, I)
            self.weights = -(inverted / inverted.diagonal())
            np.fill_diagonal(self.weights, 0.0)                             # B (I, I)

    def _dual_diagonal(self, l2, block=512):
        import numpy as np

        from training.overlaps import in_blocks, parts_of, quadratic
        by_row, by_column = parts_of(self.matrix), parts_of(self.transposed)
        users, items = self.matrix.shape

        def part(start, stop):
            out = np.zeros(items)
            quadratic(start, stop, by_row, by_column, self.kernel, out)
            return out
        total = np.zeros(items)
        with Progress(users, "ease: diagonal", "users", quiet=True) as bar:
            for done in in_blocks(part, users, block):
                total += done
                bar.update(block)
        return ((1 - total) / l2).astype(self.matrix.dtype)

    def _product(self, weights):
        """weights (b, U) times the matrix, dense (b, I); in tiles of few rows, which stay in the cache."""
        import numpy as np
        import torch
        out, weights = np.empty((len(weights), self.matrix.shape[1]), weights.dtype), torch.from_numpy(weights)
        for start in range(0, len(out), TILE):
            tile = weights[start:start + TILE]
            out[start:start + TILE] = (self._columns @ tile.T.contiguous()).T.numpy()
        return out

    @cached_property
    def transposed(self):
        return self.matrix.T.tocsr()

    @cached_property
    def _columns(self):
        """The transposed matrix for torch, whose sparse product is the faster one."""
        import warnings

        import torch
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(*map(torch.from_numpy, (self.transposed.indptr, self.transposed.indices,
                                                                   self.transposed.data)), self.transposed.shape,
                                           check_invariants=False)

    def scores(self, users):
        """Scores (b, I) of the user codes (b,), by what they played in train."""
        if not self.dual:
            return self.matrix[users] @ self.weights
        return self.matrix[users].toarray() - self._product(self.kernel[users]) / self.diagonal

    def scores_of(self, rows):
        """Scores (b, I) of histories that the model was not fitted on, csr (b, I) of 0 and 1."""
        rows = rows.astype(self.matrix.dtype)
        if not self.dual:
            return rows @ self.weights
        weights = (rows @ self.transposed).toarray() @ self.kernel           # h X'K, (b, U)
        inverse_rows = (rows.toarray() - self._product(weights)) / self.l2    # h P = (h - h X'K X) / l
        return rows.toarray() - inverse_rows / self.diagonal

    def scorer(self, split, part):
        """Function of user codes giving scores by the history at `part`."""
        if split.history_parts(part) == ("train",):
            return self.scores
        history = split.history(part)
        return lambda users: self.scores_of(history[users])


def check_memory(shape, limit_gb=None):
    """WorkError when the dense square matrix and its blocks would not fit."""
    n = min(shape)
    need = n * n * (8 if n <= FLOAT64_ROWS else 4) * (1 if shape[0] < shape[1] else 2) + 3 * 512 * max(shape) * 8
    have = free_memory() if limit_gb is None else limit_gb * 1e9
    if need > have:
        raise WorkError(f"EASE on {shape[0]} users and {shape[1]} items inverts a {n} x {n} matrix and needs "
                             f"{need / 1e9:.1f} GB, but {have / 1e9:.1f} GB are allowed; use recommenders.elsa instead")


def request_of(args):
    """Every argument that can change the result."""
    return {"l2": args.l2, "k": args.k, "seed": args.seed, "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not 0 < args.l2 < math.inf:
        raise UsageError(f"--l2 must be above 0 and finite, not {args.l2:g}")
    if args.memory is not None and not args.memory > 0:
        raise UsageError(f"--memory must be above 0, not {args.memory:g}")
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split = dataset.load(workdir)
    request = request_of(args)
    with runs.Run(workdir, "ease", request, inputs=split.inputs, args=args) as run:
        if run.finished:
            return
        check_memory((split.n_users, split.n_hot), args.memory)
        model = Ease(split.matrix(), args.l2)
        parts = split.hot_parts
        results = save.write(run, split, args.k, args.seed, parts,
                             scores=split.by_history(lambda part: model.scorer(split, part), parts))
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main)
