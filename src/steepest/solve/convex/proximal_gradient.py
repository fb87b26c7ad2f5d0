"""The proximal gradient method with backtracking (ISTA)."""

from dataclasses import dataclass

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.certificate import dual_bound, first_bound, stationarity
from steepest.solve.convex.problem import CompositeProblem
from steepest.solve.convex.proximal_step import (
    BACKTRACKING,
    feasible,
    first_size,
    has_moved,
    proximal_step,
    too_many,
)

__all__ = ["CARD", "ProximalGradient", "ProximalGradientState"]

CARD = MethodCard(
    name="proximal-gradient",
    title="Proximal gradient",
    room="convex",
    family="proximal",
    summary="A gradient step on the smooth part, a proximal step on the other; the step size from backtracking.",
    target="steepest.solve.convex.proximal_gradient:ProximalGradient",
    papers=(
        Paper(
            "A. Beck, M. Teboulle",
            2009,
            "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
            venue="SIAM Journal on Imaging Sciences 2(1), 183-202",
        ),
        Paper(
            "G. Garrigos, R. M. Gower",
            2023,
            "Handbook of convergence theorems for (stochastic) gradient methods",
            arxiv="2301.11235",
        ),
    ),
    needs=frozenset({"smooth value", "smooth gradient", "prox"}),
    buffers=1,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProximalGradientState(State):
    """The iterate, its value, and:

    Attributes:
        image: the image of ``point`` (see :meth:`CompositeProblem.image`).
        smooth: ``f`` at ``point``.
        gradient: the gradient of ``f`` at ``point``.
        step_size: the first trial of the next step.
        bound: the best lower bound on ``min F`` so far; ``None`` where there is none.
    """

    image: Point
    smooth: float
    gradient: Point
    step_size: float
    bound: float | None = None


@dataclass(frozen=True)
class ProximalGradient(Solver[CompositeProblem, ProximalGradientState]):
    """The proximal gradient method, also known as forward-backward splitting and ISTA.

    It solves ``min_x F(x) = f(x) + g(x)``, ``f`` convex and differentiable, ``g`` convex with a cheap prox, by::

        x_{k+1} = prox_{t_k g}(x_k - t_k grad f(x_k))

    where ``t_k`` is the first of ``grow t_{k-1} shrink**i``, i = 0, 1, ..., for which the quadratic upper model of
    ``f`` holds (see :mod:`steepest.solve.convex.proximal_step`). With ``g`` the indicator of a set it is projected
    gradient descent.

    Where ``f`` is convex, for all ``k``: ``F(x_k) - F* <= |x_0 - x*|^2 / (2 (t_0 + ... + t_{k-1}))``; with a gradient
    that is ``L``-Lipschitz, ``t_k >= min(t_first, shrink / L)``. Where ``f`` is ``m``-strongly convex as well,
    ``|x_k - x*|^2 <= prod_i (1 - m t_i) |x_0 - x*|^2``. The values never rise.

    A step costs one gradient of ``f``, and a value and a prox per trial: for a linear model two products with the
    design, and one more for each trial that is refused. Stationarity is the duality gap where the problem offers one,
    else the norm of the gradient mapping: see :mod:`steepest.solve.convex.certificate`.

    Args:
        step_size: the first trial of the first step, > 0 (the unit of ``x`` per unit of the gradient). ``None``
            (default) takes the reciprocal of a local Lipschitz constant, from one more gradient close to the start.
        shrink: the factor between trials, in (0, 1). Default 1/2.
        grow: the factor between a step size and the first trial of the next step, >= 1. Default 1, the paper's: step
            sizes never grow. More than 1 (1.1, say) lets them follow the curvature down.
        max_trials: trials before a step gives up, >= 1. Default 60.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A start outside the domain of ``g`` is first moved into it by a prox step. A run ends as ``stalled`` where steps are
    no longer than the rounding error of the iterate.

    Source: A. Beck and M. Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems", SIAM Journal on Imaging Sciences 2(1), sections 3 and 4; the linear rate: G. Garrigos and R. M. Gower
    (2023), "Handbook of convergence theorems for (stochastic) gradient methods", arXiv 2301.11235, section 11.
    """

    step_size: float | None = None
    shrink: float = 0.5
    grow: float = 1.0
    max_trials: int = 60

    needs = frozenset({"smooth value", "smooth gradient", "prox"})
    ranges = BACKTRACKING

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> ProximalGradientState:
        """Value, gradient and certificate at the start, and the first step size."""
        start = feasible(problem, start)
        image = problem.image(start)
        smooth, gradient = problem.smooth_value_and_gradient_at(image)
        size = first_size(problem, start, gradient) if self.step_size is None else self.step_size
        value = float(smooth) + float(problem.regularizer_value(start))
        bound = first_bound(problem, image, gradient)
        mapping = proximal_step(problem, start, image, float(smooth), gradient, size).mapping
        return ProximalGradientState(
            point=start,
            value=value,
            stationarity=stationarity(value, bound, mapping),
            image=image,
            smooth=float(smooth),
            gradient=gradient,
            step_size=size,
            bound=bound,
        )

    def step(self, problem: CompositeProblem, state: ProximalGradientState) -> ProximalGradientState:
        """One gradient, and a prox and a value per trial.

        Raises:
            Stalled: the step is no longer than the rounding error of the iterate, or no trial was accepted.
        """
        size = state.step_size
        for _ in range(self.max_trials):
            move = proximal_step(problem, state.point, state.image, state.smooth, state.gradient, size)
            if move.accepted:
                break
            size *= self.shrink
        else:
            raise too_many(self.max_trials)
        if not has_moved(state.point, move.point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        _, gradient = problem.smooth_value_and_gradient_at(move.image)
        bound = dual_bound(problem, move.image, gradient, state.bound)
        return ProximalGradientState(
            point=move.point,
            value=move.value,
            stationarity=stationarity(move.value, bound, move.mapping),
            image=move.image,
            smooth=move.smooth,
            gradient=gradient,
            step_size=size * self.grow if move.clear else size,
            bound=bound,
        )
