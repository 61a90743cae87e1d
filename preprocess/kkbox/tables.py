"""Number the users and songs of the KKBOX files and write plays.pqt, items and users, with SQL and arrays.

The plays are read once, on all cores, as dictionary columns: each text is stored once per block of the file. So 10
million plays need 0.5 GB, where the text of their ids would need 0.9. Of the metadata files only the rows of songs and
users with plays are kept.
"""
import csv
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.errors import WorkError
from harness.files import write_parquet
from harness.ids import clash, normalised

CONTEXT = ("source_system_tab", "source_screen_name", "source_type")
ROWS = 1 << 19      # rows of a row group of plays.pqt
NO_TARGET = -1      # target of a play of test.csv, in memory
SECOND = 1_000_000  # microseconds
IDS = ("msno", "song_id")
SEVERAL = ("genre_ids", "artist_name", "composer", "lyricist")   # cells with several values, separated by pipes


@dataclass
class Plays:
    """Every play in order: user, track int32 (N,) rows of the sorted id lists; n_train rows of train.csv first.

    context: {column: unsigned (N,) index of categories[column], or their number for unknown}
    target: int8 (N,), -1 for none. users, tracks: the ids, sorted Arrow texts.
    skipped: {file: rows without ids}
    """
    user: np.ndarray
    track: np.ndarray
    n_train: int
    context: dict
    categories: dict
    target: np.ndarray
    users: pa.Array
    tracks: pa.Array
    skipped: dict

    def __len__(self):
        return len(self.user)

    def table(self, rows):
        """Arrow table of some rows (an array of indices, or a slice with both ends) with the columns of plays.pqt."""
        number = np.r_[rows]   # the indices of an array or a slice
        columns = {"user_id": self.user[rows].astype(np.int64), "track_id": self.track[rows].astype(np.int64),
                   "timestamp": pa.array(number * SECOND).cast(pa.timestamp("us"))}
        for name in CONTEXT:
            code = self.context[name][rows]
            columns[name] = pa.DictionaryArray.from_arrays(
                pa.array(code.astype(np.int32), mask=code == len(self.categories[name])),
                pa.array(self.categories[name], pa.string()))
        target = self.target[rows]
        return pa.table({**columns, "target": pa.array(target, mask=target == NO_TARGET)})


# --------------------------------------------------------------------------- numbering

def read_plays(raw, with_test=True):
    """Plays of train.csv, then of test.csv. Reading of the metadata starts while the plays are numbered."""
    files = ("train", "test") if with_test else ("train",)
    parts = [*raw.pool.map(raw.encoded, files, ([*IDS, *CONTEXT, "target"], [*IDS, *CONTEXT]))]
    rows = [part.num_rows for part in parts]
    order = (*reversed(IDS), *CONTEXT, "target")   # the songs take longest
    chunks = {c: [chunk for part in parts if c in part.column_names for chunk in part[c].chunks] for c in order}
    del parts
    codes = raw.pool.map(encoded, map(chunks.pop, order))   # popped, so that each is freed when done
    raw.read_ahead("songs", "song_extra_info", "members")
    columns = dict(zip(order, codes, strict=True))
    target, words = columns.pop("target")
    target = np.array([*map(_small, words.to_pylist()), NO_TARGET], np.int8)[target]
    target = np.concatenate([target, np.full(sum(rows[1:]), NO_TARGET, np.int8)])
    known = np.logical_and.reduce([code < len(values) for code, values in map(columns.get, IDS)])
    kept = [int(part.sum()) for part in np.split(known, np.cumsum(rows)[:-1])]
    if not kept[0]:
        raise WorkError(f"{raw.files['train']} has no plays; the challenge's file has 7,377,418 rows")
    if not known.all():
        target, columns = target[known], {c: _without(code[known], values) for c, (code, values) in columns.items()}
    (track, tracks), (user, users), *context = columns.values()
    for values, column in ((tracks, "song_id"), (users, "msno")):
        if (texts := normalised(values)) is not values and len(texts.unique()) < len(values):
            one, other = clash(values.to_pylist())
            raise WorkError(f"the {column}s {one!a} and {other!a} differ only in Unicode form or in blanks around "
                            "them; write them alike")
    small = [code.astype(np.min_scalar_type(len(values))) for code, values in context]
    texts = [values.to_pylist() for _, values in context]
    return Plays(user, track, kept[0], dict(zip(CONTEXT, small, strict=True)), dict(zip(CONTEXT, texts, strict=True)),
                 target, users, tracks, {name: n - left for name, n, left in zip(files, rows, kept, strict=True)})


def encoded(chunks):
    """(codes int32 (N,), values) of dictionary chunks: indices of the sorted distinct values, their number for null."""
    import pyarrow.compute as pc
    if not chunks:
        return np.zeros(0, np.int32), pa.array([], pa.string())
    chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
    values = chunks[0].dictionary
    order = pc.sort_indices(values)
    place = np.empty(len(values) + 1, np.int32)
    place[order.to_numpy()], place[-1] = np.arange(len(values)), len(values)
    codes = [place.take(chunk.indices.fill_null(len(values)).to_numpy()) for chunk in chunks]   # take frees the GIL
    return np.concatenate(codes), values.take(order)


def _without(code, values):
    """Codes and values without unused values."""
    used = np.bincount(code, minlength=len(values) + 1) > 0
    used[-1] = True
    return (np.cumsum(used, dtype=np.int32) - 1)[code], values.filter(pa.array(used[:-1]))


def _small(text):
    """A text as a number of one byte, NO_TARGET if it is not one."""
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        return NO_TARGET
    return number if abs(number) < 128 else NO_TARGET


def write_ids(path, header, ids):
    """Write idx,id of sorted Arrow texts as csv, quoted if one of them needs it."""
    ids = ids.to_pylist()
    whole = "\n".join(ids)
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(header + "\n")
        if any(sign in whole for sign in '",\r') or whole.count("\n") >= len(ids):
            csv.writer(f, lineterminator="\n").writerows(enumerate(ids))
        else:
            f.writelines(f"{i},{name}\n" for i, name in enumerate(ids))


def write_plays(path, plays):
    """Write plays.pqt, one row group at a time."""
    import pyarrow.parquet as pq
    with pq.ParquetWriter(path, plays.table(slice(0, 0)).schema, compression="zstd", compression_level=1,
                          use_dictionary=[*CONTEXT], write_statistics=["timestamp"], column_encoding=dict.fromkeys(
                              ("user_id", "track_id", "timestamp"), "DELTA_BINARY_PACKED")) as out:
        for start in range(0, len(plays), ROWS):
            out.write_table(plays.table(slice(start, min(start + ROWS, len(plays)))), row_group_size=ROWS)


# --------------------------------------------------------------------------- metadata

def names(column):
    """SQL of the distinct names of a list, in their order and without '', or null if there are none."""
    given = f"list_filter({column}, lambda n: n <> '')"
    return f"""case when len({column}) = 1 and {column}[1] <> '' then {column}
                    else nullif(list_filter({given}, lambda n, i: list_position({given}, n) = i), []) end"""


def code(column):
    """SQL of a number as text: '52' for 52 and 52.0."""
    return rf"nullif(regexp_replace({column}, '\.0+$', ''), '')"


ITEMS = f"""
    select idx as track_id, song_id is not null as known,
           case when seconds > 0 and isfinite(seconds) then seconds end as song_length,
           {names('genre_ids')} as genres, {names('artist_name')} as artists, {names('composer')} as composers,
           {names('lyricist')} as lyricists, {code('language')} as language, nullif(name, '') as name, isrc,
           case when whole then upper(isrc[1:2]) end as country,
           case when whole then (case when isrc[6:7]::int > 17 then 1900 else 2000 end + isrc[6:7]::int) end::smallint
               as year
    from (select *, coalesce(regexp_full_match(isrc, '[A-Za-z]{{2}}[A-Za-z0-9]{{3}}[0-9]{{7}}'), false) as whole
          from (select *, nullif(code, '') as isrc, try_cast(song_length as double) / 1000 as seconds from given))"""
USERS = f"""
    select idx as user_id, msno is not null as known, case when years between 1 and 100 then years end as age,
           nullif(lower(gender), '') as gender, {code('city')} as city,
           {code('registered_via')} as registered_via,
           try_strptime({code('registration_init_time')}, '%Y%m%d')::date as registered,
           try_strptime({code('expiration_date')}, '%Y%m%d')::date as expires
    from (select *, try_cast({code('bd')} as smallint) as years from given)"""


def stripped(table):
    """An Arrow table of texts without surrounding whitespace, as from str.strip.

    The columns SEVERAL become lists, split at the pipes.
    """
    import pyarrow.compute as pc
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name in SEVERAL:
            parts = pc.split_pattern(column, "|")
            columns[name] = pa.ListArray.from_arrays(parts.offsets, pc.utf8_trim_whitespace(parts.values),
                                                     mask=parts.is_null())
        else:
            columns[name] = pc.utf8_trim_whitespace(column)
    return pa.table(columns)


def read_items(raw, tracks):
    """Arrow table of the songs' metadata, a row per track, with `known`: is in songs.csv."""
    rows, extra = raw.pool.map(raw.rows, ("songs", "song_extra_info"), (tracks, tracks))
    rows = rows.append_column("name", extra["name"]).append_column("code", extra["isrc"])
    return raw.select(ITEMS, stripped(rows).append_column("idx", pa.array(np.arange(len(tracks)))))


def read_users(raw, users):
    """Arrow table of the users' metadata, a row per user, with `known`: is in members.csv."""
    rows = stripped(raw.rows("members", users))
    return raw.select(USERS, rows.append_column("idx", pa.array(np.arange(len(users)))))


# --------------------------------------------------------------------------- results of the filters

def write_metadata(path, plays, items, users, kept):
    """Write items.pqt and users.pqt; returns counts. path: function from a file name to its output path."""
    popularity = np.bincount(plays.track[:plays.n_train], minlength=len(plays.tracks))
    write_parquet(path("items.pqt"), items.drop_columns(["known"])
                       .append_column("plays", pa.array(popularity)).append_column("kept", pa.array(kept.tracks)))
    write_parquet(path("users.pqt"), users.drop_columns(["known"])
                       .append_column("playlist", pa.array(kept.length)).append_column("kept", pa.array(kept.users)))
    return {"plays": len(plays), "train_rows": plays.n_train, "users": len(plays.users), "tracks": len(plays.tracks),
            "kept_users": int(kept.users.sum()), "kept_tracks": int(kept.tracks.sum())}


def write_points(path, plays, rows, position, part):
    """Write points.pqt and split.pqt (see preprocess/kkbox/__init__.py); returns counts."""
    from preprocess.kkbox.filters import PARTS, split_pairs
    words = pa.DictionaryArray.from_arrays(pa.array(part), pa.array(PARTS.tolist()))
    table = plays.table(rows).add_column(1, "position", pa.array(position)).add_column(3, "part", words)
    write_parquet(path("points.pqt"), table)
    first, part_of, count = split_pairs(plays.user[rows], plays.track[rows], part, len(plays.tracks))
    split = plays.table(rows[first]).select(["user_id", "track_id", "timestamp"])
    split = split.add_column(2, "part", pa.array(PARTS[part_of].tolist(), pa.string()))
    write_parquet(path("split.pqt"), split.append_column("count", pa.array(count)))
    points, pairs = (dict(zip(PARTS.tolist(), np.bincount(p, minlength=4).tolist(), strict=True))
                     for p in (part, part_of))
    del pairs["history"]
    return {"points": points, "pairs": pairs}
