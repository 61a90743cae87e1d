"""Metrics where users play tracks again: those of Yambda's benchmark, beside our own.

With D_u the DCG of a user's first k places (1 / log2(j + 1) for each true track, once) and e_u the number of the user's
held-out plays, repeats counted:

    RatioNDCG@k     mean D_u / mean I_u, where I_u is the DCG of min(e_u, k) hits: of all users together
    RepeatRecall@k  true tracks among the first k / e_u, mean over users

NDCG@k and Recall@k of metrics.py count a track once, and NDCG is a mean of ratios; the two pairs cannot be compared.
Computed where data/rules.json says that nothing seen is hidden. Source: methods and code of Yambda's benchmark
(Ploshkin et al., RecSys 2025, arXiv 2505.22238).
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split
    from evaluation.lists import Lists, Truth

METRICS = ("RatioNDCG", "RepeatRecall")


def plays_of(split: Split, part: str, truth: Truth) -> np.ndarray:
    """Held-out plays of each user of a truth, float64 (U,)."""
    pairs = split.part(part)
    rows = np.searchsorted(truth.users, split.users[pairs.user])
    return np.bincount(rows, weights=pairs.count, minlength=len(truth.users))


def repeats(lists: Lists, truth: Truth, plays: np.ndarray, ks: Iterable[int]) -> tuple[dict[str, float], pd.DataFrame]:
    """({RatioNDCG@k: value}, frame (U rows, index user_id) of RepeatRecall@k); plays: of `plays_of`."""
    import pandas as pd
    place = lists.ranks_of(truth.user, truth.track)
    whole: dict[str, float] = {}
    each: dict[str, np.ndarray] = {}
    for k in ks:
        hit = (place >= 0) & (place < k)
        gain = np.bincount(truth.user[hit], 1 / np.log2(place[hit] + 2), minlength=len(truth.users))
        ideal = np.cumsum(1 / np.log2(np.arange(k) + 2))[np.clip(plays, 1, k).astype(np.int64) - 1]
        whole[f"RatioNDCG@{k}"] = float(gain.mean() / ideal.mean())
        each[f"RepeatRecall@{k}"] = np.bincount(truth.user[hit], minlength=len(truth.users)) / np.maximum(plays, 1)
    return whole, pd.DataFrame(each, index=pd.Index(truth.users, name="user_id"))
