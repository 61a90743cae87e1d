"""Protocol cold-items: a seeded share of the items loses all its plays to cold_test, another to cold_val.

Items are drawn within tenths of their popularity (users who played them), so that the cold items are as popular as the
hot ones. Several ids of one recording are one item (preprocess/recordings.py): all of them are drawn, or none. What is
left is split by the protocol `random`, or by one global date as in recsys24.
"""
from harness.errors import UsageError, WorkError
from preprocess import protocols, recordings
from preprocess.protocols import FINE

STRATA = 10    # tenths of popularity, fewer where there are few items


def split(log, cold_share, cold_val_share, seed, same=None, dates=None, **shares):
    """Fill `pairs`, `train`, `held` and `cold_tracks`; returns the counts for split.json.

    cold_share, cold_val_share: shares of the items; same: of `recordings.read`, or None
    dates: None, or {train_start, test_date, test_end} of the hot val and test; shares: of `protocols.random`, or
    val_share alone with dates
    """
    window(log, dates)
    if not log.one("select count(*) from own"):
        log.run("create temp table pairs as select *, 'train'::part as part from own")
        return {}   # what to do about no plays is said where every protocol's pairs are checked
    facts = recordings.kept_together(log, same)
    facts["items"] = draw_items(log, cold_share, cold_val_share, seed)
    hot_parts(log, seed, dates, shares)
    log.run("insert into pairs select user_id, track_id, timestamp, count, part from own join cold_tracks "
            "using (track_id)")
    log.divide()
    facts["users_without_train"] = log.one("select count(distinct user_id) from own anti join train using (user_id)")
    log.keep_trained()
    for part, share in (("cold_test", cold_share), ("cold_val", cold_val_share)):
        if share and not log.one(f"select count(*) from held where part = '{part}'"):
            raise WorkError(f"{part} would be empty: no user of its {facts['items'][part]} items has a play of another "
                            "item in train; choose another --seed or a smaller share, or leave out users with few "
                            "plays (--k-core 2)")
    return facts


def window(log, dates):
    """One row per pair in the table `own`: of the whole log, or of [train_start, test_end) with dates."""
    if dates is not None:
        protocols.windowed(log, dates["train_start"], dates["test_date"], dates["test_end"])
    if "own" not in log.made:
        own_pairs(log, dates)


def own_pairs(log, dates):
    """The table `own` of `window`."""
    if dates is None:
        log.run("""create temp table own as select user_id, track_id, min(timestamp) as timestamp,
                   sum(count)::bigint as count from plays group by user_id, track_id""")
        return
    log.run("""create temp table own as select user_id, track_id, min(timestamp) as timestamp,
               sum(count)::bigint as count from plays where timestamp >= $start and timestamp < $end
               group by user_id, track_id""", {"start": dates["train_start"], "end": dates["test_end"] or "9999-12-31"})


def draw_items(log, cold_share, cold_val_share, seed):
    """Fill `cold_tracks` (track_id, part); returns {"all": items, "cold_test": .., "cold_val": ..}.

    Of the items in order of popularity, the first r have ceil(share r) cold ones after each stratum, so that every
    stratum has its share within one item. UsageError where no hot item would be left.
    """
    n = log.one("select count(distinct item) from items")
    wanted = {"cold_test": share_of(n, cold_share), "cold_val": share_of(n, cold_val_share)}
    for flag, share, part in (("--cold-share", cold_share, "cold_test"), ("--cold-val-share", cold_val_share,
                                                                          "cold_val")):
        if share and not wanted[part]:
            raise UsageError(f"{flag} {share:g} of {n} {'item' if n == 1 else 'items'} is none; use a share of at "
                             f"least {1 / max(n, 1):.2g}, or 0 for no {part}")
    if sum(wanted.values()) >= n:
        raise UsageError(f"--cold-share {cold_share:g} and --cold-val-share {cold_val_share:g} leave no item for "
                         f"train: of {n} {'item' if n == 1 else 'items'} {wanted['cold_test']} would be in cold_test "
                         f"and {wanted['cold_val']} in cold_val; use smaller shares, or data of more items")
    strata = max(1, min(STRATA, int(n * (1 - cold_share - cold_val_share) / 2)))
    ends = [n * (s + 1) // strata for s in range(strata)]
    rows = [(s, *(share_of(end, share) - share_of(start, share) for share in (cold_share, cold_val_share)))
            for s, (start, end) in enumerate(zip([0, *ends], ends, strict=False))]
    log.run("create or replace temp table strata (stratum bigint, n_test bigint, n_val bigint)")
    log.con.executemany("insert into strata values (?, ?, ?)", rows)
    key = f"md5_number_lower(concat_ws(':', 'item', {int(seed)}, item))"
    log.run(f"""create or replace temp table cold_tracks as
        select track_id, (case when place <= n_test then 'cold_test' else 'cold_val' end)::part as part
        from items join (
            select item, n_test, n_val, row_number() over (partition by stratum order by {key}, item) as place
            from (select item, (rank * {strata} + {strata - 1}) // {n} as stratum from (
                      select item, row_number() over (order by users desc, {key}, item) - 1 as rank from (
                          select item, count(distinct user_id) as users from own join items using (track_id)
                          group by item)))
            join strata using (stratum)) using (item)
        where place <= n_test + n_val""")
    return {"all": n, **wanted}


def share_of(n, share):
    """A share of n items, rounded up."""
    import math
    return math.ceil(share * n - FINE)


def hot_parts(log, seed, dates, shares):
    """Fill `pairs` with the plays of the hot items: by `random`, or with dates as in recsys24."""
    hot = "(track_id is null or track_id not in (select track_id from cold_tracks))"   # null: check_pairs refuses it
    if dates is None:
        log.run(f"create temp table pairs as from own where {hot}")
        protocols.share_out(log, seed=seed, **shares)
        return
    log.run(f"delete from pairs where not ({hot})")
    log.divide()
    if not log.one("select count(*) from train"):
        raise WorkError(f"no hot item has a play from {dates['train_start']} to {dates['test_date']}; choose other "
                        "dates or a smaller --cold-share")
    log.keep_trained()
    protocols.to_val(log, log.users("true"), shares["val_share"], seed)
    log.run("""create or replace temp table pairs as select user_id, track_id, timestamp, count, 'train'::part as part
               from train union all select user_id, track_id, timestamp, count, part from held""")
