"""The training of a network on the pairs of train, each with uniform negatives, by network_loop.py.

    class Ranking(pair_loop.Training):
        def drawn(self, items, draw): ...                     # what a step draws beside the negatives
        def loss_with(self, users, items, *drawn): ...        # items: the positive first

    training = Ranking(network, split, cli.settings(network_loop.Settings, args), args.negatives)

Negatives are drawn among the items with plays in train; never a pair of train, nor one of the part
whose loss is computed. A user who has played every item has no negative, and the pairs of that user
are left out.
"""
from harness.errors import WorkError
from training import network_loop


class Examples:
    """The pairs of a part whose item has plays in train, and their negatives, as CPU tensors."""

    def __init__(self, split, part="train"):
        import numpy as np
        import torch

        from training.shallow import Pairs
        users_of = np.bincount(split.train.item, minlength=split.n_hot)
        self.played = torch.from_numpy(np.flatnonzero(users_of))       # item codes, ascending
        place = torch.full((split.n_hot,), -1)
        place[self.played] = torch.arange(len(self.played))

        def pairs_of(name):
            pairs = split.part(name)
            user, item = torch.from_numpy(pairs.user), place[torch.from_numpy(pairs.item)]
            return user[item >= 0], item[item >= 0]
        parts = [pairs_of(name) for name in dict.fromkeys(("train", part))]
        known = [torch.cat(side) for side in zip(*parts, strict=True)]
        taken = torch.unique(torch.stack(known), dim=1)[0].bincount(minlength=split.n_users)
        user, item = parts[-1]
        left = taken[user] < len(self.played)
        self.pairs = Pairs(user[left], item[left], None, len(self.played), known=known)

    def __len__(self):
        return len(self.pairs)

    def draw(self, rows, negatives, draw):
        """Users (b,) and items (b, 1 + negatives), the positive first: int64 codes of the split.

        rows: int64 (b,), of 0..len - 1; draw: CPU generator
        """
        import torch
        users = self.pairs.anchors[rows]
        others = self.pairs.negatives(users, negatives, draw)
        return users, self.played[torch.cat([self.pairs.positives[rows, None], others], 1)]


class Training(network_loop.Training):
    """A training whose examples are the pairs of train; negatives: how many each has."""

    def __init__(self, network, split, settings, negatives):
        self.pairs, self.negatives = Examples(split), negatives
        if not len(self.pairs):
            raise WorkError(f"{split.workdir / 'data'}: every user of train has played every item "
                            "of train, so no pair has a negative; split again with more tracks")
        super().__init__(network, len(self.pairs), settings)

    def drawn(self, items, draw):
        """What else is drawn for the items (b, 1 + negatives) of a batch: tensors (b, ...).

        draw: CPU generator of this step
        """
        return ()

    def loss_with(self, users, items, *drawn):
        """Mean loss of a batch, a scalar with a gradient.

        users (b,), items (b, 1 + negatives): codes on the device, the positive first; drawn: see
        `drawn`
        """
        raise NotImplementedError

    def loss_of(self, users, items, draw):
        """As `loss_with`, with what `drawn` gives."""
        return self.loss_with(users, items, *self.drawn(items, draw))

    def batch(self, rows, draw):
        users, items = self.pairs.draw(rows.cpu(), self.negatives, draw)
        users, items = users.to(self.device), items.to(self.device)
        return users, items, *self.drawn(items, draw)

    def validation_loss(self, split):
        """The loss on val with the same draws every time; None where no pair has a negative."""
        import torch

        from training.sequences import generator_of
        val, total, draw = Examples(split, "val"), 0.0, generator_of(self.settings.seed, 4)
        if not len(val):
            return None
        self.network.eval()
        with torch.no_grad():
            for rows in torch.arange(len(val)).split(self.settings.batch_size):
                users, items = val.draw(rows, self.negatives, draw)
                loss = self.loss_of(users.to(self.device), items.to(self.device), draw)
                total += loss.item() * len(rows)
        return total / len(val)
