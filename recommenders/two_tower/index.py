"""A FAISS index of item vectors for serving, and how much of the exact answer it finds.

Ids in the index are track ids (rows of trackid_sorted.csv), so whoever serves it needs no other file. Figures
never come from it: recommenders rank exactly (topk.py).
"""
import math
from dataclasses import dataclass

import numpy as np

from harness.errors import UsageError, WorkError
from harness.files import atomic

TRAINED_ON = 39   # vectors per list that faiss wants for its k-means


@dataclass(frozen=True)
class Shape:
    """Lists of an inverted file and how many of them a search looks into; lists 0: a flat index, which is exact."""
    lists: int
    probe: int


def shape(kind, n, lists=None, probe=None):
    """Shape for n vectors. lists None: about sqrt(n), fewer where n is small; probe None: an eighth of the lists.

    UsageError where more lists are asked for than there are vectors, or more probes than lists.
    """
    if kind == "flat":
        return Shape(0, 0)
    if lists is not None and lists > n:
        raise UsageError(f"--lists {lists}: an inverted file of {n} tracks has at most {n} lists; "
                         "ask for fewer, or for --index flat")
    lists = lists or max(1, min(round(math.sqrt(n)), n // TRAINED_ON))
    if probe is not None and probe > lists:
        raise UsageError(f"--probe {probe}: there are only {lists} lists to look into")
    return Shape(lists, probe or math.ceil(lists / 8))


def build(vectors, ids, shape, seed=0):
    """Index of vectors (n, D) float32 by inner product under ids (n,) int64; seed: of the k-means, 31 bits of it."""
    import faiss
    dim = vectors.shape[1]
    if shape.lists:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, shape.lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid, index.nprobe = seed & 0x7fffffff, 1, shape.probe
        index.train(vectors)
    else:
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
    index.add_with_ids(vectors, np.asarray(ids, np.int64))
    return index


def recall(index, vectors, queries, ks):
    """{k: share of the exact top k that the index finds}, mean over queries (m, D); equal scores count as found."""
    import faiss
    ks = sorted({min(k, len(vectors)) for k in ks})
    exact = faiss.knn(queries, vectors, ks[-1], metric=faiss.METRIC_INNER_PRODUCT)[0]   # (m, k) descending
    found = index.search(queries, ks[-1])[0]                                            # -1 ids score lowest
    return {k: float((found[:, :k] >= exact[:, k - 1:k] - 1e-5).mean()) for k in ks}


def write(path, index):
    """The index as a file, whole or not at all."""
    import faiss
    with atomic(path) as temporary:
        faiss.write_index(index, str(temporary))


def read(path):
    import faiss
    try:
        return faiss.read_index(str(path))
    except RuntimeError:
        raise WorkError(f"{path} cannot be read as an index; --overwrite makes it again") from None


def nearest(index, vector, k, without=()):
    """[(track id, score)] of the best k for one vector (D,), leaving out the ids of `without`."""
    wanted = k + len(without)
    score, ids = index.search(np.asarray(vector, np.float32)[None], min(wanted, index.ntotal))
    hidden = {-1, *map(int, without)}   # -1: the lists looked into held fewer than asked for
    return [(int(i), float(s)) for i, s in zip(ids[0], score[0], strict=True) if int(i) not in hidden][:k]
