"""A command measured from start to end: clock, processor seconds, peak resident memory, what it said.

The kernel counts the peak of whoever starts a process as that process's own, so a small launcher of its own process
stands between.
"""
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = """
import json, os, subprocess, sys, time
limit, said, *command = sys.argv[1:]
start, ended = time.monotonic(), 0
with open(said, "w") as out:
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
while not ended:
    ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    taken = time.monotonic() - start
    if not ended and taken > float(limit):
        process.kill()
        ended, _, usage = os.wait4(process.pid, 0)
        status = None
    if not ended:
        time.sleep(0.002)
process.returncode = 0
print(json.dumps([None if status is None else os.waitstatus_to_exitcode(status), taken,
                  usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
"""


@dataclass
class Child:
    """status: None where it was stopped; seconds on the clock and of the processor; peak: bytes; said: its output."""
    status: int | None
    seconds: float
    processor: float
    peak: int
    said: str


def measured(command, limit=float("inf")):
    """Run a command in the project's folder, for `limit` seconds at most."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as said:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", LAUNCHER, str(limit), said.name, *map(str, command)],
                              cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        return Child(*json.loads(done.stdout), said.read())
