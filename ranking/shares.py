"""The lists of a part, its users divided over the processes of torchrun."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import processes
from ranking import topk

if TYPE_CHECKING:
    import pandas as pd

    from dataset import Split


def recommend(split: Split, part: str, k: int, seed: int = 42, **ranker: Any) -> pd.DataFrame | None:
    """What topk.recommend gives: in the main process, None in the others; each ranks its share of the users.

    ranker: what topk.recommend takes, the same in all processes. All of them have to call this.
    """
    if processes.world() == 1:
        return topk.recommend(split, part, k, seed, **ranker)
    codes = split.eval_users(part)
    lists = topk.recommend(split, part, k, seed, codes=codes[processes.rows(len(codes))], **ranker)
    every = processes.to_main(lists)
    if not every:
        return None
    import pandas as pd
    return pd.concat(every, ignore_index=True)
