"""Tables of a part of the truth: by item popularity, by kind of user, by artist (table.py --by).

A cut divides the held-out pairs into segments. A segment's figures are those of the same lists with only its pairs as
truth, over the users who have one (segments.py): what a method does for head and tail, for users who play much or
little, who play what all play, by age and country, for artists that train knows, and for users who meet an artist for
the first time.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation.files import again, read_metrics
from evaluation.lists import read_frame, read_lists, read_truth
from evaluation.results import Values
from evaluation.segments import (
    ACTIVITY,
    MAINSTREAM,
    POPULARITY,
    by_activity,
    by_column,
    by_mainstream,
    by_popularity,
    truth_of,
)
from harness.errors import UsageError, WorkError
from harness.metadata import read_artists
from harness.run_files import COLD_PARTS

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split
    from evaluation.lists import Truth

CUTS = ("item-popularity", "user-activity", "user-mainstream", "user-age", "user-country", "artist")
BY_USER = {"user-activity": (ACTIVITY, by_activity), "user-mainstream": (MAINSTREAM, by_mainstream)}
ARTIST = ("known artist", "new artist", "exploit: the user has played the artist", "discovery: the user has not")


def segments(split: Split, part: str, cut: str) -> dict[str, Truth]:
    """{name: the segment's pairs} of a part, without empty ones; see CUTS.

    item-popularity: head, mid, tail by pairs in train, and cold, without any; user-activity, user-mainstream: thirds of
    the part's users; user-age, user-country: of users.pqt, users without a value in no segment; artist: whether a
    track of the artist is in train, and whether the user has played one there; a track of several artists counts by
    the one that is known best. Pairs without an artist are in no segment of the last.
    UsageError where tracks have no artists, or each an artist of its own, where no held-out track has one, and where
    users have no such value.
    """
    truth = read_truth(split.truth(part))
    if cut.startswith("user-"):
        if cut in BY_USER:
            names, of_user = BY_USER[cut][0], BY_USER[cut][1](split, truth.users)
        else:
            names, of_user = by_column(split, truth.users, cut.removeprefix("user-"))
        return _named(truth, names, of_user[truth.user][:, None] == np.arange(len(names)))
    if cut == "item-popularity":
        of_track = np.full(split.n_tracks, len(POPULARITY))
        of_track[split.tracks[:split.n_hot]] = np.where(split.unseen, len(POPULARITY), by_popularity(split))
        names = (*POPULARITY, "cold") if part not in COLD_PARTS else ("",) * len(POPULARITY) + ("cold",)
        return _named(truth, names, of_track[truth.track][:, None] == np.arange(len(names)))
    known, played = _artists_known(split, truth)
    has = known >= 0
    if not has.any():
        raise UsageError(f"--by artist: no held-out track of {part} has an artist in items.pqt")
    masks = np.stack([known == 1, known == 0, has & played, has & ~played], axis=1)
    return _named(truth, ARTIST, masks)


def _named(truth, names, masks):
    return {name: truth_of(truth, mask) for name, mask in zip(names, masks.T, strict=True) if mask.any()}


def _artists_known(split, truth):
    """Of each pair: 1 where train has a track of the artist, 0 where not, -1 without artist; whether the user played
    one, bool."""
    from scipy.sparse import csr_matrix
    artists = read_artists(split.workdir, split.n_tracks)
    if artists is None:
        raise UsageError("--by artist needs the tracks' artists, and this workspace has none (artist or artists in "
                         "items.pqt)")
    if artists.shape[1] == artists.nnz and (np.diff(artists.indptr) <= 1).all():
        raise UsageError("--by artist says nothing here: every track has an artist of its own (a track is an artist)")
    train = split.tracks[split.train.item]
    by_user = csr_matrix((np.ones(len(train), np.float32), (split.train.user, train)),
                         shape=(split.n_users, split.n_tracks)) @ artists
    in_train = np.asarray(by_user.sum(axis=0)).ravel() > 0
    number = np.diff(artists.indptr)
    known = np.asarray((artists @ in_train.astype(np.float32)) > 0)[truth.track].astype(np.int64)
    known[number[truth.track] == 0] = -1
    user = np.searchsorted(split.users, truth.users)[truth.user]
    played = np.asarray(by_user[user].multiply(artists[truth.track]).sum(axis=1)).ravel() > 0
    return known, played


class SegmentValues(Values):
    """Figures of cells on one segment, computed from the saved lists; metrics of all users together have none.

    by_user: whether the segment has all pairs of its users, whose values are then those in metrics/, as far as there
    """

    def __init__(self, workdir, part, columns, truth, by_user=False):
        super().__init__(workdir, part, columns)
        self.truth, self.by_user = truth, by_user

    def _read(self, name: str, config: dict) -> tuple[pd.DataFrame, dict]:
        from metrics import METRICS, values_of
        if self.by_user:
            frame, _ = read_metrics(self.folder / f"{name}_{self.part}.csv", again(self.folder.parent, name, self.part))
            frame = frame[frame["user_id"].isin(self.truth.users)].reset_index(drop=True)
            if {*self.columns} <= {*frame} and np.array_equal(frame["user_id"], self.truth.users):
                self.users, self.first = self.truth.users, self.first or name
                self.lengths.update(int(column.split("@")[1]) for column in self.columns)
                return frame, {}
        ks = sorted({int(column.split("@")[1]) for column in self.columns if column.split("@")[0] in METRICS})
        path = self.folder.parent / "preds" / f"{name}_{self.part}.pqt"
        if not path.exists():
            raise WorkError(f"{path} is gone, and --by reads the lists; the command of that run makes them again")
        frame = read_frame(path, ("user_id", "track_id", "rank"))
        longest = config.get("request", {}).get("k") or int(frame["rank"].max() if len(frame) else 0) + 1
        lists = read_lists(frame, self.truth.users)
        values = values_of(lists, self.truth, [k for k in ks if k <= longest] or [longest])
        self.users, self.first = self.truth.users, self.first or name
        self.lengths.update(k for k in ks if k <= longest)
        return values.reset_index(), {}
