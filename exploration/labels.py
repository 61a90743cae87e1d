"""Tags, genres and what else metadata say in words: how common a label is among tracks, and among plays."""
import numpy as np

from exploration import drawing
from exploration.words import count, name, share, table

TITLE = "Tags and genres"
COLUMNS = ("tags", "styles", "genres", "subgenres", "language", "country")   # of items.pqt, in the order they are shown
TOP = 15


def measure(work):
    if work.items is None:
        return "no tags or genres: there is no items.pqt"
    there = [c for c in COLUMNS if c in work.items.column_names]
    if not there:
        return f"no tags or genres: items.pqt has {', '.join(work.items.column_names)}"
    found = {column: labels(work.items[column], *work.by_track) for column in there}
    found = {column: numbers for column, numbers in found.items() if numbers.get("labels") or "unread" in numbers}
    if readable(found):
        return found
    why = [f"{column} of items.pqt is {n['unread']}, no texts or lists of them" for column, n in found.items()]
    return "no tags or genres: " + ("; ".join(why) or f"{', '.join(there)} of items.pqt are empty")


def readable(numbers):
    """Those columns of the section's numbers that hold labels."""
    return {column: n for column, n in numbers.items() if "unread" not in n}


def labels(column, users, plays):
    """Numbers of one column of labels, lists or single ones, of the tracks somebody played.

    users, plays: int64 (n,) of each track. A label that a track has twice counts once. {"unread": type} of a column
    of anything else.
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
    """(row int64 (m,), text (m,)) of the labels of an arrow column of texts, categories or lists of them.

    Numbers and dates count as texts; (None, None) of a column of anything else, such as structs.
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
    there = pc.and_(pc.is_valid(values), pc.fill_null(pc.not_equal(values, ""), False))
    row, values = row.filter(there), values.filter(there)
    return row.to_numpy().astype(np.int64), values.to_numpy(zero_copy_only=False).astype(str)


def draw(numbers):
    shown = list(readable(numbers))[:2]
    rows = max(len(numbers[column]["top"]) for column in shown)
    figure, axes = drawing.sheet(1, len(shown), height=1.2 + 0.24 * rows)
    for one, column in zip(np.atleast_1d(axes), shown, strict=True):
        top = numbers[column]["top"]
        drawing.dumbbells(one, [t["label"] for t in top], [t["tracks"] for t in top], [t["plays"] for t in top],
                          ("of the tracks", "of the plays") if column == shown[-1] else None, rows)
        one.set(xlabel="share that has the label (most played first)", title=column.capitalize())
    return {"labels": figure}


def tell(numbers):
    blocks, read = [], readable(numbers)
    for column, n in read.items():
        first = n["top"][0]
        blocks.append(f"**{column}**: {count(n['labels'])} labels, {n['per_track']:.1f} on a track that has any; "
                      f"{share(n['tracks_with'])} of the tracks and {share(n['plays_with'])} of the plays have one. "
                      f"The most played is {name(first['label'])}, with {share(first['plays'])} of the plays and "
                      f"{share(first['tracks'])} of the tracks; {share(n['once'])} of the labels stand on one track.")
    blocks += [f"{name(column)} is left out: it is {name(n['unread'])}, no texts or lists of them."
               for column, n in numbers.items() if column not in read]
    rest = [[f"{column}: {name(t['label'])}", share(t["tracks"]), share(t["plays"])]
            for column in list(read)[2:] for t in read[column]["top"][:5]]
    return blocks + ([table(["label", "of the tracks", "of the plays"], rest)] if rest else [])
