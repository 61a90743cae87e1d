"""The histories that a model of sequences reads, in the order that --order names.

    indptr, items = histories.of(split, "plays", latest=101)

`time` and `count` order the tracks of a user, each once (Split.sequences). `plays` has every play with its repeats, out
of plays.pqt: what a listener plays again is then in the sequence again, as often as it was played, and the next play
may be of a track played before.
"""
ORDERS = ("time", "count", "plays")


def inputs(split, order):
    """What is read besides the split, as inputs of the run."""
    from ranking import plays
    return plays.inputs(split, "--order plays") if order == "plays" else []


def of(split, order, part="val", latest=None):
    """The history of every user when `part` is ranked, oldest first.

    order: one of ORDERS; latest: of the order `plays`, how many plays of a user are kept, None for all
    returns: indptr int64 (U + 1,), items int64 (N,): user u has items[indptr[u]:indptr[u + 1]]. Plays of one user at
        the same time have no order: a hash of user and track breaks the tie, for each user otherwise
    Raises as Split.sequences and ranking/plays.py.
    """
    if order != "plays":
        return split.sequences(order, part)
    import duckdb
    import numpy as np
    import pyarrow as pa
    import torch

    from harness.ties import tie_key
    from ranking import plays
    last = "" if latest is None else \
        f"""qualify row_number() over (partition by "row" order by moment desc, tie desc, col desc) <= {int(latest)}"""
    with duckdb.connect() as con:
        plays.read(con, split, part)
        tied = con.execute('select distinct "row", col from played').fetchnumpy()
        users, items = (torch.from_numpy(codes[tied[name]]) for codes, name in
                        ((split.users, "row"), (split.tracks, "col")))
        con.register("ties", pa.table({"row": tied["row"], "col": tied["col"],
                                       "tie": tie_key(users, items, seed=0).numpy()}))
        log = 'played join ties using ("row", col)'
        if con.execute("select bool_or(n > 1) from played").fetchone()[0]:     # a row is several plays
            n = "n" if latest is None else f"least(n, {int(latest)})"
            log = f'(select "row", col, moment, tie, unnest(range({n})) as nth from {log})'
        found = con.execute(f"""select "row", col from {log} {last}
            order by "row", moment, tie, col""").fetchnumpy()
    if not len(found["row"]):
        raise plays.foreign(split)
    return np.searchsorted(found["row"], np.arange(split.n_users + 1)), found["col"].astype(np.int64)
