"""The users' histories as padded batches, and their encoding by a sequence model.

Letters: U users, B sequences of a batch, L positions. Item codes are those of a split; the codes of padding and of
other tokens of a model follow them.
"""
import copy

import numpy as np
import torch

from harness import processes
from training import histories


class Sequences:
    """The users' histories as tensors, cut into padded batches.

    indptr (U + 1,), items (N,): user u owns items[indptr[u]:indptr[u + 1]], oldest first
    length: largest number of positions, L; of a longer history only the latest items are read
    pad_id: the code of the padding
    """

    def __init__(self, indptr, items, length, pad_id, device="cpu"):
        self.indptr = np.asarray(indptr)
        self.items = torch.as_tensor(np.asarray(items), device=device)
        self.length, self.pad_id, self.device = length, pad_id, self.items.device
        self.lengths = np.diff(self.indptr)

    def of(self, indptr, items):
        """The same with other histories."""
        other = copy.copy(self)
        other.indptr, other.lengths = np.asarray(indptr), np.diff(indptr)
        other.items = torch.as_tensor(np.asarray(items), device=self.device)
        return other

    def pad(self, users, room=0):
        """Codes (B, L') of the users' latest length - room items, left-aligned, and where they are, (B, L') bool.

        L' is the longest of the batch; room positions at its end are left to the padding.
        """
        size = np.minimum(self.lengths[users], self.length - room)
        start = torch.as_tensor(self.indptr[users + 1] - size, device=self.device)
        place = torch.arange(int(size.max()) + room, device=self.device)
        inside = place < torch.as_tensor(size, device=self.device)[:, None]
        ids = self.items[(start[:, None] + place).clamp(max=len(self.items) - 1)]
        return torch.where(inside, ids, self.pad_id), inside

    def epoch(self, batch_size, generator):
        """Every user once, as arrays of at most batch_size users of like length, in random order.

        Lengths are jittered by up to 15 % before the sort, so that batch composition varies between epochs.
        """
        jitter = torch.rand(len(self.lengths), generator=generator).numpy()
        order = np.argsort(np.minimum(self.lengths, self.length) * (1 + 0.15 * jitter), kind="stable")
        cuts = np.arange(batch_size, len(order), batch_size)
        batches = np.split(order, cuts)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def by_tokens(self, users, tokens=1 << 14):
        """Places 0..len(users)-1 in batches of about so many positions, shortest histories first."""
        size = np.minimum(self.lengths[users], self.length)
        places = np.argsort(size, kind="stable")
        if not len(places):
            return []
        return np.split(places, np.flatnonzero(np.diff(np.cumsum(size[places]) // tokens)) + 1)


def generator_of(*numbers):
    """CPU generator seeded by whole numbers >= 0: equal numbers, equal draws."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------- users as vectors

class UserEncoder:
    """User vectors of a model, from the latest items of train, and its validation.

    The model has an item table `items` (V, D), vectors(*sequences.prediction_batch(users)) whose dot product with it is
    the score, and log_normaliser(vectors) of the softmax over it. cold: (n_cold, D) vectors of the cold items, or None
    """

    def __init__(self, model, sequences, split, cold=None):
        self.model, self.sequences, self.split, self.cold = model, sequences, split, cold
        if "val" in split.parts:
            val = split.part("val")
            self.codes, rows = np.unique(val.user, return_inverse=True)
            self.rows, self.wanted = (torch.as_tensor(x, device=sequences.device) for x in (rows, val.item))

    def at(self, part, order):
        """The encoder of the users' histories at `part`; order: of the items, see training/histories.py."""
        if self.split.history_parts(part) == ("train",):
            return self
        other = copy.copy(self)
        other.sequences = self.sequences.of(*histories.of(self.split, order, part, self.sequences.length))
        return other

    def items(self):
        """The item table (n_items, D), cold items last; (n_hot, D) without vectors of the cold items."""
        hot = self.model.items.detach()
        return hot if self.cold is None else torch.cat([hot, self.cold])

    def users(self, codes):
        """Output vectors (n, D), float32, of user codes (n,)."""
        self.model.eval()
        codes = np.asarray(codes)
        out = torch.empty(len(codes), self.model.items.shape[1], device=self.sequences.device)
        with torch.inference_mode():
            for places in self.sequences.by_tokens(codes):
                out[torch.as_tensor(places)] = self.model.vectors(*self.sequences.prediction_batch(codes[places]))
        return out

    def loss(self, vectors=None):
        """Mean cross-entropy, over the catalogue, of the val pairs; vectors: of `users(codes)`, if known."""
        vectors = self.users(self.codes) if vectors is None else vectors
        own = processes.rows(len(vectors))                       # users of this process, whose pairs it sums
        mine = (self.rows >= own.start) & (self.rows < own.stop)
        with torch.inference_mode():
            total = self.summed_loss(vectors[own], self.rows[mine] - own.start, self.wanted[mine])
        return sum(processes.of_all(total)) / len(self.rows)

    def summed_loss(self, vectors, rows, wanted):
        """Sum of the cross-entropies of items wanted (M,) for users rows (M,) of vectors (n, D), a float."""
        if not len(rows):
            return 0.0
        total = self.model.log_normaliser(vectors)[rows].double().sum()
        for places, items in zip(rows.split(1 << 13), wanted.split(1 << 13), strict=True):
            total -= (vectors[places] * self.model.items[items]).sum().double()
        return total.item()

    def ranker(self, vectors):
        """What topk.recommend takes: users by their code, the item table, the device.

        vectors: those of `users(codes)`, the users of val, who are not encoded again (None without val); others are
        """
        def users(codes):
            if vectors is None:
                return self.users(codes)
            place = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
            known = np.array_equal(self.codes[place], codes)
            return vectors[torch.as_tensor(place, device=vectors.device)] if known else self.users(codes)
        return {"users": users, "items": self.items(), "device": self.sequences.device}
