"""A training step of BERT4Rec: ours against the plain implementation. python -m bench.bert4rec [--quick]

The plain one is what transformers and torch give when written down directly: BertModel on inputs_embeds, the
tied output layer over every position and row, `cross_entropy(ignore_index=-100)` over (B, L, V). Ours sends
only the masked positions to a softmax in blocks (softmax.BlockedLogSumExp). The same in both: layers as published
(norm after, positions from the start), batches and masked positions, weights at the start, dropout 0.1, SDPA, fused
Adam, threads, float32, what is frozen (frozen: the item rows are a constant and the mask vector trains; trained: every
row trains); losses and gradients are compared before anything is timed. Every sequence is full, so that bucketing by
length gives ours nothing here.

D=200, L=100, B=16, V=55,853 items, 20 % masked. Units: sequences per second; MiB of peak resident memory over
that of the imported libraries, each in a process of its own; GFLOP/s of executed products (counted by torch's
FlopCounterMode) beside the machine's own for a square float32 product.
"""
import statistics
import time

from harness import cli
from harness.errors import WorkError
from harness.machine import peak_memory

SIZE = {"dim": 200, "length": 100, "batch": 16, "items": 55853}
QUICK = SIZE | {"items": 8000}
CHUNKED = "_linear_cross_entropy_batch_chunked"          # of torch.ops.torch_nn: training/softmax.py calls it
AS_PLAIN = {"norm": "after", "positions": "start"}   # BertModel as it is


def start(size, frozen, bf16=False, **config):
    """Our model at its start and one batch (ids, labels)."""
    import torch

    import bert4rec
    torch.manual_seed(0)
    model = bert4rec.BERT4Rec(torch.randn(size["items"], size["dim"]) * 0.1, bert4rec.load_config() | AS_PLAIN | config,
                              size["length"], frozen=frozen, bf16=bf16)
    ids = torch.randint(size["items"], (size["batch"], size["length"]))
    masked = torch.rand(ids.shape) < 0.2
    return model, ids.masked_fill(masked, model.mask_id), ids.masked_fill(~masked, -100)


def plain_model(model):
    """The plain implementation with the same weights: a table whose last row is the mask, and its loss."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer_model = model.transformer_model
            table = torch.cat([model.items.detach(), model.special[:1].detach()])
            self.frozen = not model.items.requires_grad
            self.table = nn.Parameter(table, requires_grad=not self.frozen)
            self.mask = nn.Parameter(table[-1].clone(), requires_grad=self.frozen)

        def forward(self, ids, labels, classes=None):
            rows = F.embedding(ids, self.table)
            if self.frozen:
                rows = torch.where((ids == len(self.table) - 1)[..., None], self.mask, rows)
            hidden = self.transformer_model(inputs_embeds=rows).last_hidden_state              # (B, L, D)
            scores = F.linear(hidden, self.table)[..., :classes]                               # (B, L, V + 1)
            return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return Plain()


def stepper(kind, size, frozen, bf16=False):
    """A function that takes one training step; kind is 'ours' or 'plain'."""
    import torch
    model, ids, labels = start(size, frozen, bf16)
    masked = labels >= 0
    targets = labels[masked]
    if kind == "plain":
        model = plain_model(model)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step():
        loss = model(ids, labels) if kind == "plain" else model.loss(ids, None, masked, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step


def check(size, frozen):
    """Loss and gradients of the two agree (dropout off; the mask's row left out of the plain softmax)."""
    import torch
    model, ids, labels = start(size, frozen, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, masked = plain_model(model), labels >= 0

    def gradients(loss, tables):
        model.zero_grad(), plain.zero_grad()
        loss.backward()
        found = {k: p.grad for k, p in model.transformer_model.named_parameters() if p.grad is not None}
        return found | {"loss": loss.detach()} | tables()

    of_plain = gradients(plain(ids, labels, size["items"]), lambda: {
        "mask": plain.mask.grad if frozen else plain.table.grad[-1],
        "items": torch.zeros(1) if frozen else plain.table.grad[:-1]})
    of_ours = gradients(model.loss(ids, None, masked, labels[masked]), lambda: {
        "mask": model.special.grad[0], "items": torch.zeros(1) if frozen else model.items.grad})
    for name, value in of_plain.items():
        if not torch.allclose(value, of_ours[name], rtol=1e-3, atol=1e-6):
            raise WorkError(f"plain and ours differ in {name} by {(value - of_ours[name]).abs().max():.2g}")


def seconds(functions, repeats):
    """Median seconds of each function, called in turn."""
    times = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, kept in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                kept.append(time.perf_counter() - begin)
    return [statistics.median(kept) for kept in times]


def products(step):
    """Floating point operations of the matrix products of one step, which is called twice.

    FlopCounterMode does not know the products in place, nor those within torch's chunked softmax over a table, an
    operator that torch registers when it is first called.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def in_place(into, a, b, *args, out_shape=None, **kwargs):
        return 2 * a[0] * a[1] * b[1]

    def softmax(hidden, table, *args, out_shape=None, **kwargs):   # scores, and the gradients that are asked for
        asked = dict(zip((a.name for a in chunked.default._schema.arguments[2:]), args, strict=False)) | kwargs
        wanted = ("compute_input_grad", "compute_linear_weight_grad")
        return 2 * hidden[0] * hidden[1] * table[0] * (1 + sum(bool(asked[name]) for name in wanted))
    step()
    known, chunked = {torch.ops.aten.addmm_: in_place}, getattr(torch.ops.torch_nn, CHUNKED, None)
    if chunked is not None:
        known[chunked] = softmax
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        step()
    return counter.get_total_flops()


def peak(kind, size, frozen):
    """MiB that a few steps take over the imported libraries; for a process of its own."""
    start(size | {"items": 8, "batch": 1}, frozen)
    floor = high_water()
    step = stepper(kind, size, frozen)
    for _ in range(3):
        step()
    return high_water() - floor


def high_water():
    """Peak resident memory of this process since it began, MiB."""
    return peak_memory() / (1 << 20)


def peaks(size, frozen):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with ProcessPoolExecutor(**fresh) as pool:
        return list(pool.map(peak, ("ours", "plain"), (size, size), (frozen, frozen)))


def run(quick):
    import torch

    from training.softmax import native_bf16
    size, repeats = (QUICK, 3) if quick else (SIZE, 7)
    a, out, rows = torch.randn(2048, 2048), torch.empty(2048, 2048), []

    def add(what, ours, baseline, ratio, unit, note):
        rows.append({"what": what, "ours": ours, "baseline": baseline, "unit": unit, "ratio": ratio, "note": note})
    note = f"V={size['items']}, {torch.get_num_threads()} threads"
    for frozen, name in ((True, "frozen"), (False, "trained")):
        check(size | {"items": min(size["items"], 8000)}, frozen)
        ours, plain = stepper("ours", size, frozen), stepper("plain", size, frozen)
        t_ours, t_plain, t_mm = seconds([ours, plain, lambda: torch.mm(a, a, out=out)], repeats)
        add(f"{name}, float32", size["batch"] / t_ours, size["batch"] / t_plain, t_plain / t_ours, "sequences/s", note)
        used, machine = products(ours) / t_ours / 1e9, 2 * 2048**3 / t_mm / 1e9
        add(f"{name}, products of our step", used, machine, used / machine, "GFLOP/s",
            "baseline: the machine's own, a 2048 cube; the ratio is our share of it")
        del plain
        if frozen and native_bf16(torch.device("cpu")):
            t_ours, t_plain = seconds([stepper("ours", size, True, True), stepper("plain", size, True)], repeats)
            add("frozen, bf16 against plain float32", size["batch"] / t_ours, size["batch"] / t_plain,
                t_plain / t_ours, "sequences/s", note)
        elif frozen:
            add("frozen, bf16", None, None, None, "", "left out: this CPU has no bf16 arithmetic")
        del ours
        m_ours, m_plain = peaks(size, frozen)
        add(f"{name}, memory", m_ours, m_plain, m_plain / m_ours, "MiB", f"{note}; the ratio is baseline over ours")
    return rows


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("bert4rec", argv))
