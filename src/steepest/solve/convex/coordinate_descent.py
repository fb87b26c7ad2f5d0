"""Coordinate descent with the classical rules of selection."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.losses import Squared
from steepest.core.oracle import tally
from steepest.core.ranges import Integer
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.problem import LinearModel
from steepest.solve.convex.separable import SeparableForm
from steepest.solve.convex.working_set_newton import dual_value, separable_of

__all__ = [
    "CARD",
    "CoordinateDescent",
    "CoordinateDescentState",
    "CoordinateRule",
    "Cyclic",
    "GaussSouthwell",
    "GaussSouthwellLipschitz",
    "GaussSouthwellQ",
    "LipschitzSampling",
    "Random",
    "View",
]

CARD = MethodCard(
    name="coordinate-descent",
    title="Coordinate descent",
    room="convex",
    family="coordinate",
    summary="One coordinate (or group) at a time, chosen at random, in turn, or greedily by Gauss-Southwell rules.",
    target="steepest.solve.convex.coordinate_descent:CoordinateDescent",
    papers=(
        Paper(
            "J. Nutini, M. Schmidt, I. Laradji, M. Friedlander, H. Koepke",
            2015,
            "Coordinate Descent Converges Faster with the Gauss-Southwell Rule Than Random Selection",
            arxiv="1506.00552",
        ),
    ),
    needs=frozenset({"columns"}),
    buffers=2,
    claim="The Gauss-Southwell rule converges faster than random selection, and with Lipschitz constants faster still.",
)

#: Up to this many features the Gram matrix of the squared loss is kept, so that a gradient costs O(d) to update.
_GRAM = 4000


@dataclass(frozen=True)
class View:
    """What a greedy rule may look at: the whole point.

    Attributes:
        form: the regularizer.
        point, gradient: the iterate and the gradient of the smooth part, ``(d,)``.
        lipschitz: the Lipschitz constant of each block, ``(blocks,)``.
        steps: the same for each coordinate, inverted: the steps that blocks would take, ``(d,)``.
    """

    form: SeparableForm
    point: Tensor
    gradient: Tensor
    lipschitz: Tensor
    steps: Tensor

    def violation(self) -> Tensor:
        """The distance of minus the gradient to the subdifferential of the regularizer, ``(blocks,)``."""
        return self.form.violation(self.point, self.gradient)

    def decrease(self) -> Tensor:
        """What each block's step takes off the quadratic bound on the objective, ``(blocks,)``."""
        following = self.form.prox(self.point - self.steps * self.gradient, self.steps)
        delta = following - self.point
        # Near a minimizer the parts cancel, so that differences are factored: |f| - |x| = (f + x)(f - x) / (|f| + |x|).
        middle = self.form.slope_between(self.point, following)
        return -self.form.by_block((self.gradient + middle) * delta + 0.5 * delta.square() / self.steps)


@dataclass(frozen=True)
class CoordinateRule(ABC):
    """How the next block is chosen. Class attribute ``greedy``: whether it looks at the gradient."""

    greedy: ClassVar[bool] = False

    @abstractmethod
    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        """The number of the next block.

        Args:
            done: updates so far.
            lipschitz: the Lipschitz constant of each block.
            view: what a greedy rule looks at, else ``None``.
            generator: for rules that draw.
        """


@dataclass(frozen=True)
class Random(CoordinateRule):
    """Uniformly at random, with replacement."""

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        return int(torch.randint(len(lipschitz), (1,), generator=generator, device=generator.device))


@dataclass(frozen=True)
class LipschitzSampling(CoordinateRule):
    """At random, with probabilities proportional to the Lipschitz constants (Nesterov 2012)."""

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        return int(torch.multinomial(lipschitz, 1, generator=generator))


@dataclass(frozen=True)
class Cyclic(CoordinateRule):
    """In the order of their numbers, again and again."""

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        return done % len(lipschitz)


@dataclass(frozen=True)
class GaussSouthwell(CoordinateRule):
    """The steepest: the largest violation (without a regularizer, the largest entry of the gradient): GS-s."""

    greedy = True

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        assert view is not None
        return int(view.violation().argmax())


@dataclass(frozen=True)
class GaussSouthwellLipschitz(CoordinateRule):
    """The largest violation over the root of the block's Lipschitz constant: GSL."""

    greedy = True

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        assert view is not None
        return int((view.violation() / lipschitz.sqrt()).argmax())


@dataclass(frozen=True)
class GaussSouthwellQ(CoordinateRule):
    """The largest decrease of the quadratic bound, regularizer included: GS-q; without a regularizer it is GSL."""

    greedy = True

    def choose(self, done: int, lipschitz: Tensor, view: View | None, generator: torch.Generator) -> int:
        assert view is not None
        return int(view.decrease().argmax())


_RULES: dict[str, CoordinateRule] = {
    "random": Random(),
    "lipschitz-sampling": LipschitzSampling(),
    "cyclic": Cyclic(),
    "gauss-southwell": GaussSouthwell(),
    "gauss-southwell-lipschitz": GaussSouthwellLipschitz(),
    "gauss-southwell-q": GaussSouthwellQ(),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CoordinateDescentState(State):
    """The iterate, its value, and:

    Attributes:
        prediction: the predictions ``A x``.
        gradient: the gradient of the smooth part.
        bound: the best value of the dual found so far.
        done: updates so far.
        idle: updates since the value last decreased, or the point moved.
    """

    prediction: Tensor
    gradient: Tensor
    bound: float
    done: int = 0
    idle: int = 0


@dataclass(frozen=True)
class CoordinateDescent(Solver[LinearModel, CoordinateDescentState]):
    r"""Coordinate descent for linear models with separable regularizers.

    It solves ``min_x f(x) + g(x)``, ``f(x) = c sum_i loss(a_i . x, y_i)`` with a smooth loss, ``g`` a sum over
    coordinates, or over groups of them, the blocks. An update takes one block ``b`` by the rule, and::

        x_b <- prox_{g_b / L_b} (x_b - grad_b f(x) / L_b),     L_b = c * curvature * |A_b|^2   (spectral norm)

    For the squared loss and single coordinates that minimizes over the coordinate exactly. Rules, with ``v_b`` the
    distance of ``-grad_b f(x)`` to the subdifferential of ``g_b``:

    - ``"random"``, ``"lipschitz-sampling"`` (probabilities proportional to ``L_b``), ``"cyclic"``: a block costs
      ``O(n)`` (of a sparse design: the entries of its column);
    - ``"gauss-southwell"``: the largest ``v_b`` (GS-s); ``"gauss-southwell-lipschitz"``: ``v_b / sqrt(L_b)`` (GSL);
      ``"gauss-southwell-q"``: the largest decrease of ``grad_b f . d + L_b |d|^2 / 2 + g_b(x_b + d) - g_b(x_b)``. They
      need the whole gradient: an update costs ``O(d)`` for the squared loss up to 4000 features, whose Gram matrix is
      kept, else a product with ``A^T``.

    These are the rules as they were published, one block at a time, in Python: for moderate sizes and for study. To
    solve large sparse problems fast, use :class:`~steepest.solve.convex.WorkingSetNewton`.

    Rates, without a regularizer, where ``f`` is ``m1``-strongly convex in the 1-norm and ``L = max L_i``: with
    Gauss-Southwell ``f(x_k) - min f`` shrinks at least by ``1 - m1 / L`` in every update, between ``1 - m / L`` and
    ``1 - m / (n L)``, random's rate in expectation (``m``: strong convexity in the Euclidean norm); with GSL by
    ``1 - mL``, ``mL`` the modulus in the norm ``sum_i sqrt(L_i) |x_i|``. With ``g``, GS-q keeps ``1 - m / (n L)``.

    Stationarity is the duality gap, taken with the best dual point so far; where no scaling makes a dual point
    feasible, the largest ``v_b``.

    Args:
        rule: a name above, or a :class:`CoordinateRule`. Default ``"gauss-southwell-lipschitz"``.
        updates: updates per step, >= 1; value and gap are measured once per step. Default 1.

    Raises:
        ValueError, TypeError: a setting is out of its range; the loss is not smooth, the regularizer not separable, or
            ``start`` not a vector with one number per feature.

    A run ends as ``stalled`` when for ten passes the value has not decreased and nothing moved beyond rounding.

    Source: J. Nutini, M. Schmidt, I. Laradji, M. Friedlander, H. Koepke (2015), "Coordinate Descent Converges Faster
    with the Gauss-Southwell Rule Than Random Selection", arXiv 1506.00552.
    """

    rule: CoordinateRule | str = "gauss-southwell-lipschitz"
    updates: int = 1

    needs = frozenset({"columns"})
    ranges = {"updates": Integer(low=1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, CoordinateRule) and self.rule not in _RULES:
            raise ValueError(
                f"CoordinateDescent: rule must be a CoordinateRule or one of {sorted(_RULES)}, got {self.rule!r}"
            )

    def init(self, problem: LinearModel, start: Point, generator: torch.Generator) -> CoordinateDescentState:
        """Value, gradient and gap at the start, projected to the bounds."""
        form = separable_of(problem, start, type(self).__name__)
        x = torch.minimum(torch.maximum(start, form.low), form.high)
        prediction = problem.predict(x)
        tally("product")
        gradient = _gradient(problem, prediction)
        value, stationarity, bound = _measures(problem, form, x, prediction, gradient, -torch.inf)
        return CoordinateDescentState(
            point=x,
            value=value,
            stationarity=stationarity,
            prediction=prediction,
            gradient=gradient,
            bound=bound,
            generator=generator,
        )

    def step(self, problem: LinearModel, state: CoordinateDescentState) -> CoordinateDescentState:
        """``updates`` updates.

        Raises:
            Stalled: no progress in ten passes.
        """
        assert state.generator is not None
        x, prediction, gradient = state.point.clone(), state.prediction.clone(), state.gradient
        form = SeparableForm.of(problem.regularizer, x)
        columns = Columns.of(problem)
        lipschitz = block_lipschitz(problem, form)
        count = len(lipschitz)
        if state.idle >= 10 * count:
            raise Stalled("the value has not decreased, nor the point moved, in ten passes")
        rule = _RULES[self.rule] if isinstance(self.rule, str) else self.rule
        squared = isinstance(problem.loss, Squared)
        gram = columns.whole_gram() if squared and rule.greedy and len(x) <= _GRAM else None
        steps = 1.0 / (lipschitz if form.groups is None else lipschitz[form.groups])
        furthest = x.new_zeros(())
        for update in range(self.updates):
            view = View(form, x, gradient, lipschitz, steps) if rule.greedy else None
            number = rule.choose(state.done + update, lipschitz, view, state.generator)
            block = torch.tensor([number], device=x.device) if form.groups is None else form.members(number)
            features = columns.dense(block)
            tally("columns", len(block))
            if rule.greedy:
                slope = gradient[block]
            else:
                slope = problem.scale * (features @ problem.loss.derivative(prediction, problem.target))
            here, step = x[block], steps[block]
            delta = form.take(block).prox(here - step * slope, step) - here
            x[block] = here + delta
            furthest = torch.maximum(furthest, delta.abs().max())
            prediction = prediction + delta @ features
            if gram is not None:
                gradient = gradient + problem.scale * (gram[:, block] @ delta)
            elif rule.greedy:
                gradient = _gradient(problem, prediction)
        if not rule.greedy:
            gradient = _gradient(problem, prediction)
        value, stationarity, bound = _measures(problem, form, x, prediction, gradient, state.bound)
        assert state.value is not None
        moved = bool(furthest > torch.finfo(x.dtype).eps ** 0.625 * x.abs().max())  # while the value hides in rounding
        return CoordinateDescentState(
            point=x,
            value=value,
            stationarity=stationarity,
            prediction=prediction,
            gradient=gradient,
            bound=bound,
            generator=state.generator,
            done=state.done + self.updates,
            idle=0 if moved or value < float(state.value) else state.idle + self.updates,
        )


def block_lipschitz(problem: LinearModel, form: SeparableForm) -> Tensor:
    """The Lipschitz constant of each block's gradient, ``(blocks,)``; of blocks of zero columns a tiny number."""
    columns, factor = Columns.of(problem), problem.scale * problem.loss.curvature
    if form.groups is None:
        squares = columns.squared_norms()
    else:
        squares = columns.squared_norms_of_groups(form.groups)
    return factor * squares.clamp_min(torch.finfo(squares.dtype).tiny ** 0.5)


def _gradient(problem: LinearModel, prediction: Tensor) -> Tensor:
    tally("product")
    slope = problem.loss.derivative(prediction, problem.target)
    return problem.scale * (Columns.of(problem).transposed @ slope)


def _measures(
    problem: LinearModel, form: SeparableForm, x: Tensor, prediction: Tensor, gradient: Tensor, bound: float
) -> tuple[float, float, float]:
    """Value, stationarity, and the best bound from below."""
    value = float(problem.scale * problem.loss.value(prediction, problem.target).sum() + form.value(x))
    if not ("gap" in problem.offers and form.has_dual()):
        return value, float(form.violation(x, gradient).max()), bound
    slope = problem.loss.derivative(prediction, problem.target)
    bound = max(bound, dual_value(problem, slope, gradient))
    return value, max(value - bound, 0.0), bound
