"""Bimodal contrastive: a network of the content and one of an item's factors meet in one space, by contrastive losses.

    python -m recommenders.ials --factors 256 --regularization 60 --alpha 20
    python -m recommenders.contrastive --embedding tags
    python -m recommenders.contrastive --embedding vggish tags --factors elsa --loss sdcl --read-out content

Source: the contrastive models in the journal version of the paper this repository reproduces, with the losses of Yeh,
Hong, Hsu, Liu, Chen and LeCun, "Decoupled Contrastive Learning", ECCV 2022. For an item i of train with content c_i and
the frozen factors e_i of a finished run (--factors)

    a_i = f(c_i) / |f(c_i)|,  b_i = g(e_i) / |g(e_i)|,    f, g: -> D, ReLU, -> D

and a step minimises the mean over its items of -w_i a_i.b_i / tau + log of the sum, over all j but i, of

    adcl   exp(a_i.b_j / tau)
    dcl    the same and exp(a_i.a_j / tau), plus the same loss with a and b exchanged (default)
    sdcl   exp(a_i.b_j / tau), exp(a_i.a_j / tau) and exp(b_i.b_j / tau)

with w_i = 1; in adclw, dclw and sdclw it is 2 - N softmax_i(a_i.b_i / sigma) over the N items of the step. An epoch has
every item of train once, however often it is played. --read-out says what an item of train is ranked by:

    content         a_i
    collaborative   b_i
    average         (a_i + b_i) / |a_i + b_i| (default)

Any other item has no factors and is ranked by a_i. A user is the mean of the history's vectors, and the score is the
cosine. No item is held out, so --stop-on loss follows the training loss.

--as-published: vectors are not brought to length 1 for ranking, and `average` adds them as they are, although the
losses are on cosines; the epoch is selected by the training loss, at whose plateaus the learning rate falls; sdclw is a
dclw without its exchanged half; the factors are those of ELSA, the learning rate is .001, and epochs at most 100. For
an item without plays in train, collaborative and average read a row of factors that content has no part in: the
published ELSA trains those of cold_test as items that nobody played. Such rows are not in a run of ours; here they are
drawn by --seed, in the mean length of the trained ones. Content is standardised, which the published code does not do.

Practical limit: a step holds up to seven matrices of batch x batch, 3 GB for 10,000 items.
"""
from harness import cli, runs
from harness.errors import WorkError
from ranking import factors
from training import content, network_loop, selection

TITLE = "Bimodal contrastive"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "loss": ["dcl", "sdcl"],
    "read_out": ["content", "average"],
    "temperature": {"log": [0.03, 0.5]},
    "l2": {"log": [0.001, 1.0]},
}
LOSSES = ("dcl", "sdcl", "adcl", "dclw", "sdclw", "adclw")
READ_OUTS = ("content", "collaborative", "average")
OWN = ("factors", "loss", "read_out", "size", "temperature", "sigma", "as_published")   # options of the request
PUBLISHED = {"factors": "elsa", "lr": 0.001, "epochs": 100, "patience": 16}
PLATEAU = 5   # epochs of the published code without a smaller loss before the learning rate falls to a tenth


def build_parser():
    parser = cli.Parser(prog="recommenders.contrastive", description=__doc__)
    content.flags(parser)
    factors.flags(parser)
    parser.add_argument("--loss", choices=LOSSES, default="dcl",
                        help="contrastive loss; those with w weigh the positive pairs (default dcl)")
    parser.add_argument("--read-out", choices=READ_OUTS, default="average",
                        help="vector that ranks an item of train: of its content, of its factors, or the mean of both "
                             "(default average)")
    parser.add_argument("--size", type=cli.positive, default=768, metavar="N",
                        help="dimensions of the vectors and of the hidden layers (default 768)")
    parser.add_argument("--temperature", type=cli.number(0, above=True), default=0.1, metavar="FLOAT",
                        help="temperature tau of the losses (default 0.1)")
    parser.add_argument("--sigma", type=cli.number(0, above=True), default=0.5, metavar="FLOAT",
                        help="temperature of the weights of the positive pairs in the losses with w (default 0.5)")
    parser.add_argument("--as-published", action="store_true",
                        help="rank and select as the published code does; its values of the options that are not given")
    network_loop.flags(parser, "items", lr=0.0003, batch_size=10_000, epochs=300, patience=8,
                       published=True, eval_every=5)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    return network_loop.parse(build_parser(), argv, PUBLISHED)


def request_of(args):
    """Every argument that can change the result."""
    own = {name: getattr(args, name) for name in (*OWN, "k", "seed", "comment")}
    return selection.requested({**content.request(args), **own, **network_loop.request(args)}, {})


# --------------------------------------------------------------------------- loss and network

def contrastive_loss(a, b, loss, temperature, sigma, published=False, rows=slice(None)):
    """The loss of N > 1 items, a scalar: the mean over some of them, each contrasted with all.

    a, b: (N, D), rows of length 1, of content and of factors; loss: one of LOSSES; published: sdclw as released;
    rows: a slice, those of the mean
    """
    import torch
    scores = a[rows] @ b.T / temperature                                          # (n, N)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)[rows]
    positive = scores.diagonal(rows.start or 0)

    def others(matrix):   # (n,) log of the sum over the others
        return matrix.masked_fill(own, -torch.inf).logsumexp(1)
    if loss.endswith("w"):
        every = positive if len(scores) == len(a) else (a * b).sum(1) / temperature
        positive = positive * (2 - len(a) * torch.softmax(every * temperature / sigma, 0)[rows])
    negative = others(scores)
    if loss.startswith("adcl"):
        return (negative - positive).mean()
    negative = torch.logaddexp(negative, others(a[rows] @ a.T / temperature))
    if loss == "sdclw" and published:
        return (negative - positive).mean()
    of_factors = others(b[rows] @ b.T / temperature)
    if loss.startswith("sdcl"):
        return (torch.logaddexp(negative, of_factors) - positive).mean()
    exchanged = scores.T if len(scores) == len(a) else b[rows] @ a.T / temperature
    return (negative + torch.logaddexp(others(exchanged), of_factors) - 2 * positive).mean()


def network_of(columns, factors, size, seed):
    """Both networks at their start: content (C -> D), factors (K -> D), each with a hidden layer of D."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    return nn.ModuleDict({name: nn.Sequential(nn.Linear(n, size), nn.ReLU(), nn.Linear(size, size))
                          for name, n in (("content", columns), ("factors", factors))})


def factor_features(split, learned, seed=None):
    """The frozen factors as content is standardised, float64 (n_items, K), by the items with plays in train.

    seed: of random factors for the other items, in the mean length of those with plays; None leaves them 0
    """
    import numpy as np
    vectors = np.zeros((split.n_items, learned.items.shape[1]))
    vectors[:split.n_hot] = learned.items
    played = np.append(learned.plays > 0, np.zeros(split.n_items - split.n_hot, bool))
    if seed is not None:
        random = np.random.default_rng(seed).uniform(-1, 1, vectors[~played].shape)
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        vectors[~played] = random * np.linalg.norm(vectors[played], axis=1).mean()
    order = np.argsort(~played, kind="stable")
    features = np.empty_like(vectors)
    features[order] = content.standardise(vectors[order], slice(int(played.sum())))
    if seed is None:
        features[~played] = 0
    return features


class Training(network_loop.Training):
    """Both networks on the items that were played in train; an example is an item.

    features, frozen: float32 (n_items, C) and (n_items, K) on the networks' device; played: int64 (I,) codes;
    options: has those of OWN
    """
    OWN_LOSS = True

    def __init__(self, network, settings, features, frozen, played, options):
        super().__init__(network, len(played), settings)
        self.features, self.frozen, self.options = features, frozen, options
        self.played = played.to(self.device)
        if options.as_published:
            from training.early_stopping import EarlyStopping
            self.stopping = EarlyStopping(settings.stop_on, settings.epochs, settings.patience, self.optimizer, PLATEAU)

    def batches(self):
        """As network_loop's, but nearly equal in size and of two items or more: one has nothing to contrast with."""
        import torch

        from training.sequences import generator_of
        order = torch.randperm(self.examples, generator=generator_of(self.settings.seed, 1, self.epoch))
        steps = min(-(-self.examples // self.settings.batch_size), self.examples // 2)
        return order.tensor_split(steps)[self.step:]

    def loss(self, rows, draw, own=None):
        from torch.nn.functional import normalize

        from training import parallel
        own, o = own or parallel.share(len(rows)), self.options
        items = self.played[rows[own.rows]]
        a, b = self.network["content"](self.features[items]), self.network["factors"](self.frozen[items])
        a, b = (parallel.gathered(normalize(x, dim=1), own) for x in (a, b))
        return contrastive_loss(a, b, o.loss, o.temperature, o.sigma, o.as_published, own.rows)

    def selection_loss(self, losses):
        return losses["train"]

    def vectors(self):
        """What ranks each item, (n_items, D): of length 1, unless as published. Without gradients."""
        import torch
        from torch.nn.functional import normalize
        with torch.no_grad():
            a = torch.cat([self.network["content"](rows) for rows in self.features.split(8192)])
            b = torch.cat([self.network["factors"](rows) for rows in self.frozen.split(8192)])
        if self.options.as_published:
            return {"content": a, "collaborative": b, "average": (a + b) / 2}[self.options.read_out]
        a, b = normalize(a, dim=1), normalize(b[self.played], dim=1)
        if self.options.read_out != "content":
            a[self.played] = b if self.options.read_out == "collaborative" else normalize(a[self.played] + b, dim=1)
        return a


# --------------------------------------------------------------------------- the run

def trained_by(split, learned, args, device):
    """The training of a command line at its start."""
    import numpy as np
    import torch
    played = np.flatnonzero(learned.plays)
    if len(played) < 2:
        raise WorkError(f"{split.workdir / 'data'}: train has one track only, so there is nothing to contrast it with; "
                        "split again with more tracks")
    features = content.network_input(content.features(split, args), split.n_hot, device)
    frozen = factor_features(split, learned, args.seed if args.as_published else None)
    frozen = content.network_input(frozen, split.n_hot, device)
    network = network_of(features.shape[1], frozen.shape[1], args.size, args.seed).to(device)
    settings = cli.settings(network_loop.Settings, args)
    return Training(network, settings, features, frozen, torch.from_numpy(played), args)


def user_vectors(histories, items):
    """Directions of the mean of the items' vectors, float32 (b, D), 0 without a history; csr (b, I), float32 (I, D)."""
    import numpy as np
    sums = histories @ items
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = content.inputs(workdir, args)
    learned = factors.read(split, args.factors)
    with runs.Run(workdir, "contrastive", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), inputs=[*split.inputs, *files, *learned.inputs],
                  args=args) as run:
        if run.finished:
            return
        training = trained_by(split, learned, args, device)

        def ranker(part):
            items, history = training.vectors().cpu().numpy(), split.history(part)
            return {"users": lambda codes: user_vectors(history[codes], items[:split.n_hot]), "items": items,
                    "device": device}
        network_loop.fit(run, training, split, args, ranker, selection.BOTH)
        items = training.vectors().cpu().numpy()
        users = split.by_history(lambda part: user_vectors(split.history(part), items[:split.n_hot]))
        results = save.write(run, split, args.k, args.seed, users=users, items=items, device=device)
        run.finish(parts=sorted(results), epochs=training.epoch, sources={args.factors: learned.source.run},
                   **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
