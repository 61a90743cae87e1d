"""How much of what KNN on listeners' tags reaches is the tagging of the listener to be predicted: bench.own_tags

    python -m bench.own_tags --raw DIR --workdir work/lastfm-audio work/lastfm-cold

An artist's vector is made of the tags that all listeners gave, those of test users for artists of their test pairs
among them. Here the vectors of preprocess/lastfm/features.py are made again for the artists of a split, and KNN
(centred, mean of what was played) ranks them three times: with all taggings; with the artist of a test pair as it is
without the taggings of this user; and without as many other taggings, drawn at random, as a control, since fewer
taggings are less information whoever's they are. Rows are NDCG@10 of test and, where there is one, cold_test.
"""
from pathlib import Path

from bench.recommenders import say
from harness import cli
from harness.errors import UsageError
from harness.readers import reading

MODES = ("all taggings", "without the user's own", "without as many others")


def taggings(split, raw):
    """(user, item, tag) codes of the taggings of the split's artists, int64 (N,) each; user -1 is none of train's."""
    import numpy as np
    import pandas as pd

    from dataset import read_tracks
    path = raw / "user_taggedartists.dat"
    with reading(path, "the taggings of Last.fm-2k"):
        frame = pd.read_csv(path, sep="\t", usecols=["userID", "artistID", "tagID"])
    names, _ = read_tracks(split.workdir)
    if not all(name.isdigit() for name in names):
        raise UsageError(f"{split.workdir} is no workspace of Last.fm-2k, whose tracks are artist ids")
    row = pd.Series(np.arange(len(names)), index=[int(name) for name in names])
    code = np.full(len(names), -1, np.int64)
    code[split.tracks] = np.arange(split.n_items)
    frame = frame[frame["artistID"].isin(row.index)].drop_duplicates()
    item = code[row[frame["artistID"]].to_numpy()]
    user = pd.Series(np.arange(split.n_users), index=split.users).reindex(frame["userID"]).fillna(-1)
    kept = item >= 0
    return user.to_numpy(np.int64)[kept], item[kept], pd.factorize(frame["tagID"])[0][kept]


class Vectors:
    """Vectors of rows of counts, as preprocess/lastfm/features.py makes them."""

    def __init__(self, counts):
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer
        self.weights = TfidfTransformer(sublinear_tf=True).fit(counts)
        self.svd = TruncatedSVD(200, n_iter=7, random_state=42).fit(self.weights.transform(counts))

    def of(self, counts):
        from sklearn.preprocessing import normalize
        return normalize(self.svd.transform(self.weights.transform(counts)))


def measure(workdir, raw):
    """Rows of one workspace."""
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

    import dataset
    split = dataset.load(workdir)
    user, item, tag = taggings(split, raw)
    counts = csr_matrix((np.ones(len(item)), (item, tag)), shape=(split.n_items, tag.max() + 1))
    maker = Vectors(counts)
    vectors = maker.of(counts)
    centre = vectors[:split.n_hot].mean(axis=0)
    frame = pd.DataFrame({"user": user, "item": item, "tag": tag})
    rows = []
    for part in ("test", "cold_test"):
        if part in split.parts:
            pairs = split.part(part)
            pairs = pd.DataFrame({"user": pairs.user, "item": pairs.item}).drop_duplicates()
            own = pairs.reset_index(drop=True).reset_index(names="pair").merge(frame, on=["user", "item"])
            if len(own):
                rows += compare(split, part, counts, maker, vectors - centre, centre, own, len(pairs))
    return rows


def compare(split, part, counts, maker, vectors, centre, own, n_pairs):
    """The rows of a part. own: (pair, user, item, tag) of the test pairs that their own user tagged."""
    import numpy as np
    from scipy.sparse import csr_matrix
    pairs = own.drop_duplicates("pair")
    place = np.searchsorted(pairs["pair"], own["pair"])
    drawn = others(own, pairs, counts)
    found = {}
    for mode, taken in zip(MODES, (None, own["tag"].to_numpy(), drawn), strict=True):
        changed = None
        if taken is not None:
            less = csr_matrix((np.ones(len(own)), (place, taken)), shape=(len(pairs), counts.shape[1]))
            changed = maker.of((counts[pairs["item"].to_numpy()] - less).tocsr()) - centre
        found[mode] = ndcg(split, part, vectors, pairs, changed)
    share = f"{len(pairs):,} of {n_pairs:,} pairs were tagged by their own user"
    name = f"{split.workdir.name}, {part}"
    return [say({"what": f"{name}, {mode}", "ours": value, "unit": "NDCG@10", "note": share})
            for mode, value in found.items()]


def others(own, pairs, counts, seed=0):
    """For each tagging of `own` another of the same artist, int64 (len(own),), none of a pair's drawn twice."""
    import numpy as np
    rng, drawn = np.random.default_rng(seed), []
    sizes = own.groupby("pair", sort=True).size()
    for item, size in zip(pairs["item"], sizes, strict=True):
        row = counts[item]
        drawn.append(rng.choice(np.repeat(row.indices, row.data.astype(int)), size, replace=False))
    return np.concatenate(drawn)


def ndcg(split, part, vectors, pairs, changed):
    """Mean NDCG@10 of KNN with vectors (n_items, D); changed: (len(pairs), D) those of these pairs, or None."""
    import numpy as np

    import metrics
    from knn import unit, user_vectors
    from ranking import topk
    users = unit(user_vectors(split.history(part, "binary"), vectors))
    ranked = split.candidates(part)
    items = unit(vectors[ranked])
    cosine = None if changed is None else np.einsum("ij,ij->i", users[pairs["user"]], unit(changed))

    def scores(codes):
        block = users[codes] @ items.T
        if cosine is not None:
            at = np.flatnonzero(np.isin(pairs["user"], codes))
            block[np.searchsorted(codes, pairs["user"].to_numpy()[at]),
                  pairs["item"].to_numpy()[at] - ranked.start] = cosine[at]
        return block.astype(np.float32)
    lists = topk.recommend(split, part, 10, scores=scores)
    return float(metrics.evaluate(lists, split.truth(part), (10,))["NDCG@10"].mean())


def main(argv=None):
    from bench.__main__ import print_rows
    parser = cli.Parser(prog="bench.own_tags", description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder of user_taggedartists.dat")
    parser.add_argument("--workdir", type=Path, nargs="+", required=True, metavar="DIR",
                        help="workspaces of Last.fm's artists with a split")
    args = parser.parse_args(argv)
    print_rows("own_tags", [row for workdir in args.workdir for row in measure(workdir, args.raw)])


if __name__ == "__main__":
    cli.run(main)
