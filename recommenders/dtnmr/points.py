"""What DTNMR reads: songs and users as bags of metadata columns, playlists as rows, and points to predict.

Nothing here is dense. A multi-hot vector is the list of its columns (`Bags`); the union of a playlist is
the list of columns that each of its rows adds, so a whole playlist costs as much as its rows have columns,
and the union before any row is a prefix. Equality with dense vectors: tests/recommenders/test_dtnmr.py.

Two sources of playlists: points.pqt (preprocess/kkbox/: plays in order, with the part of the app they came
from) and, where there is none, the time-ordered pairs of any split.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import UsageError, WorkError
from harness.metadata import in_order, read_table
from harness.readers import read_parquet

SONG_FIELDS = ("genres", "artists", "composers", "language", "styles", "tags")
USER_FIELDS = ("age", "gender", "city", "country")
NO_BEHAVIOUR = ("null", "settings")  # the source merges them with the missing value
PARTS = ("train", "val", "test")
METADATA = ("DTNMR describes songs and users by metadata; make the workspace with "
            "preprocess/0_get_plays_pqt.py kkbox or demo, or write the file")


# --------------------------------------------------------------------------- multi-hot vectors as lists

@dataclass
class Bags:
    """Multi-hot rows: row i has ones at columns[indptr[i]:indptr[i + 1]], ascending; `size` columns in all."""
    indptr: np.ndarray   # int64 (n + 1,)
    columns: np.ndarray  # int64
    size: int

    def dense(self):
        """The same as float32 (n, size); for tests and small data."""
        matrix = np.zeros((len(self.indptr) - 1, self.size), np.float32)
        matrix[np.repeat(np.arange(len(matrix)), np.diff(self.indptr)), self.columns] = 1
        return matrix


def pairs_of(column):
    """(rows int64, values str) of the values of a parquet column of lists or scalars; nulls and '' left out."""
    import pyarrow as pa
    import pyarrow.compute as pc
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    rows = np.arange(len(column))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows, column = pc.list_parent_indices(column).to_numpy().astype(np.int64), pc.list_flatten(column)
    column = column.cast(pa.string())
    kept = pc.fill_null(pc.not_equal(column, ""), False)
    return rows[kept.to_numpy(zero_copy_only=False)], column.filter(kept)


def vocabulary_of(column, rows=None):
    """Sorted distinct values (by their bytes) of a column, of all its rows or of a bool mask of them."""
    import pyarrow as pa
    row, value = pairs_of(column)
    if rows is not None:
        value = value.filter(pa.array(rows[row]))
    return sorted(value.unique().to_pylist(), key=str.encode)


def bags_of(table, vocabularies):
    """Bags of a table, one row per row of it. Each field owns len(vocabulary) + 1 columns, the last: unknown.

    vocabularies: {field: sorted values}. A row without a value of the vocabulary is unknown in that field.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    n, keys, size = table.num_rows, [], 0
    total = sum(len(v) + 1 for v in vocabularies.values())
    for field, values in vocabularies.items():
        row, value = pairs_of(table[field])
        place = pc.index_in(value, value_set=pa.array(values, pa.string()))
        known = place.is_valid().to_numpy(zero_copy_only=False)
        row, place = row[known], pc.drop_null(place).to_numpy().astype(np.int64)
        empty = np.ones(n, bool)
        empty[row] = False
        keys += [row * total + size + place, np.flatnonzero(empty) * total + size + len(values)]
        size += len(values) + 1
    keys = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return Bags(np.searchsorted(keys, np.arange(n + 1) * total), keys % max(total, 1), size)


# --------------------------------------------------------------------------- metadata of a workspace

def fields_of(path, table, fields, default):
    """The metadata columns to use: those asked for, or with None those of `default` that are there."""
    flag, there = f"--{path.stem.replace('item', 'song').rstrip('s')}-fields", ", ".join(table.column_names)
    missing = [f for f in fields or () if f not in table.column_names]
    if missing:
        raise UsageError(f"{flag}: {path} has no column {', '.join(missing)}; it has {there}")
    used = list(fields) if fields is not None else [f for f in default if f in table.column_names]
    if not used:
        raise WorkError(f"{path} has none of the columns {', '.join(default)}; name others with {flag}; "
                        f"there: {there}")
    return used


@dataclass
class Songs:
    """Songs by code: ids (n,) track ids ascending, bags, length float32 (n, 2) = (share of the longest, unknown).

    catalogue: int64 codes that negatives are drawn from; length is (n, 0) where no song has one.
    """
    ids: np.ndarray
    bags: Bags
    length: np.ndarray
    catalogue: np.ndarray
    vocabularies: dict
    longest: float


def read_songs(workdir, ids, hot, fields=None):
    """Songs of a workspace: all of `ids` (sorted); the vocabularies are those of the catalogue.

    The catalogue is items.pqt's column `kept` where there is one, the tracks `hot` otherwise.
    """
    import pyarrow.compute as pc
    path = Path(workdir) / "items.pqt"
    table = read_table(path, "track_id", required=METADATA)
    used = fields_of(path, table, fields, SONG_FIELDS)
    if "kept" in table.column_names:
        hot = table["track_id"].to_numpy()[pc.fill_null(table["kept"], False).to_numpy()]
        ids = np.union1d(ids, hot)
    table, catalogue = in_order(table, "track_id", ids), np.isin(ids, hot)
    vocabularies = {f: vocabulary_of(table[f], catalogue) for f in used}
    length, longest = np.zeros((len(ids), 0), np.float32), 0.0
    if "song_length" in table.column_names:
        seconds = table["song_length"].to_numpy(zero_copy_only=False).astype(np.float64)
        known = np.isfinite(seconds) & (seconds > 0)
        if (known & catalogue).any():
            longest = float(seconds[known & catalogue].max())
            length = np.stack([np.where(known, seconds, 0) / longest, ~known], 1).astype(np.float32)
    return Songs(ids, bags_of(table, vocabularies), length, np.flatnonzero(catalogue), vocabularies, longest)


def read_users(workdir, ids, fields=None):
    """(Bags of the users `ids`, {field: vocabulary}) from users.pqt; the vocabularies are those of these users."""
    path = Path(workdir) / "users.pqt"
    table = read_table(path, "user_id", required=METADATA)
    used = fields_of(path, table, fields, USER_FIELDS)
    table = in_order(table, "user_id", ids)
    vocabularies = {f: vocabulary_of(table[f]) for f in used}
    return bags_of(table, vocabularies), vocabularies


# --------------------------------------------------------------------------- playlists

@dataclass
class Playlists:
    """All playlists below one another: user u owns rows indptr[u] to indptr[u + 1], oldest first.

    user, song: int64 (N,) codes; behaviour: int64 (N,) or None; behaviours: its sorted values, the last: unknown
    level: int8 (N,), 0 known while training, 1 from the first val row on, 2 from the first test row on
    point: bool (N,), rows that are predicted from the rows before them
    """
    indptr: np.ndarray
    user: np.ndarray
    song: np.ndarray
    level: np.ndarray
    point: np.ndarray
    behaviour: np.ndarray | None = None
    behaviours: tuple = ()

    def points(self, part):
        """Rows of the points of 'train', 'val' or 'test', int64 ascending."""
        return np.flatnonzero(self.point & (self.level == PARTS.index(part)))

    def ends(self, level):
        """Rows (U,), exclusive, up to which the playlists are known at a level: before the first row above it."""
        ends = self.indptr[1:].copy()
        late = np.flatnonzero(self.level > level)
        np.minimum.at(ends, self.user[late], late)
        return ends

    def additions(self, bags):
        """What each row adds to the union of its playlist: Bags of N rows. One sort of all columns of all rows."""
        counts = np.diff(bags.indptr)[self.song]
        row = np.repeat(np.arange(len(self.song)), counts)
        columns = bags.columns[ranges(bags.indptr[self.song], counts)]
        _, first = np.unique(self.user[row] * max(bags.size, 1) + columns, return_index=True)
        first.sort()
        return Bags(np.searchsorted(row[first], np.arange(len(self.song) + 1)), columns[first], bags.size)


def ranges(starts, counts):
    """Concatenated ranges start, start + 1, ... of `counts` numbers each, int64."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def playlists_of_points(path, users):
    """(Playlists, track ids of their rows) from points.pqt; `users`: the ids of the user codes, ascending.

    A history row behind a point is the beginning of a test playlist: known to nobody who trains, and of no part of
    the split (kkbox_filters.split_pairs has the same rule). What `target` says is behaviour and decides nothing.
    """
    import pyarrow as pa
    table = read_parquet(path)
    missing = [c for c in ("user_id", "position", "track_id", "part") if c not in table.column_names]
    if missing:
        raise WorkError(f"{path} has no column {', '.join(missing)}; make it anew with "
                        "preprocess/0_get_plays_pqt.py kkbox --overwrite")
    for name in ("user_id", "position", "track_id"):
        if not pa.types.is_integer(table[name].type) or table[name].null_count:
            raise WorkError(f"{path}: {name} must be integers without gaps, but is {table[name].type} "
                            f"with {table[name].null_count} nulls")
    user_id, position, track = (table[c].to_numpy() for c in ("user_id", "position", "track_id"))
    order = np.lexsort((position, user_id))
    order = order[np.isin(user_id[order], users)]
    table, user = table.take(order), np.searchsorted(users, user_id[order])
    part = np.array(table["part"].cast(pa.string()).to_pylist(), dtype=object)
    point = part != "history"
    behind = running_maximum(point.astype(np.int8), user) > 0
    level = np.where((part == "test") | (behind & ~point), 2, np.where(part == "val", 1, 0)).astype(np.int8)
    indptr = np.searchsorted(user, np.arange(len(users) + 1))
    level = running_maximum(level, user)
    behaviour, values = None, ()
    if "source_system_tab" in table.column_names:
        behaviour, values = behaviours_of(table["source_system_tab"], level == 0)
    lists = Playlists(indptr, user, track[order], level, point, behaviour, values)
    return lists, track[order]


def behaviours_of(column, known):
    """Codes (N,) of a text column and its values: those of the rows `known` (bool), sorted; the last is unknown."""
    import pyarrow as pa
    import pyarrow.compute as pc
    column = column.combine_chunks().cast(pa.string())
    values = tuple(v for v in vocabulary_of(column, known) if v not in NO_BEHAVIOUR)
    place = pc.fill_null(pc.index_in(column, value_set=pa.array(values, pa.string())), len(values))
    return place.to_numpy().astype(np.int64), (*values, None)


def running_maximum(level, user):
    """Largest value so far within each user's rows (users ascending)."""
    lifted = user.astype(np.int64) * 4 + level
    return (np.maximum.accumulate(lifted) - user * 4).astype(np.int8) if len(level) else level


def playlists_of_split(split, order=None, history=1):
    """(Playlists, track ids) of a split: train in time's order, then val, then test; no behaviour.

    history: rows of a playlist before its first training point. A song is in a playlist once. Equal times, or counts,
    are no order: a hash of user and track breaks them, as in Split.sequences.
    """
    import torch

    from harness.ties import tie_key
    indptr, items = split.sequences(order)
    user, item = [np.repeat(np.arange(split.n_users), np.diff(indptr))], [items]
    position = np.arange(len(items)) - indptr[user[0]]
    level, point = [np.zeros(len(items), np.int8)], [position >= history]
    for number, part in enumerate(PARTS[1:], 1):
        if part in split.parts:
            pairs = split.part(part)
            key = pairs.count if pairs.time is None or order == "count" else pairs.time
            tie = tie_key(torch.from_numpy(split.users[pairs.user]), torch.from_numpy(split.tracks[pairs.item]), seed=0)
            rows = np.lexsort((tie.numpy(), key, pairs.user))
            user.append(pairs.user[rows])
            item.append(pairs.item[rows])
            level.append(np.full(len(rows), number, np.int8))
            point.append(np.ones(len(rows), bool))
    user, item, level, point = (np.concatenate(x) for x in (user, item, level, point))
    rows = np.argsort(user, kind="stable")
    tracks = split.tracks[item[rows]]
    return Playlists(np.searchsorted(user[rows], np.arange(split.n_users + 1)), user[rows], tracks,
                     level[rows], point[rows]), tracks
