"""Dropout on a processor: what torch's gives in chance, scale and gradient, decided by torch's seed."""
import pytest
import torch
from torch import nn

from training.dropout import Dropout, dropout, replace


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_chance_and_scale(p):
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, 1001), p, True)
    values, counts = out.unique(return_counts=True)
    assert values[0] == 0 and values[1:] == pytest.approx([1 / (1 - p)], rel=1e-4)
    sigma = (p * (1 - p) / out.numel()) ** 0.5
    assert abs(counts[0] / out.numel() - p) < 5 * sigma
    rows = (out == 0).double().mean(1)                       # no row or column stands out
    assert rows.std() == pytest.approx((p * (1 - p) / 1001) ** 0.5, rel=0.1)
    pairs = ((out[:, :-1] == 0) & (out[:, 1:] == 0)).double().mean()
    assert abs(pairs - p * p) < 5 * (p * p / out.numel()) ** 0.5


def test_the_gradient_has_the_same_mask():
    torch.manual_seed(0)
    x = torch.randn(7, 5, requires_grad=True)
    out = dropout(x, 0.3, True)
    out.sum().backward()
    assert torch.equal(x.grad == 0, out == 0) and torch.allclose(x.grad * x, out)


def test_the_seed_decides():
    def drawn(seed):
        torch.manual_seed(seed)
        return [dropout(torch.ones(50), 0.5, True) for _ in range(2)]
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(map(torch.equal, first, again)) and not torch.equal(*first) and not torch.equal(first[0], other[0])


def test_what_is_left_alone():
    x = torch.randn(4, 3)
    assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x
    assert dropout(x[:0], 0.5, True).shape == (0, 3)
    assert not dropout(x, 1.0, True).any()
    assert dropout(x.double(), 0.5, True).dtype == torch.float64
    assert dropout(x.bfloat16(), 0.5, True).dtype == torch.bfloat16


def test_every_dropout_of_a_model_is_replaced():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.1)))
    replace(model)
    assert [(type(m), m.p) for m in model.modules() if isinstance(m, nn.Dropout)] == [(Dropout, 0.3), (Dropout, 0.1)]
