"""Stage 2, a split in partitions of the users beside the split in one piece. python -m bench.partitions [--quick]

Generated listens in Yambda's format (preprocess/yambda/generate.py) are read and split by --protocol yambda, in one
piece and in partitions; each command is a process timed from start to end, its peak memory is the kernel's. The parts
must have the same bytes. By default 10 million rows in 4 partitions within 1 GB; --quick: a million. --full: a log of
Yambda-500M's size (466,512,103 rows, 100,000 users, 3,004,578 tracks) in 8 partitions within 6 GB, in partitions only
(an hour). --plays N: only the split, of N million plays, made of the default log's users again and again under
other ids, which saves the generating and the reading.
"""
import shutil
import sys
import tempfile
from pathlib import Path

from bench._child import measured
from harness import cli
from harness.errors import WorkError

ROOT = Path(__file__).resolve().parents[1]
YAMBDA = {"1m": (1_000_000, 215, 20_000), "10m": (10_000_000, 2_150, 200_000),      # listens, users, tracks
          "500m": (466_512_103, 100_000, 3_004_578)}
SHIFTS = 16      # copies of the log's users play that many disjoint sets of tracks


def command(*words):
    return [sys.executable, *map(str, words)]


def timed(words):
    """(seconds, peak bytes) of a command that must end well; says them, as the whole may take an hour."""
    child = measured(words)
    if child.status:
        raise WorkError(f"{' '.join(words)} ended with status {child.status}: {child.said[-500:]}")
    print(f"{' '.join(words[1:])}: {child.seconds:.1f} s, {child.processor:.1f} s of processors, "
          f"{child.peak / 2**30:.2f} GiB", file=sys.stderr, flush=True)
    return child.seconds, child.peak


def read(folder, size, memory):
    """Generate the listens and make the workspace folder/w of them; (seconds, peak bytes) of the reading."""
    rows, users, tracks = YAMBDA[size]
    timed(command("-m", "preprocess.yambda.generate", "--out", folder / "raw", "--users", users, "--tracks", tracks,
                  "--listens", rows))
    taken = timed(command("preprocess/0_get_plays_pqt.py", "yambda", "--raw", folder / "raw", "--vectors", "none",
                          "--memory", memory, "--workdir", folder / "w"))
    shutil.rmtree(folder / "raw")
    return taken


def multiply(workdir, millions):
    """Repeat the users of a workspace under other ids, up to so many million plays."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from harness.files import atomic, write_text
    plays = pq.read_table(workdir / "plays.pqt")
    users, tracks = (pc.max(plays[name]).as_py() + 1 for name in ("user_id", "track_id"))
    with atomic(workdir / "plays.pqt") as path, pq.ParquetWriter(path, plays.schema, compression="zstd",
                                                                 compression_level=1) as out:
        for copy in range(-(-int(millions * 1e6) // len(plays))):
            columns = [pc.add(plays["user_id"], copy * users), pc.add(plays["track_id"], copy % SHIFTS * tracks),
                       plays["timestamp"]]
            out.write_table(pa.table(columns, schema=plays.schema), row_group_size=1 << 19)
    write_text(workdir / "trackid_sorted.csv",
               "idx,trackid\n" + "".join(f"{i},{i + 1}\n" for i in range(SHIFTS * tracks)))


def split(folder, n, memory, both):
    """Rows of the measurement of the workspace folder/w: in n partitions and, where `both`, in one piece before."""
    import pyarrow.parquet as pq
    workdir = folder / "w"
    plays = pq.ParquetFile(workdir / "plays.pqt").metadata.num_rows
    words = command("preprocess/1_train_test_split.py", "--protocol", "yambda", "--memory", memory,
                    "--workdir", workdir)
    whole, before = None, {}
    if both:
        whole = timed(words)
        before = {p.name: p.read_bytes() for p in (workdir / "data").glob("*.pqt")}
        shutil.rmtree(workdir / "data")
    tasks = [timed([*words, "--partitions", str(n), "--partition", str(i)]) for i in range(n)]
    size = sum(p.stat().st_size for p in (workdir / "data" / ".partitions").rglob("*.pqt"))
    merge = timed([*words, "--partitions", str(n), "--merge"])
    if both and before != {p.name: p.read_bytes() for p in (workdir / "data").glob("*.pqt")}:
        raise WorkError("the parts differ from those in one piece")
    seconds, slowest = sum(t for t, _ in tasks) + merge[0], max(t for t, _ in tasks)
    peak = max(p for _, p in [*tasks, merge])
    against = {"baseline": whole[0], "ratio": whole[0] / seconds, "against": "one piece"} if both else {}
    bytes_ = {"baseline": whole[1] / 2**30, "ratio": whole[1] / peak, "against": "one piece"} if both else {}
    return [{"what": f"split of {plays:,} plays in {n} partitions", "ours": seconds, "unit": "s", **against,
             "note": f"slowest task {slowest:.1f} s, merge {merge[0]:.1f} s; partitions {size / 1e9:.2f} GB"},
            {"what": f"its peak resident memory, {plays:,} plays in {n} partitions", "ours": peak / 2**30,
             "unit": "GiB", **bytes_,
             "note": f"limit {memory}; tasks {max(p for _, p in tasks) / 2**30:.2f}, merge {merge[1] / 2**30:.2f}"}]


def run(quick, full=False, plays=None):
    size, n, memory = ("500m", 8, "6GB") if full else ("1m", 4, "1GB") if quick else ("10m", 4, "1GB")
    if plays:
        n, memory = 8, "6GB"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        seconds, peak = read(folder, size, memory)
        if plays:
            multiply(folder / "w", plays)
        rows = [] if plays else [{"what": f"{YAMBDA[size][0]:,} listens to plays.pqt", "ours": seconds, "unit": "s",
                                  "note": f"peak {peak / 2**30:.2f} GiB, limit {memory}"}]
        return rows + split(folder, n, memory, both=not full and not plays)


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.partitions", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a million rows")
    parser.add_argument("--full", action="store_true", help="a log of Yambda-500M's size, in partitions only (hours)")
    parser.add_argument("--plays", type=cli.positive, metavar="N",
                        help="only the split, of N million plays, those of the default log under other ids")
    args = parser.parse_args(argv)
    print_rows("partitions", run(args.quick, args.full, args.plays))


if __name__ == "__main__":
    cli.run(main)
