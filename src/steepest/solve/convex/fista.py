"""FISTA: the accelerated proximal gradient method, with backtracking, restart and momentum for strong convexity."""

from dataclasses import dataclass
from typing import Literal

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import OneOf, Real
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.certificate import dual_bound, first_bound, stationarity
from steepest.solve.convex.momentum import momentum
from steepest.solve.convex.problem import CompositeProblem
from steepest.solve.convex.proximal_step import (
    BACKTRACKING,
    feasible,
    first_size,
    has_moved,
    proximal_step,
    too_many,
)

__all__ = ["CARD", "FISTA", "FISTAState"]

CARD = MethodCard(
    name="fista",
    title="FISTA",
    room="convex",
    family="proximal",
    summary="The proximal gradient method with Nesterov's momentum, whose rate no first-order method betters.",
    target="steepest.solve.convex.fista:FISTA",
    papers=(
        Paper(
            "A. Beck, M. Teboulle",
            2009,
            "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
            venue="SIAM Journal on Imaging Sciences 2(1), 183-202",
        ),
        Paper("B. O'Donoghue, E. Candes", 2012, "Adaptive restart for accelerated gradient schemes", arxiv="1204.3982"),
        Paper(
            "A. Chambolle, T. Pock",
            2016,
            "An introduction to continuous optimization for imaging",
            venue="Acta Numerica 25, 161-319",
        ),
    ),
    needs=frozenset({"smooth value", "smooth gradient", "prox"}),
    buffers=2,
    claim="The value falls as 1/k^2, where the proximal gradient method's falls as 1/k, at the same price per step.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FISTAState(State):
    """The iterate, its value, and:

    Attributes:
        image: the image of ``point`` (see :meth:`CompositeProblem.image`).
        previous: the iterate before, and ``previous_image`` its image.
        momentum: ``s_k`` of the update; 0 at the start and after a restart.
        used: the step size that led here; of no meaning at the start.
        step_size: the first trial of the next step.
        bound: the best lower bound on ``min F`` so far; ``None`` where there is none.
        restarts: how often the momentum was dropped.
    """

    image: Point
    previous: Point
    previous_image: Point
    momentum: float
    used: float
    step_size: float
    bound: float | None = None
    restarts: int = 0


@dataclass(frozen=True)
class FISTA(Solver[CompositeProblem, FISTAState]):
    """The fast iterative shrinkage-thresholding algorithm.

    It solves ``min_x F(x) = f(x) + g(x)``, ``f`` convex and differentiable, ``g`` convex with a cheap prox. With the
    modulus ``m`` of strong convexity of ``f`` (0 where there is none), ``x_{-1} = x_0`` and ``s_0 = 0``::

        s_{k+1} = (1 - q + sqrt((1 - q)^2 + 4 s_k^2 t_{k-1} / t_k)) / 2,          q = m t_{k-1} s_k^2
        y_k     = x_k + (s_k - 1) / s_{k+1} (1 - m t_k s_{k+1}) / (1 - m t_k) (x_k - x_{k-1})
        x_{k+1} = prox_{t_k g}(y_k - t_k grad f(y_k))

    where ``t_k`` is the first of ``grow t_{k-1} shrink**i``, i = 0, 1, ..., for which the quadratic upper model of
    ``f`` holds from ``y_k`` (see :mod:`steepest.solve.convex.proximal_step`); with ``m = 0`` and ``grow = 1`` a trial
    that is refused leaves ``s_{k+1}`` and ``y_k`` as they are. With ``m = 0`` and one step size for all
    steps this is Beck and Teboulle's method (their ``t_k`` is ``s_k``) and, with ``g = 0``, Nesterov's. With ``m > 0``,
    ``s_k`` tends to ``1 / sqrt(m t)`` and the factor before the difference to ``(1 - sqrt(m t)) / (1 + sqrt(m t))``.

    For all ``k``, without restarts and with ``p_k`` the product of ``1 - m t_i s_{i+1}`` over the steps so far::

        F(x_k) - F* <= p_k |x_0 - x*|^2 / (2 t_{k-1} s_k^2)

    With one step size ``t``, ``s_k >= (k + 1) / 2`` where ``m = 0``: this is ``2 |x_0 - x*|^2 / (t (k + 1)^2)``; and
    ``p_k`` falls as ``(1 - sqrt(m t))^k``. Values may rise on the way.

    A step costs one gradient of ``f``, and a value and a prox per trial: for a linear model two products with the
    design, and one more for each trial that is refused (two where ``m > 0`` or ``grow > 1``). Stationarity is the
    duality gap where the problem offers one, else the norm of the gradient mapping: see
    :mod:`steepest.solve.convex.certificate`.

    Args:
        step_size: the first trial of the first step, > 0 (the unit of ``x`` per unit of the gradient). ``None``
            (default) takes the reciprocal of a local Lipschitz constant, from one more gradient close to the start.
        shrink: the factor between trials, in (0, 1). Default 1/2.
        grow: the factor between a step size and the first trial of the next step, >= 1. Default 1, the paper's: step
            sizes never grow. More than 1 (1.1, say) lets them follow the curvature down; the bound above holds.
        max_trials: trials before a step gives up, >= 1. Default 60.
        strong_convexity: ``m``, >= 0; more than the true one is no longer FISTA, and may not converge. ``None``
            (default) takes the problem's ``strong_convexity``.
        restart: when to drop the momentum and begin anew from where it stands. ``"none"`` (default): never, the
            paper's. ``"function"``: when ``F`` has risen. ``"gradient"``: when ``<y_k - x_{k+1}, x_{k+1} - x_k> > 0``,
            that is when the momentum points uphill. Both recover the linear rate of a strongly convex problem without
            ``m``; the second is the better choice in practice.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range.

    A start outside the domain of ``g`` is first moved into it by a prox step. A run ends as ``stalled`` where steps are
    no longer than the rounding error of the iterate.

    Source: A. Beck and M. Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems", SIAM Journal on Imaging Sciences 2(1). Restarts: B. O'Donoghue and E. Candes (2012), "Adaptive restart
    for accelerated gradient schemes", arXiv 1204.3982. Strong convexity: A. Chambolle and T. Pock (2016), "An
    introduction to continuous optimization for imaging", Acta Numerica 25, algorithm 5. Growing steps: K. Scheinberg,
    D. Goldfarb and X. Bai (2014), "Fast first-order methods for composite convex optimization with backtracking",
    Foundations of Computational Mathematics 14.
    """

    step_size: float | None = None
    shrink: float = 0.5
    grow: float = 1.0
    max_trials: int = 60
    strong_convexity: float | None = None
    restart: Literal["none", "function", "gradient"] = "none"

    needs = frozenset({"smooth value", "smooth gradient", "prox"})
    ranges = {
        **BACKTRACKING,
        "strong_convexity": Real(low=0.0, optional=True),
        "restart": OneOf(("none", "function", "gradient")),
    }

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> FISTAState:
        """Value, gradient and certificate at the start, and the first step size."""
        start = feasible(problem, start)
        image = problem.image(start)
        smooth, gradient = problem.smooth_value_and_gradient_at(image)
        size = first_size(problem, start, gradient) if self.step_size is None else self.step_size
        value = float(smooth) + float(problem.regularizer_value(start))
        bound = first_bound(problem, image, gradient)
        mapping = proximal_step(problem, start, image, float(smooth), gradient, size).mapping
        return FISTAState(
            point=start,
            value=value,
            stationarity=stationarity(value, bound, mapping),
            image=image,
            previous=start,
            previous_image=image,
            momentum=0.0,
            used=size,
            step_size=size,
            bound=bound,
        )

    def step(self, problem: CompositeProblem, state: FISTAState) -> FISTAState:
        """One extrapolation, one gradient, and a prox and a value per trial.

        Raises:
            Stalled: the step is no longer than the rounding error of the iterate, or no trial was accepted.
        """
        x = state.point
        modulus = problem.strong_convexity if self.strong_convexity is None else self.strong_convexity
        # f is at least as curved as its modulus says: a longer step never passes.
        size = min(state.step_size, (1 - 1e-9) / modulus) if modulus > 0 else state.step_size
        extrapolated = False
        for _ in range(self.max_trials):
            if not extrapolated:
                following, weight = momentum(state.momentum, state.used, size, modulus)
                y = tree.tree_map(lambda a, b, w=weight: a + w * (a - b), x, state.previous)
                image = tree.tree_map(lambda a, b, w=weight: a + w * (a - b), state.image, state.previous_image)
                value, gradient = problem.smooth_value_and_gradient_at(image)
                smooth = float(value)
                extrapolated = True
            move = proximal_step(problem, y, image, smooth, gradient, size)
            if move.accepted:
                break
            size *= self.shrink
            # Beck and Teboulle keep y, which costs the bound a factor; where steps may grow, and so shrink again and
            # again, the factors would add up, and with a modulus y depends on the step size.
            extrapolated = modulus == 0 and self.grow == 1
        else:
            raise too_many(self.max_trials)
        if not has_moved(x, move.point) and not has_moved(y, move.point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        bound = dual_bound(problem, image, gradient, state.bound)
        restart = self._restarts(state, y, move.point, move.value)
        return FISTAState(
            point=move.point,
            value=move.value,
            stationarity=stationarity(move.value, bound, move.mapping),
            image=move.image,
            previous=move.point if restart else x,
            previous_image=move.image if restart else state.image,
            momentum=0.0 if restart else following,
            used=size,
            step_size=size * self.grow if move.clear else size,
            bound=bound,
            restarts=state.restarts + restart,
        )

    def _restarts(self, state: FISTAState, y: Point, point: Point, value: float) -> bool:
        if self.restart == "function":
            assert state.value is not None
            return value > float(state.value)
        if self.restart == "gradient":
            back, ahead = tree.add_scaled(y, -1.0, point), tree.add_scaled(point, -1.0, state.point)
            return bool(tree.dot(back, ahead) > 0)
        return False
