"""Figures of one run cut by who listens and by what is played: user activity, item popularity.

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

if TYPE_CHECKING:
    from dataset import Split

ACTIVITY = ("light", "medium", "heavy")
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
