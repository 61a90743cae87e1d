"""A workspace of five tracks, vectors for four of them, and npy.py called on files of these."""
import numpy as np
import pandas as pd
import pytest

from extract_item_embeddings import npy
from harness.errors import WorkError
from harness.files import checksum, write_text
from harness.readers import read_json

IDS = ["alpha", "beta", "delta", "gamma", "omega"]
ORDER = [3, 0, 4, 1]                      # rows of the list that the files hold, in their order: no delta
VALUES = np.arange(12, dtype=np.float64).reshape(4, 3) / 8
KEYS = [IDS[r] for r in ORDER]


@pytest.fixture(name="work")
def workspace(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    write_text(folder / "trackid_sorted.csv", "idx,trackid\n" + "".join(f"{r},{i}\n" for r, i in enumerate(IDS)))
    return folder


def run(work, *argv):
    return npy.main(["mine", *map(str, argv), "--workdir", str(work)])


def refused(work, sentence, *argv, error=WorkError):
    with pytest.raises(error, match=sentence):
        run(work, *argv)
    assert not list(work.glob("embeddings/*"))


def made(work, name="mine"):
    about = read_json(work / f"embeddings/{name}.json")
    return np.load(work / f"embeddings/{name}.npy"), about


def check(work):
    values, about = made(work)
    assert values.dtype == np.float32 and values.shape == (5, 3)
    assert np.array_equal(values[ORDER], VALUES.astype(np.float32)) and np.isnan(values[2]).all()
    assert about["failed"]["2"]["trackid"] == "delta" and about["failed"]["2"]["reason"].startswith("not in ")
    assert about["matrix_checksum"] == checksum(work / "embeddings/mine.npy")
    return about


def frame():
    return pd.DataFrame({"trackid": KEYS, **{f"v{d}": VALUES[:, d] for d in range(3)}})
