"""Proximal operators as plain functions: brute force, hypothesis, batches, derivatives, speed."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.core import prox
from steepest.core.groups import Indices, Slices


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MATRIX = draw(2, 6, seed=7)
#: Each as a function of a vector (and the scale, where it has one).
SCALED: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "l1": prox.l1,
    "group_l2": prox.group_l2,
    "groups_l2": lambda x, t: prox.groups_l2(x, t, Slices(2)),
    "sparse_group": lambda x, t: prox.sparse_group(x, t, t, Slices(3)),
    "elastic_net": lambda x, t: prox.elastic_net(x, t, t),
    "squared_l2": prox.squared_l2,
    "total_variation": prox.total_variation,
    "nuclear": lambda x, t: prox.nuclear(x.reshape(2, 3), t).reshape(6),
    "envelope": lambda x, t: prox.group_sparse_envelope(x, t, 2, Slices(2)),
}
SETS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "nonnegative": lambda x, t: prox.nonnegative(x),
    "box": lambda x, t: prox.box(x, -t, 2 * t),
    "simplex": prox.simplex,
    "l1_ball": prox.l1_ball,
    "l2_ball": prox.l2_ball,
    "linf_ball": prox.linf_ball,
    "nuclear_ball": lambda x, t: prox.nuclear_ball(x.reshape(2, 3), t).reshape(6),
    "affine": lambda x, t: prox.affine(x, MATRIX, vector([1.0, -1.0])),
    "halfspace": lambda x, t: prox.halfspace(x, MATRIX[0], t),
}
every = pytest.mark.parametrize("name", [*SCALED, *SETS])
NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-50, 50, allow_subnormal=False))  # with ties
POINTS = st.lists(NUMBERS, min_size=6, max_size=6)


@every
@given(first=POINTS, second=POINTS, scale=st.floats(0.01, 30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_firmly_nonexpansive(name: str, first: list[float], second: list[float], scale: float) -> None:
    function = {**SCALED, **SETS}[name]
    x, y = vector(first), vector(second)
    p, q = function(x, scale), function(y, scale)
    assert torch.isfinite(p).all()
    assert ((p - q) * (x - y)).sum() >= (p - q).square().sum() - 1e-9 * (1 + (x - y).square().sum())


@pytest.mark.parametrize("name", list(SETS))
@given(point=POINTS, scale=st.floats(0.01, 30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_projections_are_idempotent(name: str, point: list[float], scale: float) -> None:
    z = SETS[name](vector(point), scale)
    torch.testing.assert_close(SETS[name](z, scale), z, rtol=0, atol=1e-12 * (1 + float(z.abs().max())))


@every
def test_float32_agrees_with_float64(name: str) -> None:
    function = {**SCALED, **SETS}[name]
    if name in ("affine", "halfspace"):
        pytest.skip("their matrix has a dtype of its own")
    x = draw(6)
    found = function(x.float(), 0.4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), function(x, 0.4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(SCALED))
def test_scale_zero_is_the_identity_and_a_huge_one_the_limit(name: str) -> None:
    x = draw(6)
    torch.testing.assert_close(SCALED[name](x, 0.0), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(SCALED[name](torch.zeros(6), 0.0), torch.zeros(6))
    limit = torch.full_like(x, x.mean().item()) if name == "total_variation" else torch.zeros_like(x)
    torch.testing.assert_close(SCALED[name](x, 1e15), limit, rtol=0, atol=1e-6)
    for bad in (-1e-9, math.nan):
        with pytest.raises(ValueError, match="scale must be a number >= 0"):
            SCALED[name](x, bad)


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball", "linf_ball", "nuclear_ball"])
def test_negative_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"(radius|total) must be a number >= 0, got -1"):
        SETS[name](draw(6), -1.0)
    torch.testing.assert_close(SETS[name](draw(6), 0.0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)


@every
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    function = {**SCALED, **SETS}[name]
    for seed in range(3):
        x = draw(6, seed=seed).requires_grad_()
        scale = torch.tensor(0.45, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v, t: function(v, t).clone(), (x, scale), atol=1e-6)
        if "nuclear" not in name:  # once differentiable
            assert torch.autograd.gradgradcheck(lambda v, t: function(v, t).clone(), (x, scale), atol=1e-5)


@every
def test_derivatives_are_finite_at_kinks(name: str) -> None:
    function = {**SCALED, **SETS}[name]
    for point in (torch.zeros(6), torch.ones(6), vector([0.0, 0.0, 1.0, 1.0, -1.0, -1.0])):
        for scale in (0.0, 0.5, 1.0):
            x = point.double().requires_grad_()
            t = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
            slopes = torch.autograd.grad(function(x, t).sum(), (x, t), allow_unused=True)
            assert all(s is None or torch.isfinite(s).all() for s in slopes)


# ---- one by one


def test_group_l2_over_several_dimensions() -> None:
    x = draw(3, 4, 2)
    z = prox.group_l2(x, 0.8, dim=(0, 2))
    for j in range(4):
        norm = x[:, j].norm()
        torch.testing.assert_close(z[:, j], x[:, j] * max(0.0, 1 - 0.8 / norm.item()))


def test_groups_may_have_a_scale_each_and_leave_entries_out() -> None:
    x = draw(6)
    z = prox.groups_l2(x, vector([0.5, 100.0, 0.0]), Indices([[0, 3], [1], [5]]))
    torch.testing.assert_close(z[[0, 3]], x[[0, 3]] * (1 - 0.5 / x[[0, 3]].norm()).clamp_min(0))
    assert z[1] == 0
    torch.testing.assert_close(z[[2, 4, 5]], x[[2, 4, 5]], rtol=0, atol=0)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball", "total_variation", "group_l2"])
def test_batches_are_loops(name: str, dim: int) -> None:
    x = draw(3, 4, 5)
    function = getattr(prox, name)
    found = function(x, 0.9, dim=dim)
    moved, expected = x.movedim(dim, -1), torch.empty_like(x.movedim(dim, -1))
    for i, j in itertools.product(*map(range, moved.shape[:2])):
        expected[i, j] = function(moved[i, j], 0.9, dim=-1)
    torch.testing.assert_close(found, expected.movedim(-1, dim), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4)])
def test_batches_of_matrices_are_loops(shape: tuple[int, int]) -> None:
    x = draw(2, *shape)
    for function in (prox.nuclear, prox.nuclear_ball):
        torch.testing.assert_close(function(x, 0.9), torch.stack([function(m, 0.9) for m in x]), rtol=0, atol=1e-13)
        wanted = x.clone().requires_grad_()
        weight = draw(2, *shape, seed=1)
        (slope,) = torch.autograd.grad((weight * function(wanted, 0.9)).sum(), wanted)
        for i in range(2):
            one = x[i].clone().requires_grad_()
            (expected,) = torch.autograd.grad((weight[i] * function(one, 0.9)).sum(), one)
            torch.testing.assert_close(slope[i], expected)


def test_the_derivative_of_the_nuclear_prox_with_equal_and_zero_singular_values() -> None:
    """Where that of an SVD is not finite."""
    u, v = torch.linalg.qr(draw(5, 3)).Q, torch.linalg.qr(draw(4, 3, seed=1)).Q
    for values in ([2.0, 2.0, 2.0], [2.0, 2.0, 0.1], [2.0, 0.0, 0.0], [1.0, 0.1, 0.1]):
        x = (u * vector(values)) @ v.T
        for matrix in (x, x.T):
            assert torch.autograd.gradcheck(
                lambda m: prox.nuclear(m, 0.5), (matrix.clone().requires_grad_(),), atol=1e-6
            )
    (slope,) = torch.autograd.grad(prox.nuclear((x := x.clone().requires_grad_()), 0.0).sum(), x)  # the identity
    torch.testing.assert_close(slope, torch.ones_like(x))


def test_the_simplex_with_ties_and_its_corners() -> None:
    torch.testing.assert_close(prox.simplex(torch.zeros(4)), torch.full((4,), 0.25))
    torch.testing.assert_close(prox.simplex(torch.tensor([5.0, 5.0, 1.0])), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(prox.simplex(torch.tensor([9.0, 0.0])), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(prox.simplex(torch.tensor([-7.0])), torch.tensor([1.0]))
    inside = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(prox.simplex(inside), inside)
    torch.testing.assert_close(prox.l1_ball(-inside), -inside, rtol=0, atol=0)


def total_variation_dual(x: np.ndarray, t: float) -> np.ndarray:
    """By the dual, a least-squares problem in a box: ``x - D'u`` with ``|u| <= t``."""
    difference = np.diff(np.eye(len(x)), axis=0)
    u = scipy.optimize.lsq_linear(difference.T, x, bounds=(-t, t), method="bvls", tol=1e-14).x
    return x - difference.T @ u


@given(
    x=st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5)), min_size=2, max_size=12),
    t=st.sampled_from([0.1, 0.5, 1.0, 2.0, 7.0]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_total_variation_equals_the_dual_problem(x: list[float], t: float) -> None:
    expected = total_variation_dual(np.array(x), t)
    np.testing.assert_allclose(prox.total_variation(vector(x), t).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("kind", ["noise", "steps", "walk", "geometric", "staircase", "alternating"])
@pytest.mark.parametrize("t", [0.05, 3.0, 500.0])
def test_total_variation_meets_its_optimality_conditions_for_long_data(kind: str, t: float) -> None:
    n = 100_000
    x = {
        "noise": draw(n),
        "steps": 0.3 * draw(n) + draw(50, seed=1).repeat_interleave(n // 50),
        "walk": draw(n).cumsum(0),
        "geometric": 2.0 ** torch.linspace(-400, 40, n, dtype=torch.float64),
        "staircase": torch.arange(n, dtype=torch.float64) // 100,
        "alternating": (-1.0) ** torch.arange(n, dtype=torch.float64),
    }[kind]
    prox.total_variation(x[:1000], t)
    begin = time.perf_counter()
    z = prox.total_variation(x, t)
    assert time.perf_counter() - begin < 3.0  # 0.05 s alone on a core; a loop in Python with tensors takes 10 s or more
    # x - z = D'u with |u| <= t, and u = t sign(Dz) where Dz is not 0.
    u = -(x - z).cumsum(0)[:-1]
    scale = 1e-9 * (t + float(x.abs().max()))
    assert u.abs().max() <= t + scale
    assert (x - z).sum().abs() <= scale
    jump = z.diff()
    clear = jump.abs() > 1e-6
    if clear.any():
        assert (u[clear] - t * jump[clear].sign()).abs().max() <= scale


def test_total_variation_keeps_its_accuracy_in_float32() -> None:
    x = draw(50_000).cumsum(0) + 1e3
    z = prox.total_variation(x.float(), 20.0)
    torch.testing.assert_close(z.double(), prox.total_variation(x.float().double(), 20.0), rtol=1e-7, atol=0)


def test_total_variation_of_nothing_and_of_one_entry() -> None:
    for x in (torch.zeros(0), torch.ones(1), torch.ones(3, 1), torch.tensor(2.0)):
        torch.testing.assert_close(prox.total_variation(x, 1.0), x, rtol=0, atol=0)
    x = draw(2, 5)
    expected = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(prox.total_variation(x, math.inf), expected)


def test_the_projection_onto_inconsistent_equations_is_a_least_squares_solution() -> None:
    matrix, offset = torch.ones(2, 3, dtype=torch.float64), vector([0.0, 3.0])
    z = prox.affine(draw(3), matrix, offset)
    torch.testing.assert_close(z.sum(), torch.tensor(1.5, dtype=torch.float64))


def test_matrices_are_needed_for_singular_values() -> None:
    for function in (prox.nuclear, prox.nuclear_ball):
        with pytest.raises(ValueError, match="a matrix is needed, got a tensor with 1"):
            function(draw(3), 1.0)
