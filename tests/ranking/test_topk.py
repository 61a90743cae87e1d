"""topk: nothing seen, nothing twice, exact, ties fair, memory bounded by blocks."""
import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import ties
from harness.errors import WorkError
from harness.files import write_json
from ranking import topk
from tests.worlds.world import hidden_pairs


@pytest.fixture
def split(tiny):
    return dataset.load(tiny)


@pytest.fixture
def both(tiny):
    """The same split with all_test."""
    write_json(tiny / "data" / "rules.json", {"history": {}, "unseen": "drop", "all_test": True})
    return dataset.load(tiny)


def scorer(split, part, seed=0):
    n = split.candidates(part).stop - split.candidates(part).start
    matrix = np.random.default_rng(seed).normal(size=(split.n_users, n)).astype(np.float32)
    return matrix, lambda codes: matrix[codes]


@pytest.mark.numeric
@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 64 << 20])
def test_lists_are_the_best_unseen_items(split, tiny, part, block_bytes):
    matrix, scores = scorer(split, part)
    preds = topk.recommend(split, part, 10, scores=scores, block_bytes=block_bytes)
    tracks = split.tracks[split.candidates(part)]
    hidden = hidden_pairs(tiny, part)
    for code in split.eval_users(part):
        mine = preds[preds.user_id == split.users[code]]
        known = np.array([(split.users[code], track) in hidden for track in tracks])
        expected = np.argsort(-np.where(known, -np.inf, matrix[code]))[:10]
        assert mine.track_id.tolist() == tracks[expected].tolist()
        assert mine["rank"].tolist() == list(range(10))
        assert np.array_equal(mine.score, matrix[code][expected])
    assert set(preds.user_id) == set(split.users[split.eval_users(part)])


def test_test_hides_train_and_val_val_hides_train(split, tiny):
    both = np.intersect1d(*(pd.read_parquet(tiny / "data" / f"{part}.pqt").user_id for part in ("val", "test")))
    assert len(both) >= split.n_users // 3  # else hiding val from the lists of test shows nothing
    for part in ("val", "test"):
        hidden = hidden_pairs(tiny, part)
        preds = topk.recommend(split, part, split.n_hot, scores=scorer(split, part)[1])
        pairs = {*zip(preds.user_id, preds.track_id, strict=True)}
        assert not pairs & hidden
        n_hidden = sum(user in set(preds.user_id) for user, _ in hidden)
        assert len(pairs) + n_hidden == preds.user_id.nunique() * split.n_hot  # whatever is not hidden is ranked


def test_lists_hold_no_duplicates_and_no_padding(split):
    preds = topk.recommend(split, "test", 10_000, scores=scorer(split, "test")[1])
    assert not preds.duplicated(["user_id", "track_id"]).any()
    assert preds.track_id.min() >= 0
    assert (preds.groupby("user_id").size() < split.n_hot).all()  # k beyond the catalogue: shorter lists, no filler


def test_minus_infinity_is_never_recommended(split):
    def only_three(codes):
        scores = np.full((len(codes), split.n_hot), -np.inf, np.float32)
        scores[:, :3] = 1.0
        return scores
    preds = topk.recommend(split, "test", 10, scores=only_three)
    assert set(preds.track_id) <= set(split.tracks[:3])


def test_nan_scores_are_an_error(split):
    with pytest.raises(WorkError, match="not numbers"):
        topk.recommend(split, "test", 5, scores=lambda codes: np.full((len(codes), split.n_hot), np.nan))


def test_the_scorers_memory_is_left_alone(split):
    matrix, scores = scorer(split, "test")
    before = matrix.copy()
    topk.recommend(split, "test", 5, scores=lambda codes: torch.as_tensor(matrix)[:len(codes)])
    assert np.array_equal(matrix, before)


@pytest.mark.numeric
@pytest.mark.parametrize("rows, n, levels", [(25, 400, 3), (25, 4000, 2000), (25, 4013, 2000), (5, 3000, 1)])
def test_ties_follow_each_users_own_order(rows, n, levels):
    """Against an independent full sort by (-score, key); levels steer sparse and dense ties."""
    rng = np.random.default_rng(1)
    matrix = torch.as_tensor(rng.integers(levels, size=(rows, n)).astype(np.float32))
    users, tracks = torch.arange(rows) * 7 + 5, torch.as_tensor(rng.permutation(10 * n)[:n])
    key = ties.tie_key(users[:, None], tracks[None, :], 3).numpy()
    for k in (1, 7, 50, n - 1, n):
        value, column = topk.top(matrix, k, users, tracks, 3)
        for r in range(rows):
            expected = np.lexsort((key[r], -matrix[r].numpy()))[:k]
            assert np.array_equal(column[r].numpy(), expected)
            assert np.array_equal(value[r].numpy(), matrix[r].numpy()[expected])


@pytest.mark.numeric
def test_tie_order_does_not_depend_on_blocks_or_company(split):
    constant = lambda codes: np.zeros((len(codes), split.n_hot), np.float32)  # noqa: E731
    whole = topk.recommend(split, "test", 10, scores=constant)
    pd.testing.assert_frame_equal(whole, topk.recommend(split, "test", 10, scores=constant, block_bytes=1))
    other = topk.recommend(split, "test", 10, seed=43, scores=constant)
    assert not whole.track_id.equals(other.track_id)


@pytest.mark.numeric
def test_a_constant_scorer_has_the_figures_of_chance():
    """2,000 users, 500 items, lists of 20: each item is listed 20/500 of the time, no list is shared."""
    users, tracks = torch.arange(2000), torch.arange(500)
    _, column = topk.top(torch.zeros(2000, 500), 20, users, tracks, 0)
    share = torch.bincount(column.flatten(), minlength=500).double() / 2000
    deviation = (0.04 * 0.96 / 2000) ** 0.5
    assert abs(share.mean() - 20 / 500) < 1e-12
    assert (share - 0.04).abs().max() < 5 * deviation
    assert len({tuple(sorted(row)) for row in column.tolist()}) == 2000


@pytest.mark.numeric
def test_equal_vectors_tie_exactly_and_give_chance(split):
    """A constant embedding must not rank by the rounding of a matrix product."""
    items = np.full((split.n_items, 33), 0.1, np.float32)
    users = np.random.default_rng(0).normal(size=(split.n_users, 33)).astype(np.float32)
    by_vectors = topk.recommend(split, "test", 10, users=users, items=items)
    constant = topk.recommend(split, "test", 10, scores=lambda c: np.zeros((len(c), split.n_hot), np.float32))
    assert by_vectors.track_id.equals(constant.track_id)


@pytest.mark.numeric
def test_vectors_and_a_function_of_users_agree(split):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(split.n_users, 6)), rng.normal(size=(split.n_items, 6))
    one = topk.recommend(split, "cold_test", 5, users=users, items=items)
    two = topk.recommend(split, "cold_test", 5, users=lambda codes: users[codes], items=torch.as_tensor(items))
    dense = users @ items[split.candidates("cold_test")].T
    three = topk.recommend(split, "cold_test", 5, scores=lambda codes: dense[codes])
    pd.testing.assert_frame_equal(one, two)
    assert one.track_id.equals(three.track_id)
    assert np.allclose(one.score, three.score, atol=1e-5)


@pytest.mark.numeric
def test_a_catalogue_wider_than_a_tile_is_multiplied_whole(split, monkeypatch):
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(split.n_users, 6)), rng.normal(size=(split.n_items, 6))
    whole = topk.recommend(split, "test", 5, users=users, items=items)
    monkeypatch.setattr(topk, "TILE", 7)
    tiled = topk.recommend(split, "test", 5, users=users, items=items, block_bytes=4 * 3 * split.n_hot)
    assert whole.track_id.equals(tiled.track_id) and np.allclose(whole.score, tiled.score, atol=1e-5)


def test_nan_among_many_columns_is_seen():
    matrix = torch.zeros(2, 5000)
    matrix[1, 4321] = torch.nan
    value, _ = topk.top(matrix, 3, torch.arange(2), torch.arange(5000), 0)
    assert not torch.isnan(value[0]).any() and torch.isnan(value[1]).any()


def test_rows_that_share_a_hash_stay_apart(monkeypatch):
    matrix = np.array([[1, 0], [0, 1], [1, 0], [-0.0, 1]], np.float32)

    class Ones:
        def integers(self, high, size, dtype):
            return np.ones(size, dtype)
    for _ in range(2):
        distinct, index = topk.distinct_rows(matrix)
        assert len(distinct) == 2 and np.array_equal(distinct[index], matrix)
        monkeypatch.setattr(np.random, "default_rng", lambda seed: Ones())  # now all rows have one hash


# --------------------------------------------------------------------------- catalogues that are read in tiles

@pytest.fixture
def narrow(monkeypatch):
    """Tiles of seven columns, and every catalogue is a large one."""
    monkeypatch.setattr(topk, "WIDE", 0)
    monkeypatch.setattr(topk, "TILE", 7)


def whole_vectors(split, kind, dim=6, seed=0):
    """Small whole numbers, so that scores are exact whatever the order of a sum; `repeated` rows occur often."""
    rng = np.random.default_rng(seed)
    items = rng.integers(-3, 4, (split.n_items, dim)).astype(np.float16)
    if kind == "repeated":
        items[rng.random(split.n_items) < 0.4] = items[0]
    return rng.integers(-3, 4, (split.n_users, dim)).astype(np.float32), items


@pytest.mark.parametrize("kind", ["drawn", "repeated"])
@pytest.mark.parametrize("part", ["val", "test", "cold_test"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 64 << 20])
def test_tiles_give_the_lists_of_one_product(split, tmp_path, request, part, kind, block_bytes):
    users, items = whole_vectors(split, kind)
    n = len(range(*split.candidates(part).indices(split.n_items)))
    last = np.random.default_rng(1).random(n) < 0.2
    expected = topk.recommend(split, part, 12, users=users, items=items, last=last)
    request.getfixturevalue("narrow")
    np.save(tmp_path / "items.npy", items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    got = topk.recommend(split, part, 12, users=lambda codes: users[codes], items=mapped, last=last,
                         block_bytes=block_bytes)
    pd.testing.assert_frame_equal(got, expected)


@pytest.mark.parametrize("kind", ["drawn", "repeated"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 64 << 20])
def test_tiles_of_hot_items_alone_put_the_cold_ones_last(both, request, kind, block_bytes):
    """In all_test, as in one product; elsewhere items without a row are an error of the caller."""
    users, items = whole_vectors(both, kind)
    hot, last = items[:both.n_hot], np.arange(both.n_items) >= both.n_hot
    last = last[both.candidates("all_test")]
    expected = topk.recommend(both, "all_test", both.n_hot + 3, users=users, items=hot, last=last)
    request.getfixturevalue("narrow")
    got = topk.recommend(both, "all_test", both.n_hot + 3, users=users, items=hot, last=last, block_bytes=block_bytes)
    pd.testing.assert_frame_equal(got, expected)
    with pytest.raises(ValueError, match="items of cold_test must be"):
        topk.recommend(both, "cold_test", 3, users=users, items=hot)


def test_equal_rows_of_different_tiles_tie_exactly(split, narrow):
    """One vector for all: whatever the rounding of a product, the lists are those of chance."""
    vector = np.random.default_rng(0).normal(size=40).astype(np.float32)
    items = np.tile(vector, (split.n_items, 1))
    preds = topk.recommend(split, "test", 5, users=np.tile(vector, (split.n_users, 1)), items=items)
    assert preds.groupby("user_id")["score"].nunique().eq(1).all()
    assert preds["track_id"].nunique() > split.n_hot // 2


def test_tiles_keep_rows_that_share_a_hash_apart(split, narrow, monkeypatch):
    users, items = whole_vectors(split, "repeated")
    expected = topk.recommend(split, "test", 8, users=users, items=items)
    monkeypatch.setattr(topk, "_hashes", lambda matrix: np.zeros(len(matrix), np.uint64))
    pd.testing.assert_frame_equal(topk.recommend(split, "test", 8, users=users, items=items), expected)


def test_tiles_refuse_what_is_not_a_number(split, narrow):
    users, items = whole_vectors(split, "drawn")
    items[split.n_hot // 2] = np.nan
    with pytest.raises(WorkError, match="scores are not numbers"):
        topk.recommend(split, "test", 3, users=users, items=items)
