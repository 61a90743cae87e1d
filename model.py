"""Shallow Net: one Linear + ReLU shared by users and items, scored by the cosine.

    python train.py musicnn item 20 10000 100 1 0 "baseline" 1 0 0 0 0.0

Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2. With e_u, e_i the embeddings and f(x) = ReLU(W x + b), the score of a pair is
cos(f(e_u), f(e_i)); the loss is a hinge over sampled negatives.

Letters: B pairs of a batch, N negatives of a pair, C = 1 + N candidates, D embedding, H hidden, A and M
distinct rows of a batch. Each distinct user and item of a batch is projected once, and the scores of its
pairs are read off; repeating the anchor for every negative costs C times the projections.
"""
import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

EPS = 1e-8           # a projected row no longer than this is a zero row: its cosine is 0 and has no gradient
WHOLE_TABLE = 0.75   # share of a table's rows from which projecting all of it is cheaper than picking rows
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 1 << 30}  # candidate vectors gathered at a time; on a CPU what fits a cache


class ShallowEmbeddingModel(nn.Module):
    """User and item embeddings behind one shared Linear + ReLU.

    item_embeddings: float32 (I, D), the content, or a random start; user_embeddings: float32 (U, D)
    hidden_dim: H, 0 for D; generator: of the Linear's start, uniform within 1 / sqrt(D) as in nn.Linear
    A new model trains everything; see freeze_item_embs and freeze_user_embs.
    """

    def __init__(self, item_embeddings, user_embeddings, hidden_dim=0, generator=None):
        super().__init__()
        dim = item_embeddings.shape[1]
        if user_embeddings.shape[1] != dim:
            raise ValueError(f"users have {user_embeddings.shape[1]} dimensions, items {dim}")
        self.item_embeddings = nn.Parameter(item_embeddings.detach().clone())
        self.user_embeddings = nn.Parameter(user_embeddings.detach().clone())
        hidden_dim, bound = hidden_dim or dim, 1 / math.sqrt(dim)
        self.weight = nn.Parameter(torch.empty(hidden_dim, dim).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(hidden_dim).uniform_(-bound, bound, generator=generator))

    def freeze_item_embs(self, flag):
        """True freezes the item embeddings, False trains them (the published code does the reverse)."""
        self.item_embeddings.requires_grad_(not flag)

    def freeze_user_embs(self, flag):
        """True freezes the user embeddings, False trains them (the published code does the reverse)."""
        self.user_embeddings.requires_grad_(not flag)

    def trained(self):
        """The parameters that train."""
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, users, items):
        """Scores (B,) of the pairs of user codes (B,) and item codes (B,)."""
        return self.scores("user", users, items.unsqueeze(1)).squeeze(1)

    def scores(self, anchor, anchors, candidates):
        """Cosines (B, C) of anchors (B,) with their candidates (B, C).

        anchor: 'user' (anchors are user codes, candidates item codes) or 'item' (the other way round)
        """
        tables = self.user_embeddings, self.item_embeddings
        tables = tables if anchor == "user" else tables[::-1]
        return _Cosines.apply(*tables, self.weight, self.bias, anchors, candidates)

    @torch.no_grad()
    def project(self, vectors):
        """Unit vectors (n, H) of embeddings (n, D); a row that the ReLU empties is a zero row."""
        return _unit(vectors, self.weight, self.bias)[0]

    def extract_embeddings(self):
        """Unit vectors of all users (U, H) and items (I, H); their dot product is the score."""
        return self.project(self.user_embeddings), self.project(self.item_embeddings)

    def penalty(self, everything=False):
        """Sum of squares of the trained parameters (of all of them, if asked: the published value)."""
        parameters = self.parameters() if everything else self.trained()
        return sum(torch.dot(p.flatten(), p.flatten()) for p in parameters)


# --------------------------------------------------------------------------- losses

def confidence(count):
    """Weight of a pair played `count` times: 1 + 2 log(1 + count), the paper's use_confidence."""
    return 1 + 2 * torch.log1p(count)


def hinge(scores, weight=None, margin=0.2):
    """Mean over pairs and negatives of weight * max(0, margin - positive + negative).

    scores: (B, 1 + N), the positive first; weight: (B,), absent: 1
    """
    loss = (margin - scores[:, :1] + scores[:, 1:]).clamp(min=0)
    return loss.mean() if weight is None else (loss * weight.unsqueeze(1)).mean()


def bpr(scores, weight=None, temperature=0.1):
    """Mean over pairs and negatives of weight * -log sigmoid((positive - negative) / temperature).

    Rendle et al., UAI 2009, equation of BPR-Opt; cosines end at 1, hence the temperature.
    """
    loss = F.softplus((scores[:, 1:] - scores[:, :1]) / temperature)
    return loss.mean() if weight is None else (loss * weight.unsqueeze(1)).mean()


def infonce(scores, weight=None, temperature=0.1):
    """Mean over pairs of weight * -log softmax(scores / temperature) of the positive among its candidates.

    van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
    """
    scaled = scores / temperature
    loss = scaled.logsumexp(1) - scaled[:, 0]
    return loss.mean() if weight is None else (loss * weight).mean()


LOSSES = {"hinge": hinge, "bpr": bpr, "infonce": infonce}

# --------------------------------------------------------------------------- the projection and its cosines

class _Cosines(torch.autograd.Function):
    """Cosines of projected pairs with a dense gradient of each table that needs one.

    The gradient of a unit vector is a weighted sum of the unit vectors it was multiplied with; both sides
    are such sums over rows grouped by their target, which `embedding_bag` makes without a scatter.
    """

    @staticmethod
    def forward(ctx, anchor_table, other_table, weight, bias, anchors, candidates):
        anchor_rows, anchors = _distinct(anchors, len(anchor_table))
        other_rows, candidates = _distinct(candidates, len(other_table))
        anchor_input, other_input = _pick(anchor_table, anchor_rows), _pick(other_table, other_rows)
        a, a_inverse = _unit(anchor_input, weight, bias)    # (A, H), (A, 1)
        o, o_inverse = _unit(other_input, weight, bias)     # (M, H), (M, 1)
        ctx.sizes = len(anchor_table), len(other_table)
        ctx.save_for_backward(weight, anchor_rows, anchors, anchor_input, a, a_inverse,
                              other_rows, candidates, other_input, o, o_inverse)
        return _pair_dots(a, o, anchors, candidates)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight, anchor_rows, anchors, anchor_input, a, a_inverse,
         other_rows, candidates, other_input, o, o_inverse) = ctx.saved_tensors
        order = anchors.argsort(stable=True)
        grad_a = _sum_groups(o, candidates[order].flatten(), grad[order].flatten(),
                             torch.bincount(anchors, minlength=len(a)) * grad.shape[1])
        flat = candidates.flatten()
        order = flat.argsort(stable=True)
        grad_o = _sum_groups(a, anchors[order.div(grad.shape[1], rounding_mode="floor")], grad.flatten()[order],
                             torch.bincount(flat, minlength=len(o)))
        grad_a, grad_o = _unit_backward(grad_a, a, a_inverse), _unit_backward(grad_o, o, o_inverse)
        needs = ctx.needs_input_grad
        return (_spread(grad_a @ weight, anchor_rows, ctx.sizes[0]) if needs[0] else None,
                _spread(grad_o @ weight, other_rows, ctx.sizes[1]) if needs[1] else None,
                torch.addmm(grad_a.T @ anchor_input, grad_o.T, other_input) if needs[2] else None,
                grad_a.sum(0) + grad_o.sum(0) if needs[3] else None, None, None)


def _distinct(codes, size):
    """Distinct codes, ascending, and the codes renumbered to point at them; (None, codes) for nearly all of a table."""
    if codes.numel() < size * WHOLE_TABLE:
        return codes.unique(return_inverse=True)
    present = torch.zeros(size, dtype=torch.bool, device=codes.device)
    present[codes.flatten()] = True
    rows = present.nonzero().squeeze(1)
    if len(rows) >= size * WHOLE_TABLE:
        return None, codes
    return rows, (present.cumsum(0) - 1)[codes]


def _pick(table, rows):
    return table if rows is None else table.index_select(0, rows)


def _spread(grad, rows, size):
    """Rows of a gradient at their places in a table of `size` rows of zeros."""
    return grad if rows is None else grad.new_zeros(size, grad.shape[1]).index_copy_(0, rows, grad)


def _unit(vectors, weight, bias):
    """Projected rows at length 1 (n, H) and the inverse lengths (n, 1); zero for a zero row."""
    hidden = torch.addmm(bias, vectors, weight.T).relu_()
    length = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
    inverse = torch.where(length > EPS, 1 / length, 0.0)
    return hidden.mul_(inverse), inverse


def _unit_backward(grad, unit, inverse):
    """Gradient before ReLU from that of unit rows: (g - (g.h) h) / length where the ReLU is open; in place."""
    along = torch.linalg.vecdot(grad, unit).unsqueeze(1)
    grad.addcmul_(unit, along, value=-1).mul_(inverse)
    return torch.ops.aten.threshold_backward(grad, unit, 0)


def _pair_dots(a, o, anchors, candidates):
    """Dot products (B, C) of rows a[anchors] with the rows o[candidates]."""
    if a.device.type == "cpu" and torch.backends.mkl.is_available():
        pattern = _pattern(candidates, len(o), a.dtype)
        return torch.sparse.sampled_addmm(pattern, a[anchors], o.T, beta=0).values().view(candidates.shape)
    dots = a.new_empty(candidates.shape)
    rows = max(1, CHUNK_BYTES[a.device.type] // (a.element_size() * o.shape[1] * candidates.shape[1]))
    for start in range(0, len(dots), rows):
        part = slice(start, start + rows)
        dots[part] = torch.bmm(o[candidates[part]], a[anchors[part]].unsqueeze(2)).squeeze(2)
    return dots


def _pattern(candidates, n, dtype):
    """The places (b, candidate) as a csr matrix (B, n) of zeros; a row may name a column twice."""
    B, C = candidates.shape
    starts = torch.arange(0, B * C + 1, C)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(starts, candidates.flatten(), torch.zeros(B * C, dtype=dtype), (B, n),
                                       check_invariants=False)


def _sum_groups(table, rows, weight, counts):
    """Sums (G, H) of weight * table[rows] over consecutive groups of `counts` (G,) rows; an empty group is zero."""
    starts = counts.cumsum(0) - counts
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weight)
