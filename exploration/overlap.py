"""Overlap of data sets: coverage of the tracks by each representation, and of the artists by other workspaces."""
import numpy as np

from exploration import drawing
from exploration.words import count, name, share, table
from harness.metadata import read_table

TITLE = "Overlap of data sets"
ARTISTS = ("artists", "artist")   # columns of items.pqt that name artists


def measure(work):
    """Coverage of this catalogue by each representation, and of its artists by each workspace of --with."""
    users, plays = work.by_track
    played = users > 0
    available = {e: np.isfinite(np.asarray(work.embedding(e)[:, 0])) & np.isfinite(work.embedding(e)).all(axis=1)
                 for e in work.embeddings}
    sets = {e: {"tracks": int(mask.sum()), "of_tracks": (mask & played).sum() / played.sum(),
                "of_pairs": users[mask].sum() / users.sum(), "of_plays": plays[mask].sum() / plays.sum()}
            for e, mask in available.items()}
    both = {f"{a} and {b}": int((available[a] & available[b]).sum()) for a in available for b in available if a < b}
    others, refused = {}, {}
    for other, path in work.others:
        result = artists_in_common(work, path)
        (refused if isinstance(result, str) else others)[other] = result
    if not sets and not others:
        return "; ".join(["no overlap: there are no embeddings", *(f"{o}: {why}" for o, why in refused.items())])
    return {"representations": sets, "both": both, "matching": matching(work), "workspaces": others,
            "not_compared": refused}


def matching(work):
    """Counts of the matching by name in the manifest of an embedding: {embedding: {count: number}}."""
    import dataset
    counts = {}
    for embedding in work.embeddings:
        facts = dataset.embedding_info(work.path, embedding).get("facts", {})
        if isinstance(facts, dict) and "by_exact_name" in facts:
            counts[embedding] = {key: facts[key] for key in ("by_exact_name", "by_loose_name", "artists", "songs",
                                                             "share_of_pairs") if key in facts}
    return counts


def artists_of(items):
    """(row int64 (m,), artist name (m,)) of an items table, or None if it has no artist names."""
    from exploration.labels import flat
    column = next((c for c in ARTISTS if items is not None and c in items.column_names), None)
    row, names = (None, None) if column is None else flat(items[column])
    return None if row is None else (row, names)


def artists_in_common(work, path):
    """Artists of this workspace that another contains, by name; a sentence if one of the two has no artist names.

    Matching ignores case and surrounding blanks, and (loose) also accents, punctuation, a leading 'the', and signs
    that stand for letters; see exact_name and loose_name in preprocess/lastfm/features.py.
    """
    from preprocess.lastfm.features import exact_name, loose_name
    ours, theirs = artists_of(work.items), artists_of(read_table(path / "items.pqt", "track_id"))
    if ours is None or theirs is None:
        return f"{'this workspace' if ours is None else 'it'} has no artist names in items.pqt"
    users, plays = work.by_track
    row, artists = ours
    result = {"artists_here": len({exact_name(a) for a in artists}), "artists_there": len(
        {exact_name(a) for a in theirs[1]})}
    for word, key in (("exact", exact_name), ("loose", loose_name)):
        keys, their_keys = np.array([key(a) for a in artists], object), {key(a) for a in set(theirs[1].tolist())}
        known = np.array([a in their_keys for a in keys], bool)
        tracks = np.unique(row[known])
        result |= {f"artists_{word}": len(set(keys[known])), f"of_tracks_{word}": (users[tracks] > 0).sum()
                   / np.count_nonzero(users), f"of_plays_{word}": plays[tracks].sum() / plays.sum()}
    return result


def draw(numbers):
    bars = {e: (n["of_tracks"], n["of_plays"]) for e, n in numbers["representations"].items()}
    bars |= {f"artists of {o}": (n["of_tracks_loose"], n["of_plays_loose"]) for o, n in numbers["workspaces"].items()}
    if all(min(pair) > 0.99 for pair in bars.values()):
        return {}                                   # each covers nearly all tracks: the table is sufficient
    figure, axes = drawing.sheet(height=1.1 + 0.3 * len(bars))
    drawing.dumbbells(axes, list(bars), [b[0] for b in bars.values()], [b[1] for b in bars.values()],
                      ("of the tracks", "of the plays"))
    axes.set(xlim=(0, 1.02), xlabel="share covered", title="Coverage of the played tracks")
    return {"overlap": figure}


def describe(numbers):
    blocks, sets = [], numbers["representations"]
    if sets:
        whole = [e for e, n in sets.items() if n["of_tracks"] == 1]
        blocks.append(f"{len(whole)} of {len(sets)} representations cover every played track. Representations should "
                      "be compared on the same catalogue: restrict it with 1_train_test_split.py --tracks-with.")
        blocks.append(table(["representation", "tracks", "of the tracks", "of the pairs", "of the plays"], [
            [name(e), count(n["tracks"]), share(n["of_tracks"]), share(n["of_pairs"]), share(n["of_plays"])]
            for e, n in sets.items()]))
    for embedding, n in numbers["matching"].items():
        blocks.append(f"{name(embedding)} was matched by the artists' names: {count(n['by_exact_name'])} exactly, "
                      f"{count(n.get('by_loose_name', 0))} more ignoring accents and punctuation.")
    for other, n in numbers["workspaces"].items():
        blocks.append(f"Of the {count(n['artists_here'])} artists of this workspace {count(n['artists_exact'])} are "
                      f"among the {count(n['artists_there'])} of {name(other)} by exact name, "
                      f"{count(n['artists_loose'])} ignoring accents and punctuation; these have "
                      f"{share(n['of_plays_loose'])} of the plays.")
    return blocks + [f"Not compared with {name(o)}: {why}." for o, why in numbers["not_compared"].items()]
