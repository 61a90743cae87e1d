"""Figures of one run cut by who listens and by what is played: activity, taste, age, country; item popularity.

By activity the users of a part fall into thirds by the tracks they played in train, so each user's value counts in one
segment. By popularity the held-out pairs fall into segments and the lists stay whole: a segment's value is that of the
same list with only the segment's tracks as truth, over the users who have such a track (as in the head and tail
figures of Abdollahpouri et al., RecSys 2019). The tracks of head, mid and tail each hold about a third of the plays of
train (pairs), so that the segments of the truth are of comparable size.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation.lists import Truth
from harness.errors import UsageError
from harness.metadata import read_table

if TYPE_CHECKING:
    from dataset import Split

ACTIVITY = ("light", "medium", "heavy")
MAINSTREAM = ("niche", "medium", "mainstream")
AGES = ((0, "under 20"), (20, "20 to 29"), (30, "30 to 39"), (40, "40 and over"))
COUNTRIES = 5      # the most frequent, each a segment of its own; the others are one
OTHERS = "other countries"
POPULARITY = ("head", "mid", "tail")


def by_activity(split: Split, users: np.ndarray) -> np.ndarray:
    """Segment of each user (ids, int64 (U,), all of train) by the pairs in train: 0 light, 1 medium, 2 heavy; int64.

    Thirds of these users; users of equal activity share a segment, so that the thirds may be uneven. Of an empty
    array an empty one.
    """
    pairs = np.bincount(split.train.user, minlength=split.n_users)[np.searchsorted(split.users, users)]
    if not len(users):
        return pairs
    edges = np.quantile(pairs, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.searchsorted(edges, pairs)


def by_mainstream(split: Split, users: np.ndarray) -> np.ndarray:
    """Segment of each user (ids, int64 (U,), all of train): 0 niche, 1 medium, 2 mainstream; int64 (U,).

    Thirds of these users by the mean of log(users in train) of the tracks they played there (their popularity bias in
    Abdollahpouri et al., RecSys 2019, with every track counted instead of the popular ones alone).
    """
    fame = np.log(np.maximum(np.bincount(split.train.item, minlength=split.n_hot), 1))[split.train.item]
    pairs = np.bincount(split.train.user, minlength=split.n_users)
    mean = np.bincount(split.train.user, weights=fame, minlength=split.n_users) / np.maximum(pairs, 1)
    mean = mean[np.searchsorted(split.users, users)]
    return np.searchsorted(np.quantile(mean, [1 / 3, 2 / 3], method="inverted_cdf"), mean) if len(users) else users


def by_column(split: Split, users: np.ndarray, column: str) -> tuple[list[str], np.ndarray]:
    """(names, segment of each user, int64 (U,), -1 where it is not known) by `age` or `country` of users.pqt.

    Ages from 1 to 100 fall into decades, countries into the COUNTRIES most frequent among these users and the others.
    UsageError where there is no such column, or nobody of these users has a value.
    """
    path = split.workdir / "users.pqt"
    table = read_table(path, "user_id")
    if table is None or column not in table.column_names:
        raise UsageError(f"--by user-{column} needs {column} in users.pqt, and this workspace has none")
    frame = table.select(["user_id", column]).to_pandas(ignore_metadata=True).set_index("user_id")
    values = frame[column].reindex(users)
    if column == "age":
        ages = pd_numbers(values)
        known = (ages >= 1) & (ages <= 100)
        names = [name for _, name in AGES]
        segment = np.searchsorted([low for low, _ in AGES], np.where(known, ages, 1), side="right") - 1
    else:
        known = values.notna().to_numpy() & (values.astype(str).str.strip() != "").to_numpy()
        most = values[known].astype(str).value_counts().sort_index().sort_values(ascending=False, kind="stable")
        names = [*most.index.drop(OTHERS, errors="ignore")[:COUNTRIES], OTHERS]
        place = {name: i for i, name in enumerate(names[:-1])}
        segment = np.array([place.get(str(value), len(names) - 1) for value in values], np.int64)
    if not known.any():
        raise UsageError(f"--by user-{column}: no user of this part has a value of {column} in users.pqt")
    return names, np.where(known, segment, -1)


def pd_numbers(values) -> np.ndarray:
    """A column as float64, NaN where it holds no number."""
    import pandas as pd
    return pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def by_popularity(split: Split) -> np.ndarray:
    """Segment of each hot item by its pairs in train: 0 head, 1 mid, 2 tail; int64 (n_hot,).

    Going down from the most played item, head are those within the first third of all pairs, tail those beyond two
    thirds; items of equal popularity share a segment.
    """
    pairs = np.bincount(split.train.item, minlength=split.n_hot)
    levels, item = np.unique(-pairs, return_inverse=True)             # from the most played down
    held = np.bincount(item, weights=pairs)
    middle = (np.cumsum(held) - held / 2) / max(held.sum(), 1)        # where the middle of a level's pairs lies
    return np.minimum((3 * middle[item]).astype(np.int64), 2) if len(levels) else item


def truth_of(truth: Truth, keep: np.ndarray) -> Truth:
    """The pairs of a truth that are kept, bool (N,), with the users who still have one."""
    users, user = np.unique(truth.users[truth.user[keep]], return_inverse=True)
    return Truth(users, user, truth.track[keep])
