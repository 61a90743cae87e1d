"""The plays of a user's history one by one, out of plays.pqt: what a pair's first play and its count do not say.

The plays of the history at a part are those of its pairs before `events_before` of data/rules.json, or before the test
date of the split, or, where each user's last tracks are held out (leave-one-out), up to the user's first play of those;
of a random split all plays of its pairs, and of a given split as many of a pair, the first ones, as its `count` says.
A split by dates has the plays from the start of its train period on.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UsageError, WorkError
from harness.files import parquet_rows
from harness.inputs import hashed
from harness.readers import read_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from dataset import Split
    from harness.inputs import Input


def inputs(split: Split, flag: str) -> list[Input]:
    """plays.pqt as an input of the run; UsageError where there is none, or no times; WorkError where it is not the one
    that the split was made of, as its users may have other numbers.

    flag: the argument that reads every play, for the sentence
    """
    path = split.workdir / "plays.pqt"
    if split.time != "real":
        raise UsageError(f"{flag} requires timestamps, but the time of this workspace is {split.time!r}; leave it out")
    if not path.exists():
        raise UsageError(f"{path} is missing, and {flag} reads every play; run preprocess/0_get_plays_pqt.py, "
                         "or leave it out")
    plays = hashed(path)
    if _request(split).get(path.name, plays.digest) != plays.digest:
        raise WorkError(f"{path} is not the one that data/ was split from; run preprocess/1_train_test_split.py again")
    return [plays]


def end_of(split: Split, part: str = "val") -> int | None:
    """Microseconds since the epoch before which plays are known when a part is ranked; None: all plays of its pairs."""
    if split.rules["events_before"] is not None:
        end = split.rules["events_before"]
        later = [split.part(name).time for name in split.history_parts(part) if name != "train"]
        return max([end, *(int(time.max()) + 1 for time in later if time is not None)])
    return _date(split, "test_date")


def start_of(split: Split) -> int | None:
    """Microseconds since the epoch from which on plays are of train; None: from the first on."""
    return None if split.rules["events_before"] is not None else _date(split, "train_start")


def _date(split, name):
    """A date of the split's request in microseconds since the epoch, None where it has none."""
    date = _request(split).get(name)
    try:
        return None if date is None else int(np.datetime64(date, "us").astype(np.int64))
    except (ValueError, TypeError):
        raise WorkError(f"{split.workdir / 'data' / 'split.json'}: {name} {date!r} is no date; split "
                        "again") from None


def _request(split):
    path = split.workdir / "data" / "split.json"
    return read_json(path, {"request": dict}).get("request", {}) if path.exists() else {}


def _ends(split, part):
    """Microseconds by user code up to which the user's plays are known at `part`, int64 (U,); None: no such limit."""
    if _request(split).get("protocol") != "leave-one-out":
        return None
    ends = np.full(split.n_users, np.iinfo(np.int64).max)
    for name in split.hot_parts:
        if name not in split.history_parts(part):
            held = split.part(name)
            np.minimum.at(ends, held.user, held.time)
    return ends


def read(con: DuckDBPyConnection, split: Split, part: str = "val") -> None:
    """Fill the table `played` of a connection: a row of plays.pqt for each play of the history at `part`, with the
    codes of its user ("row") and its item (col), its time in microseconds (moment), and how many plays it stands for
    (n, 1 where plays.pqt has no column `count`).

    WorkError where plays.pqt cannot be read as plays with times.
    """
    import duckdb
    import pyarrow as pa
    history, ends = split.history(part, "count").tocoo(), _ends(split, part)
    pairs = {"user_id": split.users[history.row], "track_id": split.tracks[history.col],
             "row": history.row.astype(np.int64), "col": history.col.astype(np.int64),
             "known": history.data.astype(np.int64)}
    con.register("pairs", pa.table(pairs if ends is None else pairs | {"until": ends[history.row]}))
    start, end, path = start_of(split), end_of(split, part), split.workdir / "plays.pqt"
    limits = [f"epoch_us(timestamp) {sign} {limit}" for sign, limit in
              ((">=", start), ("<", end), ("<=", None if ends is None else "until")) if limit is not None]
    try:
        columns = [row[0] for row in con.execute(f"describe from {parquet_rows(path)}").fetchall()]
        n = "plays.count::bigint" if "count" in columns else "1::tinyint"
        if _request(split).get("protocol") == "given":      # its parts have no dates
            n = f"""(least({n}, known - coalesce(sum({n}) over (partition by "row", col order by timestamp
                    rows between unbounded preceding and 1 preceding), 0)))::bigint"""
        con.execute(f"""create temp table played as
            select * from (select "row", col, epoch_us(timestamp) as moment, {n} as n
                from {parquet_rows(path)} as plays
                join pairs on pairs.user_id = plays.user_id and pairs.track_id = plays.track_id
                {"where " * bool(limits) + " and ".join(limits)}) where n > 0""")
    except duckdb.Error as e:
        raise WorkError(f"{path} cannot be read as plays with times ({str(e).splitlines()[0]})") from None


def foreign(split: Split) -> WorkError:
    """The error for a plays.pqt without a play of the pairs of train."""
    return WorkError(f"{split.workdir / 'plays.pqt'} has no play of the pairs of train; it is of another split")
