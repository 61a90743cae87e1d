"""ItemKNN: recommend the items most similar to a user's items, by the similarity of their users.

    python -m recommenders.itemknn --weight bm25 --neighbours 200
    python -m recommenders.itemknn --weight cosine --shrink 20
    python -m recommenders.itemknn --decay-hours 24          (for data with times)

Source: Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004; shrinkage as in Bell
and Koren, ICDM 2007: s(i, j) = <x_i, x_j> / (|x_i| |x_j| + h). Column x_i has the users of item i, weighted
by BM25 or TF-IDF (items as documents, users as terms; from `implicit`) or unweighted.

With --decay-hours H a user's history weighs recent plays more: each play of train counts 0.9 ** (age / H hours), its
age the time to the user's last one (the ItemKNN of Yambda's benchmark, arXiv 2505.22238; there similarities are of
all pairs, here of the nearest). Where nothing seen is hidden a track is its own nearest neighbour, so that what was
played can be recommended again.

Ties at the end of a neighbourhood are broken at random by --seed.

Practical limit: computed in blocks of items; the time grows with the sum over users of (played tracks)^2. The
neighbourhoods take up to 16 bytes per item and neighbour while they are joined: 4.8 GB at 1.5 million items and 200.
"""
from harness import cli, runs
from harness.progress import Progress

TITLE = "ItemKNN"
NEEDS = ()
COLD = False
DETERMINISTIC = True
SEARCH_SPACE = {
    "weight": ["cosine", "tfidf", "bm25"],
    "values": ["binary", "count"],
    "neighbours": {"log": [20, 2000]},
    "shrink": [0, 5, 10, 20, 50, 100],
}


def build_parser():
    parser = cli.Parser(prog="recommenders.itemknn", description=__doc__)
    parser.add_argument("--weight", choices=("cosine", "tfidf", "bm25"), default="cosine",
                        help="weighting of the user-item matrix before the cosine: cosine is none, tfidf or bm25 "
                             "(default cosine)")
    parser.add_argument("--values", choices=("binary", "count"), default="binary",
                        help="a pair counts 1, or its plays, in the similarities; in a user's history it counts 1 "
                             "(default binary)")
    parser.add_argument("--neighbours", type=cli.whole_number(1), default=200, metavar="N",
                        help="neighbours kept per item (default 200)")
    parser.add_argument("--shrink", type=cli.number(0), default=0.0, metavar="FLOAT",
                        help="shrinkage h of similarities that rest on few common users (default 0)")
    parser.add_argument("--decay-hours", type=cli.number(0, above=True), default=None, metavar="FLOAT",
                        help="hours in which a play in a user's history loses a tenth of its weight (default: none "
                             "does)")
    cli.recommender_flags(parser)
    return parser


def weighted(matrix, weight):
    """User-item matrix csr (U, I) with weighted entries, float64."""
    from implicit.nearest_neighbours import bm25_weight, tfidf_weight
    if weight == "bm25":
        return bm25_weight(matrix.T.tocsr(), K1=1.2, B=0.75).T.tocsr()
    if weight == "tfidf":
        return tfidf_weight(matrix.T.tocsr()).T.tocsr()
    return matrix.astype("float64")


def neighbours(matrix, n, shrink=0.0, seed=42, tracks=None, block=512):
    """The n most similar other items of each item, csr float32 (I, I), row i = similarities of item i.

    matrix: csr (U, I), weighted; tracks (I,): track ids, which with the seed break ties (default: the item codes).
    An item without plays has no neighbours. Blocks of items are computed on as many threads as torch uses.
    """
    import numpy as np
    import torch
    from scipy.sparse import csr_matrix, vstack

    from harness.ties import user_key
    from training.overlaps import in_blocks, parts_of
    items = matrix.shape[1]
    tracks = torch.arange(items) if tracks is None else torch.from_numpy(tracks)
    keys = [x.numpy().view(np.uint64) for x in (user_key(tracks, seed), tracks)]
    by_user = matrix.astype(np.float64)
    by_item = by_user.T.tocsr()                                                # (I, U)
    norm = np.sqrt(np.asarray(by_item.multiply(by_item).sum(axis=1))).ravel()
    pairs = parts_of(by_item), parts_of(by_user)

    def rows(start, stop):
        counts, column, value = _nearest(pairs, norm, shrink, min(n, items), keys, start, stop)
        return csr_matrix((value.astype(np.float32), column, np.r_[0, counts.cumsum()]), shape=(stop - start, items))
    blocks = []
    with Progress(items, "itemknn: neighbours", "items", quiet=True) as bar:
        for done in in_blocks(rows, items, block):
            blocks.append(done)
            bar.update(done.shape[0])
    return vstack(blocks, format="csr")


def _nearest(pairs, norm, shrink, n, keys, start, stop):
    """Number of neighbours of each item of a block; their columns and similarities, one item after the other."""
    import numpy as np

    from training.overlaps import nearest
    items, room = len(norm), len(norm) + 2 * n * (stop - start)
    overlap, listed, column, value = np.zeros(items), *(np.empty(m, np.int32) for m in (items, room)), np.empty(room)
    counts, found, at = np.zeros(stop - start, np.int64), [], start
    while at < stop:
        begin, at = at, nearest(at, stop, *pairs, norm, shrink, n, *keys, overlap, listed, counts[at - start:], column,
                                value)
        used = counts[begin - start:at - start].sum()
        found.append((column[:used].copy(), value[:used].copy()))
    return counts, *(np.concatenate(part) for part in zip(*found, strict=True))


def itself(matrix, shrink=0.0):
    """The similarity of each item to itself as a diagonal, csr float32 (I, I); 0 for an item without plays."""
    import numpy as np
    from scipy.sparse import diags
    square = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()
    return diags(np.divide(square, square + shrink, out=np.zeros_like(square), where=square > 0).astype(np.float32),
                 format="csr")


def request_of(args):
    """Every argument that can change the result."""
    decay = {} if args.decay_hours is None else {"decay_hours": args.decay_hours}
    return {"weight": args.weight, "values": args.values, "neighbours": args.neighbours, "shrink": args.shrink, **decay,
            "k": args.k, "seed": args.seed, "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    import dataset
    from ranking import decay, plays, save
    split = dataset.load(workdir)
    request = request_of(args)
    files = plays.inputs(split, "--decay-hours") if args.decay_hours else []
    with runs.Run(workdir, "itemknn", request, inputs=[*split.inputs, *files], args=args) as run:
        if run.finished:
            return
        matrix = weighted(split.matrix(args.values), args.weight)
        near = neighbours(matrix, args.neighbours, args.shrink, args.seed, split.tracks[:split.n_hot])
        if split.rules["seen"] == "keep":
            near = near + itself(matrix, args.shrink)
        parts = split.hot_parts

        def scorer(part):
            history = decay.weights(split, args.decay_hours, part, by_user=True) if args.decay_hours \
                else split.history(part)
            return lambda codes: (history[codes] @ near).toarray()
        results = save.write(run, split, args.k, args.seed, parts, scores=split.by_history(scorer, parts))
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main)
