"""train_bert.py through its real command line: arguments, freezing, order, cold items, resume, learning."""
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import bert4rec
import dataset
import train_bert
from harness import runs
from harness.errors import UsageError, WorkError
from harness.progress import EXIT_RESUMABLE, Progress
from tests.worlds.histories import ROOT, ring, same_weights, stopped
from tests.worlds.world import tiny_workspace, write_embedding
from training import sequence_loop as sequence_training
from training.sequences import UserEncoder
from training.softmax import native_bf16

QUICK = ["--model", "content", "--epochs", "2", "--batch-size", "16", "--max-seq-len", "10", "--k", "10"]


def train(workdir, *flags):
    """One run of the command line in this process; its name and manifest."""
    before = {name for name, _ in runs.find_runs(workdir)}
    train_bert.main([*QUICK, "--workdir", str(workdir), *map(str, flags)])
    (made,) = [(n, c) for n, c in runs.find_runs(workdir) if n not in before]
    return made


def preds(workdir, name, part):
    return pd.read_parquet(workdir / "preds" / f"{name}_{part}.pqt")


def checkpoint(workdir, name, which, model="content"):
    return torch.load(workdir / "checkpoints" / model / f"{name}_{which}.pt", weights_only=True)


def command(workdir, *flags):
    return [sys.executable, "train_bert.py", *QUICK, "--workdir", str(workdir), *map(str, flags)]


# --------------------------------------------------------------------------- the command line

def test_the_published_call_and_its_flags_are_one_request():
    places = train_bert.parse("mert item 100 128 200 1 0 bert_baseline 1 0 1024 0 0.0".split())
    flags = train_bert.parse("--model mert --max-seq-len 100 --epochs 200 --comment bert_baseline "
                             "--hidden-dim 1024 --l2 0".split())
    assert vars(places) == vars(flags)
    assert (places.model, places.max_seq_len, places.batch_size, places.epochs, places.item_freeze, places.hidden_dim,
            places.l2) == ("mert", 100, 128, 200, 1, 1024, 0.0)
    mixed = train_bert.parse(["mert", "--hidden-dim", "1024", "item", "100", "--comment", "bert_baseline"])
    assert vars(mixed) == vars(places)


@pytest.mark.parametrize(("argv", "sentence"), [
    (["mert", "--model", "musicnn"], "model is mert as positional argument 1 and musicnn as a flag; give it once"),
    (["mert", "item", "1"], "argument 3, max_seq_len: must be a whole number of at least 2, not 1"),
    (["mert", "both"], "argument 2, sample_type: must be item or user, not both"),
    (["mert", "item", "100", "128", "2.5"], "argument 5, epochs: must be a whole number of at least 1, not 2.5"),
    (["--item-freeze", "yes"], "--item-freeze: must be 0 or 1, not yes"),
    (["--l2", "-1"], "--l2: must be a number of at least 0, not -1"),
    (["--l2", "nan"], "--l2: must be a number of at least 0, not nan"),
    (["--lr", "0"], "--lr: must be a number above 0, not 0"),
    (["--seed", "-1"], "must be a whole number from 0 to 4294967295, not -1"),
    (["x"] * 14, "argument"),
    ("mert item 100 128 200 1 0 c 1 0 0 0 0.0 more".split(), "takes at most 13 positional arguments"),
    (["random", "--shuffle"], "--shuffle permutes an embedding; random has none"),
    (["random", "--scale", "unit"], "--scale is for an embedding; random has none"),
    (["--as-published", "--dynamic-item-freeze", "1"], "never uses it"),
    (["--hiden-dim", "4"], "unrecognized arguments: --hiden-dim"),
    (["--precision", "fp8"], "--precision"),
])
def test_a_wrong_call_is_one_sentence_and_status_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as e:
        train_bert.parse(argv)
    err = capsys.readouterr().err
    assert e.value.code == 2 and sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--model", "mert"], "no embedding 'mert'"),
    (["--hidden-dim", "9"], "2 attention heads cannot share a width of 9"),
    (["--config", "absent.yaml"], "absent.yaml cannot be read"),
    (["--device", "cuda:99"], "--device cuda:99"),
])
def test_a_request_that_cannot_be_leaves_nothing_behind(tiny, flags, sentence):
    before = sorted(tiny.rglob("*"))
    done = subprocess.run(command(tiny, *flags), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert sorted(tiny.rglob("*")) == before


def test_help_is_instant_and_names_what_is_recorded_only():
    done = subprocess.run([sys.executable, "-X", "importtime", "train_bert.py", "--help"], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and not loaded & {"torch", "transformers", "pandas", "numpy"}
    help_text = " ".join(done.stdout.split())
    for name in train_bert.RECORDED:
        assert re.search(f"--{name.replace('_', '-')} {{[^}}]*}} recorded only", help_text)


def test_recorded_only_arguments_change_neither_name_nor_lists(tiny, capsys):
    name, manifest = train(tiny)
    assert manifest["recorded_only"] == {"sample_type": "item", "user_freeze": 0, "user_init": 1, "use_confidence": 0}
    train_bert.main([*QUICK, "--workdir", str(tiny), "--sample-type", "user", "--user-freeze", "1", "--user-init", "0",
                     "--use-confidence", "1"])
    assert len(runs.find_runs(tiny)) == 1 and "finished before" in capsys.readouterr().err


def test_bf16_runs_where_it_exists_and_is_refused_elsewhere(tiny):
    if native_bf16(torch.device("cpu")):
        assert train(tiny, "--precision", "bf16", "--device", "cpu")[1]["status"] == "finished"
    else:
        with pytest.raises(UsageError, match="this cpu has no bf16 arithmetic"):
            train(tiny, "--precision", "bf16", "--device", "cpu")


# --------------------------------------------------------------------------- what the arguments do

def test_item_freeze_keeps_the_table_and_0_trains_it(tiny):
    vectors = dataset.load_embedding(split := dataset.load(tiny), "content")[:split.n_hot]
    name, manifest = train(tiny, "--scale", "none")
    assert manifest["items_frozen_at_first"] and "items" not in checkpoint(tiny, name, "best")["model"]
    assert not (tiny / "model_embeddings" / f"{name}_items.npy").exists()
    name, manifest = train(tiny, "--scale", "none", "--item-freeze", "0")
    learned = np.load(tiny / "model_embeddings" / f"{name}_items.npy")
    assert not manifest["items_frozen_at_first"] and (learned != vectors).any(axis=1).all()
    best = checkpoint(tiny, name, "best")["model"]
    assert np.array_equal(best["items"].numpy(), learned) and (best["special"][0] != 0).all()


def test_scores_are_the_dot_products_of_the_written_vectors(tiny):
    split = dataset.load(tiny)
    name, _ = train(tiny, "--hidden-dim", "6", "--scale", "none")
    users = np.load(tiny / "model_embeddings" / f"{name}_users.npy")
    assert users.shape == (split.n_users, 8)
    items = dataset.load_embedding(split, "content")
    for part in split.parts:
        lists = preds(tiny, name, part)
        mine = users[np.searchsorted(split.users, lists.user_id)] * items[[*map([*split.tracks].index, lists.track_id)]]
        assert np.allclose(mine.sum(axis=1), lists.score, atol=1e-4)


@pytest.mark.trains
def test_dynamic_item_freeze_releases_the_items_at_the_first_plateau(tiny, tmp_path):
    """With plateau_patience 0 the first epoch without a better value is the plateau; the rate stays as it was."""
    config = tmp_path / "c.yaml"
    config.write_text("plateau_patience: 0\npatience: 3\nlearning_rate: 0.05\n")
    name, manifest = train(tiny, "--dynamic-item-freeze", "1", "--config", config, "--epochs", "30", "--scale", "none")
    assert manifest["items_frozen_at_first"] and manifest["items_released"]
    state = checkpoint(tiny, name, "last")
    assert state["released"] and state["epoch"] < 30 and "items" in checkpoint(tiny, name, "best")["model"]
    split = dataset.load(tiny)
    frozen = dataset.load_embedding(split, "content")[:split.n_hot]
    assert (state["model"]["items"].numpy() != frozen).any(axis=1).all()

    model = bert4rec.BERT4Rec(torch.zeros(5, 4), settings := bert4rec.load_config(config), 5)
    training = train_bert.Training(
        model, train_bert.training_settings(train_bert.parse(["--dynamic-item-freeze", "1"]), settings))
    freezes = []
    for epoch, loss in enumerate((3.0, 2.0, 2.5, 2.4), 1):
        training.stopping.update(epoch, {"NDCG@10": 1 / loss})
        freezes.append((not model.items.requires_grad, training.stopping.learning_rate()))
    assert freezes == [(True, 0.05), (True, 0.05), (False, 0.05), (False, pytest.approx(0.005))]


def test_hidden_dim_adds_projections_only_where_it_differs(tiny):
    for hidden_dim, projected in ((0, False), (8, False), (6, True)):
        name, manifest = train(tiny, "--hidden-dim", hidden_dim)
        weights = checkpoint(tiny, name, "best")["model"]
        assert ("into.weight" in weights) == ("out.weight" in weights) == projected
        assert manifest["dim"] == 8 and manifest["hidden_dim"] == (hidden_dim or 8)
        assert set(manifest["parts"]) == {"val", "test", "cold_test"}


def test_random_learns_items_of_hidden_dim_and_leaves_the_cold_test_out(tiny):
    name, manifest = train(tiny, "--model", "random", "--hidden-dim", "6")
    assert manifest["parts"] == ["test", "val"] and "no content" in manifest["left_out"]["cold_test"]
    assert np.load(tiny / "model_embeddings" / f"{name}_items.npy").shape == (dataset.load(tiny).n_hot, 6)
    assert not manifest["items_frozen_at_first"] and manifest["hidden_dim"] == 6
    assert train(tiny, "--model", "random")[1]["hidden_dim"] == bert4rec.load_config()["random_dim"]


def test_cold_items_are_in_the_cold_test_and_nowhere_else(tmp_path):
    """Other vectors for the cold tracks change the lists of the cold test, and not one weight or hot score."""
    found = []
    for scale in (1.0, -3.0):
        workdir = tiny_workspace(tmp_path / f"w{scale}")
        split = dataset.load(workdir)
        vectors = np.load(workdir / "embeddings" / "content.npy")
        vectors[split.tracks[split.n_hot:]] *= scale
        write_embedding(workdir, "content", vectors)
        name, _ = train(workdir)
        found.append((checkpoint(workdir, name, "last")["model"],
                      {part: preds(workdir, name, part) for part in ("val", "test", "cold_test")}))
    (weights, lists), (other_weights, other_lists) = found
    assert all(torch.equal(weights[k], other_weights[k]) for k in weights)
    assert lists["val"].equals(other_lists["val"]) and lists["test"].equals(other_lists["test"])
    assert not lists["cold_test"].equals(other_lists["cold_test"])
    cold = set(split.tracks[split.n_hot:])
    assert set(lists["cold_test"].track_id) <= cold and not set(lists["test"].track_id) & cold


def test_as_published_inverts_the_freeze_and_ignores_the_batch_size(tiny):
    name, manifest = train(tiny, "--as-published")
    assert manifest["items_frozen_at_first"] is False and manifest["batch_size"] == 128
    assert manifest["request"]["as_published"] is True
    assert train(tiny, "--as-published", "--item-freeze", "0")[1]["items_frozen_at_first"] is True
    best = checkpoint(tiny, name, "best")["model"]
    assert (best["special"][1] != 0).any()                          # the pad's row is in the softmax, too


def test_unit_scale_makes_the_units_of_an_embedding_irrelevant(tiny):
    vectors = np.load(tiny / "embeddings" / "content.npy")
    write_embedding(tiny, "loud", vectors * np.float32(512) + np.float32(64))
    write_embedding(tiny, "flat", np.full_like(vectors, 3.0))
    quiet, loud = (preds(tiny, train(tiny, "--model", model)[0], "test") for model in ("content", "loud"))
    assert (quiet.track_id == loud.track_id).mean() > 0.99 and np.allclose(quiet.score, loud.score, atol=1e-2)
    raw, loud = (preds(tiny, train(tiny, "--model", model, "--scale", "none")[0], "test")
                 for model in ("content", "loud"))
    assert (raw.track_id == loud.track_id).mean() < 0.9
    assert train(tiny, "--model", "flat")[1]["status"] == "finished"   # equal rows: nothing to divide by
    assert train_bert.parse(["--as-published"]).scale == "none" and train_bert.parse([]).scale == "unit"


@pytest.mark.trains
def test_l2_pulls_the_weights_towards_zero(tiny):
    size = []
    for l2 in (0.0, 1.0):
        name, _ = train(tiny, "--l2", l2, "--item-freeze", "0", "--epochs", "8")
        size.append(float(checkpoint(tiny, name, "last")["model"]["items"].square().sum()))
    assert size[1] < 0.99 * size[0]


def test_seed_shuffle_and_config_change_the_lists(tiny, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("num_hidden_layers: 1\n")
    made = [train(tiny, *flags)[0] for flags in ([], ["--seed", "7"], ["--shuffle"], ["--config", config])]
    scores = [preds(tiny, name, "test").score.to_numpy() for name in made]
    assert len(set(made)) == 4 and not any(np.array_equal(scores[0], other) for other in scores[1:])
    assert not any("layer.1." in key for key in checkpoint(tiny, made[3], "best")["model"])


def test_the_mask_does_not_begin_as_an_item(tiny):
    """ID vectors and the transformer's start have streams of their own."""
    split = dataset.load(tiny)
    args, config = train_bert.parse(["--model", "random"]), bert4rec.load_config()
    model, *_ = train_bert.build(split, args, config, torch.device("cpu"))
    cosine = torch.nn.functional.cosine_similarity(model.items, model.special[:1])
    assert model.items.shape[1] % 16 == 0 and cosine.abs().max() < 0.9


# --------------------------------------------------------------------------- order, val, divergence

def test_data_without_times_asks_for_the_order(tmp_path):
    workdir = tiny_workspace(tmp_path / "w", timed=False)
    before = sorted(workdir.rglob("*"))
    done = subprocess.run(command(workdir), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--order count" in done.stderr and done.stderr.count("\n") == 1
    assert sorted(workdir.rglob("*")) == before
    name, manifest = train(workdir, "--order", "count")
    assert manifest["order"] == "count" and manifest["request"]["order"] == "count"


@pytest.mark.trains
def test_without_val_all_epochs_are_trained_and_the_run_says_so(tiny, capsys):
    (tiny / "data" / "val.pqt").unlink()
    name, manifest = train(tiny, "--patience", "1", "--epochs", "3")
    assert manifest["epochs"] == manifest["best_epoch"] == 3 and manifest["best_val_loss"] is None
    assert "no val part" in capsys.readouterr().err and manifest["parts"] == ["cold_test", "test"]
    with pytest.raises(UsageError, match="waits for a plateau on val"):
        train(tiny, "--dynamic-item-freeze", "1")


@pytest.mark.trains
@pytest.mark.parametrize(("rule", "key"), [("loss", "best_loss"), ("NDCG@10", "best")])
def test_early_stopping_keeps_the_best_epoch(tiny, rule, key):
    name, manifest = train(tiny, "--patience", "2", "--lr", "0.05", "--epochs", "60", "--stop-on", rule)
    assert manifest["epochs"] == manifest["best_epoch"] + 2 < 60
    best, last = checkpoint(tiny, name, "best"), checkpoint(tiny, name, "last")
    assert best["epoch"] == manifest["best_epoch"] and best[rule] == manifest["best_value"] == last[key]


@pytest.mark.parametrize("argv, positions, spread, norm", [
    ([], "end", 0.05, "before"), (["--order", "count"], "none", 0.05, "before"),
    (["--as-published", "--order", "count"], "start", 0.02, "after")])
def test_what_the_settings_decide(argv, positions, spread, norm, tmp_path):
    config = train_bert.settings(train_bert.parse(argv))
    assert (config["positions"], config["initializer_range"], config["norm"]) == (positions, spread, norm)
    (tmp_path / "own.yaml").write_text("positions: start")
    args = train_bert.parse([*argv, "--config", str(tmp_path / "own.yaml")])
    assert train_bert.settings(args)["positions"] == "start"


def test_a_diverging_loss_stops_with_a_sentence(tiny):
    with pytest.raises(WorkError, match="loss is NaN or infinite in epoch .*smaller --lr"):
        train(tiny, "--lr", "1e30", "--item-freeze", "0")


def test_the_validation_loss_is_the_cross_entropy_at_the_mask(tiny):
    """Against plain scores: log softmax over the hot catalogue, of each val pair, at the mask behind the history."""
    split = dataset.load(tiny)
    config = bert4rec.load_config()
    vectors = torch.from_numpy(dataset.load_embedding(split, "content"))
    model = bert4rec.BERT4Rec(vectors[:split.n_hot], config, 10).eval()
    indptr, items = split.sequences()
    encoder = UserEncoder(model, bert4rec.Sequences(indptr, items, 10, model.mask_id), split)
    losses = []
    for user, item in zip(split.part("val").user, split.part("val").item, strict=True):
        history = items[indptr[user]:indptr[user + 1]][-9:]
        ids = torch.tensor([[*history, model.mask_id]])
        with torch.no_grad():
            losses.append(-model(ids)[0, -1, :split.n_hot].log_softmax(0)[item].item())
    assert encoder.loss() == pytest.approx(np.mean(losses), abs=1e-5)


def test_tensorboard_holds_losses_metrics_and_hyperparameters(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    name, _ = train(tiny, "--eval-every", "1")
    events = EventAccumulator(str(tiny / "runs" / name)).Reload()
    tags = events.Tags()["scalars"]
    assert {"Loss/train", "Loss/val", "lr", "val/NDCG@10", "val/HitRate@10", "best/Recall@10"} <= set(tags)
    assert not any("test" in tag for tag in tags)   # what is looked at while one trains
    assert [e.step for e in events.Scalars("Loss/val")] == [1, 2]
    assert "_hparams_/session_start_info" in events.summary_metadata


# --------------------------------------------------------------------------- resume

LONG = ["--epochs", "12", "--batch-size", "4", "--patience", "100", "--checkpoint-seconds", "0", "--item-freeze", "0"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    workdir = tiny_workspace(tmp_path_factory.mktemp("whole") / "w")
    subprocess.run(command(workdir, *LONG), cwd=ROOT, check=True, capture_output=True, timeout=200)
    return workdir


@pytest.mark.trains
@pytest.mark.parametrize(("number", "status"), [("SIGKILL", -signal.SIGKILL), ("SIGUSR1", EXIT_RESUMABLE)])
def test_a_stopped_run_ends_with_the_weights_of_one_never_stopped(never_stopped, tmp_path, number, status):
    """kill -9 loses the epoch under way, SIGUSR1 keeps its steps; both continue to the same bytes."""
    cut = tiny_workspace(tmp_path / "cut")
    assert stopped(command(cut, *LONG), cut, signal.Signals[number], epoch=2) == status
    ((name, manifest),) = runs.find_runs(cut)
    assert 2 <= checkpoint(cut, name, "last")["epoch"] < 12 and manifest["status"] == "running"
    subprocess.run(command(cut, *LONG), cwd=ROOT, check=True, capture_output=True, timeout=200)
    for which in ("best", "last"):
        a, b = checkpoint(never_stopped, name, which), checkpoint(cut, name, which)
        assert a["epoch"] == b["epoch"] and same_weights(a["model"], b["model"])
    for part in ("val", "test", "cold_test"):
        assert preds(never_stopped, name, part).equals(preds(cut, name, part))
    ours, theirs = (json.loads((w / "runs" / name / "config.json").read_text()) for w in (never_stopped, cut))
    assert ours["best_value"] == theirs["best_value"] and theirs["status"] == "finished"


def test_a_signal_inside_an_epoch_keeps_its_steps(tiny):
    """Stopped after the second step of an epoch and taken up again: the weights of an epoch in one go."""
    split = dataset.load(tiny)
    indptr, items = split.sequences()
    args, config = train_bert.parse([*QUICK, "--seed", "5"]), bert4rec.load_config()

    class StopAfter2:
        steps = 0

        def after_step(self):
            self.steps += 1
            if self.steps == 2:
                raise SystemExit

    def fresh():
        model, _, whole, _ = train_bert.build(split, args, config, torch.device("cpu"))
        training = train_bert.Training(model, train_bert.training_settings(args, config), whole)
        return training, bert4rec.Sequences(indptr, items, 10, model.mask_id)
    with Progress(0, "test") as progress:
        one, sequences = fresh()
        loss = sequence_training.train_epoch(one, sequences, 16, progress)
        two, _ = fresh()
        with pytest.raises(SystemExit):
            sequence_training.train_epoch(two, sequences, 16, progress, StopAfter2())
        assert two.step == 2
        three, _ = fresh()
        three.load(two.state())
        assert sequence_training.train_epoch(three, sequences, 16, progress) == loss
    assert same_weights(one.weights(), three.weights()) and (three.epoch, three.step) == (1, 0)


# --------------------------------------------------------------------------- learning

@pytest.mark.trains
def test_learns_the_order_of_a_ring(tmp_path):
    """30 tracks: chance names the next step once in 22 (8 are hidden); the order alone gives it away."""
    workdir = ring(tmp_path / "ring")
    train_bert.main(["random", "--hidden-dim", "32", "--batch-size", "16", "--epochs", "30", "--max-seq-len", "12",
                     "--lr", "0.003", "--k", "5", "--workdir", str(workdir)])
    ((name, _),) = runs.find_runs(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{name}_test.pqt")
    first = preds(workdir, name, "test").query("rank == 0").set_index("user_id").track_id
    truth = pd.read_parquet(workdir / "data" / "test.pqt").set_index("user_id").track_id
    assert (first == truth).mean() > 0.5 and values["HitRate@5"].mean() > 0.8
