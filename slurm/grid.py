"""A grid of runs: lists of flags become exact command lines, which are printed, run here, or given to Slurm.

    python slurm/grid.py train.py --model musicnn mfcc --seed 1 2 3 --item-freeze 1 0 --set epochs=5
    python slurm/grid.py --file slurm/grids/demo.yaml --workdir W --local
    python slurm/grid.py --file slurm/grids/paper.yaml --extract musicnn mfcc --audio DIR --shards 8 --submit

SCRIPT is train.py, train_bert.py, knn.py or recommenders.NAME; each of its flags takes a list here, and every
combination is a run. A switch takes on and off, an embedding also `all`. --set holds for every run. A file holds
several such products (slurm/grids/demo.yaml explains the form). Finished runs are skipped; runs that the workspace
cannot serve are left out with the reason. A failed run is counted and the others go on; the exit status is 1 if any
failed. Each run is a process of its own; one that another process is making at the same time is not a failed one. Runs
that read the factors or the lists of others are made after those, on a cluster as arrays of their own.

The idea of a grid as a small file in git, and of a dry run that prints it, is from cleanrl and demucs.
"""
if __package__ in (None, ""):
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import os
import re
import statistics
from dataclasses import replace
from pathlib import Path

from experiments import grid_file, local
from experiments.expand import MOST_JOBS, Block, Job, jobs_of, waves
from experiments.local import say
from harness import cli, registry, runs
from harness.errors import UsageError
from harness.files import expanded
from slurm import split_plan, submit

ROOT = Path(__file__).resolve().parents[1]


def build_parser():
    parser = cli.Parser(prog="grid.py", description=__doc__,
                         usage="grid.py [SCRIPT [WORD ...] [--FLAG VALUE ...] ...] [flags of the grid]")
    group = parser.add_argument_group("what to do with the runs")
    group.add_argument("--print", dest="mode", action="store_const", const="print", default="print",
                       help="print the command lines (default)")
    group.add_argument("--local", dest="mode", action="store_const", const="local",
                       help="make the runs on this machine")
    group.add_argument("--submit", dest="mode", action="store_const", const="submit",
                       help="submit the runs to Slurm as one array, after the extraction where --extract asks for it")
    group.add_argument("--jobs", type=cli.positive, default=1, metavar="N",
                       help="with --local: number of runs made at the same time (default 1)")
    group.add_argument("--wait", action="store_true",
                       help="with --submit: return when every run is over, with status 1 if one failed")
    group.add_argument("--report", metavar="DIR",
                       help="say how many runs of a submitted grid finished or failed; DIR is its folder, such as "
                            "WORKDIR/slurm/001")
    group = parser.add_argument_group("which runs")
    group.add_argument("--file", metavar="YAML", help="grid file: a list of products of flags")
    group.add_argument("--set", nargs="+", action="extend", default=[], metavar="FLAG=VALUE",
                       help="flags with the same value in every run; with --file, of the scripts that have the flag")
    group.add_argument("--processes", type=cli.positive, default=1, metavar="N",
                       help="with --print and --submit: number of processes that torchrun starts for each run, which "
                            "share its batches (default 1)")
    group.add_argument("--workdir", metavar="DIR",
                       help="workspace folder (default: $WORKDIR, else the current directory)")
    group = parser.add_argument_group("before the runs (flags of the backend may follow where there is no SCRIPT)")
    group.add_argument("--extract", nargs="+", default=[], metavar="BACKEND",
                       help="backends whose embeddings are extracted first")
    group.add_argument("--audio", metavar="DIR", help="folder of audio files for --extract (default: $AUDIO)")
    group.add_argument("--shards", type=cli.positive, default=None, metavar="N",
                       help="number of parts of each extraction, one array task each (default 1)")
    group.add_argument("--split", metavar="FLAGS",
                       help="flags of preprocess/1_train_test_split.py, quoted as one word: it is run before the runs; "
                            "with --partitions N among them as N tasks and a merge")
    group.add_argument("--plan", type=cli.positive, metavar="PLAYS",
                       help="with --split: say how many tasks, hours and how much disk a log of so many plays takes, "
                            "from measured rates")
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
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes FLAG=VALUE such as epochs=5, not {pair!r} (SCRIPT comes first)")
        values[name.lstrip("-").replace("_", "-")] = value
    return values


def estimate(jobs, workdir):
    """What the runs will take, in words, by the median of finished runs of their scripts; '' where none is finished."""
    names, taken = {r.script: r.name for r in registry.recommenders().values()}, {}
    for _, config in runs.find_runs(workdir):
        if config.get("status") == "finished" and config.get("wall_seconds"):
            taken.setdefault(config.get("recommender"), []).append(config["wall_seconds"])
    known = [statistics.median(taken[names[job.script]]) for job in jobs if names.get(job.script) in taken]
    if not known:
        return ""
    of = "" if len(known) == len(jobs) else f" for the {len(known)} of them that have a finished run to go by"
    return f"; about {sum(known):.0f} s one after the other{of}"


# --------------------------------------------------------------------------- stages

def extraction(args, document, flags, workdir):
    """Stages that make the embeddings: per backend its shards, then their merge."""
    about = document.get("extract") or {}
    backends = list(dict.fromkeys(args.extract or about.get("backends") or []))
    if args.shards and not backends:
        raise UsageError("--shards divides an extraction; add --extract BACKEND")
    shards = args.shards or about.get("shards") or 1
    extra = {**(about.get("flags") or {}), **{k: v if len(v) > 1 else v[0] for k, v in flags.items()}}
    if backends and not args.audio:
        raise UsageError("--extract needs --audio DIR, the folder of sound files")
    if shards > MOST_JOBS:
        raise UsageError(f"--shards {shards} is more than {MOST_JOBS}")
    stages = []
    for backend in backends:
        script = script_of_backend(backend)
        common = ["--audio", str(expanded(args.audio).absolute()), "--workdir", str(workdir), *flag_words(extra)]
        one = [Job(script, (*common, "--shard", f"{i}/{shards}")) for i in range(shards)]
        alone = shards == 1 and args.mode != "submit"
        stages.append(submit.Stage(backend, [Job(script, tuple(common))] if alone else one,
                                   extract=(backend, shards, common)))
        if not alone:
            stages.append(submit.Stage(f"{backend}-merge", [Job(script, ("--merge", *common))], after=[backend]))
    return stages


def several(job, processes):
    """The job in so many processes; UsageError where its script trains in one."""
    known = {r.script: r.parallel for r in registry.recommenders().values()}
    if not known.get(job.script):
        able = " ".join(sorted(script for script, parallel in known.items() if parallel))
        raise UsageError(f"--processes {processes}: {job.script} works in one process; with several train {able}")
    return replace(job, processes=processes)


def script_of_backend(name):
    """extract_item_embeddings/NAME.py of a backend of sound, asked without importing it; UsageError for others."""
    script = f"extract_item_embeddings/{name}.py"
    if not re.fullmatch("[a-z][a-z0-9_]{0,30}", name) or not (ROOT / script).is_file() \
            or "extraction.main(" not in (ROOT / script).read_text(encoding="utf-8"):
        raise UsageError(f"no backend {name[:60]!r}: there is no {script[:90]} (SCRIPT comes before --extract)")
    return script


def flag_words(flags):
    """{flag: value or list} as words, for a script whose parser is not asked."""
    words = []
    for name, value in flags.items():
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name):
            raise UsageError(f"extract: {name[:60]!r} is no flag of a backend")
        values = [str(v) for v in (value if isinstance(value, list) else [value])]
        if value is True:
            words.append(f"--{name}")
        elif len(values) == 1 and values[0].startswith("-"):
            words.append(f"--{name}={values[0]}")
        elif value is not None and value is not False:
            words += [f"--{name}", *values]
    return words


def stages_of(args, script, places, flags):
    """(workspace, stages in order); the runs of the grid are the stages `of_runs`, in waves where some read others."""
    facts, audio = submit.facts(), args.audio
    args.workdir = args.workdir or os.environ.get("WORKDIR") or facts.get("WORKDIR")
    args.audio = args.audio or os.environ.get("AUDIO") or facts.get("AUDIO")
    document, extra = grid_file.read(args.file) if args.file else {}, settings(args.set)
    extracts = bool(args.extract or document.get("extract"))
    workdir = cli.workspace(args, create=extracts and args.mode != "print") \
        if args.mode != "print" else expanded(args.workdir or ".").absolute()
    if audio and not extracts:
        raise UsageError("--audio is the folder of an extraction; add --extract BACKEND")
    stages = extraction(args, document, {} if script else flags, workdir)
    merged = [s.name for s in stages if s.name.endswith("-merge")]
    split = args.split or document.get("split")
    if args.plan and not split:
        raise UsageError("--plan goes with --split FLAGS, whose tasks it plans; add it")
    if split:
        words = grid_file.words_of_split(split, "--split")
        stages += split_plan.stages(words, workdir, merged)
        if args.plan:
            say(split_plan.sentence(words, args.plan))
    blocks = [Block(script, flags, extra, tuple(places))] if script else grid_file.blocks_of(document, extra)
    jobs = [job for block in blocks for job in jobs_of(block, workdir)]
    distinct = list(dict.fromkeys(jobs))
    if len(distinct) < len(jobs):
        say(f"{len(jobs) - len(distinct)} runs were asked for twice and are made once")
    if args.processes > 1:
        distinct = [several(job, args.processes) for job in distinct]
    after, how = (["split"], "afterok") if split else (merged, "afterany")
    for number, wave in enumerate(waves(distinct), 1):
        name = "grid" if number == 1 else f"grid-{number}"
        stages.append(submit.Stage(name, wave, after=after, how=how))
        after, how = [name], "afterany"
    if not stages:
        raise UsageError("nothing to do; name a SCRIPT with its flags, a --file, or --extract (see --help)")
    return workdir, stages


def main(argv=None):
    """See the module's first lines. Returns the exit status."""
    args, script, places, flags = read(argv)
    if args.mode == "submit":
        submit.check_sbatch()
    if args.jobs > 1 and args.mode != "local":
        raise UsageError("--jobs is for --local; Slurm runs as many as it has room for")
    if args.processes > 1 and args.mode == "local":
        raise UsageError("--processes is for --print and --submit; on this machine start each run with torchrun")
    if args.wait and args.mode != "submit":
        raise UsageError("--wait is for --submit; --local ends when the runs are over, and --print starts none")
    if args.report and (script or args.file or args.extract or args.split or args.set or args.mode != "print"):
        raise UsageError("--report says how a submitted grid went and starts nothing; give it alone")
    if args.processes > 1 and not (script or args.file):
        raise UsageError("--processes is for runs that train; name a SCRIPT or --file")
    if args.report:
        return submit.report(expanded(args.report))
    workdir, stages = stages_of(args, script, places, flags)
    if args.mode == "local":
        return local.run_here(stages, workdir, args.jobs)
    alone = all(stage.of_runs for stage in stages)
    checked = alone and (args.mode == "submit" or (workdir / "data" / "train.pqt").exists())
    if checked:
        stages = local.possible_stages(stages, workdir)
    if args.mode == "submit":
        return submit.submit(stages, workdir, args.wait)
    jobs = [j for stage in stages for j in stage.jobs]
    for job in jobs:
        print(job.line)
    say(f"{len(jobs)} runs; --local makes them here, --submit on a cluster" + estimate(jobs, workdir))
    if not checked:
        say(f"not checked against {workdir}, whose embeddings or split are not there yet")
    return 0


if __name__ == "__main__":
    cli.run(main)
