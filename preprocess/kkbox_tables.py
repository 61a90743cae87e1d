"""Number the listeners and songs of the KKBOX files and write plays.pqt, items and users: SQL and arrays.

The plays are read once, on all cores, as dictionaries: a text is kept once per block of the file, a row is a few
numbers. 10 million plays take 0.5 GB so, where their ids alone would take 0.9. Of the metadata files only the rows of
songs and listeners that were played are kept.
"""
import csv
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

import runs
from runs import WorkError

CONTEXT = ("source_system_tab", "source_screen_name", "source_type")
ROWS = 1 << 19      # rows of a row group of plays.pqt
NO_TARGET = -1      # target of a play of test.csv, in memory
SECOND = 1_000_000  # microseconds
IDS = {"msno": "listener", "song_id": "song"}


@dataclass
class Plays:
    """Every play in order: user, track int32 (N,) rows of the sorted id lists; n_train rows of train.csv first.

    context: {column: unsigned (N,) place in categories[column], the number of them where unknown}
    target: int8 (N,), -1 where there is none. users, tracks: the ids, sorted. skipped: {file: rows without ids}
    """
    user: np.ndarray
    track: np.ndarray
    n_train: int
    context: dict
    categories: dict
    target: np.ndarray
    users: list
    tracks: list
    skipped: dict

    def __len__(self):
        return len(self.user)

    def table(self, rows=slice(None)):
        """Arrow table of some rows, in the columns of plays.pqt."""
        number = np.arange(len(self))[rows]
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
    """Plays of train.csv, then of test.csv; leaves the tables `song` and `listener` (id, idx) in the session."""
    files = ("train", "test") if with_test else ("train",)
    parts = [raw.encoded(name, [*IDS, *CONTEXT, *(["target"] if name == "train" else [])]) for name in files]
    rows = [part.num_rows for part in parts]
    target, words = encoded(parts[0]["target"].chunks)
    target = np.array([*map(_small, words.to_pylist()), NO_TARGET], np.int8)[target]
    target = np.concatenate([target, np.full(sum(rows[1:]), NO_TARGET, np.int8)])
    columns = {c: encoded([chunk for part in parts for chunk in part[c].chunks]) for c in (*IDS, *CONTEXT)}
    del parts
    known = np.logical_and.reduce([code < len(values) for code, values in map(columns.get, IDS)])
    kept = [int(part.sum()) for part in np.split(known, np.cumsum(rows)[:-1])]
    if not kept[0]:
        raise WorkError(f"{raw.files['train']} has no plays; the challenge's file has 7,377,418 rows")
    if not known.all():
        target, columns = target[known], {c: _without(code[known], values) for c, (code, values) in columns.items()}
    for column, table in IDS.items():
        values = columns[column][1]
        raw.give(table, pa.table({column: values, "idx": pa.array(np.arange(len(values), dtype=np.int32))}))
    texts = {c: values.to_pylist() for c, (_, values) in columns.items()}
    user, track, *context = (code for code, _ in columns.values())
    context = {c: code.astype(np.min_scalar_type(len(texts[c]))) for c, code in zip(CONTEXT, context, strict=True)}
    return Plays(user, track, kept[0], context, {c: texts[c] for c in CONTEXT}, target, texts["msno"],
                 texts["song_id"], {name: n - left for name, n, left in zip(files, rows, kept, strict=True)})


def encoded(chunks):
    """(codes int32 (N,), values) of dictionary chunks: places in the sorted distinct values, their number for null."""
    import pyarrow.compute as pc
    if not chunks:
        return np.zeros(0, np.int32), pa.array([], pa.string())
    chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
    values = chunks[0].dictionary
    order = pc.sort_indices(values)
    place = np.empty(len(values) + 1, np.int32)
    place[order.to_numpy()], place[-1] = np.arange(len(values)), len(values)
    return np.concatenate([place[chunk.indices.fill_null(len(values)).to_numpy()] for chunk in chunks]), \
        values.take(order)


def _without(code, values):
    """Codes and values without the values that no row has."""
    used = np.bincount(code, minlength=len(values) + 1) > 0
    used[-1] = True
    return (np.cumsum(used, dtype=np.int32) - 1)[code], values.filter(pa.array(used[:-1]))


def _small(text):
    """A number of one byte out of a text, NO_TARGET where it is none."""
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        return NO_TARGET
    return number if abs(number) < 128 else NO_TARGET


def write_ids(path, header, ids):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(header + "\n")
        csv.writer(f, lineterminator="\n").writerows(enumerate(ids))


def write_plays(path, plays):
    """plays.pqt, a row group at a time."""
    import pyarrow.parquet as pq
    with pq.ParquetWriter(path, plays.table(slice(0, 0)).schema, compression="zstd", compression_level=1,
                          use_dictionary=["user_id", "track_id", *CONTEXT],
                          column_encoding={"timestamp": "DELTA_BINARY_PACKED"}) as out:
        for start in range(0, len(plays), ROWS):
            out.write_table(plays.table(slice(start, start + ROWS)), row_group_size=ROWS)


# --------------------------------------------------------------------------- metadata

def names(column):
    """SQL of the distinct names between the pipes of a cell, in their order, or null where there is none."""
    several = f"list_filter(list_transform(string_split({column}, '|'), lambda name: trim(name)), lambda n: n <> '')"
    return f"""case when trim({column}) = '' then null when not contains({column}, '|') then [trim({column})]
                    else nullif(list_filter({several}, lambda n, i: list_position({several}, n) = i), []) end"""


def code(column):
    """SQL of a code as text: '52' for 52, 52.0 and ' 52 '."""
    return rf"nullif(regexp_replace(trim({column}), '\.0+$', ''), '')"


ITEMS = f"""
    select idx::bigint as track_id, known is not null as known,
           case when seconds > 0 and isfinite(seconds) then seconds end as song_length,
           {names('genre_ids')} as genres, {names('artist_name')} as artists, {names('composer')} as composers,
           {names('lyricist')} as lyricists, {code('language')} as language, nullif(trim(name), '') as name, isrc,
           case when whole then upper(isrc[1:2]) end as country,
           case when whole then (case when isrc[6:7]::int > 17 then 1900 else 2000 end + isrc[6:7]::int) end::smallint
               as year
    from (select idx, s.song_id as known, try_cast(song_length as double) / 1000 as seconds, genre_ids, artist_name,
                 composer, lyricist, language, name, nullif(trim(isrc), '') as isrc,
                 coalesce(regexp_full_match(trim(isrc), '[A-Za-z]{{2}}[A-Za-z0-9]{{3}}[0-9]{{7}}'), false) as whole
          from song left join s using (song_id) left join e using (song_id))
    order by idx"""
USERS = f"""
    select idx::bigint as user_id, known is not null as known, case when years between 1 and 100 then years end as age,
           nullif(lower(trim(gender)), '') as gender, {code('city')} as city,
           {code('registered_via')} as registered_via,
           try_strptime(registration_init_time, '%Y%m%d')::date as registered,
           try_strptime(expiration_date, '%Y%m%d')::date as expires
    from (select *, m.msno as known, try_cast(bd as smallint) as years from listener left join m using (msno))
    order by idx"""


def read_items(raw):
    """Arrow table of the songs' metadata in the order of trackid_sorted.csv, with `known`: stands in songs.csv."""
    _played(raw, "s", "songs", "song_id")
    _played(raw, "e", "song_extra_info", "song_id")
    return raw.table(ITEMS)


def read_users(raw):
    """Arrow table of the listeners' metadata in the order of userid_sorted.csv, with `known`: in members.csv."""
    _played(raw, "m", "members", "msno")
    return raw.table(USERS)


def _played(raw, table, view, key):
    """Make a table of the rows of a file that were played, the first of each id; tells of ids that stand twice."""
    raw.run(f"create temp table {table} as from {view} where {key} in (select {key} from {IDS[key]})")
    if twice := raw.one(f"select count(*) - count(distinct {key}) from {table}"):
        print(f"{raw.files[view].name}: {twice} rows repeat a {key}; the first row counts")
        raw.run(f"delete from {table} where rowid not in (select min(rowid) from {table} group by {key})")


# --------------------------------------------------------------------------- what the filters made of them

def write_metadata(path, plays, items, users, kept):
    """items.pqt and users.pqt; returns counts. path: function from a file's name to where it is written."""
    popularity = np.bincount(plays.track[:plays.n_train], minlength=len(plays.tracks))
    runs.write_parquet(path("items.pqt"), items.drop_columns(["known"])
                       .append_column("plays", pa.array(popularity)).append_column("kept", pa.array(kept.tracks)))
    runs.write_parquet(path("users.pqt"), users.drop_columns(["known"])
                       .append_column("playlist", pa.array(kept.length)).append_column("kept", pa.array(kept.users)))
    return {"plays": len(plays), "train_rows": plays.n_train, "users": len(plays.users), "tracks": len(plays.tracks),
            "kept_users": int(kept.users.sum()), "kept_tracks": int(kept.tracks.sum())}


def write_points(path, plays, rows, position, part):
    """points.pqt and split.pqt, see kkbox.py; returns counts."""
    from preprocess.kkbox_filters import PARTS, split_pairs
    words = pa.DictionaryArray.from_arrays(pa.array(part), pa.array(PARTS.tolist()))
    table = plays.table(rows).add_column(1, "position", pa.array(position)).add_column(3, "part", words)
    runs.write_parquet(path("points.pqt"), table)
    first, part_of, count = split_pairs(plays.user[rows], plays.track[rows], part, len(plays.tracks))
    split = plays.table(rows[first]).select(["user_id", "track_id", "timestamp"])
    split = split.add_column(2, "part", pa.array(PARTS[part_of].tolist(), pa.string()))
    runs.write_parquet(path("split.pqt"), split.append_column("count", pa.array(count)))
    points, pairs = (dict(zip(PARTS.tolist(), np.bincount(p, minlength=4).tolist(), strict=True))
                     for p in (part, part_of))
    del pairs["history"]
    return {"points": points, "pairs": pairs}
