"""A tiny world with everything DTNMR can read: plays in order with their behaviour, lengths, unknown values."""
import numpy as np
import pandas as pd
import torch

import dataset
from harness.files import write_parquet
from recommenders.dtnmr import __main__ as dtnmr
from tests.worlds.world import tiny_workspace

SMALL = ["--hidden", "12", "6", "--lstm-size", "8", "--size", "4", "--epochs", "2"]


def listening_world(workdir, n_users=12, n_songs=40, seed=0):
    """The tiny world with what KKBOX has beside: plays in order (repeats too), behaviour, lengths, unknowns."""
    tiny_workspace(workdir, n_users=n_users, n_tracks=n_songs, n_cold=4, seed=seed)
    rng, rows = np.random.default_rng(seed), []
    split = dataset.load(workdir)
    indptr, items = split.sequences()
    for user in range(split.n_users):
        mine = split.tracks[items[indptr[user]:indptr[user + 1]]]
        plays = np.r_[mine, rng.choice(mine, 6)]
        parts = ["history"] * 5 + ["train"] * (len(plays) - 7) + ["val", "test"]
        tabs = rng.choice(["my library", "explore", "settings", None], len(plays))
        rows += [(split.users[user], i, t, p, b, 1) for i, (t, p, b) in enumerate(zip(plays, parts, tabs, strict=True))]
    columns = ["user_id", "position", "track_id", "part", "source_system_tab", "target"]
    write_parquet(workdir / "points.pqt", pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0))
    items = pd.read_parquet(workdir / "items.pqt")
    items["song_length"] = np.where(items.track_id % 7 == 0, np.nan, 100.0 + items.track_id)
    items["genres"] = [[["rock", "pop"], ["pop"], [], None][t % 4] for t in items.track_id]
    items["language"] = [None if t % 5 == 0 else str(t % 3) for t in items.track_id]
    items["kept"] = items.track_id < n_songs - 3
    write_parquet(workdir / "items.pqt", items)
    return workdir


def world_of(workdir, *flags):
    args = dtnmr.parse(["--workdir", str(workdir), *SMALL, *flags])
    return dtnmr.read(dataset.load(workdir), args, torch.device("cpu")), args


def network_of(world, args):
    """The network of a command line, at its start."""
    return world.network(dtnmr.architecture_of(args), args.seed)
