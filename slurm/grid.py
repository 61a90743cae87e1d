"""A grid of runs: lists of flags become exact command lines, which are printed, run here, or given to Slurm.

    python slurm/grid.py train.py --model musicnn mfcc --seed 1 2 3 --item-freeze 1 0 --set epochs=5
    python slurm/grid.py --file slurm/grids/demo.yaml --workdir W --local
    python slurm/grid.py --file slurm/grids/paper.yaml --extract musicnn mfcc --audio DIR --shards 8 --submit

SCRIPT is train.py, train_bert.py, knn.py or recommenders.NAME; each of its flags takes a list here, and every
combination is a cell. A switch takes on and off, an embedding also `all`. --set holds for every cell. A file
holds several such products (slurm/grids/demo.yaml explains itself). Finished cells are skipped by the runs
themselves; cells that the workspace cannot serve are left out with the reason. A failed cell is counted and
the others go on; the exit status is 1 if any failed.

Idea of a grid as a small file in git, and of a dry run that prints it: cleanrl's benchmark, demucs' grids.
"""
if __package__ in (None, ""):
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import os
import shlex
from pathlib import Path

from experiments import local
from experiments.expand import Block, Cell, cells, load
from experiments.local import say
from harness import cli
from harness.errors import UsageError
from slurm import submit

ROOT = Path(__file__).resolve().parents[1]


def build_parser():
    parser = cli.Parser(prog="grid.py", description=__doc__,
                         usage="grid.py [SCRIPT [WORD ...] [--FLAG VALUE ...] ...] [flags of the grid]")
    group = parser.add_argument_group("what to do with the cells")
    group.add_argument("--print", dest="mode", action="store_const", const="print", default="print",
                       help="print the command lines (default)")
    group.add_argument("--local", dest="mode", action="store_const", const="local", help="run them here, one by one")
    group.add_argument("--submit", dest="mode", action="store_const", const="submit",
                       help="submit them to Slurm: one array, after the extraction where --extract asks for it")
    group.add_argument("--jobs", type=cli.positive, default=1, metavar="N",
                       help="with --local: N processes (default 1)")
    group.add_argument("--wait", action="store_true", help="with --submit: return when all is over, 1 if a cell failed")
    group.add_argument("--report", metavar="DIR", help="count the cells of a submitted grid, W/slurm/001 for example")
    group = parser.add_argument_group("which cells")
    group.add_argument("--file", metavar="YAML", help="a file of products")
    group.add_argument("--set", nargs="+", action="extend", default=[], metavar="FLAG=VALUE",
                       help="the same for every cell; with --file for the scripts that have the flag")
    group.add_argument("--workdir", metavar="DIR",
                       help="workspace folder (default: $WORKDIR, else the current directory)")
    group = parser.add_argument_group("before the cells (flags of the backend may follow where there is no SCRIPT)")
    group.add_argument("--extract", nargs="+", default=[], metavar="BACKEND", help="backends to extract first")
    group.add_argument("--audio", metavar="DIR", help="folder of audio for --extract (default: $AUDIO)")
    group.add_argument("--shards", type=cli.positive, default=None, metavar="N",
                       help="parts of an extraction, one array task each (default 1)")
    group.add_argument("--split", metavar="FLAGS",
                       help="run preprocess/1_train_test_split.py with these flags, in quotes")
    return parser


def read(argv=None):
    """(args, SCRIPT or None, its plain words, {flag: list of values})"""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest[:1] == ["-m"]:
        rest = rest[1:]
    script, places, flags = None, [], {}
    for word in rest:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            values = flags.setdefault(name, [])
            values += [value] if equals else []
        elif flags:
            values.append(word)
        elif script is None:
            script = word
        else:
            places.append(word)
    flags = {name: values or [True] for name, values in flags.items()}
    if script is None and flags and not args.extract:
        parser.error(f"unknown flag --{next(iter(flags))}; SCRIPT comes before its flags")
    if script and args.file:
        parser.error(f"give SCRIPT ({script}) or --file, not both")
    return args, script, places, flags


def settings(pairs):
    """['epochs=5', 'item_freeze=1'] -> {'epochs': '5', 'item-freeze': '1'}"""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes FLAG=VALUE such as epochs=5, not {pair!r} (SCRIPT comes first)")
        found[name.lstrip("-").replace("_", "-")] = value
    return found


# --------------------------------------------------------------------------- grid files

def read_file(path):
    """A grid file -> its dictionary, checked; see slurm/grids/demo.yaml for the form."""
    import yaml
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"--file {path} is no file")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not readable as yaml ({e})") from None
    if not isinstance(document, dict) or not document:
        raise UsageError(f"{path} should hold `blocks:` (a list), `extract:` and `split:`; it holds none of them")
    check_keys(path, document, {"blocks", "extract", "split"})
    check_keys(f"{path}, extract", document.get("extract") or {}, {"backends", "shards", "flags"})
    for i, block in enumerate(document.get("blocks") or []):
        where = f"{path}, block {i + 1}"
        check_keys(where, block, {"script", "grid", "set", "places"})
        if not block.get("script"):
            raise UsageError(f"{where} names no script")
        for part in ("grid", "set"):
            check_keys(f"{where}, {part}", block.get(part) or {}, None)
    return document


def check_keys(where, value, known):
    if not isinstance(value, dict):
        raise UsageError(f"{where} should be `key: value` lines, not {value!r}")
    odd = sorted(str(k) for k in value if known is not None and k not in known)
    if odd:
        raise UsageError(f"{where}: unknown key {', '.join(odd)}; expected {', '.join(sorted(known))}")


def blocks_of(document, extra):
    """The blocks of a file; `extra` (--set) overrides wherever the script has the flag."""
    used, blocks = set(), []
    for entry in document.get("blocks") or []:
        block = Block(entry["script"], dict(entry.get("grid") or {}), dict(entry.get("set") or {}),
                      tuple(map(str, entry.get("places") or ())))
        module = load(block.script)
        known = {o.removeprefix("--") for a in module.build_parser()._actions for o in a.option_strings} \
            if hasattr(module, "build_parser") else set(extra)
        for name in (n for n in extra if n in known):
            for part in (block.grid, block.fixed):
                for key in [k for k in part if str(k).replace("_", "-") == name]:
                    del part[key]
            block.fixed[name] = extra[name]
            used.add(name)
        blocks.append(block)
    unknown = sorted(set(extra) - used)
    if unknown:
        raise UsageError(f"--set {unknown[0]}: no script of the file has this flag")
    return blocks


# --------------------------------------------------------------------------- stages

def extraction(args, document, flags, workdir):
    """Stages that make the embeddings: per backend its shards, then their merge."""
    about = document.get("extract") or {}
    backends = args.extract or list(about.get("backends") or [])
    shards = args.shards or about.get("shards") or 1
    extra = {**(about.get("flags") or {}), **{k: v if len(v) > 1 else v[0] for k, v in flags.items()}}
    stages = []
    if backends and not args.audio:
        raise UsageError("--extract needs --audio DIR, the folder of sound files")
    for backend in backends:
        script = f"extract_item_embeddings/{backend}.py"
        path = ROOT / script
        if not path.is_file() or "extraction.main(" not in path.read_text(encoding="utf-8"):  # asked without torch
            raise UsageError(f"no backend {backend!r}: there is no {script} (SCRIPT comes before --extract)")
        common = []
        for name, value in extra.items():
            common += [f"--{name}"] if value is True else [f"--{name}", *map(str, value if isinstance(value, list)
                                                                             else [value])]
        here = ["--audio", str(Path(args.audio).expanduser().absolute()), "--workdir", str(workdir), *common]
        one = [Cell(script, (*here, "--shard", f"{i}/{shards}")) for i in range(shards)]
        stages.append(submit.Stage(backend, one if shards > 1 or args.mode == "submit" else [Cell(script, tuple(here))],
                                   extract=(backend, shards, here)))
        if shards > 1 or args.mode == "submit":
            stages.append(submit.Stage(f"{backend}-merge", [Cell(script, ("--merge", *here))], after=[backend]))
    return stages


def plan(argv=None):
    """(args, workspace, stages in order); the cells of the grid are the stage named `grid`."""
    args, script, places, flags = read(argv)
    if args.report:
        return args, None, []
    facts = submit.facts()
    args.workdir = args.workdir or os.environ.get("WORKDIR") or facts.get("WORKDIR")
    args.audio = args.audio or os.environ.get("AUDIO") or facts.get("AUDIO")
    document, extra = read_file(args.file) if args.file else {}, settings(args.set)
    extracts = bool(args.extract or document.get("extract"))
    workdir = cli.workspace(args, create=extracts and args.mode != "print") \
        if args.mode != "print" else Path(args.workdir or ".").expanduser().absolute()
    stages = extraction(args, document, {} if script else flags, workdir)
    merged = [s.name for s in stages if s.name.endswith("-merge")]
    split = args.split or document.get("split")
    if split:
        words = (*shlex.split(str(split)), "--workdir", str(workdir))
        stages.append(submit.Stage("split", [Cell("preprocess/1_train_test_split.py", words)], after=merged))
    blocks = [Block(script, flags, extra, tuple(places))] if script else blocks_of(document, extra)
    made = [cell for block in blocks for cell in cells(block, workdir)]
    distinct = list(dict.fromkeys(made))
    if len(distinct) < len(made):
        say(f"{len(made) - len(distinct)} cells were asked for twice and are run once")
    if distinct:
        stages.append(submit.Stage("grid", distinct, after=["split"] if split else merged,
                                   how="afterok" if split else "afterany"))
    if not stages:
        raise UsageError("nothing to do; name a SCRIPT with its flags, a --file, or --extract (see --help)")
    return args, workdir, stages


def main(argv=None):
    """See the module's first lines. Returns the exit status."""
    args, workdir, stages = plan(argv)
    if args.jobs > 1 and args.mode != "local":
        raise UsageError("--jobs is for --local; Slurm runs as many as it has room for")
    if args.report:
        return submit.report(Path(args.report))
    if args.mode == "local":
        return local.run_here(stages, workdir, args.jobs)
    alone = [s.name for s in stages] == ["grid"]
    checked = alone and (args.mode == "submit" or (workdir / "data" / "train.pqt").exists())
    if checked:
        stages[0].cells = local.possible(stages[0].cells, workdir)
    if args.mode == "submit":
        return submit.submit(stages, workdir, args.wait)
    for cell in (c for stage in stages for c in stage.cells):
        print(cell.line)
    if not checked:
        say(f"not checked against {workdir}, whose embeddings or split are not there yet")
    return 0


if __name__ == "__main__":
    cli.run(main)
