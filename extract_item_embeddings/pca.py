"""An embedding of the workspace in fewer dimensions, or whitened: a representation of its own.

    python extract_item_embeddings/pca.py musicnn --dim 64 [--whiten] [--standardise] [--workdir DIR]

Principal components of the vectors of all tracks, the largest variance first: embeddings/NAME-pca64.npy. Centred, they
keep the cosines of the centred vectors as far as --dim allows. --whiten divides each component by its spread, so that
all weigh alike (NAME-pca64w); --standardise gives the columns a spread of 1 before (NAME-pca64s). --dim of the
embedding's own dimensions only rotates and whitens; a larger one is refused. The json has the share of the variance
that is kept.

Comparing embeddings at equal dimensions: python extract_item_embeddings/pca.py NAME --dim 128 for each.
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import numpy as np

import dataset
from extract_item_embeddings.engine import derived
from harness import cli
from harness.errors import UsageError, WorkError

DIM = 128


def parser():
    p = cli.Parser(description=__doc__)
    add = p.add_argument
    add("embedding", metavar="EMBEDDING", help="embedding of the workspace")
    add("--dim", type=cli.positive, metavar="N",
        help="principal components that are kept (default 128, or all of an embedding of fewer dimensions)")
    add("--whiten", action="store_true", help="divide each component by its spread")
    add("--standardise", action="store_true", help="give the columns a spread of 1 before")
    add("--name", metavar="NAME", help="name of the output (default: that of the embedding, -pca and the dimensions, "
        "with w where it is whitened and s where it is standardised)")
    cli.common_flags(p, seed=False)
    return p


def components(x, dim, whiten=False):
    """Principal components of x (n, D): float64 (n, min(dim, D)), and the share of the variance that they keep.

    x: float64; by the eigenvectors of its covariance (D x D), each with its largest value positive. A component
    without variance, as where x has fewer rows than columns, is 0.
    """
    x = x - x.mean(axis=0)
    values, axes = np.linalg.eigh(x.T @ x / max(len(x) - 1, 1))
    values, axes = values[::-1].clip(min=0), axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    total, kept = values.sum(), values[:dim]
    result = x @ axes[:, :dim]
    flat = kept <= 1e-10 * max(values[0], 1e-300)      # beyond the rank of x
    result[:, flat] = 0
    if whiten:
        result = result / np.where(flat, 1, np.sqrt(kept))
    return result, float(kept.sum() / total) if total else 0.0


class Components(derived.Source):
    """Principal components of an embedding."""

    def __init__(self, workdir, args):
        super().__init__(workdir, args.embedding)
        if np.array_equal(self.own.min(axis=0), self.own.max(axis=0)):
            raise WorkError(f"{self.path} has no variance: its {len(self.own)} vectors are all equal, so there is "
                            "nothing to keep of it")
        x = derived.standardised(self.own) if args.standardise else self.own.astype(np.float64)
        self.vectors, self.kept = components(x, args.dim, args.whiten)

    def about(self):
        return {"variance_kept": self.kept}


def main(argv=None):
    args = parser().parse_args(argv)
    workdir = cli.workspace(args)
    own = dataset.open_embedding(workdir, args.embedding).shape[1]
    args.dim = args.dim or min(DIM, own)
    if args.dim > own:
        raise UsageError(f"--dim {args.dim}: {args.embedding} has {own} dimensions and no more principal components; "
                         f"--dim {own} keeps all of them")
    name = args.name or f"{args.embedding}-pca{args.dim}{'w' * args.whiten}{'s' * args.standardise}"
    request = {"backend": "pca", "dim_kept": args.dim, "whiten": args.whiten, "standardise": args.standardise}

    def opened():
        source = Components(workdir, args)
        print(f"{name}: {source.vectors.shape[1]} of {source.own.shape[1]} components keep {source.kept:.1%} of the "
              "variance")
        return source
    derived.make(workdir, name, args.embedding, request, opened, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
