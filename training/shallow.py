"""Training the Shallow Net: pairs and negatives, the model at its start, and the state that a checkpoint carries.

train.py is the command line. Data stay in tensors throughout: a batch is a few index operations, negatives are drawn
on the device.
"""
from dataclasses import dataclass

import numpy as np
import torch

import dataset
from harness import processes
from harness.errors import UsageError, WorkError
from model import LOSSES, ShallowEmbeddingModel, confidence
from training import fusion, parallel
from training.checkpoints import check_device
from training.early_stopping import EarlyStopping

RANDOM_DIM = 64           # dimensions of `random` where hidden_dim is 0, as published
PUBLISHED_USERS = 17_052  # the published code draws negative users from the first so many codes


# --------------------------------------------------------------------------- pairs and negatives

def generator(seed, stream, device="cpu"):
    """A torch generator for one purpose: stream 0 starts the model, 1 trains, 2 validates."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


class Pairs:
    """Pairs on the device, sorted by anchor, and the uniform draw of their negatives.

    anchors, positives: int64 (P,) tensors; weight: float32 (P,) or None
    n_others: number of codes on the positives' side; drawn: negatives are codes below this (default n_others)
    known: (anchors, positives) int64 arrays of pairs that are never negatives, or None to exclude none
    """

    def __init__(self, anchors, positives, weight, n_others, drawn=None, known=None):
        order = anchors.argsort(stable=True)
        self.anchors, self.positives = anchors[order], positives[order]
        self.weight = None if weight is None else weight[order]
        self.n_others, self.drawn = n_others, min(drawn or n_others, n_others)
        self.known = None if known is None else torch.unique(known[0] * n_others + known[1])

    def __len__(self):
        return len(self.anchors)

    def without_negatives(self):
        """Number of anchors without an eligible negative; `negatives` would never end for them."""
        if self.known is None:
            return 0
        taken = self.known[self.known % self.n_others < self.drawn] // self.n_others
        counts = torch.bincount(taken, minlength=int(self.anchors.max()) + 1)
        return int((counts[self.anchors.unique()] >= self.drawn).sum())

    def batches(self, size, negatives, draw, shuffle=True, done=0, then=None):
        """Yield anchors (b,), candidates (b, 1 + negatives) with the positive first, weight (b,) or None.

        done: batches of this order that are over; then: the state of `draw` after them.
        """
        device = self.anchors.device
        order = (torch.randperm(len(self), generator=draw, device=device) if shuffle
                 else torch.arange(len(self), device=device))
        if done:
            draw.set_state(then)
        for rows in order.split(size)[done:]:
            rows = rows.sort().values  # the mean does not care, the memory does
            anchors = self.anchors[rows]
            candidates = torch.cat([self.positives[rows, None], self.negatives(anchors, negatives, draw)], 1)
            yield anchors, candidates, None if self.weight is None else self.weight[rows]

    def negatives(self, anchors, n, draw):
        """Uniform codes (b, n); known positives among them are drawn again until none is left."""
        codes = torch.randint(self.drawn, (len(anchors), n), generator=draw, device=anchors.device)
        if self.known is None:
            return codes
        flat = codes.view(-1)
        wrong = self._positives(anchors.repeat_interleave(n), flat)
        while len(wrong):
            flat[wrong] = torch.randint(self.drawn, (len(wrong),), generator=draw, device=anchors.device)
            wrong = wrong[self._positives(anchors[wrong.div(n, rounding_mode="floor")], flat[wrong])]
        return codes

    def _positives(self, anchors, others):
        """Indices of the known pairs among the pairs of anchors (m,) and others (m,)."""
        keys = anchors * self.n_others + others
        place = torch.searchsorted(self.known, keys).clamp_(max=len(self.known) - 1)
        return (self.known[place] == keys).nonzero().squeeze(1)


# --------------------------------------------------------------------------- settings, model and pairs

@dataclass(frozen=True)
class Settings:
    """What the Shallow Net is trained on and how; the defaults are the published call's. train.py's flags say more."""
    model: str                        # embedding of the workspace, or "random" for ID embeddings
    sample_type: str = "item"         # anchor of a pair: "item" draws negative users for it, "user" negative items
    neg_samples: int = 20             # negatives per pair
    batch_size: int = 10_000          # pairs per step
    epochs: int = 100
    item_freeze: int = 1              # 1 freezes the item embeddings, 0 trains them; with as_published the reverse
    user_freeze: int = 0              # the same for the user embeddings
    user_init: int = 1                # initial user embeddings: 1 the mean of the history's items, 0 random
    dynamic_item_freeze: int = 0      # 1 freezes the items until the first plateau of what stop_on names
    hidden_dim: int = 0               # width of the shared layer; 0 for that of the embedding
    use_confidence: int = 0           # 1 weights a pair by 1 + 2 log(1 + plays)
    l2: float = 0.0                   # times the sum of squares of the trained parameters
    loss: str = "hinge"               # "hinge", "bpr" or "infonce"
    margin: float | None = 0.2        # of the hinge loss
    temperature: float | None = 0.1   # of the BPR and InfoNCE losses
    lr: float = 0.001                 # learning rate of Adam
    stop_on: str = "NDCG@10"          # what selects the epoch, on val: a metric, or "loss" (selection.py)
    patience: int = 16                # evaluations of val without a better value before training stops
    plateau: int = 5                  # such evaluations before the learning rate is divided by 10
    exclude_positives: bool = False   # never draw a known positive as a negative
    shuffle: bool = False             # permute the rows of the embedding by the seed
    missing: str = "fail"             # tracks without an embedding: "fail", or "mean" to fill with the mean
    scale: str = "none"               # of the embedding: "none", or "unit"
    fusion: str | None = None         # "delta" or "concat" of fusion.py; None: as item_freeze says
    delta_norm: float | None = None   # of delta
    as_published: bool = False        # with the freezing, the negative users and the penalty of the published code
    seed: int = 42


def item_vectors(split, settings, draw):
    """Initial item embeddings (n_hot, D), those of the cold items (n_cold, D) or None for random, and the
    fusion.Fusion or None."""
    if settings.model == "random":
        return torch.randn(split.n_hot, settings.hidden_dim or RANDOM_DIM, generator=draw), None, None
    seed = settings.seed if settings.shuffle else None
    if settings.fusion:
        unit = fusion.unit_content(split, [settings.model], settings.missing, seed)
        return fusion.table(split, settings.fusion, settings.delta_norm, unit, settings.hidden_dim or RANDOM_DIM, draw)
    vectors = torch.from_numpy(dataset.load_embedding(split, settings.model, settings.missing, seed, settings.scale))
    return vectors[:split.n_hot], vectors[split.n_hot:], None


def build(split, settings, device):
    """The model with its initial embeddings, and the vectors (n_cold, D) of the cold items (None for random)."""
    draw = generator(settings.seed, 0)
    items, cold, fused = item_vectors(split, settings, draw)
    if settings.user_init:
        history = split.matrix()
        users = torch.from_numpy(history @ items.numpy() / history.sum(axis=1).reshape(-1, 1)).float()
    else:
        users = torch.randn(split.n_users, items.shape[1], generator=draw)
    model = ShallowEmbeddingModel(items, users, settings.hidden_dim, draw).to(device)
    model.fusion = fused and fused.to(device)
    item_freeze = settings.item_freeze if settings.model != "random" or settings.as_published else 0
    model.freeze_item_embs(settings.dynamic_item_freeze or bool(item_freeze) != settings.as_published)
    model.freeze_user_embs(bool(settings.user_freeze) != settings.as_published)
    return model, None if cold is None else cold.to(device)


def pairs_of(part, split, settings, device):
    """Pairs of train or val in the roles of sample_type; with --exclude-positives val excludes train's, too."""
    def roles(pairs):
        user, item = torch.as_tensor(pairs.user, device=device), torch.as_tensor(pairs.item, device=device)
        return (item, user) if settings.sample_type == "item" else (user, item)
    own = split.part(part)
    weight = confidence(torch.as_tensor(own.count, device=device)) if settings.use_confidence else None
    known = None
    if settings.exclude_positives:
        both = [roles(split.part(p)) for p in dict.fromkeys(("train", part))]
        known = [torch.cat(side) for side in zip(*both, strict=True)]
    pairs = Pairs(*roles(own), weight, split.n_users if settings.sample_type == "item" else split.n_hot,
                  PUBLISHED_USERS if settings.as_published and settings.sample_type == "item" else None, known)
    if pairs.without_negatives():
        raise WorkError(f"--exclude-positives: {pairs.without_negatives()} {settings.sample_type}s of {part} leave "
                        "nothing to draw as a negative; leave the flag out")
    return pairs


class Training:
    """All that a step changes; `state` and `load` carry it through a checkpoint, bit for bit.

    settings: a Settings
    """
    COUNTERS = ("epoch", "step")

    def __init__(self, model, settings, device):
        self.model, self.settings = model, settings
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
        release = (lambda: model.freeze_item_embs(False)) if settings.dynamic_item_freeze else None
        self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience, self.optimizer,
                                      settings.plateau, release=release)
        if torch.device(device).type == "cuda":     # where pairs are drawn, which other models do with other results
            processes.check_same({"GPU model": torch.cuda.get_device_name(device)},
                                 "start the processes on GPUs of one model")
        self.draw = generator(settings.seed, 1, device)
        self.epoch = 0                      # epochs done
        self.step, self.opening = 0, None   # of the epoch under way: steps, and the state of `draw` before them
        self.total = torch.zeros((), dtype=torch.float64, device=device)   # and their summed loss

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "draw": self.draw.get_state(), "opening": self.opening, "total": self.total,
                "device": self.draw.device.type, "seed": self.settings.seed, "lr": self.settings.lr,
                **self.stopping.state(), **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch: all of the state, so that a run can be continued from there."""
        return self.state()

    def load(self, state, continued=False):
        """Take over a checkpoint; `continued` by a run of another request, whose own arguments then count."""
        ours = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        theirs = {k: tuple(v.shape) for k, v in state["model"].items()}
        if ours != theirs:
            raise UsageError(f"the run to continue has tables {theirs}, this request {ours}; "
                             "model, hidden_dim and split must be the same")
        check_device(state, self.draw.device)
        self.model.load_state_dict(state["model"])
        self.model.constrain()
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopping.load(state, continued)
        for name in self.COUNTERS:
            setattr(self, name, state[name])
        self.total.copy_(state["total"])
        self.opening = None if state["opening"] is None else state["opening"].cpu()
        if not continued or state["seed"] == self.settings.seed:
            self.draw.set_state(state["draw"].cpu())
        if continued and state["lr"] != self.settings.lr:
            self.stopping.set_learning_rate(self.settings.lr)

    def batches(self, pairs):
        """The remaining batches of this epoch."""
        now = self.draw.get_state()
        if self.step:
            self.draw.set_state(self.opening)
        else:
            self.opening = now
        return pairs.batches(self.settings.batch_size, self.settings.neg_samples, self.draw, done=self.step, then=now)

    def close_epoch(self, pairs):
        """Count the epoch; the mean loss over its pairs."""
        mean = float(self.total) / pairs
        self.epoch, self.step, self.opening = self.epoch + 1, 0, None
        self.total.zero_()
        return mean


def loss_of(model, batch, settings, penalty=True):
    """Loss of one batch of Pairs.batches, a scalar tensor."""
    anchors, candidates, weight = batch
    loss = LOSSES[settings.loss](model.scores(settings.sample_type, anchors, candidates), weight,
                             settings.margin if settings.loss == "hinge" else settings.temperature)
    return loss + settings.l2 * model.penalty(everything=settings.as_published) if settings.l2 and penalty else loss


def step(training, batch):
    """One step of Adam, of several processes each with its share of the batch; the loss before it, detached."""
    own = parallel.share(len(batch[0]))
    mine = tuple(x if x is None else x[own.rows] for x in batch)
    training.optimizer.zero_grad()
    loss = parallel.backward(training.model.parameters(), lambda: loss_of(training.model, mine, training.settings),
                             own)
    training.optimizer.step()
    training.model.constrain()
    training.step += 1
    training.total += loss * len(batch[0])
    return loss


def validation_loss(model, pairs, settings):
    """Mean loss over the pairs of val with the same negatives every time; the penalty only as published."""
    total = 0.0
    with torch.no_grad():
        draw = generator(settings.seed, 2, pairs.anchors.device)
        for batch in pairs.batches(settings.batch_size, settings.neg_samples, draw, shuffle=False):
            total += loss_of(model, batch, settings, penalty=settings.as_published).item() * len(batch[0])
    return total / len(pairs)
