"""DTNMR: songs and users by their metadata, playlists by an LSTM over the last 20 and the last 10 songs.

    python -m recommenders.dtnmr --reload --db KKBOX_FILES --cache WORKDIR --top 0.001 --subset-size 5
    python -m recommenders.dtnmr --workdir W                     any workspace with items.pqt, users.pqt, an order

Source: Zheng, Chen, Liang, Sangaiah, Jiang and Zhao, "A Deep Temporal Neural Music Recommendation Model Utilizing
Music and User Metadata", Appl. Sci. 2019, 9(4), 703, and its public implementation (wonjunior/DTNMR), called
the source below. Of the paper its abstract and section 4.1 could be read when this was written, its numbered
equations could not; so the four components (music feature, user static feature, user dynamic feature, rating)
have the sizes and the order of the source, and no equation number is claimed. model.py has the formulas.

Paper and source differ: the paper predicts songs a user has not played and removes train's pairs from test,
the source keeps repeated plays as points; the paper keeps 34,403 users and 419,781 songs, the source filters
to about 11,000 users; the paper reports ranking metrics, the source's accuracy is that of the label among
--subset-size sampled songs, on training batches only.

Ours and the source differ:
  rating      the source rates by a linear layer on (user, song) side by side. Its user term is the same for all
              songs, so it cancels in the softmax: the user side gets no gradient and all users get one ranking.
              Ours adds their elementwise product to that layer; --rating concat is the source's.
  ties        the source counts a tie as a hit (the label stands first and argmax takes it); ours shares it.
  negatives   the source may draw the label or known songs; ours never does, and knows no user's val and test.
  history     the source stops at the first play of the label, so a song played twice looks back from its first
              play; ours looks back from the play that is predicted.
  encoding    the source's columns follow a set's order, and unknown values have none; ours are sorted by bytes,
              kept in the checkpoint, and every field ends with a column for unknown.
  training    the source: --optimizer sgd --lr 0.1 --batch-size 16 --run-len 1 --epochs 1. Ours batches runs of a
              playlist's neighbouring points (--run-len), which share their sums and LSTM windows.
  selection   the source never evaluates val and keeps its last epoch; ours keeps the best by --stop-on.

Evaluated by lists of all songs (ranking/topk.py), and by the source's measure on val and test points: PointAccuracy@N
in metrics/{run}_{part}_points.csv and .pqt, N being --subset-size. `python metrics.py --subset-size N` computes the
like from the lists of any recommender (evaluation/subset_accuracy.py). There is a value for the users of the metrics,
who have a new song in the part: those whose points are all plays of songs they knew are left out of it and counted,
and are in the accuracy over all points that is printed.

Practical limits: catalogue x 33 floats and (columns of songs, of users) x 512 floats thrice (Adam) in memory.
"""
import sys
from pathlib import Path

from harness import cli, runs
from harness.errors import UsageError
from harness.progress import Progress
from harness.readers import read_json
from preprocess import kkbox, stage
from recommenders.dtnmr import COMPONENTS
from training import selection
from training.checkpoints import Checkpoints, check_loss, note_missing_val
from training.epochs import EpochLog

TITLE = "DTNMR"
NEEDS = ("features", "order")
COLD = True
KKBOX_FLAGS = ("top", "min_playlist_len", "max_playlist_len", "max_seconds", "min_age", "max_age", "artist_names",
               "composer_names", "val_share", "test")   # that the reader of KKBOX takes


# --------------------------------------------------------------------------- command line

def field_names(text):
    """argparse type: column names with commas between them, as a list."""
    return [name for name in text.split(",") if name]


def build_parser():
    parser = cli.Parser(prog="recommenders.dtnmr", description=__doc__)
    group = parser.add_argument_group("flags of the source")
    group.add_argument("--reload", action="store_true", help="read the KKBOX files again, whatever the workspace holds")
    group.add_argument("--db", metavar="PATH", help="the KKBOX files, a folder or an archive (default ../db); read "
                                                    "where the workspace has no points yet or --reload is given")
    group.add_argument("--cache", metavar="PATH", help="the workspace, another name of --workdir")
    group.add_argument("--top", type=cli.number(0), metavar="FLOAT",
                       help="KKBOX: keep songs played more than this share of the plays of the most played song "
                            "(default 0.001)")
    group.add_argument("--min-playlist-len", type=cli.whole_number(1), metavar="N",
                       help="songs of a playlist before its first point (default: KKBOX 20, other workspaces 1)")
    group.add_argument("--max-playlist-len", type=cli.whole_number(1), metavar="N",
                       help="KKBOX: keep users with fewer than N plays of kept songs (default 200)")
    group.add_argument("--subset-size", type=cli.whole_number(2), default=5, metavar="N",
                       help="songs that a label is chosen from: itself and N - 1 sampled negatives (default 5)")
    group.add_argument("--short-term-len", type=cli.whole_number(1), default=10, metavar="N",
                       help="songs of the short-term playlist (default 10)")
    group.add_argument("--long-term-len", type=cli.whole_number(1), default=20, metavar="N",
                       help="songs of the long-term playlist (default 20)")
    group = parser.add_argument_group("KKBOX files, where they are read")
    kkbox.add_filters(group)
    kkbox.add_parts(group)
    parser.set_defaults(**dict.fromkeys(KKBOX_FLAGS))   # None: not given
    group.add_argument("--memory", default="2GB", metavar="SIZE",
                       help="memory for reading and splitting the KKBOX files (default 2GB)")
    model_flags(parser.add_argument_group("model"))
    group = parser.add_argument_group("training")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam",
                       help="optimiser of the training (default adam)")
    group.add_argument("--lr", type=cli.learning_rate, default=0.001, metavar="FLOAT",
                       help="learning rate of the optimiser (default 0.001)")
    group.add_argument("--batch-size", type=cli.whole_number(1), default=512, metavar="N",
                       help="points per training step (default 512)")
    group.add_argument("--run-len", type=cli.whole_number(1), default=64, metavar="N",
                       help="neighbouring points of a playlist that stay in one batch; 1 shuffles points (default 64)")
    group.add_argument("--epochs", type=cli.whole_number(1), default=20, metavar="N",
                       help="largest number of epochs (default 20)")
    group.add_argument("--patience", type=cli.whole_number(1), default=3, metavar="N",
                       help="evaluations of val without a better value before training stops (default 3)")
    selection.flags(group)
    group.add_argument("--order", choices=("time", "count"), default="time",
                       help="order of playlists: by time, or by play count for data without times (default time)")
    group.add_argument("--checkpoint-seconds", type=cli.number(0), default=60.0, metavar="FLOAT",
                       help="least time between checkpoints within an epoch, in seconds; 0 for one after every step "
                            "(default 60)")
    cli.recommender_flags(parser, device=True)
    return parser


def model_flags(group):
    group.add_argument("--rating", choices=("product", "concat"), default="product",
                       help="rating of a song: concat is the source's linear layer, which ranks alike for everybody; "
                            "product adds the elementwise product of user and song to it (default product)")
    group.add_argument("--hidden", type=cli.whole_number(1), nargs="+", default=[512, 64], metavar="N",
                       help="sizes of the hidden layers of the two MLPs (default 512 64)")
    group.add_argument("--size", type=cli.whole_number(1), default=32, metavar="N",
                       help="embedding size of users and songs (default 32)")
    group.add_argument("--lstm-size", type=cli.whole_number(1), default=256, metavar="N",
                       help="units of an LSTM layer (default 256)")
    group.add_argument("--lstm-layers", type=cli.whole_number(1), default=2, metavar="N",
                       help="number of LSTM layers (default 2)")
    group.add_argument("--dropout", type=cli.number(0, below=1), default=0.3, metavar="FLOAT",
                       help="dropout probability in and after the LSTM, from 0 to below 1 (default 0.3)")
    group.add_argument("--song-fields", type=field_names, metavar="A,B",
                       help="metadata columns of items.pqt (default: those of genres, artists, composers, language, "
                            "styles, tags that exist)")
    group.add_argument("--user-fields", type=field_names, metavar="A,B",
                       help="metadata columns of users.pqt (default: those of age, gender, city, country that exist)")
    for part, text in zip(COMPONENTS, ("the static user", "the long-term playlist", "the short-term playlist",
                                       "the listening behaviour"), strict=True):
        group.add_argument(f"--no-{part}", action="store_true", help=f"ablation: leave out {text}")


def parse(argv):
    args = build_parser().parse_args(argv)
    selection.settle(args)
    if args.short_term_len > args.long_term_len:
        raise UsageError(f"--short-term-len {args.short_term_len} is longer than --long-term-len "
                         f"{args.long_term_len}, whose end it is")
    if args.no_static and args.no_long and args.no_short:
        raise UsageError("--no-static, --no-long and --no-short together leave nothing of the user")
    if args.cache and args.workdir and Path(args.cache).absolute() != Path(args.workdir).absolute():
        raise UsageError(f"--cache {args.cache} and --workdir {args.workdir} name two workspaces; give one")
    stage.memory_bytes(args.memory)
    args.workdir = args.cache or args.workdir
    return args


def request_of(args, of_points=False):
    """Every argument that can change the result; what the reader of KKBOX takes is in the workspace's files instead.

    of_points: whether the workspace has points.pqt, whose playlists have a length already
    """
    excluded = {"workdir", "cache", "device", "overwrite", "db", "reload", "checkpoint_seconds", "memory",
                *KKBOX_FLAGS}
    request = selection.requested({name: value for name, value in vars(args).items() if name not in excluded})
    return request | {"min_playlist_len": None if of_points else args.min_playlist_len or 1}


# --------------------------------------------------------------------------- data

def prepare(args):
    """Path of the workspace; what it lacks is made from the KKBOX files, with --reload all of it."""
    import importlib
    named = Path(args.workdir).expanduser() if args.workdir else None
    workdir = cli.workspace(args) if named is None or named.is_dir() else named.absolute()
    given = {name: getattr(args, name) for name in KKBOX_FLAGS if getattr(args, name) is not None}
    split, points = ((workdir / name).exists() for name in ("data/train.pqt", "points.pqt"))
    if not args.reload and (split or points):
        if args.db:
            print(f"{workdir} holds {'a split' if split else 'points'}, so {args.db} is not read again (--reload does "
                  "that)", file=sys.stderr)
        check_agreement(workdir, given)
    if not args.reload and split:
        return workdir
    again = ["--overwrite"] if args.reload else []
    memory = ["--workdir", str(workdir), "--memory", args.memory]
    if args.reload or not points:
        raw = raw_files(args, workdir)
        flags = [w for name, value in given.items() for w in (f"--{name.replace('_', '-')}", str(value))]
        importlib.import_module("preprocess.0_get_plays_pqt").main(["kkbox", "--raw", raw, *memory, *flags, *again])
    importlib.import_module("preprocess.1_train_test_split").main(["--protocol", "given", *memory, *again])
    return workdir


def raw_files(args, workdir):
    """Path of the KKBOX files, as text; UsageError where there are none, or plays of another data set instead."""
    if (workdir / "plays.pqt").exists() and not args.reload:
        raise UsageError(f"{workdir} holds plays of another data set and no split; split it with "
                         "preprocess/1_train_test_split.py, or name another --workdir")
    raw = Path(args.db or "../db").expanduser()
    if not raw.exists():
        raise UsageError(f"{workdir} holds no split, and the KKBOX files to make one from are not in {raw}; name "
                         "their folder with --db, or a finished workspace with --workdir")
    return str(raw)


def check_agreement(workdir, given):
    """UsageError where the workspace was made with other values of the flags that are given."""
    if (workdir / "points.pqt").exists() and (workdir / "dataset.json").exists():
        request = read_json(workdir / "dataset.json", {"request": dict}).get("request", {})
        other = {k: request[k] for k, v in given.items() if k in request and request[k] != v}
        if other:
            values = ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in other.items())
            raise UsageError(f"{workdir} was made with {values}; add --reload and --db to make it anew")
    elif set(given) - {"min_playlist_len"}:
        flag = sorted(set(given) - {"min_playlist_len"})[0].replace("_", "-")
        raise UsageError(f"--{flag} is for the KKBOX files, but {workdir} holds another data set")


def read(split, args, device):
    """PlaylistData of a split as the command line asks for it."""
    from recommenders.dtnmr.training import PlaylistData
    return PlaylistData(split, device, order=args.order, min_playlist_len=args.min_playlist_len,
                        song_fields=args.song_fields, user_fields=args.user_fields, components=components_of(args),
                        subset_size=args.subset_size)


def components_of(args):
    """The components of the network that no ablation leaves out."""
    return tuple(name for name in COMPONENTS if not getattr(args, f"no_{name}"))


def architecture_of(args):
    """The Architecture of a command line."""
    from recommenders.dtnmr.model import Architecture
    return cli.settings(Architecture, args, components=components_of(args))


# --------------------------------------------------------------------------- training and lists

def fit(run, training, args):
    """Train until done, from the last checkpoint where there is one; the best epoch's weights are loaded at the end."""
    from recommenders.dtnmr.training import subset_metrics
    from training.validation import Validation
    playlists, epochs = training.playlists, training.settings.epochs
    checkpoints = Checkpoints(run, training, step_seconds=args.checkpoint_seconds)
    checkpoints.resume()
    validation = Validation.of(playlists.split, args, training.stopping)
    note_missing_val(run.name, validation, epochs)
    points = len(playlists.rows["train"])
    with Progress(epochs * points, run.name, "points", initial=training.epoch * points) as progress:
        log = EpochLog(run, progress, training.epoch, epochs)
        while not training.done:
            for rows in training.batches():
                training.learn(rows)
                progress.update(len(rows), epoch=training.epoch + 1)
                check_loss(training.epoch + 1, training.total)
                checkpoints.after_step()
            loss = training.close_epoch()
            val = subset_metrics(training.model, playlists, "val", training.settings.seed)   # {} without points of val
            check_loss(training.epoch, val.get("Loss", 0.0))
            result = validation.evaluate(training, lambda part: ranker(training.model, playlists)(part),
                                         val.get("Loss"))
            losses = {"train": loss, **({"val": val["Loss"]} if val else {})}
            log.record(training.epoch, losses, result.values | ({"Accuracy": val["Accuracy"]} if val else {}))
            checkpoints.after_epoch(result.better)
    training.model.load_state_dict(checkpoints.best(playlists.device)["model"])


def ranker(model, playlists):
    """A function of a part: what topk.recommend takes. All songs are embedded in blocks, users by the rows of their
    history at the part, which holds val's where the split's rules say so, as for every other method."""
    import torch
    model.eval()
    codes = torch.as_tensor(playlists.item_songs, device=playlists.device)
    with torch.inference_mode():
        songs = model.song_vectors(torch.cat([model.songs(playlists.data, block) for block in codes.split(8192)]))

    def of(part):
        level = int("val" in playlists.split.history_parts(part))
        ends = torch.as_tensor(playlists.lists.ends(level), device=playlists.device)

        def users(block):
            block = torch.as_tensor(block, device=playlists.device)
            return torch.cat([model.user_vectors(model.users(playlists.data, few, ends[few]))
                              for few in block.split(1024)])
        return {"users": users, "items": songs, "device": playlists.device, "last": None}   # known by their metadata
    return of


def rank(run, model, playlists, args):
    """Lists and metrics of every part through topk."""
    from ranking import save
    results, of = {}, ranker(model, playlists)
    for part in playlists.split.parts:
        results |= save.write(run, playlists.split, args.k, args.seed, [part], **of(part))
    return results


def measure(run, model, playlists, args, parts):
    """The source's accuracy on val and test points: {part: figures}, and the files of PointAccuracy written."""
    from evaluation.files import write_metrics
    from recommenders.dtnmr.training import subset_metrics, user_means
    accuracy, outputs, name = {}, [], f"PointAccuracy@{args.subset_size}"
    for part in ("val", "test"):
        if not (figures := subset_metrics(model, playlists, part, args.seed)):
            continue
        accuracy[part], hits = figures, figures.pop("hits")
        if part in parts:
            means, users = user_means(playlists, part, hits), playlists.split.users[playlists.split.eval_users(part)]
            write_metrics(run.points(part), means.reindex(users).rename_axis("user_id").to_frame(name))
            outputs += [run.points(part, suffix) for suffix in ("csv", "pqt")]
            figures["users_of_repeats"] = int((~means.index.isin(users)).sum())
            if figures["users_of_repeats"]:
                print(f"{part}: {name} leaves out {figures['users_of_repeats']} of {len(means)} users, whose points "
                      "are all plays of songs they knew")
        if part != "val":   # test figures are printed by table.py
            continue
        print(f"{part}: the label among {args.subset_size}: {figures['Accuracy']:.4f} +- {figures['conf']:.4f} "
              f"(plays {figures['Accuracy of popularity']:.4f}, chance {figures['chance']:.4f}) "
              f"over {figures['points']} points")
    return accuracy, outputs


def main(argv=None):
    args = parse(argv)
    workdir = prepare(args)
    import dataset
    from recommenders.dtnmr.training import Settings, Training
    device, split = cli.pick_device(args.device), dataset.load(workdir)
    files = [p for name in ("items.pqt", "users.pqt", "points.pqt") if (p := workdir / name).exists()]
    playlists = read(split, args, device)
    request = selection.of_split(request_of(args, (workdir / "points.pqt").exists()), split)
    with runs.Run(workdir, "dtnmr", request, inputs=split.inputs + files, args=args) as run:
        if run.finished:
            return
        points = {part: len(rows) for part, rows in playlists.rows.items()}
        print(f"{run.name}: {points['train']} training, {points['val']} val and {points['test']} test points, "
              f"{playlists.songs.bags.size + playlists.songs.length.shape[1]} columns per song, "
              f"{playlists.user_bags.size + playlists.songs.bags.size} per user", file=sys.stderr)
        model = playlists.network(architecture_of(args), args.seed)
        training = Training(playlists, model, cli.settings(Settings, args))
        fit(run, training, args)
        results = rank(run, model, playlists, args)
        accuracy, outputs = measure(run, model, playlists, args, results)
        run.finish(outputs=outputs, parts=sorted(results), epochs=training.epoch, points=points,
                   subset_accuracy=accuracy, order=args.order, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main)
