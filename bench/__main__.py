"""Run every measurement: python -m bench [--quick] [NAME ...]

    python -m bench --quick                        all, small sizes
    python -m bench tricks softmax                 these two
    python -m bench --keep tricks softmax          measure nothing: store their rows in results/bench/, for the manual

Each module of this folder with a `run(quick)` measures ours and a baseline side by side in one run and
returns rows; the ratios are what counts, as machines differ and are shared. Rows go to bench/results/, each with its
command, date, commit and processor. The rows of `tricks` and `softmax` say what each piece of hand-optimised code gains
over the plain torch or numpy form. A stored row takes the place of an earlier one of the same name; docs/benchmarks.md
is rendered from them (`make docs`).
"""
import importlib
import pkgutil
import re
import sys
from pathlib import Path

from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import write_json

MEASURED = Path(__file__).parent / "results"
NAME = "[A-Za-z][A-Za-z0-9_]*"     # of a measurement: a module's


def build_parser():
    parser = cli.Parser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes in all, ratios less steady")
    parser.add_argument("--keep", action="store_true", help="measure nothing; store the rows measured last")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.keep and args.quick:
        raise UsageError("--keep measures nothing; leave out --quick")
    if args.keep:
        return keep(args.names or measured())
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
    """Print a measurement's rows as a table and write them, with how they were measured, to bench/results/."""
    print(f"\n{name}")
    for row in rows:
        figures = "  ".join(f"{k} {row[k]:.4g}" for k in ("ours", "baseline") if row.get(k) is not None)
        name_of_ratio = f"gain over {row['against']}" if "against" in row else "ratio"
        ratio = f"  {name_of_ratio} {row['ratio']:.2f}" if row.get("ratio") is not None else ""
        print(f"  {row['what']}: {figures} {row.get('unit', '')}{ratio}  {row.get('note', '')}".rstrip())
    made = how()
    write_json(MEASURED / f"{name}.json", {"rows": [row | made for row in rows]})
    sys.stdout.flush()


def how():
    """What is recorded with each row: command, date, commit (a + where the code differed), cores, instructions."""
    import datetime

    import torch

    from harness.machine import cores, git_state
    script, git = Path(sys.argv[0]).stem, git_state()
    words = ["python", "-m", "bench" if script == "__main__" else f"bench.{script}", *sys.argv[1:]]
    return {"command": " ".join(words), "date": datetime.date.today().isoformat(),
            "commit": (git.get("commit") or "")[:8] + ("+" if git.get("dirty") else ""), "cores": cores(),
            "processor": torch.backends.cpu.get_cpu_capability()}


def measured():
    """Names of the measurements that have rows in bench/results/, sorted."""
    return sorted(path.stem for path in MEASURED.glob("*.json") if re.fullmatch(NAME, path.stem))


def keep(names, root=None):
    """Store the rows of bench/results/NAME.json in results/bench/; a row replaces an earlier one of the same name.

    UsageError for a name without rows, WorkError where rows are damaged or those in results/ are not the ones stored;
    nothing is stored then.
    """
    from reporting import stored
    root = root or stored.ROOT
    if not names:
        raise WorkError(f"{MEASURED} has no rows; python -m bench --quick measures all")
    for name in names:
        if not re.fullmatch(NAME, name):
            raise UsageError(f"{name!r} should be the name of a measurement, such as topk")
        if not (MEASURED / f"{name}.json").is_file():
            raise UsageError(f"{MEASURED} has no {name}.json; python -m bench {name} measures it")
    sums, rows = stored.sums_before(root), {}
    for name in dict.fromkeys(names):
        path, before = root / "results" / "bench" / f"{name}.json", {}
        if path.is_file():
            if f"results/bench/{name}.json" not in sums:
                raise WorkError(f"{path} is not in {stored.SUMS}; remove it, and the same command stores the rows anew")
            stored.checked(f"results/bench/{name}.json", root)
            before = _rows(path, "git has it")
        rows[path] = before | _rows(MEASURED / f"{name}.json", f"python -m bench {name} measures it again")
    for path, of_name in rows.items():
        write_json(path, {"rows": list(of_name.values())})
    stored.update_sums(rows, root=root)
    print("stored: " + " ".join(f"results/bench/{path.name}" for path in rows))


def _rows(path, remedy):
    """{what: row} of a file of rows; WorkError, which ends in the remedy, where it holds something else or none."""
    from harness.readers import read_json
    try:
        rows = read_json(path, {"rows": list}).get("rows", [])
    except WorkError as e:
        raise WorkError(f"{e}; {remedy}") from None
    if not rows or not all(isinstance(row, dict) and isinstance(row.get("what"), str) for row in rows):
        raise WorkError(f"{path} should hold rows, each with a text `what`; {remedy}")
    return {row["what"]: row for row in rows}


if __name__ == "__main__":
    cli.run(main)
