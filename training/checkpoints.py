"""Checkpoints of a training: when they are written, how an interrupted run is resumed, and the messages on the way.

    checkpoints = Checkpoints(run, training, step_seconds=30)
    checkpoints.resume()
    while not training.done:
        for batch in ...:
            ...                                     one step
            checkpoints.after_step()
        checkpoints.after_epoch(better=...)
    best = checkpoints.best()
"""
import copy
import math
import sys
import time

from harness import processes
from harness.errors import UsageError, WorkError
from harness.files import save_checkpoint
from harness.progress import stop_here
from harness.readers import load_checkpoint


class Checkpoints:
    """The two checkpoints of a run: `last`, the state of its training, and `best`, what is kept of the best epoch.

    training: has `epoch` (epochs done), `done`, `state()` with `load(state)`, and `best_state()`, the content of `best`
    step_seconds, epoch_seconds: a checkpoint is written after a step, after an epoch, when the last one is at least so
        many seconds old; one is also written when training is done, and when a signal asks to stop, which then ends
        the process with the status that means "run the same command again", Ctrl-C with that of an interrupt
    """

    def __init__(self, run, training, step_seconds=math.inf, epoch_seconds=0.0):
        self.run, self.training, self.stop = run, training, run.stop
        self.step_seconds, self.epoch_seconds = step_seconds, epoch_seconds
        self.written = time.monotonic()
        self.unwritten = None   # of the best epoch, while its file holds an earlier one
        self.stop.hear_interrupt()

    def resume(self, device="cpu"):
        """Load the last checkpoint of an interrupted run; whether the run has one. All processes load the same."""
        if not processes.from_main(lambda: self.run.resume and self.run.checkpoint("last").exists()):
            return False
        self.training.load(load_checkpoint(self.run.checkpoint("last"), device, keys=self.training.state()))
        processes.check_same({"last checkpoint": (self.training.epoch, getattr(self.training, "step", 0))},
                             "give all processes one workspace, on a file system that all nodes see")
        if self.training.done:
            self.stop.leave_interrupt()
        if self.training.epoch:
            self.best()   # better now than after the training
        return True

    def after_step(self):
        stopping = self._stopping()     # asked once: a signal after this line waits for the next step
        if stopping or self._old(self.step_seconds):
            self._write()
        if stopping:
            self._stop()

    def after_epoch(self, better):
        """better: whether this epoch is the best so far."""
        done, stopping = self.training.done, self._stopping()
        if done or stopping or self._old(self.epoch_seconds):
            self._write(self.training.best_state() if better else None)
        elif better and processes.is_main():
            self.unwritten = copy.deepcopy(self.training.best_state())
        if done:        # what follows has no checkpoints
            self.stop.leave_interrupt()
        if self._stopping() and self.stop.interrupted if done else stopping:
            self._stop()

    def best(self, device="cpu"):
        """The best checkpoint, the same in all processes; WorkError where it is gone or damaged."""
        processes.from_main(lambda: None)   # until it is written
        return load_checkpoint(self.run.checkpoint("best"), device, keys=["epoch"])

    def _stopping(self):
        return self.stop.requested or processes.stop.agreed

    def _stop(self):
        processes.from_main(lambda: None)   # until all is saved: the first process to end takes the others along
        if self.stop.interrupted:
            raise KeyboardInterrupt
        stop_here(self.run.name)

    def _old(self, seconds):
        return time.monotonic() - self.written >= seconds

    def _write(self, best=None):
        if not processes.is_main():
            return
        best = self.unwritten if best is None else best
        self.run.writer().flush()   # the epochs of a checkpoint are in TensorBoard's file, too
        if best is not None:
            save_checkpoint(self.run.checkpoint("best"), best)
        save_checkpoint(self.run.checkpoint("last"), self.training.state())
        self.unwritten, self.written = None, time.monotonic()


# --------------------------------------------------------------------------- messages

def check_loss(epoch, *losses):
    """WorkError where a loss of the epoch (counted from 1) is NaN or infinite."""
    if not all(map(math.isfinite, losses)):
        raise WorkError(f"loss is NaN or infinite in epoch {epoch}; try a smaller --lr")


def check_device(state, device, precision=None):
    """UsageError where a checkpoint was begun on another kind of device, or in another precision."""
    begun = state["device"], state.get("precision")
    if begun != (device.type, precision):
        how = f" in {begun[1]}" if begun[1] else ""
        raise UsageError(f"this training began on {begun[0]}{how} and continues only so; "
                         f"use --device {begun[0]}, or --overwrite to start again")


def note_missing_val(name, validation, epochs, own_loss=False):
    """Print that there is no early stopping, where the split has no part to select an epoch on.

    validation: a Validation; own_loss: whether the loss of --stop-on loss is known without a val part
    """
    if not validation.selects(own_loss):
        print(f"{name}: this split has no val part, so all {epochs} epochs are trained and the last one counts",
              file=sys.stderr)
