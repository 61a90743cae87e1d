"""Write the lists of a run and their metrics for every part: the last step of each recommender."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import metrics
from evaluation.files import read_rows
from harness import processes
from harness.files import write_parquet
from harness.run_files import COLD_PARTS
from ranking import shares

if TYPE_CHECKING:
    from dataset import Split
    from harness.runs import Run


def write(run: Run, split: Split, k: int = 100, seed: int = 42, parts: Iterable[str] | None = None,
          ks: Sequence[int] = (5, 10, 20, 50), **ranker: Any) -> dict[str, dict[str, float]]:
    """Recommend for each part, write preds/ and metrics/ of a run, return {part: {metric: mean}}.

    With several processes each ranks its share of the users; the main one alone writes and returns, the others end.

    parts:  names, default all of the split; ks: list lengths of the metrics, those above k are left out
    ranker: what `topk.recommend` takes: users and items, or scores, and device; users and scores may be a dict by
            part, such as `split.by_history` makes
    A run without an embedding knows nothing of tracks without plays in train and ranks them last, unless last=None.
    """
    results = {}
    for part in parts if parts is not None else split.parts:
        how = dict(ranker)
        for name in ("users", "scores"):
            if isinstance(how.get(name), dict):
                how[name] = how[name][part]
        if run.embedding in (None, "random") and part not in COLD_PARTS:
            how.setdefault("last", split.unplayed(part))
        preds = shares.recommend(split, part, k, seed, **how)
        if preds is None:
            continue
        write_parquet(run.preds(part), preds)
        results[part] = metrics.report(run.workdir, run.name, part, preds, split.truth(part),
                                       tuple(x for x in ks if x <= k) or (k,), split=split)
    processes.end_others()
    if "val" in results:
        run.reached = reached(run)
        if not run.logged:   # a method without epochs: its figures on val, so that TensorBoard compares all
            for name, value in results["val"].items():
                run.writer().add_scalar(f"val/{name}", value, 0)
    return results


def reached(run: Run) -> str:
    """What a run reached on val, for its last line: 'NDCG@10 .0674 ±.0031, Recall@50 ...', by its metrics file."""
    means, halves = read_rows(run.metrics("val"), "the same command makes it again")
    shown = [c for c in means if c in ("NDCG@10", "Recall@50")] or [c for c in means if c.startswith("NDCG")]
    return ", ".join(metrics.with_interval(column, means, halves) for column in shown[:2])
