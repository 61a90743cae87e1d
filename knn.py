"""KNN on frozen embeddings: a user is the mean embedding of the played tracks; the nearest tracks are recommended.

    python knn.py                       all embeddings of the workspace
    python knn.py musicnn mfcc --center

Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2. The similarity is the cosine; nothing is trained.
"""
import sys

from harness import cli, runs
from harness.errors import UsageError, WorkError

TITLE = "KNN"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = True
SEARCH_SPACE = {"center": [True, False], "unit": [True, False], "weight": ["binary", "count"]}


def build_parser():
    parser = cli.Parser(prog="knn.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="embeddings of the workspace (default: all)")
    parser.add_argument("--center", action="store_true",
                        help="subtract the mean embedding of the train tracks first (default: off)")
    parser.add_argument("--unit", action="store_true",
                        help="scale the tracks' embeddings to length 1 before averaging (default: off)")
    parser.add_argument("--weight", choices=("binary", "count"), default="binary",
                        help="weight of a track in the user's mean: 1, or its plays (default binary)")
    parser.add_argument("--shuffle", action="store_true",
                        help="permute the rows of the embedding by --seed (the shuffled control)")
    parser.add_argument("--missing", choices=("fail", "mean"), default="fail",
                        help="tracks without an embedding: fail stops with an error, mean fills in the mean embedding "
                             "(default fail)")
    parser.add_argument("--as-published", action="store_true",
                        help="reproduce the defect of the journal version: user means of the wrong rows (default: off)")
    cli.recommender_flags(parser, device=True)
    return parser


def user_vectors(history, vectors):
    """Mean embedding of each user's played tracks.

    history: csr float32 (U, n_hot), the weight of each played track; vectors: float32 (n_items, D)
    returns: float32 (U, D); a user without plays is a zero row
    """
    import numpy as np
    total = np.asarray(history.sum(axis=1))
    return np.asarray(history @ vectors[:history.shape[1]]) / np.maximum(total, 1e-12)


def unit(vectors):
    """Rows scaled to length 1; a zero row stays zero, so that its cosines are 0 and not NaN."""
    import numpy as np
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))[:, None]  # squares overflow float32
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0, casting="same_kind")


def prepared(vectors, present, n_hot, center, normed):
    """The vectors (n_items, D) that are averaged and compared, float32.

    present: bool (n_items,), the items that have a vector of their own, or None where all have. center takes the mean
    of the first n_hot out, after which an item without one is 0 and has no direction: what rounding leaves of it is no
    content. normed scales rows to length 1.
    """
    if center:
        vectors = vectors - vectors[:n_hot].mean(axis=0, dtype="float64").astype("float32")
        if present is not None:
            vectors[~present] = 0
    return unit(vectors) if normed else vectors


def request_of(args, name):
    """Every argument that can change the result with the embedding `name`."""
    return {"embedding": name, "k": args.k, "center": args.center, "unit": args.unit, "weight": args.weight,
            "shuffle": args.shuffle, "missing": args.missing, "comment": args.comment,
            "as_published": args.as_published, "seed": args.seed}


def recommend_with(name, split, args, workdir):
    """Run one embedding, as `{name}_cosine` (extended by the settings that differ from the defaults)."""
    import numpy as np

    import dataset
    from ranking import save
    request = request_of(args, name)
    inputs = split.inputs + dataset.embedding_inputs(workdir, name)
    with runs.Run(workdir, "knn", request, embedding=name, inputs=inputs, args=args,
                  name=run_name(name, request)) as run:
        if run.finished:
            return
        vectors = dataset.load_embedding(split, name, args.missing, shuffle=args.seed if args.shuffle else None)
        present = dataset.has_embedding(split, name) if args.missing == "mean" else None
        vectors = prepared(vectors, present, split.n_hot, args.center, args.unit)
        profile = vectors
        if args.as_published:  # item codes used as row indices of the matrix in track order
            profile = dataset.open_embedding(workdir, name)[:split.n_hot]
            if lacking := int((~np.isfinite(profile).all(axis=1)).sum()):
                raise WorkError(f"--as-published reads the first {split.n_hot} rows of {name} as the tracks of train, "
                                f"and {lacking} of these have no vector; leave it out, or extract all tracks")
        users = split.by_history(lambda part: unit(user_vectors(split.history(part, args.weight), profile)))
        results = save.write(run, split, args.k, args.seed, users=users, items=unit(vectors),
                             device=cli.pick_device(args.device))
        run.finish(parts=sorted(results), dim=int(vectors.shape[1]))


def run_name(name, request):
    """Name of the run: the published `{embedding}_cosine` for the default request.

    Settings that differ from the defaults are appended with a hash of the request, as is an embedding's name that
    is changed by runs.slug.
    """
    default = {a.dest: a.default for a in build_parser()._actions}
    differing = {k: v for k, v in request.items() if k != "embedding" and v != default.get(k)}
    if not differing and runs.slug(name) == name:
        return f"{name}_cosine"
    words = ["shuffled" if k == "shuffle" else k if v is True else f"{k}-{v}" for k, v in sorted(differing.items())]
    return "_".join([runs.slug(name), "cosine", *map(runs.slug, words), runs.request_hash(request)])


def main(argv=None):
    args = build_parser().parse_args(argv)
    workdir = cli.workspace(args)
    import dataset
    names = args.names or dataset.embedding_names(workdir)
    if not names:
        raise UsageError(f"there are no embeddings in {workdir / 'embeddings'}; extract some, or name another "
                         "workspace with --workdir")
    for name in names:
        dataset.embedding_inputs(workdir, name)
    if args.as_published and (args.center or args.unit or args.shuffle):
        raise UsageError("--as-published does not apply with --center, --unit or --shuffle, as it uses the embedding "
                         "unchanged; leave them out")
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
