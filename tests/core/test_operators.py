"""Curvature operators and per-sample derivatives, against ``torch.func``'s dense ones and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, mse_loss

from steepest.core import tree
from steepest.core.operators import (
    CurvatureOperator,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    directional_derivative,
    hutchinson_diagonal,
    output_jacobians,
    per_sample_gradients,
    trainable,
)
from steepest.core.oracle import OracleCounts, counting

OPERATORS = (Hessian, GaussNewton, EmpiricalFisher)


def network(outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def batch(n: int = 10, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator).double(), torch.randint(3, (n,), generator=generator)


def dense(operator: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.stack([operator(row) for row in torch.eye(size, dtype=torch.float64)])


def of_vector(model: nn.Module, loss: Any, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss as a function of all parameters in one vector."""
    named = trainable(model)

    def function(vector: Tensor) -> Tensor:
        values = tree.unravel(vector, list(named.values()))
        return loss(functional_call(model, dict(zip(named, values, strict=True)), (inputs,)), targets)

    return function


def rows_of(named: dict[str, Tensor], dims: int) -> Tensor:
    return torch.cat([t.flatten(dims) for t in named.values()], dims)


def test_the_hessian_is_torch_funcs() -> None:
    model, (x, y) = network(), batch()
    operator = Hessian(model, cross_entropy, [(x, y)])
    expected = hessian(of_vector(model, cross_entropy, x, y))(operator.like)
    assert torch.allclose(dense(operator, operator.size), expected, atol=1e-13)
    # Finite differences of the gradient.
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(3)).double()
    slopes = []
    for h in (1e-5, -1e-5):
        moved = network()
        with torch.no_grad():
            for p, v in zip(moved.parameters(), tree.unravel(vector, operator.parameters), strict=True):
                p.add_(v, alpha=h)
        slopes.append(Hessian(moved, cross_entropy, [(x, y)]).gradient())
    assert torch.allclose(operator(vector), (slopes[0] - slopes[1]) / 2e-5, atol=1e-8)


def test_the_gauss_newton_matrix_is_that_of_the_jacobians() -> None:
    model, (x, y) = network(), batch()
    outputs, jacobian = output_jacobians(model, x)
    rows = rows_of(jacobian, 2)
    p = outputs.softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    expected = torch.einsum("nci,ncd,ndj->ij", rows, middle, rows) / len(x)
    operator = GaussNewton(model, cross_entropy, [(x, y)])
    assert torch.allclose(dense(operator, operator.size), expected, atol=1e-14)
    values = torch.randn(10, 3, dtype=torch.float64)
    squared = GaussNewton(model, mse_loss, [(x, values)])
    expected = 2 * torch.einsum("nci,ncj->ij", rows, rows) / values.numel()
    assert torch.allclose(dense(squared, squared.size), expected, atol=1e-14)
    # A loss that is linear in the outputs has none.
    flat = GaussNewton(model, lambda out, _: out.mean(), [(x, y)])
    assert not flat(flat.like).any()


def test_the_empirical_fisher_is_that_of_single_gradients() -> None:
    model, (x, y) = network(), batch()
    rows = []
    for k in range(len(x)):
        loss = cross_entropy(model(x[k : k + 1]), y[k : k + 1])
        rows.append(tree.ravel(list(torch.autograd.grad(loss, list(model.parameters())))))
    expected = torch.stack(rows)
    for chunk in (None, 3):
        assert torch.allclose(
            rows_of(per_sample_gradients(model, cross_entropy, x, y, chunk=chunk), 1), expected, atol=1e-15
        )
        operator = EmpiricalFisher(model, cross_entropy, [(x, y)], chunk=chunk)
        assert torch.allclose(dense(operator, operator.size), expected.mT @ expected / len(x), atol=1e-15)


@pytest.mark.parametrize("chunk", [None, 4])
def test_output_jacobians_are_torch_funcs(chunk: int | None) -> None:
    model, (x, _) = network(), batch()
    outputs, jacobian = output_jacobians(model, x, chunk=chunk)
    assert torch.equal(outputs, model(x)) or torch.allclose(outputs, model(x), atol=1e-15)
    values = {name: p.detach() for name, p in trainable(model).items()}
    expected = torch.func.jacrev(lambda given: functional_call(model, given, (x,)))(values)
    for name, found in jacobian.items():
        assert torch.allclose(found, expected[name], atol=1e-15)


@pytest.mark.parametrize("kind", OPERATORS)
def test_unequal_batches_count_by_their_samples(kind: type[CurvatureOperator]) -> None:
    model, (x, y) = network(), batch()
    whole = kind(model, cross_entropy, [(x, y)])
    parts = kind(model, cross_entropy, [(x[:3], y[:3]), (x[3:], y[3:])])
    vector = torch.linspace(-1, 1, whole.size, dtype=torch.float64)
    assert torch.allclose(whole(vector), parts(vector), atol=1e-14)
    assert torch.allclose(whole.gradient(), parts.gradient(), atol=1e-15)
    assert whole.value() == pytest.approx(parts.value(), rel=1e-14)


def test_frozen_and_shared_parameters() -> None:
    model, (x, y) = network(), batch()
    model[0].weight.requires_grad_(False)
    operator = Hessian(model, cross_entropy, [(x, y)])
    assert operator.size == sum(p.numel() for p in model.parameters()) - 20
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    tied[2].weight = tied[0].weight
    operator = Hessian(tied, cross_entropy, [(x, y)])
    assert operator.size == 16 + 4 + 4
    expected = hessian(of_vector(tied, cross_entropy, x, y))(operator.like)
    assert torch.allclose(dense(operator, operator.size), expected, atol=1e-13)


def test_a_kept_graph_notices_changes() -> None:
    model, (x, y) = network(), batch()
    kept, fresh = (Hessian(model.eval(), cross_entropy, [(x, y)], keep=keep) for keep in (True, False))
    vector = torch.linspace(-1, 1, kept.size, dtype=torch.float64)
    before = kept(vector)
    assert torch.equal(kept(vector), before)
    with torch.no_grad():
        model[0].bias.add_(0.1)
    assert torch.equal(kept(vector), fresh(vector))
    assert not torch.equal(kept(vector), before)
    x.mul_(2)  # the data too
    assert torch.equal(kept(vector), fresh(vector))


def test_nothing_is_left_behind_and_everything_is_counted() -> None:
    model, (x, y) = network(), batch()
    start = [p.detach().clone() for p in model.parameters()]
    counts = OracleCounts()
    with counting(counts):
        for kind in OPERATORS:
            operator = kind(model, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])])
            operator(operator.like)
        per_sample_gradients(model, cross_entropy, x, y)
    assert counts.snapshot() == {"gauss-newton product": 2, "hvp": 2, "per-sample gradient": 12}
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))


def test_directional_derivative() -> None:
    at, along = torch.tensor([1.0, 2.0]).double(), torch.tensor([0.5, -1.0]).double()
    value, slope = directional_derivative(lambda t: (t**3).sum(), at, along)
    assert float(value) == 9.0
    assert float(slope) == pytest.approx(3 * (0.5 - 4.0))


def test_hutchinson_is_exact_on_diagonal_matrices_and_right_on_average() -> None:
    scale = torch.arange(1.0, 6.0).double()
    assert torch.equal(hutchinson_diagonal(lambda v: scale * v, scale, probes=1), scale)
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    matrix = matrix + matrix.mT
    for gaussian in (False, True):
        found = hutchinson_diagonal(lambda v: matrix @ v, matrix[0], probes=20_000, gaussian=gaussian)
        spread = matrix.square().sum(1) + (matrix.diagonal().square() if gaussian else -matrix.diagonal().square())
        assert bool(((found - matrix.diagonal()).abs() < 5 * (spread / 20_000).sqrt() + 1e-12).all())


def test_bad_input() -> None:
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="batches must hold at least one pair"):
        Hessian(model, cross_entropy, [])
    with pytest.raises(ValueError, match=r"vector must have the shape \(43,\), got \(2,\)"):
        Hessian(model, cross_entropy, [(x, y)])(torch.ones(2))
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        hutchinson_diagonal(lambda v: v, x[0], probes=0)
    with pytest.raises(ValueError, match="Sequential has no trainable parameters"):
        Hessian(model.requires_grad_(False), cross_entropy, [(x, y)])
