"""A workspace as explore.py sees it: its plays in a DuckDB session, counts by user and track, metadata in row order."""
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

import dataset
from harness.errors import WorkError
from harness.files import checksum
from harness.metadata import read_table
from harness.readers import read_json
from preprocess import protocols


@dataclass
class Workspace:
    """One opened workspace; made by `opened`.

    log: protocols.Log with the views `plays` (user_id, track_id, timestamp, count) and `pairs` (user_id, track_id, n)
    about: dataset.json, {} where there is none; time: real, ordinal or none; ids: track ids in row order
    split_only: there is no plays.pqt, so plays are the rows of data/*.pqt
    gap: minutes without a play that end a session; others: [(name, Path)] of workspaces to compare with
    """
    path: Path
    log: protocols.Log
    about: dict
    time: str
    ids: list
    split_only: bool
    gap: int = 30
    seed: int = 42
    others: list = field(default_factory=list)

    @property
    def name(self):
        return self.about.get("name", self.path.name)

    @cached_property
    def by_user(self):
        """(user ids int64 (U,), tracks (U,), plays (U,)) of every user with plays, ascending."""
        found = self.log.run("select user_id, count(*)::bigint as tracks, sum(n)::bigint as plays from pairs "
                             "group by user_id order by user_id").fetchnumpy()
        return tuple(np.asarray(found[c]) for c in ("user_id", "tracks", "plays"))

    @cached_property
    def by_track(self):
        """(users (n,), plays (n,)) int64 of every track of the list, 0 where nobody played it."""
        found = self.log.run("select track_id, count(*)::bigint as users, sum(n)::bigint as plays from pairs "
                             "group by track_id").fetchnumpy()
        users, plays = np.zeros((2, len(self.ids)), np.int64)
        users[found["track_id"]], plays[found["track_id"]] = found["users"], found["plays"]
        return users, plays

    @cached_property
    def matrix(self):
        """Pairs as csr float32 (U, n) of ones, rows as in `by_user`."""
        from scipy.sparse import csr_matrix
        found = self.log.run("select user_id, track_id from pairs order by user_id, track_id").fetchnumpy()
        row = np.searchsorted(self.by_user[0], found["user_id"])
        return csr_matrix((np.ones(len(row), np.float32), (row, found["track_id"])),
                          shape=(len(self.by_user[0]), len(self.ids)))

    @cached_property
    def items(self):
        """items.pqt as an arrow table whose row i is track i (nulls where it has none), or None."""
        return read_table(self.path / "items.pqt", "track_id", len(self.ids))

    @cached_property
    def users(self):
        """users.pqt as an arrow table, or None."""
        return read_table(self.path / "users.pqt", "user_id")

    @cached_property
    def embeddings(self):
        """Names of the embeddings that were made for this track list."""
        return dataset.embedding_names(self.path)

    def embedding(self, name):
        """Memory-mapped float (n, D), checked; rows of NaN are tracks without one."""
        return dataset.open_embedding(self.path, name, len(self.ids), self.checksum)

    @cached_property
    def checksum(self):
        return checksum(self.path / "trackid_sorted.csv")


def plays_of(workdir):
    """The plays of a workspace: plays.pqt, else the parts of its split as a pattern; WorkError without either."""
    workdir = Path(workdir)
    if (workdir / "plays.pqt").exists():
        return workdir / "plays.pqt", False
    if (workdir / "data" / "train.pqt").exists():
        return workdir / "data" / "*.pqt", True
    raise WorkError(f"{workdir} has neither plays.pqt nor data/train.pqt; preprocess/0_get_plays_pqt.py makes plays")


def opened(workdir, memory, spill, **settings):
    """Workspace of a folder; use its `log` as a context manager, which closes the session.

    memory: bytes; spill: folder for what memory cannot hold. Raises WorkError for a folder that is no
    workspace, whose stage 0 was interrupted, or whose plays name tracks that the list lacks.
    """
    ids, _ = dataset.read_tracks(workdir)
    plays, split_only = plays_of(workdir)
    manifest = workdir / "dataset.json"
    about = read_json(manifest, {"status": str, "time": str, "name": str}) if manifest.exists() else {}
    if about.get("status", "finished") != "finished":
        raise WorkError(f"{manifest} says that making plays.pqt was interrupted; run 0_get_plays_pqt.py again")
    columns, timed = protocols.inspect(plays)
    time = about.get("time", "real") if timed else "none"
    log = protocols.Log(plays, columns, memory, spill)
    rows, low, high = log.run("select count(*), min(track_id), max(track_id) from plays").fetchone()
    if not rows:
        raise WorkError(f"{plays} has no rows, so there is nothing to explore")
    if low < 0 or high >= len(ids):
        raise WorkError(f"{plays}: track_id runs from {low} to {high}, but trackid_sorted.csv has {len(ids)} rows")
    log.run("create temp table pairs as select user_id, track_id, sum(count)::bigint as n from plays group by all")
    return Workspace(Path(workdir), log, about, time, ids, split_only, **settings)
