"""Item factors of a finished run of ELSA or iALS, as what other recommenders predict or refine.

    learned = factors.read(split, "ials")           # or the name of a run
    learned.items, learned.users("test")            # float64 (n_hot, D), (U, D)

A user's vector is that of the run's own lists: in ELSA the sum of the factors of the history; in iALS, for the history
in train, the vector with which the training ended (implicit's three steps of conjugate gradients towards the
least-squares solution, for the items' factors before their last update), and for any other history the solution for the
factors as they are.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import runs
from harness.errors import UsageError, WorkError
from harness.inputs import hashed
from harness.readers import read_npy

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from scipy.sparse import csr_matrix

    from dataset import Split
    from harness.inputs import Input
    from ranking import candidates

METHODS = ("elsa", "ials")


@dataclass
class Factors:
    """source: the run; method: elsa or ials; request: the run's; items: float64 (n_hot, D), 0 for an item without a
    train play; plays: int64 (n_hot,) users of each hot item in train."""
    split: Split
    source: candidates.Source
    method: str
    request: dict[str, Any]
    items: np.ndarray
    plays: np.ndarray
    inputs: list[Input]

    def users(self, part: str) -> np.ndarray:
        """Vectors of all users by their history at `part`, float64 (U, D)."""
        import numpy as np
        if self.method == "elsa":
            return np.asarray(self.split.history(part).astype(np.float64) @ self.items)
        if self.split.history_parts(part) == ("train",):
            path = users_path(self.split.workdir, self.source.run)
            return _matrix(path, self.split.n_users, self.items.shape[1], self.source.run)
        matrix = self.split.history(part, self.request["values"]).astype(np.float64)
        return solve(matrix, self.items, self.request["alpha"], self.request["regularization"])

    def scored(self, items: np.ndarray) -> dict[str, Any]:
        """Arguments of save.write that score these item vectors, (n_items, D), for the users of each part."""
        return {"users": self.split.by_history(lambda part: self.users(part).astype("float32")),
                "items": items.astype("float32")}


def flags(parser: argparse.ArgumentParser) -> None:
    """Add --factors to a parser."""
    parser.add_argument("--factors", default="ials", metavar="RUN",
                        help="finished run whose item factors are used, or elsa or ials: its best run on val "
                             "(default ials)")


def items_path(workdir: Path, run: str) -> Path:
    return workdir / "model_embeddings" / f"{run}_items.npy"


def users_path(workdir: Path, run: str) -> Path:
    return workdir / "model_embeddings" / f"{run}_users.npy"


def solve(matrix: csr_matrix, items: np.ndarray, alpha: float, penalty: float) -> np.ndarray:
    """The least-squares user vectors of iALS, float64 (U, D), of histories csr (U, I) of w.

    (Q'Q + alpha sum of w q q' + penalty I)^-1 times the sum of (1 + alpha w) q over the user's items; 0 without items.
    Cost: a D x D system for each user.
    """
    import numpy as np
    vectors = np.zeros((matrix.shape[0], items.shape[1]))
    gram = items.T @ items + penalty * np.eye(items.shape[1])
    for user in range(matrix.shape[0]):
        row = slice(matrix.indptr[user], matrix.indptr[user + 1])
        played, weight = items[matrix.indices[row]], alpha * matrix.data[row]
        if len(played):
            vectors[user] = np.linalg.solve(gram + played.T @ (weight[:, None] * played), (1 + weight) @ played)
    return vectors


def read(split: Split, word: str) -> Factors:
    """The factors of a run of this split; `word` is its name, or elsa or ials for the best on val.

    UsageError for a run of another method or no run; WorkError for one of another split or track list, and for factors
    that are missing, damaged or of another size.
    """
    import numpy as np

    from ranking import candidates
    config = dict(runs.find_runs(split.workdir)).get(word)
    if config is None and word not in METHODS:
        known = [name for name, c in runs.find_runs(split.workdir) if c.get("recommender") in METHODS]
        raise UsageError(f"--factors {word} is no run of {split.workdir}; name elsa, ials or one of their runs: "
                         f"{', '.join(known) or 'there is none yet'}")
    if config is not None:
        _check_run(split, word, config)
    source, = candidates.find_runs(split, [word], learns=False)
    config = dict(runs.find_runs(split.workdir))[source.run]
    paths = [items_path(split.workdir, source.run)]
    paths += [users_path(split.workdir, source.run)] if config["recommender"] == "ials" else []
    for path in paths:
        if not path.exists():
            raise WorkError(f"{path} is missing, so run {source.run} has no factors; make the run again with "
                            "--overwrite")
    inputs = [hashed(path) for path in paths]
    items = _matrix(paths[0], split.n_hot, None, source.run)
    plays = np.bincount(split.train.item, minlength=split.n_hot)
    items[plays == 0] = 0
    return Factors(split, source, config["recommender"], config["request"], items, plays, inputs)


def _check_run(split, name, config):
    """Refuse a run of another method, split or track list, each in a sentence of its own."""
    if config.get("recommender") not in METHODS:
        raise UsageError(f"run {name} is of {config.get('recommender')}, which has no item factors; name a run of "
                         "elsa or ials")
    recorded = config.get("inputs", {})
    if recorded.get("trackid_sorted.csv") not in (None, split.track_checksum):
        raise WorkError(f"run {name} has the factors of another track list than this workspace's trackid_sorted.csv; "
                        f"make them again: python -m recommenders.{config['recommender']} --workdir {split.workdir}")
    now = {str(i.path.relative_to(split.workdir)): i.digest for i in split.inputs}
    if changed := sorted(key for key, digest in now.items() if recorded.get(key) != digest):
        raise WorkError(f"run {name} has the factors of another split ({', '.join(changed)} differs); make them "
                        f"again: python -m recommenders.{config['recommender']} --workdir {split.workdir}")


def _matrix(path, rows, columns, run):
    """A matrix of factors, float64, of the expected size and finite."""
    import numpy as np
    matrix = np.array(read_npy(path), np.float64)
    if matrix.ndim != 2 or len(matrix) != rows or columns not in (None, matrix.shape[1]):
        raise WorkError(f"{path} has shape {matrix.shape}, but this split needs {rows} rows: these are the factors of "
                        f"another split; make run {run} again with --overwrite")
    if not np.isfinite(matrix).all():
        raise WorkError(f"{path} has values that are NaN or infinite; make run {run} again with --overwrite")
    return matrix

