"""Regularizers against CVXPY, the Fenchel-Young inequality, perturbations and each other."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.core import prox
from steepest.core.fingerprint import fingerprint
from steepest.core.groups import Indices, Slices
from steepest.core.regularizer import (
    L1,
    Affine,
    Box,
    Eigenvector,
    ElasticNet,
    GroupL2,
    GroupSparseEnvelope,
    Halfspace,
    L1Ball,
    L2Ball,
    LInfBall,
    MultiBit,
    Nonnegative,
    Nuclear,
    NuclearBall,
    OneSided,
    OrthogonalColumns,
    Regularizer,
    Separable,
    Simplex,
    SparseGroup,
    SquaredL2,
    Ternary,
    TotalVariation,
    TwoValued,
    Zero,
)

Model = Callable[[Any], tuple[Any, list[Any]]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A regularizer, the shape of its point, and the same function in CVXPY's words."""

    name: str
    regularizer: Regularizer
    shape: tuple[int, ...]
    model: Model


MATRIX, WEIGHTS = draw(3, 7, seed=11), torch.tensor([0.3, 0.0, 1.0, 0.5, 0.2, 2.0, 0.1], dtype=torch.float64)
LOW_RANK = torch.cat([MATRIX, MATRIX[:1] - MATRIX[1:2]])
POINT = draw(7, seed=12)
NORMAL = draw(7, seed=13)
LISTS = [[4, 0], [], [2, 6, 5]]  # 1 and 3 are in no group
PER_GROUP = torch.tensor([0.5, 3.0, 0.8], dtype=torch.float64)
D = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)


def envelope(k: int, groups: list[list[int]], weights: list[float], scale: float) -> Model:
    """Its variational form: ``scale / 2 min sum d |x_j|^2 / u_j`` over ``0 <= u <= 1``, ``sum u <= k``."""

    def model(x: Any) -> tuple[Any, list[Any]]:
        flat = cp.vec(x, order="C")
        u, bound = cp.Variable(len(groups)), cp.Variable(len(groups))
        limits = [cp.SOC(bound[j] + u[j], cp.hstack([2 * flat[g], bound[j] - u[j]])) for j, g in enumerate(groups)]
        return 0.5 * scale * (np.array(weights) @ bound), [*limits, u >= 0, u <= 1, cp.sum(u) <= k, bound >= 0]

    return model


def rows(n: int, size: int) -> list[list[int]]:
    return [list(range(i, i + size)) for i in range(0, n, size)]


CASES = [
    Case("zero", Zero(), (7,), lambda x: (0.0, [])),
    Case("l1", L1(0.7), (7,), lambda x: (0.7 * cp.norm1(x), [])),
    Case("l1 weights", L1(WEIGHTS), (7,), lambda x: (WEIGHTS.numpy() @ cp.abs(x), [])),
    Case("l1 nothing", L1(0.0), (7,), lambda x: (0.0, [])),
    Case("group rows", GroupL2(0.9), (4, 3), lambda x: (0.9 * cp.sum(cp.norm2(x, axis=1)), [])),
    Case("group columns", GroupL2(0.9, Slices(dim=0)), (4, 3), lambda x: (0.9 * cp.sum(cp.norm2(x, axis=0)), [])),
    Case("group size", GroupL2(0.9, 2), (8,), lambda x: (0.9 * sum(cp.norm2(x[g]) for g in rows(8, 2)), [])),
    Case(
        "group size, dim",
        GroupL2(0.9, Slices(2, 0)),
        (4, 2),
        lambda x: (0.9 * sum(cp.norm2(x[i : i + 2, j]) for i in (0, 2) for j in (0, 1)), []),
    ),
    Case(
        "group lists",
        GroupL2(PER_GROUP, LISTS),
        (7,),
        lambda x: (0.5 * cp.norm2(x[[4, 0]]) + 0.8 * cp.norm2(x[[2, 6, 5]]), []),
    ),
    Case(
        "sparse group",
        SparseGroup(0.4, 0.6, 2),
        (8,),
        lambda x: (0.4 * cp.norm1(x) + 0.6 * sum(cp.norm2(x[g]) for g in rows(8, 2)), []),
    ),
    Case(
        "sparse group lists",
        SparseGroup(0.4, PER_GROUP, LISTS),
        (7,),
        lambda x: (0.4 * cp.norm1(x) + 0.5 * cp.norm2(x[[4, 0]]) + 0.8 * cp.norm2(x[[2, 6, 5]]), []),
    ),
    Case("sparse group without l1", SparseGroup(0.0, 0.6), (3, 3), lambda x: (0.6 * cp.sum(cp.norm2(x, axis=1)), [])),
    Case("sparse group without l2", SparseGroup(0.4, 0.0), (3, 3), lambda x: (0.4 * cp.sum(cp.abs(x)), [])),
    Case("elastic net", ElasticNet(0.4, 0.8), (7,), lambda x: (0.4 * cp.norm1(x) + 0.4 * cp.sum_squares(x), [])),
    Case("elastic net without l2", ElasticNet(0.4, 0.0), (7,), lambda x: (0.4 * cp.norm1(x), [])),
    Case("squared l2", SquaredL2(0.8), (7,), lambda x: (0.4 * cp.sum_squares(x), [])),
    Case("nuclear", Nuclear(0.8), (4, 3), lambda x: (0.8 * cp.normNuc(x), [])),
    Case("nuclear wide", Nuclear(0.8), (2, 5), lambda x: (0.8 * cp.normNuc(x), [])),
    Case("total variation", TotalVariation(0.6), (9,), lambda x: (0.6 * cp.norm1(cp.diff(x)), [])),
    Case(
        "total variation columns",
        TotalVariation(0.3, 0),
        (4, 2),
        lambda x: (0.3 * cp.sum(cp.abs(cp.diff(x, axis=0))), []),
    ),
    Case("nonnegative", Nonnegative(), (7,), lambda x: (0.0, [x >= 0])),
    Case("box", Box(-0.3, 0.5), (7,), lambda x: (0.0, [x >= -0.3, x <= 0.5])),
    Case("box one side", Box(-math.inf, POINT), (7,), lambda x: (0.0, [x <= POINT.numpy()])),
    Case("simplex", Simplex(), (7,), lambda x: (0.0, [x >= 0, cp.sum(x) == 1])),
    Case("simplex rows", Simplex(2.0), (3, 4), lambda x: (0.0, [x >= 0, cp.sum(x, axis=1) == 2])),
    Case("simplex whole", Simplex(2.0, None), (3, 4), lambda x: (0.0, [x >= 0, cp.sum(x) == 2])),
    Case("l1 ball", L1Ball(0.8), (7,), lambda x: (0.0, [cp.norm1(x) <= 0.8])),
    Case("l1 ball columns", L1Ball(0.8, 0), (4, 3), lambda x: (0.0, [cp.sum(cp.abs(x), axis=0) <= 0.8])),
    Case("l2 ball", L2Ball(0.8), (7,), lambda x: (0.0, [cp.norm2(x) <= 0.8])),
    Case("l2 ball rows", L2Ball(0.8, 1), (4, 3), lambda x: (0.0, [cp.norm2(x, axis=1) <= 0.8])),
    Case("linf ball", LInfBall(0.6), (7,), lambda x: (0.0, [cp.norm_inf(x) <= 0.6])),
    Case(
        "affine",
        Affine(MATRIX, MATRIX @ POINT),
        (7,),
        lambda x: (0.0, [MATRIX.numpy() @ x == (MATRIX @ POINT).numpy()]),
    ),
    Case(
        "affine low rank",
        Affine(LOW_RANK, LOW_RANK @ POINT),
        (7,),
        lambda x: (0.0, [MATRIX.numpy() @ x == (MATRIX @ POINT).numpy()]),
    ),
    Case(
        "affine batch",
        Affine(MATRIX, MATRIX @ POINT),
        (2, 7),
        lambda x: (0.0, [MATRIX.numpy() @ x.T == np.outer(MATRIX @ POINT, np.ones(2))]),
    ),
    Case("halfspace", Halfspace(NORMAL, -0.5), (7,), lambda x: (0.0, [NORMAL.numpy() @ x <= -0.5])),
    Case("nuclear ball", NuclearBall(0.9), (4, 3), lambda x: (0.0, [cp.normNuc(x) <= 0.9])),
    Case("envelope", GroupSparseEnvelope(0.7, 2, 2, D), (8,), envelope(2, rows(8, 2), D.tolist(), 0.7)),
    Case("envelope k = 1", GroupSparseEnvelope(0.7, 1, 2, D), (8,), envelope(1, rows(8, 2), D.tolist(), 0.7)),
    Case("envelope k = 3", GroupSparseEnvelope(5.0, 3, None, 2.0), (5, 2), envelope(3, rows(10, 2), [2.0] * 5, 5.0)),
    Case(
        "envelope all",
        GroupSparseEnvelope(0.7, 9, 2, D),
        (8,),
        lambda x: (0.35 * sum(d * cp.sum_squares(x[g]) for d, g in zip(D.tolist(), rows(8, 2), strict=True)), []),
    ),
    Case(
        "envelope lists",
        GroupSparseEnvelope(0.7, 1, LISTS, PER_GROUP),
        (7,),
        envelope(1, [[4, 0], [2, 6, 5]], [0.5, 0.8], 0.7),
    ),
]
SETS = (Nonnegative, Box, Simplex, L1Ball, L2Ball, LInfBall, Affine, Halfspace, NuclearBall)
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def solve(problem: Any) -> float:
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return float(problem.value)


@every
@pytest.mark.parametrize("step", [0.3, 2.5])
def test_the_prox_is_what_cvxpy_finds(case: Case, step: float) -> None:
    x = 1.5 * draw(*case.shape, seed=3)
    z = cp.Variable(case.shape)
    expression, limits = case.model(z)
    solve(cp.Problem(cp.Minimize(expression + cp.sum_squares(z - x.numpy()) / (2 * step)), limits))
    # The value is accurate to 1e-10, so the minimizer of a strongly convex function to about its root.
    np.testing.assert_allclose(case.regularizer.prox(x, step).numpy(), z.value, atol=3e-5)


@every
def test_the_value_is_cvxpys(case: Case) -> None:
    for seed in range(3):
        x = case.regularizer.prox(draw(*case.shape, seed=seed), 0.5)  # inside the domain
        z = cp.Variable(case.shape)
        expression, limits = case.model(z)
        if case.name.startswith("envelope"):  # its variational form: a minimum over other variables
            found = solve(cp.Problem(cp.Minimize(expression), [*limits, z == x.numpy()]))
        else:
            z.value = x.numpy()
            found = float(getattr(expression, "value", expression))
            assert all(limit.violation().max() <= 1e-9 for limit in limits)
        assert case.regularizer.value(x).item() == pytest.approx(found, abs=1e-7)


@every
def test_the_conjugate_is_the_supremum(case: Case) -> None:
    g = case.regularizer
    for seed in range(2):
        y = draw(*case.shape, seed=seed + 5)
        if case.name.startswith(("affine", "halfspace")):  # the directions in which the supremum is finite
            y = y - g.prox(y, 1.0)
        y = 0.9 * g.dual_scale(y) * y
        z = cp.Variable(case.shape)
        expression, limits = case.model(z)
        found = solve(cp.Problem(cp.Maximize(cp.sum(cp.multiply(z, y.numpy())) - expression), limits))
        assert g.conjugate(y).item() == pytest.approx(found, abs=2e-6)


@every
def test_fenchel_young_is_an_equality_at_the_prox_alone(case: Case) -> None:
    g = case.regularizer
    for seed, step in itertools.product(range(5), (0.05, 1.0, 20.0)):
        x = draw(*case.shape, seed=seed)
        z = g.prox(x, step)
        y = (x - z) / step
        gap = g.value(z) + g.conjugate(y) - (z * y).sum()
        assert gap.item() == pytest.approx(0.0, abs=1e-10)
        for other in range(5):  # any other pair: at least 0
            w = g.prox(draw(*case.shape, seed=other + 50), 0.3)
            assert (g.value(w) + g.conjugate(y) - (w * y).sum()).item() >= -1e-10


@every
def test_the_dual_scale_is_the_largest(case: Case) -> None:
    g = case.regularizer
    for seed, size in itertools.product(range(4), (0.1, 1.0, 30.0)):
        y = size * draw(*case.shape, seed=seed + 20)
        s = g.dual_scale(y)
        assert 0 <= s <= 1
        assert s.shape == ()
        assert torch.isfinite(g.conjugate(s * y))
        if s < 1:
            assert torch.isinf(g.conjugate((s * (1 + 1e-8) + 1e-8) * y))
    assert g.dual_scale(torch.zeros(case.shape, dtype=torch.float64)) == 1


@every
def test_the_prox_is_firmly_nonexpansive_and_a_minimum(case: Case) -> None:
    g, step = case.regularizer, 0.7
    for seed in range(10):
        x, y = draw(*case.shape, seed=seed), 3 * draw(*case.shape, seed=seed + 100)
        p, q = g.prox(x, step), g.prox(y, step)
        assert ((p - q) * (x - y)).sum() >= (p - q).square().sum() - 1e-12
        best = g.value(p) + (p - x).square().sum() / (2 * step)
        for length in (1e-3, 1.0):
            w = g.prox(p + length * draw(*case.shape, seed=seed + 200), 1e-6)  # near, and in the domain
            assert best <= g.value(w) + (w - x).square().sum() / (2 * step) + 1e-11


@every
def test_the_oracle_attains_the_support_function(case: Case) -> None:
    g = case.regularizer
    if not g.offers("lmo"):
        with pytest.raises(NotImplementedError, match="bound"):
            g.lmo(draw(*case.shape))
        return
    for seed in range(5):
        direction = draw(*case.shape, seed=seed)
        corner = g.lmo(direction)
        assert corner.shape == direction.shape
        assert g.value(corner) == 0
        assert (direction * corner).sum().item() == pytest.approx(-g.conjugate(-direction).item(), abs=1e-12)
        inside = g.prox(5 * draw(*case.shape, seed=seed + 9), 1.0)
        assert (direction * corner).sum() <= (direction * inside).sum() + 1e-12
    assert g.value(g.lmo(torch.zeros(case.shape, dtype=torch.float64))) == 0


@every
def test_projections_are_idempotent_and_leave_members_alone(case: Case) -> None:
    g = case.regularizer
    if not isinstance(g, SETS):
        return
    x = draw(*case.shape, seed=1)
    z = g.prox(x, 0.1)
    assert g.value(z) == 0
    torch.testing.assert_close(g.prox(z, 7.0), z, rtol=0, atol=1e-14)
    torch.testing.assert_close(g.prox(x, 7.0), z, rtol=0, atol=0)
    outside = 30 * x + 9
    assert torch.isinf(g.value(outside)) or torch.equal(outside, g.prox(outside, 1.0))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_stay_and_float32_agrees(case: Case, dtype: torch.dtype) -> None:
    g, x = case.regularizer, draw(*case.shape, seed=4)
    if any(isinstance(v, Tensor) for v in vars(g).values()) and case.name != "affine":
        return  # weights and bounds in float64 make a point of their own
    names = ["prox", "value", "conjugate", "dual_scale", *(["lmo"] if g.offers("lmo") else [])]
    for name in names:
        arguments = (0.5,) if name == "prox" else ()
        found, expected = getattr(g, name)(x.to(dtype), *arguments), getattr(g, name)(x, *arguments)
        assert found.dtype == dtype, name
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    # A projection in float32 is in the set as float32 can tell.
    z = g.prox(x.to(dtype), 0.5)
    assert torch.isfinite(g.value(z))
    assert torch.isfinite(g.conjugate(g.dual_scale(x.to(dtype)) * x.to(dtype)))


@every
def test_zero_ties_and_small_and_huge_steps(case: Case) -> None:
    g = case.regularizer
    for x in (torch.zeros(case.shape, dtype=torch.float64), torch.full(case.shape, 0.5, dtype=torch.float64)):
        for step in (1e-12, 1e-3, 1.0, 1e12):
            z = g.prox(x.clone(), step)
            assert torch.isfinite(z).all()
            if step < 1e-6:  # no step at all: the point, or its projection
                torch.testing.assert_close(z, x if torch.isfinite(g.value(x)) else g.prox(x, 1.0), rtol=0, atol=1e-11)
                continue
            y = (x - z) / step
            gap = g.value(z) + g.conjugate(y) - (z * y).sum()
            assert abs(gap.item()) <= 1e-10


@every
def test_a_prox_is_differentiated_as_finite_differences_do(case: Case) -> None:
    g, x = case.regularizer, draw(*case.shape, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: g.prox(v, 0.4), (x,), atol=1e-6)
    z = torch.zeros(case.shape, dtype=torch.float64, requires_grad=True)  # a kink: some derivative, but a finite one
    (slope,) = torch.autograd.grad(g.prox(z, 0.4).sum(), z)
    assert torch.isfinite(slope).all()


WEIGHTED: list[tuple[str, Callable[[Tensor], Regularizer], tuple[int, ...]]] = [
    ("l1", L1, (5,)),
    ("group", lambda w: GroupL2(w, 2), (6,)),
    ("group lists", lambda w: GroupL2(w, LISTS), (7,)),
    ("sparse group", lambda w: SparseGroup(w, 0.5 * w, 2), (6,)),
    ("elastic net", lambda w: ElasticNet(w, 2 * w), (5,)),
    ("ridge", SquaredL2, (5,)),
    ("nuclear", Nuclear, (3, 4)),
    ("total variation", TotalVariation, (8,)),
    ("envelope", lambda w: GroupSparseEnvelope(w, 2, 2), (8,)),
    ("simplex", Simplex, (5,)),
    ("l1 ball", L1Ball, (5,)),
    ("l2 ball", L2Ball, (5,)),
    ("linf ball", LInfBall, (5,)),
    ("nuclear ball", NuclearBall, (3, 4)),
    ("box", lambda w: Box(-w, w), (5,)),
    ("halfspace", lambda w: Halfspace(NORMAL[:5], w - 2), (5,)),
]


@pytest.mark.parametrize(("make", "shape"), [c[1:] for c in WEIGHTED], ids=[c[0] for c in WEIGHTED])
def test_weights_may_be_tensors_and_are_differentiated(
    make: Callable[[Tensor], Regularizer], shape: tuple[int, ...]
) -> None:
    x = draw(*shape, seed=2)
    weight = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: make(w).prox(x, 0.6), (weight,), atol=1e-6)
    if torch.isfinite(make(weight).value(x)):
        assert torch.autograd.gradcheck(lambda w: make(w).value(x), (weight,), atol=1e-6)
    plain = make(0.37)  # type: ignore[arg-type]
    torch.testing.assert_close(make(weight).prox(x, 0.6), plain.prox(x, 0.6), rtol=0, atol=1e-15)


# ---- the envelope


def test_the_envelope_equals_its_function_on_sparse_points_and_is_below_elsewhere() -> None:
    for k, seed in itertools.product((1, 2, 3), range(5)):
        g = GroupSparseEnvelope(1.0, k, 2, D)
        x = draw(8, seed=seed)
        quadratic = 0.5 * (D * x.reshape(4, 2).square().sum(1)).sum()
        assert g.value(x) <= quadratic * (1 + 1e-12) or k < 4
        sparse = x.reshape(4, 2).clone()
        sparse[k:] = 0
        expected = 0.5 * (D * sparse.square().sum(1)).sum()
        assert g.value(sparse.reshape(-1)).item() == pytest.approx(expected.item(), rel=1e-12)
        assert g.value(x) >= quadratic * (1 - 1e-12)  # spreading over more groups costs more than the square


def test_the_envelope_with_one_group_is_half_the_square_of_the_group_norm() -> None:
    x = draw(8)
    expected = 0.5 * (D.sqrt() * x.reshape(4, 2).norm(dim=1)).sum().square()
    assert GroupSparseEnvelope(1.0, 1, 2, D).value(x).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_the_envelope_of_single_entries_is_half_the_square_of_the_k_support_norm(k: int) -> None:
    """The dual of the norm of the k largest entries: its unit ball is the hull of k-sparse unit vectors."""
    x = draw(6, seed=k)
    y = cp.Variable(6)
    limits = [cp.norm2(y[list(subset)]) <= 1 for subset in itertools.combinations(range(6), k)]
    norm = solve(cp.Problem(cp.Maximize(x.numpy() @ y), limits))
    assert GroupSparseEnvelope(1.0, k, 1).value(x).item() == pytest.approx(0.5 * norm**2, rel=1e-6)


def test_the_gradient_of_the_moreau_envelope_is_the_rest_of_the_prox() -> None:
    g, t = GroupSparseEnvelope(0.7, 2, 2, D), 0.6

    def smoothed(x: Tensor) -> Tensor:
        z = g.prox(x, t)
        return g.value(z) + (x - z).square().sum() / (2 * t)

    x, eps = draw(8, seed=6), 1e-6
    for direction in torch.eye(8, dtype=torch.float64):
        slope = (smoothed(x + eps * direction) - smoothed(x - eps * direction)) / (2 * eps)
        assert slope.item() == pytest.approx(((x - g.prox(x, t)) / t @ direction).item(), abs=1e-7)


def test_the_prox_of_the_envelope_selects_groups_among_many() -> None:
    x = draw(100_000, seed=1)
    x[:500] *= 30
    z = GroupSparseEnvelope(2.0, 50, 10).prox(x, 1.0)
    kept = z.reshape(-1, 10).norm(dim=1) > 0
    assert kept[:50].all()
    assert kept.sum() < 200


# ---- Cauchy-Schwarz regularizers

SYMMETRIC = draw(5, 5, seed=30)
SYMMETRIC = SYMMETRIC + SYMMETRIC.T
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
CAUCHY: list[tuple[str, Any, Tensor]] = [  # with a member of the set where it vanishes
    ("two-valued", TwoValued(), 0.3 * SIGNS),
    ("two-valued rows", TwoValued(2.0, 1), torch.stack([SIGNS, 5 * SIGNS])),
    ("two-valued columns", TwoValued(2.0, 0), torch.stack([SIGNS, 5 * SIGNS]).T),
    ("one-sided", OneSided(), -0.7 * (SIGNS > 0).double()),
    ("one-sided rows", OneSided(0.5, 1), torch.stack([(SIGNS > 0).double(), 3 * (SIGNS < 0).double()])),
    ("ternary", Ternary(), torch.tensor([0.0, 0.4, -0.4, 0.4, 0.0, 0.4], dtype=torch.float64)),
    ("multi-bit", MultiBit(), 0.2 * torch.stack([SIGNS, -2 * SIGNS, 4 * SIGNS.roll(1)])),
    ("eigenvector", Eigenvector(SYMMETRIC), 3 * torch.linalg.eigh(SYMMETRIC).eigenvectors[:, 2]),
    ("eigenvectors", Eigenvector(SYMMETRIC), 3 * torch.linalg.eigh(SYMMETRIC).eigenvectors.T),
    ("orthogonal", OrthogonalColumns(), 2 * torch.linalg.qr(draw(5, 3)).Q),
    (
        "orthogonal batch",
        OrthogonalColumns(0.1),
        torch.stack([torch.linalg.qr(draw(5, 3)).Q, torch.linalg.qr(draw(5, 3, seed=1)).Q]),
    ),
]
cauchy = pytest.mark.parametrize(("g", "member"), [c[1:] for c in CAUCHY], ids=[c[0] for c in CAUCHY])


@cauchy
def test_it_vanishes_on_its_set_at_any_scale_and_nowhere_else(g: Any, member: Tensor) -> None:
    for scale in (1e-3, 1.0, 1e3):
        assert 0 <= g.value(scale * member) <= 1e-24 * scale**g.degree
        torch.testing.assert_close(
            g.gradient(scale * member) / scale ** (g.degree - 1), torch.zeros_like(member), rtol=0, atol=1e-10
        )
    x = draw(*member.shape, seed=40)
    value = g.value(x)
    assert value > 0.01
    for scale in (0.1, -3.0):
        assert g.value(scale * x).item() == pytest.approx(abs(scale) ** g.degree * value.item(), rel=1e-12)
    assert g.value(torch.zeros_like(x)) == 0
    assert g.value(member + 1e-6 * x) > 0  # no cancellation: the difference of large numbers would be noise
    assert (g.convex, g.smooth, g.offers("prox")) == (False, True, False)


@cauchy
def test_the_gradient_is_that_of_finite_differences_and_of_autograd(g: Any, member: Tensor) -> None:
    x = draw(*member.shape, seed=41).requires_grad_()
    assert torch.autograd.gradcheck(g.value, (x,))
    (slope,) = torch.autograd.grad(g.value(x), x)
    torch.testing.assert_close(g.gradient(x.detach()), slope, rtol=1e-10, atol=1e-10)


def test_the_formulas_of_the_paper() -> None:
    x = draw(6, seed=42)
    s = {p: x.pow(p).sum() for p in (2, 3, 4, 6)}
    torch.testing.assert_close(TwoValued().value(x), 6 * s[4] - s[2] ** 2)
    torch.testing.assert_close(OneSided().value(x), s[2] * s[4] - s[3] ** 2)
    torch.testing.assert_close(Ternary().value(x), s[2] * s[6] - s[4] ** 2)
    y = draw(3, 4, seed=43)
    inner = (torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64) * y.square().sum(1)).sum()
    torch.testing.assert_close(MultiBit().value(y), (1 + 16 + 256) * 4 * y.pow(4).sum() - inner**2)
    v, c = draw(5, seed=44), SYMMETRIC
    torch.testing.assert_close(Eigenvector(c).value(v), (c @ v).square().sum() * v.square().sum() - (v @ c @ v) ** 2)
    m = draw(5, 3, seed=45)
    torch.testing.assert_close(OrthogonalColumns().value(m), 3 * (m.T @ m).square().sum() - m.square().sum() ** 2)
    # Pairwise: sum over i < j of (g_i h_j - g_j h_i)^2.
    pairs = sum((x[j] ** 2 - x[i] ** 2) ** 2 for i in range(6) for j in range(i + 1, 6))
    torch.testing.assert_close(TwoValued().value(x), pairs)


# ---- Separable


def test_a_separable_one_treats_each_tensor_alone() -> None:
    g = Separable({"w": L1(0.5), "rest": [Nonnegative(), None]})
    x = {"w": draw(3), "rest": [draw(2, seed=1), draw(2, 2, seed=2)]}
    z = g.prox(x, 0.4)
    torch.testing.assert_close(z["w"], prox.l1(x["w"], 0.2), rtol=0, atol=0)
    torch.testing.assert_close(z["rest"][0], x["rest"][0].clamp_min(0), rtol=0, atol=0)
    assert z["rest"][1] is x["rest"][1]
    assert g.value(z).item() == pytest.approx(0.5 * z["w"].abs().sum().item())
    assert torch.isinf(g.value({"w": x["w"], "rest": [-torch.ones(2), x["rest"][1]]}))
    assert (g.convex, g.smooth, g.offers("conjugate"), g.offers("lmo")) == (True, False, True, False)
    y = {"w": 2 * z["w"].sign(), "rest": [-torch.ones(2), torch.zeros(2, 2)]}
    assert g.dual_scale(y) == 0.25
    assert g.conjugate(y) == math.inf
    assert fingerprint(g) != fingerprint(Separable({"w": L1(0.6), "rest": [Nonnegative(), None]}))
    assert g == Separable({"w": L1(0.5), "rest": [Nonnegative(), Zero()]})


def test_a_separable_one_of_sets_and_of_smooth_ones() -> None:
    g = Separable((Simplex(), L2Ball(2.0)))
    d = (draw(3), draw(2, seed=1))
    corner = g.lmo(d)
    torch.testing.assert_close(corner[1], -2 * d[1] / d[1].norm())
    assert (corner[0].max(), corner[0].argmax()) == (1, d[0].argmin())
    ridge = Separable((SquaredL2(2.0), TwoValued()))
    assert (ridge.smooth, ridge.convex) == (True, False)
    torch.testing.assert_close(ridge.gradient(d)[0], 2 * d[0])


def test_a_separable_one_says_what_does_not_fit() -> None:
    with pytest.raises(TypeError, match=r"regularizers or None, got 0\.3"):
        Separable({"w": 0.3})
    with pytest.raises(ValueError, match="at least one"):
        Separable({})
    with pytest.raises(ValueError, match=r"structure of Separable\(parts=\{'w': L1"):
        Separable({"w": L1(0.3)}).value({"v": draw(3)})


# ---- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1(-0.1), "L1: weight must be a finite number in"),
        (lambda: L1(torch.tensor([0.1, -0.1])), "L1: weight must hold finite numbers >= 0"),
        (lambda: L1(math.nan), "L1: weight must be"),
        (lambda: GroupL2(math.inf), "GroupL2: weight"),
        (lambda: GroupL2(0.1, [[0, 1], [1]]), "disjoint, but the index 1"),
        (lambda: GroupL2(0.1, [[-1]]), "indices >= 0, got -1"),
        (lambda: GroupL2(0.1, []), "at least one group"),
        (lambda: GroupL2(0.1, 0), "Slices: size must be"),
        (lambda: GroupL2(0.1, 2).value(draw(5)), "must divide the extent 5"),
        (lambda: GroupL2(0.1, Slices(dim=1)).value(draw(5)), "dim of the groups is 1"),
        (lambda: GroupL2(0.1, [[9]]).value(draw(5)), "index 9, but the tensor has 5"),
        (lambda: SparseGroup(0.1, -1.0), "SparseGroup: group_weight"),
        (lambda: SparseGroup(torch.ones(2), 1.0), "l1_weight must be one number"),
        (lambda: ElasticNet(0.1, -1.0), "ElasticNet: l2_weight"),
        (lambda: SquaredL2(-1.0), "SquaredL2: weight"),
        (lambda: Nuclear(1.0).value(draw(5)), "a matrix is needed"),
        (lambda: Nuclear(1.0).prox(draw(5), 1.0), "a matrix is needed"),
        (lambda: TotalVariation(-1.0), "TotalVariation: weight"),
        (lambda: Box(1.0, 0.0), "low must not exceed high"),
        (lambda: Box(math.nan, 0.0), "Box: low"),
        (lambda: Simplex(0.0), "Simplex: total"),
        (lambda: L1Ball(-1.0), "L1Ball: radius"),
        (lambda: Affine(draw(2, 3), draw(3)), r"matrix must be \(m, n\)"),
        (lambda: Affine(torch.ones(2, 2), torch.tensor([0.0, 1.0])), "no point meets the equations"),
        (lambda: Affine(torch.full((2, 2), math.nan), torch.ones(2)), "must be finite"),
        (lambda: Halfspace(torch.zeros(3)), "not zero"),
        (lambda: Halfspace(torch.ones(3)).prox(draw(4), 1.0), "must have the shape"),
        (lambda: GroupSparseEnvelope(0.1, 0), "GroupSparseEnvelope: k"),
        (lambda: GroupSparseEnvelope(0.1, 1, None, 0.0), "group_weights"),
        (lambda: TwoValued(-1.0), "TwoValued: weight"),
        (lambda: Eigenvector(draw(3, 3)), "must be symmetric"),
        (lambda: OrthogonalColumns().value(draw(3)), "needs matrices"),
        (lambda: MultiBit().value(torch.tensor(1.0)), "needs a tensor of the shape"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: L1("a"), lambda: GroupL2(0.1, 1.5), lambda: GroupL2(0.1, [0, 1]), lambda: GroupL2(0.1, [[0.5]]),
     lambda: Affine([[1.0]], torch.ones(1)), lambda: Halfspace([1.0]), lambda: GroupSparseEnvelope(0.1, 1.5)],
)  # fmt: skip
def test_bad_types_are_named(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="must"):
        make()


def test_what_is_missing_says_so() -> None:
    for make in (
        lambda: TwoValued().prox(draw(3), 1.0),
        lambda: L1(0.1).gradient(draw(3)),
        lambda: TwoValued().conjugate(draw(3)),
    ):
        with pytest.raises(NotImplementedError, match=r"TwoValued|L1"):
            make()
    assert not Box(-math.inf, 0.0).offers("lmo")
    with pytest.raises(NotImplementedError, match="a bound is infinite"):
        Box(-math.inf, 0.0).lmo(draw(3))


def test_groups_of_indices_equal_slices() -> None:
    x = draw(4, 3)
    a, b = GroupL2(0.4), GroupL2(0.4, Indices([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]))
    torch.testing.assert_close(a.prox(x, 0.7), b.prox(x, 0.7))
    torch.testing.assert_close(a.value(x), b.value(x))
    torch.testing.assert_close(Slices(dim=0).sizes(x), torch.full((3,), 4.0, dtype=torch.float64))
    assert Indices(LISTS).sizes(x).tolist() == [2, 0, 3]
