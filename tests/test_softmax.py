"""The softmax in blocks against the dense one."""
import pytest
import torch

from softmax import blocked_logsumexp


@pytest.mark.parametrize("rows", [1, 7, 23, 1000])
def test_blocked_logsumexp_has_exact_gradients(rows):
    torch.manual_seed(0)
    hidden, table = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 23))
    assert torch.allclose(blocked_logsumexp(hidden, table, rows=rows), (hidden @ table.T).logsumexp(1))
    assert torch.autograd.gradcheck(lambda h, w: blocked_logsumexp(h, w, rows=rows), (hidden, table))


def test_blocked_logsumexp_of_huge_scores():
    """Scores of +-10,000, the largest first, last and in the middle: the maximum itself, no overflow."""
    table = torch.tensor([[1e4], [-1e4], [0.0], [5e3]])
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    value = blocked_logsumexp(hidden, table, rows=1)
    assert value.tolist() == [1e4, 1e4]
    value.sum().backward()
    assert hidden.grad.squeeze().tolist() == [1e4, -1e4]
