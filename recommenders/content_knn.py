"""Content kNN: recommend the nearest neighbours, by content features, of the tracks that a user has played.

    python -m recommenders.content_knn                                    all embeddings of the workspace
    python -m recommenders.content_knn vggish --neighbours 50
    python -m recommenders.content_knn spotify --like "The Beatles"       print similar tracks, recommend nothing

Features are standardised over the tracks of train (each column to mean 0 and standard deviation 1, so that
tempo in beats per minute does not outweigh energy from 0 to 1) and compared by the cosine. With N(j) the
--neighbours tracks most similar to track j among the candidates of a part, excluding j,

    score(u, i) = sum of w(u, j) max(cos(i, j), 0) over the j that u played in train and that have i in N(j)

This is the item-based kNN of Sarwar, Karypis, Konstan and Riedl (WWW 2001) with content features instead of ratings;
w is 1, or the plays with --values count, or log(1 + plays) with --values log. Cold tracks have features and are
ranked, too. With --scale standard or center constant columns are ignored, and a track filled in by --missing mean has
no neighbours.

Practical limit: two passes of tracks x tracks x dimensions, in blocks, and 8 bytes x tracks x neighbours of memory.
"""
import sys

from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.progress import Progress

TITLE = "Content KNN"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = True
SEARCH_SPACE = {
    "neighbours": {"log": [5, 500]},
    "scale": ["standard", "center", "none"],
    "values": ["binary", "count", "log"],
}
OF_LISTS = {"neighbours": 50, "values": "binary", "missing": "fail"}   # defaults of what --like has no use for
SHOWN = 10   # tracks that --like prints
FLAT = 1e-6  # relative size below which a deviation is within the rounding of float32


def build_parser():
    parser = cli.Parser(prog="recommenders.content_knn", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="embeddings of the workspace (default: all)")
    parser.add_argument("--neighbours", type=cli.whole_number(1), metavar="N",
                        help="neighbours of each track (default 50)")
    parser.add_argument("--scale", choices=("standard", "center", "none"), default="standard",
                        help="scale of the features: mean 0 and deviation 1, mean 0, or as they are (default standard)")
    parser.add_argument("--values", choices=("binary", "count", "log"),
                        help="weight of a played track: 1, its plays, or log(1 + plays) (default binary)")
    parser.add_argument("--shuffle", action="store_true",
                        help="permute the rows of the embedding by --seed (the shuffled control)")
    parser.add_argument("--missing", choices=("fail", "mean"),
                        help="tracks without an embedding: fail stops with an error, mean fills in the mean embedding "
                             "(default fail)")
    parser.add_argument("--like", metavar="TRACK",
                        help="print the tracks most similar to this track (id or name) instead of recommending")
    parser.add_argument("--show", type=cli.positive, metavar="N",
                        help=f"number of tracks that --like prints (default {SHOWN})")
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    args = build_parser().parse_args(argv)
    if args.like is None and args.show is not None:
        raise UsageError("--show is the number of tracks printed by --like; use both or neither")
    if args.like is not None and args.shuffle:
        raise UsageError("--shuffle does not apply to --like, which uses the embedding unchanged; leave it out")
    for name, default in OF_LISTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.like is not None:
            raise UsageError(f"--{name} is about recommending, and --like prints similar tracks instead; leave it out")
    args.show = args.show or SHOWN
    return args


# --------------------------------------------------------------------------- similarity

def directions(vectors, scale="standard", fitted=None, present=None):
    """Features scaled column by column, then each row to length 1; float32 (n, D).

    fitted: the mean and deviation of a column are those of so many first rows (the hot items), None for all rows.
    present: bool (n,), the rows that have a vector of their own, or None where all have; once the mean is taken out the
    others have no direction. They, a constant column, and a row equal to the mean within float32 precision become zero.
    """
    import numpy as np
    x = np.asarray(vectors, np.float64)
    if scale != "none":
        centre = x[:fitted].mean(axis=0)
        x, size = x - centre, np.abs(centre)
        spread = x[:fitted].std(axis=0)
        flat = spread <= FLAT * size
        x[:, flat] = 0
        x[(np.abs(x) <= FLAT * (size + spread)).all(axis=1)] = 0
        if scale == "standard":
            x[:, ~flat] /= spread[~flat]
        if present is not None:
            x[~present] = 0
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0).astype(np.float32)


def neighbours(queries, items, n, ids, tracks, seed=42, device="cpu"):
    """The n most similar items of each query with their cosines, if positive; csr float32 (Q, I).

    queries: float32 (Q, D) and items: float32 (I, D), rows of length 1 or zero; ids: int64 (Q,) and
    tracks: int64 (I,) their track ids. A track is not its own neighbour; ties, as of equal rows, which are multiplied
    once, are broken in a seeded random order per query.
    """
    import numpy as np
    import torch
    from scipy.sparse import csr_matrix, vstack

    from ranking import topk
    distinct, index = topk.distinct_rows(items)
    shared = len(distinct) < len(items)
    items, index, ids, tracks = (torch.as_tensor(a).to(device) for a in (distinct if shared else items, index, ids,
                                                                         tracks))
    rows, blocks = max(1, topk.BLOCK_BYTES // (4 * max(len(tracks), 1))), []
    with Progress(len(queries), "content_knn: neighbours", "tracks", quiet=True) as bar:
        for start in range(0, len(queries), rows):
            some = ids[start:start + rows]
            cosine = torch.as_tensor(queries[start:start + rows]).to(device) @ items.T          # (b, distinct)
            cosine = cosine[:, index] if shared else cosine                                     # (b, I)
            cosine.masked_fill_(some[:, None] == tracks[None, :], -torch.inf)
            value, column = (a.cpu().numpy() for a in topk.top(cosine, min(n, len(tracks)), some, tracks, seed))
            kept = value > 0
            row = np.broadcast_to(np.arange(len(value))[:, None], kept.shape)
            blocks.append(csr_matrix((value[kept], (row[kept], column[kept])), shape=(len(value), len(tracks))))
            bar.update(len(some))
    return vstack(blocks, format="csr")


def request_of(args, name):
    """Every argument that can change the result with the embedding `name`."""
    return {"embedding": name, "neighbours": args.neighbours, "scale": args.scale, "values": args.values,
            "shuffle": args.shuffle, "missing": args.missing, "k": args.k, "seed": args.seed, "comment": args.comment}


def recommend_with(name, split, args, workdir):
    """Run one embedding."""
    import dataset
    from ranking import save
    request = request_of(args, name)
    inputs = split.inputs + dataset.embedding_inputs(workdir, name)
    with runs.Run(workdir, "content_knn", request, embedding=name, inputs=inputs, args=args) as run:
        if run.finished:
            return
        vectors = dataset.load_embedding(split, name, args.missing, shuffle=args.seed if args.shuffle else None)
        present = dataset.has_embedding(split, name) if args.missing == "mean" else None
        unit, hot = directions(vectors, args.scale, split.n_hot, present), slice(0, split.n_hot)
        history, near, scores = split.by_history(lambda part: split.history(part, args.values)), {}, {}
        for part in split.parts:
            ranked = split.candidates(part)
            key = ranked.start, ranked.stop
            if key not in near:  # val and test rank the same tracks
                near[key] = neighbours(unit[hot], unit[ranked], args.neighbours, split.tracks[hot],
                                                split.tracks[ranked], args.seed, cli.pick_device(args.device))
            scores[part] = lambda codes, played=history[part], near=near[key]: (
                played[codes] @ near).toarray()
        results = save.write(run, split, args.k, args.seed, scores=scores)
        run.finish(parts=sorted(results), dim=int(vectors.shape[1]))


# --------------------------------------------------------------------------- --like

def feature_table(workdir, name, vectors):
    """The named features of some tracks in their original units as a text frame, or None.

    vectors: (n, D); the embedding's json has `features` (D names) and, for standardised values, `mean` and `std`.
    None if it has no names, or if the three do not match the columns.
    """
    import numpy as np
    import pandas as pd

    import dataset
    info = dataset.embedding_info(workdir, name)
    facts = info if "features" in info else info.get("facts", {})
    columns = facts.get("features") if isinstance(facts, dict) else None
    if not isinstance(columns, list) or len(columns) != vectors.shape[1]:
        return None
    try:
        values = vectors * np.asarray(facts.get("std", 1), np.float64) + np.asarray(facts.get("mean", 0), np.float64)
    except (TypeError, ValueError):
        return None
    return pd.DataFrame(values, columns=columns).map("{:.4g}".format)


def print_like(name, args, workdir):
    """Print the tracks most similar to --like by one embedding, among all tracks with a finite row in it."""
    import numpy as np
    import pandas as pd

    import dataset
    from harness.metadata import find_track, read_names
    ids, checksum = dataset.read_tracks(workdir)
    names = read_names(workdir, len(ids))
    track = find_track(args.like, ids, names)
    matrix = dataset.open_embedding(workdir, name, len(ids), checksum)
    known = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if track not in known:
        raise WorkError(f"embedding {name!r} has no row for track {ids[track]}, so its neighbours are unknown; name "
                        "another track or embedding")
    unit = directions(matrix[known], args.scale)
    at = int(np.searchsorted(known, track))
    cosine = unit @ unit[at]
    order = np.lexsort((known, -cosine))
    rows = np.append(at, order[order != at][:args.show])
    table = pd.DataFrame({"cosine": [f"{c:.3f}" for c in cosine[rows]], "id": [ids[i] for i in known[rows]]})
    for column in names:
        table[column] = names[column].to_numpy()[known[rows]]
    features = feature_table(workdir, name, matrix[known[rows]])
    print(f"most similar by {name} ({args.scale} features), of {len(known)} tracks; the first row is the track itself")
    print((table if features is None else table.join(features)).to_string(index=False, max_colwidth=32))


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    names = args.names or dataset.embedding_names(workdir)
    if not names:
        raise UsageError(f"there are no embeddings in {workdir / 'embeddings'}; extract some, or name another "
                         "workspace with --workdir")
    for name in names:
        dataset.embedding_inputs(workdir, name)
    if args.like is not None:
        for name in names:
            print_like(name, args, workdir)
        return
    split, failed = dataset.load(workdir), []
    for name in names:
        try:
            recommend_with(name, split, args, workdir)
        except WorkError as e:
            if len(names) == 1:
                raise
            print(f"{name}: {e}", file=sys.stderr)
            failed.append(name)
    if failed:
        raise WorkError(f"{len(failed)} of {len(names)} embeddings failed: {', '.join(failed)}; see the errors above")


if __name__ == "__main__":
    cli.run(main)
