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

RATE = 0.9      # of a play's weight that is left after `hours`
UNIT = 1 << 52  # of the sums: whole numbers add up to the same whatever the order in which threads meet them


def weights(split: Split, hours: float, part: str = "val", by_user: bool = False) -> csr_matrix:
    """Sum of the weights of the plays of each pair in the history at `part`, csr float64 (U, n_hot), the same for any
    number of threads.

    WorkError where plays.pqt cannot be read or has no play of these pairs.
    """
    import duckdb
    from scipy.sparse import csr_matrix
    with duckdb.connect() as con:
        plays.read(con, split, part)
        last = 'max(moment) over (partition by "row")' if by_user else "max(moment) over ()"

        def left(since, until):   # of a weight after the time between two moments
            return f"{RATE} ** (({until} - {since}) / {3600e6 * hours})"
        found = con.execute(f"""select "row", col, sum((n * {left("moment", "latest")} * {UNIT})::hugeint)::double
                / {UNIT} * {left("max(latest)", "max(last)")} as weight
            from (select *, {last} as last, max(moment) over (partition by "row", col) as latest from played)
            group by "row", col order by "row", col""").fetchnumpy()
    if not len(found["row"]):
        raise plays.foreign(split)
    return csr_matrix((found["weight"], (found["row"], found["col"])), shape=(split.n_users, split.n_hot))
