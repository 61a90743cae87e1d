"""A tiny workspace every test may build: tracks, embeddings, and a split with all parts."""
import hashlib

import numpy as np
import pandas as pd

from harness.files import checksum, write_csv, write_json, write_npy, write_parquet


def write_tracks(workdir, n):
    """trackid_sorted.csv with n ids; returns its checksum."""
    ids = sorted(hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(n))
    write_csv(workdir / "trackid_sorted.csv", pd.DataFrame({"idx": range(n), "trackid": ids}), index=False)
    return checksum(workdir / "trackid_sorted.csv")


def write_embedding(workdir, name, matrix, **provenance):
    write_npy(workdir / "embeddings" / f"{name}.npy", np.asarray(matrix))
    write_json(workdir / "embeddings" / f"{name}.json",
                    {"backend": name, "dim": np.asarray(matrix).shape[-1],
                     "track_checksum": checksum(workdir / "trackid_sorted.csv"), **provenance})


def write_gaps(workdir, split, seed, dim=5):
    """An embedding `gaps` with a mean far from 0, in which three items in ten have no row; which, bool (n_items,)."""
    rng = np.random.default_rng(seed)
    raw = (rng.normal(size=(split.n_tracks, dim)) * 30 + 1000).astype(np.float32)
    gaps = rng.random(split.n_items) < .3
    raw[split.tracks[gaps]] = np.nan
    write_embedding(workdir, "gaps", raw)
    return gaps


def write_pairs(workdir, part, users, tracks, counts=None, seconds=None):
    """A split part; seconds None counts up, False leaves the timestamps null."""
    frame = pd.DataFrame({"user_id": np.asarray(users, np.int64), "track_id": np.asarray(tracks, np.int64)})
    if seconds is False:
        frame["timestamp"] = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    else:
        seconds = np.arange(len(frame)) if seconds is None else np.asarray(seconds)
        frame["timestamp"] = pd.to_datetime(seconds, unit="s")
    frame["count"] = np.asarray(counts if counts is not None else np.ones(len(frame)), np.int64)
    write_parquet(workdir / "data" / f"{part}.pqt", frame)


def hidden_pairs(workdir, part):
    """{(user_id, track_id)} that no list of a part may hold, straight from the files: val hides train, test both."""
    hiding = {"val": ("train",), "test": ("train", "val"), "all_test": ("train", "val"), "cold_test": (),
              "cold_val": ()}[part]
    files = [path for p in hiding if (path := workdir / "data" / f"{p}.pqt").exists()]
    return {pair for path in files
            for pair in pd.read_parquet(path)[["user_id", "track_id"]].itertuples(index=False, name=None)}


def tiny_workspace(workdir, n_users=60, n_tracks=80, n_cold=12, dim=8, seed=0, timed=True):
    """A planted world: each user likes one of four directions; tracks of that direction are played.

    Every part is present: half of the users have both val and test, a sixth only val, a third only test, all
    have cold_test. Tracks 0 and 1 are in no part, so that track ids and item codes differ.
    Embeddings: 'content' (the planted directions with noise), 'noise'.
    Metadata: items.pqt (styles: the direction; artists) and users.pqt (age, country: nothing depends on them).
    """
    workdir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_tracks(workdir, n_tracks)
    style = rng.integers(4, size=n_tracks)
    taste = np.arange(n_users) % 4
    content = np.eye(4)[style] @ rng.normal(size=(4, dim)) * 3 + rng.normal(size=(n_tracks, dim))
    cold = rng.permutation(n_tracks - 2)[:n_cold] + 2       # tracks 0 and 1 are never played
    hot = np.setdiff1d(np.arange(2, n_tracks), cold)
    rows = {"train": [], "val": [], "test": [], "cold_test": []}
    for user in range(n_users):
        like = np.where(style == taste[user], 8.0, 1.0)
        mine = rng.choice(hot, 16, replace=False, p=like[hot] / like[hot].sum())
        rows["train"] += [(user, t) for t in mine[:12]]
        for place, track in enumerate(mine[12:]):
            both = ("val", "test")[place % 2]
            rows[both if user % 2 else "val" if user % 3 == 0 else "test"].append((user, track))
        rows["cold_test"] += [(user, t) for t in rng.choice(cold, 2, replace=False, p=like[cold] / like[cold].sum())]
    known = np.unique([t for _, t in rows["train"]])
    for part, pairs in rows.items():
        pairs = np.array(sorted(p for p in pairs if part in ("train", "cold_test") or p[1] in known))
        seconds = rng.permutation(len(pairs)) + 1_550_000_000 if timed else False
        write_pairs(workdir, part, pairs[:, 0] * 10 + 3, pairs[:, 1], rng.integers(1, 9, len(pairs)), seconds)
    write_embedding(workdir, "content", content.astype(np.float32))
    write_embedding(workdir, "noise", rng.normal(size=(n_tracks, dim)).astype(np.float32))
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(n_tracks), "styles": [[f"style {s}"] for s in style],
        "artists": [[f"artist {t // 3}"] for t in range(n_tracks)]}))
    write_parquet(workdir / "users.pqt", pd.DataFrame({
        "user_id": np.arange(n_users) * 10 + 3, "age": 20 + np.arange(n_users) % 9,
        "country": [("CZ", "TW", None)[u % 3] for u in range(n_users)]}))
    write_json(workdir / "dataset.json", {"name": "tiny", "time": "real" if timed else "none"})
    return workdir


def take_out(workdir, every=3):
    """What --train-share does: some pairs of train, of users that keep others, are in hidden.pqt instead."""
    train = pd.read_parquet(workdir / "data/train.pqt")
    out = (train.groupby("user_id").cumcount() % every == 1).to_numpy()
    write_parquet(workdir / "data/train.pqt", train[~out])
    write_parquet(workdir / "data/hidden.pqt", train[out])
    kept = set(train[~out].track_id)
    for part in ("val", "test"):
        pairs = pd.read_parquet(workdir / "data" / f"{part}.pqt")
        write_parquet(workdir / "data" / f"{part}.pqt", pairs[pairs.track_id.isin(kept)])
    return {(u, t) for u, t in zip(train.user_id[out], train.track_id[out], strict=True) if t in kept}


def with_cold_val(workdir):
    """A third of the cold items moved to cold_val, and the part all_test, as of --protocol cold-items."""
    cold = pd.read_parquet(workdir / "data" / "cold_test.pqt")
    moved = cold["track_id"].isin(np.unique(cold["track_id"])[::3])
    write_parquet(workdir / "data" / "cold_val.pqt", cold[moved])
    write_parquet(workdir / "data" / "cold_test.pqt", cold[~moved])
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "drop", "all_test": True})
    return workdir
