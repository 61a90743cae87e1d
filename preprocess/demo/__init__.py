"""The built-in synthetic data set as raw files, and its conversion to a workspace.

    python -m preprocess.demo --raw RAW                                    raw files: audio, log, tables
    python preprocess/0_get_plays_pqt.py demo --raw RAW --workdir W        the workspace from these files

RAW has the files of a real collection (formats of Music4All and Music4All-Onion):
    audio/*/<track id>.<extension>       wav, flac, ogg, mp3; sample rates and channels vary between files
    userid_trackid_timestamp.tsv.bz2     listening log: user_id track_id timestamp, newest first within a user
    trackid_sorted.csv                   idx,trackid
    id_information.csv, id_genres.csv, id_metadata.csv, users.tsv      tab separated; several values by comma
    oracle.npy                           ground truth: float32 (tracks, 7) latent traits, see preprocess/demo/world.py
    demo.json                            the request, versions of code and libraries, the size of every file
"""
import contextlib
import csv
import hashlib
import sys
from pathlib import Path

import numpy as np

from harness import cli, locks
from harness.errors import UsageError, WorkError
from harness.files import atomic, checksum, write_json, write_npy, write_parquet, write_text
from harness.machine import versions
from harness.readers import read_json, read_npy
from preprocess.demo import recordings, world

HELP = "built-in synthetic data set with audio; its raw files are generated if they do not exist yet"
DEFAULTS = {"seed": 42, "tracks": 1000, "users": 1500, "seconds": 6.0}
LOG, TRACKS, ORACLE, MANIFEST = "userid_trackid_timestamp.tsv.bz2", "trackid_sorted.csv", "oracle.npy", "demo.json"
TABLES = {"id_information.csv": ("id", "artist", "song"), "id_genres.csv": ("id", "genres"),
          "id_metadata.csv": ("id", "release"), "users.tsv": ("user_id", "country", "age")}


# --------------------------------------------------------------------------- the world as raw files

def make(raw, request, workers=None, overwrite=False):
    """Write the raw files of the world into the folder `raw`, or those that are missing. Returns the manifest.

    request: some of seed, tracks, users, seconds; the others are as in the existing world in `raw`, else DEFAULTS.
             The same request gives the same bytes, whatever the number of workers.
    Raises UsageError if `raw` contains another world (unless overwrite) or other files.
    """
    raw = Path(raw)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    request, old = _request(raw, request, overwrite)
    identity = {"request": request, "made_with": _made_with()}
    tracks = world.make_tracks(request["seed"], request["tracks"])
    plan = recordings.plan(request["seed"], tracks)
    old_identity = {k: old.get(k) for k in identity}
    if (old.get("status") == "finished" and old_identity == identity and not overwrite
            and _complete(raw, old["files"])):
        return old
    with _locked(raw):
        if old and (old_identity != identity or overwrite):
            _remove(raw, old)
            old = {}
        manifest = {"world": "demo", **identity, "status": "running", "files": old.get("files", {}),
                    "owns": sorted([f"audio/{r.path}" for r in plan] + [LOG, TRACKS, ORACLE, *TABLES])}
        write_json(raw / MANIFEST, manifest)
        _write_tables(raw, request, tracks)
        sizes = {k.removeprefix("audio/"): v for k, v in manifest["files"].items()}
        recordings.record_all(plan, raw / "audio", request["seconds"], workers, sizes)
        manifest |= {"status": "finished", "defects": {r.defect: Path(r.path).stem for r in plan if r.defect},
                     "files": {n: (raw / n).stat().st_size for n in manifest["owns"] if (raw / n).exists()}}
        write_json(raw / MANIFEST, manifest)
    return manifest


@contextlib.contextmanager
def _locked(raw):
    """One writer at a time."""
    raw.mkdir(parents=True, exist_ok=True)
    with open(raw / ".lock", "w") as lock:
        try:
            locks.take(lock)
        except BlockingIOError:
            raise WorkError(f"another process is writing the demo world in {raw}; wait until it has "
                            "finished") from None
        yield


def _request(raw, given, overwrite):
    """The complete request, and the manifest of the world in `raw` ({} if there is none)."""
    given = {k: v for k, v in given.items() if v is not None}
    for name in ("tracks", "users"):
        if given.get(name, 1) < 1:
            raise UsageError(f"--{name} must be at least 1, not {given[name]}")
    if given.get("seed", 0) < 0:
        raise UsageError(f"--seed must be at least 0, not {given['seed']}")
    if not 0.5 <= given.get("seconds", 1) <= 600:
        raise UsageError(f"--seconds must be from 0.5 to 600, not {given['seconds']:g}")
    if not (raw / MANIFEST).exists():
        if raw.is_dir() and any(not p.name.startswith(".") for p in raw.iterdir()):
            raise UsageError(f"{raw} contains files that are not a demo world (no {MANIFEST}); "
                             "name a new or an empty folder with --raw")
        return {**DEFAULTS, **given}, {}
    old = read_json(raw / MANIFEST, {"request": dict})
    if old.get("world") != "demo" or "request" not in old:
        raise WorkError(f"{raw / MANIFEST} is not the manifest of a demo world; name another folder with --raw")
    other = {k: v for k, v in given.items() if old["request"].get(k) != v}
    if other and not overwrite:
        existing = ", ".join(f"--{k} {old['request'].get(k)}" for k in other)
        raise UsageError(f"{raw} contains a demo world of {existing}; leave these options out, "
                         "name another folder, or replace it with --overwrite")
    return {**DEFAULTS, **old["request"], **given}, old


def _made_with():
    """Code and libraries that determine the bytes of the world."""
    import scipy
    import soundfile
    sources = [Path(__file__).with_name(f"{name}.py") for name in ("__init__", "recordings", "synth", "world")]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return {"code": code[:16], "numpy": np.__version__, "scipy": scipy.__version__,
            "libsndfile": soundfile.__libsndfile_version__}


def _complete(raw, files):
    return all((raw / name).is_file() and (raw / name).stat().st_size == size for name, size in files.items())


def _remove(raw, old):
    """Delete an outdated world: the files in its manifest, nothing else."""
    print(f"{raw}: its demo world is of another version or request; it is generated again", file=sys.stderr)
    for name in old.get("owns", []):
        path = (raw / name).resolve()
        if path.is_relative_to(raw.resolve()):
            path.unlink(missing_ok=True)
    (raw / MANIFEST).unlink()


def _write_tables(raw, request, tracks):
    """Everything but the audio. Written again by a resumed run, as it takes seconds."""
    print(f"demo world: 13 months of {request['users']} listeners", file=sys.stderr, flush=True)
    users = world.make_users(request["seed"], request["users"], tracks)
    released = (tracks.release // world.DAY).astype("datetime64[D]").astype(str)
    write_text(raw / TRACKS, "idx,trackid\n" + "".join(f"{i},{t}\n" for i, t in enumerate(tracks.ids)))
    rows = {"id_information.csv": zip(tracks.ids, map(",".join, tracks.artists), tracks.title, strict=True),
            "id_genres.csv": zip(tracks.ids, map(",".join, tracks.styles), strict=True),
            "id_metadata.csv": zip(tracks.ids, released, strict=True),
            "users.tsv": zip(users.ids, users.country, users.age, strict=True)}
    for name, columns in TABLES.items():
        lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows[name])]
        write_text(raw / name, "\n".join(lines) + "\n")
    write_npy(raw / ORACLE, tracks.latent.astype(np.float32))
    write_log(raw / LOG, world.listen(request["seed"], tracks, users), [*tracks.ids, *tracks.unknown])


def write_log(path, plays, ids):
    """Write a listening log in the format of Music4All-Onion: bz2, tab separated, in the order of `plays`."""
    import pyarrow as pa
    import pyarrow.csv
    table = pa.table({"user_id": plays.user, "track_id": pa.array(ids).take(pa.array(plays.track)),
                      "timestamp": pa.array(plays.time, pa.timestamp("s"))})
    bare = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with atomic(path) as temporary, pa.CompressedOutputStream(str(temporary), "bz2") as out:
        out.write(("\t".join(table.column_names) + "\n").encode())
        pyarrow.csv.write_csv(table, out, bare)


# --------------------------------------------------------------------------- into a workspace

def add_arguments(parser):
    parser.add_argument("--raw", metavar="DIR", help="folder of the raw files (default: WORKDIR/raw)")
    _world_flags(parser)


def get_plays(args, workdir):
    """Write the workspace from the raw files, which are generated first if they are missing.

    plays.pqt, trackid_sorted.csv and dataset.json are written by preprocess/log.py; items.pqt, users.pqt and the oracle
    after them by every run (this is fast, and repairs an interrupted run).
    """
    from preprocess import log
    raw = Path(args.raw).expanduser() if args.raw else Path(workdir) / "raw"
    manifest = make(raw, {k: getattr(args, k) for k in DEFAULTS}, args.workers)
    log.write_plays(raw / LOG, raw / TRACKS, workdir, name="demo", source="preprocess/demo",
                    licence="made by this project, free to use",
                    memory=args.memory, overwrite=args.overwrite,
                    more={"world": manifest["request"], "defects": manifest["defects"]})
    write_items(raw, workdir)
    write_users(raw, workdir)
    write_oracle(raw, workdir)


def write_items(raw, workdir):
    """items.pqt: track_id, title, artists and styles (lists), released (date), one row per track of the list."""
    import pyarrow as pa
    about = {name: _read(raw, name) for name in TABLES if name != "users.tsv"}
    ids = [row["trackid"] for row in _read(raw, TRACKS, ("idx", "trackid"), ",")]
    by_id = {name: {row["id"]: row for row in rows} for name, rows in about.items()}
    for name, rows in by_id.items():
        if missing := [i for i in ids if i not in rows]:
            raise WorkError(f"{raw / name} has no row for {len(missing)} tracks of {TRACKS}, such as {missing[0]}")
    information, genres, metadata = ([by_id[name][i] for i in ids] for name in about)
    several = pa.list_(pa.string())
    write_parquet(Path(workdir) / "items.pqt", pa.table({
        "track_id": pa.array(range(len(ids)), pa.int64()),
        "title": pa.array([row["song"] for row in information], pa.string()),
        "artists": pa.array([row["artist"].split(",") for row in information], several),
        "styles": pa.array([row["genres"].split(",") for row in genres], several),
        "released": pa.array([row["release"] for row in metadata]).cast(pa.date32())}))


def write_users(raw, workdir):
    """users.pqt: user_id, age (years) and country, null if unknown."""
    import pyarrow as pa
    users = _read(raw, "users.tsv")
    age = [int(row["age"]) for row in users]
    write_parquet(Path(workdir) / "users.pqt", pa.table({
        "user_id": pa.array([int(row["user_id"]) for row in users], pa.int64()),
        "age": pa.array([None if a < 0 else a for a in age], pa.int64()),
        "country": pa.array([row["country"] or None for row in users], pa.string())}))


def write_oracle(raw, workdir):
    """embeddings/oracle.npy and .json: the latent traits, to be used only by runs named oracle."""
    path = Path(workdir) / "embeddings" / "oracle.npy"
    matrix = read_npy(raw / ORACLE)
    if matrix.ndim != 2:
        raise WorkError(f"{raw / ORACLE} must be a matrix (tracks, traits), but has shape {matrix.shape}; "
                        "make the world anew with --overwrite")
    provenance = {
        "backend": "oracle", "variant": "latent traits of the demo world: " + ", ".join(world.TRAITS),
        "dim": matrix.shape[1], "n_tracks": len(matrix), "weights": None,
        "track_checksum": checksum(Path(workdir) / TRACKS), "versions": versions(), "failed": {}}
    info = path.with_suffix(".json")
    if path.exists() and info.exists() and read_json(info) == provenance \
            and np.array_equal(read_npy(path), matrix):
        return
    info.unlink(missing_ok=True)                         # so that a json file always describes the current matrix
    write_npy(path, matrix)
    write_json(info, provenance)


def _read(raw, name, columns=None, delimiter="\t"):
    """Rows of a raw table as dicts; WorkError if its columns differ or a row has too few or too many cells."""
    columns = columns or TABLES[name]
    with open(raw / name, encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    if not rows or tuple(rows[0]) != columns or any(len(row) != len(columns) for row in rows):
        raise WorkError(f"{raw / name} must have the columns {', '.join(columns)} in every row; "
                        "generate it again with python -m preprocess.demo --overwrite")
    return [dict(zip(columns, row, strict=True)) for row in rows[1:]]


def _world_flags(parser):
    group = parser.add_argument_group("demo world (defaults: those of the existing world in --raw, else as stated)")
    group.add_argument("--seed", type=cli.seed_number, metavar="N",
                       help=f"seed of all random numbers (default {DEFAULTS['seed']})")
    group.add_argument("--tracks", type=int, metavar="N", help=f"number of tracks (default {DEFAULTS['tracks']})")
    group.add_argument("--users", type=int, metavar="N", help=f"number of users (default {DEFAULTS['users']})")
    group.add_argument("--seconds", type=float, metavar="SECONDS",
                       help=f"length of a recording in seconds, 0.5 to 600 (default {DEFAULTS['seconds']:g})")
    group.add_argument("--workers", type=int, metavar="N",
                       help="processes that synthesise audio; does not change the result (default: one per CPU)")


def main(argv=None):
    parser = cli.Parser(prog="preprocess.demo", description=__doc__)
    parser.add_argument("--raw", metavar="DIR", required=True,
                        help="folder to write to: new, empty, or with a demo world")
    _world_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a demo world of other options")
    args = parser.parse_args(argv)
    manifest = make(Path(args.raw).expanduser(), {k: getattr(args, k) for k in DEFAULTS}, args.workers, args.overwrite)
    sound = [size for name, size in manifest["files"].items() if name.startswith("audio/")]
    print(f"{args.raw}: {len(sound)} audio files, {sum(sound) / 1e6:.0f} MB; "
          + ", ".join(f"{d} {t}" for d, t in manifest["defects"].items()))

