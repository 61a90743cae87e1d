"""What each hand-optimised piece of code gains over its plain form. python -m bench.tricks [--quick]

Each row is one trick against the same computation written down directly in torch, numpy or SQL; results are compared
before anything is timed. Processor seconds on one thread, called in turn; the gain is the median ratio. The softmax in
blocks has a module of its own, bench/softmax.py.

Published sizes: Music4All-Onion has 21,018 users and 55,262 items, Last.fm-2k 1,892 users and 17,632 items. --quick
takes a part of them.
"""

import numpy as np

from bench._compare import close, gain, one_thread
from harness import cli


def plays(users, items, per_user, seed=0):
    """csr float32 (users, items) of ones, about `per_user` in each row, at least 1; items by a power law."""
    from scipy.sparse import csr_matrix
    rng = np.random.default_rng(seed)
    lengths = np.maximum(rng.poisson(per_user, users), 1)
    keys = np.unique(np.repeat(np.arange(users), lengths) * items
                     + (items * rng.random(lengths.sum()) ** 3).astype(np.int64))
    return csr_matrix((np.ones(len(keys), np.float32), (keys // items, keys % items)), shape=(users, items))


# --------------------------------------------------------------------------- training

def fused_cosines(quick):
    """training/fused_cosine.py in a step of the Shallow Net against ShallowEmbeddingModel.forward."""
    import torch

    from bench import shallow as sizes
    from model import ShallowEmbeddingModel
    from training import shallow

    class Plain(ShallowEmbeddingModel):
        def scores(self, anchor, anchors, candidates):
            return self(anchors[:, None], candidates) if anchor == "user" else self(candidates, anchors[:, None])

    def stepper(kind, users, items, batch, sample_type):
        net = kind(torch.from_numpy(items), torch.from_numpy(users), generator=torch.Generator().manual_seed(0))
        net.freeze_item_embs(True)
        training = shallow.Training(net, shallow.Settings("random", sample_type, seed=0), "cpu")
        return lambda: shallow.step(training, batch)

    for dim, sample_type in [(200, "item")] if quick else [(200, "item"), (200, "user"), (768, "item")]:
        users, items, *pairs = sizes.world(dim, sizes.BATCH)
        anchors, positives = map(torch.from_numpy, pairs[::-1] if sample_type == "item" else pairs)
        n_others = len(users) if sample_type == "item" else len(items)
        batch = next(shallow.Pairs(anchors, positives, None, n_others).batches(
            sizes.BATCH, sizes.NEGATIVES, torch.Generator().manual_seed(0)))
        yield gain(f"fused cosines, step sampled by {sample_type}, B={sizes.BATCH} N={sizes.NEGATIVES} D={dim}",
                   stepper(ShallowEmbeddingModel, users, items, batch, sample_type),
                   stepper(Plain, users, items, batch, sample_type),
                   "plain torch form (distinct rows projected, autograd)", 3 if quick else 7,
                   lambda a, b: close(a, b, 1e-5))


def elsa_gradient(quick):
    """recommenders/elsa.py: loss and gradient of a batch of users against autograd."""
    import torch
    import torch.nn.functional as F

    from recommenders.elsa import Step
    for users, items, per_user in [(128, 17632, 49)] if quick else [(128, 17632, 49), (128, 55262, 257)]:
        rows = plays(users, items, per_user)
        factors = torch.nn.init.xavier_uniform_(torch.empty(items, 256))
        step, trained = Step(factors), factors.clone().requires_grad_()

        def ours(step=step, rows=rows):
            return [step(rows), step.gradient]

        def plain(trained=trained, rows=rows):
            x, unit = torch.from_numpy(rows.toarray()), F.normalize(trained, dim=-1)
            inner = F.embedding_bag(torch.from_numpy(rows.indices).long(), unit,
                                    torch.from_numpy(rows.indptr[:-1]).long(), mode="sum")
            loss = (2 - 2 * F.cosine_similarity(F.relu(inner @ unit.T - x), x)).mean()
            return [loss.detach(), *torch.autograd.grad(loss, trained)]
        yield gain(f"ELSA's gradient, {users} users, {items} items, 256 factors", ours, plain,
                   "plain torch form (autograd)", 5 if quick else 9, lambda a, b: close(a, b, 1e-3))


def wanted_positions(quick):
    """bert4rec.py: the last layer at the masked positions only, against all positions and then a choice."""
    import torch

    from bench import bert4rec
    size = bert4rec.SIZE | {"items": 1000}
    model, ids, labels = bert4rec.start(size, True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    wanted = labels >= 0

    def gradients(vectors):
        model.zero_grad()
        vectors.square().sum().backward()
        grads = [p.grad.flatten() for p in model.transformer_model.parameters() if p.grad is not None]
        return [vectors.detach(), torch.cat(grads)]
    yield gain(f"BERT4Rec's last layer at masked positions, B={size['batch']} L={size['length']} D={size['dim']}, "
               "forward and backward", lambda: gradients(model.vectors(ids, None, wanted)),
               lambda: gradients(model.transformer_model(inputs_embeds=model.rows(ids)).last_hidden_state[wanted]),
               "plain torch form (all positions, then a choice)", 5 if quick else 15, lambda a, b: close(a, b, 1e-3))


def products_of_distinct(quick):
    """clcrec.products where few items are distinct, against a copy of the vector of each candidate."""
    import torch
    from torch.nn.functional import embedding

    from recommenders import clcrec
    pairs, candidates, dim = 256, 129, 64
    for items in (1200,) if quick else (1200, 5000):
        draw = torch.Generator().manual_seed(0)
        anchors, vectors = (torch.randn(n, dim, generator=draw, requires_grad=True) for n in (pairs, items))
        place = torch.randint(items, (pairs, candidates), generator=draw)

        def gradients(scores, anchors=anchors, vectors=vectors):
            anchors.grad = vectors.grad = None
            scores.square().sum().backward()
            return [scores.detach(), anchors.grad, vectors.grad]
        yield gain(f"CLCRec's scores by way of {items} distinct items, {pairs} pairs, {candidates} candidates, "
                   "forward and backward",
                   lambda a=anchors, v=vectors, p=place, g=gradients: g(clcrec.products(a, v, p)),
                   lambda a=anchors, v=vectors, p=place, g=gradients: g((embedding(p, v) @ a[:, :, None])[..., 0]),
                   "plain torch form (a copy of each candidate's vector)", 5 if quick else 15, close)


# --------------------------------------------------------------------------- neighbours and closed forms

def ease_inverse(quick):
    """recommenders/ease.py: Cholesky and its inverse in place, mirrored, against numpy's inverse."""
    from recommenders.ease import inverse
    users = 1000 if quick else 1892
    matrix = plays(users, 5000, 40).astype(np.float64)
    gram = (matrix @ matrix.T).toarray()
    yield gain(f"EASE's inverse of {users} users", lambda: inverse(gram.copy(), 100.0),
               lambda: np.linalg.inv(gram + 100.0 * np.eye(users)), "plain numpy form (linalg.inv)",
               3 if quick else 9, lambda a, b: close(a, b, 1e-9))


def itemknn_compiled(quick):
    """training/overlaps.py: overlaps of one item at a time in compiled code, against the product and a sort."""
    from recommenders import itemknn
    matrix = plays(1892, 3000 if quick else 8000, 49).astype(np.float64)

    def plain():
        product = (matrix.T.tocsr() @ matrix).toarray()
        norm = np.sqrt(np.diag(product))
        np.fill_diagonal(product, 0)
        scale = np.outer(norm, norm)
        product = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
        return -np.sort(-product, axis=1)[:, :50]
    yield gain(f"ItemKNN's neighbours, {matrix.shape[1]} items, 50 neighbours",
               lambda: -np.sort(-itemknn.neighbours(matrix, 50).toarray(), axis=1)[:, :50], plain,
               "plain scipy form (product, sort of all)", 3, lambda a, b: close(a, b, 1e-6))


# --------------------------------------------------------------------------- ranking

def top_k(quick):
    """ranking/topk.py: largest by groups, products in tiles, equal rows multiplied once."""
    import torch

    from ranking import topk
    users, items, repeats = (150, 55262, 3) if quick else (300, 55262, 9)
    torch.manual_seed(0)
    scores = torch.randn(users, items)
    yield gain(f"top 101 of {items} items by groups, {users} users", lambda: topk._largest(scores, 101)[0],
               lambda: torch.topk(scores, 101, dim=1)[0], "plain torch form (topk)", repeats,
               lambda a, b: close(a, b, 0))
    vectors, table = torch.randn(users, 200), torch.randn(items, 200)
    scorer = topk._dot_scorer(vectors, table, "cpu")
    codes = np.arange(users)
    yield gain(f"scores in tiles and one buffer, {users} users, {items} items, D=200", lambda: scorer(codes),
               lambda: vectors[codes] @ table.T, "plain torch form (one product)", repeats, close)
    rows = np.random.default_rng(0).normal(size=(items, 200)).astype(np.float32)
    rows[1::10] = rows[::10][:len(rows[1::10])]

    def rebuilt(distinct, index):
        return distinct[index.ravel()]
    yield gain(f"distinct rows by a hash, ({items}, 200)", lambda: rebuilt(*topk.distinct_rows(rows)),
               lambda: rebuilt(*np.unique(rows, axis=0, return_inverse=True)), "plain numpy form (unique, axis=0)",
               2 if quick else 5, lambda a, b: close(a, b, 0))


# --------------------------------------------------------------------------- reading

def trimmed_ids(quick):
    """harness/ids.py: white space around ids of text is looked for before it is trimmed."""
    import duckdb

    from harness import ids
    count = 300_000 if quick else 4_000_000
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute(f"create table texts as select 'user_' || range || if(range % 1000 = 0, ' ', '') as text "
                    f"from range({count})")

        def summed(expression):
            return con.execute(f"select sum(hash({expression})) from texts").fetchone()
        yield gain(f"ids without white space around them, {count:,} texts, one in 1,000 with it",
                   lambda: summed(ids.STRIPPED.format("text")), lambda: summed(f"trim(text, '{ids.SPACES}')"),
                   "plain SQL form (trim)", 3 if quick else 5, lambda a, b: a == b)


def run(quick):
    parts = (fused_cosines, elsa_gradient, wanted_positions, products_of_distinct, ease_inverse, itemknn_compiled,
             top_k, trimmed_ids)
    with one_thread():
        return [row for part in parts for row in part(quick)]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("tricks", argv))
