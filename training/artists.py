"""Artists of the tracks: who shares one, means over and random draws of an artist's other tracks.

    artists = artists_of(split, "artist_mean")             # csr (n_items, A)
    mean, count = means(artists, factors, plays > 0)
    codes = Others(artists, plays > 0).draw(items, 5, keys)
"""
from harness.errors import WorkError
from harness.metadata import read_artists
from training import factor_maps


def artists_of(split, method):
    """Which artists each item of the split has, csr float64 (n_items, A) of ones.

    Names are compared without case. WorkError, in which `method` is the recommender's name, without
    items.pqt or artists in it, with one artist only, and where no artist has two tracks.
    """
    import numpy as np
    path = split.workdir / "items.pqt"
    every = read_artists(split.workdir, split.n_tracks)
    if every is None:
        raise WorkError(f"{path} is missing or names no artists, so {method} does not apply; use "
                        "recommenders.content_factors")
    matrix = every[split.tracks].astype(np.float64)
    tracks = np.bincount(matrix.indices, minlength=matrix.shape[1])
    if (tracks > 0).sum() < 2:
        raise WorkError(f"{path} names {'one artist' if tracks.any() else 'no artist'} for the tracks of this split, "
                        f"so {method} cannot distinguish them; use recommenders.content_factors")
    if tracks.max() < 2:
        raise WorkError(f"no artist of {path} has two tracks in this split, as where the items are artists themselves, "
                        f"so {method} has no other track of an artist to use; use recommenders.content_factors")
    return matrix


def means(artists, values, known):
    """Mean of `values` over the known items that share an artist with each item, itself left out.

    artists: csr (n_items, A) of ones; values: float64 (n_hot, D) of the first items; known: bool
    (n_hot,), whether an item has a factor. Returns float64 (n_items, D) and the number of items
    averaged, int64 (n_items,), 0 where none.
    """
    import numpy as np
    hot = artists[:len(values)].multiply(known[:, None]).tocsr()
    total = artists @ (hot.T @ values)
    count = artists @ (hot.T @ np.ones(len(values)))
    own = np.asarray(hot.sum(axis=1)).ravel()             # an item is among the tracks of each of its artists
    total[:len(values)] -= own[:, None] * values
    count[:len(values)] -= own
    count = np.rint(count).astype(np.int64)
    return np.divide(total, count[:, None], out=np.zeros_like(total), where=count[:, None] > 0), count


def lengths(artists, features, learned, weights, l2="gcv"):
    """Length of a factor, float64 (n_items,): the mean length of the artist's other tracks, and that which content
    predicts where there are none.

    features: float64 (n_items, C); learned: ranking.factors.Factors; weights: (n_hot,) of the
    regression on content
    """
    import numpy as np
    sizes = np.linalg.norm(learned.items, axis=1, keepdims=True)
    mean, count = means(artists, sizes, learned.plays > 0)
    return np.where(count > 0, mean[:, 0], factor_maps.lengths(features, learned.items, weights, l2))


class Others:
    """The known tracks that share an artist with an item, itself left out; drawn where there are many.

    artists: csr (n_items, A) of ones; known: bool (n_hot,)
    """

    def __init__(self, artists, known):
        self.artists = artists
        self.tracks = artists[:len(known)].multiply(known[:, None]).T.tocsr()   # (A, n_hot)

    def draw(self, items, n, keys):
        """At most n of them for each item, int64 (b, m), -1 behind the last; 1 <= m <= n.

        items: int64 (b,); keys: function of their codes (p,), those of all items one after the
        other, giving numbers (p,), of which the n smallest of an item are taken
        """
        import numpy as np
        pairs = (self.artists[items] @ self.tracks).tocsr()
        pairs.sort_indices()
        row, column = np.repeat(np.arange(len(items)), np.diff(pairs.indptr)), pairs.indices.astype(np.int64)
        row, column = (side[column != items[row]] for side in (row, column))
        order = np.lexsort((keys(column), row))
        row, column = row[order], column[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        row, column, place = (side[place < n] for side in (row, column, place))
        drawn = np.full((len(items), place.max(initial=0) + 1), -1)
        drawn[row, place] = column
        return drawn
