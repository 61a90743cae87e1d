"""Yambda: Yandex Music's listens and likes with times, and audio vectors of the tracks (50M, 500M or 5B events).

    python preprocess/0_get_plays_pqt.py yambda --size 50m --workdir W                     fetched from the hub
    python preprocess/0_get_plays_pqt.py yambda --raw DIR --size 50m --events likes --workdir W
    python preprocess/1_train_test_split.py --protocol yambda --workdir W

--raw is a folder as the hub has it: flat/50m/listens.parquet (or sequential/..., --form), likes.parquet,
embeddings.parquet, artist_item_mapping.parquet, album_item_mapping.parquet; the last three may be absent.

What is written
  trackid_sorted.csv, userid_sorted.csv   item ids and user ids with an event, ascending
  plays.pqt   user_id, track_id, timestamp: one row per event, by user and time. Times are seconds since the log's
              start (5-second steps), counted from 1970-01-01. Of the listens those of at least half a track (Listen+)
  items.pqt   track_id, artists (a list of artist ids as text), album (an album's id, the smallest of several)
  embeddings/yambda.npy, .json   float32 (n_tracks, 128) of embeddings.parquet; NaN for a track without a vector

Memory stays within --memory whatever the size (DuckDB; temporary files beside the workspace's). Source: Ploshkin et
al., RecSys 2025 (arXiv 2505.22238), yandex/yambda on the Hugging Face hub, Apache 2.0.
"""
import re
import sys
from pathlib import Path

from harness.errors import UsageError, WorkError
from harness.files import checksum, parquet_rows, quoted, write_json
from harness.inputs import check_unchanged, hashed
from harness.machine import versions
from harness.progress import Progress
from preprocess import brought, stage

HELP = "Yambda (50M, 500M or 5B events): listens or likes with times, and audio vectors of the tracks"
REPO, REVISION = "yandex/yambda", "d82b696fbd0042ce2ca43b70c1252d7babbab56f"
SIZES, EVENTS, FORMS = ("50m", "500m", "5b"), ("listens", "likes"), ("flat", "sequential")
LISTEN = 50              # percent of a track from which a listen counts, as in the official protocol
BESIDE = ("embeddings.parquet", "artist_item_mapping.parquet", "album_item_mapping.parquet")
VECTORS = {"embed": "embed", "normalized": "normalized_embed"}
ROWS = 1 << 19           # rows of a row group of plays.pqt
BATCH = 1 << 16          # vectors read at a time


def add_arguments(parser):
    parser.add_argument("--raw", type=Path, metavar="DIR",
                        help="folder with the published files (default: fetched from the model hub into its cache)")
    parser.add_argument("--size", choices=SIZES, default="50m", help="size of the log (default 50m)")
    parser.add_argument("--events", choices=EVENTS, default="listens",
                        help="events that are plays: listens of at least half a track, or likes (default listens)")
    parser.add_argument("--form", choices=FORMS, default="flat",
                        help="form of the files: a row per event, or per user (default flat)")
    parser.add_argument("--vectors", choices=(*VECTORS, "none"), default="embed",
                        help="audio vectors to align: as they are, normalised, or none (default embed)")


def get_plays(args, workdir):
    """Write the workspace described above; skip it if the files are unchanged."""
    files = find(args)
    seen = [hashed(path) for path in files.values()]
    request = {"dataset": "yambda", "size": args.size, "events": args.events, "form": args.form,
               "vectors": args.vectors, **{i.path.name: i.digest for i in seen}}
    with stage.atomic_outputs(workdir / "dataset.json", "yambda", args.overwrite) as new:
        if new.same(request, args.overwrite) and all(path.exists() for path in vector_paths(workdir, args, files)):
            return
        with (stage.session(stage.engine_memory(args.memory), new.path("spill")) as con,
              Progress(5, "yambda", "steps") as bar):
            con.execute("set preserve_insertion_order=false")
            counts = _plays(con, files["events"], args, new, bar)
            new.check_split(args.overwrite)
            _items(con, files, new)
            bar.update(1, now="vectors")
            vectors = {}
            if "embeddings.parquet" in files:
                vectors = write_vectors(con, files["embeddings.parquet"], args.vectors, new.hidden,
                                        checksum(new.path("trackid_sorted.csv")), request["embeddings.parquet"])
            bar.update(1)
        check_unchanged(seen)
        brought.publish(new, {
            "name": "yambda", "source": f"https://huggingface.co/datasets/{REPO}", "revision": REVISION,
            "licence": "Apache 2.0", "time": "real", "epoch": "the log's start, at 1970-01-01", "request": request,
            "counts": counts, "embeddings": vectors, "versions": versions()},
            remove=[] if new.path("items.pqt").exists() else ["items.pqt"])
    print(f"yambda: {counts['users']:,} users, {counts['tracks']:,} tracks, {counts['plays']:,} {args.events}"
          + (f" of {counts['rows']:,} rows" if counts["rows"] != counts["plays"] else "")
          + "".join(f"; embedding {name} ({v['rows']:,} tracks, {v['dim']} values)" for name, v in vectors.items()))


def vector_paths(workdir, args, files):
    """The files of the embedding, none where there is none to write."""
    wanted = args.vectors != "none" and "embeddings.parquet" in files
    return [workdir / "embeddings" / f"yambda.{end}" for end in ("npy", "json")] if wanted else []


# --------------------------------------------------------------------------- the files

def find(args):
    """{"events": Path, name of a file beside it: Path}, of --raw or of the hub; the latter may be absent in --raw."""
    wanted = f"{args.form}/{args.size}/{args.events}.parquet"
    beside = [name for name in BESIDE if args.vectors != "none" or name != "embeddings.parquet"]
    if args.raw is None:
        return {"events": fetched(wanted)} | {name: fetched(name) for name in beside}
    raw = args.raw.expanduser()
    path = next((p for p in (raw / wanted, raw / f"{args.events}.parquet") if p.is_file()), None)
    if path is None:
        raise UsageError(f"--raw {raw} has no {wanted}; name the folder that holds it, or leave --raw out to fetch it")
    return {"events": path} | {name: raw / name for name in beside if (raw / name).is_file()}


def fetched(name):
    """A file of the pinned revision out of the hub's cache, downloaded where it is absent; its sha256 is checked.

    The cache keeps a file under its sha256, so that no network is needed; a cache of plain copies has to ask the hub,
    and where that cannot be reached, the file is used with a warning. WorkError without a network for a file that is
    absent, and for one that is not the published one.
    """
    from huggingface_hub import hf_hub_download, logging, try_to_load_from_cache
    logging.set_verbosity_error()
    cached = try_to_load_from_cache(REPO, name, revision=REVISION, repo_type="dataset")
    if isinstance(cached, str):
        kept = Path(cached).resolve()
        wanted = kept.name if re.fullmatch("[0-9a-f]{64}", kept.name) else _published(name)
        if wanted is None:
            print(f"warning: {cached} is used without a check of its sha256, as the hub cannot be reached",
                  file=sys.stderr)
        elif wanted and checksum(kept) != wanted:
            raise WorkError(f"{kept}, which is {name} of {REPO} in the cache of the hub, is damaged (its sha256 should "
                            f"be {wanted}); delete it and run this again, which fetches it")
        return Path(cached)
    print(f"fetching {name} of {REPO}")
    try:
        path = Path(hf_hub_download(REPO, name, revision=REVISION, repo_type="dataset"))
        wanted = _published(name)
    except (OSError, ValueError):   # no network, or no such file
        path = wanted = None
    if wanted is None:
        raise WorkError(f"{name} of {REPO} is not in the cache of the hub and could not be fetched; where there is a "
                        f"network, `hf download {REPO} {name} --repo-type dataset --revision {REVISION} --local-dir "
                        "DIR` gets it, and --raw DIR uses it")
    if wanted and checksum(path) != wanted:
        path.resolve().unlink()     # a link alone would be made again, to the same bytes
        path.unlink(missing_ok=True)
        raise WorkError(f"{name} of {REPO} arrived damaged (its sha256 should be {wanted}); run this again")
    return path


def _published(name):
    """sha256 of a file by the hub, "" where the hub keeps none of it (small files), None where it cannot be reached."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    try:
        etag = get_hf_file_metadata(hf_hub_url(REPO, name, revision=REVISION, repo_type="dataset")).etag
    except (OSError, ValueError):
        return None
    return etag if etag and len(etag) == 64 else ""


# --------------------------------------------------------------------------- plays

def _asked(con, path, sql):
    """Run SQL on a file; WorkError for one that is damaged or lacks a column."""
    import duckdb
    try:
        return con.execute(sql)
    except duckdb.OutOfMemoryException as e:
        raise WorkError(f"out of memory or of disk space for temporary files ({str(e).splitlines()[0]}); raise "
                        "--memory") from None
    except duckdb.Error as e:
        raise WorkError(f"{path} cannot be read as Yambda's table ({str(e).splitlines()[0]})") from None


def events(con, path, form, name):
    """SQL of the events of a file: uid, item_id, timestamp and, of listens, played_ratio_pct."""
    kinds = {row[0]: row[1] for row in _asked(con, path, f"describe from {parquet_rows(path)}").fetchall()}
    columns = ["uid", "item_id", "timestamp"] + ["played_ratio_pct"] * (name == "listens")
    if missing := [column for column in columns if column not in kinds]:
        raise WorkError(f"{path} has no column {', '.join(missing)}; it has {', '.join(kinds)}")
    lists = [column for column in columns if kinds[column].endswith("[]")]
    if lists != ([] if form == "flat" else columns[1:]):
        other = "sequential" if lists else "flat"
        raise WorkError(f"{path} is of the {other} form: {', '.join(lists or columns[1:])} hold "
                        f"{'lists' if lists else 'no lists'}; say --form {other}")
    odd = [column for column in columns if "INT" not in kinds[column].removesuffix("[]")]
    if odd:
        raise WorkError(f"{path}: {odd[0]} should be whole numbers, but is {kinds[odd[0]].lower()}")
    chosen = ", ".join(columns if form == "flat" else ["uid", *(f"unnest({column}) as {column}" for column
                                                                in columns[1:])])
    return f"(select {chosen} from {parquet_rows(path)})"


def _plays(con, path, args, new, bar):
    """Write plays.pqt and the id tables; returns the counts."""
    rows = events(con, path, args.form, args.events)
    where = f"where played_ratio_pct >= {LISTEN}" if args.events == "listens" else ""
    bar.update(0, now="ids")
    total, nulls = _asked(con, path, f"select count(*), count(*) filter (uid is null or item_id is null or "
                                     f"timestamp is null) from {rows}").fetchone()
    if nulls:
        raise WorkError(f"{path}: {nulls} events have no user, track or time")
    counts = {"rows": total}
    for column, what in (("uid", "user"), ("item_id", "track")):
        _asked(con, path, f"""create temp table {what}s as select id, (row_number() over (order by id) - 1) as code
            from (select distinct {column} as id from {rows} {where})""")
        counts[f"{what}s"] = con.execute(f"select count(*) from {what}s").fetchone()[0]
        con.execute(f"""copy (select code as idx, id as {what}id from {what}s order by code)
                        to {quoted(new.path(f'{what}id_sorted.csv'))} (format csv, header true)""")
        bar.update(1)
    if not counts["users"]:
        raise WorkError(f"{path} has no {args.events}" + (f" of at least {LISTEN} % of a track" if where else ""))
    bar.update(0, now="plays")
    _asked(con, path, f"""copy (select users.code::bigint as user_id, tracks.code::bigint as track_id,
            make_timestamp(timestamp::bigint * 1000000) as timestamp
            from {rows} as event join users on users.id = uid join tracks on tracks.id = item_id {where}
            order by user_id, timestamp, track_id)
        to {quoted(new.path('plays.pqt'))} (format parquet, compression zstd, compression_level 1,
                                            row_group_size {ROWS})""")
    bar.update(1)
    counts["plays"] = con.execute(f"select count(*) from {parquet_rows(new.path('plays.pqt'))}").fetchone()[0]
    return counts


def _items(con, files, new):
    """Write items.pqt with what there is of artists and albums; none where there is neither."""
    artists, albums = (files.get(f"{what}_item_mapping.parquet") for what in ("artist", "album"))
    if not artists and not albums:
        return
    for what, path in (("artist", artists), ("album", albums)):
        source = parquet_rows(path) if path else f"(select null as {what}_id, null as item_id limit 0)"
        pick = "list(distinct artist_id::varchar order by artist_id::varchar)" if what == "artist" \
            else "min(album_id)::varchar"
        _asked(con, path, f"""create temp table {what}s as select item_id, {pick} as value from {source}
                              group by item_id""")
    con.execute(f"""copy (select code::bigint as track_id, artists.value::varchar[] as artists,
                                 albums.value::varchar as album
                          from tracks left join artists on artists.item_id = id left join albums on albums.item_id = id
                          order by code) to {quoted(new.path('items.pqt'))} (format parquet, compression zstd)""")


# --------------------------------------------------------------------------- vectors

def write_vectors(con, path, which, folder, track_checksum, digest):
    """Align the audio vectors to the tracks, streaming, into embeddings/ of a folder; their entry of dataset.json.

    WorkError for a table without such a column, one that holds no lists of numbers, and for vectors of unequal length.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from harness.files import atomic
    from harness.readers import parquet_batches, parquet_schema
    if which == "none":
        return {}
    column = VECTORS[which]
    if missing := {"item_id", column} - set(parquet_schema(path).names):
        raise WorkError(f"{path} has no column {', '.join(sorted(missing))}")
    kind, ids_kind = (parquet_schema(path).field(name).type for name in (column, "item_id"))
    if not pa.types.is_integer(ids_kind):
        raise WorkError(f"{path}: item_id should be whole numbers, but is {ids_kind}")
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise WorkError(f"{path}: {column} should be lists of numbers, but is {kind}")
    ids = con.execute("select id from tracks order by code").fetchnumpy()["id"].astype(np.int64)
    target, matrix = folder / "embeddings" / "yambda.npy", None
    found, usable = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as temporary:
        for batch in parquet_batches(path, ["item_id", column], BATCH):
            items = batch.column(0).drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
            row = np.searchsorted(ids, items).clip(max=len(ids) - 1)
            known = ids[row] == items
            values = batch.column(1).filter(batch.column(0).is_valid())
            width = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
            if not len(width):
                continue
            dim = int(width[0]) if matrix is None else matrix.shape[1]
            if not dim or (width != dim).any():
                raise WorkError(f"{path}: the vectors of {column} have unequal lengths, or none")
            with np.errstate(over="ignore"):
                flat = values.flatten().to_numpy(zero_copy_only=False).astype("<f4").reshape(-1, dim)
            flat[~np.isfinite(flat).all(axis=1)] = np.nan        # a track without a usable vector has none
            if matrix is None:
                matrix = np.lib.format.open_memmap(temporary, "w+", "<f4", (len(ids), dim))
                matrix[:] = np.nan
            matrix[row[known]] = flat[known]
            found[row[known]] = True
            usable[row[known]] = np.isfinite(flat[known]).all(axis=1)
        if matrix is None or not usable.any():
            raise WorkError(f"{path} has no vector of a track of this log")
        matrix.flush()
        del matrix
    about = {"backend": "yambda", "name": "yambda", "dim": dim, "column": column, "source_checksum": digest,
             "track_checksum": track_checksum, "failed": {}, "without": int((~usable).sum()),
             "reason": "tracks that embeddings.parquet lacks, or has values of that are not finite"}
    write_json(target.with_suffix(".json"), about)
    return {"yambda": {"rows": int(usable.sum()), "dim": dim}}
