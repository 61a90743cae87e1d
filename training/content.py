"""Content features of the items, one embedding or several side by side: flags, request, files and matrix.

    content.flags(parser)
    features = content.features(split, args)      # float64 (n_items, D)

Each column is standardised over the hot items (mean 0, standard deviation 1; constant ones are 0), and each embedding
is divided by the root of its columns that vary, so that none weighs more for having more columns.
"""
from harness import cli
from harness.errors import UsageError

FLAT = 1e-6   # spread of a column, relative to its largest value, that is within the rounding of float32


def flags(parser, skip=False):
    """Add --embedding, --shuffle and --missing to a parser; skip: a track may lack one of several embeddings."""
    parser.add_argument("--embedding", nargs="+", metavar="NAME",
                        help="embeddings of the workspace that are the content, side by side (needed)")
    parser.add_argument("--shuffle", action="store_true",
                        help="permute the rows of the embeddings by --seed (the shuffled control)")
    parser.add_argument("--missing", choices=("fail", "mean", "skip") if skip else ("fail", "mean"), default="fail",
                        help="tracks without an embedding: fail stops with an error, mean fills in the mean embedding"
                             + (", skip does without it where the track has another" if skip else "")
                             + " (default fail)")


def l2_flag(parser, what):
    """Add --l2 of a ridge regression; what: which one."""
    parser.add_argument("--l2", type=penalty, default="gcv", metavar="FLOAT",
                        help=f"ridge penalty of {what}, or gcv: the minimum of the generalised cross-validation error "
                             "(default gcv)")


def evidence_flag(parser):
    """Add --evidence of a fit on items that counts those with many plays more (factor_maps.evidence_weights)."""
    parser.add_argument("--evidence", type=cli.number(0), default=10.0, metavar="FLOAT",
                        help="users at which an item has half its weight in the fit on content; 0 weighs all alike "
                             "(default 10)")


def penalty(text):
    """argparse type: gcv, or a number above 0."""
    return text if text == "gcv" else cli.number(0, above=True)(text)


def request(args):
    """The entries of a run's request that these flags make."""
    return {"embedding": args.embedding, "shuffle": args.shuffle, "missing": args.missing}


def check(args):
    """UsageError without an embedding, or with the same one twice."""
    if not args.embedding:
        raise UsageError("--embedding is needed: name one or more embeddings of the workspace")
    twice = sorted({name for name in args.embedding if args.embedding.count(name) > 1})
    if twice:
        raise UsageError(f"--embedding names {twice[0]} twice; name each embedding once")


def inputs(workdir, args):
    """The files that determine the features, [Input]; UsageError for an unknown embedding."""
    import dataset
    return [file for name in args.embedding for file in dataset.embedding_inputs(workdir, name)]


def features(split, args):
    """Standardised features of the split's items, float64 (n_items, D), row i = item i."""
    import numpy as np

    import dataset
    seed = args.seed if args.shuffle else None
    return np.hstack([standardise(dataset.load_embedding(split, name, args.missing, seed), slice(split.n_hot))
                      for name in args.embedding])


def unscaled(split, args):
    """The embeddings as they are, side by side, float64 (n_items, D): what some published codes read."""
    import numpy as np

    import dataset
    seed = args.seed if args.shuffle else None
    return np.hstack([dataset.load_embedding(split, name, args.missing, seed) for name in args.embedding]).astype(
        np.float64)


def network_input(features, n_hot, device="cpu"):
    """Features as a network reads them, float32 (n_items, D) on the device: scaled to variance 1 over the hot items,
    from which a network starts best; the weights of several embeddings stay in proportion."""
    import torch
    spread = max(float(features[:n_hot].std()), FLAT)
    return torch.as_tensor(features / spread, dtype=torch.float32).to(device)


def standardise(vectors, rows):
    """One embedding (n_items, D) with the mean and deviation of some of its rows taken out, float64.

    rows: what indexes those, such as slice(n_hot); at least one. They have mean square length 1, a constant column is
    0; all rows equal give zeros.
    """
    import numpy as np
    x = np.asarray(vectors, np.float64)
    size = np.abs(x[rows]).max(axis=0)
    x = x - x[rows].mean(axis=0)
    spread = x[rows].std(axis=0)
    varies = spread > FLAT * size
    scale = np.where(varies, spread, 1.0) * np.sqrt(max(varies.sum(), 1))
    return np.where(varies, x / scale, 0.0)
