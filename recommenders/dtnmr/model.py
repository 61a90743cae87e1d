"""DTNMR's network, computed without ever building a multi-hot vector.

Zheng et al., "A Deep Temporal Neural Music Recommendation Model Utilizing Music and User Metadata",
Appl. Sci. 2019, 9, 703; the sizes are those of the public implementation that __main__.py names.

    static(u, i)  = MLP_user(age, gender, city, union of the songs before row i)            (B, E)
    song(s)       = MLP_song(length, genre, artist, composer, language)                     (S, E)
    dynamic(u, i) = head(LSTM(last 20 rows before i)) + head(LSTM(last 10 rows before i))   (B, E)
    rating        = linear(u, s), u = static + dynamic                                      (B, C)

Letters: B points, C candidates, S songs, E embedding size, H first hidden layer, N rows of all playlists.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recommenders.dtnmr import COMPONENTS
from recommenders.dtnmr.points import Bags, ranges


@dataclass
class Data:
    """The lists a network reads, as int64 tensors on its device: bags as (indptr, columns), playlists by row."""
    song_bags: tuple
    song_length: torch.Tensor      # float32 (S, 2), or (S, 0) without lengths
    user_bags: tuple
    added: tuple                   # what each row adds to its playlist's union
    indptr: torch.Tensor           # (U + 1,) rows of each user
    song: torch.Tensor             # (N,)
    behaviour: torch.Tensor | None  # (N,)

    @classmethod
    def of(cls, songs, users, playlists, device="cpu", union=True):
        """From points.Songs, Bags of the users and Playlists."""
        def lists(bags):
            return torch.as_tensor(bags.indptr, device=device), torch.as_tensor(bags.columns, device=device)
        added = (playlists.additions(songs.bags) if union else
                 Bags(np.zeros(len(playlists.song) + 1, np.int64), np.zeros(0, np.int64), songs.bags.size))
        behaviour = playlists.behaviour
        return cls(lists(songs.bags), torch.as_tensor(songs.length, device=device), lists(users), lists(added),
                   torch.as_tensor(playlists.indptr, device=device), torch.as_tensor(playlists.song, device=device),
                   None if behaviour is None else torch.as_tensor(behaviour, device=device))


def bag_sum(weight, columns, starts, counts):
    """Sums (n, H) of the rows weight[columns[start:start + count]]; an empty bag is a zero row.

    It is the product of the n multi-hot vectors with `weight`.
    """
    offsets = counts.cumsum(0) - counts
    index = torch.repeat_interleave(starts - offsets, counts) + torch.arange(int(counts.sum()), device=counts.device)
    return F.embedding_bag(columns[index], weight, offsets, mode="sum")


class BagMLP(nn.Module):
    """Three layers with ReLUs; the first one's weights are rows to sum, its input is lists of columns.

    columns: length of the multi-hot vector; numbers: real inputs beside it
    """

    def __init__(self, columns, numbers, hidden, out):
        super().__init__()
        first = nn.Linear(columns + numbers, hidden[0])     # its initial values are those of the dense layer
        weight = first.weight.detach().T.contiguous()
        self.rows = nn.Parameter(weight[numbers:].clone())
        self.numbers = nn.Parameter(weight[:numbers].clone()) if numbers else None
        self.bias = nn.Parameter(first.bias.detach().clone())
        sizes = [*hidden, out]
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, summed, numbers=None):
        """(n, E) of sums of rows (n, H) and, where the layer has them, numbers (n, 0..2)."""
        x = summed + self.bias
        if self.numbers is not None:
            x = x + numbers @ self.numbers
        for layer in self.rest:
            x = layer(F.relu(x))
        return F.relu(x)


@dataclass(frozen=True)
class Architecture:
    """Components and sizes of a DTNMR; the defaults are the source's, but for the rating."""
    components: tuple = COMPONENTS      # those that are used; one of static, long and short is
    hidden: tuple = (512, 64)           # hidden layers of the two MLPs
    size: int = 32                      # embedding size of users and songs
    lstm_size: int = 256                # units of an LSTM layer
    lstm_layers: int = 2
    dropout: float = 0.3                # in and after the LSTM
    long_term_len: int = 20             # songs of the long-term playlist
    short_term_len: int = 10            # songs of the short-term playlist
    rating: str = "product"             # or "concat"


class DTNMR(nn.Module):
    """The network of an Architecture.

    rating: 'product' (linear on user, song and their elementwise product) or 'concat' (linear on user and song,
    as in the source: the user's share is one number for all songs, so every user gets the same ranking).
    Practical limit: both tables of first-layer rows are dense, (columns, H) floats, as are their gradients.
    """

    def __init__(self, user_columns, song_columns, numbers, behaviours, architecture):
        super().__init__()
        self.architecture, self.components = architecture, frozenset(architecture.components)
        self.lengths = {"long": architecture.long_term_len, "short": architecture.short_term_len}
        self.behaviours = behaviours if "behaviour" in self.components else 0
        self.user_columns, self.size = user_columns, architecture.size
        hidden, size, units = architecture.hidden, architecture.size, architecture.lstm_size
        self.song = BagMLP(song_columns, numbers, hidden, size)
        if "static" in self.components:
            self.user = BagMLP(user_columns + song_columns, 0, hidden, size)
        if self.components & {"long", "short"}:
            self.lstm = nn.LSTM(size + self.behaviours, units, architecture.lstm_layers,
                                dropout=architecture.dropout if architecture.lstm_layers > 1 else 0.0)
            self.head = nn.Sequential(nn.Linear(units, units), nn.Dropout(architecture.dropout),
                                      nn.Linear(units, size), nn.ReLU())
        self.rate = nn.Linear(2 * size, 1)
        self.product = nn.Parameter(torch.full((size,), size ** -0.5)) if architecture.rating == "product" else None

    def song_sums(self, data, codes):
        """Multi-hot songs times the first layer, (n, H), of song codes (n,)."""
        indptr, columns = data.song_bags
        starts = indptr[codes]
        return bag_sum(self.song.rows, columns, starts, indptr[codes + 1] - starts)

    def songs(self, data, codes):
        """Embeddings (n, E) of song codes (n,)."""
        return self.song(self.song_sums(data, codes), data.song_length[codes])

    def user_sums(self, data, users, ends):
        """Multi-hot users times the first layer, (B, H): metadata and the union of the rows before `ends`.

        Neighbours in the batch that are the same user at a later row share the sum so far: each point adds what
        its playlist has gained since the one before, and the sums run on within such a run.
        """
        indptr, columns = data.added
        begins = torch.ones_like(users, dtype=torch.bool)
        begins[1:] = (users[1:] != users[:-1]) | (ends[1:] < ends[:-1])
        since = torch.where(begins, data.indptr[users], ends.roll(1))
        starts, stops = indptr[since], indptr[ends]
        rows = self.user.rows
        gained = bag_sum(rows[self.user_columns:], columns, starts, stops - starts)       # (B, H)
        fixed, firsts = data.user_bags, users[begins]
        about = bag_sum(rows[:self.user_columns], fixed[1], fixed[0][firsts], fixed[0][firsts + 1] - fixed[0][firsts])
        gained = gained.index_add(0, begins.nonzero().squeeze(1), about)
        return run_sums(gained, begins)

    def dynamic(self, data, users, ends):
        """Dynamic users (B, E): the sum over the long and the short window; a user without rows is zero.

        The LSTM starts afresh with every window, so a window is known by its first row: what has been read
        after 10 rows is the short-term state of one point and, 10 rows on, leads to the long-term state of
        another. Windows that begin alike are run once, as far as any point needs.
        """
        own = data.indptr[users]
        wanted = [self.lengths[p] for p in ("long", "short") if p in self.components]
        starts = torch.cat([torch.maximum(own, ends - n) for n in wanted])
        steps, point = ends.repeat(len(wanted)) - starts, torch.arange(len(users), device=users.device)
        point, some = point.repeat(len(wanted)), steps > 0
        starts, steps, point = starts[some], steps[some], point[some]
        out = torch.zeros(len(users), self.size, device=users.device)
        if not len(starts):
            return out
        first, window = starts.unique(return_inverse=True)
        need = torch.zeros_like(first).scatter_reduce(0, window, steps, "amax")
        for some in (need <= min(wanted), need > min(wanted)):     # windows of like length are one call of the LSTM
            if some.any():
                mine = some[window]
                at = (some.cumsum(0) - 1)[window[mine]]
                states = self._read(data, first[some], need[some])                         # (T, W, lstm_size)
                out = out.index_add(0, point[mine], self.head(states[steps[mine] - 1, at]))
        return out

    def _read(self, data, first, need):
        """LSTM states (T, W, lstm_size) of W windows that begin at rows `first`; T is the largest `need`.

        A window that needs less is filled up with its last row: what has been read by then does not change.
        """
        time = torch.arange(int(need.max()), device=need.device)[:, None]
        rows = first + torch.minimum(time, need - 1)                                       # (T, W)
        distinct, index = data.song[rows].unique(return_inverse=True)
        steps = F.embedding(index, self.songs(data, distinct))
        if self.behaviours:
            steps = torch.cat([steps, F.one_hot(data.behaviour[rows], self.behaviours)], 2)
        return self.lstm(steps)[0]

    def users(self, data, users, ends):
        """User embeddings (B, E) at rows `ends` (exclusive), their static and their dynamic part summed."""
        parts = []
        if "static" in self.components:
            parts.append(self.user(self.user_sums(data, users, ends)))
        if self.components & {"long", "short"}:
            parts.append(self.dynamic(data, users, ends))
        return sum(parts)

    def user_vectors(self, embedded):
        """(B, E + 1) whose dot product with `song_vectors` is the rating."""
        of_user, of_song = self.rate.weight[0].split(self.size)
        vector = of_song.expand_as(embedded) if self.product is None else of_song + embedded * self.product
        return torch.cat([vector, (embedded @ of_user + self.rate.bias)[:, None]], 1)

    @staticmethod
    def song_vectors(embedded):
        """(S, E + 1), see `user_vectors`."""
        return torch.cat([embedded, embedded.new_ones(len(embedded), 1)], 1)

    def forward(self, data, users, ends, candidates):
        """Ratings (B, C) of candidate songs (B, C) for users (B,) who know the rows before `ends` (B,)."""
        distinct, index = candidates.unique(return_inverse=True)
        songs = self.song_vectors(self.songs(data, distinct))[index]                        # (B, C, E + 1)
        return (songs @ self.user_vectors(self.users(data, users, ends))[:, :, None]).squeeze(2)


def run_sums(values, begins):
    """Sums of (B, H) from the last row with begins (B,) True; exact: no run is subtracted from another."""
    run = begins.cumsum(0) - 1
    first = begins.nonzero().squeeze(1)
    place = torch.arange(len(values), device=values.device) - first[run]
    padded = values.new_zeros(len(first), int(place.max()) + 1, values.shape[1])
    return padded.index_put((run, place), values).cumsum(1)[run, place]


# --------------------------------------------------------------------------- which points, against which songs

def runs_of(rows, user, longest):
    """Cut ascending point rows into runs of consecutive rows of one user, at most `longest` long: starts, lengths."""
    if not len(rows):
        return rows, rows
    first = np.flatnonzero(np.r_[True, (np.diff(rows) != 1) | (np.diff(user[rows]) != 0)])
    place = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    starts = np.flatnonzero(place % longest == 0)
    return rows[starts], np.diff(np.r_[starts, len(rows)])


def batches_of(rows, user, longest, size, generator=None):
    """Batches of about `size` points, each of whole runs; shuffled by the generator where there is one."""
    starts, lengths = runs_of(rows, user, longest)
    order = np.arange(len(starts)) if generator is None else generator.permutation(len(starts))
    starts, lengths = starts[order], lengths[order]
    cuts = np.flatnonzero(np.diff((np.cumsum(lengths) - lengths) // size)) + 1
    return [ranges(a, b) for a, b in zip(np.split(starts, cuts), np.split(lengths, cuts), strict=True) if len(a)]
