"""The workspace for explore.py: plays in a DuckDB session, counts by user and track, metadata in row order."""
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

import dataset
from harness.errors import WorkError
from harness.files import checksum
from harness.metadata import read_table
from harness.readers import read_json
from preprocess import protocols, typed


@dataclass
class Workspace:
    """An opened workspace; created by `opened`.

    log: protocols.Log with the views `plays` (user_id, track_id, timestamp, count) and `pairs` (user_id, track_id, n)
    about: dataset.json, or {}; time: real, ordinal or none; ids: track ids in row order
    split_only: True if there is no plays.pqt, so that plays are the rows of data/*.pqt
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
        columns = self.log.run("select user_id, count(*)::bigint as tracks, sum(n)::bigint as plays from pairs "
                               "group by user_id order by user_id").fetchnumpy()
        return tuple(np.asarray(columns[c]) for c in ("user_id", "tracks", "plays"))

    @cached_property
    def by_track(self):
        """(users (n,), plays (n,)) int64 of every track of the list, 0 for a track without plays."""
        columns = self.log.run("select track_id, count(*)::bigint as users, sum(n)::bigint as plays from pairs "
                               "group by track_id").fetchnumpy()
        users, plays = np.zeros((2, len(self.ids)), np.int64)
        users[columns["track_id"]], plays[columns["track_id"]] = columns["users"], columns["plays"]
        return users, plays

    @cached_property
    def matrix(self):
        """Pairs as csr float32 (U, n) of ones, rows as in `by_user`."""
        from scipy.sparse import csr_matrix
        pairs = self.log.run("select user_id, track_id from pairs order by user_id, track_id").fetchnumpy()
        row = np.searchsorted(self.by_user[0], pairs["user_id"])
        return csr_matrix((np.ones(len(row), np.float32), (row, pairs["track_id"])),
                          shape=(len(self.by_user[0]), len(self.ids)))

    @cached_property
    def items(self):
        """items.pqt as an arrow table whose row i is track i (nulls for missing tracks), or None."""
        return read_table(self.path / "items.pqt", "track_id", len(self.ids))

    @cached_property
    def users(self):
        """users.pqt as an arrow table, or None."""
        return read_table(self.path / "users.pqt", "user_id")

    @cached_property
    def embeddings(self):
        """Names of the embeddings of the workspace."""
        return dataset.embedding_names(self.path)

    def embedding(self, name):
        """Memory-mapped float (n, D), checked; NaN rows are tracks without an embedding."""
        return dataset.open_embedding(self.path, name, len(self.ids), self.checksum)

    @cached_property
    def checksum(self):
        return checksum(self.path / "trackid_sorted.csv")


def plays_of(workdir):
    """Path of the plays of a workspace and whether they are a split: plays.pqt, else a pattern of the split's parts.

    Raises WorkError if there is neither.
    """
    workdir = Path(workdir)
    if (workdir / "plays.pqt").exists():
        return workdir / "plays.pqt", False
    if (workdir / "data" / "train.pqt").exists():
        return workdir / "data" / "*.pqt", True
    raise WorkError(f"{workdir} has neither plays.pqt nor data/train.pqt; run preprocess/0_get_plays_pqt.py first")


def opened(workdir, memory, spill, **settings):
    """Open the workspace in a folder; use its `log` as a context manager, which closes the session.

    memory: bytes; spill: folder for temporary files beyond that. Raises WorkError for a folder that is not a
    workspace, whose 0_get_plays_pqt.py was interrupted, or whose plays have tracks absent from the track list.
    """
    ids, _ = dataset.read_tracks(workdir)
    plays, split_only = plays_of(workdir)
    manifest = workdir / "dataset.json"
    about = read_json(manifest, {"status": str, "time": str, "name": str}) if manifest.exists() else {}
    if about.get("status", "finished") != "finished":
        raise WorkError(f"{manifest} is not finished: writing plays.pqt was interrupted; run 0_get_plays_pqt.py again")
    columns, timed = protocols.inspect(plays)
    time = about.get("time", "real") if timed else "none"
    if time == "real":
        typed.check_times(plays)
    log = protocols.Log(plays, columns, memory, spill)
    rows, low, high = log.run("select count(*), min(track_id), max(track_id) from plays").fetchone()
    if not rows:
        raise WorkError(f"{plays} has no rows, so there is nothing to explore")
    if low < 0 or high >= len(ids):
        raise WorkError(f"{plays}: track_id runs from {low} to {high}, but trackid_sorted.csv has {len(ids)} rows; "
                        "run 0_get_plays_pqt.py again")
    log.run("create temp table pairs as select user_id, track_id, sum(count)::bigint as n from plays group by all")
    return Workspace(Path(workdir), log, about, time, ids, split_only, **settings)
