"""The two towers: features, network, in-batch softmax, and the state of a training.

__main__.py is the command line, index.py the index for serving.
Letters: U users, I items of train, n items with the cold ones last, F columns of an item, B pairs of a batch.

No tower sees an id. Columns of an item: log(1 + users who played it), log(1 + its plays), both counted in train,
then the embeddings, then the commonest values of the metadata fields asked for. Columns of a user: log(1 + tracks
played), log(1 + plays), then the mean of the items played. All but the field values are standardised. With --fusion the
item tower also reads what is trained for each item of train (trained.py); hidden with the counts, it is 0 then.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import dataset
from harness import processes
from harness.errors import UsageError, WorkError
from harness.metadata import read_table
from recommenders.two_tower.trained import COUNTS, SIZE, Trained
from training import fusion, parallel
from training.checkpoints import check_device
from training.early_stopping import EarlyStopping
from training.softmax import native_bf16

FIELD_VALUES = 200   # of a metadata field, the commonest among the items of train
HIDDEN = (256, 128)


# --------------------------------------------------------------------------- features

def standardise(matrix, rows):
    """Columns of (m, F) with mean 0 and spread 1 over `rows` (a slice); one that is constant there becomes 0.

    Constant is what spreads by a millionth of its mean, or of the widest column where that spreads by less than 1.
    """
    centre, spread = matrix[rows].mean(axis=0), matrix[rows].std(axis=0)
    spread[spread <= 1e-6 * np.maximum(min(1, spread.max()), np.abs(centre))] = np.inf
    return ((matrix - centre) / spread).astype(np.float32)


def item_columns(split, embeddings, fields=(), missing="fail", shuffle=None, unit=False):
    """float32 (n, F): counts, embeddings (names), fields (columns of items.pqt). Cold items have counts of 0 here.

    unit: the rows of the embeddings, together, have the length of the root of their columns, instead of the columns a
    spread of 1
    """
    hot = slice(0, split.n_hot)
    counts = [np.bincount(split.train.item, weights, minlength=split.n_items) for weights in (None, split.train.count)]
    blocks = [standardise(np.log1p(np.stack(counts, 1)), hot)]
    if unit:
        content = fusion.unit_content(split, embeddings, missing, shuffle)
        blocks.append(content * np.float32(math.sqrt(content.shape[1])))
    else:
        blocks += [standardise(dataset.load_embedding(split, name, missing, shuffle).astype(np.float64), hot)
                   for name in embeddings]
    blocks += [field_columns(split, field) for field in fields]
    return np.concatenate(blocks, axis=1)


def field_columns(split, field):
    """float32 (n, V <= 200): row i has 1 / sqrt(its values) at each of its values of a column of items.pqt."""
    import pandas as pd
    path = split.workdir / "items.pqt"
    table = read_table(path, "track_id", split.n_tracks)
    if table is None:
        raise UsageError(f"--fields {field}: {path} is missing, so the tracks have no metadata")
    if field not in table.column_names or field == "track_id":
        raise UsageError(f"--fields {field}: {path} has no such column; it has {', '.join(table.column_names)}")
    frame = table.select(["track_id", field]).filter(table["track_id"].is_valid()).to_pandas(ignore_metadata=True)
    codes = pd.Series(np.arange(split.n_items), index=split.tracks)
    pairs = pd.DataFrame({"item": frame["track_id"].map(codes), "value": frame[field]}).explode("value").dropna()
    pairs["value"] = pairs["value"].astype(str)
    pairs = pairs.drop_duplicates()
    counts = pairs["value"][pairs["item"] < split.n_hot].value_counts()
    commonest = counts.sort_index().sort_values(ascending=False, kind="stable").index[:FIELD_VALUES]
    if not len(commonest):
        raise WorkError(f"{path}: {field} has no value for any track of train")
    place = commonest.get_indexer(pairs["value"])
    matrix = np.zeros((split.n_items, len(commonest)), np.float32)
    matrix[pairs["item"][place >= 0].astype(np.int64), place[place >= 0]] = 1
    return matrix / np.sqrt(np.maximum(matrix.sum(axis=1, keepdims=True), 1))


class Data:
    """Tensors of a split on a device: pairs of train, columns of items, sums of each user's history.

    user, item: int64 (N,), sorted by user; plays: float32 (N,); items: float32 (n, F); content: how many of the F are
    of embeddings;
    log_q: float32 (I,), logarithm of the share of train's pairs that an item has, which is the probability
           that a column of a batch is that item
    """

    def __init__(self, split, columns, device="cpu", content=0):
        def tensor(array, dtype=None):
            return torch.as_tensor(array, dtype=dtype, device=device)
        self.device, self.n_hot, self.content = torch.device(device), split.n_hot, content
        self.user, self.item, self.plays = map(tensor, (split.train.user, split.train.item, split.train.count))
        history, plays = split.matrix(), np.asarray(split.matrix("count").sum(axis=1)).ravel()
        tracks, sums = np.diff(history.indptr), history @ columns[:split.n_hot]
        self.indptr, self.items = tensor(history.indptr, torch.int64), tensor(columns)
        pairs = np.maximum(np.bincount(split.train.item, minlength=split.n_hot), 1)   # unseen items are in no batch
        self.log_q = tensor(np.log(pairs / len(split.train)), torch.float32)
        self.cold = tensor(np.append(split.unseen, np.ones(split.n_items - split.n_hot, bool)))   # without plays
        self.history = torch.cat([tensor(np.stack([tracks, plays], 1), torch.float32), tensor(sums)], 1)  # (U, 2 + F)
        raw = self._raw(self.history).double()
        self.centre = raw.mean(0).float()
        self.spread = raw.std(0, correction=0).float()
        self.spread[self.spread < 1e-6 * self.centre.abs().clamp(min=1)] = torch.inf

    @staticmethod
    def _raw(history):
        tracks = history[:, :1]
        return torch.cat([history[:, :COUNTS].log1p(), history[:, COUNTS:] / tracks.clamp(min=1)], 1)

    def describe(self, history):
        """Columns (b, 2 + F) of users from their tracks, plays and sum of item columns (b, 2 + F)."""
        return (self._raw(history) - self.centre) / self.spread

    def histories(self, split, part):
        """What `describe` takes of every user's history at `part`, (U, 2 + F)."""
        if split.history_parts(part) == ("train",):
            return self.history
        history, plays = split.history(part), split.history(part, "count").sum(axis=1)
        played = [torch.as_tensor(np.asarray(x), dtype=torch.float32, device=self.device)
                  for x in (np.diff(history.indptr)[:, None], plays, history @ self.items[:self.n_hot].cpu().numpy())]
        return torch.cat(played, 1)

    def sums(self, items, plays=None):
        """(2 + F,) what `describe` takes, of somebody who played these item codes (m,), m may be 0."""
        items = torch.as_tensor(items, dtype=torch.int64, device=self.device)
        total = len(items) if plays is None else float(sum(plays))
        return torch.cat([self.items.new_tensor([len(items), total]), self.items[items].sum(0)])

    def without(self, pairs):
        """(b, 2 + F) histories of the users of pairs (b,), each without its own pair.

        A user's mean would otherwise contain the very item to be found, in training and never again.
        """
        own = torch.cat([torch.ones_like(self.plays[pairs, None]), self.plays[pairs, None],
                         self.items[self.item[pairs]]], 1)
        left = self.history[self.user[pairs]] - own
        return left * (left[:, :1] > 0)  # rounding leaves no trace of the only item

    def known(self, users, items):
        """bool (A, B): whether user a (A,) played item b (B,) in train."""
        distinct, column = items.unique(return_inverse=True)
        slot = torch.full((self.n_hot,), -1, device=self.device)
        slot[distinct] = torch.arange(len(distinct), device=self.device)
        start, length = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=self.device), length)
        place = torch.arange(len(row), device=self.device) + (start - length.cumsum(0) + length)[row]
        column_of = slot[self.item[place]]
        mask = torch.zeros(len(users), len(distinct), dtype=torch.bool, device=self.device)
        mask[row[column_of >= 0], column_of[column_of >= 0]] = True
        return mask[:, column]


# --------------------------------------------------------------------------- network

def tower(columns, dropout):
    layers, width = [], columns
    for size in HIDDEN:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, SIZE))


class Towers(nn.Module):
    """Vectors of length 1 of users and items; their score is the dot product over the temperature.

    trained: a Trained, or None: no item has a vector of its own
    """

    def __init__(self, columns, dropout=0.1, temperature=0.05, trained=None):
        super().__init__()
        self.user = tower(COUNTS + columns, dropout)
        self.item = tower(columns + 1 + (trained.added if trained else 0), dropout)
        self.trained, self.temperature = trained, temperature

    def users(self, described):
        """(b, 2 + F) -> (b, 128)"""
        return nn.functional.normalize(self.user(described).float(), dim=-1)

    def items(self, columns, hidden, codes):
        """(b, F), hidden (b,) bool: items whose counts are not to be seen, as a cold item's, codes (b,) -> (b, 128)"""
        hidden = hidden[:, None].to(columns.dtype)
        if self.trained is not None:
            columns = self.trained(columns, hidden, codes)
        seen = [columns[:, :COUNTS] * (1 - hidden), hidden, columns[:, COUNTS:]]
        return nn.functional.normalize(self.item(torch.cat(seen, 1)).float(), dim=-1)

    @torch.no_grad()
    def vectors(self, data, block=8192):
        """All users (U, 128) and items (n, 128) of a Data, float32; counts of items without plays hidden."""
        users = self.users_of(data, data.history, block)
        codes = torch.arange(len(data.items), device=data.device)
        items = torch.cat([self.items(*rows) for rows in zip(data.items.split(block), data.cold.split(block),
                                                             codes.split(block), strict=True)])
        return users, items

    @torch.no_grad()
    def users_of(self, data, histories, block=8192):
        """Users (n, 128) of histories (n, 2 + F), as Data.histories gives them."""
        self.eval()
        return torch.cat([self.users(data.describe(rows)) for rows in histories.split(block)])

    @torch.no_grad()
    def newcomer(self, data, items=(), plays=None):
        """(128,) of a listener who is not in train: by the tower from their plays (item codes), or, without any,
        the average listener."""
        self.eval()
        if len(items):
            return self.users(data.describe(data.sums(items, plays)[None]))[0]
        return nn.functional.normalize(self.vectors(data)[0].mean(0), dim=0)


# --------------------------------------------------------------------------- loss

def in_batch_softmax(scores, log_q, known, correction="standard", first=0):
    """Mean cross-entropy of each pair's own item among the items of the batch, a scalar.

    scores: (b, B), user of pair a with item of pair b, of the b pairs of the batch from number `first` on; log_q: (B,)
    of those items; known: bool (b, B), pairs of the user, that of the row among them: such columns are no negatives
    of their row, nor are repetitions of its own item.

    standard: every column's score minus log q (Yi et al., RecSys 2019), so that frequent items are not punished
              for being negatives often.
    unbiased: a column's chance to be in the batch weighs the negatives only, for the positive is there for
              certain (after Khrylchenko et al., RecSys 2025, arXiv 2507.09331): with weights 1 / ((B - 1) q)
              the row's sum is an unbiased estimate of the sum over all items the user has not played.
    off:      no correction.
    """
    place = torch.arange(first, first + len(scores), device=scores.device)   # of each row's own item
    own = place[:, None] == torch.arange(scores.shape[1], device=scores.device)
    scores = scores.float()
    if correction == "standard":
        scores = scores - log_q
    elif correction == "unbiased":
        scores = torch.where(own, scores, scores - log_q - math.log(max(scores.shape[1] - 1, 1)))
    scores = scores.masked_fill(known & ~own, -torch.inf)
    return nn.functional.cross_entropy(scores, place)


# --------------------------------------------------------------------------- training

def pick_precision(name, device):
    """'fp32', 'bf16' or 'fp16' for --precision on a device; UsageError where it would be emulated."""
    cuda = device.type == "cuda"
    native = native_bf16(device)
    if name == "auto":
        return ("bf16" if native else "fp16") if cuda else "fp32"
    if (name == "fp16" and not cuda) or (name == "bf16" and not native):
        raise UsageError(f"--precision {name}: this {device.type} has no {name} arithmetic; use auto or fp32")
    return name


@dataclass(frozen=True)
class Settings:
    """How the towers are trained."""
    temperature: float = 0.05     # of the softmax over a batch
    hide: float = 0.1             # share of a batch's items whose counts are hidden
    dropout: float = 0.1          # of both towers
    logq: str = "standard"        # correction of in_batch_softmax
    lr: float = 0.001             # learning rate of AdamW
    l2: float = 0.01              # weight decay of AdamW
    batch_size: int = 1024        # pairs per step
    epochs: int = 100
    stop_on: str = "NDCG@10"      # what selects the epoch, on val: a metric, or "loss" (training/selection.py)
    patience: int = 5             # evaluations of val without a better value before training stops
    precision: str = "auto"       # of pick_precision
    fusion: str | None = None     # what is trained for each item: None, or the kind of a Trained
    delta_norm: float | None = None   # of delta
    seed: int = 42


def build(data, settings):
    """The towers at their start."""
    trained = settings.fusion and Trained(settings.fusion, data.n_hot, data.content, settings.delta_norm)
    return Towers(data.items.shape[1], settings.dropout, settings.temperature, trained).to(data.device)


class Training:
    """Everything a checkpoint carries: towers, optimiser, scaler, epochs and steps done.

    data: a Data; settings: a Settings
    """
    COUNTERS = ("epoch", "step", "total")

    def __init__(self, data, settings):
        self.data, self.settings = data, settings
        torch.manual_seed(settings.seed)
        self.towers = build(data, settings)
        self.optimizer = torch.optim.AdamW(self.towers.parameters(), lr=settings.lr, weight_decay=settings.l2)
        self.precision = pick_precision(settings.precision, data.device)
        self.scaler = torch.amp.GradScaler(data.device.type, enabled=self.precision == "fp16")
        self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience)
        self.epoch, self.step, self.total = 0, 0, 0.0   # epochs done; of the one under way: steps, summed loss

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def state(self):
        return {"towers": self.towers.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(), "device": self.data.device.type, "precision": self.precision,
                **self.stopping.state(), **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch."""
        return self.state()

    def load(self, state):
        check_device(state, self.data.device, self.precision)
        self.towers.load_state_dict(state["towers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.stopping.load(state)
        for name in self.COUNTERS:
            setattr(self, name, state[name])

    def batches(self):
        """This epoch's batches of pairs, nearly equal in size, from the present step on."""
        pairs = len(self.data.user)
        order = np.random.default_rng([self.settings.seed, 1, self.epoch]).permutation(pairs)
        order = torch.as_tensor(order, device=self.data.device)
        return order.tensor_split(math.ceil(pairs / self.settings.batch_size))[self.step:]

    def learn(self, pairs):
        """One step. Its dropout and hidden counts come from (seed, epoch, step), so a resumed run repeats them."""
        stream = np.random.SeedSequence([self.settings.seed, 2, self.epoch, self.step])
        seed = int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1))
        torch.manual_seed(seed)
        self.towers.train()
        hidden = torch.rand(len(pairs), device=self.data.device) < self.settings.hide
        if processes.world() > 1:
            torch.manual_seed(parallel.own_seed(seed))   # of dropout
        self.optimizer.zero_grad(set_to_none=True)
        own = parallel.share(len(pairs))
        loss = parallel.backward(self.towers.parameters(), lambda: self.loss(pairs, hidden, own), own,
                                 self.scaler.scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.towers.trained is not None:
            self.towers.trained.constrain()
        self.step += 1
        self.total += float(loss) * len(pairs)

    def loss(self, pairs, hidden, own):
        """Mean loss of the pairs (B,) of a batch that are this process' share, among the items of the whole batch.

        hidden: bool (B,), items whose counts are not seen; own: a parallel.Share
        """
        data, towers, mine = self.data, self.towers, pairs[own.rows]
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(data.device.type, half, enabled=half is not None):
            users = towers.users(data.describe(data.without(mine)))
            items = towers.items(data.items[data.item[mine]], hidden[own.rows], data.item[mine])
        items, codes = parallel.gathered(items, own), data.item[pairs]
        return in_batch_softmax(users @ items.T / towers.temperature, data.log_q[codes],
                                data.known(data.user[mine], codes), self.settings.logq, own.rows.start)

    def close_epoch(self):
        """Count the epoch; the mean loss over its pairs."""
        mean = self.total / len(self.data.user)
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        return mean

    @torch.no_grad()
    def validation_loss(self, split):
        """The training loss over the pairs of val, whose batches are the same every time; nothing is dropped or hidden.

        Tracks that a user has in val are no negatives, nor are those of train.
        """
        data, towers, val, total = self.data, self.towers, split.part("val"), 0.0
        towers.eval()
        pairs = torch.as_tensor(val.user * split.n_items + val.item, device=data.device)
        order = np.random.default_rng([self.settings.seed, 3]).permutation(len(val))
        for rows in np.array_split(order, math.ceil(len(val) / self.settings.batch_size)):
            user, item = (torch.as_tensor(x[rows], device=data.device) for x in (val.user, val.item))
            users = towers.users(data.describe(data.history[user]))
            scores = users @ towers.items(data.items[item], data.cold[item], item).T / towers.temperature
            known = data.known(user, item) | torch.isin(user[:, None] * split.n_items + item, pairs)
            total += in_batch_softmax(scores, data.log_q[item], known, self.settings.logq).item() * len(rows)
        return total / len(val)
