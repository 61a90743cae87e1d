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
BLOCK_BYTES = {"cpu": 8 << 20}  # rows worked on at a time: what the last cache holds a few times over


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
    """Cosines of projected pairs with a dense gradient of each table that needs one."""

    @staticmethod
    def forward(ctx, anchor_table, other_table, weight, bias, anchors, candidates):
        ctx.a, ctx.o = _Side(anchor_table, anchors, weight, bias), _Side(other_table, candidates, weight, bias)
        scores = _pair_dots(ctx.a.unit, ctx.o.unit, ctx.a.codes, ctx.o.codes)
        ctx.save_for_backward(scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, o, flat = ctx.a, ctx.o, grad.flatten()
        met = flat.nonzero().squeeze(1)  # (K,) a hinge leaves most pairs without a gradient
        pairs = (a.codes[met.div(grad.shape[1], rounding_mode="floor")], o.codes.flatten()[met], flat[met],
                 (grad * ctx.saved_tensors[0]).flatten()[met])
        gradients = torch.zeros_like(a.weight), a.weight.new_zeros(len(a.weight))
        grad_a = a.pull(o.unit, *pairs, gradients, ctx.needs_input_grad[0])
        grad_o = o.pull(a.unit, pairs[1], pairs[0], *pairs[2:], gradients, ctx.needs_input_grad[1])
        return grad_a, grad_o, *gradients, None, None


class _Side:
    """Users or items of a batch: the distinct rows of their table, projected, in blocks that stay in the cache.

    rows: int64 (n,) of the table, or None where nearly all of it is projected; codes: the batch's, now
    pointing at them; unit: (n, H) projected rows at length 1; inverse: (n, 1) one over their length before
    """

    def __init__(self, table, codes, weight, bias):
        self.table, self.weight = table, weight
        self.rows, self.codes = _distinct(codes, len(table))
        n = len(table) if self.rows is None else len(self.rows)
        self.unit, self.inverse = table.new_empty(n, len(weight)), table.new_empty(n, 1)
        for block in self.blocks():
            self.inverse[block] = _unit(self.embeddings(block), weight, bias, self.unit[block])[1]

    def blocks(self):
        size = _rows_at_once(self.unit)
        return [slice(start, start + size) for start in range(0, len(self.unit), size)]

    def embeddings(self, block):
        return self.table[block] if self.rows is None else self.table.index_select(0, self.rows[block])

    def pull(self, source, mine, theirs, grad, along, gradients, wanted):
        """Add what these rows give to the gradients of weight and bias; return the table's, None unless wanted.

        source: (m, H) unit vectors of the other side; mine, theirs, grad, along: (K,) of each pair its row here
        and there, the gradient of its score, and that times the score
        The gradient of a unit row is the sum of grad * source over its pairs, less the part along the row, which
        is the sum of `along`. `embedding_bag` makes such sums of grouped pairs without a scatter.
        """
        if (mine[1:] < mine[:-1]).any():  # anchors come in order
            order = mine.argsort(stable=True)
            theirs, grad, along = theirs[order], grad[order], along[order]
        counts = torch.bincount(mine, minlength=len(self.unit))
        along = torch.segment_reduce(along, "sum", lengths=counts).unsqueeze(1)         # (n, 1)
        starts = counts.cumsum(0) - counts                                              # (n,)
        firsts = starts[::_rows_at_once(self.unit)].tolist()                            # of each block
        table = None
        if wanted:
            table = torch.empty_like(self.table) if self.rows is None else torch.zeros_like(self.table)
        for block, low, high in zip(self.blocks(), firsts, [*firsts[1:], len(mine)], strict=True):
            rows = F.embedding_bag(theirs[low:high], source, starts[block] - low, mode="sum",
                                   per_sample_weights=grad[low:high])
            rows.addcmul_(self.unit[block], along[block], value=-1).mul_(self.inverse[block])
            torch.ops.aten.threshold_backward.grad_input(rows, self.unit[block], 0, grad_input=rows)  # ReLU
            gradients[0].addmm_(rows.T, self.embeddings(block))
            gradients[1].add_(rows.sum(0))
            if wanted and self.rows is None:
                torch.mm(rows, self.weight, out=table[block])
            elif wanted:
                table.index_copy_(0, self.rows[block], rows @ self.weight)
        return table


def _rows_at_once(matrix):
    """Rows of a matrix that make a block: what fits a CPU's cache, or plenty for a GPU."""
    return max(1, BLOCK_BYTES.get(matrix.device.type, 1 << 30) // (matrix.element_size() * matrix.shape[1]))


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


def _unit(vectors, weight, bias, unit=None):
    """Projected rows at length 1 (n, H), in `unit` where given, and one over their lengths (n, 1); zeros for a
    row that the ReLU empties."""
    unit = torch.addmm(bias, vectors, weight.T, out=unit).relu_()
    length = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    inverse = torch.where(length > EPS, 1 / length, 0.0)
    return unit.mul_(inverse), inverse


def _pair_dots(a, o, anchors, candidates):
    """Dot products (B, C) of rows a[anchors] with the rows o[candidates]."""
    if a.device.type == "cpu" and torch.backends.mkl.is_available():
        pattern = _pattern(candidates, len(o), a.dtype)
        return torch.sparse.sampled_addmm(pattern, a[anchors], o.T, beta=0).values().view(candidates.shape)
    dots = a.new_empty(candidates.shape)
    pairs = max(1, _rows_at_once(o) // candidates.shape[1])
    for block in (slice(start, start + pairs) for start in range(0, len(dots), pairs)):
        dots[block] = torch.bmm(o[candidates[block]], a[anchors[block]].unsqueeze(2)).squeeze(2)
    return dots


def _pattern(candidates, n, dtype):
    """The places (b, candidate) as a csr matrix (B, n) of zeros; a row may name a column twice."""
    B, C = candidates.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(torch.arange(0, B * C + 1, C), candidates.flatten(),
                                       torch.zeros(B * C, dtype=dtype), (B, n), check_invariants=False)
