"""Two processes at once on one request: one works, the other waits, refuses in one sentence or finds it done."""
import random
import shutil
import subprocess
import time

from tests.attack.world import CHAIN, argv_of, call, complaint, environment, temporary
from tests.conftest import ROOT


def attack(reference, folder, trials, seed):
    draw = random.Random(seed + 2)
    steps = [s for s in CHAIN if s != "table"]
    for n in range(trials):
        yield trial(reference, folder / f"rivals{n}", steps[n % len(steps)], draw.random() * .5)


def trial(reference, workdir, step, delay):
    what = f"two of {step}, {delay:.2f} of its time apart"
    reference.copy(step, workdir)
    argv = argv_of(step, reference.raw, workdir)
    try:
        both = []
        for _ in range(2):
            both.append(subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
                                         stderr=subprocess.PIPE, text=True))
            time.sleep(delay * reference.seconds[step])
        ends = [(p.communicate(timeout=300)[1], p.returncode) for p in both]
        for err, status in ends:
            if wrong := complaint(status, err):
                return what, wrong
        if all(status for _, status in ends):
            return what, f"neither ended well: {ends[0][0][-200:]}"
        status, err, _ = call(argv)          # whoever comes third finds it done
        if status:
            return what, complaint(status, err) or f"status {status}: {err[-200:]}"
        if differing := reference.differs(step, workdir):
            return what, f"other contents: {', '.join(differing[:3])}"
        return what, f"left behind: {temporary(workdir)[:3]}" if temporary(workdir) else ""
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
