"""The reader of any csv log against Polars' streaming engine: python -m bench.interactions [--quick] [--rows N]

    python3.11 -m venv polars && polars/bin/pip install -r requirements/polars.txt
    POLARS_PYTHON=polars/bin/python python -m bench.interactions

Both turn a generated csv (user, item, timestamp) into the files of a workspace: ids trimmed, in NFC and numbered, times
parsed, rows sorted, written with zstd, counted; a checksum of the log. `bench/_polars.py` is the other. Two logs: whole
numbers as ids, as of MovieLens, and text ids, as of Last.fm. Run in turn, the median of five, whole processes; the
plays are compared row for row. --rows N is ours alone with N rows, for the memory at a size that does not fit it.
"""
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench._child import measured
from harness import cli
from harness.errors import WorkError
from harness.files import quoted

ROOT = Path(__file__).resolve().parents[1]
MEMORY = "2GB"


def make_log(path, rows, text, block=10_000_000):
    """A csv of `rows` plays, 140 a user, of 11,000 items, skewed to the popular; the same arguments, the same bytes."""
    import duckdb

    def uniform(k):
        return f"((hash(r * 7919 + {k} * 104729) % 1048576) / 1048576.0)"
    user = f"floor({uniform(1)} * {max(rows // 140, 10)})::bigint"
    item = f"floor(11000 * power({uniform(2)}, 2))::bigint"
    if text:
        user, item = f"concat('user_', {user})", f"upper(substr(md5(concat('item', {item})), 1, 22))"
    with duckdb.connect() as con, open(path, "wb") as log:
        con.execute("set enable_progress_bar=false")
        log.write(b"user,item,timestamp\n")
        for start in range(0, rows, block):
            part = path.with_suffix(".part")
            con.execute(f"""copy (select {user}, {item}, 1230000000 + floor({uniform(3)} * 100000000)::bigint
                from range({start}, {min(start + block, rows)}) t(r)) to {quoted(part)} (format csv, header false)""")
            log.write(part.read_bytes())
            part.unlink()


def ours(log, out):
    return [sys.executable, str(ROOT / "preprocess" / "0_get_plays_pqt.py"), "interactions", "--log", str(log),
            "--workdir", str(out), "--memory", MEMORY]


def timed(command):
    child = measured(command)
    if child.status:
        raise WorkError(f"{' '.join(command)} ended with status {child.status}: {child.said[-500:]}")
    return child


def same(mine, theirs):
    """WorkError unless both have the same plays, ids and counts."""
    import pandas as pd
    a, b = (pd.read_parquet(folder / "plays.pqt") for folder in (mine, theirs))
    facts, counts = (json.loads((theirs / "facts.json").read_text()),
                     json.loads((mine / "dataset.json").read_text())["counts"])
    names = [p.name for p in mine.glob("*_sorted.csv")]
    if not (a.equals(b[list(a)]) and all((mine / n).read_bytes() == (theirs / n).read_bytes() for n in names)
            and all(facts[k] == counts[k] for k in ("plays", "users", "tracks_played", "pairs"))):
        raise WorkError("ours and Polars' workspaces differ")


def compare(folder, rows, text, repeats, python):
    log, children = folder / "log.csv", {"ours": [], "Polars": []}
    make_log(log, rows, text)
    for repeat in range(repeats):
        children["ours"].append(timed(ours(log, folder / f"ours{repeat}")))
        if python:
            children["Polars"].append(timed([python, str(ROOT / "bench" / "_polars.py"), "interactions", str(log),
                                             str(folder / f"polars{repeat}")]))
    median = {name: statistics.median(c.seconds for c in each) for name, each in children.items() if each}
    peak = {name: max(c.peak for c in each) / 2**30 for name, each in children.items() if each}
    what = f"csv of {rows:,} plays, {'text ids' if text else 'whole numbers'}, to a workspace"
    row = {"what": what, "ours": median["ours"], "unit": "s", "note": f"peak {peak['ours']:.1f} GiB"}
    if not python:
        return row | {"note": row["note"] + "; no baseline: POLARS_PYTHON names no environment of it"}
    same(folder / "ours0", folder / "polars0")
    return row | {"baseline": median["Polars"], "ratio": median["Polars"] / median["ours"], "against": "Polars",
                  "note": f"{row['note']}, Polars {peak['Polars']:.1f} GiB; {os.cpu_count()} cores; same rows"}


def run(quick, rows=None):
    python, found = os.environ.get("POLARS_PYTHON"), []
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            return [compare(Path(folder), rows, True, 1, None)]
    for text in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(Path(folder), 1_000_000 if quick else 10_000_000, text, 3 if quick else 5, python))
    return found


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.interactions", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a million plays, three runs")
    parser.add_argument("--rows", type=cli.whole_number(1), metavar="N", help="ours alone, once, with N text rows")
    args = parser.parse_args(argv)
    print_rows("interactions", run(args.quick, args.rows))


if __name__ == "__main__":
    cli.run(main)
