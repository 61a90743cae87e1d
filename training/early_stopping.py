"""Early stopping: the best epoch, when training stops, and when frozen item embeddings are released.

    stopping = EarlyStopping("loss", epochs=100, patience=16)         a loss on val, to be minimised
    stopping = EarlyStopping("NDCG@10", epochs=100, patience=5)       a metric on val, to be maximised
    if stopping.update(epoch, {"NDCG@10": 0.31}):
        ...                                                           the best epoch so far
"""
import math

from harness.errors import UsageError


class EarlyStopping:
    """The rule by which a training ends, and what it has to remember.

    watch:    the value on val that is watched: "loss" is minimised, any other name is a metric and is maximised
    epochs:   largest number of epochs; patience: evaluations without improvement before training stops
    optimizer, plateau, factor: after more than `plateau` evaluations without improvement the learning rate is
              multiplied by `factor` (ReduceLROnPlateau); plateau None leaves the learning rate as it is
    release:  function called once at the first plateau, where the learning rate then stays; None for no release

    best: the best value so far; best_epoch: the epochs done by then, 0 before the first; waited: evaluations since;
    released: whether `release` was called. Without a val part every epoch is the best so far. An evaluation is a call
    of `update`, which --eval-every makes rarer than an epoch (selection.py). A plateau is judged by torch's rule, for
    which a value that is better by less than 1e-4 of the best is no better; patience counts any improvement.
    parts: those that the value is of, set by whoever evaluates (validation.py); of two it is relative to references
    chance: what random rankings reach in it, None where that is not known
    """
    parts: tuple = ()
    chance: float | None = None

    def __init__(self, watch, epochs, patience, optimizer=None, plateau=None, factor=0.1, release=None):
        self.watch, self.epochs, self.patience, self.release = watch, epochs, patience, release
        self.minimised = watch == "loss"
        self.best = math.inf if self.minimised else -math.inf
        self.best_epoch, self.waited, self.released = 0, 0, False
        self.optimizer, self.scheduler = optimizer, None
        if plateau is not None:
            from torch.optim.lr_scheduler import ReduceLROnPlateau
            self.scheduler = ReduceLROnPlateau(optimizer, "min" if self.minimised else "max", factor, plateau)

    def done(self, epoch):
        """Whether training ends after `epoch` epochs."""
        return epoch >= self.epochs or self.waited >= self.patience

    def update(self, epoch, values):
        """Take note of the values on val, {name: value}, after `epoch` epochs; True when they are the best so far.

        values: empty without a val part. A KeyError where `watch` is not among them.
        """
        if values:
            value = values[self.watch]
            self._check_plateau(value)
            if not (value < self.best if self.minimised else value > self.best):
                self.waited += 1
                return False
            self.best = value
        self.best_epoch, self.waited = epoch, 0
        return True

    def _check_plateau(self, value):
        """Lower the learning rate at a plateau; at the first one release the items instead, where they wait for it."""
        if self.scheduler is None:
            return
        before = self.learning_rate()
        self.scheduler.step(value)
        if self.release is not None and not self.released and self.learning_rate() < before:
            self.set_learning_rate(before)
            self.released, self.waited = True, 0
            self.release()

    def selected(self):
        """What a run's config.json says of the epoch that was kept; the value is None without a val part."""
        value = self.best if math.isfinite(self.best) else None
        return {"best_epoch": self.best_epoch, "selected_by": self.watch, "selected_on": list(self.parts),
                "best_value": value, "best_val_loss": value if self.minimised else None,
                **({} if self.chance is None else {"value_by_chance": self.chance})}

    def learning_rate(self):
        return self.optimizer.param_groups[0]["lr"]

    def set_learning_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def state(self):
        """What a checkpoint holds of it."""
        own = {"waited": self.waited, "best_epoch": self.best_epoch, self._best_key(): self.best}
        if self.scheduler is not None:
            own |= {"released": self.released, "scheduler": self.scheduler.state_dict()}
        return own

    def load(self, state, continued=False):
        """Take over the state of a checkpoint, to whose optimiser the present one was set before.

        continued: the checkpoint is of a run of another request; patience and plateau are then those of this one,
        and a training that had stopped early goes on
        """
        self.waited, self.best_epoch, self.best = state["waited"], state["best_epoch"], state[self._best_key()]
        if self.scheduler is not None:
            plateau = self.scheduler.patience
            self.scheduler.load_state_dict(state["scheduler"])
            self.released = state["released"]
            if continued:
                self.scheduler.patience = plateau
        if continued and self.waited >= self.patience:
            self.waited = 0
        if self.released and self.release is not None:
            self.release()

    def _best_key(self):
        return "best_loss" if self.minimised else "best"


def check_release(split, dynamic_item_freeze):
    """UsageError where items are to be released at a plateau on val and the split has no val part."""
    if dynamic_item_freeze and "val" not in split.parts:
        raise UsageError("dynamic_item_freeze waits for a plateau on val, but this split has no val part; split again "
                         "with a --val-share above 0")
