"""Overlap of data sets: which tracks have which representation, and which artists other workspaces know."""
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
    there = {e: np.isfinite(np.asarray(work.embedding(e)[:, 0])) & np.isfinite(work.embedding(e)).all(axis=1)
             for e in work.embeddings}
    sets = {e: {"tracks": int(mask.sum()), "of_tracks": (mask & played).sum() / played.sum(),
                "of_pairs": users[mask].sum() / users.sum(), "of_plays": plays[mask].sum() / plays.sum()}
            for e, mask in there.items()}
    both = {f"{a} and {b}": int((there[a] & there[b]).sum()) for a in there for b in there if a < b}
    others, refused = {}, {}
    for other, path in work.others:
        found = artists_in_common(work, path)
        (refused if isinstance(found, str) else others)[other] = found
    if not sets and not others:
        return "; ".join(["no overlap: there are no embeddings", *(f"{o}: {why}" for o, why in refused.items())])
    return {"representations": sets, "both": both, "matching": matching(work), "workspaces": others,
            "not_compared": refused}


def matching(work):
    """How the sources of an embedding were found, where its manifest counts it: {embedding: {words: number}}."""
    import dataset
    found = {}
    for embedding in work.embeddings:
        facts = dataset.embedding_info(work.path, embedding).get("facts", {})
        if isinstance(facts, dict) and "by_exact_name" in facts:
            found[embedding] = {key: facts[key] for key in ("by_exact_name", "by_loose_name", "artists", "songs",
                                                            "share_of_pairs") if key in facts}
    return found


def artists_of(items):
    """(row int64 (m,), artist name (m,)) of an items table, or None where it names no artists."""
    from exploration.labels import flat
    column = next((c for c in ARTISTS if items is not None and c in items.column_names), None)
    row, names = (None, None) if column is None else flat(items[column])
    return None if row is None else (row, names)


def artists_in_common(work, path):
    """Artists of this workspace that another has, by name; a sentence where one of the two names none.

    Names are the same when they are but for case and outer blanks, or (loose) but for accents, punctuation, a
    leading 'the', and signs that stand for letters; the rules are those of preprocess/lastfm_features.py.
    """
    from preprocess.lastfm.features import exact_name, loose_name
    ours, theirs = artists_of(work.items), artists_of(read_table(path / "items.pqt", "track_id"))
    if ours is None or theirs is None:
        return f"{'this workspace' if ours is None else 'it'} names no artists in items.pqt"
    users, plays = work.by_track
    row, artists = ours
    result = {"artists_here": len({exact_name(a) for a in artists}), "artists_there": len(
        {exact_name(a) for a in theirs[1]})}
    for word, key in (("exact", exact_name), ("loose", loose_name)):
        here, there = np.array([key(a) for a in artists], object), {key(a) for a in set(theirs[1].tolist())}
        known = np.array([a in there for a in here], bool)
        tracks = np.unique(row[known])
        result |= {f"artists_{word}": len(set(here[known])), f"of_tracks_{word}": (users[tracks] > 0).sum()
                   / np.count_nonzero(users), f"of_plays_{word}": plays[tracks].sum() / plays.sum()}
    return result


def draw(numbers):
    bars = {e: (n["of_tracks"], n["of_plays"]) for e, n in numbers["representations"].items()}
    bars |= {f"artists of {o}": (n["of_tracks_loose"], n["of_plays_loose"]) for o, n in numbers["workspaces"].items()}
    if all(min(pair) > 0.99 for pair in bars.values()):
        return {}                                   # each covers all but a few: the table says it better
    figure, axes = drawing.sheet(height=1.1 + 0.3 * len(bars))
    drawing.dumbbells(axes, list(bars), [b[0] for b in bars.values()], [b[1] for b in bars.values()],
                      ("of the tracks", "of the plays"))
    axes.set(xlim=(0, 1.02), xlabel="share of what was played that is covered", title="Who knows what was played")
    return {"overlap": figure}


def tell(numbers):
    blocks, sets = [], numbers["representations"]
    if sets:
        whole = [e for e, n in sets.items() if n["of_tracks"] == 1]
        blocks.append(f"{len(whole)} of {len(sets)} representations know every track that was played. A comparison "
                      "needs one catalogue: 1_train_test_split.py --tracks-with restricts it.")
        blocks.append(table(["representation", "tracks", "of the tracks", "of the pairs", "of the plays"], [
            [name(e), count(n["tracks"]), share(n["of_tracks"]), share(n["of_pairs"]), share(n["of_plays"])]
            for e, n in sets.items()]))
    for embedding, n in numbers["matching"].items():
        blocks.append(f"{name(embedding)} was found by the artists' names: {count(n['by_exact_name'])} by the same "
                      f"name, {count(n.get('by_loose_name', 0))} more by one that differs in accents or punctuation.")
    for other, n in numbers["workspaces"].items():
        blocks.append(f"Of the {count(n['artists_here'])} artists here {count(n['artists_exact'])} are among the "
                      f"{count(n['artists_there'])} of {name(other)} by name, {count(n['artists_loose'])} when accents "
                      f"and punctuation are put aside: {share(n['of_plays_loose'])} of the plays.")
    return blocks + [f"Not compared with {name(o)}: {why}." for o, why in numbers["not_compared"].items()]
