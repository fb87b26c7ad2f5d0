"""Gradient descent with a step rule of one's choice."""

from dataclasses import dataclass, field

import torch

from steepest.core.card import MethodCard, Paper
from steepest.core.problem import SmoothProblem
from steepest.core.solver import Solver
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.proximal_step import has_moved
from steepest.solve.convex.step_rules import BarzilaiBorwein, GradientState, StepRule

__all__ = ["CARD", "GradientMethod"]

CARD = MethodCard(
    name="gradient-method",
    title="Gradient descent (step rules)",
    room="convex",
    family="first order",
    summary="Steepest descent whose step size is a rule: constant, decreasing, Polyak, exact, Wolfe, Barzilai-Borwein.",
    target="steepest.solve.convex.gradient_method:GradientMethod",
    papers=(
        Paper(
            "J. Barzilai, J. M. Borwein",
            1988,
            "Two-point step size gradient methods",
            venue="IMA Journal of Numerical Analysis 8(1), 141-148",
        ),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"value", "gradient"}),
    buffers=2,
)


@dataclass(frozen=True)
class GradientMethod(Solver[SmoothProblem, GradientState]):
    """Gradient descent with a step rule.

    It solves ``min_x f(x)`` for a differentiable ``f`` by::

        x_{k+1} = x_k - t_k grad f(x_k)

    with ``t_k`` from a rule of :mod:`steepest.solve.convex.step_rules`, where each rule states its rate:
    :class:`~steepest.solve.convex.step_rules.ConstantStep`, ``DecreasingStep``, ``PolyakStep`` (the optimum is known),
    ``ExactStep`` (quadratics), ``Armijo`` (as :class:`~steepest.solve.convex.gradient_descent.GradientDescent`),
    ``StrongWolfe`` and ``BarzilaiBorwein``. Stationarity is the Euclidean norm of the gradient.

    Args:
        rule: the step rule; default :class:`~steepest.solve.convex.step_rules.BarzilaiBorwein`, the fastest where
            nothing is known of ``f``.

    Raises:
        TypeError: ``rule`` is not a step rule.
        MissingOracle: the rule needs what the problem does not offer (``"hvp"``).

    A run ends as ``stalled`` where the gradient is zero, the rule finds no step size, or a step is no longer than the
    rounding error of the iterate.

    Source: S. Bubeck (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980, section 3; and the
        source
    of each rule.
    """

    rule: StepRule = field(default_factory=BarzilaiBorwein)

    needs = frozenset({"value", "gradient"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, StepRule):
            raise TypeError(f"GradientMethod: rule must be a StepRule, such as ConstantStep(0.1), got {self.rule!r}")

    def init(self, problem: SmoothProblem, start: Point, generator: torch.Generator) -> GradientState:
        """The value and the gradient at the start."""
        problem.require(self.needs | self.rule.needs, by=f"GradientMethod({type(self.rule).__name__})")
        return GradientState.begin(problem, start)

    def step(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        """One step of the rule.

        Raises:
            Stalled: the gradient is zero, or the rule finds no step size.
        """
        after = self.rule.advance(problem, state)
        if not has_moved(state.point, after.point):
            raise Stalled("the step is no longer than the rounding error of the iterate")
        return after
