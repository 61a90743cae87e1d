"""show.py where the workspace is not as usual: an embedding made anew, odd columns of metadata, plays without times."""
import importlib
import json

import numpy as np
import pandas as pd
import pytest

import dataset
import show
from harness.errors import WorkError
from harness.files import write_json, write_parquet
from lookup import catalogue
from tests.worlds.world import tiny_workspace, write_embedding


def test_a_run_on_an_embedding_that_was_made_anew_does_not_answer(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    importlib.import_module("knn").main(["content", "--workdir", str(workdir)])
    matrix = np.load(workdir / "embeddings" / "content.npy")
    write_embedding(workdir, "content", matrix[::-1].copy())
    with pytest.raises(WorkError, match="was made from another embeddings/content.npy than the workspace has now"):
        show.main(["listener", catalogue.opened(workdir).ids[0], "--run", "content_cosine", "--workdir", str(workdir)])


def test_metadata_may_have_a_column_of_ids_and_numbers_that_are_none(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    n = len(catalogue.opened(workdir).ids)
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": range(n), "id": range(100, 100 + n),
                                                       "tempo": [float("inf")] * n, "title": "A song"}))
    show.main(["track", catalogue.opened(workdir).ids[3], "--workdir", str(workdir)])
    assert "id: 103" in capsys.readouterr().out
    show.main(["track", catalogue.opened(workdir).ids[3], "--json", "--workdir", str(workdir)])
    assert json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))["metadata"]["id"] == 103


def test_without_times_the_history_is_called_the_most_played(tmp_path, capsys):
    workdir = tiny_workspace(tmp_path / "w")
    for path in (workdir / "data").glob("*.pqt"):
        frame = pd.read_parquet(path)
        write_parquet(path, frame.assign(timestamp=pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")))
    write_json(workdir / "dataset.json", {"name": "tiny", "time": "none"})
    show.main(["user", str(dataset.load(workdir).users[0]), "--workdir", str(workdir)])
    out = capsys.readouterr().out
    assert "most played in train" in out and "latest" not in out
