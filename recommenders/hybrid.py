"""Hybrid: weighted sum of the normalised scores of other runs, with weights selected on val.

    python -m recommenders.hybrid                                        popularity, content_knn and itemknn
    python -m recommenders.hybrid popularity content_knn ease ials
    python -m recommenders.hybrid popularity content_knn_vggish_s42_0123456789 ease --steps 20

A component is the name of a run, or of a recommender: then its best run on val by --metric is used. Only the saved
lists of the components are read. For each user the scores s of a component become (s - low) / (high - low) over the
list saved for this user, and 0 outside it (candidates.normalised); the hybrid's score is the sum over the components c
of w_c times that. The weights are the best of a fixed grid by the mean of --metric on val: all multiples of 1 / --steps
that add up to 1 (10 steps: 66 trials for three components, 286 for four). A component of weight 0 contributes no
tracks, so each component alone (its ties broken again by this run's seed) is on the grid, and the hybrid is at least as
good on val as each re-ranked component. Its value on val is therefore optimistic; test is not used.

The cold parts use the weights of the components that have a cold list, scaled to add up to 1 (equal weights if all are
0), and are left out if there are none. Source of the normalised sum: Fox and Shaw, TREC-2 1994.
"""
import itertools
import re

from harness import cli, runs
from harness.errors import UsageError
from harness.files import write_report_csv
from harness.progress import Progress

TITLE = "Hybrid"
NEEDS = ()
COLD = True
MOST_TRIALS = 10_000


def build_parser():
    parser = cli.Parser(prog="recommenders.hybrid", description=__doc__)
    parser.add_argument("sources", nargs="*", default=["popularity", "content_knn", "itemknn"], metavar="RUN",
                        help="runs or recommenders whose lists are combined (default popularity content_knn itemknn)")
    parser.add_argument("--steps", type=cli.whole_number(1), default=10, metavar="N",
                        help="steps from 0 to 1 of a weight in the grid of weights (default 10)")
    parser.add_argument("--metric", default="NDCG@10", metavar="NAME",
                        help="metric on val that chooses the weights (default NDCG@10)")
    parser.add_argument("--normalise", choices=("minmax", "rrf"), default="minmax",
                        help="normalisation of the scores: minmax to 0..1 for each user, or rrf, 1 / (60 + rank) "
                             "(default minmax)")
    cli.recommender_flags(parser)
    return parser


def simplex(parts, steps):
    """All weights that are multiples of 1 / steps and add up to 1; float64 (trials, parts), lexicographic."""
    import numpy as np
    bars = np.array(list(itertools.combinations(range(steps + parts - 1), parts - 1)), np.int64)
    bars = bars.reshape(-1, parts - 1)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, steps + parts - 1)))
    return (np.diff(edges, axis=1) - 1) / steps


def mixed(pool, scores, weights):
    """Score of each candidate (N,): the weighted sum, or -inf if it is in no list of positive weight.

    scores: float64 (N, parts), normalised; weights: (parts,)
    """
    import numpy as np
    listed = (pool.place[:, weights > 0] >= 0).any(axis=1)
    return np.where(listed, scores @ weights, -np.inf)


def choose(pool, scores, weights, metric):
    """The mean of the metric on the pool's part for each row of weights; float64 (trials,)."""
    import numpy as np

    import metrics
    k, truth = int(metric.partition("@")[2]), pool.split.truth(pool.part)
    values = np.empty(len(weights))
    with Progress(len(weights), "hybrid", "trials") as progress:
        for trial, row in enumerate(weights):
            lists = pool.best(mixed(pool, scores, row), k)
            values[trial] = metrics.evaluate(lists, truth, (k,))[metric].mean()
            progress.update(1)
    return values


def check(args):
    """UsageError for an unknown metric, fewer than two components, or a grid of more than MOST_TRIALS weightings."""
    import math

    import metrics
    name, _, k = args.metric.partition("@")
    if name not in metrics.METRICS or not re.fullmatch("[1-9][0-9]{0,8}", k):
        raise UsageError(f"--metric must be one of {', '.join(metrics.METRICS)} with a k, like NDCG@10, "
                         f"not {args.metric}")
    if len(args.sources) < 2:
        raise UsageError("a hybrid has at least two components; name two or more, or none for popularity content_knn "
                         "itemknn")
    trials = math.comb(args.steps + len(args.sources) - 1, args.steps)
    if trials > MOST_TRIALS:
        raise UsageError(f"{len(args.sources)} components in {args.steps} steps are {trials} trials, more than "
                         f"{MOST_TRIALS}; use fewer --steps")


def weights_for(part, sources, weights):
    """Weights (components,) for one part of the split, 0 for components without a list of it; None if all have none."""
    import numpy as np
    able = np.array([part in source.parts for source in sources])
    if not able.any():
        return None
    kept = np.where(able, weights, 0.0)
    return kept / kept.sum() if kept.sum() > 0 else able / able.sum()


def write_lists(run, split, sources, weights, args):
    """Write lists and metrics of every part that some component has; returns {part: metrics}."""
    from ranking import candidates, save
    results = {}
    for part in split.parts:
        used = weights_for(part, sources, weights)
        if used is None:
            continue
        able = [i for i, source in enumerate(sources) if part in source.parts]
        pool = candidates.pool(split, part, [sources[i] for i in able], args.seed)
        values = mixed(pool, candidates.normalised(pool, args.normalise), used[able])
        results |= save.write(run, split, args.k, args.seed, [part], scores=pool.scorer(values), last=None)
    return results


def request_of(args):
    """Every argument that can change the result."""
    return {"sources": args.sources, "steps": args.steps, "metric": args.metric, "normalise": args.normalise,
            "k": args.k, "seed": args.seed, "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import candidates
    split = dataset.load(workdir)
    sources = candidates.find_runs(split, args.sources, args.metric)
    request = request_of(args)
    inputs = split.inputs + [s.path(part) for s in sources for part in s.parts]
    run = runs.Run(workdir, "hybrid", request, inputs=inputs, args=args)
    run.outputs.append(run.folder / "trials.csv")
    with run:
        if run.finished:
            return
        pool = candidates.pool(split, "val", sources, args.seed)
        grid = simplex(len(sources), args.steps)
        values = choose(pool, candidates.normalised(pool, args.normalise), grid, args.metric)
        chosen = record(run, args, sources, grid, values)
        results = write_lists(run, split, sources, grid[values.argmax()], args)
        left = {part: "no component ranks it" for part in split.parts if part not in results}
        run.finish(parts=sorted(results), left_out=left, **chosen)


def record(run, args, sources, grid, values):
    """Print the selected weights and write all trials into the run's folder; returns the entries of config.json."""
    import pandas as pd
    words, best = [s.word for s in sources], int(values.argmax())
    alone = {word: float(values[grid[:, i] == 1][0]) for i, word in enumerate(words)}
    write_report_csv(run.folder / "trials.csv", pd.DataFrame(grid, columns=words).assign(**{args.metric: values}))
    weights = dict(zip(words, grid[best].round(12).tolist(), strict=True))
    print(f"{run.name}: {args.metric} on val {values[best]:.4f}, best of {len(grid)} weightings")
    for source in sources:
        print(f"  {weights[source.word]:.2f} of {source.run} (alone {alone[source.word]:.4f})")
    return {"weights": weights, "trials": len(grid), "sources": {s.word: s.run for s in sources},
            "runs_to_choose_from": {s.word: s.among for s in sources},
            "val": {"metric": args.metric, "hybrid": float(values[best]), "alone": alone}}


if __name__ == "__main__":
    cli.run(main)
