r"""One proximal gradient step with backtracking, for the methods that are built of it.

From a point ``y`` with value and gradient of ``f``, and a step size ``t``, it is ``x = prox_{t g}(y - t grad f(y))``,
where ``t`` is shrunk until the quadratic upper model of ``f`` holds at ``x``::

    f(x) <= f(y) + <grad f(y), x - y> + |x - y|^2 / (2 t)

which is what all the proofs need; it holds for every ``t <= 1/L``. So ``1/t`` is a local estimate of ``L``.
"""

from typing import NamedTuple

import torch

from steepest.core import tree
from steepest.core.ranges import Integer, Range, Real
from steepest.core.stopping import Stalled
from steepest.core.tree import Point
from steepest.solve.convex.problem import CompositeProblem

__all__ = ["BACKTRACKING", "Move", "feasible", "first_size", "has_moved", "proximal_step"]

#: Ranges of the settings that backtracking has in every method.
BACKTRACKING: dict[str, Range] = {
    "step_size": Real(low=0.0, low_open=True, optional=True),
    "shrink": Real(low=0.0, high=1.0, low_open=True, high_open=True),
    "grow": Real(low=1.0),
    "max_trials": Integer(low=1),
}


class Move(NamedTuple):
    """A step that was tried.

    Attributes:
        point: where it leads.
        image: the image of ``point``.
        smooth: ``f(point)``.
        value: ``f(point) + g(point)``.
        mapping: the norm of the gradient mapping, ``|y - point| / size``.
        size: the step size.
        accepted: whether the upper model holds.
        clear: whether rounding leaves the model's test a meaning; where it does not, a longer step would be a guess.
    """

    point: Point
    image: Point
    smooth: float
    value: float
    mapping: float
    size: float
    accepted: bool
    clear: bool


def proximal_step(
    problem: CompositeProblem, y: Point, y_image: Point, smooth: float, gradient: Point, size: float
) -> Move:
    """One trial: one prox, one image (a product with the design) and one value of ``f``.

    Args:
        problem: what is solved.
        y: where the step begins.
        y_image: its image.
        smooth: ``f(y)``.
        gradient: the gradient of ``f`` at ``y``.
        size: the step size.
    """
    point = problem.prox(tree.add_scaled(y, -size, gradient), size)
    image = problem.image(point)
    after = problem.smooth_value_at(image)
    change = tree.add_scaled(point, -1.0, y)
    squared = tree.dot(change, change)
    numbers = torch.stack([after, tree.dot(gradient, change), squared, problem.regularizer_value(point)])
    here, slope, square, penalty = numbers.double().tolist()  # one transfer from the device
    room = square / (2 * size)
    # Differences of f below this size are rounding, and no reason to shrink (or to grow) the step.
    noise = 16 * torch.finfo(after.dtype).eps * max(abs(smooth), abs(here), abs(slope))
    excess, clear = here - smooth - slope, room > 2 * noise
    if not clear:
        exact = problem.smooth_excess(y_image, image)
        if exact is not None:
            excess, noise, clear = float(exact), 1e-3 * room, True
    return Move(point, image, here, here + penalty, square**0.5 / size, size, excess <= room + noise, clear)


def first_size(problem: CompositeProblem, point: Point, gradient: Point) -> float:
    """The reciprocal of a local Lipschitz constant of the gradient, from one more gradient close to the point.

    It is too long rather than too short, which backtracking puts right. Where the gradient does not change, 1.
    """
    length = float(tree.norm(gradient))
    if not length > 0:
        return 1.0
    eps = torch.finfo(tree.leaves(point)[0].dtype).eps
    probe = tree.add_scaled(point, -(eps**0.5) * max(1.0, float(tree.norm(point))) / length, gradient)
    _, there = problem.smooth_value_and_gradient_at(problem.image(probe))
    change = float(tree.norm(tree.add_scaled(there, -1.0, gradient)))
    moved = float(tree.norm(tree.add_scaled(probe, -1.0, point)))
    # Also a function that is linear here has a step: one that moves by the size of the point.
    return moved / change if change > eps * length else max(1.0, float(tree.norm(point))) / length


def feasible(problem: CompositeProblem, start: Point) -> Point:
    """The start, moved into the domain of ``g`` by a prox step where it lies outside (for a set: projected)."""
    if torch.isfinite(problem.regularizer_value(start)):
        return start
    return problem.prox(start, 1.0)


def has_moved(before: Point, after: Point) -> bool:
    """Whether a step is longer than the rounding error of the point it leads to."""
    first = tree.leaves(after)[0]
    change = tree.norm(tree.add_scaled(after, -1.0, before))
    size = tree.norm(after)
    return not bool(torch.isfinite(size) & (change <= torch.finfo(first.dtype).eps * size))


def too_many(trials: int) -> Stalled:
    """What a method raises when no trial was accepted."""
    return Stalled(f"no step size satisfied the upper model of f in {trials} trials")
