"""What is told of the tracks of a workspace: items.pqt, their names in it, and the track that a name or an id means."""
from harness.errors import UsageError, WorkError

NAMES = ("name", "title", "song", "artist", "artists")  # columns of items.pqt that name a track, most telling first


def read_table(path, key, n=None):
    """A metadata file as an arrow table, with n in the order of its key 0..n-1; None where there is no such file.

    With n, row i is all null where the file has no key i. WorkError in one sentence for a damaged file, a key that is
    absent, has gaps or is of no integers and, with n, keys that stand twice or lie outside 0..n-1.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise WorkError(f"{path} cannot be read as parquet ({str(e).splitlines()[0]})") from None
    if key not in table.column_names or not pa.types.is_integer(table.schema.field(key).type):
        raise WorkError(f"{path} has no column {key} of integers; it has {', '.join(table.column_names)}")
    if table[key].null_count:
        raise WorkError(f"{path}: {key} must be integers without gaps, but {table[key].null_count} rows have none")
    if n is None:
        return table
    ids = table[key].to_numpy()
    if len(ids) and (ids.min() < 0 or ids.max() >= n or len(np.unique(ids)) < len(ids)):
        raise WorkError(f"{path}: {key} must be distinct rows of trackid_sorted.csv, which has {n}")
    row = np.full(n, -1, np.int64)
    row[ids] = np.arange(len(ids))
    return table.take(pa.array(row, mask=row < 0))


def read_names(workdir, n_tracks):
    """Frame of what items.pqt calls its tracks (columns of NAMES, text, '' where unknown), indexed by track id."""
    import pandas as pd
    items = read_table(workdir / "items.pqt", "track_id", n_tracks)
    if items is None:
        return pd.DataFrame(index=range(n_tracks))
    names = items.select([c for c in NAMES if c in items.column_names]).to_pandas(ignore_metadata=True)

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
