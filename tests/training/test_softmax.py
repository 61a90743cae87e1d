"""The softmax in blocks against the dense one."""
import pytest
import torch

from training import softmax
from training.softmax import blocked_logsumexp, summed_logsumexp


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


@pytest.mark.parametrize("rows", [1, 2, 5, 1000, None])
@pytest.mark.parametrize("frozen", [True, False])
def test_summed_logsumexp_has_exact_gradients(rows, frozen):
    torch.manual_seed(0)
    hidden = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    table = torch.randn(23, 6, dtype=torch.float64, requires_grad=not frozen)
    assert torch.allclose(summed_logsumexp(hidden, table, rows=rows), (hidden @ table.T).logsumexp(1).sum())
    assert torch.autograd.gradcheck(lambda h, w: 3 * summed_logsumexp(h, w, rows=rows), (hidden, table))


def test_summed_logsumexp_of_huge_scores():
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    value = summed_logsumexp(hidden, torch.tensor([[1e4], [-1e4], [0.0], [5e3]]), rows=1)
    value.backward()
    assert value == 2e4 and hidden.grad.squeeze().tolist() == [1e4, -1e4]


def test_summed_logsumexp_of_a_table_too_large_for_rows_of_scores(monkeypatch):
    """The road by blocks of items gives the same sum and gradients."""
    torch.manual_seed(0)
    hidden, table = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 600))
    expected = torch.autograd.grad(summed_logsumexp(hidden, table), (hidden, table))
    monkeypatch.setattr(softmax, "budget", lambda device: 64)
    monkeypatch.setattr(softmax.SummedLogSumExp, "apply", None)
    found = torch.autograd.grad(summed_logsumexp(hidden, table), (hidden, table))
    assert all(torch.allclose(a, b) for a, b in zip(expected, found, strict=True))


def test_summed_logsumexp_in_bf16_is_close():
    torch.manual_seed(0)
    hidden, table = (torch.randn(n, 16, requires_grad=True) for n in (40, 90))
    exact, narrow = (torch.autograd.grad(summed_logsumexp(hidden, table, dtype), (hidden, table))
                     for dtype in (torch.float32, torch.bfloat16))
    for a, b in zip(exact, narrow, strict=True):
        assert b.dtype == torch.float32 and 0 < (a - b).abs().max() < 0.03 * a.abs().max()
