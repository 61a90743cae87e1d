"""Write the lists of a run and their metrics for every part: the last step of each recommender."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

import metrics
from harness.files import write_parquet
from ranking import topk

if TYPE_CHECKING:
    from dataset import Split
    from harness.runs import Run


def write(run: Run, split: Split, k: int = 100, seed: int = 42, parts: Iterable[str] | None = None,
          ks: Sequence[int] = (5, 10, 20, 50), **ranker: Any) -> dict[str, dict[str, float]]:
    """Recommend for each part, write preds/ and metrics/ of a run, return {part: {metric: mean}}.

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
        if run.embedding in (None, "random") and part != "cold_test":
            how.setdefault("last", split.unseen)
        preds = topk.recommend(split, part, k, seed, **how)
        write_parquet(run.preds(part), preds)
        results[part] = metrics.report(run.workdir, run.name, part, preds, split.truth(part),
                                       tuple(x for x in ks if x <= k) or (k,), split=split)
    if "val" in results:
        run.reached = reached(run)
        if not run.logged:   # a method without epochs: its figures on val, so that TensorBoard compares all
            for name, value in results["val"].items():
                run.writer().add_scalar(f"val/{name}", value, 0)
    return results


def reached(run: Run) -> str:
    """What a run reached on val, for its last line: 'NDCG@10 .0674 ±.0031, Recall@50 ...', by its metrics file."""
    table = pd.read_csv(run.metrics("val"), index_col=0)
    names = list(map(str, table.columns))
    shown = [c for c in names if c in ("NDCG@10", "Recall@50")] or [c for c in names if c.startswith("NDCG")]
    mean, half = (table.loc[row].to_numpy(float)[[names.index(name) for name in shown[:2]]] for row in ("mean", "conf"))
    return ", ".join(f"{name} {m:.4f} ±{h:.4f}" for name, m, h in zip(shown, mean, half, strict=False))
