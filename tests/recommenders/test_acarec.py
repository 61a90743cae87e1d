"""ACARec: its network by hand, what a track may see, new artists, what is ranked, interruptions and bad input."""
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import dataset
from harness import cli, runs
from harness.errors import WorkError
from harness.files import write_parquet
from harness.readers import load_checkpoint
from ranking import factors
from recommenders import acarec, ials
from tests.worlds.factors import factor_world, steps_of, value, write_embedding
from tests.worlds.factors import made as made_by
from training import content, network_loop
from training.artists import Others, artists_of

QUICK = ("--epochs", "40", "--lr", "0.005", "--hidden", "32", "--eval-every", "10", "--patience", "9")
FACTORS = ("--factors", "12", "--regularization", "10", "--k", "20")


def with_factors(workdir, **sizes):
    """A factor world with factors, whose content knows three of the six tastes; tracks of an artist, 1 in 10 without
    one, agree in the other three."""
    factor_world(workdir, **sizes)
    tastes, rng = np.load(workdir / "embeddings" / "content.npy"), np.random.default_rng(0)
    theirs = tastes[:, 3:6]
    centres = theirs[rng.choice(len(theirs), len(theirs) // 10, replace=False)]
    nearest = ((theirs[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    names = [[f"Artist {a}"] if rng.random() > 0.1 else None for a in nearest]
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(len(theirs)), "artists": names}))
    write_embedding(workdir, "content", tastes[:, [0, 1, 2, *range(6, 16)]])
    ials.main([*FACTORS, "--workdir", str(workdir)])
    return workdir


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return with_factors(tmp_path_factory.mktemp("acarec") / "w", n_users=400, n_tracks=440, n_cold=100)


@pytest.fixture(scope="module")
def run(world):
    """(name, config) of the planted world's run, and of its control."""
    return [made(world, *QUICK, *flags) for flags in ((), ("--shuffle",))]


made = partial(made_by, acarec)


def training_of(workdir, *flags):
    """A training at its start."""
    split = dataset.load(workdir)
    args = acarec.parse(["--embedding", "content", "--hidden", "16", "--heads", "4", "--seed", "3", *flags])
    return acarec.Training(content.features(split, args), artists_of(split, "acarec"), factors.read(split, "ials"),
                           cli.settings(network_loop.Settings, args), args, torch.device("cpu"))


# --------------------------------------------------------------------------- the network

def attention(net, prefix, query, keys, values, heads):
    """Multi-head attention of one query row on n keys, in float64."""
    weight, bias = net[f"{prefix}.in_proj_weight"], net[f"{prefix}.in_proj_bias"]
    q, k, v = (x @ w.T + b for x, w, b in zip((query, keys, values), np.split(weight, 3), np.split(bias, 3),
                                              strict=True))
    out = []
    for qh, kh, vh in zip(*(np.split(x, heads, axis=-1) for x in (q, k, v)), strict=True):
        scores = np.exp(qh @ kh.T / np.sqrt(qh.shape[-1]))
        out.append(scores / scores.sum(axis=-1, keepdims=True) @ vh)
    return np.concatenate(out, axis=-1) @ net[f"{prefix}.out_proj.weight"].T + net[f"{prefix}.out_proj.bias"]


def linear(net, name, x):
    return x @ net[f"{name}.weight"].T + net[f"{name}.bias"]


def expected(training, item, others, heads):
    """The formula of the docstring in float64, for one track."""
    net = {k: v.double().numpy() for k, v in training.network.state_dict().items()}
    c, e = training.content.double().numpy(), training.factors.double().numpy()
    attended, state = np.zeros(e.shape[1]), net["new.weight"][0]
    if len(others):
        keys = linear(net, "key", np.hstack([c[others], e[others]]))
        keys = attention(net, "among", keys, keys, keys, heads)
        query = linear(net, "query", c[item])[None]
        attended = linear(net, "out", attention(net, "cross", query, keys, linear(net, "value", e[others]), heads)[0])
        state = e[others].mean(axis=0)
    gates = zip(np.split(net["merge.weight_ih"] @ np.append(attended, c[item]) + net["merge.bias_ih"], 3),
                np.split(net["merge.weight_hh"] @ state + net["merge.bias_hh"], 3), strict=True)
    (ir, hr), (iz, hz), (inew, hnew) = gates
    reset, update = 1 / (1 + np.exp(-ir - hr)), 1 / (1 + np.exp(-iz - hz))
    return (1 - update) * np.tanh(inew + reset * hnew) + update * state


@pytest.mark.numeric
def test_the_prediction_is_that_of_the_formula(world):
    """Float32 sums of at most 32 terms: 1e-5. Rows of one batch have 3, 0 and 1 other tracks."""
    training = training_of(world)
    for weight in training.network.parameters():      # biases that start at zero count, too
        torch.nn.init.normal_(weight, std=0.5)
    items = np.array([4, 7, 200])
    others = np.array([[9, 3, 11], [-1, -1, -1], [5, -1, -1]])
    found = training.predicted(items, others).detach().numpy()
    for row, item in enumerate(items):
        known = others[row][others[row] >= 0]
        np.testing.assert_allclose(found[row], expected(training, item, known, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.numeric
@pytest.mark.parametrize("evidence", ["0", "10"])
def test_the_loss_is_the_weighted_square_error_as_a_share_of_the_factors(world, evidence):
    training, learned = training_of(world, "--evidence", evidence), factors.read(dataset.load(world), "ials")
    items = training.targets[:20].numpy()
    others = training.chosen(items)
    predictions = training.predicted(items, others).detach().double().numpy() / training.scale
    plays = learned.plays[learned.plays > 0]
    weights = np.ones(len(plays)) if evidence == "0" else plays / (plays + 10)
    mine = (learned.plays[items] / (learned.plays[items] + float(evidence)) / weights.mean())
    squares = ((predictions - learned.items[items]) ** 2).mean(axis=1)
    share = (mine * squares).mean() / (learned.items[learned.plays > 0] ** 2).mean()
    assert training.error(items, others).item() == pytest.approx(share, rel=1e-5)      # float32


def test_gradients_reach_the_attention_only_where_there_are_other_tracks(world):
    for others, unmoved in ((np.array([[9, 3], [5, -1]]), {"new"}),
                            (np.full((2, 2), -1), {"key", "value", "query", "among", "cross", "out"})):
        training = training_of(world)
        training.error(np.array([4, 7]), others).backward()
        still = {name.split(".")[0] for name, p in training.network.named_parameters()
                 if p.grad is None or not p.grad.abs().max() > 0}
        reached = {name.split(".")[0] for name, p in training.network.named_parameters()
                   if p.grad is not None and p.grad.abs().max() > 0}
        assert unmoved == still - reached and all(torch.isfinite(p.grad).all() for p in training.network.parameters()
                                                  if p.grad is not None)
        assert not training.factors.requires_grad


# --------------------------------------------------------------------------- what a track may see

def test_other_tracks_by_hand():
    """Tracks 0, 1 of artist a; 2 of a and b; 3 (hot, no factor) of b; cold 4 of b, 5 of c, 6 of nobody."""
    artists = csr_matrix([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=float)
    others = Others(artists, np.array([True, True, True, False]))
    everyone = others.draw(np.arange(7), 5, lambda tracks: tracks)
    assert everyone.tolist() == [[1, 2], [0, 2], [0, 1], [2, -1], [2, -1], [-1, -1], [-1, -1]]
    assert others.draw(np.array([2, 6, 0]), 1, lambda tracks: -tracks).tolist() == [[1], [-1], [2]]
    assert others.draw(np.array([5, 6]), 4, lambda tracks: tracks).tolist() == [[-1], [-1]]
    rng, seen = np.random.default_rng(0), []
    for _ in range(300):
        seen += others.draw(np.array([0, 0]), 1, lambda tracks: rng.random(len(tracks)))[:, 0].tolist()
    assert abs(np.mean(np.array(seen) == 1) - 0.5) < 4 * np.sqrt(0.25 / 600)      # four standard deviations


def test_a_track_of_train_is_predicted_without_its_own_factor(world):
    training = training_of(world)
    item = next(i for i in training.targets.tolist() if (training.chosen(np.array([i])) >= 0).sum() > 1)
    before = training.vectors(np.array([item]))[item]
    training.factors[item] += 5
    assert np.array_equal(training.vectors(np.array([item]))[item], before)
    training.factors[training.chosen(np.array([item]))[0, 0]] += 5
    assert np.abs(training.vectors(np.array([item]))[item] - before).max() > 1e-3


def test_a_step_draws_five_others_and_hides_those_of_a_share_of_the_tracks(world):
    """Of 400 tracks that have others .3 are left without; four standard deviations are .09."""
    training = training_of(world, "--new-artist", "0.3", "--neighbours", "3")
    have = np.array([i for i in training.targets.tolist() if training.chosen(np.array([i])).max() >= 0])
    items = np.resize(have, 400)
    drawn = training.drawn(items, torch.Generator().manual_seed(0))
    assert drawn.shape == (400, 3) and abs((drawn < 0).all(axis=1).mean() - 0.3) < 0.09
    again = training.drawn(items, torch.Generator().manual_seed(1))
    assert not np.array_equal(drawn, again)
    assert np.array_equal(training.chosen(items), training.chosen(items))
    split = dataset.load(world)
    artists = artists_of(split, "acarec").toarray()
    for item, row in zip(items, drawn, strict=True):
        assert all(artists[item] @ artists[other] and other != item for other in row[row >= 0])
        assert len(set(row[row >= 0])) == (row >= 0).sum()


def test_by_the_loss_a_tenth_of_the_tracks_is_no_target_but_still_a_neighbour(world):
    training, whole = training_of(world, "--stop-on", "loss"), training_of(world)
    held, targets = {*training.held.tolist()}, {*training.targets.tolist()}
    assert not held & targets and held | targets == {*whole.targets.tolist()}
    assert len(held) == len(held | targets) // 10 and not len(whole.held)
    errors = [training.error(np.array([i]), training.chosen(np.array([i]))).item() for i in training.held]
    assert training.validation_loss(None) == pytest.approx(np.mean(errors), rel=1e-4)     # float32, other blocks
    assert whole.validation_loss(None) is None
    assert held & {*np.unique(training.chosen(training.targets.numpy())).tolist()}


@pytest.mark.trains
def test_by_the_loss_it_stops_without_a_val_part(tmp_path, monkeypatch, capsys):
    """The tenth that is held out is no val part: it selects the epoch where the split has none, too."""
    workdir = with_factors(tmp_path / "w", n_users=60, n_tracks=80, n_cold=20)
    (factors_run, _), = runs.find_runs(workdir)
    for part in ("val", "test"):
        (workdir / "data" / f"{part}.pqt").unlink()
    ials.main([*FACTORS, "--workdir", str(workdir)])
    losses = iter([0.5, 0.3, 0.4, 0.6, 0.2])
    monkeypatch.setattr(acarec.Training, "validation_loss", lambda self, _: next(losses) if len(self.held) else None)
    capsys.readouterr()
    _, config = made(workdir, "--factors", factors_run, "--stop-on", "loss", "--epochs", "5", "--patience", "2")
    assert (config["best_epoch"], config["epochs"], config["best_value"]) == (2, 4, 0.3)
    assert "epochs are trained and the last one counts" not in capsys.readouterr().err


# --------------------------------------------------------------------------- what is learned and ranked

def test_cold_tracks_are_found_and_the_wrong_content_finds_fewer(world, run):
    """Of three seeds Recall@10 was 2.3 to 2.5 times chance, of the controls, whose artists are right, 1.7 to 1.9 times;
    NDCG@10 was .24 to .28 and .18 to .21."""
    (real, config), (control, _) = run
    n = dataset.load(world).candidates("cold_test")
    chance = 10 / (n.stop - n.start)
    assert "shuffled" in control and config["selected_by"] == "NDCG@10" and config["sources"].keys() == {"ials"}
    assert value(world, real, "cold_test", "Recall@10") > 2 * chance
    assert value(world, real, "cold_test") > value(world, control, "cold_test") + 0.02
    assert value(world, real, "test") > value(world, control, "test")


def test_the_epoch_is_selected_on_cold_val_by_the_lists_that_are_written(world, run):
    (name, config), _ = run
    assert config["best_value"] == pytest.approx(value(world, name, "cold_val"), abs=1e-6)   # csv, other blocks
    assert config["selected_on"] == ["cold_val"]
    (world / "preds" / f"{name}_val.pqt").unlink()       # a run that is resumed when its training is over
    again, config = made(world, *QUICK)
    assert again == name and config["selected_on"] == ["cold_val"]


def test_all_parts_have_the_scores_of_one_table(world, run):
    (name, _), _ = run
    every, test, cold = (pd.read_parquet(world / "preds" / f"{name}_{part}.pqt")
                         for part in ("all_test", "test", "cold_test"))
    for part in (test, cold):
        both = every.merge(part, on=["user_id", "track_id"], suffixes=("", "_part"))
        assert len(both) > 100 and np.abs(both.score - both.score_part).max() < 1e-4       # float32


def test_factors_stay_and_new_artists_differ_by_their_content(world):
    training, split = training_of(world), dataset.load(world)
    before = training.factors.clone()
    for _ in range(3):
        for rows in training.batches():
            training.learn(rows)
        training.close_epoch()
    assert torch.equal(training.factors, before)
    table = training.vectors(np.arange(split.n_items))
    alone = np.flatnonzero(training.chosen(np.arange(split.n_items)).max(axis=1) < 0)
    assert len(alone) > 5 and np.isfinite(table).all() and len(np.unique(table[alone], axis=0)) == len(alone)
    some = training.vectors(alone[:3])
    assert np.allclose(some[alone[:3]], table[alone[:3]], atol=1e-4) and not some[alone[3:]].any()


def test_length_predicted_is_that_of_the_artist_or_of_the_content(world):
    training, split = training_of(world, "--length", "predicted"), dataset.load(world)
    learned = factors.read(split, "ials")
    sizes, others = np.linalg.norm(learned.items, axis=1), training.chosen(np.arange(split.n_items))
    lengths = np.linalg.norm(training.vectors(np.arange(split.n_items)), axis=1)
    known = np.flatnonzero((others >= 0).any(axis=1))
    for i in known[::9]:
        assert lengths[i] == pytest.approx(sizes[others[i][others[i] >= 0]].mean(), rel=1e-6)
    alone = np.delete(lengths, known)
    assert len(alone) and sizes[learned.plays > 0].min() - 1e-9 <= alone.min()
    assert alone.max() <= sizes.max() + 1e-9


def test_several_embeddings_stand_side_by_side(world):
    acarec.main(["--embedding", "content", "noise", "--epochs", "1", "--workdir", str(world)])
    path = next((world / "checkpoints").rglob("acarec_content-noise_*_best.pt"))
    assert load_checkpoint(path)["network"]["query.weight"].shape == (128, 13 + 6)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    whole, cut = with_factors(tmp_path / "whole", n_users=60, n_tracks=90, n_cold=24), tmp_path / "cut"
    shutil.copytree(whole, cut)
    flags = ("--epochs", "4", "--batch-size", "24", "--eval-every", "1", "--checkpoint-seconds", "0")
    steps = steps_of(acarec, whole, *flags)
    assert steps_of(acarec, cut, *flags, until=7) == 7 < steps == 7 + steps_of(acarec, cut, *flags)
    name, config = made(whole, *flags)
    assert made(cut, *flags)[1]["best_epoch"] == config["best_epoch"]
    for part in dataset.load(whole).parts:
        file = f"preds/{name}_{part}.pqt"
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


# --------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("artists, said", [
    (None, "is missing or names no artists, so acarec does not apply"),
    (lambda t: ["one"], "names one artist for the tracks of this split, so acarec cannot"),
    (lambda t: [f"artist {t}"], "no artist of .* has two tracks in this split, as where the items are"),
    ("one hot track each", "no artist of .* has two tracks in train, so acarec has nothing to learn from")])
def test_workspaces_in_which_it_says_nothing(tmp_path, artists, said):
    workdir = factor_world(tmp_path / "w", n_users=20, n_tracks=60, n_cold=12)
    split = dataset.load(workdir)
    if isinstance(artists, str):      # each hot track shares its artist with a cold one at most
        code = {track: i % split.n_hot for i, track in enumerate(split.tracks)}
        def artists(t):
            return [f"artist {code.get(t, t + 1000)}"]
    if artists is not None:
        write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(60),
                                                           "artists": [artists(t) for t in range(60)]}))
    ials.main(["--factors", "4", "--workdir", str(workdir)])
    with pytest.raises(WorkError, match=said) as error:
        made(workdir)
    assert "\n" not in str(error.value) and len([*(workdir / "runs").iterdir()]) == 1


def test_content_that_is_constant_is_the_artist_alone(world):
    write_embedding(world, "flat", np.full((dataset.load(world).n_tracks, 5), 0.7, np.float32))
    name, _ = made(world, "--epochs", "2", embedding="flat")
    preds = pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt")
    assert np.isfinite(preds.score).all() and (preds.groupby("user_id").score.nunique() > 1).all()


def test_cold_items_without_content_are_named_and_filled_on_demand(world):
    split = dataset.load(world)
    matrix = np.random.default_rng(0).normal(size=(split.n_tracks, 5)).astype(np.float32)
    matrix[split.tracks[split.n_hot:][:3]] = np.nan
    write_embedding(world, "holes", matrix)
    with pytest.raises(WorkError, match="embedding 'holes' has no row for 3 of the 4.. tracks"):
        made(world, "--epochs", "1", embedding="holes")
    name, _ = made(world, "--epochs", "1", "--missing", "mean", embedding="holes")
    assert np.isfinite(pd.read_parquet(world / "preds" / f"{name}_cold_test.pqt").score).all()


def test_one_user_is_refused_in_one_sentence(tmp_path):
    """No track of train is left to rank in a val part of one user, so there is no best run whose factors to take."""
    workdir = factor_world(tmp_path / "w", n_users=1, n_tracks=30, n_cold=6)
    write_parquet(workdir / "items.pqt", pd.DataFrame({"track_id": np.arange(30),
                                                       "artists": [[f"{t % 3}"] for t in range(30)]}))
    ials.main([*FACTORS, "--workdir", str(workdir)])
    with pytest.raises(WorkError, match="this split has no val part to choose or learn on"):
        made(workdir, "--epochs", "2")


def test_factors_of_another_split_are_refused(tmp_path):
    workdir = with_factors(tmp_path / "w", n_users=30, n_tracks=60, n_cold=12)
    train = pd.read_parquet(workdir / "data" / "train.pqt")
    train.iloc[1:].to_parquet(workdir / "data" / "train.pqt")
    ((name, _),) = runs.find_runs(workdir)
    with pytest.raises(WorkError, match="factors of another split"):
        made(workdir, "--factors", name)


@pytest.mark.parametrize("words, sentence", [
    (["--new-artist", "1.5"], "argument --new-artist: must be from 0 to 1, not 1.5"),
    (["--heads", "3"], "argument --heads: must divide --hidden 128, which 3 does not")])
def test_a_wrong_number_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        acarec.parse(["--embedding", "content", *words])
    assert left.value.code == 2 and capsys.readouterr().err.strip().endswith(sentence)
