"""The work of two readers and the splitter in Polars' streaming engine; run in an environment of its own.

    ENV/bin/python bench/_polars.py interactions LOG.csv OUT      # as 0_get_plays_pqt.py interactions --log LOG.csv
    ENV/bin/python bench/_polars.py onion FOLDER OUT              # as music4all and recsys24, see bench/splits.py

ENV is made from requirements/polars.txt and named by the variable POLARS_PYTHON of the benches. Polars is used as its
guide says: lazy frames, `engine="streaming"`, sinks, no loop over rows.
"""
import csv
import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path

import polars as pl

STREAMING = {"engine": "streaming"}
WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
DATES = (datetime(2019, 2, 20), datetime(2020, 2, 20))


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_ids(path, name, ids):
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["idx", name])
        writer.writerows(enumerate(ids))


def numbered(column, ids):
    """The place of each id in a list of distinct ids, null where it is not in it; faster than a join by text."""
    return pl.col(column).cast(pl.Enum(ids), strict=False).to_physical().cast(pl.Int64)


# --------------------------------------------------------------------------- a csv log

def interactions(log, out):
    """log.csv with the columns user, item, timestamp (seconds): the files of the workspace, checked and counted."""
    out.mkdir(parents=True)
    rows = pl.scan_csv(log, infer_schema=False).select(
        *(pl.col(name).str.strip_chars().str.normalize("NFC") for name in ("user", "item")), "timestamp")
    empty = rows.select(pl.len(), *((pl.col(c).is_null() | (pl.col(c) == "")).sum() for c in ("user", "item")),
                        pl.col("timestamp").cast(pl.Int64, strict=False).is_null().sum()).collect(**STREAMING)
    if any(empty.row(0)[1:]):
        raise SystemExit(f"rows without ids or times: {empty}")
    users, items = (rows.select(name).unique().collect(**STREAMING)[name].sort() for name in ("user", "item"))
    number = pl.col("user").cast(pl.Int64).alias("user_id")
    if not users.str.contains(WHOLE).all():
        write_ids(out / "userid_sorted.csv", "userid", users)
        number = numbered("user", users).alias("user_id")
    write_ids(out / "trackid_sorted.csv", "trackid", items)
    time = pl.from_epoch(pl.col("timestamp").cast(pl.Int64), "s").cast(pl.Datetime("us"))
    plays = rows.select(number, numbered("item", items).alias("track_id"), time.alias("timestamp"))
    plays.sort("user_id", "timestamp", "track_id").sink_parquet(out / "plays.pqt", compression="zstd", **STREAMING)
    written = pl.scan_parquet(out / "plays.pqt")
    counts = written.select(pl.len().alias("plays"), pl.col("user_id").n_unique().alias("users"),
                            pl.col("track_id").n_unique().alias("tracks_played"),
                            pl.col("timestamp").min().cast(pl.String).alias("first"),
                            pl.col("timestamp").max().cast(pl.String).alias("last")).collect(**STREAMING).to_dicts()[0]
    counts["pairs"] = written.select("user_id", "track_id").unique().select(pl.len()).collect(**STREAMING).item()
    (out / "facts.json").write_text(json.dumps({"log": digest(log), **counts}))


# --------------------------------------------------------------------------- Music4All-Onion and recsys24

def onion(folder, out):
    """The files and counts of `by_pandas` in bench/splits.py."""
    out.mkdir(parents=True)
    ids = pl.read_csv(folder / "trackid_sorted.csv")["trackid"]
    log = pl.scan_csv(folder / "log.tsv", separator="\t", schema_overrides={"user_id": pl.Int64}, try_parse_dates=True)
    rows = log.with_columns(numbered("track_id", ids).alias("idx"))
    unknown = rows.filter(pl.col("idx").is_null()).select(pl.len(), pl.col("track_id").n_unique()).collect(**STREAMING)
    facts = log.select(pl.len().alias("rows"), pl.col("user_id").n_unique().alias("users"),
                       pl.col("timestamp").min().cast(pl.String).alias("first"),
                       pl.col("timestamp").max().cast(pl.String).alias("last")).collect(**STREAMING).to_dicts()[0]
    facts |= {"log": digest(folder / "log.tsv"), "unknown": unknown.item(0, 0), "unknown_ids": unknown.item(0, 1)}
    plays = rows.filter(pl.col("idx").is_not_null()).select("user_id", pl.col("idx").alias("track_id"), "timestamp")
    plays.sink_parquet(out / "plays.pqt", compression="zstd", **STREAMING)
    (out / "facts.json").write_text(json.dumps(facts | split(out)))


def split(out):
    """recsys24; returns the counts of each part."""
    from sklearn.model_selection import train_test_split
    start, test_date = DATES
    plays = pl.scan_parquet(out / "plays.pqt").filter(pl.col("timestamp") >= start)
    pairs = plays.group_by("user_id", "track_id").agg(
        pl.col("timestamp").min(), pl.len().cast(pl.Int64).alias("count"),
        (pl.col("timestamp") < test_date).sum().cast(pl.Int64).alias("before")).collect(**STREAMING)
    in_train = pl.col("timestamp") < test_date
    train = pairs.filter(in_train).drop("count").rename({"before": "count"})
    test = pairs.filter(~in_train).drop("before").join(train.select("user_id").unique(), on="user_id", how="semi").join(
        train.select("track_id").unique(), on="track_id", how="semi")
    val_users, _ = train_test_split(test["user_id"].unique().sort().to_list(), test_size=0.5, random_state=42)
    is_val = pl.col("user_id").is_in(val_users)
    parts = {"train": train, "val": test.filter(is_val), "test": test.filter(~is_val)}
    columns = ["user_id", "track_id", "timestamp", "count"]
    for name, part in parts.items():
        parts[name] = part.select(columns).sort("user_id", "track_id")
        parts[name].write_parquet(out / f"{name}.pqt", compression="zstd")
    check(parts, plays, test_date)
    return {name: counts(part) for name, part in parts.items()}


def counts(part):
    users = part.group_by("user_id").agg(pl.len().alias("tracks"), pl.col("count").sum().alias("plays"))
    return [len(part), len(users), part["track_id"].n_unique(),
            *(getattr(users[c], f)() for c in ("tracks", "plays") for f in ("median", "min", "max"))]


def check(parts, plays, test_date):
    """The leak checks of ours; `plays` are those of the window."""
    train, held, key = parts["train"], pl.concat([parts["val"], parts["test"]]), ["user_id", "track_id"]
    made = plays.filter(pl.col("timestamp") < test_date)
    per_user = made.group_by("user_id").agg(pl.len().cast(pl.Int64).alias("count")).collect(**STREAMING)
    ours = train.group_by("user_id").agg(pl.col("count").sum().alias("in_train"))
    ours = ours.join(per_user, on="user_id", how="left")
    leaks = [train.select(key).is_duplicated().any(), held.select(key).is_duplicated().any(),
             len(held.join(train, on=key, how="semi")),
             made.join(held.select(key).lazy(), on=key, how="semi").select(pl.len()).collect(**STREAMING).item(),
             len(held.join(train, on="user_id", how="anti")), len(held.join(train, on="track_id", how="anti")),
             (train["timestamp"] >= test_date).any(), len(parts["val"].join(parts["test"], on="user_id", how="semi")),
             (ours["in_train"] != ours["count"]).any() or ours["count"].null_count()]
    if any(leaks):
        raise SystemExit(f"the baseline leaks: {leaks}")


if __name__ == "__main__":
    what, source, target = sys.argv[1:]
    {"interactions": interactions, "onion": onion}[what](Path(source), Path(target))
