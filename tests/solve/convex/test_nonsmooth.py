"""Subgradient and mirror methods, dual averaging and mirror prox: equations, special cases, proved rates, LP optima."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from first_order import Box, Simplex, states

from steepest.core.problem import MissingOracle
from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.core.stopping import Tolerance
from steepest.solve.convex import (
    CompositeProblem,
    DualAveraging,
    LinearModel,
    MirrorDescent,
    MirrorProx,
    MonotoneProblem,
    SaddleProblem,
    SubgradientMethod,
)
from steepest.solve.convex.geometry import Entropy, Euclidean, PNorm
from steepest.solve.convex.subgradient_method import DecreasingSteps, PolyakSteps, StronglyConvexSteps


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def game(rows: int = 7, columns: int = 5, seed: int = 0) -> tuple[torch.Tensor, float]:
    """A matrix with entries of at most 1, and the value of its game ``min_x max_y x' A y`` by linear programming."""
    matrix = random(rows, columns, seed=seed).clamp(-1, 1)
    task = scipy.optimize.linprog(
        np.r_[np.zeros(rows), 1.0],
        A_ub=np.c_[matrix.T.numpy(), -np.ones(columns)],
        b_ub=np.zeros(columns),
        A_eq=np.r_[np.ones(rows), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    return matrix, float(task.fun)


def minimax(seed: int = 0) -> tuple[CompositeProblem, float]:
    """``max_j (A' x)_j`` on the simplex, with its least value; its subgradients are columns of A."""
    matrix, value = game(seed=seed)
    return CompositeProblem(lambda x: (matrix.T @ x).max(), Simplex()), value


def uniform(size: int) -> torch.Tensor:
    return torch.full((size,), 1 / size, dtype=torch.float64)


# Subgradient method


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_subgradient_method_equals_its_equations_in_numpy(power: float) -> None:
    problem, _ = minimax()
    matrix = game()[0].numpy()
    x, total, mean = np.full(7, 1 / 7), 0.0, np.zeros(7)
    found = states(SubgradientMethod(DecreasingSteps(0.5, power)), problem, uniform(7), 40)
    for steps, state in enumerate(found):
        np.testing.assert_allclose(state.point.numpy(), x, atol=1e-12)
        if steps:
            np.testing.assert_allclose(state.minorant.average.numpy(), mean, atol=1e-12)
        size = 0.5 / (steps + 1) ** power
        mean = (total * mean + size * x) / (total + size)
        total += size
        g = matrix[:, (matrix.T @ x).argmax()]
        x = Simplex().prox(torch.as_tensor(x - size * g), 1.0).numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["constant", "decreasing", "polyak"])
def test_the_subgradient_method_stays_under_its_bounds(seed: int, rule: str) -> None:
    problem, least = minimax(seed)
    steps, slope = 300, float(game(seed=seed)[0].norm(dim=0).max())
    radius = math.sqrt(1 - 1 / 7)  # the distance from the uniform point to a vertex
    size = radius / (slope * math.sqrt(steps))
    rules = {"constant": DecreasingSteps(size, 0.0), "decreasing": DecreasingSteps(0.5), "polyak": PolyakSteps(least)}
    for output in ("average", "best"):
        solver = SubgradientMethod(rules[rule], output=output)  # type: ignore[arg-type]
        result = solver.run(problem, uniform(7), budget=f"{steps}steps")
        sizes = [0.5 / math.sqrt(k + 1) if rule == "decreasing" else size for k in range(steps)]
        for k, value, gap in zip(result.trace.step, result.trace.value, result.trace.stationarity, strict=True):
            assert value - least <= gap + 1e-12
            if k and rule == "polyak":
                assert value - least <= radius * slope / math.sqrt(k) + 1e-12
            elif k:
                total, squares = sum(sizes[:k]), sum(s * s for s in sizes[:k])
                bound = (radius**2 + slope**2 * squares) / (2 * total)
                assert value - least <= bound
                assert (
                    output == "best" or gap <= 2 * bound + 1e-9
                )  # the diameter, where the set's farthest point counts
        if rule == "constant":
            assert result.value - least <= radius * slope / math.sqrt(steps)


def test_strong_convexity_gives_the_rate_one_over_k() -> None:
    center = random(6, seed=3)
    problem = CompositeProblem(lambda x: 0.5 * (x - center).square().sum() + (x - center).abs().max(), Box(-1.0, 1.0))
    slope = float((2.0 + center.abs().max()) * math.sqrt(6) + 1)
    best = states(SubgradientMethod(StronglyConvexSteps(1.0)), problem, torch.zeros(6).double(), 20000)[-1].best_value
    result = SubgradientMethod(StronglyConvexSteps(1.0)).run(problem, torch.ones(6).double(), budget="300steps")
    for k, value in zip(result.trace.step, result.trace.value, strict=True):
        if k:
            assert value - best <= 2 * slope**2 / (k + 1)
    weights = np.arange(1, 301) / (300 * 301 / 2)
    points = np.stack(
        [
            s.point.numpy()
            for s in states(SubgradientMethod(StronglyConvexSteps(1.0)), problem, torch.ones(6).double(), 299)
        ]
    )
    np.testing.assert_allclose(result.solution.numpy(), weights @ points, atol=1e-12)


def test_a_support_vector_machine_with_its_hinge() -> None:
    design, target = random(60, 4, seed=5), torch.sign(random(60, seed=6))
    model = LinearModel(design, target, "hinge", Box(-1.0, 1.0))
    result = SubgradientMethod(DecreasingSteps(1.0)).run(
        model, torch.zeros(4).double(), budget="3000steps", record_every=500
    )
    import cvxpy

    x = cvxpy.Variable(4)
    loss = cvxpy.sum(cvxpy.pos(1 - cvxpy.multiply(target.numpy(), design.numpy() @ x))) / 60
    task = cvxpy.Problem(cvxpy.Minimize(loss), [x >= -1, x <= 1])
    task.solve(solver="CLARABEL")
    assert -1e-8 <= result.value - task.value <= 1e-2
    assert result.value - task.value <= result.stationarity


def test_a_subgradient_of_zero_ends_the_run_and_sets_without_bound_need_another_tolerance() -> None:
    problem = CompositeProblem(lambda x: x.abs().sum())
    result = SubgradientMethod().run(problem, torch.zeros(3), budget="5steps")
    assert result.reason is Reason.STALLED
    result = SubgradientMethod().run(problem, torch.tensor([1.0, 0.0]), budget="5steps")
    assert (result.reason, result.steps, result.value) == (Reason.STALLED, 1, 0.0)
    assert not result.solution.any()  # the minimizer that was hit, not the average
    with pytest.raises(ValueError, match="does not measure stationarity"):
        SubgradientMethod().run(problem, torch.ones(3), budget="5steps", tolerance=1e-3)
    target = Tolerance(value=0.1)
    assert SubgradientMethod().run(problem, torch.ones(3), budget="5000steps", tolerance=target).success
    with pytest.raises(TypeError, match="rule must be SubgradientSteps"):
        SubgradientMethod(0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="power must be"):
        DecreasingSteps(1.0, 2.0)
    assert SubgradientMethod(PolyakSteps(2.0)).run(problem, torch.ones(1), budget="5steps").reason is Reason.STALLED


# Mirror descent and dual averaging


def test_the_euclidean_geometry_is_the_subgradient_method() -> None:
    problem, _ = minimax()
    left = states(MirrorDescent(Euclidean(), 0.3), problem, uniform(7), 30)
    right = states(SubgradientMethod(DecreasingSteps(0.3)), problem, uniform(7), 30)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.point, b.point, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.minorant.average, b.minorant.average, rtol=0, atol=1e-13)
        assert a.stationarity == pytest.approx(b.stationarity, abs=1e-12)


def test_the_entropy_multiplies_and_dual_averaging_with_a_constant_step_is_the_same() -> None:
    problem, _ = minimax()
    matrix = game()[0].numpy()
    x = np.full(7, 1 / 7)
    descent = states(MirrorDescent(Entropy(), 0.7, power=0.0), problem, uniform(7), 40)
    averaging = states(DualAveraging(Entropy(), 0.7, power=0.0), problem, uniform(7), 40)
    for a, b in zip(descent, averaging, strict=True):
        np.testing.assert_allclose(a.point.numpy(), x, rtol=1e-9)
        torch.testing.assert_close(a.point, b.point, rtol=1e-9, atol=0)  # lazy and greedy agree on the simplex
        x = x * np.exp(-0.7 * matrix[:, (matrix.T @ x).argmax()])
        x = x / x.sum()


def test_dual_averaging_with_falling_steps_equals_numpy() -> None:
    problem, _ = minimax()
    matrix, total = game()[0].numpy(), np.zeros(7)
    x = start = np.linspace(1, 2, 7) / np.linspace(1, 2, 7).sum()
    for steps, state in enumerate(states(DualAveraging(Entropy(), 0.7), problem, torch.as_tensor(start), 40)):
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-9)
        total = total + matrix[:, (matrix.T @ x).argmax()]
        x = start * np.exp(-0.7 / math.sqrt(steps + 1) * total)
        x = x / x.sum()


@pytest.mark.parametrize("seed", range(3))
def test_mirror_methods_stay_under_bubecks_bounds(seed: int) -> None:
    problem, least = minimax(seed)
    steps, slope = 200, float(game(seed=seed)[0].abs().max())
    radius = math.log(7)
    size = math.sqrt(2 * radius / steps) / slope
    result = MirrorDescent(Entropy(), size, power=0.0).run(problem, uniform(7), budget=f"{steps}steps")
    for k, value, gap in zip(result.trace.step, result.trace.value, result.trace.stationarity, strict=True):
        assert value - least <= gap + 1e-12
        if k:
            bound = radius / (size * k) + size * slope**2 / 2
            assert value - least <= bound
            assert gap <= bound * (1 + 1e-9)  # the proof bounds the regret against every point, and so the gap
    assert result.value - least <= slope * math.sqrt(2 * radius / steps)
    lazy = math.sqrt(radius / (2 * steps)) / slope
    result = DualAveraging(Entropy(), lazy, power=0.0).run(problem, uniform(7), budget=f"{steps}steps")
    assert result.value - least <= 2 * slope * math.sqrt(2 * radius / steps)


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0])
def test_the_p_norm_geometry_inverts_and_keeps_its_rate(p: float) -> None:
    geometry, x = PNorm(p), random(6, seed=1)
    problem = CompositeProblem(lambda x: x.abs().sum())
    torch.testing.assert_close(geometry.primal(problem, geometry.dual(x)), x)
    probe = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(0.5 * torch.linalg.vector_norm(probe, p) ** 2, probe)
    torch.testing.assert_close(geometry.dual(x), gradient)
    assert not geometry.dual(torch.zeros(3)).any()
    assert torch.isfinite(geometry.primal(problem, torch.full((3,), 1e30))).all()
    center = torch.zeros(30, dtype=torch.float64)
    center[4] = 1.0
    problem = CompositeProblem(lambda x: (x - center).abs().max())
    steps, start = 300, torch.zeros(30, dtype=torch.float64)
    radius, modulus = geometry.distance(center, start), p - 1
    size = math.sqrt(2 * modulus * radius / steps)  # subgradients have the dual norm 1
    result = MirrorDescent(geometry, size, power=0.0).run(problem, start, budget=f"{steps}steps")
    assert result.value <= math.sqrt(2 * radius / (modulus * steps))
    if p == 2.0:
        same = SubgradientMethod(DecreasingSteps(size, 0.0)).run(problem, start, budget=f"{steps}steps")
        torch.testing.assert_close(result.solution, same.solution)


def test_the_dimension_enters_by_its_logarithm_only() -> None:
    size, steps = 10000, 100
    corner = torch.zeros(size, dtype=torch.float64)
    corner[7] = 1.0
    problem = CompositeProblem(lambda x: (x - corner).abs().sum(), Simplex())  # slopes of 1 in every coordinate
    entropic = MirrorDescent(Entropy(), math.sqrt(2 * math.log(size) / steps), power=0.0)
    euclidean = SubgradientMethod(DecreasingSteps(1 / math.sqrt(size * steps), 0.0))
    values = [
        s.run(problem, uniform(size), budget=f"{steps}steps", record_every=100).value for s in (entropic, euclidean)
    ]
    assert values[0] <= math.sqrt(2 * math.log(size) / steps)
    assert values[1] > 4 * values[0]


def test_weights_that_underflow_come_back() -> None:
    sign = torch.tensor(1.0, dtype=torch.float64)
    problem = CompositeProblem(lambda x: sign * x[0], Simplex())
    with torch.no_grad():
        solver = MirrorDescent(Entropy(), 1000.0, power=0.0)
        state = solver.init(problem, uniform(2), torch.Generator())
        for _ in range(3):
            state = solver.step(problem, state)
        assert state.point[0] == 0
        sign.fill_(-1.0)
        for _ in range(5):  # the first still goes by the old slope
            state = solver.step(problem, state)
    assert state.point[0] > 0.4


def test_starts_outside_the_geometry_are_refused() -> None:
    problem, _ = minimax()
    for solver in (MirrorDescent(), DualAveraging()):
        with pytest.raises(ValueError, match="start must be positive"):
            solver.run(problem, torch.ones(7).double(), budget="1steps")
        with pytest.raises(ValueError, match="start must be positive"):
            solver.run(problem, torch.eye(7).double()[0], budget="1steps")
    for cls in (MirrorDescent, DualAveraging):
        with pytest.raises(TypeError, match="geometry must be a Geometry"):
            cls("entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p must be"):
        PNorm(1.0)


# Mirror prox


def bilinear(seed: int = 0) -> tuple[SaddleProblem, torch.Tensor, float]:
    matrix, value = game(seed=seed)
    return SaddleProblem(lambda x, y: x @ matrix @ y, (Simplex(), Simplex())), matrix, value


def test_mirror_prox_equals_its_equations_in_numpy() -> None:
    problem, matrix, _ = bilinear()
    a, x, y, t = matrix.numpy(), np.full(7, 1 / 7), np.full(5, 1 / 5), 0.8
    looks = []

    def move(x: Any, y: Any, gx: Any, gy: Any) -> Any:
        x, y = x * np.exp(-t * gx), y * np.exp(t * gy)
        return x / x.sum(), y / y.sum()

    for state in states(MirrorProx(t, Entropy()), problem, (uniform(7), uniform(5)), 30):
        np.testing.assert_allclose(state.point[0].numpy(), x, rtol=1e-9)
        np.testing.assert_allclose(state.point[1].numpy(), y, rtol=1e-9)
        if looks:
            np.testing.assert_allclose(state.average[0].numpy(), np.mean([w[0] for w in looks], 0), rtol=1e-9)
        u, v = move(x, y, a @ y, a.T @ x)
        looks.append((u, v))
        x, y = move(x, y, a @ v, a.T @ u)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["entropy", "euclidean", "mixed"])
def test_the_gap_is_the_games_and_stays_under_the_proved_rate(seed: int, kind: str) -> None:
    problem, matrix, value = bilinear(seed)
    if kind == "entropy":  # the norm |x|_1 and |y|_1 together: F is Lipschitz with the largest entry
        geometry: Any = Entropy()
        lipschitz, radius = float(matrix.abs().max()), math.log(7) + math.log(5)
    else:
        geometry = Euclidean()
        lipschitz, radius = float(torch.linalg.matrix_norm(matrix, 2)), 0.5 * (6 / 7 + 4 / 5)
    if kind == "mixed":
        geometry = (Entropy(), Euclidean())
        lipschitz, radius = float(matrix.norm(dim=1).max()), math.log(7) + 0.4
    t = 1 / lipschitz
    start = (uniform(7), uniform(5))
    for k, state in enumerate(states(MirrorProx(t, geometry), problem, start, 300)):
        x, y = state.average
        gap = float((matrix.T @ x).max() - (matrix @ y).min())
        assert state.stationarity == pytest.approx(gap, abs=1e-10)
        assert float((matrix.T @ x).max()) >= value - 1e-9 >= float((matrix @ y).min()) - 2e-9
        if k:
            assert gap <= radius / (t * k) * (1 + 1e-9)


def test_it_is_faster_than_mirror_descent_steps_which_circle() -> None:
    problem = SaddleProblem(lambda x, y: (x * y).sum())
    start = (torch.ones(2).double(), torch.ones(2).double())
    found = states(MirrorProx(0.5), problem, start, 200)
    norms = [float(s.point[0].square().sum() + s.point[1].square().sum()) for s in found]
    # One step of the extragradient method on a rotation: z - t J (z - t J z) = (1 - t^2) z - t J z.
    for before, after in itertools.pairwise(norms):
        assert after == pytest.approx(((1 - 0.25) ** 2 + 0.25) * before, rel=1e-9)
    assert found[-1].stationarity < 1e-8


def test_a_strongly_convex_concave_saddle_and_an_affine_inequality_have_their_closed_forms() -> None:
    b, c = random(4, seed=1), random(3, seed=2)
    matrix = random(4, 3, seed=3)
    problem = SaddleProblem(
        lambda x, y: 0.5 * x.square().sum() + x @ matrix @ y - 0.5 * y.square().sum() + b @ x + c @ y
    )
    whole = torch.cat([torch.cat([torch.eye(4).double(), matrix], 1), torch.cat([-matrix.T, torch.eye(3).double()], 1)])
    answer = torch.linalg.solve(whole, torch.cat([-b, c]))
    step = 0.9 / float(torch.linalg.matrix_norm(whole, 2))
    start = (torch.zeros(4).double(), torch.zeros(3).double())
    result = MirrorProx(step).run(problem, start, budget="3000steps", tolerance=1e-9)
    assert result.success
    torch.testing.assert_close(torch.cat(result.solution), answer, rtol=0, atol=1e-7)

    skew = random(5, 5, seed=4)
    skew = skew - skew.T + 0.1 * torch.eye(5, dtype=torch.float64)
    offset = random(5, seed=5)
    inequality = MonotoneProblem(lambda z: skew @ z + offset, (Box(-0.5, 0.5),))
    step = 0.9 / float(torch.linalg.matrix_norm(skew, 2))
    z = MirrorProx(step).run(inequality, torch.zeros(5).double(), budget="5000steps", record_every=5000).state.point
    natural = z - (z - (skew @ z + offset)).clamp(-0.5, 0.5)
    assert float(natural.abs().max()) < 1e-8


def test_what_does_not_fit_mirror_prox_is_refused() -> None:
    problem, *_ = bilinear()
    with pytest.raises(TypeError, match="pair"):
        MirrorProx(0.1).run(SaddleProblem(lambda x, y: x @ y), torch.zeros(3), budget="1steps")
    with pytest.raises(ValueError, match="one for each set"):
        MirrorProx(0.1).run(problem, uniform(7), budget="1steps")
    with pytest.raises(ValueError, match="geometry must name one for each"):
        MirrorProx(0.1, (Entropy(),)).run(problem, (uniform(7), uniform(5)), budget="1steps")
    with pytest.raises(TypeError, match="geometry must be"):
        MirrorProx(0.1, "entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_size must be"):
        MirrorProx(0.0)
    with pytest.raises(MissingOracle, match="operator"):
        MirrorProx(0.1).run(CompositeProblem(lambda x: x.sum(), L1(0.1)), torch.zeros(3), budget="1steps")
