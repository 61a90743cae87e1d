"""DropoutNet: one network for hot and cold items, trained with the factors of some items hidden.

    python -m recommenders.ials --factors 64
    python -m recommenders.dropoutnet --embedding tags
    python -m recommenders.dropoutnet --embedding vggish tags --factors elsa --dropout 0.7

Source: Volkovs, Yu and Poutanen, "DropoutNet: Addressing Cold Start in Recommender Systems", NIPS
2017. With the user factors u and item factors v of a finished run of ELSA or iALS (--factors),
which stay as they are, and the content c_i,

    minimise the mean of (f(u) . g([d v_i, c_i]) - u . v_i)^2,    d = 0 with probability --dropout,
    else 1

over the pairs of train and --negatives random items for each that the user has not played. f and g
are networks with batch normalisation and tanh, of two hidden layers (--hidden 200 100), and linear
to the dimensions of the factors. An item of train is ranked by g([v_i, c_i]), one without plays by
g([0, c_i]), both by one product with f(u); u is that of the history at the part.

The published training takes its pairs from the highest u . v of a user, and the same number at
random; here the first are the pairs of train. Users without plays, for which it drops u, do not
occur here. Factors and u . v are scaled to a root mean square of 1, and the optimiser is AdamW in
place of momentum with a falling learning rate.

Practical limit: the two networks on (1 + negatives) rows for each pair; the factors of all items
and users in memory.
"""
from harness import cli, runs
from ranking import factors
from training import content, factor_networks, network_loop, selection

TITLE = "DropoutNet"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "dropout": {"uniform": [0.1, 0.9]},
    "negatives": [1, 5, 20],
    "lr": {"log": [0.0003, 0.01]},
    "l2": {"log": [0.0001, 0.1]},
}


def build_parser():
    parser = cli.Parser(prog="recommenders.dropoutnet", description=__doc__)
    content.flags(parser)
    factor_networks.flags(parser, [200, 100], lr=0.001, batch_size=256, epochs=100, patience=7)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    return factor_networks.parsed(build_parser(), argv)


def request_of(args):
    """Every argument that can change the result."""
    return factor_networks.request(args)


def build(columns, rank, sizes, seed):
    """Both towers at their start; columns: C of the content; rank: D of the factors."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    return nn.ModuleDict({"user": factor_networks.tower(rank, sizes, rank),
                          "item": factor_networks.tower(rank + columns, sizes, rank)})


class Training(factor_networks.Training):
    """The squared error of the factors' own scores."""

    def item_outputs(self, rows, hidden):
        import torch
        given = self.frozen.items[rows] * ~hidden[:, None]
        return self.network["item"](torch.cat([given, self.frozen.content[rows]], 1))

    def loss_with(self, users, items, hidden):
        scores = self.scores(users, self.item_outputs(items.reshape(-1), hidden.reshape(-1)))
        return (scores - self.frozen.target(users, items)).square().mean()


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = content.inputs(workdir, args)
    learned = factors.read(split, args.factors)
    with runs.Run(workdir, "dropoutnet", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), args=args,
                  inputs=[*split.inputs, *files, *learned.inputs]) as run:
        if run.finished:
            return
        frozen = factor_networks.Frozen(learned, content.features(split, args), device)
        network = build(frozen.content.shape[1], frozen.items.shape[1], args.hidden, args.seed)
        training = Training(network.to(device), split, frozen,
                            cli.settings(network_loop.Settings, args), args)
        factor_networks.rank(run, training, args, learned.source.run)


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
