r"""What stationarity means for the proximal gradient methods of this room.

For :math:`F = f + g` there are two measures, and the problem decides which one is reported, for a whole run:

- *The duality gap*, where the problem offers ``"gap"`` and the gap tells something away from a minimizer (a
  :class:`~steepest.solve.convex.problem.LinearModel` whose ``g`` has a conjugate and grows in every direction):
  :math:`F(x) - D`, where :math:`D` is the largest dual value met so far. It
  bounds :math:`F(x) - \min F` from above, in the unit of ``F``. Every gradient leaves a dual point behind, whose value
  takes no product with the design (:meth:`~steepest.solve.convex.problem.LinearModel.dual_value`), so the gap is free,
  also where a method takes its gradients elsewhere than at its iterates.
- *The norm of the gradient mapping*, else: :math:`\|y - x_+\| / t` for the step
  :math:`x_+ = \text{prox}_{t g}(y - t \nabla f(y))` that led to the iterate :math:`x_+`. It has the unit of a gradient
  (with ``g = 0`` it is the norm of the gradient at ``y``), and ``F`` has a subgradient at :math:`x_+` of at most twice
  this length, where the gradient of ``f`` is Lipschitz with the constant :math:`1/t`. It bounds no difference of
  values.

Where ``g`` is flat in some direction (``g = 0``, a penalty of weight 0, a cone), dual points are feasible at minimizers
only and cannot be scaled into feasible ones, so the gap would tell nothing before; hence the gradient mapping.
"""

import math

import torch
from torch import Tensor

from steepest.core.tree import Point
from steepest.solve.convex.problem import CompositeProblem, LinearModel

__all__ = ["dual_bound", "first_bound", "stationarity"]


def first_bound(problem: CompositeProblem, image: Point, gradient: Point) -> float | None:
    """A lower bound on ``min F`` from a first gradient; ``None`` where stationarity is the gradient mapping.

    Args:
        problem: what is solved.
        image: the image of the point where the gradient was taken, see :meth:`CompositeProblem.image`.
        gradient: the gradient of ``f`` there.
    """
    if not isinstance(problem, LinearModel) or "gap" not in problem.offers:
        return None
    ones = torch.ones_like(gradient)
    # Whether 0 lies inside the domain of the conjugate: then every dual point can be scaled into it.
    if not bool((problem.regularizer.dual_scale(ones) > 0) & (problem.regularizer.dual_scale(-ones) > 0)):
        return None
    return dual_bound(problem, image, gradient, -math.inf)


def dual_bound(problem: CompositeProblem, image: Point, gradient: Point, before: float | None) -> float | None:
    """The best lower bound on ``min F``: that of a new gradient, or the one from ``before``."""
    if before is None:
        return None
    assert isinstance(problem, LinearModel)
    return max(before, float(problem.dual_value(image, gradient)))


def stationarity(value: float, bound: float | None, mapping: float | Tensor) -> float:
    """The duality gap where there is a bound, else the norm of the gradient mapping.

    Args:
        value: ``F`` at the iterate.
        bound: a lower bound on ``min F``, from :func:`dual_bound`.
        mapping: the norm of the gradient mapping of the step that led to the iterate.
    """
    return float(mapping) if bound is None else max(0.0, value - bound)
