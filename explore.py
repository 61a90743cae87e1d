"""Describe the data of a workspace: a report with figures, and the same numbers as json and in TensorBoard.

    python explore.py --workdir work/lastfm
    python explore.py work/lastfm --with work/spotify       also the overlap of their artists

Writes into explore/ of the workspace, atomically:
    report.md       sizes, long tails, activity, sessions, tags and genres, features, representations, overlap of data
                    sets, friends; sections without data are left out and listed at the end
    report.html     the same with its figures inside, for a browser; it needs no other file
    *.png           its figures
    numbers.json    every number of text and figures
    events.out.*    the same for TensorBoard (tensorboard --logdir work/lastfm/explore)
    manifest.json   the request and the checksums of the inputs; the report is skipped while they are unchanged
The report covers all plays, including those of test: it describes a data set, and no setting is chosen from it.
--wandb uploads the report to Weights & Biases (needs the package wandb; WANDB_MODE=offline keeps it on disk).
"""
import hashlib
import importlib.util
from pathlib import Path

from harness import cli
from harness.errors import UsageError
from harness.files import checksum, write_json, write_text
from harness.machine import versions
from harness.progress import Progress
from harness.readers import read_json

ABOUT = ("source", "licence", "track_ids", "user_ids")   # of dataset.json, for the head of the report

def build_parser():
    parser = cli.Parser(prog="explore.py", description=__doc__)
    parser.add_argument("folder", nargs="?", metavar="WORKDIR", help="workspace folder, same as --workdir")
    parser.add_argument("--with", dest="others", action="append", default=[], metavar="DIR",
                        help="another workspace whose artists are compared with those of this one (may be repeated)")
    parser.add_argument("--session-gap", type=cli.positive, default=30, metavar="MINUTES",
                        help="minutes without a play after which a new session starts (default 30)")
    parser.add_argument("--wandb", nargs="?", const="exploration", metavar="PROJECT",
                        help="also upload the report to this project of Weights & Biases (without a value: "
                             "exploration)")
    parser.add_argument("--memory", default="2GB", metavar="SIZE",
                        help="upper limit of memory for the plays, at least 512MB (default 2GB)")
    cli.common_flags(parser)
    return parser


def parse(argv=None):
    """The parsed command line with its folders as paths: (args, workdir, [(name, Path) of --with])."""
    args = build_parser().parse_args(argv)
    if args.folder and args.workdir and Path(args.folder).absolute() != Path(args.workdir).absolute():
        raise UsageError(f"two workspaces are named, {args.folder} and --workdir {args.workdir}; name one")
    if args.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError("--wandb needs the package wandb, which is not installed: pip install wandb")
    args.workdir = args.folder or args.workdir
    workdir, others = cli.workspace(args), {}
    for text in args.others:
        path = Path(text).expanduser().absolute()
        manifest = path / "dataset.json"
        if not (path / "items.pqt").exists():
            raise UsageError(f"--with {text} is not a workspace with an items.pqt; name another folder")
        name = read_json(manifest, {"name": str}).get("name", path.name) if manifest.exists() else path.name
        others[name if name not in others else str(path)] = path
    return args, workdir, list(others.items())


def request_of(args, workdir, others):
    """Everything that determines the report: the options, the code, and every input file by its checksum."""
    from exploration.workspace import plays_of
    plays, _ = plays_of(workdir)
    files = [*sorted(plays.parent.glob(plays.name)), *sorted((workdir / "data").glob("*.pqt")),
             *(workdir / name for name in ("trackid_sorted.csv", "dataset.json", "items.pqt", "users.pqt")),
             *sorted((workdir / "embeddings").glob("[!.]*.npy")), *sorted((workdir / "embeddings").glob("[!.]*.json"))]
    code = sorted([Path(__file__), *(Path(__file__).parent / "exploration").glob("*.py")])
    return {"session_gap": args.session_gap, "seed": args.seed,
            "code": hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:16],
            **{str(f.relative_to(workdir)): checksum(f) for f in dict.fromkeys(files) if f.exists()},
            **{f"{name} items.pqt": checksum(path / "items.pqt") for name, path in others}}


def measured(args, workdir, others, spill):
    """Content of numbers.json: the numbers of every section, and for sections without data the reason."""
    from exploration import sections
    from exploration.words import plain
    from exploration.workspace import opened
    from preprocess import stage
    numbers, left_out = {}, {}
    work = opened(workdir, stage.memory_bytes(args.memory), spill, gap=args.session_gap, seed=args.seed, others=others)
    with work.log, Progress(len(sections()), "explore", "sections") as progress:
        for name, section in sections().items():
            result = section.measure(work)
            (left_out if isinstance(result, str) else numbers)[name] = plain(result)
            progress.update(1)
    return {"workspace": work.name, "about": {word: work.about[word] for word in ABOUT if work.about.get(word)},
            "sections": numbers, "left_out": left_out}


def drawn(numbers, new):
    """Draw every figure into the hidden folder; returns {section: [Path]}."""
    from exploration import drawing, sections
    paths = {}
    with drawing.style():
        for name, values in numbers["sections"].items():
            for stem, figure in sections()[name].draw(values).items():
                drawing.save(figure, new.path(f"{stem}.png"))
                paths.setdefault(name, []).append(new.path(f"{stem}.png"))
    return paths


def report_of(numbers, paths):
    """The report as Markdown; figures follow the first block of their section."""
    from exploration import sections
    from exploration.words import name as safe
    blocks = [f"# Data of {safe(numbers['workspace'])}"]
    blocks += [f"{word.replace('_', ' ').capitalize()}: {safe(text)}." for word, text in numbers["about"].items()]
    for name, values in numbers["sections"].items():
        section = sections()[name]
        first, *rest = section.describe(values)
        blocks += [f"## {section.TITLE}", first, *(f"![{section.TITLE}]({p.name})" for p in paths.get(name, [])), *rest]
    if numbers["left_out"]:
        blocks += ["## Not available", "\n".join(f"- {safe(reason)}" for reason in numbers["left_out"].values())]
    return "\n\n".join(blocks) + "\n"


def main(argv=None):
    args, workdir, others = parse(argv)
    from exploration import html, tracking
    from preprocess import stage
    request = request_of(args, workdir, others)
    folder = workdir / "explore"
    with stage.atomic_outputs(folder / "manifest.json", overwrite=args.overwrite) as new:
        if not new.same(request, args.overwrite):
            numbers = measured(args, workdir, others, new.path("spill"))
            paths = drawn(numbers, new)
            report = report_of(numbers, paths)
            write_json(new.path("numbers.json"), numbers)
            write_text(new.path("report.md"), report)
            write_text(new.path("report.html"), html.page(report, new.hidden))
            tracking.to_tensorboard(new.hidden, numbers["sections"], report, [p for ps in paths.values() for p in ps])
            outdated = [name for name in (new.old or {}).get("bytes", {}) if not new.path(name).exists()]
            new.publish({"request": request, "versions": versions()}, remove=outdated)
            for reason in numbers["left_out"].values():
                print(f"left out: {reason}")
            print(f"{folder / 'report.md'}: {len(numbers['sections'])} sections")
    if args.wandb:
        numbers = read_json(folder / "numbers.json")
        where = tracking.to_wandb(args.wandb, folder, numbers["workspace"], numbers["sections"],
                                  (folder / "report.md").read_text(encoding="utf-8"), sorted(folder.glob("*.png")))
        print(f"Weights & Biases: {where}")


if __name__ == "__main__":
    cli.run(main)
