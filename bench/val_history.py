"""Leave-one-out: the val item in the history at test, or not. python -m bench.val_history [--quick]

Generated walks of 2,000 users through 100 items (--quick: 300 users), 10 to 20 plays each: the next item depends on the
last two and has not been played before. The split is preprocess/1_train_test_split.py --protocol leave-one-out, which
puts the val item into the history at test, as published; beside it the same split without that rule. SASRec, EASE and
ItemKNN run on both with the same seed, by their command lines. A row has NDCG@10 on test with the val item (ours) and
without it (baseline), and in its note their 95 % intervals over users.
"""
import json
import tempfile
from pathlib import Path

from bench.recommenders import must, say
from harness import cli

ITEMS, SHORTEST, LONGEST, LIKELY = 100, 10, 20, 4
METHODS = {"SASRec": ["-m", "recommenders.sasrec", "--max-seq-len", "20", "--hidden-dim", "64", "--lr", ".003"],
           "EASE": ["-m", "recommenders.ease"], "ItemKNN": ["-m", "recommenders.itemknn"]}


def walks(users, seed=0):
    """(user, item, step) of every play: drawn from the LIKELY successors of the last item (six in ten), of the one
    before it (three in ten), or from all items."""
    import numpy as np
    rng = np.random.default_rng(seed)
    likely = rng.integers(ITEMS, size=(2, ITEMS, LIKELY))
    for user in range(users):
        walk = rng.choice(ITEMS, 2, replace=False).tolist()
        for _ in range(rng.integers(SHORTEST, LONGEST + 1) - 2):
            kind = rng.choice(3, p=(.6, .3, .1))
            near = np.setdiff1d(likely[kind, walk[-1 - kind]], walk) if kind < 2 else ()
            walk.append(int(rng.choice(near if len(near) else np.setdiff1d(np.arange(ITEMS), walk))))
        yield from ((user, item, step) for step, item in enumerate(walk))


def make(workdir, users):
    """A workspace of the walks with the leave-one-out split."""
    log = workdir / "log.csv"
    workdir.mkdir(parents=True)
    log.write_text("user,item,timestamp\n" + "".join(
        f"{user},{item},{1_500_000_000 + 3600 * step}\n" for user, item, step in walks(users)), encoding="utf-8")
    must(["preprocess/0_get_plays_pqt.py", "interactions", "--log", log, "--workdir", workdir])
    must(["preprocess/1_train_test_split.py", "--protocol", "leave-one-out", "--workdir", workdir])


def measured(workdir, command):
    """(NDCG@10 on test, half-width over users) of the one run of a workspace's command."""
    import pandas as pd
    before = set((workdir / "metrics").glob("*_test.csv"))
    must([*command, "--workdir", workdir])
    (path,) = set((workdir / "metrics").glob("*_test.csv")) - before
    means = pd.read_csv(path, index_col=0)["NDCG@10"]
    return float(means["mean"]), float(means["conf"])


def run(quick):
    users, epochs = (300, 3) if quick else (2000, 20)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for with_val in (True, False):
            workdir = Path(folder) / str(with_val)
            make(workdir, users)
            if not with_val:
                rules = workdir / "data" / "rules.json"
                rules.write_text(json.dumps(json.loads(rules.read_text()) | {"history": {}}), encoding="utf-8")
            for name, command in METHODS.items():
                trained = ["--epochs", epochs] if name == "SASRec" else []
                found[name, with_val] = measured(workdir, [*command, *trained])
        for name in METHODS:
            (ours, half), (without, other) = found[name, True], found[name, False]
            rows.append(say({"what": f"{name}, {epochs} epochs" if name == "SASRec" else name, "ours": ours,
                             "baseline": without, "unit": "NDCG@10", "note": f"±{half:.3f}, without ±{other:.3f}"}))
    return rows


if __name__ == "__main__":
    from bench.__main__ import run_one
    cli.run(lambda argv=None: run_one("val_history", argv))
