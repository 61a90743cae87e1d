"""What the tracks of a workspace are called: the names of items.pqt, and the track that a name or an id means."""
from runs import UsageError

NAMES = ("name", "title", "song", "artist", "artists")  # columns of items.pqt that name a track, most telling first


def read_names(workdir, n_tracks):
    """Frame of what items.pqt calls its tracks (columns of NAMES, text, '' where unknown), indexed by track id."""
    import pandas as pd
    path = workdir / "items.pqt"
    if not path.exists():
        return pd.DataFrame(index=range(n_tracks))
    items = pd.read_parquet(path).set_index("track_id")
    names = items[[c for c in NAMES if c in items.columns]].reindex(range(n_tracks))

    def text(value):
        if isinstance(value, str):
            return value
        return ", ".join(map(str, value)) if hasattr(value, "__len__") else ""
    return names.map(text)


def find_track(track, ids, names):
    """Row of the track of that id, or of that name (case apart); UsageError when there is none or several."""
    import difflib
    if track in ids:
        return ids.index(track)
    wanted = track.strip().casefold()
    for column in names:
        rows = [i for i, name in enumerate(names[column]) if wanted and name.casefold() == wanted]
        if len(rows) > 1:
            some = ", ".join(ids[i] for i in rows[:5]) + (", ..." if len(rows) > 5 else "")
            raise UsageError(f"{len(rows)} tracks have the {column} {track!r}; name one by its id: {some}")
        if rows:
            return rows[0]
    there = dict.fromkeys([*(n for c in names for n in names[c] if n), *ids])
    near = difflib.get_close_matches(track, there, n=3, cutoff=0.6)
    raise UsageError(f"no track has the id or name {track!r}" + (f"; near it: {', '.join(near)}" if near else ""))
