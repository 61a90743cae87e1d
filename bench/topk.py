"""Exact top-k with history hidden: topk.recommend (torch) against a faiss flat index. python -m bench.topk [--quick]

Both give every user the 100 best unseen items by inner product, exactly, in float32, on all cores. Faiss
cannot hide items of each user, so its road asks for 100 + the longest history and drops the seen ones;
ours multiplies, hides and selects in blocks of users. 55,262 items of 200 dimensions, histories as in
Music4All-Onion (median 142). Unit: users per second. The lists are compared before anything is timed.
"""
import time

import numpy as np

from harness import cli
from harness.errors import WorkError


def world(n_users, n_items=55262, dim=200, seed=0):
    """A split of `n_users` users who each played 20 to 300 items, and random vectors."""
    import dataset
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 300, n_users)
    user = np.repeat(np.arange(n_users), lengths)
    item = np.concatenate([np.sort(rng.choice(n_items, n, replace=False)) for n in lengths])
    train = dataset.Interactions(user, item, np.ones(len(user), np.float32), None)
    test = dataset.Interactions(np.arange(n_users), rng.integers(n_items, size=n_users),
                                np.ones(n_users, np.float32), None)
    split = dataset.Split(None, np.arange(n_users), np.arange(n_items), n_items, train, {"test": test},
                          n_items, "", "none")
    return split, *(rng.normal(size=(n, dim)).astype(np.float32) for n in (n_users, n_items))


def by_faiss(split, users, items, k):
    """Lists (U, k) of track ids by an exact flat index, seen items dropped afterwards."""
    import faiss
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    seen = split.seen("test")
    longest = int(np.diff(seen.indptr).max())
    found = index.search(users, min(k + longest, len(items)))[1]
    lists = np.empty((len(users), k), np.int64)
    for row, ids in enumerate(found):
        lists[row] = ids[~np.isin(ids, seen.indices[seen.indptr[row]:seen.indptr[row + 1]])][:k]
    return lists


def by_topk(split, users, items, k):
    from ranking import topk
    return topk.recommend(split, "test", k, users=users, items=items).track_id.to_numpy().reshape(-1, k)


def run(quick):
    n_users, k, repeats = (1000, 100, 3) if quick else (5000, 100, 5)
    split, users, items = world(n_users)
    same = (by_topk(split, users, items, k) == by_faiss(split, users, items, k)).mean()
    if same < 0.999:  # rounding may swap neighbours of nearly equal score
        raise WorkError(f"the two roads agree on only {same:.4f} of the places")
    times = {by_topk: [], by_faiss: []}
    for _ in range(repeats):
        for road, taken in times.items():
            start = time.perf_counter()
            road(split, users, items, k)
            taken.append(time.perf_counter() - start)
    ours, baseline = (n_users / np.median(times[road]) for road in (by_topk, by_faiss))
    return [{"what": f"top 100 of 55,262 items for {n_users:,} users, D=200", "ours": ours, "baseline": baseline,
             "unit": "users/s", "ratio": ours / baseline,
             "note": f"faiss flat index, same lists in {same:.2%} of places"}]


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv: run_one("topk", argv))
