"""Recommendation lists and held-out interactions, read and validated for metrics.py.

A frame of lists has the columns `user_id, track_id, rank` (rank from 0), a truth `user_id, track_id`;
both are whole numbers. `read_frame` takes either from a parquet or csv file, where ids may also be texts.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import delimited, ids, runs
from harness.errors import UsageError, WorkError
from harness.readers import parquet_schema, read_parquet, reading

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Truth:
    """Distinct pairs: users int64 (U,) ascending ids; user int64 (N,) row of `users`; track int64 (N,) ids."""
    users: np.ndarray
    user: np.ndarray
    track: np.ndarray


@dataclass
class Lists:
    """Lists of U users, a row per place, sorted by user and place, no track twice in a list.

    users: int64 (U,) ascending ids; user: int64 (N,) row of `users`; track: int64 (N,) ids;
    place: int64 (N,) from 0; length: int64 (U,), 0 for a user without a list
    """
    users: np.ndarray
    user: np.ndarray
    track: np.ndarray
    place: np.ndarray
    length: np.ndarray
    packed: np.ndarray   # int64 (N,) ascending: (user * tracks + track) * places + place
    tracks: int          # room for track ids and for places in `packed`
    places: int

    def ranks_of(self, user: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Rank (from 0) of each track in the list of its user (row of `users`), -1 where it is not listed; int64."""
        if not len(self.packed):
            return np.full(len(user), -1)
        key = (user * self.tracks + track) * self.places
        at = np.minimum(np.searchsorted(self.packed, key), len(self.packed) - 1)
        place = self.packed[at] - key
        return np.where((track < self.tracks) & (place >= 0) & (place < self.places), place, -1)


def read_lists(preds: pd.DataFrame, users: np.ndarray, names: Sequence[str] | None = None) -> Lists:
    """Lists of `users` (int64 (U,), ascending) from a frame; lists of other users are left out.

    names: what an error calls user i, by its id (default: the id)
    Rows may be in any order. A track that a list contains twice keeps its first rank, and what follows
    moves up. WorkError unless the ranks of each user count 0, 1, 2, ... and track ids are at least 0.
    """
    user_id, track, rank = (whole_numbers(preds, c, "the lists") for c in ("user_id", "track_id", "rank"))
    user = np.searchsorted(users, user_id)
    known = users[np.minimum(user, len(users) - 1)] == user_id if len(users) else np.zeros(len(user), bool)
    if not known.all():
        user, track, rank = user[known], track[known], rank[known]
    if (user[1:] < user[:-1]).any() or not np.array_equal(rank, places_of(user)):
        order = np.lexsort((rank, user))
        user, track, rank = user[order], track[order], rank[order]
        due = places_of(user)
        wrong = rank != due
        if wrong.any():
            at = int(wrong.argmax())
            who = users[user[at]] if names is None else names[users[user[at]]]
            raise WorkError(f"the ranks of each user must count 0, 1, 2, ... without gaps, "
                            f"but user_id {who} has {rank[at]} where {due[at]} is due")
    tracks, places = int(track.max(initial=0)) + 1, int(rank.max(initial=0)) + 1
    if track.min(initial=0) < 0 or len(users) * tracks * places >= 2**62:
        raise WorkError(f"track_id of the lists must be rows of trackid_sorted.csv, "
                        f"but runs from {track.min()} to {track.max()}")
    key = user * tracks + track
    packed = np.sort(key * places + rank)
    if (np.diff(packed // places) == 0).any():
        kept = np.sort(np.unique(key, return_index=True)[1])  # first places, back in the lists' order
        user, track = user[kept], track[kept]
        rank = places_of(user)
        packed = np.sort((user * tracks + track) * places + rank)
    return Lists(users, user, track, rank, np.bincount(user, minlength=len(users)), packed, tracks, places)


def read_truth(truth: pd.DataFrame) -> Truth:
    """Truth from a frame; a pair that it contains twice counts once. WorkError for track ids below 0."""
    user_id, track = (whole_numbers(truth, c, "the truth") for c in ("user_id", "track_id"))
    same = user_id[1:] == user_id[:-1]
    if ((user_id[1:] < user_id[:-1]) | same & (track[1:] < track[:-1])).any():
        order = np.lexsort((track, user_id))
        user_id, track = user_id[order], track[order]
        same = user_id[1:] == user_id[:-1]
    first = np.ones(len(user_id), bool)
    first[1:] = ~(same & (track[1:] == track[:-1]))
    if (track < 0).any():
        raise WorkError(f"track_id of the truth must be at least 0, but {track.min()} is among them")
    users, user = np.unique(user_id[first], return_inverse=True)
    return Truth(users, user, track[first])


def digest_of(lists: Lists, truth: Truth, files: Iterable[str] = ()) -> str:
    """sha256 (hex) of lists and of the truth they are evaluated on: metrics of one digest belong together.

    files: digests of the files of the split
    """
    digest = hashlib.sha256(" ".join(files).encode())
    for column in (truth.users, truth.user, truth.track, lists.user, lists.track):
        digest.update(len(column).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
    return digest.hexdigest()


def places_of(user: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each stretch of equal values; int64, the shape of `user`."""
    row = np.arange(len(user))
    first = np.ones(len(user), bool)
    first[1:] = user[1:] != user[:-1]
    return row - np.maximum.accumulate(np.where(first, row, 0))


def whole_numbers(frame: pd.DataFrame, column: str, where: str | Path) -> np.ndarray:
    """A column as int64 (N,); WorkError when it is absent, has gaps or is not of integers."""
    if column not in frame.columns:
        raise WorkError(f"{where} must have a column {column}, but have {', '.join(map(str, frame.columns))}")
    values = frame[column]
    gaps = int(values.isna().sum())
    whole = values.dtype.kind in "iu" and not (values.dtype.kind == "u" and (values > 2**63 - 1).any())
    if len(values) and (gaps or not whole):
        raise WorkError(f"{column} of {where} must be whole numbers without gaps, "
                        f"but is {values.dtype} with {gaps} gaps")
    return values.to_numpy(np.int64)


def read_frame(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a parquet, .csv or .tsv file as a frame.

    user_id and track_id are int64, or texts where one of the column's ids is no canonical whole number that fits
    (harness/ids.py); ids that are written in another form than they are compared in are named on stderr.
    UsageError when there is no such file, WorkError when it cannot be read, lacks a column, or has a malformed row.
    """
    import sys

    import pandas as pd
    path = Path(path).expanduser()
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    with reading(path, path.suffix.lstrip(".") if delimiter else "parquet"):
        names = delimited.header(path, delimiter)[1] if delimiter else parquet_schema(path).names
        if any(c not in names for c in columns):
            raise WorkError(f"{path} must have the columns {', '.join(columns)}, but has {', '.join(names) or 'none'}")
        table = delimited.read_texts(path, columns, delimiter) if delimiter else read_parquet(path, columns)
    frame = {}
    for name in columns:
        if name not in ("user_id", "track_id"):
            frame[name] = _whole_texts(table[name], path, name) if delimiter else table[name].to_pandas()
        elif _is_number(table.schema.field(name).type):
            frame[name] = table[name].to_pandas()
        else:
            forms = ids.Forms()
            frame[name] = ids.column(table[name], path, name, forms).to_pandas()
            if said := forms.sentence(f"{path}, {name}"):
                print(said, file=sys.stderr)
    return pd.DataFrame(frame)


def _is_number(kind):
    """Whether `whole_numbers` reads or refuses a column of this type, as it may have gaps."""
    import pyarrow as pa
    return pa.types.is_signed_integer(kind) or pa.types.is_floating(kind)


def _whole_texts(column, path, name):
    """Texts of whole numbers as int64; WorkError with the first that is none."""
    import pyarrow.compute as pc
    texts = pc.utf8_trim_whitespace(column.combine_chunks())
    if (values := ids.numbers(texts)) is not None:
        return values.to_pandas()
    wrong = ids.first_other(texts)
    raise WorkError(f"{path}: {name} holds {texts[wrong].as_py()!r}, which is no whole number")


def saved_lists(workdir: Path, names: Iterable[str]) -> list[tuple[str, str, Path]]:
    """Saved lists of the named runs, or of all: [(run, part, path)] in order of run and part.

    A file's name is {run}_{part}: x_cold_test is the cold test of x, unless there is a run x_cold.
    """
    known = {name for name, _ in runs.find_runs(workdir)}
    jobs = []
    for path in sorted((workdir / "preds").glob("*.pqt")):
        ways = [(path.stem.removesuffix(f"_{part}"), part) for part in sorted(runs.PART_ORDER, key=len, reverse=True)
                if path.stem.endswith(f"_{part}") and not path.name.startswith(".")]
        if ways:
            jobs.append((*next((way for way in ways if way[0] in known), ways[0]), path))
    names, saved = list(names), sorted({run for run, _, _ in jobs})
    if not saved:
        raise UsageError(f"no saved recommendations in {workdir / 'preds'}; run a recommender first, "
                         "or name two files with --preds and --truth")
    unknown = [name for name in names if name not in saved]
    if unknown:
        import difflib
        near = difflib.get_close_matches(unknown[0], saved, n=3, cutoff=0.4) or saved[:3]
        raise UsageError(f"no saved recommendations of a run {unknown[0]!r}; there are {len(saved)} runs, "
                         f"among them {', '.join(near)}")
    return sorted((job for job in jobs if not names or job[0] in names),
                  key=lambda job: (job[0], runs.PART_ORDER.index(job[1])))
