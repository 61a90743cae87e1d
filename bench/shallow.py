"""Shallow Net training: train.py's step against the straightforward one. python -m bench.shallow [--quick]

Both take the same steps of Adam on the same model: 21,018 users, 55,851 items, batches of 10,000 pairs with
20 negatives each, hinge, items frozen and users trained, float32, all cores, batches and negatives made anew
for every step. Unit: interactions (pairs) per second.

The baseline is the textbook implementation: a Dataset that answers one pair at a time from a data frame, a
DataLoader that collates them, the anchor and the positive repeated once per negative, both sides of every
pair looked up and projected, torch's own cosine, autograd, Adam with its defaults. Ours is `shallow.step`
on `shallow.Pairs`. Before anything is timed both take one step from the same start on the same pairs and
negatives: the losses agree to 1e-5, the users move alike.
"""
import time

import numpy as np

from harness import cli
from harness.errors import WorkError

USERS, ITEMS, BATCH, NEGATIVES = 21018, 55851, 10000, 20


def world(dim, n_pairs, seed=0):
    """Random content (I, D), users (U, D) and pairs as int64 (n_pairs,) users and items."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(ITEMS, dim)).astype(np.float32)
    users = rng.normal(size=(USERS, dim)).astype(np.float32)
    return users, items, rng.integers(USERS, size=n_pairs), rng.integers(ITEMS, size=n_pairs)


class Plain:
    """The baseline: per-sample data, repeated anchors, every pair projected."""

    def __init__(self, users, items, pair_users, pair_items, sample_type):
        import pandas as pd
        import torch
        from torch import nn
        torch.manual_seed(0)
        self.sample_type = sample_type
        self.users = nn.Embedding.from_pretrained(torch.from_numpy(users.copy()), freeze=False)
        self.items = nn.Embedding.from_pretrained(torch.from_numpy(items), freeze=True)
        self.net = nn.Sequential(nn.Linear(users.shape[1], users.shape[1]), nn.ReLU())
        self.cosine = nn.CosineSimilarity()
        self.optimizer = torch.optim.Adam([*self.users.parameters(), *self.net.parameters()])
        data = self.Samples(pd.DataFrame({"user": pair_users, "item": pair_items}))
        self.loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
        self.draw = np.random.default_rng(0)
        self.n_others = USERS if sample_type == "item" else ITEMS

    class Samples:
        def __init__(self, frame):
            self.frame = frame

        def __len__(self):
            return len(self.frame)

        def __getitem__(self, row):
            pair = self.frame.iloc[row]
            return pair["user"], pair["item"]

    def score(self, users, items):
        return self.cosine(self.net(self.users(users)), self.net(self.items(items)))

    def step(self, users, items, negatives):
        """One step on pairs (B,) with negatives (B, N); returns the loss before it."""
        users, items = users.repeat_interleave(NEGATIVES), items.repeat_interleave(NEGATIVES)
        positive = self.score(users, items)
        negative = (self.score(negatives.flatten(), items) if self.sample_type == "item"
                    else self.score(users, negatives.flatten()))
        loss = (0.2 - positive + negative).clamp(min=0).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self):
        import torch
        for users, items in self.loader:
            negatives = torch.from_numpy(self.draw.integers(self.n_others, size=(len(users), NEGATIVES)))
            self.step(users, items, negatives)


class Ours:
    """shallow.step on shallow.Pairs, as train.py runs them."""

    def __init__(self, users, items, pair_users, pair_items, sample_type):
        import torch

        import model
        from training import shallow
        net = model.ShallowEmbeddingModel(torch.from_numpy(items), torch.from_numpy(users), generator=torch.Generator())
        net.freeze_item_embs(True)
        self.training = shallow.Training(net, shallow.Settings("random", sample_type, seed=0), "cpu")
        roles = torch.from_numpy(pair_users), torch.from_numpy(pair_items)
        self.pairs = shallow.Pairs(*(roles[::-1] if sample_type == "item" else roles), None,
                                   USERS if sample_type == "item" else ITEMS)

    def epoch(self):
        from training import shallow
        for batch in self.pairs.batches(BATCH, NEGATIVES, self.training.draw):
            shallow.step(self.training, batch)


def check(plain, ours, sample_type):
    """One step of both on the same pairs and negatives, from the same start; WorkError when they disagree."""
    import torch

    from training import shallow
    net = ours.training.model
    with torch.no_grad():
        plain.net[0].weight.copy_(net.weight)
        plain.net[0].bias.copy_(net.bias)
    anchors, candidates, weight = next(ours.pairs.batches(1000, NEGATIVES, ours.training.draw))
    roles = (candidates[:, 0], anchors) if sample_type == "item" else (anchors, candidates[:, 0])
    expected = plain.step(*roles, candidates[:, 1:])
    loss = shallow.step(ours.training, (anchors, candidates, weight)).item()
    moved = (plain.users.weight - net.user_embeddings).abs().mean().item()
    if abs(loss - expected) > 1e-5 or moved > 1e-5 or not (plain.net[0].weight - net.weight).abs().max() < 3e-3:
        raise WorkError(f"the two disagree: loss {loss} and {expected}, users apart by {moved}")


def compare(dim, sample_type, repeats, ours_batches):
    users, items, pair_users, pair_items = world(dim, BATCH * ours_batches)
    plain = Plain(users, items, pair_users[:BATCH], pair_items[:BATCH], sample_type)
    ours = Ours(users, items, pair_users, pair_items, sample_type)
    check(plain, ours, sample_type)
    rates = {plain: [], ours: []}
    ours.epoch()
    for _ in range(repeats):
        for road, pairs in ((plain, BATCH), (ours, len(pair_users))):
            start = time.perf_counter()
            road.epoch()
            rates[road].append(pairs / (time.perf_counter() - start))
    a, b = (float(np.median(rates[road])) for road in (ours, plain))
    return {"what": f"sampled by {sample_type}, D={dim}", "ours": a, "baseline": b, "unit": "interactions/s",
            "ratio": a / b, "note": f"median of {repeats} alternating repeats"}


def run(quick):
    if quick:
        return [compare(200, "item", 3, 5)]
    return [compare(200, "item", 5, 10), compare(200, "user", 5, 10), compare(768, "item", 3, 3)]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("shallow", argv))
