"""One call for all problems of the room: it picks a solver by what the problem offers, and says why."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.budget import Budget
from steepest.core.problem import Problem, SmoothProblem
from steepest.core.regularizer import Zero
from steepest.core.result import Result
from steepest.core.solver import Solver
from steepest.core.stopping import Tolerance
from steepest.core.tree import Point
from steepest.solve.convex.admm import ADMM
from steepest.solve.convex.away_frank_wolfe import AwayFrankWolfe
from steepest.solve.convex.fista import FISTA
from steepest.solve.convex.lbfgs import LBFGS
from steepest.solve.convex.mirror_prox import MirrorProx
from steepest.solve.convex.model_based import ModelBased
from steepest.solve.convex.newton import Newton
from steepest.solve.convex.problem import CompositeProblem, LinearModel
from steepest.solve.convex.saddle_problem import MonotoneProblem
from steepest.solve.convex.separable import SeparableForm
from steepest.solve.convex.split_problem import SplitProblem
from steepest.solve.convex.subgradient_method import SubgradientMethod
from steepest.solve.convex.weakly_convex import CompositeSum
from steepest.solve.convex.working_set_newton import WorkingSetNewton

__all__ = ["Choice", "choose", "minimize"]

#: Up to this many unknowns a Hessian of a linear model is made and factorized.
DENSE = 2000


class Choice(NamedTuple):
    """A solver for a problem.

    Attributes:
        solver: the solver, with its default settings.
        problem: the problem as that solver takes it (a smooth view, for instance).
        reason: why, in a sentence.
    """

    solver: Solver[Any, Any]
    problem: Problem
    reason: str


def choose(problem: Problem, start: Point) -> Choice:
    """The solver to start with.

    Args:
        problem: a problem of this room.
        start: the starting point; its size matters.

    Raises:
        TypeError: no method of this room solves such a problem; the message says what it offers.
    """
    size = sum(leaf.numel() for leaf in tree.leaves(start))
    if isinstance(problem, SplitProblem):
        return Choice(ADMM(), problem, "two functions coupled by linear equations: each is minimized in turn")
    if isinstance(problem, MonotoneProblem):
        return Choice(MirrorProx(), problem, "a saddle point or variational inequality, not a minimum")
    if isinstance(problem, CompositeSum):
        return Choice(ModelBased(), problem, "a sum of losses of smooth maps, in general neither smooth nor convex")
    if isinstance(problem, LinearModel) and math.isinf(problem.loss.curvature):
        reason = f"the loss {type(problem.loss).__name__} has kinks; expect a few digits only"
        return Choice(SubgradientMethod(), problem, reason)
    if isinstance(problem, CompositeProblem) and problem.regularizer.smooth:
        view = problem.as_smooth()
        if isinstance(problem, LinearModel) and size <= DENSE:
            return Choice(Newton(), view, f"a smooth linear model with {size} unknowns: its Hessian is small")
        return Choice(LBFGS(), view, "both parts are smooth")
    if isinstance(problem, LinearModel) and _is_separable(problem, start):
        return Choice(
            WorkingSetNewton(), problem, "a linear model with a penalty that is a sum over features or groups"
        )
    if isinstance(problem, CompositeProblem) and "prox" in problem.offers:
        return Choice(FISTA(restart="gradient", grow=1.1), problem, "a smooth part plus one with a cheap prox")
    if isinstance(problem, CompositeProblem) and "lmo" in problem.offers:
        return Choice(AwayFrankWolfe(), problem, "a set that is easy to minimize linear functions over, without a prox")
    if isinstance(problem, SmoothProblem):
        return Choice(LBFGS(), problem, "a smooth function")
    offered = ", ".join(sorted(problem.offers)) or "nothing"
    raise TypeError(f"no method of this room solves a {type(problem).__name__}, which offers {offered}")


def minimize(
    problem: Problem | Callable[[Any], Tensor],
    start: Point | None = None,
    method: Solver[Any, Any] | None = None,
    *,
    budget: Budget | str = "60s",
    tolerance: Tolerance | float | None = 1e-6,
    **run: Any,
) -> Result[Any]:
    """Minimize, with a solver that suits the problem.

    Args:
        problem: a problem of this room, or a differentiable function of a point, which becomes a
            :class:`~steepest.core.problem.SmoothProblem`.
        start: where to begin. ``None`` is zero for a :class:`LinearModel`; other problems need one.
        method: a solver; ``None`` takes that of :func:`choose`. The result's ``method`` names it and says why.
        budget: the limits of the run. Default one minute.
        tolerance: the stationarity at which the run has converged (the solver's certificate, in its unit: a duality
            gap or the norm of a gradient). Default 1e-6; ``None`` runs until the budget ends.
        run: further arguments of :meth:`~steepest.core.solver.Solver.run`, such as ``checkpoint``.

    Raises:
        TypeError: no method of the room solves the problem, or it does not offer what ``method`` needs.
        ValueError: ``start`` is missing, or an argument is out of its range.
    """
    if not isinstance(problem, Problem):
        if not callable(problem):
            raise TypeError(
                f"problem must be a Problem or a function, got {problem!r} of type {type(problem).__name__}"
            )
        problem = SmoothProblem(problem)
    if start is None:
        if not isinstance(problem, LinearModel):
            raise ValueError(f"start must be given for a {type(problem).__name__}")
        start = problem.target.new_zeros(problem.design.shape[1], *problem.target.shape[1:])
    problem.check_start(start)
    if method is None:
        solver, problem, reason = choose(problem, start)
        said = f"{type(solver).__name__}: {reason}"
    elif isinstance(method, Solver):
        solver, said = method, f"{type(method).__name__}: as asked for"
        if isinstance(problem, CompositeProblem) and not solver.needs <= problem.offers and problem.regularizer.smooth:
            problem = problem.as_smooth()
    else:
        raise TypeError(f"method must be a solver such as FISTA(), or None, got {method!r}")
    result = solver.run(problem, start, budget=budget, tolerance=tolerance, **run)
    return dataclasses.replace(result, method=said)


def _is_separable(problem: LinearModel, start: Point) -> bool:
    if not isinstance(start, torch.Tensor) or start.dim() != 1 or isinstance(problem.regularizer, Zero):
        return False
    try:
        SeparableForm.of(problem.regularizer, start)
    except TypeError:
        return False
    return True
