"""Stage 4: how good saved recommendations are, per user and on average.

    python metrics.py                                  every run of the workspace
    python metrics.py musicnn_cosine --k 10 50         one run
    python metrics.py --preds FILE --truth FILE --k 5 10 --out FILE.csv

Writes metrics/{run}_{part}.csv (rows `mean` and `conf`, the half-width of the 95 % interval over users)
and metrics/{run}_{part}.pqt (`user_id` and the values of each user of the truth).

Values are those of rs_metrics (github.com/Darel13712/rs_metrics), user by user. With L the first k tracks of
a user's list, T the user's true tracks, h_j = 1 where the j-th track of L (from 1) is in T:
    HitRate    1 if any h_j, else 0                     Precision  sum h_j / |L|   (not k: a short list is not
    MRR        1 / (the first j with h_j), else 0                   punished for what it leaves out)
    Recall     sum h_j / |T|                            NDCG       sum h_j / log2(j + 1) over its value for a
    MAP        sum_j h_j (h_1 + .. + h_j) / j / |T|                list that begins with min(|T|, k) hits
Edges, made safe: a track twice in a list counts once, at its first place, and the later ones move up; a pair
twice in the truth counts once; a user of the truth without a list counts as zero everywhere (rs_metrics gives
NaN for Precision); a list of a user outside the truth is ignored. Beyond accuracy, see `beyond`.
"""
import functools
from dataclasses import dataclass
from pathlib import Path

import runs
from runs import UsageError, WorkError

METRICS = ("HitRate", "MRR", "Precision", "Recall", "NDCG", "MAP")
KS = (5, 10, 20, 50)


# --------------------------------------------------------------------------- lists

@dataclass
class Lists:
    """Recommendation lists of U users: one row per (user, place), sorted, without duplicates.

    user: int64 (N,) row of `users`; track: int64 (N,) track ids; place: int64 (N,) from 0; length: int64 (U,)
    """
    users: object
    user: object
    track: object
    place: object
    length: object
    _sorted: object    # (user, track, place) of every row in one int64, ascending
    _pack: tuple       # least track, tracks and places that the packing has room for

    def find(self, user, track):
        """Place of each (user row, track) in its list, -1 where it is not there; int64."""
        import numpy as np
        least, tracks, places = self._pack
        inside = (track >= least) & (track < least + tracks)
        key = np.where(inside, user * tracks + (track - least), -1) * places
        at = np.minimum(np.searchsorted(self._sorted, key), max(len(self._sorted) - 1, 0))
        if not len(self._sorted):
            return np.full(len(key), -1)
        found = self._sorted[at] - key
        return np.where(inside & (found >= 0) & (found < places), found, -1)


def read_lists(preds, users):
    """Lists of `users` (int64, ascending) out of a frame `user_id, track_id, rank`; other users are left out.

    Ranks of each user must count 0, 1, 2, ...; rows may stand in any order. WorkError otherwise.
    """
    import numpy as np
    user_id, track, rank = (whole_numbers(preds, c, "the lists") for c in ("user_id", "track_id", "rank"))
    user = np.searchsorted(users, user_id)
    known = users[np.minimum(user, len(users) - 1)] == user_id if len(users) else np.zeros(len(user), bool)
    if not known.all():
        user, track, rank = user[known], track[known], rank[known]
    if (np.diff(user) < 0).any() or not np.array_equal(rank, _places(user)):
        order = np.lexsort((rank, user))
        user, track, rank = user[order], track[order], rank[order]
        wrong = rank != _places(user)
        if wrong.any():
            at = int(wrong.argmax())
            raise WorkError(f"the ranks of each user must count 0, 1, 2, ... without gaps, but user_id "
                            f"{users[user[at]]} has rank {rank[at]} where {_places(user)[at]} is due")
    if len(track) and len(users) * (int(track.max()) - int(track.min()) + 1) * (int(rank.max()) + 1) >= 2**62:
        raise WorkError(f"the track ids run from {track.min()} to {track.max()}; "
                        "they must be rows of trackid_sorted.csv, not free numbers")
    least, tracks, places = (int(track.min()), int(np.ptp(track)) + 1, int(rank.max()) + 1) if len(track) else (0, 1, 1)
    key = user * tracks + (track - least)
    packed = np.sort(key * places + rank)
    if (np.diff(packed // places) == 0).any():
        kept = np.sort(np.unique(key, return_index=True)[1])  # the first place of each, in the lists' order
        user, track, key = user[kept], track[kept], key[kept]
        rank = _places(user)
        packed = np.sort(key * places + rank)
    return Lists(users, user, track, rank, np.bincount(user, minlength=len(users)), packed, (least, tracks, places))


def _places(user):
    """0, 1, 2, ... within each stretch of equal values; int64, the shape of `user`."""
    import numpy as np
    row = np.arange(len(user))
    first = np.ones(len(user), bool)
    first[1:] = user[1:] != user[:-1]
    return row - np.maximum.accumulate(np.where(first, row, 0))


def whole_numbers(frame, column, where):
    """A column as int64 (N,); WorkError when it is absent, has gaps or is not of integers."""
    import numpy as np
    if column not in frame.columns:
        raise WorkError(f"{where} must have a column {column}, but have {', '.join(map(str, frame.columns))}")
    values = frame[column]
    gaps = int(values.isna().sum())
    if gaps or values.dtype.kind not in "iu":
        raise WorkError(f"{column} of {where} must be whole numbers without gaps, "
                        f"but is {values.dtype} with {gaps} gaps")
    return values.to_numpy(np.int64)


@dataclass
class Truth:
    """Distinct pairs of a part: users int64 (U,) ascending; user int64 (N,) row of `users`; track int64 (N,)."""
    users: object
    user: object
    track: object


def read_truth(truth):
    """Truth out of a frame `user_id, track_id`; a pair that stands in it twice counts once."""
    import numpy as np
    user_id, track = (whole_numbers(truth, c, "the truth") for c in ("user_id", "track_id"))
    step, climb = np.diff(user_id), np.diff(track)
    if ((step < 0) | (step == 0) & (climb < 0)).any():
        order = np.lexsort((track, user_id))
        user_id, track = user_id[order], track[order]
        step, climb = np.diff(user_id), np.diff(track)
    first = np.concatenate([[True], (step != 0) | (climb != 0)])[:len(user_id)]
    users, user = np.unique(user_id[first], return_inverse=True)
    return Truth(users, user, track[first])


def check_ks(ks):
    """List lengths as a tuple without repeats; UsageError when one is not a whole number of at least 1."""
    for k in ks:
        if isinstance(k, bool) or k != int(k) or k < 1:
            raise UsageError(f"k must be a whole number of at least 1, not {k}")
    if not ks:
        raise UsageError("no k was given; --k 5 10 asks for lists of 5 and of 10")
    return tuple(dict.fromkeys(int(k) for k in ks))


# --------------------------------------------------------------------------- values

def evaluate(preds, truth, ks=KS):
    """Values of every user of the truth: frame with index user_id, ascending, and columns `HitRate@5` ...

    preds: frame `user_id, track_id, rank` (rank from 0); truth: frame `user_id, track_id`
    ks:    list lengths, whole numbers of at least 1; columns go by k, then METRICS
    An empty truth gives an empty frame. Formulas and edges: the head of this file.
    """
    truth = read_truth(truth)
    return _values(read_lists(preds, truth.users), truth, check_ks(ks))


def _values(lists, truth, ks):
    import numpy as np
    import pandas as pd
    n = len(truth.users)
    place = lists.find(truth.user, truth.track)
    user, place = truth.user[place >= 0], place[place >= 0]
    order = np.lexsort((place, user))
    user, place = user[order], place[order]                    # the hits, user by user, from the top of the list
    nth = _places(user) + 1                                    # the how many-th hit of its user each one is
    n_true = np.bincount(truth.user, minlength=n)
    ideal = np.cumsum(1 / np.log2(np.arange(max(ks)) + 2))     # gain of 1, 2, ... hits at the top
    columns = {}
    for k in ks:
        top = place < k
        u, p, h = user[top], place[top], nth[top]
        hits = np.bincount(u, minlength=n)
        columns[f"HitRate@{k}"] = (hits > 0).astype(np.float64)
        columns[f"MRR@{k}"] = np.bincount(u[h == 1], 1 / (p[h == 1] + 1), minlength=n)
        columns[f"Precision@{k}"] = hits / np.maximum(np.minimum(lists.length, k), 1)
        columns[f"Recall@{k}"] = hits / n_true
        columns[f"NDCG@{k}"] = np.bincount(u, 1 / np.log2(p + 2), minlength=n) / ideal[np.minimum(n_true, k) - 1]
        columns[f"MAP@{k}"] = np.bincount(u, h / (p + 1), minlength=n) / n_true
    return pd.DataFrame(columns, index=pd.Index(truth.users, name="user_id"))


def beyond(lists, catalogue, share, ks=KS):
    """Values of the lists as a whole and of each list, beyond accuracy.

    catalogue: int64 (n,) ascending track ids the part ranks; share: float (n,) share of the train users who
               played each, or None (cold tracks have no plays)
    returns:   dict of `Coverage@k`, share of the catalogue found in some list, and `Gini@k`, inequality of the
               tracks' appearances over the catalogue (0: all equally often; NaN without any list);
               frame of `Popularity@k`, mean share over a user's list (rs_metrics.popularity; NaN without a list)
    """
    import numpy as np
    import pandas as pd
    row = np.searchsorted(catalogue, lists.track)
    if len(row) and (row.max() >= len(catalogue) or not np.array_equal(catalogue[row], lists.track)):
        raise WorkError("the lists hold tracks outside the catalogue of this part; were they made on another split?")
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
    """Gini coefficient of non-negative counts (n,): 0 when all are equal, (n - 1) / n when one has all."""
    import numpy as np
    n, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def mean_and_half_width(values):
    """Mean of values (n, ...) over the first axis and half-width of its 95 % interval (Student's t, n - 1).

    NaN values are left out; with fewer than two the half-width is NaN.
    """
    import numpy as np
    from scipy.special import stdtrit
    values = np.asarray(values, np.float64)
    n = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0) / n
        sd = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / (n - 1))
        return mean, np.where(n > 1, stdtrit(np.maximum(n - 1, 1), 0.975) * sd / np.sqrt(n), np.nan)


# --------------------------------------------------------------------------- files

def report(workdir, run_name, part, preds, truth, ks=KS):
    """Evaluate the lists of one part, write metrics/{run}_{part}.pqt and .csv, return {column: mean}.

    Coverage, Gini and Popularity are added where the workspace has data/train.pqt; the first two belong to
    all lists together, so they have no interval. With one user there is no interval either: `conf` is empty.
    """
    if not len(truth):
        raise WorkError(f"part {part} has no pairs to evaluate {run_name} on")
    ks, truth = check_ks(ks), read_truth(truth)
    lists = read_lists(preds, truth.users)
    values, whole = _values(lists, truth, ks), {}
    catalogue = catalogue_of(Path(workdir), part)
    if catalogue is not None:
        whole, each = beyond(lists, *catalogue, ks)
        values = values.join(each)
    return write(Path(workdir) / "metrics" / f"{run_name}_{part}.csv", values, whole)


def write(path, values, whole=None):
    """Write values per user as parquet, then their means and half-widths as csv at `path`; return the means."""
    import pandas as pd
    mean, half = mean_and_half_width(values)
    frame = pd.DataFrame([mean, half], columns=values.columns, index=["mean", "conf"])
    for name, value in (whole or {}).items():
        frame[name] = [value, float("nan")]
    runs.write_parquet(path.with_suffix(".pqt"), values.reset_index())
    runs.write_csv(path, frame)
    return frame.loc["mean"].to_dict()


def catalogue_of(workdir, part):
    """Track ids a part ranks, int64 ascending, and the share of train users who played each (None: cold).

    None where the workspace has no data/train.pqt.
    """
    path = workdir / "data" / ("cold_test.pqt" if part == "cold_test" else "train.pqt")
    if not path.exists():
        return None
    return _catalogue(path, path.stat().st_mtime_ns, part == "cold_test")


@functools.lru_cache(maxsize=2)  # one for each kind: a run has several parts, a session several runs
def _catalogue(path, changed, cold):
    import numpy as np

    import dataset
    user, track, _, _ = dataset.read_pairs(path)
    if cold:
        return np.unique(track), None
    tracks, players = np.unique(track, return_counts=True)     # a pair stands once in a split file
    return tracks, players / len(np.unique(user))
