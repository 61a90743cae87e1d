"""Shallow Net: one Linear + ReLU shared by users and items, scored by the cosine.

    python train.py musicnn item 20 10000 100 1 0 "baseline" 1 0 0 0 0.0

Source: "Comparative Analysis of Pretrained Audio Representations in Music Recommender Systems"
(RecSys '24), section 3.2. With e_u, e_i the embeddings and f(x) = ReLU(W x + b), the score of a pair is
cos(f(e_u), f(e_i)); the loss is a hinge over sampled negatives.

Letters: U users, I items, D dimensions of an embedding, H of a projected one, B pairs of a batch, N negatives of a
pair, C = 1 + N candidates.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from training import fused_cosine


class ShallowEmbeddingModel(nn.Module):
    """User and item embeddings behind one shared Linear + ReLU.

    item_embeddings: float32 (I, D), the content, or a random start; user_embeddings: float32 (U, D)
    hidden_dim: H, 0 for D; generator: of the Linear's start, uniform within 1 / sqrt(D) as in nn.Linear
    fusion: a training.fusion.Fusion that limits how far the item embeddings leave their content, None for no limit
    A new model trains everything; see freeze_item_embs and freeze_user_embs.
    """
    fusion = None

    def __init__(self, item_embeddings, user_embeddings, hidden_dim=0, generator=None):
        super().__init__()
        dim = item_embeddings.shape[1]
        if user_embeddings.shape[1] != dim:
            raise ValueError(f"users have {user_embeddings.shape[1]} dimensions, items {dim}")
        self.item_embeddings = nn.Parameter(item_embeddings.detach().clone())
        self.user_embeddings = nn.Parameter(user_embeddings.detach().clone())
        hidden_dim, bound = hidden_dim or dim, 1 / math.sqrt(dim)
        self.weight = nn.Parameter(torch.empty(hidden_dim, dim).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(hidden_dim).uniform_(-bound, bound, generator=generator))

    def freeze_item_embs(self, flag):
        """True freezes the item embeddings, False trains them (the published code does the reverse)."""
        self.item_embeddings.requires_grad_(not flag)

    def freeze_user_embs(self, flag):
        """True freezes the user embeddings, False trains them (the published code does the reverse)."""
        self.user_embeddings.requires_grad_(not flag)

    def constrain(self):
        """Bring the item embeddings back to what `fusion` allows, after a step of the optimiser."""
        if self.fusion is not None:
            self.fusion.constrain(self.item_embeddings)

    def trained(self):
        """The parameters that train."""
        return [p for p in self.parameters() if p.requires_grad]

    def unit(self, embeddings):
        """Unit vectors f(e) / |f(e)|, (n, H), of embeddings (n, D); a row that the ReLU empties is a zero row."""
        return F.normalize(F.relu(F.linear(embeddings, self.weight, self.bias)), dim=-1, eps=fused_cosine.EPS)

    def forward(self, users, items):
        """Cosines of pairs of user codes and item codes, whose shapes broadcast: (B, 1) and (B, C) give (B, C).

        The definition in plain torch. Each distinct user and item is projected once and the pairs take their rows.
        Training uses `scores`: the same values and gradients in less time.
        """
        user_rows, user = users.unique(return_inverse=True)
        item_rows, item = items.unique(return_inverse=True)
        user_units = self.unit(F.embedding(user_rows, self.user_embeddings))
        item_units = self.unit(F.embedding(item_rows, self.item_embeddings))
        return torch.einsum("...h,...h->...", F.embedding(user, user_units), F.embedding(item, item_units))

    def scores(self, anchor, anchors, candidates):
        """Cosines (B, C) of anchors (B,) with their candidates (B, C), as `forward` but faster (bench/shallow.py).

        anchor: 'user' (anchors are user codes, candidates item codes) or 'item' (the other way round)
        """
        tables = self.user_embeddings, self.item_embeddings
        tables = tables if anchor == "user" else tables[::-1]
        return fused_cosine.cosines(*tables, self.weight, self.bias, anchors, candidates)

    @torch.no_grad()
    def project(self, embeddings):
        """As `unit`, without a gradient."""
        return self.unit(embeddings)

    def extract_embeddings(self):
        """Unit vectors of all users (U, H) and items (I, H); their dot product is the score."""
        return self.project(self.user_embeddings), self.project(self.item_embeddings)

    def penalty(self, everything=False):
        """Sum of squares of the trained parameters (of all of them, if asked: the published value); with `fusion` of
        how far the item embeddings left their content."""
        parameters = self.parameters() if everything else self.trained()
        squares = [torch.dot(p.flatten(), p.flatten()) for p in parameters
                   if self.fusion is None or p is not self.item_embeddings]
        return sum(squares) + (0 if self.fusion is None else self.fusion.penalty(self.item_embeddings))


# --------------------------------------------------------------------------- losses

def confidence(count):
    """Weight of a pair played `count` times: 1 + 2 log(1 + count), the paper's use_confidence."""
    return 1 + 2 * torch.log1p(count)


def hinge(scores, weight=None, margin=0.2):
    """Mean over pairs and negatives of weight * max(0, margin - positive + negative).

    scores: (B, 1 + N), the positive first; weight: (B,), absent: 1
    """
    loss = (margin - scores[:, :1] + scores[:, 1:]).clamp(min=0)
    return loss.mean() if weight is None else (loss * weight.unsqueeze(1)).mean()


def bpr(scores, weight=None, temperature=0.1):
    """Mean over pairs and negatives of weight * -log sigmoid((positive - negative) / temperature).

    Rendle et al., UAI 2009, equation of BPR-Opt; cosines end at 1, hence the temperature.
    """
    loss = F.softplus((scores[:, 1:] - scores[:, :1]) / temperature)
    return loss.mean() if weight is None else (loss * weight.unsqueeze(1)).mean()


def infonce(scores, weight=None, temperature=0.1):
    """Mean over pairs of weight * -log softmax(scores / temperature) of the positive among its candidates.

    van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
    """
    scaled = scores / temperature
    loss = scaled.logsumexp(1) - scaled[:, 0]
    return loss.mean() if weight is None else (loss * weight).mean()


LOSSES = {"hinge": hinge, "bpr": bpr, "infonce": infonce}
