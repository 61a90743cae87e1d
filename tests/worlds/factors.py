"""A planted world for methods that combine factors of plays with content, with all parts of --protocol cold-items."""
from unittest import mock

import numpy as np
import pandas as pd

from harness import runs
from harness.files import write_json
from tests.worlds.world import write_embedding, write_pairs, write_tracks
from training import network_loop


def factor_world(workdir, n_users=300, n_tracks=240, n_cold=60, dim=6, noise=0.3, seed=0):
    """Users and tracks have tastes of `dim` values; a track is played by the users whose tastes agree with its own.

    Popularity of the hot tracks spans two orders of magnitude, so that some are played once or twice. Embeddings:
    'content' is a rotation of the tastes with noise and 10 more columns of noise alone, 'noise' has nothing of them.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_tracks(workdir, n_tracks)
    users, tracks = rng.normal(size=(n_users, dim)), rng.normal(size=(n_tracks, dim))
    order = rng.permutation(n_tracks)
    parts = {"cold_test": order[:n_cold * 2 // 3], "cold_val": order[n_cold * 2 // 3:n_cold]}
    hot = np.sort(order[n_cold:])
    draw = 1.6 * (users @ tracks.T) / np.sqrt(dim) + rng.gumbel(size=(n_users, n_tracks))
    draw[:, hot] += rng.uniform(-2.5, 2.5, len(hot))
    rows = {part: np.array([(u, t) for u in range(n_users) for t in tracks_of[np.argsort(-draw[u, tracks_of])[:3]]])
            for part, tracks_of in parts.items()}
    mine = hot[np.argsort(-draw[:, hot], axis=1)[:, :18]]
    mine = rng.permuted(mine, axis=1)
    known = np.unique(mine[:, :12])
    for part, columns in (("train", slice(0, 12)), ("val", slice(12, 15)), ("test", slice(15, 18))):
        pairs = np.array([(u, t) for u in range(n_users) for t in mine[u, columns]])
        rows[part] = pairs[np.isin(pairs[:, 1], known)]
    for part, pairs in rows.items():
        pairs = pairs[np.lexsort(pairs.T[::-1])]
        write_pairs(workdir, part, *pairs.T, rng.integers(1, 9, len(pairs)))
    rotated = tracks @ np.linalg.qr(rng.normal(size=(dim, dim)))[0] + noise * rng.normal(size=tracks.shape)
    write_embedding(workdir, "content", np.hstack([rotated, rng.normal(size=(n_tracks, 10))]).astype(np.float32))
    write_embedding(workdir, "noise", rng.normal(size=(n_tracks, dim)).astype(np.float32))
    write_json(workdir / "dataset.json", {"name": "factors", "time": "real"})
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "drop", "all_test": True})
    return workdir


def made(module, workdir, *flags, embedding="content"):
    """Call a recommender's `main` on an embedding of the world: (name, config) of the run of these flags."""
    module.main(["--embedding", embedding, *flags, "--workdir", str(workdir), "--k", "20"])
    recommender = module.__name__.rpartition(".")[2]
    return max(((name, c) for name, c in runs.find_runs(workdir) if c["recommender"] == recommender),
               key=lambda run: (workdir / "runs" / run[0] / ".lock").stat().st_mtime_ns)


def value(workdir, name, part, metric="NDCG@10"):
    """Mean of a metric of a run."""
    return pd.read_csv(workdir / "metrics" / f"{name}_{part}.csv", index_col=0).loc["mean", metric]


def steps_of(module, workdir, *flags, until=None, embedding="content"):
    """Call a recommender's `main` as `made` does; the training steps it took. It is broken off before step `until`."""
    steps, learn = [], network_loop.Training.learn

    def counted(self, rows):
        if len(steps) == until:
            raise KeyboardInterrupt
        steps.append(len(rows))
        learn(self, rows)
    with mock.patch.object(network_loop.Training, "learn", counted):
        try:
            made(module, workdir, *flags, embedding=embedding)
        except KeyboardInterrupt:
            assert len(steps) == until
    return len(steps)
