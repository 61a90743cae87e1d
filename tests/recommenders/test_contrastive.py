"""Bimodal contrastive: the losses against sums item by item, what is read out, cold items against the control."""
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import runs
from harness.errors import UsageError, WorkError
from harness.files import write_json
from harness.readers import load_checkpoint, read_json
from ranking import factors
from recommenders import contrastive, elsa, ials
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs

QUICK = ("--size", "32", "--lr", "0.01", "--epochs", "16", "--eval-every", "4", "--batch-size", "64")
made = partial(made_by, contrastive)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workdir = factor_world(tmp_path_factory.mktemp("contrastive") / "w")
    ials.main(["--factors", "12", "--regularization", "10", "--workdir", str(workdir), "--k", "20"])
    elsa.main(["--factors", "16", "--epochs", "10", "--workdir", str(workdir), "--k", "20"])
    return workdir


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def training_of(workdir, *flags):
    args = contrastive.parse(["--embedding", "content", *flags, "--workdir", str(workdir)])
    split = dataset.load(workdir)
    return split, contrastive.trained_by(split, factors.read(split, args.factors), args, "cpu")


# --------------------------------------------------------------------------- the losses

def weights_of(a, b, sigma):
    positive = np.exp((a * b).sum(axis=1) / sigma)
    return 2 - len(a) * positive / positive.sum()


def term(a, b, i, tau, within, weight=1.0):
    """The loss of one item; within: the matrices whose own similarities are negatives, too."""
    n = len(a)
    total = sum(np.exp(a[i] @ b[j] / tau) for j in range(n) if j != i)
    total += sum(np.exp(m[i] @ m[j] / tau) for m in within for j in range(n) if j != i)
    return -weight * (a[i] @ b[i]) / tau + np.log(total)


def expected(a, b, loss, tau, sigma, published=False):
    w = weights_of(a, b, sigma) if loss.endswith("w") else np.ones(len(a))
    mean = {"adcl": lambda i: term(a, b, i, tau, (), w[i]),
            "dcl": lambda i: term(a, b, i, tau, (a,), w[i]) + term(b, a, i, tau, (b,), w[i]),
            "sdcl": lambda i: term(a, b, i, tau, (a, b), w[i])}
    of = (lambda i: term(a, b, i, tau, (a,), w[i])) if published and loss == "sdclw" else mean[loss.removesuffix("w")]
    return np.mean([of(i) for i in range(len(a))])


@pytest.mark.numeric
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("loss", contrastive.LOSSES)
@pytest.mark.parametrize("n", [2, 7])
def test_each_loss_is_that_of_a_computation_item_by_item(loss, published, n):
    """1e-5: float32 sums of some dozens of terms."""
    rng = np.random.default_rng(0)
    a, b = (unit(rng.normal(size=(n, 5))) for _ in range(2))
    ours = contrastive.contrastive_loss(torch.tensor(a).float(), torch.tensor(b).float(), loss, 0.2, 0.7, published)
    assert ours.item() == pytest.approx(expected(a, b, loss, 0.2, 0.7, published), rel=1e-5, abs=1e-5)


def test_only_the_published_sdclw_is_half_a_dclw():
    rng = np.random.default_rng(1)
    a, b = (torch.tensor(unit(rng.normal(size=(6, 4)))).float() for _ in range(2))
    ours = {(loss, published): contrastive.contrastive_loss(a, b, loss, 0.1, 0.5, published).item()
            for loss in contrastive.LOSSES for published in (False, True)}
    assert [loss for loss in contrastive.LOSSES if ours[loss, False] != ours[loss, True]] == ["sdclw"]
    assert len({ours[loss, False] for loss in contrastive.LOSSES}) == 6


@pytest.mark.numeric
def test_the_gradient_is_that_of_finite_differences():
    """1e-6: float64, central differences."""
    rng = np.random.default_rng(2)
    a, b = (torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for _ in range(2))
    for loss in contrastive.LOSSES:
        assert torch.autograd.gradcheck(
            lambda x, y, loss=loss: contrastive.contrastive_loss(x, y, loss, 0.5, 0.7), (a, b), atol=1e-6)


def test_both_networks_learn_from_items_of_train_alone(world):
    split, training = training_of(world, *QUICK)
    training.features.requires_grad_(True)
    training.frozen.requires_grad_(True)
    training.loss(torch.arange(training.examples), None).backward()
    assert all(p.grad.abs().sum() > 0 for p in training.network.parameters())
    for table in (training.features, training.frozen):
        taught = table.grad.abs().sum(dim=1) > 0
        assert taught[:split.n_hot].all() and not taught[split.n_hot:].any()


@pytest.mark.parametrize(("items", "size"), [(2, 1), (3, 2), (5, 2), (9, 4), (180, 10_000)])
def test_an_epoch_has_every_item_once_and_no_item_alone(world, items, size):
    _, training = training_of(world, "--batch-size", str(size))
    training.examples = items
    batches = list(training.batches())
    assert sorted(torch.cat(batches).tolist()) == list(range(items))
    assert all(2 <= len(rows) <= max(size, 3) for rows in batches)
    training.step = 1
    assert [rows.tolist() for rows in training.batches()] == [rows.tolist() for rows in batches[1:]]


# --------------------------------------------------------------------------- what is read out

def outputs(state, x, name):
    w1, b1, w2, b2 = (state[f"{name}.{k}"].numpy().astype(np.float64)
                      for k in ("0.weight", "0.bias", "2.weight", "2.bias"))
    return np.maximum(x @ w1.T + b1, 0) @ w2.T + b2


@pytest.mark.numeric
@pytest.mark.parametrize("read_out", contrastive.READ_OUTS)
@pytest.mark.parametrize("source", factors.METHODS)
def test_scores_are_cosines_with_the_mean_of_the_history(world, read_out, source):
    """By the weights of the kept epoch, in all_test and cold_val; 1e-4: float32 network and products."""
    name, config = made(world, *QUICK[:4], "--epochs", "3", "--read-out", read_out, "--factors", source)
    state = load_checkpoint(world / "checkpoints" / "content" / f"{name}_best.pt")["network"]
    split = dataset.load(world)
    x = dataset.load_embedding(split, "content").astype(np.float64)
    x = (x - x[:split.n_hot].mean(axis=0)) / x[:split.n_hot].std(axis=0)
    e = np.load(world / "model_embeddings" / f"{config['sources'][source]}_items.npy").astype(np.float64)
    items = unit(outputs(state, x, "content"))
    b = unit(outputs(state, (e - e.mean(axis=0)) / e.std(axis=0), "factors"))
    hot = items[:split.n_hot]
    items[:split.n_hot] = {"content": hot, "collaborative": b, "average": unit(hot + b)}[read_out]
    scores = unit(split.matrix() @ items[:split.n_hot]) @ items.T
    user, item = ({c: i for i, c in enumerate(codes)} for codes in (split.users, split.tracks))
    for part in ("all_test", "cold_val"):
        preds = pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
        own = scores[[user[u] for u in preds.user_id], [item[t] for t in preds.track_id]]
        assert np.abs(preds.score - own).max() < 1e-4


@pytest.mark.parametrize("read_out", contrastive.READ_OUTS)
def test_as_published_nothing_is_brought_to_length_one(world, read_out):
    split, training = training_of(world, "--as-published", "--read-out", read_out, "--size", "8")
    a, b = (outputs(training.weights(), x.numpy().astype(np.float64), name)
            for x, name in ((training.features, "content"), (training.frozen, "factors")))
    wanted = {"content": a, "collaborative": b, "average": (a + b) / 2}[read_out]
    assert np.abs(training.vectors().numpy() - wanted).max() < 1e-5    # float32 network
    lengths = training.frozen[split.n_hot:].norm(dim=1)
    assert lengths.min() > 0 and len(lengths.unique()) > 1             # random rows for items without factors


def test_random_factors_are_those_of_the_seed_and_leave_the_others_as_they_are(world):
    split = dataset.load(world)
    learned = factors.read(split, "elsa")
    plain, one, two = (contrastive.factor_features(split, learned, seed) for seed in (None, 1, 2))
    assert np.array_equal(plain[:split.n_hot], one[:split.n_hot]) and not plain[split.n_hot:].any()
    assert not np.allclose(one[split.n_hot:], two[split.n_hot:])
    spread, centre = learned.items.std(axis=0) * np.sqrt(16), learned.items.mean(axis=0)
    assert np.allclose(np.linalg.norm(one[split.n_hot:] * spread + centre, axis=1), 1)    # as ELSA's have


def test_items_without_plays_in_train_have_no_factors(tmp_path):
    """Hot ones, too: they are ranked by content and teach nothing."""
    workdir = tiny_workspace(tmp_path / "w")
    val = pd.read_parquet(workdir / "data" / "val.pqt")
    write_pairs(workdir, "val", np.append(val.user_id, val.user_id.iloc[0]), np.append(val.track_id, 0))
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    ials.main(["--factors", "4", "--workdir", str(workdir), "--k", "10"])
    split, training = training_of(workdir, "--size", "8", "--read-out", "collaborative")
    assert not split.unseen[training.played].any() and training.examples == split.n_hot - 1
    e = factors.read(split, "ials").items[~split.unseen]
    frozen = training.frozen[:split.n_hot].numpy()
    assert np.corrcoef(frozen[~split.unseen].T, e.T)[:4, 4:].diagonal() == pytest.approx(1)   # each item has its own
    assert not frozen[split.unseen].any()
    own = training.vectors().numpy()
    training.options.read_out = "content"
    same = (own == training.vectors().numpy()).all(axis=1)
    assert same[split.n_hot:].all() and same[:split.n_hot].tolist() == split.unseen.tolist()


# --------------------------------------------------------------------------- runs

@pytest.mark.parametrize("flags", [(), ("--loss", "sdcl", "--read-out", "content"), ("--loss", "sdclw")])
def test_content_finds_cold_items_and_wrong_content_does_not(world, flags):
    real, config = made(world, *QUICK, *flags)
    control, _ = made(world, *QUICK, *flags, "--shuffle")
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control and config["sources"]["ials"]
    assert value(world, real, "cold_test", "Recall@10") > 1.8 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.3 * chance
    assert value(world, real, "test") > 1.3 * value(world, control, "test") or not flags


def test_the_published_selection_is_that_of_the_training_loss(world):
    name, config = made(world, "--as-published", "--size", "16", "--epochs", "12", "--lr", "0.01")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(world / "runs" / name)).Reload()
    losses = {e.step: e.value for e in events.Scalars("Loss/train")}
    assert config["selected_by"] == "loss" and config["best_epoch"] == min(losses, key=losses.get)
    assert config["best_value"] == pytest.approx(min(losses.values()), rel=1e-5)    # TensorBoard has float32
    assert "Loss/val" not in events.Tags()["scalars"]


def test_the_published_learning_rate_falls_at_a_plateau(world):
    _, training = training_of(world, "--as-published", "--size", "8", "--epochs", "9")
    for epoch in range(1, 8):
        assert training.optimizer.param_groups[0]["lr"] == 0.001
        training.stopping.update(epoch, {"loss": 1.0})
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.0001)
    state = training.state()
    _, other = training_of(world, "--as-published", "--size", "8", "--epochs", "9")
    other.load(state)
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.0001)
    _, ours = training_of(world, "--size", "8")
    assert ours.stopping.scheduler is None


@pytest.mark.parametrize("flags", [(), ("--as-published", "--read-out", "average")])
def test_killed_within_an_epoch_it_ends_with_the_same_bytes(tmp_path, monkeypatch, flags):
    whole, cut = (tiny_workspace(tmp_path / folder) for folder in ("whole", "cut"))
    for workdir in (whole, cut):
        elsa.main(["--factors", "4", "--epochs", "2", "--workdir", str(workdir), "--k", "10"])
    flags = (*flags, "--factors", "elsa", "--size", "8", "--batch-size", "16", "--epochs", "3", "--checkpoint-seconds",
             "0", "--device", "cpu")
    name, _ = made(whole, *flags)
    real = contrastive.Training.learn

    def learn(self, rows):
        if (self.epoch, self.step) == (1, 2):
            raise KeyboardInterrupt
        real(self, rows)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(contrastive.Training, "learn", learn)
        made(cut, *flags)
    steps = []

    def noted(self, rows):
        steps.append((self.epoch, self.step))
        real(self, rows)
    monkeypatch.setattr(contrastive.Training, "learn", noted)
    assert made(cut, *flags)[0] == name and steps[0] == (1, 2)
    files = sorted((whole / "preds").glob(f"{name}_*"))
    assert len(files) == 3
    assert all(file.read_bytes() == (cut / "preds" / file.name).read_bytes() for file in files)


def test_as_published_sets_what_is_not_given():
    args = contrastive.parse(["--embedding", "a", "--as-published", "--epochs", "7"])
    assert (args.factors, args.epochs, args.patience, args.stop_on) == ("elsa", 7, 16, "loss")
    ours = contrastive.parse(["--embedding", "a"])
    assert (ours.factors, ours.stop_on) == ("ials", "NDCG@10")


# --------------------------------------------------------------------------- bad input

def test_content_that_is_constant_or_missing(world):
    split = dataset.load(world)
    write_embedding(world, "flat", np.full((split.n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, *QUICK, "--epochs", "2", embedding="flat")
    scores = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt").groupby("user_id").score
    assert (scores.max() - scores.min()).max() < 1e-5                  # one vector for all, float32
    matrix = np.ones((split.n_tracks, 5), np.float32)
    matrix[split.tracks[-1]] = np.nan                                  # a track of cold_val
    write_embedding(world, "gap", matrix)
    with pytest.raises(WorkError, match="no row for 1 of the"):
        made(world, *QUICK, embedding="gap")


def test_factors_of_another_split_or_of_no_run(world):
    run = next(name for name, c in runs.find_runs(world) if c["recommender"] == "ials")
    manifest = world / "runs" / run / "config.json"
    before = read_json(manifest)
    changed = json.loads(json.dumps(before))
    changed["inputs"]["data/train.pqt"] = "another"
    write_json(manifest, changed)
    try:
        with pytest.raises(WorkError, match=r"factors of another split \(data/train.pqt differs\)"):
            made(world, *QUICK, "--factors", run)
    finally:
        write_json(manifest, before)
    with pytest.raises(UsageError, match="--factors nobody is no run of"):
        made(world, *QUICK, "--factors", "nobody")
    with pytest.raises(UsageError, match="--embedding is needed"):
        contrastive.main(["--workdir", str(world)])


def test_one_user_and_one_track(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    (workdir / "data" / "test.pqt").unlink()
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    write_pairs(workdir, "val", [3], [7])
    write_pairs(workdir, "cold_test", [3], [40])
    for tracks in ([5], [5, 9, 30]):
        write_pairs(workdir, "train", [3] * len(tracks), tracks)
        ials.main(["--factors", "2", "--workdir", str(workdir), "--k", "10"])
        if len(tracks) == 1:
            with pytest.raises(WorkError, match="train has one track only, so there is nothing to contrast it with"):
                made(workdir, *QUICK)
        else:
            assert made(workdir, *QUICK, "--epochs", "2")[1]["status"] == "finished"
