"""Bad workspaces through the command line: one sentence, the right exit status, nothing made and nothing lost."""
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import knn
import train
from harness import cli
from harness.files import write_json
from tests.conftest import ROOT

ROWS = 80  # tracks of the tiny workspace


def refused(capsys, script, status, *argv):
    """Run a script's main as the command line does; the one sentence it ends with."""
    with pytest.raises(SystemExit) as end:
        cli.run(script.main, [str(a) for a in argv])
    said = capsys.readouterr()
    assert end.value.code == status, said.err
    sentence = said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    return sentence


def made(workdir):
    return sorted(p.relative_to(workdir) for kind in ("preds", "metrics", "checkpoints", "model_embeddings")
                  for p in (workdir / kind).rglob("*") if p.is_file())


@pytest.mark.parametrize("matrix, status, expected", [
    (np.ones((ROWS - 1, 4), np.float32), 1, "has 79 rows, but trackid_sorted.csv has 80 tracks"),
    (np.full((ROWS, 4), np.nan, np.float32), 1, "has no finite row for any of"),
    (np.where(np.arange(ROWS)[:, None] % 2, np.nan, np.ones((ROWS, 4))).astype(np.float32), 1, "--missing mean"),
    (np.ones((ROWS, 4), np.int64), 1, "must be float32, but is int64"),
    (np.ones(ROWS, np.float32), 1, "must be a matrix (tracks, dimensions), but has shape (80,)"),
    (np.array([[{}]] * ROWS, dtype=object), 1, "it contains Python objects, not numbers"),
    (np.full((ROWS, 4), "x"), 1, "must be float32"),
    (b"1,2,3\n", 1, "cannot be read as a .npy matrix"),
])
@pytest.mark.parametrize("script", [knn, train], ids=["knn", "train"])
def test_embeddings_that_are_none(tiny, capsys, script, matrix, status, expected):
    path = tiny / "embeddings" / "bad.npy"
    if isinstance(matrix, bytes):
        path.write_bytes(matrix)
    else:
        np.save(path, matrix, allow_pickle=True)
    assert expected in refused(capsys, script, status, "bad", "--workdir", tiny)
    assert made(tiny) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", ".hidden", ""])
def test_an_embedding_is_a_plain_name(tiny, capsys, name):
    assert "is not a name of an embedding" in refused(capsys, knn, 2, name, "--workdir", tiny)


def test_an_embedding_made_for_another_track_list(tiny, capsys):
    write_json(tiny / "embeddings" / "content.json", {"track_checksum": "other"})
    assert "was made for another track list" in refused(capsys, knn, 1, "content", "--workdir", tiny)


@pytest.mark.parametrize("text", ["[]", "null", "{", '"x"'])
def test_a_provenance_that_is_no_object(tiny, capsys, text):
    (tiny / "embeddings" / "content.json").write_text(text)
    assert "content.json" in refused(capsys, knn, 1, "content", "--workdir", tiny)


@pytest.mark.parametrize("text", ["", "\x00\xff", "idx,trackid\n0,a,b\n", 'idx,trackid\n0,"a\n', "idx,trackid\n1,a\n"])
def test_a_track_list_that_is_none(tiny, capsys, text):
    (tiny / "trackid_sorted.csv").write_text(text, encoding="latin-1")
    assert "trackid_sorted.csv" in refused(capsys, knn, 1, "content", "--workdir", tiny)


def test_a_split_made_for_another_track_list(tiny, capsys):
    write_json(tiny / "data" / "split.json", {"track_checksum": "other"})
    assert "was made for another trackid_sorted.csv" in refused(capsys, knn, 1, "content", "--workdir", tiny)


def change(tiny, part, **columns):
    path = tiny / "data" / f"{part}.pqt"
    pd.read_parquet(path).assign(**columns).to_parquet(path, index=False)


def test_a_val_user_absent_from_train(tiny, capsys):
    change(tiny, "val", user_id=10**6)
    assert "have no plays in train" in refused(capsys, knn, 1, "content", "--workdir", tiny)


def test_test_items_that_are_all_cold(tiny, capsys):
    cold = pd.read_parquet(tiny / "data" / "cold_test.pqt").track_id
    rows = len(pd.read_parquet(tiny / "data" / "test.pqt"))
    change(tiny, "test", track_id=np.resize(cold.unique(), rows))
    assert "all pairs are of tracks absent from train" in refused(capsys, knn, 1, "content", "--workdir", tiny)


def test_counts_that_are_text(tiny, capsys):
    change(tiny, "train", count="many")
    assert "count must be numbers" in refused(capsys, knn, 1, "content", "--workdir", tiny)


def test_k_larger_than_the_catalogue_gives_what_there_is(tiny):
    knn.main(["content", "--k", "1000", "--workdir", str(tiny)])
    lists = pd.read_parquet(next((tiny / "preds").glob("*_cold_test.pqt")))
    longest = pd.read_parquet(tiny / "data" / "cold_test.pqt").track_id.nunique()
    assert lists.groupby("user_id").size().max() == longest


def test_a_bad_embedding_does_not_keep_the_others_from_being_done(tiny, capsys):
    np.save(tiny / "embeddings" / "aaa.npy", np.full((ROWS, 4), np.nan, np.float32))
    assert refused(capsys, knn, 1, "--workdir", tiny).endswith("1 of 3 embeddings failed: aaa; see the errors above")
    assert {p.name for p in made(tiny)} >= {"content_cosine_test.pqt", "noise_cosine_test.pqt"}


@pytest.mark.parametrize("folder", ["preds", "checkpoints", "model_embeddings"])
def test_a_file_in_the_way_is_noticed_before_the_work(tiny, capsys, folder):
    (tiny / folder).write_text("mine")
    assert "a file of that name is in the way" in refused(capsys, train, 1, "content", "--workdir", tiny)
    assert (tiny / folder).read_text() == "mine"


@pytest.mark.parametrize("seed", ["-1", "4294967296", "9223372036854775808", "1.5", "x"])
@pytest.mark.parametrize("script", [knn, train], ids=["knn", "train"])
def test_a_seed_that_no_generator_takes(tiny, capsys, script, seed):
    assert "--seed" in refused(capsys, script, 2, "content", "--seed", seed, "--workdir", tiny)


@pytest.mark.parametrize("device", ["meta", "mps", "cpu:3", "tpu", "cuda:99"])
def test_a_device_that_is_none(tiny, capsys, device):
    assert f"--device {device}" in refused(capsys, knn, 2, "content", "--device", device, "--workdir", tiny)


@pytest.mark.parametrize("argv", [["content", "item", str(10**11)], ["content", "--hidden-dim", str(10**9)]])
def test_sizes_that_no_memory_holds(tiny, capsys, argv):
    assert "memory" in refused(capsys, train, 1, *argv, "--workdir", tiny)


def test_a_training_on_a_full_disk(tiny, capsys, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        for name in ("checkpoints", "model_embeddings"):
            os.symlink(disk, tiny / name)
        sentence = refused(capsys, train, 1, "content", "--epochs", "2", "--workdir", tiny)
        assert "the disk is full" in sentence
        assert list(disk.rglob("*.pt")) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_reader_of_our_output_may_leave(tiny):
    knn.main(["content", "--k", "10", "--workdir", str(tiny)])
    table = subprocess.Popen([sys.executable, "table.py", "--k", "10", "--workdir", str(tiny)], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    table.stdout.close()
    assert table.stderr.read() == "" and table.wait() in (0, 1)
