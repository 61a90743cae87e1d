"""Plays weighted by their age, out of plays.pqt: what a pair's first play and count do not say.

    weights = decay.weights(split, hours=12)                 csr float64 (U, n_hot), summed over the plays of each pair

A play weighs 0.9 ** (age / hours); its age is the time to the last play of train, or to the user's last one (by_user).
The plays of train are those of its pairs before `events_before` of data/rules.json, or before the test date of the
split; of a random split all plays of its pairs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UsageError, WorkError
from harness.files import quoted
from harness.inputs import hashed
from harness.readers import read_json

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from dataset import Split
    from harness.inputs import Input

RATE = 0.9   # of a play's weight that is left after `hours`


def inputs(split: Split) -> list[Input]:
    """plays.pqt as an input of the run; UsageError where there is none, or no times."""
    path = split.workdir / "plays.pqt"
    if split.time != "real":
        raise UsageError(f"--decay-hours requires timestamps, but the time of this workspace is {split.time!r}; leave "
                         "it out")
    if not path.exists():
        raise UsageError(f"{path} is missing, and --decay-hours reads every play; run preprocess/0_get_plays_pqt.py, "
                         "or leave it out")
    return [hashed(path)]


def end_of(split: Split, part: str = "val") -> int | None:
    """Microseconds since the epoch before which plays are known when a part is ranked; None: all plays of its pairs."""
    if split.rules["events_before"] is not None:
        end = split.rules["events_before"]
        later = [split.part(name).time for name in split.history_parts(part) if name != "train"]
        return max([end, *(int(time.max()) + 1 for time in later if time is not None)])
    path = split.workdir / "data" / "split.json"
    date = read_json(path).get("request", {}).get("test_date") if path.exists() else None
    return None if date is None else int(np.datetime64(date, "us").astype(np.int64))


def weights(split: Split, hours: float, part: str = "val", by_user: bool = False) -> csr_matrix:
    """Sum of the weights of the plays of each pair in the history at `part`, csr float64 (U, n_hot).

    WorkError where plays.pqt cannot be read or has no play of these pairs.
    """
    import duckdb
    from scipy.sparse import csr_matrix
    history = split.history(part).tocoo()
    pairs = {"user_id": split.users[history.row], "track_id": split.tracks[history.col],
             "row": history.row.astype(np.int64), "col": history.col.astype(np.int64)}
    end = end_of(split, part)
    path = split.workdir / "plays.pqt"
    with duckdb.connect() as con:
        con.register("pairs", _table(pairs))
        try:
            con.execute(f"""create temp table played as
                select "row", col, epoch_us(timestamp) as moment from read_parquet({quoted(path)}) as plays
                join pairs on pairs.user_id = plays.user_id and pairs.track_id = plays.track_id
                {"" if end is None else f"where epoch_us(timestamp) < {end}"}""")
        except duckdb.Error as e:
            raise WorkError(f"{path} cannot be read as plays with times ({str(e).splitlines()[0]})") from None
        last = 'max(moment) over (partition by "row")' if by_user else "max(moment) over ()"
        found = con.execute(f"""select "row", col, sum({RATE} ** ((last - moment) / {3600e6 * hours})) as weight
            from (select *, {last} as last from played) group by "row", col""").fetchnumpy()
    if not len(found["row"]):
        raise WorkError(f"{path} has no play of the pairs of train; it is of another split")
    return csr_matrix((found["weight"], (found["row"], found["col"])), shape=(split.n_users, split.n_hot))


def _table(columns):
    import pyarrow as pa
    return pa.table(columns)
