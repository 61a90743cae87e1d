"""Last.fm 2k (HetRec 2011): who played which artist how often, with tags, friends and content features.

    python preprocess/0_get_plays_pqt.py lastfm --raw DIR [--audio-features DIR] [--spotify FILE] --workdir W
    python preprocess/0_get_plays_pqt.py lastfm --raw DIR --audio-features DIR --audio-only --workdir W2
    python preprocess/0_get_plays_pqt.py lastfm --raw DIR --events tags [--audio-features DIR] --workdir W3

1,892 listeners, 17,632 artists, 92,834 play counts. The items ("tracks") are artists: `track_id` is the row of
trackid_sorted.csv, whose ids are the artist ids of artists.dat, sorted as text like the ids of every other
data set ("10" before "2"); users keep their integer ids. Plays have a count and no time.
Embeddings: `tags`; with --spotify `spotify`; with --audio-features `vggish`, `whisper`, `minilm`; artists
without a vector have NaN rows. `tags` and `minilm` (a text model of the same tags) come from the listeners whose
plays are to be predicted, so unlike audio they are not independent of the interactions.
--audio-only writes the data set `lastfm-audio`: the 1,425 artists and 1,858 listeners of the published split,
which becomes split.pqt (for `1_train_test_split.py --protocol given`).
--events tags writes the data set `lastfm-tags`: the dated taggings in place of the plays, with real times (resolution:
a month) and without the embeddings and metadata made of the tags (preprocess/lastfm/taggings.py).

Source: Cantador, Brusilovsky, Kuflik, "2nd Workshop on Information Heterogeneity and Fusion in
Recommender Systems (HetRec 2011)", RecSys 2011. Non-commercial use only. Needs 0.6 GB of memory.
"""
from dataclasses import dataclass
from pathlib import Path

from harness import cli, download
from harness.delimited import read_table
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.inputs import check_unchanged, hashed
from preprocess import brought, stage

HELP = "Last.fm 2k (HetRec 2011): play counts of artists, tags, friends; audio, text and Spotify features"
URL = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
CHECKSUM = "md5:296d61afe4e8632b173fc2dd3be20ce2"
FILES = {
    "artists.dat": {"id": int, "name": str, "url": str},
    "tags.dat": {"tagID": int, "tagValue": str},
    "user_artists.dat": {"userID": int, "artistID": int, "weight": int},
    "user_taggedartists.dat": {"userID": int, "artistID": int, "tagID": int},
    "user_friends.dat": {"userID": int, "friendID": int},
}
ENCODINGS = {"tags.dat": ("utf-8", "latin-1")}  # only tags.dat is Latin-1
SPLIT_PAIRS = {"train": 44_327, "val": 4_799, "test": 7_219}  # of the published split, for comparison


def add_arguments(parser):
    parser.add_argument("--raw", metavar="DIR", help="folder with artists.dat, tags.dat, user_artists.dat, "
                        "user_taggedartists.dat, user_friends.dat (default: downloaded from grouplens.org)")
    parser.add_argument("--audio-features", metavar="PATH", help="multimodal features of the artists: a folder with "
                        "artists.csv, users.csv, lfm2k.inter and matrices (vggish.npy, ...), the archive "
                        "lfm2k_mm_json.zip of Zenodo record 15403972, or 'download' to fetch the archive (624 MB)")
    parser.add_argument("--spotify", metavar="FILE", help="csv file of Spotify playlist songs with their audio "
                        "features, for the embedding spotify")
    parser.add_argument("--audio-only", action="store_true",
                        help="keep only the artists and listeners of the published audio split, and write that split")
    parser.add_argument("--events", choices=("plays", "tags"), default="plays",
                        help="rows of plays.pqt: play counts of artists, without times, or dated taggings of artists "
                             "(default plays)")
    parser.add_argument("--seed", type=cli.seed_number, default=42, metavar="N",
                        help="seed of the truncated SVD of the tags (default 42)")
    parser.add_argument("--downloads", metavar="DIR",
                        help="folder for downloaded files (default: raw/ in the workspace)")


def get_plays(args, workdir):
    """Write the workspace: plays, items, users, embeddings and dataset.json; skip it if nothing changed."""
    from preprocess.lastfm import tables, taggings
    if args.events == "tags" and args.audio_only:
        raise UsageError("--audio-only is the published split of the play counts; with --events tags leave it out, and "
                         "restrict the artists with --tracks-with vggish when splitting")
    raw = Path(args.raw).expanduser() if args.raw else _download_raw(args, workdir)
    audio = _audio_source(args, workdir)
    spotify = Path(args.spotify).expanduser() if args.spotify else None
    files = [hashed(path) for path in _inputs(raw, audio, spotify)]
    name = "lastfm-tags" if args.events == "tags" else "lastfm-audio" if args.audio_only else "lastfm"
    request = {"dataset": name, "tag_dim": tables.TAG_DIM, "seed": args.seed, **{i.path.name: i.digest for i in files}}
    time = {"time": "real", "resolution": "month"} if args.events == "tags" else {"time": "none"}
    with stage.atomic_outputs(workdir / "dataset.json", name, args.overwrite) as new:
        if new.same(request, args.overwrite) and _has_embeddings(workdir, new.old):
            return
        data = read(raw, dated=args.events == "tags")
        features = _read_audio(audio, data) if audio else None
        if args.events == "tags":
            data = taggings.as_plays(data)
        artists, users, split = _catalogue(data, features if args.audio_only else None)
        counts = tables.write_tables(new.path, data, artists, users, split)
        new.check_split(args.overwrite)
        track_checksum = checksum(new.path("trackid_sorted.csv"))
        embeddings = tables.write_embeddings(new.hidden, track_checksum, data, artists, features, spotify,
                                             args.seed)
        check_unchanged(files)
        about = brought.publish(new, {
            "name": name, "source": tables.SOURCE, "licence": tables.LICENCE, **time,
            "track_ids": "artist ids, as text",
            "request": request, "checksums": {i.path.name: i.digest for i in files}, "dropped": data.dropped,
            "counts": counts, "embeddings": embeddings})
    _report(about, features)


def _has_embeddings(workdir, old):
    return all((workdir / "embeddings" / f"{e}.{s}").exists() for e in old["embeddings"] for s in ("npy", "json"))


def _inputs(raw, audio, spotify):
    """Every file that determines the result; UsageError or WorkError if one is missing."""
    from preprocess.lastfm import audio as lastfm_audio
    if not raw.is_dir():
        raise UsageError(f"--raw {raw} is not a folder; name the folder with the .dat files of {Path(URL).name}")
    if missing := [n for n in FILES if not (raw / n).is_file()]:
        raise WorkError(f"--raw {raw} lacks {', '.join(missing)}; it must hold the unpacked {Path(URL).name}")
    if spotify is not None and not spotify.is_file():
        raise UsageError(f"--spotify {spotify} is not a file; name a csv with track_artist and the audio features")
    return [raw / n for n in FILES] + (lastfm_audio.files_of(audio) if audio else []) + ([spotify] if spotify else [])


def _download_raw(args, workdir):
    folder = _downloads(args, workdir)
    archive = download.fetch(URL, folder / Path(URL).name, CHECKSUM,
                             mend="unpack a copy of it and name the folder with --raw")
    raw = folder / archive.stem
    if not all((raw / n).is_file() for n in FILES):
        download.unpack(archive, raw, list(FILES))
    return raw


def _audio_source(args, workdir):
    from preprocess.lastfm import audio as lastfm_audio
    wanted = args.audio_features or ("download" if args.audio_only else None)
    if wanted != "download":
        return Path(wanted).expanduser() if wanted else None
    return download.fetch(lastfm_audio.URL, _downloads(args, workdir) / Path(lastfm_audio.URL).name,
                          lastfm_audio.CHECKSUM, mend=f"name a copy of it ({lastfm_audio.SIZE}) with --audio-features")


def _downloads(args, workdir):
    return Path(args.downloads).expanduser() if args.downloads else Path(workdir) / "raw"


# --------------------------------------------------------------------------- reading

@dataclass
class Listening:
    """The tables of HetRec's Last.fm 2k as pandas frames, cleaned, in the order of the files.

    artists: id, name, url; tags: tagID, tagValue; plays: userID, artistID, weight (plays), one row per pair;
    tagged: userID, artistID, tagID, one row per assignment, or None where they are the plays
    friends: userID, friendID, both directions
    dropped: {description: rows left out}
    """
    artists: object
    tags: object
    plays: object
    tagged: object
    friends: object
    dropped: dict


def read(folder, dated=False):
    """Read and clean the five files. Raises WorkError for a file that does not have the documented form.

    dated: the taggings keep their dates, and two of one user, artist and tag are both kept where these differ.
    Left out and counted: plays and tags of artists absent from artists.dat, tags absent from tags.dat,
    tags and friends of users without plays, duplicate tags and friends. Duplicate play rows are summed.
    """
    from preprocess.lastfm import taggings
    files = FILES | ({"user_taggedartists.dat": taggings.COLUMNS} if dated else {})
    artists, tags, plays, tagged, friends = (
        read_table(folder / n, columns, encodings=ENCODINGS.get(n, ("utf-8",))) for n, columns in files.items())
    for frame, column, file in ((artists, "id", "artists.dat"), (tags, "tagID", "tags.dat")):
        if twice := int(frame[column].duplicated().sum()):
            raise WorkError(f"{folder / file} contains {twice} duplicate values of {column}")
    if few := int((plays["weight"] < 1).sum()):
        raise WorkError(f"{folder / 'user_artists.dat'}: {few} rows have fewer than one play (weight)")
    dropped = {}

    def keep(frame, mask, what):
        if lost := int((~mask).sum()):
            dropped[what] = lost
        return frame[mask]
    plays = keep(plays, plays["artistID"].isin(artists["id"]), "plays left out: artist absent from artists.dat")
    if plays.empty:
        raise WorkError(f"{folder / 'user_artists.dat'} has no play of an artist of artists.dat")
    if twice := int(plays.duplicated(["userID", "artistID"]).sum()):
        dropped["play rows added to an earlier row of the same user and artist"] = twice
        plays = plays.groupby(["userID", "artistID"], sort=False, as_index=False)["weight"].sum()
    tagged = keep(tagged, tagged["artistID"].isin(artists["id"]), "tags left out: artist absent from artists.dat")
    tagged = keep(tagged, tagged["tagID"].isin(tags["tagID"]), "tags left out: tag absent from tags.dat")
    tagged = keep(tagged, tagged["userID"].isin(plays["userID"]), "tags left out: user without plays")
    tagged = keep(tagged, ~tagged.duplicated(), "tags left out: given twice by one user to one artist")
    known = friends["userID"].isin(plays["userID"]) & friends["friendID"].isin(plays["userID"])
    friends = keep(friends, known & (friends["userID"] != friends["friendID"]), "friends left out: without plays")
    friends = keep(friends, ~friends.duplicated(), "friends left out: listed twice")
    return Listening(artists, tags, plays, tagged, friends, dropped)


def _read_audio(source, data):
    from preprocess.lastfm import audio as lastfm_audio
    return lastfm_audio.read(source, data.plays["userID"].to_numpy(), data.plays["artistID"].to_numpy())


def _catalogue(data, features):
    """Artist ids in the order of their rows (text order), users kept (None: all), and the given split or None."""
    ids = data.artists["id"]
    if features is not None:
        ids = ids[ids.isin(features.artists)]
        if ids.empty:
            raise WorkError("none of the artists with audio features is in artists.dat; use files of one data set")
    artists = sorted(ids.tolist(), key=str)
    return artists, (None if features is None else set(features.split[0].tolist())), features and features.split


def _report(about, features):
    name, counts = about["name"], about["counts"]
    for what, rows in about["dropped"].items():
        print(f"{name}: {rows} {what}")
    print(f"{name}: {counts['users']} users, {counts['tracks']} artists, {counts['pairs']} pairs, "
          f"{counts['plays']} plays; embeddings "
          + (", ".join(f"{n} ({e['rows']} artists, {e['dim']} values)" for n, e in about["embeddings"].items())
             or "none"))
    if "split" in counts:
        print(f"{name}: given split ({features.recipe}) " + ", ".join(f"{p} {n}" for p, n in counts["split"].items())
              + ("" if counts["split"] == SPLIT_PAIRS else f"; the published one has {SPLIT_PAIRS}"))
