"""Step rules of gradient descent: how far to go along the negative gradient.

A rule is a value, the ``rule`` of a :class:`~steepest.solve.convex.gradient_method.GradientMethod`. What it remembers
from step to step is ``memory`` in the state, so that a run resumes bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from steepest.core import linesearch, tree
from steepest.core.problem import SmoothProblem
from steepest.core.ranges import Integer, OneOf, Range, Real, check_settings
from steepest.core.solver import State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point, add_scaled

__all__ = [
    "Armijo",
    "BarzilaiBorwein",
    "ConstantStep",
    "DecreasingStep",
    "ExactStep",
    "GradientState",
    "PolyakStep",
    "StepRule",
    "StrongWolfe",
]

_POSITIVE = Real(low=0.0, low_open=True)
_FRACTION = Real(low=0.0, high=1.0, low_open=True, high_open=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientState(State):
    """The iterate, its value, and:

    Attributes:
        gradient: the gradient at ``point``; its norm is ``stationarity``.
        step_size: the step size that led here; 0 at the start.
        memory: what the step rule remembers.
    """

    gradient: Any
    step_size: float = 0.0
    memory: Any = None

    @classmethod
    def begin(cls, problem: SmoothProblem, start: Point) -> "GradientState":
        """The state at the start: one value and one gradient."""
        value, gradient = problem.value_and_gradient(start)
        return cls(point=start, value=float(value), gradient=gradient, stationarity=float(tree.norm(gradient)))

    def known(self) -> tuple[float, float]:
        """The value and the norm of the gradient.

        Raises:
            Stalled: the gradient is zero.
        """
        assert self.value is not None
        assert self.stationarity is not None
        if float(self.stationarity) == 0:
            raise Stalled("the gradient is zero")
        return float(self.value), float(self.stationarity)


@dataclass(frozen=True)
class StepRule(ABC):
    """The base of all step rules.

    Class attributes:
        needs: what a rule asks of the problem besides ``"value"`` and ``"gradient"``.
        ranges: the allowed range of each setting, checked at construction.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        check_settings(type(self).__name__, settings, self.ranges)

    @abstractmethod
    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        """The state after one step ``x - t grad f(x)``.

        Raises:
            Stalled: no step size is good.
        """


def _step(problem: SmoothProblem, state: GradientState, size: float, memory: Any = None) -> GradientState:
    """A step of a given size: one value and one gradient, together."""
    point = add_scaled(state.point, -size, state.gradient)
    value, gradient = problem.value_and_gradient(point)
    norm = float(tree.norm(gradient))
    return GradientState(
        point=point, value=float(value), gradient=gradient, stationarity=norm, step_size=size, memory=memory
    )


@dataclass(frozen=True)
class ConstantStep(StepRule):
    """``t_k = size``.

    Where ``f`` is convex with an ``L``-Lipschitz gradient and ``size <= 1/L``, ``f(x_k) - f* <= |x_0 - x*|^2 / (2 size
    k)``; where it is ``m``-strongly convex, ``|x_k - x*|^2 <= (1 - m size)^k |x_0 - x*|^2``, and with ``size = 2 / (m +
    L)`` ``f(x_k) - f* <= L/2 exp(-4 k / (L/m + 1)) |x_0 - x*|^2``. From ``2/L`` on it diverges.

    Args:
        size: > 0, in the unit of ``x`` per unit of the gradient.

    Source: G. Garrigos and R. M. Gower (2023), arXiv 2301.11235, theorems 3.4 and 3.6; S. Bubeck (2015), arXiv
    1405.4980, theorem 3.12.
    """

    size: float
    ranges = {"size": _POSITIVE}

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        state.known()
        return _step(problem, state, self.size)


@dataclass(frozen=True)
class DecreasingStep(StepRule):
    """``t_k = size / (k + 1)**power``, k = 0, 1, ...

    Args:
        size: the first step size, > 0.
        power: in (0, 1]: the sum of the step sizes is infinite, so every distance can be covered. Default 1/2.
    """

    size: float
    power: float = 0.5
    ranges = {"size": _POSITIVE, "power": Real(low=0.0, high=1.0, low_open=True)}

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        state.known()
        steps = state.memory or 0
        return _step(problem, state, self.size / (steps + 1) ** self.power, steps + 1)


@dataclass(frozen=True)
class PolyakStep(StepRule):
    """``t_k = (f(x_k) - f*) / |grad f(x_k)|^2`` with a known least value ``f*``.

    The distance to every minimizer never grows. With an ``L``-Lipschitz gradient, the least of the first ``k`` values
    is at most ``f* + 2 L |x_0 - x*|^2 / k``. A value of ``optimum`` below the true one makes the steps too long to
    settle.

    Args:
        optimum: ``f*``, the least value of ``f``.

    Source: B. T. Polyak (1987), "Introduction to Optimization", section 5.3.
    """

    optimum: float
    ranges = {"optimum": Real()}

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        value, norm = state.known()
        if value <= self.optimum:
            raise Stalled(f"the value {value:.6g} is not above the optimum {self.optimum:.6g} that was given")
        return _step(problem, state, (value - self.optimum) / norm**2)


@dataclass(frozen=True)
class ExactStep(StepRule):
    """The exact minimizer along the line, for quadratic ``f``: ``t_k = |g|^2 / <g, H g>``.

    It needs ``"hvp"``: one product with the Hessian a step. For other functions it is a Newton step along the line, and
    may overshoot. On a quadratic with the condition ``q``, ``f - f*`` falls at least by the factor ``((q-1)/(q+1))^2``.

    Source: D. G. Luenberger and Y. Ye (2008), "Linear and Nonlinear Programming", section 8.2.
    """

    needs = frozenset({"hvp"})

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        _, norm = state.known()
        curvature = float(tree.dot(state.gradient, problem.hvp(state.point, state.gradient)))
        if not curvature > 0:
            raise Stalled(f"the curvature along the gradient is {curvature:.6g}, so there is no minimizer on the line")
        return _step(problem, state, norm**2 / curvature)


@dataclass(frozen=True)
class Armijo(StepRule):
    """The first of ``size * shrink**i`` with ``f(x - t g) <= f(x) - decrease t |g|^2``.

    Args:
        size: the first trial of each search, > 0. Default 1.
        decrease: the demanded part of the decrease that the slope promises, in (0, 1). Default 1/2.
        shrink: the factor between trials, in (0, 1). Default 1/2.
        max_trials: trials before a search gives up, >= 1. Default 60.

    Source: L. Armijo (1966), Pacific Journal of Mathematics 16(1), 1-3.
    """

    size: float = 1.0
    decrease: float = 0.5
    shrink: float = 0.5
    max_trials: int = 60
    ranges = {"size": _POSITIVE, "decrease": _FRACTION, "shrink": _FRACTION, "max_trials": Integer(low=1)}

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        value, norm = state.known()
        return self.search(problem, state, self.size, value, norm)

    def search(
        self,
        problem: SmoothProblem,
        state: GradientState,
        first: float,
        reference: float,
        norm: float,
        memory: Any = None,
    ) -> GradientState:
        """A search from the trial ``first``, for a decrease below the value ``reference``."""
        found = linesearch.armijo(
            lambda size: float(problem.value(add_scaled(state.point, -size, state.gradient))),
            reference,
            -(norm**2),
            initial=first,
            decrease=self.decrease,
            shrink=self.shrink,
            max_trials=self.max_trials,
        )
        if not found.found:
            raise Stalled(f"no step size decreased the value enough in {found.trials} trials")
        point = add_scaled(state.point, -found.size, state.gradient)
        gradient = problem.gradient(point)
        return GradientState(
            point=point,
            value=found.value,
            gradient=gradient,
            stationarity=float(tree.norm(gradient)),
            step_size=found.size,
            memory=memory,
        )


@dataclass(frozen=True)
class StrongWolfe(StepRule):
    """A step size that satisfies the strong Wolfe conditions::

        f(x - t g) <= f(x) - decrease t |g|^2   and   |<grad f(x - t g), g>| <= curvature |g|^2

    Each search begins with the step size that the one before found. A trial costs one value and one gradient.

    Args:
        size: the first trial of the first search, > 0. Default 1.
        decrease: in (0, curvature). Default 1e-4.
        curvature: in (decrease, 1). Default 0.1: a close search, since steepest descent gains by it.
        max_trials: trials before a search gives up, >= 1. Default 60.

    Source: J. Nocedal and S. J. Wright (2006), "Numerical Optimization", section 3.5.
    """

    size: float = 1.0
    decrease: float = 1e-4
    curvature: float = 0.1
    max_trials: int = 60
    ranges = {"size": _POSITIVE, "decrease": _FRACTION, "curvature": _FRACTION, "max_trials": Integer(low=1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decrease < self.curvature:
            raise ValueError(
                f"StrongWolfe: decrease must be less than curvature={self.curvature!r}, got {self.decrease!r}"
            )

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        value, norm = state.known()
        tried: dict[float, GradientState] = {}

        def phi(size: float) -> tuple[float, float]:
            tried[size] = _step(problem, state, size)
            assert tried[size].value is not None
            return float(tried[size].value or 0.0), -float(tree.dot(tried[size].gradient, state.gradient))

        found = linesearch.strong_wolfe(
            phi,
            value,
            -(norm**2),
            initial=state.step_size or self.size,
            decrease=self.decrease,
            curvature=self.curvature,
            max_trials=self.max_trials,
        )
        # A search that met only the first condition has still gone down.
        if found.size not in tried or not found.value < value:
            raise Stalled(f"no step size satisfied the Wolfe conditions in {found.trials} trials")
        return tried[found.size]


@dataclass(frozen=True)
class BarzilaiBorwein(StepRule):
    """The step size of Barzilai and Borwein, with the nonmonotone safeguard of Grippo, Lampariello and Lucidi::

        t_k = <s, s> / <s, y>  (long)   or   <s, y> / <y, y>  (short),      s = x_k - x_{k-1},  y = g_k - g_{k-1}

    kept in ``[1e-10, 1e10]``, and multiplied by ``shrink`` until ``f(x - t g) <= max(f(x_k), ..., f(x_{k-window+1})) -
    decrease t |g|^2``. Values may rise for a while, which is what makes it fast. On a strictly convex quadratic it
    converges linearly, in practice much faster than with any of the other rules.

    Args:
        size: the first step size, > 0. Default 1.
        kind: ``"long"`` (default) or ``"short"``.
        window: how many values the safeguard looks back, >= 1. Default 10.
        decrease: in (0, 1). Default 1e-4.
        shrink: in (0, 1). Default 1/2.
        max_trials: trials before a search gives up, >= 1. Default 60.

    Source: J. Barzilai and J. M. Borwein (1988), "Two-point step size gradient methods", IMA Journal of Numerical
        Analysis
    8; M. Raydan (1997), "The Barzilai and Borwein gradient method for the large scale unconstrained minimization
    problem", SIAM Journal on Optimization 7(1).
    """

    size: float = 1.0
    kind: Literal["long", "short"] = "long"
    window: int = 10
    decrease: float = 1e-4
    shrink: float = 0.5
    max_trials: int = 60
    ranges = {
        "size": _POSITIVE,
        "kind": OneOf(("long", "short")),
        "window": Integer(low=1),
        "decrease": _FRACTION,
        "shrink": _FRACTION,
        "max_trials": Integer(low=1),
    }

    def advance(self, problem: SmoothProblem, state: GradientState) -> GradientState:
        value, norm = state.known()
        first, recent = state.memory or (self.size, ())
        recent = (*recent, value)[-self.window :]
        search = Armijo(decrease=self.decrease, shrink=self.shrink, max_trials=self.max_trials)
        after = search.search(problem, state, first, max(recent), norm)
        change, bend = (
            add_scaled(after.point, -1.0, state.point),
            add_scaled(after.gradient, -1.0, state.gradient),
        )
        product = float(tree.dot(change, bend))
        if product <= 0:
            following = 1e10
        elif self.kind == "long":
            following = float(tree.dot(change, change)) / product
        else:
            following = product / float(tree.dot(bend, bend))
        memory = (min(max(following, 1e-10), 1e10), recent)
        return GradientState(
            point=after.point,
            value=after.value,
            gradient=after.gradient,
            stationarity=after.stationarity,
            step_size=after.step_size,
            memory=memory,
        )
