"""How long make demo takes, command by command. python -m bench.demo [--quick]

The lines of `make -n demo` run one after another in a new folder, as make would run them: the built-in world, sound to
embeddings, the runs of its grid on two processes, tables and page (--quick: a world of 100 tracks and 150 users).
Seconds on the clock; there is no baseline.
"""
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.recommenders import say
from harness import cli
from harness.errors import WorkError

ROOT = Path(__file__).resolve().parents[1]
QUICK = "--tracks 100 --users 150"


def commands(folder, world=""):
    """The words of every command of make demo, with this interpreter; WorkError where make lists none."""
    made = subprocess.run(["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "demo", f"DEMO={folder}",
                           f"WORLD={world}"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = [[sys.executable, *words[1:]] for words in map(shlex.split, made.stdout.splitlines())]
    if made.returncode or not found:
        raise WorkError(f"make -n demo lists no commands: {made.stderr.strip()}")
    return found


def name_of(words):
    """The script or module that a command runs."""
    return words[2] if words[1] == "-m" else words[1]


def run(quick):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for words in commands(Path(folder, "demo"), QUICK if quick else ""):
            start = time.perf_counter()
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["it said nothing"]
                raise WorkError(f"{name_of(words)} failed: {said[-1]}")
            rows.append(say({"what": name_of(words), "ours": time.perf_counter() - start, "unit": "s"}))
    return [*rows, {"what": "all of make demo", "ours": sum(row["ours"] for row in rows), "unit": "s"}]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("demo", argv))
