"""One rule of selection: the flags, the name of a run, the users and items that are ranked, and when."""
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import dataset
import metrics
from harness import registry, runs
from tests.training.test_selection_runs import SMALL
from tests.worlds.world import with_cold_val
from training import references, selection, validation
from training.early_stopping import EarlyStopping
from training.selection import BOTH, COLD, HOT
from training.validation import Validation

PUBLISHED = ("train", "train_bert", "recommenders.content_elsa")      # with --as-published
ALWAYS_CHOSEN = ("recommenders.two_tower", "recommenders.clcrec", "recommenders.content_elsa",
                 "recommenders.sibrar")   # from its first run on


def parse(name, *flags):
    return registry.load(name).parse([*SMALL[name], *flags])


def request(name, *flags):
    return registry.load(name).request_of(parse(name, *flags))


def training(stop_on="NDCG@10", epochs=100, patience=3):
    return SimpleNamespace(epoch=0, done=False, stopping=EarlyStopping(stop_on, epochs, patience))


@pytest.fixture
def split(tiny):
    return dataset.load(tiny)


def by_content(split):
    """What topk.recommend takes of a part: users by the sum of their tracks' content."""
    vectors = torch.from_numpy(dataset.load_embedding(split, "content"))
    users = torch.from_numpy(split.matrix() @ vectors[:split.n_hot].numpy())
    return lambda part: {"users": users, "items": vectors}


@pytest.fixture
def content(split):
    return by_content(split)


# --------------------------------------------------------------------------- flags and names

@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("word", ["ndcg@10", "NDCG", "NDCG@0", "NDCG@1001", "Gini@10", "loss@10", "Points@5", ""])
def test_a_rule_that_is_none_is_one_sentence_with_status_2(name, word, capsys):
    with pytest.raises(SystemExit) as left:
        parse(name, "--stop-on", word)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1
    assert "argument --stop-on: must be loss, or NAME@K with a NAME of HitRate, MRR, " in said and word in said


@pytest.mark.parametrize("name", SMALL)
def test_the_rule_is_ndcg_unless_the_published_one_is_asked_for(name):
    assert parse(name).stop_on == "NDCG@10"
    assert parse(name, "--stop-on", "Recall@50").stop_on == "Recall@50"
    if name in PUBLISHED:
        assert parse(name, "--as-published").stop_on == "loss"
        assert parse(name, "--as-published", "--stop-on", "MRR@5").stop_on == "MRR@5"


@pytest.mark.parametrize("name", SMALL)
def test_by_the_loss_no_sample_enters_the_name(name):
    own = {"stop_on", "eval_every", "val_users"}
    requests = [request(name, "--stop-on", "loss", *flags)
                for flags in ([], ["--eval-every", "7"], ["--val-users", "0"], ["--val-users", "9"])]
    assert requests == [requests[0]] * 4
    assert requests[0].keys() & own == ({"stop_on"} if name in ALWAYS_CHOSEN else set())


def test_two_tower_was_selected_by_ndcg_on_all_of_val_before():
    assert not request("recommenders.two_tower", "--val-users", "0").keys() & {"stop_on", "eval_every", "val_users"}
    changed = request("recommenders.two_tower", "--eval-every", "2", "--val-users", "9", "--stop-on", "MRR@10")
    assert (changed["stop_on"], changed["eval_every"], changed["val_users"]) == ("MRR@10", 2, 9)


def test_a_sample_of_everybody_is_no_other_run(split):
    everybody = len(split.eval_users("val"))
    few, all_of_them, more = (selection.of_split({"val_users": n, "seed": 1}, split)
                              for n in (everybody - 1, everybody, 5000))
    assert few == {"val_users": everybody - 1, "seed": 1} and all_of_them == more == {"seed": 1}


def test_a_run_by_the_loss_departs_from_the_default_in_a_table():
    usual = request("train")
    assert runs.departures(request("train", "--stop-on", "loss"), usual) == {"stop_on": "loss"}
    assert runs.departures(usual, usual) == {} and runs.departures({"seed": 1}, {"seed": 1}) == {}
    two_tower = registry.defaults("two_tower")
    assert runs.departures(request("recommenders.two_tower", "--stop-on", "loss"), two_tower)["stop_on"] == "loss"
    assert "stop_on" not in runs.departures(request("recommenders.two_tower"), two_tower)


# --------------------------------------------------------------------------- who is ranked, and when

def test_the_sample_is_of_the_split_and_a_larger_one_only_adds(split):
    everybody, few, more = (validation.sample(split, "val", n).tolist() for n in (0, 10, 20))
    assert everybody == split.eval_users("val").tolist() == validation.sample(split, "val", 10_000).tolist()
    assert len(few) == 10 and len(more) == 20 and {*few} < {*more} < {*everybody} and more == sorted(more)
    assert few != everybody[:10]


def test_a_sampled_split_has_the_pairs_of_these_users_and_all_else_as_before(split):
    small = validation.sampled(split, 10)
    users = validation.sample(split, "val", 10)
    assert small.eval_users("val").tolist() == users.tolist()
    whole = split.truth("val")
    kept = whole[whole.user_id.isin(split.users[users])].reset_index(drop=True)
    pd.testing.assert_frame_equal(small.truth("val"), kept)
    assert small.others["test"] is split.others["test"] and small.train is split.train
    assert small.part("val").time is not None and len(small.part("val").time) == len(small.part("val"))


def test_the_values_are_those_of_the_lists_of_the_sampled_users(split, content):
    from ranking import topk
    values = Validation(split, "MRR@7", val_users=10, seed=5).values(content)
    preds = topk.recommend(split, "val", 50, 5, **content("val"))
    each = metrics.evaluate(preds, split.truth("val"), (7, 10))
    expected = each.loc[split.users[validation.sample(split, "val", 10)]].mean()
    assert values == expected.to_dict() and values["MRR@7"] > 0


@pytest.mark.parametrize(("epochs", "every", "evaluated"), [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (4, 9, [4])])
def test_val_is_ranked_every_so_many_epochs_and_after_the_last(split, content, epochs, every, evaluated):
    rule, state, ranked, kept = Validation(split, eval_every=every), training(epochs=epochs), [], []
    for state.epoch in range(1, epochs + 1):
        result = rule.evaluate(state, content, loss=1.0)
        ranked += [state.epoch] if result.values else []
        kept += [state.epoch] if result.better else []
    assert ranked == evaluated
    assert kept == [*range(1, every if every <= epochs else epochs), evaluated[0]]  # equal values later are no better
    assert state.stopping.best_epoch == evaluated[0] and state.stopping.waited == len(evaluated) - 1


def test_patience_and_plateau_count_evaluations(split, content):
    state, rule = training(epochs=100, patience=2), Validation(split, eval_every=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    state.stopping = EarlyStopping("NDCG@10", 100, 2, optimizer, plateau=1)
    rates = {}
    while not state.stopping.done(state.epoch):
        state.epoch += 1
        rule.evaluate(state, content)
        rates[state.epoch] = state.stopping.learning_rate()
    assert state.epoch == 9 and state.stopping.best_epoch == 3    # ranked after 3, 6 and 9, always with the same value
    assert rates[8] == 1.0 and rates[9] == pytest.approx(0.1)


def test_by_the_loss_every_epoch_counts_and_val_is_ranked_for_the_log(split, content):
    rule, state, ranked = Validation(split, "loss", eval_every=2), training("loss", epochs=5), []
    for state.epoch, loss in enumerate([3.0, 1.0, 2.0, 0.5, 4.0], 1):
        state.done = state.epoch == 5
        ranked.append(bool(rule.evaluate(state, content, loss).values))
    assert ranked == [False, True, False, True, True] and (state.stopping.best, state.stopping.best_epoch) == (0.5, 4)


@pytest.mark.parametrize("stop_on", ["loss", "NDCG@10"])
def test_without_val_the_last_epoch_is_kept(tiny, stop_on):
    (tiny / "data" / "val.pqt").unlink()
    rule, state = Validation(dataset.load(tiny), stop_on), training(stop_on, epochs=3)
    for state.epoch in (1, 2, 3):
        result = rule.evaluate(state, lambda part: {}, None)
        assert result.better and result.values == {}
    assert state.stopping.best_epoch == 3


def test_a_method_without_content_ranks_tracks_without_plays_last(split, content):
    """As its lists are written (ranking/save.py); the favourite of every user is made a track without plays."""
    split.unseen[:] = False
    best = int(np.bincount(split.part("val").item).argmax())
    users, items = torch.ones(split.n_users, 1), torch.zeros(split.n_items, 1)
    items[best] = 1
    known, unknown = (Validation(split, serves=serves) for serves in (BOTH, HOT))
    for rule in (known, unknown):
        rule.split.unseen[:] = False
        rule.split.unseen[best] = True
    first, last = (rule.values(lambda part: {"users": users, "items": items})["MRR@10"] for rule in (known, unknown))
    assert first > last


# --------------------------------------------------------------------------- hot and cold

@pytest.fixture
def two_parts(tiny):
    return dataset.load(with_cold_val(tiny))


def test_a_method_is_selected_on_the_items_that_it_serves(two_parts):
    split = replace(two_parts, others={part: two_parts.others[part] for part in ("val", "test")})
    assert [selection.parts_of(split, serves) for serves in (HOT, COLD, BOTH)] == [("val",)] * 3
    assert selection.parts_of(two_parts, HOT) == ("val",) and selection.parts_of(two_parts, COLD) == ("cold_val",)
    assert selection.parts_of(two_parts, BOTH) == ("val", "cold_val")


def test_a_method_of_both_counts_the_mean_of_the_two_by_their_references(two_parts):
    content = by_content(two_parts)
    both, hot, cold = (Validation(two_parts, "NDCG@10", serves=serves) for serves in (BOTH, HOT, COLD))
    one, other = hot.values(content)["NDCG@10"], cold.values(content)["cold_val/NDCG@10"]
    values = both.values(content)
    assert (values["NDCG@10"], values["cold_val/NDCG@10"]) == (one, other) and one != other
    assert (hot.score(hot.values(content)), cold.score(cold.values(content))) == (one, other)
    known, new = (references.reference(two_parts, part, "NDCG@10") for part in ("val", "cold_val"))
    assert both.references == {"val": known, "cold_val": new} and known.unit != new.unit
    assert both.score(values) == pytest.approx((one / known.unit + max(other, new.floor) / new.unit) / 2, rel=1e-12)
    state = training()
    state.epoch = 1
    assert both.evaluate(state, content).better and state.stopping.best == both.score(values)


def test_a_sample_of_both_parts(two_parts):
    small = validation.sampled(two_parts, 7)
    assert [len(small.eval_users(part)) for part in ("val", "cold_val", "test")] == [
        7, 7, len(two_parts.eval_users("test"))]


def test_the_reference_on_val_is_a_popularity_run(tiny, split):
    from recommenders import popularity
    popularity.main(["--workdir", str(tiny), "--seed", "0", "--k", "10"])
    ((name, _),) = runs.find_runs(tiny)
    figures = pd.read_csv(tiny / "metrics" / f"{name}_val.csv", index_col=0)
    for metric in ("NDCG@10", "Recall@5", "HitRate@10"):
        assert references.popularity(split, "val", metric) == pytest.approx(figures.loc["mean", metric], rel=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("true", [1, 2, 5])
@pytest.mark.parametrize("metric", metrics.METRICS)
def test_chance_is_the_mean_over_all_orders_of_the_candidates(metric, true, k):
    """Five candidates of which `true` are relevant, in each of their 120 orders, evaluated by metrics.py; also beyond
    the end of the catalogue. Both are sums of a few fractions: 1e-12."""
    orders = np.array(list(itertools.permutations(range(5))))
    preds = pd.DataFrame({"user_id": np.repeat(np.arange(120), 5), "track_id": orders.ravel(),
                          "rank": np.tile(np.arange(5), 120)})
    truth = pd.DataFrame({"user_id": np.repeat(np.arange(120), true), "track_id": np.tile(np.arange(true), 120)})
    name = f"{metric}@{k}"
    from scipy.sparse import csr_matrix
    one = SimpleNamespace(part=lambda _: SimpleNamespace(user=np.full(true, 1)), candidates=lambda _: slice(3, 10),
                          seen=lambda _: csr_matrix(([1, 1], ([1, 1], [0, 4])), shape=(2, 7)))   # 7 less 2 known
    expected = metrics.evaluate(preds, truth, (k,))[name].mean()
    assert references.chance(one, "cold_val", name) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_reference_is_never_zero(split):
    """Everybody's val track is the least popular, so popularity has no hit in ten; chance takes its place."""
    last = int(np.bincount(split.train.item, minlength=split.n_hot).argmin())
    val = split.part("val")
    users = np.setdiff1d(np.arange(split.n_users), split.train.user[split.train.item == last])
    pairs = type(val)(users, np.full(len(users), last), np.ones(len(users), np.float32), None)
    split.others["val"] = pairs
    assert references.popularity(split, "val", "NDCG@1") == 0 < references.reference(split, "val", "NDCG@1").unit


def test_below_the_floor_cold_val_is_silent_and_val_decides(two_parts):
    """As for a control on the wrong tracks, whose value on few cold items is noise."""
    rule = Validation(two_parts, "NDCG@10", serves=BOTH)
    floor = rule.references["cold_val"].floor
    assert rule.references["val"].floor == 0 < rule.references["cold_val"].unit < floor

    def score(hot, cold):
        return rule.score({"NDCG@10": hot, "cold_val/NDCG@10": cold})
    assert score(0.2, floor * 0.99) == score(0.2, 0.0) == score(0.2, floor) < score(0.2, floor * 1.01)
    assert score(0.1, floor * 0.99) < score(0.101, 0.0)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_the_mean_over_shared_random_orders_is_chance(metric, two_parts):
    """Whoever shares it, an order is random: the means agree, within four standard errors of the draws."""
    name = f"{metric}@2"
    means = references.shared_orders(two_parts, "cold_val", name, draws=4000)
    assert len(means) == 4000 and means.std() > 0
    assert abs(means.mean() - references.chance(two_parts, "cold_val", name)) < 4 * means.std() / 4000 ** 0.5


def test_a_shared_order_is_evaluated_like_any_list(two_parts, monkeypatch):
    """One draw against metrics.py on frames; also where the list is longer than the catalogue."""
    monkeypatch.setattr(references, "SEED", 5)
    candidates = two_parts.candidates("cold_val")
    n = candidates.stop - candidates.start
    for k in (3, n + 4):
        top = np.random.default_rng(5).choice(n, min(k, n), replace=False) + candidates.start
        truth = two_parts.truth("cold_val")
        users = truth.user_id.unique()
        preds = pd.DataFrame({"user_id": np.repeat(users, len(top)), "rank": np.tile(np.arange(len(top)), len(users)),
                              "track_id": np.tile(two_parts.tracks[top], len(users))})
        for metric in metrics.METRICS:
            (mean,) = references.shared_orders(two_parts, "cold_val", f"{metric}@{k}", draws=1)
            assert mean == pytest.approx(metrics.evaluate(preds, truth, (k,))[f"{metric}@{k}"].mean(), rel=1e-12)
