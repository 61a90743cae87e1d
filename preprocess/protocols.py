"""Split protocols: which (user, track) pair goes into which part, as SQL on the plays.

Each takes a `Log` and its settings and produces one row per pair (user_id, track_id, timestamp, count, part): the
view `train`, and the table `held` with the held-out pairs. timestamp is the first play in the window (null for data
without times), count the number of plays. Pairs that a protocol leaves out are counted in `log.dropped`.

recsys24: Tamm and Aljanaki, RecSys 2024 (arXiv 2409.08987), the last month of the log, users halved.
hotcold:  its journal successor (arXiv 2604.23077), where tracks absent from train are a part of their own.
yambda:   Ploshkin et al., "Yambda-5B", RecSys 2025 (arXiv 2505.22238), and its benchmark code.
"""
import math

import duckdb

from harness.errors import WorkError
from harness.files import parquet_rows
from preprocess import row_groups, stage, typed
from preprocess.parts import HOT

PARTS = ("train", "val", "test", "cold_test", "cold_val")
TEST_START, DAY, GAP = 25_913_600, 86_400, 1_800   # seconds: Yambda's test day, its length, and the gaps around val
DEFINED = {"hotcold": ("cold_test",), "cold-items": ("cold_test",)}   # parts of a protocol even where they are empty
COLUMNS = "user_id, track_id, timestamp, count"
FINE = 1e-9   # subtracted before rounding up, so that a share of .1 of 50 pairs is 5 and not 6


def span(plays):
    """The first and the last timestamp of a plays file; WorkError for a damaged one."""
    return _asked(plays, "select min(timestamp), max(timestamp)")[0]


def _asked(plays, select):
    """All rows of a query `select ... from` a plays file; WorkError for a damaged one."""
    try:
        return duckdb.execute(f"{select} from {parquet_rows(plays)}").fetchall()
    except duckdb.Error as e:
        raise WorkError(f"{plays} cannot be read as parquet ({str(e).splitlines()[0]})") from None


def inspect(plays):
    """Column names of a plays file, and whether it has times; WorkError for any other file."""
    kinds = {row[0]: row[1] for row in _asked(plays, "describe")}
    for name in ("user_id", "track_id"):
        if kinds.get(name) not in typed.FITTING and kinds.get(name) not in typed.UNSIGNED:
            columns = ", ".join(f"{n} {kind.lower()}" for n, kind in kinds.items())
            raise WorkError(f"{plays} must have an integer column {name}, but has {columns}")
    typed.check_fit(duckdb, parquet_rows(plays), kinds, plays)
    nulls = {name: typed.nulls(plays, name) for name in ("user_id", "track_id", "count", "timestamp") if name in kinds}
    [[rows]] = _asked(plays, "select count(*)")
    if lacking := next((name for name in nulls if nulls[name] and name != "timestamp"), None):
        raise WorkError(f"{plays}: {nulls[lacking]} of its {rows} rows have no {lacking}; leave them out, or mend them")
    timed, nulls = "timestamp" in kinds and (nulls["timestamp"] < rows or not rows), nulls.get("timestamp")
    if timed and (nulls or kinds["timestamp"] not in ("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S")):
        raise WorkError(f"{plays}: timestamp must be UTC timestamps without time zone and without nulls, "
                        f"but is {kinds['timestamp'].lower()} with {nulls} nulls")
    return [name for name in kinds if timed or name != "timestamp"], timed


class Log:
    """A DuckDB session whose view `plays` is the data set: user_id, track_id, timestamp, count."""

    def __init__(self, plays, columns, memory, spill, kept=None, partition=None):
        """plays: Path; columns: its column names; memory: bytes; spill: folder for temporary files beyond that;
        kept: int64 track_ids to restrict the data set to, or None; partition: (number, how many) of the users, or
        None for all of them."""
        self.con, self.plays, self.memory = stage.session(memory, spill), plays, memory
        self.made = ()   # names of the tables that are there already, made partition by partition
        self.run("set preserve_insertion_order=false")
        self.run(f"create type part as enum {PARTS}")
        self.dropped, self.restricted = {}, kept is not None
        self.ties = 0   # held-out pairs whose place among a user's tracks rests on the order of equal times
        if self.restricted:
            self.ids("kept", kept)
        self.run(f"""create view all_plays as select user_id::bigint as user_id, track_id::bigint as track_id,
            {'timestamp' if 'timestamp' in columns else 'null'}::timestamp as timestamp,
            {'count' if 'count' in columns else '1'}::bigint as count from {parquet_rows(plays)}
            {'where ' if self.restricted or partition else ''}
            {'track_id in (from kept)' if self.restricted else ''} {'and' if self.restricted and partition else ''}
            {f'hash(user_id::bigint) % {partition[1]} = {partition[0]}' if partition else ''}""")
        self.run("create view plays as from all_plays")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.con.close()
        if kind and issubclass(kind, duckdb.OutOfMemoryException):
            raise WorkError(f"out of memory or of disk space for temporary files ({str(error).splitlines()[0]}); "
                            "raise --memory, or free disk space in the workspace") from None

    def run(self, sql, values=None):
        """Run SQL with values by position or by $name; WorkError where plays.pqt turns out to be damaged.

        Queries of another file go through `con`, so that its reader names that file.
        """
        try:
            return self.con.execute(sql, values)
        except duckdb.OutOfMemoryException:
            raise
        except (duckdb.ConversionException, duckdb.OutOfRangeException) as e:
            if "INT128" not in str(e) and "sum" not in str(e).lower():
                raise self._damaged(e) from None
            raise WorkError(f"{self.plays}: the counts of plays add up to more than int64 holds; mend or leave out the "
                            "column count") from None
        except duckdb.Error as e:
            if isinstance(e, duckdb.ProgrammingError) and not isinstance(e, duckdb.InvalidInputException):
                raise
            raise self._damaged(e) from None

    def _damaged(self, error):
        return WorkError(f"{self.plays} cannot be read to its end ({row_groups.damage(self.plays, error)}); run "
                         "preprocess/0_get_plays_pqt.py again")

    def one(self, sql, values=None):
        """The single value of a query."""
        return self.run(sql, values).fetchone()[0]

    def restrict(self, users, tracks):
        """Restrict the data set to the user_ids and track_ids in the column `id` of two tables."""
        self.run(f"""create or replace view plays as from all_plays
                     where user_id in (select id from {users}) and track_id in (select id from {tracks})""")

    def ids(self, name, ids):
        """Create a table `name` with one column `id`; ids: whole numbers, an int64 array where there are many."""
        import pyarrow as pa
        self.run("select 1").fetchall()         # nothing can be registered while a result is left to be fetched
        self.con.register("given", pa.table({"id": pa.array(ids, pa.int64())}))
        self.run(f"create or replace temp table {name} as select id from given")
        self.con.unregister("given")

    def users(self, where):
        """user_ids of the held-out pairs that satisfy a condition, ascending."""
        return [row[0] for row in self.run(f"select distinct user_id from held where {where} order by 1").fetchall()]

    def drop(self, reason, condition):
        """Remove held-out pairs and record their number under a reason."""
        self.note(reason, self.one(f"delete from held where {condition}"))

    def note(self, reason, pairs):
        if pairs:
            self.dropped[reason] = self.dropped.get(reason, 0) + pairs

    def divide(self, held="part <> 'train'"):
        """Split the table `pairs`, whose column `part` is filled, into `train` and `held`."""
        self.run(f"create or replace temp view train as select {COLUMNS} from pairs where part = 'train'")
        self.run(f"create or replace temp table held as select {COLUMNS}, part from pairs where {held}")

    def keep_trained(self, unseen="drop"):
        """Drop held-out pairs of users absent from train, and val and test pairs of tracks absent from train.

        unseen: 'keep' keeps the latter.
        """
        self.run("create or replace temp table train_users as select distinct user_id as id from train")
        self.run("create or replace temp table train_tracks as select distinct track_id as id from train")
        self.drop("users absent from train", "user_id not in (from train_users)")
        if unseen == "drop":
            self.drop("tracks absent from train", f"{HOT} and track_id not in (from train_tracks)")

    def parts(self, protocol):
        """Names of the parts of this split; the cold ones only if the protocol defines them or there are such pairs."""
        held = {row[0] for row in self.run("select distinct part from held").fetchall()}
        return tuple(p for p in PARTS if p in (*PARTS[:3], *DEFINED.get(protocol, ()), *held))

    def check_pairs(self, n_tracks):
        """WorkError unless there are pairs, and all of them have valid ids and at least one play."""
        rows, low, high, plays = self.run("""select count(*), min(track_id), max(track_id), min(count)
            from pairs""").fetchone()
        if not rows:
            raise WorkError("plays.pqt has no plays (of the selected tracks), so there is nothing to split; "
                            "use other --tracks-with, or run 0_get_plays_pqt.py again")
        if low < 0 or high >= n_tracks:
            raise WorkError(f"plays.pqt: track_id runs from {low} to {high}, but trackid_sorted.csv has {n_tracks} "
                            "rows; run 0_get_plays_pqt.py again")
        if plays < 1:
            raise WorkError(f"plays.pqt: a pair has {plays} plays; every count must be at least 1")


# --------------------------------------------------------------------------- by date

def window_pairs(log, train_start, test_date, test_end):
    """Pairs of the window [start, end): part 'train' if the first play is before the test date, else 'test'.

    Counts of train pairs include plays before the test date only. test_end None is the end of the log.
    """
    log.run("""create temp table pairs as
        select user_id, track_id, first as timestamp, case when first < $test then before else total end as count,
               (case when first < $test then 'train' else 'test' end)::part as part
        from (select user_id, track_id, min(timestamp) as first, sum(count)::bigint as total,
                     (sum(count) filter (timestamp < $test))::bigint as before
              from plays where timestamp >= $start and timestamp < $end group by user_id, track_id)""",
            {"start": train_start, "test": test_date, "end": test_end or "9999-12-31"})


def windowed(log, start, test, end):
    """The tables `train` and `held` of `window_pairs`; WorkError where one is empty."""
    if "pairs" not in log.made:
        window_pairs(log, start, test, end)
    log.divide()
    for table, what, span in (("train", "train", (start, test)), ("held", "test", (test, end or "its end"))):
        if not log.one(f"select count(*) from {table}"):
            first, last = log.run("select min(timestamp), max(timestamp) from plays").fetchone()
            raise WorkError(f"no {what} pair from {' to '.join(span)}: the log runs from {first} to {last}; "
                            "choose other dates")


def first_part(ids, share, seed):
    """The first part of scikit-learn's train_test_split(ids, test_size=1 - share, random_state=seed).

    The same ids in the same order, without the second that importing scikit-learn takes; a test compares the two.
    Where train_test_split would raise an error because a part is empty, the first part is empty.
    """
    import numpy as np
    order = np.random.RandomState(seed).permutation(len(ids))  # the generator that random_state stands for
    return [ids[i] for i in order[math.ceil(round(1 - share, 12) * len(ids)):]]


def to_val(log, users, share, seed):
    """Move the test pairs of a share of these users to 'val', drawn as in the published code."""
    log.ids("val_users", first_part(users, share, seed))
    log.run("update held set part = 'val' where part = 'test' and user_id in (from val_users)")


def recsys24(log, train_start, test_date, test_end, val_share, seed):
    windowed(log, train_start, test_date, test_end)
    requested = log.one("select count(*) from held")
    log.keep_trained()
    if not log.one("select count(*) from held"):
        raise WorkError(f"all {requested} test pairs are of users or tracks absent from train; "
                        "--protocol hotcold has a part for cold tracks, or choose other dates")
    to_val(log, log.users("true"), val_share, seed)


def hotcold(log, train_start, test_date, test_end, val_share, seed):
    windowed(log, train_start, test_date, test_end)
    log.run("update held set part = 'cold_test' where track_id not in (select distinct track_id from train)")
    log.keep_trained()
    if not log.one("select count(*) from held where part = 'test'"):
        print("warning: all test pairs are of cold tracks, so val and test are empty")
    warm = log.users("user_id not in (select user_id from held where part = 'cold_test')")
    to_val(log, warm, val_share, seed)


# --------------------------------------------------------------------------- without dates

def aggregate(log):
    """One row per pair of the whole log, in the table `pairs`."""
    log.run("""create temp table pairs as select user_id, track_id, min(timestamp) as timestamp,
               sum(count)::bigint as count from plays group by user_id, track_id""")


def draw(seed, what):
    """SQL of a pair's key in a seeded random order: a hash of the pair, so it does not depend on other pairs."""
    return f"md5_number_lower(concat_ws(':', '{what}', {int(seed)}, user_id, track_id))"


def random(log, val_share, test_share, seed):
    """Of each user's n pairs, ceil(share n) go to test, then to val; at least one stays in train."""
    if "pairs" not in log.made:
        random_pairs(log, val_share, test_share, seed)
    log.divide()
    log.keep_trained()


def random_pairs(log, val_share, test_share, seed):
    aggregate(log)
    share_out(log, val_share, test_share, seed)


def share_out(log, val_share, test_share, seed):
    """Fill the column `part` of the table `pairs` as in `random`."""
    log.run(f"""create or replace temp table pairs as
        select user_id, track_id, timestamp, count,
               (case when place <= n_test then 'test'
                     when place <= n_test + least(n - 1 - n_test, ceil($val * n - {FINE})) then 'val'
                     else 'train' end)::part as part
        from (select *, least(n - 1, ceil($test * n - {FINE})) as n_test
              from (select *, count(*) over (partition by user_id) as n,
                           row_number() over (partition by user_id order by {draw(seed, 'split')}, track_id) as place
                    from pairs))""", {"val": val_share, "test": test_share})


def leave_one_out(log, unseen, seed):
    """The last track of each user is test, the second to last val; users with fewer than three tracks have train only.

    Tracks are ordered by their first play. Equal times are no order: within a user they are broken by a seeded draw,
    and the held-out pairs that rest on it are counted in `log.ties`. unseen: 'keep' keeps held-out pairs of tracks
    absent from train, 'drop' drops them. Kang and McAuley, ICDM 2018.
    """
    if "pairs" not in log.made:
        last_pairs(log, seed)
    log.divide()
    log.keep_trained(unseen)


def last_pairs(log, seed):
    """The pairs of `leave_one_out` and their parts."""
    aggregate(log)
    log.run(f"""create or replace temp table placed as
        select *, case when n < 3 or place > 2 then 'train' when place = 1 then 'test' else 'val' end as part,
               (timestamp = earlier or timestamp = later) and n > 2 and place < 3 as tied
        from (select *, count(*) over (partition by user_id) as n, row_number() over latest as place,
                     lead(timestamp) over latest as earlier, lag(timestamp) over latest as later
              from pairs
              window latest as (partition by user_id order by timestamp desc, {draw(seed, 'time')}, track_id))""")
    log.ties = log.one("select count(*) from placed where coalesce(tied, false)")
    log.run("""create or replace temp table pairs as
        select user_id, track_id, timestamp, count, part::part as part from placed""")


def yambda_train_end(final):
    """Microseconds since the epoch before which Yambda's train ends; the log begins at the epoch."""
    return (TEST_START - GAP - (0 if final else DAY + GAP)) * 1_000_000


def yambda(log, final):
    """Pairs of each period by themselves: train, the day of val, the day of test, with gaps between them.

    A pair may be in several, as listeners play tracks again; its count is that of the period. Users absent from train
    are dropped, tracks absent from it stay. final: no val, and train goes on to the gap before the test day.
    """
    if "pairs" not in log.made:
        period_pairs(log, final)
    log.divide()
    for table, what in (("train", "train"), ("(from held where part = 'test')", "test")):
        if not log.one(f"select count(*) from {table}"):
            first, last = log.run("select min(timestamp), max(timestamp) from plays").fetchone()
            raise WorkError(f"no {what} pair: Yambda's test day begins {TEST_START} seconds after its log, and these "
                            f"plays run from {first} to {last}; --protocol yambda is for the data set of "
                            "preprocess/0_get_plays_pqt.py yambda")
    log.keep_trained("keep")


def period_pairs(log, final):
    """The pairs of `yambda` and their parts; pairs that are played in the gaps alone are noted as left out."""
    val_end = TEST_START - GAP
    train, val, end, test = (int(us) for us in (yambda_train_end(final), (val_end - DAY) * 1e6, val_end * 1e6,
                                                TEST_START * 1e6))
    log.run(f"""create temp view periods as
        select *, (case when epoch_us(timestamp) < {train} then 'train'
                        when epoch_us(timestamp) >= {test} then 'test'
                        when epoch_us(timestamp) between {val} and {end - 1} then 'val' end)::part as part
        from plays""")
    log.run("""create temp table pairs as
        select user_id, track_id, min(timestamp) as timestamp, sum(count)::bigint as count, part
        from periods where part is not null group by user_id, track_id, part""")
    log.note("in the gaps", log.one("""select count(*) from (select distinct user_id, track_id from periods
        where part is null) anti join pairs using (user_id, track_id)"""))


def given(log, split):
    """The parts of a published split: a table (parquet, or csv with a header) of user_id, track_id, part[, count].

    Pairs of tracks excluded by --tracks-with are left out; every other pair must be in plays.pqt.
    count: plays of the pair in its part; without the column (or where it is null) all its plays count.
    """
    if "pairs" not in log.made:
        given_pairs(log, split)
    log.divide()
    log.keep_trained()


def given_pairs(log, split, partition=None):
    """The pairs of `given` and their parts; partition: (number, how many) of the users, or None for all of them."""
    typed.read_split(log, split, PARTS)
    aggregate(log)
    if partition:
        log.run(f"delete from split where hash(user_id) % {partition[1]} <> {partition[0]}")
    if log.restricted:
        log.run("delete from split where track_id not in (from kept)")
    if absent := log.one("select count(*) from split anti join pairs using (user_id, track_id)"):
        raise WorkError(f"{split}: {absent} of its pairs have no play in plays.pqt; use a split of this data set")
    log.note("not in the given split", log.one("select count(*) from pairs anti join split using (user_id, track_id)"))
    log.run("""create or replace temp table pairs as
        select pairs.* replace (coalesce(split.count, pairs.count) as count), split.part::part as part
        from pairs join split using (user_id, track_id)""")


def share_train(log, share, seed, unseen="drop"):
    """Keep a share of each user's train pairs, at least one; a smaller share is a subset of a larger.

    The others are the table `hidden`: what their user has played is no candidate, whether a model knows of it or not.
    Held-out pairs of tracks that are no longer in train are dropped unless unseen is 'keep'; cold parts are unchanged.
    """
    before = log.one("select count(*) from train")
    if "thin" not in log.made:
        log.run(f"create temp table parted as select {COLUMNS}, thin from {thinned('train', seed)}", {"share": share})
        for table, which in (("thin", "thin"), ("hidden", "not thin")):
            log.run(f"create temp table {table} as select {COLUMNS} from parted where {which}")
        log.run("drop table parted")
    log.run("create or replace temp view train as from thin")
    log.note("beyond --train-share", before - log.one("select count(*) from train"))
    log.keep_trained(unseen)


def thinned(table, seed, of="user_id"):
    """SQL of a table with a column `thin`: whether a pair is among the $share to keep of its user's pairs."""
    return f"""(select *, place <= greatest(1, round($share * n)) as thin from (
        select *, count(*) over (partition by {of}) as n,
               row_number() over (partition by {of} order by {draw(seed, 'share')}, track_id) as place from {table}))"""
