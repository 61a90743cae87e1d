"""A tiny workspace with runs, names that try to be markup, and sound: what report.py is tested on."""
import importlib
import shutil

import numpy as np
import pandas as pd
import pytest

from harness.files import write_json, write_parquet
from tests.worlds.world import tiny_workspace

N = 80   # tracks
EVIL = ["<script>window.broken = 1</script>", '"><img src=x onerror="window.broken = 2">', "</script><b>bold",
        "שלום עולם", "🎵 emoji 🎶", "x" * 5000, None, "{{ 7 * 7 }} {% raw %}",
        "&lt;i&gt; \u2028 line\u2029", "a\x00b\ttab"]


def named(workdir):
    """items.pqt with EVIL among the titles, artists and styles."""
    titles = [EVIL[i % len(EVIL)] if i % 3 == 0 else f"Song {i}" for i in range(N)]
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": np.arange(N), "title": titles, "artists": [[EVIL[i % 5]] for i in range(N)],
        "styles": [[EVIL[i % 4]] if i % 7 else None for i in range(N)], "released": [1960 + i for i in range(N)]}))
    write_json(workdir / "dataset.json", {"status": "finished", "name": "tiny <b>world</b>", "licence": EVIL[1],
                                          "time": "real", "counts": {"users": 60}})


def with_runs(workdir):
    """A KNN with two permutations, a Shallow Net, EASE and popularity."""
    for module, *flags in (("recommenders.popularity",), ("recommenders.chance",), ("recommenders.ease",),
                           ("knn", "content"), ("knn", "content", "--shuffle", "--seed", "1"),
                           ("knn", "content", "--shuffle", "--seed", "2"),
                           ("knn", "noise", "--comment", "<b>bold</b>"),
                           ("train", "content", "item", "2", "64", "3", "--hidden-dim", "8")):
        importlib.import_module(module).main([*flags, "--workdir", str(workdir), "--k", "20"])


def with_sound(folder, workdir, seconds=3.0):
    """A tone for every track but the last two: one has no file, one a file that is no sound."""
    import soundfile
    folder.mkdir(parents=True)
    ids = pd.read_csv(workdir / "trackid_sorted.csv")["trackid"].tolist()
    t = np.arange(int(22050 * seconds)) / 22050
    for i, track in enumerate(ids[:-2]):
        soundfile.write(folder / f"{track}.wav", .3 * np.sin(2 * np.pi * (200 + 20 * i) * t), 22050)
    (folder / f"{ids[-2]}.wav").write_bytes(b"no sound at all" * 100)
    return folder


def needs_ffmpeg():
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg, which makes the excerpts")


def built(folder):
    """(workspace with runs and names, its audio folder)"""
    workdir = tiny_workspace(folder / "w")
    named(workdir)
    with_runs(workdir)
    return workdir, with_sound(folder / "audio", workdir)
