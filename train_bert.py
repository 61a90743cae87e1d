"""Train BERT4Rec on an embedding of the workspace, then recommend for every part of the split.

    python train_bert.py mert item 100 128 200 1 0 "bert_baseline" 1 0 1024 0 0.0
    python train_bert.py --model musicnn --hidden-dim 64 --order count --shuffle

Every argument of the published call has a default and is a flag, too. The model is in bert4rec.py; settings without
a flag are in bert4rec.yaml. At inference a user is the last max_seq_len - 1 train items followed by the mask
token. The validation loss is the cross-entropy of the val tracks at that mask.
Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2.
"""
from harness import cli, runs
from training import fusion, histories, selection
from training import sequence_loop as sequence_training

TITLE = "BERT4Rec"
NEEDS = ("embedding", "order")
COLD = True
PARALLEL = True
SEARCH_SPACE = {
    "hidden_dim": [64, 128],
    "batch_size": [32, 64, 128],
    "item_freeze": [0, 1],
    "lr": {"log": [0.0003, 0.005]},
    "l2": [0, 1e-06, 1e-05],
}
RECORDED = ("sample_type", "user_freeze", "user_init", "use_confidence")
PUBLISHED_BATCH, PUBLISHED_WINDOW = 128, 50  # the published code trains and predicts with these in any case


# --------------------------------------------------------------------------- the command line

PUBLISHED_CALL = (
    cli.Argument("model", str, "musicnn", "NAME",
                 "embedding of the workspace, or random: ID embeddings of hidden_dim dimensions without content, which "
                 "always train (with dynamic_item_freeze only once released)"),
    cli.Argument("sample_type", cli.one_of("item", "user"), "item", "{item,user}",
                 "recorded only: sequences have no sampled pairs"),
    cli.Argument("max_seq_len", cli.whole_number(2), 100, "N",
                 "positions of a sequence; of a longer history only the latest items are read"),
    cli.Argument("batch_size", cli.whole_number(1), 128, "N", "sequences per training step"),
    cli.Argument("epochs", cli.whole_number(1), 200, "N", "largest number of epochs"),
    cli.Argument("item_freeze", cli.flag01, 1, "{0,1}",
                 "1 freezes the item embeddings, 0 trains them; the mask token always trains"),
    cli.Argument("user_freeze", cli.flag01, 0, "{0,1}", "recorded only: the model has no user embeddings"),
    cli.Argument("comment", str, "", "TEXT", "free text appended to the run name"),
    cli.Argument("user_init", cli.flag01, 1, "{0,1}", "recorded only: the model has no user embeddings"),
    cli.Argument("dynamic_item_freeze", cli.flag01, 0, "{0,1}",
                 "1 freezes the item embeddings at first, whatever item_freeze says, and releases them at the first "
                 "plateau of what --stop-on names, where otherwise the learning rate would fall"),
    cli.Argument("hidden_dim", cli.whole_number(0), 0, "N",
                 "width of the transformer; 0 for that of the embedding, any other width adds a learned projection in "
                 "and one out"),
    cli.Argument("use_confidence", cli.flag01, 0, "{0,1}", "recorded only: every item of a sequence weighs the same"),
    cli.Argument("l2", cli.number(0), 0.0, "FLOAT",
                 "L2 penalty: this times the sum of squares of the trained parameters (its gradient is added)"),
)


def build_parser():
    parser = cli.Parser(prog="train_bert.py", description=__doc__)
    cli.published_call(parser, PUBLISHED_CALL)
    group = parser.add_argument_group("training")
    group.add_argument("--config", metavar="FILE", help="YAML file whose keys override those of bert4rec.yaml")
    group.add_argument("--lr", type=cli.learning_rate, metavar="FLOAT",
                       help="learning rate of Adam (default: learning_rate of the YAML file, 0.001)")
    group.add_argument("--patience", type=cli.whole_number(1), metavar="N",
                       help="evaluations of val without a better value before training stops (default: patience of "
                            "the YAML file, 16)")
    sequence_training.flags(group, scale="default unit; none with --as-published", published=True)
    group.add_argument("--as-published", action="store_true",
                       help="do as the published code does: item_freeze 1 trains and 0 freezes, batches hold 128 "
                            "sequences whatever batch_size says, users are encoded from their last 50 positions, "
                            "positions count from the start, layer normalisation after each sublayer, the softmax also "
                            "covers mask and padding, initial weights have a standard deviation of 0.02, --scale none, "
                            "--stop-on loss")
    cli.list_length(group)
    cli.common_flags(parser, device=True)
    return parser


def parse(argv=None):
    """The command line with positional arguments and flags merged; every argument checked."""
    parser = build_parser()
    args = cli.parse_published(parser, PUBLISHED_CALL, argv)
    sequence_training.settle(parser, args, scale="none" if args.as_published else "unit")
    if args.as_published and args.dynamic_item_freeze:
        parser.error("the published code reads dynamic_item_freeze and never uses it; give 0 with --as-published")
    return args


def request_of(args, config=None):
    """Every argument that can change the result; what is recorded only stands in the manifest's arguments.

    config: of `settings`, by default that of `args`; it has the values of --config, --lr and --patience
    """
    excluded = {"workdir", "device", "overwrite", "checkpoint_seconds", "config", "lr", "patience"}
    excluded |= {*RECORDED}
    no_content = sequence_training.NO_CONTENT if args.model == "random" else {}
    request = fusion.requested({k: v for k, v in vars(args).items() if k not in excluded})
    return selection.requested(request) | no_content | {"config": config or settings(args)}


def defaults():
    """The request of the bare call: what the tables compare other requests with."""
    return request_of(parse([]))


def settings(args):
    """Config of the run: bert4rec.yaml, --config over it, --lr and --patience over both; positions decided."""
    import bert4rec
    config = bert4rec.load_config(args.config, args.as_published)
    if config["positions"] == "auto":
        config["positions"] = "none" if args.order == "count" else "end"
    return config | {k: v for k, v in (("learning_rate", args.lr), ("patience", args.patience)) if v is not None}


# --------------------------------------------------------------------------- the model and its training

def build(split, args, config, device):
    """The initial model, the vectors (n_cold, D) of the cold items (None for random), whether the item table can
    ever train, and the fusion.Fusion of the table or None."""
    import torch

    import bert4rec
    from training.sequences import generator_of
    draw, apart = generator_of(args.seed, 0), generator_of(args.seed, 4)   # of the transformer's start, of the items'
    if args.model == "random":
        dim = args.hidden_dim or config["random_dim"]
        items, cold, fused = torch.randn(split.n_hot, dim, generator=apart) * config["initializer_range"], None, None
    else:
        items, cold, fused = sequence_training.item_table(split, args, args.hidden_dim, apart, device)
    freeze = args.model != "random" and bool(args.item_freeze) != args.as_published
    waits = bool(args.dynamic_item_freeze)
    torch.random.default_generator.manual_seed(draw.initial_seed())  # transformers draws its start from this one
    model = bert4rec.BERT4Rec(items, config, args.max_seq_len, args.hidden_dim, freeze or waits,
                              whole_softmax=args.as_published, bf16=args.precision == "bf16").to(device)
    return model, cold, not freeze or waits, fused


class Training(sequence_training.Training):
    """See sequence_training.Training; a batch is sequences of which some items are masked.

    mlm_probability: share of the items that are masked
    """
    PLACES = 2

    def __init__(self, model, settings, whole=True, mlm_probability=0.2, fused=None):
        super().__init__(model, settings, whole, fused)
        self.mlm_probability = mlm_probability

    def batch(self, sequences, users, draw):
        return sequences.masked(users, self.mlm_probability, draw)


def check(split, args, config, device):
    """Refuse before anything is written what cannot work with this workspace or device."""
    import bert4rec
    sequence_training.check(split, args.dynamic_item_freeze, args.precision, device)
    dim = sequence_training.width_of(split, args.model) or config["random_dim"]
    bert4rec.check_width(args.hidden_dim or dim, config["num_attention_heads"])


def prepare(split, args, config, indptr, items, device):
    """Build the trainer, its training sequences and the user encoder: (Training, Sequences, UserEncoder)."""
    from bert4rec import Sequences
    from training.sequences import UserEncoder
    model, cold, whole, fused = build(split, args, config, device)
    window = min(PUBLISHED_WINDOW, args.max_seq_len) if args.as_published else args.max_seq_len
    encoder = UserEncoder(model, Sequences(indptr, items, window, model.mask_id, device), split, cold)
    training = Training(model, training_settings(args, config), whole, config["mlm_probability"], fused)
    return training, Sequences(indptr, items, args.max_seq_len, model.mask_id, device), encoder


def training_settings(args, config):
    """sequence_training.Settings of a command line and its config."""
    names = ("patience", "plateau_patience", "plateau_factor", "learning_rate")
    return cli.settings(sequence_training.Settings, args, betas=(0.9, 0.999), **{name: config[name] for name in names})


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    config, split, device = settings(args), dataset.load(workdir), cli.pick_device(args.device)
    check(split, args, config, device)
    files = files + histories.inputs(split, args.order)
    indptr, items = histories.of(split, args.order, latest=args.max_seq_len)
    request = selection.of_split(request_of(args, config), split)
    run = runs.Run(workdir, "bert4rec", request, embedding=args.model, inputs=split.inputs + files, args=args)
    run.outputs = [run.model_embeddings("users")]
    with run:
        if run.finished:
            return
        training, sequences, encoder = prepare(split, args, config, indptr, items, device)
        batch_size = PUBLISHED_BATCH if args.as_published else args.batch_size
        frozen = not training.model.items.requires_grad
        sequence_training.fit(run, training, sequences, encoder, batch_size, args)
        width = training.model.transformer_model.config.hidden_size
        sequence_training.finish(run, training, encoder, split, args.k, order=args.order,
                                 items_frozen_at_first=frozen, batch_size=batch_size, hidden_dim=width,
                                 recorded_only={name: getattr(args, name) for name in RECORDED})


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
