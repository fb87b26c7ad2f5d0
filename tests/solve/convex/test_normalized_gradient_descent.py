"""Normalized gradient descent, against its equations, its limit, its bound and the paper's table."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from first_order import lasso, states
from sklearn.svm import SVC

from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.solve.convex import GradientMethod, LinearModel, NormalizedGradientDescent
from steepest.solve.convex.normalized_gradient_descent import CARD
from steepest.solve.convex.step_rules import ConstantStep


def hard(samples: int) -> LinearModel:
    """The paper's worst case: one sample against all others."""
    design = torch.tensor([[-0.5, -1.0]], dtype=torch.float64).repeat(samples, 1)
    target = -torch.ones(samples, dtype=torch.float64)
    design[0, 0], target[0] = 0.5, 1.0
    return LinearModel(design, target, "logistic")


def clouds(samples: int, features: int, gap: float, seed: int) -> LinearModel:
    """Gaussian samples, moved away from a plane through the origin."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(samples, features, dtype=torch.float64, generator=generator)
    normal = torch.randn(features, dtype=torch.float64, generator=generator)
    normal /= normal.norm()
    target = torch.sign(design @ normal)
    return LinearModel(design + gap * target[:, None] * normal, target, "logistic")


def solve(problem: LinearModel, step_size: float) -> Any:
    start = torch.zeros(problem.design.shape[1], dtype=torch.float64)
    return NormalizedGradientDescent(step_size).run(problem, start, budget="100000steps", tolerance=0.0)


@pytest.mark.parametrize(("step_size", "steps"), [(100.0, 2), (10.0, 2), (1.0, 16), (0.1, 157)])
def test_it_needs_as_many_steps_as_the_papers_table_says(step_size: float, steps: int) -> None:
    result = solve(hard(1000), step_size)
    assert (result.reason, result.steps) == (Reason.CONVERGED, steps)
    assert result.calls == {"smooth gradient": steps}


def test_without_the_normalization_the_table_has_308_and_the_count_grows_with_the_samples() -> None:
    def plain(samples: int) -> int:
        problem = hard(samples)
        smooth = SmoothProblem(lambda x: problem.scale * problem.loss.value(problem.predict(x), problem.target).sum())
        found = states(GradientMethod(ConstantStep(100.0)), smooth, torch.zeros(2, dtype=torch.float64), 400)
        return next(i for i, s in enumerate(found) if bool((problem.target * problem.predict(s.point) > 0).all()))

    assert [plain(n) for n in (10, 100, 1000)] == [4, 31, 308]
    assert [solve(hard(n), 100.0).steps for n in (10, 100, 1000)] == [2, 2, 2]


@pytest.mark.parametrize("step_size", [0.5, 20.0])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_equals_its_equations_in_numpy(step_size: float, sparse: bool) -> None:
    problem = clouds(30, 4, 0.1, 1)
    a, y, x = problem.design.numpy(), problem.target.numpy(), np.zeros(4)
    if sparse:
        problem = LinearModel(problem.design.to_sparse_csr(), problem.target, "logistic")
    for state in states(NormalizedGradientDescent(step_size), problem, torch.zeros(4, dtype=torch.float64), 25):
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-9, atol=1e-11)
        x = state.point.numpy()  # step by step: long steps amplify rounding
        p = 1 / (1 + np.exp(y * (a @ x)))
        gradient = -a.T @ (p * y) / len(y)
        x = x - step_size / np.mean(p) * gradient


def test_for_long_steps_it_is_the_normalized_batch_perceptron() -> None:
    problem = clouds(40, 3, 0.02, 3)
    a, y, size = problem.design.numpy(), problem.target.numpy(), 1e9
    x = a.T @ y / len(y)  # at 0 all samples count one half: the first step is their mean
    steps = 0
    for state in states(NormalizedGradientDescent(size), problem, torch.zeros(3, dtype=torch.float64), 60)[1:]:
        np.testing.assert_allclose(state.point.numpy() / size, x, rtol=1e-6, atol=1e-7)
        wrong = y * (a @ x) <= 0
        if not wrong.any():
            break
        x, steps = x + a.T @ (wrong * y) / wrong.sum(), steps + 1
    assert 2 < steps < 60


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step_size", [0.3, 3.0, 1000.0])
@pytest.mark.parametrize("gap", [0.02, 0.3])
def test_the_number_of_steps_stays_under_the_proved_bound(seed: int, step_size: float, gap: float) -> None:
    problem = clouds(50, 3, gap, seed)
    a, y = problem.design.numpy(), problem.target.numpy()
    # The hard-margin machine without intercept: a sample and its mirror image with the other sign pin it to the origin.
    machine = SVC(kernel="linear", C=1e10, tol=1e-10).fit(np.concatenate([a, -a]), np.concatenate([y, -y]))
    normal = machine.coef_[0] / np.linalg.norm(machine.coef_[0])
    margin, radius = float((y * (a @ normal)).min()), float(np.linalg.norm(a, axis=1).max())
    assert margin > 0.9 * gap
    result = solve(problem, step_size)
    assert result.reason is Reason.CONVERGED
    assert result.steps <= radius**2 / margin**2 + 2 * math.log(2 * 50 - 1) / (step_size * margin**2)


def test_every_step_is_at_most_the_longest_sample_also_when_all_probabilities_underflow() -> None:
    problem = clouds(30, 4, 0.5, 5)
    longest = float(problem.design.norm(dim=1).max())
    start = solve(problem, 100.0).solution * 1e6  # p underflows to 0 at every sample
    assert not torch.sigmoid(-problem.target * problem.predict(start)).any()
    with torch.no_grad():
        solver = NormalizedGradientDescent(1e5)
        state = solver.init(problem, start, torch.Generator())
        after = solver.step(problem, state)
    assert torch.isfinite(after.point).all()
    length = float((after.point - start).norm())
    assert 0 < length <= 1e5 * longest * (1 + 1e-6)
    closest = int((problem.target * problem.predict(start)).argmin())
    expected = start + 1e5 * problem.target[closest] * problem.design[closest]
    torch.testing.assert_close(after.point, expected, rtol=1e-6, atol=0)


def test_data_that_cannot_be_separated_use_up_the_budget() -> None:
    design = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    problem = LinearModel(design, torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64), "logistic")
    result = NormalizedGradientDescent().run(problem, torch.zeros(2).double(), budget="200steps", tolerance=0.0)
    assert result.reason is Reason.BUDGET
    assert result.stationarity is not None
    assert result.stationarity > 0


def test_other_problems_are_refused() -> None:
    solver, start = NormalizedGradientDescent(), torch.zeros(100, dtype=torch.float64)
    plain = lasso(loss="logistic")
    with pytest.raises(ValueError, match="logistic loss and no regularizer"):
        solver.run(lasso(), start, budget="1steps")
    with pytest.raises(ValueError, match="logistic loss and no regularizer"):
        solver.run(LinearModel(plain.design, plain.target, "logistic", L1(0.1)), start, budget="1steps")
    with pytest.raises(ValueError, match="start"):
        solver.run(LinearModel(plain.design, plain.target, "logistic"), start[:3], budget="1steps")
    with pytest.raises(ValueError, match="NormalizedGradientDescent: step_size must be"):
        NormalizedGradientDescent(0.0)


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is NormalizedGradientDescent
