"""Content ELSA: an item's vector in ELSA is computed from its content by a network, so new items have one, too.

    python -m recommenders.content_elsa --embedding tags
    python -m recommenders.content_elsa --embedding vggish tags --factors 512

Source: the hybrid in the journal version of the paper this repository reproduces, on top of ELSA (Vancura, Alves,
Kasalicky and Kordik, RecSys 2022). With the content c_i of an item and a user's history x, of zeros and ones,

    A_i = f(c_i) / |f(c_i)|,  f: C -> D, ReLU, -> D;    scores(x) = x A A' - x,

that is, an item is scored by the other items of the history. The loss is the mean over users and items of

    --loss normalised   (scores(x) / |scores(x)| - x / |x|)^2, as published (default)
    --loss squared      (scores(x) - x)^2, which the scores of long histories dominate

Every item, hot or cold, is ranked by the sum of A_j . A_i over the history; of a hot item only the content is used.

The published code stops on the loss of val users' rows reconstructed from themselves, which holds nothing out. Here the
epoch is selected by what it ranks (--stop-on); --stop-on loss is the published rule. --as-published does as that code:
this rule, with a learning rate that falls to a tenth where the loss stays for more than 5 epochs; content as it is, not
standardised; and the items of cold_test among those of train, as items that nobody played, which teaches the network
that they are not played. It sets the published values of the options that are not given: 768 factors, learning rate
.01, 128 users a step, 200 epochs, patience 16. Its mean of the history's vectors ranks as the sum here does.

Practical limit: every step runs the network on all items of train, and holds users x items of scores.
"""
from harness import cli, runs
from training import content, network_loop, selection
from training.early_stopping import EarlyStopping

TITLE = "Content ELSA"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "factors": [128, 256, 512],
    "lr": {"log": [0.0003, 0.01]},
    "l2": {"log": [0.001, 1.0]},
    "batch_size": [64, 128, 256],
}
PUBLISHED = {"factors": 768, "lr": 0.01, "batch_size": 128, "epochs": 200, "patience": 16}
PLATEAU = 5   # epochs of the published code without a smaller loss before the learning rate falls to a tenth


def build_parser():
    parser = cli.Parser(prog="recommenders.content_elsa", description=__doc__)
    content.flags(parser)
    parser.add_argument("--factors", type=cli.positive, default=256, metavar="N",
                        help="dimensions of an item's vector and of the hidden layer (default 256)")
    parser.add_argument("--loss", choices=("normalised", "squared"), default="normalised",
                        help="squared distance of scores and history, each brought to length 1 or as they are "
                             "(default normalised)")
    parser.add_argument("--as-published", action="store_true",
                        help="train and select as the published code does; its values of the options that are not "
                             "given")
    network_loop.flags(parser, "users", lr=0.001, batch_size=128, epochs=100, patience=10, published=True)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    return network_loop.parse(build_parser(), argv, PUBLISHED)


def request_of(args):
    """Every argument that can change the result."""
    own = {name: getattr(args, name) for name in ("factors", "loss", "k", "seed", "comment")}
    own |= {"as_published": True} if args.as_published else {}
    return selection.requested({**content.request(args), **own, **network_loop.request(args)}, {})


def network_of(columns, factors, seed):
    """f at its start: C -> D, ReLU, -> D."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(columns, factors), nn.ReLU(), nn.Linear(factors, factors))


def reconstruction_loss(vectors, x, loss):
    """Mean over users and items of the squared error of the scores x A A' - x, a scalar.

    vectors: A (I, D), rows of length 1; x: histories (b, I) of zeros and ones; loss: squared or normalised
    """
    from torch.nn.functional import normalize
    scores = (x @ vectors) @ vectors.T - x
    if loss == "normalised":
        scores, x = normalize(scores, dim=1), normalize(x, dim=1)
    return (scores - x).square().mean()


class Training(network_loop.Training):
    """ELSA on the vectors of the items that were played in train; an example is a user.

    features: float32 (n_items, C) on the network's device; loss: squared or normalised; as_published: with the items
    of cold_test, whose columns are zero, and a plateau that lowers the learning rate
    """

    def __init__(self, network, split, settings, features, loss, as_published=False):
        import numpy as np
        super().__init__(network, split.n_users, settings)
        self.features, self.kind = features, loss
        self.items = np.flatnonzero(~split.unseen)
        if as_published:
            self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience, self.optimizer, PLATEAU)
            if "cold_test" in split.parts:
                self.items = np.append(self.items, np.arange(split.n_items)[split.candidates("cold_test")])
        self.histories = self.columns(split.matrix(), split)

    def columns(self, pairs, split):
        """Pairs csr (n, n_hot) as csr (n, items that train the network); nobody has played those beyond n_hot."""
        pairs = pairs.copy()
        pairs.resize(len(pairs.indptr) - 1, split.n_items)
        return pairs[:, self.items]

    def vectors(self, items=None):
        """A of items (m,), default all: (m, D), rows of length 1."""
        from torch.nn.functional import normalize
        return normalize(self.network(self.features if items is None else self.features[items]), dim=1)

    def loss_with(self, rows):
        return self.loss_of(self.histories[rows.cpu().numpy()])

    def loss_of(self, histories):
        """The loss of histories, csr (b, items that train the network)."""
        import torch
        x = torch.from_numpy(histories.toarray()).to(self.device)
        return reconstruction_loss(self.vectors(torch.from_numpy(self.items).to(self.device)), x, self.kind)

    def validation_loss(self, split):
        """The published one: that of the val users' pairs of val, reconstructed from themselves; None without any."""
        import numpy as np
        import torch
        from scipy.sparse import csr_matrix
        val = split.part("val")
        pairs = csr_matrix((np.ones(len(val), np.float32), (val.user, val.item)), shape=(split.n_users, split.n_hot))
        pairs = self.columns(pairs, split)
        rows, total = np.flatnonzero(np.diff(pairs.indptr)), 0.0
        self.network.eval()
        with torch.no_grad():
            for start in range(0, len(rows), self.settings.batch_size):
                batch = rows[start:start + self.settings.batch_size]
                total += self.loss_of(pairs[batch]).item() * len(batch)
        return total / len(rows) if len(rows) else None


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    inputs = [*split.inputs, *content.inputs(workdir, args)]
    with runs.Run(workdir, "content_elsa", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), inputs=inputs, args=args) as run:
        if run.finished:
            return
        import torch
        if args.as_published:
            features = torch.as_tensor(content.unscaled(split, args), dtype=torch.float32).to(device)
        else:
            features = content.network_input(content.features(split, args), split.n_hot, device)
        network = network_of(features.shape[1], args.factors, args.seed).to(device)
        training = Training(network, split, cli.settings(network_loop.Settings, args), features, args.loss,
                            args.as_published)

        def ranker(part):
            items = training.vectors().cpu().numpy()
            history = split.history(part)
            return {"users": lambda codes: history[codes] @ items[:split.n_hot], "items": items, "device": device}
        network_loop.fit(run, training, split, args, ranker, selection.BOTH)
        with torch.no_grad():
            items = training.vectors().cpu().numpy()
        users = split.by_history(lambda part: split.history(part) @ items[:split.n_hot])
        results = save.write(run, split, args.k, args.seed, users=users, items=items, device=device)
        run.finish(parts=sorted(results), epochs=training.epoch, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
