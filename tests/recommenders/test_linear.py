"""The linear and neighbour baselines against independent formulas, and their bad input."""
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import dataset
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.ties import tie_key
from recommenders import ease, elsa, ials, itemknn, popularity
from tests.worlds.world import tiny_workspace


def plays(users, items, seed=0):
    return csr_matrix((np.random.default_rng(seed).random((users, items)) < 0.15).astype(np.float32))


@pytest.mark.numeric
@pytest.mark.parametrize("shape", [(40, 150), (150, 40), (60, 60), (1100, 1300)])
@pytest.mark.parametrize("l2", [0.5, 100.0])
def test_ease_equals_the_paper_on_both_roads(shape, l2):
    """B = I - P / diag(P) with P = (X'X + l I)^-1 inverted densely in float64 (Steck 2019, equation 8)."""
    x = plays(*shape)
    p = np.linalg.inv((x.T @ x).toarray().astype(np.float64) + l2 * np.eye(shape[1]))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    model = ease.Ease(x, l2)
    assert model.dual == (shape[0] < shape[1])
    users = np.array([0, 3, shape[0] - 1])
    assert np.allclose(model.scores(users), x[users] @ b, atol=1e-9)


@pytest.mark.numeric
def test_ease_in_float32_is_close(monkeypatch):
    x = plays(80, 200)
    exact = ease.Ease(x, 20.0).scores(np.arange(80))
    monkeypatch.setattr(ease, "FLOAT64_ROWS", 10)
    assert np.allclose(ease.Ease(x, 20.0).scores(np.arange(80)), exact, atol=1e-4)


def test_ease_refuses_what_does_not_fit_before_it_starts(tiny):
    with pytest.raises(WorkError, match=r"inverts a 60 x 60 matrix and needs .* GB, but 0.0 GB are allowed"):
        ease.main(["--workdir", str(tiny), "--memory", "0.000001"])
    assert not (tiny / "preds").exists()
    with pytest.raises(UsageError, match="--l2 must be above 0"):
        ease.main(["--workdir", str(tiny), "--l2", "0"])


@pytest.mark.numeric
@pytest.mark.parametrize("shrink", [0.0, 3.0])
@pytest.mark.parametrize("block", [7, 512])
@pytest.mark.parametrize("items", [30, 900])      # few pairs in a large catalogue are listed, not looked for
def test_neighbours_by_the_plain_formula(shrink, block, items):
    x = plays(50, items)
    x = x.multiply(np.random.default_rng(1).random((50, 1)) < 0.2).tocsr() if items > 100 else x
    near = itemknn.neighbours(x, 5, shrink, block=block).toarray()
    dense = x.toarray().astype(np.float64)
    norm = np.linalg.norm(dense, axis=0)
    scale = np.outer(norm, norm) + shrink
    similarity = np.divide(dense.T @ dense, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(similarity, 0)
    for item in range(items):
        expected = np.argsort(-similarity[item], kind="stable")[:5]
        assert np.allclose(np.sort(near[item])[::-1][:5], similarity[item][expected], atol=1e-6)
        assert (near[item] > 0).sum() <= 5 and near[item, item] == 0


def test_an_item_without_plays_has_no_neighbours():
    x = csr_matrix(np.array([[1, 1, 0], [1, 1, 0]], np.float32))
    assert np.allclose(itemknn.neighbours(x, 2).toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_equally_similar_items_get_their_places_by_chance():
    """One listener played everything, so all items are alike: no item may be nobody's neighbour by its code."""
    x = csr_matrix(np.vstack([np.ones((1, 200), np.float32), np.eye(200, dtype=np.float32)]))
    one, again, other = (itemknn.neighbours(x, 20, seed=seed) for seed in (1, 1, 2))
    assert (np.diff(one.indptr) == 20).all() and (one != again).nnz == 0 and (one != other).nnz > 0
    assert (np.bincount(one.indices, minlength=200) > 0).all()
    tracks = np.random.default_rng(0).permutation(200)            # chance goes by the track, not by its code
    moved = itemknn.neighbours(x, 20, seed=1, tracks=tracks).toarray()
    back = np.zeros_like(moved)
    back[np.ix_(tracks, tracks)] = moved
    assert np.array_equal(back, one.toarray())


def test_ties_are_broken_by_the_key_that_all_rankings_use():
    """All items are alike: an item's neighbours are those whose tie_key with its own track is the least."""
    x = csr_matrix(np.ones((2, 90), np.float32))
    tracks = np.random.default_rng(1).permutation(1000)[:90]
    near = itemknn.neighbours(x, 7, seed=3, tracks=tracks)
    keys = tie_key(torch.from_numpy(tracks)[:, None], torch.from_numpy(tracks)[None, :], 3).numpy()
    np.fill_diagonal(keys, np.iinfo(np.int64).max)
    assert np.array_equal(np.sort(near.indices.reshape(90, 7)), np.sort(keys.argsort(axis=1)[:, :7]))


def solved(matrix, users, alpha, regularization):
    """Item factors that solve least squares with confidence 1 + alpha w exactly, for given user factors."""
    w = matrix.toarray().astype(np.float64)
    out = []
    for column in w.T:
        c = np.where(column > 0, 1 + alpha * column, 1)
        out.append(np.linalg.solve(users.T @ (c[:, None] * users) + regularization * np.eye(users.shape[1]),
                                   users.T @ (c * (column > 0))))
    return np.array(out)


@pytest.mark.numeric
@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_ials_weighs_a_play_by_one_plus_alpha_w(alpha):
    from types import SimpleNamespace
    x = plays(60, 30)
    x.data = np.random.default_rng(0).integers(1, 5, x.nnz).astype(np.float32)
    args = SimpleNamespace(factors=4, regularization=0.5, alpha=alpha, iterations=60, seed=3)
    model = ials.factorise(x, args)
    users, items = model.user_factors, model.item_factors
    assert np.abs(solved(x, users.astype(np.float64), alpha, 0.5) - items).max() < 1e-3
    assert np.abs(solved(x, users.astype(np.float64), alpha * 1.2, 0.5) - items).max() > 1e-2


def test_numbers_that_are_none_are_refused(tmp_path, capsys):
    tiny = tiny_workspace(tmp_path / "w")
    for module, *argv in ((itemknn, "--shrink", "nan"), (ials, "--alpha", "inf"), (ials, "--regularization", "nan"),
                          (elsa, "--lr", "nan"), (itemknn, "--shrink", "-1")):
        with pytest.raises(SystemExit) as stopped:
            cli.run(module.main, [*argv, "--workdir", str(tiny)])
        assert stopped.value.code == 2 and "must be a number of at least 0" in capsys.readouterr().err
    with pytest.raises(WorkError, match="larger --regularization or a smaller --alpha"):
        ials.main(["--workdir", str(tiny), "--alpha", "1e30"])
    assert not (tiny / "preds").exists()


def test_elsas_embedding_is_never_written_over_anothers(tmp_path):
    tiny = tiny_workspace(tmp_path / "w")
    argv = ["--workdir", str(tiny), "--factors", "4", "--epochs", "1", "--embedding"]
    content = (tiny / "embeddings" / "content.npy").read_bytes()
    with pytest.raises(UsageError, match="was not made by elsa"):
        elsa.main([*argv, "content"])
    with pytest.raises(UsageError, match="is not a name of an embedding"):
        elsa.main([*argv, "../x"])
    assert (tiny / "embeddings" / "content.npy").read_bytes() == content and not (tiny / "model_embeddings").exists()
    elsa.main([*argv, "mine"])
    path = tiny / "embeddings" / "mine.npy"
    first = path.read_bytes()
    with pytest.raises(UsageError, match="was not made by elsa"):
        elsa.main([*argv, "mine", "--seed", "2"])
    path.unlink()
    elsa.main([*argv, "mine"])
    assert path.read_bytes() == first


def test_popularity_counts_users_plays_and_recent_ones():
    day = 86_400_000_000      # microseconds
    train = dataset.Interactions(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([5, 2, 1], np.float32),
                                 np.array([0, 10 * day, 20 * day]))
    assert popularity.item_scores(train, 3).tolist() == [1, 2, 0]
    assert popularity.item_scores(train, 3, "plays").tolist() == [5, 3, 0]
    assert np.allclose(popularity.item_scores(train, 3, half_life=10), [0.5 ** 2, 0.5 ** 1 + 1, 0])


def test_elsa_approaches_the_best_linear_model(tmp_path):
    """On a planted world of four tastes its recall is that of EASE, give or take a tenth."""
    tiny = tiny_workspace(tmp_path / "w", n_users=400)
    elsa.main(["--workdir", str(tiny), "--factors", "8", "--epochs", "20", "--embedding", "elsa8", "--k", "20"])
    ease.main(["--workdir", str(tiny), "--k", "20", "--l2", "20"])
    import pandas as pd
    recall = {config["recommender"]: pd.read_csv(tiny / "metrics" / f"{name}_test.csv", index_col=0)
              .loc["mean", "Recall@20"] for name, config in runs.find_runs(tiny)}
    assert recall["elsa"] > 0.9 * recall["ease"]
    split = dataset.load(tiny)
    matrix = np.load(tiny / "embeddings/elsa8.npy")
    hot = split.tracks[:split.n_hot]
    assert np.allclose(np.linalg.norm(matrix[hot], axis=1), 1, atol=1e-5)
    assert np.isnan(np.delete(matrix, hot, axis=0)).all()


@pytest.mark.numeric
def test_elsas_gradient_is_that_of_its_loss():
    import torch
    from torch.nn.functional import normalize
    draw = np.random.default_rng(3)
    rows = (draw.random((6, 11)) < 0.4).astype(np.float32)
    rows[0] = 1                                # everything heard
    rows = csr_matrix(rows)
    factors = torch.from_numpy(draw.normal(size=(11, 4)).astype(np.float32))
    step = elsa.Step(factors)
    loss = step(rows)
    wanted = factors.clone().requires_grad_()
    x, unit = torch.from_numpy(rows.toarray()), normalize(wanted, dim=-1)
    scores = torch.relu(x @ unit @ unit.T - x)
    same = (normalize(scores, dim=-1) - normalize(x, dim=-1)).square().sum(-1).mean()
    same.backward()
    torch.testing.assert_close(loss, same.detach())
    torch.testing.assert_close(step.gradient, wanted.grad, atol=1e-6, rtol=1e-5)


def test_a_learning_rate_that_bursts_the_factors_is_said_to(tiny):
    with pytest.raises(WorkError, match="the factors are NaN or infinite; try a smaller --lr"):
        elsa.main(["--lr", "1e20", "--epochs", "2", "--workdir", str(tiny)])
    with pytest.raises(SystemExit):
        elsa.main(["--lr", "1e39", "--epochs", "2", "--workdir", str(tiny)])
