"""CLCRec: ID vectors of users and items, and a network that predicts those of items from content.

    python -m recommenders.clcrec --embedding tags
    python -m recommenders.clcrec --embedding vggish tags --temperature 0.5 --balance 0.2

Source: Wei, Wang, Li, Nie, Li, Li and Chua, "Contrastive Learning for Cold-Start Recommendation",
ACM MM 2021. With the ID vectors p_u of users and q_i of items, the network f(c_i) of the content
(C -> 256, leaky ReLU, -> D) and N negatives of each pair (u, i), minimise the mean over pairs of

    lambda InfoNCE(q_i / |q_i|, f(c_j) / |f(c_j)|) + (1 - lambda) InfoNCE(p_u, v_j)
        + mu (|p_u| + mean of |q_j|) / 2
    InfoNCE(a, b_j) = -log (exp(a.b_i / tau) / sum of exp(a.b_j / tau), j = i and its negatives)

where v_j is f(c_j) for a random share of the candidates (--mask), the positive among them, and q_j
for the others: so f learns to stand in for an ID. The score of every item is p_u.v_i, where v_i is
q_i for an item of train (--hot content: f(c_i)) and f(c_i) for one without plays.

The published code (weiyinwei/CLCRec) draws negatives outside a user's pairs of all parts
(user_item_all_dict), so that those of val and test are given away; here outside those of train. It
draws what is masked with replacement, so that a share of .5 masks 39 % of the candidates; here each
is masked with that probability. It brings content to rows of length 1; here columns are
standardised, as for every method. Other defaults: 128 negatives as in later comparisons, not 512,
and equal weights of the two losses.

Practical limit: a vector for each user and item, and a copy of one for each candidate of a step.
"""
from harness import cli, runs
from training import content, network_loop, pair_loop, selection

TITLE = "CLCRec"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "temperature": {"log": [0.1, 2.0]},
    "balance": {"uniform": [0.1, 0.9]},
    "mask": {"uniform": [0.1, 0.9]},
    "reg": {"log": [0.001, 0.3]},
    "lr": {"log": [0.0003, 0.01]},
}
OWN = ("factors", "temperature", "balance", "mask", "negatives", "reg", "hot")
HIDDEN = 256
FEW = 40     # distinct items per candidate of a pair, up to which `products` computes all their scores


def build_parser():
    parser = cli.Parser(prog="recommenders.clcrec", description=__doc__)
    content.flags(parser)
    parser.add_argument("--factors", type=cli.positive, default=64, metavar="N",
                        help="dimensions of the vectors (default 64)")
    parser.add_argument("--temperature", type=cli.number(0, above=True), default=1.0,
                        metavar="FLOAT", help="temperature of both InfoNCE losses (default 1)")
    parser.add_argument("--balance", type=cli.number(0), default=0.5, metavar="FLOAT",
                        help="weight of the loss between IDs and content, from 0 to 1; the loss "
                             "between users and items has the rest (default 0.5)")
    parser.add_argument("--mask", type=cli.number(0), default=0.5, metavar="FLOAT",
                        help="share of the candidates that are their content in the loss between "
                             "users and items, from 0 to 1 (default 0.5)")
    parser.add_argument("--negatives", type=cli.positive, default=128, metavar="N",
                        help="negatives of each pair (default 128)")
    parser.add_argument("--reg", type=cli.number(0), default=0.1, metavar="FLOAT",
                        help="weight of the mean length of a step's ID vectors (default 0.1)")
    parser.add_argument("--hot", choices=("id", "content"), default="id",
                        help="vector of an item of train: its ID, or what its content predicts "
                             "(default id)")
    network_loop.flags(parser, "pairs", lr=0.001, batch_size=256, epochs=200, patience=7)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    for name in ("balance", "mask"):
        if getattr(args, name) > 1:
            parser.error(f"argument --{name}: must be from 0 to 1, not {getattr(args, name):g}")
    selection.settle(args)
    return args


def request_of(args):
    """Every argument that can change the result."""
    own = {name: getattr(args, name) for name in (*OWN, "k", "seed", "comment")}
    return selection.requested({**content.request(args), **own, **network_loop.request(args)}, {})


def build(n_users, n_hot, columns, factors, seed):
    """The network at its start: user_ids (U, D), item_ids (n_hot, D), content (C -> D)."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    network = nn.ModuleDict({
        "user_ids": nn.Embedding(n_users, factors), "item_ids": nn.Embedding(n_hot, factors),
        "content": nn.Sequential(nn.Linear(columns, HIDDEN), nn.LeakyReLU(),
                                 nn.Linear(HIDDEN, factors))})
    for table in (network["user_ids"], network["item_ids"]):   # Xavier's, of both as one table
        nn.init.normal_(table.weight, std=(2 / (n_users + n_hot + factors)) ** 0.5)
    return network


class Training(pair_loop.Training):
    """The losses of CLCRec.

    features: float32 (n_items, C) on the device; options: has those of OWN
    """

    def __init__(self, network, split, settings, features, options):
        super().__init__(network, split, settings, options.negatives)
        self.features, self.options = features, options

    def drawn(self, items, draw):
        import torch
        return (torch.rand(items.shape, generator=draw).to(self.device) < self.options.mask,)

    def loss_with(self, users, items, masked):
        """The loss of a batch; masked: bool (b, 1 + N), candidates that are f(content) in it."""
        from torch.nn.functional import normalize
        o, (distinct, place) = self.options, items.unique(return_inverse=True)
        user, ids = self.network["user_ids"](users), self.network["item_ids"](distinct)
        predicted = self.network["content"](self.features[distinct])

        def scores(anchors, vectors):
            return products(anchors, vectors, place) / o.temperature
        by_user = scores(user, predicted).where(masked, scores(user, ids))
        by_item = scores(normalize(ids, dim=1)[place[:, 0]], normalize(predicted, dim=1))
        lengths = (user.norm(dim=1).mean() + ids.norm(dim=1)[place].mean()) / 2
        return o.balance * info_nce(by_item) + (1 - o.balance) * info_nce(by_user) + o.reg * lengths

    def vectors(self, unseen):
        """Vectors of all items (n_items, D), without gradients.

        unseen: bool (n_hot,), hot items without a play in train; they, too, are their content
        """
        import torch
        with torch.no_grad():
            table = torch.cat([self.network["content"](rows) for rows in self.features.split(8192)])
            if self.options.hot == "id":
                known = torch.from_numpy(~unseen).to(self.device).nonzero()[:, 0]
                table[known] = self.network["item_ids"].weight[known]
        return table


def products(anchors, vectors, place):
    """Products (b, n) of anchors (b, D), each with its own rows place (b, n) of vectors (V, D)."""
    from torch.nn.functional import embedding
    if len(vectors) > FEW * place.shape[1]:
        return (embedding(place, vectors) @ anchors[:, :, None])[..., 0]
    return (anchors @ vectors.T).gather(1, place)   # no tensor (b, n, D)


def info_nce(scores):
    """Mean of -log softmax of the first column of scores (b, 1 + N)."""
    return (scores.logsumexp(1) - scores[:, 0]).mean()


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    inputs = [*split.inputs, *content.inputs(workdir, args)]
    with runs.Run(workdir, "clcrec", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), inputs=inputs, args=args) as run:
        if run.finished:
            return
        import torch
        features = torch.from_numpy(content.features(split, args)).float().to(device)
        network = build(split.n_users, split.n_hot, features.shape[1], args.factors, args.seed)
        training = Training(network.to(device), split, cli.settings(network_loop.Settings, args),
                            features, args)

        def ranker(_part):
            return {"users": network["user_ids"].weight.detach(),
                    "items": training.vectors(split.unseen), "device": device}
        network_loop.fit(run, training, split, args, ranker, selection.BOTH)
        results = save.write(run, split, args.k, args.seed, **ranker(None))
        run.finish(parts=sorted(results), epochs=training.epoch, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
