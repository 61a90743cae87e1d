"""Trainings in one process or several that note each step; tests/training/test_parallel.py compares them.

    python -m tests.training.parallel_losses OUT.json WORKDIR REQUESTS.json
    torchrun --nproc-per-node 2 -m tests.training.parallel_losses OUT.json WORKDIR REQUESTS.json

REQUESTS is {name: [module, flags]}; OUT gets {name: [[loss, length of the gradient] of each step]}, the length because
Adam takes the same step by any multiple of a gradient, and what `batch_norm`, `statistics_with_dropout` and `lists`
give. The processes are joined once for all.
"""
import json
import sys
from pathlib import Path
from unittest import mock

from harness import processes, registry

SUMS = ("backward", "combine")   # of training/parallel.py: the two that give the loss and the gradient of a step


def steps_of(module, words):
    """[loss, length of the gradient] of each step of a training, and the losses on val of its epochs."""
    from training import parallel
    from training.epochs import EpochLog
    steps, on_val = [], []

    def record(self, epoch, losses, *args, real=EpochLog.record, **others):
        on_val.extend([losses["val"]] if "val" in losses else [])
        real(self, epoch, losses, *args, **others)

    def noted(real):
        def function(parameters, *args, **kwargs):
            parameters = list(parameters)
            loss = real(parameters, *args, **kwargs)
            squares = sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)
            steps.append([float(loss), squares ** 0.5])
            return loss
        return function
    with mock.patch.object(EpochLog, "record", record), \
            mock.patch.multiple(parallel, **{name: noted(getattr(parallel, name)) for name in SUMS}):
        try:
            registry.load(module).main(words)
        except SystemExit as e:   # of the processes that leave the ranking to the main one
            assert not e.code and not processes.is_main()
    return steps, on_val


def batch_norm():
    """Numbers of a network with batch normalisation after a step of 11 rows and one of 3, float64."""
    import torch
    from torch import nn

    from training import parallel
    torch.manual_seed(0)
    x, y, numbers = torch.randn(11, 5).double() * 3 + 1, torch.randn(11, 5).double(), []
    network = parallel.prepare(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh()).double())
    for n in (11, 3):
        network.zero_grad()
        own = parallel.share(n)
        loss = parallel.backward(network.parameters(), lambda own=own: (network(x[own.rows]) - y[own.rows]).square()
                                 .mean(), own)
        numbers += [loss, *(p.grad.flatten() for p in network.parameters()), *network[1].buffers()]
    return torch.cat([v.reshape(-1).double() for v in numbers]).tolist()


def statistics_with_dropout():
    """The running mean and variance in each process after a step of one row more than processes, and of one less."""
    import torch
    from torch import nn

    from training import parallel
    torch.manual_seed(0)
    x, world = torch.randn(processes.world() + 1, 5), processes.world()
    network = parallel.prepare(nn.Sequential(nn.Dropout(.5), nn.BatchNorm1d(5)))
    torch.manual_seed(parallel.own_seed(0))
    numbers = []
    for n in (world + 1, world - 1 if world > 2 else 2):
        own = parallel.share(n)
        parallel.backward(network.parameters(), lambda own=own: network(x[own.rows]).square().mean(), own)
        numbers += torch.cat([network[1].running_mean, network[1].running_var]).tolist()
    return processes.of_all(numbers)


def lists(workdir):
    """Lists by whole numbers, full of ties, {part: rows}, and how many users each process ranked for each of them."""
    import numpy as np

    import dataset
    from ranking import shares, topk
    split, made, ranked = dataset.load(workdir), {}, []
    draw = np.random.default_rng(0)
    users, items = (draw.integers(-2, 3, (n, 3)).astype(np.float32) for n in (split.n_users, split.n_items))

    def noted(*args, real=topk.recommend, **ranker):
        found = real(*args, **ranker)
        ranked.append(found["user_id"].nunique())
        return found
    with mock.patch.object(topk, "recommend", noted):
        for part in split.parts:
            found = shares.recommend(split, part, 10, users=users, items=items)
            assert (found is None) == (not processes.is_main())
            made[part] = None if found is None else found.to_numpy().tolist()
    return {"lists": made, "ranked": processes.of_all(ranked)}


def main(out, workdir, requests):
    every = json.loads(Path(requests).read_text())
    with processes.joined(True):
        made = {name: steps_of(module, [*flags, "--workdir", workdir]) for name, (module, flags) in every.items()}
        steps = {name: taken for name, (taken, _) in made.items()}
        steps["val"] = processes.of_all({name: losses for name, (_, losses) in made.items() if losses})
        steps["batch_norm"], steps["statistics"] = batch_norm(), statistics_with_dropout()
        steps |= lists(workdir)
        if processes.is_main():
            Path(out).write_text(json.dumps(steps))
        rank, several = processes.place().rank, processes.world() > 1
    if several and sys.platform.startswith("linux"):
        threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        Path(f"{out}.threads{rank}").write_text("\n".join(threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
