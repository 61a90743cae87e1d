"""The files of a split: writing (sorted), counting, comparison with published counts, and leak checks.

Used by 1_train_test_split.py; the checks read the finished files.
"""
import csv
import math

from harness.errors import UsageError, WorkError
from harness.files import exact, parquet_rows, quoted

ROWS = 1 << 19     # rows of a row group
RANGE = 32         # row groups of a range of users whose pairs are compared at a time
SORTED = 320       # bytes of --memory for each row of a sort
WRITTEN = "user_id, track_id, timestamp, count"
COLUMNS = ("Rows", "Users", "Items", "TracksMedian", "TracksMin", "TracksMax", "PlaysMedian", "PlaysMin", "PlaysMax")
NAMES = {"train": "Train", "val": "Val", "test": "Test", "cold_test": "ColdTest", "cold_val": "ColdVal"}
HOT = "part not in ('cold_test', 'cold_val')"   # SQL: of the held-out pairs, those that rank the tracks of train


def write(log, part, path):
    """Write a part, or `hidden`, sorted by user and track, compressed with zstd; an empty part keeps its columns.

    Where it has more rows than are sorted within the memory, it is sorted range by range into files beside `path`,
    which are joined in their order. All but the last hold whole row groups, so the bytes are those of one sort.
    """
    table = part if part in ("train", "hidden") else f"(from held where part = '{part}')"
    ranges = _ranges(log, table)
    if len(ranges) == 1:
        return _copy(log, f"select {WRITTEN} from {table} order by user_id, track_id", path)
    files = [path.with_name(f".{path.name}.{i}") for i in range(len(ranges))]
    for rows, file in zip(ranges, files, strict=True):
        _copy(log, f"select {WRITTEN} from {table} where {rows} order by user_id, track_id", file)
    log.run("set preserve_insertion_order=true")
    # a union, not a list of files, for the same reason as in partitions.Joined
    _copy(log, " union all ".join(f"select {WRITTEN} from {parquet_rows(file)}" for file in files), path)
    log.run("set preserve_insertion_order=false")
    for file in files:
        file.unlink()


def _copy(log, query, path):
    log.run(f"""copy ({query}) to {quoted(path)} (format parquet, compression zstd, compression_level 1,
                                                  row_group_size {ROWS})""")


def _ranges(log, table):
    """SQL conditions that divide a table of distinct pairs by user and track into ranges, in their order, each of as
    many row groups as are sorted within the memory."""
    most, total = max(log.memory // SORTED // ROWS, 1) * ROWS, log.one(f"select count(*) from {table}")
    if total <= most:
        return ["true"]
    cuts = log.run(f"""select user_id, first - before from range({most}, {total}, {most}) as cuts(first)
        join (select user_id, rows, sum(rows) over (order by user_id) - rows as before
              from (select user_id, count(*) as rows from {table} group by user_id))
        on first >= before and first < before + rows order by first""").fetchall()
    bounds = [(user, log.one(f"select track_id from {table} where user_id = {user} order by 1 limit 1 offset {skip}"))
              for user, skip in cuts]
    low = ["true", *(f"user_id >= {u} and (user_id > {u} or track_id >= {t})" for u, t in bounds)]
    high = [*(f"user_id <= {u} and (user_id < {u} or track_id < {t})" for u, t in bounds), "true"]
    return [f"{a} and {b}" for a, b in zip(low, high, strict=True)]


def stats(log, paths):
    """Counts of each part, {row name: {column: number}}; the columns and names of the published stats.csv.

    Tracks... are distinct tracks per user, Plays... plays per user. An empty part has zeros.
    """
    cold = "cold_test" in paths
    return {"HotTest" if part == "test" and cold else NAMES[part]: count(log, path) for part, path in paths.items()}


def count(log, path):
    """Counts of one part: a dictionary with the keys COLUMNS."""
    row = log.run(f"""
        select sum(tracks), count(*), (select count(distinct track_id) from {parquet_rows(path)}),
               median(tracks), min(tracks), max(tracks), median(plays), min(plays), max(plays)
        from (select count(*) as tracks, sum(count)::bigint as plays from {parquet_rows(path)}
              group by user_id)""").fetchone()
    return {name: _number(value) for name, value in zip(COLUMNS, row, strict=True)}


def _number(value):
    value = float(value or 0)
    return int(value) if value.is_integer() else value


def print_stats(table):
    width = max(map(len, table))
    print(" " * width, *(f"{c:>12}" for c in COLUMNS))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{row[c]:>12}" for c in COLUMNS))


def write_stats(path, table):
    with open(path, "w", encoding="utf-8", newline="") as f:
        rows = csv.writer(f, lineterminator="\n")
        rows.writerow(["", *COLUMNS])
        rows.writerows([name, *(row[c] for c in COLUMNS)] for name, row in table.items())


def read_stats(path):
    """A stats.csv as {row name: {column: float}}; UsageError for any other file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            rows = list(csv.DictReader(f))
        table = {row[""]: {c: float(row[c]) for c in COLUMNS if c in row} for row in rows}
        if not table or not all(row and all(map(math.isfinite, row.values())) for row in table.values()):
            raise ValueError
        return table
    except (OSError, KeyError, TypeError, ValueError, UnicodeDecodeError):
        raise UsageError(f"--expect {path} is not a table of counts; "
                         f"its first line must be ,{','.join(COLUMNS)} (or some of them), "
                         "followed by a row of numbers for each part") from None


def compare(table, expected, path):
    """WorkError unless every count of the expected table is equal to the count of this split.

    A published median may have been truncated to an integer, so medians may differ by one half.
    """
    differing = []
    for name, row in expected.items():
        for column, value in row.items():
            actual = table.get(name, {}).get(column)
            tolerance = 0.5 if column.endswith("Median") else 0
            if actual is None or abs(actual - value) > tolerance:
                differing.append(f"{name} {column} is {'absent' if actual is None else actual} and not {value:g}")
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise WorkError(f"the counts differ from {path}: {differing[0]}{more}; nothing was written")


def check_leaks(log, paths, test=None, start=None, whole=True, unseen="drop", drawn=False, seen="hide"):
    """WorkError if the files of a split leak held-out information, whatever wrote them.

    paths: part name -> Path. start, test: dates of a protocol by date, else None.
    whole: True if train has every play of its window, so that the plays of each user can be compared.
    unseen: 'keep' where val and test may have tracks absent from train.
    drawn: True where the cold tracks were drawn (the table `cold_tracks`), so that their plays may have any date.
    seen: 'keep' where a held-out pair may be in train, too, as its user plays the track again.
    """
    for part, path in paths.items():
        log.run(f"create or replace temp view file_{part} as from {parquet_rows(path)}")
    log.run("create or replace temp table file_held as " + " union all ".join(
        f"select user_id, track_id, timestamp, '{part}' as part from file_{part}" for part in paths if part != "train"))
    for column in ("user_id", "track_id"):
        log.run(f"create or replace temp table train_{column} as select distinct {column} from file_train")
    twice = over_users(log, paths["train"], """select count(*) from (select 1 from file_train where {users}
                                               group by user_id, track_id having count(*) > 1)""")
    checks = {
        "duplicate pairs": f"""select 1 from file_held group by user_id, track_id{", part" if seen == "keep" else ""}
            having count(*) > 1 union all from range({twice})""",
        "pairs are in train and in another part":
        "select 1 from file_held semi join file_train using (user_id, track_id)",
        "held-out pairs are of users absent from train":
        "select 1 from file_held where user_id not in (from train_user_id)",
        "val and test pairs are of tracks absent from train":
        f"select 1 from file_held where {HOT} and track_id not in (from train_track_id)",
        "cold pairs are of tracks of train":
        f"select 1 from file_held where not {HOT} and track_id in (from train_track_id)",
        "tracks are in both cold parts":
        """select track_id from file_held where part = 'cold_test' intersect
           select track_id from file_held where part = 'cold_val'"""}
    if seen == "keep":
        del checks["pairs are in train and in another part"]
    if unseen == "keep":
        del checks["val and test pairs are of tracks absent from train"]
    if test is not None:
        checks |= _dated_checks(log, start, test, whole, drawn)
    for what, query in checks.items():
        if leaks := log.one(f"select count(*) from ({query})"):
            raise WorkError(f"leak: {leaks} {what}; nothing was written")


def _dated_checks(log, start, test, whole, drawn):
    """Further checks of a protocol by date, as SQL; reads the plays of the train window once."""
    hot, dated = ("and plays.track_id not in (select track_id from cold_tracks)", f"and {HOT}") if drawn else ("", "")
    log.run(f"""create or replace temp table played as
        select user_id, sum(plays.count)::bigint as in_log, count(file_held.track_id) as held
        from plays left join (select distinct user_id, track_id from file_held) as file_held using (user_id, track_id)
        where plays.timestamp >= '{start}' and plays.timestamp < '{test}' {hot} group by user_id""")
    return {
        "train pairs have their first play outside the train window":
        f"select 1 from file_train where timestamp < '{start}' or timestamp >= '{test}' or timestamp is null",
        "users played held-out pairs in the train window": "select 1 from played where held > 0",
        "users have other plays in train than in the train window of the log":
        f"""select 1 from (select user_id, sum(count)::bigint as in_train from file_train group by user_id)
            left join played using (user_id) where in_log is null or in_train {'<>' if whole else '>'} in_log""",
        "val pairs are of users of a test part":
        f"""select 1 from file_held where part = 'val'
           and user_id in (select user_id from file_held where part <> 'val' {dated})"""}


def over_users(log, path, sql):
    """The sum of a query's number over ranges of users of a part, so that memory is that of a range, not of the file.

    sql: a query whose {users} stands for a condition on user_id. A part is sorted by user, so each range is read once.
    """
    starts = [row[0] for row in log.run(f"""select min(stats_min_value::bigint) from parquet_metadata({exact(path)})
        where path_in_schema = 'user_id' group by row_group_id // {RANGE} order by 1""").fetchall()][1:]
    bounds = [None, *sorted(set(starts) - {None}), None]
    total = 0
    for low, high in zip(bounds, bounds[1:], strict=False):
        users = " and ".join([f"user_id >= {low}"] * (low is not None) + [f"user_id < {high}"] * (high is not None))
        total += log.one(sql.format(users=users or "true"))
    return total


def tied_in_train(log, path):
    """Train pairs whose time is that of another train pair of the same user, int; 0 without times.

    path: of the train part, which is the view file_train
    """
    return over_users(log, path, """select coalesce(sum(n), 0)::bigint from (select count(*) as n from file_train
                      where timestamp is not null and {users} group by user_id, timestamp having count(*) > 1)""")


def unseen_pairs(log):
    """Val and test pairs of tracks absent from train."""
    return log.one(f"""select count(*) from file_held where {HOT}
                      and track_id not in (from train_track_id)""")


def items_ranked(log):
    """Tracks that val and test rank where they keep those absent from train: all of the three parts."""
    return log.one(f"""select count(*) from (from train_track_id union
                      select track_id from file_held where {HOT})""")
