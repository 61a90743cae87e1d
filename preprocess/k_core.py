"""The k-core of a data set: users and items with at least k pairs each, as published protocols filter theirs.

Users with fewer than k items and items with fewer than k users are left out in turn until all that are left have k
(Seidman, Social Networks 1983). The result does not depend on the order. All steps are SQL, so that memory is bounded.
"""
from harness.errors import WorkError


def restrict(log, k):
    """Restrict a protocols.Log to its k-core; returns what was left out, for split.json. WorkError for nothing left."""
    log.run("create temp table core as select distinct user_id, track_id from plays")
    before, rounds = _sizes(log), 0
    while _leave_out(log, k):
        rounds += 1
    if not log.one("select count(*) from core"):
        raise WorkError(f"--k-core {k} leaves no play: plays.pqt has no users and items with {k} pairs each among "
                        f"themselves (after {rounds} rounds); use a smaller number")
    after = _sizes(log)
    if rounds:
        for table, column in (("core_users", "user_id"), ("core_tracks", "track_id")):
            log.run(f"create temp table {table} as select distinct {column} as id from core")
        log.restrict("core_users", "core_tracks")
    log.run("drop table core")
    lost = [a - b for a, b in zip(before, after, strict=True)]
    return {"k": k, "rounds": rounds, **dict(zip(("pairs", "users", "tracks"), lost, strict=True))}


def _sizes(log):
    return log.run("select count(*), count(distinct user_id), count(distinct track_id) from core").fetchone()


def _leave_out(log, k):
    """Remove users, then items with fewer than k pairs; returns how many there were."""
    removed = 0
    for column in ("user_id", "track_id"):
        log.run(f"""create or replace temp table few as
            select {column} from core group by {column} having count(*) < {k}""")
        if n := log.one("select count(*) from few"):
            log.run(f"create or replace temp table core as from core anti join few using ({column})")
            removed += n
    return removed
