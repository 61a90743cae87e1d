"""The softmax over a catalogue whose scores are never held all at once, for models with a large output layer.

Letters: M rows to be scored, V items of the table, D dimensions. A loss of scores h . w_v needs the log of the
softmax's denominator and its gradient, not the scores (M, V) themselves; block after block of the table gives both.
"""
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def budget(device):
    """Scores of one block, so that they stay in the cache (float32: 4 MiB; a GPU: 128 MiB)."""
    return 1 << 20 if device.type == "cpu" else 1 << 25


def block_rows(m, device):
    """Items per block of scores (m, items): a multiple of 64, which products are faster with."""
    return max(256, budget(device) // max(m, 1) // 64 * 64)


def chunk_rows(v, device):
    """Rows per chunk of scores (rows, v) in torch's linear_cross_entropy; fewer than 128 make its products slow."""
    return max(128, budget(device) // max(v, 1))


class BlockedLogSumExp(torch.autograd.Function):
    """log sum_v exp(h . w_v) of each row of hidden (M, D) against a table (V, D), never holding (M, V).

    Forward goes through the table once, with a running maximum and sum (Milakov & Gimelshein,
    arXiv 1805.02867), and, where hidden needs a gradient, sums the softmax-weighted mean of the table, which
    is that gradient: a frozen table then costs two products and no backward at all. A trained table has its
    scores computed again in backward, block by block: four products. The gradients are exact.
    Under bf16 the products are bf16; maximum, sums and gradients of the table stay float32.
    It stays for BERT4Rec on a frozen table, whose rows are few (M = 1,200), and for validation: torch's
    linear_cross_entropy takes 1.0 to 1.25 times its time on a frozen table in float32 and about twice in bf16, 3.5 to
    4.8 times its memory on a frozen table, and has no log-normaliser (bench/softmax.py).
    """

    @staticmethod
    def forward(ctx, hidden, table, dtype, rows):
        kind = hidden.dtype
        rows = rows or block_rows(len(hidden), hidden.device)
        h = hidden.to(dtype)
        top = hidden.new_full((len(hidden), 1), -torch.inf)
        total = torch.zeros_like(top)
        mean = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        buffer = h.new_empty(len(h) * min(rows, len(table)))
        for block in table.split(rows):
            block = block.to(dtype)
            scores = torch.mm(h, block.T, out=buffer[:len(h) * len(block)].view(len(h), -1)).to(kind)
            new = torch.maximum(top, scores.amax(1, keepdim=True))
            scores.sub_(new).exp_()
            shrink = (top - new).exp_()
            total.mul_(shrink).add_(scores.sum(1, keepdim=True))
            if mean is not None and dtype == kind:
                mean.mul_(shrink).addmm_(scores, block)
            elif mean is not None:
                mean.mul_(shrink).add_(scores.to(dtype) @ block)
            top = new
        lse = (top + total.log()).squeeze(1)
        ctx.dtype, ctx.rows = dtype, rows
        ctx.save_for_backward(hidden, table, lse, None if mean is None else mean.div_(total))
        return lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, table, lse, mean = ctx.saved_tensors
        grad_hidden = grad[:, None] * mean if mean is not None else None
        if not ctx.needs_input_grad[1]:
            return grad_hidden, None, None, None
        h, grad_table = hidden.to(ctx.dtype), torch.empty_like(table)
        pulled = (hidden * grad[:, None]).to(ctx.dtype)  # sum_m p_mv grad_m h_m is the row's gradient
        buffer = h.new_empty(len(h) * min(ctx.rows, len(table)))
        for block, out in zip(table.split(ctx.rows), grad_table.split(ctx.rows), strict=True):
            scores = torch.mm(h, block.to(ctx.dtype).T, out=buffer[:len(h) * len(block)].view(len(h), -1))
            p = scores.to(hidden.dtype).sub_(lse[:, None]).exp_()
            if ctx.dtype == hidden.dtype:
                torch.mm(p.T, pulled, out=out)
            else:
                out.copy_(p.to(ctx.dtype).T @ pulled)
        return grad_hidden, grad_table, None, None


def blocked_logsumexp(hidden, table, dtype=None, rows=None):
    """log sum_v exp(h . w_v), (M,), for hidden (M, D) and table (V, D); see BlockedLogSumExp.

    dtype: of the products, default hidden's; rows: items per block, default what fits the cache
    """
    return BlockedLogSumExp.apply(hidden, table, dtype or hidden.dtype, rows)


def cross_entropy(hidden, table, targets, dtype=None):
    """Mean over the rows of hidden (M, D) of log sum_v exp(h . w_v) - h . w_target, a scalar, M at least 1.

    table: (V, D); targets: int64 (M,); dtype: of the products, default hidden's
    In hidden's own dtype it is torch's, which is faster for the many rows of SASRec (M = 12,672: 1.1 times with a
    frozen table, 1.15 with a trained one). In bf16 the blocks are faster, and torch would round the loss to bf16
    (bench/softmax.py).
    """
    if dtype in (None, hidden.dtype):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_rows(len(table), hidden.device))
        return F.linear_cross_entropy(hidden, table, targets, options=options)
    return (blocked_logsumexp(hidden, table, dtype) - (hidden * F.embedding(targets, table)).sum(1)).mean()


def native_bf16(device):
    """Whether the device multiplies bf16 itself; elsewhere it is emulated, hundreds of times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
