"""A log on its way into a workspace by preprocess/interactions: the fixture that brings one, and what it became."""
import importlib

import pandas as pd
import pytest

from harness import cli

SCRIPT = importlib.import_module("preprocess.0_get_plays_pqt")


@pytest.fixture(name="bring")
def bring_log(tmp_path, capsys):
    """Write a log and read it: (exit status, stdout, stderr, workspace)."""

    def run(content, *flags, name="log.csv", before=("interactions",)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SystemExit) as end:
            cli.run(
                SCRIPT.main, [*before, "--log", str(path), "--workdir", str(tmp_path / "w"), *map(str, flags)]
            )
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err, tmp_path / "w"

    return run


def plays(workdir):
    return pd.read_parquet(workdir / "plays.pqt")


def ids(workdir, kind="track"):
    return pd.read_csv(workdir / f"{kind}id_sorted.csv", dtype=str, keep_default_na=False)[
        f"{kind}id"
    ].tolist()


def rows(workdir):
    """(user, item, time) of all plays with the log's own ids."""
    frame, tracks = plays(workdir), ids(workdir)
    users = ids(workdir, "user") if (workdir / "userid_sorted.csv").exists() else None
    return [
        (users[u] if users else str(u), tracks[t], str(when))
        for u, t, when in frame[["user_id", "track_id", "timestamp"]].itertuples(index=False)
    ]
