"""Trainings in one process or several that note each step; tests/training/test_parallel.py compares them.

    python -m tests.training.parallel_losses OUT.json WORKDIR REQUESTS.json
    torchrun --nproc-per-node 2 -m tests.training.parallel_losses OUT.json WORKDIR REQUESTS.json

REQUESTS is {name: [module, flags]}; OUT gets {name: [[loss, length of the gradient] of each step]}, the length because
Adam takes the same step by any multiple of a gradient. The processes are joined once for all.
"""
import json
import sys
from pathlib import Path
from unittest import mock

from harness import processes, registry

SUMS = ("backward", "combine")   # of training/parallel.py: the two that give the loss and the gradient of a step


def steps_of(module, words):
    """[loss, length of the gradient] of each step of a training."""
    from training import parallel
    steps = []

    def noted(real):
        def function(parameters, *args, **kwargs):
            parameters = list(parameters)
            loss = real(parameters, *args, **kwargs)
            squares = sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)
            steps.append([float(loss), squares ** 0.5])
            return loss
        return function
    with mock.patch.multiple(parallel, **{name: noted(getattr(parallel, name)) for name in SUMS}):
        try:
            registry.load(module).main(words)
        except SystemExit as e:   # of the processes that leave the ranking to the main one
            assert not e.code and not processes.is_main()
    return steps


def main(out, workdir, requests):
    every = json.loads(Path(requests).read_text())
    with processes.joined(True):
        steps = {name: steps_of(module, [*flags, "--workdir", workdir]) for name, (module, flags) in every.items()}
        if processes.is_main():
            Path(out).write_text(json.dumps(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
