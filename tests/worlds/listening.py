"""Workspaces of plays, the splitter's command line and a small disk, for the tests of stage 2."""
import importlib
import json
import os
import subprocess

import numpy as np
import pandas as pd
import pytest

from harness import cli
from harness.files import write_json, write_parquet
from tests.worlds.world import write_tracks

script = importlib.import_module("preprocess.1_train_test_split")
ALL = ("train", "val", "test", "cold_test")
HAND = [  # user, track, time. train from 2019-02-20, test from 2020-02-20
    (1, 0, "2019-02-20 00:00:00"), (1, 0, "2019-08-01 00:00:00"), (1, 0, "2020-03-01 00:00:00"),  # 2 plays in train
    (1, 1, "2019-02-19 23:59:59"), (1, 1, "2020-02-20 00:00:00"), (1, 1, "2020-02-21 00:00:00"),  # test: before train
    (1, 2, "2020-02-19 23:59:59"),
    (2, 1, "2019-03-01 00:00:00"), (2, 0, "2020-03-20 00:00:00"), (2, 3, "2020-03-19 23:59:59"),  # 3: new in test
    (3, 0, "2020-02-25 00:00:00"),                                                                # user without train
    (4, 2, "2019-05-05 00:00:00"), (4, 0, "2020-03-02 00:00:00"),
]


@pytest.fixture(name="split")
def split_command(capsys):
    """Run the splitter in a workspace; returns exit status, stdout and stderr."""
    def run(workdir, *argv):
        with pytest.raises(SystemExit) as end:
            cli.run(script.main, [*map(str, argv), "--workdir", str(workdir)])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err
    return run


def workspace(folder, rows, n_tracks=None, time="real"):
    """A workspace from rows (user, track, 'YYYY-MM-DD ...' or None[, count])."""
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame(rows, columns=["user_id", "track_id", "timestamp", "count"][:len(rows[0])])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"]).astype("datetime64[us]")
    write_parquet(folder / "plays.pqt", frame)
    write_tracks(folder, n_tracks or int(frame["track_id"].max()) + 1)
    write_json(folder / "dataset.json", {"name": "music4all", "time": time})
    return folder


def crowd(folder, n_users=30, n_tracks=50, n=4000, seed=5, timed=True):
    """A workspace of random plays in 2019-02-20 .. 2020-03-20, or of pairs with counts and no times."""
    rng = np.random.default_rng(seed)
    user, track = rng.integers(n_users, size=n) * 3, (n_tracks * rng.random(n) ** 2).astype(int)
    times = pd.Timestamp("2019-02-20") + pd.to_timedelta(rng.integers(394 * 86400, size=n), unit="s")
    if timed:
        return workspace(folder, list(zip(user, track, times, strict=True)), n_tracks)
    pairs = pd.DataFrame({"u": user, "t": track}).value_counts().reset_index()
    return workspace(folder, [(u, t, None, c) for u, t, c in pairs.itertuples(index=False)], n_tracks, "none")


def part(workdir, name):
    return pd.read_parquet(workdir / "data" / f"{name}.pqt")


def pairs(workdir, name):
    return list(part(workdir, name)[["user_id", "track_id"]].itertuples(index=False, name=None))


def rows_of(workdir, name):
    frame = part(workdir, name)
    return list(frame.assign(timestamp=frame["timestamp"].dt.strftime("%F %T")).itertuples(index=False, name=None))


def manifest(workdir):
    return json.loads((workdir / "data" / "split.json").read_text())


def files(folder):
    """Every visible file of a folder with its bytes."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")}


@pytest.fixture(name="small_disk")
def mount_small_disk(tmp_path):
    """A disk of 2 MB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]).returncode:
        pytest.skip("cannot mount a small tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
