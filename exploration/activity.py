"""Activity over time: plays and users per day, first plays of tracks, hours of the week. Times are UTC."""
import numpy as np

from exploration import drawing
from exploration.words import count, share

TITLE = "Activity over time"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def measure(work):
    """Plays per day in buckets of a day, week or month, depending on the length of the log.

    The first and last bucket are divided by their days within the log, so that partial buckets are not too low.
    """
    if work.time != "real":
        return "no activity over time and no hours: the plays have " + (
            "an order, but no timestamps" if work.time == "ordinal" else "no times")
    first, last = work.log.run("select min(timestamp), max(timestamp) from plays").fetchone()
    days = (last.date() - first.date()).days + 1
    bucket = "day" if days <= 120 else "week" if days <= 3 * 366 else "month"
    active = work.log.run(f"""select epoch(date_trunc('{bucket}', timestamp))::bigint as start,
        sum(count)::bigint as plays, count(distinct user_id) as users from plays group by 1 order by 1""").fetchnumpy()
    fresh = work.log.run(f"""select epoch(date_trunc('{bucket}', begun))::bigint as start, count(*) as tracks
        from (select min(timestamp) as begun from plays group by track_id) group by 1""").fetchnumpy()
    starts = _starts(active["start"][0], active["start"][-1], bucket)
    plays, users, new = (_fill(starts, f["start"], f[c]) for f, c in (
        (active, "plays"), (active, "users"), (fresh, "tracks")))
    edges = np.append(starts, _starts(starts[-1], starts[-1] + 32 * 86400, bucket)[1])
    ends = np.array([first, last], "datetime64[D]").astype("datetime64[s]").astype(np.int64) + [0, 86400]
    covered = np.diff(np.clip(edges, *ends)) / 86400
    week = np.zeros((7, 24))
    for day, hour, plays_then in work.log.run(
            "select isodow(timestamp), hour(timestamp), sum(count)::bigint from plays group by 1, 2").fetchall():
        week[day - 1, hour] = plays_then
    return {"bucket": bucket, "first": str(first), "last": str(last), "days": days, "start": starts,
            "plays_per_day": plays / covered, "users": users, "new_tracks_per_day": new / covered,
            "week": week / week.sum(), "weekend": week[5:].sum() / week.sum()}


def _starts(first, last, bucket):
    """Starts of all buckets from the first to the last, seconds since the epoch, int64."""
    import pandas as pd
    step = {"day": "D", "week": "W-MON", "month": "MS"}[bucket]
    dates = pd.date_range(pd.Timestamp(first, unit="s"), pd.Timestamp(last, unit="s"), freq=step)
    return dates.to_numpy("datetime64[s]").astype(np.int64)


def _fill(starts, some, values):
    out = np.zeros(len(starts))
    out[np.searchsorted(starts, some)] = values
    return out


def draw(numbers):
    start = np.array(numbers["start"], "datetime64[s]")
    figure, axes = drawing.sheet(3, 1, height=5.0, sharex=True)
    for one, key, color, what in ((axes[0], "plays_per_day", drawing.FIRST, "plays per day"),
                                  (axes[1], "users", drawing.SECOND, f"users in a {numbers['bucket']}"),
                                  (axes[2], "new_tracks_per_day", drawing.THIRD, "new tracks per day")):
        values = np.array(numbers[key], float)
        one.fill_between(start, values, step="post" if len(values) < 15 else None, color=color, alpha=0.14, lw=0)
        one.plot(start, values, color=color, drawstyle="steps-post" if len(values) < 15 else "default")
        one.set_ylim(0, 1.12 * max(values.max(), 1e-9))
        one.set_title(what, fontsize=9, color=color)
        one.grid(axis="x", visible=False)
        drawing.counts(one.yaxis)
    return {"activity": figure, "week": _week(np.array(numbers["week"]))}


def _week(week):
    figure, axes = drawing.sheet(height=2.5)
    image = axes.imshow(week * 168, aspect="auto", cmap="Blues", vmin=0)
    axes.set_xticks(range(0, 24, 3), [f"{h:02}:00" for h in range(0, 24, 3)])
    axes.set_yticks(range(7), [d[:3] for d in DAYS])
    axes.set(xlabel="hour (UTC)", title="Hours of the week")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=14)
    bar.set_label("plays, 1 = average hour")
    bar.outline.set_visible(False)
    return figure


def describe(numbers):
    plays, week = np.array(numbers["plays_per_day"], float), np.array(numbers["week"])
    busiest, calmest = (np.unravel_index(f(week), week.shape) for f in (np.argmax, np.argmin))
    top = np.array(numbers["start"], "datetime64[s]")[plays.argmax()].astype("datetime64[D]")
    return [f"{count(numbers['days'])} days, from {numbers['first'][:10]} to {numbers['last'][:10]}; the "
            f"{numbers['bucket']} of {top} was the busiest with {count(plays.max())} plays a day (median "
            f"{count(np.median(plays))}). {share(numbers['weekend'])} of the plays fall on Saturday and Sunday (two "
            f"days of seven: 29 %). The hour of the week with most plays is {DAYS[busiest[0]]} {busiest[1]:02}:00 UTC, "
            f"with fewest {DAYS[calmest[0]]} {calmest[1]:02}:00."]
