"""Embeddings made of another embedding of the workspace, without audio: pca.py, rq.py.

    class Mine(derived.Source):
        def __init__(self, workdir, name): super().__init__(workdir, name); self.vectors = f(self.own)

    derived.make(workdir, "musicnn-mine", "musicnn", request, lambda: Mine(workdir, "musicnn"), args.overwrite)

What is fitted sees the vectors of all tracks and no plays. Tracks without a vector, or with one that is not finite,
have none afterwards.
"""
import numpy as np

import dataset
from extract_item_embeddings.engine import aligned
from harness.errors import UsageError, WorkError
from harness.files import checksum

BLOCK = 4096            # rows
FLAT = 1e-6             # spread of a column, relative to its largest value, that is within the rounding of float32


class Source:
    """The source of an aligned matrix: `rows` (n,) of the tracks that have a vector, `own` (n, D) as it was, and
    `vectors` (n, d), set by the subclass."""
    by_row = True

    def __init__(self, workdir, name):
        ids, track_checksum = dataset.read_tracks(workdir)
        self.path = dataset.embedding_path(workdir, name)
        matrix = np.asarray(dataset.open_embedding(workdir, name, len(ids), track_checksum))
        self.name, self.rows = self.path.name, np.flatnonzero(np.isfinite(matrix).all(axis=1))
        if not len(self.rows):
            raise WorkError(f"{self.path} has no track with a finite vector, so there is nothing to make of it")
        self.own, self.vectors = matrix[self.rows], None

    def blocks(self):
        for start in range(0, len(self.rows), BLOCK):
            yield self.rows[start:start + BLOCK].tolist(), self.vectors[start:start + BLOCK]

    def about(self):
        return {}


def standardised(vectors):
    """Vectors (n, D) with columns of mean 0 and spread 1, float64; a constant column is 0."""
    x = np.asarray(vectors, np.float64)
    spread = x.std(axis=0)
    return np.divide(x - x.mean(axis=0), spread, out=np.zeros_like(x), where=spread > FLAT * np.abs(x).max(axis=0))


def make(workdir, name, source, request, opened, overwrite=False, packages=(), beside=None):
    """Write embeddings/NAME.npy and its json, unless it was made of the same embedding by the same request.

    source: name of the embedding that it is made of; request, opened, beside: as for aligned.make
    UsageError for an unknown embedding, and for a name that is its own.
    """
    aligned.check_name(name)
    if name == source:
        raise UsageError(f"{name} is the embedding itself; choose another --name")
    dataset.embedding_inputs(workdir, source)   # refuses an unknown one
    request = {**request, "embedding": source, "source_checksum": checksum(dataset.embedding_path(workdir, source))}
    aligned.make(workdir, name, request, opened, overwrite, packages, beside)
