"""The tracks that the page names: each once, with names, plays and whether it is hot; and what a map is coloured by."""
import numpy as np

LONGEST = 160      # characters of a name that the page holds
CATEGORIES = 9     # of a colour; the others are "other"
ARTISTS = ("artist", "artists")
LABELS = ("style", "styles", "genre", "genres", "tag", "tags", *ARTISTS, "country", "language", "playlist_genre")


def short(text):
    """A name on one line, cut to LONGEST characters."""
    words = " ".join(str(text).split())
    return words if len(words) <= LONGEST else words[:LONGEST - 1] + "…"


class Tracks:
    """Numbers the tracks that are shown, in order of first use. catalogue: lookup.catalogue.Catalogue"""

    def __init__(self, catalogue):
        self.catalogue, self.number = catalogue, {}

    def add(self, row):
        """Number of a track by its row of trackid_sorted.csv."""
        return self.number.setdefault(int(row), len(self.number))

    @property
    def rows(self):
        """Rows of the tracks by their number, int64 (n,)."""
        return np.fromiter(self.number, np.int64, len(self.number))

    def plain(self, sounds):
        """Columns by number: id, name, by (what else names it), plays in train, state, sound ('' or a path).

        sounds: {row: path relative to the page}
        """
        names, rows = self.catalogue.names, self.rows
        state = states(self.catalogue)
        first, *others = [names[column].to_numpy() for column in names] or [np.full(len(self.catalogue.ids), "")]
        ids = [short(self.catalogue.ids[row]) for row in rows]
        return {"id": ids, "name": [short(first[row]) or ids[i] for i, row in enumerate(rows)],
                "by": [short(", ".join(filter(None, (other[row] for other in others)))) for row in rows],
                "plays": self.catalogue.plays[rows].tolist(), "state": [state[row] for row in rows],
                "sound": [sounds.get(int(row), "") for row in rows]}


def states(catalogue):
    """Of each track of the workspace: hot (played in train), cold (of a cold part only), or unused; list of str."""
    if not catalogue.is_split:
        return ["unused"] * len(catalogue.ids)
    state = np.full(len(catalogue.ids), "unused", object)
    split = catalogue.split
    state[split.tracks[split.n_hot:]] = "cold"
    state[split.tracks[:split.n_hot]] = "hot"
    return state.tolist()


def colours(catalogue, rows):
    """What a map of these rows can be coloured by: {name: {'kind': 'number' or 'category', 'values': [..]}}.

    Plays (as log10(1 + plays)), hot or cold, and of items.pqt the labels named in LABELS and numbers, None where a
    track has none. Of a label that a track has several of, the first counts; rare ones are "other".
    """
    import pyarrow as pa

    from harness.metadata import read_table
    found = {"plays (log10)": {"kind": "number", "values": np.log10(1 + catalogue.plays[rows]).round(3).tolist()}}
    state = states(catalogue)
    found["hot or cold"] = {"kind": "category", "values": [state[row] for row in rows]}
    items = read_table(catalogue.workdir / "items.pqt", "track_id", len(catalogue.ids))
    for column in items.column_names if items is not None else ():
        kind = items.schema.field(column).type
        if column in LABELS:
            found[column] = {"kind": "category", "values": common([_first(v) for v in
                                                                  items[column].take(pa.array(rows)).to_pylist()])}
        elif column != "track_id" and not column.endswith("_id") and (pa.types.is_integer(kind)
                                                                      or pa.types.is_floating(kind)):
            values = items[column].take(pa.array(rows)).to_pandas().to_numpy(np.float64)
            found[column] = {"kind": "number", "values": [float(f"{v:.5g}") if np.isfinite(v) else None
                                                          for v in values]}
    return {name: colour for name, colour in found.items() if len({*colour["values"]} - {None}) > 1}


def _first(value):
    value = value[0] if isinstance(value, list) and value else value
    return short(value) if isinstance(value, str) and value.strip() else None


def common(values):
    """Labels with all but the CATEGORIES commonest as "other"; ties by name; None stays."""
    known = [v for v in values if v is not None]
    counts = {v: 0 for v in known}
    for v in known:
        counts[v] += 1
    kept = set(sorted(counts, key=lambda v: (-counts[v], v))[:CATEGORIES])
    return [v if v is None or v in kept else "other" for v in values]
