"""What torch.compile gains in a training step, on the processor. python -m bench.compiled [--quick]

The steps of SASRec and BERT4Rec as they are, and the same with the model's loss compiled (inductor, dynamic shapes, as
the number of targets differs from batch to batch). Processor seconds of one thread for four steps, one of each of four
batches, in turn; the gain is the plain step over the compiled one. The seconds of compiling are in the note.
Dropout is off, so that the losses can be compared: with it, compiled code draws other units.
"""
import time

from bench._compare import close, gain, one_thread
from harness import cli

BATCH, LENGTH, STEPS = 64, 50, 4


def sequence_step(name, items, compiled):
    """(function that takes the steps and returns their losses, seconds of its first call)."""
    import torch

    from bench import peers
    from training.sequences import generator_of
    split = peers.catalogue(items)
    made = peers.Ours(name, split, 1, 1, LENGTH, BATCH)
    training, model = made.training, made.training.model
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    batches = [training.batch(made.sequences, users, generator_of(1))
               for users in made.sequences.epoch(BATCH, generator_of(0))[:STEPS]]
    loss = torch.compile(model.loss, dynamic=True) if compiled else model.loss
    return steps_of(training.optimizer, loss, batches)


def steps_of(optimizer, loss, batches):
    """Function of no arguments that takes a step with each batch; the losses. Its first call is made and timed."""
    def steps():
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            value = loss(*batch)
            value.backward()
            optimizer.step()
            losses.append(value.item())
        return losses
    begin = time.perf_counter()
    steps()
    return steps, time.perf_counter() - begin


def run(quick):
    rows = []
    with one_thread():
        for name in ("sasrec", "bert4rec"):
            for items in (1_000,) if quick else (1_000, 20_000):
                ours, seconds = sequence_step(name, items, True)
                plain, _ = sequence_step(name, items, False)
                rows.append(gain(f"{name}, compiled, {items:,} items", ours, plain, "the plain step",
                                 2 if quick else 7, lambda a, b: close(a, b, 1e-3)))
                rows[-1]["note"] = f"the first steps, with compiling, {seconds:.0f} s"
    return rows


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("compiled", argv))
