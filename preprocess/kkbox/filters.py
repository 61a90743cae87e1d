"""The filters, playlists and points of the DTNMR source on KKBOX: which rows are history, train, val and test.

Filters, in this order, with their options; comparisons are strict or not as in the source:
  songs.csv            a song must have metadata
  --top X              plays in train.csv above X times those of the most played song
  --max-seconds S      shorter than S; a song of unknown length passes with inf only
  --artist-names, --composer-names   latin: at least one name, and each of them has a blank inside, at most 25
                       characters and none that is Chinese, Japanese, Korean or Thai (the rule of the source's
                       code; its docstring states the opposite); known: at least one name; any: no filter
  --min-age A, --max-age B   age from A to B inclusive; an unknown age passes with --min-age 0 only
  --min-playlist-len M, --max-playlist-len N   more than M and fewer than N plays of kept songs in train.csv
If no song or user passes a filter, the error names the filter and a value that some of them pass.
"""
from dataclasses import dataclass, field

import numpy as np

from harness.errors import WorkError

NAMES = ("latin", "known", "any")
FOREIGN = "[\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7a3\u0e00-\u0e7f]"
LONGEST_NAME = 25
LAST_SHARE = 0.1   # share of a playlist that is test if test.csv gives no points


@dataclass
class Kept:
    """Result of the filters: masks over tracks and users, playlist lengths in train, and counts of each filter."""
    tracks: np.ndarray
    users: np.ndarray
    length: np.ndarray     # int64 (users,) plays of kept songs in train.csv
    aged: np.ndarray = None   # users that pass the age filter, regardless of their playlists
    removed: list = field(default_factory=list)


def latin(column):
    """Which rows of an Arrow column of lists have names that all satisfy the rule `latin`; bool (N,)."""
    import pyarrow.compute as pc
    column = column.combine_chunks()
    names = pc.list_flatten(column)
    fine = pc.and_(pc.match_substring_regex(names, r"[\s\p{Z}]"), pc.and_(
        pc.less_equal(pc.utf8_length(names), LONGEST_NAME),
        pc.invert(pc.match_substring_regex(names, FOREIGN)))).to_numpy(zero_copy_only=False).astype(bool)
    row = pc.list_parent_indices(column).to_numpy()
    counted = np.bincount(row, minlength=len(column))
    return (counted > 0) & (np.bincount(row[fine], minlength=len(column)) == counted)


def _named(column, rule):
    if rule == "any":
        return np.ones(len(column), bool)
    return latin(column) if rule == "latin" else np.asarray(column.is_valid())


def apply(args, plays, items, users):
    """Apply every filter and print what it removes; returns Kept.

    plays: tables.Plays; items, users: the metadata tables, including the column `known`.
    Raises WorkError, which names the filter and a value to try, if no song or no user is left.
    """
    popularity = np.bincount(plays.track[:plays.n_train], minlength=len(plays.tracks))
    kept = Kept(np.ones(len(plays.tracks), bool), np.ones(len(plays.users), bool), None)
    top, seconds = popularity / popularity.max(), items["song_length"].to_numpy()
    songs = [("not in songs.csv", np.asarray(items["known"]), lambda left: "use files of one data set"),
             (f"--top {args.top:g}", top > args.top, lambda left: f"try --top {_below(top[left].max())}"),
             (f"--max-seconds {args.max_seconds:g}", (seconds < args.max_seconds) | (args.max_seconds == np.inf),
              lambda left: _longer(seconds[left]))]
    for flag, column in (("artist", "artists"), ("composer", "composers")):
        rule = getattr(args, f"{flag}_names")
        songs.append((f"--{flag}-names {rule}", _named(items[column], rule), lambda left, flag=flag, column=column:
                      f"try --{flag}-names {'known' if _named(items[column], 'known')[left].any() else 'any'}"))
    for name, passing, remedy in songs:
        _filter(kept, "tracks", "songs", name, passing, remedy)
    _filter_ages(args, kept, users["age"].to_numpy())
    kept.aged = kept.users
    _filter_playlists(args, kept, plays)
    return kept


def _filter(kept, which, what, name, passing, remedy):
    before = getattr(kept, which)
    after = before & passing
    if not after.any():
        raise WorkError(f"{name} leaves none of the {int(before.sum())} {what} kept by the filters before it; "
                        f"{remedy(before)}")
    removed = int(before.sum() - after.sum())
    kept.removed.append({"filter": name, "of": what, "removed": removed, "left": int(after.sum())})
    print(f"{name}: removes {removed} of {int(before.sum())} {what}, {int(after.sum())} left")
    setattr(kept, which, after)


def _below(value):
    """Half of a share, rounded to two digits, as text: a value below it; 0 for 0."""
    return "0 (none of these songs was played in train.csv)" if value == 0 else f"{float(f'{value / 2:.1e}'):g}"


def _longer(seconds):
    known = seconds[np.isfinite(seconds)]
    return (f"try --max-seconds {int(np.median(known)) + 1}" if len(known) else
            "none of these songs has a length: try --max-seconds inf, which keeps them")


def _filter_ages(args, kept, age):
    passing = (age >= args.min_age) & (age <= args.max_age)
    known = np.isfinite(age.astype(float))
    if args.min_age <= 0:
        passing = passing | ~known

    def remedy(left):
        ages = age[left & known]
        return (f"their known ages run from {int(ages.min())} to {int(ages.max())}: try --min-age {int(ages.min())} "
                f"--max-age {int(ages.max())}" if len(ages) else "no age is known: try --min-age 0, which keeps them")
    _filter(kept, "users", "listeners", f"--min-age {args.min_age} --max-age {args.max_age}", passing, remedy)


def _filter_playlists(args, kept, plays):
    user, track = plays.user[:plays.n_train], plays.track[:plays.n_train]
    kept.length = np.bincount(user[kept.tracks[track]], minlength=len(plays.users))

    def lower(left):
        longest = int(kept.length[left].max())
        return (f"the longest playlist has {longest} plays of kept songs: try --min-playlist-len {longest // 2}"
                if longest > 1 else "no playlist has two plays of kept songs: "
                "try --top 0 --artist-names any --composer-names any")
    _filter(kept, "users", "listeners", f"--min-playlist-len {args.min_playlist_len}",
            kept.length > args.min_playlist_len, lower)
    _filter(kept, "users", "listeners", f"--max-playlist-len {args.max_playlist_len}",
            kept.length < args.max_playlist_len, lambda left:
            f"the shortest playlist left has {int(kept.length[left].min())} plays of kept songs: "
            f"try --max-playlist-len {int(np.median(kept.length[left])) + 1}")


# --------------------------------------------------------------------------- points

PARTS = np.array(["history", "train", "val", "test"])
HISTORY, TRAIN, VAL, TEST = range(4)


def points(args, plays, kept):
    """The playlists of kept users with the part of each row, in the order of points.pqt.

    returns: rows int64 (N,) of `plays`, position int64 (N,), part int8 (N,) as indices of PARTS, and facts for
             dataset.json: the source of the test points, and the counts printed by the DTNMR source
    """
    rows = np.flatnonzero(kept.tracks[plays.track] & kept.users[plays.user])
    train, test = rows[rows < plays.n_train], rows[rows >= plays.n_train]
    in_test = np.bincount(plays.user[test], minlength=len(kept.users))
    listened = (in_test > args.min_playlist_len) & (in_test < args.max_playlist_len)
    from_csv = args.test != "last" and bool(listened.any())
    if args.test == "csv" and not from_csv:
        longest = int(in_test.max(initial=0))
        raise WorkError(f"--test csv gives no test point: no kept listener has more than {args.min_playlist_len} and "
                        f"fewer than {args.max_playlist_len} plays of kept songs in test.csv (the most is {longest}); "
                        "try --test last, which takes the last tenth of each playlist")
    rows = np.concatenate([train, test[listened[plays.user[test]]]]) if from_csv else train
    rows = rows[np.argsort(plays.user[rows], kind="stable")]
    user = plays.user[rows]
    position = np.arange(len(rows)) - np.searchsorted(user, user)
    part = _parts(position, kept.length[user], args.min_playlist_len, args.val_share, last=not from_csv)
    return rows, position, part, {"test_from": "test.csv" if from_csv else "the last tenth of each playlist",
                                  "as_the_source_counts": _source_counts(args, plays, kept)}


def _source_counts(args, plays, kept):
    """Counts to compare with the published ones (about 11,000 users, 240,000 training and 38,000 test points).

    The source counts every user with at least one remaining play, takes no val from train, and has test points for
    every user whose playlist in test.csv is within the limits, with or without one in train.csv.
    """
    rows = np.flatnonzero(kept.tracks[plays.track] & kept.aged[plays.user])
    lengths = [np.bincount(plays.user[some], minlength=len(kept.aged))
               for some in (rows[rows < plays.n_train], rows[rows >= plays.n_train])]
    points = [int((n - args.min_playlist_len)[(n > args.min_playlist_len) & (n < args.max_playlist_len)].sum())
              for n in lengths]
    return {"users": int((lengths[0] > 0).sum()), "train_points": points[0], "test_points": points[1]}


def _parts(position, length, least, val_share, last):
    """Part of each row from its position in the playlist and the length of the train playlist; int8 (N,)."""
    held = np.minimum(np.maximum(1, np.floor(LAST_SHARE * length + 1e-9)), length - least) if last else 0
    n_points = length - least - held
    n_val = np.where(n_points < 2, 0, np.maximum(1, np.floor(val_share * n_points + 1e-9))) if val_share else 0
    starts = ((least, TRAIN), (length - held - n_val, VAL), (length - held, TEST if last else HISTORY),
              (length + least, TEST))
    part = np.full(len(position), HISTORY, np.int8)
    for start, name in starts:
        part[position >= start] = name
    return part


def split_pairs(user, track, part, n_tracks):
    """Unique pairs with the part of their first play: (row of that play int64, part int8, plays in it int64).

    user, track, part: (N,) in the order of points. Pairs first played in history that follows a point (the
    beginning of a test playlist) belong to no part, as they are neither known at training time nor test points.
    """
    key = user.astype(np.int64) * n_tracks + track
    point = np.flatnonzero(part != HISTORY)
    users, first_point = np.unique(user[point], return_index=True)
    begin = np.full(int(user.max(initial=0)) + 1, len(user))
    begin[users] = point[first_point]
    part = np.where((part == HISTORY) & (np.arange(len(user)) < begin[user]), TRAIN, part)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    same = part == part[first][inverse]
    count = np.bincount(inverse[same], minlength=len(first))
    chosen = part[first] != HISTORY
    return first[chosen], part[first][chosen], count[chosen]
