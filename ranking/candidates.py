"""Lists that finished runs have saved, as candidates: how one recommender builds on others without their code.

    sources = candidates.find_runs(split, ["popularity", "content_knn", "itemknn"])
    pool = candidates.pool(split, "val", sources, seed=42)      # every (user, item) of any of their lists

A word names a run, or a recommender: then its best run on val is taken, out of the finished runs that were
made on this very split (checksums decide). Controls on shuffled embeddings, runs on the embedding `oracle` (the truth
of a generated world) and what was built on either are controls: they are never selected automatically; pass their full
run name.
A list of val was made by a fit of train alone, but for what val decided: when a trained recommender stopped (those that
stop early keep the epoch best on val), a hybrid's weights, and a forest's labels, of other users than the list's own.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.intervals import mean_and_half_width
from evaluation.lists import places_of, read_frame, whole_numbers
from harness import registry, runs
from harness.errors import UsageError, WorkError

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split

RRF = 60  # constant of the reciprocal rank fusion


@dataclass
class Source:
    """A run whose lists are read. word: as asked for; among: how many runs the word stood for."""
    word: str
    run: str
    parts: tuple[str, ...]
    among: int
    workdir: Path

    def path(self, part: str) -> Path:
        return self.workdir / "preds" / f"{self.run}_{part}.pqt"


@dataclass
class Pool:
    """Distinct (user, item) pairs out of R runs' lists of one part; rows by user, within a user in the order of ties.

    user, item: int64 (N,) dense codes of the split
    score: float64 (N, R), NaN where the pair is not in that run's list; place: int64 (N, R) from 0, -1 likewise
    """
    split: Split
    part: str
    user: np.ndarray
    item: np.ndarray
    score: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def starts(self) -> np.ndarray:
        """First row of each user who has any; int64, strictly ascending, [] for an empty pool."""
        return np.flatnonzero(np.diff(self.user, prepend=-1))

    def hits(self) -> np.ndarray:
        """Whether each pair is among the part's true ones; bool (N,)."""
        pairs, n = self.split.part(self.part), self.split.n_items
        return np.isin(self.user * n + self.item, pairs.user * n + pairs.item)

    def rows_of(self, users: np.ndarray) -> Pool:
        """The rows of some users as a pool of their own; users: int64 codes."""
        kept = np.isin(self.user, users)
        return Pool(self.split, self.part, self.user[kept], self.item[kept], self.score[kept], self.place[kept])

    def hot(self) -> Pool:
        """The rows of hot items as a pool of their own; all rows, but of all_test."""
        kept = self.item < self.split.n_hot
        return Pool(self.split, self.part, self.user[kept], self.item[kept], self.score[kept], self.place[kept])

    def best(self, values: np.ndarray, k: int) -> pd.DataFrame:
        """The k best pairs of each user by `values` (N,), -inf never, as a frame like topk.recommend's."""
        import pandas as pd
        values = np.asarray(values, np.float32)
        order = np.lexsort((-values, self.user))  # stable: ties stay in the order of the rows
        order = order[values[order] > -np.inf]
        place = places_of(self.user[order])
        order, place = order[place < k], place[place < k]
        return pd.DataFrame({"user_id": self.split.users[self.user[order]],
                             "track_id": self.split.tracks[self.item[order]], "rank": place, "score": values[order]})

    def scorer(self, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """`values` (N,) as a function of user codes (b,) for topk: dense (b, candidates), -inf outside the pool."""
        candidates = self.split.candidates(self.part)
        values, ends = np.asarray(values, np.float32), np.searchsorted(self.user, np.arange(self.split.n_users + 1))

        def scores(codes):
            matrix = np.full((len(codes), candidates.stop - candidates.start), -np.inf, np.float32)
            size = ends[codes + 1] - ends[codes]
            line = np.repeat(np.arange(len(codes)), size)
            row = np.arange(len(line)) + np.repeat(ends[codes] - (np.cumsum(size) - size), size)
            matrix[line, self.item[row] - candidates.start] = values[row]
            return matrix
        return scores


def normalised(pool: Pool, how: str = "minmax") -> np.ndarray:
    """Scores of each run on one scale for each user, float64 (N, R); a pair outside a run's list has 0.

    minmax: (s - low) / (high - low) over the user's list (CombSUM of Fox and Shaw, TREC-2 1994): the list's end has
            what is outside it, as do tracks that a run could only rank last (topk.LOWEST); a list of equal scores is
            0 throughout, as it says nothing
    rrf:    1 / (60 + place), place from 1 (Cormack, Clarke and Buettcher, SIGIR 2009), whatever the scores
    """
    from ranking.topk import LOWEST
    inside = pool.place >= 0
    if how == "rrf":
        return np.where(inside, 1 / (RRF + 1 + pool.place), 0.0)
    starts = pool.starts()
    if not len(starts):
        return np.zeros(pool.score.shape)
    size = np.diff(np.append(starts, len(pool)))
    scored = np.where(pool.score > LOWEST / 2, pool.score, np.nan)     # NaN outside a run's list, too
    low, high = (np.repeat(f.reduceat(scored, starts), size, axis=0) for f in (np.fmin, np.fmax))
    wide = inside & (high > low) & np.isfinite(scored)
    return np.divide(scored - low, high - low, out=np.zeros(pool.score.shape), where=wide)


# --------------------------------------------------------------------------- which runs

def find_runs(split: Split, words: Sequence[str], metric: str = "NDCG@10", learns: bool = True) -> list[Source]:
    """The run each word stands for; UsageError for a word that names nothing, WorkError for a run that is not made.

    A recommender's word takes its best run by the mean of `metric` on val; of equals the one with longer lists.
    learns: whether the caller learns on val; else a run that is named needs no lists of it
    """
    twice = sorted({w for w in words if words.count(w) > 1})
    if twice:
        raise UsageError(f"{twice[0]} is asked for twice; a second run of one recommender is named by its run's name")
    manifests = dict(runs.find_runs(split.workdir))
    if "val" not in split.parts and (learns or not manifests.keys() >= {*words}):
        raise WorkError("this split has no val part to choose or learn on; split again with a --val-share above 0"
                        + ("" if learns else ", or name a run"))
    current = {str(i.path.relative_to(split.workdir)): i.digest for i in split.inputs}
    return [_run_of(split, word, manifests, current, metric, learns) for word in words]


def _run_of(split, word, manifests, current, metric, learns):
    named = {word: manifests[word]} if word in manifests else {
        name: config for name, config in manifests.items()
        if config.get("recommender") == word and not _is_control(name, manifests)}
    usable, why = {}, ""
    for name, config in named.items():
        reason = _unusable(split, name, config, current, learns or word not in manifests)
        usable, why = (usable, reason) if reason else ({**usable, name: config}, why)
    if not usable:
        raise _missing(split, word, manifests, why)
    best = max(sorted(usable), key=lambda name: (_on_val(split, name, metric) if len(usable) > 1 else 0,
                                                 usable[name].get("request", {}).get("k") or 0))
    return Source(word, best, tuple(usable[best]["parts"]), len(usable), Path(split.workdir))


def _is_control(name, manifests):
    """Whether a run, or one of those it was built on, has a shuffled embedding or the oracle's."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        config = manifests.get(name, {})
        if runs.is_shuffled(config.get("request", {})) or "oracle" in str(config.get("embedding")).split("+"):
            return True
        seen.add(name)
        waiting += set(config.get("sources", {}).values()) - seen
    return False


def _unusable(split, name, config, current, on_val):
    """Why the lists of a run cannot be read, '' when they can; on_val: those of val are needed."""
    if config.get("status") != "finished":
        return f"run {name} has not finished"
    if any(config.get("inputs", {}).get(key) != value for key, value in current.items()):
        return f"run {name} was made on another split"
    gone = [part for part in config.get("parts", []) if not (split.workdir / "preds" / f"{name}_{part}.pqt").exists()]
    if gone or on_val and "val" not in config.get("parts", []):
        return f"run {name} has no saved lists of {gone[0] if gone else 'val'}"
    return ""


def _missing(split, word, manifests, why):
    """The error for a word without a usable run: one sentence with the command that makes it."""
    recommender = manifests[word].get("recommender", "") if word in manifests else word
    command = registry.command(recommender)
    if command is None:
        known = ", ".join(sorted({c["recommender"] for c in manifests.values() if c.get("recommender")})) or "none"
        return UsageError(f"{word!r} is no run of {split.workdir} and no recommender; there are runs of: {known}")
    controls = any(config.get("recommender") == word for config in manifests.values())
    but = " but on shuffled embeddings or the oracle" if controls else ""
    return WorkError(f"{why or f'there is no run of {word} in {split.workdir}{but}'}; "
                     f"make it first: {command} --workdir {split.workdir}")


def _on_val(split, name, metric):
    """Mean of a metric on val, as the run's metrics have it; evaluated from its lists where they do not."""
    import metrics
    from evaluation.files import read_metrics
    try:
        _, means = read_metrics(split.workdir / "metrics" / f"{name}_val.csv", "")
        if metric in means:
            return float(means[metric])
    except WorkError:
        pass   # gone or damaged, but the lists are what counts
    preds = read_frame(split.workdir / "preds" / f"{name}_val.pqt", ("user_id", "track_id", "rank"))
    values = metrics.evaluate(preds, split.truth("val"), (int(metric.split("@")[1]),))[metric]
    return float(mean_and_half_width(values)[0])


# --------------------------------------------------------------------------- their lists

def pool(split: Split, part: str, sources: Sequence[Source], seed: int = 42) -> Pool:
    """The lists of the sources for one part as a Pool. Users outside the part are left out.

    seed: of the order of ties, the one that topk ranks with. WorkError when a file is damaged or names tracks that
    the part does not rank.
    """
    code = np.full(split.n_tracks + 1, -1)
    candidates = split.candidates(part)
    code[split.tracks[candidates]] = np.arange(candidates.start, candidates.stop)
    members = split.eval_users(part)
    ids, lists = split.users[members], []
    for source in sources:
        frame = read_frame(source.path(part), ("user_id", "track_id", "rank", "score"))
        user_id, track, place = (whole_numbers(frame, c, source.path(part)) for c in ("user_id", "track_id", "rank"))
        at = np.minimum(np.searchsorted(ids, user_id), len(ids) - 1)
        item = code[np.clip(track, -1, split.n_tracks)]
        if (item < 0).any():
            raise WorkError(f"{source.path(part)} lists {len(np.unique(track[item < 0]))} tracks that {part} does not "
                            "rank; it was made on another split, make it again")
        known = ids[at] == user_id
        lists.append((members[at[known]] * split.n_items + item[known], place[known],
                      frame["score"].to_numpy(np.float64)[known]))
    return _joined(split, part, lists, seed)


def _joined(split, part, lists, seed):
    """Pool of [(key int64 (n,), place (n,), score (n,))], key = user * n_items + item."""
    import torch

    from harness.ties import tie_key
    keys = np.unique(np.concatenate([key for key, _, _ in lists]))
    user, item = keys // split.n_items, keys % split.n_items
    tie = tie_key(torch.from_numpy(split.users[user]), torch.from_numpy(split.tracks[item]), seed).numpy()
    order = np.lexsort((tie, user))
    row = np.empty(len(keys), np.int64)
    row[order] = np.arange(len(keys))
    score, place = np.full((len(keys), len(lists)), np.nan), np.full((len(keys), len(lists)), -1)
    for r, (key, p, s) in enumerate(lists):
        at = row[np.searchsorted(keys, key)]
        score[at, r], place[at, r] = s, p
    return Pool(split, part, user[order], item[order], score, place)
