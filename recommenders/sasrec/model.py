"""SASRec: a causal transformer between an item table and itself, and the losses of big catalogues.

    python -m recommenders.sasrec musicnn --loss gbce

Sources: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018 (arXiv 1808.09781): what comes next
is predicted at every position from what came before; Petrov and Macdonald, "gSASRec", RecSys 2023 (arXiv 2308.07192):
the loss gBCE; Khrylchenko et al., RecSys 2025 (arXiv 2507.09331): in a sampled softmax the positive is always in the
sum and so keeps its weight, only the sampled items stand for others.

Letters: B sequences of a batch, L positions, M positions of a batch that have a next item, V hot items, N sampled
items, D dimensions of the item table, H width of the transformer. Item codes are 0..V-1; V is the pad.
"""
import torch
import torch.nn.functional as F
from torch import nn

from training import sequences
from training.softmax import blocked_logsumexp, cross_entropy

NEVER = -1e30  # score of a sampled item that is the target: finite, so that a row of nothing else has no NaN gradient


# --------------------------------------------------------------------------- losses of sampled items

def sampled_scores(vectors, items, targets, negatives):
    """Scores of the targets (M,) and of the N sampled items (M, N), NEVER where one of those is the target.

    vectors (M, D), items (V, D), targets (M,), negatives (N,): different codes, shared by all rows
    """
    own = (vectors * F.embedding(targets, items)).sum(1)
    others = vectors @ F.embedding(negatives, items).T
    return own, others.masked_fill(negatives == targets[:, None], NEVER)


def sampled_softmax(own, others, v):
    """Cross-entropy (M,) where N sampled items stand for the V - 1 others; with all V of them it is exact.

    own (M,), others (M, N) of sampled_scores. The sum over the others is estimated without bias: that of the n_m
    sampled ones (N, or N - 1 where the target was drawn) times (V - 1) / n_m.
    """
    drawn = (others > NEVER).sum(1, dtype=own.dtype)
    weight = torch.log(max(v - 1, 1) / drawn.clamp(min=1))
    return torch.logaddexp(own, others.logsumexp(1) + weight) - own


def gbce(own, others, v, t):
    """Generalised binary cross-entropy (M,): -(beta log s(own) + sum log(1 - s(others))) / (n_m + 1), s the sigmoid.

    own (M,), others (M, N) of sampled_scores; t from 0 (BCE) to 1 (calibrated): with n_m sampled items of a row and
    alpha = n_m / (V - 1) the paper's beta, alpha (t (1 - 1 / alpha) + 1 / alpha), is 1 - t (1 - alpha).
    """
    drawn = (others > NEVER).sum(1, dtype=own.dtype)
    beta = 1 - t * (1 - drawn / max(v - 1, 1))
    return (F.softplus(others).sum(1) - beta * F.logsigmoid(own)) / (drawn + 1)


# --------------------------------------------------------------------------- the model

class Block(nn.Module):
    """One layer as in the published code: queries n = norm x, keys and values x; y = n + dropout(attention), then
    f = norm y, f + dropout(feed-forward f).

    The paper (section III.C) adds to x and y and not to their norms, and learns a little less well so.
    No dropout on the attention weights, which are never held: fused kernels work with causal masks, not with dropout.
    """

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values, self.merge = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        """(B, L, H) -> (B, L, H); a position sees itself and what stands before it."""
        def drop(y):
            return F.dropout(y, self.dropout, self.training)

        def heads(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)                                 # (B, h, L, .)
        queried = self.attention_norm(x)
        key, value = self.keys_values(x).chunk(2, dim=-1)
        context = F.scaled_dot_product_attention(heads(self.queries(queried)), heads(key), heads(value), is_causal=True)
        x = self.forward_norm(queried + drop(self.merge(context.transpose(1, 2).flatten(2))))
        return x + drop(self.down(drop(F.relu(self.up(x)))))


class SASRec(nn.Module):
    """The transformer between an item table and itself.

    items:  float32 (V, D), kept as the table (not copied while frozen)
    length: L at most; width: H, another than D adds a projection in and one out
    frozen: the item rows do not train and cost no gradient
    bf16:   matrix products in bf16, parameters and sums in float32
    Padding stands behind a sequence, where nothing looks (a position sees only what stands before it); its vector
    is zero. Positions count from the end, so the position of the prediction is trained by every sequence. Item rows
    are multiplied by sqrt(D) on their way in, as published: rows of length 1 then weigh as much as what a layer adds.
    """

    def __init__(self, items, length, width, layers=2, heads=4, dropout=0.2, frozen=False, loss="ce", t=0.75,
                 bf16=False):
        super().__init__()
        dim = items.shape[1]
        self.items = nn.Parameter(items, requires_grad=False)
        self.freeze_item_embs(frozen)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.into = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout, self.objective, self.t = dropout, loss, t
        self.dtype = torch.bfloat16 if bf16 else None
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name != "items":
                nn.init.xavier_normal_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def pad_id(self):
        return len(self.items)

    def freeze_item_embs(self, flag):
        """True freezes the item rows, False trains them."""
        if not flag:  # the caller's array must not train along
            self.items.data = self.items.data.clone()
        self.items.requires_grad_(not flag)

    def hidden(self, ids, inside):
        """Output vectors (B, L, D), float32, of codes (B, L), inside (B, L) bool False at the padding behind."""
        place = (inside.sum(1, keepdim=True) - 1 - torch.arange(ids.shape[1], device=ids.device)).clamp(min=0)
        with torch.autocast(self.items.device.type, torch.bfloat16, enabled=self.dtype is not None):
            x = F.embedding(ids.clamp(max=len(self.items) - 1), self.items) * self.items.shape[1] ** 0.5
            x = (self.into(x) + F.embedding(place, self.positions)) * inside[..., None]
            x = F.dropout(x, self.dropout, self.training)
            for block in self.blocks:
                x = block(x)
            return self.out(self.norm(x)).to(self.items.dtype)

    def vectors(self, ids, inside, wanted):
        """Output vectors (M, D), float32, at the wanted positions (B, L) bool of codes (B, L), in order."""
        return self.hidden(ids, inside).flatten(0, 1).index_select(0, wanted.flatten().nonzero().squeeze(1))

    def log_normaliser(self, vectors):
        """log of the softmax's denominator, (M,), for output vectors (M, D)."""
        return blocked_logsumexp(vectors, self.items, self.dtype)

    def sampled(self, vectors, targets, negatives):
        """Sampled loss (M,) of the targets (M,) for output vectors (M, D); negatives (N,) as of `sample`."""
        own, others = sampled_scores(vectors, self.items, targets, negatives)
        if self.objective == "sampled":
            return sampled_softmax(own, others, len(self.items))
        return gbce(own, others, len(self.items), self.t)

    def loss(self, ids, inside, negatives, targets):
        """Mean loss of the next items (M,) at the positions inside, in order."""
        vectors = self.vectors(ids, inside, inside)
        if self.objective != "ce":
            return self.sampled(vectors, targets, negatives).mean()
        return cross_entropy(vectors, self.items, targets, self.dtype)


# --------------------------------------------------------------------------- sequences

class Sequences(sequences.Sequences):
    """Histories with the next item as the target of each position. See sequences.Sequences."""

    def shifted(self, users):
        """A training batch (ids, inside, targets), None where nobody has two items.

        ids (B, L) the latest items but the last, inside (B, L) where they are, targets (M,) what came next. A
        sequence has at most `length` - 1 positions, as its last item is only a target.
        """
        ids, inside = self.pad(users)
        inside, targets = inside[:, 1:], ids[:, 1:]
        if not inside.any():
            return None
        return torch.where(inside, ids[:, :-1], self.pad_id), inside, targets[inside]

    def prediction_batch(self, users):
        """(ids, inside, wanted): the latest items of the users (B,), and True at the last of them."""
        ids, inside = self.pad(users)
        return ids, inside, inside.sum(1, keepdim=True) - 1 == torch.arange(ids.shape[1], device=self.device)


def sample(v, n, generator, device="cpu"):
    """Codes (N,) of n different items out of v, drawn evenly; of all where n is v or more."""
    return torch.randperm(v, generator=generator)[:n].to(device)


# --------------------------------------------------------------------------- validation

class UserEncoder(sequences.UserEncoder):
    """See sequences.UserEncoder; a sampled loss is validated by itself, always against the same items (N,)."""

    def __init__(self, model, sequences, split, cold=None, negatives=None):
        super().__init__(model, sequences, split, cold)
        self.negatives = negatives

    def summed_loss(self, vectors, rows, wanted):
        if self.model.objective == "ce":
            return super().summed_loss(vectors, rows, wanted)
        return sum(self.model.sampled(vectors[places], items, self.negatives).double().sum().item()
                   for places, items in zip(rows.split(1 << 13), wanted.split(1 << 13), strict=True) if len(places))
