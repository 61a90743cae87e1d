"""A local grid's runs, forked from one process, against an interpreter for each. python -m bench.local_grid [--quick]

`slurm/grid.py --local` imports torch and what else its runs share once and forks a process for each run
(experiments/run_server.py). The plain form starts every run as a command of its own, as a user would. Ten short runs on
a generated workspace of 400 users and 1,500 items: popularity, KNN, ItemKNN, two epochs of the Shallow Net and one of
SASRec, two seeds each (--quick: the first three methods). Processor seconds with those of child processes, on one
thread, in turn; each repeat has seeds of its own, as a finished run is not made again.
"""
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench._child import measured
from bench.recommenders import make
from experiments.expand import Block, jobs_of
from harness import cli
from harness.errors import WorkError
from harness.files import write_text

RUNS = (("recommenders.popularity", {}), ("knn.py", {"names": "content"}), ("recommenders.itemknn", {}),
        ("train.py", {"model": "content", "epochs": 2}), ("recommenders.sasrec", {"model": "content", "epochs": 1}))
QUICK, SEEDS = 3, 2


def blocks(first, quick):
    """The grid's blocks with seeds from `first` on."""
    return [Block(script, {"seed": list(range(first, first + SEEDS))}, fixed)
            for script, fixed in RUNS[:QUICK if quick else None]]


def grid_file(chosen):
    """The text of a grid file with these blocks."""
    import yaml
    return yaml.safe_dump({"blocks": [{"script": b.script, "grid": b.grid, "set": b.fixed} for b in chosen]})


def processor(command):
    """Processor seconds of a command and of its children; WorkError where it fails."""
    done = measured([sys.executable, *command])
    if done.status:
        said = (done.said.strip().splitlines() or ["it said nothing"])[-1]
        raise WorkError(f"{' '.join(map(str, command))} failed: {said}")
    return done.processor


def forked(workdir, chosen):
    grid = workdir / "grid.yaml"
    write_text(grid, grid_file(chosen))
    return processor(["slurm/grid.py", "--file", grid, "--workdir", workdir, "--local", "--jobs", "1"])


def apart(workdir, chosen):
    return sum(processor(job.words[1:]) for block in chosen for job in jobs_of(block, workdir))


def run(quick):
    os.environ["OMP_NUM_THREADS"] = "1"
    repeats, taken = (1 if quick else 3), {forked: [], apart: []}
    with tempfile.TemporaryDirectory() as folder:
        for road in taken:
            make(Path(folder) / road.__name__, "quick")
        for repeat in range(repeats):
            for road, kept in taken.items():
                kept.append(road(Path(folder) / road.__name__, blocks(1 + repeat * SEEDS, quick)))
    ratio = statistics.median(b / a for a, b in zip(*taken.values(), strict=True))
    return [{"what": f"{len(blocks(1, quick)) * SEEDS} short runs of a local grid",
             "ours": statistics.median(taken[forked]), "baseline": statistics.median(taken[apart]), "unit": "s",
             "ratio": ratio, "against": "an interpreter for each run"}]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("local_grid", argv))
