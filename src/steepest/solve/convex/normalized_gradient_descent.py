"""Normalized gradient descent for logistic regression on separable data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard, Paper
from steepest.core.losses import Logistic
from steepest.core.oracle import tally
from steepest.core.ranges import Real
from steepest.core.regularizer import Zero
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.solve.convex.columns import Columns
from steepest.solve.convex.problem import LinearModel

__all__ = ["CARD", "NormalizedGradientDescent", "NormalizedGradientDescentState"]

CARD = MethodCard(
    name="normalized-lr-gd",
    title="Normalized gradient descent for logistic regression",
    room="convex",
    family="separation",
    summary="Separates two classes by steps along the logistic gradient, divided by the mean error probability.",
    target="steepest.solve.convex.normalized_gradient_descent:NormalizedGradientDescent",
    papers=(
        Paper(
            "A. Tyurin",
            2024,
            "From logistic regression to the perceptron algorithm: exploring gradient descent with large step sizes",
            arxiv="2412.08424",
        ),
    ),
    needs=frozenset({"smooth gradient"}),
    buffers=0,
    claim="Separable data are separated in a number of steps that does not grow with the number of samples, where "
    "gradient descent on the logistic loss needs in the worst case a number proportional to it.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalizedGradientDescentState(State):
    """The iterate, and:

    Attributes:
        margins: ``y_i <a_i, x>`` of all samples.
    """

    margins: Tensor


@dataclass(frozen=True)
class NormalizedGradientDescent(Solver[LinearModel, NormalizedGradientDescentState]):
    """Normalized gradient descent on the logistic loss, which separates two classes.

    It looks for an ``x`` with ``y_i <a_i, x> > 0`` for all samples (``a_i`` the rows of the design, ``y_i`` -1 or 1),
    by steps along the gradient of ``f(x) = 1/n sum_i log(1 + exp(-y_i <a_i, x>))``, divided by the mean error
    probability::

        p_i     = 1 / (1 + exp(y_i <a_i, x_k>))
        x_{k+1} = x_k - step_size / (1/n sum_i p_i) grad f(x_k) = x_k + step_size sum_i p_i y_i a_i / sum_i p_i

    So every step is ``step_size`` times a convex combination of the ``y_i a_i``, however far ``x`` has come. From
    ``x_0 = 0``, data with the margin ``m`` (the largest over unit vectors ``u`` of ``min_i y_i <a_i, u>``) and
    ``R = max |a_i|`` are separated after at most ``R^2/m^2 + 2 log(2 n - 1) / (step_size m^2)`` steps. For
    ``step_size`` to infinity, ``x / step_size`` follows the normalized batch perceptron, whose step is the mean of the
    ``y_i a_i`` over the samples that are not yet right, with the bound ``R^2/m^2``.

    A step costs two products with the design. Stationarity is the fraction of samples with ``y_i <a_i, x> <= 0``: 0 at
    a solution, so ``tolerance=0.0`` ends the run there. Loss and gradient say nothing about progress for long steps,
    and the value is not measured. Data that cannot be separated use up the budget.

    Args:
        step_size: > 0; only ratios to ``1 / R^2`` matter. Default 100 (the paper: the larger the better; 100 and more).

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range; the problem is not a logistic regression without
            regularizer and of one output.

    A run without a tolerance ends as ``stalled`` where all steps are too small to change ``x``.

    Source: A. Tyurin (2024), "From logistic regression to the perceptron algorithm: exploring gradient descent with
        large
    step sizes", arXiv 2412.08424. The weights ``p_i / sum p`` are computed in logarithms, so they are right also where
    all ``p_i`` underflow.
    """

    step_size: float = 100.0

    needs = frozenset({"smooth gradient"})
    ranges = {"step_size": Real(low=0.0, low_open=True)}

    def init(self, problem: LinearModel, start: Tensor, generator: torch.Generator) -> NormalizedGradientDescentState:
        """The margins at the start.

        Raises:
            TypeError, ValueError: the problem is not a plain logistic regression.
        """
        _check(problem, start, type(self).__name__)
        return self._state(problem, start)

    def step(self, problem: LinearModel, state: NormalizedGradientDescentState) -> NormalizedGradientDescentState:
        """One step.

        Raises:
            Stalled: the step does not change the iterate.
        """
        # log p_i = -softplus(margin), up to a constant that softmax takes away.
        weight = torch.softmax(-torch.nn.functional.softplus(state.margins), 0) * problem.target
        tally("smooth gradient")
        point = state.point + self.step_size * (Columns.of(problem).transposed @ weight)
        if torch.equal(point, state.point):
            raise Stalled("the step is too small to change the iterate")
        return self._state(problem, point)

    @staticmethod
    def _state(problem: LinearModel, point: Tensor) -> NormalizedGradientDescentState:
        margins = problem.target * problem.predict(point)
        wrong = (margins <= 0).to(margins.dtype).mean()
        return NormalizedGradientDescentState(point=point, stationarity=float(wrong), margins=margins)


def _check(problem: LinearModel, start: Tensor, by: str) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the problem is a plain logistic regression of one output."""
    if not isinstance(problem, LinearModel):
        raise TypeError(f"{by}: problem must be a LinearModel, got {type(problem).__name__}")
    if not isinstance(problem.loss, Logistic) or not isinstance(problem.regularizer, Zero):
        raise ValueError(
            f"{by}: problem must have the logistic loss and no regularizer, got {problem.loss!r} and "
            f"{problem.regularizer!r}"
        )
    if problem.target.dim() != 1 or start.shape != problem.design.shape[1:]:
        raise ValueError(
            f"{by}: target must be (n,) and start (d,), got {list(problem.target.shape)} and {list(start.shape)}"
        )
