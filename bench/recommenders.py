"""Every recommender: seconds to fit, to rank, and peak memory. python -m bench.recommenders [--quick] [NAME ...]

Each is found by its declaration (harness/registry.py) and runs through its command line in a process of its own:
lists of 100 for all test users, default flags but for what it needs (an embedding, the order of counts where there are
no times) and one epoch where it trains in epochs, which the row says. Where the clock stands: bench/_recommender.py.
The peak is the child's resident memory, 0.5 GiB of which are Python with torch; `chance` shows what reading and ranking
alone take. Recommenders that build on the lists of others come last. One that refuses, fails or takes longer than
--limit has a row with the reason and no figure.

Workspaces: lastfm, Last.fm-2k with all artists, per-user random 80/10/10 split (a generated one of its size where
SHARED_DATA is absent), and music4all, a generated one of Music4All's size: 21,018 users, 55,262 items, 5.4 M pairs, an
embedding of 64 columns. --quick: a generated small one.

`EASE, inv(G)`: recommenders/ease.py against bench/_ease_inverse.py on generated plays of 1,892 users and 15,344 items
(--quick: a fifth), seconds until the model stands; scores are compared before a figure is given.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

from bench._child import measured
from harness import cli, registry
from harness.errors import UsageError, WorkError
from harness.files import write_csv, write_json, write_npy, write_parquet
from harness.readers import read_json

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"music4all": (21_018, 55_262, 5_400_000), "lastfm": (1_892, 17_632, 92_834), "quick": (400, 1_500, 20_000),
         "ease": (1_892, 15_344, 74_241), "ease quick": (378, 3_069, 14_848)}
CLOSED = ("content_factors",)       # their epochs are of a map that is not the default
LIMITS = {"quick": 60, "lastfm": 300, "music4all": 600}   # seconds of one recommender


# --------------------------------------------------------------------------- generated plays

def draw_pairs(users, items, pairs, seed=0):
    """Distinct (user, item) codes, about `pairs` of them: histories of log-normal length, items by a power law."""
    import numpy as np
    rng = np.random.default_rng(seed)
    length = rng.lognormal(0, 1.1, users)
    length = np.clip(length / length.mean() * pairs / users, 10, items // 2).astype(np.int64)
    fame = np.cumsum(rng.permutation(1 / (np.arange(items) + 30) ** 0.8))
    keys, short = np.zeros(0, np.int64), length
    while short.any():
        user = np.repeat(np.arange(users), short + short // 4)
        item = np.searchsorted(fame, rng.random(len(user)) * fame[-1]).clip(max=items - 1)
        keys = np.union1d(keys, user * items + item)
        short = np.maximum(length - np.bincount(keys // items, minlength=users), 0)
    order = np.lexsort((rng.random(len(keys)), keys // items))          # in random order within a user
    user = keys[order] // items
    kept = keys[order[np.arange(len(user)) - np.searchsorted(user, user) < length[user]]]
    missing = np.setdiff1d(np.arange(items), kept % items)              # every item is played by somebody
    kept = np.concatenate([kept, rng.integers(users, size=len(missing)) * items + missing])
    kept = kept[np.lexsort((rng.random(len(kept)), kept // items))]
    return kept // items, kept % items                                  # users ascending, items in random order


def write_world(workdir, users, items, pairs, dim=64, seed=0):
    """A workspace of that size with train (80 %), test (10 %) and val (10 % of at most 1,000 users), an embedding."""
    import numpy as np
    import pandas as pd
    rng = np.random.default_rng([seed, 1])
    user, item = draw_pairs(users, items, pairs, seed)
    write_csv(workdir / "trackid_sorted.csv",
                   pd.DataFrame({"idx": range(items), "trackid": [f"{i:08d}" for i in range(items)]}), index=False)
    tenth = np.maximum(np.bincount(user, minlength=users) // 10, 1)[user]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    part = np.where(place < tenth, "test", np.where((place < 2 * tenth) & (user < 1000), "val", "train"))
    part[~np.isin(item, item[part == "train"])] = "train"
    frame = pd.DataFrame({"user_id": user, "track_id": item, "count": rng.geometric(0.3, len(user)),
                          "timestamp": pd.to_datetime(rng.integers(1_500_000_000, 1_530_000_000, len(user)), unit="s")})
    for name in ("train", "val", "test"):
        write_parquet(workdir / "data" / f"{name}.pqt", frame[part == name])
    write_npy(workdir / "embeddings" / "content.npy", rng.normal(size=(items, dim)).astype(np.float32))
    write_parquet(workdir / "items.pqt", pd.DataFrame({
        "track_id": range(items), "styles": [[f"style {s}"] for s in rng.integers(60, size=items)],
        "artists": [[f"artist {a}"] for a in rng.integers(max(1, items // 8), size=items)]}))
    write_parquet(workdir / "users.pqt", pd.DataFrame({
        "user_id": range(users), "age": rng.integers(16, 60, users), "country": rng.choice(["CZ", "TW", "US"], users)}))
    write_json(workdir / "dataset.json", {"name": "generated", "time": "real"})


# --------------------------------------------------------------------------- processes

def child(command, limit=None):
    """Run a command: (exit status, None where it was stopped after `limit` seconds; peak bytes; last line it said)."""
    done = measured([sys.executable, *command], limit or float("inf"))
    return done.status, done.peak, (done.said.strip().splitlines() or ["it said nothing"])[-1]


def must(command):
    status, _, said = child(command)
    if status:
        raise WorkError(f"{' '.join(map(str, command[:3]))} failed: {said}")


def make(workdir, size):
    """A generated workspace; its maker is a process, too, because what this one holds counts in its children's peak."""
    must(["-m", "bench.recommenders", "--make", workdir, *SIZES[size]])
    return "content"


def make_lastfm(workdir):
    """Last.fm-2k where the shared data has it; returns the name of its embedding."""
    raw = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared")) / "data" / "lastfm-2k"
    if not raw.is_dir():
        return make(workdir, "lastfm")
    must(["preprocess/0_get_plays_pqt.py", "lastfm", "--raw", raw, "--workdir", workdir])
    must(["preprocess/1_train_test_split.py", "--protocol", "random", "--val-share", ".1", "--test-share", ".1",
          "--workdir", workdir])
    return "tags"


# --------------------------------------------------------------------------- the measurement

def modules():
    """{module: what it declares} of every recommender; those that build on others' lists come last, and before them
    those that read the item factors of a run (--factors RUN, of iALS)."""
    there = {r.module.removesuffix(".__main__"): r for r in registry.recommenders().values()}

    def builds(name):
        actions = registry.load(name).build_parser()._actions
        return 2 * any(a.dest == "sources" for a in actions) + any(
            a.dest == "factors" and a.default == "ials" for a in actions)
    return {name: there[name] for name in sorted(there, key=lambda name: (builds(name), name))}


def flags_of(name, needs, embedding, timed):
    """Words that a recommender is given beside the defaults, and what to say of them."""
    from experiments.expand import EMBEDDING_FLAGS, argv_of
    parser = registry.load(name).build_parser()
    there, values = {action.dest for action in parser._actions}, {}
    if "embedding" in needs:
        values = {next(flag for flag in EMBEDDING_FLAGS if flag in there): embedding}
        values |= {"missing": "mean"} if "missing" in there else {}
    if "order" in needs and not timed:
        values["order"] = "count"
    epochs = "epochs" in there and name.rpartition(".")[2] not in CLOSED
    if epochs:
        values["epochs"] = 1
    return argv_of(parser, (), values), "fit: one epoch" if epochs else "fit: all of it"


def measure(name, told, workdir, embedding, size, limit):
    """The row of one recommender on one workspace."""
    out = workdir / "clock.json"
    out.unlink(missing_ok=True)
    about = read_json(workdir / "dataset.json")
    words, note = flags_of(name, told.needs, embedding, about["time"] != "none")
    status, peak, said = child(["-m", "bench._recommender", out, name, *words, "--workdir", workdir], limit)
    row = {"what": f"{name.removeprefix('recommenders.')}, {size}", "unit": "s to fit"}
    if status != 0:
        why = f"stopped after {limit} s" if status is None else said
        return row | {"ours": None, "peak_gib": peak / 2 ** 30, "note": f"no figure: {why} ({peak / 2 ** 30:.2f} GiB)"}
    clock = read_json(out)
    ranking, users = clock["recommend"]["test"], clock["users"]["test"]
    return row | {"ours": clock["fit"], "recommend_s": ranking, "users": users, "peak_gib": peak / 2 ** 30,
                  "note": f"{note}; ranking {ranking:.3g} s for {users} users; peak {peak / 2 ** 30:.2f} GiB"}


def measure_ease(size, folder):
    """Ours against inv(G), on the clock and in processor time: two rows; WorkError where the scores differ."""
    import numpy as np
    make(folder / "ease", size)
    told, peak, scores = {}, {}, {}
    for road in ("ours", "inverse"):
        status, peak[road], said = child(["-m", "bench._ease_inverse", folder / "ease", road, folder / road])
        if status:
            raise WorkError(f"EASE by {road} failed: {said}")
        told[road], scores[road] = read_json(folder / f"{road}.json"), np.load(folder / f"{road}.npy")
    if not np.allclose(scores["ours"], scores["inverse"], atol=1e-8):
        raise WorkError(f"the two roads differ by {np.abs(scores['ours'] - scores['inverse']).max():.2g}")
    users, items = told["ours"]["shape"]
    note = (f"{users} users; same scores to 1e-8; peak {peak['ours'] / 2 ** 30:.2f} and "
            f"{peak['inverse'] / 2 ** 30:.2f} GiB")
    return [{"what": f"EASE, inv(G) of {items} items{what}", "ours": told["ours"][clock],
             "baseline": told["inverse"][clock], "unit": "s", "note": note,
             "ratio": told["inverse"][clock] / told["ours"][clock]}
            for clock, what in (("seconds", ""), ("processor", ", processor time"))]


def say(row):
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def run(quick, names=(), sizes=(), limit=None):
    """Rows of all recommenders (or the named ones and EASE's comparison, `ease_inverse`), said as they come."""
    there = modules()
    unknown = sorted({*names} - {n.removeprefix("recommenders.") for n in there} - {"ease_inverse"})
    if unknown:
        raise UsageError(f"no recommender {', '.join(unknown)}; there: {', '.join(there)}, ease_inverse")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if not names or "ease_inverse" in names:
            rows += map(say, measure_ease("ease quick" if quick else "ease", folder))
        for size in sizes or (["quick"] if quick else ["lastfm", "music4all"]):
            workdir, chosen = folder / size, [n for n in there if not names or n.removeprefix("recommenders.") in names]
            if chosen:
                embedding = make_lastfm(workdir) if size == "lastfm" else make(workdir, size)
            for name in chosen:
                rows.append(say(measure(name, there[name], workdir, embedding, size, limit or LIMITS[size])))
    return rows


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.recommenders", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recommenders, or ease_inverse (default: all)")
    parser.add_argument("--quick", action="store_true", help="a small generated workspace only")
    parser.add_argument("--size", action="append", choices=("lastfm", "music4all", "quick"), default=[],
                        help="one workspace; can be given again (default lastfm and music4all)")
    parser.add_argument("--limit", type=cli.positive, metavar="S",
                        help=f"seconds for one recommender (default {LIMITS['lastfm']} on lastfm, "
                             f"{LIMITS['music4all']} on music4all)")
    args = parser.parse_args(argv)
    print_rows("recommenders", run(args.quick, args.names, args.size, args.limit))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        write_world(Path(sys.argv[2]), *map(int, sys.argv[3:6]))
    else:
        cli.run(main)
