"""Sizes: users, tracks, pairs, plays, sparsity of the interaction matrix, and the parts of the split."""
import numpy as np

from exploration.words import count, name, share, table
from harness.errors import WorkError

TITLE = "Sizes"
PARTS = ("train", "val", "test", "cold_test", "cold_val", "hidden")   # hidden: what --train-share took out


def measure(work):
    users, plays = work.by_track
    _, tracks_of, plays_of = work.by_user
    played = users > 0
    first, last = work.log.run("select min(timestamp), max(timestamp) from plays").fetchone()
    real = work.time == "real"
    return {"users": len(tracks_of), "tracks": len(work.ids), "tracks_played": int(played.sum()),
            "pairs": int(users.sum()), "plays": int(plays.sum()),
            "density": users.sum() / (len(tracks_of) * max(1, played.sum())),
            "first": str(first) if real else None, "last": str(last) if real else None, "time": work.time,
            "tracks_of_a_user": _spread(tracks_of), "plays_of_a_user": _spread(plays_of),
            "users_of_a_track": _spread(users[played]), "plays_of_a_pair": _spread_of_pairs(work),
            "from_split": work.split_only, "split": _split(work)}


def _spread(values):
    return {"min": values.min(), "median": np.median(values), "mean": values.mean(), "max": values.max()}


def _spread_of_pairs(work):
    row = work.log.run("select min(n), median(n), avg(n), max(n) from pairs").fetchone()
    return dict(zip(("min", "median", "mean", "max"), map(float, row), strict=True))


def _split(work):
    """{part: {pairs, users, tracks}} of data/; WorkError for a file that is not a part of a split."""
    import duckdb

    from harness.files import parquet_rows
    parts = {}
    for part in PARTS:
        path = work.path / "data" / f"{part}.pqt"
        if path.exists():
            try:
                row = work.log.con.execute("select count(*), count(distinct user_id), count(distinct track_id) "
                                   f"from {parquet_rows(path)}").fetchone()
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error as e:
                raise WorkError(f"{path} cannot be read as pairs of user_id and track_id "
                                f"({str(e).splitlines()[0]}); split again") from None
            parts[part] = dict(zip(("pairs", "users", "tracks"), row, strict=True))
    return parts


def draw(numbers):
    return {}


def describe(numbers):
    n = numbers
    span = f", from {n['first'][:10]} to {n['last'][:10]}" if n["first"] else ""
    lead = (f"{count(n['users'])} users and {count(n['tracks_played'])} played tracks (of {count(n['tracks'])} in the "
            f"track list) have {count(n['pairs'])} pairs and {count(n['plays'])} plays{span}. The sparsity of the "
            f"user-track matrix is {share(1 - n['density'])}.")
    if n["from_split"]:
        lead += " There is no plays.pqt, so plays are the rows of data/."
    spread = table(["", "minimum", "median", "mean", "maximum"], [
        [what, *(count(n[key][c]) for c in ("min", "median", "mean", "max"))] for what, key in (
            ("tracks of a user", "tracks_of_a_user"), ("plays of a user", "plays_of_a_user"),
            ("users of a track", "users_of_a_track"), ("plays of a pair", "plays_of_a_pair"))])
    parts = table(["part", "pairs", "users", "tracks"], [
        [name(part), *map(count, row.values())] for part, row in n["split"].items()])
    return [lead, spread, *([parts] if n["split"] else ["The plays are not split yet."])]
