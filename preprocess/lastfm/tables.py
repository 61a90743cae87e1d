"""Write the tables and embeddings of the Last.fm workspace.

Called by preprocess/lastfm/__init__.py, which reads the sources; the files are those of every workspace (README).
"""
import numpy as np
import pyarrow as pa

from harness.files import checksum, write_json, write_npy, write_parquet, write_text
from harness.machine import versions
from preprocess.lastfm import audio as lastfm_audio
from preprocess.lastfm import features as lastfm_features
from preprocess.lastfm.taggings import FROM_TAGS

SOURCE = "https://grouplens.org/datasets/hetrec-2011/ (hetrec2011-lastfm-2k, version 1.0, May 2011)"
LICENCE = ("non-commercial use; others ask Last.fm; cite http://www.lastfm.com and Cantador, Brusilovsky, Kuflik, "
           "HetRec 2011, RecSys 2011")
TAG_DIM = 200


def write_tables(path, data, artists, users, split):
    """Track list, plays, items, users and the given split; returns the counts for dataset.json.

    path: function from a file name to its output path; artists: ids in row order
    users: set of user ids to keep, None for all; split: (user, artist, part) arrays or None
    """
    write_text(path("trackid_sorted.csv"), "idx,trackid\n" + "".join(f"{i},{a}\n" for i, a in enumerate(artists)))
    row = _rows_of(artists)
    plays = data.plays[data.plays["artistID"].isin(artists)]
    plays = plays if users is None else plays[plays["userID"].isin(users)]
    dated = "timestamp" in plays
    plays = plays.assign(track=row(plays["artistID"])).sort_values(["userID", "track"] + ["timestamp"] * dated)
    times = pa.array(plays["timestamp"].to_numpy()) if dated else pa.nulls(len(plays), pa.timestamp("us"))
    write_parquet(path("plays.pqt"), pa.table({
        "user_id": _ints(plays["userID"]), "track_id": _ints(plays["track"]), "timestamp": times,
        "count": _ints(plays["weight"])}))
    _write_items(path, data, artists, row)
    people = _write_users(path, data, plays["userID"])
    counts = {"users": people, "tracks": len(artists), "pairs": len(plays.drop_duplicates(["userID", "track"])),
              "plays": int(plays["weight"].sum())}
    return counts if split is None else counts | _write_split(path, split, plays, row)


def _rows_of(artists):
    """Function that maps a series of artist ids, all in the list, to their rows."""
    ids = np.array(artists, dtype=np.int64)
    order = np.argsort(ids)

    def row(series):
        return order[np.searchsorted(ids, series.to_numpy(), sorter=order)]
    return row


def _ints(values):
    return pa.array(np.asarray(values, dtype=np.int64))


def _lists(row, values, n):
    """Arrow lists: element i holds the values whose row is i; row ascending, 0 <= row < n."""
    offsets = np.searchsorted(np.asarray(row), np.arange(n + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _write_items(path, data, artists, row):
    """items.pqt: artist and, unless they are the plays, its tags, the most frequent first (then by name)."""
    meta = data.artists.set_index("id").loc[artists]
    columns = {"track_id": _ints(range(len(artists))), "artist_id": _ints(artists),
               "artist": pa.array(meta["name"].tolist(), pa.string()),
               "url": pa.array(meta["url"].tolist(), pa.string())}
    if data.tagged is not None:
        columns |= _tag_columns(data, artists, row)
    write_parquet(path("items.pqt"), pa.table(columns))


def _tag_columns(data, artists, row):
    given = data.tagged[data.tagged["artistID"].isin(artists)]
    given = given.groupby(["artistID", "tagID"], as_index=False).size().merge(data.tags, on="tagID")
    given = given.assign(row=row(given["artistID"])).sort_values(["row", "size", "tagValue"],
                                                                 ascending=[True, False, True])
    tags = pa.array(given["tagValue"].tolist(), pa.string())
    return {"tags": _lists(given["row"], tags, len(artists)),
            "tag_counts": _lists(given["row"], _ints(given["size"]), len(artists))}


def _write_users(path, data, user):
    """users.pqt: the users with plays and their friends among them; returns the number of users."""
    users = np.unique(user)
    friends = data.friends[data.friends["userID"].isin(users) & data.friends["friendID"].isin(users)]
    friends = friends.sort_values(["userID", "friendID"])
    code = np.searchsorted(users, friends["userID"].to_numpy())
    write_parquet(path("users.pqt"), pa.table({
        "user_id": _ints(users), "friends": _lists(code, _ints(friends["friendID"]), len(users))}))
    return len(users)


def _write_split(path, split, plays, row):
    """split.pqt for `--protocol given`; pairs without plays are left out and counted."""
    import pandas as pd
    pairs = pd.DataFrame(dict(zip(("userID", "artistID", "part"), split, strict=True)))
    merged = pairs.merge(plays[["userID", "artistID", "track"]], how="left", on=["userID", "artistID"])
    played = merged["track"].notna()
    kept = merged[played].astype({"track": np.int64}).sort_values(["userID", "track"])
    write_parquet(path("split.pqt"), pa.table({
        "user_id": _ints(kept["userID"]), "track_id": _ints(kept["track"]),
        "part": pa.array(kept["part"].tolist(), pa.string())}))
    sizes = kept["part"].value_counts()
    return {"split": {p: int(sizes.get(p, 0)) for p in lastfm_audio.PARTS.tolist()},
            "split_pairs_without_plays": int((~played).sum()), "plays_outside_split": len(plays) - len(kept)}


# --------------------------------------------------------------------------- embeddings

def write_embeddings(folder, tracks, data, artists, features, spotify, seed):
    """Write embeddings/ in a folder: every available one of the workspace's artists; returns {name: {dim, rows}}.

    tracks: checksum of trackid_sorted.csv. Statistics (idf, SVD, mean and deviation) are fitted to these artists.
    """
    embeddings = {} if data.tagged is None else {"tags": _tags(data, artists, seed)}
    if spotify is not None:
        embeddings["spotify"] = _spotify(data, artists, spotify)
    for name, (ids, matrix) in (features.vectors if features else {}).items():
        if data.tagged is None and name in FROM_TAGS:
            continue
        embeddings[name] = _audio(name, ids, matrix, artists, features)
    return {name: _write_embedding(folder, name, matrix, artists, tracks, reason, about)
            for name, (matrix, reason, about) in embeddings.items()}


def _write_embedding(folder, name, matrix, artists, tracks, reason, about):
    matrix = np.where(np.isfinite(matrix).all(axis=1, keepdims=True), matrix, np.nan).astype(np.float32)
    path = folder / "embeddings" / f"{name}.npy"
    write_npy(path, matrix)
    failed = np.flatnonzero(np.isnan(matrix[:, 0])).tolist()
    write_json(path.with_suffix(".json"), {
        "name": name, **about, "dim": matrix.shape[1], "n_tracks": len(matrix), "track_checksum": tracks,
        "matrix_checksum": checksum(path), "versions": versions(),
        "failed": {i: {"trackid": str(artists[i]), "reason": reason} for i in failed}})
    return {"dim": matrix.shape[1], "rows": len(matrix) - len(failed)}


def _tags(data, artists, seed):
    tagged = data.tagged[data.tagged["artistID"].isin(artists)]
    tags, tag = np.unique(tagged["tagID"], return_inverse=True)
    matrix, facts = lastfm_features.tag_vectors(_rows_of(artists)(tagged["artistID"]), tag, len(artists), len(tags),
                                                TAG_DIM, seed)
    plays = data.plays[data.plays["artistID"].isin(artists)]
    own = plays.merge(tagged[["userID", "artistID"]].drop_duplicates())
    return matrix, "artist without tags", {
        "backend": "TF-IDF of tag assignments, truncated SVD, rows of length 1", "source": SOURCE,
        "licence": LICENCE, "facts": facts, "seed": seed,
        "beware": "the tags were given by the listeners themselves, also to artists of held-out pairs: for "
                  f"{len(own) / len(plays):.1%} of the plays the same listener tagged the same artist"}


def _spotify(data, artists, path):
    names = data.artists.set_index("id").loc[artists, "name"].tolist()
    matrix, facts = lastfm_features.spotify_vectors(names, *lastfm_features.read_spotify(path))
    plays = data.plays[data.plays["artistID"].isin(artists)]
    covered = np.array(artists)[~np.isnan(matrix[:, 0])]
    facts["share_of_pairs"] = round(float(plays["artistID"].isin(covered).mean()), 4)
    return matrix, "no artist of this name", {
        "backend": "Spotify audio features, mean over an artist's songs, standardised over the matched artists",
        "source": f"{path.name}, songs of Spotify playlists", "licence": "Spotify's terms for its audio features",
        "facts": facts}


def _audio(name, ids, matrix, artists, features):
    import pandas as pd
    known = np.isin(ids, artists)
    vectors = np.full((len(artists), matrix.shape[1]), np.nan, np.float32)
    vectors[_rows_of(artists)(pd.Series(ids[known]))] = matrix[known]
    return vectors, "no finite vector in the source", {
        **lastfm_audio.BACKENDS.get(name, {"backend": name}), "source": lastfm_audio.SOURCE,
        "licence": lastfm_audio.LICENCE, "facts": features.facts}
