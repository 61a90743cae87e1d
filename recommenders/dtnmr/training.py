"""Training and scoring DTNMR: the workspace as tensors, the state a checkpoint carries, the accuracy of the source.

__main__.py is the command line.
"""
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.subset_accuracy import Negatives, first_wins
from harness.errors import UsageError, WorkError
from harness.files import checksum
from harness.readers import read_json
from recommenders.dtnmr import COMPONENTS, points
from recommenders.dtnmr.model import DTNMR, Data, batches_of
from training.checkpoints import check_device
from training.early_stopping import EarlyStopping

RUN = 64   # neighbouring points of a playlist in one batch, where nothing is trained


class PlaylistData:
    """A workspace as the network reads it: split, songs, users, playlists, tensors, negatives.

    order: "time" or "count", of the playlists; min_playlist_len: songs before the first point, None for 1 (both only
    without points.pqt); song_fields, user_fields: metadata columns, None for the usual ones; components: those of the
    network; subset_size: songs that a label is chosen from
    """

    def __init__(self, split, device="cpu", *, order="time", min_playlist_len=None, song_fields=None, user_fields=None,
                 components=COMPONENTS, subset_size=5):
        self.split, self.device, self.subset_size = split, torch.device(device), subset_size
        self.lists, tracks = read_playlists(split, order, min_playlist_len)
        if "behaviour" not in components and self.lists.behaviour is None:
            raise UsageError(f"--no-behaviour: {split.workdir} has no listening behaviour to leave out")
        ids = np.union1d(tracks, split.tracks)
        self.songs = points.read_songs(split.workdir, ids, split.tracks[:split.n_hot], song_fields)
        self.lists.song = np.searchsorted(self.songs.ids, tracks)
        self.user_bags, self.user_vocabularies = points.read_users(split.workdir, split.users, user_fields)
        self.item_songs = np.searchsorted(self.songs.ids, split.tracks)       # item code -> song code
        self.data = Data.of(self.songs, self.user_bags, self.lists, device, union="static" in components)
        self.plays = np.bincount(self.lists.song[self.lists.level == 0], minlength=len(self.songs.ids))
        self._draw_points()

    def _draw_points(self):
        """Point rows of each part, {part: (n,)}, that have enough negatives, and the draw of these."""
        lists, self.rows, self.negatives = self.lists, {}, {}
        if not len(lists.points("train")):
            raise WorkError(f"{self.split.workdir}: no playlist is long enough for a training point "
                            "(--min-playlist-len is the number of songs before the first)")
        hidden = self.split.hidden
        for level, part in enumerate(points.PARTS):
            known, rows = lists.level <= level, lists.points(part)
            users, songs = lists.user[known], lists.song[known]
            if level and hidden is not None:   # train knows nothing of them, but they are no wrong answers
                users = np.concatenate([users, hidden.user])
                songs = np.concatenate([songs, self.item_songs[hidden.item]])
            self.negatives[part] = draws = Negatives(self.songs.catalogue, len(self.songs.ids), users, songs)
            self.rows[part] = rows[draws.enough(lists.user[rows], self.subset_size, f"{part} points")]

    def network(self, architecture, seed=42):
        """A DTNMR for this data, its initial weights drawn from the seed."""
        torch.manual_seed(seed)
        return DTNMR(self.user_bags.size, self.songs.bags.size, self.songs.length.shape[1],
                     len(self.lists.behaviours), architecture).to(self.device)

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


def read_playlists(split, order="time", min_playlist_len=None):
    """(Playlists, track ids of their rows) of points.pqt, or of the split where there is none."""
    path = split.workdir / "points.pqt"
    if not path.exists():
        return points.playlists_of_split(split, "count" if order == "count" else None, min_playlist_len or 1)
    if order != "time":
        raise UsageError(f"--order {order} is for workspaces without {path.name}, which has an order")
    if split.hidden is not None:
        raise UsageError(f"{path.name} has all plays, those that --train-share took out of train among them; split "
                         "without --train-share")
    agrees(split.workdir)
    return points.playlists_of_points(path, split.users)


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

@dataclass(frozen=True)
class Settings:
    """How a DTNMR is trained."""
    optimizer: str = "adam"     # or "sgd"
    lr: float = 0.001           # learning rate
    batch_size: int = 512       # points per step
    run_len: int = 64           # neighbouring points of a playlist that stay in one batch
    epochs: int = 20
    stop_on: str = "NDCG@10"    # what selects the epoch, on val: a metric, or "loss" (training/selection.py)
    patience: int = 3           # evaluations of val without a better value before training stops
    seed: int = 42


class Training:
    """Everything a checkpoint carries: network, optimiser, epochs and steps done.

    playlists: PlaylistData; model: of its `network`; settings: a Settings
    """
    COUNTERS = ("epoch", "step", "total")

    def __init__(self, playlists, model, settings):
        self.playlists, self.model, self.settings = playlists, model, settings
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
        self.optimizer = kind(self.model.parameters(), lr=settings.lr, fused=True)
        self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience)
        self.epoch, self.step, self.total = 0, 0, 0.0   # epochs done; of the one under way: steps, summed loss

    @property
    def done(self):
        return self.stopping.done(self.epoch)

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "vocabularies": self.playlists.vocabularies(), "device": self.playlists.device.type,
                **self.stopping.state(), **{name: getattr(self, name) for name in self.COUNTERS}}

    def best_state(self):
        """What is kept of the best epoch."""
        return self.state()

    def load(self, state):
        if state["vocabularies"] != self.playlists.vocabularies():
            raise WorkError("the checkpoint was made with other vocabularies; use --overwrite to start again")
        check_device(state, self.playlists.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stopping.load(state)
        for name in self.COUNTERS:
            setattr(self, name, state[name])

    def batches(self):
        """This epoch's batches of point rows, from the present step on."""
        order = np.random.default_rng([self.settings.seed, 1, self.epoch])
        return batches_of(self.playlists.rows["train"], self.playlists.lists.user, self.settings.run_len,
                          self.settings.batch_size, order)[self.step:]

    def learn(self, rows):
        """One step. Its negatives and its dropout come from (seed, epoch, step), so a resumed run repeats them."""
        stream = [self.settings.seed, 2, self.epoch, self.step]
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> 1))
        playlists, draw = self.playlists, np.random.default_rng(stream)
        users, ends, candidates = playlists.batch(rows, "train", playlists.subset_size, draw)
        self.model.train()
        ratings = self.model(playlists.data, users, ends, candidates)
        loss = torch.nn.functional.cross_entropy(ratings, torch.zeros_like(users))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.total += float(loss.detach()) * len(rows)

    def close_epoch(self):
        """Count the epoch; the mean loss over its points."""
        mean = self.total / len(self.playlists.rows["train"])
        self.epoch, self.step, self.total = self.epoch + 1, 0, 0.0
        return mean


# --------------------------------------------------------------------------- accuracy

def subset_metrics(model, playlists, part, seed=42):
    """The source's accuracy on a part's points: the label rated above --subset-size - 1 sampled songs.

    The same subsets for every model of one seed and size; a tie of n songs counts 1 / n. returns: Accuracy, conf (the
    half-width of its 95 % interval over users), Accuracy of popularity (of the plays in train), chance, points (their
    number), Loss (cross-entropy per point), and hits float64, one for each of playlists.rows[part]; {} for a part
    without points.
    """
    draw = np.random.default_rng([seed, 3, points.PARTS.index(part)])
    loss, hits, popular = 0.0, [], []
    model.eval()
    with torch.inference_mode():
        for rows in batches_of(playlists.rows[part], playlists.lists.user, RUN, 2048):   # draws depend on it
            users, ends, candidates = playlists.batch(rows, part, playlists.subset_size, draw)
            ratings = model(playlists.data, users, ends, candidates).double()
            loss += float(torch.nn.functional.cross_entropy(ratings, torch.zeros_like(users), reduction="sum"))
            hits.append(first_wins(ratings.cpu().numpy()))
            popular.append(first_wins(playlists.plays[candidates.cpu().numpy()]))
    if not hits:
        return {}
    hits, popular = np.concatenate(hits), np.concatenate(popular)
    return {"Accuracy": float(hits.mean()), "conf": half_width(hits, playlists.lists.user[playlists.rows[part]]),
            "Accuracy of popularity": float(popular.mean()), "chance": 1 / playlists.subset_size,
            "points": len(hits), "Loss": loss / len(hits), "hits": hits}


def half_width(hits, user):
    """Half-width of the 95 % interval of the mean of `hits` (N,), whose points are clustered by `user` (N,).

    NaN with one user, whose spread says nothing of others.
    """
    from scipy.special import stdtrit
    sums = np.bincount(np.unique(user, return_inverse=True)[1], hits - hits.mean())
    n = len(sums)
    return float(stdtrit(n - 1, .975) * (n / (n - 1) * (sums ** 2).sum()) ** .5 / len(hits)) if n > 1 else float("nan")


def user_means(playlists, part, hits):
    """Mean of a part's `hits` for each user who has points in it: Series by user_id.

    Users whose points are all plays of songs they knew are among them, and have no pair in the split's part; so its
    metrics, and PointAccuracy with them, are of the others.
    """
    import pandas as pd
    users, user = np.unique(playlists.lists.user[playlists.rows[part]], return_inverse=True)
    return pd.Series(np.bincount(user, hits) / np.bincount(user), playlists.split.users[users])
