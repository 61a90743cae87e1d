"""What a metric on val and on cold_val is measured by where one value has to speak for both: numbers of the split.

    reference(split, "cold_val", "NDCG@10").relative(0.31)

val        the metric over that of the ranking by popularity (users in train)
cold_val   the metric over that of random rankings, one for each user; no value counts for less than the one that a
           single random ranking, the same for all users, stays below in 95 of 100 draws

Of a track that nobody played, ID embeddings and vectors of other tracks say nothing, yet whether they happen to rank a
few popular ones high makes their metric on a small cold_val swing by more than anything they still learn on val. Below
the floor cold_val is therefore silent, and val alone decides.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dataset import Split

DRAWS, QUANTILE, SEED = 500, 0.95, 0   # of random rankings that all users share


@dataclass(frozen=True)
class Reference:
    """unit: what a value is divided by, above 0; floor: the least value that counts."""
    unit: float
    floor: float = 0.0

    def relative(self, value: float) -> float:
        return max(value, self.floor) / self.unit


def reference(split: Split, part: str, name: str) -> Reference:
    """That of a metric (NDCG@10) on val or cold_val.

    On val the unit is never below chance, so that a split whose popular items nobody plays again does not divide by
    zero.
    """
    by_chance = chance(split, part, name)
    if part == "cold_val":
        return Reference(by_chance, floor=float(np.quantile(shared_orders(split, part, name), QUANTILE)))
    return Reference(max(popularity(split, part, name), by_chance))


def popularity(split: Split, part: str, name: str) -> float:
    """A metric of the ranking by users in train, ties in the order of seed 0."""
    import torch

    import metrics
    from ranking import topk
    users = torch.as_tensor(np.bincount(split.train.item, minlength=split.n_hot), dtype=torch.float32)
    k = int(name.split("@")[1])
    preds = topk.recommend(split, part, k, 0, scores=lambda codes: users.expand(len(codes), -1), last=split.unseen)
    return float(metrics.evaluate(preds, split.truth(part), (k,))[name].mean())


def chance(split: Split, part: str, name: str) -> float:
    """A metric of a uniformly random ranking of each user's candidates: its expectation, the mean over users.

    With n candidates, t true tracks and lists of k, place j holds a true track with probability t / n.
    """
    metric, k = name.split("@")
    users, true = np.unique(split.part(part).user, return_counts=True)
    candidates = split.candidates(part)
    n = candidates.stop - candidates.start - np.diff(split.seen(part).indptr)[users]
    t, n = true[:, None].astype(np.float64), n[:, None].astype(np.float64)       # (U, 1)
    place = np.arange(1, int(k) + 1)                                             # (k,)
    inside = place <= n                                                          # (U, k): of a list that ends early
    hit = np.where(inside, t / n, 0)
    another = (t - 1) / np.maximum(n - 1, 1)       # a second place holds a true track, where one does
    missed = np.where(inside, np.clip((n - t - place + 1) / np.maximum(n - place + 1, 1), 0, 1), 1).cumprod(1)
    first = np.hstack([np.ones_like(t), missed[:, :-1]]) - missed                # the first hit is at this place
    gain = 1 / np.log2(place + 1)
    values = {"HitRate": first.sum(1), "MRR": (first / place).sum(1), "Recall": (hit / t).sum(1),
              "Precision": hit.sum(1) / inside.sum(1), "MAP": (hit * (1 + (place - 1) * another) / place / t).sum(1),
              "NDCG": (hit * gain).sum(1) / np.where(place <= t, gain, 0).sum(1)}
    return float(values[metric].mean())


@dataclass
class SharedList:
    """evaluation.lists.Lists of U users who all have one list. place: int64 (tracks,), -1 where a track is not in it;
    length: int64 (U,)."""
    place: np.ndarray
    length: np.ndarray

    def ranks_of(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        return self.place[track]


def shared_orders(split: Split, part: str, name: str, draws: int = DRAWS) -> np.ndarray:
    """A metric of rankings in random order, each shared by all users: means over users, float64 (draws,).

    It is for parts where no candidate is hidden from anybody (cold_val): what a user has seen is not taken out.
    """
    import metrics
    from evaluation.lists import Truth
    k, pairs, candidates = int(name.split("@")[1]), split.part(part), split.candidates(part)
    n, (users, rows) = candidates.stop - candidates.start, np.unique(pairs.user, return_inverse=True)
    truth = Truth(users, rows, pairs.item - candidates.start)
    shared = SharedList(np.full(n, -1), np.full(len(users), min(k, n)))
    rng, means = np.random.default_rng(SEED), np.empty(draws)
    for draw in range(draws):
        top = rng.choice(n, min(k, n), replace=False)
        shared.place[top] = np.arange(len(top))
        means[draw] = metrics.values_of(shared, truth, (k,))[name].mean()
        shared.place[top] = -1
    return means
