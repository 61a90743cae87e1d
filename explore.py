"""What is in a workspace: a report with figures to look at, and the same numbers as json and in TensorBoard.

    python explore.py --workdir work/lastfm
    python explore.py work/lastfm --with work/spotify       the overlap of their artists, too

Writes into explore/ of the workspace, all at once:
    report.md       sizes, long tails, activity, sessions, tags and genres, features, representations, overlap of data
                    sets, friends; what the data lack is left out and named at the end
    *.png           its figures
    numbers.json    every number of text and figures
    events.out.*    the same for TensorBoard (tensorboard --logdir work/lastfm/explore)
    manifest.json   the request and the checksums of what was read; nothing is done again while they are the same
All plays are looked at, those of test too: this describes a data set and chooses nothing.
--wandb sends the report to Weights & Biases (the package wandb; WANDB_MODE=offline keeps it on this machine).
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
    parser.add_argument("folder", nargs="?", metavar="WORKDIR", help="the workspace, as --workdir")
    parser.add_argument("--with", dest="others", action="append", default=[], metavar="DIR",
                        help="workspace whose artists are looked for among those of this one (may be repeated)")
    parser.add_argument("--session-gap", type=cli.positive, default=30, metavar="MINUTES",
                        help="silence after which a session has ended (default 30)")
    parser.add_argument("--wandb", nargs="?", const="exploration", metavar="PROJECT",
                        help="send it to Weights & Biases, too (default project: exploration)")
    parser.add_argument("--memory", default="2GB", metavar="SIZE", help="memory for the plays (default 2GB)")
    cli.common_flags(parser)
    return parser


def asked(argv=None):
    """The parsed command line, its folders as paths: (args, workdir, [(name, Path) of --with])."""
    args = build_parser().parse_args(argv)
    if args.folder and args.workdir and Path(args.folder).absolute() != Path(args.workdir).absolute():
        raise UsageError(f"two workspaces are named: {args.folder} and --workdir {args.workdir}")
    if args.wandb and importlib.util.find_spec("wandb") is None:
        raise UsageError("--wandb needs the package wandb, which is not installed: pip install wandb")
    args.workdir = args.folder or args.workdir
    workdir, others = cli.workspace(args), {}
    for text in args.others:
        path = Path(text).expanduser().absolute()
        manifest = path / "dataset.json"
        if not (path / "items.pqt").exists():
            raise UsageError(f"--with {text} is no workspace with an items.pqt")
        name = read_json(manifest, {"name": str}).get("name", path.name) if manifest.exists() else path.name
        others[name if name not in others else str(path)] = path
    return args, workdir, list(others.items())


def request_of(args, workdir, others):
    """What decides the report: the flags, the code, and every file that is read, by its checksum."""
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
    """Numbers of every section, and the sentences of those left out: ({name: dict}, {name: sentence})."""
    from exploration import sections
    from exploration.words import plain
    from exploration.workspace import opened
    from preprocess import stage
    numbers, left = {}, {}
    work = opened(workdir, stage.memory_bytes(args.memory), spill, gap=args.session_gap, seed=args.seed, others=others)
    with work.log, Progress(len(sections()), "explore", "sections") as progress:
        for name, section in sections().items():
            found = section.measure(work)
            (left if isinstance(found, str) else numbers)[name] = plain(found)
            progress.update(1)
    return {"workspace": work.name, "about": {word: work.about[word] for word in ABOUT if work.about.get(word)},
            "sections": numbers, "left_out": left}


def drawn(numbers, new):
    """Draw every figure into the hidden folder; {section: [Path]}."""
    from exploration import drawing, sections
    paths = {}
    with drawing.style():
        for name, found in numbers["sections"].items():
            for stem, figure in sections()[name].draw(found).items():
                drawing.save(figure, new.path(f"{stem}.png"))
                paths.setdefault(name, []).append(new.path(f"{stem}.png"))
    return paths


def report_of(numbers, paths):
    """The report as Markdown; figures stand behind the first block of their section."""
    from exploration import sections
    from exploration.words import name as safe
    blocks = [f"# {safe(numbers['workspace'])}: what is in it"]
    blocks += [f"{word.replace('_', ' ').capitalize()}: {safe(text)}." for word, text in numbers["about"].items()]
    for name, found in numbers["sections"].items():
        section = sections()[name]
        first, *rest = section.tell(found)
        blocks += [f"## {section.TITLE}", first, *(f"![{section.TITLE}]({p.name})" for p in paths.get(name, [])), *rest]
    if numbers["left_out"]:
        blocks += ["## What these data lack", "\n".join(f"- {safe(why)}" for why in numbers["left_out"].values())]
    return "\n\n".join(blocks) + "\n"


def main(argv=None):
    args, workdir, others = asked(argv)
    from exploration import tracking
    from preprocess import stage
    request = request_of(args, workdir, others)
    folder = workdir / "explore"
    with stage.together(folder / "manifest.json") as new:
        if not new.same(request, args.overwrite):
            numbers = measured(args, workdir, others, new.path("spill"))
            paths = drawn(numbers, new)
            report = report_of(numbers, paths)
            write_json(new.path("numbers.json"), numbers)
            write_text(new.path("report.md"), report)
            tracking.to_tensorboard(new.hidden, numbers["sections"], report, [p for ps in paths.values() for p in ps])
            gone = [name for name in (new.old or {}).get("bytes", {}) if not new.path(name).exists()]
            new.publish({"request": request, "versions": versions()}, remove=gone)
            for why in numbers["left_out"].values():
                print(f"left out: {why}")
            print(f"{folder / 'report.md'}: {len(numbers['sections'])} sections")
    if args.wandb:
        numbers = read_json(folder / "numbers.json")
        where = tracking.to_wandb(args.wandb, folder, numbers["workspace"], numbers["sections"],
                                  (folder / "report.md").read_text(encoding="utf-8"), sorted(folder.glob("*.png")))
        print(f"Weights & Biases: {where}")


if __name__ == "__main__":
    cli.run(main)
