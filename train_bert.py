"""Train BERT4Rec on an embedding of the workspace, then recommend for every part of the split.

    python train_bert.py mert item 100 128 200 1 0 "bert_baseline" 1 0 1024 0 0.0
    python train_bert.py --model musicnn --hidden-dim 64 --order count --shuffle

Every place of the published call has a default and is a flag, too. The model is in bert4rec.py, what the
command line does not say in bert4rec.yaml. A user is asked for with the latest max_seq_len - 1 items of train
and a mask behind them. The validation loss is the cross-entropy of the val tracks at that mask.
Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2.
"""
import argparse
import math
import sys
import time

import runs
from runs import UsageError, WorkError

NEEDS = ("embedding", "order")
COLD = True
RECORDED = ("sample_type", "user_freeze", "user_init", "use_confidence")
PUBLISHED_BATCH, PUBLISHED_WINDOW = 128, 50  # the published code trains and predicts with these, whatever is asked
COLD_WITHOUT_CONTENT = "random has no content: a track nobody played keeps an untrained vector"


# --------------------------------------------------------------------------- the command line

def whole(low):
    def convert(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, not {text}")
        return int(text)
    return convert


def number(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


def one_of(*values):
    def convert(text):
        if text not in values:
            raise argparse.ArgumentTypeError(f"must be {' or '.join(values)}, not {text}")
        return int(text) if text.isdecimal() else text
    return convert


PLACES = (  # name, type, default, help; in the order of the published call
    ("model", str, "musicnn", "embedding of the workspace, or random: no content, item embeddings of hidden_dim "
                              "that always train (a dynamic_item_freeze still holds them at first)"),
    ("sample_type", one_of("item", "user"), "item", "recorded only: sequences have neither"),
    ("max_seq_len", whole(2), 100, "positions of a sequence; longer histories count with their latest part"),
    ("batch_size", whole(1), 128, "sequences per step"),
    ("epochs", whole(1), 200, "epochs at most"),
    ("item_freeze", one_of("0", "1"), 1, "1 freezes the item embeddings, 0 trains them; the mask always trains"),
    ("user_freeze", one_of("0", "1"), 0, "recorded only: the model has no user embeddings"),
    ("comment", str, "", "free words in the run's name"),
    ("user_init", one_of("0", "1"), 1, "recorded only: the model has no user embeddings"),
    ("dynamic_item_freeze", one_of("0", "1"), 0,
     "1 freezes the items at first, whatever item_freeze says, and releases them at the first plateau of the "
     "validation loss, where else the learning rate would fall"),
    ("hidden_dim", whole(0), 0, "width of the transformer, 0 for the embedding's; another width than the embedding's "
                                "adds a learned projection in and one out"),
    ("use_confidence", one_of("0", "1"), 0, "recorded only: every item of a sequence weighs the same"),
    ("l2", number, 0.0, "penalty: this times the sum of squares of the trained parameters (its gradient is added)"),
)


def build_parser():
    names = [p[0] for p in PLACES]
    parser = runs.Parser(prog="train_bert.py", description=__doc__,
                         usage=f"%(prog)s [{' ['.join(names)}{']' * len(names)} [flags]")
    parser.add_argument("places", nargs="*", metavar="ARGUMENT", help="the published places, in order of the flags:")
    group = parser.add_argument_group("published arguments")
    for name, kind, default, text in PLACES:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, metavar="X",
                           help=text + ("" if default == "" else f" (default {default})"))
    group = parser.add_argument_group("training")
    group.add_argument("--config", metavar="FILE", help="YAML whose keys go over those of bert4rec.yaml")
    group.add_argument("--lr", type=number, metavar="X", help="rate of Adam (default: learning_rate of the YAML)")
    group.add_argument("--patience", type=whole(1), metavar="N",
                       help="epochs without a better validation loss (default: patience of the YAML)")
    group.add_argument("--order", choices=("time", "count"), default="time",
                       help="of a sequence: time, or most played last, which data without times need (default time)")
    group.add_argument("--scale", choices=("unit", "none"), default=None,
                       help="unit centres the embedding on its hot tracks and divides it by one number, so that their "
                            "mean squared length is 1; none takes it as it is (default unit; none with --as-published)")
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                       help="of matrix products; parameters and sums stay float32 (default fp32)")
    group.add_argument("--shuffle", action="store_true", help="permute the embedding's rows by --seed (the control)")
    group.add_argument("--missing", choices=("fail", "mean"), default="fail",
                       help="tracks without an embedding: stop, or fill with the mean (default fail)")
    group.add_argument("--as-published", action="store_true",
                       help="item_freeze 1 trains and 0 freezes, batches hold 128 whatever batch_size says, lists are "
                            "asked for with the last 50 positions, the softmax also covers mask and pad, --scale none")
    group.add_argument("--eval-every", type=whole(1), default=5, help="epochs between metrics on val (default 5)")
    group.add_argument("--checkpoint-seconds", type=number, default=10.0,
                       help="least time between checkpoints; they come at the end of epochs (default 10)")
    group.add_argument("--k", type=runs.positive, default=100, help="length of the lists (default 100)")
    runs.common_flags(parser, device=True)
    return parser


def parse(argv=None):
    """The command line with places and flags merged; every argument checked."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if len(args.places) > len(PLACES):
        names = " ".join(p[0] for p in PLACES)
        parser.error(f"takes at most {len(PLACES)} arguments ({names}), not {len(args.places)}")
    for i, (name, kind, default, _) in enumerate(PLACES):
        flag = getattr(args, name)
        try:
            place = kind(args.places[i]) if i < len(args.places) else None
        except argparse.ArgumentTypeError as e:
            parser.error(f"argument {i + 1}, {name}: {e}")
        if None not in (place, flag) and place != flag:
            parser.error(f"{name} is {place} in place {i + 1} and {flag} as a flag; give it once")
        setattr(args, name, next((v for v in (place, flag) if v is not None), default))
    del args.places
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, not {args.seed}")
    if args.lr == 0:
        parser.error("--lr must be above 0")
    if args.model == "random" and args.shuffle:
        parser.error("--shuffle permutes an embedding; random has none")
    if args.model == "random" and args.scale is not None:
        parser.error("--scale is for an embedding; random has none")
    args.scale = args.scale or ("none" if args.as_published or args.model == "random" else "unit")
    if args.as_published and args.dynamic_item_freeze:
        parser.error("the published code reads dynamic_item_freeze and never uses it; give 0 with --as-published")
    return args


def request_of(args, config):
    """Every argument that can change the result; what is recorded only stands in the manifest's arguments."""
    apart = {"workdir", "device", "overwrite", "eval_every", "checkpoint_seconds", "config", "lr", "patience"}
    apart |= {*RECORDED}
    return {k: v for k, v in sorted(vars(args).items()) if k not in apart} | {"config": config}


def defaults():
    """The request of the bare call: what the tables compare other requests with."""
    args = parse([])
    return request_of(args, settings(args))


def settings(args):
    """Config of the run: bert4rec.yaml, --config over it, --lr and --patience over both."""
    import bert4rec
    config = bert4rec.load_config(args.config)
    return config | {k: v for k, v in (("learning_rate", args.lr), ("patience", args.patience)) if v is not None}


# --------------------------------------------------------------------------- what is trained on what

def build(split, args, config, device):
    """The model at its start, the vectors (n_cold, D) of the cold items (None for random), and whether the item
    table can ever train."""
    import torch

    import bert4rec
    import dataset
    draw = bert4rec.generator_of(args.seed, 0)
    if args.model == "random":
        dim = args.hidden_dim or config["random_dim"]
        items, cold = torch.randn(split.n_hot, dim, generator=draw) * config["initializer_range"], None
    else:
        vectors = dataset.load_embedding(split, args.model, args.missing, shuffle=args.seed if args.shuffle else None)
        if args.scale == "unit":
            vectors = bert4rec.unit_scale(vectors, split.n_hot)
        vectors = torch.from_numpy(vectors)
        items, cold = vectors[:split.n_hot], vectors[split.n_hot:].to(device)
    freeze = args.model != "random" and bool(args.item_freeze) != args.as_published
    waits = bool(args.dynamic_item_freeze)
    torch.random.default_generator.manual_seed(draw.initial_seed())  # transformers draws its start from this one
    model = bert4rec.BERT4Rec(items, config, args.max_seq_len, args.hidden_dim, freeze or waits,
                              whole_softmax=args.as_published, bf16=args.precision == "bf16").to(device)
    return model, cold, not freeze or waits


class Training:
    """A model and all that training changes; `state` and `load` carry it through a checkpoint, bit for bit.

    Every step draws from a generator seeded by (seed, epoch, step), so its place is all there is to remember.
    whole: the item table can train, so that checkpoints hold it; else it is an input of the run
    """
    PLACE = ("epoch", "step", "waited", "best_epoch", "count", "best_loss", "released")

    def __init__(self, model, args, config, whole=True):
        import torch
        self.model, self.args, self.config, self.whole = model, args, config, whole
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"],
                                          weight_decay=2 * args.l2, fused=True)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=config["plateau_factor"], patience=config["plateau_patience"])
        self.epoch = self.waited = self.best_epoch = 0              # epochs done
        self.step, self.count = 0, 0                                # of the epoch under way: steps, masked items
        self.total = torch.zeros((), dtype=torch.float64, device=model.items.device)  # and their summed loss
        self.best_loss, self.released = math.inf, False

    @property
    def done(self):
        return self.epoch >= self.args.epochs or self.waited >= self.config["patience"]

    def weights(self):
        return {k: v.detach().clone() for k, v in self.model.state_dict().items() if self.whole or k != "items"}

    def load_weights(self, weights):
        self.model.load_state_dict({"items": self.model.items.data} | weights)

    def state(self):
        return {"model": self.weights(), "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(), "total": self.total, "device": self.total.device.type,
                **{name: getattr(self, name) for name in self.PLACE}}

    def load(self, state):
        if state["device"] != self.total.device.type:
            raise UsageError(f"this training began on {state['device']} and continues there only; "
                             f"use --device {state['device']}, or --overwrite to start again")
        self.load_weights(state["model"])
        if state["released"]:
            self.model.freeze_item_embs(False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.total.copy_(state["total"])
        for name in self.PLACE:
            setattr(self, name, state[name])

    def rate(self):
        return self.optimizer.param_groups[0]["lr"]

    def judge(self, loss):
        """Take note of an epoch's validation loss; True when it is the best so far."""
        before = self.rate()
        self.scheduler.step(loss)
        if self.args.dynamic_item_freeze and not self.released and self.rate() < before:
            for group in self.optimizer.param_groups:
                group["lr"] = before
            self.released, self.waited = True, 0
            self.model.freeze_item_embs(False)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = loss, self.epoch, 0
            return True
        self.waited += 1
        return False


def train_epoch(training, sequences, batch_size, stop, progress):
    """Bring the epoch under way to its end; its mean loss, or None where a signal came first."""
    import torch

    import bert4rec
    model, optimizer, seed, epoch = training.model, training.optimizer, training.args.seed, training.epoch
    batches = sequences.epoch(batch_size, bert4rec.generator_of(seed, 1, epoch))
    model.train()
    for users in batches[training.step:]:
        if stop.requested:
            return None
        draw = bert4rec.generator_of(seed, 2, epoch, training.step)
        torch.random.default_generator.manual_seed(draw.initial_seed())  # of dropout
        if sequences.device.type == "cuda":
            torch.cuda.manual_seed(draw.initial_seed())
        batch = sequences.masked(users, training.config["mlm_probability"], draw)
        training.step += 1
        progress.update(len(users), epoch=epoch + 1)
        if batch is None:
            continue
        loss = model.loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        training.total += loss.detach() * len(batch[-1])
        training.count += len(batch[-1])
    mean = float(training.total) / max(training.count, 1)
    training.epoch, training.step, training.count = epoch + 1, 0, 0
    training.total.zero_()
    return mean


# --------------------------------------------------------------------------- asking the model

class Asking:
    """User vectors and validation of a model, from the latest items of train and a mask behind them."""

    def __init__(self, model, sequences, split, cold=None):
        import numpy as np
        import torch
        self.model, self.sequences, self.split, self.cold = model, sequences, split, cold
        if "val" in split.parts:
            val = split.part("val")
            self.codes, rows = np.unique(val.user, return_inverse=True)
            self.rows, self.wanted = (torch.as_tensor(x, device=sequences.device) for x in (rows, val.item))

    def items(self):
        """The item table (n_items, D), the cold ones behind; (n_hot, D) where nothing is known of them."""
        import torch
        hot = self.model.items.detach()
        return hot if self.cold is None else torch.cat([hot, self.cold])

    def users(self, codes):
        """Output vectors (n, D), float32, of user codes (n,)."""
        import numpy as np
        import torch
        self.model.eval()
        codes = np.asarray(codes)
        out = torch.empty(len(codes), self.model.items.shape[1], device=self.sequences.device)
        with torch.inference_mode():
            for places in self.sequences.by_tokens(codes):
                out[torch.as_tensor(places)] = self.model.vectors(*self.sequences.asking(codes[places]))
        return out

    def loss(self):
        """Mean cross-entropy, over the catalogue, of the val pairs."""
        import torch
        vectors = self.users(self.codes)
        with torch.inference_mode():
            total = self.model.log_normaliser(vectors)[self.rows].double().sum()
            for rows, wanted in zip(self.rows.split(1 << 13), self.wanted.split(1 << 13), strict=True):
                total -= (vectors[rows] * self.model.items[wanted]).sum().double()
        return total.item() / len(self.rows)

    def metrics(self, seed, ks=(10, 50)):
        """Means of the metrics on val, {name: value}."""
        import metrics
        import topk
        preds = topk.recommend(self.split, "val", max(ks), seed, users=self.users, items=self.items(),
                               device=self.sequences.device)
        return metrics.evaluate(preds, self.split.truth("val"), ks).mean().to_dict()


# --------------------------------------------------------------------------- the run

def fit(run, training, sequences, asking, batch_size):
    """Train until done, from the run's last checkpoint where there is one; the best weights are loaded at the end."""
    args, best = training.args, None
    validated = "val" in asking.split.parts
    if run.resume and run.checkpoint("last").exists():
        training.load(runs.load_checkpoint(run.checkpoint("last")))
        if training.epoch:
            best = runs.load_checkpoint(run.checkpoint("best"))
    if not validated:
        print(f"{run.name}: this split has no val part, so all {args.epochs} epochs are trained and the last counts",
              file=sys.stderr)
    stop, saved = run.stop, time.monotonic()
    writer, users = run.writer(purge_step=training.epoch + 1), len(sequences.lengths)
    with runs.Progress(args.epochs * users, run.name, "sequences", initial=training.epoch * users) as progress:
        while not training.done:
            losses = {"train": train_epoch(training, sequences, batch_size, stop, progress)}
            if losses["train"] is not None:
                if validated:
                    losses["val"] = asking.loss()
                if not all(math.isfinite(x) for x in losses.values()):
                    raise WorkError(f"the loss is no longer a number in epoch {training.epoch}; try a smaller --lr")
                if not validated or training.judge(losses["val"]):
                    best = {"model": training.weights(), "epoch": training.epoch, "loss": losses.get("val")}
                record(writer, training, losses, asking)
            if training.done or stop.requested or time.monotonic() - saved >= args.checkpoint_seconds:
                if best is not None:
                    runs.save_checkpoint(run.checkpoint("best"), best)
                runs.save_checkpoint(run.checkpoint("last"), training.state())
                saved = time.monotonic()
            if stop.requested and not training.done:
                runs.stop_here(run.name)
    training.load_weights(best["model"])
    return best["epoch"]


def record(writer, training, losses, asking):
    """Losses, rate and, every few epochs, metrics on val, to TensorBoard; the step is the number of epochs done."""
    for name, value in losses.items():
        writer.add_scalar(f"Loss/{name}", value, training.epoch)
    writer.add_scalar("lr", training.rate(), training.epoch)
    if "val" in losses and (training.done or training.epoch % training.args.eval_every == 0):
        for name, value in asking.metrics(training.args.seed).items():
            writer.add_scalar(f"Val/{name}", value, training.epoch)


def finish(run, training, asking, split, **results):
    """Write the learned vectors, the lists and the metrics of every part, and close the run."""
    import numpy as np

    import topk
    args, parts, left_out = training.args, list(split.parts), {}
    if asking.cold is None and "cold_test" in parts:
        parts.remove("cold_test")
        left_out["cold_test"] = COLD_WITHOUT_CONTENT
    users, items = asking.users(np.arange(split.n_users)), asking.items()
    runs.write_npy(run.model_embeddings("users"), users.cpu().numpy())
    if training.whole:  # else they are the embedding
        runs.write_npy(run.model_embeddings("items"), training.model.items.detach().cpu().numpy())
    means = topk.write(run, split, args.k, args.seed, parts, users=users, items=items, device=asking.sequences.device)
    config = run.request["config"]
    flat = {f"{part}/{name}": float(value) for part, values in means.items() for name, value in values.items()}
    run.writer().add_hparams({k: v for k, v in (run.request | config).items() if k != "config"}, flat,
                             run_name=".", global_step=training.epoch)
    width = training.model.transformer_model.config.hidden_size
    run.finish(parts=sorted(parts), left_out=left_out, epochs=training.epoch, dim=int(training.model.items.shape[1]),
               hidden_dim=width, recorded_only={name: getattr(args, name) for name in RECORDED}, **results)
    print(f"{run.name}: {training.epoch} epochs, written for {', '.join(parts)}")


def check(split, args, config, device):
    """Refuse before anything is written what cannot work with this workspace or device."""
    import bert4rec
    import dataset
    if args.dynamic_item_freeze and "val" not in split.parts:
        raise UsageError("dynamic_item_freeze waits for a plateau on val, but this split has no val part")
    if args.precision == "bf16" and not bert4rec.native_bf16(device):
        raise UsageError(f"--precision bf16: this {device.type} has no bf16 arithmetic and would be slower; use fp32")
    dim = config["random_dim"]
    if args.model != "random":
        dim = dataset.open_embedding(split.workdir, args.model, split.n_tracks, split.track_checksum).shape[1]
    bert4rec.check_width(args.hidden_dim or dim, config["num_attention_heads"])


def main(argv=None):
    args = parse(argv)
    workdir = runs.workspace(args)
    import dataset
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    config, split, device = settings(args), dataset.load(workdir), runs.pick_device(args.device)
    check(split, args, config, device)
    indptr, items = split.sequences(args.order)
    import bert4rec
    run = runs.Run(workdir, "bert4rec", request_of(args, config), embedding=args.model, inputs=split.inputs + files,
                   args=args)
    run.outputs = [run.model_embeddings("users")]
    with run:
        if run.finished:
            return
        model, cold, whole = build(split, args, config, device)
        training = Training(model, args, config, whole)
        sequences = bert4rec.Sequences(indptr, items, args.max_seq_len, model.mask_id, device)
        window = min(PUBLISHED_WINDOW, args.max_seq_len) if args.as_published else args.max_seq_len
        asking = Asking(model, bert4rec.Sequences(indptr, items, window, model.mask_id, device), split, cold)
        batch_size = PUBLISHED_BATCH if args.as_published else args.batch_size
        frozen = not model.items.requires_grad
        best = fit(run, training, sequences, asking, batch_size)
        finish(run, training, asking, split, best_epoch=best, items_frozen_at_first=frozen,
               items_released=training.released, order=args.order, batch_size=batch_size,
               best_val_loss=training.best_loss if "val" in split.parts else None)


if __name__ == "__main__":
    runs.cli(main)
