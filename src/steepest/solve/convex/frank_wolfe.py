"""The Frank-Wolfe (conditional gradient) method."""

from dataclasses import dataclass, field

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.frank_wolfe_steps import Backtracking, FrankWolfeStep, begin, travel
from steepest.solve.convex.problem import CompositeProblem
from steepest.solve.convex.proximal_step import has_moved

__all__ = ["CARD", "FrankWolfe", "FrankWolfeState"]

CARD = MethodCard(
    name="frank-wolfe",
    title="Frank-Wolfe",
    room="convex",
    family="projection-free",
    summary="Minimizes over a set by moving towards the vertex that the gradient points to; no projection.",
    target="steepest.solve.convex.frank_wolfe:FrankWolfe",
    papers=(
        Paper(
            "M. Frank, P. Wolfe",
            1956,
            "An algorithm for quadratic programming",
            venue="Naval Research Logistics Quarterly 3(1-2), 95-110",
        ),
        Paper("M. Jaggi", 2013, "Revisiting Frank-Wolfe: projection-free sparse convex optimization", venue="ICML"),
    ),
    needs=frozenset({"smooth value", "smooth gradient", "lmo"}),
    buffers=2,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrankWolfeState(State):
    """The iterate, its value, its Frank-Wolfe gap as ``stationarity``, and:

    Attributes:
        image: the image of ``point`` (see :meth:`CompositeProblem.image`).
        vertex: the point of the set that the gradient at ``point`` points to.
        step_size: the step size that led here; 0 at the start.
        memory: what the step rule remembers.
    """

    image: Point
    vertex: Point
    step_size: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class FrankWolfe(Solver[CompositeProblem, FrankWolfeState]):
    """The method of Frank and Wolfe, also known as conditional gradient.

    It solves ``min_{x in C} f(x)`` for a convex differentiable ``f`` and a compact convex set ``C``, whose indicator is
    the problem's regularizer, by::

        s_k     = argmin_{s in C} <grad f(x_k), s>
        x_{k+1} = x_k + t_k (s_k - x_k)

    Stationarity is the Frank-Wolfe gap ``<grad f(x_k), x_k - s_k>``, which bounds ``f(x_k) - f*`` from above and comes
    for free. With an ``L``-Lipschitz gradient, a set of diameter ``D`` and every rule but ``OpenLoop``,
    ``f(x_k) - f* <= 2 L D^2 / (k + 2)`` for k >= 1 (``Backtracking``: times ``grow``); no better order holds in
    general, see :class:`~steepest.solve.convex.away_frank_wolfe.AwayFrankWolfe` for polytopes. A step costs one
    gradient, one linear minimization and what the rule asks: for a linear model two products with the design.

    Args:
        rule: the step rule, of :mod:`steepest.solve.convex.frank_wolfe_steps`: ``Backtracking`` (default), ``OpenLoop``
            (the classical ``2 / (k + 2)``), ``ShortStep`` (``L`` is known) or ``ExactQuadratic``.

    Raises:
        TypeError: ``rule`` is not a step rule.

    A start outside the set is replaced by the vertex that the gradient there points to. A run ends as ``stalled`` where
    the gap or the step drowns in rounding.

    Source: M. Frank and P. Wolfe (1956), "An algorithm for quadratic programming", Naval Research Logistics Quarterly
        3;
    M. Jaggi (2013), "Revisiting Frank-Wolfe: projection-free sparse convex optimization", ICML.
    """

    rule: FrankWolfeStep = field(default_factory=Backtracking)

    needs = frozenset({"smooth value", "smooth gradient", "lmo"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, FrankWolfeStep):
            raise TypeError(f"FrankWolfe: rule must be a FrankWolfeStep, such as OpenLoop(), got {self.rule!r}")

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> FrankWolfeState:
        """Value, gap and vertex at the start."""
        point = begin(problem, start)
        return self._state(problem, point, problem.image(point), 0.0, 0.0)

    def step(self, problem: CompositeProblem, state: FrankWolfeState) -> FrankWolfeState:
        """One step towards the vertex, and one gradient and linear minimization there.

        Raises:
            Stalled: the gap is zero, or the step is no longer than the rounding error of the iterate.
        """
        assert state.value is not None
        assert state.stationarity is not None
        gap = float(state.stationarity)
        if gap <= 0:
            raise Stalled("the Frank-Wolfe gap is zero")
        direction = tree.add_scaled(state.vertex, -1.0, state.point)
        size, point, image, memory = travel(
            problem, self.rule, state.point, state.image, direction, float(state.value), gap, 1.0, state.memory
        )
        if not has_moved(state.point, point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        return self._state(problem, point, image, size, memory)

    @staticmethod
    def _state(
        problem: CompositeProblem, point: Point, image: Point, step_size: float, memory: float
    ) -> FrankWolfeState:
        value, gradient = problem.smooth_value_and_gradient_at(image)
        vertex = problem.lmo(gradient)
        gap = float(tree.dot(gradient, tree.add_scaled(point, -1.0, vertex)))
        return FrankWolfeState(
            point=point,
            value=float(value),
            stationarity=max(0.0, gap),
            image=image,
            vertex=vertex,
            step_size=step_size,
            memory=memory,
        )
