"""Six metrics at four k for every user: metrics.evaluate against rs_metrics itself. python -m bench.metrics [--quick]

Lists of 100 for 20,000 users (quick: 2,000), 5 to 40 true tracks each, of 55,262 tracks. Both start from the
same frames in memory, `user_id, track_id, rank` sorted by user and rank, and give the values of every user at
k = 5, 10, 20 and 50. The baseline is rs_metrics as published, one call for each metric and k with
apply_mean=False; it is given the lists as dicts of arrays, made once, so that its own group-by of the frames
does not count against it 24 times. One process each. Unit: users per second. The values are compared before
anything is timed. A second row times a trainer's call (report), from a file of lists to metrics/, without a
baseline.
"""
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import metrics
from evaluation.lists import read_lists, read_truth
from harness import cli
from harness.errors import WorkError
from harness.files import write_parquet


def world(n_users, n_tracks=55262, k=100, seed=0):
    """Frames of lists and truth; a fifth of the true tracks are put into the lists, so that there are hits."""
    rng = np.random.default_rng(seed)
    start = rng.integers(n_tracks, size=n_users)
    track = (start[:, None] + 7 * np.arange(k)) % n_tracks             # distinct within a list
    track = rng.permuted(track, axis=1)
    preds = pd.DataFrame({"user_id": np.repeat(np.arange(n_users), k), "track_id": track.ravel(),
                          "rank": np.tile(np.arange(k), n_users)})
    n_true = rng.integers(5, 41, n_users)
    user = np.repeat(np.arange(n_users), n_true)
    true = np.where(rng.random(len(user)) < 0.2, track[user, rng.integers(k, size=len(user))],
                    rng.integers(n_tracks, size=len(user)))
    return preds, pd.DataFrame({"user_id": user, "track_id": true}).drop_duplicates(ignore_index=True)


def median_seconds(roads, repeats):
    """Median seconds of each function, called in turns."""
    taken = {road: [] for road in roads}
    for _ in range(repeats):
        for road in roads:
            start = time.perf_counter()
            road()
            taken[road].append(time.perf_counter() - start)
    return [float(np.median(taken[road])) for road in roads]


def run(quick):
    n_users, repeats = (2000, 3) if quick else (20000, 3)
    preds, truth = world(n_users)
    pairs = read_truth(truth)
    lists = read_lists(preds, pairs.users)

    def ours():
        return metrics.evaluate(preds, truth)

    def theirs():
        return metrics.by_rs_metrics(lists, pairs, metrics.KS)

    def report():
        with tempfile.TemporaryDirectory() as folder:
            write_parquet(Path(folder) / "preds.pqt", preds)
            start = time.perf_counter()
            metrics.report(folder, "run", "test", pd.read_parquet(Path(folder) / "preds.pqt"), truth)
            return time.perf_counter() - start

    apart = (ours() - theirs()).abs().max(axis=None)
    if not apart <= metrics.TOLERANCE:
        raise WorkError(f"the two differ by {apart:.1e}")
    fast, slow = median_seconds([ours, theirs], repeats)
    whole = float(np.median([report() for _ in range(repeats)]))
    return [{"what": f"6 metrics at 4 k, {n_users:,} users x 100 places", "ours": n_users / fast,
             "baseline": n_users / slow, "unit": "users/s", "ratio": slow / fast,
             "note": f"rs_metrics, same values within {apart:.0e}"},
            {"what": "the same from a file of lists to metrics/", "ours": n_users / whole, "baseline": None,
             "unit": "users/s", "ratio": None, "note": "metrics.report with reading"}]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("metrics", argv))
