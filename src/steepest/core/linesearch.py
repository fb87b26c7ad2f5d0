"""Line searches: how far to go along a direction in which a function decreases.

They see one number, ``phi(t) = f(x + t d)``, and so serve every geometry: the caller defines what a step of size ``t``
along ``d`` is. ``slope`` is ``phi'(0)``, the inner product of the gradient and the direction.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Step", "armijo", "change_of_value", "goldstein", "rounding_of", "strong_wolfe"]


class Step(NamedTuple):
    """The outcome of a line search.

    Attributes:
        size: the accepted step size, or the best one tried where ``found`` is False (0 if none decreased ``phi``).
        value: ``phi(size)``.
        trials: how many step sizes were tried.
        found: whether the conditions hold at ``size``.
    """

    size: float
    value: float
    trials: int
    found: bool


def _check(slope: float, initial: float, **fractions: float) -> None:
    if not slope < 0:
        raise ValueError(f"slope must be negative (a descent direction), got {slope!r}")
    if not (math.isfinite(initial) and initial > 0):
        raise ValueError(f"initial must be a positive finite number, got {initial!r}")
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{name} must be in (0, 1), got {fraction!r}")


def rounding_of(value: float, epsilon: float) -> float:
    """How far apart two computed values may be by rounding alone: eight units in the last place of ``value``.

    Args:
        value: of the function.
        epsilon: the precision of its dtype.
    """
    return 8.0 * epsilon * abs(value)


def change_of_value(
    value: float, slope: float, size: float, here: float, here_slope: float, rounding: float = 0.0
) -> float:
    """``phi(size) - phi(0)``, from the slopes where the difference drowns in rounding::

        phi(t) - phi(0) ~ t (phi'(0) + phi'(t)) / 2        if |phi(t) - phi(0)| < rounding

    The trapezoid is exact for quadratics. With it Armijo's condition becomes Hager and Zhang's approximate one,
    ``phi'(t) <= (2 decrease - 1) phi'(0)``, and methods with gradients converge to full precision; without it they end
    where the gradient is about the square root of the precision.

    Args:
        value, slope: at 0.
        size: the step size ``t``.
        here, here_slope: at ``size``.
        rounding: the error of a difference of values; 0 for plain differences.

    Source: W. W. Hager and H. Zhang (2005), "A new conjugate gradient method with guaranteed descent and an efficient
    line search", SIAM Journal on Optimization 16(1), 170-192, section 4.
    """
    change = here - value
    if math.isfinite(here_slope) and abs(change) < rounding:
        return 0.5 * size * (slope + here_slope)
    return change


def armijo(
    phi: Callable[[float], float],
    value: float,
    slope: float,
    *,
    initial: float = 1.0,
    decrease: float = 1e-4,
    shrink: float = 0.5,
    max_trials: int = 60,
) -> Step:
    """Backtracking: the first of ``initial * shrink**k``, k = 0, 1, ..., with sufficient decrease::

        phi(t) <= phi(0) + decrease * t * phi'(0)

    A trial with a value that is NaN or infinite is rejected, so the search may begin outside the domain of ``f``.

    Args:
        phi: the function along the line; called once per trial.
        value: ``phi(0)``.
        slope: ``phi'(0)``, negative.
        initial: the first trial, positive.
        decrease: the part of the promised decrease that is demanded, in (0, 1); Armijo used 1/2.
        shrink: the factor between trials, in (0, 1).
        max_trials: the largest number of trials, at least 1.

    Raises:
        ValueError: an argument is out of its range.

    Source: L. Armijo (1966), "Minimization of functions having Lipschitz continuous first partial derivatives",
    Pacific Journal of Mathematics 16(1), 1-3.
    """
    _check(slope, initial, decrease=decrease, shrink=shrink)
    best, best_value = 0.0, value
    size = initial
    for trial in range(1, max_trials + 1):
        here = phi(size)
        if math.isfinite(here):
            # A step too small to change phi at all "decreases enough" in floating point; it is no progress.
            if here <= value + decrease * size * slope and here < value:
                return Step(size, here, trial, True)
            if here < best_value:
                best, best_value = size, here
        size *= shrink
    return Step(best, best_value, max_trials, False)


def goldstein(
    phi: Callable[[float], float],
    value: float,
    slope: float,
    *,
    initial: float = 1.0,
    decrease: float = 0.25,
    max_size: float = 1e10,
    max_trials: int = 60,
) -> Step:
    """A step size that decreases ``phi`` enough and is not too short, found by values alone::

        phi(0) + (1 - decrease) * t * phi'(0)  <=  phi(t)  <=  phi(0) + decrease * t * phi'(0)

    It doubles while steps are too short, and bisects once one was too long. A trial with a value that is NaN or
    infinite counts as too long.

    Args:
        phi: the function along the line; called once per trial.
        value: ``phi(0)``.
        slope: ``phi'(0)``, negative.
        initial: the first trial, positive.
        decrease: in (0, 1/2): below, the exact minimizer of a quadratic is among the accepted sizes.
        max_size: no trial is larger.
        max_trials: the largest number of trials, at least 1.

    Raises:
        ValueError: an argument is out of its range.

    Source: A. A. Goldstein (1965), "On steepest descent", Journal of the SIAM on Control 3(1), 147-151.
    """
    _check(slope, initial, decrease=decrease)
    if not decrease < 0.5:
        raise ValueError(f"decrease must be in (0, 1/2), got {decrease!r}")
    low, high = 0.0, math.inf
    best, best_value = 0.0, value
    size = min(initial, max_size)
    for trial in range(1, max_trials + 1):
        here = phi(size)
        if math.isfinite(here) and here < best_value:
            best, best_value = size, here
        # As in armijo: a step too small to change phi at all is no progress.
        if not (math.isfinite(here) and here <= value + decrease * size * slope and here < value):
            high = size
        elif here < value + (1 - decrease) * size * slope:
            low = size
        else:
            return Step(size, here, trial, True)
        if math.isinf(high):
            if size >= max_size:
                return Step(best, best_value, trial, False)
            size = min(2.0 * size, max_size)
        else:
            size = low + 0.5 * (high - low)
            if size in (low, high):  # the bracket is down to neighbouring numbers
                return Step(best, best_value, trial, False)
    return Step(best, best_value, max_trials, False)


def strong_wolfe(
    phi: Callable[[float], tuple[float, float]],
    value: float,
    slope: float,
    *,
    initial: float = 1.0,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_size: float = 1e10,
    max_trials: int = 60,
) -> Step:
    """A step size that satisfies the strong Wolfe conditions::

        phi(t) <= phi(0) + decrease * t * phi'(0)   and   |phi'(t)| <= curvature * |phi'(0)|

    It brackets by doubling, then halves the bracket's uncertainty by cubic interpolation, safeguarded by bisection
    (Nocedal and Wright, Algorithms 3.5 and 3.6).

    Args:
        phi: maps a step size to ``(phi(t), phi'(t))``; called once per trial.
        value: ``phi(0)``.
        slope: ``phi'(0)``, negative.
        initial: the first trial, positive; 1 for Newton-like directions.
        decrease: in (0, curvature).
        curvature: in (decrease, 1): 0.9 for quasi-Newton directions, 0.1 for conjugate gradients.
        max_size: no trial is larger.
        max_trials: the largest number of trials, at least 1.

    Raises:
        ValueError: an argument is out of its range.

    Source: J. Nocedal and S. J. Wright (2006), "Numerical Optimization", 2nd edition, section 3.5.
    """
    _check(slope, initial, decrease=decrease, curvature=curvature)
    if not decrease < curvature:
        raise ValueError(f"decrease must be less than curvature={curvature!r}, got {decrease!r}")
    low = _Trial(0.0, value, slope)
    high: _Trial | None = None  # once set, an acceptable size lies between low and high
    size = min(initial, max_size)
    for trial in range(1, max_trials + 1):
        here = _Trial(size, *phi(size))
        finite = math.isfinite(here.value) and math.isfinite(here.slope)
        enough = finite and here.value <= value + decrease * size * slope
        if not enough or (here.value >= low.value and low.size > 0):
            high = here
        elif abs(here.slope) <= -curvature * slope:
            return Step(size, here.value, trial, True)
        else:
            # The minimizer lies on the side to which phi falls from here.
            if here.slope * ((high.size if high else math.inf) - low.size) >= 0:
                high = low
            low = here
        if high is None:
            if size >= max_size:
                return Step(size, here.value, trial, False)
            size = min(2.0 * size, max_size)
        else:
            size = _between(low, high)
            if size in (low.size, high.size):  # the bracket is down to neighbouring numbers
                return Step(low.size, low.value, trial, False)
    return Step(low.size, low.value, max_trials, False)


class _Trial(NamedTuple):
    size: float
    value: float
    slope: float


def _between(a: _Trial, b: _Trial) -> float:
    """The minimizer of the cubic through two trials, at least a tenth of the bracket away from its ends."""
    width = b.size - a.size
    middle = a.size + 0.5 * width
    if not all(math.isfinite(number) for number in (*a, *b)):
        return middle
    first = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.size - b.size)
    square = first * first - a.slope * b.slope
    if square < 0:
        return middle
    second = math.copysign(math.sqrt(square), width)
    divisor = b.slope - a.slope + 2.0 * second
    if divisor == 0:
        return middle
    size = b.size - width * (b.slope + second - first) / divisor
    margin = 0.1 * abs(width)
    inside = min(a.size, b.size) + margin <= size <= max(a.size, b.size) - margin
    return size if inside else middle
