"""ACARec: a track's factor is predicted from its content and from its artist's other tracks.

    python -m recommenders.ials --factors 64
    python -m recommenders.acarec --embedding musicnn
    python -m recommenders.acarec --embedding musicnn mfcc --factors elsa

Source: ACARec, UMAP 2026, arXiv 2604.07090. The item factors e_i of a finished run of ELSA or iALS
(--factors) are frozen. For a track t with content c_t, and its artist's other tracks i that are in
train,

    key_i = W_k [c_i, e_i],  value_i = W_v e_i,  query = W_q c_t
    a     = W_o attention(query, self-attention(keys), values), several heads each
    e_t'  = GRU(input [a, c_t], hidden state: the mean of the e_i)

and the mean over the tracks of train of |e_t' - e_t|^2 is minimised. A training step draws
--neighbours of the other tracks, prediction takes up to --most-neighbours, a choice fixed by the
seed. A track of train never sees its own factor, not in the ranking either: hot and cold tracks are
scored by one function, with the users of the factor model. As it does not use the plays of a hot
track, the epoch is selected on cold_val where the split has it.

A track whose artists have no other track in train is its content: a is 0, and the hidden state a
learned vector that starts at the mean factor. So that it is trained, a share of a step's tracks
(--new-artist) is treated like that.

Beyond the publication: items count by n / (n + --evidence) of their users n, as a factor learned
from one play teaches little (0: all alike, as published). A prediction is shorter than what it
predicts, of hot and of cold tracks alike; --length predicted gives it the mean length of the
artist's other tracks, or where there are none the length that content predicts. The factors are
scaled so that nearly all of their values are within the range of the GRU's tanh. --stop-on loss
holds out a tenth of the tracks of train. In the published code the frozen factors are parameters
that take gradients, so that the target moves to the prediction; here they do not. Its steps have
1,024 tracks.

Refused, as recommenders.artist_mean is, without artists, with one artist, and where no artist has
two tracks.

Practical limit: neighbours x (C + D) values for each track of a step.
"""
from harness import cli, runs
from harness.errors import WorkError
from ranking import factors
from training import artists as track_artists
from training import content, factor_maps, network_loop, selection

TITLE = "ACARec"
NEEDS = ("embedding", "features")
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "factors": ["ials", "elsa"],
    "hidden": [64, 128, 256],
    "lr": {"log": [0.0001, 0.003]},
    "evidence": {"log": [1.0, 100.0]},
    "length": ["network", "predicted"],
}
OWN = ("factors", "neighbours", "most_neighbours", "hidden", "heads", "new_artist",
       "evidence", "length")
SPREAD = 1 / 3      # root mean square of the scaled factors: three of it are the range of tanh
BLOCK = 1 << 14     # neighbours of a block of predictions


def build_parser():
    parser = cli.Parser(prog="recommenders.acarec", description=__doc__)
    content.flags(parser)
    factors.flags(parser)
    parser.add_argument("--neighbours", type=cli.positive, default=5, metavar="N",
                        help="other tracks of the artist drawn for each track of a training step "
                             "(default 5)")
    parser.add_argument("--most-neighbours", type=cli.positive, default=250, metavar="N",
                        help="other tracks of the artist that a prediction takes at most (default "
                             "250)")
    parser.add_argument("--hidden", type=cli.positive, default=128, metavar="N",
                        help="width of keys, values and query (default 128)")
    parser.add_argument("--heads", type=cli.positive, default=8, metavar="N",
                        help="attention heads, a divisor of --hidden (default 8)")
    parser.add_argument("--new-artist", type=cli.number(0), default=0.1, metavar="FLOAT",
                        help="share of the tracks of a training step that are treated as those of a "
                             "new artist, from 0 to 1 (default 0.1)")
    content.evidence_flag(parser)
    parser.add_argument("--length", choices=("network", "predicted"), default="network",
                        help="length of the factors: as the network gives it, or that of the artist's "
                             "tracks and where there are none that which content predicts (default "
                             "network)")
    network_loop.flags(parser, "tracks", lr=0.0005, batch_size=256, epochs=500,
                       patience=15, eval_every=5)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.new_artist > 1:
        parser.error(f"argument --new-artist: must be from 0 to 1, not {args.new_artist:g}")
    if args.hidden % args.heads:
        parser.error(f"argument --heads: must divide --hidden {args.hidden}, which {args.heads} "
                     "does not")
    selection.settle(args)
    return args


def request_of(args):
    """Every argument that can change the result."""
    own = {name: getattr(args, name) for name in (*OWN, "k", "seed", "comment")}
    return selection.requested({**content.request(args), **own, **network_loop.request(args)}, {})


# --------------------------------------------------------------------------- the network

def build(columns, start, hidden, heads, seed):
    """The network at its start; columns: C of the content; start: (D,), state of a new artist."""
    import torch
    from torch import nn
    torch.manual_seed(seed)
    d = len(start)
    network = nn.ModuleDict({
        "key": nn.Linear(columns + d, hidden), "value": nn.Linear(d, hidden),
        "query": nn.Linear(columns, hidden),
        "among": nn.MultiheadAttention(hidden, heads, batch_first=True),
        "cross": nn.MultiheadAttention(hidden, heads, batch_first=True),
        "out": nn.Linear(hidden, d), "merge": nn.GRUCell(d + columns, d),
        "new": nn.Embedding(1, d)})
    with torch.no_grad():
        network["new"].weight[0] = torch.as_tensor(start, dtype=torch.float32)
    return network


def predict(network, content_of, factor_of, items, others):
    """Predicted factors (b, D), scaled, of items (b,).

    content_of: (n_items, C); factor_of: (n_hot, D); others: codes of hot items (b, m), -1 behind
    the last of a row
    """
    import torch
    given, codes = others >= 0, others.clamp(min=0)                        # (b, m)
    theirs = factor_of[codes] * given[..., None]                           # (b, m, D)
    keys = network["key"](torch.cat([content_of[codes] * given[..., None], theirs], 2))
    known = given.any(1, keepdim=True)                                     # (b, 1)
    hidden = ~given
    hidden[:, :1] &= known   # attention to nothing is not a number: one place, unused, stays open
    keys = network["among"](keys, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
    query = network["query"](content_of[items])[:, None]
    attended = network["cross"](query, keys, network["value"](theirs), key_padding_mask=hidden,
                                need_weights=False)[0]
    attended = network["out"](attended[:, 0]) * known
    mean = theirs.sum(1) / given.sum(1, keepdim=True).clamp(min=1)
    state = torch.where(known, mean, network["new"].weight)
    return network["merge"](torch.cat([attended, content_of[items]], 1), state)


class Training(network_loop.Training):
    """The frozen factors as targets; an example is a track of train.

    features: float64 (n_items, C); artists: csr (n_items, A); learned: ranking.factors.Factors;
    options: has OWN
    """
    OWN_LOSS = True

    def __init__(self, features, artists, learned, settings, options, device):
        import numpy as np
        import torch

        from training.sequences import generator_of
        known = learned.plays > 0
        targets, self.held = held_out(np.flatnonzero(known), settings)
        weights = factor_maps.evidence_weights(learned.plays, options.evidence)
        self.wanted = (track_artists.lengths(artists, features, learned, weights)
                       if options.length == "predicted" else None)
        self.scale = SPREAD / max(np.sqrt((learned.items[known] ** 2).mean()), 1e-12)
        self.factors = torch.as_tensor(learned.items * self.scale, dtype=torch.float32).to(device)
        self.content = content.network_input(features, len(known), device)
        weights = weights / weights[known].mean()
        self.counted = torch.as_tensor(weights, dtype=torch.float32).to(device)
        self.targets, self.options = torch.from_numpy(targets), options
        self.others = track_artists.Others(artists, known)
        self.priority = torch.rand(len(known), generator=generator_of(settings.seed, 5)).numpy()
        start = self.factors[torch.from_numpy(known).to(device)].mean(0).cpu()
        network = build(features.shape[1], start, options.hidden, options.heads, settings.seed)
        super().__init__(network.to(device), len(targets), settings)

    def predicted(self, items, others):
        """Scaled factors (b, D) of item codes (b,) with these other tracks (b, m), arrays."""
        import torch
        items, others = (torch.from_numpy(x).to(self.device) for x in (items, others))
        return predict(self.network, self.content, self.factors, items, others)

    def drawn(self, items, draw):
        """Other tracks of a step's items (b,), (b, m); none for a share of them."""
        import torch
        others = self.others.draw(items, self.options.neighbours,
                                  lambda tracks: torch.rand(len(tracks), generator=draw).numpy())
        others[torch.rand(len(items), generator=draw).numpy() < self.options.new_artist] = -1
        return others

    def chosen(self, items):
        """Other tracks with which items (b,) are ranked, (b, m): always the same."""
        return self.others.draw(items, self.options.most_neighbours,
                                lambda tracks: self.priority[tracks])

    def error(self, items, others):
        """Weighted mean square error of predictions, over the mean square of the factors."""
        import torch
        codes = torch.from_numpy(items).to(self.device)
        squares = (self.predicted(items, others) - self.factors[codes]).square().mean(1)
        return (self.counted[codes] * squares).mean() / SPREAD ** 2

    def batch(self, rows, draw):
        items = self.targets[rows.cpu()].numpy()
        return items, self.drawn(items, draw)

    def loss_with(self, items, others):
        return self.error(items, others)

    def validation_loss(self, split):
        """That of the held-out tracks; None unless --stop-on loss holds any out."""
        import torch
        if not len(self.held):
            return None
        self.network.eval()
        with torch.no_grad():
            return sum(self.error(block, self.chosen(block)).item() * len(block)
                       for block in self.blocks(self.held)) / len(self.held)

    def blocks(self, items):
        """Items (n,) in arrays that have about so many neighbours that they fit in memory."""
        import numpy as np
        per_artist = np.diff(self.others.tracks.indptr)
        sizes = self.others.artists[items] @ per_artist
        sizes = np.minimum(sizes, self.options.most_neighbours) + 1
        order = np.argsort(sizes, kind="stable")
        return np.split(items[order], np.flatnonzero(np.diff(np.cumsum(sizes[order]) // BLOCK)) + 1)

    def vectors(self, items):
        """Predicted factors of item codes (n,), float64 (n_items, D), 0 for all others."""
        import numpy as np
        import torch
        table = np.zeros((len(self.content), self.factors.shape[1]))
        with torch.no_grad():
            for block in self.blocks(items) if len(items) else ():
                table[block] = self.predicted(block, self.chosen(block)).cpu().numpy() / self.scale
        return table if self.wanted is None else factor_maps.of_length(table, self.wanted)


def held_out(items, settings):
    """Items (n,) that are trained, and those held out for --stop-on loss: a tenth, by the seed."""
    import torch

    from training.sequences import generator_of
    if settings.stop_on != selection.LOSS:
        return items, items[:0]
    order = items[torch.randperm(len(items), generator=generator_of(settings.seed, 6)).numpy()]
    n = max(len(order) // 10, 1)
    return order[n:] if n < len(order) else order, order[:n]


def check_train(split, artists, learned):
    """WorkError where no artist has two tracks with plays, from which it could learn."""
    if artists[:split.n_hot].multiply((learned.plays > 0)[:, None]).sum(axis=0).max() < 2:
        raise WorkError(f"no artist of {split.workdir / 'items.pqt'} has two tracks in train, so acarec has "
                        "nothing to learn from; use recommenders.artist_mean")


def main(argv=None):
    args = parse(argv)
    content.check(args)
    workdir = cli.workspace(args)
    import numpy as np

    import dataset
    from harness.inputs import hashed
    from ranking import save
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = content.inputs(workdir, args)
    artists = track_artists.artists_of(split, "acarec")
    learned = factors.read(split, args.factors)
    check_train(split, artists, learned)
    inputs = [*split.inputs, *files, *learned.inputs, hashed(workdir / "items.pqt")]
    with runs.Run(workdir, "acarec", selection.of_split(request_of(args), split),
                  embedding="+".join(args.embedding), inputs=inputs, args=args) as run:
        if run.finished:
            return
        training = Training(content.features(split, args), artists, learned,
                            cli.settings(network_loop.Settings, args), args, device)
        users = learned.scored(learned.items)["users"]

        def ranker(part):
            place = split.candidates(part)
            items = training.vectors(np.arange(place.start, place.stop))
            return {"users": users[part], "items": items}
        network_loop.fit(run, training, split, args, ranker, selection.COLD)
        items = training.vectors(np.arange(split.n_items)).astype(np.float32)
        results = save.write(run, split, args.k, args.seed, users=users, items=items)
        run.finish(parts=sorted(results), sources={args.factors: learned.source.run},
                   epochs=training.epoch, **training.stopping.selected())


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
