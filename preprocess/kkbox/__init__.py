"""WSDM-KKBOX: plays in order with their context in the app, and metadata of songs and members.

    python preprocess/0_get_plays_pqt.py kkbox --raw DIR --workdir W
    python preprocess/1_train_test_split.py --protocol given --workdir W

Source: WSDM Cup 2018, https://www.kaggle.com/c/kkbox-music-recommendation-challenge, filtered and split into points
as in the DTNMR source (Zheng et al., Appl. Sci. 2019, 9, 703). --raw contains train.csv, test.csv, songs.csv,
members.csv and song_extra_info.csv, uncompressed, as NAME.csv.7z or NAME.csv.zip, or all in one .zip or .7z.

What is written (all ids int64; text columns are categories; null is unknown)
  trackid_sorted.csv  idx,trackid  every song_id of a play, sorted by bytes; songs without plays are left out
  userid_sorted.csv   idx,userid   every msno of a play, sorted by bytes
  plays.pqt    one row per row of train.csv, then of test.csv, in their order, before any filter:
               user_id, track_id, timestamp (row number as seconds since the epoch: ordinal),
               source_system_tab, source_screen_name, source_type (text), target (int8, null in test.csv)
  items.pqt    one row per track: track_id, song_length (float64, seconds), genres, artists, composers, lyricists
               (lists of text, null if empty), language (text, a code), name, isrc, country (text, from the ISRC),
               year (int16, from the ISRC), plays (int64, in train.csv), kept (bool, passed the song filters)
  users.pqt    one row per user: user_id, age (int16, 1 to 100), gender, city, registered_via (text; codes),
               registered, expires (date32), playlist (int64, plays in train.csv of kept songs),
               kept (bool, passed every filter: these are the users of points.pqt and split.pqt)
  points.pqt   the playlists of kept users, kept songs only, sorted by user_id, position:
               user_id, position (int64, 0, 1, 2, ... without gaps within a user), track_id, part (text),
               timestamp, source_system_tab, source_screen_name, source_type, target
               part is "train", "val" or "test" for a point (predict this song from the rows of smaller position
               of the same user), "history" for a row that is only used as input. Repeated plays are kept as rows.
  split.pqt    the same as unique pairs, for --protocol given: user_id, track_id, part, timestamp, count. A pair
               belongs to the part of its first play: "train" (history before val, and train points), "val" or
               "test". count: plays in that part. data/{train,val,test}.pqt are derived from it, so a test point
               whose song the user has already played is in points.pqt only.
  vocabulary.pqt                  column (int64), field ("genre", "artist", "composer", "language"), value (text;
               null is unknown: empty, or not in the vocabulary), songs (int64, number of kept songs with it);
               fields in this order, values of kept songs sorted by bytes, null last in each field.
               Column 0 of the matrix is the length, listed here as field "length", value null.
  embeddings/metadata.npz         scipy csr float32 (n_tracks, columns): column 0 is song_length / longest kept song,
               the others are 1 if the song has the value; rows of tracks absent from songs.csv are empty
  embeddings/metadata.npy, .json  float32 (n_tracks, --dim): truncated SVD of it, for every recommender; a track
               absent from songs.csv is a row of NaN
  dataset.json counts, songs and users removed by each filter, the counts printed by the source, options, checksums
               of the raw files
At the size of the challenge this needs 1.8 GiB of memory, which --memory does not lower.

Points. The playlist of a kept user is its plays of kept songs in train.csv. The first --min-playlist-len rows are
history, the rest train points, the last --val-share of which (rounded down, at least one of two) are val. Test
points are the plays of test.csv after the first --min-playlist-len of them, for playlists within the same limits of
length; the train playlist precedes them as history. If that gives no test point, if test.csv is missing, or with
--test last, the points do not use test.csv and the last 10 % of each playlist (at least one) are test; --test csv
is an error instead. If test.csv exists, its plays are in plays.pqt in any case.
"""
from pathlib import Path

from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import checksum, write_parquet
from harness.inputs import state_of
from harness.machine import versions
from harness.readers import read_json
from preprocess import brought, stage

HELP = "WSDM-KKBOX (2018): plays in order with context, metadata of songs and members, prediction points of DTNMR"
SOURCE = "https://www.kaggle.com/c/kkbox-music-recommendation-challenge"
LICENCE = "the rules of the challenge; for research, not to be passed on"
FILES = ("train", "test", "songs", "members", "song_extra_info")
FLAGS = ("top", "max_seconds", "artist_names", "composer_names", "min_age", "max_age", "min_playlist_len",
         "max_playlist_len", "val_share", "test", "dim", "seed")


def add_arguments(parser):
    parser.add_argument("--raw", required=True, type=Path, metavar="DIR",
                        help="folder with the five files (.csv, .csv.7z or .csv.zip), or a .zip or .7z that contains "
                             "them")
    group = parser.add_argument_group("filters (defaults of the DTNMR source)")
    group.add_argument("--top", type=float, default=0.001, metavar="FRACTION",
                       help="keep songs with more than this fraction of the plays of the most played song, from 0 to "
                            "below 1 (default .001)")
    group.add_argument("--min-playlist-len", type=int, default=20, metavar="N",
                       help="keep users with more than N plays of kept songs; the first N are history (default 20)")
    group.add_argument("--max-playlist-len", type=int, default=200, metavar="N",
                       help="keep users with fewer than N plays of kept songs (default 200)")
    add_filters(group)
    add_parts(parser)
    parser.add_argument("--dim", type=int, default=64, metavar="N",
                        help="dimensions of embeddings/metadata.npy; 0 does not write it (default 64)")
    parser.add_argument("--seed", type=cli.seed_number, default=42, metavar="N",
                        help="seed of the truncated SVD of the metadata (default 42)")


def add_filters(group):
    """Options for filters that are constants in the source, with its values as defaults; exact rules: filters.py."""
    group.add_argument("--max-seconds", type=float, default=360, metavar="SECONDS",
                       help="keep songs shorter than this; inf also keeps songs of unknown length (default 360)")
    group.add_argument("--min-age", type=int, default=16, metavar="YEARS",
                       help="keep users of at least this age; 0 also keeps users of unknown age (default 16)")
    group.add_argument("--max-age", type=int, default=59, metavar="YEARS",
                       help="keep users of at most this age (default 59)")
    for role in ("artist", "composer"):
        group.add_argument(f"--{role}-names", choices=("latin", "known", "any"), default="latin",
                           help=f"keep songs by the names of their {role}s. latin: at least one, all of several words, "
                                "at most 25 characters and no Chinese, Japanese, Korean or Thai script; known: at "
                                "least one; any: no filter (default latin)")


def add_parts(group):
    """Options for the val and test points."""
    group.add_argument("--val-share", type=float, default=0.1, metavar="FRACTION",
                       help="share of each user's train points, the last ones, used as val, from 0 to below 1 "
                            "(default .1)")
    group.add_argument("--test", choices=("auto", "csv", "last"), default="auto",
                       help="source of the test points. csv: test.csv; last: the last tenth of each playlist; auto: "
                            "csv, or last if test.csv is missing or gives no test point (default auto)")


def check(args):
    """UsageError for an option value out of range."""
    if not 0 <= args.top < 1:
        raise UsageError(f"--top must be at least 0 and below 1, not {args.top:g}")
    if not args.max_seconds > 0:
        raise UsageError(f"--max-seconds must be above 0, not {args.max_seconds:g}")
    if args.min_playlist_len < 1:
        raise UsageError(f"--min-playlist-len must be at least 1, not {args.min_playlist_len}")
    if args.max_playlist_len < args.min_playlist_len + 2:
        raise UsageError(f"--max-playlist-len {args.max_playlist_len} must be at least two above --min-playlist-len "
                         f"{args.min_playlist_len}, as both limits are exclusive")
    if args.min_age > args.max_age:
        raise UsageError(f"--min-age {args.min_age} must not be above --max-age {args.max_age}")
    if not 0 <= args.val_share < 1:
        raise UsageError(f"--val-share must be at least 0 and below 1, not {args.val_share:g}")
    if args.dim < 0:
        raise UsageError(f"--dim must be at least 0, not {args.dim}")


def get_plays(args, workdir):
    """Write the workspace described above; skip it if neither the files nor the options changed."""
    from concurrent.futures import ThreadPoolExecutor
    check(args)
    from preprocess.kkbox import archives as kkbox_archives
    from preprocess.kkbox import raw as kkbox_raw
    sources = kkbox_archives.find(args.raw, FILES, optional=() if args.test == "csv" else ("test",))
    if "test" not in sources and args.test == "auto":
        print(f"{args.raw} contains no test.csv: the last tenth of each playlist is test")
    states = {path: state_of(path) for path in sources.values()}
    request = {"dataset": "kkbox", **{flag: getattr(args, flag) for flag in FLAGS}, "raw": None}
    with stage.atomic_outputs(workdir / "dataset.json", "kkbox", args.overwrite) as new, ThreadPoolExecutor(2) as pool:
        sums = pool.submit(kkbox_archives.checksums, sources)
        if new.old is not None and not args.overwrite:
            request["raw"] = sums.result()
            if new.same(request, args.overwrite) and _has_embeddings(workdir, new.old):
                return
        files = kkbox_archives.unpack(sources, new.path("unpacked"))
        with kkbox_raw.Raw(files, args.memory // 2, new.path("spill")) as raw:
            about = _write(args, raw, new, workdir, pool)
        request["raw"] = sums.result()
        if changed := [path for path, state in states.items() if state_of(path) != state]:
            raise WorkError(f"{changed[0]} changed while it was read; run this again when nothing writes there")
        brought.publish(new, {
            "name": "kkbox", "source": SOURCE, "licence": LICENCE, "time": "ordinal",
            "order": "train.csv, then test.csv", **about, "checksums": request["raw"], "request": request,
            "versions": versions()}, absent=("metadata.npy", "metadata.json"))
    split = workdir / "data" / "split.json"
    if split.exists() and read_json(split, {"request": dict}).get("request", {}).get("given split") != checksum(
            workdir / "split.pqt"):
        print(f"warning: {split.parent} was split from other points; run 1_train_test_split.py --protocol given again")


def _has_embeddings(workdir, old):
    folder = workdir / "embeddings"
    return (folder / "metadata.npz").exists() and all((folder / f"{n}.npy").exists() for n in old["embeddings"])


def _write(args, raw, new, workdir, background):
    """Read, filter, split into points, and write every file; returns the entries of dataset.json.

    background: executor that writes the plays and encodes the songs concurrently.
    """
    from preprocess.kkbox import features as kkbox_features
    from preprocess.kkbox import filters as kkbox_filters
    from preprocess.kkbox import tables as kkbox_tables
    plays = kkbox_tables.read_plays(raw, "test" in raw.files)
    written = background.submit(kkbox_tables.write_plays, new.path("plays.pqt"), plays)
    items, users = kkbox_tables.read_items(raw, plays.tracks), kkbox_tables.read_users(raw, plays.users)
    _report(raw, plays, items, users)
    kept = kkbox_filters.apply(args, plays, items, users)
    encoding = background.submit(kkbox_features.encode, items, kept.tracks)
    rows, position, part, facts = kkbox_filters.points(args, plays, kept)
    for name, header, ids in (("track", "idx,trackid", plays.tracks), ("user", "idx,userid", plays.users)):
        kkbox_tables.write_ids(new.path(f"{name}id_sorted.csv"), header, ids)
    new.check_split(args.overwrite)
    counts = kkbox_tables.write_metadata(new.path, plays, items, users, kept)
    counts |= kkbox_tables.write_points(new.path, plays, rows, position, part)
    vocabulary, matrix = encoding.result()
    write_parquet(new.path("vocabulary.pqt"), vocabulary)
    embeddings = kkbox_features.write(
        new.hidden, plays.tracks, checksum(new.path("trackid_sorted.csv")), items, matrix, kept.tracks, args.dim,
        args.seed, {"source": SOURCE, "licence": LICENCE})
    written.result()
    counts["encoding_columns"] = len(vocabulary)
    print(f"kkbox: {counts['kept_users']} users and {counts['kept_tracks']} songs kept, encoded in {len(vocabulary)} "
          f"columns; points: " + ", ".join(f"{p} {n}" for p, n in counts["points"].items())
          + f"; test from {facts['test_from']}")
    print("counted as in the DTNMR source: " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in
                                                         facts["as_the_source_counts"].items())
          + "; published for the full data: about 11,000, 240,000 and 38,000")
    return {"counts": counts, "filters": kept.removed, "skipped_rows": plays.skipped, **facts,
            "embeddings": embeddings}


def _report(raw, plays, items, users):
    import numpy as np
    for name, rows in plays.skipped.items():
        if rows:
            print(f"{raw.files[name].name}: {rows} rows without msno or song_id left out")
    print(f"{len(plays)} plays of {len(plays.tracks)} songs by {len(plays.users)} users, {plays.n_train} of them in "
          f"train.csv")
    for what, table, ids, file in (("songs", items, plays.track, "songs"), ("users", users, plays.user, "members")):
        unknown = ~np.asarray(table["known"])
        if unknown.any():
            print(f"{unknown.sum()} {what} are not in {file}.csv: {unknown[ids].mean():.1%} of the plays have no "
                  f"metadata of {what}")
