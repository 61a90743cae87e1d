"""Stage 2, log to split, against Polars and plain pandas. python -m bench.splits [--quick | --full]

Both turn a generated log (text, tab separated) into plays.pqt and the recsys24 parts, as two scripts would: ours by the
two commands of preprocess/, the baseline (`by_pandas` below) by read_csv, map and groupby in one process, with the same
checksum, counts and leak checks. Where the variable POLARS_PYTHON names an environment made from
requirements/polars.txt, Polars' streaming engine does the same work in turn (bench/_polars.py). Each process is timed
from start to end, its peak memory is the kernel's. The parts are compared row for row before anything is reported. The
log has the density of Music4All-Onion: 2,123 plays and about 420 distinct tracks a user, newest first within a user,
1 % of the plays of unlisted tracks, a fifth of them in the 13 months that the protocol looks at. --full makes and
splits a log of Onion's size (252,984,396 plays, 119,140 users, 56,512 tracks; 11 GB of text, 14 GB of disk in all) with
ours only, within 4 GiB.
"""
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench._child import measured
from harness import cli
from harness.errors import WorkError

ROOT = Path(__file__).resolve().parents[1]
ONION = {"plays": 252_984_396, "users": 119_140, "tracks": 56_512}
DATES = ("2019-02-20", "2020-02-20")


def make_log(folder, plays, users, tracks, seed=7):
    """Write log.tsv and trackid_sorted.csv; the same arguments give the same bytes.

    A user has about 600 candidate tracks, skewed to the popular, and plays the first of them most, so that
    the plays fall on about 420 distinct ones; times are spread evenly over the years 2015 to 2020-03-20. Of more
    than 5,000 users the first 5,000 are made, the others play as they do under other numbers.
    """
    import duckdb
    folder.mkdir(parents=True, exist_ok=True)
    block = min(users, 5000)
    n, span = plays * block // users, 5.2 * 365 * 86400

    def uniform(which, *keys):  # a number from [0, 1) for each row, the same for the same keys
        return f"((hash({', '.join(keys)}, {which + seed}) % 1048576) / 1048576.0)"
    with duckdb.connect() as con, open(folder / "log.tsv", "wb") as log:
        con.execute("set memory_limit='3GB'; set enable_progress_bar=false")
        con.execute(f"set temp_directory='{folder / 'spill'}'")
        con.execute(f"""create table ids as select row_number() over (order by trackid) - 1 as idx, trackid from
            (select upper(substr(md5(concat('{seed}:', range)), 1, 16)) as trackid from range({tracks}))""")
        con.execute(f"copy (from ids order by idx) to '{folder / 'trackid_sorted.csv'}' (header)")
        con.execute(f"""create table block as
            select i, u, coalesce(trackid, concat('unlisted', lpad(t::varchar, 8, '0'))) as track_id,
                   strftime(timestamp '2020-03-20 23:59:59' - to_seconds(back), '%Y-%m-%d %H:%M:%S') as timestamp
            from (select i, u, back, floor({tracks} * 1.01 * power({uniform(3, 'u', 'k')}, 2.0))::bigint as t
                  from (select i, i * {block} // {n} as u, floor(600 * power({uniform(1, 'i')}, 1.5))::bigint as k,
                               floor({span} * {uniform(2, 'i')})::bigint as back from range({n}) r(i)))
            left join ids on ids.idx = t order by u, back""")
        log.write(b"user_id\ttrack_id\ttimestamp\n")
        for start in range(0, users, block):
            rest = plays - n * (start // block)
            con.execute(f"""copy (select {start} + least(u, {users - start - 1}), track_id, timestamp from block
                where i < {rest}) to '{folder / 'part.tsv'}' (format csv, delimiter '\t', header false)""")
            with open(folder / "part.tsv", "rb") as part:
                shutil.copyfileobj(part, log, 1 << 24)
    (folder / "part.tsv").unlink()


def by_pandas(folder, out):
    """The baseline: plain pandas, whole columns in memory, no loop over plays; the same files and the same checks.

    Dates are parsed by read_csv (its fast way: ISO, no format given), ids mapped through a Series, pairs made by
    one groupby of built-in aggregates, users and tracks absent from train dropped by isin.
    """
    import json
    out.mkdir()
    facts = _pandas_plays(folder, out) | _pandas_split(out)
    (out / "facts.json").write_text(json.dumps(facts, default=int))


def _pandas_plays(folder, out):
    """plays.pqt in pandas; returns the facts of dataset.json."""
    import hashlib

    import pandas as pd
    with open(folder / "log.tsv", "rb") as f:
        checksum = hashlib.file_digest(f, "sha256").hexdigest()
    ids = pd.read_csv(folder / "trackid_sorted.csv").set_index("trackid")["idx"]
    log = pd.read_csv(folder / "log.tsv", sep="\t", parse_dates=["timestamp"])
    track = log["track_id"].map(ids)
    unknown = log.loc[track.isna(), "track_id"]
    facts = {"log": checksum, "rows": len(log), "unknown": len(unknown), "unknown_ids": unknown.nunique(),
             "users": log["user_id"].nunique(), "span": [str(log["timestamp"].min()), str(log["timestamp"].max())]}
    log["track_id"] = track
    log = log.dropna().astype({"track_id": "int64"})
    log.to_parquet(out / "plays.pqt", index=False, compression="zstd")
    return facts


def _pandas_split(out):
    """recsys24 in pandas; returns the counts of each part."""
    import pandas as pd
    from sklearn.model_selection import train_test_split
    plays = pd.read_parquet(out / "plays.pqt")
    start, test_date = map(pd.Timestamp, DATES)
    plays = plays[plays["timestamp"] >= start]
    plays["before"] = (plays["timestamp"] < test_date).astype("int64")
    pairs = plays.groupby(["user_id", "track_id"], as_index=False).agg(
        timestamp=("timestamp", "min"), count=("before", "size"), before=("before", "sum"))
    in_train = pairs["timestamp"] < test_date
    train = pairs[in_train].drop(columns="count").rename(columns={"before": "count"})
    test = pairs[~in_train].drop(columns="before")
    test = test[test["user_id"].isin(train["user_id"].unique()) & test["track_id"].isin(train["track_id"].unique())]
    val_users, _ = train_test_split(sorted(test["user_id"].unique()), test_size=0.5, random_state=42)
    is_val = test["user_id"].isin(val_users)
    parts = {"train": train, "val": test[is_val], "test": test[~is_val]}
    for name, part in parts.items():
        part.to_parquet(out / f"{name}.pqt", index=False, compression="zstd")
    _check(parts, plays, test_date)
    return {name: _counts(part) for name, part in parts.items()}


def _counts(part):
    users = part.groupby("user_id").agg(tracks=("track_id", "size"), plays=("count", "sum"))
    return [len(part), len(users), part["track_id"].nunique(),
            *(getattr(users[c], f)() for c in users for f in ("median", "min", "max"))]


def _check(parts, plays, test_date):
    """The leak checks of ours, in pandas; `plays` are those of the window."""
    import pandas as pd
    train, held = parts["train"], pd.concat([parts["val"], parts["test"]])
    key = ["user_id", "track_id"]
    made = plays[plays["timestamp"] < test_date]
    told = train.groupby("user_id")["count"].sum()
    leaks = [train.duplicated(key).any(), held.duplicated(key).any(), len(held.merge(train, on=key)),
             len(made.merge(held[key], on=key)), (~held["user_id"].isin(train["user_id"])).any(),
             (~held["track_id"].isin(train["track_id"])).any(), (train["timestamp"] >= test_date).any(),
             parts["val"]["user_id"].isin(parts["test"]["user_id"]).any(),
             not told.equals(made.groupby("user_id").size().reindex(told.index))]
    if any(leaks):
        raise WorkError(f"the baseline leaks: {leaks}")


def ours(folder, out, memory):
    """The two commands, as command lines."""
    common = ["--workdir", str(out), "--memory", memory]
    return [[sys.executable, str(ROOT / "preprocess" / "0_get_plays_pqt.py"), "music4all",
             "--log", str(folder / "log.tsv"), "--tracks", str(folder / "trackid_sorted.csv"), *common],
            [sys.executable, str(ROOT / "preprocess" / "1_train_test_split.py"), "--protocol", "recsys24", *common]]


def baseline(folder, out):
    return [[sys.executable, "-c", "import sys; from pathlib import Path; from bench.splits import by_pandas; "
             "by_pandas(Path(sys.argv[1]), Path(sys.argv[2]))", str(folder), str(out)]]


def polars(folder, out):
    return [[os.environ["POLARS_PYTHON"], str(ROOT / "bench" / "_polars.py"), "onion", str(folder), str(out)]]


def measure(commands):
    """Run commands one after another: seconds of each, and the largest peak of resident memory in bytes."""
    taken, peak = [], 0
    for command in commands:
        child = measured(command)
        if child.status:
            raise WorkError(f"{' '.join(command)} ended with status {child.status}: {child.said[-500:]}")
        taken.append(child.seconds)
        peak = max(peak, child.peak)
    return taken, peak


def compare(mine, theirs):
    """WorkError unless two workspaces hold the same plays, parts and counts."""
    import json

    import pandas as pd
    for part in ("plays", "data/train", "data/val", "data/test"):
        a, b = pd.read_parquet(mine / f"{part}.pqt"), pd.read_parquet(theirs / f"{part.removeprefix('data/')}.pqt")
        b["timestamp"] = b["timestamp"].astype(a["timestamp"].dtype)
        if not a.equals(b[a.columns].reset_index(drop=True)):
            raise WorkError(f"the two ways differ in {part}")
    facts, about = json.loads((theirs / "facts.json").read_text()), json.loads((mine / "dataset.json").read_text())
    stats = json.loads((mine / "data" / "split.json").read_text())["stats"]
    same = [facts["log"] == about["request"]["log"], facts["unknown"] == about["counts"]["unknown_plays"],
            facts["unknown_ids"] == about["counts"]["unknown_tracks"],
            *(facts[name] == list(stats[name.title()].values()) for name in ("train", "val", "test"))]
    if not all(same):
        raise WorkError(f"the two ways differ in their counts: {same}")


def run(quick):
    plays = 1_000_000 if quick else 10_000_000
    users = round(plays * ONION["users"] / ONION["plays"])
    others = {"pandas": baseline, **({"polars": polars} if os.environ.get("POLARS_PYTHON") else {})}
    taken, peak = ({name: [] for name in ("ours", *others)} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_log(folder, plays, users, ONION["tracks"])
        for repeat in range(3 if quick else 5):
            for name, commands in (*((n, make(folder, folder / f"{n}{repeat}")) for n, make in others.items()),
                                   ("ours", ours(folder, folder / f"ours{repeat}", "1GB"))):
                seconds, bytes_ = measure(commands)
                taken[name].append(seconds)
                peak[name].append(bytes_)
        for name in others:
            compare(folder / "ours0", folder / f"{name}0")
    import statistics
    total = {name: statistics.median(map(sum, each)) for name, each in taken.items()}
    stages = " + ".join(f"{statistics.median(s):.1f}" for s in zip(*taken["ours"], strict=True))
    size = {name: max(each) / 2**30 for name, each in peak.items()}
    return [row for name in others for row in (
        {"what": f"log of {plays:,} plays to split, {name}", "ours": total["ours"], "baseline": total[name],
         "unit": "s", "ratio": total[name] / total["ours"], "against": name,
         "note": f"plays + split {stages} s; {os.cpu_count()} cores; same rows"},
        {"what": f"its peak resident memory, {plays:,} plays, {name}", "ours": size["ours"],
         "baseline": size[name], "unit": "GiB",
         "ratio": size[name] / size["ours"], "against": name, "note": "of the larger of the two processes"})]


def run_full():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        start = time.perf_counter()
        make_log(folder, **ONION)
        print(f"log made in {time.perf_counter() - start:.0f} s: {(folder / 'log.tsv').stat().st_size / 1e9:.1f} GB",
              flush=True)
        taken, peak = measure(ours(folder, folder / "ours", "4GB"))
        size = (folder / "ours" / "plays.pqt").stat().st_size / 1e9
    return [{"what": f"log of {ONION['plays']:,} plays to split", "ours": sum(taken), "unit": "s",
             "note": f"plays {taken[0]:.0f} s, split {taken[1]:.0f} s; plays.pqt {size:.1f} GB"},
            {"what": f"its peak resident memory, {ONION['plays']:,} plays", "ours": peak / 2**30, "unit": "GiB",
             "note": "limit 4"}]


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.splits", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a million plays")
    parser.add_argument("--full", action="store_true", help="a log of Onion's size, ours only (about 15 minutes)")
    args = parser.parse_args(argv)
    print_rows("splits", run_full() if args.full else run(args.quick))


if __name__ == "__main__":
    cli.run(main)
