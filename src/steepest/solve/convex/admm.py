"""ADMM, the alternating direction method of multipliers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Integer, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.split_problem import SplitProblem

__all__ = ["ADMM", "CARD", "ADMMState"]

CARD = MethodCard(
    name="admm",
    title="ADMM",
    room="convex",
    family="splitting",
    summary="Minimizes two coupled functions by turns and learns the multipliers of the coupling.",
    target="steepest.solve.convex.admm:ADMM",
    papers=(
        Paper(
            "S. Boyd, N. Parikh, E. Chu, B. Peleato, J. Eckstein",
            2011,
            "Distributed optimization and statistical learning via the alternating direction method of multipliers",
            venue="Foundations and Trends in Machine Learning 3(1)",
        ),
    ),
    needs=frozenset({"value", "first update", "second update"}),
    buffers=2,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ADMMState(State):
    """The pair ``(x, z)``, its value, the norms of the dual residual (``stationarity``) and of the primal residual
    (``feasibility``), and:

    Attributes:
        dual: the scaled multipliers ``u``; the multipliers are ``penalty * dual``.
        penalty: ``r`` in the update.
        coupled: ``B z - c``.
        change: the change of ``(x, z)`` in the last step, and ``dual_change`` that of ``dual``.
        steps: steps so far.
    """

    dual: Tensor
    penalty: float
    coupled: Tensor
    change: Point
    dual_change: Tensor
    steps: int = 0


@dataclass(frozen=True)
class ADMM(Solver[SplitProblem, ADMMState]):
    """The alternating direction method of multipliers, in its scaled form.

    It solves ``min f(x) + g(z)`` subject to ``A x + B z = c``, ``f`` and ``g`` convex, by::

        x_{k+1} = argmin_x f(x) + r/2 |A x + B z_k - c + u_k|^2
        h       = relaxation * A x_{k+1} - (1 - relaxation) (B z_k - c)
        z_{k+1} = argmin_z g(z) + r/2 |h + B z - c + u_k|^2
        u_{k+1} = u_k + h + B z_{k+1} - c

    with ``r`` the ``penalty`` and ``y = r u`` the multipliers. In the first ``balance_steps`` steps the penalty follows
    the residuals: where one is more than ``balance`` times the other, ``r`` is multiplied or divided by 2, and ``u`` is
    divided or multiplied by it, so that ``y`` stays.

    Feasibility is the norm of the primal residual ``A x + B z - c``. Stationarity is the norm of the dual residual
    ``r A'(u_{k+1} - u_k - A x_{k+1} - B z_k + c)``, which is the distance of ``-A'y`` from a subgradient of ``f`` at
    ``x``; ``-B'y`` is a subgradient of ``g`` at ``z`` exactly. Where both are 0 the point is a solution; at the start,
    stationarity is infinite, since no multipliers are known. Both tend to 0 whenever there is a solution, and for
    ``relaxation = 1`` and a fixed penalty ``r |u_k - u*|^2 + r |B (z_k - z*)|^2`` falls in every step at least by
    ``r |A x_{k+1} + B z_{k+1} - c|^2 + r |B (z_{k+1} - z_k)|^2``. (At other ``relaxation`` and ``A = -B = 1`` with ``c
    = 0`` it is relaxed Douglas-Rachford splitting.)

    Every ``check_every`` steps the last changes are tested for a proof that there is no solution: a direction that
    separates the two domains under the coupling, or one along which the value falls for ever. Such a run ends as
    ``stalled`` with the words ``infeasible`` or ``unbounded`` in its message.

    Args:
        penalty: the first ``r``, > 0 (the unit of the value per squared unit of ``A x``). Default 1.
        relaxation: in (0, 2); 1 (default) is none, 1.5 to 1.8 are often faster.
        balance: > 1. Default 10, the paper's.
        balance_steps: >= 0; 0 keeps the penalty. Default 100 (theory wants the penalty to settle).
        check_every: steps between tests for infeasibility, >= 1. Default 25.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A run also ends as ``stalled`` where a step changes nothing but rounding errors.

    Source: S. Boyd, N. Parikh, E. Chu, B. Peleato and J. Eckstein (2011), "Distributed optimization and statistical
    learning via the alternating direction method of multipliers", Foundations and Trends in Machine Learning 3(1),
    sections 3.1 to 3.4 and appendix A. The directions that prove infeasibility: G. Banjac, P. Goulart, B. Stellato and
    S. Boyd (2019), "Infeasibility detection in the alternating direction method of multipliers for convex
    optimization", Journal of Optimization Theory and Applications 183.
    """

    penalty: float = 1.0
    relaxation: float = 1.0
    balance: float = 10.0
    balance_steps: int = 100
    check_every: int = 25

    needs = frozenset({"value", "first update", "second update"})
    ranges = {
        "penalty": Real(low=0.0, low_open=True),
        "relaxation": Real(low=0.0, high=2.0, low_open=True, high_open=True),
        "balance": Real(low=1.0, low_open=True),
        "balance_steps": Integer(low=0),
        "check_every": Integer(low=1),
    }

    def init(self, problem: SplitProblem, start: Point, generator: torch.Generator) -> ADMMState:
        """The primal residual at the start; multipliers begin at 0."""
        x, z = start
        coupled = problem.second.apply(z) - problem.offset
        residual = problem.first.apply(x) + coupled
        value = float(problem.value((x, z)))
        return ADMMState(
            point=(x, z),
            value=value if math.isfinite(value) else None,  # the first step leads into the domains
            stationarity=math.inf,
            feasibility=float(residual.norm()),
            dual=torch.zeros_like(residual),
            penalty=self.penalty,
            coupled=coupled,
            change=tree.zeros_like((x, z)),
            dual_change=torch.zeros_like(residual),
        )

    def step(self, problem: SplitProblem, state: ADMMState) -> ADMMState:
        """One update of each variable and of the multipliers.

        Raises:
            Stalled: nothing changes any more, or a direction proves that there is no solution.
        """
        weight, dual, before = state.penalty, state.dual, state.coupled
        if state.steps and state.steps % self.check_every == 0:
            _check_solvable(problem, state)
        x = problem.first_update(-(before + dual), weight)
        first = problem.first.apply(x)
        mixed = self.relaxation * first - (1 - self.relaxation) * before
        z = problem.second_update(problem.offset - mixed - dual, weight)
        coupled = problem.second.apply(z) - problem.offset
        dual_change = mixed + coupled
        primal = float((first + coupled).norm())
        gap = weight * float(problem.first.adjoint(dual_change - first - before).norm())
        change = tree.add_scaled((x, z), -1.0, state.point)
        following = dual + dual_change
        still = _still(change, (x, z)) and _still(dual_change, following)
        # Only the second such step in a row is one too many: the residuals of the first are the news.
        if still and state.steps and _still(state.change, state.point) and _still(state.dual_change, dual):
            raise Stalled("a step changes nothing but rounding errors")
        scale = 1.0
        if state.steps < self.balance_steps:
            scale = 2.0 if primal > self.balance * gap else 0.5 if gap > self.balance * primal else 1.0
        return ADMMState(
            point=(x, z),
            value=float(problem.value((x, z))),
            stationarity=gap,
            feasibility=primal,
            dual=following / scale,
            penalty=weight * scale,
            coupled=coupled,
            change=change,
            dual_change=dual_change,
            steps=state.steps + 1,
        )


def _still(change: Point, point: Point) -> bool:
    eps = torch.finfo(tree.leaves(change)[0].dtype).eps
    return bool(tree.norm(change) <= 10 * eps * tree.norm(point))


def _check_solvable(problem: SplitProblem, state: ADMMState) -> None:
    assert state.feasibility is not None
    if problem.separates(state.dual_change):
        raise Stalled(
            f"the problem is infeasible: the multipliers grow along a direction that separates A x from c - B z "
            f"(the primal residual is {float(state.feasibility):.3g})"
        )
    if problem.falls_forever(state.point, state.change):
        raise Stalled("the problem is unbounded: the value falls for ever along the direction of the last step")
