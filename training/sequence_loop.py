"""Flags, content, training and output of a sequence model: what train_bert.py and recommenders/sasrec share.

A model is one of sequences.UserEncoder that also has `loss(*batch)`, whose batch ends in the targets, and
`freeze_item_embs(flag)`.
"""
from dataclasses import dataclass

from harness import cli
from harness.errors import UsageError
from harness.files import write_npy
from harness.progress import Progress
from training import fusion, histories, selection
from training.checkpoints import Checkpoints, check_device, check_loss, note_missing_val
from training.early_stopping import EarlyStopping, check_release
from training.epochs import EpochLog

NO_CONTENT = {"item_freeze": 1, "missing": "fail"}   # in the request of a run on random: both are about content


# --------------------------------------------------------------------------- flags

def flags(group, scale="default unit", published=False):
    """Add the flags of the histories' order, of the content and of the training.

    scale: words on its default; published: whether the method has --as-published
    """
    group.add_argument("--order", choices=histories.ORDERS, default="time",
                       help="order of a sequence: by time, or by play count with the most played last, which data "
                            "without times need; plays takes every play with its repeats from plays.pqt, not each "
                            "track once (default time)")
    group.add_argument("--scale", choices=("unit", "none"), default=None,
                       help="scale of the embedding: unit centres it on its hot tracks and divides it by one number, "
                            f"so that their mean squared length is 1; none takes it as it is ({scale})")
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                       help="number format of matrix products; parameters and sums stay float32 (default fp32)")
    group.add_argument("--shuffle", action="store_true",
                       help="permute the rows of the embedding by --seed (the shuffled control)")
    group.add_argument("--missing", choices=("fail", "mean"), default="fail",
                       help="tracks without an embedding: stop, or fill with the mean (default fail)")
    fusion.flags(group)
    selection.flags(group, published)
    group.add_argument("--checkpoint-seconds", type=cli.number(0), default=10.0, metavar="FLOAT",
                       help="least time between checkpoints, in seconds; they come at the end of epochs (default 10)")


def settle(parser, args, scale="unit"):
    """Refuse arguments that contradict each other; fill in --stop-on, and --scale, whose default is `scale`."""
    selection.settle(args)
    fusion.settle(parser, args)
    if args.model == "random" and args.shuffle:
        parser.error("--shuffle permutes an embedding; random has none")
    if args.model == "random" and args.scale is not None:
        parser.error("--scale is for an embedding; random has none")
    if args.fusion and args.scale == "none":
        parser.error(f"--fusion {args.fusion} brings each row to length 1; leave --scale none out")
    args.scale = args.scale or ("none" if args.model == "random" else "unit" if args.fusion else scale)


def check(split, dynamic_item_freeze, precision, device):
    """Refuse before anything is written what cannot work with this workspace or device."""
    from training.softmax import native_bf16
    check_release(split, dynamic_item_freeze)
    if precision == "bf16" and not native_bf16(device):
        raise UsageError(f"--precision bf16: this {device.type} has no bf16 arithmetic and would be slower; use fp32")


# --------------------------------------------------------------------------- the item table

def width_of(split, name):
    """Dimensions of the embedding of that name; 0 for random."""
    import dataset
    if name == "random":
        return 0
    return dataset.open_embedding(split.workdir, name, split.n_tracks, split.track_checksum).shape[1]


def content(split, name, missing="fail", shuffle=None, scale="unit", device="cpu"):
    """Vectors of the embedding of that name: float32 tensors (n_hot, D) and, on the device, (n_cold, D).

    missing, shuffle (a seed or None), scale: as for dataset.load_embedding
    """
    import torch

    import dataset
    vectors = torch.from_numpy(dataset.load_embedding(split, name, missing, shuffle, scale))
    return vectors[:split.n_hot], vectors[split.n_hot:].to(device)


def item_table(split, args, width, draw, device):
    """The item table at its start (n_hot, D), the vectors (n_cold, D) of the cold items, and the fusion.Fusion or None.

    args: a command line with `flags` on an embedding; width: of the transformer, and so of what --fusion adds, 0 for
    that of the embedding
    """
    seed = args.seed if args.shuffle else None
    if not args.fusion:
        return *content(split, args.model, args.missing, seed, args.scale, device), None
    unit = fusion.unit_content(split, [args.model], args.missing, seed, width or None)
    items, cold, fused = fusion.table(split, args.fusion, args.delta_norm, unit, width or unit.shape[1], draw)
    return items, cold.to(device), fused.to(device)


# --------------------------------------------------------------------------- what training changes

@dataclass(frozen=True)
class Settings:
    """How a model of sequences is trained."""
    epochs: int
    patience: int                  # evaluations of val without a better value before training stops
    plateau_patience: int          # such evaluations before the learning rate is multiplied by plateau_factor
    plateau_factor: float
    learning_rate: float           # of Adam
    betas: tuple = (0.9, 0.999)    # of Adam
    l2: float = 0.0                # times the sum of squares of the trained parameters
    dynamic_item_freeze: int = 0   # 1 releases the item embeddings at the first plateau of what stop_on names
    stop_on: str = "NDCG@10"       # what selects the epoch, on val: a metric, or "loss" (selection.py)
    seed: int = 42


class Training:
    """A model and all that training changes; `state` and `load` carry it through a checkpoint, bit for bit.

    Every step draws from a generator seeded by (seed, epoch, step), so a checkpoint holds these and no generator.
    settings: a Settings; whole: the item table can train, so that checkpoints hold it; else it is an input of the run;
    fused: the fusion.Fusion that limits how the table trains, None for no limit
    """
    COUNTERS = ("epoch", "step", "count")
    PLACES = 1   # of a batch: which tensor says where the targets are, (B, L) bool, in whose order they are

    def __init__(self, model, settings, whole=True, fused=None):
        import torch
        self.model, self.settings, self.whole, self.fused = model, settings, whole, fused
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, betas=settings.betas,
                                          weight_decay=2 * settings.l2, fused=True)
        if fused is not None:
            fused.decay_towards_content(model.items, 2 * settings.l2, self.optimizer)
        release = (lambda: model.freeze_item_embs(False)) if settings.dynamic_item_freeze else None
        self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience, self.optimizer,
                                      settings.plateau_patience, settings.plateau_factor, release)
        self.epoch = 0                                              # epochs done
        self.step, self.count = 0, 0                                # of the epoch under way: steps, masked items
        self.total = torch.zeros((), dtype=torch.float64, device=model.items.device)  # and their summed loss

    def constrain(self):
        """Bring the item table back to what its fusion allows, after a step of the optimiser."""
        if self.fused is not None:
            self.fused.constrain(self.model.items)

    def batch(self, sequences, users, draw):
        """What `model.loss` takes, targets last, of the users' histories; None where they hold no target."""
        raise NotImplementedError

    def shared(self, batch):
        """This process' part of a batch and its parallel.Share, weighted by targets: of all (B, L) its rows, and the
        targets in them."""
        from training import parallel
        own = parallel.share(len(batch[0]))
        if not own.divided:
            return batch, own
        places = batch[self.PLACES]
        first, n = int(places[:own.rows.start].sum()), int(places[own.rows].sum())
        mine = [x[own.rows] if x is not None and x.dim() == 2 else x for x in batch[:-1]]
        return (*mine, batch[-1][first:first + n]), own.reweighted(n, len(batch[-1]))

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def weights(self):
        return {k: v.detach().clone() for k, v in self.model.state_dict().items() if self.whole or k != "items"}

    def load_weights(self, weights):
        self.model.load_state_dict({"items": self.model.items.data} | weights)

    def state(self):
        return {"model": self.weights(), "optimizer": self.optimizer.state_dict(),
                "total": self.total, "device": self.total.device.type, **self.stopping.state(),
                **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch, with its value on val: the loss, or the metric that selected it."""
        value = self.stopping.selected()["best_value"]
        return {"model": self.weights(), "epoch": self.epoch, self.settings.stop_on: value}

    def load(self, state):
        check_device(state, self.total.device)
        self.load_weights(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopping.load(state)
        self.total.copy_(state["total"])
        for name in self.COUNTERS:
            setattr(self, name, state[name])


def train_epoch(training, sequences, batch_size, progress, checkpoints=None):
    """Train the epoch under way to its end; its mean loss. After every step `checkpoints` may save or stop."""
    import torch

    from training import parallel
    from training.sequences import generator_of
    model, optimizer, seed, epoch = training.model, training.optimizer, training.settings.seed, training.epoch
    batches = sequences.epoch(batch_size, generator_of(seed, 1, epoch))
    model.train()
    for users in batches[training.step:]:
        draw = generator_of(seed, 2, epoch, training.step)
        dropout_seed = parallel.own_seed(draw.initial_seed())
        torch.random.default_generator.manual_seed(dropout_seed)
        if sequences.device.type == "cuda":
            torch.cuda.manual_seed_all(dropout_seed)   # the device may not be the current one
        batch = training.batch(sequences, users, draw)
        training.step += 1
        progress.update(len(users), epoch=epoch + 1)
        if batch is not None:
            mine, own = training.shared(batch)
            optimizer.zero_grad()
            loss = parallel.backward(model.parameters(), lambda mine=mine: model.loss(*mine), own)
            optimizer.step()
            training.constrain()
            training.total += loss * len(batch[-1])
            training.count += len(batch[-1])
        if checkpoints is not None:
            checkpoints.after_step()
    mean = float(training.total) / max(training.count, 1)
    training.epoch, training.step, training.count = epoch + 1, 0, 0
    training.total.zero_()
    return mean


# --------------------------------------------------------------------------- the run

def fit(run, training, sequences, encoder, batch_size, args):
    """Train until done, from the run's last checkpoint where there is one; the best weights are loaded at the end.

    encoder: UserEncoder; args: the command line with `flags`
    """
    from training import parallel
    from training.validation import Validation
    split, epochs = encoder.split, training.settings.epochs
    serves = selection.HOT if encoder.cold is None else selection.BOTH
    validation = Validation.of(split, args, training.stopping, serves)
    checkpoints = Checkpoints(run, training, epoch_seconds=args.checkpoint_seconds)
    checkpoints.resume()
    note_missing_val(run.name, validation, epochs)
    users = len(sequences.lengths)
    with Progress(epochs * users, run.name, "sequences", initial=training.epoch * users) as progress:
        log = EpochLog(run, progress, training.epoch, epochs)
        while not training.done:
            losses = {"train": train_epoch(training, sequences, batch_size, progress, checkpoints)}
            vectors = None
            if "val" in split.parts:
                vectors = parallel.computed(encoder.users, encoder.codes)
                losses["val"] = encoder.loss(vectors)
            check_loss(training.epoch, *losses.values())
            result = validation.evaluate(training, lambda part, known=vectors: encoder.ranker(known), losses.get("val"))
            log.record(training.epoch, losses, result.values, lr=training.stopping.learning_rate())
            checkpoints.after_epoch(result.better)
    training.load_weights(checkpoints.best()["model"])


def finish(run, training, encoder, split, k, order, **results):
    """Write the learned vectors, the lists of k tracks and the metrics of every part, and close the run.

    order: of the items in a history, see training/histories.py; results: further entries of the run's config.json
    """
    import numpy as np

    from ranking import save
    from training import parallel
    parts, left_out, seed = list(split.parts), {}, training.settings.seed
    if encoder.cold is None:
        parts = list(split.hot_parts)
        left_out = {part: fusion.COLD_WITHOUT_CONTENT for part in split.parts if part not in parts}
    codes, items = np.arange(split.n_users), encoder.items()
    users = split.by_history(lambda part: parallel.computed(encoder.at(part, order).users, codes), ["val", *parts])
    means = save.write(run, split, k, seed, parts, users=users, items=items, device=encoder.sequences.device)
    write_npy(run.model_embeddings("users"), users["val"].cpu().numpy())   # by the history in train
    if training.whole:  # else they are the embedding
        write_npy(run.model_embeddings("items"), training.model.items.detach().cpu().numpy())
    flat = {f"best/{name}": float(value) for name, value in means.get("val", {}).items()}   # of the weights kept
    hyperparameters = run.request | run.request.get("config", {})
    run.writer().add_hparams({name: v for name, v in hyperparameters.items() if name != "config"}, flat, run_name=".",
                             global_step=training.epoch)
    run.finish(parts=sorted(parts), left_out=left_out, epochs=training.epoch, dim=int(training.model.items.shape[1]),
               items_released=training.stopping.released, order=order, **training.stopping.selected(), **results)
