"""Splits and embeddings in memory: reads and validates the files written by stages 1 and 2.

Files contain `user_id` and `track_id` (the row of trackid_sorted.csv). In memory a recommender uses
dense codes: user u of `Split.users`, item i of `Split.tracks`. The hot catalogue comes first: the tracks of train and,
where rules.json keeps them, those of val and test. The tracks of the cold test follow, then those of the cold val. The
part all_test, where rules.json has it, is made here of test and cold_test. Every file is checked before it is used.

    split = dataset.load(workdir)
    vectors = dataset.load_embedding(split, "musicnn")     # (n_items, D), row i = item i
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import runs, split_files
from harness.errors import UsageError, WorkError
from harness.inputs import hashed, read_whole
from harness.readers import narrowed, read_json, read_npy, reading
from harness.run_files import COLD_PARTS
from harness.split_files import RULES, Interactions, catalogue_of, encode, joined, read_pairs, read_rules
from harness.ties import tie_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import pandas as pd
    from scipy.sparse import csr_matrix

    from harness.inputs import Input

PARTS = runs.PART_ORDER


@dataclass
class Split:
    """A loaded split. See `load` for the fields' meaning."""
    workdir: Path
    users: np.ndarray          # int64 (U,) user_id of each user code, ascending
    tracks: np.ndarray         # int64 (n_items,) track_id of each item code
    n_hot: int                 # items 0..n_hot-1 are ranked for val and test, the rest are cold
    train: Interactions
    others: dict[str, Interactions]              # by the name of the held-out part
    n_tracks: int              # rows of trackid_sorted.csv, and so of every embedding
    track_checksum: str        # sha256 of trackid_sorted.csv
    time: str                  # "real", "ordinal" or "none"
    inputs: list[Input] = field(default_factory=list)   # [Input]: the files it was read from
    rules: dict = field(default_factory=lambda: RULES)  # what belongs to a user's history, and whether `unseen` exist
    n_cold_val: int = 0        # the last items are those of cold_val, the cold ones before them those of cold_test
    hidden: Interactions | None = None   # taken out of train by --train-share: never recommended, either

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.tracks)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(p for p in PARTS if p in self.others)

    @property
    def hot_parts(self) -> tuple[str, ...]:
        """Those that a model of the hot items alone can rank: in all_test the cold items come behind the others."""
        return tuple(p for p in self.parts if p not in COLD_PARTS)

    def part(self, name: str) -> Interactions:
        """Interactions of 'train' or of a held-out part; UsageError if the split has no such part."""
        if name == "train":
            return self.train
        if name not in self.others:
            raise UsageError(f"this split has no part {name!r}; it has {', '.join(self.parts) or 'train only'}")
        return self.others[name]

    @cached_property
    def unseen(self) -> np.ndarray:
        """Whether each hot item has no pair in train, bool (n_hot,); all False unless rules.json keeps such tracks."""
        return self.unplayed("test")

    def unplayed(self, part: str) -> np.ndarray:
        """Whether each candidate of a part has no pair in train, bool (n_candidates,)."""
        return np.bincount(self.train.item, minlength=self.n_items)[self.candidates(part)] == 0

    @cached_property
    def _counts(self) -> csr_matrix:
        from scipy.sparse import csr_matrix
        indptr = np.searchsorted(self.train.user, np.arange(self.n_users + 1))
        return csr_matrix((self.train.count, self.train.item, indptr), shape=(self.n_users, self.n_hot))

    def matrix(self, values: str = "binary") -> csr_matrix:
        """Train as csr float32 (U, n_hot): 1 per pair, its plays n with values='count', or log(1 + n) with 'log'."""
        return _valued(self._counts.copy(), values)

    def history_parts(self, part: str) -> tuple[str, ...]:
        """The parts whose pairs are a user's history when a model ranks `part`: train, and val by rules.json."""
        wanted = self.rules["history"].get(part, ["train"])
        return tuple(p for p in ("train", "val") if p == "train" or p in wanted and p in self.others)

    def history(self, part: str, values: str = "binary") -> csr_matrix:
        """The plays a model knows of each user when it ranks `part`, csr float32 (U, n_hot), like `matrix`.

        Models are trained on `matrix`; with --protocol leave-one-out the history at test also has the pair of val, as
        in publications (Kang and McAuley, ICDM 2018).
        """
        if self.history_parts(part) == ("train",):
            return self.matrix(values)
        from scipy.sparse import csr_matrix
        val = self.others["val"]
        both = self._counts + csr_matrix((val.count, (val.user, val.item)), shape=self._counts.shape)
        both.sort_indices()
        return _valued(both, values)

    def by_history(self, make: Callable[[str], Any], parts: Sequence[str] | None = None) -> dict[str, Any]:
        """{part: make(part)} of the parts; `make` is called once for parts that have the same history."""
        made: dict[tuple[str, ...], Any] = {}
        for part in parts or self.parts:
            if self.history_parts(part) not in made:
                made[self.history_parts(part)] = make(part)
        return {part: made[self.history_parts(part)] for part in parts or self.parts}

    def seen(self, part: str) -> csr_matrix:
        """Pairs excluded from the lists of a part, csr (U, n_candidates): train and what --train-share took out of it
        for val, these and val for the tests; none for the cold parts, and where rules.json says `seen: keep`."""
        from scipy.sparse import csr_matrix
        self.part(part)
        ranked = self.candidates(part)
        if part in COLD_PARTS or self.rules["seen"] == "keep":
            return csr_matrix((self.n_users, ranked.stop - ranked.start), dtype=np.float32)
        hidden = self.matrix()
        for more in (self.others.get("val") if part in ("test", "all_test") else None, self.hidden):
            if more is not None:
                ones = np.ones(len(more), np.float32)
                hidden = hidden + csr_matrix((ones, (more.user, more.item)), shape=hidden.shape)
        hidden = hidden.tocsr()
        hidden.resize(self.n_users, ranked.stop)
        return hidden

    def eval_users(self, part: str) -> np.ndarray:
        """User codes with at least one pair in the part, ascending, int64."""
        return np.unique(self.part(part).user)

    def truth(self, part: str) -> pd.DataFrame:
        """The pairs of a part (ground truth) as a frame `user_id, track_id`."""
        import pandas as pd
        pairs = self.part(part)
        return pd.DataFrame({"user_id": self.users[pairs.user], "track_id": self.tracks[pairs.item]})

    def candidates(self, part: str) -> slice:
        """Slice of the item codes ranked for a part: the hot items, for a cold part its own, for all_test those of test
        and cold_test."""
        end = self.n_items - self.n_cold_val
        return {"cold_test": slice(self.n_hot, end), "cold_val": slice(end, self.n_items),
                "all_test": slice(0, end)}.get(part, slice(0, self.n_hot))

    def sequences(self, order: str | None = None, part: str = "val") -> tuple[np.ndarray, np.ndarray]:
        """The history of every user when `part` is ranked, oldest first; by default the items of train.

        order: None or 'time' sorts by time; 'count' by plays, most played last, which is the only order for data
               without times. Equal values are no order: a hash of user and track breaks them, for each user otherwise.
        returns: indptr int64 (U + 1,), items int64 (N,): user u has items[indptr[u]:indptr[u + 1]]; pairs of val come
               after those of train
        """
        import torch
        if order not in (None, "time", "count"):
            raise UsageError(f"--order must be time or count, not {order!r}")
        sources = [self.part(name) for name in self.history_parts(part)]
        keys = [pairs.count if order == "count" else pairs.time for pairs in sources]
        known = [key for key in keys if key is not None]
        if len(known) < len(keys) or order != "count" and self.time == "none":
            raise UsageError("this data set has no times, so its plays have no order; "
                             "use --order count for the order of play counts (most played last)")
        user, item = (np.concatenate([getattr(pairs, name) for pairs in sources]) for name in ("user", "item"))
        later = np.repeat(np.arange(len(sources)), [len(pairs) for pairs in sources])
        tie = tie_key(torch.from_numpy(self.users[user]), torch.from_numpy(self.tracks[item]), seed=0)
        rows = np.lexsort((tie.numpy(), np.concatenate(known), later, user))
        return np.searchsorted(user[rows], np.arange(self.n_users + 1)), item[rows]


def _valued(matrix, values):
    """A csr of play counts n with ones ('binary'), with n ('count') or with log(1 + n) ('log'), in place."""
    if values == "binary":
        matrix.data = np.ones_like(matrix.data)
    elif values == "log":
        matrix.data = np.log1p(matrix.data)
    elif values != "count":
        raise ValueError(f"values must be 'binary', 'count' or 'log', not {values!r}")
    return matrix


# --------------------------------------------------------------------------- reading

def read_tracks(workdir: str | Path) -> tuple[list[str], str]:
    """Track ids of a workspace in row order (list of str) and the checksum of their file.

    Raises WorkError for a missing or invalid file, and if dataset.json is not finished, as the track list may then
    belong to other plays.
    """
    about(workdir)
    path = Path(workdir) / "trackid_sorted.csv"
    if not path.exists():
        raise WorkError(f"{path} is missing: {workdir} " + (
            "has runs but no tracks, as restored ones do; prepare the data here" if (Path(workdir) / "runs").is_dir()
            else "is not a workspace yet; name another one with --workdir, or run preprocess/0_get_plays_pqt.py first"))
    (seen,), ids = read_whole(lambda: [path], lambda _: _track_ids(path))
    return ids, seen.digest


def _track_ids(path):
    import pandas as pd
    with reading(path, "a table", "run stage 0 again"):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(frame.columns) != ["idx", "trackid"]:
        raise WorkError(f"{path} must have the columns idx,trackid, but has {','.join(frame.columns)}")
    ids = frame["trackid"].tolist()
    if frame["idx"].tolist() != [str(i) for i in range(len(ids))]:
        raise WorkError(f"{path}: idx must count 0, 1, 2, ... without gaps")
    if len(set(ids)) != len(ids):
        raise WorkError(f"{path} contains {len(ids) - len(set(ids))} duplicate track ids")
    return ids


def load(workdir: str | Path) -> Split:
    """Load and check the split of a workspace.

    Users and hot items are those of train; with `unseen: keep` in data/rules.json the tracks of val and test are hot
    items, too. Every user of a held-out part and every track of val and test must be in train, and no track of
    cold_test or cold_val may be a hot item, or one of the other. Raises WorkError otherwise.
    """
    workdir = Path(workdir)
    inputs, split = read_whole(lambda: _files(workdir), lambda inputs: _read_split(workdir, inputs))
    split.inputs = inputs
    return split


def _files(workdir):
    """The files a split is read from, as far as the workspace has them; data/split.json is no input of a run."""
    return [path for name in runs.SPLIT_FILES if (path := workdir / name).exists()]


def _read_split(workdir, inputs):
    ids, track_checksum = read_tracks(workdir)
    folder = workdir / "data"
    if not (folder / "train.pqt").exists():
        raise WorkError(f"{folder / 'train.pqt'} is missing: split first with preprocess/1_train_test_split.py")
    path = folder / "split.json"  # may be absent if the parts come from elsewhere
    manifest = split_files.read_manifest(path, {"track_checksum": str, "plays_checksum": str})
    if manifest.get("track_checksum", track_checksum) != track_checksum:
        raise WorkError(f"{folder} was made for another trackid_sorted.csv (by the checksum in {path.name}); "
                        "run preprocess/1_train_test_split.py again")
    now = about(workdir).get("plays_checksum")
    if now and manifest.get("plays_checksum", now) != now:
        raise WorkError(f"{folder} was split from other plays than those of {workdir / 'plays.pqt'}; run "
                        "preprocess/1_train_test_split.py again")
    paths = {i.path.stem: i.path for i in inputs if i.path.suffix == ".pqt"}
    raw = {p: read_pairs(path) for p, path in paths.items()}
    for part, (_, track, _, _) in raw.items():
        if len(track) and (track.min() < 0 or track.max() >= len(ids)):
            raise WorkError(f"{paths[part]}: track_id runs from {track.min()} to {track.max()}, "
                            f"but trackid_sorted.csv has {len(ids)} rows")
    if not len(raw["train"][0]):
        raise WorkError(f"{paths['train']} has no rows; choose other dates or shares when splitting")
    rules, hidden = read_rules(folder / "rules.json"), raw.pop("hidden", None)
    split_files.check_hidden(path, manifest, rules, hidden)
    catalogue = catalogue_of(raw, rules, paths)
    users, tracks, n_hot = np.unique(raw["train"][0]), np.concatenate(list(catalogue.values())), len(catalogue["hot"])
    code = np.full(len(ids), -1, np.int64)
    code[tracks] = np.arange(len(tracks))
    encoded = {p: encode(part, users, code, n_hot, p, paths[p]) for p, part in raw.items()}
    train, others = encoded.pop("train"), {p: v for p, v in encoded.items() if len(v)}
    if rules["all_test"] and {"test", "cold_test"} & others.keys():
        others["all_test"] = joined([others[p] for p in ("test", "cold_test") if p in others])
    return Split(workdir=workdir, users=users, tracks=tracks, n_hot=n_hot, train=train, others=others,
                 n_tracks=len(ids), track_checksum=track_checksum, time=_time(workdir, raw["train"][3]),
                 rules=rules, n_cold_val=len(catalogue.get("cold_val", ())),
                 hidden=hidden and split_files.hidden_pairs(hidden, users, code, n_hot, {"train": train} | others,
                                                            paths["hidden"]))


def about(workdir: str | Path) -> dict:
    """dataset.json of a workspace, or {} if there is none; WorkError if it is not finished."""
    path = Path(workdir) / "dataset.json"
    manifest = read_json(path) if path.exists() else {}
    if manifest.get("status", "finished") != "finished":
        raise WorkError(f"{path} is not finished: writing the data set was interrupted; "
                        "run preprocess/0_get_plays_pqt.py again")
    return manifest


def _time(workdir, moments):
    time = about(workdir).get("time")
    if time not in (None, "real", "ordinal", "none"):
        raise WorkError(f"{workdir / 'dataset.json'}: time must be real, ordinal or none, not {time!r}")
    return "none" if moments is None else time or "real"


# --------------------------------------------------------------------------- embeddings

def embedding_path(workdir: str | Path, name: str) -> Path:
    """Path of the matrix of an embedding; UsageError for a name that is a path or starts with a dot."""
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{name!r} is not a name of an embedding; give the name of a file in the workspace's "
                         "embeddings/ without .npy")
    return Path(workdir) / "embeddings" / f"{name}.npy"


def embedding_names(workdir: str | Path) -> list[str]:
    """Names of the workspace's embeddings, sorted."""
    return sorted(p.stem for p in (Path(workdir) / "embeddings").glob("*.npy") if not p.name.startswith("."))


def embedding_inputs(workdir: str | Path, name: str) -> list[Input]:
    """The files that determine an embedding's values, [Input], for a run's manifest; UsageError for an unknown name."""
    return [hashed(_existing(workdir, name))]


def _existing(workdir, name):
    path = embedding_path(workdir, name)
    if not path.exists():
        available = ", ".join(embedding_names(workdir)) or "none"
        raise UsageError(f"there is no embedding {name!r} in {path.parent}; available: {available}")
    return path


def open_embedding(workdir: str | Path, name: str, n_tracks: int | None = None,
                   track_checksum: str | None = None) -> np.ndarray:
    """Memory-map an embedding, float (n_tracks, D), NaN rows allowed; UsageError for an unknown name, WorkError unless
    it is a float matrix with one row per track that belongs to this track list."""
    matrix = read_npy(path := _existing(workdir, name))
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise WorkError(f"{path} must be a matrix (tracks, dimensions), but has shape {matrix.shape}")
    if matrix.dtype.kind != "f":
        raise WorkError(f"{path} must be float32, but is {matrix.dtype}; save it with .astype('float32')")
    if n_tracks is not None and len(matrix) != n_tracks:
        raise WorkError(f"{path} has {len(matrix)} rows, but trackid_sorted.csv has {n_tracks} tracks; "
                        "extract it again for this track list")
    provenance = path.with_suffix(".json")
    if track_checksum and provenance.exists():
        own = read_json(provenance, {"track_checksum": (str, type(None))}).get("track_checksum")
        if own and own != track_checksum:
            raise WorkError(f"{path} was made for another track list (by the checksum in {provenance.name}); "
                            "extract it again")
    return matrix


def load_embedding(split: Split, name: str, missing: str = "fail", shuffle: int | None = None,
                   scale: str = "none") -> np.ndarray:
    """Embedding of the split's items, float32 (n_items, D), row i = item i.

    missing: 'fail' raises WorkError if a track of the split has no finite row; 'mean' fills in the mean of the others.
    shuffle: None, or the seed of a permutation of the rows among the tracks that have one (the control: the same
    vectors for other tracks; which tracks have one is related to their popularity, not to what it says).
    scale: 'none', or 'unit' to apply unit_scale.
    WorkError, too, where the square of a vector's length is beyond float32: its cosines would silently be 0.
    """
    if missing not in ("fail", "mean"):
        raise UsageError(f"--missing must be fail or mean, not {missing!r}")
    vectors = narrowed(open_embedding(split.workdir, name, split.n_tracks, split.track_checksum)[split.tracks], name)
    absent = ~np.isfinite(vectors).all(axis=1)
    if absent.all():
        raise WorkError(f"embedding {name!r} has no finite row for any of the {split.n_items} tracks of this split")
    if absent.any() and missing == "fail":
        raise WorkError(f"embedding {name!r} has no row for {absent.sum()} of the {split.n_items} tracks of this "
                        f"split; split again with --tracks-with {name}, or fill the gaps with --missing mean")
    vectors[absent] = vectors[~absent].mean(axis=0, dtype=np.float64)
    if shuffle is not None:
        vectors[~absent] = vectors[np.random.default_rng(shuffle).permutation(np.flatnonzero(~absent))]
    return unit_scale(vectors, split.n_hot) if scale == "unit" else vectors


def has_embedding(split: Split, name: str) -> np.ndarray:
    """Which items have a row in an embedding, bool (n_items,): those among which a control exchanges rows."""
    rows = open_embedding(split.workdir, name, split.n_tracks, split.track_checksum)[split.tracks]
    return np.isfinite(rows).all(axis=1)


def unit_scale(vectors: np.ndarray, n_hot: int) -> np.ndarray:
    """Vectors (n_items, D) centred on the mean of the first n_hot, and scaled so that these have mean square norm 1.

    Ratios of distances are unchanged; rows that are all equal give zero. Without it the units of an embedding determine
    the temperature of a softmax, dominate mask, position and bias vectors, and slow training (VGGish has norm 1,500).
    """
    centred = vectors - vectors[:n_hot].mean(axis=0, dtype=np.float64)
    length = np.sqrt((centred[:n_hot] ** 2).sum(axis=1).mean())
    return (centred / (length if length > 0 else 1.0)).astype(np.float32)


def embedding_info(workdir: str | Path, name: str) -> dict:
    """Provenance json of an embedding, or {} if there is none."""
    return read_json(path) if (path := embedding_path(workdir, name).with_suffix(".json")).exists() else {}
