"""Long tails: concentration of plays over tracks and over users."""
import numpy as np

from evaluation.beyond_accuracy import gini
from exploration import drawing
from exploration.words import count, share, table

TITLE = "Long tails"
TOPS = (0.01, 0.05, 0.1, 0.2)
GRID = np.unique(np.concatenate([np.linspace(0, 1, 51), np.geomspace(1e-3, 1, 31)]))


def measure(work):
    users, plays = work.by_track
    _, tracks_of, plays_of = work.by_user
    tails = {"tracks_by_listeners": tail(users), "users_by_tracks": tail(tracks_of)}
    if plays.sum() > users.sum():
        tails |= {"tracks_by_plays": tail(plays), "users_by_plays": tail(plays_of)}
    return tails


def tail(values):
    """Numbers of a long tail of counts (n,), without zeros.

    rank, value: the counts at ranks from 1, the largest first; top, held: Lorenz curve, the share of the total (held)
    of the largest (top); half: number of largest counts that add up to half of it; once: share with a count of 1
    """
    values = np.sort(values[values > 0])[::-1].astype(np.float64)
    n, held = len(values), np.concatenate([[0], np.cumsum(values)]) / values.sum()
    rank = np.unique(np.geomspace(1, n, 60).round().astype(np.int64))
    return {"n": n, "gini": gini(values), "half": int(np.searchsorted(held, 0.5)), "once": (values == 1).mean(),
            "rank": rank, "value": values[rank - 1], "top": GRID, "held": np.interp(GRID * n, np.arange(n + 1), held),
            "of_the_top": {f"{t:g}": float(np.interp(t * n, np.arange(n + 1), held)) for t in TOPS}}


def draw(numbers):
    unit = "plays" if "tracks_by_plays" in numbers else "pairs"
    tracks = numbers.get("tracks_by_plays", numbers["tracks_by_listeners"])
    users = numbers.get("users_by_plays", numbers["users_by_tracks"])
    figure, (left, right) = drawing.sheet(1, 2, height=3.7)
    for one, color, words in ((numbers["tracks_by_listeners"], drawing.FIRST, "listeners of a track"),
                              (numbers["users_by_tracks"], drawing.SECOND, "tracks of a user")):
        left.loglog(one["rank"], one["value"], color=color, label=words)
    left.set(xlabel="rank, the largest first", ylabel="count", title="By rank")
    left.legend(loc="lower left")
    for axis in (left.xaxis, left.yaxis):
        drawing.log_counts(axis)
    right.plot([0, 1], [0, 1], color=drawing.QUIET, lw=1, ls=(0, (4, 3)), label="uniform")
    for one, color, words in ((tracks, drawing.FIRST, "tracks"), (users, drawing.SECOND, "users")):
        right.plot(one["top"], one["held"], color=color, label=words)
    top = tracks["of_the_top"]["0.1"]
    right.plot([0.1], [top], "o", color=drawing.FIRST, ms=5)
    right.set(xlabel="share of tracks or users, the largest first", ylabel=f"share of the {unit}", xlim=(0, 1),
              ylim=(0, 1.02), title=f"A tenth of the tracks has {share(top)} of the {unit}")
    right.legend(loc="lower right")
    drawing.shares(right.xaxis)
    drawing.shares(right.yaxis)
    return {"tails": figure}


def describe(numbers):
    tracks, users = numbers["tracks_by_listeners"], numbers["users_by_tracks"]
    lead = (f"Half of the pairs are of the top {count(tracks['half'])} tracks ({share(tracks['half'] / tracks['n'])}), "
            f"and half of the top {count(users['half'])} users ({share(users['half'] / users['n'])}). "
            f"{share(tracks['once'])} of the tracks have one listener, {share(users['once'])} of the users one track.")
    names = {"tracks_by_listeners": "tracks, by listeners", "tracks_by_plays": "tracks, by plays",
             "users_by_tracks": "users, by tracks", "users_by_plays": "users, by plays"}
    rows = [[names[key], *(share(one["of_the_top"][f"{t:g}"]) for t in TOPS), f"{one['gini']:.3f}"]
            for key, one in sorted(numbers.items())]
    return [lead, table(["share of the top", *(f"{100 * t:g} %" for t in TOPS), "Gini"], rows)]
