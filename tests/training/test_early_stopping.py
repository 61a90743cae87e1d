"""Early stopping and checkpoints, with epochs and values counted by hand."""
import math
from types import SimpleNamespace

import pytest
import torch

import dataset
from harness.errors import UsageError, WorkError
from harness.files import save_checkpoint
from harness.progress import EXIT_RESUMABLE
from harness.readers import load_checkpoint
from tests.worlds.world import tiny_workspace, with_cold_val
from training import checkpoints as checkpoints_module
from training.checkpoints import Checkpoints, check_device, check_loss, note_missing_val
from training.early_stopping import EarlyStopping, check_release
from training.validation import Validation


def adam(lr=0.1):
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def watched(stopping, values, first=1):
    """The epochs that `update` calls the best so far, when each value comes after one epoch more."""
    return [epoch for epoch, value in enumerate(values, first) if stopping.update(epoch, {stopping.watch: value})]


# --------------------------------------------------------------------------- best epoch and patience

def test_a_loss_is_minimised():
    stopping = EarlyStopping("loss", epochs=100, patience=3)
    assert watched(stopping, [3.0, 2.0, 2.5, 2.0, 1.5, 1.6]) == [1, 2, 5]     # equal is no improvement
    assert (stopping.best, stopping.best_epoch, stopping.waited) == (1.5, 5, 1)


def test_a_metric_is_maximised_by_its_name_among_other_values():
    stopping = EarlyStopping("NDCG@10", epochs=100, patience=3)
    better = [stopping.update(epoch, {"NDCG@10": value, "loss": value, "Recall@10": -value})
              for epoch, value in enumerate([0.0, 0.2, 0.1, 0.2, 0.3], 1)]
    assert better == [True, True, False, False, True] and (stopping.best, stopping.best_epoch) == (0.3, 5)
    with pytest.raises(KeyError, match="NDCG@10"):
        stopping.update(6, {"loss": 1.0})


@pytest.mark.parametrize("patience", [1, 3])
def test_training_ends_after_so_many_epochs_without_improvement(patience):
    stopping, epoch = EarlyStopping("loss", epochs=100, patience=patience), 0
    for value in (2.0, 1.0):
        epoch += 1
        stopping.update(epoch, {"loss": value})
    while not stopping.done(epoch):
        epoch += 1
        stopping.update(epoch, {"loss": 1.0})
    assert epoch == 2 + patience and stopping.best_epoch == 2


def test_training_ends_with_its_last_epoch():
    stopping = EarlyStopping("loss", epochs=3, patience=100)
    watched(stopping, [3.0, 2.0])
    assert not stopping.done(2) and stopping.done(3)


@pytest.mark.parametrize("watch", ["loss", "NDCG@10"])
def test_without_values_on_val_the_last_epoch_is_the_best(watch):
    stopping = EarlyStopping(watch, epochs=3, patience=1)
    assert [stopping.update(epoch, {}) for epoch in (1, 2, 3)] == [True] * 3
    assert stopping.best_epoch == 3 and stopping.waited == 0 and not math.isfinite(stopping.best)


# --------------------------------------------------------------------------- plateau and release

def test_the_learning_rate_falls_after_more_than_plateau_epochs_without_improvement():
    """Best in epoch 2, plateau 5: epochs 3 to 7 wait, epoch 8 is the sixth and lowers the rate to a tenth."""
    stopping, rates = EarlyStopping("loss", 100, 16, adam(), plateau=5), []
    for epoch, value in enumerate([1.0, 0.5, *[0.6] * 16], 1):
        assert not stopping.done(epoch - 1)
        stopping.update(epoch, {"loss": value})
        rates.append(stopping.learning_rate())
    assert rates[:13] == [0.1] * 7 + [pytest.approx(0.01)] * 6 and rates[13] == pytest.approx(0.001)
    assert stopping.done(18) and stopping.best_epoch == 2


def test_the_plateau_of_a_metric_is_where_it_no_longer_rises():
    rising, falling = (EarlyStopping("NDCG@10", 100, 16, adam(), plateau=1, factor=0.5) for _ in range(2))
    watched(rising, [0.1, 0.2, 0.3, 0.4])
    watched(falling, [0.4, 0.3, 0.2, 0.1])
    assert rising.learning_rate() == 0.1 and falling.learning_rate() == pytest.approx(0.05)


def test_the_first_plateau_releases_instead_and_patience_begins_anew():
    calls = []
    stopping = EarlyStopping("loss", 100, 4, adam(), plateau=2, release=lambda: calls.append(stopping.best_epoch))
    watched(stopping, [1.0, 1.0, 1.0])
    assert not calls and not stopping.released and stopping.waited == 2
    watched(stopping, [1.0], first=4)                                # the third without improvement
    assert calls == [1] and stopping.released and stopping.learning_rate() == 0.1 and stopping.waited == 1
    watched(stopping, [1.0, 1.0], first=5)
    assert stopping.learning_rate() == 0.1
    watched(stopping, [1.0], first=7)
    assert stopping.learning_rate() == pytest.approx(0.01) and len(calls) == 1 and stopping.done(7)


def test_releasing_needs_a_val_part():
    with pytest.raises(UsageError, match="waits for a plateau on val, but this split has no val part"):
        check_release(SimpleNamespace(parts=["test"]), 1)
    check_release(SimpleNamespace(parts=["test"]), 0)
    check_release(SimpleNamespace(parts=["val"]), 1)


# --------------------------------------------------------------------------- its state

def test_the_state_has_the_keys_of_published_checkpoints_and_continues_as_if_never_left():
    metric = EarlyStopping("NDCG@10", 9, 3)
    assert metric.state() == {"waited": 0, "best_epoch": 0, "best": -math.inf}
    whole, first, second = (EarlyStopping("loss", 100, 9, adam(), plateau=2) for _ in range(3))
    values = [1.0, 0.8, 0.9, 0.85, 0.9, 0.9, 0.7, 0.75]
    watched(whole, values)
    watched(first, values[:5])
    assert first.state().keys() == {"waited", "best_epoch", "best_loss", "released", "scheduler"}
    second.set_learning_rate(first.learning_rate())
    second.load(first.state())
    watched(second, values[5:], first=6)
    assert second.state() == whole.state() and second.learning_rate() == whole.learning_rate()


def test_a_continued_run_has_its_own_plateau_and_patience_and_may_have_stopped_early():
    stopped, calls = EarlyStopping("loss", 100, 2, adam(), plateau=1, release=int), []
    watched(stopped, [1.0, 1.0, 1.0])
    assert stopped.released and stopped.waited == 1
    stopped.update(4, {"loss": 1.0})
    assert stopped.done(4)
    other = EarlyStopping("loss", 100, 2, adam(), plateau=7, release=lambda: calls.append(True))
    other.load(stopped.state(), continued=True)
    assert not other.done(4) and other.scheduler.patience == 7 and calls == [True] and other.released
    same = EarlyStopping("loss", 100, 2, adam(), plateau=7)
    same.load(stopped.state())
    assert same.done(4) and same.scheduler.patience == 1


# --------------------------------------------------------------------------- checkpoints

class Run:
    """What Checkpoints uses of a run."""
    name = "a run"

    def __init__(self, folder, resume=False):
        self.folder, self.resume, self.heard = folder, resume, []
        self.stop = SimpleNamespace(requested=False, interrupted=False, hear_interrupt=lambda: self.heard.append(True),
                                    leave_interrupt=lambda: self.heard.append(False))

    def checkpoint(self, which):
        return self.folder / f"{which}.pt"

    def writer(self):
        return SimpleNamespace(flush=lambda: None)

    def epochs(self):
        """The epochs of (last, best) as they are on disk, None without the file."""
        return tuple(load_checkpoint(path)["epoch"] if (path := self.checkpoint(which)).exists() else None
                     for which in ("last", "best"))


class Training:
    """Counts epochs and steps."""
    def __init__(self, epochs=10):
        self.epochs, self.epoch, self.step = epochs, 0, 0
        self.weights = torch.zeros(1)

    @property
    def done(self):
        return self.epoch >= self.epochs

    def state(self):
        return {"epoch": self.epoch, "step": self.step, "weights": self.weights}

    best_state = state

    def load(self, state):
        self.epoch, self.step = state["epoch"], state["step"]

    def train(self, checkpoints, better, steps=2):
        for _ in range(steps):
            self.step += 1
            self.weights += 1                               # in place, as an optimiser does
            checkpoints.after_step()
        self.epoch, self.step = self.epoch + 1, 0
        checkpoints.after_epoch(better)


@pytest.fixture
def clock(monkeypatch):
    """The seconds that checkpoints see, settable."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: now.seconds)
    return now


def test_the_best_epoch_is_kept_as_it_was_until_the_next_checkpoint(tmp_path, clock):
    run, training = Run(tmp_path), Training()
    checkpoints = Checkpoints(run, training, epoch_seconds=10)
    training.train(checkpoints, better=True)
    training.train(checkpoints, better=False)
    assert run.epochs() == (None, None)
    clock.seconds = 10
    training.train(checkpoints, better=False)
    assert run.epochs() == (3, 1) and checkpoints.best()["weights"].item() == 2    # not 6
    clock.seconds = 19
    training.train(checkpoints, better=True)
    assert run.epochs() == (3, 1)
    training.epochs = 5
    training.train(checkpoints, better=False)
    assert run.epochs() == (5, 4) and checkpoints.best()["weights"].item() == 8


def test_after_every_epoch_by_default_and_within_one_where_asked(tmp_path, clock):
    run, training = Run(tmp_path), Training()
    training.train(Checkpoints(run, training), better=True)
    assert run.epochs() == (1, 1)
    checkpoints = Checkpoints(run, training, step_seconds=5)
    clock.seconds = 5
    training.step = 1
    checkpoints.after_step()
    assert load_checkpoint(run.checkpoint("last"))["step"] == 1


@pytest.mark.parametrize("where", ["step", "epoch"])
def test_a_signal_saves_and_ends_with_the_status_that_asks_for_the_same_command(tmp_path, clock, capsys, where):
    run, training = Run(tmp_path), Training()
    checkpoints = Checkpoints(run, training, epoch_seconds=1000)
    training.train(checkpoints, better=True)
    training.step, run.stop.requested = 1, True
    with pytest.raises(SystemExit) as left:
        checkpoints.after_step() if where == "step" else checkpoints.after_epoch(better=False)
    assert left.value.code == EXIT_RESUMABLE and run.epochs() == (1, 1)
    assert capsys.readouterr().err == "a run: stopped by a signal; everything is saved, the same command continues\n"


@pytest.mark.parametrize("where", ["step", "epoch"])
def test_a_signal_between_looking_and_stopping_waits_for_the_next_step(tmp_path, clock, where):
    run, training = Run(tmp_path), Training()
    checkpoints = Checkpoints(run, training, step_seconds=1000, epoch_seconds=1000)
    state = training.best_state

    def signalled():
        run.stop.requested = True
        return state()
    clock.seconds = 0.0 if where == "epoch" else 1000.0     # the first looks and copies, the second writes
    training.best_state, training.epoch = signalled, 1
    checkpoints.after_epoch(better=True)
    if where == "step":
        assert run.epochs() == (1, 1)
    with pytest.raises(SystemExit):
        checkpoints.after_step()
    assert run.epochs() == (1, 1)


@pytest.mark.parametrize("where", ["step", "epoch", "last epoch"])
def test_ctrl_c_saves_and_ends_as_an_interrupt(tmp_path, clock, where):
    run, training = Run(tmp_path), Training(epochs=1 if where == "last epoch" else 10)
    checkpoints = Checkpoints(run, training, epoch_seconds=1000)
    training.step, training.epoch, run.stop.requested, run.stop.interrupted = 1, 1, True, True
    with pytest.raises(KeyboardInterrupt):
        checkpoints.after_step() if where == "step" else checkpoints.after_epoch(better=True)
    assert run.epochs() == (1, None if where == "step" else 1)
    assert run.heard == ([True, False] if where == "last epoch" else [True])


def test_ctrl_c_ends_at_once_where_the_training_is_done(tmp_path, clock):
    training = Training(epochs=1)
    training.train(Checkpoints(Run(tmp_path), training), better=True)
    run = Run(tmp_path, resume=True)
    assert Checkpoints(run, training).resume() and run.heard == [True, False]


def test_a_signal_in_the_last_epoch_does_not_keep_the_run_from_finishing(tmp_path, clock):
    run, training = Run(tmp_path), Training(epochs=1)
    checkpoints = Checkpoints(run, training)
    training.epoch, run.stop.requested = 1, True
    checkpoints.after_epoch(better=True)
    assert run.epochs() == (1, 1)


def test_resume_takes_up_the_last_checkpoint_of_an_interrupted_run_only(tmp_path):
    training = Training()
    assert not Checkpoints(Run(tmp_path, resume=True), training).resume() and training.epoch == 0
    save_checkpoint(tmp_path / "last.pt", {"epoch": 2, "step": 1, "weights": torch.zeros(1)})
    assert not Checkpoints(Run(tmp_path), training).resume() and training.epoch == 0
    with pytest.raises(WorkError, match="best.pt is gone"):          # before the training, not after it
        Checkpoints(Run(tmp_path, resume=True), training).resume()
    save_checkpoint(tmp_path / "best.pt", {"epoch": 1})
    assert Checkpoints(Run(tmp_path, resume=True), training).resume() and (training.epoch, training.step) == (2, 1)
    save_checkpoint(tmp_path / "last.pt", {"epoch": 2})
    with pytest.raises(WorkError, match="is of something else"):
        Checkpoints(Run(tmp_path, resume=True), training).resume()


@pytest.mark.parametrize("losses", [(math.nan,), (1.0, math.inf), (-math.inf, 1.0)])
def test_a_loss_that_is_no_number_is_one_sentence(losses):
    with pytest.raises(WorkError) as e:
        check_loss(3, *losses)
    assert str(e.value) == "loss is NaN or infinite in epoch 3; try a smaller --lr"
    check_loss(3, 1.0, 0.0)


def test_a_checkpoint_of_another_device_or_precision_is_refused():
    cpu = torch.device("cpu")
    check_device({"device": "cpu"}, cpu)
    check_device({"device": "cpu", "precision": "fp32"}, cpu, "fp32")
    for state, precision, words in (({"device": "cuda"}, None, "began on cuda and .* use --device cuda, or --over"),
                                    ({"device": "cpu", "precision": "bf16"}, "fp32", "began on cpu in bf16 and ")):
        with pytest.raises(UsageError, match=words):
            check_device(state, cpu, precision)


@pytest.mark.parametrize("parts, serves, stop_on, own_loss, selects", [
    ("val test", "both", "NDCG@10", False, True), ("test cold_test", "both", "NDCG@10", False, False),
    ("test cold_test cold_val", "both", "NDCG@10", False, True), ("cold_val", "cold", "NDCG@10", False, True),
    ("test cold_val", "hot", "NDCG@10", False, False), ("val", "hot", "loss", False, True),
    ("test cold_val", "both", "loss", False, False), ("test", "both", "loss", True, True)])
def test_it_is_said_where_nothing_selects_an_epoch(parts, serves, stop_on, own_loss, selects, tmp_path, capsys):
    workdir = with_cold_val(tiny_workspace(tmp_path / "w"))
    for part in ("val", "test", "cold_test", "cold_val"):
        if part not in parts.split():
            (workdir / "data" / f"{part}.pqt").unlink()
    rule = Validation(dataset.load(workdir), stop_on, serves=serves)
    note_missing_val("a run", rule, 7, own_loss)
    said = "this split has no val part, so all 7 epochs are trained and the last one counts"
    assert (said in capsys.readouterr().err) != selects
