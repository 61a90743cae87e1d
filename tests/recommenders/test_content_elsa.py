"""Content ELSA: both losses against dense sums, gradients, scores, cold items against the control, and bad input."""
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import cli
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_parquet
from harness.readers import load_checkpoint, read_npy
from recommenders import content_elsa
from tests.worlds.factors import factor_world, value
from tests.worlds.factors import made as made_by
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs
from training import content, network_loop

QUICK = ("--factors", "32", "--lr", "0.003", "--epochs", "12", "--batch-size", "64")
made = partial(made_by, content_elsa)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return factor_world(tmp_path_factory.mktemp("content_elsa") / "w")


def training_of(workdir, *flags):
    args = content_elsa.parse(["--embedding", "content", *flags, "--workdir", str(workdir)])
    split = dataset.load(workdir)
    features = content.network_input(content.features(split, args), split.n_hot)
    network = content_elsa.network_of(features.shape[1], args.factors, args.seed)
    return split, content_elsa.Training(network, split, cli.settings(network_loop.Settings, args), features, args.loss)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def vectors_of(state, features):
    """A in float64 of a state dict of the network."""
    w1, b1, w2, b2 = (state[k].numpy().astype(np.float64) for k in ("0.weight", "0.bias", "2.weight", "2.bias"))
    return unit(np.maximum(features @ w1.T + b1, 0) @ w2.T + b2)


def expected_loss(vectors, histories, kind):
    """Item by item: an item's score is the sum of its cosines with the other items of the history."""
    total = 0.0
    for x in histories:
        own = np.flatnonzero(x)
        scores = np.array([sum(vectors[i] @ vectors[j] for j in own if j != i) for i in range(len(x))])
        difference = scores - x if kind == "squared" else unit(scores) - unit(x)
        total += (difference ** 2).mean()
    return total / len(histories)


# --------------------------------------------------------------------------- the loss

@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["squared", "normalised"])
def test_the_loss_is_that_of_a_computation_item_by_item(kind):
    """1e-5: float32 sums of some dozens of terms."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(11, 4)))
    x = (rng.random((5, 11)) < 0.4).astype(np.float64)
    x[:, 0] = 1                                         # nobody without a history
    x[0] = np.eye(11)[0]                                # an item alone has score 0
    loss = content_elsa.reconstruction_loss(torch.tensor(vectors).float(), torch.tensor(x).float(), kind)
    assert loss.item() == pytest.approx(expected_loss(vectors, x, kind), rel=1e-5)


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["squared", "normalised"])
def test_training_and_validation_reconstruct_their_own_rows(tmp_path, kind):
    """Of items played in train: tracks that only val has are neither scored nor wanted. 1e-4: float32 network."""
    workdir = tiny_workspace(tmp_path / "w")
    val = pd.read_parquet(workdir / "data" / "val.pqt")
    write_pairs(workdir, "val", np.append(val.user_id, val.user_id.iloc[0]), np.append(val.track_id, 0))
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    split, training = training_of(workdir, "--loss", kind, "--factors", "6", "--batch-size", "7")
    assert split.unseen.sum() == 1
    features = content.features(split, content_elsa.parse(["--embedding", "content"]))
    features = features / features[:split.n_hot].std()
    vectors = vectors_of(training.weights(), features)[:split.n_hot][~split.unseen]
    train = split.matrix().toarray()[:, ~split.unseen]
    rows = torch.tensor([3, 50, 8])
    assert training.loss(rows, None).item() == pytest.approx(expected_loss(vectors, train[rows], kind), rel=1e-4)
    held = np.zeros((split.n_users, split.n_hot))
    held[split.part("val").user, split.part("val").item] = 1
    held = held[:, ~split.unseen]
    held = held[held.any(axis=1)]
    assert training.validation_loss(split) == pytest.approx(expected_loss(vectors, held, kind), rel=1e-4)


def test_every_weight_learns_and_no_cold_item_teaches(world):
    split, training = training_of(world, *QUICK)
    training.features.requires_grad_(True)
    training.loss(torch.arange(split.n_users), None).backward()
    assert all(p.grad.abs().sum() > 0 for p in training.network.parameters())
    taught = training.features.grad.abs().sum(dim=1) > 0
    assert taught[:split.n_hot].all() and not taught[split.n_hot:].any()


# --------------------------------------------------------------------------- the lists

@pytest.mark.numeric
@pytest.mark.parametrize("part", ["test", "cold_test", "all_test"])
def test_scores_are_sums_of_cosines_with_the_history(world, part):
    """By the weights of the kept epoch, for hot and cold items alike; 1e-4: float32 network and products."""
    name, config = made(world, *QUICK)
    state = load_checkpoint(world / "checkpoints" / config["embedding"] / f"{name}_best.pt")
    assert state["epoch"] == config["best_epoch"]
    split = dataset.load(world)
    x = dataset.load_embedding(split, "content").astype(np.float64)
    x = (x - x[:split.n_hot].mean(axis=0)) / x[:split.n_hot].std(axis=0)
    vectors = vectors_of(state["network"], x)
    scores = split.matrix() @ vectors[:split.n_hot] @ vectors.T
    preds = pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
    user = {u: i for i, u in enumerate(split.users)}
    item = {t: i for i, t in enumerate(split.tracks)}
    expected = scores[[user[u] for u in preds.user_id], [item[t] for t in preds.track_id]]
    assert np.abs(preds.score - expected).max() < 1e-4


@pytest.mark.parametrize("loss", ["squared", "normalised"])
def test_content_finds_cold_items_and_wrong_content_does_not(world, loss):
    flags = (*QUICK, "--loss", loss, *(("--epochs", "30", "--lr", "0.01") if loss == "squared" else ()))
    real, _ = made(world, *flags)
    control, _ = made(world, *flags, "--shuffle")
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control
    assert value(world, real, "cold_test", "Recall@10") > 1.8 * chance
    assert value(world, control, "cold_test", "Recall@10") < 1.3 * chance
    assert value(world, real, "test") > 1.3 * value(world, control, "test")


def test_several_embeddings_side_by_side(world):
    name, config = made(world, "--embedding", "content", "noise", *QUICK, "--epochs", "2")
    state = load_checkpoint(world / "checkpoints" / config["embedding"] / f"{name}_best.pt")
    columns = sum(read_npy(world / "embeddings" / f"{e}.npy").shape[1] for e in ("content", "noise"))
    assert state["network"]["0.weight"].shape == (32, columns)


def test_as_published_sets_what_is_not_given():
    published = content_elsa.parse(["--embedding", "a", "--as-published", "--lr", "0.5"])
    assert published.lr == 0.5 and published.stop_on == "loss"
    assert all(getattr(published, k) == v for k, v in content_elsa.PUBLISHED.items() if k != "lr")
    given = ["--factors", "768", "--lr", "0.01", "--batch-size", "128", "--epochs", "200",
             "--patience", "16", "--stop-on", "loss"]
    requests = [content_elsa.request_of(content_elsa.parse(["--embedding", "a", *flags]))
                for flags in (["--as-published"], given, [])]
    assert requests[0] == requests[1] | {"as_published": True} and requests[2]["stop_on"] == "NDCG@10"
    assert "as_published" not in requests[2]


def test_as_published_new_items_are_trained_as_unplayed(world):
    """The loss over train's items and those of cold_test, of content as it is, and a learning rate that falls."""
    split = dataset.load(world)
    args = content_elsa.parse(["--embedding", "content", "--as-published", "--factors", "8", "--workdir", str(world)])
    features = torch.as_tensor(content.unscaled(split, args), dtype=torch.float32)
    assert np.array_equal(features.numpy(), dataset.load_embedding(split, "content"))
    network = content_elsa.network_of(features.shape[1], 8, 1)
    settings = cli.settings(network_loop.Settings, args)
    state = content_elsa.Training(network, split, settings, features, args.loss, as_published=True)
    new = np.arange(split.n_items)[split.candidates("cold_test")]
    assert state.items.tolist() == [*range(split.n_hot), *new] and state.stopping.scheduler.patience == 5
    vectors = vectors_of(network.state_dict(), features.numpy().astype(np.float64))[state.items]
    rows = np.hstack([split.matrix()[:4].toarray(), np.zeros((4, len(new)))])
    loss = state.loss_with(torch.arange(4)).item()
    assert loss == pytest.approx(expected_loss(vectors, rows, args.loss), rel=1e-4)   # float32 against float64
    plain = content_elsa.Training(network, split, settings, features, args.loss)
    assert loss != pytest.approx(plain.loss_with(torch.arange(4)).item(), rel=1e-2)
    assert state.validation_loss(split) > 0 and plain.stopping.scheduler is None


def test_as_published_runs_and_is_a_run_of_its_own(world):
    plain, _ = made(world, *QUICK, "--epochs", "2", "--stop-on", "loss")
    published, config = made(world, *QUICK, "--epochs", "2", "--as-published")
    assert plain != published and config["request"]["as_published"] and config["best_val_loss"] > 0


# --------------------------------------------------------------------------- bad input

def test_constant_content_and_rows_without_content(world, tmp_path):
    split = dataset.load(world)
    matrix = read_npy(world / "embeddings" / "content.npy").copy()
    matrix[split.tracks[-1]] = np.nan                                       # a track of cold_val
    write_embedding(world, "gap", matrix)
    with pytest.raises(WorkError, match="no row for 1 of the"):
        made(world, *QUICK, embedding="gap")
    made(world, *QUICK, "--epochs", "1", "--missing", "mean", embedding="gap")
    write_embedding(world, "flat", np.full((split.n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, *QUICK, "--epochs", "1", embedding="flat")
    scores = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt").groupby("user_id").score
    assert (scores.max() - scores.min()).max() < 1e-5                       # sums of twelve cosines in float32


def test_one_user_and_no_embedding(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    for part in ("train", "val", "test", "cold_test"):
        frame = pd.read_parquet(workdir / "data" / f"{part}.pqt")
        write_parquet(workdir / "data" / f"{part}.pqt", frame[(frame.user_id == 13) & (part in ("train", "cold_test"))])
    _, config = made(workdir, *QUICK, "--epochs", "2")
    assert config["best_epoch"] == 2 and config["parts"] == ["cold_test"]   # nothing to select on
    with pytest.raises(UsageError, match="--embedding is needed"):
        content_elsa.main(["--workdir", str(workdir)])
