"""Two towers: a user and an item network meet in a dot product; trained by a softmax over the batch.

    python -m recommenders.two_tower --embedding tags
    python -m recommenders.two_tower --embedding vggish tags --index ivf --lists 128
    python -m recommenders.two_tower --embedding tags --listener 289 291     recommendations for a new user

Source: Yi, Yang, Hong, Cheng, Heldt, Kumthekar, Zhao, Wei and Chi, "Sampling-Bias-Corrected Neural Modeling for
Large Corpus Item Recommendations", RecSys 2019: vectors of length 1, a temperature, the other items of the batch
as negatives, log q subtracted (q counted exactly here, estimated from a stream in the paper). Layers: 256, 128 -> 128.

No tower sees an id, unless --fusion trains one for the item tower (model.py beside this file lists the columns), so new
users and items are served by the network:
  a cold item   has content and no counts; in training the counts of some items are hidden (--hide), as in
                DropoutNet (Volkovs, Yu and Poutanen, NIPS 2017)
  a new user    by their first plays; by the average user without any
In training the mean of a user's items never contains the positive: each pair is left out of its own history.
The lists are ranked exactly; the index in model_embeddings/ is for serving, its
recall against exact search is printed and recorded.
"""
from harness import cli, processes, runs
from harness.errors import UsageError
from harness.files import write_npy
from harness.progress import Progress
from harness.readers import load_checkpoint
from training import fusion, selection
from training.checkpoints import Checkpoints, check_loss, note_missing_val
from training.epochs import EpochLog

TITLE = "Two-tower"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "logq": ["standard", "unbiased"],
    "temperature": {"log": [0.02, 0.3]},
    "batch_size": [256, 512, 1024, 2048],
    "dropout": [0.0, 0.1, 0.3],
    "hide": [0.0, 0.1, 0.3],
    "lr": {"log": [0.0003, 0.005]},
    "l2": {"log": [0.001, 0.3]},
}
BEFORE = {"stop_on": "NDCG@10", "eval_every": 1}   # the rule of runs made before there was a choice
RECALL_AT = (10, 100)  # of the index
SHOWN = 10             # tracks that --listener prints


# --------------------------------------------------------------------------- command line

def build_parser():
    parser = cli.Parser(prog="recommenders.two_tower", description=__doc__)
    group = parser.add_argument_group("features")
    group.add_argument("--embedding", nargs="+", metavar="NAME",
                       help="embeddings of the workspace that both towers read, side by side (needed)")
    group.add_argument("--fields", nargs="+", default=[], metavar="COLUMN",
                       help="columns of items.pqt that both towers read, tags or styles for example: the 200 most "
                            "frequent values of each (default none)")
    group.add_argument("--missing", choices=("fail", "mean"), default="fail",
                       help="tracks without an embedding: stop, or fill with the mean (default fail)")
    group.add_argument("--shuffle", action="store_true",
                       help="permute the rows of the embeddings by --seed (the shuffled control)")
    fusion.flags(group, instead="default frozen; for the item tower, the user tower reads the content as it is")
    group = parser.add_argument_group("training")
    group.add_argument("--logq", choices=("standard", "unbiased", "off"), default="standard",
                       help="correction for the popularity of in-batch negatives; unbiased leaves the positive "
                            "uncorrected (default standard)")
    group.add_argument("--temperature", type=cli.number(0, above=True), default=0.05, metavar="FLOAT",
                       help="temperature of the softmax over a batch (default 0.05)")
    group.add_argument("--hide", type=cli.number(0, below=1), default=0.1, metavar="FLOAT",
                       help="share of a batch's items whose play counts are hidden, from 0 to below 1 (default 0.1)")
    group.add_argument("--dropout", type=cli.number(0, below=1), default=0.1, metavar="FLOAT",
                       help="dropout probability of both towers, from 0 to below 1 (default 0.1)")
    group.add_argument("--lr", type=cli.learning_rate, default=0.001, metavar="FLOAT",
                       help="learning rate of AdamW (default 0.001)")
    group.add_argument("--l2", type=cli.number(0), default=0.01, metavar="FLOAT",
                       help="weight decay of AdamW (default 0.01)")
    group.add_argument("--batch-size", type=cli.whole_number(1), default=1024, metavar="N",
                       help="pairs per training step (default 1024)")
    group.add_argument("--epochs", type=cli.whole_number(1), default=100, metavar="N",
                       help="largest number of epochs (default 100)")
    group.add_argument("--patience", type=cli.whole_number(1), default=5, metavar="N",
                       help="evaluations of val without a better value before training stops (default 5)")
    selection.flags(group)
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
                       help="number format of the towers' matrix products; auto is bf16 or fp16 on CUDA and fp32 "
                            "elsewhere (default auto)")
    group.add_argument("--checkpoint-seconds", type=cli.number(0), default=30.0, metavar="FLOAT",
                       help="least time between checkpoints within an epoch, in seconds; 0 for one after every step "
                            "(default 30)")
    group = parser.add_argument_group("serving")
    group.add_argument("--index", choices=("flat", "ivf"), default="flat",
                       help="FAISS index: flat is exact, ivf searches some of its lists only (default flat)")
    group.add_argument("--lists", type=cli.whole_number(1), metavar="N",
                       help="number of lists of an ivf index (default: about the square root of the number of tracks)")
    group.add_argument("--probe", type=cli.whole_number(1), metavar="N",
                       help="lists of an ivf index that a search reads (default: an eighth of them)")
    group.add_argument("--listener", nargs="*", metavar="TRACK",
                       help="print recommendations for a new user who played these tracks (ids or names); without any, "
                            "for the average user")
    group.add_argument("--show", type=cli.whole_number(1), metavar="N",
                       help=f"number of tracks that --listener prints (default {SHOWN})")
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    selection.settle(args)
    fusion.check_norm(parser, args)
    args.fusion = None if args.fusion == "frozen" else args.fusion
    if args.index == "flat" and (args.lists or args.probe):
        raise UsageError("--lists and --probe are for --index ivf; a flat index has neither")
    if args.listener is None and args.show is not None:
        raise UsageError("--show says how many tracks --listener prints; without --listener nothing is printed")
    args.show = args.show or SHOWN
    return args


def request_of(args):
    """Every argument that can change the result."""
    excluded = {"workdir", "device", "overwrite", "checkpoint_seconds", "listener", "show"}
    request = fusion.requested({name: value for name, value in vars(args).items() if name not in excluded})
    return selection.requested(request, BEFORE)


def defaults():
    """The request of the bare call: what the tables compare other requests with."""
    return request_of(parse([]))


# --------------------------------------------------------------------------- training

def fit(run, training, split, args):
    """Train until done, from the last checkpoint where there is one; the best epoch's towers are loaded at the end."""
    from training.validation import Validation
    epochs, device, pairs = training.settings.epochs, training.data.device, len(training.data.user)
    checkpoints = Checkpoints(run, training, args.checkpoint_seconds, args.checkpoint_seconds)
    checkpoints.resume(device)
    validation = Validation.of(split, args, training.stopping)
    note_missing_val(run.name, validation, epochs)

    def ranker(part):
        users, items = training.towers.vectors(training.data)
        return {"users": users, "items": items, "device": device}
    with Progress(epochs * pairs, run.name, "pairs", initial=training.epoch * pairs) as progress:
        log = EpochLog(run, progress, training.epoch, epochs)
        while not training.done:
            for batch in training.batches():
                training.learn(batch)
                progress.update(len(batch), epoch=training.epoch + 1)
                check_loss(training.epoch + 1, training.total)
                checkpoints.after_step()
            losses = {"train": training.close_epoch()}
            if args.stop_on == selection.LOSS and "val" in split.parts:
                losses["val"] = processes.from_main(lambda: training.validation_loss(split))
                check_loss(training.epoch, losses["val"])
            result = validation.evaluate(training, ranker, losses.get("val"))
            log.record(training.epoch, losses, result.values)
            checkpoints.after_epoch(result.better)
    training.towers.load_state_dict(checkpoints.best(device)["towers"])


# --------------------------------------------------------------------------- lists and serving

def finish(run, training, split, shape, args, **results):
    """Write vectors, index, lists and metrics of every part, and close the run."""
    from ranking import save
    from recommenders.two_tower import index as serving
    users, items = training.towers.vectors(training.data)
    queries, vectors = users.cpu().numpy(), items.cpu().numpy()
    towers, data = training.towers, training.data
    by_history = split.by_history(lambda part: towers.users_of(data, data.histories(split, part)))
    means = save.write(run, split, args.k, args.seed, users=by_history, items=items, device=data.device)
    write_npy(run.model_embeddings("users"), queries)
    write_npy(run.model_embeddings("items"), vectors)
    index = serving.build(vectors, split.tracks, shape, args.seed)
    serving.write(index_path(run), index)
    recall = serving.recall(index, vectors, queries[:10_000], RECALL_AT)
    kind = f"{shape.lists} lists, {shape.probe} searched" if shape.lists else "flat"
    print(f"{run.name}: index of {len(vectors)} tracks, {kind}: "
          + ", ".join(f"recall@{k} {value:.4f}" for k, value in recall.items()) + " against exact search")
    run.finish(parts=sorted(means), epochs=training.epoch, dim=vectors.shape[1], precision=training.precision,
               **training.stopping.selected(), **results,
               index={"kind": args.index, "lists": shape.lists, "probe": shape.probe, "file": index_path(run).name,
                      "recall": {f"@{k}": value for k, value in recall.items()}})


def index_path(run):
    return run.model_embeddings("items").with_suffix(".faiss")


def newcomer(split, tracks):
    """What --listener names: (ids of all tracks, their names, rows of the tracks played)."""
    import dataset
    from harness.metadata import find_track, read_names
    ids, _ = dataset.read_tracks(split.workdir)
    names, known = read_names(split.workdir, len(ids)), set(split.tracks.tolist())
    played = list(dict.fromkeys(find_track(track, ids, names) for track in tracks))
    if unknown := [ids[row] for row in played if row not in known]:
        raise UsageError(f"--listener: {', '.join(unknown[:3])} is not a track of this split, so it has no vector")
    return ids, names, played


def serve(run, data, split, args, ids, names, played):
    """Print the best tracks of a newcomer, out of the index."""
    import numpy as np

    from recommenders.two_tower import index as serving
    from recommenders.two_tower.model import Settings, build
    code = dict(zip(split.tracks.tolist(), range(split.n_items), strict=True))
    towers = build(data, cli.settings(Settings, args))
    towers.load_state_dict(load_checkpoint(run.checkpoint("best"), data.device)["towers"])
    vector = towers.newcomer(data, np.array([code[row] for row in played], np.int64)).cpu().numpy()

    def called(row):
        return "  ".join([ids[row], *(names[column][row] for column in names)])
    known = ", ".join(map(called, played))
    print(f"for somebody who played {known}:" if known else "for the average listener:")
    best = serving.nearest(serving.read(index_path(run)), vector, args.show, played)
    for place, (track, score) in enumerate(best, 1):
        print(f"{place:4d}  {score:.4f}  {called(track)}")


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    from recommenders.two_tower import index as serving
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    if not args.embedding:
        available = ", ".join(dataset.embedding_names(workdir)) or "none"
        raise UsageError(f"--embedding is needed: the content that the towers read; there: {available}")
    from recommenders.two_tower.model import Data, Settings, Training, item_columns, pick_precision
    pick_precision(args.precision, device)
    played = None if args.listener is None else newcomer(split, args.listener)   # before hours of training
    shape = serving.shape(args.index, split.n_items, args.lists, args.probe)
    files = [p for name in args.embedding for p in dataset.embedding_inputs(workdir, name)]
    files += [workdir / "items.pqt"] * bool(args.fields and (workdir / "items.pqt").exists())
    run = runs.Run(workdir, "two_tower", selection.of_split(request_of(args), split),
                   embedding="+".join(args.embedding), inputs=split.inputs + files, args=args)
    run.outputs = [run.model_embeddings("users"), run.model_embeddings("items"), index_path(run)]

    def read():
        shuffle = args.seed if args.shuffle else None
        columns = item_columns(split, args.embedding, args.fields, args.missing, shuffle, args.fusion == "delta")
        content = sum(dataset.open_embedding(workdir, name, split.n_tracks, split.track_checksum).shape[1]
                      for name in args.embedding)
        return Data(split, columns, device, content)
    data = None
    with run:
        if not run.finished:
            data = read()
            training = Training(data, cli.settings(Settings, args))
            fit(run, training, split, args)
            finish(run, training, split, shape, args, columns=data.items.shape[1])
    if played:
        serve(run, data or read(), split, args, *played)


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
