"""Train the Shallow Net on an embedding of the workspace, then recommend for every part of the split.

    python train.py musicnn item 20 10000 100 1 0 "baseline" 1 0 0 0 0.0 [logdir last_epoch]
    python train.py --model musicnn --neg-samples 50 --loss infonce --shuffle

Every argument of the published call has a default and is a flag, too. The model is in model.py.
Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2.
"""
import math
from pathlib import Path

from harness import cli, processes, runs
from harness.errors import UsageError
from harness.files import write_npy
from harness.progress import Progress
from harness.readers import load_checkpoint
from training import fusion, selection
from training.checkpoints import Checkpoints, check_loss, note_missing_val
from training.early_stopping import check_release
from training.epochs import EpochLog

TITLE = "Shallow Net"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "loss": ["hinge", "bpr", "infonce"],
    "neg_samples": [20, 50, 100],
    "hidden_dim": [64, 128, 256],
    "item_freeze": [0, 1],
    "lr": {"log": [0.0005, 0.02]},
    "l2": {"log": [1e-08, 1e-05]},
}


# --------------------------------------------------------------------------- the command line

PUBLISHED_CALL = (
    cli.Argument("model", str, "musicnn", "NAME",
                 "embedding of the workspace, or random: ID embeddings of hidden_dim dimensions without content, which "
                 "always train (with dynamic_item_freeze only once released)"),
    cli.Argument("sample_type", cli.one_of("item", "user"), "item", "{item,user}",
                 "anchor of a pair: with item, negative users are drawn for it; with user, negative items"),
    cli.Argument("neg_samples", cli.whole_number(1), 20, "N", "negatives per pair, drawn uniformly"),
    cli.Argument("batch_size", cli.whole_number(1), 10000, "N", "pairs per training step"),
    cli.Argument("epochs", cli.whole_number(1), 100, "N", "largest number of epochs"),
    cli.Argument("item_freeze", cli.flag01, 1, "{0,1}", "1 freezes the item embeddings, 0 trains them"),
    cli.Argument("user_freeze", cli.flag01, 0, "{0,1}", "1 freezes the user embeddings, 0 trains them"),
    cli.Argument("comment", str, "", "TEXT", "free text appended to the run name"),
    cli.Argument("user_init", cli.flag01, 1, "{0,1}",
                 "initial user embeddings: 1 for the mean of the item embeddings of the user's history, 0 for random"),
    cli.Argument("dynamic_item_freeze", cli.flag01, 0, "{0,1}",
                 "1 freezes the item embeddings at first, whatever item_freeze says, and releases them at the first "
                 "plateau of what --stop-on names, where otherwise the learning rate would fall"),
    cli.Argument("hidden_dim", cli.whole_number(0), 0, "N",
                 "width of the shared layer; 0 for that of the embedding (64 for random)"),
    cli.Argument("use_confidence", cli.flag01, 0, "{0,1}", "1 weights a pair by 1 + 2 log(1 + plays)"),
    cli.Argument("l2", cli.number(0), 0.0, "FLOAT",
                 "L2 penalty: this times the sum of squares of the trained parameters is added to the loss"),
    cli.Argument("logdir", str, None, "RUN", "run to continue, by its name or its folder under runs/"),
    cli.Argument("last_epoch", cli.whole_number(1), None, "N",
                 "epoch to continue the run of logdir after: that of its best or its last checkpoint"),
)


def build_parser():
    parser = cli.Parser(prog="train.py", description=__doc__)
    cli.published_call(parser, PUBLISHED_CALL)
    group = parser.add_argument_group("training")
    group.add_argument("--loss", choices=("hinge", "bpr", "infonce"), default="hinge",
                       help="training loss (default hinge, as published)")
    group.add_argument("--margin", type=cli.number(0), default=None, metavar="FLOAT",
                       help="margin of the hinge loss (default 0.2)")
    group.add_argument("--temperature", type=cli.number(0, above=True), default=None, metavar="FLOAT",
                       help="temperature of the BPR and InfoNCE losses (default 0.1)")
    group.add_argument("--lr", type=cli.learning_rate, default=0.001, metavar="FLOAT",
                       help="learning rate of Adam (default 0.001, as published)")
    group.add_argument("--patience", type=cli.whole_number(1), default=16, metavar="N",
                       help="evaluations of val without a better value before training stops (default 16)")
    group.add_argument("--plateau", type=cli.whole_number(0), default=5, metavar="N",
                       help="after more than N evaluations of val without a better value the learning rate is divided "
                            "by 10 (ReduceLROnPlateau; default 5)")
    selection.flags(group, published=True)
    group.add_argument("--exclude-positives", action="store_true",
                       help="never draw a known positive as a negative (default: draw from all)")
    group.add_argument("--shuffle", action="store_true",
                       help="permute the rows of the embedding by --seed (the shuffled control)")
    group.add_argument("--missing", choices=("fail", "mean"), default="fail",
                       help="tracks without an embedding: stop, or fill with the mean (default fail)")
    group.add_argument("--scale", choices=("unit", "none"), default="none",
                       help="scale of the embedding: unit centres it on its hot tracks and divides it by one number, "
                            "so that their mean squared length is 1; none takes it as it is (default none, as "
                            "published)")
    fusion.flags(group)
    group.add_argument("--as-published", action="store_true",
                       help="do as the published code does: 1 trains and 0 freezes, negative users come from the first "
                            "17,052, the L2 penalty counts frozen parameters and enters the validation loss, and that "
                            "loss selects the epoch")
    group.add_argument("--checkpoint-seconds", type=cli.number(0), default=10.0, metavar="FLOAT",
                       help="least time between checkpoints, in seconds; 0 for one after each epoch (default 10)")
    cli.list_length(group)
    cli.common_flags(parser, device=True)
    return parser


def parse(argv=None):
    """The command line with positional arguments and flags merged; every argument checked."""
    parser = build_parser()
    args = cli.parse_published(parser, PUBLISHED_CALL, argv)
    check(parser, args)
    return args


def check(parser, args):
    """Refuse arguments that contradict each other; fill in the rule, and the margin or the temperature of the loss."""
    selection.settle(args)
    fusion.settle(parser, args)
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
    if args.fusion:
        args.scale = "unit"   # each row has length 1
    if args.as_published and args.dynamic_item_freeze:
        parser.error("the published code reads dynamic_item_freeze and never uses it; give 0 with --as-published")


def request_of(args):
    """Every argument that can change the result."""
    excluded = {"workdir", "device", "overwrite", "checkpoint_seconds", "logdir", "last_epoch"}
    request = fusion.requested({name: value for name, value in vars(args).items() if name not in excluded})
    request = selection.requested(request)
    return request | ({"missing": "fail"} if args.model == "random" else {})  # nothing to fill


# --------------------------------------------------------------------------- the run

def fit(run, training, cold, split, args, device, origin=None):
    """Train until done, from the run's last checkpoint where there is one; the best epoch's state is loaded at the end.

    cold: vectors (n_cold, D) of the cold items, None without content; origin: of `origin_of`, the run to continue
    """
    from training import shallow
    from training.validation import Validation
    settings = training.settings
    pairs = shallow.pairs_of("train", split, settings, device)
    val = shallow.pairs_of("val", split, settings, device) if "val" in split.parts else None
    checkpoints = Checkpoints(run, training, args.checkpoint_seconds or math.inf, args.checkpoint_seconds)
    begin(checkpoints, training, origin)
    validation = Validation.of(split, args, training.stopping, selection.HOT if cold is None else selection.BOTH)
    note_missing_val(run.name, validation, args.epochs)
    initial = training.epoch * len(pairs) + training.step * args.batch_size
    with Progress(args.epochs * len(pairs), run.name, "pairs", initial=initial) as progress:
        log = EpochLog(run, progress, training.epoch, args.epochs)
        while not training.done:
            for batch in training.batches(pairs):
                shallow.step(training, batch)
                progress.update(len(batch[0]), epoch=training.epoch + 1)
                checkpoints.after_step()
            losses = {"train": training.close_epoch(len(pairs))}
            if val is not None:
                losses["val"] = processes.from_main(lambda: shallow.validation_loss(training.model, val, settings))
            check_loss(training.epoch, *losses.values())
            result = validation.evaluate(training, lambda part: ranker(training.model, cold, device), losses.get("val"))
            log.record(training.epoch, losses, result.values, lr=training.stopping.learning_rate())
            checkpoints.after_epoch(result.better)
    training.model.load_state_dict(checkpoints.best()["model"])


def ranker(model, cold, device):
    """What topk.recommend takes: users (U, D) and items (n, D), the cold ones last where they have vectors."""
    import torch
    users, items = model.extract_embeddings()
    if cold is not None:
        items = torch.cat([items, model.project(cold)])
    return {"users": users, "items": items, "device": device}


def begin(checkpoints, training, origin):
    """Bring the training to where the run's own checkpoints are, or else to the run that it continues."""
    run = checkpoints.run
    itself = origin is not None and origin["name"] == run.name
    if (not itself and checkpoints.resume()) or origin is None or (itself and not run.resume):
        return
    training.load(origin["state"], continued=not itself)
    checkpoints.unwritten = origin["best"]


def origin_of(workdir, args):
    """The run that logdir names and its checkpoint after last_epoch, or None where none is named."""
    if args.logdir is None:
        return None
    name = Path(args.logdir).name
    manifests = {n: c for n, c in runs.find_runs(workdir) if c.get("recommender") == "shallow"}
    if name not in manifests:
        raise UsageError(f"no Shallow Net run {name!r} in {workdir / 'runs'}; there: {', '.join(manifests) or 'none'}")
    folder = workdir / "checkpoints" / manifests[name]["embedding"]
    states = {which: load_checkpoint(folder / f"{name}_{which}.pt", keys=["model", "epoch", "step"])
              for which in ("best", "last") if (folder / f"{name}_{which}.pt").exists()}
    whole = {state["epoch"]: state for state in states.values() if not state["step"]}
    if args.last_epoch not in whole:
        kept = " and ".join(map(str, sorted(whole))) or "none"
        raise UsageError(f"run {name} has checkpoints after epoch {kept}, not {args.last_epoch}")
    return {"name": name, "request": manifests[name].get("request", {}), "state": whole[args.last_epoch],
            "best": states.get("best", whole[args.last_epoch])}


def finish(run, training, cold, split, args, device, **results):
    """Write the learned embeddings, the lists and the metrics of every part, and close the run."""
    from ranking import save
    model, parts, left_out = training.model, list(split.parts), {}
    vectors = ranker(model, cold, device)
    if cold is None:
        parts = list(split.hot_parts)
        left_out = {part: fusion.COLD_WITHOUT_CONTENT for part in split.parts if part not in parts}
    means = save.write(run, split, args.k, args.seed, parts, **vectors)
    for which in ("users", "items"):
        write_npy(run.model_embeddings(which), vectors[which].cpu().numpy())
    flat = {f"best/{name}": float(value) for name, value in means.get("val", {}).items()}   # of the weights kept
    hyperparameters = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in run.request.items()}
    run.writer().add_hparams(hyperparameters, flat, run_name=".", global_step=training.epoch)
    run.finish(parts=sorted(parts), left_out=left_out, epochs=training.epoch, dim=int(model.weight.shape[1]),
               hidden_dim=int(model.weight.shape[0]), **results)


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    from training import shallow
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    check_release(split, args.dynamic_item_freeze)
    origin, request = origin_of(workdir, args), selection.of_split(request_of(args), split)
    itself = origin is not None and runs.request_hash(origin["request"]) == runs.request_hash(request)
    if origin and not itself:
        selection.check_continued(origin["name"], origin["request"], request)
        request["continues"] = [origin["name"], args.last_epoch]
    run = runs.Run(workdir, "shallow", request, embedding=args.model, inputs=split.inputs + files, args=args)
    run.outputs = [run.model_embeddings(which) for which in ("users", "items")]
    if itself:
        origin["name"] = run.name   # a control of an earlier version is renamed below
    with run:
        if run.finished:
            return
        settings = cli.settings(shallow.Settings, args)
        model, cold = shallow.build(split, settings, device)
        training = shallow.Training(model, settings, device)
        frozen = sorted(n for n, p in model.named_parameters() if not p.requires_grad)
        fit(run, training, cold, split, args, device, origin)
        finish(run, training, cold, split, args, device, frozen_at_first=frozen, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
