"""Stage 2, first step: convert the raw files of a data set to plays.pqt, the track list and dataset.json.

    python preprocess/0_get_plays_pqt.py music4all --log LOG.tsv.bz2 --tracks trackid_sorted.csv --workdir W
    python preprocess/0_get_plays_pqt.py --log plays.csv --workdir W       your own log (data set `interactions`)
    python preprocess/0_get_plays_pqt.py DATASET --help

Each module of preprocess/ (a file or a folder) that defines `HELP`, `add_arguments(parser)` and
`get_plays(args, workdir)` is a data set; to add a data set, add such a module. args also has workdir, memory
(bytes) and overwrite. Finished work is skipped as long as its inputs are unchanged.
"""
if __package__ in (None, ""):
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

import importlib
import re
import sys
from pathlib import Path

from harness import cli
from preprocess import stage


def datasets(only=None):
    """{name: module} of the data sets in this folder, all or `only` one; files without `get_plays` are not imported."""
    modules = {}
    folder = Path(__file__).parent
    files = {path.stem: path for path in folder.glob("[a-z]*.py")}
    files |= {path.parent.name: path for path in folder.glob("[a-z]*/__init__.py")}
    for name in sorted(files):
        text = files[name].read_text(encoding="utf-8")
        if only in (None, name) and re.search(r"^def get_plays\(", text, re.MULTILINE):
            modules[name] = importlib.import_module(f"preprocess.{name}")
    return modules


def build_parser(modules):
    parser = cli.Parser(prog="0_get_plays_pqt.py", description=__doc__)
    subparsers = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True)
    for name, module in modules.items():
        sub = subparsers.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(sub)
        stage.add_memory_flag(cli.common_flags(sub, seed=False))
    return parser


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] and argv[0].startswith("--") and any(a == "--log" or a.startswith("--log=") for a in argv):
        argv.insert(0, "interactions")
    modules = datasets(*argv[:1]) or datasets()
    args = build_parser(modules).parse_args(argv)
    args.memory = stage.memory_bytes(args.memory)
    modules[args.dataset].get_plays(args, cli.workspace(args, create=True))


if __name__ == "__main__":
    cli.run(main)
