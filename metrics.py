"""Stage 4: how good saved recommendations are, for each user and on average.

    python metrics.py                                  every run of the workspace
    python metrics.py musicnn_cosine --k 10 50         one run
    python metrics.py musicnn_cosine --scorer rs_metrics
    python metrics.py --preds FILE --truth FILE --k 5 10 --out FILE.csv

Writes metrics/{run}_{part}.csv (rows `mean` and `conf`, the half-width of the 95 % interval over users) and
metrics/{run}_{part}.pqt (`user_id` and the values of each user of the truth).

Values are those of rs_metrics (github.com/Darel13712/rs_metrics), user by user. With L the first k tracks of a
user's list, T the user's true tracks and h_j = 1 where the j-th track of L (from 1) is in T:

    HitRate    1 if any h_j, else 0             Recall     sum h_j / |T|
    MRR        1 / the first j with h_j         MAP        sum_j h_j (h_1 + .. + h_j) / j / |T|
    Precision  sum h_j / |L|                    NDCG       sum h_j / log2(j + 1) over its value for min(|T|, k)
                                                           hits at the top of the list

Precision divides by the length of the list, not by k: a short list is not punished for what it leaves out.
Edges, made safe: a track twice in a list counts once, at its first place, and what follows moves up; a pair
twice in the truth counts once; a user of the truth without a list counts zero everywhere; lists of users
outside the truth are ignored. Coverage, Gini and Popularity are described in beyond.py.
"""
import sys
import warnings
from pathlib import Path

import harness.environment  # noqa: F401 (a missing package ends in one sentence)

# isort: split
import numpy as np

from evaluation.beyond_accuracy import beyond, catalogue_of
from evaluation.files import write_metrics
from evaluation.lists import places_of, read_frame, read_lists, read_truth, saved_lists, whole_numbers
from harness import cli, runs
from harness.errors import UsageError, WorkError

METRICS = ("HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP")
KS = (5, 10, 20, 50)
LONGEST = 1_000_000  # places of a list
TOLERANCE = 1e-9  # between our values and those of rs_metrics


# --------------------------------------------------------------------------- values

def evaluate(preds, truth, ks=KS):
    """Values of every user of the truth: frame with index user_id, ascending, and columns `HitRate@5` ...

    preds: frame `user_id, track_id, rank` (rank from 0); truth: frame `user_id, track_id`
    ks:    list lengths, whole numbers of at least 1; columns go by k, then METRICS
    An empty truth gives an empty frame. Formulas and edges: the head of this file.
    """
    truth = read_truth(truth)
    return values_of(read_lists(preds, truth.users), truth, check_ks(ks))


def values_of(lists, truth, ks):
    """`evaluate` on lists.Lists and lists.Truth of the same users."""
    import pandas as pd
    n = len(truth.users)
    place = lists.find(truth.user, truth.track)
    user, place = truth.user[place >= 0], place[place >= 0]
    order = np.lexsort((place, user))
    user, place = user[order], place[order]                    # the hits, user by user, from the top of the list
    nth = places_of(user) + 1                                  # first, second, ... hit of its user
    n_true = np.bincount(truth.user, minlength=n)
    ideal = np.cumsum(1 / np.log2(np.arange(max(ks)) + 2))     # gain of 1, 2, ... hits at the top
    columns = {}
    for k in ks:
        top = place < k
        u, p, h = user[top], place[top], nth[top]
        hits = np.bincount(u, minlength=n)
        columns[f"HitRate@{k}"] = (hits > 0).astype(np.float64)
        columns[f"MRR@{k}"] = np.bincount(u[h == 1], 1 / (p[h == 1] + 1), minlength=n)
        columns[f"Precision@{k}"] = hits / np.maximum(np.minimum(lists.length, k), 1)
        columns[f"Recall@{k}"] = hits / n_true
        columns[f"NDCG@{k}"] = np.bincount(u, 1 / np.log2(p + 2), minlength=n) / ideal[np.minimum(n_true, k) - 1]
        columns[f"MAP@{k}"] = np.bincount(u, h / (p + 1), minlength=n) / n_true
    return pd.DataFrame(columns, index=pd.Index(truth.users, name="user_id"))


def by_rs_metrics(lists, truth, ks):
    """The same frame computed by rs_metrics itself; its NaN for a missing list becomes 0."""
    import pandas as pd
    import rs_metrics
    scorers = zip(METRICS, (rs_metrics.hitrate, rs_metrics.mrr, rs_metrics.precision, rs_metrics.recall,
                            rs_metrics.ndcg, rs_metrics.mapr), strict=True)
    true = dict(enumerate(np.split(truth.track, np.flatnonzero(np.diff(truth.user)) + 1)))
    pred = dict(enumerate(np.split(lists.track, np.cumsum(lists.length)[:-1])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty list
        values = {f"{name}@{k}": scorer(true, pred, k=k, apply_mean=False) for name, scorer in scorers for k in ks}
    values = pd.DataFrame(values, index=pd.Index(truth.users, name="user_id"), dtype=np.float64)
    return values[[f"{name}@{k}" for k in ks for name in METRICS]].fillna(0.0)


def check_ks(ks):
    """List lengths as a tuple without repeats; UsageError when one is not a whole number of at least 1."""
    for k in ks:
        if isinstance(k, bool) or k != int(k) or not 1 <= k <= LONGEST:
            raise UsageError(f"k must be a whole number from 1 to {LONGEST}, not {k}")
    if not len(ks):
        raise UsageError("no k was given; --k 5 10 asks for lists of 5 and of 10")
    return tuple(dict.fromkeys(int(k) for k in ks))


# --------------------------------------------------------------------------- files

def report(workdir, run_name, part, preds, truth, ks=KS, scorer=None):
    """Evaluate the lists of one part, write metrics/{run}_{part}.pqt and .csv, return {column: mean}.

    Coverage, Gini and Popularity are added where the workspace has its split; the first two belong to all
    lists together and have no interval. With one user nothing has: `conf` is empty.
    scorer: 'rs_metrics' has that library compute the values, too, and refuses to differ.
    """
    if not len(truth):
        raise WorkError(f"part {part} has no pairs to evaluate {run_name} on")
    ks, truth = check_ks(ks), read_truth(truth)
    lists = read_lists(preds, truth.users)
    values, whole = values_of(lists, truth, ks), {}
    if scorer == "rs_metrics":
        cross_check(values, by_rs_metrics(lists, truth, ks), f"{run_name}, {part}")
    catalogue = catalogue_of(workdir, part)
    if catalogue is not None:
        whole, each = beyond(lists, *catalogue, ks)
        values = values.join(each)
    return write_metrics(Path(workdir) / "metrics" / f"{run_name}_{part}.csv", values, whole)


def cross_check(ours, theirs, what):
    """Say how far two frames of values are apart; WorkError when further than TOLERANCE."""
    apart = (ours - theirs).abs().max()
    print(f"{what}: {len(ours)} users, largest difference to rs_metrics {apart.max():.1e} ({apart.idxmax()})")
    if not apart.max() <= TOLERANCE:
        raise WorkError(f"{what}: {apart.idxmax()} differs from rs_metrics by {apart.max():.3g}, "
                        f"more than {TOLERANCE:g}; nothing was written")


# --------------------------------------------------------------------------- command line

def build_parser():
    parser = cli.Parser(prog="metrics.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="RUN", help="runs to evaluate (default: all with saved lists)")
    parser.add_argument("--k", type=cli.positive, nargs="+", default=list(KS), metavar="K",
                        help="list lengths (default 5 10 20 50); those beyond a run's lists are left out")
    parser.add_argument("--scorer", choices=("rs_metrics",), default=None,
                        help="compute with this library, too, and fail where it differs")
    parser.add_argument("--preds", metavar="FILE", help="lists: user_id, track_id, rank (parquet, csv or tsv)")
    parser.add_argument("--truth", metavar="FILE", help="what is true of them: user_id, track_id")
    parser.add_argument("--out", metavar="FILE.csv", help="where to write; values per user go beside it as .pqt")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.preds or args.truth or args.out:
        return evaluate_files(args)
    workdir = cli.workspace(args)
    jobs = saved_lists(workdir, args.names)
    import dataset
    split = dataset.load(workdir)
    asked = {name: config.get("request", {}).get("k") for name, config in runs.find_runs(workdir)}
    for name, part, path in jobs:
        if part not in split.parts:
            why = f"{path} is of part {part}, but this split has {', '.join(split.parts) or 'no parts'}"
            if args.names:
                raise WorkError(why)
            print(f"{why}; skipped", file=sys.stderr)
            continue
        preds = read_frame(path, ("user_id", "track_id", "rank"))
        try:
            longest = asked.get(name) or int(whole_numbers(preds, "rank", "the lists").max(initial=0)) + 1
            means = report(workdir, name, part, preds, split.truth(part), within(args.k, longest, name), args.scorer)
        except WorkError as e:
            raise WorkError(f"{path}: {e}") from None
        print_means(f"{name}, {part}", means)


def evaluate_files(args):
    """--preds and --truth: any pair of files."""
    if args.names or not (args.preds and args.truth):
        raise UsageError("a pair of files is evaluated with --preds FILE --truth FILE [--out FILE.csv], without runs")
    if args.out and Path(args.out).suffix != ".csv":
        raise UsageError(f"--out must end in .csv, not {Path(args.out).name}; values per user go beside it as .pqt")
    if args.out:
        for written in (Path(args.out), Path(args.out).with_suffix(".pqt")):
            if any(written.expanduser().resolve() == Path(p).expanduser().resolve() for p in (args.preds, args.truth)):
                raise UsageError(f"--out {args.out} would overwrite {written.name}, which is read; choose another name")
    truth = read_frame(args.truth, ("user_id", "track_id"))
    preds = read_frame(args.preds, ("user_id", "track_id", "rank"))
    ids = [whole_numbers(frame, "track_id", name) for frame, name in ((truth, args.truth), (preds, args.preds))]
    known = np.unique(np.concatenate(ids))  # any numbers will do here, not only rows of a track list
    truth, preds = (f.assign(track_id=np.searchsorted(known, x)) for f, x in zip((truth, preds), ids, strict=True))
    truth, ks = read_truth(truth), check_ks(args.k)
    if not len(truth.users):
        raise WorkError(f"{args.truth} has no rows, so there is nobody to evaluate")
    lists = read_lists(preds, truth.users)
    values = values_of(lists, truth, ks)
    if args.scorer:
        cross_check(values, by_rs_metrics(lists, truth, ks), Path(args.preds).name)
    if args.out:
        write_metrics(Path(args.out).expanduser(), values)
    if lists.length.max() < max(ks):
        print(f"the longest list has {lists.length.max()} tracks; at a larger k the figures are of shorter lists",
              file=sys.stderr)
    print_means(f"{Path(args.preds).name}, {len(truth.users)} users", dict(zip(values, values.mean(), strict=True)))


def within(ks, longest, name):
    """The list lengths up to `longest`, or `longest` itself where all are above; says what is left out."""
    kept = tuple(k for k in ks if k <= longest) or (longest,)
    left = [str(k) for k in ks if k not in kept]
    if left:
        print(f"{name}: its lists have {longest} places, so k = {', '.join(left)} is left out", file=sys.stderr)
    return kept


def print_means(title, means):
    """Print {`Metric@k`: mean} as a table with a row for each k."""
    names = list(dict.fromkeys(column.rsplit("@", 1)[0] for column in means))
    print(f"{title}\n  {'k':>4}" + "".join(f"{name:>12}" for name in names))
    for k in dict.fromkeys(column.rsplit("@", 1)[1] for column in means):
        print(f"  {k:>4}" + "".join(f"{means.get(f'{name}@{k}', np.nan):12.4f}" for name in names), flush=True)


if __name__ == "__main__":
    cli.run(main)
