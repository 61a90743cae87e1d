"""Beyond accuracy: how much of the catalogue is shown, how popular it is, how unequally it is shown.

Used by metrics.py, which adds these columns to metrics/{run}_{part}.csv (and Popularity to the .pqt):
    Coverage@k    share of the part's catalogue that is in somebody's first k (rs_metrics.coverage)
    Gini@k        inequality of the tracks' appearances in the first k, over the whole catalogue:
                  0 when all appear equally often, (n - 1) / n when one has all (the usual coefficient)
    Popularity@k  mean over a user's first k of the share of train users who played the track
                  (rs_metrics.popularity); cold tracks have none, so the cold test has no such column
"""
import functools
from pathlib import Path

import numpy as np

from harness.errors import WorkError


def beyond(lists, catalogue, share, ks):
    """Values of all lists together and of each.

    lists:     lists.Lists of U users
    catalogue: int64 (n,) ascending ids of the tracks the part ranks
    share:     float (n,) share of the train users who played each; None: no Popularity
    returns:   dict of Coverage and Gini (NaN without any list), and a frame (U rows) of Popularity (NaN for a
               user without a list, as nothing was shown)
    """
    import pandas as pd
    row = np.searchsorted(catalogue, lists.track)
    strange = row >= len(catalogue)
    strange[~strange] = catalogue[row[~strange]] != lists.track[~strange]
    if strange.any():
        raise WorkError(f"{len(np.unique(lists.track[strange]))} tracks of the lists are not in the catalogue of this "
                        "part; the lists were made on another split, make them again")
    whole, each = {}, {}
    for k in ks:
        top = lists.place < k
        shown = np.bincount(row[top], minlength=len(catalogue))
        whole[f"Coverage@{k}"] = np.count_nonzero(shown) / len(catalogue)
        whole[f"Gini@{k}"] = gini(shown)
        if share is not None:
            total = np.bincount(lists.user[top], share[row[top]], minlength=len(lists.users))
            length = np.minimum(lists.length, k)
            each[f"Popularity@{k}"] = np.where(length > 0, total / np.maximum(length, 1), np.nan)
    return whole, pd.DataFrame(each, index=pd.Index(lists.users, name="user_id"))


def gini(counts):
    """Gini coefficient of counts (n,), NaN when all are 0."""
    n, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def catalogue_of(workdir, part):
    """Tracks a part ranks, int64 (n,) ascending, and the share of train users who played each (None: cold).

    None instead of both where the workspace has no split.
    """
    path = Path(workdir) / "data" / ("cold_test.pqt" if part == "cold_test" else "train.pqt")
    return _catalogue(path, path.stat().st_mtime_ns, part == "cold_test") if path.exists() else None


@functools.lru_cache(maxsize=2)  # hot and cold: the parts of a run, and the runs of a session, share them
def _catalogue(path, changed, cold):
    import dataset
    user, track, _, _ = dataset.read_pairs(path)
    tracks, players = np.unique(track, return_counts=True)  # a pair stands once in a split file
    return tracks, None if cold else players / len(np.unique(user))
