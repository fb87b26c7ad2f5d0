"""The inverse empirical Fisher matrix and pruning by it, against dense matrices."""

import pytest
import torch
from torch import nn

from steepest.analyze import InverseFisher, prune


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def data(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


def dense(model: nn.Module, damping: float) -> torch.Tensor:
    """The matrix, from one backward pass per sample."""
    x, y = data()
    params = list(model.parameters())
    total = damping * torch.eye(sum(p.numel() for p in params), dtype=torch.float64)
    for k in range(len(x)):
        loss = nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
        g = torch.cat([t.reshape(-1) for t in torch.autograd.grad(loss, params)])
        total += torch.outer(g, g) / len(x)
    return total


@pytest.mark.parametrize("damping", [1e-6, 1e-2])
@pytest.mark.parametrize("chunk", [None, 5])
def test_products_and_diagonal_are_those_of_the_dense_inverse(damping: float, chunk: int | None) -> None:
    model = net()
    fisher = InverseFisher.of_model(model, nn.functional.cross_entropy, *data(), damping=damping, chunk=chunk)
    inverse = torch.linalg.inv(dense(model, damping))
    v = torch.randn(len(inverse), dtype=torch.float64)
    torch.testing.assert_close(fisher(v), inverse @ v, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(fisher.diagonal(), inverse.diagonal(), rtol=1e-6, atol=1e-8)
    w = torch.randn(len(inverse), dtype=torch.float64)
    torch.testing.assert_close(fisher.saliency(w), w**2 / (2 * inverse.diagonal()), rtol=1e-6, atol=1e-8)


def test_blocks() -> None:
    rows = torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = 0.1 * torch.eye(10, dtype=torch.float64) + rows.T @ rows / 6
    cut = torch.block_diag(*(whole[s, s] for s in (slice(0, 4), slice(4, 8), slice(8, 10))))
    fisher = InverseFisher(rows, damping=0.1, block_size=4)
    v = torch.arange(10.0, dtype=torch.float64)
    torch.testing.assert_close(fisher(v), torch.linalg.solve(cut, v))
    torch.testing.assert_close(fisher.diagonal(), torch.linalg.inv(cut).diagonal())


def test_removing_one_weight_is_the_constrained_minimum() -> None:
    """min d'Fd/2 with w_j + d_j = 0, by its Lagrange conditions; its value is the saliency."""
    rows = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fisher, F = InverseFisher(rows, damping=0.1), 0.1 * torch.eye(6, dtype=torch.float64) + rows.T @ rows / 30
    w = torch.arange(1.0, 7.0, dtype=torch.float64)
    unit = torch.eye(6, dtype=torch.float64)[2]
    kkt = torch.cat([torch.cat([F, unit[:, None]], 1), torch.cat([unit, torch.zeros(1).double()])[None]])
    move = torch.linalg.solve(kkt, torch.cat([torch.zeros(6).double(), -w[2:3]]))[:6]
    torch.testing.assert_close(fisher.removal(w, unit.bool()), w + move)
    torch.testing.assert_close(fisher.saliency(w)[2], 0.5 * move @ F @ move)


def test_pruning_zeroes_the_lowest_and_spares_biases() -> None:
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    scores = torch.cat([p.detach().reshape(-1).abs() for p in model.parameters()])
    masks = prune(model, scores, 0.6)
    weights = torch.cat([before[0].reshape(-1), before[2].reshape(-1)])
    bound = weights.abs().sort().values[int(0.6 * len(weights)) - 1]
    for p, old, mask in zip(model.parameters(), before, masks.values(), strict=True):
        assert torch.equal(mask, (old.abs() > bound) | torch.tensor(old.dim() == 1))
        assert torch.equal(p, torch.where(mask, old, 0.0))


def test_pruning_with_compensation_keeps_the_zeros() -> None:
    model = net()
    fisher = InverseFisher.of_model(model, nn.functional.cross_entropy, *data(), damping=1e-3)
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    masks = prune(model, fisher.saliency(weights), 0.5, fisher)
    removed = ~torch.cat([m.reshape(-1) for m in masks.values()])
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert int(removed.sum()) == 17
    torch.testing.assert_close(after, fisher.removal(weights, removed))
    assert not after[removed].any()


def test_bad_arguments_are_named() -> None:
    rows = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"InverseFisher: damping must be a finite number in \(0, inf\), got 0.0"):
        InverseFisher(rows, damping=0.0)
    with pytest.raises(ValueError, match="InverseFisher: block_size must be an integer >= 1 or None, got 0"):
        InverseFisher(rows, block_size=0)
    with pytest.raises(ValueError, match="at least one sample"):
        InverseFisher(rows[:0])
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        InverseFisher(rows)(torch.ones(2))
    with pytest.raises(ValueError, match=r"prune: sparsity must be a finite number in \[0, 1\], got 1.5"):
        prune(nn.Linear(2, 2), torch.ones(6), 1.5)
    with pytest.raises(ValueError, match=r"gradients must be of the same samples, got \[2, 3\] rows"):
        InverseFisher({"a": rows, "b": torch.ones(3, 1)})
    coupled = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with pytest.raises(RuntimeError, match=r"per_sample_gradients: the batch norm '1' is in training mode.*eval\(\)"):
        InverseFisher.of_model(coupled, nn.functional.mse_loss, torch.ones(2, 4), torch.ones(2, 5))
    with pytest.raises(ValueError, match="InverseFisher: gradients must be finite"):
        InverseFisher(rows * torch.nan)
    with pytest.raises(ValueError, match="scores must be numbers, got 1 that are NaN"):
        prune(nn.Linear(2, 2), torch.tensor([1.0, torch.nan, 1.0, 1.0, 1.0, 1.0]), 0.5)
    with pytest.raises(ValueError, match=r"scores must have the shape \(6,\), got \(4,\)"):
        prune(nn.Linear(2, 2), torch.ones(4), 0.5)
