"""Fusion of content and plays in the item vectors of a model: --fusion.

    frozen    the content as it is
    start     vectors that train, with the content as their start
    delta     unit(content) + a trained difference, whose length is at most --delta-norm
    concat    the content beside a trained ID vector of --hidden-dim values

A cold item has its content, in delta with a difference of 0, in concat with an ID of 0; so has an item that nobody
played in train (in `start` of the sequence models, whose softmax holds every item of the split, it trains as one that
nobody chooses). delta is that of "Let It Go? Not Quite" (RecSys 2025, arXiv 2507.19473), whose bound of .5 keeps the
cosine of a vector with its content at .866 or more. Content is standardised by column over the hot items, brought to
the model's width by PCA where it is wider, and each row to length 1.

A table holds content and trained part in one; `constrain` brings it back after each step of the optimiser, which is the
projected gradient method. In concat that is the same as training the ID alone.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import cli

if TYPE_CHECKING:
    import argparse
    from typing import Any

    import numpy as np
    import torch

    from dataset import Split

KINDS = ("frozen", "start", "delta", "concat")
CONSTRAINED = ("delta", "concat")     # the others are item_freeze 1 and 0
DELTA_NORM = 0.5
ID_SPREAD = 0.02                      # standard deviation of an ID's start, small beside a content of length 1
COLD_WITHOUT_CONTENT = "random has no content: a track nobody played keeps an untrained vector"


# --------------------------------------------------------------------------- flags and request

def flags(group: Any, instead: str = "in place of item_freeze") -> None:
    """Add --fusion and --delta-norm; instead: words on how the flag meets the others of the method."""
    group.add_argument("--fusion", choices=KINDS, default=None,
                       help="combination of content and plays in an item's vector: frozen: the content alone; start: "
                            "a trained vector that starts as the content; delta: content plus a trained difference of "
                            f"bounded length; concat: content beside a trained ID vector ({instead})")
    group.add_argument("--delta-norm", type=cli.number(0, above=True), default=None, metavar="FLOAT",
                       help=f"largest length of the difference of --fusion delta, whose content has length 1 (default "
                            f"{DELTA_NORM:g})")


def settle(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse --fusion where it contradicts another argument, and put frozen and start into item_freeze.

    args: has model, item_freeze, dynamic_item_freeze and, where the method has it, as_published
    """
    check_norm(parser, args)
    if args.fusion is None:
        return
    if args.model == "random":
        parser.error("--fusion joins an embedding with what the plays teach; random has no content")
    if getattr(args, "as_published", False):
        parser.error("the published code has item_freeze and no --fusion; leave one of them out")
    if args.dynamic_item_freeze:
        parser.error(f"--fusion {args.fusion} does not wait for a plateau; give dynamic_item_freeze 0")
    args.item_freeze = int(args.fusion == "frozen")
    if args.fusion not in CONSTRAINED:
        args.fusion = None


def check_norm(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse --delta-norm without --fusion delta, and fill in its default."""
    if args.fusion != "delta" and args.delta_norm is not None:
        parser.error("--delta-norm bounds the difference of --fusion delta; give both, or neither")
    if args.fusion == "delta" and args.delta_norm is None:
        args.delta_norm = DELTA_NORM


def requested(request: dict) -> dict:
    """A request without what it does not use: a run without fusion keeps the name it had before there was one."""
    return {k: v for k, v in request.items() if k not in ("fusion", "delta_norm") or v is not None}


# --------------------------------------------------------------------------- vectors

def unit_content(split: Split, names: list[str], missing: str, shuffle: int | None, width: int | None = None
                 ) -> np.ndarray:
    """Content of the items, float32 (n_items, D), rows of length 1; a row without content (the mean) is 0.

    names: embeddings, side by side; missing, shuffle: as for dataset.load_embedding; width: the largest D, to which
    wider content is brought by PCA on the hot items
    """
    import numpy as np

    import dataset
    from training import content
    gaps = missing == "mean"
    present = np.stack([dataset.has_embedding(split, name) if gaps else np.ones(split.n_items, bool)
                        for name in names], axis=1)                                                 # (n_items, names)
    x = np.hstack([content.standardise(dataset.load_embedding(split, name, missing, shuffle), slice(split.n_hot))
                   * own[:, None] for name, own in zip(names, present.T, strict=True)])
    if width is not None and x.shape[1] > width:
        from sklearn.decomposition import PCA
        pca = PCA(min(width, split.n_hot), random_state=0).fit(x[:split.n_hot])
        x = np.pad(pca.transform(x), ((0, 0), (0, width - pca.n_components_)))
    x[~present.any(axis=1)] = 0                    # not the direction of what rounding leaves
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-9).astype(np.float32)


@dataclass
class Fusion:
    """The constraint on an item table.

    kind: delta or concat; base: float32 (V, D), the table without what is trained, on the table's device; fixed: the
    first so many columns do not train (concat); norm: largest length of the difference (delta); unplayed: bool (V,)
    items without a play in train, which keep their base
    """
    kind: str
    base: torch.Tensor
    unplayed: torch.Tensor
    fixed: int = 0
    norm: float = DELTA_NORM

    def to(self, device: torch.device) -> Fusion:
        return Fusion(self.kind, self.base.to(device), self.unplayed.to(device), self.fixed, self.norm)

    def constrain(self, table: torch.Tensor) -> None:
        """Bring the table (V, D) back to what the fusion allows, in place."""
        import torch
        with torch.no_grad():
            if self.kind == "concat":
                table[:, :self.fixed] = self.base[:, :self.fixed]
                table[self.unplayed] = self.base[self.unplayed]
                return
            table.sub_(self.base)
            limit(table, self.norm)
            table[self.unplayed] = 0
            table.add_(self.base)

    def penalty(self, table: torch.Tensor) -> torch.Tensor:
        """Sum of squares of what is trained, a scalar with a gradient."""
        return (table - self.base).square().sum()

    def decay_towards_content(self, table: torch.Tensor, weight_decay: float, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimiser's weight decay draw the table towards its content instead of towards zero.

        The gradient changes just before the step, once, after the sum over the processes (training/parallel.py).
        """
        def draw(*_):
            if table.grad is not None:
                table.grad.sub_(self.base, alpha=weight_decay)
        if weight_decay:
            optimizer.register_step_pre_hook(draw)


def limit(rows: torch.Tensor, norm: float) -> None:
    """Shorten rows (n, D) longer than `norm` to that length, in place."""
    rows.mul_((norm / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1))


def table(split: Split, kind: str, norm: float | None, unit: np.ndarray, ids: int, draw: torch.Generator
          ) -> tuple[torch.Tensor, torch.Tensor, Fusion]:
    """The item table at its start (n_hot, D), the vectors of the cold items (n_cold, D), and the Fusion, on the CPU.

    unit: (n_items, C) of `unit_content`; ids: width of the ID vectors of concat, D = C + ids there, else C
    """
    import torch
    vectors, unplayed = torch.from_numpy(unit), torch.as_tensor(split.unseen)
    if kind == "concat":
        vectors = torch.cat([vectors, torch.zeros(len(vectors), ids)], 1)
    base, cold = vectors[:split.n_hot], vectors[split.n_hot:]
    start = base.clone()
    fused = Fusion(kind, base, unplayed, unit.shape[1], norm or DELTA_NORM)
    if kind == "concat":
        start[:, fused.fixed:].normal_(std=ID_SPREAD, generator=draw)
        fused.constrain(start)
    return start, cold, fused
