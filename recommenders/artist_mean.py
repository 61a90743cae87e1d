"""Artist mean: the factor of a track is the mean of its artist's other tracks; content where the artist is new.

    python -m recommenders.ials --factors 64
    python -m recommenders.artist_mean --embedding musicnn
    python -m recommenders.artist_mean --embedding musicnn --factors elsa

With the item factors e_j of a finished run of ELSA or iALS (--factors) and the tracks of train,

    v_i = mean of e_j over the tracks j != i that share an artist with i

where `artists` (or `artist`) of items.pqt names them; a track that shares two artists counts twice. A track whose
artists have no other track in train, and one without an artist, is its content: the prediction of a ridge regression of
the factors on content, of a hot track by other tracks, as in recommenders.content_factors. Hot tracks are scored in the
same way, without their own factor, so that hot and cold ones compete. Users are those of the factor model. A mean is
shorter than what it is a mean of, and so is a prediction: by default (--length predicted) an artist's mean gets the
mean length of its tracks, and content the length that content predicts.

It is the strong simple baseline of cold start in music ("artist mean" in ACARec, UMAP 2026, arXiv 2604.07090). It is
refused where it says nothing: without artists, with one artist only, and where no artist has two tracks, as where the
items are artists themselves (lastfm, lastfm-audio).

Practical limit: sparse products over the tracks of an artist; the memory of the factors.
"""
from harness import cli, runs
from ranking import factors
from training import artists as track_artists
from training import content, factor_maps

TITLE = "Artist mean"
NEEDS = ("embedding", "features")
COLD = True
DETERMINISTIC = True
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "evidence": {"log": [1.0, 100.0]},
    "length": ["predicted", "mean"],
}


def build_parser():
    parser = cli.Parser(prog="recommenders.artist_mean", description=__doc__)
    content.flags(parser)
    factors.flags(parser)
    content.evidence_flag(parser)
    parser.add_argument("--length", choices=("predicted", "mean"), default="predicted",
                        help="length of the factors: that of the artist's tracks and that which content predicts, or "
                             "as the mean and the regression leave it (default predicted)")
    content.l2_flag(parser, "the regressions")
    cli.recommender_flags(parser)
    return parser


def request_of(args):
    """Every argument that can change the result."""
    return {**content.request(args), "factors": args.factors, "evidence": args.evidence, "length": args.length,
            "l2": args.l2, "k": args.k, "seed": args.seed, "comment": args.comment}


def item_vectors(features, artists, learned, args):
    """Vectors of all items, float64 (n_items, D), and the number of tracks in each mean, int64 (n_items,)."""
    import numpy as np
    weights = factor_maps.evidence_weights(learned.plays, args.evidence)
    predicted, _ = factor_maps.by_ridge(features, learned.items, weights, args.l2)
    mean, count = track_artists.means(artists, learned.items, learned.plays > 0)
    vectors = np.where(count[:, None] > 0, mean, predicted)
    if args.length == "predicted":
        vectors = factor_maps.of_length(vectors, track_artists.lengths(artists, features, learned, weights, args.l2))
    return vectors, count


def main(argv=None):
    args = build_parser().parse_args(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from harness.inputs import hashed
    from ranking import save
    split = dataset.load(workdir)
    files = content.inputs(workdir, args)
    artists = track_artists.artists_of(split, "artist_mean")
    learned = factors.read(split, args.factors)
    inputs = [*split.inputs, *files, *learned.inputs, hashed(workdir / "items.pqt")]
    with runs.Run(workdir, "artist_mean", request_of(args), embedding="+".join(args.embedding), inputs=inputs,
                  args=args) as run:
        if run.finished:
            return
        items, count = item_vectors(content.features(split, args), artists, learned, args)
        results = save.write(run, split, args.k, args.seed, **learned.scored(items))
        new = {part: int((count[split.candidates(part)] == 0).sum()) for part in split.parts}
        run.finish(parts=sorted(results), sources={args.factors: learned.source.run}, tracks_by_content=new)


if __name__ == "__main__":
    cli.run(main)
