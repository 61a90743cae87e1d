"""Run every measurement: python -m bench [--quick] [NAME ...]

Each module of this folder with a `run(quick)` measures ours and a baseline side by side in one run and
returns rows; the ratios are what counts, as machines differ and are shared. Rows go to bench/results/. The rows of
`tricks` and `softmax` say what each piece of hand-optimised code gains over the plain torch or numpy form.
"""
import importlib
import pkgutil
import sys

from harness import cli
from harness.errors import UsageError
from harness.files import write_text


def build_parser():
    parser = cli.Parser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes in all, ratios less steady")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    import bench
    there = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    unknown = sorted(set(args.names) - set(there))
    if unknown:
        raise UsageError(f"no measurement named {', '.join(unknown)}; there: {', '.join(there)}")
    for name in args.names or there:
        module = importlib.import_module(f"bench.{name}")
        if hasattr(module, "run"):
            print_rows(name, module.run(args.quick))


def run_one(name, argv=None):
    """`main` of one measurement run as python -m bench.NAME [--quick]."""
    module = importlib.import_module(f"bench.{name}")
    parser = cli.Parser(prog=f"bench.{name}", description=module.__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    print_rows(name, module.run(parser.parse_args(argv).quick))


def print_rows(name, rows):
    """Print a measurement's rows as a table and keep them as json."""
    import json
    from pathlib import Path
    print(f"\n{name}")
    for row in rows:
        figures = "  ".join(f"{k} {row[k]:.4g}" for k in ("ours", "baseline") if row.get(k) is not None)
        name_of_ratio = f"gain over {row['against']}" if "against" in row else "ratio"
        ratio = f"  {name_of_ratio} {row['ratio']:.2f}" if row.get("ratio") is not None else ""
        print(f"  {row['what']}: {figures} {row.get('unit', '')}{ratio}  {row.get('note', '')}".rstrip())
    out = Path(__file__).parent / "results"
    write_text(out / f"{name}.json", json.dumps(rows, indent=1) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main)
