"""Beyond accuracy: how much of the catalogue is shown, how popular it is, how unequally it is shown.

Used by metrics.py, which adds these columns to metrics/{run}_{part}.csv (and Popularity to the .pqt):
    Coverage@k    share of the part's catalogue that is in the first k of any user (rs_metrics.coverage)
    Gini@k        inequality of the tracks' appearances in the first k, over the whole catalogue:
                  0 when all appear equally often, (n - 1) / n when one has all (the usual coefficient)
    Popularity@k  mean over a user's first k of the share of train users who played the track
                  (rs_metrics.popularity); the cold parts have no such column, as nobody played their tracks
    ColdShare@k   share of cold tracks in a user's first k; of all_test only, which ranks hot and cold ones
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import WorkError
from harness.run_files import COLD_PARTS

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split
    from evaluation.lists import Lists


def beyond(lists: Lists, catalogue: np.ndarray, of_track: Mapping[str, np.ndarray],
           ks: Iterable[int]) -> tuple[dict[str, float], pd.DataFrame]:
    """Values of all lists together and of each.

    lists:     lists.Lists of U users
    catalogue: int64 (n,) ascending ids of the tracks the part ranks
    of_track:  {name: float (n,)} values of the tracks whose mean over a list is a metric: Popularity, ColdShare
    returns:   dict of Coverage and Gini (NaN without any list), and a frame (U rows) of the means (NaN for a user
               without a list, as nothing was shown)
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
        for name, value in of_track.items():
            total = np.bincount(lists.user[top], value[row[top]], minlength=len(lists.users))
            length = np.minimum(lists.length, k)
            each[f"{name}@{k}"] = np.where(length > 0, total / np.maximum(length, 1), np.nan)
    return whole, pd.DataFrame(each, index=pd.Index(lists.users, name="user_id"))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts (n,), NaN when all are 0."""
    n, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def catalogue_of(split: Split, part: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Tracks a part ranks, int64 (n,) ascending, and `beyond`'s values of them: Popularity is the share of train users
    who played a track (not of the cold parts), ColdShare 1 for a cold track (of all_test only)."""
    ranked = split.candidates(part)
    tracks, users = split.tracks[ranked], np.bincount(split.train.item, minlength=split.n_items)[ranked]
    of_track = {} if part in COLD_PARTS else {"Popularity": users / split.n_users}   # a pair of train is one row
    if part == "all_test":
        of_track["ColdShare"] = (np.arange(ranked.stop) >= split.n_hot).astype(np.float64)
    order = np.argsort(tracks)   # in all_test the cold tracks stand behind the hot ones
    return tracks[order], {name: value[order] for name, value in of_track.items()}
