"""Catalogues of millions on a small machine. python -m bench.catalogue [--quick]

SASRec on a generated workspace of a million items and 10,000 users with 1.2 million pairs (--quick: 50,000 items, 1,000
users): one epoch with gBCE over 256 sampled items, the exact ranking of all users, and the peak of resident memory,
within 8 GiB. Then exact lists of 100 for 256 users out of ten million items (--quick: one million) of 128 dimensions
in float16 that stay on the disk (2.4 GiB): seconds and the resident memory that ranking adds.
"""
import sys
import tempfile
from pathlib import Path

from bench.recommenders import child, must, say
from harness import cli
from harness.errors import WorkError
from harness.readers import read_json

SASREC, SASREC_QUICK = (10_000, 1_000_000, 1_200_000), (1_000, 50_000, 60_000)
MAPPED, MAPPED_QUICK = 10_000_000, 1_000_000
USERS, DIM, LIMIT_GIB = 256, 128, 8


def sasrec(folder, size):
    """The row of one epoch and the ranking; WorkError above LIMIT_GIB."""
    workdir, out = folder / "sasrec", folder / "clock.json"
    must(["-m", "bench.recommenders", "--make", workdir, *size])
    status, peak, said = child(["-m", "bench._recommender", out, "recommenders.sasrec", "--loss", "gbce", "--negatives",
                                "256", "--epochs", "1", "--workdir", workdir])
    if status:
        raise WorkError(f"SASRec on {size[1]} items failed: {said}")
    if peak > LIMIT_GIB << 30:
        raise WorkError(f"SASRec on {size[1]} items took {peak / 2 ** 30:.1f} GiB, more than {LIMIT_GIB}")
    clock = read_json(out)
    return {"what": f"SASRec, gBCE, {size[1]:,} items, {size[0]:,} users: one epoch", "ours": clock["fit"], "unit": "s",
            "recommend_s": clock["recommend"]["test"], "peak_gib": peak / 2 ** 30,
            "note": f"ranking {clock['recommend']['test']:.0f} s for {clock['users']['test']:,} users; "
                    f"peak {peak / 2 ** 30:.1f} GiB"}


def mapped(folder, items):
    """The row of exact lists out of vectors on the disk."""
    out = folder / "mapped.json"
    must(["-m", "bench.catalogue", "--mapped", folder, items])
    clock = read_json(out)
    return {"what": f"exact top 100 of {items:,} items, {DIM} dimensions in float16 on disk, {USERS} users",
            "ours": clock["seconds"], "unit": "s", "peak_gib": clock["added"] / 2 ** 30,
            "note": f"{USERS / clock['seconds']:.1f} users/s; {clock['added'] / 2 ** 30:.1f} GiB above what the split "
                    f"and the libraries take, {clock['file'] / 2 ** 30:.1f} GiB on the disk"}


def rank_mapped(folder, items):
    """In a process of its own: make the vectors in blocks, rank, write mapped.json."""
    import threading
    import time

    import numpy as np
    import psutil

    import dataset
    from harness.files import write_json
    from ranking import topk
    rng, path = np.random.default_rng(0), folder / "items.npy"
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(items, DIM))
    for start in range(0, items, 1 << 18):
        vectors[start:start + (1 << 18)] = rng.normal(size=(min(1 << 18, items - start), DIM))
    vectors.flush()
    del vectors
    user, item = np.repeat(np.arange(USERS), 50), rng.integers(items, size=50 * USERS)
    train = dataset.Interactions(user, item, np.ones(len(user), np.float32), None)
    test = dataset.Interactions(np.arange(USERS), rng.integers(items, size=USERS), np.ones(USERS, np.float32), None)
    split = dataset.Split(None, np.arange(USERS), np.arange(items), items, train, {"test": test}, items, "", "none")
    users = rng.normal(size=(USERS, DIM)).astype(np.float32)
    before, start = psutil.Process().memory_full_info().uss, time.perf_counter()
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.25):
            peak[0] = max(peak[0], psutil.Process().memory_full_info().uss)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    lists = topk.recommend(split, "test", 100, users=users, items=np.load(path, mmap_mode="r"))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if len(lists) != 100 * USERS:
        raise WorkError(f"{len(lists)} rows instead of {100 * USERS}")
    write_json(folder / "mapped.json", {"seconds": seconds, "added": peak[0] - before, "file": path.stat().st_size})


def run(quick):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        return [say(sasrec(folder, SASREC_QUICK if quick else SASREC)),
                say(mapped(folder, MAPPED_QUICK if quick else MAPPED))]


if __name__ == "__main__":
    from bench.__main__ import run_one
    if sys.argv[1:2] == ["--mapped"]:
        cli.run(lambda argv=None: rank_mapped(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        cli.run(lambda argv=None: run_one("catalogue", argv))
