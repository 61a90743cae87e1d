"""The numerical tests under several instruction sets and thread counts: python -m tests.processors [SETTING ...]

Each setting restricts oneDNN, MKL, torch, OpenBLAS and NumPy by their own switches; what the libraries report to have
taken effect is printed before its tests. A setting that changes nothing on this processor is skipped, with the reason.
Runs the tests marked `numeric`; exit status 1 if any of them fails.
"""
import subprocess
import sys
import time

from bench import _instruction_sets as instruction_sets
from harness import cli
from harness.errors import UsageError, WorkError
from tests.conftest import ROOT

THREADS = {"all": 4, "AVX-512": 1, "AVX2": 4, "SSE4": 1}  # of every library
PYTEST = [sys.executable, "-m", "pytest", "-m", "numeric", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]


def main(argv=None):
    parser = cli.Parser(prog="tests.processors", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING",
                        help=f"instruction sets, among {', '.join(THREADS)} (default: all of them)")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="files or folders (default: all tests)")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.settings if name not in THREADS]:
        raise UsageError(f"no setting {', '.join(unknown)}; choose among {', '.join(THREADS)}")
    reports, lines = {}, []
    for name in dict.fromkeys(args.settings or THREADS):
        lines.append(f"{name}, threads {THREADS[name]}: {under(name, args.tests, reports)}")
    print("\nnumerical tests by instruction set\n" + "\n".join(f"   {line}" for line in lines))
    if failed := [line for line in lines if "FAILED" in line]:
        raise WorkError(f"numerical tests fail under {len(failed)} of {len(lines)} settings; repeat one with "
                        f"python -m tests.processors {failed[0].split(',')[0]}")


def marked():
    """The files that have tests marked `numeric`: to collect all others takes as long as these run."""
    return sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py")
                  if "mark.numeric" in path.read_text(encoding="utf-8"))


def under(name, tests, reports):
    """Run the tests under one setting; what became of them, in words. Adds what took effect to `reports`."""
    variables = instruction_sets.environment(name, THREADS[name])
    report = instruction_sets.effective(variables)
    print(f"\n== {name}\n" + "\n".join(f"   {library}: {uses}" for library, uses in report.items()), flush=True)
    reason = instruction_sets.without_effect(
        {**report, "threads": None}, {other: {**given, "threads": None} for other, given in reports.items()})
    reports[name] = report
    if reason:
        return f"skipped: {reason}"
    if report["threads"] != THREADS[name]:
        return f"skipped: torch uses {report['threads']} threads whatever OMP_NUM_THREADS says"
    start = time.monotonic()
    status = subprocess.run([*PYTEST, *(tests or marked())], cwd=ROOT, env=variables).returncode
    return f"{'passed' if status == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s"


if __name__ == "__main__":
    cli.run(main)
