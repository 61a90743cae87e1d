"""Every script killed with SIGKILL at a random moment, perhaps twice, then run to its end by the same command."""
import random
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.attack.world import CHAIN, argv_of, call, complaint, environment, temporary
from tests.conftest import ROOT


def attack(reference, folder, kills, seed, jobs=2):
    """`kills` trials spread evenly over the scripts; yields (what, "" or why it did not survive)."""
    draw = random.Random(seed)
    steps = list(CHAIN)
    trials = [(n, steps[n % len(steps)], draw.choice((1, 1, 2)), [draw.random() for _ in range(2)], draw.random() < .2)
              for n in range(kills)]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda t: trial(reference, folder / f"kill{t[0]}", *t[1:]), trials)


def trial(reference, workdir, step, times, moments, overwrite):
    """Kill `times` runs of a step at shares of its undisturbed duration, then let it end and compare."""
    what = f"{step}, killed after {', '.join(f'{m:.2f}' for m in moments[:times])} of its time"
    more = ["--overwrite"] if overwrite and step not in ("metrics", "table") else []
    reference.copy(step, workdir)
    argv = argv_of(step, reference.raw, workdir, *more)
    try:
        for moment in moments[:times]:
            process = subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                process.wait(moment * reference.seconds[step])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        status, err, _ = call(argv)
        if status or complaint(status, err):
            return what, complaint(status, err) or f"status {status}: {err[-200:]}"
        if differing := reference.differs(step, workdir):
            return what, f"other contents: {', '.join(differing[:3])}"
        if left := temporary(workdir):
            return what, f"left behind: {', '.join(left[:3])}"
        return what, ""
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
