"""Principal components of an embedding as a representation of its own."""
import json

import numpy as np
import pytest

from extract_item_embeddings import pca
from harness.errors import UsageError, WorkError
from tests.worlds.world import write_embedding, write_tracks


@pytest.fixture
def world(tmp_path):
    write_tracks(tmp_path, 50)
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 3)) * [9, 4, 1]) @ rng.normal(size=(3, 8)) + 5
    vectors[[3, 9]] = np.nan
    write_embedding(tmp_path, "content", vectors.astype(np.float32))
    return tmp_path


def make(world, name, *argv):
    pca.main(["content", "--workdir", str(world), *argv])
    return np.load(world / "embeddings" / f"{name}.npy"), json.loads(
        (world / "embeddings" / f"{name}.json").read_text())


def own(world):
    return np.delete(np.load(world / "embeddings" / "content.npy"), [3, 9], axis=0).astype(np.float64)


def test_components_are_those_of_the_singular_vectors(world):
    vectors, about = make(world, "content-pca2", "--dim", "2")
    x = own(world) - own(world).mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    found = np.delete(vectors, [3, 9], axis=0)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), atol=1e-4)   # values up to 50 in float32
    assert np.isnan(vectors[[3, 9]]).all()
    assert about["variance_kept"] == pytest.approx((s[:2] ** 2).sum() / (s ** 2).sum(), abs=1e-6)


def test_all_components_keep_the_cosines_of_the_centred_vectors(world):
    vectors, _ = make(world, "content-pca8")
    x, y = own(world) - own(world).mean(axis=0), np.delete(vectors, [3, 9], axis=0)
    assert y.shape == x.shape
    one, two = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    np.testing.assert_allclose(one @ one.T, two @ two.T, atol=1e-5)   # float32


def test_whitened_components_have_a_spread_of_1_and_those_beyond_the_rank_are_zero(world):
    vectors, _ = make(world, "content-pca8w", "--dim", "8", "--whiten")
    y = np.delete(vectors, [3, 9], axis=0).astype(np.float64)
    np.testing.assert_allclose(np.cov(y[:, :3].T), np.eye(3), atol=1e-4)   # float32 input
    assert np.abs(y[:, 4:]).max() == 0 or np.cov(y.T)[4:, 4:].max() < 2    # rank 3 but for float32 rounding


def test_standardised_columns_weigh_alike(world):
    matrix = np.load(world / "embeddings" / "content.npy")
    matrix[:, 0] *= 1e4
    write_embedding(world, "content", matrix)
    vectors, _ = make(world, "content-pca3s", "--dim", "3", "--standardise")
    x = own(world)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    s = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(np.delete(vectors, [3, 9], axis=0), axis=0), s[:3], rtol=1e-4)  # float32


def test_fewer_tracks_than_dimensions_and_constant_columns(world):
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(50, 80)).astype(np.float32)
    wide[:, 0] = 3
    write_embedding(world, "content", wide)
    vectors, _ = make(world, "content-pca80w", "--dim", "80", "--whiten")
    assert np.isfinite(vectors).all() and not vectors[:, 49:].any()      # 50 centred rows have rank 49


def test_the_same_call_twice_is_skipped_and_bad_names_are_refused(world, capsys):
    make(world, "content-pca4", "--dim", "4")
    make(world, "content-pca4", "--dim", "4")
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(UsageError, match="the embedding itself"):
        make(world, "content", "--name", "content")
    with pytest.raises(UsageError, match="other"):
        pca.main(["other", "--workdir", str(world)])


def test_more_components_than_dimensions_are_refused(world):
    with pytest.raises(UsageError, match="--dim 64: content has 8 dimensions and no more principal components; --dim"):
        make(world, "content-pca64", "--dim", "64")
    assert not (world / "embeddings" / "content-pca64.npy").exists()


def test_vectors_that_are_all_equal_are_refused(world):
    for row in (np.zeros(4), np.linspace(.1, .7, 4)):
        vectors = np.tile(row, (50, 1)).astype(np.float32)
        vectors[3] = np.nan
        write_embedding(world, "content", vectors)
        with pytest.raises(WorkError, match="content.npy has no variance: its 49 vectors are all equal"):
            make(world, "content-pca4")


def test_an_embedding_without_a_finite_vector_is_refused(world):
    write_embedding(world, "content", np.full((50, 4), np.nan, np.float32))
    with pytest.raises(WorkError, match="no track with a finite vector"):
        make(world, "content-pca4")
