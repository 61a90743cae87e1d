"""The training of a network on examples that are rows of a table: flags, state, loop, checkpoints, early stopping.

    class Contrastive(network_loop.Training):
        def loss_with(self, items): ...

    training = Contrastive(network, len(items), cli.settings(network_loop.Settings, args))
    network_loop.fit(run, training, split, args, ranker, selection.COLD)

What an example is, a user, an item, a pair, is the method's own. recommenders/content_elsa.py is the shortest example.
Of several processes (training/parallel.py) each draws the whole batch and computes the loss of its share.
"""
from dataclasses import dataclass

from harness import cli, processes
from harness.progress import Progress
from training import selection
from training.checkpoints import Checkpoints, check_device, check_loss, note_missing_val
from training.early_stopping import EarlyStopping
from training.epochs import EpochLog


@dataclass(frozen=True)
class Settings:
    """lr, l2: learning rate and weight decay of AdamW; the rest as the flags say."""
    lr: float
    l2: float
    batch_size: int
    epochs: int
    patience: int
    stop_on: str
    seed: int


def flags(parser, examples, lr, batch_size, epochs, patience, l2=0.0, **selected):
    """Add the flags of a training with their defaults.

    examples: what a step takes some of, in the plural; selected: what selection.flags takes
    """
    group = parser.add_argument_group("training")
    group.add_argument("--lr", type=cli.learning_rate, default=lr, metavar="FLOAT",
                       help=f"learning rate of AdamW (default {lr:g})")
    group.add_argument("--l2", type=cli.number(0), default=l2, metavar="FLOAT",
                       help=f"weight decay of AdamW (default {l2:g})")
    group.add_argument("--batch-size", type=cli.positive, default=batch_size, metavar="N",
                       help=f"{examples} per training step (default {batch_size})")
    group.add_argument("--epochs", type=cli.positive, default=epochs, metavar="N",
                       help=f"largest number of epochs (default {epochs})")
    group.add_argument("--patience", type=cli.positive, default=patience, metavar="N",
                       help=f"evaluations of val without a better value before training stops (default {patience})")
    selection.flags(group, **selected)
    group.add_argument("--checkpoint-seconds", type=cli.number(0), default=10.0, metavar="FLOAT",
                       help="least time between checkpoints, in seconds (default 10)")
    return group


def parse(parser, argv, published):
    """A command line whose --as-published stands for the values `published` of the options that are not given."""
    args = parser.parse_args(argv)
    if args.as_published:
        parser.set_defaults(**published)
        args = parser.parse_args(argv)
    selection.settle(args)
    return args


def request(args):
    """The entries of a run's request that these flags make."""
    return {name: getattr(args, name) for name in ("lr", "l2", "batch_size", "epochs", "patience", "stop_on",
                                                   "eval_every", "val_users")}


class Training:
    """A network and all that training changes; `state` and `load` carry it through a checkpoint, bit for bit.

    Every step draws from a generator seeded by (seed, epoch, step), so a checkpoint holds these and no generator.
    network: nn.Module on its device; examples: how many an epoch has; settings: a Settings
    """
    COUNTERS = ("epoch", "step", "total")
    OWN_LOSS = False   # whether the loss that --stop-on loss follows needs no val part

    def __init__(self, network, examples, settings):
        import torch

        from training import parallel
        self.network, self.examples, self.settings = parallel.prepare(network), examples, settings
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.l2)
        self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience)
        self.epoch, self.step, self.total = 0, 0, 0.0   # epochs done; of the one under way: steps, summed loss

    def batch(self, rows, draw):
        """What `loss_with` takes of a batch, each with a row for each example (b, ...): the examples and all draws.

        rows: int64 (b,) on the device, of 0..examples-1; draw: CPU generator of this step
        """
        return (rows,)

    def loss_with(self, *batch):
        """Mean loss of what `batch` gives, or of some of its rows, a scalar with a gradient."""
        raise NotImplementedError

    def loss(self, rows, draw, own=None):
        """Mean loss of a batch, a scalar with a gradient; rows, draw: see `batch`; own: the parallel.Share of it that
        counts here, None for all."""
        batch = self.batch(rows, draw)
        return self.loss_with(*(batch if own is None else (x[own.rows] for x in batch)))

    def validation_loss(self, split):
        """The loss on val, or on what the method holds out by itself, for --stop-on loss; None where it has none."""
        return None

    def selection_loss(self, losses):
        """What --stop-on loss follows of the losses of an epoch, {"train": mean, "val": where there is one}; None for
        nothing."""
        return losses.get("val")

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def weights(self):
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def state(self):
        return {"network": self.weights(), "optimizer": self.optimizer.state_dict(), "device": self.device.type,
                **self.stopping.state(), **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch."""
        return {"network": self.weights(), "epoch": self.epoch}

    def load(self, state):
        check_device(state, self.device)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopping.load(state)
        for name in self.COUNTERS:
            setattr(self, name, state[name])

    def batches(self):
        """This epoch's batches of rows in random order, from the present step on."""
        import torch

        from training.sequences import generator_of
        order = torch.randperm(self.examples, generator=generator_of(self.settings.seed, 1, self.epoch))
        return order.split(self.settings.batch_size)[self.step:]

    def learn(self, rows):
        """One step; dropout, too, comes from (seed, epoch, step), by a stream that is not `draw`'s."""
        import torch

        from training import parallel
        from training.sequences import generator_of
        draw = generator_of(self.settings.seed, 2, self.epoch, self.step)
        torch.manual_seed(parallel.own_seed(generator_of(self.settings.seed, 3, self.epoch, self.step).initial_seed()))
        self.network.train()
        rows, own = rows.to(self.device), parallel.share(len(rows))
        self.optimizer.zero_grad(set_to_none=True)
        loss = parallel.backward(self.network.parameters(), lambda: self.loss(rows, draw, own), own)
        self.optimizer.step()
        self.step += 1
        self.total += float(loss) * len(rows)

    def close_epoch(self):
        """Count the epoch; the mean loss over its examples."""
        mean = self.total / self.examples
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        return mean


def fit(run, training, split, args, ranker, serves):
    """Train until done, from the run's last checkpoint where there is one; the best weights are loaded at the end.

    ranker: function of a part giving what topk.recommend takes, called in evaluation mode without gradients;
    serves: HOT, COLD or BOTH of selection.py, the parts on which the epoch is selected
    """
    import torch

    from training.validation import Validation
    epochs = training.settings.epochs
    checkpoints = Checkpoints(run, training, args.checkpoint_seconds, args.checkpoint_seconds)
    checkpoints.resume(training.device)
    validation = Validation.of(split, args, training.stopping, serves)
    note_missing_val(run.name, validation, epochs, training.OWN_LOSS)

    def ranked(part):
        training.network.eval()
        with torch.no_grad():
            return ranker(part)
    with Progress(epochs * training.examples, run.name, "examples",
                  initial=training.epoch * training.examples) as progress:
        log = EpochLog(run, progress, training.epoch, epochs)
        while not training.done:
            for rows in training.batches():
                training.learn(rows)
                progress.update(len(rows), epoch=training.epoch + 1)
                check_loss(training.epoch + 1, training.total)
                checkpoints.after_step()
            losses = {"train": training.close_epoch()}
            known = training.OWN_LOSS or "val" in split.parts
            held_out = processes.from_main(lambda: training.validation_loss(split)) if known else None
            if held_out is not None:
                losses["val"] = held_out
            result = validation.evaluate(training, ranked, training.selection_loss(losses))
            log.record(training.epoch, losses, result.values)
            checkpoints.after_epoch(result.better)
    training.network.load_state_dict(checkpoints.best(training.device)["network"])
    training.network.eval()
