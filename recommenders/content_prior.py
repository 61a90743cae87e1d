"""Content prior: the popularity that content alone predicts, the same for all users.

    python -m recommenders.content_prior --embedding vggish
    python -m recommenders.content_prior --embedding vggish tags --of plays

A ridge regression with intercept of log(1 + listeners) (--of users) or log(1 + plays) (--of plays) of the train items
on their content, solved in closed form; its penalty is the minimum of the generalised cross-validation error (Golub,
Heath and Wahba, Technometrics 1979) unless --l2 names one. The score of an item is what the regression expects, for
hot items too: each is predicted by a fit on other items (training/ridge.py), so that its own popularity never ranks it.
It is the baseline that a cold method has to beat to show that it serves users and not merely the crowd.

Practical limit: an eigendecomposition of dimensions x dimensions; seconds for 50,000 tracks and 1,000 dimensions.
"""
from harness import cli, runs
from training import content

TITLE = "Content prior"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = True
SEARCH_SPACE = {"of": ["users", "plays"]}


def build_parser():
    parser = cli.Parser(prog="recommenders.content_prior", description=__doc__)
    content.flags(parser)
    parser.add_argument("--of", choices=("users", "plays"), default="users",
                        help="popularity that is predicted: the logarithm of the listeners or of the plays of a track "
                             "(default users)")
    content.l2_flag(parser, "the regression")
    cli.recommender_flags(parser)
    return parser


def popularity(split, of):
    """log(1 + listeners) or log(1 + plays) of each hot item in train, float64 (n_hot,)."""
    import numpy as np
    weight = split.train.count.astype(np.float64) if of == "plays" else None
    return np.log1p(np.bincount(split.train.item, weight, minlength=split.n_hot))


def request_of(args):
    """Every argument that can change the result."""
    return {**content.request(args), "of": args.of, "l2": args.l2, "k": args.k, "seed": args.seed,
            "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import numpy as np

    import dataset
    from ranking import save
    from training import ridge
    split = dataset.load(workdir)
    inputs = [*split.inputs, *content.inputs(workdir, args)]
    with runs.Run(workdir, "content_prior", request_of(args), embedding="+".join(args.embedding), inputs=inputs,
                  args=args) as run:
        if run.finished:
            return
        features = content.features(split, args)
        items, fit = ridge.cross_fitted(features, popularity(split, args.of)[:, None], ~split.unseen, args.l2)
        results = save.write(run, split, args.k, args.seed, items=items.astype(np.float32),
                             users=lambda codes: np.ones((len(codes), 1), np.float32))
        run.finish(parts=sorted(results), l2=fit.l2, degrees_of_freedom=fit.dof)


if __name__ == "__main__":
    cli.run(main)
