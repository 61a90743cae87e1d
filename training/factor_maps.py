"""Maps from content to item factors: ridge in closed form, and a multilayer perceptron.

    f, fit = factor_maps.by_ridge(features, factors, weights, "gcv")
    f, epochs = factor_maps.by_mlp(features, factors, weights, settings, device)

Both are fitted on the hot items, with weights n / (n + evidence): a factor learned from one play teaches little. No
item is predicted by a map that was fitted to its own factor: hot items are divided into ten folds, each predicted by
the fit on the others, else the plays of an item would come back as what its content says of it. A
prediction is shorter than the factors it predicts by what content leaves unexplained, all the more the less content
says, so that new items would come last beside hot ones whose factors have their full length. `lengths` predicts the
length by itself, and `of_length` gives it to the direction that was predicted.
"""
from dataclasses import dataclass

from training import content, ridge
from training.checkpoints import check_loss
from training.early_stopping import EarlyStopping


def evidence_weights(plays, evidence):
    """n / (n + evidence) of play counts n (I,), float64; 0 where n is 0, and with evidence 0 else 1."""
    import numpy as np
    plays = np.asarray(plays, np.float64)
    return np.divide(plays, plays + evidence, out=np.zeros_like(plays), where=plays > 0)


def by_ridge(features, factors, weights, l2):
    """Predicted factors, float64 (n_items, D), and the fit; features: (n_items, C), factors: (n_hot, D)."""
    return ridge.cross_fitted(features, factors, weights, l2)


def lengths(features, factors, weights, l2):
    """Length of a factor that content predicts, float64 (n_items,), within the range of those of the hot items."""
    import numpy as np
    actual = np.linalg.norm(factors, axis=1)
    used = np.asarray(weights) > 0
    if not used.any():
        return np.zeros(len(features))
    predicted = by_ridge(features, actual[:, None], weights, l2)[0][:, 0]
    return np.clip(predicted, actual[used].min(), actual[used].max())


def of_length(vectors, wanted):
    """Vectors (n, D) in their direction with the lengths `wanted` (n,); a zero vector stays zero."""
    import numpy as np
    length = np.linalg.norm(vectors, axis=1)
    return vectors * np.divide(wanted, length, out=np.zeros_like(length), where=length > 0)[:, None]


@dataclass(frozen=True)
class Settings:
    """lr: learning rate of Adam; epochs: the most; patience: epochs without a smaller error on held-out items;
    batch_size: items per step; seed: of weights, order and held-out items."""
    lr: float
    epochs: int
    patience: int
    batch_size: int
    seed: int


def by_mlp(features, factors, weights, settings, device="cpu", log=None):
    """Predicted factors, float64 (n_items, D), of DeepMusic's network: C -> C, ReLU, -> D, mean squared error.

    Of the items with a weight above 0 each of ten folds is predicted by a network that has not seen it: of the other
    folds the next one selects the epoch, that with the smallest weighted error on it, and the rest train. Other items
    are predicted by the first network. The factors are scaled to mean square length 1 for the training. With fewer than
    three items with a weight all are in every role. log: function of (epoch, train, held-out) errors of the first
    network.
    Returns the prediction and the epochs of the first network that were kept.
    """
    import numpy as np
    import torch
    generator = torch.Generator().manual_seed(settings.seed)
    used = np.flatnonzero(np.asarray(weights) > 0)
    order = used[torch.randperm(len(used), generator=generator).numpy()]
    folds = np.array_split(order, min(ridge.FOLDS, max(len(order), 1)))
    scale = max(float(np.sqrt((factors[used] ** 2).sum(axis=1).mean())), 1e-12)
    x = content.network_input(features, len(factors), device)
    y = torch.as_tensor(factors / scale, dtype=torch.float32).to(device)
    w = torch.as_tensor(np.asarray(weights), dtype=torch.float32).to(device)
    predicted, epochs = None, []
    for i, held in enumerate(folds):
        judge = folds[(i + 1) % len(folds)] if len(folds) > 2 else order
        others = order[~np.isin(order, np.concatenate([held, judge]))] if len(folds) > 2 else order
        items, kept = _trained(x, y, w, others, judge, settings, generator, None if epochs else log)
        predicted = items if predicted is None else predicted
        predicted[held] = items[held]
        epochs.append(kept)
    return predicted * scale, epochs[0]


def _trained(x, y, w, fitted, held, settings, generator, log):
    """(predicted factors of all items, float64 (n_items, D), epochs kept) of one network.

    x, y, w: content, factors and weights, tensors; fitted, held: items to train on and to select the epoch on
    """
    import copy

    import numpy as np
    import torch
    device = x.device
    network = _network(x.shape[1], y.shape[1], settings.seed).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr)
    stopping = EarlyStopping("loss", settings.epochs, settings.patience)
    held, kept, epoch = torch.as_tensor(held).to(device), copy.deepcopy(network.state_dict()), 0

    def error(rows):
        return (w[rows, None] * (network(x[rows]) - y[rows]) ** 2).sum() / w[rows].sum()
    while not stopping.done(epoch):
        total = 0.0
        for batch in torch.as_tensor(fitted)[torch.randperm(len(fitted), generator=generator)].split(
                settings.batch_size):
            optimiser.zero_grad()
            loss = error(batch.to(device))
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch) / len(fitted)
        epoch += 1
        with torch.no_grad():
            value = error(held).item()
        check_loss(epoch, total, value)
        if stopping.update(epoch, {"loss": value}):
            kept = copy.deepcopy(network.state_dict())
        if log is not None:
            log(epoch, total, value)
    network.load_state_dict(kept)
    with torch.no_grad():
        return network(x).cpu().numpy().astype(np.float64), stopping.best_epoch


def _network(columns, outputs, seed):
    """C -> C, ReLU, -> D with weights drawn by a generator of its own."""
    import torch
    layers = torch.nn.Sequential(torch.nn.Linear(columns, columns), torch.nn.ReLU(), torch.nn.Linear(columns, outputs))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (layers[0], layers[2]):
            bound = layer.in_features ** -0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
    return layers
