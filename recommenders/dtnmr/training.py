"""Training and scoring DTNMR: the workspace as tensors, the state a checkpoint carries, the accuracy of the source.

recommenders/dtnmr.py is the command line; `args` here is its parsed form.
"""
import numpy as np
import torch

from evaluation.subset_accuracy import Negatives, first_wins
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.readers import read_json
from recommenders.dtnmr import points
from recommenders.dtnmr.model import DTNMR, Data, batches_of
from training.checkpoints import check_device
from training.early_stopping import EarlyStopping

RUN = 64   # neighbouring points of a playlist in one batch, where nothing is trained


class World:
    """A workspace as the network reads it: split, songs, users, playlists, tensors, negatives."""

    def __init__(self, split, args, device):
        path = split.workdir / "points.pqt"
        if path.exists():
            if args.order != "time":
                raise UsageError(f"--order {args.order} is for workspaces without {path.name}, which has an order")
            agrees(split.workdir)
            lists, tracks = points.playlists_of_points(path, split.users)
        else:
            order = "count" if args.order == "count" else None
            lists, tracks = points.playlists_of_split(split, order, args.min_playlist_len or 1)
        if args.no_behaviour and lists.behaviour is None:
            raise UsageError(f"--no-behaviour: {split.workdir} has no listening behaviour to leave out")
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
            rows = self.rows[part]
            self.rows[part] = rows[draws.enough(lists.user[rows], args.subset_size, f"{part} points")]
        self.plays = np.bincount(lists.song[lists.level == 0], minlength=len(self.songs.ids))

    def network(self, args):
        """A DTNMR for this world, started from the seed."""
        torch.manual_seed(args.seed)
        return DTNMR(self.user_bags.size, self.songs.bags.size, self.songs.length.shape[1],
                     len(self.lists.behaviours), args).to(self.device)

    def vocabularies(self):
        """What each column means; kept with the checkpoints."""
        return {"songs": self.songs.vocabularies, "users": self.user_vocabularies,
                "behaviours": list(self.lists.behaviours), "longest": self.songs.longest}

    def batch(self, rows, part, subset, generator):
        """Tensors users (b,), ends (b,), candidates (b, subset), the label first, of point rows (b,)."""
        users = self.lists.user[rows]
        wrong = self.negatives[part].draw(users, subset - 1, generator)
        candidates = np.concatenate([self.lists.song[rows, None], wrong], 1)
        return [torch.as_tensor(x, device=self.device) for x in (users, rows, candidates)]


def agrees(workdir):
    """WorkError where data/ was not split by the split.pqt that was written with points.pqt: train would know test.

    Nothing is said where a file of the two is not there to compare.
    """
    given, manifest = workdir / "split.pqt", workdir / "data" / "split.json"
    if not (given.exists() and manifest.exists()):
        return
    if read_json(manifest, {"request": dict}).get("request", {}).get("given split") != checksum(given):
        raise WorkError(f"{manifest.parent} was not split by {given.name}, which was made with points.pqt, so train "
                        "may hold its test points; run preprocess/1_train_test_split.py --protocol given again")


# --------------------------------------------------------------------------- what an epoch changes

class Training:
    """Everything a checkpoint carries: network, optimiser, and where in which epoch it stands."""
    COUNTERS = ("epoch", "step", "total")

    def __init__(self, world, args):
        self.world, self.args, self.model = world, args, world.network(args)
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[args.optimizer]
        self.optimizer = kind(self.model.parameters(), lr=args.lr, fused=True)
        self.stopping = EarlyStopping("loss", args.epochs, args.patience)
        self.epoch, self.step, self.total = 0, 0, 0.0   # epochs done; of the one under way: steps, summed loss

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "vocabularies": self.world.vocabularies(), "device": self.world.device.type,
                **self.stopping.state(), **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch."""
        return self.state()

    def load(self, state):
        if state["vocabularies"] != self.world.vocabularies():
            raise WorkError("the checkpoint was made with other vocabularies; use --overwrite to start again")
        check_device(state, self.world.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopping.load(state)
        for name in self.COUNTERS:
            setattr(self, name, state[name])

    def batches(self):
        """This epoch's batches of point rows, from the present step on."""
        order = np.random.default_rng([self.args.seed, 1, self.epoch])
        return batches_of(self.world.rows["train"], self.world.lists.user, self.args.run_len, self.args.batch_size,
                          order)[self.step:]

    def learn(self, rows):
        """One step. Its negatives and its dropout come from (seed, epoch, step), so a resumed run repeats them."""
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

    def close_epoch(self):
        """Count the epoch; the mean loss over its points."""
        mean = self.total / len(self.world.rows["train"])
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        return mean


# --------------------------------------------------------------------------- accuracy

def subset_metrics(model, world, part, args):
    """The source's accuracy on a part's points: the label rated above --subset-size - 1 sampled songs.

    The same subsets for every model of one seed and size; a tie of n songs counts 1 / n. returns: Accuracy, conf (the
    half-width of its 95 % interval), Accuracy of popularity (of the plays in train), chance, points (their number),
    Loss (cross-entropy per point), and hits float64, one for each of world.rows[part]; {} for a part without points.
    """
    draw = np.random.default_rng([args.seed, 3, points.PARTS.index(part)])
    loss, hits, popular = 0.0, [], []
    model.eval()
    with torch.inference_mode():
        for rows in batches_of(world.rows[part], world.lists.user, RUN, 2048):   # draws depend on it
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
            "points": len(hits), "Loss": loss / len(hits), "hits": hits}


def user_means(world, part, hits):
    """Mean of a part's `hits` for each user who has points in it: Series by user_id.

    Users whose points are all plays of songs they knew are among them, and have no pair in the split's part; so its
    metrics, and PointAccuracy with them, are of the others.
    """
    import pandas as pd
    users, user = np.unique(world.lists.user[world.rows[part]], return_inverse=True)
    return pd.Series(np.bincount(user, hits) / np.bincount(user), world.split.users[users])
