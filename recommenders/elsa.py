"""ELSA: a linear item-item autoencoder of low rank that scales to large catalogues.

    python -m recommenders.elsa --factors 256 --epochs 20

Source: Vancura, Alves, Kasalicky and Kordik, "Scalable Linear Shallow Autoencoder for Collaborative
Filtering", RecSys 2022: scores x (A A' - I) with rows of A of length 1, trained on the squared distance of
normalised scores (after a ReLU) and normalised input. Lists rank by x A A': the identity concerns what the user has
played, which is hidden; where nothing is (Yambda's rules) a played item keeps the square of its own vector, as in
ItemKNN here. The users' rows stay sparse; only a batch's scores are dense.
Practical limit: training holds 5 float32 matrices of items x factors and about 4 of users per step x items (about 11 GB
at 1.5 million items with the defaults), and each step multiplies over the whole catalogue; a smaller --factors or
--batch-size needs less memory.
The item factors A, 0 for a track that nobody played in train, are written to model_embeddings/ (and with --embedding
NAME into embeddings/, rows of tracks outside train NaN) for other recommenders.
"""
from dataclasses import dataclass

from harness import cli, runs
from harness.errors import UsageError, WorkError
from harness.files import write_json, write_npy
from harness.progress import Progress
from harness.readers import read_json

TITLE = "ELSA"
NEEDS = ()
COLD = False
PARALLEL = True
SEARCH_SPACE = {
    "factors": [64, 128, 256, 512],
    "epochs": [10, 20, 40],
    "lr": {"log": [0.001, 0.1]},
    "batch_size": [64, 128, 256],
}


def build_parser():
    parser = cli.Parser(prog="recommenders.elsa", description=__doc__)
    parser.add_argument("--factors", type=cli.positive, default=256, help="rank (default 256)")
    parser.add_argument("--epochs", type=cli.positive, default=30, help="passes over the users (default 30)")
    parser.add_argument("--batch-size", type=cli.positive, default=128, help="users per step (default 128)")
    parser.add_argument("--lr", type=cli.number(0, below=cli.LARGEST_RATE), default=0.01, metavar="FLOAT",
                        help="learning rate of NAdam (default 0.01)")
    parser.add_argument("--embedding", default=None, metavar="NAME",
                        help="also write the item factors as embeddings/NAME.npy; refused where another's stands there")
    cli.recommender_flags(parser, device=True)
    return parser


class Step:
    """Loss and gradient of a batch, written out: what is as large as the factors lives in two buffers."""

    def __init__(self, factors):
        import torch
        self.factors = factors                       # (I, D), of any length
        self.unit, self.gradient = torch.empty_like(factors), torch.empty_like(factors)

    def __call__(self, rows):
        """Loss of users, a csr (b, I) of ones with something in each row; `gradient` gets that of the factors.

        With s = relu(x A A' - x), the mean over users of |s / |s| - x / |x||^2 = 2 - 2 cos(s, x); s = 0 gives 1.
        """
        import torch
        device = self.factors.device
        items = torch.from_numpy(rows.indices).long().to(device)
        first = torch.from_numpy(rows.indptr[:-1]).long().to(device)
        user = torch.from_numpy(rows.nonzero()[0]).long().to(device)
        x = torch.zeros(rows.shape, device=device)                               # (b, I)
        x[user, items] = 1
        length = self.factors.norm(dim=1, keepdim=True).clamp_(min=1e-12)
        torch.div(self.factors, length, out=self.unit)
        inner = torch.nn.functional.embedding_bag(items, self.unit, first, mode="sum")  # (b, D)
        scores = (inner @ self.unit.T).sub_(x).relu_()
        size = scores.norm(dim=1, keepdim=True)
        there = size > 1e-12
        scores.div_(size.clamp_(min=1e-12))
        wanted = x.div_(x.norm(dim=1, keepdim=True))
        cosine = (scores * wanted).sum(1, keepdim=True)
        loss = torch.where(there, 2 - 2 * cosine, 1.0).mean()
        slope = wanted.addcmul_(scores, cosine, value=-1).mul_(scores > 0).mul_(there / size * (-2 / len(x)))
        torch.mm(slope.T, inner, out=self.gradient)
        outer = slope @ self.unit                                                # (b, D)
        self.gradient.index_add_(0, items, outer.index_select(0, user))
        along = torch.linalg.vecdot(self.gradient, self.unit).unsqueeze(1)
        self.gradient.addcmul_(self.unit, along, value=-1).div_(length)
        return loss


@dataclass(frozen=True)
class Settings:
    """factors: rank; epochs: passes over the users; batch_size: users per step; lr: learning rate of NAdam."""
    factors: int
    epochs: int
    batch_size: int
    lr: float
    seed: int


def train(matrix, settings, device, writer=None):
    """Item factors, float32 tensor (I, D), rows of length 1, of a csr (U, I) of ones."""
    import numpy as np
    import torch

    from training import parallel
    generator = torch.Generator().manual_seed(settings.seed)
    factors = torch.empty(matrix.shape[1], settings.factors)
    torch.nn.init.xavier_uniform_(factors, generator=generator)
    factors = factors.to(device)
    step, optimiser = Step(factors), torch.optim.NAdam([factors], lr=settings.lr)
    factors.grad = step.gradient
    lengths = np.diff(matrix.indptr)
    with Progress(settings.epochs * matrix.shape[0], "elsa", "users") as progress:
        for epoch in range(settings.epochs):
            order, total = torch.randperm(matrix.shape[0], generator=generator).numpy(), 0.0
            for start in range(0, len(order), settings.batch_size):
                batch = order[start:start + settings.batch_size]
                users = batch[lengths[batch] > 0]
                if len(users):
                    own = parallel.share(len(users))
                    loss = step(matrix[users[own.rows]])
                    total += parallel.combine([factors], loss, own).item() * len(users)
                    optimiser.step()
                progress.update(len(batch), epoch=epoch + 1, loss=f"{total / (start + len(batch)):.4f}")
            if writer is not None:
                writer.add_scalar("Loss/train", total / len(order), epoch + 1)
    lengths = torch.linalg.vector_norm(factors, dim=-1)
    if not torch.isfinite(lengths).all():     # normalised, an infinite vector would be zeros
        raise WorkError("the factors are NaN or infinite; try a smaller --lr")
    return torch.nn.functional.normalize(factors, dim=-1)


def check_embedding(path, name):
    """Refuse to write an embedding over one that this run did not make."""
    if not path.exists() and not path.with_suffix(".json").exists():
        return
    about = read_json(path.with_suffix(".json")) if path.with_suffix(".json").exists() else {}
    if about.get("backend") != "elsa" or about.get("run") != name:
        raise UsageError(f"{path} is there and was not made by {name}; give --embedding another name, or remove "
                              "it with its json")


def write_embedding(split, path, vectors, run):
    """The item factors as an embedding of the workspace: a row for every track of train, NaN elsewhere."""
    import numpy as np
    matrix = np.full((split.n_tracks, vectors.shape[1]), np.nan, np.float32)
    known = ~split.unseen
    matrix[split.tracks[:split.n_hot][known]] = vectors[known]
    write_json(path.with_suffix(".json"), {
        "backend": "elsa", "run": run.name, "dim": vectors.shape[1], "track_checksum": split.track_checksum,
        "failed": {}, "without": int(split.n_tracks - known.sum()), "reason": "tracks outside train have no factors"})
    write_npy(path, matrix)


def request_of(args):
    """Every argument that can change the result."""
    return {"factors": args.factors, "epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr,
            "embedding": args.embedding, "k": args.k, "seed": args.seed, "comment": args.comment}


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.lr == 0:
        raise UsageError("--lr must be above 0")
    workdir = cli.workspace(args)
    device = cli.pick_device(args.device)

    import dataset
    from ranking import save
    split = dataset.load(workdir)
    request = request_of(args)
    run = runs.Run(workdir, "elsa", request, inputs=split.inputs, args=args)
    if args.embedding:
        path = dataset.embedding_path(workdir, args.embedding)
        check_embedding(path, run.name)
        run.outputs = [path, path.with_suffix(".json")]
    with run:
        if run.finished:
            return
        matrix = split.matrix()
        items = train(matrix, cli.settings(Settings, args), device, run.writer()).cpu().numpy()
        items[split.unseen] = 0      # of these training knows nothing but that nobody played them
        parts = split.hot_parts
        results = save.write(run, split, args.k, args.seed, parts, items=items, device=device,
                             users=split.by_history(lambda part: split.history(part) @ items, parts))
        write_npy(run.model_embeddings("items"), items)
        if args.embedding:
            write_embedding(split, path, items, run)
        run.finish(parts=sorted(results))


if __name__ == "__main__":
    cli.run(main, parallel=PARALLEL)
