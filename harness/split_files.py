"""The files of a split, read and checked one by one, as codes, and what follows from them for a user's history.

    user, track, count, time = split_files.read_pairs("w/data/train.pqt")
    rules = split_files.read_rules("w/data/rules.json")
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import WorkError
from harness.readers import parquet_schema, read_json, read_parquet
from harness.run_files import COLD_PARTS, PART_ORDER

RULES: dict[str, Any] = {"history": {"test": ["train"]}, "unseen": "drop", "all_test": False, "seen": "hide",
                         "events_before": None}   # of a split without rules.json
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]   # user_id, track_id, count, microseconds


@dataclass(frozen=True)
class Interactions:
    """One row per (user, item) pair, sorted by user, then item.

    user, item: int64 (N,) dense codes; count: float32 (N,) plays;
    time: int64 (N,) microseconds since the epoch of the first play in the window, or None without times.
    """
    user: np.ndarray
    item: np.ndarray
    count: np.ndarray
    time: np.ndarray | None

    def __len__(self) -> int:
        return len(self.user)


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


def read_manifest(path: str | Path, kinds: Mapping[str, Any] | None = None) -> dict:
    """split.json of a split, {} where there is none; WorkError for one that is not finished. kinds: as of read_json."""
    path = Path(path)
    manifest = read_json(path, {"status": str, **(kinds or {})}) if path.exists() else {}
    if manifest.get("status", "finished") != "finished":
        raise WorkError(f"{path} is not finished: the split was interrupted; run preprocess/1_train_test_split.py "
                        "again")
    return manifest


def read_rules(path: str | Path) -> dict:
    """What rules.json says, RULES where there is none; WorkError for rules that the splitter does not write.

    history: by part, the parts that are a user's history when it is ranked (train where it is not named)
    unseen:  'keep' where val and test have tracks absent from train, and rank them; else 'drop'
    all_test: whether the split has the part all_test: the pairs of test and cold_test, ranked together
    seen:    'keep' where lists may hold what the user has played before, and the truth has it; else 'hide'
    events_before: microseconds since the epoch before which the plays of plays.pqt are those of train, or None
    """
    path = Path(path)
    if not path.exists():
        return RULES
    found = read_json(path, {"history": dict, "unseen": str, "all_test": bool, "seen": str,
                             "events_before": (int, type(None))})
    rules = RULES | {"history": {}} | {name: found[name] for name in RULES if name in found}
    known = rules["unseen"] in ("keep", "drop") and rules["seen"] in ("hide", "keep") and all(
        part in PART_ORDER and parts in (["train"], ["train", "val"]) for part, parts in rules["history"].items())
    if not known or rules["history"].get("val", ["train"]) != ["train"]:
        raise WorkError(f"{path} has rules that are not known here; split again with preprocess/1_train_test_split.py")
    return rules


# --------------------------------------------------------------------------- as codes

def catalogue_of(raw: Mapping[str, Columns], rules: dict, paths: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Tracks in the order of their item codes: {"hot": int64 (n_hot,), and those of each cold part}, each ascending.

    WorkError where a track of a cold part is hot, or in the other cold part.
    """
    hot = [raw[p][1] for p in ("train", "val", "test") if p == "train" or rules["unseen"] == "keep" and p in raw]
    catalogue = {"hot": np.unique(np.concatenate(hot))}
    for part in (p for p in COLD_PARTS if p in raw):
        own = np.unique(raw[part][1])
        for other, where in (("hot", "were played in train"), ("cold_test", "are in the cold test, too")):
            if again := np.isin(own, catalogue.get(other, ())).sum():
                raise WorkError(f"{paths[part]}: {again} of its tracks {where}")
        catalogue[part] = own
    return catalogue


def encode(raw: Columns, users: np.ndarray, code: np.ndarray, n_hot: int, part: str, path: Path) -> Interactions:
    """The pairs of a part as codes. users: int64 (U,) ascending ids; code: the item code of each track id, or -1.

    WorkError for users and tracks without code, cold tracks in val or test, and pairs that occur twice.
    """
    user, track, count, time = raw
    rows = np.minimum(np.searchsorted(users, user), len(users) - 1)
    unknown = np.unique(user[users[rows] != user])
    if len(unknown):
        raise WorkError(f"{path}: {len(unknown)} users have no plays in train "
                        f"(user_id {', '.join(map(str, unknown[:3]))} ...); the split must drop such users")
    item = code[track]
    outside = (item < 0) | (item >= n_hot) if part in ("val", "test") else item < 0
    if outside.any():
        share = "all" if outside.all() else f"{outside.sum()} of {len(outside)}"
        raise WorkError(f"{path}: {share} pairs are of tracks absent from train; "
                        "move them to cold_test.pqt (--protocol hotcold) or drop them")
    order = np.lexsort((item, rows))
    rows, item = rows[order], item[order]
    twice = int(((np.diff(rows) == 0) & (np.diff(item) == 0)).sum())
    if twice:
        raise WorkError(f"{path} contains {twice} duplicate (user_id, track_id) pairs")
    return Interactions(rows, item, count[order], None if time is None else time[order])


def check_hidden(path: Path, manifest: dict, rules: dict, hidden: Columns | None) -> None:
    """WorkError where split.json (path, its content) took pairs out of train that data/hidden.pqt should have."""
    request = manifest.get("request")
    share = request.get("train_share", 1) if isinstance(request, dict) else 1
    if isinstance(share, (int, float)) and share < 1 and rules["seen"] == "hide" and hidden is None:
        raise WorkError(f"{path} says --train-share {share:g}, and hidden.pqt, what that took out of train, is "
                        "missing; split again with preprocess/1_train_test_split.py")


def hidden_pairs(raw: Columns, users: np.ndarray, code: np.ndarray, n_hot: int, parts: Mapping[str, Interactions],
                 path: Path) -> Interactions:
    """The pairs of data/hidden.pqt as codes, those of tracks that are not ranked left out; arguments as of `encode`.

    parts: train and the held-out ones. WorkError for users absent from train, and for pairs that are in a part, too:
    one of test would be a truth that no list may hold.
    """
    user, track, count, time = raw
    kept = (code[track] >= 0) & (code[track] < n_hot)
    pairs = encode((user[kept], track[kept], count[kept], None if time is None else time[kept]), users, code, n_hot,
                   "hidden", path)
    for part, own in parts.items():
        hot = own.item < n_hot
        if twice := int(np.isin(pairs.user * n_hot + pairs.item, own.user[hot] * n_hot + own.item[hot]).sum()):
            raise WorkError(f"{path}: {twice} of its pairs are in {part}, too; split again with "
                            "preprocess/1_train_test_split.py")
    return pairs


def joined(parts: Sequence[Interactions]) -> Interactions:
    """Parts without common pairs as one, sorted by user, then item."""
    user, item, count = (np.concatenate([getattr(p, name) for p in parts]) for name in ("user", "item", "count"))
    times = [p.time for p in parts if p.time is not None]
    order = np.lexsort((item, user))
    return Interactions(user[order], item[order], count[order],
                        np.concatenate(times)[order] if len(times) == len(parts) else None)
