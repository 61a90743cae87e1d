"""Files that are replaced while a workspace or a split is made of them: refused, and nothing is written."""
import errno
import os

import numpy as np
import pandas as pd
import pytest

from harness.files import checksum, write_json
from harness.readers import read_json
from preprocess import brought, splitting, stage
from preprocess.yambda import generate
from tests.preprocess import test_spotify
from tests.worlds import hetrec, kkbox
from tests.worlds.listening import crowd, files, split_command  # noqa: F401 - a fixture


def rewrite(path):
    """Another file of the same content in other bytes."""
    if path.suffix in (".pqt", ".parquet"):
        pd.read_parquet(path).to_parquet(path, compression="gzip")
    elif path.suffix == ".npy":
        np.save(path, np.load(path) + 1)
    else:
        path.write_bytes(path.read_bytes() + b"\n")


def raw_of(kind, folder):
    """(file that changes, flags) of a small data set of each kind."""
    if kind == "pairs":
        (folder / "raw.txt").write_text("1 a\n1 b\n2 a\n")
        return folder / "raw.txt", ("--raw", folder / "raw.txt")
    if kind == "interactions":
        (folder / "items.csv").write_text("item,title\na,A\n")
        (folder / "log.csv").write_text("user,item\n1,a\n")
        return folder / "items.csv", ("--log", folder / "log.csv", "--items", folder / "items.csv")
    if kind == "spotify":
        path = test_spotify.write(folder / "songs.csv", [test_spotify.row("a", "P"), test_spotify.row("b", "P")])
        return path, ("--raw", path)
    if kind == "lastfm":
        raw = hetrec.write_raw(folder / "raw")
        return raw / "user_artists.dat", ("--raw", raw)
    if kind == "kkbox":
        raw = kkbox.write(folder / "raw", kkbox.world())
        return raw / "members.csv", ("--raw", raw, *kkbox.LOOSE)
    generate.generate(folder / "raw", 20, 2_000, tracks=100, forms=("flat",), seed=3)
    return folder / "raw" / "embeddings.parquet", ("--raw", folder / "raw")


@pytest.mark.parametrize("kind", ["interactions", "pairs", "spotify", "lastfm", "kkbox", "yambda"])
def test_raw_files_that_change_meanwhile(tmp_path, monkeypatch, kind):
    path, flags = raw_of(kind, tmp_path)
    real, before = stage.AtomicOutputs.path, checksum(path)

    def meanwhile(self, name):
        if checksum(path) == before:
            rewrite(path)
        return real(self, name)
    monkeypatch.setattr(stage.AtomicOutputs, "path", meanwhile)
    status, _, err = hetrec.say(kind, *flags, workdir=tmp_path / "w")
    assert status == 1 and f"{path} changed while it was read; run this again when nothing writes there" in err
    assert not (tmp_path / "w" / "plays.pqt").exists() and not (tmp_path / "w" / "dataset.json").exists()
    monkeypatch.undo()
    assert hetrec.say(kind, *flags, workdir=tmp_path / "w")[0] == 0


def everything(workdir):
    """Every visible file below a folder with its bytes."""
    return {path.relative_to(workdir): path.read_bytes() for path in workdir.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(workdir).parts)}


@pytest.mark.parametrize("kind", ["spotify", "lastfm", "kkbox", "yambda"])
def test_a_failed_conversion_leaves_the_embeddings_as_they_were(tmp_path, monkeypatch, kind):
    path, flags = raw_of(kind, tmp_path)
    assert hetrec.say(kind, *flags, workdir=tmp_path / "w")[0] == 0
    for old in (tmp_path / "w" / "embeddings").iterdir():
        old.write_bytes(b"the old one")
    before = everything(tmp_path / "w")
    assert b"the old one" in before.values()
    real, written = stage.AtomicOutputs.check_split, []

    def meanwhile(*args):
        rewrite(path)
        written.append(args)
        return real(*args)
    monkeypatch.setattr(stage.AtomicOutputs, "check_split", meanwhile)
    status, _, err = hetrec.say(kind, *flags, "--overwrite", workdir=tmp_path / "w")
    assert status == 1 and "changed while it was read" in err and written
    assert everything(tmp_path / "w") == before
    monkeypatch.undo()
    assert hetrec.say(kind, *flags, "--overwrite", workdir=tmp_path / "w")[0] == 0
    after = everything(tmp_path / "w")
    assert {*after} == {*before} and b"the old one" not in after.values()


def test_a_killed_publication_leaves_a_manifest_that_is_refused(tmp_path, monkeypatch):
    _, flags = raw_of("spotify", tmp_path)
    assert hetrec.say("spotify", *flags, workdir=tmp_path / "w")[0] == 0
    before = everything(tmp_path / "w")

    def killed(*args):
        raise OSError("killed")
    monkeypatch.setattr(brought, "_move", killed)
    assert hetrec.say("spotify", *flags, "--overwrite", workdir=tmp_path / "w")[0] == 1
    assert read_json(tmp_path / "w" / "dataset.json")["status"] == "writing"
    monkeypatch.undo()
    assert hetrec.say("spotify", *flags, workdir=tmp_path / "w")[0] == 0 and everything(tmp_path / "w") == before


def test_embeddings_on_another_disk_are_copied(tmp_path, monkeypatch):
    _, flags = raw_of("spotify", tmp_path)
    real = os.replace

    def replace(source, target):
        if os.path.dirname(target) != os.path.dirname(source) and str(target).endswith((".npy", "spotify.json")):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(source, target)
    monkeypatch.setattr(os, "replace", replace)
    assert hetrec.say("spotify", *flags, workdir=tmp_path / "w")[0] == 0
    folder = tmp_path / "w" / "embeddings"
    assert sorted(p.name for p in folder.iterdir()) == ["spotify.json", "spotify.npy"]
    assert read_json(folder / "spotify.json")["matrix_checksum"] == checksum(folder / "spotify.npy")


@pytest.mark.parametrize("name", ["plays.pqt", "trackid_sorted.csv", "items.pqt", "embeddings/e.npy", "split.pqt"])
def test_files_that_change_while_they_are_split(tmp_path, split, monkeypatch, name):
    workdir = crowd(tmp_path / "w")
    tracks = pd.read_csv(workdir / "trackid_sorted.csv")
    flags = {"items.pqt": ("--protocol", "cold-items"), "split.pqt": ("--protocol", "given"),
             "embeddings/e.npy": ("--protocol", "random", "--tracks-with", "e")}.get(name, ("--protocol", "random"))
    pd.DataFrame({"track_id": range(len(tracks)), "title": tracks.trackid, "artists": "y"}).to_parquet(
        workdir / "items.pqt")
    pairs = pd.read_parquet(workdir / "plays.pqt")[["user_id", "track_id"]].drop_duplicates()
    pairs.assign(part=["train", "val", "test"] * (len(pairs) // 3) + ["train"] * (len(pairs) % 3)).to_parquet(
        workdir / "split.pqt", index=False)
    (workdir / "embeddings").mkdir()
    np.save(workdir / "embeddings" / "e.npy", np.ones((len(tracks), 2), np.float32))
    write_json(workdir / "embeddings" / "e.json", {"track_checksum": checksum(workdir / "trackid_sorted.csv")})
    real = splitting.write_parts

    def meanwhile(*args):
        rewrite(workdir / name)
        return real(*args)
    assert split(workdir, *flags)[0] == 0
    before = files(workdir / "data")
    monkeypatch.setattr(splitting, "write_parts", meanwhile)
    status, _, err = split(workdir, *flags, "--overwrite")
    assert status == 1 and err.splitlines()[-1].endswith(
        f"{workdir / name} changed while it was read; run this again when nothing writes there")
    assert files(workdir / "data") == before
