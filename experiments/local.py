"""Run the cells of a grid on this machine: in one process, or side by side in a few.

One process imports torch once for all cells; a cell that fails says why in a line and the next one begins.
slurm/grid.py --local is the door.
"""
import contextlib
import ctypes
import gc
import itertools
import os
import sys
import time
import traceback
from pathlib import Path

from experiments.expand import impossible, load
from harness.errors import UsageError, WorkError
from harness.machine import cores
from harness.progress import EXIT_RESUMABLE, StopRequest, stop_here


def say(text):
    print(f"grid: {text}", file=sys.stderr, flush=True)


def possible(made, workdir):
    """The cells that the workspace can serve; the others are named with the reason."""
    reasons = {cell: impossible(cell, workdir) for cell in made}
    for reason, group in itertools.groupby(sorted((c for c in made if reasons[c]), key=lambda c: reasons[c]),
                                           key=lambda c: reasons[c]):
        group = list(group)
        say(f"{len(group)} of {len(made)} cells left out: {reason}")
        for cell in group[:5]:
            say(f"  {cell}")
        if len(group) > 5:
            say(f"  and {len(group) - 5} more")
    rest = [c for c in made if not reasons[c]]
    if not rest:
        raise UsageError(f"no cell of {len(made)} can run in {workdir}; the reasons are above")
    return rest


def run_cell(cell):
    """Run one cell in this process. Returns (exit status, sentence)."""
    called = sys.argv
    sys.argv = [cell.script, *cell.argv]  # what the run records
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # peak memory is this cell's, not that of a cell before
    try:
        status = load(cell.script).main(list(cell.argv))
        return (status or 0, f"ended with status {status}" if status else "")
    except SystemExit as e:
        return (e.code if isinstance(e.code, int) else int(bool(e.code)), f"ended with status {e.code}")
    except UsageError as e:
        return 2, " ".join(str(e).split())
    except (WorkError, MemoryError, OSError) as e:
        return 1, " ".join(str(e).split()) or type(e).__name__
    except Exception as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        return 1, f"{type(e).__name__}: {' '.join(str(e).split())} ({Path(at.filename).name}:{at.lineno})"
    finally:
        sys.argv = called
        gc.collect()
        give_back()


def give_back():
    """Freed memory back to the system: glibc keeps it, and without this a grid grows by 50 MB a cell."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def one_by_one(made, stop):
    """Yield (cell, status, sentence, seconds) as the cells end, all in this process: torch is imported once."""
    for cell in made:
        start = time.monotonic()
        say(str(cell))
        status, sentence = run_cell(cell)
        if status == EXIT_RESUMABLE or stop.requested:
            stop_here("grid")
        yield cell, status, sentence, time.monotonic() - start


class Lines:
    """A stream that several processes share: whole lines only, and no bar that is drawn over another's."""

    def __init__(self, stream):
        self.stream, self.text = stream, ""

    def write(self, text):
        *lines, self.text = (self.text + text).split("\n")
        if lines:
            self.stream.write("".join(f"{line}\n" for line in lines))
            self.stream.flush()

    def flush(self):
        self.stream.flush()

    def isatty(self):
        return False


def begin_worker():
    """In a worker: print whole lines, and end when the grid is gone, however it went."""
    import threading
    sys.stdout, sys.stderr, parent = Lines(sys.stdout), Lines(sys.stderr), os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def side_by_side(made, stop, jobs):
    """As `one_by_one`, in `jobs` processes that share the processors; yields in the order in which cells end."""
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    threads = str(max(1, cores() // jobs))
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    waiting, at_work, begun = list(reversed(made)), {}, time.monotonic()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin_worker) as pool:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:  # no more than can begin: what waits in the pool cannot be recalled
                cell = waiting.pop()
                at_work[pool.submit(run_cell, cell)] = cell
            ended, _ = wait(at_work, timeout=1, return_when=FIRST_COMPLETED)
            if stop.requested:
                for child in multiprocessing.active_children():
                    child.terminate()  # SIGTERM: the cells save and end
                pool.shutdown()
                stop_here("grid")
            for future in ended:
                try:
                    status, sentence = future.result()
                except Exception as e:  # the process itself died
                    status, sentence = 1, f"its process died ({type(e).__name__})"
                yield at_work.pop(future), status, sentence, time.monotonic() - begun


def run_stage(made, jobs):
    """Run cells, count aloud. Returns the failed ones with their sentences."""
    failed, begun, stop = [], time.monotonic(), StopRequest()
    ended = one_by_one(made, stop) if jobs == 1 else side_by_side(made, stop, jobs)
    try:
        for n, (cell, status, sentence, seconds) in enumerate(ended, 1):
            if status:
                failed.append((cell, sentence))
                say(f"FAILED {cell}: {sentence}")
            spent = time.monotonic() - begun
            say(f"{n} of {len(made)} cells over, {len(failed)} failed, after {seconds:.1f} s; "
                f"about {spent / n * (len(made) - n):.0f} s left")
    finally:
        stop.restore()
    return failed


def run_here(stages, workdir, jobs):
    """Run the stages in order; 1 if any cell failed. A failed split ends it, a failed extraction does not."""
    failed, count = [], 0
    for stage in stages:
        made = possible(stage.cells, workdir) if stage.name == "grid" else stage.cells
        count += len(made)
        mine = run_stage(made, jobs if stage.name == "grid" or stage.extract else 1)
        failed += mine
        if mine and stage.name == "split":
            break
    say(f"{count - len(failed)} of {count} cells are done, {len(failed)} failed")
    for cell, sentence in failed:
        say(f"  {cell}: {sentence}")
    return 1 if failed else 0
