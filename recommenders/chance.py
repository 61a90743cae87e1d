"""Chance: every user gets an independent random order of the catalogue.

    python -m recommenders.chance

The lower reference of every table. All scores are equal, so the lists are determined by the tie-breaking of the
ranker, a seeded random order per user (ranking/topk.py).
"""
from harness import cli, runs

TITLE = "Chance"
NEEDS = ()
COLD = True
SEARCH_SPACE = {}  # nothing to tune


def build_parser():
    parser = cli.Parser(prog="recommenders.chance", description=__doc__)
    cli.recommender_flags(parser)
    return parser


def request_of(args):
    """Every argument that can change the result."""
    return {"k": args.k, "seed": args.seed, "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    import numpy as np

    import dataset
    from ranking import save
    split = dataset.load(workdir)
    request = request_of(args)
    with runs.Run(workdir, "chance", request, inputs=split.inputs, args=args) as run:
        if run.finished:
            return
        size = {part: split.candidates(part).stop - split.candidates(part).start for part in split.parts}
        scores = {part: lambda codes, n=n: np.zeros((len(codes), n), np.float32) for part, n in size.items()}
        results = save.write(run, split, args.k, args.seed, scores=scores, last=None)
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main)
