"""Stage 4: how good saved recommendations are, for each user and on average.

    python metrics.py                                  every run of the workspace, one line per run and part
    python metrics.py --long                           all metrics of each
    python metrics.py musicnn_cosine --k 10 50         one run
    python metrics.py musicnn_cosine --scorer rs_metrics
    python metrics.py --subset-size 5                  with SubsetAccuracy@5, the measure of the DTNMR source
    python metrics.py --preds FILE --truth FILE --k 5 10 --out FILE.csv

Writes metrics/{run}_{part}.csv (rows `mean` and `conf`, the half-width of the 95 % interval over users) and
metrics/{run}_{part}.pqt (`user_id` and the values of each user of the truth). A column that was not computed this
time (another --k, SubsetAccuracy) stays as long as the lists are unchanged. Runs of another split than the workspace's,
and unfinished ones, are skipped and listed.

Values are those of rs_metrics (github.com/Darel13712/rs_metrics), user by user. With L the first k tracks of a
user's list, T the user's true tracks and h_j = 1 where the j-th track of L (from 1) is in T:

    HitRate    1 if any h_j, else 0             Recall     sum h_j / |T|
    MRR        1 / the first j with h_j         MAP        sum_j h_j (h_1 + .. + h_j) / j / |T|
    Precision  sum h_j / |L|                    NDCG       sum h_j / log2(j + 1) over its value for min(|T|, k)
                                                           hits at the top of the list

Precision divides by the length of the list, not by k: a short list is not punished for what it leaves out.
Edge cases: a track twice in a list counts once, at its first place, and what follows moves up; a pair
twice in the truth counts once; a user of the truth without a list counts zero everywhere; lists of users
outside the truth are ignored. Where k exceeds the number of candidates a list holds all of them. Coverage, Gini,
Popularity and ColdShare: evaluation/beyond_accuracy.py; SubsetAccuracy: evaluation/subset_accuracy.py; RatioNDCG and
RepeatRecall, where nothing seen is hidden: evaluation/repeats.py.
"""
from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import harness.environment  # noqa: F401 (a missing package ends in one sentence)

# isort: split
import numpy as np

from evaluation.beyond_accuracy import beyond, catalogue_of
from evaluation.files import columns_from_before, read_rows, seeds_of, write_metrics
from evaluation.lists import (
    Lists,
    Truth,
    digest_of,
    places_of,
    read_frame,
    read_lists,
    read_truth,
    saved_lists,
    whole_numbers,
)
from evaluation.repeats import METRICS as REPEATED
from evaluation.repeats import plays_of, repeats
from evaluation.subset_accuracy import Subsets, accuracy, subsets
from harness import cli, ids, runs
from harness.errors import UsageError, WorkError

if TYPE_CHECKING:
    import argparse

    import pandas as pd

    from dataset import Split

METRICS = ("HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP")
MADE = re.compile(  # columns of every call
    rf"(?:{'|'.join((*METRICS, 'Coverage', 'Gini', 'Popularity', 'ColdShare', *REPEATED))})@([0-9]+)")
KS = (5, 10, 20, 50)
SHOWN = ("NDCG", "Recall", "HitRate")  # metrics of the line that a run has; the first sorts the lines
SHOWN_AT = 10                          # and their list length, or the nearest below, or the shortest
LONGEST = 1_000_000  # ranks of a list
TOLERANCE = 1e-9  # between our values and those of rs_metrics


# --------------------------------------------------------------------------- values

def evaluate(preds: pd.DataFrame, truth: pd.DataFrame, ks: Sequence[int] = KS) -> pd.DataFrame:
    """Values of every user of the truth: frame with index user_id, ascending, and columns `HitRate@5` ...

    preds: frame `user_id, track_id, rank` (rank from 0); truth: frame `user_id, track_id`
    ks:    list lengths, whole numbers of at least 1; columns go by k, then METRICS
    An empty truth gives an empty frame. Formulas and edges: the head of this file.
    """
    pairs = read_truth(truth)
    return values_of(read_lists(preds, pairs.users), pairs, check_ks(ks))


def values_of(lists: Lists, truth: Truth, ks: Sequence[int]) -> pd.DataFrame:
    """`evaluate` on lists.Lists and lists.Truth of the same users."""
    import pandas as pd
    n = len(truth.users)
    place = lists.ranks_of(truth.user, truth.track)
    user, place = truth.user[place >= 0], place[place >= 0]
    order = np.lexsort((place, user))
    user, place = user[order], place[order]                    # the hits, user by user, from the top of the list
    nth = places_of(user) + 1                                  # first, second, ... hit of its user
    n_true = np.bincount(truth.user, minlength=n)
    ideal = np.cumsum(1 / np.log2(np.arange(max(ks)) + 2))     # gain of 1, 2, ... hits at the top
    columns: dict[str, np.ndarray] = {}
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


def by_rs_metrics(lists: Lists, truth: Truth, ks: Sequence[int]) -> pd.DataFrame:
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
    frame = pd.DataFrame(values, index=pd.Index(truth.users, name="user_id"), dtype=np.float64)
    return frame[[f"{name}@{k}" for k in ks for name in METRICS]].fillna(0.0)


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """List lengths as a tuple without repeats; UsageError when one is not a whole number of at least 1."""
    for k in ks:
        if isinstance(k, bool) or k != int(k) or not 1 <= k <= LONGEST:
            raise UsageError(f"k must be a whole number from 1 to {LONGEST}, not {k}")
    if not len(ks):
        raise UsageError("no k was given; --k 5 10 asks for lists of 5 and of 10")
    return tuple(dict.fromkeys(int(k) for k in ks))


# --------------------------------------------------------------------------- files

def report(workdir: str | Path, run_name: str, part: str, preds: pd.DataFrame, truth: pd.DataFrame,
           ks: Sequence[int] = KS, scorer: str | None = None, split: Split | None = None,
           drawn: Subsets | None = None) -> dict[str, float]:
    """Evaluate the lists of one part, write metrics/{run}_{part}.pqt and .csv, return {column: mean} of this call.

    split:  adds Coverage, Gini, Popularity and, of all_test, ColdShare; the first two belong to all lists together and
            have no interval
    drawn:  adds SubsetAccuracy on these subsets of the part's pairs
    scorer: 'rs_metrics' has that library compute the values, too, and refuses to differ
    With one user nothing has an interval: `conf` is empty. Columns of an earlier call stay where they are of the same
    lists. WorkError for a part without pairs and for lists that cannot be evaluated.
    """
    if not len(truth):
        raise WorkError(f"part {part} has no pairs to evaluate {run_name} on")
    ks, pairs = check_ks(ks), read_truth(truth)
    lists = read_lists(preds, pairs.users)
    if scorer == "rs_metrics":
        cross_check(values_of(lists, pairs, ks), by_rs_metrics(lists, pairs, ks), f"{run_name}, {part}")
    values, whole = figures(lists, pairs, ks, split, part)
    if drawn is not None:
        values[drawn.column], tied = accuracy(lists, drawn)
        if tied:
            print(f"{run_name}, {part}: {tied:.1%} of the subsets of {drawn.column} lie beyond the lists' ends and "
                  "are ties", file=sys.stderr)
    path = Path(workdir) / "metrics" / f"{run_name}_{part}.csv"
    digest = digest_of(lists, pairs, [i.digest for i in split.inputs] if split else ())
    more, more_whole = columns_from_before(path, values, digest, MADE,
                                           lambda lengths: figures(lists, pairs, lengths, split, part))
    seeds = {column: seed for column, seed in seeds_of(path).items() if column in more} if len(more.columns) else {}
    seeds |= {drawn.column: drawn.seed} if drawn is not None else {}
    means = write_metrics(path, values.join(more), whole | more_whole, digest, seeds)
    return {column: means[column] for column in (*values, *whole)}


def figures(lists: Lists, truth: Truth, ks: Sequence[int], split: Split | None,
            part: str) -> tuple[pd.DataFrame, dict[str, float]]:
    """What is computed at every call: values of users (U rows, index user_id), and of all lists together."""
    values = values_of(lists, truth, ks)
    if split is None:
        return values, {}
    whole, each = beyond(lists, *catalogue_of(split, part), ks)
    if split.rules["seen"] == "keep":
        of_all, more = repeats(lists, truth, plays_of(split, part, truth), ks)
        whole, each = whole | of_all, each.join(more)
    return values.join(each), whole


def cross_check(ours: pd.DataFrame, theirs: pd.DataFrame, what: str) -> None:
    """Print the largest difference of two frames of values; WorkError when it is above TOLERANCE."""
    largest = (ours - theirs).abs().max()
    print(f"{what}: {len(ours)} users, largest difference to rs_metrics {largest.max():.1e} ({largest.idxmax()})")
    if not largest.max() <= TOLERANCE:
        raise WorkError(f"{what}: {largest.idxmax()} differs from rs_metrics by {largest.max():.3g}, "
                        f"more than {TOLERANCE:g}; nothing was written")


# --------------------------------------------------------------------------- command line

def build_parser() -> cli.Parser:
    parser = cli.Parser(prog="metrics.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="RUN", help="runs to evaluate (default: all with saved lists)")
    parser.add_argument("--k", type=cli.positive, nargs="+", default=list(KS), metavar="K",
                        help="list lengths (default 5 10 20 50); those beyond a run's lists are left out")
    parser.add_argument("--subset-size", type=cli.whole_number(2), metavar="N",
                        help="adds SubsetAccuracy@N: how often a held-out track ranks above N - 1 sampled tracks that "
                             "its user does not know; at least 2 (default: not computed)")
    parser.add_argument("--seed", type=cli.seed_number, metavar="N",
                        help="seed of the tracks sampled for --subset-size (default 42)")
    parser.add_argument("--scorer", choices=("rs_metrics",), default=None,
                        help="compute with this library, too, and fail where its values differ (default: none)")
    parser.add_argument("--long", action="store_true",
                        help="print all metrics of each run and part (default: a line with three of them)")
    parser.add_argument("--preds", metavar="FILE",
                        help="evaluate this file instead of runs: user_id, track_id, rank (parquet, csv or tsv)")
    parser.add_argument("--truth", metavar="FILE",
                        help="held-out interactions (ground truth) for --preds: user_id, track_id")
    parser.add_argument("--out", metavar="FILE.csv",
                        help="csv to write for --preds, with values per user beside it as .pqt (default: only print)")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; UsageError for flags that do not go together."""
    args = build_parser().parse_args(argv)
    if args.seed is not None and args.subset_size is None:
        raise UsageError("--seed is the seed of the tracks sampled for --subset-size; add --subset-size N")
    args.seed = 42 if args.seed is None else args.seed
    files = args.preds or args.truth or args.out
    if files and args.subset_size is not None:
        raise UsageError("--subset-size samples tracks of a workspace's split; it is for runs, not for --preds")
    if files and (args.names or not (args.preds and args.truth)):
        raise UsageError("a pair of files is evaluated with --preds FILE --truth FILE [--out FILE.csv], without runs")
    if args.out and Path(args.out).suffix != ".csv":
        raise UsageError(f"--out must end in .csv, not {Path(args.out).name}; values per user go beside it as .pqt")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.preds:
        return evaluate_files(args)
    evaluate_runs(args)


def evaluate_runs(args: argparse.Namespace) -> None:
    """Evaluate the saved lists of runs, print them part by part, the best first, and say where the figures are."""
    workdir = cli.workspace(args)
    jobs = saved_lists(workdir, args.names)
    import dataset
    split, manifests = dataset.load(workdir), dict(runs.find_runs(workdir))
    drawn: dict[str, Subsets] = {}
    written: list[tuple[str, str, dict[str, float]]] = []
    for name, part, path in current(jobs, split, manifests):
        preds = read_frame(path, ("user_id", "track_id", "rank"))
        try:
            if args.subset_size and part not in drawn:
                drawn[part] = subsets(split, part, args.subset_size, args.seed)
            longest = (manifests.get(name, {}).get("request", {}).get("k")
                       or int(whole_numbers(preds, "rank", "the lists").max(initial=0)) + 1)
            means = report(workdir, name, part, preds, split.truth(part), within(args.k, longest, name), args.scorer,
                           split, drawn.get(part))
        except WorkError as e:
            raise WorkError(f"{path}: {e}") from None
        written.append((part, name, means))
        if args.long:
            print_means(f"{name}, {part}", means)
    if not args.long:
        rows = {(part, name): (means, read_rows(workdir / "metrics" / f"{name}_{part}.csv", "run this again")[1])
                for part, name, means in written}
        print("\n".join(lines_of(rows, args.k, [f"SubsetAccuracy@{args.subset_size}"] * bool(args.subset_size))))
    print(f"written to {workdir / 'metrics'}: {len(written)} times RUN_PART.csv (means, intervals) and .pqt (users); "
          "python table.py compares the runs")


def current(jobs: Iterable[tuple[str, str, Path]], split: Split,
            manifests: Mapping[str, dict]) -> list[tuple[str, str, Path]]:
    """The jobs whose lists are of this split and finished; the others are named on stderr. WorkError without any."""
    checksums = {str(i.path.relative_to(split.workdir)): i.digest for i in split.inputs}
    usable, reasons = [], []
    for name, part, path in jobs:
        if changed := runs.changed_since(manifests.get(name, {}), checksums):
            reasons.append(f"{name} was made on another split ({', '.join(changed)} changed since); run it again")
        elif manifests.get(name, {}).get("status", "finished") != "finished":   # its lists may be of an earlier split
            reasons.append(f"{name} has not finished; run it again")
        elif part not in split.parts:
            reasons.append(f"{path} is of part {part}, but this split has {', '.join(split.parts) or 'no parts'}")
        else:
            usable.append((name, part, path))
    reasons = list(dict.fromkeys(reasons))
    if not usable:
        raise WorkError("; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""))
    for reason in reasons:
        print(f"skipped: {reason}", file=sys.stderr)
    return usable


def evaluate_files(args: argparse.Namespace) -> None:
    """--preds and --truth: any pair of files, whose ids may be whole numbers or texts."""
    if args.out:
        for written in (Path(args.out), Path(args.out).with_suffix(".pqt")):
            if any(written.expanduser().resolve() == Path(p).expanduser().resolve() for p in (args.preds, args.truth)):
                raise UsageError(f"--out {args.out} would overwrite {written.name}, which is read; choose another name")
    truth = read_frame(args.truth, ("user_id", "track_id"))
    preds = read_frame(args.preds, ("user_id", "track_id", "rank"))
    truth, preds, users = _same_ids(args, truth, preds)
    pairs, ks = read_truth(truth), check_ks(args.k)
    if not len(pairs.users):
        raise WorkError(f"{args.truth} has no rows, so no user to evaluate")
    try:
        lists = read_lists(preds, pairs.users, users)
    except WorkError as e:
        raise WorkError(f"{args.preds}: {e}") from None
    if not lists.length.any():
        raise WorkError(f"no user of {args.truth} has a list in {args.preds}; are the ids of both the same?")
    values = values_of(lists, pairs, ks)
    if args.scorer:
        cross_check(values, by_rs_metrics(lists, pairs, ks), Path(args.preds).name)
    if users:
        values.index = values.index.map(np.array(users).__getitem__)
    if args.out:
        write_metrics(Path(args.out).expanduser(), values)
    if lists.length.max() < max(ks):
        print(f"the longest list has {lists.length.max()} tracks; at a larger k the figures are of shorter lists",
              file=sys.stderr)
    print_means(f"{Path(args.preds).name}, {len(pairs.users)} users", values.mean().to_dict())


def _same_ids(args, truth, preds):
    """The two frames with ids of one numbering each for users and tracks, and the users' names where they are texts."""
    import pyarrow as pa
    names = {}
    for column in ("user_id", "track_id"):
        both = []
        for frame, path in ((truth, args.truth), (preds, args.preds)):
            whole = not len(frame) or frame[column].dtype.kind in "iuf"
            both.append(pa.array(whole_numbers(frame, column, path)) if whole else pa.array(frame[column], pa.string()))
        first, second, names[column] = ids.shared(*both)
        if column == "track_id" and not names[column]:      # any numbers will do here, not only rows of a track list
            known = np.unique(np.concatenate([first, second]))
            first, second = np.searchsorted(known, first), np.searchsorted(known, second)
        truth, preds = truth.assign(**{column: first}), preds.assign(**{column: second})
    return truth, preds, names["user_id"]


def within(ks: Sequence[int], longest: int, name: str) -> tuple[int, ...]:
    """The list lengths up to `longest`, or `longest` itself where all are above; the others are named on stderr."""
    used = tuple(k for k in ks if k <= longest) or (longest,)
    left = [str(k) for k in ks if k not in used]
    if left:
        print(f"{name}: its lists have {longest} places, so k = {', '.join(left)} is left out", file=sys.stderr)
    return used


def lines_of(rows: Mapping[tuple[str, str], tuple[dict, dict]], ks: Sequence[int],
             also: Sequence[str] = ()) -> list[str]:
    """A line for each part and run with SHOWN metrics and their half-widths; by part, the best first, ties by name.

    rows: {(part, run): ({column: mean}, {column: half-width})}; ks: the lengths asked for, of which SHOWN_AT or the
    nearest below is shown; shorter lists show the longest they have; also: further columns, where a run has them
    """
    def length(means):
        known = {int(column.split("@")[1]) for column in means if column.startswith("NDCG@")} & {*ks} or {
            int(column.split("@")[1]) for column in means if column.startswith("NDCG@")}
        return max((k for k in known if k <= SHOWN_AT), default=min(known))

    def key(item):
        (part, name), (means, _) = item
        return runs.PART_ORDER.index(part), -means[f"{SHOWN[0]}@{length(means)}"], name
    width = max((len(name) for _, name in rows), default=0)
    lines = []
    for (part, name), (means, halves) in sorted(rows.items(), key=key):
        columns = [*(f"{metric}@{length(means)}" for metric in SHOWN), *(c for c in also if c in means)]
        lines.append("  ".join([f"{part:<9}", f"{name:<{width}}", *(with_interval(c, means, halves) for c in columns)]))
    return lines


def with_interval(column: str, means: Mapping[str, float], halves: Mapping[str, float]) -> str:
    """`NDCG@10 0.1234 ±0.0123`, without the interval where there is none."""
    half = halves.get(column, np.nan)
    return f"{column} {means[column]:.4f}" + (f" ±{half:.4f}" if np.isfinite(half) else "")


def print_means(title: str, means: Mapping) -> None:
    """Print {`Metric@k`: mean} as a table with a row for each k."""
    columns = [column.rsplit("@", 1) for column in means if "@" in column]
    names = list(dict.fromkeys(name for name, _ in columns))
    width = [max(12, len(name) + 2) for name in names]
    print(f"{title}\n  {'k':>4}" + "".join(f"{name:>{w}}" for name, w in zip(names, width, strict=True)))
    for k in dict.fromkeys(k for _, k in columns):
        print(f"  {k:>4}" + "".join(f"{means.get(f'{name}@{k}', np.nan):{w}.4f}"
                                     for name, w in zip(names, width, strict=True)), flush=True)


if __name__ == "__main__":
    cli.run(main)
