"""CLCRec: its loss term by term, what each trains, what an item is ranked by, and bad input."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness.errors import UsageError, WorkError
from recommenders import clcrec
from tests.worlds.factors import factor_world, value, write_embedding
from tests.worlds.factors import made as made_by
from training import network_loop

QUICK = ("--epochs", "12", "--negatives", "32", "--lr", "0.01", "--factors", "16")
SETTINGS = network_loop.Settings(lr=0.01, l2=0.0, batch_size=64, epochs=3, patience=3,
                                 stop_on="loss", seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return factor_world(tmp_path_factory.mktemp("clcrec") / "w")


@pytest.fixture(scope="module")
def run(world):
    """(name, config) of the planted world's run, and of its control."""
    return [made(world, *QUICK, *flags) for flags in ((), ("--shuffle",))]


made = partial(made_by, clcrec)


def training_of(split, **changed):
    """A training at its start, with ID vectors so long that every term counts."""
    options = SimpleNamespace(**{"temperature": 0.7, "balance": 0.3, "mask": 0.5, "negatives": 5,
                                 "reg": 0.2, "hot": "id"} | changed)
    features = torch.randn(split.n_items, 6, generator=torch.Generator().manual_seed(0))
    network = clcrec.build(split.n_users, split.n_hot, 6, 4, seed=3)
    for name in ("user_ids", "item_ids"):
        torch.nn.init.normal_(network[name].weight)
    return clcrec.Training(network, split, SETTINGS, features, options)


def batch(split, n=7, negatives=5):
    rng = np.random.default_rng(1)
    drawn = (rng.integers(0, split.n_users, n), rng.integers(0, split.n_hot, (n, 1 + negatives)),
             rng.random((n, 1 + negatives)) < 0.5)
    return tuple(map(torch.from_numpy, drawn))


def expected_loss(training, users, items, masked):
    """The formula of the docstring in float64, pair by pair."""
    o, state = training.options, training.network.state_dict()
    net = {k: v.double().numpy() for k, v in state.items()}
    hidden = training.features.double().numpy() @ net["content.0.weight"].T + net["content.0.bias"]
    f = np.where(hidden > 0, hidden, 0.01 * hidden) @ net["content.2.weight"].T
    f += net["content.2.bias"]
    p, q, first, second, lengths = net["user_ids.weight"], net["item_ids.weight"], [], [], []
    for u, candidates, hidden_ids in zip(*(x.numpy() for x in (users, items, masked)), strict=True):
        anchor = q[candidates[0]] / np.linalg.norm(q[candidates[0]])
        by_item = np.array([anchor @ f[j] / np.linalg.norm(f[j]) for j in candidates])
        by_item /= o.temperature
        by_user = np.array([p[u] @ (f[j] if m else q[j])
                            for j, m in zip(candidates, hidden_ids, strict=True)]) / o.temperature
        first.append(-by_item[0] + np.log(np.exp(by_item).sum()))
        second.append(-by_user[0] + np.log(np.exp(by_user).sum()))
        lengths.append((np.linalg.norm(p[u]) + np.linalg.norm(q[candidates], axis=1).mean()) / 2)
    first, second, lengths = map(np.mean, (first, second, lengths))
    return o.balance * first + (1 - o.balance) * second + o.reg * lengths


@pytest.mark.numeric
@pytest.mark.parametrize("changed", [{}, {"balance": 0.0, "reg": 0.0}, {"balance": 1.0, "reg": 0.0},
                                     {"temperature": 2.0}])
def test_the_loss_is_that_of_the_formula(world, changed):
    split = dataset.load(world)
    training = training_of(split, **changed)
    loss = training.loss_with(*batch(split))
    expected = expected_loss(training, *batch(split))
    assert loss.item() == pytest.approx(expected, rel=1e-5)   # sums of float32


@pytest.mark.numeric
@pytest.mark.parametrize("items", [20, clcrec.FEW * 6 + 1])
def test_products_by_either_form_are_those_of_each_row(items):
    draw = torch.Generator().manual_seed(0)
    anchors, vectors = torch.randn(7, 4, generator=draw), torch.randn(items, 4, generator=draw)
    place = torch.randint(items, (7, 6), generator=draw)
    found = clcrec.products(anchors, vectors, place)
    expected = [[float(anchor.double() @ vectors[at].double()) for at in row]
                for anchor, row in zip(anchors, place, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)   # sums of four float32 products


@pytest.mark.parametrize("balance, masked, moved", [
    (1.0, None, {"item_ids", "content"}),        # the loss between IDs and content knows no users
    (0.0, True, {"user_ids", "content"}),        # all candidates are f(content)
    (0.0, False, {"user_ids", "item_ids"}),
    (0.5, None, {"user_ids", "item_ids", "content"})])
def test_gradients_reach_what_a_term_is_of(world, balance, masked, moved):
    split = dataset.load(world)
    training = training_of(split, balance=balance, reg=0.0)
    users, items, mask = batch(split)
    mask = mask if masked is None else torch.full_like(mask, masked)
    training.loss_with(users, items, mask).backward()
    reached = {name.split(".")[0] for name, p in training.network.named_parameters()
               if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == moved
    if "item_ids" in moved:
        untouched = np.setdiff1d(np.arange(split.n_hot), items)
        assert not training.network["item_ids"].weight.grad[untouched].any()


def test_a_share_of_the_candidates_is_masked(world):
    """Of 40 x 6 candidates; four standard deviations of a share of .3 are .12."""
    training, seen = training_of(dataset.load(world), mask=0.3), []
    training.loss_with = lambda users, items, masked: seen.append(masked)
    users, items = training.pairs.draw(torch.arange(40), 5, torch.Generator().manual_seed(0))
    training.loss_of(users, items, torch.Generator().manual_seed(0))
    assert abs(seen[0].float().mean() - 0.3) < 0.12 and seen[0][:, 0].any() and not seen[0].all()


# --------------------------------------------------------------------- what is learned and ranked

def test_cold_items_are_found_by_content_and_not_by_the_wrong_content(world, run):
    """Of three seeds Recall@10 was 2.0 to 2.1 times chance, of the controls 1.0 to 1.2 times."""
    (real, config), (control, _) = run
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control and config["selected_by"] == "NDCG@10"
    assert value(world, real, "cold_test", "Recall@10") > 1.7 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.5 * chance
    assert value(world, real, "test") > value(world, control, "test")
    assert value(world, real, "all_test") > value(world, control, "all_test")


def test_an_item_of_train_is_ranked_by_its_id_and_every_other_by_its_content(world):
    split = dataset.load(world)
    unseen = np.zeros(split.n_hot, bool)
    unseen[[2, 5]] = True
    for hot, own in (("id", ~unseen), ("content", np.zeros_like(unseen))):
        training = training_of(split, hot=hot)
        table, ids = training.vectors(unseen), training.network["item_ids"].weight
        by_content = training.network["content"](training.features)
        assert table.shape == (split.n_items, 4) and not table.requires_grad
        assert torch.equal(table[:split.n_hot][own], ids[own])
        rest = np.append(~own, np.ones(split.n_items - split.n_hot, bool))
        assert torch.allclose(table[rest], by_content[rest], atol=1e-6)   # other blocks


def test_all_parts_have_the_scores_of_one_table(world, run):
    (name, _), _ = run
    every, test, cold = (pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
                         for part in ("all_test", "test", "cold_test"))
    for part in (test, cold):
        both = every.merge(part, on=["user_id", "track_id"], suffixes=("", "_part"))
        assert len(both) > 100
        assert np.abs(both.score - both.score_part).max() < 1e-4    # float32, |score| < 100


def test_several_embeddings_stand_side_by_side(world):
    clcrec.main(["--embedding", "content", "noise", "--epochs", "1", "--workdir", str(world)])
    path = next((world / "checkpoints").rglob("clcrec_content-noise_*_best.pt"))
    state = torch.load(path, weights_only=True)
    assert state["network"]["content.0.weight"].shape == (clcrec.HIDDEN, 16 + 6)


# --------------------------------------------------------------------------- bad input

def test_content_that_is_constant_ranks_cold_items_by_chance(world):
    write_embedding(world, "flat", np.full((dataset.load(world).n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, "--epochs", "2", embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert (preds.groupby("user_id").score.nunique() == 1).all()


def test_cold_items_without_content_are_named_and_filled_on_demand(world):
    split = dataset.load(world)
    matrix = np.random.default_rng(0).normal(size=(split.n_tracks, 5)).astype(np.float32)
    matrix[split.tracks[split.n_hot:][:3]] = np.nan
    write_embedding(world, "holes", matrix)
    with pytest.raises(WorkError, match="embedding 'holes' has no row for 3 of the 235 tracks"):
        made(world, "--epochs", "1", embedding="holes")
    name, _ = made(world, "--epochs", "1", "--missing", "mean", embedding="holes")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    filled = preds[preds.track_id.isin(split.tracks[split.n_hot:][:3])]
    assert len(filled) and (filled.groupby("user_id").score.nunique() == 1).all()


@pytest.mark.parametrize("words, sentence", [
    (["--balance", "1.5"], "argument --balance: must be from 0 to 1, not 1.5"),
    (["--mask", "2"], "argument --mask: must be from 0 to 1, not 2"),
    (["--temperature", "0"], "argument --temperature: must be a number above 0, not 0")])
def test_a_wrong_number_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        clcrec.parse(["--embedding", "content", *words])
    assert left.value.code == 2 and capsys.readouterr().err.strip().endswith(sentence)


def test_without_an_embedding_it_is_one_sentence(world):
    with pytest.raises(UsageError, match="--embedding is needed"):
        clcrec.main(["--workdir", str(world)])
