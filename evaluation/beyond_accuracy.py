"""Beyond accuracy: how much of the catalogue is shown, how popular it is, how unequally it is shown.

Used by metrics.py, which adds these columns to metrics/{run}_{part}.csv (and Popularity to the .pqt):
    Coverage@k    share of the part's catalogue that is in the first k of any user (rs_metrics.coverage)
    Gini@k        inequality of the tracks' appearances in the first k, over the whole catalogue:
                  0 when all appear equally often, (n - 1) / n when one has all (the usual coefficient)
    Popularity@k  mean over a user's first k of the share of train users who played the track
                  (rs_metrics.popularity); cold tracks have none, so the cold test has no such column
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import WorkError

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split
    from evaluation.lists import Lists


def beyond(lists: Lists, catalogue: np.ndarray, share: np.ndarray | None,
           ks: Iterable[int]) -> tuple[dict[str, float], pd.DataFrame]:
    """Values of all lists together and of each.

    lists:     lists.Lists of U users
    catalogue: int64 (n,) ascending ids of the tracks the part ranks
    share:     float (n,) share of the train users who played each; None: no Popularity
    returns:   dict of Coverage and Gini (NaN without any list), and a frame (U rows) of Popularity (NaN for a
               user without a list, as nothing was shown)
    """
    import pandas as pd
    row = np.searchsorted(catalogue, lists.track)
    outside = row >= len(catalogue)
    outside[~outside] = catalogue[row[~outside]] != lists.track[~outside]
    if outside.any():
        raise WorkError(f"{len(np.unique(lists.track[outside]))} tracks of the lists are not in the catalogue of this "
                        "part; the lists were made on another split, make them again")
    whole: dict[str, float] = {}
    each: dict[str, np.ndarray] = {}
    for k in ks:
        top = lists.place < k
        shown = np.bincount(row[top], minlength=len(catalogue))
        whole[f"Coverage@{k}"] = float(np.count_nonzero(shown) / len(catalogue))
        whole[f"Gini@{k}"] = gini(shown)
        if share is not None:
            total = np.bincount(lists.user[top], share[row[top]], minlength=len(lists.users))
            length = np.minimum(lists.length, k)
            each[f"Popularity@{k}"] = np.where(length > 0, total / np.maximum(length, 1), np.nan)
    return whole, pd.DataFrame(each, index=pd.Index(lists.users, name="user_id"))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts (n,), NaN when all are 0."""
    n, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def catalogue_of(split: Split, part: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Tracks a part ranks, int64 (n,) ascending, and the share of train users who played each (None: cold)."""
    tracks = split.tracks[split.candidates(part)]
    if part == "cold_test":
        return tracks, None
    return tracks, np.bincount(split.train.item, minlength=split.n_hot) / split.n_users  # a pair of train is one row
