"""A list of jobs in a file, one a line, and the one of a number run: no shell ever reads it.

    python -m experiments.job_list JOBS.txt 41      line 42 of the file takes this process's place

A line is the job's command as a JSON array of words, ["python", "train.py", "--model", "mfcc"], so that whatever the
words hold, a job is one line. A line that slurm/grid.py printed, quoted for the shell, is understood, too: its quotes
are taken off, and nothing in it is expanded or run. slurm/train.sbatch calls this.
"""
import json
import os
import re
import shlex
import sys
from pathlib import Path

from harness import cli
from harness.errors import UsageError
from harness.files import write_text


def write(path, commands):
    """Write commands, each a list of words, as a job list."""
    write_text(path, "".join(f"{json.dumps(list(words))}\n" for words in commands))


def read(path, index):
    """The words of job `index`, from 0; UsageError where the file has no such job or its line is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as e:
        raise UsageError(f"job list {path} cannot be read ({e.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"job list {path} is not UTF-8 text; write it with slurm/grid.py") from None
    line = lines[index].strip() if index < len(lines) else ""
    if not line:
        raise UsageError(f"job list {path} has no line {index + 1}")
    try:
        words = json.loads(line) if line.startswith("[") else shlex.split(line)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or len(words) < 2 or not all(isinstance(w, str) for w in words) \
            or words[0] != "python" or any("\0" in w for w in words):
        raise UsageError(f"job list {path}, line {index + 1} should be [\"python\", \"train.py\", ...], "
                         f"but is {line[:80]}")
    return words


def main(argv=None):
    """Become the job: returns only by an error."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 2 or not re.fullmatch("[0-9]{1,9}", argv[1]):
        raise UsageError("expected JOBS.txt and the number of a job, from 0")
    words = read(argv[0], int(argv[1]))
    print(f"job {os.environ.get('SLURM_JOB_ID', '?')}: {cli.one_line(shlex.join(words))}", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, *words[1:]])


if __name__ == "__main__":
    cli.run(main)
