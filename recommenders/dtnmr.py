"""DTNMR: songs and users by their metadata, playlists by an LSTM over the last 20 and the last 10 songs.

    python -m recommenders.dtnmr --reload --db KKBOX_FILES --cache WORKDIR --top 0.001 --subset-size 5
    python -m recommenders.dtnmr --workdir W                     any workspace with items.pqt, users.pqt, an order

Source: Zheng, Chen, Liang, Sangaiah, Jiang and Zhao, "A Deep Temporal Neural Music Recommendation Model Utilizing
Music and User Metadata", Appl. Sci. 2019, 9(4), 703, and its public implementation (wonjunior/DTNMR), called
the source below. Of the paper its abstract and section 4.1 could be read when this was written, its numbered
equations could not; so the four components (music feature, user static feature, user dynamic feature, rating)
have the sizes and the order of the source, and no equation number is claimed. dtnmr_model.py has the formulas.

Paper and source differ: the paper predicts songs a user has not played and removes train's pairs from test,
the source keeps repeated plays as points; the paper keeps 34,403 users and 419,781 songs, the source filters
to about 11,000 users; the paper reports ranking metrics, the source's accuracy is that of the label among
--subset-size sampled songs, on training batches only.

Ours and the source differ:
  rating      the source rates by a linear layer on (user, song) side by side. Its user term is the same for all
              songs, so it cancels in the softmax: the user side gets no gradient and all users get one ranking.
              Ours adds their elementwise product to that layer; --rating concat is the source's.
  ties        the source counts a tie as a hit (the label stands first and argmax takes it); ours shares it.
  negatives   the source may draw the label or known songs; ours never does, and knows nothing of val and test.
  history     the source stops at the first play of the label, so a song played twice looks back from its first
              play; ours looks back from the play that is predicted.
  encoding    the source's columns follow a set's order, and unknown values have none; ours are sorted by bytes,
              kept in the checkpoint, and every field ends with a column for unknown.
  training    the source: --optimizer sgd --lr 0.1 --batch-size 16 --run-len 1 --epochs 1. Ours batches runs of a
              playlist's neighbouring points (--run-len), which share their sums and LSTM windows.

Practical limits: catalogue x 33 floats and (columns of songs, of users) x 512 floats thrice (Adam) in memory.
"""
if __package__ in (None, ""):
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import math
import sys
import time
from pathlib import Path

import runs
from runs import UsageError, WorkError

NEEDS = ("features", "order")
COLD = True
DOOR = ("top", "min_playlist_len", "max_playlist_len")   # flags of the source that its preprocessing takes
PARTS = ("static", "long", "short", "behaviour")


# --------------------------------------------------------------------------- command line

def number(low, high=math.inf):
    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low < value < high and value != low == 0:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, not {text}")
        return value
    return convert


def words(text):
    return [w for w in text.split(",") if w]


def build_parser():
    parser = runs.Parser(prog="recommenders.dtnmr", description=__doc__)
    group = parser.add_argument_group("flags of the source")
    group.add_argument("--reload", action="store_true", help="read the KKBOX files again, whatever the workspace holds")
    group.add_argument("--db", metavar="PATH", help="folder of the KKBOX files (default ../db); read where the "
                                                    "workspace is empty or --reload is given")
    group.add_argument("--cache", metavar="PATH", help="the workspace, another name of --workdir")
    group.add_argument("--top", type=number(0), metavar="RATIO",
                       help="KKBOX: songs played more than this share of the most played (default 0.001)")
    group.add_argument("--min-playlist-len", type=runs.positive, metavar="NB",
                       help="songs of a playlist before its first point (default: KKBOX 20, other workspaces 1)")
    group.add_argument("--max-playlist-len", type=runs.positive, metavar="NB",
                       help="KKBOX: longer playlists are left out (default 200)")
    group.add_argument("--subset-size", type=runs.positive, default=5, metavar="NB",
                       help="songs that a label is chosen from: itself and sampled negatives (default 5)")
    group.add_argument("--short-term-len", type=runs.positive, default=10, metavar="NB", help="(default 10)")
    group.add_argument("--long-term-len", type=runs.positive, default=20, metavar="NB", help="(default 20)")
    model_flags(parser.add_argument_group("model"))
    group = parser.add_argument_group("training")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="(default adam)")
    group.add_argument("--lr", type=number(0), default=0.001, help="learning rate (default 0.001)")
    group.add_argument("--batch-size", type=runs.positive, default=512, help="points per step (default 512)")
    group.add_argument("--run-len", type=runs.positive, default=32, metavar="NB",
                       help="neighbouring points of a playlist that stay in one batch; 1 shuffles points (default 32)")
    group.add_argument("--epochs", type=runs.positive, default=20, help="at most (default 20)")
    group.add_argument("--patience", type=runs.positive, default=3,
                       help="stop after so many epochs without a better val loss (default 3)")
    group.add_argument("--order", choices=("time", "count"), default="time",
                       help="order of playlists: time, or play counts where a data set has no times (default time)")
    group.add_argument("--checkpoint-seconds", type=number(0), default=60.0,
                       help="least time between checkpoints within an epoch (default 60)")
    runs.recommender_flags(parser, device=True)
    return parser


def model_flags(group):
    group.add_argument("--rating", choices=("product", "concat"), default="product",
                       help="concat is the source's, which ranks alike for everybody (default product)")
    group.add_argument("--hidden", type=runs.positive, nargs="+", default=[512, 64], metavar="N",
                       help="hidden layers of the two MLPs (default 512 64)")
    group.add_argument("--size", type=runs.positive, default=32, help="of the embeddings (default 32)")
    group.add_argument("--lstm-size", type=runs.positive, default=256, help="(default 256)")
    group.add_argument("--lstm-layers", type=runs.positive, default=2, help="(default 2)")
    group.add_argument("--dropout", type=number(0, 1), default=0.3, help="in and after the LSTM (default 0.3)")
    group.add_argument("--song-fields", type=words, metavar="A,B",
                       help="columns of items.pqt (default: those of genres, artists, composers, language, styles, "
                            "tags that are there)")
    group.add_argument("--user-fields", type=words, metavar="A,B",
                       help="columns of users.pqt (default: those of age, gender, city, country)")
    for part, text in zip(PARTS, ("the static user", "the long-term playlist", "the short-term playlist",
                                  "the listening behaviour"), strict=True):
        group.add_argument(f"--no-{part}", action="store_true", help=f"ablation: leave out {text}")


def parse(argv):
    args = build_parser().parse_args(argv)
    if args.lr == 0:
        raise UsageError("--lr must be above 0, not 0")
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {args.seed}")
    if args.subset_size < 2:
        raise UsageError("--subset-size counts the label and at least one negative, so at least 2, not 1")
    if args.short_term_len > args.long_term_len:
        raise UsageError(f"--short-term-len {args.short_term_len} is longer than --long-term-len "
                         f"{args.long_term_len}, whose end it is")
    if args.no_static and args.no_long and args.no_short:
        raise UsageError("--no-static, --no-long and --no-short together leave nothing of the user")
    if args.cache and args.workdir and Path(args.cache).absolute() != Path(args.workdir).absolute():
        raise UsageError(f"--cache {args.cache} and --workdir {args.workdir} name two workspaces; give one")
    args.workdir = args.cache or args.workdir
    return args


def request_of(args, kkbox):
    """Every argument that can change the result; what the KKBOX door takes is in the workspace's files instead."""
    apart = {"workdir", "cache", "device", "overwrite", "db", "reload", "checkpoint_seconds", "top", "max_playlist_len"}
    request = {name: value for name, value in sorted(vars(args).items()) if name not in apart}
    return request | {"min_playlist_len": None if kkbox else args.min_playlist_len or 1}


# --------------------------------------------------------------------------- data

def prepare(args):
    """The workspace, made from the KKBOX files where it is empty or --reload is given."""
    import importlib
    workdir = Path(args.workdir).expanduser() if args.workdir else None
    there = runs.workspace(args) if workdir is None or workdir.is_dir() else workdir.absolute()
    asked = {name: getattr(args, name) for name in DOOR if getattr(args, name) is not None}
    split = (there / "data" / "train.pqt").exists()
    if split and not args.reload:
        return agreed(there, asked)
    raw = Path(args.db or "../db").expanduser()
    if not raw.is_dir():
        raise UsageError(f"{there} holds no split, and the KKBOX files to make one from are not in {raw}; name "
                         "their folder with --db, or a finished workspace with --workdir")
    door = importlib.import_module("preprocess.0_get_plays_pqt")
    splitter = importlib.import_module("preprocess.1_train_test_split")
    again = ["--overwrite"] if args.reload else []
    flags = [w for name, value in asked.items() for w in (f"--{name.replace('_', '-')}", str(value))]
    door.main(["kkbox", "--raw", str(raw), "--workdir", str(there), *flags, *again])
    splitter.main(["--protocol", "given", "--workdir", str(there), *again])
    return there


def agreed(workdir, asked):
    """The workspace, unless it was made with other values of the flags that are asked for."""
    if (workdir / "points.pqt").exists():
        told = runs.read_json(workdir / "dataset.json").get("flags", {})
        other = {k: told[k] for k, v in asked.items() if k in told and told[k] != v}
        if other:
            values = ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in other.items())
            raise UsageError(f"{workdir} was made with {values}; add --reload and --db to make it anew")
    elif set(asked) - {"min_playlist_len"}:
        flag = sorted(set(asked) - {"min_playlist_len"})[0].replace("_", "-")
        raise UsageError(f"--{flag} filters the KKBOX files, but {workdir} holds another data set")
    return workdir


class World:
    """A workspace as the network reads it: split, songs, users, playlists, tensors, negatives."""

    def __init__(self, split, args, device):
        import numpy as np

        import dtnmr_points as points
        from dtnmr_model import Data, Negatives
        path = split.workdir / "points.pqt"
        if path.exists():
            lists, tracks = points.playlists_of_points(path, split.users)
        else:
            order = "count" if args.order == "count" else None
            lists, tracks = points.playlists_of_split(split, order, args.min_playlist_len or 1)
        self.split, self.lists, self.device = split, lists, device
        ids = np.union1d(tracks, split.tracks)
        self.songs = points.read_songs(split.workdir, ids, split.tracks[:split.n_hot], args.song_fields)
        lists.song = np.searchsorted(self.songs.ids, tracks)
        self.user_bags, self.user_vocabularies = points.read_users(split.workdir, split.users, args.user_fields)
        self.item_songs = np.searchsorted(self.songs.ids, split.tracks)       # item code -> song code
        self.data = Data.of(self.songs, self.user_bags, lists, device, union=not args.no_static)
        self.rows = {part: lists.points(part) for part in points.PARTS}
        if not len(self.rows["train"]):
            raise WorkError(f"{split.workdir}: no playlist is long enough for a training point "
                            "(--min-playlist-len is the number of songs before the first)")
        self.negatives = {}
        for level, part in enumerate(points.PARTS):
            known = lists.level <= level
            self.negatives[part] = draws = Negatives(self.songs.catalogue, len(self.songs.ids),
                                                     lists.user[known], lists.song[known])
            if len(self.rows[part]) and draws.left() < args.subset_size - 1:
                raise UsageError(
                    f"--subset-size {args.subset_size} needs {args.subset_size - 1} unknown songs, but a user of "
                    f"{part} has only {draws.left()} of the catalogue's {len(self.songs.catalogue)} left; "
                    f"use at most {draws.left() + 1}")
        self.plays = np.bincount(lists.song[lists.level == 0], minlength=len(self.songs.ids))

    def network(self, args):
        """A DTNMR for this world, started from the seed."""
        import torch

        from dtnmr_model import DTNMR
        torch.manual_seed(args.seed)
        return DTNMR(self.user_bags.size, self.songs.bags.size, self.songs.length.shape[1],
                     len(self.lists.behaviours), args).to(self.device)

    def vocabularies(self):
        """What each column means; kept with the checkpoints."""
        return {"songs": self.songs.vocabularies, "users": self.user_vocabularies,
                "behaviours": list(self.lists.behaviours), "longest": self.songs.longest}

    def batch(self, rows, part, subset, generator):
        """Tensors users (b,), ends (b,), candidates (b, subset), the label first, of point rows (b,)."""
        import numpy as np
        import torch
        users = self.lists.user[rows]
        wrong = self.negatives[part].draw(users, subset - 1, generator)
        candidates = np.concatenate([self.lists.song[rows, None], wrong], 1)
        return [torch.as_tensor(x, device=self.device) for x in (users, rows, candidates)]


# --------------------------------------------------------------------------- training

class Training:
    """Everything a checkpoint carries: network, optimiser, and where in which epoch it stands."""

    def __init__(self, world, args):
        import torch
        self.world, self.args, self.model = world, args, world.network(args)
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[args.optimizer]
        self.optimizer = kind(self.model.parameters(), lr=args.lr)
        self.epoch = self.step = self.waited = self.best_epoch = 0
        self.total, self.best_loss = 0.0, math.inf

    @property
    def done(self):
        return self.epoch >= self.args.epochs or self.waited >= self.args.patience

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "vocabularies": self.world.vocabularies(), "device": self.world.device.type,
                **{k: getattr(self, k) for k in ("epoch", "step", "total", "waited", "best_epoch", "best_loss")}}

    def load(self, state):
        if state["vocabularies"] != self.world.vocabularies():
            raise WorkError("the checkpoint was made with other vocabularies; use --overwrite to start again")
        if state["device"] != self.world.device.type:
            raise UsageError(f"this training began on {state['device']} and continues there only; "
                             f"use --device {state['device']}, or --overwrite to start again")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("epoch", "step", "total", "waited", "best_epoch", "best_loss"):
            setattr(self, name, state[name])

    def batches(self):
        """This epoch's batches of point rows, from the present step on."""
        import numpy as np

        from dtnmr_model import batches_of
        order = np.random.default_rng([self.args.seed, 1, self.epoch])
        return batches_of(self.world.rows["train"], self.world.lists.user, self.args.run_len, self.args.batch_size,
                          order)[self.step:]

    def learn(self, rows):
        """One step. Its negatives and its dropout come from (seed, epoch, step), so a resumed run repeats them."""
        import numpy as np
        import torch
        stream = [self.args.seed, 2, self.epoch, self.step]
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> 1))
        users, ends, candidates = self.world.batch(rows, "train", self.args.subset_size, np.random.default_rng(stream))
        self.model.train()
        ratings = self.model(self.world.data, users, ends, candidates)
        loss = torch.nn.functional.cross_entropy(ratings, torch.zeros_like(users))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.total += float(loss.detach()) * len(rows)

    def close_epoch(self, losses):
        """Count the epoch; True when its val loss is the best so far (or there is no val)."""
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        if losses.get("val", -math.inf) < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = losses.get("val", math.inf), self.epoch, 0
            return True
        self.waited += 1
        return False


def fit(run, training, args):
    """Train until done, from the last checkpoint where there is one; the best epoch is loaded at the end."""
    if run.resume and run.checkpoint("last").exists():
        training.load(runs.load_checkpoint(run.checkpoint("last")))
    world, stop, saved = training.world, runs.StopRequest(), time.monotonic()
    points = len(world.rows["train"])
    writer = run.writer(purge_step=training.epoch + 1)

    def save(which):
        runs.save_checkpoint(run.checkpoint(which), training.state())

    with runs.Progress(args.epochs * points, run.name, "points", initial=training.epoch * points) as progress:
        while not training.done:
            for rows in training.batches():
                training.learn(rows)
                progress.update(len(rows), epoch=training.epoch + 1)
                if not math.isfinite(training.total):
                    raise WorkError(f"the loss is no longer a number in epoch {training.epoch + 1}; try a smaller --lr")
                if stop.requested or time.monotonic() - saved >= args.checkpoint_seconds:
                    save("last")
                    saved = time.monotonic()
                if stop.requested:
                    runs.stop_here(run.name)
            values = {"Loss/train": training.total / points}
            if len(world.rows["val"]):
                values |= {f"{k}/val": v for k, v in subset_metrics(training.model, world, "val", args).items()
                           if k in ("Loss", "Accuracy")}
            if training.close_epoch({"val": values["Loss/val"]} if "Loss/val" in values else {}):
                save("best")
            for name, value in values.items():
                writer.add_scalar(name, value, training.epoch)
            save("last")
            saved = time.monotonic()
    training.model.load_state_dict(runs.load_checkpoint(run.checkpoint("best"), world.device)["model"])


# --------------------------------------------------------------------------- evaluation

def subset_metrics(model, world, part, args):
    """The source's accuracy on a part's points: the label rated above --subset-size - 1 sampled songs.

    The same subsets for every model of one seed; a tie of n songs counts 1 / n. Beside it the accuracy of the
    plays in train, and the half-width of the 95 % interval. {} for a part without points.
    """
    import numpy as np
    import torch

    from dtnmr_model import batches_of
    draw = np.random.default_rng([args.seed, 3, len(part)])
    loss, hits, popular = 0.0, [], []
    model.eval()
    with torch.inference_mode():
        for rows in batches_of(world.rows[part], world.lists.user, args.run_len, 2048):
            users, ends, candidates = world.batch(rows, part, args.subset_size, draw)
            ratings = model(world.data, users, ends, candidates).double()
            loss += float(torch.nn.functional.cross_entropy(ratings, torch.zeros_like(users), reduction="sum"))
            hits.append(first_wins(ratings.cpu().numpy()))
            popular.append(first_wins(world.plays[candidates.cpu().numpy()]))
    if not hits:
        return {}
    hits, popular = np.concatenate(hits), np.concatenate(popular)
    return {"Accuracy": float(hits.mean()), "conf": float(1.96 * hits.std() / len(hits) ** 0.5),
            "Accuracy of popularity": float(popular.mean()), "chance": 1 / args.subset_size,
            "points": len(hits), "Loss": loss / len(hits)}


def first_wins(values):
    """For each row of (b, C): 1 / n where the first value is the largest, shared by n; 0 where it is not."""
    best = values == values.max(1, keepdims=True)
    return best[:, 0] / best.sum(1)


def rank(run, model, world, args):
    """Lists and metrics of every part through topk: all songs embedded in blocks, users by their known rows."""
    import torch

    import topk
    results = {}
    model.eval()
    with torch.inference_mode():
        codes = torch.as_tensor(world.item_songs, device=world.device)
        songs = model.song_vectors(torch.cat([model.songs(world.data, block) for block in codes.split(8192)]))
        for part in world.split.parts:
            ends = torch.as_tensor(world.lists.ends(0 if part == "val" else 1), device=world.device)

            def users(block, ends=ends):
                block = torch.as_tensor(block, device=world.device)
                return torch.cat([model.user_vectors(model.users(world.data, few, ends[few]))
                                  for few in block.split(1024)])
            results |= topk.write(run, world.split, args.k, args.seed, [part], users=users, items=songs,
                                  device=world.device)
    return results


def main(argv=None):
    args = parse(argv)
    workdir = prepare(args)
    import dataset
    device, split = runs.pick_device(args.device), dataset.load(workdir)
    files = [p for name in ("items.pqt", "users.pqt", "points.pqt") if (p := workdir / name).exists()]
    world = World(split, args, device)
    request = request_of(args, (workdir / "points.pqt").exists())
    with runs.Run(workdir, "dtnmr", request, inputs=split.inputs + files, args=args) as run:
        if run.finished:
            return
        points = {part: len(rows) for part, rows in world.rows.items()}
        print(f"{run.name}: {points['train']} training, {points['val']} val and {points['test']} test points, "
              f"{world.songs.bags.size + world.songs.length.shape[1]} columns per song, "
              f"{world.user_bags.size + world.songs.bags.size} per user", file=sys.stderr)
        training = Training(world, args)
        fit(run, training, args)
        accuracy = {part: subset_metrics(training.model, world, part, args) for part in ("val", "test")}
        results = rank(run, training.model, world, args)
        for part, values in accuracy.items():
            if values:
                print(f"{part}: the label among {args.subset_size}: {values['Accuracy']:.4f} +- {values['conf']:.4f} "
                      f"(plays {values['Accuracy of popularity']:.4f}, chance {values['chance']:.4f}) "
                      f"over {values['points']} points")
        run.finish(parts=sorted(results), epochs=training.epoch, best_epoch=training.best_epoch, points=points,
                   subset_accuracy={k: v for k, v in accuracy.items() if v}, order=args.order)


if __name__ == "__main__":
    runs.cli(main)
