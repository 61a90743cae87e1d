"""A split in partitions that is made again: --overwrite goes on where it was interrupted, and begins anew when asked.

    python -m pytest tests/preprocess/test_partitions_again.py
"""
import shutil

import pytest

from preprocess import partitions
from tests.worlds.listening import crowd, files, split_command  # noqa: F401 - a fixture

N = "--partitions", "4"


@pytest.fixture
def made(monkeypatch):
    """Numbers of the partitions that are made, in order; `made.stop` is one that ends the command."""
    class Made(list):
        stop = None
    numbers, real = Made(), partitions.Partitions._write

    def write(self, number, spill):
        if number == numbers.stop:
            raise KeyboardInterrupt
        numbers.append(number)
        return real(self, number, spill)
    monkeypatch.setattr(partitions.Partitions, "_write", write)
    return numbers


def again(split, made, workdir, *flags, stop=None):
    """Exit status of a split, and the partitions that it made."""
    made.clear()
    made.stop = stop
    status = split(workdir, *N, *flags)[0]
    return status, [*made]


def test_an_interrupted_overwrite_goes_on(tmp_path, split, made):
    workdir = crowd(tmp_path / "w")
    assert again(split, made, workdir) == (0, [0, 1, 2, 3])
    whole = files(workdir / "data")
    assert again(split, made, workdir, "--overwrite", stop=2) == (130, [0, 1])
    assert again(split, made, workdir, "--overwrite", stop=3) == (130, [2])
    assert again(split, made, workdir, "--overwrite") == (0, [3])
    assert files(workdir / "data") == whole and not (workdir / "data" / ".partitions").exists()
    assert again(split, made, workdir, "--overwrite") == (0, [0, 1, 2, 3])      # the next one is another


def test_an_overwrite_begins_with_what_was_made_without(tmp_path, split, made):
    workdir = crowd(tmp_path / "w")
    assert again(split, made, workdir, stop=3) == (130, [0, 1, 2])
    assert again(split, made, workdir, "--overwrite", stop=1) == (130, [0])
    assert again(split, made, workdir) == (0, [1, 3])       # without it all that is finished counts


def test_partitions_by_number_are_made_again_when_asked(tmp_path, split, made):
    workdir = crowd(tmp_path / "w")
    asked = "--partition", "1", "2", "3", "--overwrite"
    assert again(split, made, workdir, *asked, stop=3) == (130, [1, 2])
    assert again(split, made, workdir, *asked) == (0, [3])
    assert again(split, made, workdir, *asked) == (0, [1, 2, 3])
    assert again(split, made, workdir, "--partition", "2", "--overwrite") == (0, [2])
    assert again(split, made, workdir, "--partition", "2") == (0, [])
    assert again(split, made, workdir, "--overwrite")[0] == 0


@pytest.mark.parametrize("name", ["00001.json", "overwrite.json"])
@pytest.mark.parametrize("damage", ["", "[]", '{"bytes": "x", "token": 3}'])
def test_a_damaged_record_is_a_partition_to_be_made(tmp_path, split, made, name, damage):
    workdir = crowd(tmp_path / "w")
    assert again(split, made, workdir)[0] == 0
    whole = files(workdir / "data")
    shutil.rmtree(workdir / "data")
    assert again(split, made, workdir, "--overwrite", stop=3) == (130, [0, 1, 2])
    (folder,) = (workdir / "data" / ".partitions").iterdir()
    (folder / name).write_text(damage)
    status, numbers = again(split, made, workdir, "--overwrite")
    assert status == 0 and numbers == ([1, 3] if name == "00001.json" else [0, 1, 2, 3])
    assert files(workdir / "data") == whole
