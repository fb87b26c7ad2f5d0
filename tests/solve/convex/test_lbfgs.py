"""L-BFGS against dense BFGS, torch's directions, conjugate gradients, SciPy, and the Wolfe conditions."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.result import Reason
from steepest.solve.convex import LBFGS, LinearModel
from steepest.solve.convex.lbfgs import two_loop


def states(solver: LBFGS, problem: SmoothProblem, start: Any, steps: int, **settings: Any) -> tuple[Any, list[Any]]:
    found: list[Any] = []
    result = solver.run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)], **settings
    )
    return result, found


def rosen(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def test_the_two_loop_recursion_equals_the_dense_updates() -> None:
    generator = np.random.default_rng(0)
    pairs = []
    while len(pairs) < 6:
        s, y = generator.normal(size=(2, 9))
        if s @ y > 0.3:
            pairs.append((s, y))
    s, y = pairs[-1]
    dense = (s @ y) / (y @ y) * np.eye(9)
    for s, y in pairs:
        left = np.eye(9) - np.outer(s, y) / (s @ y)
        dense = left @ dense @ left.T + np.outer(s, s) / (s @ y)
    g = generator.normal(size=9)
    ours = two_loop(torch.from_numpy(g), *(tuple(map(torch.from_numpy, part)) for part in zip(*pairs, strict=True)))  # type: ignore[arg-type]
    np.testing.assert_allclose(ours.numpy(), dense @ g, rtol=1e-12)


def test_directions_equal_those_of_torch_step_by_step() -> None:
    # torch's optimizer without a line search makes steps of size 1 (but the first); their directions depend on the
    # gradients it saw. The pairs of its iterates, given to our recursion, must give its next step.
    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.full((6,), 0.9, dtype=torch.float64) + 0.02 * torch.randn(6, dtype=torch.float64))
    optimizer = torch.optim.LBFGS([x], lr=0.3, max_iter=1, history_size=4)
    problem = SmoothProblem(rosen)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = rosen(x)
        loss.backward()
        return loss

    points = [x.detach().clone()]
    for _ in range(12):
        optimizer.step(closure)
        points.append(x.detach().clone())
    gradients = [problem.gradient(point) for point in points]
    compared = 0
    for k in range(1, 12):
        steps = tuple(points[i + 1] - points[i] for i in range(max(0, k - 4), k))
        changes = tuple(gradients[i + 1] - gradients[i] for i in range(max(0, k - 4), k))
        assert all(float(s @ y) > 1e-10 for s, y in zip(steps, changes, strict=True))  # none is left out by torch
        ours = -0.3 * two_loop(gradients[k], steps, changes)
        torch.testing.assert_close(ours, points[k + 1] - points[k], rtol=1e-7, atol=1e-12)
        compared += 1
    assert compared == 11


def test_steps_satisfy_the_wolfe_conditions_and_equal_a_transcription() -> None:
    problem = SmoothProblem(rosen)
    start = torch.tensor([-1.2, 1.0, 0.3, -0.5, 2.0], dtype=torch.float64)
    _, found = states(LBFGS(memory=3, decrease=1e-3, curvature=0.6), problem, start, 25)
    x, pairs = start.numpy(), []
    for state in found:
        g = scipy.optimize.rosen_der(x)
        dense = np.eye(5)
        if pairs:
            s, y = pairs[-1]
            dense = (s @ y) / (y @ y) * np.eye(5)
        for s, y in pairs:
            left = np.eye(5) - np.outer(s, y) / (s @ y)
            dense = left @ dense @ left.T + np.outer(s, s) / (s @ y)
        d, t = -dense @ g, state.step_size
        following = x + t * d
        np.testing.assert_allclose(state.point.numpy(), following, rtol=1e-7, atol=1e-9)
        after = scipy.optimize.rosen_der(following)
        assert scipy.optimize.rosen(following) <= scipy.optimize.rosen(x) + 1e-3 * t * g @ d + 1e-10
        assert abs(after @ d) <= 0.6 * abs(g @ d) * (1 + 1e-7)
        pairs = [*pairs, (following - x, after - g)][-3:]
        x = state.point.numpy()


def test_exact_searches_on_a_quadratic_make_conjugate_gradients_and_end_in_d_steps() -> None:
    generator = torch.Generator().manual_seed(3)
    factor = torch.randn(7, 7, dtype=torch.float64, generator=generator)
    matrix = factor @ factor.T + 0.5 * torch.eye(7).double()
    b = torch.randn(7, dtype=torch.float64, generator=generator)
    problem = SmoothProblem(lambda x: 0.5 * x @ matrix @ x - b @ x)
    result, found = states(
        LBFGS(memory=1, decrease=1e-12, curvature=1e-9, max_trials=100), problem, torch.zeros(7).double(), 7
    )
    x, r = np.zeros(7), b.numpy()
    p, a = r.copy(), matrix.numpy()
    for state in found:
        step = r @ r / (p @ a @ p)
        x, following = x + step * p, r - step * a @ p
        p, r = following + (following @ following) / (r @ r) * p, following
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrix, b), rtol=0, atol=1e-6)


def test_it_agrees_with_scipy() -> None:
    start = torch.full((20,), -0.7, dtype=torch.float64)
    result = LBFGS().run(SmoothProblem(rosen), start, budget="400steps", tolerance=1e-8)
    peer = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start.numpy(),
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
        options={"gtol": 1e-9, "ftol": 0, "maxcor": 10},
    )
    assert result.success
    np.testing.assert_allclose(result.solution.numpy(), peer.x, atol=1e-6)
    assert result.calls["gradient"] <= 1.5 * peer.nfev  # as economical as the Fortran code, give or take


def test_superlinear_progress_to_full_precision_and_then_an_honest_end() -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(300, 8, dtype=torch.float64, generator=generator)
    target = torch.sign(design.sum(1) + torch.randn(300, dtype=torch.float64, generator=generator))
    problem = LinearModel(design, target, "logistic", SquaredL2(1e-2)).as_smooth()
    result, found = states(LBFGS(), problem, torch.zeros(8).double(), 2000, tolerance=0.0)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert min(state.stationarity for state in found) < 1e-15
    assert result.stationarity is not None
    assert result.stationarity < 1e-14
    assert result.steps < 80
    norms = [state.stationarity for state in found if state.stationarity > 1e-13]
    rates = [b / a for a, b in itertools.pairwise(norms)]
    assert np.mean(rates[-5:]) < 0.5  # gradient descent's best would be about 0.9


@pytest.mark.parametrize("shape", ["rank-deficient", "separable"])
def test_degenerate_logistic_regressions(shape: str) -> None:
    generator = torch.Generator().manual_seed(5)
    design = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    target = torch.sign(design[:, 0] + 2 * torch.randn(40, dtype=torch.float64, generator=generator))
    if shape == "rank-deficient":
        design = torch.cat([design, design, torch.ones(40, 1)], dim=1)
        problem = LinearModel(design, target, "logistic").as_smooth()
        result = LBFGS().run(problem, torch.zeros(7).double(), budget="500steps", tolerance=1e-12)
        assert result.success
        torch.testing.assert_close(result.solution[:3], result.solution[3:6])  # the solution of least norm
        return
    target = torch.sign(design[:, 0])
    result = LBFGS().run(
        LinearModel(design, target, "logistic").as_smooth(), torch.zeros(3).double(), budget="300steps", tolerance=0.0
    )
    assert result.reason in (Reason.BUDGET, Reason.STALLED, Reason.CONVERGED)
    assert result.value is not None
    assert 0 <= result.value < 1e-6


def test_unbounded_and_wrong_functions_end_honestly() -> None:
    result = LBFGS().run(SmoothProblem(lambda x: -x.square().sum()), torch.ones(2).double(), budget="200steps")
    assert result.reason in (Reason.DIVERGED, Reason.BUDGET, Reason.STALLED)
    assert result.value is not None
    assert result.value < -1e3
    wrong = SmoothProblem(lambda x: (x.detach() * 3 - 2 * x).sum())
    result = LBFGS(max_trials=5).run(wrong, torch.ones(1).double(), budget="10steps")
    assert (result.reason, result.steps) == (Reason.STALLED, 0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"memory": 0}, "memory"),
        ({"decrease": 0.6}, "decrease"),
        ({"curvature": 1e-5}, "curvature"),
        ({"max_trials": 0}, "max_trials"),
    ],
)
def test_bad_hyper_parameters_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"LBFGS: {name} must be"):
        LBFGS(**settings)
