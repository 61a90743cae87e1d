"""Which epoch each trained method keeps, by real trainings that log what they see and are broken off on the way."""
import json

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import registry, runs
from harness.errors import UsageError
from harness.readers import load_checkpoint
from tests.worlds.world import tiny_workspace, with_cold_val
from training import references, validation
from training.validation import Validation

SMALL = {   # of every trained method; the learning rates are small, so that the loss falls for all of these epochs
    "train": ["--model", "content", "--hidden-dim", "4", "--batch-size", "256", "--neg-samples", "5"],
    "train_bert": ["--model", "content", "--batch-size", "16", "--max-seq-len", "20", "--hidden-dim", "4",
                   "--lr", "0.0003"],
    "recommenders.sasrec": ["content", "--batch-size", "16", "--hidden-dim", "8", "--lr", "0.0003"],
    "recommenders.two_tower": ["--embedding", "content", "--batch-size", "256"],
    "recommenders.clcrec": ["--embedding", "content", "--negatives", "8"],
    "recommenders.sibrar": ["--embedding", "content", "--lr", "0.0003", "--dropout", "0"],
    "recommenders.content_elsa": ["--embedding", "content", "--factors", "8", "--batch-size", "16", "--lr", "0.0003"],
    "recommenders.dtnmr": ["--hidden", "8", "--lstm-size", "8", "--size", "4", "--lr", "0.0003"],
}
PARTS = ("val", "test", "cold_test")


def run(name, workdir, *flags):
    """The manifest of the run that a command line makes."""
    before = {n for n, _ in runs.find_runs(workdir)}
    registry.load(name).main([*SMALL[name], "--k", "10", "--device", "cpu", "--workdir", str(workdir), *flags])
    (made,) = [config for n, config in runs.find_runs(workdir) if n not in before]
    return made


def logged(workdir, manifest, tag):
    """{epoch: value} of a scalar in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(workdir / "runs" / manifest["run"])).Reload()
    return {e.step: e.value for e in events.Scalars(tag)}


def lists(workdir, manifest):
    return pd.concat([pd.read_parquet(workdir / "preds" / f"{manifest['run']}_{part}.pqt") for part in PARTS])


@pytest.fixture
def rules(monkeypatch):
    """The rule of every training since, in order."""
    made, real = [], Validation.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        made.append(self)
    monkeypatch.setattr(Validation, "__init__", init)
    return made


@pytest.mark.trains
@pytest.mark.parametrize("name", SMALL)
def test_each_method_keeps_the_epoch_that_its_rule_says(name, tiny, monkeypatch):
    """The loss falls for five epochs and the metric is made to peak in the second: the kept epochs differ.

    The weights of the kept epoch are what is ranked: the lists are those of a training of two epochs.
    """
    values = {"NDCG@10": dict(enumerate([0.1, 0.4, 0.3, 0.2, 0.1], 1))}
    seen, real = [], Validation.evaluate

    def evaluate(self, state, ranker, loss=None):
        monkeypatch.setattr(Validation, "values", lambda *_: {"NDCG@10": values["NDCG@10"][state.epoch]})
        seen.append(state.epoch)
        return real(self, state, ranker, loss)
    monkeypatch.setattr(Validation, "evaluate", evaluate)
    metric, loss = run(name, tiny, "--epochs", "5"), run(name, tiny, "--epochs", "5", "--stop-on", "loss")
    assert seen == [1, 2, 3, 4, 5] * 2
    assert (metric["best_epoch"], metric["best_value"], metric["selected_by"]) == (2, 0.4, "NDCG@10")
    assert metric["best_val_loss"] is None
    losses = logged(tiny, loss, "Loss/val")
    assert loss["selected_by"] == "loss" and loss["best_value"] == loss["best_val_loss"]
    assert loss["best_epoch"] == min(losses, key=losses.get) != 2
    best = load_checkpoint(next((tiny / "checkpoints").rglob(f"{metric['run']}_best.pt")))
    assert best["epoch"] == 2
    short = run(name, tiny, "--epochs", "2")
    assert short["best_epoch"] == 2 and lists(tiny, metric).equals(lists(tiny, short))
    assert not lists(tiny, metric).equals(lists(tiny, loss))


@pytest.mark.trains
@pytest.mark.parametrize("name", SMALL)
def test_the_kept_epoch_is_the_best_of_the_log_on_the_same_users(name, tiny, rules):
    manifest = run(name, tiny, "--epochs", "6", "--eval-every", "2", "--val-users", "12", "--seed", "3",
                   "--stop-on", "Recall@20")
    (rule,) = rules
    assert rule.split.eval_users("val").tolist() == validation.sample(dataset.load(tiny), "val", 12).tolist()
    values = logged(tiny, manifest, "val/Recall@20")
    assert [*values] == [2, 4, 6] and manifest["best_epoch"] == max(values, key=values.get)
    assert manifest["best_value"] == pytest.approx(max(values.values()), abs=1e-6)    # TensorBoard has float32
    own = {k: manifest["request"][k] for k in ("stop_on", "eval_every", "val_users")}
    assert own == {"stop_on": "Recall@20", "eval_every": 2, "val_users": 12}


@pytest.mark.trains
@pytest.mark.parametrize("name", SMALL)
def test_interrupted_before_the_first_evaluation_it_ends_as_if_never_stopped(name, tmp_path, monkeypatch):
    """Broken off in the third epoch with val ranked after the fourth and the fifth: no epoch has a value yet."""
    whole, cut = (tiny_workspace(tmp_path / folder) for folder in ("whole", "cut"))
    flags = ["--epochs", "5", "--eval-every", "4", "--checkpoint-seconds", "0"]
    uninterrupted, real = run(name, whole, *flags), Validation.evaluate

    def broken_off(self, state, *rest):
        if state.epoch == 3:
            raise KeyboardInterrupt
        return real(self, state, *rest)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Validation, "evaluate", broken_off)
        run(name, cut, *flags)
    ((_, manifest),) = runs.find_runs(cut)
    assert manifest["status"] == "running"
    registry.load(name).main([*SMALL[name], "--k", "10", "--device", "cpu", "--workdir", str(cut), *flags])
    ((_, resumed),) = runs.find_runs(cut)
    for key in ("run", "best_epoch", "best_value", "epochs"):
        assert resumed[key] == uninterrupted[key]
    assert lists(cut, resumed).equals(lists(whole, uninterrupted))


@pytest.mark.trains
@pytest.mark.parametrize("name", SMALL)
def test_with_cold_val_a_method_of_both_is_selected_by_both(name, tiny):
    """By the log, whose values are float32 (1e-6): the kept epoch has the best mean of the two by the references."""
    manifest = run(name, with_cold_val(tiny), "--epochs", "3")
    split = dataset.load(tiny)
    hot, cold = (logged(tiny, manifest, tag) for tag in ("val/NDCG@10", "cold_val/NDCG@10"))
    known, new = (references.reference(split, part, "NDCG@10") for part in ("val", "cold_val"))
    means = {epoch: (hot[epoch] / known.unit + max(cold[epoch], new.floor) / new.unit) / 2 for epoch in (1, 2, 3)}
    assert manifest["best_value"] == pytest.approx(max(means.values()), rel=1e-5)
    assert means[manifest["best_epoch"]] == pytest.approx(max(means.values()), rel=1e-5)


@pytest.mark.trains
@pytest.mark.parametrize("name", ["train", "train_bert", "recommenders.sasrec"])
def test_with_cold_val_a_method_without_content_is_selected_on_val(name, tiny):
    registry.load(name).main(["--model", "random", "--epochs", "2", "--k", "10", "--device", "cpu", "--workdir",
                              str(with_cold_val(tiny))])
    ((_, manifest),) = runs.find_runs(tiny)
    values = logged(tiny, manifest, "val/NDCG@10")
    assert manifest["best_value"] == pytest.approx(max(values.values()), abs=1e-6)


@pytest.mark.trains
def test_a_run_of_another_rule_is_not_continued(tiny, capsys):
    by_loss = run("train", tiny, "--epochs", "2", "--stop-on", "loss")
    more = ["--epochs", "4", "--logdir", by_loss["run"], "--last-epoch", "2"]
    with pytest.raises(UsageError, match=f"run {by_loss['run']} keeps its epoch by loss, this one by NDCG@10 "
                                         "--val-users 0; add --stop-on loss"):
        run("train", tiny, *more)
    assert run("train", tiny, *more, "--stop-on", "loss")["epochs"] == 4


@pytest.mark.trains
def test_an_interrupted_run_of_another_rule_is_not_resumed(tiny, monkeypatch):
    """An earlier version broke off a run by the loss: today's default has another name and its own first epoch."""
    def broken_off(self, state, *rest):
        raise KeyboardInterrupt
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Validation, "evaluate", broken_off)
        run("train", tiny, "--epochs", "2", "--stop-on", "loss", "--checkpoint-seconds", "0")
    ((loss, config),) = runs.find_runs(tiny)
    assert "stop_on" not in config["request"] and config["status"] == "running"
    made = run("train", tiny, "--epochs", "2")
    assert made["run"] != loss and [*logged(tiny, made, "val/NDCG@10")] == [1, 2]
    assert json.loads((tiny / "runs" / loss / "config.json").read_text())["status"] == "running"


def test_the_two_tower_loss_is_that_of_val_pairs_among_the_items_of_their_batch(tiny):
    """One batch, every pair against plain sums: neither train's tracks of the user nor other val tracks are negatives.

    1e-5: float32 sums of about a hundred terms.
    """
    from recommenders.two_tower.model import Data, Settings, Training, item_columns
    split = dataset.load(tiny)
    data = Data(split, item_columns(split, ["content"], [], "fail", None))
    state = Training(data, Settings(batch_size=10_000, dropout=0.0))
    val, played = split.part("val"), split.matrix().toarray() > 0
    users, items = state.towers.vectors(data)
    losses = []
    for user, item in zip(val.user, val.item, strict=True):
        own = {*val.item[val.user == user]}   # also where they are in the batch by another user
        columns = [i for i in val.item if i not in own and not played[user, i]]
        scores = [float(users[user] @ items[i] / 0.05 - data.log_q[i]) for i in (item, *columns)]
        losses.append(np.log(np.exp(np.array(scores)).sum()) - scores[0])
    assert state.validation_loss(split) == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_users_of_val_are_encoded_once_for_loss_and_lists(tiny):
    """The lists are those of users encoded by themselves; float32 vectors of another batch: 1e-5."""
    from ranking import topk
    from recommenders.sasrec import __main__ as script
    split = dataset.load(with_cold_val(tiny))
    args = script.parse(SMALL["recommenders.sasrec"])
    _, _, encoder = script.prepare(split, args, *split.sequences(), torch.device("cpu"))
    vectors, fresh = encoder.users(encoder.codes), encoder.users
    calls = []
    encoder.users = lambda codes: calls.append(len(codes)) or fresh(codes)
    assert encoder.loss(vectors) == encoder.loss(vectors) and not calls
    for part in ("val", "cold_val"):
        some = validation.sampled(split, 9)
        known, alone = (topk.recommend(some, part, 5, **encoder.ranker(v)) for v in (vectors, None))
        np.testing.assert_allclose(known.score, alone.score, rtol=1e-5, atol=1e-5)
        assert known.user_id.tolist() == alone.user_id.tolist()
    whole = {*validation.sample(split, "cold_val", 9)} <= {*encoder.codes}
    assert calls == ([9, 9] if whole else [9, 9, 9])   # who has no vector yet is encoded


def test_a_training_that_is_no_better_than_chance_says_so(tmp_path, capsys):
    """Without a step of any size the Shallow Net with ID embeddings ranks at random."""
    import train
    workdir = tiny_workspace(tmp_path / "w")
    argv = ["--model", "random", "--hidden-dim", "4", "--batch-size", "64", "--k", "10", "--workdir", str(workdir)]
    train.main([*argv, "--epochs", "1", "--lr", "1e-12"])
    (_, config), = runs.find_runs(workdir)
    assert 0 < config["value_by_chance"] < 1
    said = "no better than chance" in capsys.readouterr().out
    assert said == (config["best_value"] <= config["value_by_chance"])
    train.main([*argv, "--epochs", "12", "--lr", "0.05", "--overwrite"])
    best = max(config["best_value"] for _, config in runs.find_runs(workdir))
    assert best > config["value_by_chance"] and "no better than chance" not in capsys.readouterr().out.splitlines()[-1]
