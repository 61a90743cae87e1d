"""Generate synthetic files in Yambda's format and schema, of any size, deterministic by the seed.

    python -m preprocess.yambda.generate --out DIR --users 10000 --listens 46467212     the size of Yambda-50M
    python -m preprocess.yambda.generate --out DIR --users 300 --listens 60000          for tests

flat/SIZE/listens.parquet and likes.parquet, sequential/SIZE/..., embeddings.parquet, artist_item_mapping.parquet and
album_item_mapping.parquet. Times run to second 26,000,000 in steps of 5; users repeat what they like, and tracks come
and go, so that recent plays say more than old ones. A track's style shows in its vector; a tenth of the tracks have
none. Rows are written in blocks of users, so memory does not grow with the log.
"""
from pathlib import Path

from harness import cli
from harness.files import atomic

LAST, STEP = 26_000_000, 5
STYLES, DIM = 16, 128
BLOCK = 1 << 22          # listens of a row group, about
LIKED = 0.02             # likes per listen


def build_parser():
    parser = cli.Parser(prog="preprocess.yambda.generate", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--size", choices=("50m", "500m", "5b"), default="50m",
                        help="name of the folder that stands for the size (default 50m)")
    parser.add_argument("--users", type=cli.positive, default=10_000, metavar="N", help="users (default 10000)")
    parser.add_argument("--tracks", type=cli.positive, default=None, metavar="N",
                        help="tracks (default: one for each 50 listens, at least 200)")
    parser.add_argument("--listens", type=cli.positive, default=46_467_212, metavar="N",
                        help="listens, about (default 46467212, those of Yambda-50M)")
    parser.add_argument("--forms", nargs="+", choices=("flat", "sequential"), default=["flat"],
                        help="forms to write (default flat)")
    parser.add_argument("--seed", type=cli.seed_number, default=0, metavar="N", help="seed (default 0)")
    return parser


class World:
    """Tracks with a style, a first day and a popularity that fades; users with a taste and tracks of their own."""

    def __init__(self, users, tracks, seed):
        import numpy as np
        rng = np.random.default_rng([seed, 0])
        self.ids = np.sort(rng.permutation(tracks * 4)[:tracks]).astype(np.uint32) + 1
        self.style = rng.integers(STYLES, size=tracks)
        self.fame = rng.pareto(1.2, tracks) + 0.1
        self.born = np.where(rng.random(tracks) < 0.6, 0, rng.integers(0, LAST, tracks))
        self.vectors = np.eye(STYLES, DIM)[self.style] * 3 + rng.normal(size=(tracks, DIM))
        self.seconds = rng.integers(90, 400, tracks).astype(np.uint32)
        self.users, self.seed = users, seed
        self.cumulative = [np.cumsum(np.where(self.style == s, self.fame, 0.02 * self.fame)) for s in range(STYLES)]

    def listens(self, first, last, mean):
        """Columns of the listens of users first..last-1, sorted by user and time; `mean` listens each, log-normal."""
        import numpy as np
        rng = np.random.default_rng([self.seed, 1, first])
        count = np.maximum((rng.lognormal(0, 1, last - first) / np.exp(0.5) * mean).astype(np.int64), 5)
        user = np.repeat(np.arange(first, last), count)
        taste = rng.integers(STYLES, size=last - first)[user - first]
        time = np.sort(rng.random(len(user)) ** 0.8) * LAST
        time = np.minimum(time // STEP * STEP, LAST - STEP).astype(np.uint32)[rng.permutation(len(user))]
        item = np.empty(len(user), np.int64)
        for style in range(STYLES):
            mine = taste == style
            total = self.cumulative[style]
            item[mine] = np.searchsorted(total, rng.random(mine.sum()) * total[-1]).clip(max=len(self.ids) - 1)
        order = np.lexsort((time, user))
        user, time, item = user[order], time[order], item[order]
        item = np.where(self.born[item] > time, (item * 7919) % len(self.ids), item)   # not out yet: another one
        again = np.flatnonzero((rng.random(len(user)) < 0.35) & (np.arange(len(user)) > 0))
        back = np.maximum(again - rng.geometric(0.05, len(again)), 0)
        same = user[back] == user[again]
        item[again[same]] = item[back[same]]                                            # a recent track again
        played = np.where(rng.random(len(user)) < 0.7, rng.integers(60, 131, len(user)), rng.integers(0, 60, len(user)))
        return {"uid": (user * 10 + 10).astype(np.uint32), "timestamp": time, "item_id": self.ids[item],
                "is_organic": (rng.random(len(user)) < 0.513).astype(np.uint8),
                "played_ratio_pct": played.astype(np.uint16), "track_length_seconds": self.seconds[item]}


def flat_table(columns):
    import pyarrow as pa
    return pa.table(columns)


def sequential_table(columns):
    """The same rows, one per user with lists."""
    import numpy as np
    import pyarrow as pa
    users, start = np.unique(columns["uid"], return_index=True)
    offsets = pa.array(np.append(start, len(columns["uid"])).astype(np.int32))
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()
             if name != "uid"}
    return pa.table({"uid": users, **lists})


TABLES = {"flat": flat_table, "sequential": sequential_table}


def write_events(world, out, size, forms, listens):
    """The listens and likes of all users, block by block, in each form."""
    import contextlib

    import numpy as np
    import pyarrow.parquet as pq
    mean = max(listens / world.users, 5)
    per_block = max(int(BLOCK / mean), 1)
    with contextlib.ExitStack() as opened:
        writers = {}
        for first in range(0, world.users, per_block):
            columns = world.listens(first, min(first + per_block, world.users), mean)
            rng = np.random.default_rng([world.seed, 2, first])
            liked = (rng.random(len(columns["uid"])) < LIKED) & (columns["played_ratio_pct"] >= 50)
            likes = {name: columns[name][liked] for name in ("uid", "timestamp", "item_id", "is_organic")}
            for form in forms:
                for name, rows in (("listens", columns), ("likes", likes)):
                    table = TABLES[form](rows)
                    if (form, name) not in writers:
                        path = opened.enter_context(atomic(out / form / size / f"{name}.parquet"))
                        writers[form, name] = opened.enter_context(pq.ParquetWriter(path, table.schema))
                    writers[form, name].write_table(table)


def write_tracks(world, out):
    """The vectors of nine tenths of the tracks, and the artists and albums of all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    rng = np.random.default_rng([world.seed, 3])
    known = rng.random(len(world.ids)) < 0.9
    vectors = world.vectors[known].astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    tables = {"embeddings": {"item_id": world.ids[known], "embed": pa.array(list(vectors)),
                             "normalized_embed": pa.array(list(unit))}}
    tracks = np.arange(len(world.ids))
    for name, each in (("artist", 8), ("album", 4)):
        tables[f"{name}_item_mapping"] = {f"{name}_id": (tracks // each).astype(np.uint32), "item_id": world.ids}
    for name, columns in tables.items():
        with atomic(out / f"{name}.parquet") as path:
            pq.write_table(pa.table(columns), path)


def generate(out, users, listens, tracks=None, size="50m", forms=("flat",), seed=0):
    """Write all files below `out`."""
    world = World(users, tracks or max(listens // 50, 200), seed)
    write_tracks(world, out)
    write_events(world, out, size, forms, listens)


def main(argv=None):
    args = build_parser().parse_args(argv)
    out = args.out.expanduser()
    generate(out, args.users, args.listens, args.tracks, args.size, args.forms, args.seed)
    print(f"written: {out} ({args.users:,} users)")


if __name__ == "__main__":
    cli.run(main)
