"""DropoutNet and Heater: losses in plain numpy, what is hidden, hot and cold vectors, interruptions and bad input."""
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.readers import load_checkpoint
from ranking import factors
from recommenders import dropoutnet, heater, ials
from tests.worlds.factors import factor_world, made, steps_of, value, write_embedding
from training import content, factor_networks, network_loop

METHODS = pytest.mark.parametrize("method", [dropoutnet, heater], ids=["dropoutnet", "heater"])
QUICK = ("--epochs", "8", "--lr", "0.01", "--negatives", "3")
FACTORS = ("--factors", "12", "--regularization", "10", "--k", "20")


def with_factors(workdir, **sizes):
    factor_world(workdir, **sizes)
    ials.main([*FACTORS, "--workdir", str(workdir)])
    return workdir


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return with_factors(tmp_path_factory.mktemp("networks") / "w")


@pytest.fixture(scope="module")
def run(world):
    """Function of a method: (name, config) of its run on the planted world and of its control, made once."""
    cache = {}

    def get(method):
        if method not in cache:
            cache[method] = [made(method, world, *QUICK, *flags) for flags in ((), ("--shuffle",))]
        return cache[method]
    return get


def training_of(method, workdir, *flags):
    """A training at its start, with normalisations that have seen a few batches."""
    split = dataset.load(workdir)
    args = method.parse(["--embedding", "content", "--seed", "3", *flags])
    frozen = factor_networks.Frozen(factors.read(split, "ials"), content.features(split, args), torch.device("cpu"))
    extra = () if method is dropoutnet else (args.experts,)
    network = method.build(frozen.content.shape[1], frozen.items.shape[1], args.hidden, *extra, args.seed)
    training = method.Training(network, split, frozen, cli.settings(network_loop.Settings, args), args)
    for rows in training.batches()[:3]:
        training.learn(rows)
    network.eval()
    return training


def batch(training, n=9):
    """Users, items and what is hidden of n pairs with their negatives."""
    rng, (users, items) = np.random.default_rng(1), training.pairs.draw(
        torch.arange(40, 40 + n), training.negatives, torch.Generator().manual_seed(0))
    return users, items, torch.from_numpy(rng.random(items.shape) < 0.5)


# --------------------------------------------------------------------------- the losses

def tower(net, name, x, layers):
    """A tower in evaluation mode, in float64."""
    for i in range(layers):
        x = x @ net[f"{name}.{3 * i}.weight"].T + net[f"{name}.{3 * i}.bias"]
        norm = f"{name}.{3 * i + 1}"
        x = (x - net[f"{norm}.running_mean"]) / np.sqrt(net[f"{norm}.running_var"] + 1e-5)
        x = np.tanh(x * net[f"{norm}.weight"] + net[f"{norm}.bias"])
    return x @ net[f"{name}.{3 * layers}.weight"].T + net[f"{name}.{3 * layers}.bias"]


def inputs(training):
    """Scaled u, v and c in float64, from the run's files, and u.v over its root mean square on train."""
    split, learned = training.split, factors.read(training.split, "ials")
    u, v = learned.users("train"), np.vstack([learned.items, np.zeros((split.n_items - split.n_hot,
                                                                       learned.items.shape[1]))])
    args = training.options
    c, known = content.features(split, args), np.flatnonzero(learned.plays)
    uv = u @ v.T
    target = uv / np.sqrt((uv[split.train.user, split.train.item] ** 2).mean())
    return u / np.sqrt((u ** 2).mean()), v / np.sqrt((v[known] ** 2).mean()), c / c[:split.n_hot].std(), target


@pytest.mark.numeric
def test_the_loss_of_dropoutnet_is_that_of_the_formula(world):
    """Float32 sums: 1e-4."""
    training = training_of(dropoutnet, world)
    users, items, hidden = batch(training)
    u, v, c, target = inputs(training)
    net = {k: x.double().numpy() for k, x in training.network.state_dict().items()}
    errors = []
    for user, row, without in zip(*(x.numpy() for x in (users, items, hidden)), strict=True):
        for item, dropped in zip(row, without, strict=True):
            given = np.append(np.zeros_like(v[item]) if dropped else v[item], c[item])
            score = tower(net, "user", u[user], 2) @ tower(net, "item", given, 2)
            errors.append((score - target[user, item]) ** 2)
    assert training.loss_with(users, items, hidden).item() == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.numeric
@pytest.mark.parametrize("alpha", ["0", "0.7"])
def test_the_loss_of_heater_is_that_of_the_formula(world, alpha):
    """Float32 sums: 1e-4."""
    training = training_of(heater, world, "--alpha", alpha, "--experts", "3")
    users, items, hidden = batch(training)
    u, v, c, _ = inputs(training)
    net = {k: x.double().numpy() for k, x in training.network.state_dict().items()}
    errors, distances = [], []
    for user, row, without in zip(*(x.numpy() for x in (users, items, hidden)), strict=True):
        for place, (item, dropped) in enumerate(zip(row, without, strict=True)):
            gates = np.tanh(net["gate.weight"] @ c[item] + net["gate.bias"])
            experts = np.tanh(net["experts.weight"] @ c[item] + net["experts.bias"]).reshape(3, -1)
            f = np.tanh(gates @ experts)
            score = tower(net, "user", u[user], 1) @ tower(net, "item", f if dropped else v[item] / 3, 1)
            errors.append((score - (place == 0)) ** 2)
            distances.append(((f - v[item] / 3) ** 2).mean() / (1 / 9))
    expected = np.mean(errors) + float(alpha) * np.mean(distances)
    assert training.loss_with(users, items, hidden).item() == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_the_experts_only_by_hidden_factors_and_alpha(world):
    for alpha, hide, reached in (("0", False, False), ("0", True, True), ("1", False, True)):
        training = training_of(heater, world, "--alpha", alpha)
        users, items, hidden = batch(training)
        training.network.zero_grad(set_to_none=True)
        training.loss_with(users, items, torch.full_like(hidden, hide)).backward()
        grad = training.network["experts"].weight.grad
        assert (grad is not None and bool(grad.abs().max() > 0)) is reached
        assert training.network["user"][0].weight.grad.abs().max() > 0


@METHODS
def test_negatives_are_never_pairs_of_train_and_a_share_of_the_factors_is_hidden(world, method):
    """Of 60 x 6 pairs; four standard deviations of a share of .3 are .10."""
    training, seen = training_of(method, world, "--dropout", "0.3"), []
    played = training.split.matrix().toarray() > 0
    training.loss_with = lambda *drawn: seen.append(drawn) or torch.zeros((), requires_grad=True)
    training.loss(torch.arange(60), torch.Generator().manual_seed(0))
    users, items, hidden = (x.numpy() for x in seen[0])
    assert played[users, items[:, 0]].all() and not played[users[:, None], items[:, 1:]].any()
    assert hidden.shape == (60, 6) and abs(hidden.mean() - 0.3) < 0.1 and hidden[:, 0].any()


@METHODS
def test_factors_stay_as_they_are(world, method):
    training = training_of(method, world)
    fresh = factor_networks.Frozen(factors.read(training.split, "ials"),
                                   content.features(training.split, training.options), torch.device("cpu"))
    assert torch.equal(training.frozen.items, fresh.items)
    assert torch.equal(training.frozen.users["train"], fresh.users["train"])
    assert not {p.data_ptr() for p in training.network.parameters()} & {fresh.items.data_ptr()}


# --------------------------------------------------------------------------- what is ranked

@METHODS
def test_a_hot_item_keeps_its_factor_and_a_cold_one_is_its_content(world, method):
    training = training_of(method, world)
    split, before = training.split, training.item_vectors()
    assert before.shape == (split.n_items, 12) and not before.requires_grad
    training.frozen.items[:split.n_hot] += 1.0
    moved = (training.item_vectors() - before).abs().max(1).values > 1e-4
    assert moved[:split.n_hot].all() and not moved[split.n_hot:].any()
    training.frozen.items[:split.n_hot] -= 1.0
    training.frozen.content += torch.randn(training.frozen.content.shape, generator=torch.Generator().manual_seed(0))
    moved = (training.item_vectors() - before).abs().max(1).values > 1e-3
    assert moved[split.n_hot:].all() and moved[:split.n_hot].all() == (method is dropoutnet)


@METHODS
def test_an_item_without_a_play_in_train_is_its_content_although_it_is_hot(world, method):
    training = training_of(method, world)
    training.frozen.known[5] = False
    training.frozen.items[5] = 7.0
    row = training.item_vectors()[5]
    training.frozen.items[5] = -7.0
    assert torch.equal(training.item_vectors()[5], row)


@METHODS
def test_new_items_are_found_by_content_and_known_ones_by_their_factors(world, run, method):
    """Of four seeds Recall@10 of cold items was 2.0 to 2.2 times chance (Heater 1.5 to 1.7), of the controls .9 to 1.3
    times (.9 to 1.1); NDCG@10 of hot items .27 to .30 (.22 to .24), of the controls .25 to .27 (.20 to .25)."""
    (real, config), (control, _) = run(method)
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control and config["selected_by"] == "NDCG@10" and config["sources"].keys() == {"ials"}
    assert value(world, real, "cold_test", "Recall@10") > 1.4 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.3 * chance
    assert value(world, control, "test") > 0.17 and value(world, real, "test") > 0.17


@METHODS
def test_all_parts_have_the_scores_of_one_table(world, run, method):
    (name, _), _ = run(method)
    every, test, cold = (pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
                         for part in ("all_test", "test", "cold_test"))
    for part in (test, cold):
        both = every.merge(part, on=["user_id", "track_id"], suffixes=("", "_part"))
        assert len(both) > 100 and np.abs(both.score - both.score_part).max() < 1e-4       # float32


@METHODS
def test_the_loss_on_val_is_the_same_every_time_and_selects_by_stop_on_loss(world, method):
    training = training_of(method, world)
    value_now = training.validation_loss(training.split)
    assert value_now > 0 and value_now == training.validation_loss(training.split)
    _, config = made(method, world, "--epochs", "2", "--stop-on", "loss")
    assert config["selected_by"] == "loss" and config["best_val_loss"] > 0


@METHODS
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, method):
    whole, cut = with_factors(tmp_path / "whole", n_users=30, n_tracks=60, n_cold=12), tmp_path / "cut"
    shutil.copytree(whole, cut)
    flags = ("--epochs", "3", "--batch-size", "64", "--checkpoint-seconds", "0")
    steps = steps_of(method, whole, *flags)
    assert steps_of(method, cut, *flags, until=7) == 7 < steps == 7 + steps_of(method, cut, *flags)
    name, config = made(method, whole, *flags)
    assert made(method, cut, *flags)[1]["best_epoch"] == config["best_epoch"]
    for part in dataset.load(whole).parts:
        file = f"preds/{name}_{part}.pqt"
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


@METHODS
def test_several_embeddings_stand_side_by_side(world, method):
    method.main(["--embedding", "content", "noise", "--epochs", "1", "--workdir", str(world)])
    path = next((world / "checkpoints").rglob(f"{method.__name__.rpartition('.')[2]}_content-noise_*_best.pt"))
    layer, columns = ("item.0.weight", 12 + 16 + 6) if method is dropoutnet else ("gate.weight", 16 + 6)
    assert load_checkpoint(path)["network"][layer].shape[1] == columns


# --------------------------------------------------------------------------- bad input

@METHODS
def test_content_that_is_constant_does_not_distinguish_cold_items(world, method):
    write_embedding(world, "flat", np.full((dataset.load(world).n_tracks, 5), 0.7, np.float32))
    name, _ = made(method, world, "--epochs", "1", embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert (preds.groupby("user_id").score.nunique() == 1).all()


@METHODS
def test_cold_items_without_content_are_named_and_filled_on_demand(world, method):
    split = dataset.load(world)
    matrix = np.random.default_rng(0).normal(size=(split.n_tracks, 5)).astype(np.float32)
    matrix[split.tracks[split.n_hot:][:3]] = np.nan
    write_embedding(world, "holes", matrix)
    with pytest.raises(WorkError, match="embedding 'holes' has no row for 3 of the 235 tracks"):
        made(method, world, "--epochs", "1", embedding="holes")
    name, _ = made(method, world, "--epochs", "1", "--missing", "mean", embedding="holes")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    filled = preds[preds.track_id.isin(split.tracks[split.n_hot:][:3])]
    assert len(filled) and (filled.groupby("user_id").score.nunique() == 1).all()


@METHODS
def test_factors_of_another_split_and_a_missing_embedding_are_refused(tmp_path, method):
    workdir = with_factors(tmp_path / "w", n_users=30, n_tracks=60, n_cold=12)
    with pytest.raises(UsageError, match="--embedding is needed"):
        method.main(["--workdir", str(workdir)])
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    train.iloc[1:].to_parquet(workdir / "data" / "train.pqt")
    ((name, _),) = runs.find_runs(workdir)
    with pytest.raises(WorkError, match="factors of another split"):
        made(method, workdir, "--factors", name)


@METHODS
def test_a_batch_of_one_pair_is_trained(world, method):
    training = training_of(method, world, "--negatives", "1")
    training.learn(torch.tensor([3]))
    assert all(torch.isfinite(p).all() for p in training.network.parameters())


@METHODS
def test_a_wrong_share_is_one_sentence(method, capsys):
    with pytest.raises(SystemExit) as left:
        method.parse(["--embedding", "content", "--dropout", "1.5"])
    assert left.value.code == 2
    assert capsys.readouterr().err.strip().endswith("argument --dropout: must be from 0 to 1, not 1.5")
