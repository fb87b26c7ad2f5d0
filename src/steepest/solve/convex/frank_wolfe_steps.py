"""Step rules of the Frank-Wolfe methods: how far to go along a direction inside the set.

A rule is a value; what it remembers from step to step is ``memory`` in the solver's state.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch

from steepest.core import tree
from steepest.core.ranges import Integer, Range, Real, check_settings
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["Backtracking", "ExactQuadratic", "FrankWolfeStep", "Line", "OpenLoop", "ShortStep", "begin", "travel"]


class Line(NamedTuple):
    """A segment to search: ``x + t d`` for ``t`` in ``[0, longest]``.

    Attributes:
        point: ``x``.
        image: the image of ``x`` (see :meth:`CompositeProblem.image`).
        direction: ``d``, and ``direction_image`` its image.
        value: ``f(x)``.
        slope: ``-<grad f(x), d>``, positive.
        longest: the largest ``t`` that stays in the set.
        memory: what the rule remembers.
    """

    point: Point
    image: Point
    direction: Point
    direction_image: Point
    value: float
    slope: float
    longest: float
    memory: float

    def at(self, size: float) -> Point:
        """The image of ``x + size d``."""
        return tree.add_scaled(self.image, size, self.direction_image)

    def squared(self) -> float:
        """The squared length of ``d``."""
        return float(tree.dot(self.direction, self.direction))


@dataclass(frozen=True)
class FrankWolfeStep(ABC):
    """The base of the rules.

    Class attributes:
        ranges: the allowed range of each setting, checked at construction.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        check_settings(type(self).__name__, settings, self.ranges)

    @abstractmethod
    def size(self, problem: CompositeProblem, line: Line) -> tuple[float, float]:
        """The step size, and the memory for the next step. The memory begins as 0."""


@dataclass(frozen=True)
class OpenLoop(FrankWolfeStep):
    """``t_k = 2 / (k + 2)``, k = 0, 1, ...: no value, no constant.

    With an ``L``-Lipschitz gradient and a set of diameter ``D``: ``f(x_k) - f* <= 2 L D^2 / (k + 2)`` for k >= 1.

    Source: M. Jaggi (2013), "Revisiting Frank-Wolfe: projection-free sparse convex optimization", ICML.
    """

    def size(self, problem: CompositeProblem, line: Line) -> tuple[float, float]:
        return min(2 / (line.memory + 2), line.longest), line.memory + 1


@dataclass(frozen=True)
class ShortStep(FrankWolfeStep):
    """``t_k = min(slope / (L |d|^2), longest)``: the minimizer of the quadratic upper model. Values never rise.

    Args:
        lipschitz: a Lipschitz constant of the gradient of ``f``, > 0.

    Source: V. F. Demyanov and A. M. Rubinov (1970), "Approximate methods in optimization problems".
    """

    lipschitz: float
    ranges = {"lipschitz": Real(low=0.0, low_open=True)}

    def size(self, problem: CompositeProblem, line: Line) -> tuple[float, float]:
        return min(line.slope / (self.lipschitz * line.squared()), line.longest), 0.0


@dataclass(frozen=True)
class ExactQuadratic(FrankWolfeStep):
    """The minimizer on the segment, for quadratic ``f``: ``t_k = min(slope / <d, H d>, longest)``.

    It needs ``"smooth hvp"`` (a linear model answers from the images, without a product). For other functions it is a
    Newton step on the segment, and may overshoot.
    """

    def size(self, problem: CompositeProblem, line: Line) -> tuple[float, float]:
        excess = problem.smooth_excess(line.image, line.at(1.0))
        if excess is not None:
            curvature = 2 * float(excess)
        else:
            problem.require({"smooth hvp"}, by="ExactQuadratic")
            curvature = float(tree.dot(line.direction, problem.smooth_hvp(line.point, line.direction)))
        return (line.longest if curvature <= 0 else min(line.slope / curvature, line.longest)), 0.0


@dataclass(frozen=True)
class Backtracking(FrankWolfeStep):
    """A short step with a local estimate ``M`` of the Lipschitz constant, from backtracking.

    ``t = min(slope / (M |d|^2), longest)``, where ``M`` is the first of ``shrink M_before * grow**i``, i = 0, 1, ...,
    with ``f(x + t d) <= f(x) - t slope + t^2 M |d|^2 / 2``. A trial costs a value of ``f`` (for a linear model no
    product). Values never rise, and the rates of :class:`ShortStep` hold up to the factor ``grow``.

    Args:
        shrink: in (0, 1]. Default 0.9, the paper's.
        grow: > 1. Default 2, the paper's.
        max_trials: trials before a step gives up, >= 1. Default 60.

    Source: F. Pedregosa, G. Negiar, A. Askari and M. Jaggi (2020), "Linearly convergent Frank-Wolfe with backtracking
    line-search", arXiv 1806.05123.
    """

    shrink: float = 0.9
    grow: float = 2.0
    max_trials: int = 60
    ranges = {
        "shrink": Real(low=0.0, high=1.0, low_open=True),
        "grow": Real(low=1.0, low_open=True),
        "max_trials": Integer(low=1),
    }

    def size(self, problem: CompositeProblem, line: Line) -> tuple[float, float]:
        squared = line.squared()
        eps = torch.finfo(tree.leaves(line.point)[0].dtype).eps
        if line.memory > 0:
            estimate = self.shrink * line.memory
        else:  # the curvature on the first thousandth of the segment
            part = 1e-3 * min(1.0, line.longest)
            excess = float(problem.smooth_value_at(line.at(part))) - line.value + part * line.slope
            estimate = max(2 * excess / (part**2 * squared), eps * line.slope / squared)
        for _ in range(self.max_trials):
            size = min(line.slope / (estimate * squared), line.longest)
            value = float(problem.smooth_value_at(line.at(size)))
            noise = 16 * eps * max(abs(value), abs(line.value))
            if value <= line.value - size * line.slope + 0.5 * size**2 * estimate * squared + noise:
                # Where rounding decides, the estimate is kept rather than lowered again and again.
                clear = size * line.slope > 4 * noise
                return size, estimate if clear else max(estimate, line.memory)
            estimate *= self.grow
        raise Stalled(f"no step size satisfied the upper model of f in {self.max_trials} trials")


def begin(problem: CompositeProblem, start: Point) -> Point:
    """The start where it lies in the set; else the vertex that its gradient points to."""
    if torch.isfinite(problem.regularizer_value(start)):
        return start
    return problem.lmo(problem.smooth_gradient(start))


def travel(
    problem: CompositeProblem,
    rule: FrankWolfeStep,
    point: Point,
    image: Point,
    direction: Point,
    value: float,
    slope: float,
    longest: float,
    memory: float,
) -> tuple[float, Point, Point, float]:
    """Go along a direction: the step size, the new point, its image and the rule's memory.

    It costs one image, that of the direction: the image of the new point follows from it.
    """
    line = Line(point, image, direction, problem.image(direction), value, slope, longest, memory)
    size, memory = rule.size(problem, line)
    return size, tree.add_scaled(point, size, direction), line.at(size), memory
