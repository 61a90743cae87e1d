"""iALS: matrix factorisation of implicit feedback by alternating least squares with confidence weights.

    python -m recommenders.ials --factors 64 --alpha 10

Source: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008. Solved by
the library `implicit`. The confidence of a pair is 1 + alpha * w, where w is 1 (--values binary), its plays (count) or
log(1 + plays) (log), and 1 for a pair without plays. (`implicit` is given the whole confidence, with its alpha = 1.)
"""
from dataclasses import dataclass

from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_npy
from harness.progress import Progress

TITLE = "iALS"
NEEDS = ()
COLD = False
SEARCH_SPACE = {
    "factors": [32, 64, 128, 256],
    "regularization": {"log": [0.01, 100.0]},
    "alpha": {"log": [1.0, 100.0]},
    "values": ["binary", "log"],
    "iterations": [10, 20, 40],
}


def build_parser():
    parser = cli.Parser(prog="recommenders.ials", description=__doc__)
    parser.add_argument("--factors", type=cli.whole_number(1), default=64, metavar="N",
                        help="dimensions of the factors (default 64)")
    parser.add_argument("--regularization", type=cli.number(0), default=1.0, metavar="FLOAT",
                        help="ridge penalty on user and item factors (default 1)")
    parser.add_argument("--alpha", type=cli.number(0), default=10.0, metavar="FLOAT",
                        help="confidence added per unit of an interaction's value, see --values (default 10)")
    parser.add_argument("--values", choices=("binary", "count", "log"), default="binary",
                        help="value of an interaction: 1, its plays, or log(1 + plays) (default binary)")
    parser.add_argument("--iterations", type=cli.whole_number(1), default=20, metavar="N",
                        help="alternating sweeps over users and items (default 20)")
    cli.recommender_flags(parser)
    return parser


@dataclass(frozen=True)
class Settings:
    """factors: dimensions; regularization: ridge penalty; alpha: confidence per unit of value; iterations: sweeps."""
    factors: int
    regularization: float
    alpha: float
    iterations: int
    seed: int


def factorise(matrix, settings):
    """The fitted model of a csr (U, I) of w: `user_factors` (U, D) and `item_factors` (I, D), both float32.

    WorkError if they diverge.
    """
    from implicit.als import AlternatingLeastSquares
    from implicit.recommender_base import ModelFitError
    from threadpoolctl import threadpool_limits
    confidence = confidences(matrix, settings.alpha)
    with threadpool_limits(1, "blas"):  # implicit runs threads of its own
        model = AlternatingLeastSquares(factors=settings.factors, regularization=settings.regularization, alpha=1.0,
                                        iterations=settings.iterations, random_state=settings.seed, use_gpu=False)
        try:
            with Progress(settings.iterations, "ials", "iterations", quiet=True) as bar:
                model.fit(confidence, show_progress=False, callback=lambda *_: bar.update(1))
        except ModelFitError:
            raise WorkError("the factors are NaN or infinite; try a larger --regularization or a smaller "
                            "--alpha") from None
    return model


def confidences(matrix, alpha):
    """1 + alpha w of each pair of a csr (U, I) of w, as a copy."""
    confidence = matrix.astype("float32")
    confidence.data = 1 + alpha * confidence.data
    return confidence


def fold_in(model, matrix, alpha):
    """Factors, float32 (U, D), of histories csr (U, I) of w with the items' as they are: one half-sweep of ALS."""
    import numpy as np
    from threadpoolctl import threadpool_limits
    with threadpool_limits(1, "blas"):
        return model.recalculate_user(np.arange(matrix.shape[0]), confidences(matrix, alpha))


def request_of(args):
    """Every argument that can change the result."""
    return {"factors": args.factors, "regularization": args.regularization, "alpha": args.alpha,
            "values": args.values, "iterations": args.iterations, "k": args.k, "seed": args.seed,
            "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.alpha == 0:
        raise UsageError("--alpha must be above 0; with 0 played pairs have the same confidence as all others")
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split = dataset.load(workdir)
    request = request_of(args)
    with runs.Run(workdir, "ials", request, inputs=split.inputs, args=args) as run:
        if run.finished:
            return
        model = factorise(split.matrix(args.values), cli.settings(Settings, args))
        write_npy(run.model_embeddings("users"), model.user_factors)
        write_npy(run.model_embeddings("items"), model.item_factors)
        parts = split.hot_parts

        def users(part):
            if split.history_parts(part) == ("train",):
                return model.user_factors
            return fold_in(model, split.history(part, args.values), args.alpha)
        results = save.write(run, split, args.k, args.seed, parts, users=split.by_history(users, parts),
                             items=model.item_factors)
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main)
