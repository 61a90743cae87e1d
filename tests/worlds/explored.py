"""A workspace of three users with something for every section of explore.py, and explore.py as a function."""
import contextlib
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import explore
from exploration import sections, workspace
from exploration.words import plain
from harness import cli
from harness.files import write_json, write_parquet
from preprocess.lastfm.features import SPOTIFY
from tests.worlds.world import write_embedding, write_tracks

MINUTE, DAY = 60, 86400
MONDAY = 1_551_657_600          # 2019-03-04 00:00:00 UTC


def write_plays(workdir, rows, timed=True):
    """rows: (user, track, seconds, count)"""
    frame = pd.DataFrame(np.array(rows, np.int64).reshape(-1, 4), columns=["user_id", "track_id", "timestamp", "count"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s").astype("datetime64[us]") if timed else \
        pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    write_parquet(workdir / "plays.pqt", frame)


def world(workdir, timed=True):
    """Three users (ids 10, 20, 30) on five tracks, one of them (4) never played; every section has something.

    User 10 plays tracks 0, 1 and 0 again within ten minutes on Monday, and track 2 an hour later; user 20 plays
    track 0 on Monday, twice in the same second track 1; user 30 plays track 3 on Sunday.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    write_tracks(workdir, 5)
    write_plays(workdir, [(10, 0, MONDAY, 1), (10, 1, MONDAY + 4 * MINUTE, 1), (10, 0, MONDAY + 9 * MINUTE, 1),
                          (10, 2, MONDAY + 70 * MINUTE, 1), (20, 0, MONDAY, 1), (20, 1, MONDAY + 20 * DAY, 1),
                          (20, 1, MONDAY + 20 * DAY, 1), (30, 3, MONDAY + 6 * DAY + 3600 * 5, 3)], timed)
    write_parquet(workdir / "items.pqt", pa.table({
        "track_id": [4, 3, 2, 1, 0], "artists": [["Nobody"], ["Beyoncé"], ["The A"], ["The A", "B"], ["B"]],
        "tags": pa.array([["x"], None, [], ["rock", "rock"], ["rock", "a|b"]], pa.list_(pa.string())),
        "year": [1990, 2000, 2001, 2003, 2010]}))
    write_parquet(workdir / "users.pqt", pa.table({
        "user_id": [30, 20, 10], "friends": pa.array([[], [10, 99], [20]], pa.list_(pa.int64()))}))
    write_embedding(workdir, "content", np.array([[1, 0], [0, 1], [1, 1], [2, 0], [np.nan] * 2], np.float32))
    write_json(workdir / "dataset.json", {"name": "three_users", "source": "by hand", "licence": None,
                                               "time": "real" if timed else "none"})
    return workdir


def measure(workdir, *names, **flags):
    """Numbers of some sections, as they go into numbers.json."""
    with contextlib.ExitStack() as stack:
        work = workspace.opened(workdir, 1 << 29, workdir / "spill", **flags)
        stack.enter_context(work.log)
        found = [plain(sections()[name].measure(work)) for name in names]
    return found if len(found) > 1 else found[0]


def say(*words):
    """Exit status, stdout and stderr of explore.py."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.run(explore.main, [*map(str, words)])
    return end.value.code, out.getvalue(), err.getvalue()


def made(*words):
    status, out, err = say(*words)
    assert status == 0, err
    return out


def named_embedding(workdir, values):
    """A standardised embedding that names its columns as Spotify's."""
    centre, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    facts = {"features": list(SPOTIFY[:values.shape[1]]), "mean": centre.tolist(), "std": spread.tolist()}
    write_embedding(workdir, "spotify", ((values - centre) / spread).astype(np.float32), facts=facts)
