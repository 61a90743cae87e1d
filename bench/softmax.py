"""The softmax in blocks (training/softmax.py) against torch's own. python -m bench.softmax [--quick]

The loss over a whole catalogue and its gradients, of M output vectors and an item table (V, D), frozen or trained, in
float32 and in bf16. The baseline is torch.nn.functional.linear_cross_entropy with batch_chunk_size=128, the fastest of
16, 32, 64, 128 and 256; in bf16 it gets both operands in bf16, and returns a bf16 loss, which is not compared. Plain
cross_entropy over scores (M, V), which need all their memory, has a row of its own. BERT4Rec takes the blocks on a
frozen table; on a trained one, and in SASRec, whose rows are many, torch's is taken in float32 and the blocks in bf16
(softmax.cross_entropy).

Sizes: those of bench.peers, M=640, V=20,000, D=128; as published V=55,262, D=200 (musicnn) and 768, M=1,200 as in
BERT4Rec; M=12,672, D=128 as in SASRec. Units:
processor seconds of forward and backward on one thread; MiB of peak resident memory over that before the first step,
each in a process of its own.
"""
from bench._compare import close, gain, one_thread
from harness import cli

CHUNK = 128
FORMS = {"chunked": f"plain torch form (linear_cross_entropy, chunks of {CHUNK})",
         "dense": "plain torch form (cross_entropy over all scores)"}


def step(form, m, v, dim, frozen, bf16):
    """Function that takes one forward and backward pass; returns (loss, gradient of the vectors, of the table)."""
    import torch
    import torch.nn.functional as F

    from training.softmax import blocked_logsumexp
    torch.manual_seed(0)
    hidden = torch.randn(m, dim).mul_(0.3).requires_grad_()   # in place: no larger peak than the operands
    table = torch.randn(v, dim).mul_(0.3).requires_grad_(not frozen)
    targets, dtype = torch.randint(v, (m,)), torch.bfloat16 if bf16 else torch.float32

    def blocked():
        return (blocked_logsumexp(hidden, table, dtype) - (hidden * F.embedding(targets, table)).sum(1)).mean()

    def chunked():
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
        return F.linear_cross_entropy(hidden.to(dtype), table.to(dtype), targets, options=options)

    def dense():
        return F.cross_entropy((hidden.to(dtype) @ table.to(dtype).T).float(), targets)

    def run():
        hidden.grad = table.grad = None
        loss = {"blocked": blocked, "chunked": chunked, "dense": dense}[form]()
        loss.backward()
        return [loss.detach(), hidden.grad, *([] if frozen else [table.grad])]
    return run


def peak(*case):
    """MiB that two steps take over the operands; for a process of its own."""
    import torch

    from bench.bert4rec import high_water
    torch.set_num_threads(1)
    form, m, v, dim, *kind = case
    step(form, 8, 8, dim, *kind)()   # what is imported late does not count
    run = step(*case)
    floor = high_water()
    run(), run()
    return high_water() - floor


def peaks(cases):
    """Peaks of several cases, each in a process of its own."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, max_tasks_per_child=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(peak, *zip(*cases, strict=True)))


def compare(form, size, frozen, bf16, repeats):
    """The row of one case, its memory in the note."""
    case = *size, frozen, bf16
    what = f"{'frozen' if frozen else 'trained'}, {'bf16' if bf16 else 'float32'}, M={size[0]} V={size[1]} D={size[2]}"

    def same(a, b):     # torch sums the loss in bf16, too, which takes 5 % off it where the rows are many
        return close(a[1:], b[1:], 0.05) if bf16 else close(a, b, 1e-4)

    if form == "dense":
        what += ", beside all scores"
    with one_thread():
        row = gain(f"blocked softmax, {what}", step("blocked", *case), step(form, *case), FORMS[form], repeats, same)
    ours, plain = peaks([("blocked", *case), (form, *case)])
    return [row | {"note": f"peak memory {ours:.3g} MiB, plain form {plain:.3g} MiB"}]


def run(quick):
    import torch

    from training.softmax import native_bf16
    full = [(640, 20_000, 128), (1200, 55262, 200), (1200, 55262, 768), (12672, 55262, 128)]
    sizes, repeats = ([(600, 8000, 200)], 3) if quick else (full, 5)
    rows = []
    for size in sizes:
        for frozen in (True, False):
            rows += compare("chunked", size, frozen, False, repeats)
            if native_bf16(torch.device("cpu")):
                rows += compare("chunked", size, frozen, True, repeats)
    return rows + compare("dense", sizes[0] if quick else full[1], False, False, repeats)


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("softmax", argv))
