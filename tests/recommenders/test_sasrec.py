"""SASRec: what a position may see, the losses against dense formulas, and the command line with good and bad data."""
import math
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from harness import runs
from harness.errors import WorkError
from harness.progress import EXIT_RESUMABLE
from recommenders.sasrec import __main__ as sasrec
from recommenders.sasrec.model import SASRec, Sequences, gbce, sample, sampled_scores, sampled_softmax
from tests.worlds.histories import ROOT, largest_allocation, ring, same_weights, stopped
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks
from training import softmax
from training.sequences import generator_of

QUICK = ["--epochs", "2", "--batch-size", "16", "--max-seq-len", "10", "--hidden-dim", "16", "--k", "10"]


def small(v=30, dim=8, width=8, length=10, kind=torch.float64, **kwargs):
    """A small model without dropout, in double precision, its items far from zero."""
    torch.manual_seed(3)
    return SASRec(torch.randn(v, dim), length, width, dropout=0.0, heads=2, **kwargs).to(kind)


def histories(lengths=(11, 7, 3, 1), v=30, length=11, seed=0):
    """Sequences of these lengths for a model of v items."""
    items = np.random.default_rng(seed).integers(v, size=sum(lengths))
    return Sequences(np.concatenate([[0], np.cumsum(lengths)]), items, length, v)


def train(workdir, *flags):
    """One run of the command line in this process; its name and manifest."""
    before = {name for name, _ in runs.find_runs(workdir)}
    sasrec.main([*QUICK, "--workdir", str(workdir), *map(str, flags)])
    (made,) = [(n, c) for n, c in runs.find_runs(workdir) if n not in before]
    return made


def preds(workdir, name, part):
    return pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt")


def checkpoint(workdir, name, which):
    (path,) = (workdir / "checkpoints").glob(f"*/{name}_{which}.pt")
    return torch.load(path, weights_only=True)


def command(workdir, *flags):
    return [sys.executable, "-m", "recommenders.sasrec", *QUICK, "--workdir", str(workdir), *map(str, flags)]


# --------------------------------------------------------------------------- what a position sees

@settings(deadline=None)
@given(place=st.integers(0, 9), other=st.integers(0, 29), width=st.sampled_from([8, 12]))
def test_a_later_item_never_changes_an_earlier_output(place, other, width):
    model = small(width=width).eval()
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, place] = other
    inside = torch.ones_like(ids, dtype=torch.bool)
    before, after = model.hidden(ids, inside)[0], model.hidden(changed, inside)[0]
    assert torch.equal(before[:place], after[:place])
    assert torch.equal(before, after) == (other == place)          # and it does change its own and the later ones
    assert other == place or (before[place:] != after[place:]).any(1).all()


@pytest.mark.numeric
def test_padding_never_changes_a_vector():
    """A sequence alone, in longer company, and with other codes at its padding."""
    model, sequences = small().eval(), histories((2, 9))
    alone = model.vectors(*sequences.prediction_batch(np.array([0])))
    ids, inside, wanted = sequences.prediction_batch(np.array([0, 1]))
    assert ids[0, 2:].tolist() == [30] * 7 == [model.pad_id] * 7 and inside.sum(1).tolist() == [2, 9]
    assert torch.allclose(model.vectors(ids, inside, wanted)[0], alone[0], atol=1e-12)
    assert torch.equal(model.vectors(torch.where(inside, ids, 17), inside, wanted), model.vectors(ids, inside, wanted))


def test_padding_gets_no_gradient():
    """No item is touched that is not in the batch: the padding looks nothing up that trains."""
    model = small(loss="gbce")
    sequences = Sequences(np.array([0, 2, 11]), np.arange(11), 11, 30)
    ids, inside, targets = sequences.shifted(np.arange(2))
    model.loss(ids, inside, torch.tensor([12]), targets).backward()
    touched = model.items.grad.abs().sum(1).nonzero().squeeze(1).tolist()
    assert touched == [*range(11), 12]


@pytest.mark.parametrize("n", [1, 4, 10])
def test_positions_count_from_the_end(n):
    """Without layers an output is its item and its position: the one asked has the first row at any length."""
    model = small(layers=0)
    vectors = model.vectors(*histories((n,), length=10).prediction_batch(np.array([0])))
    (vectors * torch.arange(8)).sum().backward()
    assert model.positions.grad.abs().sum(1).nonzero().flatten().tolist() == [0]


# --------------------------------------------------------------------------- sequences

def test_training_asks_for_the_next_item_and_prediction_for_the_one_after_the_last():
    sequences = Sequences(np.array([0, 3, 8, 9]), np.arange(10, 19), length=4, pad_id=30)
    ids, inside, targets = sequences.shifted(np.array([0, 1, 2]))
    assert ids.tolist() == [[10, 11, 30], [14, 15, 16], [30, 30, 30]]      # the last is only a target; one has none
    assert inside.tolist() == [[True, True, False], [True] * 3, [False] * 3]
    assert targets.tolist() == [11, 12, 15, 16, 17]
    assert sequences.shifted(np.array([2])) is None
    ids, inside, wanted = sequences.prediction_batch(np.array([0, 1, 2]))
    assert ids.tolist() == [[10, 11, 12, 30], [14, 15, 16, 17], [18, 30, 30, 30]]
    assert wanted.nonzero().tolist() == [[0, 2], [1, 3], [2, 0]]


def test_sampled_items_are_different_and_at_most_all():
    drawn = sample(50, 20, generator_of(1))
    assert len(set(drawn.tolist())) == 20 and 0 <= drawn.min() and drawn.max() < 50
    assert sample(50, 20, generator_of(1)).tolist() == drawn.tolist() != sample(50, 20, generator_of(2)).tolist()
    assert sorted(sample(5, 256, generator_of(1)).tolist()) == [0, 1, 2, 3, 4]
    counts = np.bincount(np.concatenate([sample(10, 3, generator_of(i)) for i in range(2000)]))
    assert (abs(counts - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5).all()


# --------------------------------------------------------------------------- losses

def dense_loss(model, ids, inside, negatives, targets):
    """The same loss from all scores (B, L, V), row by row, by the formulas of the papers."""
    scores, v = (model.hidden(ids, inside) @ model.items.T)[inside], len(model.items)
    if model.objective == "ce":
        return F.cross_entropy(scores, targets)
    losses = []
    for row, target in zip(scores, targets.tolist(), strict=True):
        others = row[[n for n in negatives.tolist() if n != target]]
        if model.objective == "sampled":
            total = row[target].exp() + others.exp().sum() * (v - 1) / len(others)
            losses.append(total.log() - row[target])
        else:
            alpha = len(others) / (v - 1)
            beta = alpha * (model.t * (1 - 1 / alpha) + 1 / alpha)
            chosen = torch.sigmoid(row[target]) ** beta
            losses.append(-(chosen.log() + (1 - torch.sigmoid(others)).log().sum()) / (len(others) + 1))
    return torch.stack(losses).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.numeric
@pytest.mark.parametrize("loss", ["ce", "sampled", "gbce"])
@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize("frozen", [True, False])
def test_loss_and_gradients_equal_the_dense_ones(loss, width, frozen):
    model = small(loss=loss, width=width, frozen=frozen)
    ids, inside, targets = histories().shifted(np.arange(4))
    negatives = sample(30, 12, generator_of(5))
    assert np.isin(negatives, targets).any() and not np.isin(negatives, targets).all()
    ours, dense = (f(ids, inside, negatives, targets) for f in (model.loss, lambda *batch: dense_loss(model, *batch)))
    assert abs(ours - dense) < 1e-12
    expected, found = gradients(model, dense), gradients(model, ours)
    assert expected.keys() == found.keys() and ("items" in found) == (not frozen)
    for name, value in expected.items():
        assert torch.allclose(value, found[name], rtol=1e-8, atol=1e-12), name


@pytest.mark.numeric
def test_with_every_item_sampled_the_sampled_softmax_is_the_softmax_and_gbce_the_bce():
    torch.manual_seed(0)
    vectors, items, targets = torch.randn(7, 6).double(), torch.randn(9, 6).double(), torch.arange(7)
    own, others = sampled_scores(vectors, items, targets, torch.randperm(9))
    scores = vectors @ items.T
    assert torch.allclose(sampled_softmax(own, others, 9), F.cross_entropy(scores, targets, reduction="none"))
    wanted = F.one_hot(targets, 9).double()
    bce = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(1)
    assert torch.allclose(gbce(own, others, 9, t=0.75), bce)


def test_a_row_whose_only_sampled_item_is_its_target_has_a_loss_and_no_nan():
    vectors = torch.randn(2, 4, requires_grad=True)
    own, others = sampled_scores(vectors, torch.randn(5, 4), torch.tensor([3, 1]), torch.tensor([3]))
    for losses in (sampled_softmax(own, others, 5), gbce(own, others, 5, 0.75)):
        gradient, = torch.autograd.grad(losses.sum(), vectors, retain_graph=True)
        assert losses.isfinite().all() and gradient.isfinite().all()
    assert sampled_softmax(own, others, 5)[0] == 0 < sampled_softmax(own, others, 5)[1]


def test_the_sum_over_the_others_is_estimated_without_bias():
    """Over many draws of 5 of 40 items, exp(loss) is on average that of the whole softmax."""
    torch.manual_seed(1)
    vectors, items, targets = torch.randn(1, 4).double(), torch.randn(40, 4).double(), torch.tensor([7])
    draws = (sample(40, 5, generator_of(i)) for i in range(4000))
    estimates = torch.cat([sampled_softmax(*sampled_scores(vectors, items, targets, n), 40) for n in draws]).exp()
    exact = F.cross_entropy(vectors @ items.T, targets).exp()
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / len(estimates) ** 0.5


@pytest.mark.parametrize("loss", ["ce", "gbce"])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_scores_of_the_catalogue_are_never_whole(loss, frozen, monkeypatch):
    """64 x 10 positions, V = 6,000: no more than a quarter of the scores is held at once."""
    monkeypatch.setattr(softmax, "budget", lambda device: 1 << 15)
    model = small(v=6000, kind=torch.float32, loss=loss, frozen=frozen)
    ids = torch.randint(6000, (64, 10))
    inside = torch.ones_like(ids, dtype=torch.bool)
    largest = largest_allocation(
        lambda: model.loss(ids, inside, sample(6000, 64, generator_of(0)), ids.flatten()).backward())
    assert 0 < largest <= 4 * ids.numel() * len(model.items) / 4


@pytest.mark.numeric
def test_bf16_is_close_to_float32():
    exact, narrow = (small(v=200, dim=16, width=16, kind=torch.float32, bf16=bf16) for bf16 in (False, True))
    narrow.load_state_dict(exact.state_dict())
    batch = histories(v=200).shifted(np.arange(4))
    found = [gradients(model, model.loss(*batch[:2], None, batch[2])) for model in (exact, narrow)]
    losses = [model.loss(*batch[:2], None, batch[2]) for model in (exact, narrow)]
    assert losses[1].dtype == torch.float32 and 0 < abs(losses[0] - losses[1]) < 0.02 * losses[0]
    for name in ("items", "positions", "blocks.0.up.weight"):
        assert F.cosine_similarity(found[0][name].flatten(), found[1][name].flatten(), dim=0) > 0.99


# --------------------------------------------------------------------------- the command line

@pytest.mark.parametrize(("argv", "sentence"), [
    (["--hidden-dim", "30"], "4 heads cannot share a width of 30; give --hidden-dim a multiple of 4 (32, say)"),
    (["--negatives", "5"], "--negatives is for --loss sampled and gbce"),
    (["--loss", "sampled", "--gbce-t", "0.5"], "--gbce-t is for --loss gbce"),
    (["--loss", "gbce", "--gbce-t", "1.5"], "--gbce-t must be from 0 to 1, not 1.5"),
    (["--loss", "bpr"], "invalid choice: 'bpr'"),
    (["--dropout", "1"], "--dropout: must be a number of at least 0 and below 1, not 1"),
    (["--lr", "0"], "--lr: must be a number above 0, not 0"),
    (["--seed", "-1"], "--seed: must be a whole number from 0"),
    (["--shuffle"], "--shuffle permutes an embedding; random has none"),
    (["--dynamic-item-freeze", "1"], "--dynamic-item-freeze holds an embedding; random has none"),
    (["--max-seq-len", "0"], "must be a whole number of at least 1, not 0"),
    (["mert", "--model", "mfcc"], "model is mert as positional argument and mfcc as a flag; give it once"),
])
def test_a_wrong_call_is_one_sentence_and_status_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as e:
        sasrec.parse(argv)
    err = capsys.readouterr().err
    assert e.value.code == 2 and sentence in err and err.count("\n") == 1


def test_the_embedding_is_a_place_or_a_flag():
    assert sasrec.parse([]).model == "random" and sasrec.parse(["mert"]) == sasrec.parse(["--model", "mert"])
    assert sasrec.parse(["--loss", "gbce"]).negatives == 256 and sasrec.parse(["--loss", "gbce"]).gbce_t == 0.75


def test_frozen_items_stay_and_free_ones_move(tiny):
    split = dataset.load(tiny)
    content = dataset.load_embedding(split, "content")[:split.n_hot]
    name, manifest = train(tiny, "content", "--scale", "none")
    assert "items" not in checkpoint(tiny, name, "best")["model"] and not (manifest["items_released"])
    assert not (tiny / "model_embeddings" / f"{name}_items.npy").exists()
    name, manifest = train(tiny, "content", "--scale", "none", "--item-freeze", "0")
    items = np.load(tiny / "model_embeddings" / f"{name}_items.npy")
    assert (items != content).any(1).all() and np.abs(items - content).max() < 0.2
    assert manifest["dim"] == 8 and manifest["hidden_dim"] == 16
    assert {"into.weight", "out.weight"} <= checkpoint(tiny, name, "best")["model"].keys()


@pytest.mark.trains
def test_dynamic_item_freeze_releases_the_items_at_the_first_plateau(tiny, monkeypatch):
    monkeypatch.setitem(sasrec.PLATEAU, "plateau_patience", 0)
    name, manifest = train(tiny, "content", "--dynamic-item-freeze", "1", "--epochs", "40", "--lr", "0.05")
    assert manifest["items_released"] and checkpoint(tiny, name, "last")["released"]


def test_cold_items_are_ranked_by_content_and_left_out_without(tiny):
    split = dataset.load(tiny)
    name, manifest = train(tiny, "content")
    assert manifest["parts"] == ["cold_test", "test", "val"]
    assert set(preds(tiny, name, "cold_test").track_id) <= set(split.tracks[split.n_hot:])
    users = np.load(tiny / "model_embeddings" / f"{name}_users.npy")
    assert users.shape == (split.n_users, 8)
    name, manifest = train(tiny)
    assert manifest["parts"] == ["test", "val"] and "no content" in manifest["left_out"]["cold_test"]


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_a_sampled_loss_is_validated_by_itself_on_fixed_items(tiny, loss):
    split, args = dataset.load(tiny), sasrec.parse([*QUICK, "--loss", loss, "--negatives", "9"])
    training, _, encoder = sasrec.prepare(split, args, *split.sequences(), torch.device("cpu"))
    val, model = split.part("val"), training.model
    vectors = encoder.users(val.user)
    own, others = sampled_scores(vectors, model.items, torch.from_numpy(val.item), encoder.negatives)
    expected = sampled_softmax(own, others, split.n_hot) if loss == "sampled" else gbce(own, others, split.n_hot, 0.75)
    assert encoder.loss() == encoder.loss() == pytest.approx(expected.mean().item(), rel=1e-6)


# --------------------------------------------------------------------------- bad and odd data

def refused(workdir, *flags):
    """The sentence a command ends with; it must leave nothing behind."""
    before = sorted(workdir.rglob("*"))
    done = subprocess.run(command(workdir, *flags), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
    assert sorted(workdir.rglob("*")) == before
    return done.returncode, done.stderr


def workspace(workdir, histories, tests):
    """A workspace of train histories and one test track each: {user: [tracks]}, {user: track}."""
    workdir.mkdir()
    write_tracks(workdir, 1 + max(t for mine in histories.values() for t in mine))
    for part, pairs in (("train", [(u, t) for u, mine in histories.items() for t in mine]), ("test", [*tests.items()])):
        if pairs:
            write_pairs(workdir, part, *zip(*pairs, strict=True))
    return workdir


def test_data_without_times_asks_for_the_order(tmp_path):
    workdir = tiny_workspace(tmp_path / "w", timed=False)
    status, sentence = refused(workdir)
    assert status == 2 and "--order count" in sentence
    assert train(workdir, "--order", "count")[1]["order"] == "count"


def test_one_user_is_enough_and_one_item_is_not(tmp_path):
    one = workspace(tmp_path / "one", {1: [2, 0, 3, 1]}, {1: 3})
    assert preds(one, train(one)[0], "test").empty                  # all was seen
    two = workspace(tmp_path / "two", {1: [2, 0, 3, 1], 5: [4]}, {1: 4})
    assert preds(two, train(two)[0], "test").track_id.tolist() == [4]
    status, sentence = refused(workspace(tmp_path / "item", {1: [0], 2: [0]}, {}))
    assert status == 1 and "no user has two tracks in train, so there is no next track to learn from" in sentence


def test_users_longer_than_the_maximum_are_asked_with_their_latest(tmp_path):
    """Two worlds whose users differ only before the latest tracks that count: the same lists but for what is seen."""
    made = []
    for early in ([0, 1, 2, 3], [3, 2, 0, 1]):
        mine = {u: [*early, 4, 5 + u % 3, 9, 8] for u in range(6)}
        workdir = workspace(tmp_path / f"w{early[0]}", mine, {1: 7, 2: 5})
        name, _ = train(workdir, "--max-seq-len", "3")
        made.append(preds(workdir, name, "test"))
    assert made[0].equals(made[1])


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_fewer_items_than_negatives_takes_them_all(tiny, loss):
    name, manifest = train(tiny, "--loss", loss)                    # 256 negatives, 66 items
    assert manifest["request"]["negatives"] == 256 and math.isfinite(manifest["best_value"])
    assert len(preds(tiny, name, "test"))


def test_a_track_without_an_embedding_stops_and_says_what_mends_it(tiny):
    vectors = np.load(tiny / "embeddings" / "content.npy")
    vectors[dataset.load(tiny).tracks[:3]] = np.nan
    write_embedding(tiny, "content", vectors)
    before = len(runs.find_runs(tiny))
    with pytest.raises(WorkError, match=r"no row for 3 of the .* --missing mean"):
        sasrec.main([*QUICK, "content", "--workdir", str(tiny)])
    assert before == 0 and train(tiny, "content", "--missing", "mean")[1]["status"] == "finished"


def test_a_track_never_seen_in_train_is_refused_in_the_hot_test_and_an_unknown_embedding_named(tiny):
    assert "no embedding 'mert'" in refused(tiny, "mert")[1]
    write_pairs(tiny, "test", [3], [0])                             # track 0 is in no part
    status, sentence = refused(tiny)
    assert status == 1 and "absent from train" in sentence


def test_a_diverging_loss_stops_with_a_sentence(tiny):
    with pytest.raises(WorkError, match="loss is NaN or infinite in epoch .*smaller --lr"):
        train(tiny, "--lr", "1e30")


# --------------------------------------------------------------------------- resume and learning

LONG = ["content", "--epochs", "12", "--batch-size", "4", "--patience", "100", "--checkpoint-seconds", "0",
        "--item-freeze", "0"]


@pytest.mark.trains
@pytest.mark.parametrize(("number", "status", "loss"), [("SIGKILL", -signal.SIGKILL, "ce"),
                                                        ("SIGUSR1", EXIT_RESUMABLE, "gbce")])
def test_a_stopped_run_ends_with_the_weights_of_one_never_stopped(tmp_path, number, status, loss):
    whole, cut = (tiny_workspace(tmp_path / name) for name in ("whole", "cut"))
    flags = [*LONG, "--loss", loss]
    train(whole, *flags)
    assert stopped(command(cut, *flags), cut, signal.Signals[number], epoch=2) == status
    ((name, manifest),) = runs.find_runs(cut)
    assert 2 <= checkpoint(cut, name, "last")["epoch"] < 12 and manifest["status"] == "running"
    subprocess.run(command(cut, *flags), cwd=ROOT, check=True, capture_output=True, timeout=200)
    for which in ("best", "last"):
        assert same_weights(checkpoint(whole, name, which)["model"], checkpoint(cut, name, which)["model"])
    for part in ("val", "test", "cold_test"):
        assert preds(whole, name, part).equals(preds(cut, name, part))


@pytest.mark.trains
@pytest.mark.parametrize("loss", ["ce", "sampled", "gbce"])
def test_learns_the_order_of_a_ring(tmp_path, loss):
    """30 tracks: chance names the next step once in 22 (8 are hidden); the order alone gives it away."""
    workdir = ring(tmp_path / "ring")
    flags = ["--negatives", "10"] if loss != "ce" else []
    sasrec.main(["--hidden-dim", "32", "--batch-size", "32", "--epochs", "30", "--max-seq-len", "12", "--lr", "0.005",
                 "--k", "5", "--loss", loss, "--workdir", str(workdir), *flags])
    ((name, _),) = runs.find_runs(workdir)
    first = preds(workdir, name, "test").query("rank == 0").set_index("user_id").track_id
    truth = pd.read_parquet(workdir / "data" / "test.pqt").set_index("user_id").track_id
    assert (first == truth).mean() > 0.8


def test_without_content_its_flags_make_no_other_run():
    plain = sasrec.request_of(sasrec.parse([]))
    assert sasrec.request_of(sasrec.parse(["--item-freeze", "0", "--missing", "mean"])) == plain
    content = sasrec.request_of(sasrec.parse(["content"]))
    assert sasrec.request_of(sasrec.parse(["content", "--item-freeze", "0"])) != content
