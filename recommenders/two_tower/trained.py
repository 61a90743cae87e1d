"""What --fusion trains for each item of the two towers' catalogue, and the columns that it knows of an item."""
import math

import torch
from torch import nn

from training import fusion

COUNTS = 2     # first columns of an item and of a user: what train counts
SIZE = 128     # of the towers' vectors


class Trained(nn.Module):
    """What --fusion trains for each of the V items of train: a difference of the content, or an ID vector beside it.

    kind: start, delta or concat; content: columns of the embeddings, which follow the counts; norm: largest length of
    the difference of delta, where the content has length 1
    """

    def __init__(self, kind, items, content, norm=None):
        super().__init__()
        self.kind, self.limit = kind, norm and norm * math.sqrt(content)
        self.content = slice(COUNTS, COUNTS + content)
        self.rows = nn.Parameter(torch.zeros(items, SIZE if kind == "concat" else content))
        if kind == "concat":
            nn.init.normal_(self.rows, std=fusion.ID_SPREAD)

    @property
    def added(self):
        """Columns that the item tower reads in addition."""
        return self.rows.shape[1] if self.kind == "concat" else 0

    def forward(self, columns, hidden, codes):
        """Columns (b, F) of items with what is trained for their codes (b,); where hidden (b, 1), it is 0."""
        own = nn.functional.embedding(codes.clamp(max=len(self.rows) - 1), self.rows) * (1 - hidden)
        if self.kind == "concat":
            return torch.cat([columns, own], 1)
        start, stop = self.content.start, self.content.stop
        return torch.cat([columns[:, :start], columns[:, start:stop] + own, columns[:, stop:]], 1)

    @torch.no_grad()
    def constrain(self):
        """Bring the differences back to their largest length, after a step of the optimiser."""
        if self.kind == "delta":
            fusion.limit(self.rows, self.limit)
