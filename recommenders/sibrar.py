"""SiBraR: one network, shared by all modalities of an item, encodes its plays and its content.

    python -m recommenders.sibrar --embedding tags
    python -m recommenders.sibrar --embedding vggish tags --missing skip

Source: Ganhör, Moscati, Hausberger, Nawaz and Schedl, "A Multimodal Single-Branch Embedding Network
for Recommendation in Cold-Start and Missing Modality Scenarios", RecSys 2024, in its item-based
form. The modalities of an item are each of its embeddings and its interaction profile, the users
who have played it. Each has a linear map to the input of the one branch g (dropout, linear, ReLU,
linear, batch norm):

    z_m(i) = g(W_m x_m(i) + b_m)          m = profile, embedding, embedding, ...
    v_i    = mean of z_m(i)               in training over two random modalities of each item, at
                                          test over all that the item has: of a cold one its content
    p_u    = W (the items that u has played) + b         (--users id: a trained vector of each user)

A step minimises, over pairs (u, i) with N negatives j, the mean of -log sigmoid(p_u.v_i - p_u.v_j)
and, times --weight, an InfoNCE loss over i and its negatives that finds z of the one modality among
those of the other, both ways, by inner products over --temperature. Scores are p_u.v_i throughout.

The play that is trained is left out of the profiles of its user and its item (--own keep: it stays,
as in the published code), for at test a profile never holds the play that is to be predicted.
Columns of the embeddings are standardised, and each embedding has rows of mean square length 1.
(Scaled to variance 1, as other networks read content, it was behind in three trials each on
artists with audio: by val and cold_val 4.99 against 5.06 with tags, 2.18 against 2.33 with VGGish.)
With --missing skip a track that lacks an embedding has one modality less. The branch reads each
distinct item of a step once, with all its modalities; the published code reads every sampled
occurrence, which its batch norm counts and which each have a dropout of their own.

Practical limit: profiles stay sparse; a step sums the rows of all users of its distinct items, at
worst as many as train has pairs. Memory: two vectors for each user and item, and the pairs.
"""
from harness import cli, runs
from harness.errors import WorkError
from training import content, network_loop, pair_loop, selection

TITLE = "SiBraR"
NEEDS = ("embedding",)
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "weight": {"log": [0.01, 3.0]},
    "temperature": {"log": [0.1, 10.0]},
    "dropout": [0.0, 0.2, 0.5],
    "users": ["profile", "id"],
    "lr": {"log": [0.0003, 0.01]},
}
OWN = ("factors", "weight", "temperature", "dropout", "negatives", "users", "own")
ID_SPREAD = 0.01   # standard deviation of a user's ID vector at the start
PROFILE = 0        # the number of the modality that is the interaction profile; embeddings follow


def build_parser():
    parser = cli.Parser(prog="recommenders.sibrar", description=__doc__)
    content.flags(parser, skip=True)
    parser.add_argument("--factors", type=cli.positive, default=64, metavar="N",
                        help="width of the branch and of the vectors (default 64)")
    parser.add_argument("--weight", type=cli.number(0), default=1.0, metavar="FLOAT",
                        help="weight of the loss between two modalities of an item (default 1)")
    parser.add_argument("--temperature", type=cli.number(0, above=True), default=1.0,
                        metavar="FLOAT", help="temperature of that loss (default 1)")
    parser.add_argument("--dropout", type=cli.number(0, below=1), default=0.2, metavar="FLOAT",
                        help="dropout probability of the branch's input (default 0.2)")
    parser.add_argument("--negatives", type=cli.positive, default=10, metavar="N",
                        help="negatives of each pair (default 10)")
    parser.add_argument("--users", choices=("profile", "id"), default="profile",
                        help="a user's vector: a linear map of the items played, or one that is "
                             "learned for each user (default profile)")
    parser.add_argument("--own", choices=("leave", "keep"), default="leave",
                        help="the play that is trained, in the profiles of its user and its item: "
                             "left out, or kept (default leave)")
    network_loop.flags(parser, "pairs", lr=0.001, batch_size=256, epochs=50, patience=5, l2=1e-6)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    args = build_parser().parse_args(argv)
    selection.settle(args)
    return args


def request_of(args):
    """Every argument that can change the result."""
    own = {name: getattr(args, name) for name in (*OWN, "k", "seed", "comment")}
    return selection.requested({**content.request(args), **own, **network_loop.request(args)}, {})


# --------------------------------------------------------------------------- modalities and network

def modalities(split, args):
    """Standardised embeddings, [float32 (n_items, D)], and what each item has, bool (n_items, M).

    The first of the M modalities is the profile, which items without a play in train lack.
    WorkError for a track without any of the embeddings (--missing skip).
    """
    import numpy as np

    import dataset
    skip, seed = args.missing == "skip", args.seed if args.shuffle else None
    has = np.zeros((split.n_items, 1 + len(args.embedding)), bool)
    has[split.train.item, PROFILE] = True
    vectors = []
    for m, name in enumerate(args.embedding, 1):
        x = dataset.load_embedding(split, name, "mean" if skip else args.missing, seed)
        has[:, m] = dataset.has_embedding(split, name) if skip else True
        hot = has[:, m] & (np.arange(split.n_items) < split.n_hot)
        vectors.append(content.standardise(x, hot if hot.any() else has[:, m]).astype(np.float32))
    bare = int((~has[:, 1:].any(axis=1)).sum())
    if bare:
        raise WorkError(f"{bare} of the {split.n_items} tracks of this split have no row in any of "
                        f"{', '.join(args.embedding)}; fill the gaps with --missing mean")
    return vectors, has


class Bags:
    """The rows of a csr matrix of ones as tensors: products with a table, for some of the rows."""

    def __init__(self, matrix, device="cpu"):
        import torch
        self.first = torch.from_numpy(matrix.indptr).long().to(device)
        self.codes = torch.from_numpy(matrix.indices).long().to(device)

    def sums(self, rows, table):
        """Sums (b, D) of the table's rows (n, D) that each of rows (b,) holds; zeros where none."""
        import torch
        size = self.first[rows + 1] - self.first[rows]
        start = size.cumsum(0) - size
        within = torch.arange(int(size.sum()), device=rows.device) - start.repeat_interleave(size)
        codes = self.codes[self.first[rows].repeat_interleave(size) + within]
        return torch.nn.functional.embedding_bag(codes, table, start, mode="sum")


def build(split, dims, args):
    """The network at its start: a map of each modality, the branch, and the users' part.

    dims: columns of each embedding
    """
    import torch
    from torch import nn
    torch.manual_seed(args.seed)
    width = args.factors

    def of_profiles(n):   # nn.Linear(n, width), its weights as n rows to sum
        linear = nn.Linear(n, width)
        rows = linear.weight.detach().T.contiguous()
        return nn.ParameterDict({"rows": nn.Parameter(rows), "bias": linear.bias})
    if args.users == "id":
        users = nn.Embedding(split.n_users, width)
        nn.init.normal_(users.weight, std=ID_SPREAD)
    else:
        users = of_profiles(split.n_hot)
        users["rows"].data[split.unseen] = 0   # in no profile of train: nothing is learned
    return nn.ModuleDict({
        "profile": of_profiles(split.n_users),
        "embeddings": nn.ModuleList(nn.Linear(d, width) for d in dims),
        "branch": nn.Sequential(nn.Dropout(args.dropout), nn.Linear(width, width), nn.ReLU(),
                                nn.Linear(width, width), nn.BatchNorm1d(width)),
        "users": users})


def two_of(has, draw):
    """Two different modalities of each item, int64 (..., 2).

    has: bool (..., M), those it has, at least two; draw: CPU generator
    """
    import torch
    keys = torch.rand(has.shape, generator=draw).to(has.device)
    return keys.masked_fill(~has, -1).topk(2, dim=-1).indices


# --------------------------------------------------------------------------- training

class Training(pair_loop.Training):
    """The losses of SiBraR.

    vectors, has: as `modalities` gives them; options: has those of OWN
    """

    def __init__(self, network, split, settings, vectors, has, options):
        import torch
        super().__init__(network, split, settings, options.negatives)
        self.options = options
        self.vectors = [torch.from_numpy(x).to(self.device) for x in vectors]
        self.has = torch.from_numpy(has).to(self.device)
        matrix = split.matrix()
        played_by = matrix.T.tocsr()
        played_by.resize(split.n_items, split.n_users)
        self.of_users, self.of_items = Bags(matrix, self.device), Bags(played_by, self.device)

    def inputs(self, items):
        """What the branch reads of items (n,), each modality mapped by its own: (n, M, D)."""
        import torch
        profile, maps = self.network["profile"], self.network["embeddings"]
        mapped = [self.of_items.sums(items, profile["rows"]) + profile["bias"]]
        mapped += [own(x[items]) for own, x in zip(maps, self.vectors, strict=True)]
        return torch.stack(mapped, 1)

    def drawn(self, items, draw):
        return (two_of(self.has[items], draw),)

    def loss(self, rows, draw, own=None):
        """As of network_loop.Training; every process reads the whole batch, whose distinct tracks they share."""
        return self.loss_with(*self.batch(rows, draw), own=own)

    def loss_with(self, users, items, chosen, own=None):
        """The loss of a batch; chosen: int64 (b, 1 + N, 2), the modalities of each candidate; own: the parallel.Share
        of the batch that counts here, None for all."""
        import torch
        (distinct, place), has = items.unique(return_inverse=True), self.has
        leave = self.network.training and self.options.own == "leave"
        inputs, kept = self.inputs(distinct), has[distinct].flatten()
        index = (kept.cumsum(0) - 1).view(len(distinct), -1)[place].gather(2, chosen)
        rows = inputs.flatten(0, 1)[kept]
        if leave:   # the positive's profile without the user
            whole = inputs[place[:, 0], PROFILE]
            without = len(rows) + torch.arange(len(users), device=rows.device)
            rows = torch.cat([rows, whole - self.network["profile"]["rows"][users]])
            index[:, 0] = index[:, 0].where(chosen[:, 0] != PROFILE, without[:, None])
        encoded = self.encoded(rows, own)
        if own is not None and own.divided:
            users, items, index = users[own.rows], items[own.rows], index[own.rows]
        encoded = encoded[index]                                           # (b, 1 + N, 2, D)
        user = self.user(users, items[:, 0] if leave else None)
        scores = (encoded.mean(2) @ user[:, :, None])[:, :, 0]
        bpr = torch.nn.functional.softplus(scores[:, 1:] - scores[:, :1]).mean()
        first, second = encoded.unbind(2)
        return bpr + self.options.weight * info_nce(first, second, self.options.temperature)

    def encoded(self, rows, own=None):
        """Outputs (n, D) of the branch for rows (n, D), which several processes divide where they divide the batch."""
        if own is None or not own.divided:
            return self.network["branch"](rows)
        from training import parallel
        mine = parallel.share(len(rows))
        parallel.BatchNorm.divided = mine.divided
        return parallel.gathered(self.network["branch"](rows[mine.rows]), mine)

    def user(self, users, without=None):
        """Vectors (b, D) of users (b,); without: an item (b,) of each, left out of its profile."""
        part = self.network["users"]
        if self.options.users == "id":
            return part(users)
        own = 0 if without is None else part["rows"][without]
        return self.of_users.sums(users, part["rows"]) - own + part["bias"]

    def table(self, block=8192):
        """Vectors of all items (n_items, D), means over the modalities each has; no gradients."""
        import torch
        with torch.no_grad():
            every, means = torch.arange(len(self.has), device=self.device), []
            for items in every.split(block):
                encoded = self.network["branch"](self.inputs(items).flatten(0, 1))
                has = self.has[items, :, None]
                means.append((encoded.view(*has.shape[:2], -1) * has).sum(1) / has.sum(1))
        return torch.cat(means)

    def listeners(self, history):
        """Vectors of all users (U, D) by their history, csr (U, n_hot), without gradients."""
        import torch
        part = self.network["users"]
        with torch.no_grad():
            if self.options.users == "id":
                return part.weight.detach()
            every = torch.arange(history.shape[0], device=self.device)
            return Bags(history, self.device).sums(every, part["rows"]) + part["bias"]


def info_nce(first, second, temperature):
    """Mean -log softmax of each vector's counterpart among n, the sum of both ways.

    first, second: (b, n, D), compared by inner products within each of the b sets
    """
    logits = first @ second.transpose(1, 2) / temperature
    same = logits.diagonal(dim1=1, dim2=2)
    return (logits.logsumexp(2) - same).mean() + (logits.logsumexp(1) - same).mean()


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import dataset
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    inputs = [*split.inputs, *content.inputs(workdir, args)]
    with runs.Run(workdir, "sibrar", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), inputs=inputs, args=args) as run:
        if run.finished:
            return
        vectors, has = modalities(split, args)
        network = build(split, [x.shape[1] for x in vectors], args).to(device)
        training = Training(network, split, cli.settings(network_loop.Settings, args), vectors, has,
                            args)

        def ranker(part):
            return {"users": training.listeners(split.history(part)), "items": training.table(),
                    "device": device}
        network_loop.fit(run, training, split, args, ranker, selection.BOTH)
        users = split.by_history(lambda part: training.listeners(split.history(part)))
        results = save.write(run, split, args.k, args.seed, users=users, items=training.table(),
                             device=device)
        run.finish(parts=sorted(results), epochs=training.epoch, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
