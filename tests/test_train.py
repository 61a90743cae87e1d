"""train.py through its command line: it learns, stops, resumes bit for bit, and refuses in one sentence."""
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import dataset
import train
from harness import cli, runs
from harness.progress import EXIT_RESUMABLE
from harness.readers import load_checkpoint
from tests.worlds.world import tiny_workspace, write_embedding
from training import selection, shallow

ROOT = Path(train.__file__).parent
QUICK = ["content", "--epochs", "4", "--batch-size", "128", "--k", "10"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny matrices: a second thread only waits for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def main(workdir, *argv):
    """train.main in this process; the name and config of the run it made."""
    before = {n for n, c in runs.find_runs(workdir) if c["status"] == "finished"}
    train.main([*map(str, argv), "--workdir", str(workdir)])
    made = [(n, c) for n, c in runs.find_runs(workdir) if n not in before and c["status"] == "finished"]
    assert len(made) == 1
    return made[0]


def refused(capsys, status, *argv):
    """The one sentence with which a command line is refused; only the progress of a training may precede it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        cli.run(train.main, [str(a) for a in argv])
    said = [line for line in capsys.readouterr().err.splitlines() if "pairs/s" not in line]
    assert e.value.code == status and len(said) == 1
    return said[0]


def checkpoint(workdir, name, which="last"):
    return load_checkpoint(workdir / "checkpoints" / "content" / f"{name}_{which}.pt")


# --------------------------------------------------------------------------- whole runs

@pytest.mark.trains
@pytest.mark.parametrize("flags", [["item"], ["user"], ["item", "--loss", "bpr"], ["user", "--loss", "infonce"],
                                   ["item", "--item-freeze", "0", "--exclude-positives", "--use-confidence", "1"]])
def test_learns_the_planted_world_hot_and_cold(tmp_path, flags):
    """A third of a user's tracks are of the liked quarter at chance, most of them here: twice chance at least."""
    workdir = tiny_workspace(tmp_path / "w", n_users=120, n_tracks=120, n_cold=24)
    name, config = main(workdir, "content", *flags, "--epochs", 20, "--batch-size", 256, "--lr", 0.01, "--k", 10)
    split = dataset.load(workdir)
    assert config["parts"] == ["cold_test", "test", "val"]
    for part, size in (("test", split.n_hot), ("cold_test", split.n_items - split.n_hot)):
        recall = pd.read_parquet(workdir / "metrics" / f"{name}_{part}.pqt")["Recall@5"]
        half = 1.96 * recall.std() / math.sqrt(len(recall))
        assert recall.mean() - half > 1.8 * 5 / size, part


@pytest.mark.trains
def test_cold_items_are_ranked_by_their_content_through_the_trained_projection(tiny):
    name, _ = main(tiny, *QUICK, "--item-freeze", "0")
    split = dataset.load(tiny)
    best = checkpoint(tiny, name, "best")["model"]
    cold = torch.from_numpy(dataset.load_embedding(split, "content")[split.n_hot:])
    expected = F.normalize(torch.relu(F.linear(cold, best["weight"], best["bias"])), dim=1).numpy()
    items = np.load(tiny / "model_embeddings" / f"{name}_items.npy")
    assert items.shape == (split.n_items, 8) and np.allclose(items[split.n_hot:], expected, atol=1e-6)
    assert np.load(tiny / "model_embeddings" / f"{name}_users.npy").shape == (split.n_users, 8)


@pytest.mark.trains
def test_random_skips_the_cold_part_and_says_why(tiny):
    name, config = main(tiny, "random", *QUICK[1:], "--hidden-dim", "8")
    assert config["parts"] == ["test", "val"] and "no content" in config["left_out"]["cold_test"]
    assert not (tiny / "preds" / f"{name}_cold_test.pqt").exists()


@pytest.mark.trains
def test_zero_rows_in_the_embedding_give_finite_lists(tiny):
    matrix = np.load(tiny / "embeddings" / "content.npy")
    matrix[::3] = 0
    write_embedding(tiny, "content", matrix)
    name, config = main(tiny, *QUICK, "--hidden-dim", "2")
    for part in config["parts"]:
        assert np.isfinite(pd.read_parquet(tiny / "preds" / f"{name}_{part}.pqt").score).all()


@pytest.mark.trains
def test_a_second_run_is_skipped_and_two_seeds_differ(tiny, capsys):
    name, _ = main(tiny, *QUICK)
    stamp = (tiny / "model_embeddings" / f"{name}_users.npy").stat().st_mtime_ns
    train.main([*QUICK, "--workdir", str(tiny)])
    assert "skipped" in capsys.readouterr().err
    assert (tiny / "model_embeddings" / f"{name}_users.npy").stat().st_mtime_ns == stamp
    other, _ = main(tiny, *QUICK, "--seed", "7")
    a, b = (np.load(tiny / "model_embeddings" / f"{n}_users.npy") for n in (name, other))
    assert not np.allclose(a, b, atol=1e-3)


@pytest.mark.trains
def test_without_val_all_epochs_are_trained_and_that_is_said(tiny, capsys):
    (tiny / "data" / "val.pqt").unlink()
    _, config = main(tiny, *QUICK, "--patience", "1")
    assert "no val part" in capsys.readouterr().err
    assert config["epochs"] == config["best_epoch"] == 4 and config["best_val_loss"] is None
    assert "no val part" in refused(capsys, 2, *QUICK, "--dynamic-item-freeze", "1", "--workdir", tiny)


@pytest.mark.trains
def test_missing_rows_stop_and_the_mean_fills_them(tiny, capsys):
    matrix = np.load(tiny / "embeddings" / "content.npy")
    matrix[5:9] = np.nan
    write_embedding(tiny, "content", matrix)
    assert "--missing mean" in refused(capsys, 1, *QUICK, "--workdir", tiny)
    assert main(tiny, *QUICK, "--missing", "mean")[1]["status"] == "finished"


@pytest.mark.trains
def test_tensorboard_has_losses_metrics_and_hyperparameters(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    name, _ = main(tiny, *QUICK, "--eval-every", "2")
    events = EventAccumulator(str(tiny / "runs" / name)).Reload()
    for tag in ("Loss/train", "Loss/val", "lr"):
        assert [e.step for e in events.Scalars(tag)] == [1, 2, 3, 4]
    assert [e.step for e in events.Scalars("val/HitRate@10")] == [2, 4]
    assert "_hparams_/session_start_info" in events.summary_metadata and events.Scalars("best/NDCG@10")


def test_an_anchor_without_any_negative_is_one_sentence(tiny, capsys):
    frame = pd.read_parquet(tiny / "data" / "train.pqt")
    track = frame.track_id.iloc[0]
    rest = frame[frame.track_id != track]
    full = rest.groupby("user_id").head(1).assign(track_id=track)
    pd.concat([rest, full]).sort_values(["user_id", "track_id"]).to_parquet(tiny / "data" / "train.pqt", index=False)
    for part in ("val", "test"):
        frame = pd.read_parquet(tiny / "data" / f"{part}.pqt")
        frame[frame.track_id != track].to_parquet(tiny / "data" / f"{part}.pqt", index=False)
    said = refused(capsys, 1, *QUICK, "--exclude-positives", "--workdir", tiny)
    assert "1 items of train" in said and "leave the flag out" in said


@pytest.mark.trains
def test_released_items_move_and_a_resumed_run_keeps_them_released(tmp_path):
    flags = [*QUICK, "--dynamic-item-freeze", "1", "--plateau", "0", "--lr", "0.1", "--patience", "30"]
    workdirs = [tiny_workspace(tmp_path / x) for x in "ab"]
    name, config = main(workdirs[0], *flags, "--epochs", "12")
    assert config["frozen_at_first"] == ["item_embeddings"]
    state = checkpoint(workdirs[0], name)
    items, start = state["model"]["item_embeddings"], dataset.load_embedding(dataset.load(workdirs[0]), "content")
    assert state["released"] and not np.allclose(items, start[:len(items)])
    half, _ = main(workdirs[1], *flags, "--epochs", "9")
    again, _ = main(workdirs[1], *flags, "--epochs", "12", "--logdir", half, "--last-epoch", "9")
    assert_same_state(checkpoint(workdirs[1], again), state)


# --------------------------------------------------------------------------- resume

LONG = ["content", "item", "5", "64", "30", "--lr", "0.003", "--user-init", "0", "--patience", "100", "--k", "10"]


def start(workdir, *flags):
    return subprocess.Popen([sys.executable, "train.py", *LONG, "--workdir", str(workdir), *flags], cwd=ROOT,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for_epoch(workdir, epoch, process):
    """Return when a checkpoint of at least that epoch is there."""
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        for path in (workdir / "checkpoints").rglob("[!.]*_last.pt"):
            if load_checkpoint(path)["epoch"] >= epoch:
                return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of epoch {epoch}: {process.stderr.read()}")


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], dict):
            assert_same_state(a[key], b[key])
        elif isinstance(a[key], torch.Tensor):
            assert torch.equal(a[key], b[key]), key
        else:
            assert a[key] == b[key], key


@pytest.mark.trains
def test_ctrl_c_during_training_saves(tmp_path):
    workdir = tiny_workspace(tmp_path, n_users=200)
    process = start(workdir, "--checkpoint-seconds", "1000")
    while "epoch 2 of" not in (line := process.stderr.readline()):
        assert line, "ended before the second epoch"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130 and said.endswith("the same command continues from there\n")
    (name, config), = runs.find_runs(workdir)
    assert checkpoint(workdir, name)["epoch"] >= 2 and config["status"] != "finished"


@pytest.mark.trains
def test_killed_and_stopped_it_ends_with_the_same_bits(tmp_path):
    """kill -9 after some epoch, then a stop by a signal, then to the end: all as in a run left alone."""
    whole, workdir = (tiny_workspace(tmp_path / x, n_users=200) for x in ("whole", "cut"))
    name, _ = main(whole, *LONG)
    process = start(workdir, "--checkpoint-seconds", "0")
    wait_for_epoch(workdir, 3, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process = start(workdir, "--checkpoint-seconds", "0")
    wait_for_epoch(workdir, 11, process)
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == EXIT_RESUMABLE and "the same command continues" in said
    process = start(workdir)
    assert process.wait(timeout=200) == 0, process.stderr.read()
    assert [n for n, _ in runs.find_runs(workdir)] == [name]
    for which in ("last", "best"):
        assert_same_state(checkpoint(workdir, name, which), checkpoint(whole, name, which))
    for folder in ("model_embeddings", "preds"):
        files = sorted(p.name for p in (whole / folder).iterdir())
        assert files and all((whole / folder / f).read_bytes() == (workdir / folder / f).read_bytes() for f in files)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(workdir / "runs" / name)).Reload()
    assert [e.step for e in events.Scalars("Loss/val")] == list(range(1, 31))


@pytest.mark.trains
def test_epochs_lost_with_an_interrupt_are_not_counted_twice(tiny, monkeypatch):
    """Five epochs are recorded, none is in a checkpoint, the sixth is broken off: the next start is a fresh one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    calls, real = [], shallow.validation_loss

    def broken_off(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(shallow, "validation_loss", broken_off)
    flags = [*QUICK, "--epochs", "8", "--workdir", str(tiny)]
    with pytest.raises(KeyboardInterrupt):
        train.main(flags)
    assert not list(tiny.glob("checkpoints/**/*.pt"))
    train.main(flags)
    (name, _), = runs.find_runs(tiny)
    assert [e.step for e in EventAccumulator(str(tiny / "runs" / name)).Reload().Scalars("Loss/val")] == [*range(1, 9)]


@pytest.mark.trains
def test_logdir_and_last_epoch_continue_a_run_as_if_it_had_not_ended(tmp_path, capsys):
    workdirs = [tiny_workspace(tmp_path / x) for x in "ab"]
    whole, _ = main(workdirs[0], *QUICK, "--epochs", "6", "--lr", "0.003")
    half, _ = main(workdirs[1], *QUICK, "--lr", "0.003")
    argv = [*QUICK, "--epochs", "6", "--lr", "0.003", "--logdir", f"runs/{half}/", "--last-epoch", "4"]
    name, config = main(workdirs[1], *argv)
    assert name not in (half, whole) and config["request"]["continues"] == [half, 4] and config["epochs"] == 6
    assert_same_state(checkpoint(workdirs[1], name), checkpoint(workdirs[0], whole))
    argv[-1] = "3" if checkpoint(workdirs[1], half, "best")["epoch"] != 3 else "2"
    assert "checkpoints after epoch" in refused(capsys, 2, *argv, "--workdir", workdirs[1])
    argv[-3:] = ["nobody", "--last-epoch", "4"]
    assert "no Shallow Net run 'nobody'" in refused(capsys, 2, *argv, "--workdir", workdirs[1])
    argv[-3:] = [half, "--last-epoch", "4", "--hidden-dim", "5"]
    assert "must be the same" in refused(capsys, 2, *argv, "--workdir", workdirs[1])


# --------------------------------------------------------------------------- the command line

@pytest.mark.trains
def test_the_published_call_runs_and_its_places_are_the_flags(tiny):
    published = ["content", "item", "20", "10000", "3", "1", "0", "baseline", "1", "0", "0", "0", "0.0"]
    name, config = main(tiny, *published, "--k", "10")
    assert name.startswith("shallow_content_s42_baseline_")
    flags = ["--model", "content", "--sample-type", "item", "--neg-samples", "20", "--batch-size", "10000",
             "--epochs", "3", "--item-freeze", "1", "--user-freeze", "0", "--comment", "baseline", "--user-init", "1",
             "--dynamic-item-freeze", "0", "--hidden-dim", "0", "--use-confidence", "0", "--l2", "0"]
    mixed = ["content", "--k", "10", "item", "--epochs", "3", "--comment", "baseline"]
    for argv in ([*flags, "--k", "10"], mixed):
        assert selection.of_split(train.request_of(train.parse(argv)), dataset.load(tiny)) == config["request"]
    assert train.parse(["content", "item", "--sample-type", "item"]).sample_type == "item"


@pytest.mark.parametrize(("argv", "expected"), [
    (["content", "item", "twenty"], "argument 3, neg_samples: must be a whole number of at least 1, not twenty"),
    (["content", "itme"], "argument 2, sample_type: must be item or user, not itme"),
    (["content", "item", "0"], "at least 1, not 0"),
    (["content", "--epochs", "0"], "at least 1, not 0"),
    (["content", "--batch-size", "-3"], "at least 1, not -3"),
    (["content", "--item-freeze", "2"], "must be 0 or 1, not 2"),
    (["content", "--l2", "-1"], "must be a number of at least 0, not -1"),
    (["content", "--l2", "nan"], "must be a number of at least 0, not nan"),
    (["content", "--lr", "0"], "must be a number above 0, not 0"),
    (["content", "user", "--sample-type", "item"],
     "sample_type is user as positional argument 2 and item as a flag; give it once"),
    (list("abcdefghijklmnop"), "takes at most 15 positional arguments (model sample_type"),
    (["content", "--logdir", "x"], "logdir and last_epoch go together"),
    (["content", "--epochs", "3", "--logdir", "x", "--last-epoch", "5"], "more than last_epoch 5, not 3"),
    (["content", "--temperature", "1"], "--temperature has no meaning for --loss hinge"),
    (["content", "--loss", "bpr", "--margin", "1"], "--margin has no meaning for --loss bpr"),
    (["content", "--seed", "-1"], "must be a whole number from 0"),
    (["random", "--shuffle"], "random has none"),
    (["content", "--as-published", "--dynamic-item-freeze", "1"], "never uses it"),
    (["content", "--neg-sample", "3"], "unrecognized arguments"),
    (["nothing"], "no embedding 'nothing'"),
    (["nothing"], "available: content, noise"),
    (["content", "--device", "tpu9x"], "is no device"),
])
def test_a_request_that_cannot_be_meant_is_one_sentence_and_leaves_nothing(tiny, capsys, argv, expected):
    before = sorted(tiny.rglob("*"))
    assert expected in refused(capsys, 2, *argv, "--workdir", tiny)
    assert sorted(tiny.rglob("*")) == before


def test_help_is_instant_and_a_bad_call_through_the_shell_has_status_2(tiny):
    code = "import sys, train; train.build_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    bad = subprocess.run([sys.executable, "train.py", "nothing", "--workdir", str(tiny)], cwd=ROOT,
                         capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_a_diverging_training_is_one_sentence(tiny, capsys):
    said = refused(capsys, 1, *QUICK, "--lr", "9e36", "--workdir", tiny)
    assert re.search("loss is NaN or infinite in epoch [12]; try a smaller --lr", said)
    matrix = np.load(tiny / "embeddings" / "content.npy")
    write_embedding(tiny, "content", np.float32(1e38) * np.sign(matrix))
    assert "are too long or too short for float32" in refused(capsys, 1, *QUICK, "--workdir", tiny)


@pytest.mark.trains
def test_a_stop_within_an_epoch_loses_no_step(tmp_path, monkeypatch, capsys):
    """Signals come in the first epoch, before any checkpoint, and in a later one; the same bits come out."""
    from training import shallow
    flags = ["content", "item", "5", "64", "4", "--k", "10", "--exclude-positives"]
    whole, workdir = (tiny_workspace(tmp_path / x) for x in ("whole", "cut"))
    name, _ = main(whole, *flags)
    taken, step = [], shallow.step

    def counted(training, batch):
        taken.append((training.epoch, training.step))
        if len(taken) in (2, 20):
            signal.raise_signal(signal.SIGUSR1)
        return step(training, batch)
    monkeypatch.setattr(shallow, "step", counted)
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            train.main([*flags, "--workdir", str(workdir)])
        assert left.value.code == EXIT_RESUMABLE
    assert checkpoint(workdir, name, "last")["step"] > 0
    train.main([*flags, "--workdir", str(workdir)])
    assert len(taken) == len(set(taken))  # no step twice
    for which in ("last", "best"):
        assert_same_state(checkpoint(workdir, name, which), checkpoint(whole, name, which))
