"""Content to factors: predict the item factors of ELSA or iALS from content, and rank by the predictions.

    python -m recommenders.ials --factors 256 --regularization 60 --alpha 20
    python -m recommenders.content_factors --embedding tags
    python -m recommenders.content_factors --embedding vggish tags --factors elsa --map mlp

The factors e_i of a finished run (--factors) are frozen, and a map f is fitted to them on the train items:

    minimise  sum of w_i |e_i - f(c_i)|^2 + l2 |B|^2,    w_i = n_i / (n_i + evidence)

with the content c_i and the n_i users of an item in train. --map ridge (default) is linear with an intercept and solved
in closed form; --map mlp is the network of van den Oord, Dieleman and Schrauwen, "Deep content-based music
recommendation", NIPS 2013, as it is used as a baseline today (C -> C, ReLU, -> D), stopped early on a held-out tenth of
the items. Every item is ranked by its predicted factor, hot ones too, with the user vectors of the factor model. A hot
item is predicted by a fit on other items, in ten folds, so what its own plays say beyond its content is not used
(recommenders.shrinkage uses both).

--length predicted keeps the direction of a prediction and takes its length from a regression of the lengths on
content. In cold parts it is a second estimate of how popular an item will be.

Practical limit: ridge, an eigendecomposition of C x C; memory 8 bytes x tracks x (C + D); the mlp is trained ten times.
"""
from harness import cli, runs
from harness.progress import Progress
from ranking import factors
from training import content, factor_maps

TITLE = "Content to factors"
NEEDS = ("embedding",)
COLD = True
DETERMINISTIC = {"map": "ridge"}  # given the factors that it reads
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "evidence": {"log": [1.0, 100.0]},
    "length": ["regression", "predicted"],
}


def build_parser():
    parser = cli.Parser(prog="recommenders.content_factors", description=__doc__)
    content.flags(parser)
    factors.flags(parser)
    parser.add_argument("--map", choices=("ridge", "mlp"), default="ridge",
                        help="function from content to factors: linear in closed form, or a multilayer perceptron "
                             "(default ridge)")
    content.evidence_flag(parser)
    parser.add_argument("--length", choices=("regression", "predicted"), default="regression",
                        help="length of a predicted factor: as the map gives it, or predicted by content by itself "
                             "(default regression)")
    content.l2_flag(parser, "the ridge regressions")
    group = parser.add_argument_group("multilayer perceptron")
    group.add_argument("--lr", type=cli.learning_rate, default=0.001, metavar="FLOAT",
                       help="learning rate of Adam (default 0.001)")
    group.add_argument("--epochs", type=cli.positive, default=500, metavar="N",
                       help="largest number of epochs (default 500)")
    group.add_argument("--patience", type=cli.positive, default=15, metavar="N",
                       help="epochs without a smaller error on the held-out items before training stops (default 15)")
    group.add_argument("--batch-size", type=cli.positive, default=256, metavar="N",
                       help="items per training step (default 256)")
    cli.recommender_flags(parser, device=True)
    return parser


def request_of(args):
    """Every argument that can change the result."""
    return {**content.request(args), "factors": args.factors, "map": args.map, "evidence": args.evidence,
            "length": args.length, "l2": args.l2, "lr": args.lr, "epochs": args.epochs, "patience": args.patience,
            "batch_size": args.batch_size, "k": args.k, "seed": args.seed, "comment": args.comment}


def predicted_items(run, features, learned, args, device):
    """Predicted factors, float64 (n_items, D), and what the manifest says of them."""
    weights = factor_maps.evidence_weights(learned.plays, args.evidence)
    if args.map == "ridge":
        items, fit = factor_maps.by_ridge(features, learned.items, weights, args.l2)
        facts = {"l2": fit.l2, "degrees_of_freedom": fit.dof}
    else:
        with Progress(args.epochs, "content_factors", "epochs", quiet=True) as bar:
            def log(epoch, train, held):
                run.writer().add_scalar("Loss/train", train, epoch)
                run.writer().add_scalar("Loss/held-out", held, epoch)
                bar.update(1, loss=f"{held:.4f}")
            items, epochs = factor_maps.by_mlp(features, learned.items, weights,
                                               cli.settings(factor_maps.Settings, args), device, log)
        facts = {"epochs": epochs}
    if args.length == "predicted":
        items = factor_maps.of_length(items, factor_maps.lengths(features, learned.items, weights, args.l2))
    return items, facts


def main(argv=None):
    args = build_parser().parse_args(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = content.inputs(workdir, args)
    learned = factors.read(split, args.factors)
    inputs = [*split.inputs, *files, *learned.inputs]
    with runs.Run(workdir, "content_factors", request_of(args), embedding="+".join(args.embedding), inputs=inputs,
                  args=args) as run:
        if run.finished:
            return
        items, facts = predicted_items(run, content.features(split, args), learned, args, device)
        results = save.write(run, split, args.k, args.seed, **learned.scored(items))
        run.finish(parts=sorted(results), sources={args.factors: learned.source.run}, **facts)


if __name__ == "__main__":
    cli.run(main)
