"""Maps of embeddings in two dimensions, and which tracks are alike: by each representation, and by who plays them."""
import numpy as np

import dataset

LISTENERS = "listeners"    # the name of the neighbours by who plays a track
NEAR = 6                   # neighbours of a track that are listed
COMPONENTS = 50            # principal components that t-SNE starts from
ROUNDS = 500               # of t-SNE: half of the usual, which a map of neighbourhoods does not need
BLOCK = 512                # tracks whose similarities to all others are computed at once


def sample(catalogue, most, seed):
    """Rows of the tracks that maps show, int64 ascending: those of the split (else all), drawn where there are more."""
    rows = np.sort(catalogue.split.tracks) if catalogue.is_split else np.arange(len(catalogue.ids))
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def projected(catalogue, name, rows, seed):
    """{'PCA': [[x], [y]], 't-SNE': .., 'share': of the variance, by PCA} of these rows; None where one has no vector.

    Both from vectors less the mean; t-SNE (van der Maaten and Hinton, JMLR 2008) by scikit-learn from the first
    COMPONENTS principal components, only where there are at least 10 tracks. None for fewer than two tracks.
    """
    vectors = catalogue.vectors(name)[rows].astype(np.float64)
    known = np.isfinite(vectors).all(axis=1)
    if known.sum() < 2:
        return None
    centred = vectors[known] - vectors[known].mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores = u * s
    total = (s ** 2).sum()
    found = {"PCA": _placed(scores[:, :2], known), "share": round(float((s[:2] ** 2).sum() / total), 4) if total else 0}
    if known.sum() >= 10 and total:
        found["t-SNE"] = _placed(_tsne(scores[:, :COMPONENTS], seed), known)
    return found


def _tsne(points, seed):
    from sklearn.manifold import TSNE
    points = np.pad(points / np.abs(points).max(), ((0, 0), (0, max(0, 2 - points.shape[1]))))
    return TSNE(perplexity=min(30, (len(points) - 1) / 3), init="pca", max_iter=ROUNDS,
                random_state=seed).fit_transform(points)


def _placed(points, known):
    """Two lists of numbers, None for rows that are not known; scaled to a largest size of 1."""
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    largest = np.abs(points).max()
    place = np.full((len(known), 2), np.nan)
    place[known] = points / (largest if largest > 0 else 1)
    return [[round(float(v), 4) if np.isfinite(v) else None for v in axis] for axis in place.T]


# --------------------------------------------------------------------------- neighbours

def neighbours(catalogue, name, rows):
    """The NEAR nearest tracks of each row by cosine of vectors less the mean: [[(row, cosine)]], [] without a vector.

    Among the tracks of the split, else all; ties by row.
    """
    among = np.sort(catalogue.split.tracks) if catalogue.is_split else np.arange(len(catalogue.ids))
    matrix = catalogue.vectors(name)
    among = among[np.isfinite(matrix[among]).all(axis=1)]
    if not len(among):
        return [[] for _ in rows]
    centre = matrix[among].mean(axis=0, dtype=np.float64)
    others = _unit(matrix[among] - centre)
    place = np.full(len(matrix), -1)
    place[among] = np.arange(len(among))
    return _nearest(among, rows, place, lambda own: others[place[own]] @ others.T)


def by_listeners(catalogue, rows):
    """As `neighbours`, by who plays a track in train: cosine of the columns of the user x track matrix of ones."""
    split = catalogue.split
    plays = split.matrix()
    length = np.sqrt(np.asarray(plays.sum(axis=0)).ravel())
    columns = plays.multiply(1 / np.maximum(length, 1)).tocsc()
    among = split.tracks[:split.n_hot]
    place = np.full(len(catalogue.ids), -1)
    place[among[length > 0]] = np.flatnonzero(length > 0)
    return _nearest(among, rows, place, lambda own: (columns[:, place[own]].T @ columns).toarray())


def _unit(vectors):
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros(vectors.shape, np.float32), where=length > 0, casting="same_kind")


def _nearest(among, rows, place, similar):
    """Lists of (row, cosine) for `rows`; place: column of each track, -1 without; similar: rows -> (b, len(among))."""
    found = [[] for _ in rows]
    own = [i for i, row in enumerate(rows) if place[row] >= 0]
    for start in range(0, len(own), BLOCK):
        block = own[start:start + BLOCK]
        cosine = np.asarray(similar(rows[block]), np.float32)
        cosine[np.arange(len(block)), place[rows[block]]] = -np.inf
        n = min(NEAR, len(among) - 1)
        for i, line in zip(block, cosine, strict=True):
            if n < 1:
                continue
            edge = np.partition(line, len(line) - n)[-n]
            near = np.flatnonzero(line >= edge)
            near = near[np.argsort(-line[near], kind="stable")][:n]
            found[i] = [(int(among[j]), round(float(line[j]), 3)) for j in near if line[j] > 0]
    return found


def embeddings(catalogue):
    """Names of the embeddings of a workspace, the ground truth of a generated world last."""
    return sorted(dataset.embedding_names(catalogue.workdir), key=lambda name: (name == "oracle", name))
