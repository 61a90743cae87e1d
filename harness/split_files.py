"""The files of a split, read and checked one by one, and what follows from them for a user's history.

    user, track, count, time = split_files.read_pairs("w/data/train.pqt")
    rules = split_files.read_rules("w/data/rules.json")
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.errors import WorkError
from harness.readers import parquet_schema, read_json, read_parquet
from harness.runs import PART_ORDER

RULES = {"history": {"test": ["train"]}, "unseen": "drop", "all_test": False}   # of a split without rules.json
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]   # user_id, track_id, count, microseconds


def read_pairs(path: str | Path) -> Columns:
    """Read and check one part of a split: numpy arrays user_id, track_id, count, time (microseconds since the epoch).

    count is 1 if the file has no such column; time is None if timestamp is absent or null in all rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    names = parquet_schema(path).names
    wanted = ("user_id", "track_id", *(c for c in ("count", "timestamp") if c in names))
    table = read_parquet(path, wanted)
    for column in ("user_id", "track_id"):
        kind = table.schema.field(column).type
        if not pa.types.is_integer(kind) or table[column].null_count:
            raise WorkError(f"{path}: {column} must be integers without nulls, but is {kind} "
                            f"with {table[column].null_count} nulls")
        if pa.types.is_uint64(kind) and len(table) and (high := pc.max(table[column]).as_py()) >= 1 << 63:
            raise WorkError(f"{path}: {column} holds {high}, which does not fit int64; make the workspace with "
                            "preprocess/0_get_plays_pqt.py interactions, which numbers such ids")
    user, track = (table[c].to_numpy().astype(np.int64) for c in ("user_id", "track_id"))
    count = np.ones(len(user), np.float32)
    if "count" in table.column_names:
        kind = table.schema.field("count").type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise WorkError(f"{path}: count must be numbers, but is {kind}")
        count = table["count"].to_numpy().astype(np.float32)
    for bad, what in ((np.isnan(count), "not a number"), (np.isinf(count), "infinite"), (count <= 0, "not positive")):
        if bad.any():
            raise WorkError(f"{path}: {int(bad.sum())} rows have a count that is {what}")
    return user, track, count, _microseconds(table, path)


def _microseconds(table, path):
    import pyarrow as pa
    if "timestamp" not in table.column_names or table["timestamp"].null_count == len(table):
        return None
    column = table["timestamp"]
    if not pa.types.is_timestamp(column.type) or column.null_count:
        raise WorkError(f"{path}: timestamp must be timestamps without nulls, but is {column.type} "
                        f"with {column.null_count} nulls")
    return column.to_numpy().astype("datetime64[us]").astype(np.int64)


def read_rules(path: str | Path) -> dict:
    """What rules.json says, RULES where there is none; WorkError for rules that the splitter does not write.

    history: by part, the parts that are a user's history when it is ranked (train where it is not named)
    unseen:  'keep' where val and test have tracks absent from train, and rank them; else 'drop'
    all_test: whether the split has the part all_test: the pairs of test and cold_test, ranked together
    """
    path = Path(path)
    if not path.exists():
        return RULES
    found = read_json(path, {"history": dict, "unseen": str, "all_test": bool})
    rules = {"history": found.get("history", {}), "unseen": found.get("unseen", "drop"),
             "all_test": found.get("all_test", False)}
    known = rules["unseen"] in ("keep", "drop") and all(
        part in PART_ORDER and parts in (["train"], ["train", "val"]) for part, parts in rules["history"].items())
    if not known or rules["history"].get("val", ["train"]) != ["train"]:
        raise WorkError(f"{path} has rules that are not known here; split again with preprocess/1_train_test_split.py")
    return rules
