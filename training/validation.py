"""What --stop-on reads: the metrics on val after an epoch, of a fixed sample of users.

    validation = Validation(split, "NDCG@10", eval_every=2)
    result = validation.evaluate(training, lambda part: {"users": users, "items": items}, val_loss)
    checkpoints.after_epoch(result.better)

A method that serves hot and cold items is selected on both where the split has cold_val: by the mean of the two values,
each relative to its reference (references.py).
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness import processes
from training import references, selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dataset import Split

LENGTHS = (10,)   # of the lists whose metrics every evaluation shows, beside those of --stop-on
SAMPLE_SEED = 0


def sample(split: Split, part: str, n: int) -> np.ndarray:
    """Codes of at most n users of a part, ascending, int64; all for n = 0. The same for the same split.

    A larger n only adds users.
    """
    users = split.eval_users(part)
    if not 0 < n < len(users):
        return users
    return np.sort(np.random.default_rng(SAMPLE_SEED).permutation(users)[:n])


def sampled(split: Split, n: int) -> Split:
    """The split with at most n users in each part that methods are selected on; user and item codes stay."""
    others = dict(split.others)
    for part in selection.parts_of(split, selection.BOTH):
        pairs = others[part]
        kept = np.isin(pairs.user, sample(split, part, n))
        columns = (None if column is None else column[kept]
                   for column in (pairs.user, pairs.item, pairs.count, pairs.time))
        others[part] = type(pairs)(*columns)
    return replace(split, others=others)


@dataclass
class Evaluation:
    """values: {metric: mean} on val, with those of cold_val as `cold_val/NDCG@10`, {} where val was not ranked;
    better: whether this epoch is the best so far."""
    values: dict[str, float]
    better: bool


class Validation:
    """The rule of one training: what is ranked after which epoch, and which value counts.

    serves: HOT, COLD or BOTH of selection.py; seed: of the order of ties, as when the run's lists are written
    """

    def __init__(self, split: Split, stop_on: str = selection.DEFAULT, eval_every: int = 1,
                 val_users: int = selection.VAL_USERS, serves: str = selection.BOTH, seed: int = 42):
        self.stop_on, self.eval_every, self.serves, self.seed = stop_on, eval_every, serves, seed
        self.parts = selection.parts_of(split, serves)
        self.split = sampled(split, val_users)
        asked = () if stop_on == selection.LOSS else (int(stop_on.split("@")[1]),)
        self.ks = tuple(sorted({*LENGTHS, *asked}))
        self.references: dict[str, references.Reference] = {}
        if len(self.parts) > 1 and stop_on != selection.LOSS:
            self.references = {part: references.reference(self.split, part, stop_on) for part in self.parts}

    @classmethod
    def of(cls, split: Split, args: Any, stopping: Any, serves: str = selection.BOTH) -> Validation:
        """That of a command line; `parts` of the EarlyStopping of the training are set."""
        made = cls(split, args.stop_on, args.eval_every, args.val_users, serves, args.seed)
        stopping.parts = () if made.stop_on == selection.LOSS else made.parts
        if len(stopping.parts) == 1:
            stopping.chance = references.chance(made.split, stopping.parts[0], made.stop_on)
        return made

    def selects(self, own_loss: bool = False) -> bool:
        """Whether anything says which epoch is best; own_loss: whether a loss does that needs no val part."""
        return own_loss or "val" in self.split.parts if self.stop_on == selection.LOSS else bool(self.parts)

    def evaluate(self, training: Any, ranker: Callable[[str], dict], loss: float | None = None) -> Evaluation:
        """Evaluate a training after an epoch where it is due, and take note of the value in its early stopping.

        training: has `epoch` (epochs done), `done` and `stopping`; ranker: what topk.recommend takes for a part; loss:
        on val, None without one
        """
        stopping, epoch = training.stopping, training.epoch
        if self.stop_on == selection.LOSS:
            better = stopping.update(epoch, {} if loss is None else {selection.LOSS: loss})
            due = training.done or epoch % self.eval_every == 0
            return Evaluation(self.values(ranker) if due else {}, better)
        if not self.parts:
            return Evaluation({}, stopping.update(epoch, {}))
        if epoch % self.eval_every and epoch < stopping.epochs:
            return Evaluation({}, better=not stopping.best_epoch)   # before the first value the latest epoch is kept
        values = self.values(ranker)
        return Evaluation(values, stopping.update(epoch, {self.stop_on: self.score(values)}))

    def values(self, ranker: Callable[[str], dict]) -> dict[str, float]:
        """The metrics of every part, {name: mean}; those of cold_val begin with `cold_val/`.

        Each process ranks its share of the users, and all go by the values of the main one.
        """
        import metrics
        from ranking import shares
        values: dict[str, float] = {}
        for part in self.parts:
            how = dict(ranker(part))
            if self.serves == selection.HOT:   # it knows nothing of tracks without plays, as when its lists are written
                how["last"] = self.split.unseen
            preds, truth = shares.recommend(self.split, part, max(self.ks), self.seed, **how), self.split.truth(part)
            means = processes.from_main(lambda p=preds, t=truth: metrics.evaluate(p, t, self.ks).mean().to_dict())
            values |= {name if part == "val" else f"{part}/{name}": value for name, value in means.items()}
        return values

    def score(self, values: dict[str, float]) -> float:
        """The value that counts: the metric on the method's part, or the mean of the two by their references."""
        own = {part: values[self.stop_on if part == "val" else f"{part}/{self.stop_on}"] for part in self.parts}
        if self.references:
            own = {part: self.references[part].relative(value) for part, value in own.items()}
        return float(np.mean(list(own.values())))
