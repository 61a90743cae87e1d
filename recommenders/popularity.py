"""Popularity: recommend the most popular tracks that the user has not played.

    python -m recommenders.popularity --by users
    python -m recommenders.popularity --half-life 30        (for data with times)
    python -m recommenders.popularity --decay-hours 12      (DecayPop: every play, for data with times)

The score of a track is the number of its users (--by users) or its plays (--by plays) in train; with --half-life H
each pair is weighted by 0.5 ** (age / H days), its age being the time from its first play to the end of train. With
--decay-hours H every play of plays.pqt in train counts 0.9 ** (age / H hours), its age the time to the last of them
(DecayPop of Yambda's benchmark, arXiv 2505.22238).
Tracks absent from train have no popularity, so the cold test is left out.
"""
from harness import cli, runs
from harness.errors import UsageError

TITLE = "Popularity"
NEEDS = ()
COLD = False
DETERMINISTIC = True
SEARCH_SPACE = {"by": ["users", "plays"]}


def build_parser():
    parser = cli.Parser(prog="recommenders.popularity", description=__doc__)
    parser.add_argument("--by", choices=("users", "plays"), default="users",
                        help="count of a track: its listeners or its plays (default users)")
    parser.add_argument("--half-life", type=float, default=0.0, metavar="DAYS",
                        help="age in days at which a play counts half; 0 counts all alike (default 0)")
    parser.add_argument("--decay-hours", type=cli.number(0, above=True), default=None, metavar="FLOAT",
                        help="hours in which a play loses a tenth of its weight (DecayPop), every play by itself "
                             "(default: none does)")
    cli.recommender_flags(parser)
    return parser


def item_scores(train, n_items, by="users", half_life=0.0):
    """Popularity of each item, float32 (n_items,); `train` is dataset.Interactions, half_life in days."""
    import numpy as np
    weight = train.count.astype(np.float64) if by == "plays" else np.ones(len(train))
    if half_life > 0:
        weight = weight * 0.5 ** ((train.time.max() - train.time) / (86400e6 * half_life))
    return np.bincount(train.item, weight, minlength=n_items).astype(np.float32)


def request_of(args):
    """Every argument that can change the result."""
    decay = {} if args.decay_hours is None else {"decay_hours": args.decay_hours}
    return {"by": args.by, "half_life": args.half_life, **decay, "k": args.k, "seed": args.seed,
            "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not 0 <= args.half_life < float("inf"):
        raise UsageError(f"--half-life must be a number of days, at least 0, not {args.half_life:g}")
    if args.decay_hours and (args.half_life or args.by != "users"):
        raise UsageError("--decay-hours weighs every play by itself; leave out --half-life and --by")
    workdir = cli.workspace(args)
    import torch

    import dataset
    from ranking import decay, plays, save
    split = dataset.load(workdir)
    if args.half_life and split.time != "real":
        raise UsageError(f"--half-life requires timestamps, but the time of this workspace is {split.time!r}; "
                         "leave it out")
    request = request_of(args)
    files = plays.inputs(split, "--decay-hours") if args.decay_hours else []
    with runs.Run(workdir, "popularity", request, inputs=[*split.inputs, *files], args=args) as run:
        if run.finished:
            return
        score = torch.from_numpy(decay.weights(split, args.decay_hours).sum(axis=0).A1.astype("float32")
                                 if args.decay_hours else
                                 item_scores(split.train, split.n_hot, args.by, args.half_life))
        parts = split.hot_parts
        results = save.write(run, split, args.k, args.seed, parts,
                             scores=lambda codes: score.expand(len(codes), -1))
        run.finish(parts=sorted(results),
                   left_out={part: "cannot rank cold items" for part in split.parts if part not in parts})


if __name__ == "__main__":
    cli.run(main)
