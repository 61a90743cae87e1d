"""Spotify playlists: playlists as users, tracks as items, Spotify's twelve audio features as an embedding.

    python preprocess/0_get_plays_pqt.py spotify --raw spotify_songs.csv --workdir W
    python preprocess/1_train_test_split.py --protocol random --workdir W

The file has a row for each track of a playlist: 32,833 rows, 471 playlists, 28,356 tracks, most of them in one
playlist only. It has neither positions within a playlist nor dates of addition, so the data set has no time.

What is written
  trackid_sorted.csv, userid_sorted.csv   ids of tracks and of playlists, sorted as text
  plays.pqt   user_id, track_id, timestamp (null), count (1): one row per playlist and track. A playlist that is
              listed under several genres repeats its tracks; that is one playlist, so a pair counts once.
  items.pqt   track_id, title, artists (a list of one name, which may contain commas), album (null if missing),
              released (date32; the first day if only the year or month is given), release_precision (year, month,
              day), popularity (int16, 0 to 100), genres, subgenres (lists, most frequent first)
  users.pqt   user_id, playlist (its name), genres, subgenres (lists)
  embeddings/spotify.npy, .json   float32 (n_tracks, 12), standardised over the tracks; NaN in all columns for a
              track with a missing feature, zero for a feature that is constant over the tracks
Caution: the genres of a track are those of the playlists that contain it, including held-out pairs. Use them for
description, not for prediction; the embedding does not contain them.

A row with too many or too few cells, or with a stray quote, is an error that names its line.
Left out and counted: rows without a track or playlist id, duplicate pairs.
Counted and kept: tracks without title, artist and album ("NA" in all three), invalid dates (as null), popularities
outside 0 to 100 (as null).
Source: R for Data Science, TidyTuesday of 2020-01-21 (songs fetched with spotifyr).
"""
from pathlib import Path

from harness.delimited import read_texts
from harness.errors import UsageError, WorkError
from harness.files import checksum, write_csv, write_json, write_npy, write_parquet
from harness.ids import Forms, normalised
from harness.inputs import check_unchanged, hashed
from harness.machine import versions
from preprocess import brought, stage

HELP = "Spotify playlists (32,833 rows): playlists as users, tracks with twelve audio features, genres, dates"
SOURCE = "https://github.com/rfordatascience/tidytuesday, data of 2020-01-21 (spotify_songs.csv)"
LICENCE = "Spotify's terms for its audio features and metadata"
NAMES = ("track_name", "track_artist", "track_album_name")
COLUMNS = ("track_id", *NAMES, "track_popularity", "track_album_release_date", "playlist_id", "playlist_name",
           "playlist_genre", "playlist_subgenre")
PRECISIONS = {4: "year", 7: "month", 10: "day"}   # by the length of a date's text


def add_arguments(parser):
    parser.add_argument("--raw", required=True, type=Path, metavar="FILE",
                        help="csv file with a row for each track of a playlist (spotify_songs.csv)")


def get_plays(args, workdir):
    """Write the workspace described above; skip it if the file is unchanged."""
    raw = args.raw.expanduser()
    if not raw.is_file():
        raise UsageError(f"--raw {raw} is not a file; name the csv of playlist songs (spotify_songs.csv)")
    seen = hashed(raw)
    request = {"dataset": "spotify", raw.name: seen.digest}
    with stage.atomic_outputs(workdir / "dataset.json", "spotify", args.overwrite) as new:
        if new.same(request, args.overwrite) and all((workdir / "embeddings" / f"spotify.{s}").exists()
                                                     for s in ("npy", "json")):
            return
        frame, dropped = read(raw)
        tracks, playlists = (sorted(frame[column].unique()) for column in ("track_id", "playlist_id"))
        for name, header, ids in (("track", "idx,trackid", tracks), ("user", "idx,userid", playlists)):
            write_csv(new.path(f"{name}id_sorted.csv"), _numbered(header, ids), index=False)
        new.check_split(args.overwrite)
        counts = write_tables(new.path, frame, tracks, playlists)
        check_unchanged([seen])
        embeddings = write_embedding(new.hidden, frame, tracks, checksum(new.path("trackid_sorted.csv")))
        brought.publish(new, {
            "name": "spotify", "source": SOURCE, "licence": LICENCE, "time": "none",
            "track_ids": "Spotify's, as text", "user_ids": "playlists, as text", "request": request,
            "checksums": {raw.name: request[raw.name]}, "dropped": dropped, "counts": counts, "embeddings": embeddings,
            "beware": "genres of a track are those of the playlists that contain it", "versions": versions()})
    for what, rows in dropped.items():
        print(f"{raw.name}: {rows} {what}")
    print(f"spotify: {counts['users']} playlists, {counts['tracks']} tracks, {counts['pairs']} pairs; embedding "
          f"spotify ({embeddings['spotify']['rows']} tracks, {embeddings['spotify']['dim']} values)")


def _numbered(header, ids):
    import pandas as pd
    return pd.DataFrame(dict(zip(header.split(","), (range(len(ids)), ids), strict=True)))


# --------------------------------------------------------------------------- reading

def read(path):
    """Rows of the file as a pandas frame, cleaned, and counts of rows left out or incomplete: {description: rows}.

    Columns: COLUMNS as text (null if empty or, in a track without metadata, 'NA'), track_popularity and the twelve
    features as float64 (NaN in all twelve if one is missing), released (datetime64, NaT if invalid).
    Raises WorkError when a column is missing, a row has a wrong number of cells or a stray quote, the text is not
    UTF-8, or no row is left.
    """
    import numpy as np
    import pandas as pd

    from preprocess.lastfm.features import SPOTIFY
    frame, dropped = read_texts(path, [*COLUMNS, *SPOTIFY], ",").to_pandas(), {}
    for column in ("track_id", "playlist_id"):
        frame[column] = _compared(frame[column], f"{path}, {column}")
    lost = frame[list(NAMES)].isin(["NA", ""]).all(axis=1)
    frame[list(NAMES)] = frame[list(NAMES)].mask(lost)
    frame = frame.mask(frame == "")
    known = ~frame[["track_id", "playlist_id"]].isin([None, "NA"]).any(axis=1)
    dropped["rows left out: no track or playlist id"] = int((~known).sum())
    frame = frame[known]
    if frame.empty:
        raise WorkError(f"{path} has no row with a track and a playlist")
    dropped["rows that repeat a track of a playlist"] = int(frame.duplicated(["playlist_id", "track_id"]).sum())
    features = frame[list(SPOTIFY)].apply(pd.to_numeric, errors="coerce")
    complete = np.isfinite(features).all(axis=1)
    released = pd.to_datetime(frame["track_album_release_date"].map(_whole_date), format="%Y-%m-%d", errors="coerce")
    popular = pd.to_numeric(frame["track_popularity"], errors="coerce")
    dropped["rows with a popularity outside 0 to 100"] = int((popular.notna() & ~popular.between(0, 100)).sum())
    frame = frame.assign(track_popularity=popular.where(popular.between(0, 100)), released=released,
                         **features.where(complete))
    by_track = frame.groupby("track_id")
    for what, column in (("tracks without a title", "track_name"), ("tracks without a date of release", "released"),
                         ("tracks without a number in each feature", SPOTIFY[0])):
        dropped[what] = int(by_track[column].count().eq(0).sum())
    return frame, {what: int(rows) for what, rows in dropped.items() if rows}


def _compared(column, what):
    """Ids in the form in which ids are compared; those that were written in another are named."""
    import pyarrow as pa
    written, forms = pa.array(column.unique(), pa.string()), Forms()
    texts = normalised(written)
    forms.add(written, texts)
    if said := forms.sentence(what):
        print(said)
    return column.map(dict(zip(written.to_pylist(), texts.to_pylist(), strict=True)))


def _whole_date(text):
    """A date as YYYY-MM-DD; '1999' and '1999-07' become the first day of the year or month."""
    return text + {4: "-01-01", 7: "-01"}.get(len(text), "") if isinstance(text, str) else None


# --------------------------------------------------------------------------- writing

def write_tables(path, frame, tracks, playlists):
    """plays.pqt, items.pqt and users.pqt; returns the counts for dataset.json.

    path: function from a file name to its output path; tracks, playlists: ids in row order
    """
    import numpy as np
    import pyarrow as pa
    track, playlist = (np.searchsorted(np.array(ids), frame[column].to_numpy().astype(str))
                       for ids, column in ((tracks, "track_id"), (playlists, "playlist_id")))
    pairs = np.unique(np.stack([playlist, track]), axis=1)
    write_parquet(path("plays.pqt"), pa.table({
        "user_id": pairs[0], "track_id": pairs[1], "timestamp": pa.nulls(pairs.shape[1], pa.timestamp("us")),
        "count": np.ones(pairs.shape[1], np.int64)}))
    songs = frame.groupby("track_id").first()           # the first value of each column that is not null
    text = {name: pa.array(songs[name], pa.string()) for name in NAMES}
    write_parquet(path("items.pqt"), pa.table({
        "track_id": np.arange(len(tracks)), "title": text["track_name"],
        "artists": pa.array([None if a is None else [a] for a in text["track_artist"].to_pylist()],
                            pa.list_(pa.string())),
        "album": text["track_album_name"], "released": pa.array(songs["released"]).cast(pa.date32()),
        "release_precision": pa.array([PRECISIONS.get(len(str(t))) if known else None for t, known in zip(
            songs["track_album_release_date"], songs["released"].notna(), strict=True)], pa.string()),
        "popularity": pa.array(songs["track_popularity"].round(), from_pandas=True).cast(pa.int16()),
        "genres": _lists(track, frame["playlist_genre"], len(tracks)),
        "subgenres": _lists(track, frame["playlist_subgenre"], len(tracks))}))
    names = frame.groupby("playlist_id")["playlist_name"].first()
    write_parquet(path("users.pqt"), pa.table({
        "user_id": np.arange(len(playlists)), "playlist": pa.array(names, pa.string()),
        "genres": _lists(playlist, frame["playlist_genre"], len(playlists)),
        "subgenres": _lists(playlist, frame["playlist_subgenre"], len(playlists))}))
    return {"users": len(playlists), "tracks": len(tracks), "pairs": pairs.shape[1], "plays": pairs.shape[1]}


def _lists(row, values, n):
    """Arrow lists: element i holds the distinct values of the rows i, most frequent first, without nulls."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    counts = pd.DataFrame({"row": row, "value": values.to_numpy()}).dropna().groupby(["row", "value"], as_index=False)
    counts = counts.size().sort_values(["row", "size", "value"], ascending=[True, False, True])
    offsets = np.searchsorted(counts["row"].to_numpy(), np.arange(n + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(counts["value"].tolist(), pa.string()))


def write_embedding(folder, frame, tracks, track_checksum):
    """embeddings/spotify.npy and .json in a folder; returns {"spotify": {dim, rows}} for dataset.json."""
    import numpy as np

    from preprocess.lastfm.features import SPOTIFY
    values = frame.groupby("track_id")[list(SPOTIFY)].first().to_numpy(np.float64)
    available = ~np.isnan(values[:, 0])
    if not available.any():
        raise WorkError("no track has a number in each of the twelve audio features")
    centre, spread = values[available].mean(axis=0), values[available].std(axis=0)
    spread[spread < 1e-12 * np.maximum(1, np.abs(centre))] = np.inf
    path = folder / "embeddings" / "spotify.npy"
    write_npy(path, ((values - centre) / spread).astype(np.float32))
    write_json(path.with_suffix(".json"), {
        "name": "spotify", "backend": "Spotify audio features, standardised over the tracks", "source": SOURCE,
        "licence": LICENCE, "dim": len(SPOTIFY), "n_tracks": len(tracks), "track_checksum": track_checksum,
        "matrix_checksum": checksum(path), "versions": versions(),
        "facts": {"features": SPOTIFY, "mean": centre.tolist(), "std": np.where(np.isinf(spread), 0, spread).tolist()},
        "failed": {int(i): {"trackid": tracks[i], "reason": "a feature is not a number"}
                   for i in np.flatnonzero(~available)}})
    return {"spotify": {"dim": len(SPOTIFY), "rows": int(available.sum())}}
