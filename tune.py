"""Tune every method on val with the same number of trials, and write what was chosen as a grid to run on test.

    python tune.py --workdir work/lastfm                                         10 trials of each line of tune.yaml
    python tune.py ease elsa --trials 20 --workdir work/lastfm --out slurm/grids/lastfm-tuned.yaml
    python slurm/grid.py --file slurm/grids/lastfm-tuned.yaml --workdir work/lastfm --local      the chosen, on test

Settings are drawn at random from the spaces of a file (tune.yaml explains itself), by method and seed, so more
trials go on from fewer; a finite space smaller than the trials is searched whole. Each representation of a method
gets the same settings and is chosen for by itself. The best mean of --metric on val wins, the earlier of equals.

Trials run in WORKDIR/tuning: a workspace of links to train, val, embeddings and metadata in which there is no test
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
from harness import cli, runs
from harness.errors import UsageError
from harness.files import checksum, write_report_csv, write_text
from harness.readers import read_json

LINKED = ("dataset.json", "trackid_sorted.csv", "userid_sorted.csv", "items.pqt", "users.pqt",
          "data/train.pqt", "data/val.pqt")  # and embeddings/; not plays.pqt or points.pqt, which hold test, too
LENGTHS = (1, 2, 3, 4, 5, 10, 20, 50)        # of lists that a run measures itself (ranking/save.py)
APART = {"workdir", "device", "overwrite"}   # arguments that do not make a request


# --------------------------------------------------------------------------- trials

@dataclass
class Trial:
    """One setting of a method for one representation, and what came of it."""
    method: Method
    number: int
    which: dict            # the representation, of `each`
    setting: dict          # drawn from `space`
    cell: object
    value: float = math.nan
    conf: float = math.nan
    seconds: float = math.nan
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


def trials_of(method, args, where):
    """Every trial of a method, its command line checked by its script; none where nothing is to be tuned."""
    if not method.space:
        return []
    return [Trial(method, number, which, setting, cell_of(
        method, {**setting, **which, "seed": args.seed, "k": int(args.metric.split("@")[1])}, where))
        for which in representations(method, args.embeddings, where)
        for number, setting in enumerate(settings(method, args.trials, args.seed), 1)]


def cell_of(method, values, workdir):
    from experiments.expand import Block, cells
    (cell,) = cells(Block(method.script, {}, {**method.set, **values}), workdir)
    return cell


def link_workspace(workdir):
    """WORKDIR/tuning with links to all a recommender may know while it is tuned; returns its path."""
    import dataset
    if "val" not in dataset.load(workdir).parts:
        raise UsageError(f"{workdir} has no val part to tune on; split with --val-share")
    where = workdir / "tuning"
    wanted = {name: workdir / name for name in LINKED if (workdir / name).exists()}
    wanted |= {f"embeddings/{p.name}": p for p in (workdir / "embeddings").glob("[!.]*")}
    for old in [*where.glob("*"), *where.glob("data/*"), *where.glob("embeddings/*")]:
        if old.is_symlink() and str(old.relative_to(where)) not in wanted:
            old.unlink()
    for name, path in wanted.items():
        link = where / name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(path, link.parent)
        if not link.is_symlink() or os.readlink(link) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return where


def run_trials(trials, where, args):
    """Run what is not finished yet, and read every trial's figure into it."""
    from experiments import local
    reasons = {t.cell: local.impossible(t.cell, where) for t in trials}
    failed = dict(local.run_stage(list(dict.fromkeys(t.cell for t in trials if not reasons[t.cell])), args.jobs))
    found = [(name, config) for name, config in runs.find_runs(where) if config.get("status") == "finished"]
    for trial in trials:
        trial.reason = reasons[trial.cell] or failed.get(trial.cell, "")
        if not trial.reason:
            read_figure(trial, found, where, args.metric)


def read_figure(trial, found, where, metric):
    """Value, interval, time and run of a finished trial, out of its metrics on val; its arguments tell the run."""
    import pandas as pd

    from harness import registry
    asked = arguments_of(trial.cell)
    mine_is = {name for name, r in registry.recommenders().items() if r.module == trial.cell.module}
    for name, config in found:
        mine = config["recommender"] in mine_is and "val" in config.get("parts", [])
        if mine and all(config["arguments"].get(k) == v for k, v in asked.items()):
            figures = pd.read_csv(where / "metrics" / f"{name}_val.csv", index_col=0)
            trial.run, trial.seconds = name, config["wall_seconds"]
            trial.value, trial.conf = (float(figures.loc[row, metric]) for row in ("mean", "conf"))
            return
    trial.reason = "it ended without lists of val"


def arguments_of(cell):
    """What the script reads from a cell's words, as its manifest has it."""
    from experiments.expand import parse
    return {k: v for k, v in json.loads(json.dumps(vars(parse(cell)), default=str)).items() if k not in APART}


# --------------------------------------------------------------------------- what was chosen

def chosen_of(trials):
    """The best trial of each method and representation, [(best or None, all its trials)], in order."""
    groups = {}
    for trial in trials:
        groups.setdefault((trial.method.name, str(trial.which)), []).append(trial)
    return [(max((t for t in group if not t.reason), key=lambda t: t.value, default=None), group)
            for group in groups.values()]


def grid_of(methods, chosen, where, args):
    """Text of a grid file: what was chosen, over each method's seeds, and the controls of it."""
    blocks = []
    for method in methods:
        if not method.space:
            blocks += [f"  # {method.name}: nothing to tune", *(
                block_of(method, {**method.set, **which}, method.seeds)
                for which in representations(method, args.embeddings, where))]
        for best, group in [c for c in chosen if c[1][0].method is method]:
            blocks.append(f"  # {told(best, group)}")
            if best is None:
                continue
            values = {**method.set, **best.which, **best.setting}
            blocks.append(block_of(method, values, method.seeds))
            if controlled(method, best, args) and takes(method, {**values, **method.control}, where):
                blocks.append(block_of(method, {**values, **method.control}, method.controls))
    return "\n".join([*heading(args, where), "blocks:", *blocks]) + "\n"


def controlled(method, best, args):
    """Whether the chosen of a line has a control asked for."""
    return method.control and (not args.controls or not best.which or set(best.which.values()) & {*args.controls})


def heading(args, where):
    manifest = where / "dataset.json"
    about = read_json(manifest, {"name": str}).get("name", "") if manifest.exists() else ""
    train = checksum(where / "data" / "train.pqt")[:16]
    return [f"# Chosen by tune.py on val of {about or 'a data set'} by {args.metric}: {args.trials} trials of each",
            f"# line (all settings where there are fewer), seed {args.seed}, spaces of {Path(args.spaces).name}, "
            f"train with sha256", f"# {train}. No test part was there while it chose. To run:",
            "#   python slurm/grid.py --file THIS --workdir WORKDIR --local"]


def told(best, group):
    """What came of the trials of one line, in words."""
    label = " ".join([group[0].method.name, *map(str, group[0].which.values())])
    values = [t.value for t in group if not t.reason]
    if best is None:
        return f"{label}: none of {len(group)} trials gave a figure ({group[0].reason})"
    failed = f"; {len(group) - len(values)} gave none" if len(values) < len(group) else ""
    return (f"{label}: {best.value:.4f} \u00b1{best.conf:.4f}, the best of {len(values)} trials from "
            f"{min(values):.4f} up{failed}")


def block_of(method, values, seeds):
    import yaml
    flow = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10 ** 6).strip()
    return (f"  - script: {method.script}\n    grid: {{seed: {list(range(1, seeds + 1))}}}"
            + (f"\n    set: {flow}" if values else ""))


def takes(method, values, workdir):
    """Whether the script accepts these values (no content has nothing to shuffle, for example)."""
    try:
        return bool(cell_of(method, values, workdir))
    except UsageError:
        return False


def write_trials(path, trials):
    """Every trial as a row of a csv, in place of the row it may have there from a call before."""
    import pandas as pd
    rows = pd.DataFrame([{
        "method": t.method.name, "representation": " ".join(map(str, t.which.values())), "trial": t.number,
        "setting": " ".join(f"--{k.replace('_', '-')} {v}" for k, v in t.setting.items()), "value": t.value,
        "conf": t.conf, "seconds": t.seconds, "run": t.run, "reason": t.reason} for t in trials])
    if rows.empty:
        return
    key = ["method", "representation", "trial"]
    if path.exists() and path.stat().st_size > 1:
        old = pd.read_csv(path, dtype={"representation": str, "reason": str}, keep_default_na=True)
        old[["representation", "reason"]] = old[["representation", "reason"]].fillna("")
        rows = pd.concat([old, rows]).drop_duplicates(key, keep="last").sort_values(key, kind="stable")
    write_report_csv(path, rows)


# --------------------------------------------------------------------------- command line

def metric(text):
    from metrics import METRICS
    found = re.fullmatch(r"(\w+)@([1-9]\d*)", text)
    if not found or found[1] not in METRICS or int(found[2]) not in LENGTHS:
        raise UsageError(f"--metric is NAME@K with a NAME of {', '.join(METRICS)} and a K of 1 to 5, 10, 20 or 50, "
                         f"not {text}")
    return text


def build_parser():
    parser = cli.Parser(prog="tune.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="METHOD", help="entries of the file of spaces (default: all)")
    parser.add_argument("--spaces", default=str(Path(__file__).with_name("tune.yaml")), metavar="YAML",
                        help="methods, their representations and their spaces (default tune.yaml)")
    parser.add_argument("--trials", type=cli.positive, default=10, metavar="N",
                        help="of each method and representation (default 10)")
    parser.add_argument("--metric", default="NDCG@10", metavar="NAME@K", help="of val (default NDCG@10)")
    parser.add_argument("--embeddings", nargs="+", default=[], metavar="NAME",
                        help="what `all` stands for in the file (default: every embedding of the workspace)")
    parser.add_argument("--controls", nargs="+", default=[], metavar="NAME",
                        help="embeddings whose controls are to be run with what was chosen (default: all)")
    parser.add_argument("--out", metavar="YAML", help="where the chosen go (default: tuning/chosen.yaml)")
    parser.add_argument("--jobs", type=cli.positive, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the trials, run none")
    cli.common_flags(parser, overwrite=False)
    return parser


def main(argv=None):
    """See the module's first lines. Returns 1 if some method has no trial that gave a figure."""
    args = build_parser().parse_args(argv)
    args.metric = metric(args.metric)
    workdir = cli.workspace(args)
    methods = read_methods(args.spaces, args.names)
    where = link_workspace(workdir)
    trials = [trial for method in methods for trial in trials_of(method, args, where)]
    if args.only_print:
        print("\n".join(t.cell.line for t in trials))
        return 0
    run_trials(trials, where, args)
    write_trials(where / "trials.csv", trials)
    chosen = chosen_of(trials)
    out = Path(args.out).expanduser() if args.out else where / "chosen.yaml"
    write_text(out, grid_of(methods, chosen, where, args))
    for best, group in chosen:
        print(told(best, group) + (f": {best.cell}" if best else ""))
    print(f"chosen: {out}")
    return int(any(best is None for best, _ in chosen))


if __name__ == "__main__":
    cli.run(main)
