"""Stage 5: every run of a workspace in comparable tables. Does a representation help, by how much, is it real?

    python table.py
    python table.py --metrics NDCG@10 Recall@50        the first decides the order and stands beside its control
    python table.py --k 10 50 --metrics HitRate Recall NDCG Coverage --worth all
    python table.py --by item-popularity               also a table of each segment: head, mid, tail
    python table.py --against popularity               also paired tests against one run
    python table.py --remove-stale                     list runs that no table shows; with --yes delete them

Writes into tables/ of the workspace, from runs/*/config.json and metrics/ (no lists or vectors are opened):
    cosine.csv shallow.csv bert.csv     as published, a row per backend with its size; {..}_cold_test.csv: cold
    test.md .tex, cold_test.*           a row per method and representation; the Markdown is printed, too (all_test.*
                                        where the split has that part)
    results_test.csv, ..                the same figures, one line for each row and metric

Rows stand in blocks: controls (chance, popularity), methods without content (ID embeddings, on the command line:
random), with content, and mixtures of other runs. Beside a row with content stand its control, the same vectors on the
wrong tracks (--shuffle; the mean over its permutations), and what the content is worth, the difference with an interval
over users and permutations (evaluation/worth.py). Runs that differ by the seed alone are averaged; any other difference
makes a row of its own. Bold is the best of a block on val; what the paired tests (evaluation/paired_tests.py) do not
distinguish from it has a °. ↑ and ↓ say above and below the run of --against.
"""
import sys
from pathlib import Path

from evaluation import published, render
from evaluation.cuts import CUTS, SegmentValues, segments
from evaluation.leaderboard import leaderboard
from evaluation.paired_tests import CORRECTIONS
from evaluation.repeats import METRICS as REPEATED
from evaluation.results import Values, cell_named, collect
from harness import cli, run_files, runs
from harness.errors import RunInProgress, UsageError, WorkError
from harness.files import write_report_csv, write_text
from harness.readers import read_json
from harness.registry import capability, title
from metrics import METRICS

CHOICES = (*METRICS, "Coverage", "Popularity", "Gini", "ColdShare", "SubsetAccuracy", "PointAccuracy", *REPEATED)
TESTS = ("test", "cold_test", "all_test")   # the parts shown by default


# --------------------------------------------------------------------------- command line

def metric(text):
    """argparse type: a metric's name, for the list lengths of --k, or with its own, as NDCG@10."""
    import argparse
    name, at, k = text.partition("@")
    if name not in CHOICES:
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {', '.join(CHOICES)})")
    return f"{name}@{cli.positive(k)}" if at else name


def build_parser():
    parser = cli.Parser(prog="table.py", description=__doc__)
    parser.add_argument("--k", type=cli.positive, nargs="+", default=[50], metavar="K",
                        help="list lengths of metrics named without one (default 50)")
    parser.add_argument("--metrics", nargs="+", type=metric, default=["HitRate", "Recall", "NDCG"], metavar="NAME",
                        help=f"metrics to report, as NDCG or NDCG@10; the first one sorts the rows (choices: "
                             f"{', '.join(CHOICES)}; default HitRate Recall NDCG)")
    parser.add_argument("--parts", nargs="+", choices=runs.PART_ORDER, default=list(TESTS), metavar="PART",
                        help=f"split parts to report (choices: {', '.join(runs.PART_ORDER)}; default "
                             f"{' '.join(TESTS)}, as val and cold_val are for choosing)")
    parser.add_argument("--by", choices=CUTS, help="also a table of each segment of the held-out pairs, from the saved "
                        "lists, and whether content is worth more in one than in another: by popularity of the "
                        "track, by activity, taste, age or country of the user, or by artist (default: none)")
    parser.add_argument("--worth", choices=("first", "all"), default="first",
                        help="metrics beside which control and worth are shown: the first, or all (default first)")
    parser.add_argument("--against", metavar="RUN",
                        help="run that all rows are also tested against, paired by user, its seeds averaged: its name, "
                             "or the beginning of its name (default: none)")
    parser.add_argument("--correction", choices=tuple(CORRECTIONS), default="holm",
                        help="correction of p values for many tests: holm (family-wise error) or bh (Benjamini and "
                             "Hochberg, false discovery rate; default holm)")
    parser.add_argument("--remove-stale", action="store_true",
                        help="instead of tables: list runs that are unfinished or of another split, with their files")
    parser.add_argument("--yes", action="store_true", help="with --remove-stale: delete them")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def parse(argv=None):
    args = build_parser().parse_args(argv)
    if args.yes and not args.remove_stale:
        raise UsageError("--yes confirms a removal; use it with --remove-stale")
    flags = ("metrics", "k", "parts", "by", "worth", "against", "correction")
    if args.remove_stale and (given := [f for f in flags if getattr(args, f) != build_parser().get_default(f)]):
        raise UsageError(f"--remove-stale lists runs and makes no table; leave out --{given[0]}")
    if args.by and (other := [name for name in args.metrics if name.split("@")[0] not in METRICS]):
        raise UsageError(f"--by shows metrics of users: {', '.join(METRICS)}; {other[0]} is none of a segment")
    return args


def columns_of(args):
    """The columns that are asked for, `Metric@k`, by k where metrics are named without one."""
    if not any("@" in name for name in args.metrics):
        return list(dict.fromkeys(f"{name}@{k}" for k in args.k for name in args.metrics))
    return list(dict.fromkeys(column for name in args.metrics for column in (
        [name] if "@" in name else [f"{name}@{k}" for k in args.k])))


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    cells, left = collect(workdir)
    if args.remove_stale:
        return remove_stale(workdir, left, args.yes)
    if not cells:
        raise UsageError(f"no runs in {workdir / 'runs'}; run a recommender first, for example python knn.py")
    reference = reference_of(cells, left, args.against) if args.against else None
    available = {part for cell in cells for _, config in cell.runs for part in config.get("parts", [])}
    parts = [part for part in dict.fromkeys(args.parts) if part in available]
    if not parts:
        raise WorkError(f"none of the {len(cells)} requests in {workdir / 'runs'} has finished with lists of "
                        f"{' or '.join(args.parts)}" + (f"; left out: {reasons(left)}; run them again" if left else ""))
    if reference and not {*parts} & {*reference.runs[0][1].get("parts", [])}:
        raise UsageError(f"--against {args.against} has no lists of {' or '.join(parts)}; it has "
                         f"{', '.join(reference.runs[0][1].get('parts', [])) or 'none'}")
    boards = [board_of(workdir, cells, part, args, reference) for part in parts]
    written = [name for board in boards for name in write(workdir, cells, args, *board)]
    if args.by:
        written += write_cuts(workdir, cells, parts, args, reference)
    print(f"written to {workdir / 'tables'}: {' '.join(written)}")
    if left:
        print(counted(left), file=sys.stderr)


def reasons(left):
    """The first of [results.Left] as text."""
    some = ", ".join(f"{run.name} ({run.reason})" for run in left[:3])
    return some + (f" and {len(left) - 3} more" if len(left) > 3 else "")


def counted(left):
    """One sentence on the runs that are left out of the tables, with the command that removes them."""
    words = {"stale": "of another split or embedding", "unfinished": "unfinished or failed",
             "foreign": "without a recommender in config.json"}
    kinds = [run.kind for run in left]
    text = ", ".join(f"{kinds.count(kind)} {what}" for kind, what in words.items() if kind in kinds)
    return f"left out: {text}; python table.py --remove-stale lists them"


def reference_of(cells, left, name):
    """The cell that --against names; UsageError where it is unknown, ambiguous or shuffled."""
    cell = cell_named(cells, left, name)
    if cell.shuffled:
        raise UsageError(f"--against {name} is shuffled: each repeat is one permutation for all users, so users are no "
                         "sample of it; read the interval over permutations instead")
    return cell


# --------------------------------------------------------------------------- tables

def board_of(workdir, cells, part, args, reference):
    """(Leaderboard, Values) of one part; WorkError where no run has the metrics that are asked for."""
    columns = columns_of(args)
    values = Values(workdir, part, dict.fromkeys([*columns, *published_columns(args)]))
    tested = reference if reference and part in reference.runs[0][1].get("parts", []) else None
    if tested:
        check_reference(tested, values, columns, part)
    board = leaderboard(workdir, cells, part, values, columns, args.correction, tested)
    if not any(row.figures for row in board.rows):
        raise WorkError(f"no run has {' or '.join(columns)} of {part}; {evaluating(columns, workdir)}")
    if reference:
        name, repeats = reference.runs[0][0], len(reference.runs)
        board.against = f"{name} (mean of {repeats} seeds)" if repeats > 1 else name
    return board, values


def check_reference(reference, values, columns, part):
    """WorkError where the run of --against lacks a metric."""
    name, figures = reference.runs[0][0], values.of(reference)
    if lacking := [column for column in columns if column not in figures]:
        raise WorkError(f"{name} has no {' or '.join(lacking)} of {part} to test against; "
                        f"{evaluating(lacking, values.folder.parent, name)}")


def evaluating(columns, workdir, run=""):
    """The end of a sentence: what evaluates metrics that a run, or all, lack; or why this workspace has none."""
    for name, lacking in {"RatioNDCG": "where seen tracks are candidates again (seen: keep)",
                          "RepeatRecall": "where seen tracks are candidates again (seen: keep)",
                          "ColdShare": "in all_test", "PointAccuracy": "of DTNMR, which measures it itself"}.items():
        if all(column.startswith(f"{name}@") for column in columns):
            return f"{name} is only there {lacking}"
    ks = dict.fromkeys(c.split("@")[1] for c in columns if not c.startswith("SubsetAccuracy@"))
    sizes = dict.fromkeys(c.split("@")[1] for c in columns if c.startswith("SubsetAccuracy@"))
    words = [f"--k {' '.join(ks)}"] * bool(ks) + [f"--subset-size {size}" for size in list(sizes)[:1]]
    return " ".join(filter(None, ["python metrics.py", run, *words, "--workdir", str(workdir), "evaluates them"]))


def published_columns(args):
    return [f"{name}@{k}" for k in dict.fromkeys(args.k) for name in published.METRICS]


def write(workdir, cells, args, board, values):
    """Write all tables of one part and print the combined one; returns the names of the files."""
    folder, part, every = workdir / "tables", board.part, args.worth == "all"
    extra = timeless(workdir, cells)
    text, written = render.markdown(board, every, extra), []
    for recommender, stem in published.STEMS.items():
        frame = published.frame(workdir, cells, recommender, part, values, published_columns(args))
        path = folder / f"{stem}{'' if part == 'test' else f'_{part}'}.csv"
        if frame is None:
            path.unlink(missing_ok=True)      # of runs that are gone
        else:
            write_report_csv(path, frame)
            written.append(path.name)
    write_report_csv(folder / f"results_{part}.csv", render.frame(board))
    write_text(folder / f"{part}.tex", render.latex(board, every, extra))
    write_text(folder / f"{part}.md", text)
    drop_wide_csv(folder / f"{part}.csv")
    print(text, flush=True)
    return [f"{part}.md", f"{part}.tex", f"results_{part}.csv", *written]


def write_cuts(workdir, cells, parts, args, reference):
    """Write and print the tables of each segment of the cut --by; returns the names of the files."""
    import pandas as pd

    import dataset
    from evaluation import profits
    split, written = dataset.load(workdir), []
    for part in parts:
        texts, frames, boards = [], [], {}
        for name, truth in segments(split, part, args.by).items():
            values = SegmentValues(workdir, part, columns_of(args), truth, args.by.startswith("user-"))
            tested = reference if reference and part in reference.runs[0][1].get("parts", []) else None
            board = leaderboard(workdir, cells, part, values, columns_of(args), args.correction, tested,
                                f"{name} ({len(truth.track):,} pairs)")
            board.head["users"] = len(truth.users)
            board.against = args.against if tested else ""
            texts.append(render.markdown(board, args.worth == "all"))
            frames.append(render.frame(board).assign(cut=args.by, segment=name, pairs=len(truth.track)))
            boards[name] = board, truth.users
        stem = f"{part}_by_{args.by.replace('-', '_')}"
        write_report_csv(workdir / "tables" / f"results_{stem}.csv", pd.concat(frames, ignore_index=True))
        written += [f"{stem}.md", f"results_{stem}.csv"]
        worth = workdir / "tables" / f"worth_{stem}.csv"
        if compared := profits.who_profits(boards, args.by):
            how = args.by, columns_of(args)[0], args.correction
            texts.append(profits.markdown(compared, *how))
            write_report_csv(worth, profits.frame(compared, *how))
            written.append(worth.name)
        else:
            worth.unlink(missing_ok=True)     # of controls that are gone
        write_text(workdir / "tables" / f"{stem}.md", "\n".join(texts))
        print("\n".join(texts), flush=True)
    return written


def drop_wide_csv(path):
    """Remove the csv that earlier versions wrote beside the Markdown: its figures would no longer be these."""
    if path.exists() and path.read_bytes().startswith(b"representation,"):
        path.unlink()
        print(f"{path} of an earlier version removed; results_{path.name} has the figures", file=sys.stderr)


def timeless(workdir, cells):
    """Why a sequential method of the publication has no row, '' where its absence has no such reason."""
    manifest = workdir / "dataset.json"
    if not manifest.exists() or read_json(manifest).get("time") != "none":
        return ""
    absent = [title(name) for name in published.STEMS if "order" in capability(name)[0]
              and not any(cell.recommender == name for cell in cells)]
    return f"{', '.join(absent)} needs an order, and this data set has no times (--order count)" if absent else ""


# --------------------------------------------------------------------------- removal

def remove_stale(workdir, left, confirmed):
    """List the runs that no table shows with their files, or delete them where that is confirmed.

    Only files of those runs are touched (harness/run_files.py); a run that another process works on stays.
    """
    manifests = dict(runs.find_runs(workdir))
    stale = [run for run in left if run.kind != "foreign"]
    if not stale:
        print(f"no stale or unfinished runs in {workdir / 'runs'}")
        return
    done, size = 0, 0
    for run in stale:
        files = [workdir / "runs" / run.name, *run_files.files_of(workdir, run.name, manifests[run.name], manifests)]
        own = sum(path.stat().st_size for path in files if path.is_file())
        try:
            if confirmed:
                remove(workdir, run.name, manifests)
        except RunInProgress as e:
            print(f"kept: {e}", file=sys.stderr)
            continue
        done, size = done + 1, size + own
        print(f"{'removed' if confirmed else 'would remove'} {run.name} ({run.reason}): runs/{run.name} and "
              f"{len(files) - 1} files, {own / 1e6:.1f} MB")
    print(f"{done} runs, {size / 1e6:.1f} MB" + ("" if confirmed else "; --yes deletes them"))


def remove(workdir, name, manifests):
    """Delete one run, unless it has been made again since; its name leaves the manifests."""
    config = runs.read_manifest(workdir / "runs" / name / "config.json")
    if config != manifests[name]:
        raise RunInProgress(f"run {name} has changed since it was listed; look again")
    left = run_files.remove(workdir, name, config, manifests)
    if left:
        print(f"{Path('runs') / name} stays, with {', '.join(p.name for p in left[:3])}, which no run wrote",
              file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
