"""Networks of content and the frozen factors of a finished run, trained on the pairs of train.

    class Towers(factor_networks.Training):
        def item_outputs(self, rows, hidden): ...
        def loss_with(self, users, items, hidden): ...

    frozen = factor_networks.Frozen(learned, features, device)
    training = Towers(network, split, frozen, cli.settings(network_loop.Settings, args), args)
    factor_networks.rank(run, training, args, source)

A network has a tower for users, which reads U, and one for items, whose factors V are hidden in a
random share of the pairs of a step, as those of a cold item are in prediction. The score is the dot
product of their outputs.
"""
from harness import cli
from ranking import factors
from training import content, network_loop, pair_loop, selection

BLOCK = 8192   # rows of a tower in prediction


def flags(parser, sizes, **training):
    """Add --factors, --dropout, --negatives, --hidden and those of the training.

    sizes: the default of --hidden
    """
    factors.flags(parser)
    parser.add_argument("--dropout", type=cli.number(0), default=0.5, metavar="FLOAT",
                        help="share of the pairs of a step in which the item's factor is hidden, from 0 "
                             "to 1 (default 0.5)")
    parser.add_argument("--negatives", type=cli.positive, default=5, metavar="N",
                        help="negatives of each pair (default 5)")
    parser.add_argument("--hidden", type=cli.positive, nargs="+", default=sizes, metavar="N",
                        help="widths of the hidden layers of both towers (default "
                             f"{' '.join(map(str, sizes))})")
    network_loop.flags(parser, "pairs", **training)


def parsed(parser, argv):
    """The arguments of a command line, checked."""
    args = parser.parse_args(argv)
    if args.dropout > 1:
        parser.error(f"argument --dropout: must be from 0 to 1, not {args.dropout:g}")
    selection.settle(args)
    return args


def request(args, own=()):
    """Every argument that can change the result; own: names of the method's other options."""
    names = ("factors", "dropout", "negatives", "hidden", *own, "k", "seed", "comment")
    return selection.requested({**content.request(args), **network_loop.request(args),
                                **{name: getattr(args, name) for name in names}}, {})


# --------------------------------------------------------------------------- what a network reads

def root_mean_square(values):
    """Of all entries of an array, at least 1e-12."""
    import numpy as np
    return max(float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0, 1e-12)


class Frozen:
    """Factors and content as a network reads them, float32, of root mean square 1.

    items: V (n_items, D), 0 where an item has no play in train, and known: bool (n_items,), whether
    it has one; users: {part: U (U, D)} by the history at the part, of `train` too; content:
    (n_items, C); target(users, items): u.v
    """

    def __init__(self, learned, features, device):
        import numpy as np
        import torch
        split = learned.split

        def tensor(array, scale):
            return torch.as_tensor(array / scale, dtype=torch.float32).to(device)
        known = np.append(learned.plays > 0, np.zeros(split.n_items - split.n_hot, bool))
        table = np.zeros((split.n_items, learned.items.shape[1]))
        table[:split.n_hot] = learned.items
        users = learned.users("train")
        pairs = np.einsum("pd,pd->p", users[split.train.user], learned.items[split.train.item])
        sizes = root_mean_square(users), root_mean_square(table[known])
        self.known, self.items = torch.from_numpy(known).to(device), tensor(table, sizes[1])
        self.users = split.by_history(lambda part: tensor(learned.users(part), sizes[0]),
                                      ("train", *split.parts))
        self.content = content.network_input(features, split.n_hot, device)
        self.scale = sizes[0] * sizes[1] / root_mean_square(pairs)

    def target(self, users, items):
        """u.v of pairs (b,) and (b, n), with root mean square 1 over the pairs of train: (b, n)."""
        return (self.users["train"][users][:, None] * self.items[items]).sum(2) * self.scale


def tower(columns, sizes, outputs):
    """Linear, batch normalisation and tanh for each of the sizes, then linear to the outputs."""
    from torch import nn
    layers = []
    for size in sizes:
        layers += [nn.Linear(columns, size), nn.BatchNorm1d(size), nn.Tanh()]
        columns = size
    return nn.Sequential(*layers, nn.Linear(columns, outputs))


# --------------------------------------------------------------------------- the training

class Training(pair_loop.Training):
    """A training of two towers; network["user"] is the one of users.

    frozen: a Frozen; options: has dropout and negatives
    """

    def __init__(self, network, split, frozen, settings, options):
        super().__init__(network, split, settings, options.negatives)
        self.split, self.frozen, self.options = split, frozen, options

    def item_outputs(self, rows, hidden):
        """Output vectors (m, D') of item codes (m,); hidden: bool (m,), whose factors are unused."""
        raise NotImplementedError

    def loss_with(self, users, items, hidden):
        """The loss of users (b,) and items (b, 1 + negatives); hidden: bool, like the items."""
        raise NotImplementedError

    def drawn(self, items, draw):
        import torch
        return (torch.rand(items.shape, generator=draw).to(self.device) < self.options.dropout,)

    def scores(self, users, outputs):
        """Of users (b,) with the outputs of their items (b n, D'), user by user: (b, n).

        Each pair is a row of both towers, so that a training batch has at least two.
        """
        rows = self.frozen.users["train"][users.repeat_interleave(len(outputs) // len(users))]
        return (self.network["user"](rows) * outputs).sum(1).view(len(users), -1)

    def user_vectors(self, part):
        """(U, D') of all users by the history at a part, float32, without gradients."""
        import torch
        with torch.no_grad():
            return torch.cat([self.network["user"](rows)
                              for rows in self.frozen.users[part].split(BLOCK)])

    def item_vectors(self):
        """(n_items, D') of all items, those without plays in train without their factors."""
        import torch
        with torch.no_grad():
            codes = torch.arange(len(self.frozen.items), device=self.device)
            return torch.cat([self.item_outputs(rows, ~self.frozen.known[rows])
                              for rows in codes.split(BLOCK)])


def rank(run, training, args, source):
    """Train, write all lists and finish the run; source: the run that has the factors."""
    from ranking import save
    split = training.split

    def ranker(part):
        return {"users": training.user_vectors(part), "items": training.item_vectors(),
                "device": training.device}
    network_loop.fit(run, training, split, args, ranker, selection.BOTH)
    users = split.by_history(training.user_vectors)
    results = save.write(run, split, args.k, args.seed, users=users,
                         items=training.item_vectors(), device=training.device)
    run.finish(parts=sorted(results), sources={args.factors: source}, epochs=training.epoch,
               **training.stopping.selected())
