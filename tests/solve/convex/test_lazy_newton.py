"""Lazy Newton against transcriptions, the bounds that are proved with their constants, and Newton's factorizations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.result import Reason
from steepest.solve.convex import LazyNewton, LinearModel, Newton


def logistic(n: int = 60, d: int = 6, weight: float = 0.02, seed: int = 0) -> tuple[SmoothProblem, float, Any, Any]:
    """A logistic regression, a Lipschitz constant of its Hessian, and its data.

    The third derivative of the loss is at most 1/(6 sqrt 3), so that of the mean along a unit vector u is at most this
    times the mean of |a . u|^3, and that at most max |a| times the largest eigenvalue of A'A / n.
    """
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator) * torch.logspace(0, -1, d).double()
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    target = torch.sign(design @ torch.randn(d, dtype=torch.float64, generator=generator) + 0.5 * noise)
    top = float(torch.linalg.matrix_norm(design, 2)) ** 2 / n
    lipschitz = top * float(design.norm(dim=1).max()) / (6 * math.sqrt(3))
    return LinearModel(design, target, "logistic", SquaredL2(weight)).as_smooth(), lipschitz, design, target


def waves(seed: int = 0, d: int = 4) -> tuple[SmoothProblem, float, torch.Tensor]:
    """A sum of cosines, bounded below and not convex; a Lipschitz constant of its Hessian; a start."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(12, d, dtype=torch.float64, generator=generator)
    start = 2 * torch.randn(d, dtype=torch.float64, generator=generator)
    return SmoothProblem(lambda x: (rows @ x).cos().sum()), float(rows.norm(dim=1).pow(3).sum()), start


def states(solver: LazyNewton, problem: SmoothProblem, start: Any, steps: int, **settings: Any) -> tuple[Any, Any]:
    found: list[Any] = []
    result = solver.run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)], **settings
    )
    return result, found


def cubic(h: np.ndarray, g: np.ndarray, constant: float) -> np.ndarray:
    """The cubic step of a positive definite Hessian by bisection on its length."""

    def excess(r: float) -> float:
        return float(np.linalg.norm(np.linalg.solve(h + 0.5 * constant * r * np.eye(len(g)), g)) - r)

    high = np.linalg.norm(np.linalg.solve(h, g)) + 1.0
    r = scipy.optimize.brentq(excess, 0.0, high, xtol=1e-15, rtol=1e-14)
    return -np.linalg.solve(h + 0.5 * constant * r * np.eye(len(g)), g)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("regularization", ["cubic", "quadratic"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_steps_equal_a_transcription_in_numpy(every: int, regularization: str, adaptive: bool) -> None:
    problem, _, design, target = logistic()
    a, y = design.numpy(), target.numpy()

    def value(x: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (a @ x)).mean() + 0.01 * x @ x)

    def gradient(x: np.ndarray) -> np.ndarray:
        return -a.T @ (y / (1 + np.exp(y * (a @ x)))) / len(y) + 0.02 * x

    def hessian(x: np.ndarray) -> np.ndarray:
        s = 1 / (1 + np.exp(-(a @ x)))
        return (a.T * (s * (1 - s))) @ a / len(y) + 0.02 * np.eye(len(x))

    start = 4 * np.random.default_rng(3).normal(size=6)
    first = 1e-9 if adaptive else 0.5
    solver = LazyNewton(every=every, regularization=regularization, adaptive=adaptive, constant=first)  # type: ignore[arg-type]
    _, found = states(solver, problem, torch.from_numpy(start), 9)
    x, constant, retries = start, solver.constant, 0
    for k, state in enumerate(found):
        if k % every == 0:
            h, total, at_snapshot = hessian(x), 0.0, value(x)
        g = gradient(x)
        if np.linalg.norm(g) < 1e-6:  # below, values differ by rounding, and the solver compares slopes
            break
        while True:
            if regularization == "cubic":
                d = cubic(h, g, constant)
            else:
                d = -np.linalg.solve(h + math.sqrt(constant * np.linalg.norm(g)) * np.eye(6), g)
            after = np.linalg.norm(gradient(x + d))
            if regularization == "cubic":
                promise = after**1.5 / (5 * math.sqrt(constant))
            else:
                promise = after**2 / (6 * math.sqrt(constant * np.linalg.norm(g)))
            if not adaptive or (at_snapshot - value(x + d) >= total + promise and value(x + d) <= value(x)):
                break
            constant, retries = 2 * constant, retries + 1
        x, total = x + d, total + promise
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-8, atol=1e-10)
        assert state.age == k % every + 1
        if adaptive:
            constant /= 2
        assert state.constant == constant
    assert retries > 0 or not adaptive
    assert k >= 5


@pytest.mark.parametrize("every", [1, 4, 10])
@pytest.mark.parametrize("seed", range(3))
def test_the_cubic_method_keeps_its_promise_without_convexity(every: int, seed: int) -> None:
    problem, lipschitz, start = waves(seed)
    constant = 6 * every * lipschitz
    result, found = states(LazyNewton(every=every, constant=constant, adaptive=False), problem, start, 300)
    least = -12.0  # no cosine is less than -1
    begin = float(problem.value(start))
    negative = False
    smallest = math.inf
    for k, state in enumerate(found):
        if k % every == 0:
            snapshot, total = (begin if k == 0 else found[k - 1].value), 0.0
        negative = negative or float(state.eigenvalues[0]) < 0
        total += state.stationarity**1.5 / (5 * math.sqrt(constant))
        assert snapshot - state.value >= total - 1e-12
        smallest = min(smallest, state.stationarity)
        assert smallest <= (5 * math.sqrt(constant) * (begin - least) / (k + 1)) ** (2 / 3)
    assert negative  # the Hessian was indefinite on the way
    assert result.stationarity < float(problem.gradient(start).norm())


@pytest.mark.parametrize("every", [1, 4, 10])
def test_the_quadratic_method_keeps_its_promise_on_convex_functions(every: int) -> None:
    problem, lipschitz, _, _ = logistic()
    constant = 3 * every * lipschitz
    start = 5 * torch.ones(6, dtype=torch.float64)
    solver = LazyNewton(every=every, constant=constant, adaptive=False, regularization="quadratic")
    _, found = states(solver, problem, start, 60, tolerance=1e-9)
    before, value = float(problem.gradient(start).norm()), float(problem.value(start))
    for k, state in enumerate(found):
        if k % every == 0:
            snapshot, total = value, 0.0
        total += state.stationarity**2 / (6 * math.sqrt(constant * before))
        assert snapshot - state.value >= total - 1e-14
        before, value = state.stationarity, state.value


def test_the_global_rate_of_the_cubic_newton_method() -> None:
    # Nesterov and Polyak (2006), Theorem 4: with m = 1 and M = L, f(x_k) - f* <= (3/2) L D^3 / (1 + k/3)^2, k >= 1,
    # where every point of the level set is within D of the minimizer.
    problem, lipschitz, _, _ = logistic(weight=1e-3)
    start = 3 * torch.ones(6, dtype=torch.float64)
    best = Newton().run(problem, start, budget="100steps", tolerance=1e-12)
    assert best.value is not None
    begin = float(problem.value(start)) - best.value
    radius = max(math.sqrt(2 * begin / 1e-3), float((start - best.solution).norm()))  # by strong convexity
    _, found = states(LazyNewton(every=1, constant=lipschitz, adaptive=False), problem, start, 100, tolerance=1e-9)
    assert len(found) > 5
    for k, state in enumerate(found, start=1):
        assert state.value - best.value <= 1.5 * lipschitz * radius**3 / (1 + k / 3) ** 2


@pytest.mark.parametrize("every", [1, 5, 12])
def test_the_gap_falls_like_one_over_k_squared(every: int) -> None:
    # By convexity |g| >= gap / D, so each phase has gap_before - gap_after >= m gap_after^{3/2} / (5 sqrt(M) D^{3/2})
    # while values fall within it; the largest sequence that this allows is solved for.
    problem, lipschitz, _, _ = logistic(weight=1e-3)
    start = 3 * torch.ones(6, dtype=torch.float64)
    best = Newton().run(problem, start, budget="100steps", tolerance=1e-12)
    assert best.value is not None
    constant = 6 * every * lipschitz
    gap = float(problem.value(start)) - best.value
    radius = math.sqrt(2 * gap / 1e-3)
    _, found = states(LazyNewton(every=every, constant=constant, adaptive=False), problem, start, 8 * every)
    bound = gap
    values = [state.value for state in found]
    assert all(b <= a + 1e-14 for a, b in itertools.pairwise(values))
    for phase in range(8):
        weight = every / (5 * math.sqrt(constant) * radius**1.5)
        bound = scipy.optimize.brentq(lambda b, w=weight, t=bound: b + w * b**1.5 - t, 0.0, bound)
        assert values[(phase + 1) * every - 1] - best.value <= bound


@pytest.mark.parametrize("every", [1, 4])
def test_local_convergence_is_as_fast_as_proved(every: int) -> None:
    mu = 0.05
    problem, lipschitz, _, _ = logistic(weight=mu)
    constant = 2 * lipschitz
    start = torch.zeros(6, dtype=torch.float64)
    _, found = states(LazyNewton(every=every, constant=constant, adaptive=False), problem, start, 40, tolerance=1e-13)
    norms = [float(problem.gradient(start).norm())] + [state.stationarity for state in found]
    for k in range(len(found)):
        g, g_z, following = norms[k], norms[k - k % every], norms[k + 1]
        stale = 0.0 if k % every == 0 else lipschitz * (g_z + g)
        assert following <= (0.5 * (constant + lipschitz) * g + stale) * g / mu**2 + 1e-15
    assert norms[-1] <= 1e-13
    ratios = [b / a for a, b in itertools.pairwise(norms) if b > 1e-13]
    # Superlinear over the phases: a late phase contracts far more per step than an early one.
    assert ratios[-1] < 0.1 * max(ratios[:every])


@pytest.mark.parametrize("regularization", ["cubic", "quadratic"])
def test_far_fewer_factorizations_than_newton(regularization: str) -> None:
    d = 200
    problem, _, _, _ = logistic(n=2000, d=d, weight=1e-4, seed=1)
    start = torch.zeros(d, dtype=torch.float64)
    newton = Newton().run(problem, start, budget="100steps", tolerance=1e-8)
    lazy = LazyNewton(regularization=regularization).run(problem, start, budget="1000steps", tolerance=1e-8)  # type: ignore[arg-type]
    assert newton.success
    assert lazy.success
    assert newton.calls["factorization"] >= math.sqrt(d) / 4 * lazy.calls["factorization"]
    assert newton.calls["hessian"] >= math.sqrt(d) / 4 * lazy.calls["hessian"]
    # In the paper's unit, where a Hessian is worth d gradients, it is cheaper in total too.
    cost = {name: r.calls["gradient"] + d * r.calls["hessian"] for name, r in (("newton", newton), ("lazy", lazy))}
    assert cost["lazy"] < cost["newton"]


def test_the_adapted_constant_stays_in_the_order_of_theory() -> None:
    problem, lipschitz, _, _ = logistic()
    for constant in (1e-8, 1.0, 1e8):
        result, found = states(
            LazyNewton(every=6, constant=constant), problem, 5 * torch.ones(6).double(), 200, tolerance=1e-10
        )
        assert result.success
        # Once it is at most twice 6 m L it never exceeds that again.
        used = [2 * state.constant for state in found]
        settled = next(index for index, each in enumerate(used) if each <= 12 * 6 * lipschitz)
        assert settled == 0 or used[settled] == constant / 2**settled  # until then it is halved in every step
        assert max(used[settled:]) <= 12 * 6 * lipschitz
        values = [state.value for state in found]
        assert all(b <= a + 1e-15 for a, b in itertools.pairwise(values))


def test_it_leaves_a_strict_saddle_even_with_a_gradient_of_zero() -> None:
    problem = SmoothProblem(lambda x: x[0] ** 2 - x[1] ** 2 + 0.5 * x[1] ** 4)
    result = LazyNewton(every=2).run(problem, torch.zeros(2).double(), budget="60steps")
    assert result.value == pytest.approx(-0.5, abs=1e-12)
    assert result.reason is Reason.STALLED  # at the minimum


def test_indefinite_quadratic_regularization_waits_for_a_definite_model() -> None:
    problem = SmoothProblem(lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2)
    start = torch.tensor([0.1, 1.0], dtype=torch.float64)
    result = LazyNewton(regularization="quadratic", every=1).run(problem, start, budget="200steps", tolerance=1e-9)
    assert result.success
    assert result.value == pytest.approx(-0.25)


@pytest.mark.parametrize("regularization", ["cubic", "quadratic"])
def test_degenerate_problems_end_honestly(regularization: str) -> None:
    generator = torch.Generator().manual_seed(1)
    solver = LazyNewton(regularization=regularization, every=5)  # type: ignore[arg-type]
    design = torch.randn(12, 20, dtype=torch.float64, generator=generator)  # n < d, separable: no minimizer
    target = torch.sign(torch.randn(12, dtype=torch.float64, generator=generator))
    problem = LinearModel(design, target, "logistic").as_smooth()
    result = solver.run(problem, torch.zeros(20).double(), budget="300steps", tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.BUDGET)
    assert result.value is not None
    assert 0 <= result.value < 1e-3
    # Rank-deficient least squares: the solution of least norm, since steps stay in the row space.
    least = LinearModel(design, target).as_smooth()
    result = solver.run(least, torch.zeros(20).double(), budget="300steps", tolerance=1e-9)
    assert result.success
    torch.testing.assert_close(result.solution, torch.linalg.pinv(design) @ target, rtol=0, atol=1e-6)
    # A tolerance that cannot be met.
    problem, _, _, _ = logistic()
    result = solver.run(problem, torch.ones(6).double(), budget="2000steps", tolerance=0.0)
    assert result.reason is Reason.STALLED
    assert result.stationarity is not None
    assert result.stationarity < 1e-14
    # No minimum at all.
    result = solver.run(SmoothProblem(lambda x: -(x**3).sum()), torch.ones(2).double(), budget="60steps")
    assert result.reason in (Reason.DIVERGED, Reason.BUDGET, Reason.STALLED)
    assert result.value is not None
    assert result.value < -1e3 or result.reason is Reason.STALLED


@pytest.mark.parametrize(
    ("name", "value"),
    [("every", 0), ("regularization", "quartic"), ("constant", 0.0), ("max_trials", 0)],
)
def test_bad_hyper_parameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"LazyNewton: {name} must be"):
        LazyNewton(**{name: value})
