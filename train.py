"""Train the Shallow Net on an embedding of the workspace, then recommend for every part of the split.

    python train.py musicnn item 20 10000 100 1 0 "baseline" 1 0 0 0 0.0 [logdir last_epoch]
    python train.py --model musicnn --neg-samples 50 --loss infonce --shuffle

Every place of the published call has a default and is a flag, too. The model is in model.py.
Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2.
"""
import argparse
import math
import re
import sys
import time
from pathlib import Path

from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import load_checkpoint, save_checkpoint, write_npy
from harness.progress import Progress, stop_here

NEEDS = ("embedding",)
COLD = True
SEARCH_SPACE = {
    "loss": ["hinge", "bpr", "infonce"],
    "neg_samples": [20, 50, 100],
    "hidden_dim": [64, 128, 256],
    "item_freeze": [0, 1],
    "lr": {"log": [0.0005, 0.02]},
    "l2": {"log": [1e-08, 1e-05]},
}
COLD_WITHOUT_CONTENT = "random has no content: a track nobody played keeps an untrained vector"


# --------------------------------------------------------------------------- the command line

def whole(low):
    def convert(text):
        if not re.fullmatch("[0-9]{1,12}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, not {text[:40]}")
        return int(text)
    return convert


def number(low, above=False):
    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or math.isinf(value):
            bound = "above" if above else "of at least"
            raise argparse.ArgumentTypeError(f"must be a number {bound} {low}, not {text}")
        return value
    return convert


def one_of(*values):
    def convert(text):
        if text not in values:
            raise argparse.ArgumentTypeError(f"must be {' or '.join(values)}, not {text}")
        return int(text) if text.isdigit() else text
    return convert


PLACES = (  # name, type, default, help; in the order of the published call
    ("model", str, "musicnn", "embedding of the workspace, or random: no content, item embeddings of hidden_dim "
                              "that always train (a dynamic_item_freeze still holds them at first)"),
    ("sample_type", one_of("item", "user"), "item",
     "item anchors the item and draws negative users, user anchors the user and draws negative items"),
    ("neg_samples", whole(1), 20, "negatives per pair, drawn uniformly"),
    ("batch_size", whole(1), 10000, "pairs per step"),
    ("epochs", whole(1), 100, "epochs at most"),
    ("item_freeze", one_of("0", "1"), 1, "1 freezes the item embeddings, 0 trains them"),
    ("user_freeze", one_of("0", "1"), 0, "1 freezes the user embeddings, 0 trains them"),
    ("comment", str, "", "free words in the run's name"),
    ("user_init", one_of("0", "1"), 1, "1 starts a user at the mean of the history's item embeddings, 0 at random"),
    ("dynamic_item_freeze", one_of("0", "1"), 0,
     "1 freezes the items at first, whatever item_freeze says, and releases them at the first plateau of the "
     "validation loss, where else the learning rate would fall"),
    ("hidden_dim", whole(0), 0, "width of the shared layer, 0 for the embedding's (64 for random)"),
    ("use_confidence", one_of("0", "1"), 0, "1 weighs a pair by 1 + 2 log(1 + plays)"),
    ("l2", number(0), 0.0, "penalty: this times the sum of squares of the trained parameters"),
    ("logdir", str, None, "run to continue, by its name or its folder under runs/"),
    ("last_epoch", whole(1), None, "its finished epochs to continue after: those of its best or last checkpoint"),
)


def build_parser():
    parser = cli.Parser(prog="train.py", description=__doc__, usage="%(prog)s [ARGUMENT ...] [flags]")
    parser.add_argument("places", nargs="*", metavar="ARGUMENT",
                        help="the published call: the following, in this order, as many as wanted")
    group = parser.add_argument_group("published arguments")
    for name, kind, default, text in PLACES:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, metavar="X",
                           help=text + ("" if default in (None, "") else f" (default {default})"))
    group = parser.add_argument_group("training")
    group.add_argument("--loss", choices=("hinge", "bpr", "infonce"), default="hinge", help="(default hinge)")
    group.add_argument("--margin", type=number(0), default=None, metavar="X", help="of the hinge (default 0.2)")
    group.add_argument("--temperature", type=number(0, above=True), default=None, metavar="X",
                       help="of bpr and infonce (default 0.1)")
    group.add_argument("--lr", type=number(0, above=True), default=0.001, metavar="X",
                       help="learning rate of Adam (default 0.001, as published)")
    group.add_argument("--patience", type=whole(1), default=16, metavar="N",
                       help="stop after so many epochs without a better validation loss (default 16)")
    group.add_argument("--plateau", type=whole(0), default=5, metavar="N",
                       help="take a tenth of the rate after more than so many (default 5)")
    group.add_argument("--exclude-positives", action="store_true", help="never draw a known positive as a negative")
    group.add_argument("--shuffle", action="store_true", help="permute the embedding's rows by --seed (the control)")
    group.add_argument("--missing", choices=("fail", "mean"), default="fail",
                       help="tracks without an embedding: stop, or fill with the mean (default fail)")
    group.add_argument("--scale", choices=("unit", "none"), default="none",
                       help="unit centres the embedding on its hot tracks and divides it by one number, so that their "
                            "mean squared length is 1; none takes it as it is (default none, as published)")
    group.add_argument("--as-published", action="store_true",
                       help="1 trains and 0 freezes, negative users come from the first 17,052, the penalty counts "
                            "frozen parameters and the validation loss, too")
    group.add_argument("--eval-every", type=whole(1), default=5, metavar="N",
                       help="epochs between metrics on val (default 5)")
    group.add_argument("--checkpoint-seconds", type=number(0), default=10.0, metavar="S",
                       help="least time between checkpoints; 0 for one at the end of each epoch (default 10)")
    group.add_argument("--k", type=cli.positive, default=100, help="length of the lists (default 100)")
    cli.common_flags(parser, device=True)
    return parser


def parse(argv=None):
    """The command line with places and flags merged; every argument checked."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if len(args.places) > len(PLACES):
        parser.error(f"takes at most {len(PLACES)} arguments, {' '.join(p[0] for p in PLACES)}; "
                     f"{len(args.places)} are given")
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
    check(parser, args)
    return args


def check(parser, args):
    """Refuse what cannot be meant, and fill the margin or the temperature, whichever the loss has."""
    if (args.logdir is None) != (args.last_epoch is None):
        parser.error("logdir and last_epoch go together: the run to continue and the epoch to continue after")
    if args.last_epoch is not None and args.last_epoch >= args.epochs:
        parser.error(f"epochs counts from the start: it must be more than last_epoch {args.last_epoch}, "
                     f"not {args.epochs}")
    unused = "temperature" if args.loss == "hinge" else "margin"
    if getattr(args, unused) is not None:
        parser.error(f"--{unused} has no meaning for --loss {args.loss}")
    if args.loss == "hinge" and args.margin is None:
        args.margin = 0.2
    if args.loss != "hinge" and args.temperature is None:
        args.temperature = 0.1
    if args.model == "random" and args.shuffle:
        parser.error("--shuffle permutes an embedding; random has none")
    if args.model == "random" and args.scale == "unit":
        parser.error("--scale unit is for an embedding; random has none")
    if args.as_published and args.dynamic_item_freeze:
        parser.error("the published code reads dynamic_item_freeze and never uses it; give 0 with --as-published")


def request_of(args):
    """Every argument that can change the result."""
    apart = {"workdir", "device", "overwrite", "eval_every", "checkpoint_seconds", "logdir", "last_epoch"}
    request = {name: value for name, value in sorted(vars(args).items()) if name not in apart}
    return request | ({"missing": "fail"} if args.model == "random" else {})  # nothing to fill


# --------------------------------------------------------------------------- the run

def fit(run, training, split, args, device, origin=None):
    """Train until done, from the run's last checkpoint where there is one; the best state is loaded at the end."""
    import copy

    from training import shallow
    pairs = shallow.pairs_of("train", split, args, device)
    val = shallow.pairs_of("val", split, args, device) if "val" in split.parts else None
    best = begin(run, training, args, origin)
    if val is None:
        print(f"{run.name}: this split has no val part, so all {args.epochs} epochs are trained and the last "
              "one counts", file=sys.stderr)
    stop, saved = run.stop, time.monotonic()
    writer = run.writer(purge_step=training.epoch + 1)
    initial = training.epoch * len(pairs) + training.step * args.batch_size

    def save():
        if best is not None:
            save_checkpoint(run.checkpoint("best"), best)
        save_checkpoint(run.checkpoint("last"), training.state())
        return time.monotonic()

    with Progress(args.epochs * len(pairs), run.name, "pairs", initial=initial) as progress:
        while not training.done:
            for batch in training.batches(pairs):
                shallow.step(training, batch)
                progress.update(len(batch[0]), epoch=training.epoch + 1)
                if stop.requested or time.monotonic() - saved >= args.checkpoint_seconds > 0:
                    saved = save()
                if stop.requested:
                    stop_here(run.name)
            losses = {"train": training.close_epoch(len(pairs))}
            if val is not None:
                losses["val"] = shallow.validation_loss(training.model, val, args)
            if not all(math.isfinite(x) for x in losses.values()):
                raise WorkError(f"the loss is no longer a number in epoch {training.epoch}; try a smaller --lr")
            if val is None:
                best = training.state()
            elif training.judge(losses["val"]):
                best = copy.deepcopy(training.state())
            record(writer, training, losses, split, args, device)
            if training.done or stop.requested or time.monotonic() - saved >= args.checkpoint_seconds:
                writer.flush()
                saved = save()
    training.model.load_state_dict(best["model"])
    return best["epoch"]


def begin(run, training, args, origin):
    """Bring the training to where its checkpoints are; the best state so far, None for a fresh start."""
    if run.resume and run.checkpoint("last").exists() and (origin is None or origin["name"] != run.name):
        training.load(load_checkpoint(run.checkpoint("last"), keys=training.state()))
        return load_checkpoint(run.checkpoint("best"), keys=["model", "epoch"]) if training.epoch else None
    if origin is None or (origin["name"] == run.name and not run.resume):
        return None
    training.load(origin["state"], continued=origin["name"] != run.name)
    return origin["best"]


def origin_of(workdir, args):
    """The run that logdir names and its checkpoint after last_epoch, or None where none is named."""
    if args.logdir is None:
        return None
    name = Path(args.logdir).name
    there = {n: c for n, c in runs.find_runs(workdir) if c.get("recommender") == "shallow"}
    if name not in there:
        raise UsageError(f"no Shallow Net run {name!r} in {workdir / 'runs'}; there: {', '.join(there) or 'none'}")
    folder = workdir / "checkpoints" / there[name]["embedding"]
    states = {which: load_checkpoint(folder / f"{name}_{which}.pt", keys=["model", "epoch", "step"])
              for which in ("best", "last") if (folder / f"{name}_{which}.pt").exists()}
    found = {state["epoch"]: state for state in states.values() if not state["step"]}
    if args.last_epoch not in found:
        kept = " and ".join(map(str, sorted(found))) or "none"
        raise UsageError(f"run {name} has checkpoints after epoch {kept}, not {args.last_epoch}")
    return {"name": name, "state": found[args.last_epoch], "best": states.get("best", found[args.last_epoch])}


def record(writer, training, losses, split, args, device):
    """Losses, rate and, every few epochs, metrics on val, to TensorBoard; the step is the number of epochs done."""
    for name, value in losses.items():
        writer.add_scalar(f"Loss/{name}", value, training.epoch)
    writer.add_scalar("lr", training.rate(), training.epoch)
    if "val" in losses and (training.done or training.epoch % args.eval_every == 0):
        for name, value in validation_metrics(training.model, split, args, device).items():
            writer.add_scalar(f"Val/{name}", value, training.epoch)


def finish(run, training, cold, split, args, device, **results):
    """Write the learned embeddings, the lists and the metrics of every part, and close the run."""
    import torch

    from ranking import save
    model, parts, left_out = training.model, list(split.parts), {}
    users, items = model.extract_embeddings()
    if cold is not None:
        items = torch.cat([items, model.project(cold)])
    elif "cold_test" in parts:
        parts.remove("cold_test")
        left_out["cold_test"] = COLD_WITHOUT_CONTENT
    write_npy(run.model_embeddings("users"), users.cpu().numpy())
    write_npy(run.model_embeddings("items"), items.cpu().numpy())
    means = save.write(run, split, args.k, args.seed, parts, users=users, items=items, device=device)
    flat = {f"{part}/{name}": float(value) for part, values in means.items() for name, value in values.items()}
    hyperparameters = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in run.request.items()}
    run.writer().add_hparams(hyperparameters, flat, run_name=".", global_step=training.epoch)
    run.finish(parts=sorted(parts), left_out=left_out, epochs=training.epoch, dim=int(model.weight.shape[1]),
               hidden_dim=int(model.weight.shape[0]), **results)
    print(f"{run.name}: {training.epoch} epochs, written for {', '.join(parts)}")


def validation_metrics(model, split, args, device, ks=(10, 50)):
    """Means of the metrics on val, {name: value}."""
    import metrics
    from ranking import topk
    users, items = model.extract_embeddings()
    preds = topk.recommend(split, "val", max(ks), args.seed, users=users, items=items, device=device)
    return metrics.evaluate(preds, split.truth("val"), ks).mean().to_dict()


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    from training import shallow
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    if args.dynamic_item_freeze and "val" not in split.parts:
        raise UsageError("dynamic_item_freeze waits for a plateau on val, but this split has no val part")
    origin, request = origin_of(workdir, args), request_of(args)
    if origin and origin["name"] != runs.run_name("shallow", args.model, request, args.seed, args.comment):
        request["continues"] = [origin["name"], args.last_epoch]
    run = runs.Run(workdir, "shallow", request, embedding=args.model, inputs=split.inputs + files, args=args)
    run.outputs = [run.model_embeddings(which) for which in ("users", "items")]
    with run:
        if run.finished:
            return
        model, cold = shallow.build(split, args, device)
        training = shallow.Training(model, args, device)
        frozen = sorted(n for n, p in model.named_parameters() if not p.requires_grad)
        best = fit(run, training, split, args, device, origin)
        finish(run, training, cold, split, args, device, best_epoch=best, frozen_at_first=frozen,
               best_val_loss=training.best_loss if "val" in split.parts else None)


if __name__ == "__main__":
    cli.run(main)
