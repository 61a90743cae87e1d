"""Training DTNMR: bags and shared windows against per-sample dense vectors. python -m bench.dtnmr [--quick]

Both train the same network (512, 64 -> 32; LSTM of 2 layers, 256; windows of 20 and 10; 5 candidates) with Adam on
the same points of a made-up world of the published size per song and user: about 9,200 bits, playlists of 21 to 200
plays with 20 before the first point, about 22 points per user, 8 places in the app. Unit: training points per second,
everything included: encoding, negatives, forward, backward, the optimiser's step. float32, all cores.

The baseline encodes as the source does: a Dataset that answers one point at a time, builds a dense vector for every
song of the playlist so far and for the candidates, clips their sum for the user, and a DataLoader that stacks them;
dense first layers, the two LSTM calls of each point on windows of their own. It is faster than the source in what is
not compared (columns are looked up once, not per call; float32 throughout). Its batches are the source's 16 points;
a second row gives both the same batch. The `encoding` row stops at the first layers: it makes the vectors (or bags)
of users, windows and candidates, and runs the first layer forward and backward, without LSTM or optimiser.

Two rows say what is left to gain, beside the baseline's whole step: ours with nothing but the playlists' part (song
embeddings of the windows, LSTM, head; forward and backward), and the bound, a step that is nothing but the LSTM's own
multiplications at the rate of one large product on this machine. Windows that begin alike are shared, others cannot
be: the LSTM starts afresh with each, so every point costs about 20 steps of 2 layers, whatever the encoding.
Before anything is timed both rate the same points alike to 1e-4.
"""
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import cli
from harness.errors import WorkError
from harness.files import write_csv, write_json, write_parquet

SIZES = {"genres": 130, "artists": 4050, "composers": 4950, "language": 10}


def write_world(workdir, n_users, n_songs=12000, seed=0):
    """A workspace as preprocess/kkbox/ leaves it, with random metadata and playlists."""
    import pandas as pd
    rng = np.random.default_rng(seed)
    write_csv(workdir / "trackid_sorted.csv",
                   pd.DataFrame({"idx": range(n_songs), "trackid": [f"{i:08d}" for i in range(n_songs)]}), index=False)
    items = {"track_id": np.arange(n_songs), "song_length": rng.uniform(60, 360, n_songs), "kept": True}
    for field, size in SIZES.items():
        one = np.char.add(f"{field[0]}", rng.permutation(np.r_[np.arange(size), rng.integers(size, size=n_songs)])
                          [:n_songs].astype(str))
        two = np.char.add(f"{field[0]}", rng.integers(size, size=n_songs).astype(str))
        items[field] = one if field == "language" else [
            list(pair) if more else [pair[0]] for *pair, more in zip(one, two, rng.random(n_songs) < 0.3, strict=True)]
    write_parquet(workdir / "items.pqt", pd.DataFrame(items))
    write_parquet(workdir / "users.pqt", pd.DataFrame({
        "user_id": range(n_users), "age": rng.integers(16, 60, n_users), "gender": rng.choice(["f", "m"], n_users),
        "city": rng.integers(1, 23, n_users)}))
    lengths = np.minimum(21 + rng.geometric(1 / 22, n_users), 199)
    user = np.repeat(np.arange(n_users), lengths)
    position = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    song = (n_songs * rng.random(len(user)) ** 2).astype(np.int64)
    tabs = np.array([f"tab {i}" for i in range(8)])[rng.integers(8, size=len(user))]
    points = pd.DataFrame({"user_id": user, "position": position, "track_id": song, "target": 1,
                           "part": np.where(position < 20, "history", "train"),
                           "source_system_tab": tabs})
    write_parquet(workdir / "points.pqt", points)
    pairs = points.drop_duplicates(["user_id", "track_id"])[["user_id", "track_id"]].assign(count=1)
    pairs["timestamp"] = pd.to_datetime(pairs.index.to_numpy(), unit="s")
    write_parquet(workdir / "data" / "train.pqt", pairs)
    write_json(workdir / "dataset.json", {"name": "bench", "time": "ordinal"})


class Plain:
    """The baseline: dense vectors made sample by sample, a network of dense layers started like ours."""

    def __init__(self, world, net, lr, rows, wrong, batch_size):
        import torch
        from torch import nn
        self.world, self.rows, self.wrong, self.net = world, rows, wrong, net
        self.loader = torch.utils.data.DataLoader(self, batch_size=batch_size)

        def mlp(layer):
            first = layer.rows if layer.numbers is None else torch.cat([layer.numbers, layer.rows])
            dense = nn.Linear(first.shape[0], first.shape[1])
            dense.weight.data.copy_(first.detach().T)
            dense.bias.data.copy_(layer.bias.detach())
            layers = [dense, nn.ReLU()]
            for linear in layer.rest:
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers)
        self.user, self.song = mlp(net.user), mlp(net.song)
        shared = [net.lstm, net.head, net.rate]
        self.parameters = list({id(p): p for m in (self.user, self.song, *shared) for p in m.parameters()}.values())
        self.parameters.append(net.product)
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)

    def __len__(self):
        return len(self.rows)

    def encode(self, bags, code, numbers=()):
        vector = np.zeros(len(numbers) + bags.size, np.float32)
        vector[:len(numbers)] = numbers
        vector[len(numbers) + bags.columns[bags.indptr[code]:bags.indptr[code + 1]]] = 1
        return vector

    def __getitem__(self, i):
        """user (bits,), long-term playlist (20, bits), behaviour (20, 9), candidates (5, bits), the label first."""
        world, lists, row = self.world, self.world.lists, self.rows[i]
        user, songs, length = lists.user[row], world.songs, world.songs.length
        playlist = [self.encode(songs.bags, s, length[s]) for s in lists.song[lists.indptr[user]:row]]
        union = np.clip(sum(playlist), 0, 1)[length.shape[1]:]
        window = lists.behaviour[max(lists.indptr[user], row - self.net.lengths["long"]):row]
        behaviour = np.eye(len(lists.behaviours), dtype=np.float32)[window]
        candidates = [self.encode(songs.bags, s, length[s]) for s in (lists.song[row], *self.wrong[i])]
        return (np.concatenate([self.encode(world.user_bags, user), union]),
                np.stack(playlist[-self.net.lengths["long"]:]), behaviour, np.stack(candidates))

    def rate(self, user, playlist, behaviour, candidates):
        """Ratings (B, C): every playlist has 20 songs or more, so windows stack."""
        import torch
        steps = torch.cat([self.song(playlist), behaviour], 2).transpose(0, 1)              # (20, B, E + 9)
        whole = self.user(user) + sum(self.net.head(self.net.lstm(x)[0][-1])
                                      for x in (steps, steps[-self.net.lengths["short"]:]))
        songs = self.song(candidates)
        beside = torch.cat([whole[:, None].expand_as(songs), songs], 2)
        return self.net.rate(beside).squeeze(2) + (songs * (whole * self.net.product)[:, None]).sum(2)

    def first_layers(self, user, playlist, behaviour, candidates):
        return self.user[0](user).sum() + self.song[0](playlist).sum() + self.song[0](candidates).sum()

    def train(self, encoding=False):
        """One pass over the points; with `encoding` the first layers forward and backward, and no step."""
        import torch
        for batch in self.loader:
            loss = self.first_layers(*batch) if encoding else torch.nn.functional.cross_entropy(
                self.rate(*batch), torch.zeros(len(batch[0]), dtype=torch.long))
            self.optimizer.zero_grad()
            loss.backward()
            if not encoding:
                self.optimizer.step()


def ours(training, batches, part="step"):
    """The same by Training of recommenders/dtnmr/training.py, as the recommender runs it, on batches of point rows.

    part: the whole step, or 'encoding' or 'playlists' alone, forward and backward
    """
    import torch
    world, net = training.playlists, training.model
    for rows in batches:
        if part == "step":
            training.learn(rows)
            continue
        users, ends, candidates = world.batch(rows, "train", world.subset_size, np.random.default_rng(0))
        net.zero_grad()
        if part == "playlists":
            net.dynamic(world.data, users, ends).sum().backward()
            continue
        back = torch.arange(1, net.lengths["long"] + 1)
        windows = world.data.song[(ends[:, None] - back).unique()].unique()
        (net.user_sums(world.data, users, ends).sum() + net.song_sums(world.data, windows).sum()
         + net.song_sums(world.data, candidates.unique()).sum()).backward()


def lstm_bound(training, batches):
    """Points per second of a step that is nothing but the LSTM's multiplications, at the rate of a large product."""
    import torch
    a, b, seconds = torch.rand(4096, 512), torch.rand(512, 1024), []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    rate = a.shape[0] * a.shape[1] * b.shape[1] / min(seconds)              # multiply-adds per second
    long, short = (training.model.lengths[name] for name in ("long", "short"))
    lstm, steps = training.model.lstm, 0
    for rows in batches:
        first, window = np.unique(np.r_[rows - long, rows - short], return_inverse=True)
        need = np.zeros(len(first), np.int64)
        np.maximum.at(need, window, np.repeat([long, short], len(rows)))
        steps += int(need.sum())
    weights = sum(w.numel() for w in lstm.parameters() if w.ndim == 2)
    return sum(map(len, batches)) * rate / (3 * steps * weights)            # one product forward, two backward


def check(training, plain):
    """WorkError unless both rate the same 16 points alike."""
    import torch
    net, world, rows = training.model, training.playlists, plain.rows[:16]
    candidates = np.concatenate([world.lists.song[rows, None], plain.wrong[:16]], 1)
    net.eval()
    with torch.no_grad():
        a = net(world.data, *map(torch.from_numpy, (world.lists.user[rows], rows, candidates)))
        b = plain.rate(*torch.utils.data.default_collate([plain[i] for i in range(16)]))
    net.train()
    if not torch.allclose(a, b, rtol=1e-4, atol=1e-4):
        raise WorkError(f"the two disagree by {(a - b).abs().max():.2g}")


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(training, what, batches, plain_size, plain_points, repeats, part="step"):
    """One row: ours on batches of point rows, the baseline on `plain_points` points in batches of `plain_size`."""
    world, draw = training.playlists, np.random.default_rng(1)
    rows = draw.choice(world.rows["train"], plain_points, replace=False)
    wrong = world.negatives["train"].draw(world.lists.user[rows], world.subset_size - 1, draw)
    plain = Plain(world, training.model, training.settings.lr, rows, wrong, plain_size)
    check(training, plain)
    ours(training, batches[:1], part)
    n, rates = sum(map(len, batches)), ([], [])
    for _ in range(repeats):
        rates[0].append(n / seconds(lambda: ours(training, batches, part)))
        rates[1].append(plain_points / seconds(lambda: plain.train(part == "encoding")))
    mine, theirs = (float(np.median(r)) for r in rates)
    bits = world.songs.bags.size + world.songs.length.shape[1]
    return {"what": what, "ours": mine, "baseline": theirs, "unit": "points/s", "ratio": mine / theirs,
            "note": f"{bits} bits; batches of {len(batches[0])} and {plain_size}; median of {repeats} alternating "
                    "repeats"}


def limits(training, batches, whole):
    """Rows of what is left to gain: the playlists' part alone, and the LSTM's multiplications alone."""
    n = sum(map(len, batches))
    alone = n / min(seconds(lambda: ours(training, batches, "playlists")) for _ in range(3))
    return [{**whole, "what": what, "ours": rate, "ratio": rate / whole["baseline"], "note": note}
            for what, rate, note in (
                ("playlists alone (ours) beside the whole step (baseline)", alone, "the best of 3"),
                ("bound: the LSTM's multiplications alone", lstm_bound(training, batches), "at the rate of a large "
                 "product; computed, not run"))]


def run(quick):
    import torch

    import dataset
    from recommenders.dtnmr import __main__ as dtnmr
    from recommenders.dtnmr.model import batches_of
    from recommenders.dtnmr.training import Settings, Training
    repeats = 3 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), n_users=200 if quick else 1000)
        args = dtnmr.parse(["--workdir", folder])
        playlists = dtnmr.read(dataset.load(folder), args, torch.device("cpu"))
        net = playlists.network(dtnmr.architecture_of(args), args.seed)
        training = Training(playlists, net, cli.settings(Settings, args))

        def some(size, points):
            world = training.playlists
            made = batches_of(world.rows["train"], world.lists.user, args.run_len, size, np.random.default_rng(1))
            return made[:max(1, points // size)]
        n, mine = (64, some(512, 1024)) if quick else (160, some(512, 4096))
        whole = compare(training, "whole step, the source's batch", mine, 16, n, repeats)
        return [compare(training, "first layers (encoding)", mine, 16, 2 * n, repeats, "encoding"), whole,
                compare(training, "whole step, equal batches", some(n, 2 * n), n, 2 * n, repeats),
                *limits(training, mine, whole)]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("dtnmr", argv))
