"""The softmax in blocks against the dense one."""
import pytest
import torch
import torch.nn.functional as F

from tests.worlds.histories import largest_allocation
from training.softmax import blocked_logsumexp, cross_entropy

pytestmark = pytest.mark.numeric


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


@pytest.mark.parametrize("frozen", [True, False])
def test_cross_entropy_has_exact_gradients(frozen):
    """Also over several chunks of rows: 300 rows make three of at least 128."""
    torch.manual_seed(0)
    for rows in (5, 300):
        hidden = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
        table = torch.randn(9000, 6, dtype=torch.float64, requires_grad=not frozen)
        targets, wanted = torch.randint(9000, (rows,)), [hidden] if frozen else [hidden, table]
        ours, dense = cross_entropy(hidden, table, targets), F.cross_entropy(hidden @ table.T, targets)
        assert torch.allclose(ours, dense)
        for a, b in zip(*(torch.autograd.grad(3 * loss, wanted) for loss in (ours, dense)), strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("frozen", [True, False])
def test_cross_entropy_never_holds_all_scores(frozen):
    """2,048 x 9,000 scores in chunks of 128 rows: no allocation is above an eighth of all."""
    hidden = torch.randn(2048, 4, requires_grad=True)
    table, targets = torch.randn(9000, 4, requires_grad=not frozen), torch.randint(9000, (2048,))
    largest = largest_allocation(lambda: cross_entropy(hidden, table, targets).backward())
    assert 4 * 128 * 9000 <= largest <= 4 * 2048 * 9000 / 8   # bytes; the chunk itself is seen


@pytest.mark.parametrize("frozen", [True, False])
def test_cross_entropy_of_huge_scores(frozen):
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    table = torch.tensor([[1e4], [-1e4], [0.0], [5e3]], requires_grad=not frozen)
    value = cross_entropy(hidden, table, torch.tensor([0, 2]))
    value.backward()
    assert value == (0 + 1e4) / 2 and hidden.grad.squeeze().tolist() == [0, -5e3]


@pytest.mark.parametrize("frozen", [True, False])
def test_cross_entropy_in_bf16_is_close_and_not_rounded_to_bf16(frozen):
    torch.manual_seed(0)
    hidden, table = (torch.randn(n, 16, requires_grad=g) for n, g in ((40, True), (90, not frozen)))
    targets, wanted = torch.randint(90, (40,)), [hidden] if frozen else [hidden, table]
    losses = [cross_entropy(hidden, table, targets, dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert losses[1].dtype == torch.float32 and 0 < abs(losses[0] - losses[1]) < 0.02 * losses[0]
    for a, b in zip(*(torch.autograd.grad(loss, wanted) for loss in losses), strict=True):
        assert b.dtype == torch.float32 and 0 < (a - b).abs().max() < 0.03 * a.abs().max()
