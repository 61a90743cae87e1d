"""The tracks of a workspace by name, their plays, and their neighbours in each representation."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import dataset
from harness.errors import UsageError, WorkError
from harness.metadata import find_track, read_names, read_table
from harness.readers import narrowed

TAGS = 5   # of a track that are shown


@dataclass
class Catalogue:
    """A workspace to look things up in. ids: track ids in row order; checksum: of their file."""
    workdir: Path
    ids: list[str]
    checksum: str

    @cached_property
    def names(self):
        """What items.pqt calls the tracks, see harness.metadata.read_names."""
        return read_names(self.workdir, len(self.ids))

    @cached_property
    def split(self):
        return dataset.load(self.workdir)

    @property
    def is_split(self) -> bool:
        return (self.workdir / "data" / "train.pqt").exists()

    @cached_property
    def plays(self) -> np.ndarray:
        """Plays of each track in train, int64 (n,); zeros where the workspace is not split."""
        count = np.zeros(len(self.ids), np.int64)
        if self.is_split:
            train = self.split.train
            np.add.at(count, self.split.tracks[train.item], train.count.astype(np.int64))
        return count

    def row(self, track: str) -> int:
        """Row of a track by its id or its name; UsageError with near names where there is none."""
        return find_track(track, self.ids, self.names)

    def called(self, row: int) -> dict[str, str]:
        """{'id': ..., and what items.pqt calls it}"""
        known = {column: self.names[column].iloc[row] for column in self.names}
        return {"id": self.ids[row], **{column: name for column, name in known.items() if name}}

    def metadata(self, row: int) -> dict:
        """Everything that items.pqt holds of a track, {} without the file."""
        table = read_table(self.workdir / "items.pqt", "track_id", len(self.ids))
        if table is None:
            return {}
        values = table.slice(row, 1).to_pylist()[0]
        return {k: list(map(plain, v)) if isinstance(v, list) else plain(v) for k, v in values.items()
                if v not in (None, [], "") and k != "track_id"}

    # representations ------------------------------------------------------
    def embeddings(self, wanted=()) -> list[str]:
        """Names of the embeddings asked for, or of all; UsageError for one that is not there."""
        names = dataset.embedding_names(self.workdir)
        if unknown := [name for name in wanted if name not in names]:
            raise UsageError(f"there is no embedding {unknown[0]!r} in {self.workdir}; available: "
                             f"{', '.join(names) or 'none'}")
        return list(wanted) or names

    def vectors(self, name: str) -> np.ndarray:
        """float32 (n, D) of an embedding; NaN rows are tracks without one. WorkError where it is beyond float32."""
        given = dataset.open_embedding(self.workdir, name, len(self.ids), self.checksum)
        return np.asarray(narrowed(given, name))

    def near(self, name: str, vector: np.ndarray, n: int, without=()) -> list[tuple[int, float]]:
        """The n tracks whose vectors have the largest cosine with (D,), as (row, cosine); ties by row.

        The vectors are taken from the mean of all, as nearly all embeddings point one way; WorkError for another size.
        """
        matrix = self.vectors(name)
        if matrix.shape[1:] != vector.shape:
            raise WorkError(f"embedding {name!r} has {matrix.shape[1]} columns, the sound {vector.shape[0]}; extract "
                            "it again with the present settings")
        known = np.flatnonzero(np.isfinite(matrix).all(axis=1))
        centre = matrix[known].mean(axis=0, dtype=np.float64)
        others, one = matrix[known] - centre, vector - centre
        length = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
        cosine = np.divide(others @ one, length, out=np.zeros(len(known)), where=length > 0)
        kept = ~np.isin(known, list(without))
        order = np.lexsort((known[kept], -cosine[kept]))[:n]
        return [(int(known[kept][i]), float(cosine[kept][i])) for i in order]

    def tags(self, row: int) -> dict[str, list[tuple[str, float]]]:
        """The strongest named dimensions of a track by embedding (MusiCNN's tags), [] where it has no vector."""
        found = {}
        for name in dataset.embedding_names(self.workdir):
            info = dataset.embedding_info(self.workdir, name)
            labels = info.get("features")
            if info.get("layer") == "taggram" and isinstance(labels, list):
                found[name] = strongest(self.vectors(name)[row], labels)
        return found


def plain(value) -> str | int | float:
    """A value of items.pqt as json has it: text and finite numbers as they are, all else, such as dates, as text."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, (str, int, float)) and finite else str(value)


def strongest(values: np.ndarray, labels: list[str], n: int = TAGS) -> list[tuple[str, float]]:
    """The n labels with the largest values (D,), largest first; [] for a row of NaN."""
    if not np.isfinite(values).all() or len(values) != len(labels):
        return []
    return [(labels[i], float(values[i])) for i in np.argsort(-values, kind="stable")[:n]]


def opened(workdir: Path) -> Catalogue:
    """The catalogue of a workspace; WorkError for a folder that is none."""
    return Catalogue(Path(workdir), *dataset.read_tracks(workdir))
