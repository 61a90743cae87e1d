"""Two towers: the loss against dense sums, histories without their own pair, masks, the index, newcomers, bad input."""
import dataclasses
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_parquet, write_text
from harness.progress import EXIT_RESUMABLE
from harness.readers import load_checkpoint, read_json
from recommenders.two_tower import __main__ as two_tower
from recommenders.two_tower import index as serving
from recommenders.two_tower.model import (
    COUNTS,
    Data,
    Settings,
    Towers,
    Training,
    in_batch_softmax,
    item_columns,
    standardise,
)
from tests.conftest import ROOT
from tests.worlds.world import tiny_workspace, write_embedding, write_pairs, write_tracks

SMALL = ["--embedding", "content", "--epochs", "4", "--batch-size", "64", "--k", "10"]


def finished(workdir):
    return [r for r in runs.find_runs(workdir) if r[1]["status"] == "finished"][-1]


def world_of(workdir, *embeddings):
    split = dataset.load(workdir)
    columns = item_columns(split, embeddings or ("content",))
    return split, columns, Data(split, columns)


def refused(capsys, *argv):
    """Exit status and the one sentence of a refused request."""
    with pytest.raises(SystemExit) as e:
        cli.run(two_tower.main, [str(a) for a in argv])
    said = capsys.readouterr().err.strip().splitlines()
    assert not any("Traceback" in line for line in said)
    return e.value.code, said[-1]


# --------------------------------------------------------------------------- the loss

def every_pair(seed=0, users=6, items=5):
    """A batch that holds every pair of a small train once: play matrix, user and item of each pair, scores (U, I)."""
    rng = np.random.default_rng(seed)
    plays = rng.random((users, items)) < 0.5
    plays[:, 0], plays[0, :2], plays[:, -1] = True, True, False     # a favourite; an item nobody played
    plays[1, -1] = True
    user, item = np.nonzero(plays)
    return plays, user, item, rng.normal(size=(users, items)) * 2


def loss_of(plays, user, item, scores, correction):
    q = plays.sum(0) / plays.sum()
    return in_batch_softmax(torch.tensor(scores[user][:, item]), torch.tensor(np.log(q[item])),
                            torch.tensor(plays[user][:, item]), correction).item()


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(5))
def test_the_correction_turns_the_batch_into_sums_over_the_catalogue(seed):
    """With every pair of train in the batch, an item stands in it as often as it was played, so dividing by q makes
    each item count once: the loss is a softmax over the row's own item and all items its user has not played."""
    plays, user, item, scores = every_pair(seed)
    n, counts, e = plays.sum(), plays.sum(0), np.exp(scores)
    standard, unbiased, off = [], [], []
    for u, i in zip(user, item, strict=True):
        rest = ~plays[u]
        standard.append(-math.log(e[u, i] / counts[i] / (e[u, i] / counts[i] + e[u, rest].sum())))
        unbiased.append(-math.log(e[u, i] / (e[u, i] + e[u, rest].sum() * n / (n - 1))))
        off.append(-math.log(e[u, i] / (e[u, i] + (e[u, rest] * counts[rest]).sum())))
    for correction, expected in (("standard", standard), ("unbiased", unbiased), ("off", off)):
        assert loss_of(plays, user, item, scores, correction) == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.numeric
def test_known_positives_have_no_say_and_get_no_gradient():
    plays, user, item, scores = every_pair()
    known = plays[user][:, item]
    s = torch.tensor(scores[user][:, item], requires_grad=True)
    in_batch_softmax(s, torch.zeros(len(item), dtype=s.dtype), torch.tensor(known)).backward()
    others = known & ~np.eye(len(item), dtype=bool)
    assert others.any() and (s.grad.numpy()[others] == 0).all()
    assert (s.grad.numpy()[~known] > 0).all()


def test_a_users_tracks_of_val_are_no_negatives_on_val(tiny):
    """Nor is the row's own track where it is another user's, too: with one track in val there is no rival."""
    split, _, data = world_of(tiny)
    val = split.part("val")
    users, at = np.unique(val.user, return_index=True)
    split.others["val"] = dataclasses.replace(val, user=users, item=np.full(len(users), val.item[at[0]]),
                                              count=val.count[at], time=None if val.time is None else val.time[at])
    training = Training(data, cli.settings(Settings, two_tower.parse(SMALL)))
    assert len(users) > 10 and training.validation_loss(split) == pytest.approx(0, abs=1e-6)


def test_a_batch_of_one_pair_teaches_nothing_and_breaks_nothing():
    for correction in ("standard", "unbiased", "off"):
        s = torch.tensor([[3.0]], requires_grad=True)
        loss = in_batch_softmax(s, torch.tensor([-1.0]), torch.tensor([[True]]), correction)
        loss.backward()
        assert loss.item() == 0 and s.grad.item() == 0


# --------------------------------------------------------------------------- what the towers read

def test_known_pairs_are_those_of_train(tiny):
    split, _, data = world_of(tiny)
    rng = np.random.default_rng(0)
    users, items = rng.integers(split.n_users, size=50), rng.integers(split.n_hot, size=70)
    expected = split.matrix().toarray()[users][:, items] > 0
    assert expected.any() and (data.known(torch.tensor(users), torch.tensor(items)).numpy() == expected).all()
    assert data.log_q.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_pair_is_left_out_of_its_own_history(tiny):
    """The columns of a user in training are those of a world in which the pair was never played."""
    split, columns, data = world_of(tiny)
    pairs = torch.tensor([0, 17, 200])
    left = data.describe(data.without(pairs)).numpy()
    for row, pair in zip(left, pairs.tolist(), strict=True):
        user, item = split.train.user[pair], split.train.item[pair]
        mine = (split.train.user == user) & (split.train.item != item)
        raw = np.r_[np.log1p(mine.sum()), np.log1p(split.train.count[mine].sum()),
                    columns[split.train.item[mine]].mean(0)]
        centre, spread = data.centre.numpy(), data.spread.numpy()
        assert np.allclose(row, (raw - centre) / spread, atol=1e-4)


def test_the_only_pair_of_a_user_leaves_an_empty_history(tmp_path):
    workdir = tmp_path / "w"
    write_tracks(workdir, 4)
    write_pairs(workdir, "train", [1, 2, 2], [0, 1, 2])
    write_embedding(workdir, "content", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    _, _, data = world_of(workdir)
    assert (data.without(torch.tensor([0])) == 0).all()
    assert torch.equal(data.without(torch.tensor([0]))[0], data.sums([]))


def test_columns_are_standardised_on_train_and_constant_ones_are_zero(tiny):
    split = dataset.load(tiny)
    content = np.load(tiny / "embeddings/content.npy")
    content[:, 0], content[:, 1] = 7.3, 1e-9
    write_embedding(tiny, "odd", content)
    columns = item_columns(split, ["odd"], ["styles"])
    hot = columns[:split.n_hot]
    assert (columns[:, COUNTS] == 0).all() and np.isfinite(columns).all()
    moving = hot[:, [0, 1, *range(COUNTS + 2, COUNTS + 8)]]
    assert np.allclose(moving.mean(0), 0, atol=1e-5) and np.allclose(moving.std(0), 1, atol=1e-4)
    styles = columns[:, COUNTS + 8:]
    assert styles.shape[1] == 4 and (styles.sum(1) == 1).all()
    assert (standardise(np.full((3, 2), 4.0), slice(0, 2)) == 0).all()


def test_an_embedding_of_any_unit_is_standardised_alike():
    matrix = np.random.default_rng(0).normal(size=(50, 3)) + [0, 2, 0]
    matrix[:, 2] *= 1e-9                                # beside the others this column is constant, in every unit
    for unit in (1, 1e-7, 1e-30):
        found = standardise(matrix * unit, slice(0, 50))
        assert np.allclose(found[:, :2].std(0), 1, atol=1e-5) and (found[:, 2] == 0).all()


def test_field_values_are_shared_by_the_lists_length_and_only_the_commonest_count(tiny, monkeypatch):
    frame = pd.DataFrame({"track_id": np.arange(80), "tags": [["a", "b", "b", f"rare {i}"] for i in range(80)]})
    frame.loc[3, "tags"] = None
    write_parquet(tiny / "items.pqt", frame)
    monkeypatch.setattr("recommenders.two_tower.model.FIELD_VALUES", 2)
    split = dataset.load(tiny)
    block = item_columns(split, [], ["tags"])[:, COUNTS:]
    code = {t: i for i, t in enumerate(split.tracks.tolist())}
    assert block.shape[1] == 2 and (block[code[3]] == 0).all()
    assert np.allclose(np.delete(block, code[3], axis=0), 1 / math.sqrt(2))


@pytest.mark.trains
def test_an_embedding_with_gaps_stops_or_is_filled(tiny, capsys):
    content = np.load(tiny / "embeddings/content.npy")
    content[5] = np.nan
    write_embedding(tiny, "gaps", content)
    status, said = refused(capsys, "--workdir", tiny, *SMALL, "--embedding", "gaps")
    assert status == 1 and "--missing mean" in said and not (tiny / "preds").exists()
    content[:, 2] = np.nan
    write_embedding(tiny, "gaps", content)
    status, said = refused(capsys, "--workdir", tiny, *SMALL, "--embedding", "gaps", "--missing", "mean")
    assert status == 1 and "no finite row" in said
    content[:, 2], content[:, 3] = 0, 1
    content[5] = np.nan
    write_embedding(tiny, "gaps", content)
    two_tower.main(["--workdir", str(tiny), *SMALL, "--embedding", "gaps", "--missing", "mean"])
    assert finished(tiny)[1]["parts"] == ["cold_test", "test", "val"]


# --------------------------------------------------------------------------- runs

@pytest.mark.trains
def test_it_finds_the_planted_taste_hot_and_cold(tmp_path):
    """Against popularity on the hot test and chance on the cold one, paired over users."""
    from recommenders import chance, popularity
    workdir = tiny_workspace(tmp_path / "w", n_users=200, n_tracks=150, n_cold=30)
    two_tower.main(["--workdir", str(workdir), "--embedding", "content", "--batch-size", "256", "--epochs", "40",
                    "--k", "10"])
    for other in (popularity, chance):
        other.main(["--workdir", str(workdir), "--k", "10"])
    names = {config["recommender"]: name for name, config in runs.find_runs(workdir)}

    def recall(recommender, part):
        frame = pd.read_parquet(workdir / "metrics" / f"{names[recommender]}_{part}.pqt").set_index("user_id")
        return frame["Recall@10"]
    for rival, part in (("popularity", "test"), ("chance", "cold_test")):
        gain = recall("two_tower", part) - recall(rival, part)
        assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5, (rival, part, gain.mean())
    _, config = finished(workdir)
    split = dataset.load(workdir)
    for which, rows in (("users", split.n_users), ("items", split.n_items)):
        vectors = np.load(workdir / "model_embeddings" / f"{names['two_tower']}_{which}.npy")
        assert vectors.shape == (rows, 128) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    told = read_json(workdir / "runs" / names["two_tower"] / "config.json")
    assert told["index"]["recall"] == {"@10": 1.0, "@100": 1.0} and told["best_epoch"] <= told["epochs"]
    assert list((workdir / "runs" / names["two_tower"]).glob("events.out.tfevents.*"))


@pytest.mark.trains
def test_equal_content_gives_cold_items_one_vector_and_so_chance(tmp_path):
    workdir = tiny_workspace(tmp_path / "w", n_users=300, n_tracks=120, n_cold=40)
    write_embedding(workdir, "content", np.full((120, 8), 0.3, np.float32))
    two_tower.main(["--workdir", str(workdir), *SMALL])
    name, _ = finished(workdir)
    split = dataset.load(workdir)
    values = pd.read_parquet(workdir / "metrics" / f"{name}_cold_test.pqt")["Recall@10"]
    assert abs(values.mean() - 10 / (split.n_items - split.n_hot)) < 4 * values.std() / len(values) ** 0.5


@pytest.mark.trains
@pytest.mark.parametrize("how", ["kill", "signal"])
def test_an_interrupted_training_continues_to_the_same_bytes(tmp_path, how):
    flags = [*SMALL, "--batch-size", "16", "--checkpoint-seconds", "0"]     # a checkpoint after every step
    first, other = tiny_workspace(tmp_path / "a"), tiny_workspace(tmp_path / "b")
    two_tower.main(["--workdir", str(first), *flags])
    name, _ = finished(first)
    command = [sys.executable, "-m", "recommenders.two_tower", "--workdir", str(other), *flags]
    last = other / "checkpoints" / "content" / f"{name}_last.pt"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGUSR1)
    assert process.wait(timeout=120) == (-signal.SIGKILL if how == "kill" else EXIT_RESUMABLE)
    state = load_checkpoint(last)
    assert (0, 0) < (state["epoch"], state["step"]) < (4, 0) and not list(other.glob("preds/*"))
    two_tower.main(["--workdir", str(other), *flags])
    for file in [*(first / "preds").iterdir(), *(first / "model_embeddings").iterdir()]:
        assert (other / file.relative_to(first)).read_bytes() == file.read_bytes()


@pytest.mark.trains
def test_early_stopping_keeps_the_best_epoch_and_no_val_trains_all(tiny, capsys):
    two_tower.main(["--workdir", str(tiny), *SMALL, "--epochs", "60", "--patience", "1", "--lr", "0.02"])
    name, config = finished(tiny)
    assert config["best_epoch"] == config["epochs"] - 1 < 59
    best = load_checkpoint(tiny / "checkpoints" / "content" / f"{name}_best.pt")
    assert best["epoch"] == config["best_epoch"]
    (tiny / "data" / "val.pqt").unlink()
    two_tower.main(["--workdir", str(tiny), *SMALL, "--epochs", "3"])
    told = [c for _, c in runs.find_runs(tiny) if c["request"]["epochs"] == 3]
    assert told[0]["epochs"] == told[0]["best_epoch"] == 3 and "no val part" in capsys.readouterr().err


@pytest.mark.numeric
def test_half_precision_gives_nearly_the_same_towers_where_the_machine_has_it(tiny):
    if not any(torch.cpu.get_capabilities().get(x) for x in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")):
        pytest.skip("needs a processor with bf16 arithmetic")
    for precision in ("fp32", "bf16"):
        two_tower.main(["--workdir", str(tiny), *SMALL, "--epochs", "1", "--precision", precision])
    found = {c["precision"]: np.load(tiny / "model_embeddings" / f"{n}_items.npy") for n, c in runs.find_runs(tiny)}
    assert not np.array_equal(found["fp32"], found["bf16"])
    assert (found["fp32"] * found["bf16"]).sum(1).min() > 0.99


@pytest.mark.trains
@pytest.mark.parametrize("users,items", [(1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_one_user_or_one_item_is_no_special_case(tmp_path, users, items, index):
    workdir = tmp_path / "w"
    write_tracks(workdir, items + 1)
    pairs = np.array([(u, i) for u in range(users) for i in range(items)])
    write_pairs(workdir, "train", pairs[:, 0], pairs[:, 1])
    write_pairs(workdir, "cold_test", np.arange(users), np.full(users, items))
    write_embedding(workdir, "content", np.random.default_rng(0).normal(size=(items + 1, 4)).astype(np.float32))
    two_tower.main(["--workdir", str(workdir), *SMALL, "--index", index])
    name, config = finished(workdir)
    assert config["parts"] == ["cold_test"] and config["index"]["recall"][f"@{min(10, items + 1)}"] == 1
    preds = pd.read_parquet(workdir / "preds" / f"{name}_cold_test.pqt")
    assert len(preds) == users and np.isfinite(preds.score).all()


# --------------------------------------------------------------------------- newcomers

def test_a_newcomer_with_the_plays_of_a_listener_gets_that_listeners_vector(tiny):
    split, _, data = world_of(tiny)
    torch.manual_seed(0)
    towers = Towers(data.items.shape[1])
    users, _ = towers.vectors(data)
    mine = split.train.user == 4
    vector = towers.newcomer(data, split.train.item[mine], split.train.count[mine])
    assert torch.allclose(vector, users[4], atol=1e-5)
    average = towers.newcomer(data)
    assert torch.allclose(average, users.mean(0) / users.mean(0).norm(), atol=1e-6)


def test_listener_prints_tracks_that_were_not_named_out_of_the_index(tiny, capsys):
    ids, _ = dataset.read_tracks(tiny)
    split = dataset.load(tiny)
    mine = [ids[t] for t in split.tracks[[1, 3]]]
    flags = ["--workdir", str(tiny), *SMALL, "--index", "ivf", "--lists", "4", "--probe", "4"]
    for _ in range(2):                                  # after the training, then from the finished run
        two_tower.main([*flags, "--listener", *mine])
        lines = capsys.readouterr().out.strip().splitlines()[-11:]
        assert "somebody who played" in lines[0]
        shown = [line.split()[2] for line in lines[1:]]
        assert len(set(shown)) == 10 and not set(shown) & set(mine) and set(shown) <= set(ids)
    two_tower.main([*flags, "--listener", "--show", "3"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert "average listener" in lines[-4] and len(runs.find_runs(tiny)) == 1
    status, said = refused(capsys, *flags, "--seed", "7", "--listener", "nosuch")
    assert status == 2 and "no track has the id or name 'nosuch'" in said
    assert len(runs.find_runs(tiny)) == 1               # known before the training, not after it


# --------------------------------------------------------------------------- the index

def vectors_of(n, dim=16, seed=0):
    found = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_recall_is_the_share_of_the_exact_list_that_is_found():
    """By hand: the ten best of each query, found among those in the lists that the search looks into."""
    items, queries, ids = vectors_of(600), vectors_of(40, seed=1), np.arange(600) * 3 + 7
    exact = np.argsort(-queries @ items.T, axis=1)[:, :10]
    assert serving.recall(serving.build(items, ids, serving.shape("flat", 600)), items, queries, (10,)) == {10: 1.0}
    seen = []
    for probe in (1, 3, 15):
        index = serving.build(items, ids, serving.shape("ivf", 600, 15, probe))
        found = index.search(queries, 10)[1]
        by_hand = np.mean([len({*f} & {*ids[e]}) / 10 for f, e in zip(found, exact, strict=True)])
        seen.append(serving.recall(index, items, queries, (10,))[10])
        assert seen[-1] == pytest.approx(by_hand, abs=1e-9)
    assert 0.1 < seen[0] < seen[1] < seen[2] == 1


def test_lists_fit_the_catalogue():
    assert serving.shape("ivf", 10_000) == serving.Shape(100, 13)
    assert serving.shape("ivf", 400) == serving.Shape(10, 2) and serving.shape("ivf", 5) == serving.Shape(1, 1)
    with pytest.raises(UsageError, match="--lists 9: an inverted file of 8 tracks has at most 8 lists"):
        serving.shape("ivf", 8, 9)
    with pytest.raises(UsageError, match="--probe 5: there are only 4 lists"):
        serving.shape("ivf", 80, 4, 5)


def test_every_seed_of_ours_is_one_of_the_index():
    """faiss keeps its seed in a signed int of 32 bits."""
    serving.build(vectors_of(80), np.arange(80), serving.shape("ivf", 80, 4), seed=2**32 - 1)


def test_lists_that_hold_too_little_give_short_answers_without_padding(tmp_path):
    items = vectors_of(8)
    index = serving.build(items, np.arange(8) + 100, serving.shape("ivf", 8, 8, 1))
    assert len(serving.nearest(index, items[2], 5)) < 5
    assert serving.nearest(index, items[2], 5)[0][0] == 102
    assert 102 not in dict(serving.nearest(index, items[2], 5, without=[102]))
    serving.write(tmp_path / "x.faiss", index)
    again = serving.read(tmp_path / "x.faiss")
    assert serving.nearest(again, items[2], 5) == serving.nearest(index, items[2], 5)
    (tmp_path / "x.faiss").write_bytes(b"half a file")
    with pytest.raises(WorkError, match="cannot be read as an index"):
        serving.read(tmp_path / "x.faiss")


# --------------------------------------------------------------------------- bad requests

@pytest.mark.parametrize("flags,status,words", [
    ([], 2, "--embedding is needed: the content that the towers read; there: content, noise"),
    (["--embedding", "nosuch"], 2, "no embedding 'nosuch'"),
    (["--embedding", "content", "--lists", "3"], 2, "--lists and --probe are for --index ivf"),
    (["--embedding", "content", "--index", "ivf", "--lists", "5000"], 2, "has at most 78 lists"),
    (["--embedding", "content", "--temperature", "0"], 2, "must be a number above 0, not 0"),
    (["--embedding", "content", "--hide", "1"], 2, "must be a number of at least 0 and below 1, not 1"),
    (["--embedding", "content", "--show", "3"], 2, "--show says how many tracks --listener prints"),
    (["--embedding", "content", "--fields", "mood"], 2, "has no such column; it has track_id, styles, artists"),
    (["--embedding", "content", "--precision", "fp16", "--device", "cpu"], 2, "this cpu has no fp16 arithmetic"),
    (["--embedding", "content", "--seed", "-1"], 2, "--seed: must be a whole number from 0"),
    (["--embedding", "content", "--lr", "1e30", "--batch-size", "64"], 1, "loss is NaN or infinite in epoch 1; try"),
])
def test_a_bad_request_is_one_sentence(tiny, capsys, flags, status, words):
    got, said = refused(capsys, "--workdir", tiny, *flags)
    assert got == status and words in said
    assert not (tiny / "preds").exists()


@pytest.mark.parametrize("flags", [["--fields", "styles"], ["--listener"]])
@pytest.mark.parametrize("ids,sentence", [
    ([0, 0, 1], "track_id must be distinct rows of trackid_sorted.csv, which has 80"),
    (None, "has no column track_id of integers; it has styles"), ("damaged", "cannot be read as parquet")])
def test_metadata_that_name_no_tracks_are_one_sentence(tiny, capsys, flags, ids, sentence):
    columns = {"styles": ["a", "b", "c"]} | ({"track_id": ids} if isinstance(ids, list) else {})
    write_parquet(tiny / "items.pqt", pd.DataFrame(columns))
    if ids == "damaged":
        write_text(tiny / "items.pqt", "no parquet")
    got, said = refused(capsys, "--workdir", tiny, "--embedding", "content", *flags)
    assert got == 1 and sentence in said and not (tiny / "preds").exists()


def test_a_checkpoint_of_another_precision_is_refused(tiny):
    _, _, data = world_of(tiny)
    training = Training(data, cli.settings(Settings, two_tower.parse(SMALL)))
    state = training.state() | {"precision": "bf16"}
    with pytest.raises(UsageError, match="began on cpu in bf16"):
        training.load(state)
