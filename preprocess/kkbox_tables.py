"""Number the listeners and songs of the KKBOX files and write plays.pqt, items and users: SQL and arrays.

Every row of the plays is read as numbers: 64-bit hashes of its ids and of its context. Their text is taken from the
metadata files, and from a second look at the plays for what those lack. That keeps 10 million plays in 250 MB, where
their ids alone would take 900. Two ids of one hash stop the work (at the challenge's size, one chance in 10 ** 7).
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
IDS = (("user", "listener", "msno"), ("track", "song", "song_id"))
WAY = f"hash({', '.join(CONTEXT)})"  # how a song was come by: the three context columns together


@dataclass
class Plays:
    """Every play in order: user, track int32 (N,) rows of the sorted id lists; n_train rows of train.csv first.

    context: {column: uint8 or uint16 (N,) place in categories[column], the number of them where unknown}
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
                pa.array(code.astype(np.int16), mask=code == len(self.categories[name])),
                pa.array(self.categories[name], pa.string()))
        target = self.target[rows]
        return pa.table({**columns, "target": pa.array(target, mask=target == NO_TARGET)})


# --------------------------------------------------------------------------- numbering

def read_plays(raw, with_test=True):
    """Plays of train.csv, then of test.csv; leaves the tables `song` and `listener` (id, hash, idx) in the session."""
    import pandas as pd
    files = ("train", "test") if with_test else ("train",)
    parts = [_hashes(raw, name) for name in files]
    if not len(parts[0]["track"]):
        raise WorkError(f"{raw.files['train']} has no plays; the challenge's file has 7,377,418 rows")
    n_train, skipped = len(parts[0]["track"]), {name: p.pop("skipped") for name, p in zip(files, parts, strict=True)}
    target = np.concatenate([p.pop("target") for p in parts])
    code, known = {}, {}
    for key in ("user", "track", "way"):
        code[key], known[key] = pd.factorize(np.concatenate([p.pop(key) for p in parts]))
    ways = _texts(raw, files, code, known)
    ids = {}
    for key, table, column in IDS:
        if twice := raw.one(f"select count(*) - count(distinct hash) from {table}"):
            raise WorkError(f"{twice} values of {column} share a 64-bit hash with another; this reader cannot "
                            "tell them apart")
        raw.run(f"""create or replace temp table {table} as select {column}, hash,
                    (row_number() over (order by {column}) - 1)::int as idx from {table}""")
        numbered = raw.table(f"select * from {table} order by idx")
        ids[key] = numbered[column].to_pylist()
        code[key] = pd.Index(numbered["hash"].to_numpy()).get_indexer(known[key]).astype(np.int32)[code[key]]
    categories = {c: sorted({way[i] for way in ways.values()} - {None}) for i, c in enumerate(CONTEXT)}
    place = {c: {v: i for i, v in enumerate(values)} | {None: len(values)} for c, values in categories.items()}
    context = {c: np.array([place[c][ways[way][i]] for way in known["way"].tolist()], np.uint16)[code["way"]]
               for i, c in enumerate(CONTEXT)}
    return Plays(code["user"], code["track"], n_train, context, categories, target, ids["user"], ids["track"], skipped)


def _hashes(raw, name):
    """The rows of train or test as hashes: {"user", "track", "way": uint64, "target": int8 (n,), "skipped": rows}."""
    target = f"coalesce(try_cast(target as tinyint), {NO_TARGET})" if name == "train" else str(NO_TARGET)
    rows = raw.run(f"""select hash(msno) as user, hash(song_id) as track, {WAY} as way, ({target})::tinyint as target,
                              msno is null or song_id is null as skipped from {name}""").fetchnumpy()
    gone = rows.pop("skipped")
    skipped = int(gone.sum())
    return {**{key: column[~gone] if skipped else column for key, column in rows.items()}, "skipped": skipped}


def _texts(raw, files, code, known):
    """Make the tables `song` and `listener` of every played id and its hash; returns {hash of a way: its words}.

    Nearly all ids stand in songs.csv and members.csv. The rest, and the ways, are found in a second pass over
    the plays that looks only at the rows where one of them comes first (and a few that resemble them).
    """
    first = {key: _first_rows(code[key], len(known[key])) for key in code}
    rows = [first["way"]]
    for (key, table, column), view in zip(IDS, ("members", "songs"), strict=True):
        raw.give("wanted", known[key])
        raw.run(f"""create temp table {view}_played as from (select *, hash({column}) as hash from {view})
                    where hash in (from wanted)""")
        raw.run(f"create temp table {table} as select distinct {column}, hash from {view}_played")
        found = raw.table(f"select hash from {table}")["hash"].to_numpy()
        rows.append(first[key][~np.isin(known[key], found)])
    rows = np.unique(np.concatenate(rows))
    for key, table, _ in IDS:
        raw.give(f"{table}_sought", known[key][np.unique(code[key][rows])])
    both = " union all ".join(f"select msno, song_id, {', '.join(CONTEXT)} from {name}" for name in files)
    raw.run(f"""create temp table sought as from ({both}) where msno is not null and song_id is not null
        and hash(song_id) in (from song_sought) and hash(msno) in (from listener_sought)""")
    for _, table, column in IDS:
        raw.run(f"""insert into {table} select distinct {column}, hash({column}) from sought
                    where {column} not in (select {column} from {table})""")
    ways = raw.run(f"select distinct {WAY}, {', '.join(CONTEXT)} from sought").fetchall()
    return {way: words for way, *words in ways}


def _first_rows(code, n):
    """Row where each of n codes comes first, int64 (n,)."""
    first = np.empty(n, np.int64)
    first[code[::-1]] = np.arange(len(code) - 1, -1, -1)
    return first


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
    raw.run("create temp table extra_played as from song_extra_info where song_id in (select song_id from song)")
    _once(raw, "s", "songs", "song_id")
    _once(raw, "e", "extra", "song_id", "song_extra_info")
    return raw.table(ITEMS)


def read_users(raw):
    """Arrow table of the listeners' metadata in the order of userid_sorted.csv, with `known`: in members.csv."""
    _once(raw, "m", "members", "msno")
    return raw.table(USERS)


def _once(raw, table, view, key, file=None):
    """Keep of what was played the first row of each id; tells of ids that stand there twice."""
    raw.run(f"create temp view {table} as from {view}_played")
    if twice := raw.one(f"select count(*) - count(distinct {key}) from {table}"):
        print(f"{raw.files[file or view].name}: {twice} rows repeat a {key}; the first row counts")
        raw.run(f"delete from {view}_played where rowid not in (select min(rowid) from {view}_played group by {key})")


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
