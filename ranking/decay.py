"""Plays weighted by their age.

    weights = decay.weights(split, hours=12)                 csr float64 (U, n_hot), summed over the plays of each pair

A play weighs 0.9 ** (age / hours), a row of several plays as many times that; its age is the time to the last play of
train, or to the user's last one (by_user).
The plays are those of ranking/plays.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from ranking import plays

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from dataset import Split

RATE = 0.9   # of a play's weight that is left after `hours`


def weights(split: Split, hours: float, part: str = "val", by_user: bool = False) -> csr_matrix:
    """Sum of the weights of the plays of each pair in the history at `part`, csr float64 (U, n_hot).

    WorkError where plays.pqt cannot be read or has no play of these pairs.
    """
    import duckdb
    from scipy.sparse import csr_matrix
    with duckdb.connect() as con:
        plays.read(con, split, part)
        last = 'max(moment) over (partition by "row")' if by_user else "max(moment) over ()"
        found = con.execute(f"""select "row", col, sum(n * {RATE} ** ((last - moment) / {3600e6 * hours})) as weight
            from (select *, {last} as last from played) group by "row", col""").fetchnumpy()
    if not len(found["row"]):
        raise plays.foreign(split)
    return csr_matrix((found["weight"], (found["row"], found["col"])), shape=(split.n_users, split.n_hot))
