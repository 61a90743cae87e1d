"""What bench/bert4rec.py counts as the products of a step."""
import pytest
import torch

from bench.bert4rec import products
from training.softmax import cross_entropy


@pytest.mark.parametrize("trained", [False, True])
def test_the_products_of_a_softmax_are_counted_whoever_computes_it(trained):
    """torch's chunked operator as the plain product: scores, and the gradient of each of the two that is trained."""
    draw = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(640, 16, generator=draw), torch.randn(900, 16, generator=draw)
    hidden.requires_grad_()
    table.requires_grad_(trained)
    targets = torch.randint(0, 900, (640,), generator=draw)
    for loss in (lambda: cross_entropy(hidden, table, targets),
                 lambda: torch.nn.functional.cross_entropy(hidden @ table.T, targets)):
        assert products(lambda loss=loss: loss().backward()) == 2 * 640 * 16 * 900 * (3 if trained else 2)
