"""show.py and report.py with a file that is no sound, and vectors that float32 does not hold: one sentence each."""
import warnings

import numpy as np
import pytest

import report
import show
from harness import cli
from harness.readers import narrowed
from tests.worlds.world import tiny_workspace, write_embedding

N = 80


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_workspace(tmp_path_factory.mktemp("unusable") / "w")


def ended(main, argv, capsys):
    capsys.readouterr()
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        warnings.simplefilter("error")
        cli.run(main, list(map(str, argv)))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", ["vectors.npy", "ids.txt", "sound"])
def test_a_file_that_is_no_sound_is_named(workdir, tmp_path, capsys, name):
    np.save(tmp_path / "vectors.npy", np.zeros((3, 2)))
    (tmp_path / name).write_bytes((tmp_path / "vectors.npy").read_bytes())
    code, err = ended(show.main, ["audio", tmp_path / name, "--workdir", workdir], capsys)
    assert code == 2 and f"{tmp_path / name} is no sound file by its ending" in err and err.count("\n") == 1


@pytest.mark.parametrize("value", [1e300, 1e25, 1e-300])
def test_vectors_beyond_float32_are_one_sentence(workdir, capsys, value):
    vectors = np.random.default_rng(0).normal(size=(N, 4))
    vectors[5] = value
    write_embedding(workdir, "big", vectors)
    try:
        track = (workdir / "trackid_sorted.csv").read_text().split()[4].partition(",")[2]
        for main, words in ((show.main, ["track", track]), (show.main, ["listener", track]), (report.main, [])):
            code, err = ended(main, [*words, "--workdir", workdir], capsys)
            assert code == 1 and "embedding 'big': the vectors of 1 tracks are too long or too short" in err
            assert "RuntimeWarning" not in err and err.splitlines()[-1].count("float32 arithmetic") == 1
        assert not (workdir / "report" / "index.html").exists()
        assert ended(show.main, ["track", track, "--embedding", "content", "--workdir", workdir], capsys) == (0, "")
    finally:
        for suffix in ("npy", "json"):
            (workdir / "embeddings" / f"big.{suffix}").unlink()


def test_narrowed_keeps_gaps_zeros_and_the_array_itself():
    given = np.array([[np.nan, 1], [0, 0], [np.inf, 1e300], [3, 4]])
    with np.errstate(all="raise"):
        assert np.array_equal(narrowed(given[[0, 1, 3]], "x"), given[[0, 1, 3]].astype(np.float32), equal_nan=True)
    own = np.ones((2, 3), np.float32)
    assert narrowed(own, "x") is own and narrowed(np.zeros((0, 3)), "x").shape == (0, 3)
