"""Damped systems in the space of a few rows, against dense solves."""

import pytest
import torch
from torch import Tensor

from steepest.core.gram import GramSolver, push_through


def rows(m: int = 5, d: int = 30, seed: int = 0) -> Tensor:
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("damping", [1e-6, 0.1, 1e4])
@pytest.mark.parametrize("divisor", [None, 2.0])
def test_the_gram_solver_is_the_dense_solve(damping: float, divisor: float | None) -> None:
    g, v = rows(), rows(2, seed=1)
    dense = damping * torch.eye(30).double() + g.mT @ g / (divisor or 5)
    solver = GramSolver(g @ g.mT, damping, divisor)
    for right in v:
        assert torch.allclose(solver.solve(g, right), torch.linalg.solve(dense, right), rtol=1e-5)
    both = solver.coefficients(g @ v.mT)
    assert torch.allclose(both[:, 0], solver.coefficients(g @ v[0]))


def test_one_row_is_sherman_morrison() -> None:
    g, v = rows(1), rows(1, seed=1)[0]
    expected = v / 0.3 - g[0] * (g[0] @ v) / (0.3 * (0.3 + g[0] @ g[0]))
    assert torch.allclose(GramSolver(g @ g.mT, 0.3).solve(g, v), expected)


def test_a_gram_matrix_that_rounding_made_indefinite() -> None:
    g = rows(1, 8).repeat(6, 1) * 1e4
    gram = g @ g.mT
    gram[0, 0] -= 1e-3  # indefinite by far more than the damping
    found = GramSolver(gram, 1e-12).coefficients(g @ g[0])
    # All rows are one vector, so what the damping leaves of it is nearly nothing.
    assert torch.allclose(g.mT @ found, g[0], rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_push_through_is_the_dense_gauss_newton_solve(weighted: bool) -> None:
    b, c, d, damping = 4, 3, 20, 0.2
    j = rows(b * c, d).view(b, c, d)
    right = rows(b, c, seed=2)
    p = torch.softmax(rows(b, c, seed=3), 1)
    weight = torch.diag_embed(p) - p[:, :, None] * p[:, None] if weighted else None
    middle = torch.eye(c).double().expand(b, c, c) if weight is None else weight
    curvature = torch.einsum("bci,bcd,bdj->ij", j, middle, j) / b
    expected = torch.linalg.solve(curvature + damping * torch.eye(d).double(), torch.einsum("bci,bc->i", j, right) / b)
    assert torch.allclose(push_through(j, right, damping, weight), expected, atol=1e-12)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"gram must be a square matrix, got the shape \(2, 3\)"):
        GramSolver(torch.ones(2, 3), 1.0)
    with pytest.raises(ValueError, match="damping must be positive, got 0"):
        GramSolver(torch.eye(2), 0)
    with pytest.raises(ValueError, match="damping must be positive, got -1"):
        push_through(rows().view(5, 1, 30), torch.ones(5, 1), -1)
