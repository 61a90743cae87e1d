"""CEASE and AddEASE: EASE with the content of the items as side information, in closed form.

    python -m recommenders.cease --embedding tags --alpha 10
    python -m recommenders.cease --embedding tags --combine additive --beta 0.8

Source: Jeunen, Van Balen and Goethals, "Closed-Form Models for Collaborative Filtering with Side-Information", RecSys
2020. With X (U, I) binary, the standardised content F (I, C) of the items played in train and
ease(G, l) = I - P / diag(P), P = (G + l I)^-1, the scores are X B with

    collective (CEASE)    B = ease(X'X + alpha F F', l2): sqrt(alpha) F' stacked below X, its rows are further users
    additive (AddEASE)    B = beta ease(X'X, l2) + (1 - beta) ease(F F', l2_side)

The column of any other item c, cold or kept by the split although nobody played it in train, is fitted to the side
information alone: B_c = (F F' + l I)^-1 F f_c with l = l2 / alpha, or l2_side. Its column of X is not zero but unknown:
put into X'X as zeros it would read "nobody plays it", and the fit would push its scores to zero wherever the history is
long (on Last.fm with tags that halves the cold NDCG@10). Where both are ranked together the columns of played items
are fitted to more than the others, and nothing calibrates their scales.

Practical limit: one dense I x I matrix over these items, inverted in place, in float64 up to 12,000 (1.2 GB) and
float32 beyond (56,512 tracks: 12.8 GB); time grows with the cube of I. What concerns F needs C x C systems only.
"""
from harness import cli, runs
from harness.errors import WorkError
from harness.machine import free_memory
from training import content
from training.gram import FLOAT64_ROWS, gram_of, inverse

TITLE = "CEASE"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = True
SEARCH_SPACE = {
    "combine": ["collective", "additive"],
    "l2": {"log": [20.0, 1000.0]},
    "alpha": {"log": [1.0, 1000.0]},
    "beta": {"uniform": [0.5, 1.0]},
    "l2_side": {"log": [0.01, 100.0]},
}


def build_parser():
    parser = cli.Parser(prog="recommenders.cease", description=__doc__)
    content.flags(parser)
    parser.add_argument("--combine", choices=("collective", "additive"), default="collective",
                        help="collective fits one model to plays and content (CEASE), additive adds one of each "
                             "(AddEASE) (default collective)")
    parser.add_argument("--l2", type=cli.number(0, above=True), default=100.0, metavar="FLOAT",
                        help="ridge penalty of the model of the plays, and of the collective one (default 100)")
    parser.add_argument("--alpha", type=cli.number(0, above=True), default=10.0, metavar="FLOAT",
                        help="weight of the content in the collective model (default 10)")
    parser.add_argument("--beta", type=cli.number(0), default=0.8, metavar="FLOAT",
                        help="weight of the model of the plays in the additive one, from 0 to 1 (default 0.8)")
    parser.add_argument("--l2-side", type=cli.number(0, above=True), default=0.1, metavar="FLOAT",
                        help="ridge penalty of the model of the content in the additive one (default 0.1)")
    parser.add_argument("--memory", type=cli.number(0, above=True), default=None, metavar="GB",
                        help="refuse what needs more than this (default: what the machine has free)")
    cli.recommender_flags(parser)
    return parser


def parse(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.beta > 1:
        parser.error(f"argument --beta: must be from 0 to 1, not {args.beta:g}")
    return args


def request_of(args):
    """Every argument that can change the result."""
    return {**content.request(args), "combine": args.combine, "l2": args.l2, "alpha": args.alpha, "beta": args.beta,
            "l2_side": args.l2_side, "k": args.k, "seed": args.seed, "comment": args.comment}


def weights(gram, l2):
    """EASE's B, (I, I), of a symmetric gram (I, I), which is overwritten: I - P / diag(P), P = (gram + l2 I)^-1."""
    import numpy as np
    result = inverse(gram, l2)
    result /= -result.diagonal().copy()
    np.fill_diagonal(result, 0.0)
    return result


class Side:
    """EASE of the content alone: items played in train by F in the closed form of rank C, all others by regression."""

    def __init__(self, features, known, l2):
        """features: float64 (n_items, C); known: bool (n_items,), items played in train; l2: relative to F F'."""
        import numpy as np
        self.features, self.known, self.played = features, known, np.flatnonzero(known)
        self.fitted = fitted = features[known]
        self.solved = np.linalg.inv(fitted.T @ fitted + l2 * np.eye(features.shape[1]))            # (C, C)

    def mapped(self, rows):
        """Histories csr (b, n_hot) by the content of their known items, (b, C): B has rows for no other ones."""
        import numpy as np
        return np.asarray(rows[:, self.played] @ self.fitted) @ self.solved

    def by_regression(self, rows, codes):
        """Scores (b, n) of histories csr (b, n_hot) for codes (n,) of other items than the known ones."""
        return self.mapped(rows) @ self.features[codes].T

    def by_ease(self, rows, codes):
        """Scores (b, n) of histories csr (b, n_hot) for codes (n,) of known items."""
        import numpy as np
        own = self.features[codes]
        products = self.mapped(rows) @ own.T
        # h P = (h - h F (F'F + l2)^-1 F') / l2 by Woodbury, and P_jj likewise; the score is h_j - (h P)_j / P_jj
        left = 1 - np.einsum("ic,ic->i", own @ self.solved, own)
        played = rows[:, codes].toarray()
        return played - (played - products) / left


def fitted(split, features, args):
    """B of the plays, or of plays and content, over the items played in train, and the Side that scores by content
    alone."""
    import numpy as np
    known = np.append(~split.unseen, np.zeros(split.n_items - split.n_hot, bool))
    matrix = split.matrix()[:, np.flatnonzero(known)]
    dtype = np.float64 if matrix.shape[1] <= FLOAT64_ROWS else np.float32
    gram = gram_of(matrix.T.tocsr().astype(dtype), dtype)
    if args.combine == "additive":
        return weights(gram, args.l2), Side(features, known, args.l2_side)
    content_of = features[known].astype(dtype)
    for start in range(0, len(gram), 1024):   # in blocks, so that no second matrix is needed
        gram[start:start + 1024] += args.alpha * (content_of[start:start + 1024] @ content_of.T)
    return weights(gram, args.l2), Side(features, known, args.l2 / args.alpha)


def scorer(history, split, part, own, side, args):
    """Function of user codes (b,) giving float32 scores (b, n) of the candidates of a part."""
    import numpy as np
    ranked = np.arange(split.n_items)[split.candidates(part)]
    known = side.known[ranked]
    played, others = ranked[known], ranked[~known]     # all items played in train, or none of them

    def scores(codes):
        rows = history[codes].astype(own.dtype)
        result = np.empty((len(codes), len(ranked)), np.float32)
        if len(others):
            result[:, ~known] = side.by_regression(rows, others)
        if len(played):
            values = rows[:, played] @ own
            if args.combine == "additive":
                values = (1 - args.beta) * side.by_ease(rows, played) + args.beta * values
            result[:, known] = values
        return result
    return scores


def check_memory(n_hot, limit_gb=None):
    """WorkError when the dense square matrix and its blocks would not fit."""
    need = n_hot * n_hot * (8 if n_hot <= FLOAT64_ROWS else 4) + 3 * 1024 * n_hot * 8
    have = free_memory() if limit_gb is None else limit_gb * 1e9
    if need > have:
        raise WorkError(f"CEASE on {n_hot} items inverts a {n_hot} x {n_hot} matrix and needs {need / 1e9:.3g} GB, but "
                        f"{have / 1e9:.3g} GB are allowed; use recommenders.shrinkage instead")


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split = dataset.load(workdir)
    inputs = [*split.inputs, *content.inputs(workdir, args)]
    with runs.Run(workdir, "cease", request_of(args), embedding="+".join(args.embedding), inputs=inputs,
                  args=args) as run:
        if run.finished:
            return
        check_memory(int((~split.unseen).sum()), args.memory)
        own, side = fitted(split, content.features(split, args), args)
        history = split.by_history(split.history)
        results = save.write(run, split, args.k, args.seed,
                             scores={part: scorer(history[part], split, part, own, side, args) for part in split.parts})
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main)
