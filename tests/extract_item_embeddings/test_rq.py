"""Semantic IDs: residual k-means codes of an embedding, their sums as a representation, and what is refused."""
import json

import numpy as np
import pandas as pd
import pytest

from extract_item_embeddings import rq
from harness.errors import UsageError, WorkError
from recommenders.sasrec import __main__ as sasrec
from tests.worlds.world import tiny_workspace, write_embedding, write_tracks


@pytest.fixture
def world(tmp_path):
    write_tracks(tmp_path, 60)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 6)) * 10
    vectors = centres[np.arange(60) % 4] + rng.normal(size=(60, 6)) * 0.1
    vectors[7] = np.nan
    write_embedding(tmp_path, "content", vectors.astype(np.float32))
    return tmp_path


def make(world, *argv):
    rq.main(["content", "--workdir", str(world), *argv])
    return (np.load(world / "embeddings" / "content-rq.npy"),
            pd.read_parquet(world / "embeddings" / "content-rq_codes.pqt"),
            json.loads((world / "embeddings" / "content-rq.json").read_text()))


def test_the_codes_find_planted_clusters_and_the_vector_is_a_function_of_them(world):
    vectors, codes, about = make(world, "--levels", "2", "--codes", "16")
    assert list(codes) == ["track_id", "code_1", "code_2"] and 7 not in set(codes.track_id)
    assert np.isnan(vectors[7]).all() and np.isfinite(np.delete(vectors, 7, axis=0)).all()
    cluster = codes.track_id % 4
    assert (cluster.groupby(codes.code_1).nunique() == 1).all()      # no centroid stands between two clusters
    own = pd.DataFrame(vectors[codes.track_id]).groupby([codes.code_1, codes.code_2]).nunique()
    assert (own == 1).all(axis=None)
    assert about["distinct_ids"] == len(codes.drop_duplicates(["code_1", "code_2"])) and about["variance_left"] < 0.01


def test_each_level_takes_the_nearest_centroid_of_what_the_levels_before_left(world):
    """Against the centroids as faiss holds them, computed here in float64."""
    x = rq.prepared(np.delete(np.load(world / "embeddings" / "content.npy"), 7, axis=0), 128)
    codes, sums = rq.quantise(x, 3, 8, 1)
    left = x.astype(np.float64)
    for level in range(3):
        centroid = {}
        for code in np.unique(codes[:, level]):
            centroid[code] = left[codes[:, level] == code].mean(axis=0)   # of k-means at its end, but for its tolerance
        left = left - np.stack([centroid[code] for code in codes[:, level]])
    np.testing.assert_allclose(x - left, sums, atol=0.05)   # k-means stops before its centroids are exactly the means


def test_more_levels_leave_less(world):
    left = [make(world, "--levels", str(n), "--codes", "8", "--overwrite")[2]["variance_left"] for n in (1, 2, 3)]
    assert left[0] > left[1] > left[2]


def test_a_second_call_is_skipped_and_other_settings_are_refused(world, capsys):
    make(world, "--codes", "8")
    before = (world / "embeddings" / "content-rq.npy").stat().st_mtime_ns
    make(world, "--codes", "8")
    assert (world / "embeddings" / "content-rq.npy").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="other settings"):
        make(world, "--codes", "16")
    with pytest.raises(UsageError, match="other settings"):      # whether or not the IDs are there
        (world / "embeddings" / "content-rq_codes.pqt").unlink()
        make(world, "--codes", "16")
    capsys.readouterr()
    make(world, "--codes", "8")
    assert "made again, because content-rq_codes.pqt changed since" in capsys.readouterr().err


def test_an_embedding_of_another_origin_is_not_overwritten(world):
    write_embedding(world, "own", np.eye(60, 4, dtype=np.float32))
    before = (world / "embeddings" / "own.npy").read_bytes()
    with pytest.raises(UsageError, match="other settings|without the json"):
        rq.main(["content", "--codes", "8", "--name", "own", "--workdir", str(world)])
    assert (world / "embeddings" / "own.npy").read_bytes() == before
    assert not (world / "embeddings" / "own_codes.pqt").exists()


def test_a_killed_overwrite_leaves_no_codes_of_another_request_as_finished(world, monkeypatch):
    make(world, "--codes", "8", "--levels", "3")

    def killed(path, source):
        write(path, source)
        raise KeyboardInterrupt
    write = rq.write_codes
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rq, "write_codes", killed)
        make(world, "--codes", "8", "--levels", "4", "--overwrite")
    with pytest.raises(UsageError, match="without the json"):
        make(world, "--codes", "8", "--levels", "3")
    vectors, codes, about = make(world, "--codes", "8", "--levels", "3", "--overwrite")
    assert list(codes) == ["track_id", "code_1", "code_2", "code_3"] and about["levels"] == 3


def test_wide_vectors_are_brought_to_dim_and_constant_columns_are_zero(world):
    wide = np.random.default_rng(1).normal(size=(60, 40)).astype(np.float32)
    wide[:, 3] = 7
    write_embedding(world, "content", wide)
    assert make(world, "--codes", "4", "--dim", "5")[0].shape == (60, 5)
    assert not rq.prepared(wide, 128)[:, 3].any()


@pytest.mark.trains
def test_sasrec_reads_them_beside_ids(tmp_path):
    world = tiny_workspace(tmp_path / "w")
    rq.main(["content", "--codes", "8", "--workdir", str(world)])
    sasrec.main(["content-rq", "--fusion", "concat", "--epochs", "1", "--hidden-dim", "8", "--workdir", str(world)])
    assert list((world / "preds").glob("sasrec_content-rq*_cold_test.pqt"))


@pytest.mark.parametrize("codes", ["3", "1", "131072", "x"])
def test_a_number_of_codes_that_is_no_power_of_2_is_refused(world, codes, capsys):
    with pytest.raises(SystemExit) as stop:
        make(world, "--codes", codes)
    assert stop.value.code == 2 and "--codes" in capsys.readouterr().err


def test_a_codebook_larger_than_the_number_of_items_is_refused(world):
    with pytest.raises(WorkError, match="59 tracks, fewer than the 64 centroids of a level; give --codes 32 or fewer"):
        make(world, "--codes", "64")
    one = np.full((60, 6), np.nan, np.float32)
    one[0] = 1
    write_embedding(world, "content", one)
    with pytest.raises(WorkError, match="nothing to quantise"):
        make(world, "--codes", "2")


def test_an_unknown_embedding_and_its_own_name_are_refused(world):
    with pytest.raises(UsageError, match="other"):
        rq.main(["other", "--workdir", str(world)])
    with pytest.raises(UsageError, match="the embedding itself"):
        make(world, "--name", "content")
