"""Heater: a mixture of experts makes factors from content, which replace those of some items.

    python -m recommenders.ials --factors 64
    python -m recommenders.heater --embedding tags
    python -m recommenders.heater --embedding vggish tags --factors elsa --experts 7

Source: Zhu, Sefati, Saadatpanah and Caverlee, "Recommendation for New Users and New Items via
Randomized Training and Mixture-of-Experts Transformation", SIGIR 2020. With the user factors u and
item factors v of a finished run of ELSA or iALS (--factors), which stay as they are, and the
content c_i, minimise the mean over pairs of

    (g(u) . h(v_i') - y)^2 + alpha |f(c_i) - v_i|^2 / mean |v|^2,
    v_i' = f(c_i) with probability --dropout, else v_i;
    f(c) = tanh(sum of tanh(gate_k . c) tanh(E_k c), k = 1 ... experts)

where y is 1 for the pairs of train and 0 for --negatives random items for each that the user has
not played, and g, h are networks of a hidden layer with batch normalisation and tanh. An item of
train is ranked by h(v_i), one without plays by h(f(c_i)), both by one product with g(u); u is that
of the history at the part.

The published code sums the second term over the pairs of a step and the dimensions, so that what
--alpha means depends on both; here it is a share of the factors' mean square. v is scaled so that
nearly all of its values are within the range of tanh, and the optimiser is AdamW in place of
momentum with a falling learning rate.

Practical limit: experts x C x D weights, applied to (1 + negatives) rows for each pair; the factors
of all items and users in memory.
"""
from harness import cli, runs
from ranking import factors
from training import content, factor_networks, network_loop, selection

TITLE = "Heater"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "alpha": {"log": [0.1, 20.0]},
    "dropout": {"uniform": [0.1, 0.9]},
    "experts": [5, 6, 7],
    "lr": {"log": [0.0003, 0.01]},
}
SPREAD = 1 / 3   # root mean square of the factors beside f(c): three of it are the range of tanh


def build_parser():
    parser = cli.Parser(prog="recommenders.heater", description=__doc__)
    content.flags(parser)
    parser.add_argument("--experts", type=cli.positive, default=5, metavar="N",
                        help="linear maps of the content that are mixed (default 5)")
    parser.add_argument("--alpha", type=cli.number(0), default=1.0, metavar="FLOAT",
                        help="weight of the distance between a factor and what content makes of it "
                             "(default 1)")
    factor_networks.flags(parser, [200], lr=0.001, batch_size=256, epochs=100, patience=7)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    return factor_networks.parsed(build_parser(), argv)


def request_of(args):
    """Every argument that can change the result."""
    return factor_networks.request(args, ("experts", "alpha"))


def build(columns, rank, sizes, experts, seed):
    """All layers at their start; columns: C of the content; rank: D of the factors."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    return nn.ModuleDict({"user": factor_networks.tower(rank, sizes, rank),
                          "item": factor_networks.tower(rank, sizes, rank),
                          "gate": nn.Linear(columns, experts),
                          "experts": nn.Linear(columns, experts * rank)})


class Training(factor_networks.Training):
    """The squared error of played and not, and that of the factors that content makes."""

    def mixed(self, rows):
        """f(c) of item codes (m,): (m, D)."""
        content_of = self.frozen.content[rows]
        gates = self.network["gate"](content_of).tanh()                               # (m, experts)
        experts = self.network["experts"](content_of).tanh().view(*gates.shape, -1)   # (m, experts, D)
        return (gates[..., None] * experts).sum(1).tanh()

    def item_outputs(self, rows, hidden):
        return self.outputs(rows, hidden, self.mixed(rows))

    def outputs(self, rows, hidden, made):
        """h(v') of item codes (m,), with `made`, their f(c) (m, D), where the factor is hidden."""
        import torch
        factor_of = self.frozen.items[rows] * SPREAD
        return self.network["item"](torch.where(hidden[:, None], made, factor_of))

    def loss_with(self, users, items, hidden):
        rows = items.reshape(-1)
        made = self.mixed(rows)
        scores = self.scores(users, self.outputs(rows, hidden.reshape(-1), made))
        played = scores.new_zeros(scores.shape)
        played[:, 0] = 1
        distance = (made / SPREAD - self.frozen.items[rows]).square().mean()
        return (scores - played).square().mean() + self.options.alpha * distance


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = content.inputs(workdir, args)
    learned = factors.read(split, args.factors)
    with runs.Run(workdir, "heater", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), args=args,
                  inputs=[*split.inputs, *files, *learned.inputs]) as run:
        if run.finished:
            return
        frozen = factor_networks.Frozen(learned, content.features(split, args), device)
        network = build(frozen.content.shape[1], frozen.items.shape[1], args.hidden,
                        args.experts, args.seed)
        training = Training(network.to(device), split, frozen,
                            cli.settings(network_loop.Settings, args), args)
        factor_networks.rank(run, training, args, learned.source.run)


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
