"""Lie-group preconditioners: their algebra against explicit matrices, and what they converge to."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.core import lie

F64 = torch.float64


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(linear: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Tensor:
    """The matrix of a linear map of tensors of this shape."""
    basis = torch.eye(math.prod(shape), dtype=F64)
    return torch.stack([linear(e.reshape(tuple(shape))).reshape(-1) for e in basis], dim=1)


class Kron:
    def __init__(self, shape: tuple[int, ...], skew: float, seed: int) -> None:
        self.shape = shape
        g = source(seed)
        self.factors = lie.kron_start(torch.zeros(shape, dtype=F64), 1.0, 100, skew)
        self.factors = [
            (0.3 * torch.randn(q.shape, generator=g, dtype=F64)).triu() + q if q.dim() == 2
            else torch.rand(q.shape, generator=g, dtype=F64) + 0.5
            for q in self.factors
        ]  # fmt: skip
        self.curvature = torch.zeros(len(self.factors), dtype=F64)

    def explicit(self) -> Tensor:
        full = torch.ones(1, 1, dtype=F64)
        for q in self.factors:
            full = torch.kron(full, q.diag() if q.dim() == 1 else q)
        return full

    def map(self, h: Tensor) -> Tensor:
        return lie.kron_map(self.factors, h)

    def pull(self, v: Tensor) -> Tensor:
        return lie.kron_pull(self.factors, v)

    def apply(self, g: Tensor) -> Tensor:
        return lie.kron_apply(self.factors, g)

    def reset(self) -> None:
        self.factors = [torch.eye(len(q), dtype=F64) if q.dim() == 2 else torch.ones_like(q) for q in self.factors]

    def fit(self, v: Tensor, h: Tensor, step: float, beta: float, count: int) -> None:
        self.factors, self.curvature = lie.kron_fit(self.factors, self.curvature, v, h, step=step, beta=beta)


class LRA:
    def __init__(self, shape: tuple[int], rank: int, seed: int) -> None:
        g = source(seed)
        self.shape = shape
        self.parts = [0.5 * torch.randn(*shape, rank, generator=g, dtype=F64) for _ in range(2)]
        self.parts.append(torch.rand(*shape, generator=g, dtype=F64) + 0.5)
        self.curvature = torch.zeros(3, dtype=F64)

    def explicit(self) -> Tensor:
        left, right, diagonal = self.parts
        return (torch.eye(len(diagonal), dtype=F64) + left @ right.T) @ diagonal.diag()

    def map(self, h: Tensor) -> Tensor:
        return lie.lra_map(*self.parts, h)

    def pull(self, v: Tensor) -> Tensor:
        return lie.lra_pull(*self.parts, v)

    def apply(self, g: Tensor) -> Tensor:
        return lie.lra_apply(*self.parts, g)

    def reset(self) -> None:
        g = source(5)
        self.parts = [0.1 * torch.randn(p.shape, generator=g, dtype=F64) for p in self.parts[:2]]
        self.parts.append(torch.ones(self.shape, dtype=F64))

    def fit(self, v: Tensor, h: Tensor, step: float, beta: float, count: int) -> None:
        *self.parts, self.curvature = lie.lra_fit(
            *self.parts, self.curvature, v, h, step=step, beta=beta, side=count % 2
        )


class XMat:
    def __init__(self, shape: tuple[int], seed: int) -> None:
        g = source(seed)
        self.shape = shape
        self.parts = [
            torch.rand(*shape, generator=g, dtype=F64) + 0.5,
            0.4 * torch.rand(*shape, generator=g, dtype=F64),
        ]
        if shape[0] % 2:
            self.parts[1][shape[0] // 2] = 0
        self.curvature = torch.zeros(1, dtype=F64)

    def explicit(self) -> Tensor:
        return self.parts[0].diag() + self.parts[1].diag().flip(1)

    def map(self, h: Tensor) -> Tensor:
        return lie.xmat_map(*self.parts, h)

    def pull(self, v: Tensor) -> Tensor:
        return lie.xmat_pull(*self.parts, v)

    def apply(self, g: Tensor) -> Tensor:
        return lie.xmat_apply(*self.parts, g)

    def reset(self) -> None:
        self.parts = [torch.ones(self.shape, dtype=F64), torch.zeros(self.shape, dtype=F64)]

    def fit(self, v: Tensor, h: Tensor, step: float, beta: float, count: int) -> None:
        *self.parts, self.curvature = lie.xmat_fit(*self.parts, self.curvature, v, h, step=step, beta=beta)


GROUPS: dict[str, Callable[[int], Any]] = {
    "kron-2x3": lambda seed: Kron((2, 3), 9.0, seed),
    "kron-2x3-skew": lambda seed: Kron((2, 3), 1.0, seed),  # triangular, diagonal
    "kron-3x2x2": lambda seed: Kron((3, 2, 2), 9.0, seed),
    "kron-2x3x2x2": lambda seed: Kron((2, 3, 2, 2), 0.25, seed),
    "kron-6": lambda seed: Kron((6,), 1.0, seed),  # diagonal
    "kron-6-full": lambda seed: Kron((6,), 9.0, seed),  # triangular
    "lra-2": lambda seed: LRA((6,), 2, seed),
    "lra-0": lambda seed: LRA((6,), 0, seed),
    "xmat-6": lambda seed: XMat((6,), seed),
    "xmat-7": lambda seed: XMat((7,), seed),
}
groups = pytest.mark.parametrize("name", GROUPS)


@groups
@pytest.mark.parametrize("seed", range(3))
def test_products_equal_those_of_the_explicit_matrix(name: str, seed: int) -> None:
    group = GROUPS[name](seed)
    q = group.explicit()
    for made, expected in (
        (dense(group.map, group.shape), q),
        (dense(group.pull, group.shape), torch.linalg.inv(q).T),
        (dense(group.apply, group.shape), q.T @ q),
    ):
        torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)


def target(group: Any, indefinite: bool) -> tuple[Tensor, Tensor]:
    """A Hessian whose inverse absolute value lies in the group, and that inverse."""
    q = group.explicit()
    values, vectors = torch.linalg.eigh(torch.linalg.inv(q.T @ q))
    signs = torch.where(torch.arange(len(values)) % 2 == 0, -1.0, 1.0) if indefinite else torch.ones(len(values))
    return (vectors * (signs.double() * values)) @ vectors.T, q.T @ q


def fitted(group: Any, hessian: Tensor, steps: int, rates: tuple[float, float], independent: bool) -> Tensor:
    """P after steps on pairs of this Hessian, or with ``independent`` on vectors of this covariance root alone."""
    group.reset()
    g = source(8)
    for count in range(steps):
        v, z = (torch.randn(group.shape, generator=g, dtype=F64) for _ in range(2))
        h = (hessian @ (z if independent else v).reshape(-1)).reshape(group.shape)
        group.fit(v, h, rates[0] * (rates[1] / rates[0]) ** (count / steps), 0.9, count)
    return dense(group.apply, group.shape)


def off(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found - expected) / torch.linalg.matrix_norm(expected))


@groups
def test_products_with_a_definite_hessian_give_its_inverse(name: str) -> None:
    """Without noise in the products there is none in P: convergence is linear at a constant rate."""
    group = GROUPS[name](7)
    hessian, inverse = target(group, False)
    # Low rank ends in a slow approach, since many pairs U, V give the same P.
    steps, tolerance = (2500, 1e-2) if name == "lra-2" else (1500, 1e-8)
    assert off(fitted(group, hessian, steps, (0.3, 0.3), False), inverse) < tolerance


@groups
def test_products_with_an_indefinite_hessian_give_its_inverse_absolute_value(name: str) -> None:
    """Then single pairs disagree at the optimum, and the error is that of the rate, which falls."""
    group = GROUPS[name](7)
    hessian, inverse = target(group, True)
    assert torch.linalg.eigvalsh(hessian)[0] < -0.1
    assert off(fitted(group, hessian, 2500, (0.3, 0.003), False), inverse) < 0.08


@pytest.mark.parametrize("name", ["kron-2x3", "kron-6", "lra-2", "lra-0", "xmat-6"])
def test_whitens_gaussian_vectors_of_known_covariance(name: str) -> None:
    group = GROUPS[name](7)
    root, inverse_root = target(group, False)  # h = R z has covariance R^2; P must be R^-1
    assert off(fitted(group, root, 4000 if name == "lra-2" else 2500, (0.3, 0.003), True), inverse_root) < 0.08


@groups
def test_the_group_is_never_left(name: str) -> None:
    """Whatever the pairs, the determinant of Q keeps its sign."""
    group = GROUPS[name](11)
    limit = 0.5 if name.startswith("xmat") else 1.0  # there L bounds half of the norm of the step
    sign = torch.linalg.slogdet(group.explicit())[0]
    g = source(12)
    for count in range(200):
        v, h = (torch.randn(group.shape, generator=g, dtype=F64) for _ in range(2))
        group.fit(v, 10.0 ** (count % 7 - 3) * h**3, 0.99 * limit, 0.0, count)
        if name != "lra-2":  # of which the step bounds the parts only
            assert torch.linalg.slogdet(group.explicit())[0] == sign
        assert dense(group.apply, group.shape).isfinite().all()


@groups
def test_a_step_lowers_the_criterion_along_its_gradient(name: str) -> None:
    """To first order in the step, h'Ph + v'P^-1 v falls, and half the step lowers it by half as much."""
    group, g = GROUPS[name](13), source(14)
    v, h = (torch.randn(group.shape, generator=g, dtype=F64) for _ in range(2))

    def criterion(q: Tensor) -> Tensor:
        return (q @ h.reshape(-1)).square().sum() + torch.linalg.solve(q.T, v.reshape(-1)).square().sum()

    falls = []
    for step in (2e-6, 1e-6):
        for side in range(2):
            group = GROUPS[name](13)
            start = criterion(group.explicit())
            group.fit(v, h, step, 0.0, side)
            falls.append(float(start - criterion(group.explicit())))
    assert min(falls) > 0
    assert falls[0] / falls[2] == pytest.approx(2, rel=1e-3)
    assert falls[1] / falls[3] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_units_do_not_matter_in_float32(scale: float) -> None:
    factors, curvature = [torch.eye(4), torch.eye(3)], torch.zeros(2)
    g = source(3)
    root = 1.0
    for count in range(300):
        v, h = torch.randn(4, 3, generator=g), scale * torch.randn(4, 3, generator=g)
        if count == 0:
            root = float(lie.initial_scale(h)) ** 0.5
            factors = [root * q for q in factors]
        factors, curvature = lie.kron_fit(factors, curvature, v, h, step=0.1, beta=0.9)
    assert 0.5 < float(lie.kron_apply(factors, scale * torch.ones(4, 3)).square().mean().sqrt()) < 2
    largest = [float(q.abs().max()) for q in factors]
    assert largest[0] == pytest.approx(largest[1], rel=1e-5)


def test_initial_scale() -> None:
    h, v = torch.tensor([1.0, -2.0, 3.0], dtype=F64), torch.tensor([1.0, 1.0, 2.0], dtype=F64)
    expected = 2.0**0.25 * ((1 + 16 + 81) / 3) ** -0.125
    assert float(lie.initial_scale(h, v)) == pytest.approx(expected, rel=1e-12)
    assert float(lie.initial_scale(torch.zeros(3))) == 1.0
    assert float(lie.initial_scale(torch.full((3,), 1e-20))) == pytest.approx(1e10, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_largest_eigenvalue_is_a_close_lower_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for rows, columns in ((1, 1), (5, 3), (20, 40), (60, 2), (30, 30)):
        a = torch.from_numpy(rng.standard_normal((rows, columns)) * rng.exponential(size=(rows, 1)))
        gram = a @ a.T
        exact = float(torch.linalg.eigvalsh(gram)[-1])
        assert 0.8 * exact <= float(lie.largest_eigenvalue(gram)) <= exact * (1 + 1e-12)
    assert float(lie.largest_eigenvalue(torch.zeros(4, 4))) == 0.0


def test_which_dimensions_have_triangular_factors() -> None:
    def orders(shape: tuple[int, ...], size: int, skew: float) -> list[int]:
        return [q.dim() for q in lie.kron_start(torch.zeros(shape), 2.0, size, skew)]

    assert orders((5, 4), 10, 1.0) == [1, 2]
    assert orders((4, 4), 10, 1.0) == [2, 2]
    assert orders((4, 4), 3, 1.0) == [1, 1]
    assert orders((7,), 10, 1.0) == [1]
    assert orders((7,), 10, 7.0) == [2]
    assert orders((), 10, 1.0) == [1]
    assert orders((1, 1), 10, 1.0) == [1]
    assert orders((3, 1, 3, 2), 10, 1.0) == [2, 2, 2]  # no factor for a dimension of one entry
    full = torch.tensor(1.0)
    for q in lie.kron_start(torch.zeros(3, 3), 2.0, 10, 1.0):
        full = torch.kron(full, q)
    torch.testing.assert_close(full, 2 * torch.eye(9))


def test_bfloat16_products_are_those_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lie, "fast_dtype", lambda q: torch.bfloat16)
    g = source(1)
    factors = [torch.eye(160) + 0.02 * torch.randn(160, 160, generator=g).triu(), torch.rand(200, generator=g) + 0.5]
    x = torch.randn(160, 200, generator=g)
    exact, fast = lie.kron_apply(factors, x), lie.kron_apply(factors, x, fast=True)
    assert fast.dtype == torch.float32
    error = float(torch.linalg.matrix_norm(exact - fast) / torch.linalg.matrix_norm(exact))
    assert 1e-4 < error < 1e-2
    small = [torch.eye(8), torch.eye(8)]
    assert torch.equal(lie.kron_apply(small, x[:8, :8], fast=True), x[:8, :8])
