"""Lists whose users are divided over processes; tests/training/test_parallel.py has real ones."""
import numpy as np
import pandas as pd
import pytest

import dataset
from harness import processes
from ranking import shares


@pytest.mark.parametrize("world", (2, 7, 90))
def test_the_shares_of_all_processes_are_the_lists_of_one(tiny, world, monkeypatch):
    """90 are more than there are users: some have none to rank."""
    split, draw = dataset.load(tiny), np.random.default_rng(0)
    ranker = {"users": draw.integers(-2, 3, (split.n_users, 3)), "items": draw.integers(-2, 3, (split.n_items, 3))}
    sent = {}

    def to_main(lists):
        sent[processes.place().rank] = lists
        return [sent[rank] for rank in range(world)] if processes.is_main() else []
    monkeypatch.setattr(processes, "to_main", to_main)
    for part in split.parts:
        monkeypatch.setattr(processes, "_place", processes.Place())
        alone = shares.recommend(split, part, 10, **ranker)
        for rank in reversed(range(world)):   # the main one last, which waits for the others
            monkeypatch.setattr(processes, "_place", processes.Place(rank, world))
            whole = shares.recommend(split, part, 10, **ranker)
            assert (whole is None) == (rank > 0)
        pd.testing.assert_frame_equal(whole, alone)
        assert world < 90 or not all(map(len, sent.values()))
