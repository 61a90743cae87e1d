"""Tune every method on val with the same number of trials, and write the selected settings as a grid to run on test.

    python tune.py --workdir work/lastfm                                         10 trials of every method
    python tune.py ease elsa --trials 20 --workdir work/lastfm --out slurm/grids/lastfm-tuned.yaml
    python slurm/grid.py --file slurm/grids/lastfm-tuned.yaml --workdir work/lastfm --local      the selected, on test

A recommender declares its search space in its own file (SEARCH_SPACE); tune.yaml says what else holds for its trials,
and may override the space. Settings are drawn at random by method and seed, so that more trials begin with those of
fewer; a finite space smaller than the number of trials is searched whole. Each representation of a method gets the
same settings and is tuned by itself. The trial with the best mean of --metric on val is selected; ties go to the
earlier trial. Where the split has cold_val, methods are selected on the items that they can rank: cold-only ones by the
mean on cold_val, those of both by the mean of the two, each by its reference (training/references.py).

Trials run in WORKDIR/tuning: a workspace of links to train, val, cold_val, embeddings and metadata without any test
part, so no figure of test is made, let alone read. A finished trial is skipped like any finished run, which is how
an interrupted search goes on. tuning/trials.csv lists every trial, those of earlier calls, too, with its figure or the
reason for having none.

Random search: Bergstra and Bengio, JMLR 2012. Equal budgets: Ferrari Dacrema, Cremonesi and Jannach, RecSys 2019.
"""
import itertools
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.spaces import Method, read_methods, settings
from harness import cli, locks, runs
from harness.errors import UsageError, WorkError
from harness.files import checksum, expanded, harmless, write_report_csv, write_text
from harness.readers import read_json, reading

LINKED = ("dataset.json", "trackid_sorted.csv", "userid_sorted.csv", "items.pqt", "users.pqt",
          "data/train.pqt", "data/val.pqt", "data/cold_val.pqt", "data/hidden.pqt",
          "data/rules.json")   # and embeddings/; plays.pqt and points.pqt hold test
DEFAULTS = Path(__file__).with_name("tune.yaml")
LENGTHS = (1, 2, 3, 4, 5, 10, 20, 50)        # of lists that a run measures itself (ranking/save.py)
TEXTS = ("method", "representation", "metric", "setting", "of", "run", "reason")    # columns of tuning/trials.csv
UNRELATED = {"workdir", "device", "overwrite"}  # arguments that are no part of a request


# --------------------------------------------------------------------------- trials

@dataclass
class Trial:
    """One setting of a method for one representation, and its result."""
    method: Method
    number: int
    which: dict            # the representation: a value for each flag of the method's `each`
    setting: dict          # drawn from the method's `space`
    job: object            # of experiments/expand.py
    value: float = math.nan
    conf: float = math.nan
    seconds: float = math.nan
    parts: tuple = ()      # that the value is of; of two it is the mean of both over their references
    run: str = ""
    reason: str = ""


def representations(method, embeddings, workdir):
    """Combinations of `each`: [{flag: value}], [{}] for a method without; `all` means `embeddings`, or every one."""
    from experiments.expand import spread
    lists = []
    for flag, values in method.each.items():
        values = values if isinstance(values, list) else [values]
        if embeddings and "all" in values:
            values = [v for value in values for v in (embeddings if value == "all" else [value])]
        lists.append(list(dict.fromkeys(spread(flag, values, workdir))))
    return [dict(zip(method.each, values, strict=True)) for values in itertools.product(*lists)]


def check_names(methods, args, where):
    """UsageError where --embeddings or --controls names what is no embedding here and what no method is tuned on."""
    from experiments.expand import embeddings_in
    tuned = {str(v) for m in methods for which in representations(m, [], where) for v in which.values()}
    known = {*tuned, *embeddings_in(where)}
    for flag, names in (("embeddings", args.embeddings), ("controls", args.controls)):
        if unused := [name for name in names if name not in known]:
            raise UsageError(f"--{flag} {unused[0]}: no embedding of this name is here; there are "
                             f"{', '.join(sorted(known)) or 'none'}")


def trials_of(method, args, where):
    """Every trial of a method, its command line checked by its script; none where nothing is to be tuned."""
    if not method.space:
        return []
    return [Trial(method, number, which, setting, job_of(
        method, {**setting, **which, "seed": args.seed, "k": int(args.metric.split("@")[1])}, where))
        for which in representations(method, args.embeddings, where)
        for number, setting in enumerate(settings(method, args.trials, args.seed), 1)]


def job_of(method, values, workdir):
    from experiments.expand import Block, jobs_of
    (job,) = jobs_of(Block(method.script, {}, {**method.set, **values}), workdir)
    return job


def link_workspace(workdir):
    """WORKDIR/tuning with links to all a recommender may know while it is tuned; returns its path."""
    import dataset
    if "val" not in dataset.load(workdir).parts:
        raise UsageError(f"{workdir} has no val part to tune on; split with --val-share")
    where = workdir / "tuning"
    wanted = {name: workdir / name for name in LINKED if (workdir / name).exists()}
    wanted |= {f"embeddings/{p.name}": p for p in (workdir / "embeddings").glob("[!.]*")}
    for old in [*where.glob("*"), *where.glob("data/*"), *where.glob("embeddings/*")]:
        if old.is_symlink() and str(old.relative_to(where)) not in wanted and not old.name.startswith("."):
            old.unlink(missing_ok=True)   # another process may do the same
    for name, path in wanted.items():
        link = where / name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(path, link.parent)
        if not link.is_symlink() or os.readlink(link) != target:
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            os.replace(temporary, link)
    return where


def run_trials(trials, where, args):
    """Run what is not finished yet, and read every trial's figure into it."""
    from experiments import local
    from experiments.expand import waves
    reasons = {t.job: local.impossible(t.job, where) for t in trials}
    jobs = list(dict.fromkeys(t.job for t in trials if not reasons[t.job]))
    for wave in waves(jobs):
        failed, elsewhere = local.run_stage(wave, args.jobs)
        if elsewhere:
            raise WorkError(f"{len(elsewhere)} trials are being made by another process, so nothing is selected yet; "
                            "the same command later reads them")
        reasons |= dict(failed)
    now = runs.split_checksums(where)
    finished = [(name, config) for name, config in runs.find_runs(where)
                if config.get("status") == "finished" and {"recommender", "arguments", "wall_seconds"} <= config.keys()
                and not runs.changed_since(config, now)]
    references = references_of(where, args.metric)
    for trial in trials:
        trial.reason = reasons[trial.job]
        if not trial.reason:
            read_figure(trial, finished, where, args.metric, references)


def references_of(where, metric):
    """What the metric on each part is measured by where a method ranks both, {part: Reference}; {} without cold_val."""
    import dataset
    from training.references import reference
    split = dataset.load(where)
    return {part: reference(split, part, metric) for part in ("val", "cold_val") if "cold_val" in split.parts}


def read_figure(trial, finished, where, metric, references):
    """Value, interval, time and run of a finished trial, from its metrics; its arguments identify the run."""
    from harness import registry
    wanted = arguments_of(trial.job)
    module = registry.module_name(trial.job.script)
    recommender = {name for name, r in registry.recommenders().items() if r.module == module}
    # the latest first: an older one may be of another --config file of the same name
    for name, config in sorted(finished, key=lambda run: run[1].get("started", ""), reverse=True):
        parts = [part for part in config.get("selected_on") or ("val", "cold_val") if part in config.get("parts", [])]
        same = config["recommender"] in recommender and parts
        if same and all(config["arguments"].get(k) == v for k, v in wanted.items()):
            trial.run, trial.seconds, trial.parts = name, config["wall_seconds"], tuple(parts)
            trial.value, trial.conf = figure_of(where / "metrics", name, parts, metric, references)
            return
    trial.reason = "it ended without lists of val"


def figure_of(folder, name, parts, metric, references):
    """Mean and half-width of a run's metric on its part; of two parts the mean of both by their references."""
    from evaluation.files import read_rows
    rows = []
    for part in parts:
        path = folder / f"{name}_{part}.csv"
        remedy = f"python metrics.py --k {metric.split('@')[1]} --workdir {folder.parent} {name} makes them again"
        found = [columns.get(metric) for columns in read_rows(path, remedy)]
        if None in found:
            raise WorkError(f"{path} has no {metric}; {remedy}")
        rows.append(found)
    if len(parts) == 1:
        return rows[0]
    own = [references[part] for part in parts]
    means = [reference.relative(mean) for reference, (mean, _) in zip(own, rows, strict=True)]
    halves = [half / reference.unit for reference, (_, half) in zip(own, rows, strict=True)]
    return sum(means) / len(parts), math.hypot(*halves) / len(parts)   # as if the users of the two were others


def arguments_of(job):
    """A job's arguments as its script parses them and the manifest of its run has them: {name: value}."""
    from experiments.expand import parse
    return {k: v for k, v in json.loads(json.dumps(vars(parse(job)), default=str)).items() if k not in UNRELATED}


# --------------------------------------------------------------------------- the selected settings

def chosen_of(trials):
    """The best trial of each method and representation, [(best or None, all its trials)], in order."""
    groups = {}
    for trial in trials:
        groups.setdefault((trial.method.name, str(trial.which)), []).append(trial)
    return [(max((t for t in group if not t.reason), key=lambda t: t.value, default=None), group)
            for group in groups.values()]


def grid_of(methods, chosen, where, args):
    """Text of a grid file: the selected settings over each method's seeds, and their controls."""
    blocks = []
    for method in methods:
        if not method.space:
            blocks += [f"  # {method.name}: nothing to tune", *(
                block_of(method, {**method.set, **which}, method.seeds)
                for which in representations(method, args.embeddings, where))]
        for best, group in [c for c in chosen if c[1][0].method is method]:
            blocks.append(f"  # {cli.one_line(summary(best, group))}")
            if best is None:
                continue
            values = {**method.set, **best.which, **best.setting}
            blocks.append(block_of(method, values, method.seeds))
            if controlled(method, best, args) and takes(method, {**values, **method.control}, where):
                blocks.append(block_of(method, {**values, **method.control}, method.controls))
    return "\n".join([*heading(args, where), "blocks:", *blocks]) + "\n"


def controlled(method, best, args):
    """Whether a selected trial gets a control."""
    return method.control and (not args.controls or not best.which or set(best.which.values()) & {*args.controls})


def heading(args, where):
    manifest = where / "dataset.json"
    about = read_json(manifest, {"name": str}).get("name", "") if manifest.exists() else ""
    train = checksum(where / "data" / "train.pqt")[:16]
    file = Path(args.spaces or DEFAULTS).name
    return [cli.one_line(f"# Chosen by tune.py on val of {about or 'a data set'} by {args.metric}: {args.trials} "
                         "trials of each"),
            cli.one_line(f"# line (all settings where there are fewer), seed {args.seed}, spaces of {file}, "
                         "train with sha256"), f"# {train}. No test part was there while it chose. To run:",
            "#   python slurm/grid.py --file THIS --workdir WORKDIR --local"]


def summary(best, group):
    """The result of the trials of one method and representation, in a line."""
    label = " ".join([group[0].method.name, *map(str, group[0].which.values())])
    values = [t.value for t in group if not t.reason]
    if best is None:
        return f"{label}: none of {len(group)} trials gave a figure ({group[0].reason})"
    failed = f"; {len(group) - len(values)} gave none" if len(values) < len(group) else ""
    unit = f" times the references of {' and '.join(best.parts)}" if len(best.parts) > 1 else ""
    return (f"{label}: {best.value:.4f} \u00b1{best.conf:.4f}{unit}, the best of {len(values)} trials from "
            f"{min(values):.4f} up{failed}")


def block_of(method, values, seeds):
    import yaml
    flow = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10 ** 6).strip()
    return (f"  - script: {method.script}\n    grid: {{seed: {list(range(1, seeds + 1))}}}"
            + (f"\n    set: {flow}" if values else ""))


def takes(method, values, workdir):
    """Whether the script accepts these values (no content has nothing to shuffle, for example)."""
    try:
        return bool(job_of(method, values, workdir))
    except UsageError:
        return False


def write_trials(path, trials, args):
    """Every trial as a row of a csv, in place of the row that a call with the same seed and metric left there."""
    import pandas as pd
    rows = pd.DataFrame([{
        "method": t.method.name, "representation": " ".join(map(str, t.which.values())), "metric": args.metric,
        "seed": args.seed, "trial": t.number,
        "setting": " ".join(f"--{k.replace('_', '-')} {v}" for k, v in t.setting.items()), "of": " and ".join(t.parts),
        "value": t.value, "conf": t.conf, "seconds": t.seconds, "run": t.run, "reason": t.reason} for t in trials])
    if rows.empty:
        return
    with locks.waited(path.with_name(".trials.lock")):     # another call may add its rows
        _add_trials(path, rows)


def _add_trials(path, rows):
    import pandas as pd
    key = ["method", "representation", "metric", "seed", "trial"]
    if path.exists() and path.stat().st_size > 1:
        with reading(path, "the table of trials", "remove it; finished trials are read again from their runs"):
            old = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False,   # names such as None
                              na_values={number: [""] for number in ("value", "conf", "seconds")})
            if lacking := [column for column in key if column not in old]:
                raise ValueError(f"it has no column {lacking[0]}")
            rows[[*TEXTS]] = rows[[*TEXTS]].map(harmless)      # as they stand in the file
            both = pd.concat([old.reindex(columns=rows.columns), rows])
            rows = both.drop_duplicates(key, keep="last").sort_values(key, kind="stable")
    write_report_csv(path, rows)


# --------------------------------------------------------------------------- command line

def metric(text):
    from metrics import METRICS
    match = re.fullmatch(r"(\w+)@([1-9][0-9]{0,3})", text)
    if not match or match[1] not in METRICS or int(match[2]) not in LENGTHS:
        raise UsageError(f"--metric is NAME@K with a NAME of {', '.join(METRICS)} and a K of 1 to 5, 10, 20 or 50, "
                         f"not {text}")
    return text


def build_parser():
    parser = cli.Parser(prog="tune.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="METHOD", help="methods to tune (default: all)")
    parser.add_argument("--spaces", metavar="YAML",
                        help="file of methods, with their representations, fixed flags and search spaces: only its "
                             "methods are tuned (default: tune.yaml and every recommender that declares a space)")
    parser.add_argument("--trials", type=cli.positive, default=10, metavar="N",
                        help="number of trials of each method and representation (default 10)")
    parser.add_argument("--metric", default="NDCG@10", metavar="NAME@K",
                        help="metric on val by which a trial is selected (default NDCG@10)")
    parser.add_argument("--embeddings", nargs="+", default=[], metavar="NAME",
                        help="embeddings that `all` stands for (default: every embedding of the workspace)")
    parser.add_argument("--controls", nargs="+", default=[], metavar="NAME",
                        help="embeddings that also get a shuffled control (default: all)")
    parser.add_argument("--out", metavar="YAML",
                        help="grid file to write with the selected settings (default: WORKDIR/tuning/chosen.yaml)")
    parser.add_argument("--jobs", type=cli.positive, default=1, metavar="N",
                        help="number of trials run at the same time (default 1)")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the trials, run none")
    cli.common_flags(parser, overwrite=False)
    return parser


def main(argv=None):
    """See the module's first lines. Returns 1 if some method has no trial that gave a figure; WorkError if none has."""
    args = build_parser().parse_args(argv)
    args.metric = metric(args.metric)
    workdir = cli.workspace(args)
    methods = read_methods(args.spaces or DEFAULTS, args.names, declared=args.spaces is None)
    where = link_workspace(workdir)
    check_names(methods, args, where)
    trials = [trial for method in methods for trial in trials_of(method, args, where)]
    if args.only_print:
        print("\n".join(t.job.line for t in trials))
        return 0
    run_trials(trials, where, args)
    write_trials(where / "trials.csv", trials, args)
    chosen = chosen_of(trials)
    if chosen and all(best is None for best, _ in chosen):
        raise WorkError(f"{summary(*chosen[0])}; no method has a figure, so no grid file is written")
    out = expanded(args.out) if args.out else where / "chosen.yaml"
    write_text(out, grid_of(methods, chosen, where, args))
    for best, group in chosen:
        print(summary(best, group) + (f": {best.job}" if best else ""))
    print(f"chosen: {out}")
    return int(any(best is None for best, _ in chosen))


if __name__ == "__main__":
    cli.run(main)
