"""DTNMR's network: sums of rows against dense multi-hot vectors, shared windows against one LSTM per point, points
and their levels, clean negatives. Its runs: test_dtnmr_runs.py."""
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from evaluation import subset_accuracy
from harness.errors import WorkError
from harness.files import write_parquet
from harness.readers import read_json
from recommenders.dtnmr import __main__ as dtnmr
from recommenders.dtnmr import model as dtnmr_model
from recommenders.dtnmr import points as dtnmr_points
from recommenders.dtnmr import training as dtnmr_training
from tests.conftest import ROOT
from tests.worlds import kkbox
from tests.worlds.dtnmr_world import SMALL, listening_world, network_of, world_of
from tests.worlds.world import take_out, tiny_workspace, write_pairs, write_tracks

# --------------------------------------------------------------------------- encoding

def test_bags_are_the_multi_hot_vectors_of_sorted_vocabularies():
    table = pa.table({"genres": [["b", "a", "b"], [], None, ["z"], ["a", ""]], "year": [3, None, 1, 3, 20]})
    told = np.array([True, True, True, False, True])       # the fourth row is outside the vocabulary's rows
    vocabularies = {f: dtnmr_points.vocabulary_of(table[f], told) for f in table.column_names}
    assert vocabularies == {"genres": ["a", "b"], "year": ["1", "20", "3"]}
    bags = dtnmr_points.bags_of(table, vocabularies)
    assert bags.dense().tolist() == [   # a  b  ?   1  20 3  ?
        [1, 1, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0, 1],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1, 0, 0]]


def test_a_vocabulary_of_one_value_and_of_none_have_a_place_for_unknown():
    table = pa.table({"genres": pa.array([["a"], None, ["a"]]), "language": pa.array([None] * 3, pa.string())})
    bags = dtnmr_points.bags_of(table, {f: dtnmr_points.vocabulary_of(table[f]) for f in table.column_names})
    assert bags.dense().tolist() == [[1, 0, 1], [0, 1, 1], [1, 0, 1]]


def test_the_columns_do_not_depend_on_the_order_of_files_or_hashes(tmp_path):
    """Vocabularies in processes with other hash seeds are equal; the source's are not."""
    workdir = listening_world(tmp_path / "w")
    code = ("import sys, json; from tests.worlds.dtnmr_world import network_of, world_of; "
            "print(json.dumps(world_of(sys.argv[1])[0].vocabularies()))")
    told = {subprocess.run([sys.executable, "-c", code, str(workdir)], cwd=ROOT, capture_output=True, text=True,
                           check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(told) == 1 and '"genres": ["pop", "rock"]' in told.pop()


def dense_user(world, user, end):
    """The source's user vector: static multi-hot, and the clipped sum of the songs' vectors before row `end`."""
    about, songs = world.user_bags.dense()[user], world.songs.bags.dense()
    rows = slice(world.lists.indptr[user], end)
    return np.concatenate([about, np.clip(songs[world.lists.song[rows]].sum(0), 0, 1)])


def dense_rating(net, world, user, end, candidates):
    """The source's forward pass of one point, from dense vectors: MLPs, one LSTM call per window, one linear layer."""
    lists, songs = world.lists, torch.from_numpy(np.concatenate(
        [world.songs.length, world.songs.bags.dense()], 1))                                # (S, bits)

    def mlp(layer, x):
        first = layer.rows if layer.numbers is None else torch.cat([layer.numbers, layer.rows])
        x = torch.relu(x @ first + layer.bias)
        for linear in layer.rest:
            x = torch.relu(linear(x))
        return x
    u = mlp(net.user, torch.from_numpy(dense_user(world, user, end))) if "static" in net.components else 0
    playlist = np.arange(lists.indptr[user], end)
    for part in ("long", "short"):
        window = playlist[-net.lengths[part]:]
        if part in net.components and len(window):
            x = mlp(net.song, songs[lists.song[window]])
            if net.behaviours:
                x = torch.cat([x, torch.nn.functional.one_hot(torch.from_numpy(lists.behaviour[window]),
                                                              net.behaviours)], 1)
            u = u + net.head(net.lstm(x)[0][-1])
    if isinstance(u, int):
        u = torch.zeros(net.size)
    ratings = []
    for song in candidates:
        s = mlp(net.song, songs[song])
        ratings.append(net.rate(torch.cat([u, s]))[0] + (0 if net.product is None else (u * s * net.product).sum()))
    return torch.stack(ratings)


VARIANTS = [[], ["--rating", "concat"], ["--no-static"], ["--no-long"], ["--no-short"], ["--lstm-layers", "1"],
            ["--short-term-len", "2", "--long-term-len", "3"], ["--no-behaviour"]]


@pytest.mark.numeric
@pytest.mark.parametrize(("kkbox", "flags"), [*((True, f) for f in VARIANTS), *((False, f) for f in VARIANTS[:-1])])
def test_ratings_equal_those_of_dense_vectors_and_one_window_per_point(tmp_path, kkbox, flags):
    """Shared windows, running unions and bags change nothing, whatever the batch; an empty history too."""
    world, args = world_of((listening_world if kkbox else tiny_workspace)(tmp_path / "w"), *flags)
    net = network_of(world, args).eval()
    rows = np.concatenate([world.rows["val"], world.rows["train"], world.lists.indptr[:3]])  # the last: no history
    rows = np.r_[rows[::3], rows[:20]]                                                       # gaps, and repeats
    users, ends, candidates = world.batch(rows, "test", 4, np.random.default_rng(0))
    with torch.no_grad():
        ours = net(world.data, users, ends, candidates)
        for row in range(0, len(rows), 3):
            expected = dense_rating(net, world, int(users[row]), int(ends[row]), candidates[row])
            torch.testing.assert_close(ours[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.numeric
def test_gradients_equal_those_of_dense_vectors(tmp_path):
    world, args = world_of(listening_world(tmp_path / "w"), "--dropout", "0")
    net = network_of(world, args)
    batch = world.batch(world.rows["train"][:24], "train", 4, np.random.default_rng(0))
    net(world.data, *batch).logsumexp(1).sum().backward()
    ours = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    sum(dense_rating(net, world, int(u), int(e), c).logsumexp(0) for u, e, c in zip(*batch, strict=True)).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in net.named_parameters() if "rate.bias" not in name)
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-3, atol=1e-5)


def test_the_union_grows_by_what_each_row_adds():
    """Rows with columns {0,2}, {2}, {1,2} | {2}: the second playlist starts anew; no column is listed twice."""
    songs = dtnmr_points.Bags(np.array([0, 2, 3, 5]), np.array([0, 2, 2, 1, 2]), 3)
    lists = dtnmr_points.Playlists(np.array([0, 3, 4]), np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]),
                                   np.zeros(4, np.int8), np.ones(4, bool))
    added = lists.additions(songs)
    assert added.dense().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_with_the_sources_rating_the_user_cancels(tmp_path):
    """A linear layer on user and song: every user ranks alike, and the softmax gives the user side no gradient."""
    world, args = world_of(listening_world(tmp_path / "w"), "--rating", "concat", "--dropout", "0")
    net = network_of(world, args)
    users, ends, candidates = world.batch(world.rows["train"], "train", 5, np.random.default_rng(0))
    ratings = net(world.data, users, ends, candidates)
    torch.nn.functional.cross_entropy(ratings, torch.zeros_like(users)).backward()
    assert net.user.rows.grad.abs().max() < 1e-7 and net.song.rows.grad.abs().max() > 1e-5
    everyone = candidates[:1].expand(len(users), -1)
    with torch.no_grad():
        spread = net(world.data, users, ends, everyone).diff(dim=1)
        own = network_of(world, dtnmr.parse(["--workdir", "w", *SMALL]))(world.data, users, ends, everyone).diff(dim=1)
    assert spread.std(0).max() < 1e-6 < 1e-5 < own.std(0).max()


# --------------------------------------------------------------------------- points, batches, negatives

def test_points_and_levels_follow_the_parts(tmp_path):
    world, _ = world_of(listening_world(tmp_path / "w"))
    points = pd.read_parquet(tmp_path / "w" / "points.pqt").sort_values(["user_id", "position"])
    for part in ("train", "val", "test"):
        expected = points.track_id.to_numpy()[(points.part == part).to_numpy()]
        assert (world.songs.ids[world.lists.song[world.rows[part]]] == expected).all() and len(expected)
    assert (world.lists.ends(0) == world.rows["val"]).all() and (world.lists.ends(1) == world.rows["test"]).all()
    assert world.lists.behaviours == ("explore", "my library", None)   # "settings" counts as unknown, as in the source


def test_lists_read_the_history_of_the_split(tmp_path, monkeypatch):
    """At test the plays of train, as every method does; those of val, too, where the rules of the split say so."""
    world, _ = world_of(listening_world(tmp_path / "w"))
    of = dtnmr.ranker(network_of(world, dtnmr.parse(["--workdir", "w", *SMALL])), world)
    users = np.arange(world.split.n_users)
    by_train = of("test")["users"](users)
    assert torch.equal(by_train, of("val")["users"](users)) and world.split.history_parts("test") == ("train",)
    monkeypatch.setitem(world.split.rules, "history", {"test": ["train", "val"]})
    assert not torch.equal(of("test")["users"](users), by_train)


def test_plays_of_test_csv_are_known_to_nobody_who_trains(tmp_path):
    """The beginning of a test playlist is history to look back at, and its songs may be negatives of train."""
    workdir = listening_world(tmp_path / "w")
    points = pd.read_parquet(workdir / "points.pqt")
    last = points.sort_values("position").groupby("user_id").tail(3).index
    points.loc[last, "part"] = "history"
    points.loc[points.position % 4 == 0, "target"] = None   # an empty cell of train.csv, which says nothing of test
    write_parquet(workdir / "points.pqt", points)
    lists, _ = dtnmr_points.playlists_of_points(workdir / "points.pqt", dataset.load(workdir).users)
    late = np.r_[lists.indptr[1:] - 3, lists.indptr[1:] - 2, lists.indptr[1:] - 1]
    assert (np.flatnonzero(lists.level == 2) == np.sort(late)).all() and (lists.ends(1) == lists.indptr[1:] - 3).all()


def test_an_empty_target_in_train_csv_moves_no_point(tmp_path):
    """Points of a workspace made from such a file are the points that its dataset.json counts."""
    tables = kkbox.world()
    for row in tables["train"][:4]:
        row[5] = ""
    work = kkbox.get(kkbox.write(tmp_path / "raw", tables), tmp_path / "w", *kkbox.LOOSE, "--min-playlist-len", 1,
                     "--test", "csv")
    lists, _ = dtnmr_points.playlists_of_points(work / "points.pqt", np.array([0, 2]))
    told = read_json(work / "dataset.json")["counts"]["points"]
    assert {part: len(lists.points(part)) for part in dtnmr_points.PARTS} == {k: told[k] for k in dtnmr_points.PARTS}
    assert told["train"] > 4


def test_a_workspace_without_points_takes_its_split_in_order(tmp_path):
    world, _ = world_of(tiny_workspace(tmp_path / "w"), "--min-playlist-len", "3")
    split, lists = world.split, world.lists
    indptr, items = split.sequences()
    for user in (0, 1, 2):                                   # with val, with val and test, with test
        mine = world.songs.ids[lists.song[lists.indptr[user]:lists.indptr[user + 1]]]
        n = indptr[user + 1] - indptr[user]
        assert (mine[:n] == split.tracks[items[indptr[user]:indptr[user + 1]]]).all()
        later = []
        for pairs in (split.part("val"), split.part("test")):
            rows = np.flatnonzero(pairs.user == user)
            later += split.tracks[pairs.item[rows[pairs.time[rows].argsort()]]].tolist()
        assert mine[n:].tolist() == later and len(later) > 1
        assert (lists.point[lists.indptr[user]:lists.indptr[user + 1]] == (np.arange(len(mine)) >= 3)).all()


def test_equal_times_of_held_out_songs_are_broken_for_each_user_otherwise(tmp_path):
    """As in train, and not by the songs' numbers, which the songs of an album share with their order."""
    users, songs = np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)
    write_tracks(tmp_path, 12)
    for part, shift in (("train", 0), ("test", 6)):
        write_pairs(tmp_path, part, users, (songs + 6 * (users % 2) + shift) % 12, seconds=np.full(240, shift))
    lists, tracks = dtnmr_points.playlists_of_split(dataset.load(tmp_path))
    for part in (lists.level == 0, lists.level == 2):
        orders = {tuple(tracks[part & (lists.user == user)]) for user in range(0, 40, 2)}
        assert len(orders) > 15


def test_batches_hold_every_point_once_in_runs_of_neighbours():
    rows = np.r_[2:9, 12:15, 20:21]
    user = np.repeat([0, 1, 2], [10, 6, 10])
    starts, lengths = dtnmr_model.runs_of(rows, user, 3)
    assert starts.tolist() == [2, 5, 8, 12, 20] and lengths.tolist() == [3, 3, 1, 3, 1]
    batches = dtnmr_model.batches_of(rows, user, 3, 4, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == rows.tolist() and len(batches) == 3
    assert [len(b) for b in dtnmr_model.batches_of(rows, user, 1, 4)] == [4, 4, 3]


def test_negatives_are_unknown_distinct_and_cover_what_is_left():
    catalogue, n_users = np.arange(1, 9), 200
    known_users, known = np.repeat(np.arange(n_users), 3), np.tile([1, 2, 9], n_users)
    negatives = subset_accuracy.Negatives(catalogue, 10, known_users, known)
    assert (negatives.left(np.arange(n_users)) == 6).all()
    drawn = negatives.draw(np.arange(n_users), 5, np.random.default_rng(0))
    assert set(np.unique(drawn)) == {3, 4, 5, 6, 7, 8}
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    counts = np.bincount(drawn.ravel())[3:]
    assert abs(counts - n_users * 5 / 6).max() < 4 * (n_users * 5 / 36) ** 0.5


@given(st.data())
def test_negatives_are_never_known_whatever_is(data):
    """Any catalogue, any knowledge, any number that is left: n distinct unknown songs for every user."""
    n_songs, n_users = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    catalogue = np.array(sorted(data.draw(st.sets(st.integers(0, n_songs - 1), min_size=1))))
    known = sorted(data.draw(st.sets(st.tuples(st.integers(0, n_users - 1), st.integers(0, n_songs - 1)), min_size=1)))
    users, songs = np.array(known).T
    negatives, everyone = subset_accuracy.Negatives(catalogue, n_songs, users, songs), np.arange(n_users)
    left = [len(set(catalogue) - {s for u, s in known if u == user}) for user in everyone]
    assert negatives.left(everyone).tolist() == left
    drawn = negatives.draw(everyone, min(left), np.random.default_rng(data.draw(st.integers(0, 9))))
    for user, row in enumerate(drawn.tolist()):
        assert len(set(row)) == min(left) and set(row) <= set(catalogue) - {s for u, s in known if u == user}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), kkbox=st.booleans())
def test_candidates_of_points_hold_the_label_once_and_no_known_song(tmp_path_factory, seed, kkbox):
    """In any world, in every part: beside the label no song of the playlist up to and with that part."""
    workdir = (listening_world if kkbox else tiny_workspace)(tmp_path_factory.mktemp("w") / "w", seed=seed)
    world, args = world_of(workdir)
    lists = world.lists
    for level, part in enumerate(dtnmr_points.PARTS):
        rows = np.tile(world.rows[part], 20)
        users, _, candidates = world.batch(rows, part, args.subset_size, np.random.default_rng(seed))
        assert (candidates[:, 0].numpy() == lists.song[rows]).all()
        known = {(u, s) for u, s, at in zip(lists.user, lists.song, lists.level, strict=True) if at <= level}
        drawn = {(u, s) for u, row in zip(users.tolist(), candidates[:, 1:].tolist(), strict=True) for s in row}
        assert not drawn & known and {s for _, s in drawn} <= set(world.songs.catalogue)


def test_negatives_of_training_know_nothing_of_val_and_test(tmp_path):
    world, _ = world_of(tiny_workspace(tmp_path / "w"))
    train, test = world.rows["train"], world.rows["test"]
    rows = np.repeat(train, 50)
    drawn = world.negatives["train"].draw(world.lists.user[rows], 4, np.random.default_rng(0))
    own = {(u, s) for u, s in zip(world.lists.user[train], world.lists.song[train], strict=True)}
    later = {(u, s) for u, s in zip(world.lists.user[test], world.lists.song[test], strict=True)}
    pairs = {*zip(np.repeat(world.lists.user[rows], 4).tolist(), drawn.ravel().tolist(), strict=True)}
    assert not pairs & own and len(pairs & later) > len(later) / 2


def test_what_was_taken_out_of_train_is_no_wrong_answer_and_unknown_to_training(tmp_path):
    workdir = tiny_workspace(tmp_path / "w")
    out = take_out(workdir)
    world, _ = world_of(workdir)
    for part in ("train", "val", "test"):
        rows = np.repeat(world.rows[part], 50)
        drawn = world.negatives[part].draw(world.lists.user[rows], 4, np.random.default_rng(0))
        users, songs = world.split.users[np.repeat(world.lists.user[rows], 4)], world.songs.ids[drawn.ravel()]
        both = out & {*zip(users.tolist(), songs.tolist(), strict=True)}
        assert bool(both) == (part == "train"), part


def test_a_user_who_knows_the_whole_catalogue_is_left_out_and_told_of(tmp_path, capsys):
    """The others' points stay; their lists and everybody's history do, too."""
    workdir = listening_world(tmp_path / "w")
    before, _ = world_of(workdir)
    points, songs = pd.read_parquet(workdir / "points.pqt"), before.songs.ids[before.songs.catalogue]
    user = points.user_id.min()
    mine = points[points.user_id == user]
    more = pd.DataFrame({"user_id": user, "position": -1 - np.arange(len(songs)), "track_id": songs, "part": "history"})
    write_parquet(workdir / "points.pqt", pd.concat([points, more]))
    capsys.readouterr()
    world, args = world_of(workdir)
    n = {p: (mine.part == p).sum() for p in dtnmr_points.PARTS}
    for part in dtnmr_points.PARTS:
        assert len(world.rows[part]) == len(before.rows[part]) - n[part] and 0 not in world.lists.user[world.rows[part]]
    assert (f"{n['train']} of {len(before.rows['train'])} train points left out, because their 1 users have fewer than "
            "4 unknown songs left") in capsys.readouterr().err
    figures = dtnmr_training.subset_metrics(network_of(world, args), world, "test", args.seed)
    assert figures["points"] == len(world.rows["test"])


def test_where_everybody_knows_everything_no_smaller_subset_is_advised():
    users = np.array([0, 1])
    for catalogue, advice in ((np.array([3]), "keep more songs"), (np.arange(6), "at most --subset-size 6")):
        negatives = subset_accuracy.Negatives(catalogue, 6, users, np.array([3, 3]))
        with pytest.raises(WorkError, match=f"needs 8 unknown songs.*of the train points have at most.*{advice}"):
            negatives.enough(users, 9, "train points")


def test_ties_share_the_hit():
    values = np.array([[3, 1, 2], [1, 1, 0], [1, 2, 0], [0, 0, 0]])
    assert subset_accuracy.first_wins(values).tolist() == [1, 1 / 2, 0, 1 / 3]


def test_the_interval_of_the_accuracy_is_over_users():
    """Points of a user are no independent draws: with means of users .5 and 0 it is that of two numbers, not of 200."""
    user = np.repeat([7, 3], 100)
    hits = np.where(user == 7, np.arange(200) % 2, 0).astype(float)
    users = np.array([.5, 0])
    expected = 12.706204736 * users.std(ddof=1) / 2 ** .5      # t of one degree of freedom
    assert dtnmr_training.half_width(hits, user) == pytest.approx(expected)
    assert np.isnan(dtnmr_training.half_width(hits[:100], user[:100]))
