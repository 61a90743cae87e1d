"""Run the jobs of a grid on this machine, each in a process of its own, one after another or side by side.

A run that fails or crashes says why in a line, and the next one begins. slurm/grid.py --local calls this.
"""
import collections
import contextlib
import itertools
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from experiments import run_server
from experiments.expand import impossible
from harness.cli import one_line
from harness.errors import RunInProgress, UsageError, WorkError
from harness.machine import cores
from harness.progress import EXIT_RESUMABLE, StopRequest, stop_here

ROOT = Path(__file__).resolve().parents[1]
TAIL = 50  # last lines of stderr that are kept to say why a run failed
SHARED = ("torch", "pandas", "pyarrow.parquet", "scipy.sparse")  # imported once for all runs
TRAINED = {"train.py", "train_bert.py", "recommenders.sasrec", "recommenders.two_tower", "recommenders.dtnmr"}


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
    return [job for job in jobs if not reasons[job]]


def possible_stages(stages, workdir):
    """The stages of runs with the jobs that the workspace can serve, without those that have none; UsageError where
    no stage has."""
    before = sum(len(stage.jobs) for stage in stages)
    for stage in stages:
        stage.jobs = possible(stage.jobs, workdir)
    if not any(stage.jobs for stage in stages):
        raise UsageError(f"no run of {before} can be made in {workdir}; the reasons are above")
    return [stage for stage in stages if stage.jobs]


# --------------------------------------------------------------------------- one run, one process

class Server:
    """The process that starts the runs and ends them when this one is gone (experiments/run_server.py).

    libraries: what it imports once for all of them. `ended`: {process: exit status} of runs that are over.
    """

    def __init__(self, libraries, threads, selector):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", RunInProgress.VARIABLE: str(RunInProgress.STATUS)}
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.control, other = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.run_server", str(other.fileno()), *libraries], cwd=ROOT,
            env=environment, pass_fds=[other.fileno()], process_group=0, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL)
        other.close()
        self.answers, self.ended = b"", {}
        selector.register(self.control, selectors.EVENT_READ, self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the server, and whatever a run has left behind
        self.process.wait()
        self.control.close()

    def start(self, words, streams):
        """Start a command (its words after `python`) that writes to two descriptors; its process id."""
        socket.send_fds(self.control, [json.dumps(words).encode() + b"\n"], streams)
        while (started := self.forward()) is None:
            pass
        return started

    def forward(self, _=None):
        """Read an answer or more; the process id of a run that was started, else None."""
        data = self.control.recv(1 << 16)
        if not data:
            raise WorkError("the process that starts the runs has ended; the same command continues")
        *lines, self.answers = (self.answers + data).split(b"\n")
        started = None
        for fields in map(json.loads, lines):
            if "started" in fields:
                started = fields["started"]
                self.ended.pop(started, None)   # of an earlier process of that number, which is free again
            if "ended" in fields:
                self.ended[fields["ended"]] = fields["status"]
        return started


class Running:
    """A job at work: its process, its output handed on in whole lines, the last of stderr kept."""

    def __init__(self, job, server, selector):
        self.job, self.server, self.selector, self.begun = job, server, selector, time.monotonic()
        (self.stdout, stdout), (self.stderr, stderr) = os.pipe(), os.pipe()
        self.rest = {self.stdout: b"", self.stderr: b""}
        self.tail = collections.deque(maxlen=TAIL)
        for stream in self.rest:
            os.set_blocking(stream, False)
            selector.register(stream, selectors.EVENT_READ, self)
        try:
            self.pid = server.start(job.words[1:], [stdout, stderr])
        finally:
            os.close(stdout)
            os.close(stderr)

    @property
    def status(self):
        """Exit status, minus the signal of one that a signal ended, None while it runs."""
        return self.server.ended.get(self.pid)

    def forward(self, stream):
        """Hand on what has arrived on a stream, up to its last line's end; True while there may be more."""
        try:
            data = os.read(stream, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self.rest[stream] = (self.rest[stream] + data).split(b"\n")
        if not data:
            lines = [last] if (last := self.close(stream)) else []
        lines = [line.decode(errors="replace") for line in lines]
        if stream == self.stderr:
            self.tail.extend(line for line in lines if line.strip())
        target = sys.stderr if stream == self.stderr else sys.stdout
        if lines:
            target.write("".join(f"{line}\n" for line in lines))
            target.flush()
        return bool(data)

    def close(self, stream):
        """Read a stream no more; what it had of a last line."""
        self.selector.unregister(stream)
        os.close(stream)
        return self.rest.pop(stream)

    def over(self):
        """Whether the process has ended; then all of its output has been handed on and its pipes are closed."""
        if self.status is None:
            return False
        for stream in list(self.rest):
            while self.forward(stream):
                pass
            if stream in self.rest:  # a child of the run still holds the pipe
                self.close(stream)
        return True

    def result(self):
        """(exit status, why it failed in a sentence) of a run that is over; a signal's status is negative."""
        return self.status, "" if self.status == 0 else sentence(self.status, list(self.tail), self.job.script)


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

def libraries(jobs):
    """What to import once for these jobs; () where each is to import for itself: there is one, or no safe fork."""
    if len(jobs) < 2 or sys.platform != "linux":
        return ()
    scripts = {job.script for job in jobs}
    return (*SHARED, *(["torch.utils.tensorboard"] if scripts & TRAINED else []),
            *(["transformers.models.bert.modeling_bert"] if "train_bert.py" in scripts else []))


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
    waiting, working, stopping = collections.deque(jobs), [], False
    with selectors.DefaultSelector() as selector, Server(libraries(jobs), share(at_once), selector) as server:
        try:
            while waiting or working:
                while waiting and len(working) < at_once and not stopping:
                    say(str(waiting[0]))
                    working.append(Running(waiting.popleft(), server, selector))
                for key, _ in selector.select(0.1):
                    key.data.forward(key.fileobj)
                ended = [run for run in working if run.over()]
                working = [run for run in working if run not in ended]
                if not stopping and (stop.requested or any(r.status == EXIT_RESUMABLE for r in ended)):
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
            if run.status is None:
                os.kill(run.pid, number)


def wait(working):
    """Wait until runs have ended, forwarding what they say; after the server's patience they are killed."""
    end = time.monotonic() + run_server.PATIENCE
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
            left = f", about {spent / n * (len(jobs) - n):.0f} s left" if n < len(jobs) else ""
            say(f"{n} of {len(jobs)} runs over, {counts(failed, elsewhere)}; {spent:.1f} s elapsed, {seconds:.1f} s of "
                f"them by the last run{left}")
    finally:
        stop.restore()
    return failed, elsewhere


def counts(failed, elsewhere):
    return f"{len(failed)} failed" + (f", {len(elsewhere)} being made elsewhere" if elsewhere else "")


def run_here(stages, workdir, at_once):
    """Run the stages in order; 1 if any run failed. A failed split ends it, a failed extraction does not."""
    failed, elsewhere, count = [], [], 0
    before = [stage for stage in stages if not stage.of_runs]
    for stage in itertools.chain(before, _of_runs(stages[len(before):], workdir)):
        count += len(stage.jobs)
        results = run_stage(stage.jobs, at_once if stage.of_runs or stage.extract else 1)
        failed += results[0]
        elsewhere += results[1]
        if results[0] and stage.name == "split":
            break
    say(f"{count - len(failed) - len(elsewhere)} of {count} runs are done, {counts(failed, elsewhere)}")
    for job, why in failed + elsewhere:
        say(f"  {job}: {why}")
    return 1 if failed else 0


def _of_runs(stages, workdir):
    """The stages of runs that the workspace can serve, looked at when those before them are over."""
    yield from possible_stages(stages, workdir) if stages else ()
