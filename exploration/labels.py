"""Tags, genres and other labels of tracks: the share of the tracks and of the plays that have a label."""
import numpy as np

from exploration import drawing
from exploration.words import count, name, share, table

TITLE = "Tags and genres"
COLUMNS = ("tags", "styles", "genres", "subgenres", "language", "country")   # of items.pqt, in the order they are shown
TOP = 15


def measure(work):
    if work.items is None:
        return "no tags or genres: there is no items.pqt"
    columns = [c for c in COLUMNS if c in work.items.column_names]
    if not columns:
        return f"no tags or genres: items.pqt has only {', '.join(work.items.column_names)}"
    results = {column: labels(work.items[column], *work.by_track) for column in columns}
    results = {column: numbers for column, numbers in results.items() if numbers.get("labels") or "unread" in numbers}
    if readable(results):
        return results
    reasons = [f"{column} of items.pqt is {n['unread']}, not text or lists of text" for column, n in results.items()]
    return "no tags or genres: " + ("; ".join(reasons) or f"{', '.join(columns)} of items.pqt are empty")


def readable(numbers):
    """The columns of the section's numbers that contain labels."""
    return {column: n for column, n in numbers.items() if "unread" not in n}


def labels(column, users, plays):
    """Numbers of one column of labels (single or lists), over the played tracks.

    users, plays: int64 (n,) of each track. Duplicate labels of a track count once. {"unread": type} for a column of
    another type.
    """
    row, text = flat(column)
    if row is None:
        return {"unread": str(column.type)}
    known, code = np.unique(text, return_inverse=True)
    pairs = np.unique(np.stack([row, code]), axis=1) if len(row) else np.zeros((2, 0), np.int64)
    row, code = pairs[:, users[pairs[0]] > 0]
    tracks = np.bincount(code, minlength=len(known))
    heard = np.bincount(code, plays[row], minlength=len(known))
    n, total = np.count_nonzero(users), plays.sum()
    order = np.lexsort((np.arange(len(known)), -heard))[:TOP]
    order = order[tracks[order] > 0]
    return {"labels": int(np.count_nonzero(tracks)), "tracks_with": len(np.unique(row)) / n,
            "plays_with": plays[np.unique(row)].sum() / total, "per_track": len(row) / max(1, len(np.unique(row))),
            "once": (tracks[tracks > 0] == 1).mean() if tracks.any() else None,
            "top": [{"label": str(known[i]), "tracks": tracks[i] / n, "plays": heard[i] / total} for i in order]}


def flat(column):
    """(row int64 (m,), text (m,)) of the labels of an arrow column of text, categories or lists of them.

    Numbers and dates are converted to text; (None, None) for a column of another type, such as structs.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    column = column.combine_chunks()
    if any(is_kind(column.type) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
                                                pa.types.is_list_view, pa.types.is_large_list_view)):
        row, values = pc.list_parent_indices(column), pc.list_flatten(column)
    else:
        row, values = pa.array(np.arange(len(column))), column
    try:
        values = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None, None
    kept = pc.and_(pc.is_valid(values), pc.fill_null(pc.not_equal(values, ""), False))
    row, values = row.filter(kept), values.filter(kept)
    return row.to_numpy().astype(np.int64), values.to_numpy(zero_copy_only=False).astype(str)


def draw(numbers):
    shown = list(readable(numbers))[:2]
    rows = max(len(numbers[column]["top"]) for column in shown)
    figure, axes = drawing.sheet(1, len(shown), height=1.2 + 0.24 * rows)
    for one, column in zip(np.atleast_1d(axes), shown, strict=True):
        top = numbers[column]["top"]
        drawing.dumbbells(one, [t["label"] for t in top], [t["tracks"] for t in top], [t["plays"] for t in top],
                          ("of the tracks", "of the plays") if column == shown[-1] else None, rows)
        one.set(xlabel="share with the label (most played first)", title=column.capitalize())
    return {"labels": figure}


def describe(numbers):
    blocks, read = [], readable(numbers)
    for column, n in read.items():
        first = n["top"][0]
        blocks.append(f"**{column}**: {count(n['labels'])} labels, on average {n['per_track']:.1f} per labelled track; "
                      f"{share(n['tracks_with'])} of the tracks and {share(n['plays_with'])} of the plays have one. "
                      f"The most played is {name(first['label'])}, with {share(first['plays'])} of the plays and "
                      f"{share(first['tracks'])} of the tracks; {share(n['once'])} of the labels occur on one track "
                      "only.")
    blocks += [f"{name(column)} is left out: it is {name(n['unread'])}, not text or lists of text."
               for column, n in numbers.items() if column not in read]
    rest = [[f"{column}: {name(t['label'])}", share(t["tracks"]), share(t["plays"])]
            for column in list(read)[2:] for t in read[column]["top"][:5]]
    return blocks + ([table(["label", "of the tracks", "of the plays"], rest)] if rest else [])
