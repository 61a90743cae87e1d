"""SASRec: the next track from the ones before, by a causal transformer over learned or audio vectors of tracks.

    python -m recommenders.sasrec                                  learned track vectors
    python -m recommenders.sasrec musicnn --item-freeze 1          an embedding of the workspace, frozen
    python -m recommenders.sasrec musicnn --item-freeze 0          the same as a start
    python -m recommenders.sasrec --loss gbce --negatives 256      for catalogues of a million tracks

Sources: Kang and McAuley, ICDM 2018 (arXiv 1808.09781); the loss gBCE: Petrov and Macdonald, RecSys 2023
(arXiv 2308.07192). The model and its losses are in model.py beside this file. At inference a user is the last
max-seq-len tracks of train. ce is the cross-entropy over the whole catalogue, of which only blocks are held; sampled
estimates it from sampled tracks; gbce is binary, with the overconfidence of sampling corrected. The sampled tracks are
shared by a batch.

The layers are those of the published code, except that dropout is applied to the output of attention instead of to
its weights. Positions count from the end of a sequence, as with the left padding of that code.
"""
from harness import cli, runs
from harness.errors import WorkError
from training import fusion, histories, selection
from training import sequence_loop as sequence_training

TITLE = "SASRec"
NEEDS = ("embedding", "order")
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "hidden_dim": [64, 128],
    "batch_size": [32, 64, 128],
    "item_freeze": [0, 1],
    "dropout": [0.1, 0.2, 0.4],
    "lr": {"log": [0.0003, 0.005]},
    "l2": [0, 1e-06, 1e-05],
}
NEGATIVES, GBCE_T = 256, 0.75            # of the authors of gBCE
BETAS = (0.9, 0.98)                      # of Adam, as published
PLATEAU = {"plateau_patience": 5, "plateau_factor": 0.1}  # evaluations without a better value, then the rate falls


# --------------------------------------------------------------------------- command line

def build_parser():
    parser = cli.Parser(prog="recommenders.sasrec", description=__doc__)
    text = ("embedding of the workspace, or random: ID embeddings of hidden-dim dimensions without content, which "
            "always train")
    parser.add_argument("positional", nargs="?", metavar="NAME", help=f"{text} (default random)")
    group = parser.add_argument_group("content")
    group.add_argument("--model", metavar="NAME", help=f"{text}; the same as a flag (default random)")
    group.add_argument("--item-freeze", type=cli.flag01, default=1, metavar="{0,1}",
                       help="1 freezes the item embeddings, 0 trains them (default 1)")
    group.add_argument("--dynamic-item-freeze", type=cli.flag01, default=0, metavar="{0,1}",
                       help="1 freezes the item embeddings until the first plateau of what --stop-on names and then "
                            "trains them (default 0)")
    group = parser.add_argument_group("model")
    group.add_argument("--max-seq-len", type=cli.whole_number(1), default=100, metavar="N",
                       help="positions of a sequence; of a longer history only the latest items are read (default 100)")
    group.add_argument("--hidden-dim", type=cli.whole_number(1), default=128, metavar="N",
                       help="width of the transformer; another width than the embedding's adds a learned projection in "
                            "and one out (default 128)")
    group.add_argument("--layers", type=cli.whole_number(1), default=2, metavar="N",
                       help="number of transformer layers (default 2)")
    group.add_argument("--heads", type=cli.whole_number(1), default=4, metavar="N",
                       help="attention heads of a layer; must divide the width (default 4)")
    group.add_argument("--dropout", type=cli.number(0, below=1), default=0.2, metavar="FLOAT",
                       help="dropout probability, from 0 to below 1 (default 0.2)")
    group = parser.add_argument_group("training")
    group.add_argument("--loss", choices=("ce", "sampled", "gbce"), default="ce",
                       help="training loss: cross-entropy over the whole catalogue, over sampled tracks, or gBCE "
                            "(default ce)")
    group.add_argument("--negatives", type=cli.whole_number(1), default=None, metavar="N",
                       help=f"sampled tracks of a batch, for --loss sampled and gbce (default {NEGATIVES})")
    group.add_argument("--gbce-t", type=cli.number(0), default=None, metavar="FLOAT",
                       help=f"calibration t of --loss gbce, from 0 (plain BCE) to 1 (default {GBCE_T})")
    group.add_argument("--batch-size", type=cli.whole_number(1), default=128, metavar="N",
                       help="sequences per training step (default 128)")
    group.add_argument("--epochs", type=cli.whole_number(1), default=100, metavar="N",
                       help="largest number of epochs (default 100)")
    group.add_argument("--patience", type=cli.whole_number(1), default=10, metavar="N",
                       help="evaluations of val without a better value before training stops (default 10)")
    group.add_argument("--lr", type=cli.learning_rate, default=0.001, metavar="FLOAT",
                       help="learning rate of Adam (default 0.001)")
    group.add_argument("--l2", type=cli.number(0), default=0.0, metavar="FLOAT",
                       help="L2 penalty: this times the sum of squares of the trained parameters (default 0)")
    sequence_training.flags(group)
    cli.recommender_flags(parser, device=True)
    return parser


def parse(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if None not in (args.positional, args.model) and args.positional != args.model:
        parser.error(f"model is {args.positional} as positional argument and {args.model} as a flag; give it once")
    args.model = next((name for name in (args.positional, args.model) if name is not None), "random")
    del args.positional
    sequence_training.settle(parser, args)
    if args.hidden_dim % args.heads:
        parser.error(f"{args.heads} heads cannot share a width of {args.hidden_dim}; give --hidden-dim a multiple of "
                     f"{args.heads} ({-(-args.hidden_dim // args.heads) * args.heads}, say)")
    if args.loss == "ce" and args.negatives is not None:
        parser.error("--negatives is for --loss sampled and gbce; ce takes the whole catalogue")
    if args.loss != "gbce" and args.gbce_t is not None:
        parser.error("--gbce-t is for --loss gbce")
    if args.model == "random" and args.dynamic_item_freeze:
        parser.error("--dynamic-item-freeze holds an embedding; random has none")
    if args.loss != "ce":
        args.negatives = args.negatives or NEGATIVES
    if args.loss == "gbce":
        args.gbce_t = GBCE_T if args.gbce_t is None else args.gbce_t
        if args.gbce_t > 1:
            parser.error(f"--gbce-t must be from 0 to 1, not {args.gbce_t:g}")
    return args


def request_of(args):
    """Every argument that can change the result; without content its flags say nothing."""
    excluded = {"workdir", "device", "overwrite", "checkpoint_seconds"}
    no_content = sequence_training.NO_CONTENT if args.model == "random" else {}
    request = fusion.requested({k: v for k, v in vars(args).items() if k not in excluded})
    return selection.requested(request) | no_content


def defaults():
    """The request of the bare call: what the tables compare other requests with."""
    return request_of(parse([]))


# --------------------------------------------------------------------------- the model and its training

def build(split, args, device):
    """The initial model, the vectors (n_cold, D) of the cold items (None for random), whether the item table can
    ever train, and the fusion.Fusion of the table or None."""
    import torch

    from recommenders.sasrec.model import SASRec
    from training.sequences import generator_of
    torch.random.default_generator.manual_seed(generator_of(args.seed, 0).initial_seed())
    if args.model == "random":
        items, cold, fused = torch.nn.init.xavier_normal_(torch.empty(split.n_hot, args.hidden_dim)), None, None
    else:
        items, cold, fused = sequence_training.item_table(split, args, args.hidden_dim, generator_of(args.seed, 4),
                                                          device)
    freeze, waits = args.model != "random" and bool(args.item_freeze), bool(args.dynamic_item_freeze)
    model = SASRec(items, args.max_seq_len, args.hidden_dim, args.layers, args.heads, args.dropout, freeze or waits,
                   args.loss, args.gbce_t, args.precision == "bf16").to(device)
    return model, cold, not freeze or waits, fused


class Training(sequence_training.Training):
    """See sequence_training.Training; a batch is sequences with the next items, and items sampled for all of it.

    sampled: how many items are sampled for a batch, None for a loss over the whole catalogue
    """

    def __init__(self, model, settings, whole=True, sampled=None, fused=None):
        super().__init__(model, settings, whole, fused)
        self.sampled = sampled

    def batch(self, sequences, users, draw):
        shifted = sequences.shifted(users)
        return shifted and (*shifted[:2], self.negatives(draw), shifted[2])

    def negatives(self, draw):
        """Sampled item codes (N,) of a batch, or None."""
        from recommenders.sasrec.model import sample
        if self.sampled is None:
            return None
        return sample(len(self.model.items), self.sampled, draw, self.model.items.device)


def check(split, args, indptr, device):
    """Refuse before anything is written what cannot work with this workspace or device."""
    sequence_training.check(split, args.dynamic_item_freeze, args.precision, device)
    sequence_training.width_of(split, args.model)   # refuses an embedding that does not fit the split
    if (indptr[1:] - indptr[:-1]).max() < 2:
        raise WorkError("no user has two tracks in train, so there is no next track to learn from")


def prepare(split, args, indptr, items, device):
    """Build the trainer, its training sequences and the user encoder: (Training, Sequences, UserEncoder)."""
    from recommenders.sasrec.model import Sequences, UserEncoder
    from training.sequences import generator_of
    model, cold, whole, fused = build(split, args, device)
    settings = cli.settings(sequence_training.Settings, args, learning_rate=args.lr, betas=BETAS, **PLATEAU)
    training = Training(model, settings, whole, args.negatives, fused)
    negatives = training.negatives(generator_of(args.seed, 3))
    encoder = UserEncoder(model, Sequences(indptr, items, args.max_seq_len, model.pad_id, device), split, cold,
                          negatives)
    return training, Sequences(indptr, items, args.max_seq_len + 1, model.pad_id, device), encoder


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    split, device = dataset.load(workdir), cli.pick_device(args.device)
    files = files + histories.inputs(split, args.order)
    indptr, items = histories.of(split, args.order, latest=args.max_seq_len + 1)
    check(split, args, indptr, device)
    run = runs.Run(workdir, "sasrec", selection.of_split(request_of(args), split), embedding=args.model,
                   inputs=split.inputs + files, args=args)
    run.outputs = [run.model_embeddings("users")]
    with run:
        if run.finished:
            return
        training, sequences, encoder = prepare(split, args, indptr, items, device)
        sequence_training.fit(run, training, sequences, encoder, args.batch_size, args)
        sequence_training.finish(run, training, encoder, split, args.k, order=args.order, hidden_dim=args.hidden_dim)


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
