"""Columns of integers in tables that others wrote, checked before a cast: no digit, zero or fraction is lost.

A cast to int64 takes 007 for 7, rounds 1.5, and ends in an error for a hash beyond 2^63; here each is one sentence
that names the column and the value. Used by protocols.py.
"""
from harness import delimited, ids
from harness.errors import WorkError
from harness.files import exact, parquet_rows, quoted

UNSIGNED = ("UBIGINT", "HUGEINT", "UHUGEINT")   # kinds of integers that may not fit int64, and those that do
FITTING = ("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "UINTEGER", "USMALLINT", "UTINYINT")
TABLES = (".pqt", ".parquet")
FIRST_YEAR, LAST_YEAR = 1900, 2200      # of plausible times; far outside, neither Python nor matplotlib has dates


def within(time):
    """SQL whether the timestamp `time` lies in the plausible years; null for null."""
    return f"({time} >= timestamp '{FIRST_YEAR}-01-01' and {time} < timestamp '{LAST_YEAR + 1}-01-01')"


def check_times(path):
    """WorkError where a plays file (or a pattern of files) has a timestamp outside of FIRST_YEAR to LAST_YEAR."""
    import duckdb
    try:
        bad = duckdb.execute(f"select timestamp::varchar from {parquet_rows(path)} where not {within('timestamp')} "
                          "limit 1").fetchone()
    except duckdb.Error as e:
        raise WorkError(f"{path} cannot be read as parquet ({str(e).splitlines()[0]})") from None
    if bad:
        raise WorkError(f"{path} has the time {bad[0]}, which is outside of the years {FIRST_YEAR} to {LAST_YEAR}; run "
                        "0_get_plays_pqt.py again on a mended log")


def nulls(path, column):
    """How many cells of a column of a plays file are null, by its own statistics where it has them."""
    import duckdb
    known, found = duckdb.execute(f"""select count(stats_null_count) = count(*), sum(stats_null_count)::bigint
        from parquet_metadata({exact(path)}) where path_in_schema = '{column}'""").fetchone()
    if known:
        return found or 0
    return duckdb.execute(f"select count(*) - count({column}) from {parquet_rows(path)}").fetchone()[0]


def check_fit(con, relation, kinds, path):
    """WorkError where an integer column of a parquet file does not fit int64, or a count is no whole number.

    relation: SQL of the file; kinds: {column: DuckDB type}
    """
    for name in ("user_id", "track_id", "count"):
        kind = kinds.get(name, "")
        if kind in UNSIGNED or name == "count" and kind and kind not in FITTING:
            _refuse(con, relation, name, kind, path, "0_get_plays_pqt.py interactions numbers such ids"
                    if kind in UNSIGNED else "mend it, or leave the column out")


def split_table(con, path):
    """SQL of a published split (parquet, or a strict csv) with user_id, track_id, part and count, count null if absent.

    WorkError for stray quotes, rows with a wrong number of cells (on reading), and ids or counts that are no whole
    numbers as they are written.
    """
    if path.suffix in TABLES:
        relation = parquet_rows(path)
    else:
        delimiter, names = delimited.header(path)
        delimited.check_quotes(path, delimiter)
        names = [name or f"column {i}" for i, name in enumerate(names, 1)]
        if lacking := [name for name in ("user_id", "track_id", "part") if name not in names]:
            raise WorkError(f"{path} has no column {' or '.join(lacking)}; it has {', '.join(names)[:300]}")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise WorkError(f"{path} has two columns of the name {twice}")
        columns = "{" + ", ".join(f"{quoted(name)}: 'varchar'" for name in names) + "}"
        relation = (f"read_csv({exact(path)}, compression='none', columns={columns}, delim={quoted(delimiter)}, "
                    "header=true, quote='\"', hive_partitioning=false, escape='\"', nullstr='', auto_detect=false, "
                    "strict_mode=true)")
    kinds = {row[0]: row[1] for row in con.execute(f"describe from {relation}").fetchall()}
    for name in ("user_id", "track_id", "count"):
        if name in kinds and kinds[name] not in FITTING:
            _refuse(con, relation, name, kinds[name], path, "ids of a split are those of plays.pqt (where users are "
                    "texts, the numbers in userid_sorted.csv)")
    cells = [f"{_text(name) if kinds[name] == 'VARCHAR' else name}::bigint as {name}" if name in kinds else
             f"null::bigint as {name}" for name in ("user_id", "track_id", "count") if name in kinds or name == "count"]
    return f"(select {', '.join(cells)}, part::varchar as part from {relation})"


def read_split(log, split, parts):
    """Read a published split into the table `split` (user_id, track_id, part, count) and check it.

    log: protocols.Log; parts: names that a part may have
    """
    import duckdb
    try:
        log.con.execute(f"create temp table split as select user_id, track_id, part, count from "
                        f"{split_table(log.con, split)}")
    except (duckdb.OutOfMemoryException, MemoryError):
        raise
    except duckdb.Error as e:
        raise WorkError(f"{split} must be a table with the columns user_id, track_id and part "
                        f"({str(e).splitlines()[0]})") from None
    if not log.one("select count(*) from split"):
        raise WorkError(f"{split} has no rows")
    if unknown := log.run(f"""select distinct part from split where part is null or part not in {tuple(parts)}
                              limit 3""").fetchall():
        raise WorkError(f"{split}: part must be one of {', '.join(parts)}, not {', '.join(repr(s) for s, in unknown)}")
    if twice := log.one("select count(*) from (select 1 from split group by user_id, track_id having count(*) > 1)"):
        raise WorkError(f"{split} contains {twice} duplicate (user_id, track_id) pairs")
    if none := log.one("select count(*) from split where count < 1"):
        raise WorkError(f"{split}: {none} pairs have a count below 1; every count must be at least 1")


def _text(name):
    return f"trim({name})"


def _refuse(con, relation, name, kind, path, remedy):
    """WorkError with the first value of a column that int64 does not hold as it is written."""
    whole = (ids.WHOLE.format(_text(name)) if kind == "VARCHAR" else
             f"coalesce(try_cast({name} as bigint) = {name}, false)")
    null = f"{name} is not null and " if name == "count" else ""
    bad = con.execute(f"select {name} from {relation} where {null}not {whole} limit 1").fetchone()
    if bad:
        raise WorkError(f"{path}: {name} holds {bad[0]!r}, which is no whole number that fits int64; {remedy}")
