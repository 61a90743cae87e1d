"""The measure of the DTNMR source for every recommender: does a test song stand above N - 1 sampled others?

    python -m evaluation.subset_accuracy --workdir W                            every run with saved lists
    python table.py --k 5 --metrics SubsetAccuracy PointAccuracy

Adds to metrics/{run}_{part}.csv and .pqt the column SubsetAccuracy@N, N being --subset-size: the share of a user's
held-out pairs whose song stands in the user's list above N - 1 songs of the part's catalogue, drawn uniformly and
never known to the user from any part. The subsets are the same for every run. A list is whole where its run was
asked for --k of the catalogue's size; in a shorter one the songs beyond its end tie, a tie of n counts 1 / n, and
the share of subsets decided so is told.

PointAccuracy@N, which recommenders.dtnmr adds to its own metrics, asks the same of each point: from the playlist
right before it, plays of known songs included, which is what the source counts. A user whose points are all plays
of known songs has no held-out pair, so no row in the metrics, and is left out of both. metrics.py writes the files
anew without both.
"""
import sys
from pathlib import Path

import numpy as np

from harness import cli, runs
from harness.errors import UsageError, WorkError


class Negatives:
    """Uniform draws from a catalogue, never a song the user knows, never one twice for a point.

    known: int64 (P,) users and (P,) songs that are never drawn; a point's label must be among them
    """

    def __init__(self, catalogue, n_songs, users, songs):
        self.catalogue, self.n_songs = catalogue, n_songs
        self.known = np.unique(users * n_songs + songs)

    def left(self, users):
        """How many songs each of `users` (b,) has left to draw, int64 (b,)."""
        inside = self.known[np.isin(self.known % self.n_songs, self.catalogue)]
        taken = np.bincount(inside // self.n_songs, minlength=int(users.max(initial=0)) + 1)
        return len(self.catalogue) - taken[users]

    def enough(self, users, size, what):
        """Which of `users` (b,) have size - 1 songs left, bool (b,); tells of the others.

        what: the name of the b points. Raises WorkError where nobody is left.
        """
        left = self.left(users)
        enough = left >= size - 1
        if len(users) and not enough.any():
            mend = (f"use at most --subset-size {left.max() + 1}" if left.any() else
                    "keep more songs, or fewer plays for each of them")
            raise WorkError(f"--subset-size {size} needs {size - 1} unknown songs, but of the catalogue's "
                            f"{len(self.catalogue)} the users of the {what} have at most {left.max()} left; {mend}")
        if not enough.all():
            print(f"--subset-size {size}: {(~enough).sum()} of {len(users)} {what} left out, because their "
                  f"{len(np.unique(users[~enough]))} users have fewer than {size - 1} unknown songs left",
                  file=sys.stderr)
        return enough

    def draw(self, users, n, generator):
        """Song codes (b, n) for users (b,); needs left(users) >= n for all of them."""
        found = generator.choice(self.catalogue, (len(users), n))
        todo = np.arange(len(users))
        while len(todo) and n:
            keys = (users[todo, None] * self.n_songs + found[todo])
            place = np.minimum(np.searchsorted(self.known, keys), len(self.known) - 1)
            wrong = self.known[place] == keys
            for j in range(1, n):
                wrong[:, j] |= (found[todo, :j] == found[todo, j:j + 1]).any(1)
            todo, wrong = todo[wrong.any(1)], wrong[wrong.any(1)]
            again = found[todo]
            again[wrong] = generator.choice(self.catalogue, int(wrong.sum()))
            found[todo] = again
        return found


def first_wins(values):
    """For each row of (b, C): 1 / n where the first value is the largest, shared by n; 0 where it is not or is NaN."""
    best = values == values.max(1, keepdims=True)
    return best[:, 0] / np.maximum(best.sum(1), 1)


def build_parser():
    parser = cli.Parser(prog="subset_accuracy.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="RUN", help="runs to evaluate (default: all with saved lists)")
    parser.add_argument("--subset-size", type=cli.positive, default=5, metavar="N",
                        help="songs that a test song is chosen from: itself and sampled others (default 5)")
    cli.common_flags(parser, overwrite=False)
    return parser


def subsets(split, part, size, seed):
    """Subsets of a part's N pairs, the same for every recommender: rows int64 (n,) of the part, item codes (n, size).

    A pair's own song stands first. Pairs of users who have fewer than size - 1 unknown songs left in the catalogue
    are left out and counted on stderr; a WorkError where none is left.
    """

    pairs, catalogue = split.part(part), split.candidates(part)
    known = [split.train, *split.others.values()]
    negatives = Negatives(np.arange(catalogue.start, catalogue.stop), split.n_items,
                          np.concatenate([p.user for p in known]), np.concatenate([p.item for p in known]))
    rows = np.flatnonzero(negatives.enough(pairs.user, size, f"{part} pairs"))
    draw = np.random.default_rng([seed, 4, runs.PART_ORDER.index(part)])
    return rows, np.concatenate([pairs.item[rows, None], negatives.draw(pairs.user[rows], size - 1, draw)], 1)


def accuracy(preds, split, part, rows, songs):
    """Values by user_id (Series, ascending: the users of the rows) and the share of subsets beyond the lists' ends.

    preds: frame `user_id, track_id, rank`; rows (n,) of the part and item codes (n, size) as `subsets` makes them
    """
    import pandas as pd

    from evaluation.lists import read_lists
    users, user = np.unique(split.part(part).user[rows], return_inverse=True)
    found = read_lists(preds, split.users[users])
    place = found.find(np.repeat(user, songs.shape[1]), split.tracks[songs.ravel()]).reshape(songs.shape)
    hits = first_wins(np.where(place < 0, -found.places, -place))
    values = np.bincount(user, hits) / np.bincount(user)
    return pd.Series(values, pd.Index(split.users[users], name="user_id")), float((place < 0).all(1).mean())


def add_column(workdir, run, part, name, values):
    """Add a column to metrics/{run}_{part}.pqt and .csv, both written anew; values: Series by user_id.

    A user without a value has NaN, and no share in the mean.
    """
    import pandas as pd

    from evaluation.files import write_metrics
    path = Path(workdir) / "metrics" / f"{run}_{part}.csv"
    if not (path.exists() and path.with_suffix(".pqt").exists()):
        raise WorkError(f"{path} or its .pqt is gone; python metrics.py {run} makes them again")
    of_users = pd.read_parquet(path.with_suffix(".pqt")).set_index("user_id")
    means = pd.read_csv(path, index_col=0).loc["mean"]
    whole = {c: means[c] for c in means.index if c not in of_users and c != name}
    return write_metrics(path, of_users.assign(**{name: values.reindex(of_users.index)}), whole)[name]


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.subset_size < 2:
        raise UsageError("--subset-size counts the song and at least one other, so at least 2, not 1")
    if args.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {args.seed}")
    workdir = cli.workspace(args)
    import dataset
    from evaluation.lists import read_frame, saved_lists
    jobs, split, name, drawn = saved_lists(workdir, args.names), dataset.load(workdir), f"@{args.subset_size}", {}
    for run, part, path in jobs:
        if part not in split.parts:
            raise WorkError(f"{path} is of part {part}, but this split has {', '.join(split.parts) or 'no parts'}")
        if part not in drawn:
            drawn[part] = subsets(split, part, args.subset_size, args.seed)
        values, lost = accuracy(read_frame(path, ("user_id", "track_id", "rank")), split, part, *drawn[part])
        mean = add_column(workdir, run, part, f"SubsetAccuracy{name}", values)
        print(f"{run}, {part}: SubsetAccuracy{name} {mean:.4f} (chance {1 / args.subset_size:.4f})"
              + (f"; {lost:.1%} of the subsets lie beyond the lists' ends and are ties" if lost else ""), flush=True)


if __name__ == "__main__":
    cli.run(main)
