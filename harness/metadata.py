"""Track and user metadata: read and check items.pqt and users.pqt, put their rows in order, look up a track by name."""
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError, WorkError
from harness.ids import normal
from harness.readers import read_parquet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from scipy.sparse import csr_matrix

NAMES = ("name", "title", "song", "artist", "artists")  # columns of items.pqt that name a track, most specific first
NAMELESS = ("", "na", "n/a", "unknown", "[unknown]", "<unknown>", "untitled", "unknown artist", "various artists")


def read_table(path: Path, key: str, n: int | None = None, required: str = "",
               columns: "Sequence[str] | None" = None) -> "pa.Table | None":
    """A metadata file as an arrow table, with n in the order of its key 0..n-1; None where there is no such file.

    n: number of tracks or users; row i of the table is all null where the file has no key i
    columns: those to read, the key among them (default all)
    required: what needs the file; then its absence is a WorkError that ends in these words, and so is a file of no rows
    WorkError in one sentence for a damaged file, a key that is absent, has nulls, is of no integers or stands twice,
    and, with n, for keys outside 0..n-1.
    """
    import numpy as np
    import pyarrow as pa
    if not path.exists():
        if required:
            raise WorkError(f"{path} is missing: {required}")
        return None
    table = read_parquet(path, columns)
    if key not in table.column_names or not pa.types.is_integer(table.schema.field(key).type):
        raise WorkError(f"{path} has no column {key} of integers; it has {', '.join(table.column_names)}")
    if table[key].null_count:
        raise WorkError(f"{path}: {key} must be integers without gaps, but {table[key].null_count} rows have none")
    if required and not table.num_rows:
        raise WorkError(f"{path} has no rows: {required}")
    ids = table[key].to_numpy()
    must = f"{path}: {key} must be distinct" + ("" if n is None else f" rows of trackid_sorted.csv, which has {n}")
    if n is not None and len(ids) and (ids.min() < 0 or ids.max() >= n):
        raise WorkError(f"{must}, but it runs from {ids.min()} to {ids.max()}")
    if twice := len(ids) - len(np.unique(ids)):
        raise WorkError(f"{must}, but {twice} are duplicates")
    return table if n is None else in_order(table, key, np.arange(n))


def in_order(table: "pa.Table", key: str, ids: "np.ndarray") -> "pa.Table":
    """The rows of a metadata table in the order of `ids` (n,); a row of nulls for an id that it lacks."""
    import numpy as np
    import pyarrow as pa
    known = table[key].to_numpy()
    order = np.argsort(known, kind="stable")
    row = np.zeros(len(ids), np.int64)
    if len(known):
        row = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    absent = known[row] != ids if len(known) else np.ones(len(ids), bool)
    return table.take(pa.array(row, mask=absent))


def read_names(workdir: Path, n_tracks: int) -> "pd.DataFrame":
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


def folded(name: str) -> str:
    """A name without regard to case, blanks and Unicode form (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def name_key(name: str) -> str:
    """The form in which names of artists and titles are compared, `folded`; '' for one that says nothing."""
    text = folded(name)
    return "" if text in NAMELESS else text


def read_artists(workdir: Path, n_tracks: int) -> "csr_matrix | None":
    """Artists of the tracks as a matrix of ones, csr float32 (n_tracks, artists), None where items.pqt has none.

    From the column `artists` or `artist`; names are compared as by `name_key`, and those that say nothing, such as
    "Various Artists", are no artist, nor are nulls.
    """
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix
    items = read_table(workdir / "items.pqt", "track_id", n_tracks)
    column = next((c for c in ("artists", "artist") if items is not None and c in items.column_names), None)
    if items is None or column is None:
        return None
    names = items[column].to_pandas().explode()
    names = names[names.notna()].astype(str)
    names = names.map({name: name_key(name) for name in names.unique()})
    names = names[names != ""].reset_index().drop_duplicates()
    if names.empty:
        return None
    code, artists = pd.factorize(names.iloc[:, 1])
    return csr_matrix((np.ones(len(code), np.float32), (names.iloc[:, 0].to_numpy(np.int64), code)),
                      shape=(n_tracks, len(artists)))


def find_track(track: str, ids: list[str], names: "pd.DataFrame") -> int:
    """Row of the track of that id, or of that name (whatever its case); UsageError when there is none or several.

    Both are compared in Unicode NFC, without blanks around them.
    """
    import difflib
    if track in ids:
        return ids.index(track)
    if normal(track) in (forms := [normal(i) for i in ids]):
        return forms.index(normal(track))
    wanted = _caseless(track)
    for column in names:
        rows = [i for i, name in enumerate(names[column]) if wanted and _caseless(name) == wanted]
        if len(rows) > 1:
            some = ", ".join(ids[i] for i in rows[:5]) + (", ..." if len(rows) > 5 else "")
            raise UsageError(f"{len(rows)} tracks have the {column} {track!r}; name one by its id: {some}")
        if rows:
            return rows[0]
    available = dict.fromkeys([*(normal(n) for c in names for n in names[c] if n), *ids])
    near = difflib.get_close_matches(normal(track), available, n=3, cutoff=0.6)
    raise UsageError(f"no track has the id or name {track!r}" + (f"; near it: {', '.join(near)}" if near else ""))


def _caseless(text):
    return normal(normal(text).casefold())      # some capitals fold into more than one character
