"""Shrinkage: an item factor learned from few plays is drawn towards what its content predicts, by how few they are.

    python -m recommenders.ials --factors 256 --regularization 60 --alpha 20
    python -m recommenders.shrinkage --embedding tags
    python -m recommenders.shrinkage --embedding tags --shrink val       or a number; --factors elsa

A factor e_i learned from the plays of n_i users is noisy where n_i is small; the prediction f(c_i) of its content is
biased and needs no plays. Both estimate one vector, and their posterior mean, were they Gaussian, is

    v_i = w(n_i) e_i + (1 - w(n_i)) f(c_i),    w(n) = n / (n + lambda)                                --of factor
    v_i = |e_i| u / |u|,   u = w(n_i) e_i / |e_i| + (1 - w(n_i)) f(c_i)                   --of direction (default)

A cold item has w = 0. By default direction and length are treated apart: content corrects the direction (f is fitted to
the directions), and the length, with which iALS says how popular an item is, stays that of the plays. A regression
shortens its predictions by what content does not explain, so a cold item gets the length that content predicts of a hot
one (--length predicted), else it would come behind hot items for the uncertainty alone. f is a weighted ridge
regression, weights like w(n_i), solved in closed form (training/ridge.py). It is fitted to all hot items, so that a hot
item's own factor is in its prediction by its leverage, and weighs that much more than w says; predictions by folds
moved NDCG@10 by .003 at most. Users are those of the factor model.

lambda (--shrink auto) comes from the leave-one-out residuals: |e_i - f(c_i)|^2 is regressed on 1 / n_i as tau^2 +
sigma^2 / n, and the distance from the weighted mean, which knows no content, as tau0^2 + sigma^2 / n. The factors have
been fitted with a prior already; what content adds to it is lambda = sigma^2 (1 / tau^2 - 1 / tau0^2), at least 0: the
ratio of the variances, less what a prior without content is worth. Content that predicts no better than the mean gives
0, and hot items then keep their factors. The estimate is cautious, as the noise of a factor falls more slowly than
1 / n. --shrink val takes the lambda of a fixed grid with the best NDCG@10 on val; with a number f is fitted with the
weights of that number, else with those of the estimated sigma^2 / tau^2.

Practical limit: as content_factors; the factors of all items and of all users in memory.
"""
from harness import cli, runs
from harness.errors import UsageError
from ranking import factors
from training import content, factor_maps, ridge

TITLE = "Shrinkage"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = {}  # given the factors that it reads
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "of": ["direction", "factor"],
    "shrink": {"log": [0.5, 100.0]},
}
GRID = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)   # of --shrink val
ROUNDS = 30       # of alternating f and lambda; the change is below 1e-3 after a handful
LARGEST = 1e6     # lambda where content predicts the factors exactly


def build_parser():
    parser = cli.Parser(prog="recommenders.shrinkage", description=__doc__)
    content.flags(parser)
    factors.flags(parser)
    parser.add_argument("--shrink", type=shrink, default="auto", metavar="FLOAT",
                        help="users at which plays and content weigh alike (lambda), or auto: estimated from the "
                             "residuals, or val: the best on val (default auto)")
    parser.add_argument("--of", choices=("direction", "factor"), default="direction",
                        help="direction draws only the direction of a factor towards its content and keeps its length; "
                             "factor draws the whole vector (default direction)")
    parser.add_argument("--length", choices=("regression", "predicted"), default="predicted",
                        help="length of the factors of cold items: as the regression gives it, or predicted by content "
                             "by itself (default predicted)")
    content.l2_flag(parser, "the regressions")
    cli.recommender_flags(parser)
    return parser


def shrink(text):
    """argparse type: auto, val, or a number of at least 0."""
    return text if text in ("auto", "val") else cli.number(0)(text)


def request_of(args):
    """Every argument that can change the result."""
    return {**content.request(args), "factors": args.factors, "shrink": args.shrink, "of": args.of,
            "length": args.length, "l2": args.l2, "k": args.k, "seed": args.seed, "comment": args.comment}


def variances(squares, plays):
    """(tau^2, sigma^2) of the least-squares line squares = tau^2 + sigma^2 / plays, neither below 0.

    squares: float64 (n,); plays: (n,) above 0. With equal plays everywhere the two cannot be distinguished, and
    sigma^2 is 0.
    """
    import numpy as np
    from scipy.optimize import nnls
    if not len(squares) or np.ptp(plays) == 0:
        return float(np.mean(squares)) if len(squares) else 0.0, 0.0
    (tau2, sigma2), _ = nnls(np.stack([np.ones(len(plays)), 1 / np.asarray(plays, np.float64)], axis=1), squares)
    return float(tau2), float(sigma2)


def estimate(features, targets, plays, l2="gcv"):
    """lambda of the residuals, and the evidence sigma^2 / tau^2 by which the fit weighs the items.

    features: float64 (n_hot, C); targets: (n_hot, D); plays: int (n_hot,). The two depend on the fit and the fit on the
    evidence, so they alternate.
    """
    import numpy as np
    known = plays > 0
    evidence = lam = 0.0
    for _ in range(ROUNDS):
        weights = factor_maps.evidence_weights(plays, evidence)
        squares = [(ridge.fit(x, targets, weights, l2).residuals[known] ** 2).sum(axis=1)
                   for x in (features, np.zeros((len(features), 1)))]
        (tau2, sigma2), (mean2, _) = (variances(s, plays[known]) for s in squares)
        before, evidence = evidence, min(sigma2 / max(tau2, 1e-12), LARGEST)
        lam = max(evidence - sigma2 / max(mean2, 1e-12), 0.0)
        if abs(evidence - before) <= 1e-3 * max(evidence, 1e-3):
            break
    return lam, evidence


class Fused:
    """Item vectors for any lambda: what the plays and what the content say of each item of a split."""

    def __init__(self, features, learned, of="direction", length="predicted", l2="gcv"):
        """features: float64 (n_items, C); learned: ranking.factors.Factors."""
        import numpy as np
        self.features, self.plays, self.l2, self.of, self.length = features, learned.plays, l2, of, length
        self.played = learned.items                                                     # e (n_hot, D)
        self.sizes = np.linalg.norm(learned.items, axis=1)                              # |e| (n_hot,)
        self.targets = learned.items if of == "factor" else factor_maps.of_length(
            learned.items, np.ones(len(learned.items)))

    def estimate(self):
        return estimate(self.features[:len(self.targets)], self.targets, self.plays, self.l2)

    def items(self, lam, evidence=None):
        """Vectors of all items, float64 (n_items, D), and facts of the fit, {name: value}.

        lam: lambda; evidence: that of the fit's weights n / (n + evidence), default lam
        """
        import numpy as np
        weights = factor_maps.evidence_weights(self.plays, lam if evidence is None else evidence)
        hot = len(self.targets)
        fit = ridge.fit(self.features[:hot], self.targets, weights, self.l2)
        predicted = fit.predict(self.features)
        own = factor_maps.evidence_weights(self.plays, lam)[:, None]                    # w (n_hot, 1)
        vectors = predicted.copy()
        vectors[:hot] = own * self.targets + (1 - own) * predicted[:hot]
        if self.of == "direction":
            vectors[:hot] = factor_maps.of_length(vectors[:hot], self.sizes)
        cold = np.append(self.plays == 0, np.ones(len(vectors) - hot, bool))
        vectors[cold] = predicted[cold]
        if self.length == "predicted" or self.of == "direction":
            wanted = factor_maps.lengths(self.features, self.played, weights, self.l2)[cold]
            if self.length == "regression":   # the share of the length that the regression of directions leaves
                wanted = wanted * np.linalg.norm(predicted[cold], axis=1)
            vectors[cold] = factor_maps.of_length(predicted[cold], wanted)
        return vectors, {"l2": fit.l2, "degrees_of_freedom": fit.dof}


def chosen_on_val(split, learned, fused, evidence, seed):
    """The lambda of GRID with the best NDCG@10 on val, and the value of each; UsageError without a val part.

    The fit is that of the estimated evidence throughout, so cold items do not depend on lambda.
    """
    import metrics
    from ranking import topk
    if "val" not in split.parts:
        raise UsageError("--shrink val needs a val part to choose on, and this split has none; give a number, or auto")
    users, values = learned.users("val"), {}
    for lam in GRID:
        preds = topk.recommend(split, "val", 10, seed, users=users, items=fused.items(lam, evidence)[0])
        values[lam] = float(metrics.evaluate(preds, split.truth("val"), (10,))["NDCG@10"].mean())
    return max(GRID, key=values.get), {f"{lam:g}": value for lam, value in values.items()}


def main(argv=None):
    args = build_parser().parse_args(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split = dataset.load(workdir)
    files = content.inputs(workdir, args)
    learned = factors.read(split, args.factors)
    inputs = [*split.inputs, *files, *learned.inputs]
    with runs.Run(workdir, "shrinkage", request_of(args), embedding="+".join(args.embedding), inputs=inputs,
                  args=args) as run:
        if run.finished:
            return
        fused = Fused(content.features(split, args), learned, args.of, args.length, args.l2)
        facts = {}
        lam, evidence = fused.estimate() if args.shrink in ("auto", "val") else (args.shrink, args.shrink)
        if args.shrink == "val":
            lam, facts["on_val"] = chosen_on_val(split, learned, fused, evidence, args.seed)
        items, fit = fused.items(lam, evidence)
        print(f"{run.name}: lambda {lam:.4g}, the users at which plays and content weigh alike")
        results = save.write(run, split, args.k, args.seed, **learned.scored(items))
        run.finish(parts=sorted(results), sources={args.factors: learned.source.run}, shrink=lam, **facts, **fit)


if __name__ == "__main__":
    cli.run(main)
