"""Semantic IDs: an embedding of the workspace quantised level by level, as a representation of its own.

    python extract_item_embeddings/rq.py musicnn [--levels 3] [--codes 512] [--workdir DIR]

The vectors of all tracks are standardised by column, brought to --dim dimensions by PCA where they have more, and
quantised by residual k-means (faiss): each level has --codes centroids, and each further level quantises what the
levels before it left. A track's semantic ID is its centroid of each level; its vector, in embeddings/NAME-rq.npy, is
their sum. embeddings/NAME-rq_codes.pqt has the IDs (track_id, code_1, ...). Tracks without a vector have no ID.

As frozen side information of a sequence model (Singh et al., "Better Generalization with Semantic IDs", RecSys 2024;
in music, arXiv 2507.18800), the sum stands beside a trained ID vector:

    python -m recommenders.sasrec musicnn-rq --fusion concat
"""
if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports begin
    import sys
    from pathlib import Path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import harness.environment  # noqa: F401 (a missing package ends in one sentence)

from argparse import ArgumentTypeError

import numpy as np

from extract_item_embeddings.engine import derived
from harness import cli
from harness.errors import WorkError
from harness.files import write_parquet


def parser():
    p = cli.Parser(description=__doc__)
    add = p.add_argument
    add("embedding", metavar="EMBEDDING", help="embedding of the workspace that is quantised")
    add("--levels", type=cli.positive, default=3, metavar="N", help="levels, one code of a track each (default 3)")
    add("--codes", type=codes, default=512, metavar="N",
        help="centroids of a level, a power of 2 from 2 to 65536 (default 512)")
    add("--dim", type=cli.positive, default=128, metavar="N",
        help="dimensions to which a wider embedding is brought by PCA before (default 128)")
    add("--name", metavar="NAME", help="name of the output (default: that of the embedding and -rq)")
    cli.common_flags(p)
    return p


def codes(text):
    """argparse type: a power of 2 from 2 to 65536."""
    number = cli.positive(text)
    if number & (number - 1) or not 2 <= number <= 65536:
        raise ArgumentTypeError(f"must be a power of 2 from 2 to 65536, not {number}")
    return number


def prepared(vectors, dim):
    """Vectors (n, D) standardised by column, float32 (n, min(dim, n, D)); a constant column is 0."""
    x = derived.standardised(vectors)
    if x.shape[1] > dim:
        from sklearn.decomposition import PCA
        x = PCA(min(dim, *x.shape), random_state=0).fit_transform(x)
    return np.ascontiguousarray(x, np.float32)


def quantise(x, levels, codes, seed):
    """Codes int64 (n, levels) and sums of centroids float32 (n, D) of x float32 (n, D), n at least `codes`."""
    import faiss
    bits = codes.bit_length() - 1
    quantiser = faiss.ResidualQuantizer(x.shape[1], levels, bits)
    quantiser.max_beam_size = 1          # each level takes the nearest centroid: plain residual k-means
    quantiser.train_type = faiss.ResidualQuantizer.Train_default
    quantiser.cp.seed = seed % (1 << 31)
    quantiser.cp.min_points_per_centroid = 1   # the variance that is left is printed; no warning for each k-means
    quantiser.train(x)
    packed = quantiser.compute_codes(x)
    return faiss.unpack_bitstrings(packed, levels, bits).astype(np.int64), quantiser.decode(packed)


class Quantised(derived.Source):
    """The sums of the centroids, and the codes."""

    def __init__(self, workdir, args):
        super().__init__(workdir, args.embedding)
        if len(self.rows) < args.codes:
            most = 1 << len(self.rows).bit_length() - 1 if len(self.rows) > 1 else 0
            remedy = f"give --codes {most} or fewer" if most else "there is nothing to quantise"
            raise WorkError(f"{self.path} has vectors of {len(self.rows)} tracks, fewer than the {args.codes} "
                            f"centroids of a level; {remedy}")
        x = prepared(self.own, args.dim)
        self.codes, self.vectors = quantise(x, args.levels, args.codes, args.seed)
        total = float((x ** 2).sum())
        self.left = float(((x - self.vectors) ** 2).sum()) / total if total else 0.0

    def about(self):
        return {"distinct_ids": len(np.unique(self.codes, axis=0)), "variance_left": self.left}


def write_codes(path, source):
    """The semantic IDs: track_id (row of trackid_sorted.csv) and a code of each level."""
    import pandas as pd
    levels = {f"code_{level + 1}": column for level, column in enumerate(source.codes.T)}
    write_parquet(path, pd.DataFrame({"track_id": source.rows, **levels}))


def main(argv=None):
    args = parser().parse_args(argv)
    workdir = cli.workspace(args)
    name = args.name or f"{args.embedding}-rq"
    request = {"backend": "rq", "levels": args.levels, "codes": args.codes, "dim_before": args.dim, "seed": args.seed}

    def opened():
        source = Quantised(workdir, args)
        print(f"{name}: {args.levels} levels of {args.codes} codes give {source.about()['distinct_ids']} distinct IDs "
              f"to {len(source.rows)} tracks and leave {source.left:.1%} of the variance")
        return source
    derived.make(workdir, name, args.embedding, request, opened, args.overwrite, ("faiss-cpu",),
                 {"_codes.pqt": write_codes})


if __name__ == "__main__":
    cli.run(main)
