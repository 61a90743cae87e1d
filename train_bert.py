"""Train BERT4Rec on an embedding of the workspace, then recommend for every part of the split.

    python train_bert.py mert item 100 128 200 1 0 "bert_baseline" 1 0 1024 0 0.0
    python train_bert.py --model musicnn --hidden-dim 64 --order count --shuffle

Every place of the published call has a default and is a flag, too. The model is in bert4rec.py, what the
command line does not say in bert4rec.yaml. A user is asked for with the latest max_seq_len - 1 items of train
and a mask behind them. The validation loss is the cross-entropy of the val tracks at that mask.
Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2.
"""
import argparse

from harness import cli, runs
from training import sequence_loop as sequence_training

NEEDS = ("embedding", "order")
COLD = True
SEARCH_SPACE = {
    "hidden_dim": [64, 128],
    "batch_size": [32, 64, 128],
    "item_freeze": [0, 1],
    "lr": {"log": [0.0003, 0.005]},
    "l2": [0, 1e-06, 1e-05],
}
RECORDED = ("sample_type", "user_freeze", "user_init", "use_confidence")
PUBLISHED_BATCH, PUBLISHED_WINDOW = 128, 50  # the published code trains and predicts with these, whatever is asked


# --------------------------------------------------------------------------- the command line

def whole(low):
    def convert(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, not {text}")
        return int(text)
    return convert


def one_of(*values):
    def convert(text):
        if text not in values:
            raise argparse.ArgumentTypeError(f"must be {' or '.join(values)}, not {text}")
        return int(text) if text.isdecimal() else text
    return convert


PLACES = (  # name, type, default, help; in the order of the published call
    ("model", str, "musicnn", "embedding of the workspace, or random: no content, item embeddings of hidden_dim "
                              "that always train (a dynamic_item_freeze still holds them at first)"),
    ("sample_type", one_of("item", "user"), "item", "recorded only: sequences have neither"),
    ("max_seq_len", whole(2), 100, "positions of a sequence; longer histories count with their latest part"),
    ("batch_size", whole(1), 128, "sequences per step"),
    ("epochs", whole(1), 200, "epochs at most"),
    ("item_freeze", one_of("0", "1"), 1, "1 freezes the item embeddings, 0 trains them; the mask always trains"),
    ("user_freeze", one_of("0", "1"), 0, "recorded only: the model has no user embeddings"),
    ("comment", str, "", "free words in the run's name"),
    ("user_init", one_of("0", "1"), 1, "recorded only: the model has no user embeddings"),
    ("dynamic_item_freeze", one_of("0", "1"), 0,
     "1 freezes the items at first, whatever item_freeze says, and releases them at the first plateau of the "
     "validation loss, where else the learning rate would fall"),
    ("hidden_dim", whole(0), 0, "width of the transformer, 0 for the embedding's; another width than the embedding's "
                                "adds a learned projection in and one out"),
    ("use_confidence", one_of("0", "1"), 0, "recorded only: every item of a sequence weighs the same"),
    ("l2", cli.number, 0.0, "penalty: this times the sum of squares of the trained parameters (its gradient is "
                             "added)"),
)


def build_parser():
    names = [p[0] for p in PLACES]
    parser = cli.Parser(prog="train_bert.py", description=__doc__,
                         usage=f"%(prog)s [{' ['.join(names)}{']' * len(names)} [flags]")
    parser.add_argument("places", nargs="*", metavar="ARGUMENT", help="the published places, in order of the flags:")
    group = parser.add_argument_group("published arguments")
    for name, kind, default, text in PLACES:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, metavar="X",
                           help=text + ("" if default == "" else f" (default {default})"))
    group = parser.add_argument_group("training")
    group.add_argument("--config", metavar="FILE", help="YAML whose keys go over those of bert4rec.yaml")
    group.add_argument("--lr", type=cli.number, metavar="X", help="rate of Adam (default: learning_rate of the YAML)")
    group.add_argument("--patience", type=whole(1), metavar="N",
                       help="epochs without a better validation loss (default: patience of the YAML)")
    sequence_training.flags(group, scale="default unit; none with --as-published")
    group.add_argument("--as-published", action="store_true",
                       help="item_freeze 1 trains and 0 freezes, batches hold 128 whatever batch_size says, lists are "
                            "asked for with the last 50 positions, positions count from the start, layers normalise "
                            "after each part, the softmax also covers mask and pad, weights start at .02, "
                            "--scale none")
    group.add_argument("--k", type=cli.positive, default=100, help="length of the lists (default 100)")
    cli.common_flags(parser, device=True)
    return parser


def parse(argv=None):
    """The command line with places and flags merged; every argument checked."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if len(args.places) > len(PLACES):
        names = " ".join(p[0] for p in PLACES)
        parser.error(f"takes at most {len(PLACES)} arguments ({names}), not {len(args.places)}")
    for i, (name, kind, default, _) in enumerate(PLACES):
        flag = getattr(args, name)
        try:
            place = kind(args.places[i]) if i < len(args.places) else None
        except argparse.ArgumentTypeError as e:
            parser.error(f"argument {i + 1}, {name}: {e}")
        if None not in (place, flag) and place != flag:
            parser.error(f"{name} is {place} in place {i + 1} and {flag} as a flag; give it once")
        setattr(args, name, next((v for v in (place, flag) if v is not None), default))
    del args.places
    sequence_training.settle(parser, args, scale="none" if args.as_published else "unit")
    if args.as_published and args.dynamic_item_freeze:
        parser.error("the published code reads dynamic_item_freeze and never uses it; give 0 with --as-published")
    return args


def request_of(args, config):
    """Every argument that can change the result; what is recorded only stands in the manifest's arguments."""
    apart = {"workdir", "device", "overwrite", "eval_every", "checkpoint_seconds", "config", "lr", "patience"}
    apart |= {*RECORDED}
    no_content = sequence_training.NO_CONTENT if args.model == "random" else {}
    return {k: v for k, v in sorted(vars(args).items()) if k not in apart} | no_content | {"config": config}


def defaults():
    """The request of the bare call: what the tables compare other requests with."""
    args = parse([])
    return request_of(args, settings(args))


def settings(args):
    """Config of the run: bert4rec.yaml, --config over it, --lr and --patience over both; positions decided."""
    import bert4rec
    config = bert4rec.load_config(args.config, args.as_published)
    if config["positions"] == "auto":
        config["positions"] = "none" if args.order == "count" else "end"
    return config | {k: v for k, v in (("learning_rate", args.lr), ("patience", args.patience)) if v is not None}


# --------------------------------------------------------------------------- what is trained on what

def build(split, args, config, device):
    """The model at its start, the vectors (n_cold, D) of the cold items (None for random), and whether the item
    table can ever train."""
    import torch

    import bert4rec
    from training.sequences import generator_of
    draw = generator_of(args.seed, 0)
    if args.model == "random":
        dim = args.hidden_dim or config["random_dim"]
        items, cold = torch.randn(split.n_hot, dim, generator=draw) * config["initializer_range"], None
    else:
        items, cold = sequence_training.content(split, args, device)
    freeze = args.model != "random" and bool(args.item_freeze) != args.as_published
    waits = bool(args.dynamic_item_freeze)
    torch.random.default_generator.manual_seed(draw.initial_seed())  # transformers draws its start from this one
    model = bert4rec.BERT4Rec(items, config, args.max_seq_len, args.hidden_dim, freeze or waits,
                              whole_softmax=args.as_published, bf16=args.precision == "bf16").to(device)
    return model, cold, not freeze or waits


class Training(sequence_training.Training):
    """See sequence_training.Training; a batch is sequences of which some items are masked."""

    def batch(self, sequences, users, draw):
        return sequences.masked(users, self.config["mlm_probability"], draw)


def check(split, args, config, device):
    """Refuse before anything is written what cannot work with this workspace or device."""
    import bert4rec
    sequence_training.check(split, args, device)
    dim = sequence_training.width_of(split, args) or config["random_dim"]
    bert4rec.check_width(args.hidden_dim or dim, config["num_attention_heads"])


def prepare(split, args, config, indptr, items, device):
    """What is trained, on which sequences, and what asks it: (Training, Sequences, Asking)."""
    from bert4rec import Sequences
    from training.sequences import Asking
    model, cold, whole = build(split, args, config, device)
    window = min(PUBLISHED_WINDOW, args.max_seq_len) if args.as_published else args.max_seq_len
    asking = Asking(model, Sequences(indptr, items, window, model.mask_id, device), split, cold)
    return (Training(model, args, config, whole), Sequences(indptr, items, args.max_seq_len, model.mask_id, device),
            asking)


def main(argv=None):
    args = parse(argv)
    workdir = cli.workspace(args)
    import dataset
    files = [] if args.model == "random" else dataset.embedding_inputs(workdir, args.model)
    config, split, device = settings(args), dataset.load(workdir), cli.pick_device(args.device)
    check(split, args, config, device)
    indptr, items = split.sequences(args.order)
    run = runs.Run(workdir, "bert4rec", request_of(args, config), embedding=args.model, inputs=split.inputs + files,
                   args=args)
    run.outputs = [run.model_embeddings("users")]
    with run:
        if run.finished:
            return
        training, sequences, asking = prepare(split, args, config, indptr, items, device)
        batch_size = PUBLISHED_BATCH if args.as_published else args.batch_size
        frozen = not training.model.items.requires_grad
        best = sequence_training.fit(run, training, sequences, asking, batch_size)
        width = training.model.transformer_model.config.hidden_size
        sequence_training.finish(run, training, asking, split, best_epoch=best, items_frozen_at_first=frozen,
                                 batch_size=batch_size, hidden_dim=width,
                                 recorded_only={name: getattr(args, name) for name in RECORDED})


if __name__ == "__main__":
    cli.run(main)
