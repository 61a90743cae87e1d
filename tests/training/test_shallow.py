"""Shallow Net, its parts: golden values, the step against plain autograd, freezing, negatives, losses, stopping."""
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dataset
import model
import train
from harness import cli
from training import fused_cosine, shallow


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny matrices: a second thread only waits for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(argv):
    """The settings of a command line of train.py."""
    return cli.settings(shallow.Settings, train.parse(argv))


def net_of(items, users, hidden=0, seed=0):
    return model.ShallowEmbeddingModel(torch.as_tensor(items), torch.as_tensor(users), hidden,
                                       torch.Generator().manual_seed(seed))


def random_net(n_users=7, n_items=9, dim=5, hidden=6, seed=0):
    rng = np.random.default_rng(seed)
    return net_of(*(rng.normal(size=(n, dim)).astype(np.float32) for n in (n_items, n_users)), hidden, seed)


def by_definition(net, anchor, anchors, candidates):
    """Scores (B, C) of the same pairs by `forward`, the plain form."""
    pairs = (anchors[:, None], candidates) if anchor == "user" else (candidates, anchors[:, None])
    return net(*pairs)


# --------------------------------------------------------------------------- mathematics

@pytest.mark.numeric
def test_equals_the_published_scores_and_losses(shared):
    golden = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(shared / "golden" / "shallow.npz").items()}
    net = net_of(golden["item_embeddings"], golden["user_embeddings"], 16)
    with torch.no_grad():
        net.weight.copy_(golden["linear_weight"])
        net.bias.copy_(golden["linear_bias"])
    users, items, close = golden["users"], golden["items"], {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(net(users, items), golden["positive_scores"], **close)
    torch.testing.assert_close(net(golden["negative_users"], items[:, None]), golden["negative_scores"], **close)
    scores = net.scores("item", items, torch.cat([users[:, None], golden["negative_users"]], 1))
    torch.testing.assert_close(scores[:, 0], golden["positive_scores"], **close)
    torch.testing.assert_close(scores[:, 1:], golden["negative_scores"], **close)
    weight = model.confidence(golden["counts"].float())
    assert abs(model.hinge(scores) - golden["hinge_loss"]) < 1e-5
    assert abs(model.hinge(scores, weight) - golden["hinge_loss_confidence"]) < 1e-5
    for ours, theirs in zip(net.extract_embeddings(), ("extracted_users", "extracted_items"), strict=True):
        torch.testing.assert_close(ours, golden[theirs], **close)


@pytest.mark.numeric
def test_the_forward_pass_is_the_cosine_of_the_projected_pairs():
    """Every pair looked up, projected and compared by torch's own parts; scores and gradients."""
    net = random_net().double()
    users, items = torch.tensor([[3], [6], [3], [0]]), torch.tensor([[1, 1, 4], [0, 6, 2], [4, 5, 1], [1, 0, 0]])
    a, b = (torch.relu(F.linear(table[codes], net.weight, net.bias))
            for table, codes in ((net.user_embeddings, users), (net.item_embeddings, items)))
    expected = F.cosine_similarity(a, b, dim=2)
    torch.testing.assert_close(net(users, items), expected)
    mix = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)
    for ours, theirs in zip(*(torch.autograd.grad((scores * mix).sum(), list(net.parameters()))
                              for scores in (net(users, items), expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.numeric
@pytest.mark.parametrize("sparse_kernel", [True, False])
@pytest.mark.parametrize("whole_table", [0.0, 0.5, 2.0])
def test_the_fused_scores_and_gradients_are_those_of_the_forward_pass(monkeypatch, whole_table, sparse_kernel):
    monkeypatch.setattr(fused_cosine, "WHOLE_TABLE", whole_table)
    if not sparse_kernel:
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
        monkeypatch.setitem(fused_cosine.BLOCK_BYTES, "cpu", 100)
    for anchor in ("item", "user"):
        net = random_net().double()
        anchors, candidates = torch.tensor([3, 6, 3, 0]), torch.tensor([[1, 1, 4], [0, 6, 2], [4, 5, 1], [1, 0, 0]])
        ours, plain = net.scores(anchor, anchors, candidates), by_definition(net, anchor, anchors, candidates)
        torch.testing.assert_close(ours, plain)
        mix = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)
        for a, b in zip(torch.autograd.grad((ours * mix).sum(), list(net.parameters())),
                        torch.autograd.grad((plain * mix).sum(), list(net.parameters())), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("pairs", "items"), [(1, 300), (2, 5), (1, 1)])
def test_more_candidates_than_items_and_one_pair_with_a_negative_twice(pairs, items):
    """As in the last batch of an epoch, which may have one pair, and in a catalogue of a few tracks."""
    draw = torch.Generator().manual_seed(3)
    net = model.ShallowEmbeddingModel(torch.randn(items, 6, generator=draw), torch.randn(4, 6, generator=draw))
    users, codes = torch.arange(pairs), torch.randint(items, (pairs, 40), generator=draw)
    codes[:, 1] = codes[:, 0]
    torch.testing.assert_close(net.scores("user", users, codes), net.forward(users[:, None], codes))


def test_each_distinct_row_is_projected_once(monkeypatch):
    projected, project = [], fused_cosine._project

    def counted(rows, *rest, **out):
        projected.append(len(rows))
        return project(rows, *rest, **out)
    monkeypatch.setattr(fused_cosine, "_project", counted)
    net = random_net(n_users=100, n_items=100)
    net.scores("item", torch.tensor([5, 5, 5, 8]), torch.tensor([[1, 2], [2, 1], [1, 1], [3, 2]]))
    assert projected == [2, 3]  # items 5 and 8, users 1, 2 and 3


@pytest.mark.parametrize("scores_of", [by_definition, model.ShallowEmbeddingModel.scores])
def test_a_vector_emptied_by_the_relu_scores_zero_and_keeps_gradients_finite(scores_of):
    net = random_net()
    with torch.no_grad():
        net.item_embeddings[2] = 0
        net.user_embeddings.abs_()
        net.weight.abs_()
        net.bias.fill_(-1e-3)  # item 2 projects to nothing, users to something
    scores = scores_of(net, "user", torch.tensor([0, 1]), torch.tensor([[2, 3], [2, 2]]))
    assert scores[0, 0] == 0 and (scores[1] == 0).all()
    scores.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert (net.extract_embeddings()[1][2] == 0).all()


@pytest.mark.numeric
def test_losses_are_their_formulas():
    scores = torch.tensor([[0.5, 0.1, 0.6], [0.9, 0.2, 0.8]])
    weight = model.confidence(torch.tensor([0.0, 3.0]))
    w = [1, 1 + 2 * math.log(4)]
    terms = [[0.0, 0.2 - 0.5 + 0.6], [0.0, 0.2 - 0.9 + 0.8]]
    assert model.hinge(scores).item() == pytest.approx(sum(map(sum, terms)) / 4)
    assert model.hinge(scores, weight).item() == pytest.approx((w[0] * sum(terms[0]) + w[1] * sum(terms[1])) / 4)
    assert model.hinge(scores, margin=0.5).item() == pytest.approx((0.1 + 0.6 + 0 + 0.4) / 4)
    logs = [[math.log(1 + math.exp((n - p) / 0.1)) for n in ns] for p, *ns in scores.tolist()]
    assert model.bpr(scores).item() == pytest.approx(sum(map(sum, logs)) / 4)
    assert model.bpr(scores, weight).item() == pytest.approx((w[0] * sum(logs[0]) + w[1] * sum(logs[1])) / 4)
    logs = [-math.log(math.exp(r[0] / 0.2) / sum(math.exp(x / 0.2) for x in r)) for r in scores.tolist()]
    assert model.infonce(scores, temperature=0.2).item() == pytest.approx(sum(logs) / 2)
    assert model.infonce(scores, weight, 0.2).item() == pytest.approx((w[0] * logs[0] + w[1] * logs[1]) / 2)


@pytest.mark.numeric
def test_penalty_is_the_sum_of_squares_of_what_trains():
    net = net_of(np.full((2, 2), 3, np.float32), np.full((3, 2), 2, np.float32))
    with torch.no_grad():
        net.weight.fill_(1)
        net.bias.fill_(5)
    net.freeze_item_embs(True)
    assert net.penalty().item() == 3 * 2 * 4 + 4 * 1 + 2 * 25
    assert net.penalty(everything=True).item() == 2 * 2 * 9 + 3 * 2 * 4 + 4 * 1 + 2 * 25


@pytest.mark.numeric
@pytest.mark.parametrize("sample_type", ["item", "user"])
def test_steps_are_plain_adam_on_the_plain_loss(sample_type):
    args = settings(["content", sample_type, "--l2", "0.01", "--lr", "0.01", "--use-confidence", "1"])
    ours, plain = random_net(30, 40), random_net(30, 40)
    training, adam = shallow.Training(ours, args, "cpu"), torch.optim.Adam(plain.parameters(), lr=0.01)
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        n = (40, 30) if sample_type == "item" else (30, 40)
        batch = (torch.randint(n[0], (50,), generator=draw), torch.randint(n[1], (50, 21), generator=draw),
                 torch.rand(50, generator=draw) + 1)
        scores = by_definition(plain, sample_type, *batch[:2])
        loss = ((0.2 - scores[:, :1] + scores[:, 1:]).clamp(min=0) * batch[2][:, None]).mean()
        loss = loss + 0.01 * sum((p ** 2).sum() for p in plain.parameters())
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert shallow.step(training, batch).item() == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# --------------------------------------------------------------------------- what is frozen, where things start

def moved(tiny, *flags):
    """Names of the tables that two epochs move."""
    args = settings(["content", "--lr", "0.01", *flags])
    split = dataset.load(tiny)
    net, _ = shallow.build(split, args, "cpu")
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    training = shallow.Training(net, args, "cpu")
    for _ in range(2):
        for batch in shallow.pairs_of("train", split, args, "cpu").batches(100, 5, training.draw):
            shallow.step(training, batch)
    return {n for n, p in net.named_parameters() if not torch.equal(p, before[n])} - {"weight", "bias"}


@pytest.mark.parametrize("item_freeze", ["0", "1"])
@pytest.mark.parametrize("user_freeze", ["0", "1"])
def test_one_freezes_zero_trains_and_as_published_the_reverse(tiny, item_freeze, user_freeze):
    flags = ["--item-freeze", item_freeze, "--user-freeze", user_freeze]
    trained = {t for t, f in (("item_embeddings", item_freeze), ("user_embeddings", user_freeze)) if f == "0"}
    assert moved(tiny, *flags) == trained
    assert moved(tiny, *flags, "--as-published") == {"item_embeddings", "user_embeddings"} - trained


def test_random_items_always_train_and_dynamic_ones_wait(tiny):
    assert moved(tiny, "--item-freeze", "0", "--dynamic-item-freeze", "1") == {"user_embeddings"}
    args = settings(["random", "--hidden-dim", "6"])
    net, cold = shallow.build(dataset.load(tiny), args, "cpu")
    assert net.item_embeddings.requires_grad and net.item_embeddings.shape[1] == 6 and cold is None
    assert shallow.build(dataset.load(tiny), settings(["random"]), "cpu")[0].weight.shape == (64, 64)


def test_users_start_at_the_mean_of_their_history_or_at_random(tiny):
    split = dataset.load(tiny)
    vectors = dataset.load_embedding(split, "content")
    means = np.stack([vectors[split.train.item[split.train.user == u]].mean(0) for u in range(split.n_users)])
    net, cold = shallow.build(split, settings(["content"]), "cpu")
    assert np.allclose(net.user_embeddings.detach(), means, atol=1e-5)
    assert np.array_equal(torch.cat([net.item_embeddings.detach(), cold]), vectors)
    net, _ = shallow.build(split, settings(["content", "--user-init", "0"]), "cpu")
    assert abs(net.user_embeddings.mean()) < 0.2 and abs(net.user_embeddings.std() - 1) < 0.2


def test_shuffle_permutes_rows(tiny):
    split = dataset.load(tiny)
    plain, shuffled = (shallow.build(split, settings(["content", *flags]), "cpu") for flags in ([], ["--shuffle"]))
    plain, shuffled = (torch.cat([net.item_embeddings.detach(), cold]) for net, cold in (plain, shuffled))
    assert not torch.equal(plain, shuffled)
    assert sorted(map(tuple, plain.tolist())) == sorted(map(tuple, shuffled.tolist()))


# --------------------------------------------------------------------------- pairs and negatives

def test_negatives_are_uniform_over_all_codes_and_as_published_over_the_first_17052():
    anchors = torch.zeros(200_000, dtype=torch.int64)
    draw = torch.Generator().manual_seed(0)
    found = shallow.Pairs(anchors, anchors, None, 21_018).negatives(anchors, 5, draw).flatten()
    counts = torch.bincount(found, minlength=21_018).double()
    assert len(counts) == 21_018 and counts.min() > 0
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum().item()
    assert abs(chi_square - 21_017) < 5 * math.sqrt(2 * 21_017)
    assert shallow.Pairs(anchors, anchors, None, 21_018, 17_052).negatives(anchors, 5, draw).max() == 17_051


def test_a_split_of_21018_users_draws_from_all_of_them(tmp_path):
    users = np.arange(21_018)
    pairs = dataset.Interactions(users, users % 7, np.ones(21_018, np.float32), None)
    split = dataset.Split(tmp_path, users, np.arange(7), 7, pairs, {}, 7, "", "none")
    for flags, drawn in (([], 21_018), (["--as-published"], 17_052), (["--sample-type", "user"], 7)):
        assert shallow.pairs_of("train", split, settings(["content", *flags]), "cpu").drawn == drawn


def test_an_epoch_meets_every_pair_once_with_its_weight_and_the_roles_of_sample_type(tiny):
    split = dataset.load(tiny)
    expected = {(u, i): 1 + 2 * math.log(1 + c) for u, i, c in
                zip(split.train.user.tolist(), split.train.item.tolist(), split.train.count.tolist(), strict=True)}
    for sample_type in ("item", "user"):
        args = settings(["content", sample_type, "--use-confidence", "1"])
        pairs = shallow.pairs_of("train", split, args, "cpu")
        assert pairs.n_others == (split.n_users if sample_type == "item" else split.n_hot)
        met = {}
        for anchors, candidates, weight in pairs.batches(100, 3, torch.Generator().manual_seed(0)):
            assert candidates.shape == (len(anchors), 4)
            for a, c, w in zip(anchors.tolist(), candidates[:, 0].tolist(), weight.tolist(), strict=True):
                met[(c, a) if sample_type == "item" else (a, c)] = w
        assert met.keys() == expected.keys() and all(met[k] == pytest.approx(expected[k]) for k in met)


def test_known_positives_are_drawn_unless_excluded(tiny):
    split = dataset.load(tiny)
    for sample_type in ("item", "user"):
        for flags, part, excluded in (([], "train", ()), (["--exclude-positives"], "train", ("train",)),
                                      (["--exclude-positives"], "val", ("train", "val"))):
            args = settings(["content", sample_type, *flags])
            pairs = shallow.pairs_of(part, split, args, "cpu")
            hits = dict.fromkeys(("train", "val"), 0)
            for anchors, candidates, _ in pairs.batches(500, 50, torch.Generator().manual_seed(0)):
                drawn = anchors.repeat_interleave(50).tolist(), candidates[:, 1:].flatten().tolist()
                drawn = set(zip(*drawn, strict=True))
                for name in hits:
                    known = split.part(name)
                    roles = (known.item, known.user) if sample_type == "item" else (known.user, known.item)
                    hits[name] += len(drawn & set(zip(*(r.tolist() for r in roles), strict=True)))
            assert all((hits[name] == 0) == (name in excluded) for name in hits)


# --------------------------------------------------------------------------- the plateau, the penalty, the scale

@pytest.mark.parametrize("rule", ["loss", "NDCG@10"])
def test_the_first_plateau_releases_the_items_and_the_second_lowers_the_learning_rate(rule):
    flags = ["content", "--dynamic-item-freeze", "1", "--stop-on", rule]
    training = shallow.Training(random_net(), settings(flags), "cpu")
    training.model.freeze_item_embs(True)
    frozen = []
    for epoch in range(1, 14):
        training.stopping.update(epoch, {rule: 0.5})
        frozen.append((not training.model.item_embeddings.requires_grad, training.stopping.learning_rate()))
    assert frozen == [(True, 0.001)] * 6 + [(False, 0.001)] * 6 + [(False, pytest.approx(0.0001))]


def test_the_penalty_is_trained_on_and_enters_the_validation_loss_only_as_published(tiny):
    split, flags = dataset.load(tiny), ["content", "--l2", "0.5", "--user-freeze", "1"]
    args = settings(flags)
    net, _ = shallow.build(split, args, "cpu")
    batch = next(shallow.pairs_of("train", split, args, "cpu").batches(50, 5, torch.Generator().manual_seed(0)))
    data = model.hinge(net.scores("item", *batch[:2]))
    squares = (net.weight ** 2).sum() + (net.bias ** 2).sum()
    assert shallow.loss_of(net, batch, args).item() == pytest.approx((data + 0.5 * squares).item(), rel=1e-5)
    val = shallow.pairs_of("val", split, args, "cpu")
    everything = sum((p ** 2).sum() for p in net.parameters()).item()
    plain = shallow.validation_loss(net, val, args)
    assert plain == shallow.validation_loss(net, val, args) < 1
    published = shallow.validation_loss(net, val, settings([*flags, "--as-published"]))
    assert published == pytest.approx(plain + 0.5 * everything, rel=1e-5)


def test_scaling_makes_the_units_of_an_embedding_irrelevant(tiny):
    split = dataset.load(tiny)
    matrix = np.load(tiny / "embeddings" / "content.npy")
    np.save(tiny / "embeddings" / "loud.npy", 100 * matrix + 7)
    shutil.copy(tiny / "embeddings" / "content.json", tiny / "embeddings" / "loud.json")
    plain, loud, published = (shallow.build(split, settings(argv), "cpu")[0].item_embeddings.detach() for argv in (
        ["content", "--scale", "unit"], ["loud", "--scale", "unit"], ["content"]))
    assert torch.allclose(plain, loud, atol=1e-5) and plain.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(published, torch.from_numpy(dataset.load_embedding(split, "content")[:split.n_hot]))
    with pytest.raises(SystemExit):
        train.parse(["random", "--scale", "unit"])
