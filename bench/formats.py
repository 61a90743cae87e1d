"""One command per format of a listening log: python -m bench.formats [--quick] [--rows N]

Writes a generated log of a million plays (--quick: 100,000) in each format that `0_get_plays_pqt.py interactions`
reads, runs the command of docs/datasets.md on it and prints its seconds, the size of the file and the line in which the
reader says what it took the file for. There is no baseline: the figures say what to expect. The comparison of the same
work with Polars is bench.interactions.
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench._child import measured
from harness import cli
from harness.errors import WorkError
from harness.files import quoted

ROOT = Path(__file__).resolve().parents[1]
NAMED = "user as user_id, item as item_id, t as timestamp"
ISO = "strftime(make_timestamp(t * 1000000), '%Y-%m-%dT%H:%M:%SZ')"
FORMATS = {   # file: (columns, options of DuckDB's copy, flags of the reader, command that packs it)
    "plays.csv": (NAMED, "header", [], None),
    "plays.csv.gz": (NAMED, "header", [], "gzip"),
    "plays.csv.bz2": (NAMED, "header", [], "bzip2"),
    "plays.csv.xz": (NAMED, "header", [], "xz -1"),
    "plays.tsv": (f"user as user_id, item as track_id, {ISO} as played_at", "header, delimiter '\t'", [], None),
    "plays.parquet": (NAMED, "format parquet", [], None),
    "lists.parquet": ("user as uid, list(item order by t) as item_id, list(t order by t) as timestamp",
                      "format parquet", [], None),
    "plays.jsonl": (f"user as userId, item as songId, {ISO} as listened_at", "format json", [], None),
    "set.inter": ('user as "user_id:token", item as "item_id:token", t::double as "timestamp:float"',
                  "header, delimiter '\t'", ["--recipe", "recbole"], None),
    "ratings.csv": ("user as userId, item as movieId, 1 + t % 5 as rating, t as timestamp", "header",
                    ["--recipe", "movielens", "--min-rating", "4"], None),
    "ratings.dat": ("concat_ws('::', user, item, 1 + t % 5, t)", "header false, quote ''",
                    ["--recipe", "movielens", "--min-rating", "4"], None),
    "lastfm-1k.tsv": (f"concat('user_', user), {ISO}, md5(concat('a', item // 9)), concat('Artist ', item // 9), "
                      "md5(item::varchar), concat('Track ', item)", "header false, delimiter '\t', quote ''",
                      ["--recipe", "lastfm-1k"], None),
    "lastfm-360k.tsv": ("md5(user::varchar), md5(concat('a', item)), concat('Artist ', item), 1 + t % 90",
                        "header false, delimiter '\t', quote ''", ["--recipe", "lastfm-360k"], None),
    "train_triplets.txt": ("md5(user::varchar), concat('SO', upper(substr(md5(item::varchar), 1, 16))), 1 + t % 9",
                           "header false, delimiter '\t'", ["--recipe", "msd"], None),
    "Streaming_History_Audio_2020.json": (
        f"{ISO} as ts, 200000 as ms_played, concat('Track ', item) as master_metadata_track_name, "
        "concat('Artist ', item // 9) as master_metadata_album_artist_name, 'Album' as "
        "master_metadata_album_album_name, concat('spotify:track:', md5(item::varchar)) as spotify_track_uri",
        "format json, array true", ["--recipe", "spotify-history"], None),
}


def write(folder, name, rows):
    """The file of that name in a folder; returns its path."""
    import duckdb
    columns, options, _, pack = FORMATS[name]
    plain = folder / (name if not pack else name.rsplit(".", 1)[0])
    grouped = " group by user" if "list(" in columns else ""
    with duckdb.connect() as con:
        con.execute("set enable_progress_bar=false")
        con.execute(f"""copy (select {columns} from (select
            floor(((hash(r * 7919 + 1) % 1048576) / 1048576.0) * {max(rows // 140, 10)})::bigint as user,
            floor(11000 * power((hash(r * 104729 + 2) % 1048576) / 1048576.0, 2))::bigint as item,
            1400000000 + (hash(r * 31 + 3) % 100000000)::bigint as t from range({rows}) g(r)){grouped})
            to {quoted(plain)} ({options})""")
    if pack:
        subprocess.run([*pack.split(), plain], check=True)
    return folder / name


def run(quick, rows=None):
    rows, found = rows or (100_000 if quick else 1_000_000), []
    for name, (_, _, flags, pack) in FORMATS.items():
        if pack and not shutil.which(pack.split()[0]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), name, rows)
            command = [sys.executable, str(ROOT / "preprocess" / "0_get_plays_pqt.py"), "interactions", "--log",
                       str(path), *flags, "--workdir", f"{folder}/w"]
            child = measured(command)
            if child.status:
                raise WorkError(f"{name} ended with status {child.status}: {child.said[-500:]}")
            form = next(line for line in child.said.splitlines() if not line.startswith(("every row", "warning")))
            found.append({"what": f"{name} {' '.join(flags)}".strip(), "ours": child.seconds, "unit": "s",
                          "note": f"{path.stat().st_size / 1e6:.0f} MB; {form}"})
    return found


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.formats", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 plays")
    parser.add_argument("--rows", type=cli.whole_number(1), metavar="N", help="plays of each file")
    args = parser.parse_args(argv)
    print_rows("formats", run(args.quick, args.rows))


if __name__ == "__main__":
    cli.run(main)
