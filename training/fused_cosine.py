"""Cosines of projected pairs and their gradient, fused: ShallowEmbeddingModel.forward in less time (bench/shallow.py).

Every distinct row of a batch is projected once, in blocks that stay in the cache; scores are read off by a sampled
product; and the backward pass uses that a hinge leaves most pairs without a gradient. The tests hold scores and
gradients to those of `forward`.

It uses two parts of torch without a promise of stability, which the exact pin makes safe: beta sparse CSR tensors
(their warning is silenced) and torch.ops.aten.threshold_backward.

Letters: B anchors of a batch, C candidates of each, D dimensions of an embedding, H of a projected one, n distinct rows
of one table, m of the other, K pairs with a gradient.
"""
import warnings

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

EPS = 1e-8           # a projected row no longer than this is a zero row: its cosine is 0 and has no gradient
WHOLE_TABLE = 0.75   # share of a table's rows from which projecting all of it is cheaper than picking rows
BLOCK_BYTES = {"cpu": 8 << 20}  # rows worked on at a time: what the last cache holds a few times over


def cosines(anchor_table, other_table, weight, bias, anchors, candidates):
    """Cosines (B, C) of projected rows anchor_table[anchors] with the projected rows other_table[candidates].

    anchor_table, other_table: float (n, D) embeddings; weight (H, D), bias (H,): f(x) = ReLU(weight x + bias);
    anchors: int64 (B,); candidates: int64 (B, C). A row that f empties has cosine 0 and no gradient.
    The gradient of a table is dense and computed only where the table needs one.
    """
    return _FusedCosine.apply(anchor_table, other_table, weight, bias, anchors, candidates)


class _FusedCosine(torch.autograd.Function):

    @staticmethod
    def forward(ctx, anchor_table, other_table, weight, bias, anchors, candidates):
        ctx.anchor = _ProjectedRows(anchor_table, anchors, weight, bias)
        ctx.other = _ProjectedRows(other_table, candidates, weight, bias)
        scores = _pair_dots(ctx.anchor.unit, ctx.other.unit, ctx.anchor.codes, ctx.other.codes)
        ctx.save_for_backward(scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        anchor, other, flat = ctx.anchor, ctx.other, grad.flatten()
        active = flat.nonzero().squeeze(1)  # (K,) a hinge leaves most pairs without a gradient
        anchor_rows = anchor.codes[active.div(grad.shape[1], rounding_mode="floor")]
        other_rows = other.codes.flatten()[active]
        grad_scores, grad_times_score = flat[active], (grad * ctx.saved_tensors[0]).flatten()[active]
        parameter_grads = torch.zeros_like(anchor.weight), anchor.weight.new_zeros(len(anchor.weight))
        anchor_grad = anchor.backward(other.unit, anchor_rows, other_rows, grad_scores, grad_times_score,
                                      parameter_grads, ctx.needs_input_grad[0])
        other_grad = other.backward(anchor.unit, other_rows, anchor_rows, grad_scores, grad_times_score,
                                    parameter_grads, ctx.needs_input_grad[1])
        return anchor_grad, other_grad, *parameter_grads, None, None


class _ProjectedRows:
    """The distinct rows of a table that a batch uses, projected in blocks that stay in the cache.

    rows: int64 (n,) of the table, or None where nearly all of it is projected; codes: the batch's, renumbered to index
    `unit`; unit: (n, H) projected rows at length 1; inverse_length: (n, 1) of the projected rows before
    """

    def __init__(self, table, codes, weight, bias):
        self.table, self.weight = table, weight
        self.rows, self.codes = _distinct(codes, len(table))
        n = len(table) if self.rows is None else len(self.rows)
        self.unit, self.inverse_length = table.new_empty(n, len(weight)), table.new_empty(n, 1)
        for block in self.blocks():
            self.inverse_length[block] = _project(self.embeddings(block), weight, bias, out=self.unit[block])

    def blocks(self):
        size = _block_rows(self.unit)
        return [slice(start, start + size) for start in range(0, len(self.unit), size)]

    def embeddings(self, block):
        return self.table[block] if self.rows is None else self.table.index_select(0, self.rows[block])

    def backward(self, other_unit, own_rows, other_rows, grad_scores, grad_times_score, parameter_grads,
                 table_needs_grad):
        """Add this side's share to the gradients of weight and bias; return the table's (None unless it needs one).

        other_unit: (m, H) unit vectors of the other side; of each of K pairs own_rows, other_rows: its rows of the
        two sides, grad_scores: the gradient of its score, grad_times_score: that times the score
        The gradient of a unit row is the sum of grad_scores * other_unit over its pairs; the length is divided out,
        so its component along the row, the sum of grad_times_score, is taken off. `embedding_bag` makes such sums
        over pairs grouped by row without a scatter.
        """
        if (own_rows[1:] < own_rows[:-1]).any():  # anchors are in order already
            order = own_rows.argsort(stable=True)
            other_rows, grad_scores, grad_times_score = other_rows[order], grad_scores[order], grad_times_score[order]
        counts = torch.bincount(own_rows, minlength=len(self.unit))                           # (n,) pairs of each row
        along = torch.segment_reduce(grad_times_score, "sum", lengths=counts).unsqueeze(1)    # (n, 1)
        starts = counts.cumsum(0) - counts                                                    # (n,)
        firsts = starts[::_block_rows(self.unit)].tolist()                                    # of each block
        table_grad = None
        if table_needs_grad:
            table_grad = torch.empty_like(self.table) if self.rows is None else torch.zeros_like(self.table)
        for block, low, high in zip(self.blocks(), firsts, [*firsts[1:], len(own_rows)], strict=True):
            unit = self.unit[block]
            grad = F.embedding_bag(other_rows[low:high], other_unit, starts[block] - low, mode="sum",
                                   per_sample_weights=grad_scores[low:high])
            grad.addcmul_(unit, along[block], value=-1).mul_(self.inverse_length[block])
            torch.ops.aten.threshold_backward.grad_input(grad, unit, 0, grad_input=grad)      # through the ReLU
            parameter_grads[0].addmm_(grad.T, self.embeddings(block))
            parameter_grads[1].add_(grad.sum(0))
            if table_needs_grad and self.rows is None:
                torch.mm(grad, self.weight, out=table_grad[block])
            elif table_needs_grad:
                table_grad.index_copy_(0, self.rows[block], grad @ self.weight)
        return table_grad


def _block_rows(matrix):
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


def _project(embeddings, weight, bias, out):
    """Write the projected rows at length 1 to `out` (n, H), zeros where the ReLU empties one; return one over their
    lengths (n, 1), 0 for a zero row."""
    torch.addmm(bias, embeddings, weight.T, out=out).relu_()
    length = torch.linalg.vector_norm(out, dim=1, keepdim=True)
    inverse = torch.where(length > EPS, 1 / length, 0.0)
    out.mul_(inverse)
    return inverse


def _pair_dots(anchor_unit, other_unit, anchors, candidates):
    """Dot products (B, C) of rows anchor_unit[anchors] with the rows other_unit[candidates].

    torch.sparse refuses more entries than a matrix has places, as where one pair draws the same negative twice.
    """
    fits = candidates.shape[1] <= len(other_unit)
    if fits and anchor_unit.device.type == "cpu" and torch.backends.mkl.is_available():
        pattern = _pattern(candidates, len(other_unit), anchor_unit.dtype)
        product = torch.sparse.sampled_addmm(pattern, anchor_unit[anchors], other_unit.T, beta=0)
        return product.values().view(candidates.shape)
    dots = anchor_unit.new_empty(candidates.shape)
    size = max(1, _block_rows(other_unit) // candidates.shape[1])
    for block in (slice(start, start + size) for start in range(0, len(dots), size)):
        dots[block] = torch.bmm(other_unit[candidates[block]], anchor_unit[anchors[block]].unsqueeze(2)).squeeze(2)
    return dots


def _pattern(candidates, n, dtype):
    """Positions (b, candidate) as a csr matrix (B, n) of zeros; a row may name a column twice."""
    B, C = candidates.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(torch.arange(0, B * C + 1, C), candidates.flatten(),
                                       torch.zeros(B * C, dtype=dtype), (B, n), check_invariants=False)
