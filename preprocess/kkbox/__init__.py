"""WSDM-KKBOX: who played which song from where in the app, in order; metadata of songs and members.

    python preprocess/0_get_plays_pqt.py kkbox --raw DIR --workdir W
    python preprocess/1_train_test_split.py --protocol given --workdir W

Source: WSDM Cup 2018, https://www.kaggle.com/c/kkbox-music-recommendation-challenge, filtered and cut into points
as the DTNMR source does (Zheng et al., Appl. Sci. 2019, 9, 703). --raw holds train.csv, test.csv, songs.csv,
members.csv and song_extra_info.csv, as they are or as NAME.csv.7z, NAME.csv.zip, or all inside one .zip or .7z.

What is written (int64 ids everywhere; text is a category, a null is unknown)
  trackid_sorted.csv  idx,trackid  every song_id of a play, sorted by its bytes; unplayed songs are left out
  userid_sorted.csv   idx,userid   every msno of a play, sorted by its bytes
  plays.pqt    one row per row of train.csv, then of test.csv, in their order, before any filter:
               user_id, track_id, timestamp (row number as seconds since the epoch: ordinal),
               source_system_tab, source_screen_name, source_type (text), target (int8, null in test.csv)
  items.pqt    one row per track: track_id, song_length (float64, seconds), genres, artists, composers, lyricists
               (lists of text, null where none is given), language (text, a code), name, isrc, country (text; of the
               ISRC), year (int16, of the ISRC), plays (int64, in train.csv), kept (bool, passed the song filters)
  users.pqt    one row per user: user_id, age (int16, 1 to 100), gender, city, registered_via (text; codes),
               registered, expires (date32), playlist (int64, plays in train.csv of kept songs),
               kept (bool, passed every filter: these are the users of points.pqt and split.pqt)
  points.pqt   the playlists of kept users, kept songs only, sorted by user_id, position:
               user_id, position (int64, 0, 1, 2, ... without gaps within a user), track_id, part (text),
               timestamp, source_system_tab, source_screen_name, source_type, target
               part is "train", "val" or "test" for a point (predict this song from the rows of smaller position
               of the same user), "history" for a row that is only ever looked back at. Repeated plays are rows.
  split.pqt    the same as unique pairs, for --protocol given: user_id, track_id, part, timestamp, count. A pair
               belongs where it is played first: "train" (history before val, and train points), "val" or "test".
               count: plays in that part. data/{train,val,test}.pqt come from it, so a test point whose song the
               user had already played is in points.pqt only.
  vocabulary.pqt                  column (int64), field ("genre", "artist", "composer", "language"), value (text,
               null: unknown, meaning none given or none in the vocabulary), songs (int64, kept songs that have it);
               fields in this order, values of kept songs sorted by their bytes, the null last in each field.
               Column 0 of the matrix is the length and stands here as field "length", value null.
  embeddings/metadata.npz         scipy csr float32 (n_tracks, columns): column 0 is song_length / longest kept song,
               the others 1 where the song has the value; rows of tracks absent from songs.csv are empty
  embeddings/metadata.npy, .json  float32 (n_tracks, --dim): its truncated SVD, for every recommender; a track absent
               from songs.csv is a row of NaN
  dataset.json counts, what each filter removed, the counts that the source prints, flags, checksums of the raw files
At the challenge's size this takes 1.8 GiB of memory, which --memory does not lower.

Points. A kept user's playlist is the plays of kept songs in train.csv. Its first --min-playlist-len rows are
history, the rest train points, the last --val-share of which (rounded down, at least one of two) are val. Test
points are the plays of test.csv after the first --min-playlist-len of them, again for playlists of an admissible
length, and the train playlist comes before them as history. Where that gives no test point, where test.csv is
missing, or with --test last, test.csv is no part of the points and the last 10 % of each playlist (at least one) are
test; --test csv refuses instead. Its plays are in plays.pqt wherever it is there.
"""
from pathlib import Path

from harness import cli
from harness.errors import UsageError
from harness.files import checksum, write_parquet
from harness.machine import versions
from harness.readers import read_json
from preprocess import stage

HELP = "WSDM-KKBOX (2018): plays in order with their context, metadata of songs and members, DTNMR's points"
SOURCE = "https://www.kaggle.com/c/kkbox-music-recommendation-challenge"
LICENCE = "the rules of the challenge; for research, not to be passed on"
FILES = ("train", "test", "songs", "members", "song_extra_info")
FLAGS = ("top", "max_seconds", "artist_names", "composer_names", "min_age", "max_age", "min_playlist_len",
         "max_playlist_len", "val_share", "test", "dim", "seed")


def add_arguments(parser):
    parser.add_argument("--raw", required=True, type=Path, metavar="DIR",
                        help="folder with the five files (.csv, .csv.7z, .csv.zip), or one .zip or .7z of them")
    group = parser.add_argument_group("filters (defaults of the DTNMR source)")
    group.add_argument("--top", type=float, default=0.001, metavar="RATIO",
                       help="songs played more than RATIO times as often as the most played (default .001)")
    group.add_argument("--min-playlist-len", type=int, default=20, metavar="NB",
                       help="users with more than NB plays of kept songs, of which NB are history (default 20)")
    group.add_argument("--max-playlist-len", type=int, default=200, metavar="NB",
                       help="users with fewer than NB plays of kept songs (default 200)")
    add_filters(group)
    add_parts(parser)
    parser.add_argument("--dim", type=int, default=64, metavar="D",
                        help="dimensions of embeddings/metadata.npy (default 64; 0 makes none)")
    parser.add_argument("--seed", type=cli.seed_number, default=42, help="seed of its reduction (default 42)")


def add_filters(group):
    """The source's filters that it has no flags for, with its defaults; exact rules: kkbox_filters.py."""
    group.add_argument("--max-seconds", type=float, default=360, metavar="SECONDS",
                       help="keep songs shorter than SECONDS (default 360; inf keeps those of unknown length too)")
    group.add_argument("--min-age", type=int, default=16, metavar="YEARS",
                       help="keep users of at least YEARS (default 16; 0 keeps unknown ages too)")
    group.add_argument("--max-age", type=int, default=59, metavar="YEARS",
                       help="keep users of at most YEARS (default 59)")
    for who in ("artist", "composer"):
        group.add_argument(f"--{who}-names", choices=("latin", "known", "any"), default="latin",
                           help=f"songs whose {who}s are all named in several words of no Asian script, at most 25 "
                                f"letters long (latin, default), that name one (known), or any")


def add_parts(group):
    """Which points are val and test."""
    group.add_argument("--val-share", type=float, default=0.1, metavar="FLOAT",
                       help="share of each user's train points, the last ones, that are val (default .1)")
    group.add_argument("--test", choices=("auto", "csv", "last"), default="auto",
                       help="test points from test.csv, from the last tenth of each playlist, or (auto, default) from "
                            "the latter where test.csv is missing or gives none")


def check(args):
    """UsageError for a flag that cannot be meant."""
    if not 0 <= args.top < 1:
        raise UsageError(f"--top is a share from 0 to below 1, not {args.top:g}")
    if not args.max_seconds > 0:
        raise UsageError(f"--max-seconds must be above 0, not {args.max_seconds:g}")
    if args.min_playlist_len < 1:
        raise UsageError(f"--min-playlist-len must be at least 1, not {args.min_playlist_len}")
    if args.max_playlist_len < args.min_playlist_len + 2:
        raise UsageError(f"--max-playlist-len {args.max_playlist_len} must be at least two above --min-playlist-len "
                         f"{args.min_playlist_len}: playlists have more than the one and fewer than the other")
    if args.min_age > args.max_age:
        raise UsageError(f"--min-age {args.min_age} is above --max-age {args.max_age}")
    if not 0 <= args.val_share < 1:
        raise UsageError(f"--val-share is a share from 0 to below 1, not {args.val_share:g}")
    if args.dim < 0:
        raise UsageError(f"--dim must be at least 0, not {args.dim}")


def get_plays(args, workdir):
    """Write the workspace described above; skip it when neither the files nor the flags changed."""
    from concurrent.futures import ThreadPoolExecutor
    check(args)
    from preprocess.kkbox import archives as kkbox_archives
    from preprocess.kkbox import raw as kkbox_raw
    found = kkbox_archives.find(args.raw, FILES, optional=() if args.test == "csv" else ("test",))
    if "test" not in found and args.test == "auto":
        print(f"{args.raw} holds no test.csv: the last tenth of each playlist is test")
    request = {"dataset": "kkbox", **{flag: getattr(args, flag) for flag in FLAGS}, "raw": None}
    with stage.together(workdir / "dataset.json", "kkbox") as new, ThreadPoolExecutor(2) as pool:
        sums = pool.submit(kkbox_archives.checksums, found)
        if new.old is not None and not args.overwrite:
            request["raw"] = sums.result()
            if new.same(request, args.overwrite) and _has_embeddings(workdir, new.old):
                return
        files = kkbox_archives.unpack(found, new.path("unpacked"))
        with kkbox_raw.Raw(files, args.memory // 2, new.path("spill")) as raw:
            about = _write(args, raw, new, workdir, pool)
        request["raw"] = sums.result()
        new.publish({"name": "kkbox", "source": SOURCE, "licence": LICENCE, "time": "ordinal",
                     "order": "train.csv, then test.csv", **about, "checksums": request["raw"], "request": request,
                     "versions": versions()})
    split = workdir / "data" / "split.json"
    if split.exists() and read_json(split, {"request": dict}).get("request", {}).get("given split") != checksum(
            workdir / "split.pqt"):
        print(f"beware: {split.parent} was split from other points; run 1_train_test_split.py --protocol given again")


def _has_embeddings(workdir, old):
    folder = workdir / "embeddings"
    return (folder / "metadata.npz").exists() and all((folder / f"{n}.npy").exists() for n in old["embeddings"])


def _write(args, raw, new, workdir, background):
    """Read, filter, cut into points, and write every file; returns the facts for dataset.json.

    background: executor that writes the plays and encodes the songs while the rest goes on.
    """
    from preprocess.kkbox import features as kkbox_features
    from preprocess.kkbox import filters as kkbox_filters
    from preprocess.kkbox import tables as kkbox_tables
    plays = kkbox_tables.read_plays(raw, "test" in raw.files)
    written = background.submit(kkbox_tables.write_plays, new.path("plays.pqt"), plays)
    items, users = kkbox_tables.read_items(raw, plays.tracks), kkbox_tables.read_users(raw, plays.users)
    _tell(raw, plays, items, users)
    kept = kkbox_filters.apply(args, plays, items, users)
    encoding = background.submit(kkbox_features.encode, items, kept.tracks)
    rows, position, part, facts = kkbox_filters.points(args, plays, kept)
    for name, header, ids in (("track", "idx,trackid", plays.tracks), ("user", "idx,userid", plays.users)):
        kkbox_tables.write_ids(new.path(f"{name}id_sorted.csv"), header, ids)
    stale = stage.stale_split(workdir, new.path("trackid_sorted.csv"), args.overwrite)
    counts = kkbox_tables.write_metadata(new.path, plays, items, users, kept)
    counts |= kkbox_tables.write_points(new.path, plays, rows, position, part)
    vocabulary, matrix = encoding.result()
    write_parquet(new.path("vocabulary.pqt"), vocabulary)
    embeddings = kkbox_features.write(
        workdir, plays.tracks, checksum(new.path("trackid_sorted.csv")), items, matrix, kept.tracks, args.dim,
        args.seed, {"source": SOURCE, "licence": LICENCE})
    written.result()
    for path in stale:
        path.unlink()
    counts["encoding_columns"] = len(vocabulary)
    print(f"kkbox: {counts['kept_users']} users and {counts['kept_tracks']} songs kept, encoded in {len(vocabulary)} "
          f"columns; points: " + ", ".join(f"{p} {n}" for p, n in counts["points"].items())
          + f"; test from {facts['test_from']}")
    print("as the DTNMR source counts: " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in
                                                     facts["as_the_source_counts"].items())
          + "; published for the full data: about 11,000, 240,000 and 38,000")
    return {"counts": counts, "filters": kept.removed, "skipped_rows": plays.skipped, **facts,
            "embeddings": embeddings}


def _tell(raw, plays, items, users):
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
