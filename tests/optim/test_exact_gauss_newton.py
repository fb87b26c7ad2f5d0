"""Exact Gauss-Newton against dense solves and closed forms."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.optim import ExactGaussNewton

LOSSES = ("squared", "cross-entropy", "binary")
FUNCTIONS: dict[str, Any] = {
    "squared": lambda z, y: 0.5 * (z - y).square().sum(1).mean(),
    "cross-entropy": functional.cross_entropy,
    "binary": lambda z, y: functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1).mean(),
}


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def batch(loss: str, n: int = 7, outputs: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    if loss == "cross-entropy":
        return x, torch.randint(outputs, (n,), generator=g)
    y = torch.randn(n, outputs, generator=g, dtype=torch.float64)
    return x, (y > 0).double() if loss == "binary" else y


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def dense(model: nn.Module, loss: str, x: Tensor, y: Tensor, damping: float) -> Tensor:
    """The direction from d x d matrices: Jacobians row by row, Hessians of the loss by differentiation."""
    params = list(model.parameters())
    z = model(x)
    size, total = sum(p.numel() for p in params), 0.0
    for k in range(len(x)):
        rows = [torch.autograd.grad(o, params, retain_graph=True) for o in z[k]]
        J = torch.stack([torch.cat([t.reshape(-1) for t in r]) for r in rows])
        Q = torch.autograd.functional.hessian(lambda o, k=k: FUNCTIONS[loss](o[None], y[k : k + 1]), z[k].detach())
        total = total + J.T @ Q @ J / len(x)
    g = torch.cat([t.reshape(-1) for t in torch.autograd.grad(FUNCTIONS[loss](z, y), params)])
    return -torch.linalg.solve(total + damping * torch.eye(size, dtype=torch.float64), g)


@pytest.mark.parametrize("given", [*LOSSES, "function"])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_direction_is_the_dense_solution(given: str, damping: float, chunk: int | None) -> None:
    name = "cross-entropy" if given == "function" else given
    model = net()
    x, y = batch(name)
    expected, start = dense(model, name, x, y, damping), flat(model)
    loss = FUNCTIONS[name] if given == "function" else given
    opt = ExactGaussNewton(model, loss, lr=0.5, damping=damping, chunk=chunk)
    value = opt.step(x, y)
    torch.testing.assert_close((flat(model) - start) / 0.5, expected, rtol=1e-8, atol=1e-9)
    model.load_state_dict(net().state_dict())
    torch.testing.assert_close(value, FUNCTIONS[name](model(x), y).detach())
    assert opt.gradient_evaluations == 3


def test_a_linear_model_is_solved_in_one_step() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    ExactGaussNewton(model, "squared", damping=1e-9).step(x, y)
    design = torch.cat([x, torch.ones(20, 1).double()], 1)
    exact = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(
        torch.cat([model.weight, model.bias[:, None]], 1).detach(), exact.T, rtol=1e-6, atol=1e-7
    )


def test_fewer_samples_than_parameters_get_the_minimum_norm_step() -> None:
    torch.manual_seed(0)
    model = nn.Linear(9, 1, bias=False).double()
    start = flat(model)
    x, y = torch.randn(3, 9, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    expected = torch.linalg.pinv(x) @ (y - model(x).detach())
    ExactGaussNewton(model, "squared", damping=1e-12).step(x, y)
    torch.testing.assert_close(flat(model) - start, expected[:, 0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_large_damping_is_gradient_descent(loss: str) -> None:
    model, twin = net(), net()
    x, y = batch(loss)
    ExactGaussNewton(model, loss, lr=1e9, damping=1e10).step(x, y)
    FUNCTIONS[loss](twin(x), y).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    torch.testing.assert_close(flat(model), flat(twin), rtol=1e-7, atol=1e-8)


def test_momentum_is_a_corrected_average_of_directions() -> None:
    model = net()
    x, y = batch("cross-entropy")
    opt, average = ExactGaussNewton(model, lr=0.3, damping=0.1, momentum=0.8), 0.0
    for t in range(1, 4):
        start = flat(model)
        average = 0.8 * average + 0.2 * dense(model, "cross-entropy", x, y, 0.1)
        opt.step(x, y)
        torch.testing.assert_close(flat(model) - start, 0.3 * average / (1 - 0.8**t), rtol=1e-7, atol=1e-9)


def test_line_search_meets_armijos_condition() -> None:
    """With far too little damping a whole step would raise the loss."""
    model = net()
    x, y = batch("cross-entropy", n=4)
    opt = ExactGaussNewton(model, lr=1000.0, damping=1e-3, line_search=True)
    sizes = []
    for _ in range(4):
        before, d = flat(model), dense(model, "cross-entropy", x, y, 1e-3)
        g = torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))
        slope = float(torch.cat([t.reshape(-1) for t in g]) @ d)
        here = float(opt.step(x, y))
        size = float((flat(model) - before) @ d / (d @ d))
        there = float(functional.cross_entropy(model(x), y).detach())
        assert size == 0 or there <= here + 0.1 * size * slope + 1e-12
        sizes.append(size)
    assert sizes[0] < 1000.0
    for a, b in itertools.pairwise(sizes):  # from 1.5 times the one before, by factors of 0.8
        if a and b:
            trials = math.log(b / (1.5 * a), 0.8)
            assert trials == pytest.approx(round(trials), abs=1e-4)
            assert round(trials) >= 0
    assert sizes[-1] > 0


def test_damping_follows_the_quality_of_the_quadratic_model() -> None:
    model = nn.Linear(4, 3).double()
    opt = ExactGaussNewton(model, "squared", damping=0.5, adaptive_damping=True)
    opt.step(*batch("squared"))  # the model is exact
    assert opt.param_groups[0]["damping"] == pytest.approx(0.5 * 0.99)
    # Far along the step, where the decrease is a tenth of that of a whole one, the model still knows it.
    opt = ExactGaussNewton(nn.Linear(4, 3).double(), "squared", lr=1.95, damping=1e-6, adaptive_damping=True)
    opt.step(*batch("squared"))
    assert opt.param_groups[0]["damping"] == pytest.approx(1e-6 * 0.99)
    model = net()
    opt = ExactGaussNewton(model, "cross-entropy", lr=300.0, damping=0.01, adaptive_damping=True)
    opt.step(*batch("cross-entropy", n=4))  # the model promises nothing so far away
    assert opt.param_groups[0]["damping"] == pytest.approx(0.01 * 1.01)


def test_searching_leaves_dropout_and_the_random_state_as_one_evaluation_does() -> None:
    def run(line_search: bool) -> tuple[Tensor, Tensor]:
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        torch.manual_seed(3)
        ExactGaussNewton(model, lr=0.1, line_search=line_search).step(*batch("cross-entropy"))
        return torch.rand(3), flat(model)

    torch.manual_seed(0)
    (a, _), (b, found) = run(False), run(True)
    assert torch.equal(a, b)
    assert found.isfinite().all()


def test_batch_norms_in_training_are_refused_and_counted_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    opt = ExactGaussNewton(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"ExactGaussNewton: the batch norm '1' is in training mode.*eval\(\)"):
        opt.step(*batch("cross-entropy"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    opt.step(*batch("cross-entropy"))
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"ExactGaussNewton: damping must be a finite number in \(0, inf\), got 0"):
        ExactGaussNewton(net(), damping=0)
    with pytest.raises(ValueError, match=r"ExactGaussNewton: loss must be one of 'squared', .*, got 'mse'"):
        ExactGaussNewton(net(), "mse")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ExactGaussNewton: model must be a torch.nn.Module"):
        ExactGaussNewton(net().parameters())  # type: ignore[arg-type]
    x, y = batch("squared")
    with pytest.raises(ValueError, match=r"one class per sample .int64., got torch.float64 of the shape \(7, 3\)"):
        ExactGaussNewton(net()).step(x, y)
    with pytest.raises(ValueError, match="must have 3 numbers per sample"):
        ExactGaussNewton(net(), "squared").step(x, y[:, :1])
    opt = ExactGaussNewton(net())
    opt.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match="ExactGaussNewton: lr must be"):
        opt.step(*batch("cross-entropy"))
