"""Run the jobs of a grid on this machine, each in a process of its own, one after another or side by side.

A run that fails or crashes says why in a line, and the next one begins. slurm/grid.py --local calls this.
"""
import collections
import contextlib
import itertools
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments import watchdog
from experiments.expand import impossible
from harness.cli import one_line
from harness.errors import RunInProgress, UsageError
from harness.machine import cores
from harness.progress import EXIT_RESUMABLE, StopRequest, stop_here

ROOT = Path(__file__).resolve().parents[1]
TAIL = 50  # last lines of stderr that are kept to say why a run failed


def say(text):
    print(f"grid: {one_line(text)}", file=sys.stderr, flush=True)


def possible(jobs, workdir):
    """The jobs that the workspace can serve; the others are named with the reason."""
    reasons = {job: impossible(job, workdir) for job in jobs}
    lacking = sorted((job for job in jobs if reasons[job]), key=reasons.get)
    for reason, group in itertools.groupby(lacking, key=reasons.get):
        group = list(group)
        say(f"{len(group)} of {len(jobs)} runs left out: {reason}")
        for job in group[:5]:
            say(f"  {job}")
        if len(group) > 5:
            say(f"  and {len(group) - 5} more")
    rest = [job for job in jobs if not reasons[job]]
    if not rest:
        raise UsageError(f"no run of {len(jobs)} can be made in {workdir}; the reasons are above")
    return rest


# --------------------------------------------------------------------------- one run, one process

class Guard:
    """The process group of the runs, led by experiments/watchdog.py, which ends them when this process is gone."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-I", "-S", watchdog.__file__], stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
        return self

    @property
    def group(self):
        return self.process.pid

    def __exit__(self, *_):
        os.killpg(self.group, signal.SIGKILL)  # the watchdog, and whatever a run has left behind
        self.process.communicate()


class Running:
    """A job at work: its process, its output handed on in whole lines, the last of stderr kept."""

    def __init__(self, job, group, threads, selector):
        self.job, self.selector, self.begun = job, selector, time.monotonic()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", RunInProgress.VARIABLE: str(RunInProgress.STATUS)}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, *job.words[1:]], cwd=ROOT, env=environment, process_group=group,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.rest = {self.process.stdout: b"", self.process.stderr: b""}
        self.tail = collections.deque(maxlen=TAIL)
        for stream in self.rest:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, self)

    def forward(self, stream):
        """Hand on what has arrived on a stream, up to its last line's end; True while there may be more."""
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        *lines, self.rest[stream] = (self.rest[stream] + data).split(b"\n")
        if not data:
            lines = [last] if (last := self.close(stream)) else []
        lines = [line.decode(errors="replace") for line in lines]
        if stream is self.process.stderr:
            self.tail.extend(line for line in lines if line.strip())
        target = sys.stderr if stream is self.process.stderr else sys.stdout
        if lines:
            target.write("".join(f"{line}\n" for line in lines))
            target.flush()
        return bool(data)

    def close(self, stream):
        """Read a stream no more; what it had of a last line."""
        self.selector.unregister(stream)
        stream.close()
        return self.rest.pop(stream)

    def over(self):
        """Whether the process has ended; then all of its output has been handed on and its pipes are closed."""
        if self.process.poll() is None:
            return False
        for stream in list(self.rest):
            while self.forward(stream):
                pass
            if stream in self.rest:  # a child of the run still holds the pipe
                self.close(stream)
        return True

    def result(self):
        """(exit status, why it failed in a sentence) of a run that is over; a signal's status is negative."""
        status = self.process.returncode
        return status, "" if status == 0 else sentence(status, list(self.tail), self.job.script)


def sentence(status, tail, script):
    """Why a run failed, from its exit status and the last lines of its stderr."""
    if status < 0:
        hint = "; the system does so when memory runs out" if -status == signal.SIGKILL else ""
        return f"its process was killed by signal {-status} ({signal.strsignal(-status)}){hint}"
    if not tail:
        return f"ended with status {status}"
    stem = Path(script).stem if script.endswith(".py") else script.rpartition(".")[2]
    last = re.sub(rf"^({re.escape(script)}|{re.escape(stem)}(\.py)?): ", "", tail[-1].strip())
    places = [found for line in tail if (found := re.match(r' *File "(.*)", line (\d+)', line))]
    if places and any(line.startswith("Traceback (most recent") for line in tail):
        return f"{last} ({Path(places[-1][1]).name}:{places[-1][2]})"
    return last


# --------------------------------------------------------------------------- many runs

def share(at_once):
    """Threads of each of several runs, None for a run that is alone: it decides as if it were called by hand."""
    if at_once == 1:
        return None
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    most = max(1, cores() // at_once)
    return min(most, int(wanted)) if re.fullmatch("[1-9][0-9]{0,5}", wanted) else most


def run_all(jobs, stop, at_once):
    """Run jobs, `at_once` at a time. Yields (job, status, sentence, seconds) in the order in which they end.

    A stop request goes to the runs, which save and end; so does a run that was itself asked to stop (status 85).
    Then the grid ends with that status. However this ends, no run stays behind.
    """
    waiting, working, stopping, threads = collections.deque(jobs), [], False, share(at_once)
    with selectors.DefaultSelector() as selector, Guard() as guard:
        try:
            while waiting or working:
                while waiting and len(working) < at_once and not stopping:
                    say(str(waiting[0]))
                    working.append(Running(waiting.popleft(), guard.group, threads, selector))
                for key, _ in selector.select(0.1):
                    key.data.forward(key.fileobj)
                ended = [run for run in working if run.over()]
                working = [run for run in working if run not in ended]
                if not stopping and (stop.requested or any(r.process.returncode == EXIT_RESUMABLE for r in ended)):
                    stopping = True
                    waiting.clear()
                    send(working, signal.SIGTERM)
                if stopping and not working:
                    stop_here("grid")
                for run in [] if stopping else ended:
                    yield run.job, *run.result(), time.monotonic() - run.begun
        except KeyboardInterrupt:
            send(working, signal.SIGINT)
            wait(working)
            raise
        finally:
            send(working, signal.SIGTERM)
            wait(working)


def send(working, number):
    for run in working:
        with contextlib.suppress(ProcessLookupError):
            run.process.send_signal(number)


def wait(working):
    """Wait until runs have ended, forwarding what they say; after the watchdog's patience they are killed."""
    end = time.monotonic() + watchdog.PATIENCE
    while working := [run for run in working if not run.over()]:
        for key, _ in working[0].selector.select(0.1):
            key.data.forward(key.fileobj)
        if time.monotonic() > end:
            send(working, signal.SIGKILL)


def run_stage(jobs, at_once):
    """Run jobs, count aloud. Returns ([(job, sentence)] of those that failed, the same of those made elsewhere)."""
    failed, elsewhere, begun, stop = [], [], time.monotonic(), StopRequest()
    try:
        for n, (job, status, why, seconds) in enumerate(run_all(jobs, stop, at_once), 1):
            if status == RunInProgress.STATUS:
                elsewhere.append((job, "being made elsewhere"))
                say(f"being made elsewhere: {job}")
            elif status:
                failed.append((job, why))
                say(f"FAILED {job}: {why}")
            spent = time.monotonic() - begun
            say(f"{n} of {len(jobs)} runs over, {counts(failed, elsewhere)}, the last after {seconds:.1f} s; "
                f"about {spent / n * (len(jobs) - n):.0f} s left")
    finally:
        stop.restore()
    return failed, elsewhere


def counts(failed, elsewhere):
    return f"{len(failed)} failed" + (f", {len(elsewhere)} being made elsewhere" if elsewhere else "")


def run_here(stages, workdir, at_once):
    """Run the stages in order; 1 if any run failed. A failed split ends it, a failed extraction does not."""
    failed, elsewhere, count = [], [], 0
    for stage in stages:
        jobs = possible(stage.jobs, workdir) if stage.name == "grid" else stage.jobs
        count += len(jobs)
        results = run_stage(jobs, at_once if stage.name == "grid" or stage.extract else 1)
        failed += results[0]
        elsewhere += results[1]
        if results[0] and stage.name == "split":
            break
    say(f"{count - len(failed) - len(elsewhere)} of {count} runs are done, {counts(failed, elsewhere)}")
    for job, why in failed + elsewhere:
        say(f"  {job}: {why}")
    return 1 if failed else 0
