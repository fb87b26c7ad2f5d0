"""One call for all problems: the right solver, for a reason that is told, and the right answer."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from sklearn.linear_model import Lasso, LogisticRegression

import steepest
from steepest.core.problem import MissingOracle, Problem, SmoothProblem
from steepest.core.regularizer import L1, Nuclear, Simplex, SquaredL2, TotalVariation
from steepest.solve.convex import (
    ADMM,
    FISTA,
    LBFGS,
    CompositeProblem,
    LinearModel,
    Newton,
    ProxBlock,
    SplitProblem,
    SubgradientMethod,
    WorkingSetNewton,
    choose,
)


def data(n: int = 40, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return design, design[:, 0] - 2 * design[:, 1] + torch.randn(n, dtype=torch.float64, generator=generator)


def test_a_function_is_minimized() -> None:
    def rosenbrock(x: torch.Tensor) -> torch.Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    result = steepest.minimize(rosenbrock, torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64))
    assert result.success
    assert result.method.startswith("LBFGS: ")
    theirs = scipy_minimize(
        lambda x: float(rosenbrock(torch.as_tensor(x))), np.array([-1.2, 1.0, 0.5]), method="Nelder-Mead"
    )
    torch.testing.assert_close(result.solution, torch.as_tensor(theirs.x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.solution, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_lasso_from_zero() -> None:
    design, target = data()
    result = steepest.minimize(LinearModel(design, target, regularizer=L1(0.2)), tolerance=1e-12)
    assert result.success
    assert result.method.startswith("WorkingSetNewton: ")
    sparse = steepest.minimize(LinearModel(design.to_sparse_csr(), target, regularizer=L1(0.2)), tolerance=1e-12)
    torch.testing.assert_close(sparse.solution, result.solution, rtol=0, atol=1e-10)
    theirs = Lasso(alpha=0.2, fit_intercept=False, tol=1e-14).fit(design.numpy(), target.numpy()).coef_
    torch.testing.assert_close(result.solution, torch.from_numpy(theirs), rtol=0, atol=1e-6)


def test_logistic_regression_from_zero() -> None:
    design, target = data()
    model = LinearModel(design, target.sign(), "logistic", SquaredL2(1.0), scale="sum")
    result = steepest.minimize(model, tolerance=1e-10)
    assert result.method.startswith("Newton: ")
    theirs = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=1000)
    theirs.fit(design.numpy(), target.sign().numpy())
    torch.testing.assert_close(result.solution, torch.from_numpy(theirs.coef_[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "start", "solver"),
    [
        (LinearModel(*data(), regularizer=TotalVariation(0.1)), torch.zeros(6).double(), FISTA),
        (LinearModel(*data(), regularizer=L1(0.1)), torch.zeros(6).double(), WorkingSetNewton),
        (LinearModel(data()[0], data()[1].sign(), "hinge", L1(0.1)), torch.zeros(6).double(), SubgradientMethod),
        (LinearModel(*data()), torch.zeros(6).double(), Newton),
        (LinearModel(torch.randn(5, 2001), torch.randn(5)), torch.zeros(2001), LBFGS),
        (CompositeProblem(lambda x: x.square().sum(), Nuclear(0.1)), torch.ones(3, 2), FISTA),
        (CompositeProblem(lambda x: x.square().sum(), Simplex()), torch.ones(3), FISTA),
        (CompositeProblem(lambda x: x.square().sum(), SquaredL2(1.0)), torch.ones(3), LBFGS),
        (SmoothProblem(lambda x: x.square().sum()), torch.ones(3), LBFGS),
        (SplitProblem(ProxBlock(L1(1.0)), ProxBlock(L1(1.0), scale=-1)), (torch.ones(3), torch.ones(3)), ADMM),
    ],
)
def test_what_is_chosen_can_run(problem: Problem, start: Any, solver: type) -> None:
    choice = choose(problem, start)
    assert type(choice.solver) is solver
    assert choice.solver.needs <= choice.problem.offers
    assert choice.reason
    result = steepest.minimize(problem, start, budget="3steps", tolerance=None)
    assert result.method == f"{solver.__name__}: {choice.reason}"


def test_a_method_that_is_asked_for_runs() -> None:
    design, target = data()
    result = steepest.minimize(LinearModel(design, target, regularizer=SquaredL2(0.1)), method=LBFGS())
    assert result.success
    assert result.method == "LBFGS: as asked for"
    left = design.T @ design / len(target) + 0.1 * torch.eye(6, dtype=torch.float64)
    exact = torch.linalg.solve(left, design.T @ target / len(target))
    torch.testing.assert_close(result.solution, exact, rtol=0, atol=1e-5)


def test_bad_input() -> None:
    design, target = data()
    with pytest.raises(TypeError, match="problem must be a Problem or a function, got 3"):
        steepest.minimize(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start must be given for a SmoothProblem"):
        steepest.minimize(lambda x: x.sum())
    with pytest.raises(TypeError, match="method must be a solver"):
        steepest.minimize(LinearModel(design, target), method="fista")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no method of this room solves a Problem, which offers nothing"):
        steepest.minimize(Problem(), torch.ones(2))
    with pytest.raises(MissingOracle, match="WorkingSetNewton needs 'columns'"):
        steepest.minimize(lambda x: x.square().sum(), torch.ones(2), WorkingSetNewton())
