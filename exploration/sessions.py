"""Sessions: runs of a user's plays without a long pause between them."""
import numpy as np

from exploration import drawing
from exploration.words import count, share, table

TITLE = "Sessions"
PLAYS = 20_000_000   # larger logs are sampled by user
SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400
GAPS = 10 ** np.arange(0, 8.6, 0.25)   # seconds, to ten years in quarters of a power of ten


def measure(work):
    """A session ends if no play starts for `work.gap` minutes. Plays have a start time and no end time."""
    if work.time != "real":
        return "no sessions: the plays have " + (
            "an order, but no timestamps" if work.time == "ordinal" else "no times")
    if work.split_only:
        return "no sessions: there is no plays.pqt, and the split has the first play of a pair only"
    plays = work.log.one("select count(*) from plays")
    every = -(-plays // PLAYS)
    users = np.random.default_rng(work.seed).permutation(work.by_user[0])[::every]
    work.log.ids("drawn", users)
    work.log.run("""create or replace temp table steps as select user_id, timestamp, epoch(timestamp - lag(timestamp)
        over (partition by user_id order by timestamp)) as gap from plays where user_id in (from drawn)""")
    gaps = work.log.run("select epoch_bin, count(*)::bigint as n from (select case "
                        + " ".join(f"when gap < {edge} then {i}" for i, edge in enumerate(GAPS))
                        + f" else {len(GAPS)} end as epoch_bin from steps where gap is not null) group by 1").fetchall()
    # plays of one second get the same number, as the frame of an ordered sum includes all of them
    work.log.run(f"""create or replace temp table sessions as select user_id, count(*) as plays,
        epoch(max(timestamp) - min(timestamp)) / 60 as minutes from (select user_id, timestamp, sum((gap is null or
        gap >= {60 * work.gap})::int) over (partition by user_id order by timestamp) as number from steps)
        group by user_id, number""")
    lengths = work.log.run("select plays, count(*)::bigint as n from sessions group by 1 order by 1").fetchnumpy()
    total, mean, middle, minutes = work.log.run(
        "select count(*), avg(plays), median(plays), median(minutes) from sessions").fetchone()
    return {"gap_minutes": work.gap, "users": len(users), "of_users": len(work.by_user[0]), "sessions": total,
            "sessions_per_user": total / len(users), "plays_mean": mean, "minutes_median": minutes,
            "plays_median": middle, "plays_max": int(lengths["plays"][-1]),
            "single": lengths["n"][lengths["plays"] == 1].sum() / total, **_histogram(gaps), **_lengths(lengths, total)}


def _histogram(gaps):
    """Histogram of the gaps over GAPS; gaps outside the edges are in the first or last bin."""
    heights = np.zeros(len(GAPS) - 1)
    for place, n in gaps:
        heights[min(max(place - 1, 0), len(heights) - 1)] += n
    return {"gap_edges_seconds": GAPS, "gaps": heights / max(1, heights.sum())}


def _lengths(lengths, total):
    """Sessions by plays in doubling bins: 1, 2, 3-4, 5-8, ..."""
    edges = np.array([0, *2 ** np.arange(0, max(1, int(np.ceil(np.log2(lengths["plays"][-1])))) + 1)])
    place = np.searchsorted(edges, lengths["plays"], side="left") - 1
    return {"length_edges": edges, "lengths": np.bincount(place, lengths["n"], minlength=len(edges) - 1) / total}


def draw(numbers):
    figure, (left, right) = drawing.sheet(1, 2, height=3.3)
    edges, heights = np.array(numbers["gap_edges_seconds"]), np.array(numbers["gaps"])
    left.stairs(heights, edges, fill=True, color=drawing.FIRST, alpha=0.85)
    left.set_xscale("log")
    left.set_xticks([1, MINUTE, HOUR, DAY, 30 * DAY, 365 * DAY], ["1 s", "1 min", "1 h", "1 d", "30 d", "1 y"])
    left.minorticks_off()
    left.set_xlim(0.8, edges[-1])
    left.set_ylim(0, 1.2 * max(heights.max(), 1e-9))
    cut = 60 * numbers["gap_minutes"]
    left.axvline(cut, color=drawing.SECOND, lw=1.4)
    drawing.note(left, cut, 1.12 * heights.max(), f"{numbers['gap_minutes']} min", drawing.SECOND)
    left.set(xlabel="time from one play to the next", ylabel="share of the gaps", title="Gaps between plays")
    drawing.shares(left.yaxis)
    lengths, ends = np.array(numbers["lengths"]), numbers["length_edges"]
    words = [str(b) if b - a == 1 else f"{a + 1}–{b}" for a, b in zip(ends[:-1], ends[1:], strict=True)]
    right.bar(range(len(lengths)), lengths, color=drawing.FIRST, alpha=0.85, width=0.86)
    right.set_xticks(range(len(words)), words, rotation=0 if len(words) < 8 else 40)
    right.grid(axis="x", visible=False)
    right.set(xlabel="plays in a session", ylabel="share of the sessions", title="Length of the sessions")
    drawing.shares(right.yaxis)
    return {"sessions": figure}


def describe(numbers):
    n = numbers
    lead = (f"If a session ends after {n['gap_minutes']} minutes without a new play, there are {count(n['sessions'])} "
            f"sessions, {count(n['sessions_per_user'])} per user; {share(n['single'])} have a single play. Plays have "
            "a start time and no end time.")
    if n["users"] < n["of_users"]:
        lead += f" Based on a sample of {count(n['users'])} of {count(n['of_users'])} users."
    return [lead, table(["", "median", "mean", "most"], [
        ["plays in a session", count(n["plays_median"]), count(n["plays_mean"]), count(n["plays_max"])],
        ["minutes from first to last play", count(n["minutes_median"]), "", ""]])]
