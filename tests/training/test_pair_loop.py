"""Pairs and their negatives, and a training on them that is killed within an epoch."""
import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import registry, runs
from harness.errors import WorkError
from harness.files import write_json
from tests.worlds.world import tiny_workspace, write_pairs
from training import network_loop, pair_loop

METHODS = {"recommenders.clcrec": ["--negatives", "8"], "recommenders.sibrar": []}


def negatives_of(users, items):
    return {(u, i) for u, row in zip(users.tolist(), items.tolist(), strict=True) for i in row[1:]}


def test_negatives_are_played_items_that_the_user_has_not_played(tmp_path):
    """Of train alone: what a user plays in val is drawn, too. Track 0 has no play in train."""
    workdir = tiny_workspace(tmp_path / "w")
    val = pd.read_parquet(workdir / "data" / "val.pqt")
    write_pairs(workdir, "val", np.append(val.user_id, val.user_id[0]), np.append(val.track_id, 0))
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    split = dataset.load(workdir)
    assert split.unseen.sum() == 1
    pairs, played = pair_loop.Examples(split), split.matrix().toarray() > 0
    draw = torch.Generator().manual_seed(0)
    users, items = pairs.draw(torch.arange(len(pairs)), 200, draw)
    assert np.array_equal(np.sort(users * split.n_hot + items[:, 0]),
                          split.train.user * split.n_hot + split.train.item)
    assert not played[users[:, None], items[:, 1:]].any() and not split.unseen[items].any()
    counts = np.bincount(items[:, 1:].flatten(), minlength=split.n_hot)[~split.unseen]
    assert counts.min() > 0.7 * counts.mean()     # uniform, but for what each user has played
    of_val = {*zip(split.part("val").user.tolist(), split.part("val").item.tolist(), strict=True)}
    assert len(of_val & negatives_of(users, items)) > 0.9 * len(of_val) - 1
    val = pair_loop.Examples(split, "val")
    users, items = val.draw(torch.arange(len(val)), 200, draw)
    assert len(val) == len(split.part("val")) - 1 and not split.unseen[items].any()
    assert not of_val & negatives_of(users, items)


def single_user(tmp_path, played):
    """A workspace of one user: so many of 20 tracks are played in train, the rest in val."""
    workdir = tiny_workspace(tmp_path / "w")
    for part in ("test", "cold_test"):
        (workdir / "data" / f"{part}.pqt").unlink()
    write_pairs(workdir, "train", [3] * played, np.arange(played))
    write_pairs(workdir, "val", [3] * (20 - played), np.arange(played, 20))
    write_json(workdir / "data" / "rules.json", {"history": {}, "unseen": "keep"})
    return workdir


def test_a_user_who_has_played_everything_teaches_nothing(tmp_path):
    workdir = single_user(tmp_path, 12)
    clcrec = registry.load("recommenders.clcrec")
    with pytest.raises(WorkError, match="every user of train has played every item of train, so"):
        clcrec.main(["--embedding", "content", "--workdir", str(workdir)])
    workdir = tiny_workspace(tmp_path / "more")
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    everything = np.unique(train.track_id)
    write_pairs(workdir, "train", np.append(train.user_id, [9999] * len(everything)),
                np.append(train.track_id, everything))
    assert len(pair_loop.Examples(dataset.load(workdir))) == len(train)


@pytest.mark.trains
@pytest.mark.parametrize("name", METHODS)
def test_killed_within_an_epoch_it_ends_with_the_same_bytes(name, tmp_path, monkeypatch):
    """Broken off before the third step of the second epoch, with a checkpoint after every step."""
    whole, cut = (tiny_workspace(tmp_path / folder) for folder in ("whole", "cut"))
    flags = ["--embedding", "content", *METHODS[name], "--batch-size", "128", "--epochs", "3",
             "--checkpoint-seconds", "0", "--device", "cpu", "--k", "10", "--workdir"]
    registry.load(name).main([*flags, str(whole)])
    real = network_loop.Training.learn

    def learn(self, rows):
        if (self.epoch, self.step) == (1, 2):
            raise KeyboardInterrupt
        real(self, rows)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(network_loop.Training, "learn", learn)
        registry.load(name).main([*flags, str(cut)])
    ((run, manifest),) = runs.find_runs(cut)
    assert manifest["status"] == "running"
    steps = []

    def noted(self, rows):
        steps.append((self.epoch, self.step))
        real(self, rows)
    monkeypatch.setattr(network_loop.Training, "learn", noted)
    registry.load(name).main([*flags, str(cut)])
    assert steps[0] == (1, 2)
    files = sorted((whole / "preds").iterdir())
    assert len(files) == 3 and all(file.name.startswith(run) for file in files)
    assert all(file.read_bytes() == (cut / "preds" / file.name).read_bytes() for file in files)


def test_dropout_and_the_draws_of_a_step_have_streams_of_their_own(tmp_path):
    """One seed for both would give the same numbers twice."""
    seen = []

    class Listening(network_loop.Training):
        def loss(self, rows, draw, own=None):
            seen.append((torch.rand(50, generator=draw), torch.rand(50)))
            return self.network.weight.sum()
    settings = network_loop.Settings(lr=0.1, l2=0.0, batch_size=4, epochs=1, patience=1,
                                     stop_on="loss", seed=1)
    for _ in range(2):
        training = Listening(torch.nn.Linear(2, 1), 12, settings)
        for rows in training.batches():
            training.learn(rows)
    numbers = [x for pair in seen[:3] for x in pair]
    assert len(torch.stack(numbers).flatten().unique()) > 0.99 * 6 * 50
    assert all(torch.equal(a, b) for old, new in zip(seen[:3], seen[3:], strict=True)
               for a, b in zip(old, new, strict=True))
