"""SASRec and BERT4Rec against a maintained peer, RecTools: quality and training speed. python -m bench.peers [--quick]

The peer lives in an environment of its own (it needs numpy < 2), named by the variable PEERS_PYTHON:

    python3.11 -m venv peers && peers/bin/pip install -r requirements/peers.txt
    PEERS_PYTHON=peers/bin/python python -m bench.peers

Same data in the same order, layers, heads, widths, feed-forward, dropout, sequence length, batch size, learning rate,
cross-entropy over the whole catalogue, epochs, threads; float32. Each has its own start, details of the block, and
batches. Two worlds. `Markov`: the next item depends on the last and the one before (60 : 40), never
repeats, and its chances are known, so the best ranking is known, too (`optimum`: its NDCG@10 for the same users and
answers; expected is its mean over answers). `demo`: the hot test of work/demo, made by `make demo`. NDCG@10 is the
mean over seeds, ± its 95 % interval over them; the difference is paired by seed. Epochs are timed in turn, ours then
theirs, without validation, start-up and data reading; the first of each training is left out. The last rows: what our
training step takes of the machine's own matrix throughput (products counted by torch's FlopCounterMode).

--catalogues [N ...]: instead, speed alone by the size of the catalogue: 1,000, 20,000 and 55,000 items, histories of
50, batches of 64, one thread, the median of five trainings of each in turn; of two epochs, the second counts, from
10,000 items on of one.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import cli
from harness.errors import WorkError
from harness.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
K = 10
WIDTH, BATCH, LENGTH = 128, 32, 30
FULL = {"items": 100, "users": 2000, "seeds": 5, "Markov": {"sasrec": 20, "bert4rec": 30},
        "demo": {"sasrec": 10, "bert4rec": 15}}                     # epochs
QUICK = {"items": 100, "users": 400, "seeds": 2, "Markov": {"sasrec": 3, "bert4rec": 3},
         "demo": {"sasrec": 2, "bert4rec": 2}}
FLAGS = {"sasrec": [], "bert4rec": ["--model", "random"]}   # of ours, beside the sizes; else the script's defaults
SAME = {"n_blocks": 2, "n_factors": WIDTH, "lr": 0.001, "loss": "softmax"}
ARGUMENTS = {"sasrec": SAME | {"n_heads": 4, "dropout_rate": 0.2},
             "bert4rec": SAME | {"n_heads": 2, "dropout_rate": 0.1, "mask_prob": 0.2,
                                 "transformer_layers_kwargs": {"ff_factors_multiplier": 2}}}
CATALOGUES, CATALOGUE_QUICK = (1000, 20_000, 55_000), (1000,)
CATALOGUE_LENGTH, CATALOGUE_BATCH = 50, 64


# --------------------------------------------------------------------------- worlds

class Markov:
    """Walks over items without return: a split whose last steps are the test, and the chances of those.

    The next item is drawn from 0.6 first[last] + 0.4 second[the one before], without the items already visited.
    A row of first or second gives chances falling by a quarter each to 16 items of its own, and 2 % to all.
    split; chances: float32 (U, V) of every user's last step
    """

    def __init__(self, size, seed=0):
        draw, v, n = np.random.default_rng(seed), size["items"], size["users"]
        first, second = _table(draw, v), _table(draw, v)
        length = draw.integers(LENGTH // 2, LENGTH + 1, n)
        walk, seen = np.empty((n, LENGTH), np.int64), np.zeros((n, v), bool)
        self.chances = np.zeros((n, v), np.float32)
        walk[:, 0] = draw.integers(v, size=n)
        for step in range(1, LENGTH):
            seen[np.arange(n), walk[:, step - 1]] = True
            chances = 0.6 * first[walk[:, step - 1]] + 0.4 * second[walk[:, max(step - 2, 0)]]
            chances[seen] = 0
            chances /= chances.sum(1, keepdims=True)
            last = length - 1 == step
            self.chances[last] = chances[last]
            total = chances.cumsum(1)
            walk[:, step] = (total < draw.random((n, 1)) * total[:, -1:]).sum(1)
        self.split = _split(walk, length, v)

    def optimum(self):
        """NDCG@10 of the best ranking, for the drawn answers and expected over answers."""
        from ranking import topk
        lists = topk.recommend(self.split, "test", K, scores=lambda codes: self.chances[codes])
        best = -np.sort(-self.chances, axis=1)[:, :K]
        return ndcg(lists, self.split).mean(), float((best / np.log2(np.arange(K) + 2)).sum(1).mean())


def _table(draw, v):
    own = draw.random((v, v)).argsort(axis=1)[:, :16]
    table = np.full((v, v), 0.02 / v)
    np.put_along_axis(table, own, np.take_along_axis(table, own, 1) + 0.98 * _falling(16), 1)
    return table


def _falling(n):
    weights = 0.75 ** np.arange(n)
    return weights / weights.sum()


def _split(walk, length, v):
    from dataset import Interactions, Split
    step = np.arange(walk.shape[1])

    def rows(there):
        user, at = np.nonzero(there)
        order = np.lexsort((walk[user, at], user))
        user, at = user[order], at[order]
        return Interactions(user, walk[user, at], np.ones(len(user), np.float32), at)
    train = rows(step < length[:, None] - 1)
    if len(np.unique(train.item)) < v:
        raise WorkError(f"not all of the {v} items occur in train; this world needs more users")
    return Split(Path(), np.arange(len(walk)), np.arange(v), v, train, {"test": rows(step == length[:, None] - 1)}, v,
                 "", "ordinal")


def ndcg(lists, split):
    """NDCG@10 of each user of test, a Series."""
    import metrics
    return metrics.evaluate(lists, split.truth("test"), (K,))[f"NDCG@{K}"]


# --------------------------------------------------------------------------- ours

class Ours:
    """One training of ours, epoch by epoch, without validation."""

    def __init__(self, name, split, epochs, seed, length=LENGTH, batch=BATCH):
        import torch
        device = torch.device("cpu")
        argv = [*FLAGS[name], *map(str, ["--hidden-dim", WIDTH, "--max-seq-len", length, "--batch-size", batch,
                                         "--epochs", epochs, "--seed", seed])]
        indptr, items = split.sequences()
        self.split, self.batch = split, batch
        if name == "sasrec":
            from recommenders.sasrec import __main__ as sasrec
            made = sasrec.prepare(split, sasrec.parse(argv), indptr, items, device)
        else:
            import train_bert
            args = train_bert.parse(argv)
            made = train_bert.prepare(split, args, train_bert.settings(args), indptr, items, device)
        self.training, self.sequences, self.encoder = made

    def epoch(self):
        """Train one epoch; its seconds."""
        from training.sequence_loop import train_epoch
        begin = time.perf_counter()
        train_epoch(self.training, self.sequences, self.batch, Progress(0, "ours"))
        return time.perf_counter() - begin

    def lists(self):
        from ranking import topk
        return topk.recommend(self.split, "test", K, users=self.encoder.users, items=self.encoder.items())


# --------------------------------------------------------------------------- theirs

class Peer:
    """RecTools in its own environment, kept alive between trainings."""

    def __init__(self, python, folder):
        self.folder = Path(folder)
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("_peers_rectools.py"))], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder)

    def fit(self, name, split, epochs, seed, length=LENGTH, batch=BATCH):
        """Train; the lists without what is hidden from test, and the seconds of each epoch."""
        import torch
        indptr, items = split.sequences()
        hidden = split.seen("test")
        user = np.repeat(np.arange(split.n_users), np.diff(indptr))
        wanted = split.eval_users("test")
        known = np.diff(hidden.indptr) - np.diff(indptr)     # val, which the peer does not know
        np.savez(self.folder / "data.npz", user=user, item=items, time=np.arange(len(items)), wanted=wanted)
        arguments = ARGUMENTS[name] | {"session_max_len": length, "batch_size": batch}
        asked = {"model": name, "arguments": arguments, "epochs": epochs, "seed": seed, "k": int(K + known.max()),
                 "threads": torch.get_num_threads(), "data": "data.npz", "out": "lists.npz"}
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            seconds = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise WorkError("RecTools does not run in the environment of PEERS_PYTHON; make it as "
                                 "python -m bench.peers --help says") from None
        return self.lists(split, hidden), seconds

    def lists(self, split, hidden):
        import pandas as pd
        with np.load(self.folder / "lists.npz", allow_pickle=False) as found:
            frame = pd.DataFrame({name: found[name] for name in ("user", "item", "rank", "score")})
        keys = np.repeat(np.arange(split.n_users), np.diff(hidden.indptr)) * split.n_items + hidden.indices
        frame = frame[~np.isin(frame["user"] * split.n_items + frame["item"], keys)].sort_values(["user", "rank"])
        frame["rank"] = frame.groupby("user").cumcount()
        frame = frame[frame["rank"] < K]
        return pd.DataFrame({"user_id": split.users[frame["user"]], "track_id": split.tracks[frame["item"]],
                             "rank": frame["rank"].to_numpy(), "score": frame["score"].to_numpy()})

    def close(self):
        self.process.communicate()


# --------------------------------------------------------------------------- rows

def compare(world, name, split, epochs, seeds, peer, best=None):
    """Rows of quality and of speed, seed by seed in turn; best: the optimum's NDCG@10, where it is known."""
    ours, theirs, seconds = [], [], {"ours": [], "theirs": []}
    for seed in range(1, seeds + 1):
        mine = Ours(name, split, epochs, seed)
        seconds["ours"] += [mine.epoch() for _ in range(epochs)][1:]
        ours.append(ndcg(mine.lists(), split).mean())
        if peer:
            lists, taken = peer.fit(name, split, epochs, seed)
            seconds["theirs"] += taken[1:]
            theirs.append(ndcg(lists, split).mean())
    what, note = f"{name}, {world}", f"{len(split.train)} plays, {split.n_hot} items, {epochs} epochs, {seeds} seeds"
    return [{"what": f"{what}: NDCG@{K}", **quality(ours, theirs, best, note)},
            {"what": f"{what}: training", **speed(split.n_users, seconds)}]


def quality(ours, theirs, best, note):
    from evaluation.intervals import mean_and_half_width
    mine = mean_and_half_width(ours)
    note += f"; ours ±{mine[1]:.4f}"
    if theirs:
        peer, apart = mean_and_half_width(theirs), mean_and_half_width(np.subtract(ours, theirs))
        note += f", theirs ±{peer[1]:.4f}, difference {apart[0]:+.4f} ±{apart[1]:.4f}"
    else:
        note += "; no baseline: PEERS_PYTHON names no environment of the peer (--help says how to make it)"
    if best:
        note += f"; optimum {best[0]:.4f} (expected {best[1]:.4f}), ours {1 - mine[0] / best[0]:.1%} below it"
        note += f", theirs {1 - peer[0] / best[0]:.1%}" if theirs else ""
    return {"ours": mine[0], "baseline": peer[0] if theirs else None, "unit": "",
            "ratio": mine[0] / peer[0] if theirs else None, "note": note}


def speed(users, seconds):
    import torch
    rate = {who: users / statistics.median(taken) if taken else None for who, taken in seconds.items()}
    return {"ours": rate["ours"], "baseline": rate["theirs"], "unit": "sequences/s",
            "ratio": rate["ours"] / rate["theirs"] if rate["theirs"] else None,
            "note": f"{torch.get_num_threads()} threads, median of {len(seconds['ours'])} epochs"}


def catalogue(items, users=1152):
    """Histories without an order to learn, in which every item occurs: a split, speed is all it is for."""
    from dataset import Interactions, Split
    draw = np.random.default_rng(0)
    item = np.resize(draw.permutation(items), users * (CATALOGUE_LENGTH + 1))
    item[items:] = draw.integers(items, size=max(len(item) - items, 0))
    user = np.repeat(np.arange(users), CATALOGUE_LENGTH)
    time = np.tile(np.arange(CATALOGUE_LENGTH), users)
    train = Interactions(user, item[:len(user)], np.ones(len(user), np.float32), time)
    test = Interactions(np.arange(64), item[len(user):][:64], np.ones(64, np.float32), np.full(64, CATALOGUE_LENGTH))
    return Split(Path(), np.arange(users), np.arange(items), items, train, {"test": test}, items, "", "ordinal")


def by_catalogue(sizes, repeats, peer):
    """Rows of training speed by the number of items."""
    from bench._compare import one_thread
    rows, size = [], {"length": CATALOGUE_LENGTH, "batch": CATALOGUE_BATCH}
    with one_thread():
        for items in sizes:
            split, epochs = catalogue(items), 1 if items >= 10_000 else 2
            for name in FLAGS:
                seconds = {"ours": [], "theirs": []}
                for seed in range(1, repeats + 1):
                    mine = Ours(name, split, epochs, seed, **size)
                    seconds["ours"] += [mine.epoch() for _ in range(epochs)][-1:]
                    seconds["theirs"] += peer.fit(name, split, epochs, seed, **size)[1][-1:] if peer else []
                rows.append({"what": f"{name}, training, {items:,} items, histories of {CATALOGUE_LENGTH}, batches of "
                                     f"{CATALOGUE_BATCH}", **speed(split.n_users, seconds)})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def share(name, split):
    """Row of the products of our step beside the machine's own."""
    import torch

    from bench.bert4rec import products, seconds
    from training.sequences import generator_of
    mine = Ours(name, split, 1, 1)
    users = mine.sequences.epoch(BATCH, generator_of(0))[0]
    batch = mine.training.batch(mine.sequences, users, generator_of(1))
    a, out = torch.randn(2048, 2048), torch.empty(2048, 2048)

    def step():
        mine.training.optimizer.zero_grad()
        mine.training.model.train().loss(*batch).backward()
        mine.training.optimizer.step()
    ours, machine = seconds([step, lambda: torch.mm(a, a, out=out)], 9)
    used, most = products(step) / ours / 1e9, 2 * 2048 ** 3 / machine / 1e9
    return {"what": f"{name}, products of our step", "ours": used, "baseline": most, "unit": "GFLOP/s",
            "ratio": used / most, "note": "baseline: the machine's own, a 2048 cube; the ratio is our share of it"}


def run(quick, catalogues=None):
    """catalogues: None, or numbers of items for the rows of `by_catalogue` instead, [] for its own."""
    import dataset
    python, size = os.environ.get("PEERS_PYTHON"), QUICK if quick else FULL
    if catalogues is not None:
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer(python, folder) if python else None
            try:
                return by_catalogue(catalogues or (CATALOGUE_QUICK if quick else CATALOGUES), 2 if quick else 5, peer)
            finally:
                if peer:
                    peer.close()
    markov, rows = Markov(size), []
    best = markov.optimum()
    demo = ROOT / "work" / "demo"
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, folder) if python else None
        for name in FLAGS:
            rows += compare("Markov", name, markov.split, size["Markov"][name], size["seeds"], peer, best)
            if (demo / "data" / "train.pqt").exists():
                rows += compare("demo", name, dataset.load(demo), size["demo"][name], size["seeds"], peer)
            rows.append(share(name, markov.split))
        if peer:
            peer.close()
    if not (demo / "data" / "train.pqt").exists():
        rows.append({"what": "demo", "note": "left out: there is no work/demo; make demo makes it"})
    return rows


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--catalogues", nargs="*", type=cli.whole_number(64), metavar="N",
                        help="training speed by numbers of items instead (default: 1000 20000 55000)")
    args = parser.parse_args(argv)
    print_rows("peers" if args.catalogues is None else "peers_catalogues", run(args.quick, args.catalogues))


if __name__ == "__main__":
    cli.run(main)
