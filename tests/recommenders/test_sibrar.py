"""SiBraR: its loss term by term, profiles, which modalities an item has, and bad input."""
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import write_json
from recommenders import sibrar
from tests.worlds.factors import factor_world, value, write_embedding
from tests.worlds.factors import made as made_by
from tests.worlds.world import tiny_workspace, write_pairs
from training import network_loop

QUICK = ("--epochs", "4", "--lr", "0.01", "--factors", "16", "--weight", "0.1",
         "--batch-size", "128")
made = partial(made_by, sibrar)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The planted world, with an embedding of random values that a third of the tracks lack."""
    workdir = factor_world(tmp_path_factory.mktemp("sibrar") / "w")
    rng, n = np.random.default_rng(5), dataset.load(workdir).n_tracks
    matrix = rng.normal(size=(n, 3)).astype(np.float32)
    matrix[rng.permutation(n)[:n // 3]] = np.nan
    write_embedding(workdir, "sparse", matrix)
    return workdir


@pytest.fixture(scope="module")
def run(world):
    """(name, config) of the planted world's run, and of its control."""
    return [made(world, *QUICK, *flags) for flags in ((), ("--shuffle",))]


def training_of(split, *flags, embedding=("content", "noise")):
    """A training at its start, whose profiles are as large as the content."""
    args = sibrar.parse(["--embedding", *embedding, "--factors", "5", "--dropout", "0",
                         "--weight", "0.4", "--temperature", "2", "--negatives", "3", *flags])
    vectors, has = sibrar.modalities(split, args)
    network = sibrar.build(split, [x.shape[1] for x in vectors], args)
    for table in network["profile"], network["users"]:
        if args.users == "profile" or table is not network["users"]:
            torch.nn.init.normal_(table["rows"])
    settings = cli.settings(network_loop.Settings, args)
    return sibrar.Training(network, split, settings, vectors, has, args)


def batch(training, split, n=8):
    """Pairs of train with negatives, and two modalities of each candidate."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randperm(len(training.pairs), generator=draw)[:n]
    users, items = training.pairs.draw(rows, 3, draw)
    return users, items, sibrar.two_of(training.has[items], draw)


def expected_loss(training, split, users, items, chosen):
    """The formula of the docstring in float64, candidate by candidate, batch norm by its batch.

    Every modality that an item of the batch has is one row of the branch, the profile of a positive
    without its user another.
    """
    o = training.options
    net = {k: v.double().numpy() for k, v in training.network.state_dict().items()}
    played = split.matrix().toarray().astype(np.float64)

    def modality(item, m, without=None):
        if m == sibrar.PROFILE:
            row = played[:, item].copy()
            if without is not None:
                row[without] = 0
            return row @ net["profile.rows"] + net["profile.bias"]
        x = training.vectors[m - 1][item].double().numpy()
        return net[f"embeddings.{m - 1}.weight"] @ x + net[f"embeddings.{m - 1}.bias"]
    keys = [(int(i), m, None) for i in items.unique() for m in range(3) if training.has[i, m]]
    if o.own == "leave":
        keys += [(int(row[0]), 0, int(u)) for u, row in zip(users, items, strict=True)]
    x = np.array([modality(*key) for key in keys])
    hidden = np.maximum(x @ net["branch.1.weight"].T + net["branch.1.bias"], 0)
    y = hidden @ net["branch.3.weight"].T + net["branch.3.bias"]
    y = (y - y.mean(axis=0)) / np.sqrt(y.var(axis=0) + 1e-5)
    z = dict(zip(keys, y * net["branch.4.weight"] + net["branch.4.bias"], strict=True))
    bpr, contrast = [], []
    for u, candidates, two in zip(users.tolist(), items.tolist(), chosen.tolist(), strict=True):
        left = u if o.own == "leave" else None
        first, second = (np.array([
            z[i, pair[side], left if place == 0 and pair[side] == 0 else None]
            for place, (i, pair) in enumerate(zip(candidates, two, strict=True))])
            for side in (0, 1))
        if o.users == "id":
            user = net["users.weight"][u]
        else:
            row = played[u].copy()
            row[candidates[0]] = 0 if o.own == "leave" else 1
            user = row @ net["users.rows"] + net["users.bias"]
        scores = (first + second) @ user / 2
        bpr.append(np.log1p(np.exp(scores[1:] - scores[0])).mean())
        logits = first @ second.T / o.temperature
        contrast.append(sum((np.log(np.exp(s).sum(axis=1)) - np.diag(s)).mean()
                            for s in (logits, logits.T)))
    return np.mean(bpr) + o.weight * np.mean(contrast)


@pytest.mark.numeric
@pytest.mark.parametrize("flags", [(), ("--own", "keep"), ("--users", "id"), ("--weight", "0"),
                                   ("--missing", "skip")])
def test_the_loss_is_that_of_the_formula(world, flags):
    split = dataset.load(world)
    second = "sparse" if "--missing" in flags else "noise"
    training = training_of(split, *flags, embedding=("content", second))
    drawn = batch(training, split)
    assert training.has[drawn[1]].all() == (second == "noise")
    assert (drawn[2][:, 0] == sibrar.PROFILE).any() and (drawn[2][:, 1:] == sibrar.PROFILE).any()
    expected = expected_loss(training, split, *drawn)
    training.network.train()
    assert training.loss_with(*drawn).item() == pytest.approx(expected, rel=1e-4)  # float32 sums


def test_on_val_profiles_are_whole(world):
    """The own play is left out in training only: a pair of val is in no profile of train."""
    split = dataset.load(world)
    training, keeping = training_of(split), training_of(split, "--own", "keep")
    keeping.network.load_state_dict(training.network.state_dict())
    drawn, losses = batch(training, split), []
    for some in (training, keeping):
        some.network.eval()
        losses.append(some.loss_with(*drawn).item())
    assert losses[0] == losses[1]
    assert np.isfinite(training.validation_loss(split))
    assert training.validation_loss(split) == keeping.validation_loss(split)


@pytest.mark.parametrize("flags", [(), ("--users", "id")])
def test_gradients_reach_every_part_but_nothing_of_the_own_play(world, flags):
    split = dataset.load(world)
    training = training_of(split, *flags)
    training.network.train()
    users, items, chosen = batch(training, split, 1)
    training.loss_with(users, items, chosen * 0 + torch.tensor([0, 1])).backward()
    grads = {name: p.grad for name, p in training.network.named_parameters()}
    assert grads["embeddings.1.weight"].abs().max() > 0      # in the batch norm, though not chosen
    assert all(grads[f"{part}.weight"].abs().max() > 0 for part in ("embeddings.0", "branch.1"))
    played = torch.from_numpy(split.matrix().toarray())
    heard = (played[:, items.unique()] > 0).any(1)
    assert (grads["profile.rows"][heard].abs().sum(1) > 0).any()
    assert not grads["profile.rows"][~heard].any()
    if flags:
        assert grads["users.weight"].abs().sum(1).nonzero().flatten().tolist() == users.tolist()
    else:
        others = played[users[0]].bool()
        others[items[0, 0]] = False
        assert torch.equal(grads["users.rows"].abs().sum(1) > 0, others)


def test_two_modalities_are_drawn_without_repetition_and_evenly():
    """Of three, 3,000 times: each is in two thirds, within four standard deviations (.034)."""
    has = torch.ones(3000, 4, dtype=torch.bool)
    has[:, 2] = False
    two = sibrar.two_of(has, torch.Generator().manual_seed(0))
    assert two.shape == (3000, 2) and (two[:, 0] != two[:, 1]).all() and not (two == 2).any()
    for m in (0, 1, 3):
        assert abs((two == m).any(1).float().mean() - 2 / 3) < 0.035
        assert abs((two[:, 0] == m).float().mean() - 1 / 3) < 0.035


def test_sums_of_profiles_are_those_of_a_dense_matrix(world):
    split = dataset.load(world)
    matrix = split.matrix()
    matrix.data[matrix.indptr[3]:matrix.indptr[4]] = 0
    matrix.eliminate_zeros()   # user 3 has played nothing
    table = torch.randn(split.n_hot, 4, generator=torch.Generator().manual_seed(0))
    bags = sibrar.Bags(matrix)
    for rows in ([5, 3, 5, 0], [3], [3, 3], [split.n_users - 1], []):
        rows = torch.tensor(rows, dtype=torch.int64)
        expected = torch.from_numpy(matrix[rows.numpy()].toarray()) @ table
        assert torch.allclose(bags.sums(rows, table), expected, atol=1e-5)   # float32, a dozen


# --------------------------------------------------------------------- what is learned and ranked

def test_cold_items_are_found_by_content_and_not_by_the_wrong_content(world, run):
    """Of three seeds Recall@10 was 2.0 to 2.1 times chance, of the controls .9 to 1.0 times."""
    (real, config), (control, _) = run
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control and config["selected_by"] == "NDCG@10"
    assert value(world, real, "cold_test", "Recall@10") > 1.7 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.5 * chance
    assert value(world, real, "all_test") > value(world, control, "all_test")


def test_an_item_is_the_mean_over_the_modalities_it_has(world):
    """A cold one over its content; alone or in blocks, as batch norm uses what training saw."""
    split = dataset.load(world)
    training = training_of(split)
    training.network.train()
    training.loss_with(*batch(training, split))
    training.network.eval()
    table = training.table()
    with torch.no_grad():
        for item in (0, split.n_hot - 1, split.n_hot, split.n_items - 1):
            encoded = training.network["branch"](training.inputs(torch.tensor([item]))[0])
            expected = encoded[0 if item < split.n_hot else 1:].mean(0)
            assert torch.allclose(table[item], expected, atol=1e-5)
        assert torch.allclose(training.table(block=50), table, atol=1e-5)
    assert not training.has[split.n_hot:, sibrar.PROFILE].any() and training.has[:, 1:].all()


def test_all_parts_have_the_scores_of_one_table(world, run):
    (name, _), _ = run
    every, test, cold = (pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
                         for part in ("all_test", "test", "cold_test"))
    for part in (test, cold):
        both = every.merge(part, on=["user_id", "track_id"], suffixes=("", "_part"))
        assert len(both) > 100
        assert np.abs(both.score - both.score_part).max() < 1e-3   # float32, |score| < 100


def test_a_history_of_an_item_without_plays_in_train_says_nothing(tmp_path):
    """Nothing is learned of its row, which a user's profile holds at test where val is history."""
    workdir = tiny_workspace(tmp_path / "w")
    val = pd.read_parquet(workdir / "data" / "val.pqt")
    write_pairs(workdir, "val", np.append(val.user_id, val.user_id[0]), np.append(val.track_id, 0))
    rules = {"history": {"test": ["train", "val"]}, "unseen": "keep"}
    write_json(workdir / "data" / "rules.json", rules)
    split = dataset.load(workdir)
    args = sibrar.parse(["--embedding", "content"])
    vectors, has = sibrar.modalities(split, args)
    network = sibrar.build(split, [8], args)
    rows = network["users"]["rows"]
    assert split.unseen.sum() == 1 and not rows[split.unseen].any() and rows[~split.unseen].all()
    settings = cli.settings(network_loop.Settings, args)
    training = sibrar.Training(network, split, settings, vectors, has, args)
    training.learn(torch.arange(64))
    assert not rows[split.unseen].any()
    assert not training.has[:split.n_hot][split.unseen, sibrar.PROFILE]


def test_a_play_of_val_is_in_the_history_that_test_is_ranked_by(tmp_path):
    split = dataset.load(tiny_workspace(tmp_path / "w"))
    training = training_of(split, embedding=("content",))
    user = int(split.part("val").user[0])
    items = split.part("val").item[split.part("val").user == user]
    longer = split.matrix().tolil()
    longer[user, items] = 1
    before, after = training.listeners(split.matrix()), training.listeners(longer.tocsr())
    rows = training.network["users"]["rows"]
    assert torch.allclose(after[user] - before[user], rows[items].sum(0), atol=1e-5)
    assert (before != after).any(1).nonzero().flatten().tolist() == [user]


# --------------------------------------------------------------------------- bad input

def test_content_that_is_constant_ranks_cold_items_by_chance(world):
    write_embedding(world, "flat", np.full((dataset.load(world).n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, "--epochs", "1", embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert (preds.groupby("user_id").score.nunique() == 1).all()


def test_a_track_may_lack_one_of_several_embeddings(world):
    """Skipped, its vector is that of its other modalities: what fills its row is read nowhere."""
    split = dataset.load(world)
    matrix = np.random.default_rng(0).normal(size=(split.n_tracks, 5)).astype(np.float32)
    lacking = np.append(split.tracks[:4], split.tracks[split.n_hot:][:3])
    matrix[lacking] = np.nan
    write_embedding(world, "holes", matrix)
    flags = ["--embedding", "content", "holes", "--epochs", "1", "--workdir", str(world)]
    with pytest.raises(WorkError, match="embedding 'holes' has no row for 7 of the 235 tracks"):
        sibrar.main(flags)
    for more in (["--missing", "skip"], ["--missing", "skip", "--shuffle"], ["--missing", "mean"]):
        sibrar.main([*flags, *more])
    training = training_of(split, "--missing", "skip", embedding=("content", "holes"))
    has = training.has[:, 2].numpy()
    assert np.array_equal(np.sort(split.tracks[~has]), np.sort(lacking))
    hot = training.vectors[1][:split.n_hot][has[:split.n_hot]]
    assert hot.square().sum(1).mean().item() == pytest.approx(1, rel=1e-5)      # of the rows that there are
    before = training.network.eval() and training.table()
    training.vectors[1][~has] = 99.0
    assert torch.equal(training.table(), before)
    shuffled = training_of(split, "--missing", "skip", "--shuffle", "--seed", "3",
                           embedding=("content", "holes"))
    assert torch.equal(shuffled.has, training.has)          # rows are exchanged among the tracks that have one
    with pytest.raises(WorkError, match="7 of the 235 tracks of this split have no row in any of"):
        made(world, "--missing", "skip", embedding="holes")


def test_without_an_embedding_it_is_one_sentence(world):
    with pytest.raises(UsageError, match="--embedding is needed"):
        sibrar.main(["--workdir", str(world)])
