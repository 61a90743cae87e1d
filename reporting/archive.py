"""Keep what tables and claims are made of, the values of every user of every run, and make a workspace of it again.

    python -m reporting.archive keep --workdir work/lastfm-audio            into results/lastfm-audio/runs/
    python -m reporting.archive restore lastfm-audio --workdir work/again   a workspace for table.py and claims.py

A reader repeats or changes any test of the tables with it, without data and without training; and a table is continued
on another machine: prepare and split the data there as before, restore the runs into that workspace, and run what is
new. Runs whose split is another one are refused. Lists and weights are not kept, so table.py --by and report.py need
the runs made again.

    results/<name>/runs/runs.pqt              run, its manifest as json (without paths of the machine), the means and
                                              half-widths of all its metrics in each part, and the seeds of those that
                                              rest on a draw (SubsetAccuracy), as json
    results/<name>/runs/<part>/<recommender>.pqt    user_id, and a column RUN:METRIC for each run
    results/<name>/runs/workspace.json        the small files of the workspace that tables read

Kept are the metrics that the workspace's tables show, or those of --metrics; of val and cold_val means alone, as
methods are selected by them and nothing is tested there.
"""
import json
import sys

from harness import cli, runs, split_files
from harness.errors import UsageError, WorkError
from harness.files import write_csv, write_json, write_parquet
from harness.readers import read_json, reading
from reporting import stored

SMALL = ("dataset.json", "data/split.json", "data/rules.json")
OF_THE_MACHINE = ("arguments", "command", "peak_memory_bytes")
KINDS = ("", "_points")              # metrics of lists, and those that a run measured itself
SELECTION = ("val", "cold_val")


def build_parser():
    parser = cli.Parser(prog="reporting.archive", description=__doc__)
    parser.add_argument("action", choices=("keep", "restore"), help="keep a workspace's runs, or make files of them")
    parser.add_argument("name", nargs="?", metavar="NAME",
                        help="folder of results/ (with keep: default the workspace's own name)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME@K", default=[],
                        help="with keep: metrics whose values of users are kept (default: those of the tables)")
    cli.common_flags(parser, seed=False, overwrite=False)
    return parser


def parse(argv=None):
    args = build_parser().parse_args(argv)
    if args.action == "restore" and not args.name:
        raise UsageError("restore needs the NAME of a folder of results/, such as lastfm-audio")
    if args.action == "restore" and args.metrics:
        raise UsageError("--metrics is for keep; restore brings back all that was kept")
    if args.name is not None:
        stored.check_name(args.name, "NAME")
    return args


# --------------------------------------------------------------------------- keep

def keep(workdir, name, metrics=(), root=stored.ROOT):
    """Store the finished runs of a workspace in results/NAME/runs/; returns how many.

    metrics: columns such as NDCG@10 to keep of each user (empty: those that the workspace's tables show)
    Raises UsageError for a name that is none of a folder, WorkError where the data set or the split is not finished,
    where there is no table or no run, where a run's metrics are gone or of other users, or where the list of sums is
    gone or damaged; nothing is stored then.
    """
    import pandas as pd

    from evaluation.results import collect
    stored.check_name(name, "without NAME, the workspace's own name")
    small = _small_files(workdir)
    metrics = list(metrics) or shown_metrics(workdir)
    cells, _ = collect(workdir)
    folder, lines, frames = root / "results" / name / "runs", [], {}
    for run, config in sorted((found for cell in cells for found in cell.runs), key=lambda found: found[0]):
        means, users, seeds = _metrics_of(workdir, run, config, metrics)
        manifest = {k: v for k, v in config.items() if k not in OF_THE_MACHINE}
        lines.append({"run": run, "config": json.dumps(manifest), "means": json.dumps(means),
                      "seeds": json.dumps(seeds)})
        for part, frame in users.items():
            frames.setdefault(f"{part}/{config['recommender']}", []).append(frame)
    if not lines:
        raise WorkError(f"{workdir} has no finished run to keep; run a recommender first, then table.py")
    if lacking := [metric for metric in metrics if not any(f'"{metric}"' in line["means"] for line in lines)]:
        raise WorkError(f"no run in {workdir} has {lacking[0]}; python metrics.py --k evaluates other lengths of lists")
    for columns in frames.values():
        _check_users(columns)
    stored.sums_before(root)
    written = [folder / "runs.pqt", folder / "workspace.json", *(folder / f"{stem}.pqt" for stem in frames)]
    for stem, columns in frames.items():
        write_parquet(folder / f"{stem}.pqt", pd.concat(columns, axis=1).copy().reset_index())
    write_parquet(folder / "runs.pqt", pd.DataFrame(lines))
    write_json(folder / "workspace.json", small)
    gone = [path for path in folder.glob("*/*.pqt") if path not in written]   # of a recommender without runs now
    for path in gone:
        path.unlink()
    stored.update_sums(written, gone, root)
    return len(lines)


def _small_files(workdir):
    """{path: object} of the workspace's SMALL files; WorkError where one is damaged or its writing not finished."""
    import dataset
    dataset.about(workdir)
    split_files.read_manifest(workdir / "data" / "split.json")
    return {path: read_json(workdir / path) for path in SMALL if (workdir / path).exists()}


def shown_metrics(workdir):
    """The columns NAME@K of a workspace's tables/results_*.csv, in order; WorkError where there is none."""
    import pandas as pd
    columns = {}
    for path in sorted((workdir / "tables").glob("results_*.csv")):
        with reading(path, "csv", f"python table.py --workdir {workdir} writes it again"):
            frame = pd.read_csv(path, usecols=["metric", "k"]).drop_duplicates()
        columns |= {f"{line.metric}@{line.k}": None for line in frame.itertuples()}
    if not columns:
        raise WorkError(f"{workdir / 'tables'} has no results_*.csv; python table.py --workdir {workdir} writes them, "
                        "or name the metrics to keep with --metrics")
    return list(columns)


def _metrics_of(workdir, run, config, metrics):
    """({part: {column: [mean, half-width]}}, {part: values of users by user_id, columns RUN:METRIC}, {part: {column:
    seed}}) of a run."""
    from evaluation.files import again, read_metrics, read_rows, seeds_of
    means, users, seeds = {}, {}, {}
    for part in [part + kind for part in config.get("parts", []) for kind in KINDS]:
        path = workdir / "metrics" / f"{run}_{part}.csv"
        if part.endswith(KINDS[1]) and f"metrics/{path.name}" not in config.get("outputs", ()):
            continue
        remedy = again(workdir, run, part.removesuffix(KINDS[1]))
        mean, half = read_rows(path, remedy)
        means[part] = {column: [mean[column], half[column]] for column in mean}
        if drawn := seeds_of(path):
            seeds[part] = drawn
        if not part.startswith(SELECTION):
            frame = read_metrics(path, remedy)[0].set_index("user_id")
            users[part] = frame[[c for c in metrics if c in frame]].add_prefix(f"{run}:")
    return means, users, seeds


def _check_users(frames):
    """WorkError where runs of one method and part have other users (frames: index user_id, columns RUN:METRIC)."""
    known = [(frame.columns[0].partition(":")[0], frame.index) for frame in frames if len(frame.columns)]
    for run, users in known[1:]:
        if not users.equals(known[0][1]):
            raise WorkError(f"{run} was evaluated on other users than {known[0][0]}; python metrics.py evaluates all "
                            "runs again")


# --------------------------------------------------------------------------- restore

def restore(name, workdir, root=stored.ROOT):
    """Write the runs of results/NAME/runs/ into a workspace, as runs/ and metrics/.

    Files of the data set and split that the workspace has already stay; of a run that is there already and has no
    lists, metrics that are gone, damaged or other than kept are made again; one that has lists, or is another of the
    same request, stays, as metrics.py evaluates lists.
    Returns how many runs are kept, how many files of runs that were there were made again, and a list of the files
    (Paths) that are damaged or other than kept and stay.
    Raises UsageError where nothing of that name is kept, WorkError where a file of it is not the one stored, or the
    workspace's split is not that of the runs; nothing is written then.
    """
    small, configs, kept = _read_kept(name, workdir, root)
    for path, value in small.items():
        if not (workdir / path).exists():
            write_json(workdir / path, value)
    again, left = 0, []
    for run, files in kept.items():
        state = _state(workdir, run, configs[run])
        other = [path for path, its in files.items() if state == "new" or not _is_kept(path, *its)]
        if state == "own":
            left += other
            continue
        for path in other:
            _write_metrics(path, *files[path])
        if state == "new":
            write_json(workdir / "runs" / run / "config.json", configs[run])   # last: it makes a run of them
        else:
            again += len(other)
    return len(kept), again, left


def _read_kept(name, workdir, root):
    """What is kept under a name, all of it read and checked: {path: object} of the small files, {run: its manifest},
    {run: {path of its metrics in the workspace: the other arguments of _write_metrics}}. Errors as of restore."""
    folder = f"results/{name}/runs"
    if not (root / folder / "runs.pqt").exists():
        names = sorted(path.parent.parent.name for path in (root / "results").glob("*/runs/runs.pqt"))
        raise UsageError(f"no runs of {name!r} are kept in results/; there are {', '.join(names) or 'none of any'}")
    kept = _frame(f"{folder}/runs.pqt", root)
    configs = {line.run: json.loads(line.config) for line in kept.itertuples()}
    split = runs.split_checksums(workdir)
    for run, config in configs.items():
        if changed := runs.changed_since(config, split):
            raise WorkError(f"{workdir} has another {changed[0]} than that of run {run}; restore into the workspace of "
                            "the same data and split, or into an empty folder")
    stored.checked(f"{folder}/workspace.json", root)
    drawn = map(json.loads, kept["seeds"]) if "seeds" in kept else [{}] * len(kept)   # kept by an earlier version
    values, files = {}, {}
    for run, means, seeds in zip(kept["run"], map(json.loads, kept["means"]), drawn, strict=True):
        files[run] = {}
        for part, columns in means.items():
            stem = f"{part}/{configs[run]['recommender']}"
            if stem not in values and not part.startswith(SELECTION):
                values[stem] = _frame(f"{folder}/{stem}.pqt", root)
            path = workdir / "metrics" / f"{run}_{part}.csv"
            files[run][path] = columns, values.get(stem), run, seeds.get(part, {})
    return read_json(root / folder / "workspace.json"), configs, files


def _state(workdir, run, config):
    """What a workspace has of a run: "new", no manifest, or a damaged one; "kept", the run that was kept, without its
    lists; "own", with lists, or another run of the same request, finished or not."""
    path = workdir / "runs" / run / "config.json"
    if not path.exists():
        return "new"
    if any((workdir / "preds" / f"{run}_{part}.pqt").exists() for part in config.get("parts", [])):
        return "own"
    try:
        there = runs.read_manifest(path)
    except WorkError:
        return "new"
    return "kept" if {k: v for k, v in there.items() if k not in OF_THE_MACHINE} == config else "own"


def _is_kept(path, columns, values, run, seeds):
    """Whether the metrics at a path are those kept (arguments as for _write_metrics); further columns do not matter."""
    import numpy as np

    from evaluation.files import read_metrics, read_rows, seeds_of
    try:
        there = dict(zip(("mean", "conf"), read_rows(path, ""), strict=True))
        frame, drawn = (None, seeds) if values is None else (read_metrics(path, "")[0], seeds_of(path))
    except WorkError:
        return False
    if not all(c in there["mean"] and np.array_equal([there["mean"][c], there["conf"][c]], np.array(both, float),
                                                     equal_nan=True) for c, both in columns.items()):
        return False
    mine = None if values is None else _of_run(values, run)
    return mine is None or (set(mine) <= set(frame) and frame[list(mine)].equals(mine) and drawn == seeds)


def _of_run(values, run):
    """user_id and a run's columns, under their own names, of the values of a method's runs (frame)."""
    mine = {c: c.removeprefix(f"{run}:") for c in values if c.startswith(f"{run}:")}
    return values[["user_id", *mine]].rename(columns=mine)


def _frame(name, root):
    from harness.readers import read_parquet
    stored.checked(name, root)
    return read_parquet(root / name, remedy="git has it").to_pandas()


def _write_metrics(path, columns, values, run, seeds):
    """Means and half-widths as csv, and beside it the run's columns of values of users (None: there are none).

    seeds: {column: seed} of those that rest on a draw
    """
    import pandas as pd
    import pyarrow as pa

    from evaluation.files import SEEDS
    if values is not None:
        table = pa.Table.from_pandas(_of_run(values, run), preserve_index=False)
        write_parquet(path.with_suffix(".pqt"), table.replace_schema_metadata(
            {**table.schema.metadata, SEEDS: json.dumps(seeds).encode()}))
    write_csv(path, pd.DataFrame(columns, index=["mean", "conf"]))


def main(argv=None, root=stored.ROOT):
    args = parse(argv)
    if args.action == "keep":
        workdir = cli.workspace(args)
        name = workdir.name if args.name is None else args.name
        n = keep(workdir, name, args.metrics, root)
        size = sum(path.stat().st_size for path in (root / "results" / name / "runs").rglob("*") if path.is_file())
        print(f"{n} runs kept in results/{name}/runs/, {size / 1e6:.1f} MB")
    else:
        workdir = cli.workspace(args, create=True)
        n, again, left = restore(args.name, workdir, root)
        if left:
            print(f"damaged or other than kept, and left, as their runs were made there: {len(left)} metrics files "
                  f"({', '.join(path.name for path in left[:3])}{', ...' if len(left) > 3 else ''}); "
                  "python metrics.py evaluates saved lists again", file=sys.stderr)
        made = (f"; {again} of its metrics files were gone, damaged or other than kept, and were made again" if again
                else "")
        print(f"{n} runs of {args.name} are in {workdir}{made}; next: python table.py --workdir {workdir}")


if __name__ == "__main__":
    cli.run(main)
