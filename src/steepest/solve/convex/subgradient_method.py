"""The projected subgradient method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import torch

from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import OneOf, Range, Real, check_settings
from steepest.core.solver import Solver, State
from steepest.core.stopping import Measures, Stalled
from steepest.core.tree import Point
from steepest.solve.convex.minorant import Minorant
from steepest.solve.convex.problem import CompositeProblem
from steepest.solve.convex.proximal_step import feasible

__all__ = [
    "CARD",
    "DecreasingSteps",
    "PolyakSteps",
    "StronglyConvexSteps",
    "SubgradientMethod",
    "SubgradientState",
    "SubgradientSteps",
]

CARD = MethodCard(
    name="subgradient-method",
    title="Projected subgradient method",
    room="convex",
    family="nonsmooth",
    summary="Steps along subgradients and back into the set; averages the iterates.",
    target="steepest.solve.convex.subgradient_method:SubgradientMethod",
    papers=(
        Paper("N. Z. Shor", 1985, "Minimization methods for non-differentiable functions", venue="Springer"),
        Paper("S. Bubeck", 2015, "Convex optimization: algorithms and complexity", arxiv="1405.4980"),
    ),
    needs=frozenset({"value", "subgradient", "prox"}),
    buffers=4,
)


@dataclass(frozen=True)
class SubgradientSteps(ABC):
    """The base of the step rules: step size, and weight of the iterate in the average."""

    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        check_settings(type(self).__name__, settings, self.ranges)

    @abstractmethod
    def at(self, steps: int, value: float, norm: float) -> tuple[float, float]:
        """Step size and weight after ``steps`` steps, at a point with this value and norm of the subgradient."""


@dataclass(frozen=True)
class DecreasingSteps(SubgradientSteps):
    """``t_k = size / (k + 1)**power``, k = 0, 1, ...; the weights are the step sizes.

    With subgradients of norm at most ``G`` and ``R = |x_0 - x*|``, after ``k`` steps of sum ``S`` and sum of squares
    ``Q``: ``f(average) - f* <= (R^2 + G^2 Q) / (2 S)``. For ``T`` steps known beforehand ``size = R / (G sqrt(T))`` and
    ``power = 0`` give ``R G / sqrt(T)``; ``power = 1/2`` costs a logarithm.

    Args:
        size: > 0. Default 1.
        power: in [0, 1]. Default 1/2.
    """

    size: float = 1.0
    power: float = 0.5
    ranges = {"size": Real(low=0.0, low_open=True), "power": Real(low=0.0, high=1.0)}

    def at(self, steps: int, value: float, norm: float) -> tuple[float, float]:
        size = self.size / (steps + 1) ** self.power
        return size, size


@dataclass(frozen=True)
class StronglyConvexSteps(SubgradientSteps):
    """``t_k = 2 / (m (k + 2))`` with weights ``k + 1``, k = 0, 1, ..., for an ``m``-strongly convex ``f``.

    With subgradients of norm at most ``G``, after ``k`` steps ``f(average) - f* <= 2 G^2 / (m (k + 1))``.

    Args:
        modulus: ``m``, > 0.

    Source: S. Lacoste-Julien, M. Schmidt and F. Bach (2012), "A simpler approach to obtaining an O(1/t) convergence
        rate for
    the projected stochastic subgradient method", arXiv 1212.2002.
    """

    modulus: float
    ranges = {"modulus": Real(low=0.0, low_open=True)}

    def at(self, steps: int, value: float, norm: float) -> tuple[float, float]:
        return 2 / (self.modulus * (steps + 2)), float(steps + 1)


@dataclass(frozen=True)
class PolyakSteps(SubgradientSteps):
    """``t_k = (f(x_k) - f*) / |g_k|^2`` with a known least value; the weights are equal.

    With subgradients of norm at most ``G`` and ``R = |x_0 - x*|``, after ``k`` steps the mean of the values, and so the
    value at the average, is at most ``f* + R G / sqrt(k)``.

    Args:
        optimum: ``f*``.
    """

    optimum: float
    ranges = {"optimum": Real()}

    def at(self, steps: int, value: float, norm: float) -> tuple[float, float]:
        if value <= self.optimum:
            raise Stalled(f"the value {value:.6g} is not above the optimum {self.optimum:.6g} that was given")
        return (value - self.optimum) / norm**2, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SubgradientState(State):
    """The iterate, its value, the duality gap as ``stationarity`` where there is one, and:

    Attributes:
        subgradient: a subgradient of ``f`` at ``point``.
        minorant: the average, and what bounds the minimum from below.
        best: the point with the least value so far, and ``best_value`` that value.
        solved: whether the subgradient is zero, so that ``point`` is a minimizer and the answer.
        steps: steps so far.
    """

    subgradient: Point
    minorant: Minorant
    best: Point
    best_value: float
    solved: bool = False
    steps: int = 0


@dataclass(frozen=True)
class SubgradientMethod(Solver[CompositeProblem, SubgradientState]):
    """The projected subgradient method.

    It solves ``min_{x in C} f(x)`` for a convex ``f``, which may have kinks, and a closed convex set ``C`` with a cheap
    projection (the prox of its indicator, the problem's regularizer; without one, the whole space), by::

        x_{k+1} = projection of x_k - t_k g_k onto C,       g_k a subgradient of f at x_k

    The answer is the average of ``x_0, ..., x_{k-1}`` with the rule's weights, or the best iterate; rates are those of
    the rules, and hold for both. Stationarity is a duality gap where the set is bounded (the problem offers ``"lmo"``;
    see :mod:`steepest.solve.convex.minorant`), else it is not measured: give ``Tolerance(value=...)`` or no tolerance.
    A step costs one subgradient, one projection and, on a bounded set, one linear minimization.

    Args:
        rule: ``DecreasingSteps`` (default), ``StronglyConvexSteps`` or ``PolyakSteps``.
        output: ``"average"`` (default) or ``"best"``.

    Raises:
        ValueError, TypeError: an argument is not what it should be.

    A start outside the set is first projected. A run ends as ``stalled`` where a subgradient is zero: the point is a
    minimizer of ``f``.

    Source: S. Bubeck (2015), "Convex optimization: algorithms and complexity", arXiv 1405.4980, sections 3.1 and 3.4.1;
    G. Garrigos and R. M. Gower (2023), "Handbook of convergence theorems for (stochastic) gradient methods", arXiv
    2301.11235, section 9.
    """

    rule: SubgradientSteps = field(default_factory=DecreasingSteps)
    output: Literal["average", "best"] = "average"

    needs = frozenset({"value", "subgradient", "prox"})
    ranges = {"output": OneOf(("average", "best"))}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, SubgradientSteps):
            raise TypeError(
                f"SubgradientMethod: rule must be SubgradientSteps, such as DecreasingSteps(), got {self.rule!r}"
            )

    def init(self, problem: CompositeProblem, start: Point, generator: torch.Generator) -> SubgradientState:
        """Value and subgradient at the start."""
        start = feasible(problem, start)
        value, subgradient = _value_and_subgradient(problem, start)
        minorant = Minorant.begin(problem, start, value, subgradient)
        return SubgradientState(
            point=start,
            value=value,
            stationarity=minorant.gap(value),
            subgradient=subgradient,
            minorant=minorant,
            best=start,
            best_value=value,
            solved=_is_zero(subgradient),
        )

    def step(self, problem: CompositeProblem, state: SubgradientState) -> SubgradientState:
        """One step, and one subgradient where it leads.

        Raises:
            Stalled: the subgradient is zero, or the value is not above the optimum that was given.
        """
        assert state.value is not None
        norm = float(tree.norm(state.subgradient))
        if state.solved:
            raise Stalled("the subgradient is zero: the point is a minimizer")
        size, weight = self.rule.at(state.steps, float(state.value), norm)
        minorant = state.minorant.add(problem, weight, state.point, float(state.value), state.subgradient)
        point = problem.prox(tree.add_scaled(state.point, -size, state.subgradient), size)
        value, subgradient = _value_and_subgradient(problem, point)
        better = value < state.best_value
        best, best_value = (point, value) if better else (state.best, state.best_value)
        gap = minorant.gap(value)
        solved = _is_zero(subgradient)
        if solved:
            gap = 0.0
        elif self.output == "best" and minorant.bound is not None:
            gap = max(0.0, best_value - minorant.bound)
        return SubgradientState(
            point=point,
            value=value,
            stationarity=gap,
            subgradient=subgradient,
            minorant=minorant,
            best=best,
            best_value=best_value,
            solved=solved,
            steps=state.steps + 1,
        )

    def solution(self, problem: CompositeProblem, state: SubgradientState) -> Point:
        """The average, or the best iterate; the iterate where it is known to be a minimizer."""
        if state.solved:
            return state.point
        return state.minorant.average if self.output == "average" else state.best

    def measure(self, problem: CompositeProblem, state: SubgradientState) -> Measures:
        """The value at the answer, not at the iterate."""
        return Measures.of(problem.value(self.solution(problem, state)), state.stationarity)


def _is_zero(subgradient: Point) -> bool:
    return not any(bool(leaf.any()) for leaf in tree.leaves(subgradient))


def _value_and_subgradient(problem: CompositeProblem, x: Point) -> tuple[float, Point]:
    value, subgradient = problem.value_and_subgradient(x)
    return float(value) + float(problem.regularizer_value(x)), subgradient
