"""The measure of the DTNMR source for every recommender: is a test song ranked above N - 1 sampled others?

    python metrics.py --subset-size 5 --workdir W                               every run with saved lists
    python table.py --k 5 --metrics SubsetAccuracy PointAccuracy

SubsetAccuracy@N, N being --subset-size, is the share of a user's held-out pairs whose song is ranked in the user's list
above N - 1 songs of the part's catalogue, drawn uniformly among those the user knows from no part. The subsets of one
--seed are the same for every run, and a table refuses runs of different ones. A list is whole where its run was asked
for --k of the catalogue's size; in a shorter one the songs beyond its end tie, a tie of n counts 1 / n, and the share
of subsets decided so is printed.

PointAccuracy@N, which recommenders.dtnmr measures itself (metrics/{run}_{part}_points.csv), asks the same of each
point: from the playlist right before it, plays of known songs included, which is what the source counts. A user whose
points are all plays of known songs has no held-out pair, so no row in the metrics, and is left out of both.
"""
from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.lists import Lists
from harness import runs
from harness.errors import WorkError

if TYPE_CHECKING:
    from dataset import Split


class Negatives:
    """Uniform draws from a catalogue, never a song the user knows, never one twice for a point.

    known: int64 (P,) users and (P,) songs that are never drawn; a point's label must be among them
    """

    def __init__(self, catalogue, n_songs, users, songs):
        self.catalogue, self.n_songs = catalogue, n_songs
        self.known = np.unique(users * n_songs + songs)

    def left(self, users: np.ndarray) -> np.ndarray:
        """How many songs each of `users` (b,) has left to draw, int64 (b,)."""
        inside = self.known[np.isin(self.known % self.n_songs, self.catalogue)]
        taken = np.bincount(inside // self.n_songs, minlength=int(users.max(initial=0)) + 1)
        return len(self.catalogue) - taken[users]

    def enough(self, users, size, what):
        """Which of `users` (b,) have size - 1 songs left, bool (b,); the others are counted on stderr.

        what: the name of the b points. Raises WorkError where no user has.
        """
        left = self.left(users)
        enough = left >= size - 1
        if len(users) and not enough.any():
            remedy = (f"use at most --subset-size {left.max() + 1}" if left.any() else
                      "keep more songs, or fewer plays for each of them")
            raise WorkError(f"--subset-size {size} needs {size - 1} unknown songs, but of the catalogue's "
                            f"{len(self.catalogue)} the users of the {what} have at most {left.max()} left; {remedy}")
        if not enough.all():
            print(f"--subset-size {size}: {(~enough).sum()} of {len(users)} {what} left out, because their "
                  f"{len(np.unique(users[~enough]))} users have fewer than {size - 1} unknown songs left",
                  file=sys.stderr)
        return enough

    def draw(self, users, n, generator):
        """Song codes (b, n) for users (b,); needs left(users) >= n for all of them."""
        songs = generator.choice(self.catalogue, (len(users), n))
        todo = np.arange(len(users))
        while len(todo) and n:
            keys = (users[todo, None] * self.n_songs + songs[todo])
            place = np.minimum(np.searchsorted(self.known, keys), len(self.known) - 1)
            wrong = self.known[place] == keys
            for j in range(1, n):
                wrong[:, j] |= (songs[todo, :j] == songs[todo, j:j + 1]).any(1)
            todo, wrong = todo[wrong.any(1)], wrong[wrong.any(1)]
            again = songs[todo]
            again[wrong] = generator.choice(self.catalogue, int(wrong.sum()))
            songs[todo] = again
        return songs


def first_wins(values):
    """For each row of (b, C): 1 / n where the first value is the largest, shared by n; 0 where it is not or is NaN."""
    best = values == values.max(1, keepdims=True)
    return best[:, 0] / np.maximum(best.sum(1), 1)


@dataclass
class Subsets:
    """Subsets of a part's pairs, the same for every recommender.

    user_id, track: int64 (n,) and (n, size): the user of each pair and its songs, the pair's own first
    seed: of the draw
    """
    size: int
    user_id: np.ndarray
    track: np.ndarray
    seed: int = 0

    @property
    def column(self) -> str:
        return f"SubsetAccuracy@{self.size}"


def subsets(split: Split, part: str, size: int, seed: int) -> Subsets:
    """Draw `size` - 1 songs beside each pair of a part, songs that its user has no pair with in any part, nor among
    those that --train-share took out of train.

    Pairs of users who have fewer than size - 1 unknown songs left in the catalogue are left out and counted on stderr;
    a WorkError where none is left.
    """
    pairs, catalogue = split.part(part), split.candidates(part)
    known = [split.train, *split.others.values(), *([split.hidden] if split.hidden is not None else [])]
    negatives = Negatives(np.arange(catalogue.start, catalogue.stop), split.n_items,
                          np.concatenate([p.user for p in known]), np.concatenate([p.item for p in known]))
    rows = np.flatnonzero(negatives.enough(pairs.user, size, f"{part} pairs"))
    draw = np.random.default_rng([seed, 4, runs.PART_ORDER.index(part)])
    songs = np.concatenate([pairs.item[rows, None], negatives.draw(pairs.user[rows], size - 1, draw)], 1)
    return Subsets(size, split.users[pairs.user[rows]], split.tracks[songs], seed)


def accuracy(lists: Lists, drawn: Subsets) -> tuple[np.ndarray, float]:
    """Value of each user of the lists, float64 (U,), NaN without a subset; and the share of subsets beyond their ends.

    lists: of all users of the subsets, others may be among them
    """
    user, n = np.searchsorted(lists.users, drawn.user_id), len(lists.users)
    rank = lists.ranks_of(np.repeat(user, drawn.size), drawn.track.ravel()).reshape(drawn.track.shape)
    hits = first_wins(np.where(rank < 0, -lists.places, -rank))
    of_user = np.bincount(user, minlength=n)
    values = np.full(n, np.nan)
    np.divide(np.bincount(user, hits, minlength=n), of_user, out=values, where=of_user > 0)
    return values, float((rank < 0).all(1).mean())
