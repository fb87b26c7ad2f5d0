"""The few statistics the arena needs, on plain NumPy arrays.

Seeds are few (five by default), so small samples decide the choice of every method here.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["bonferroni", "bootstrap_interval", "holm", "paired_p_value"]

Array = NDArray[np.float64]


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., Array] = np.mean,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The expanded percentile bootstrap interval of a statistic.

    The plain percentile bootstrap is too narrow for few values, by the factor ``sqrt((n-1)/n)`` of the plug-in
    deviation and by using normal rather than Student quantiles. The expanded percentile interval (T. Hesterberg, "What
    Teachers Should Know About the Bootstrap", 2015) takes the percentiles ``Phi(-+ sqrt(n/(n-1)) t)`` instead, where
    ``t`` is the Student quantile of ``n-1`` degrees of freedom. It never reaches beyond the resampled values: with two
    or three values it is their range, and covers less than ``level``.

    Args:
        values: the observations; infinite ones are allowed where the statistic orders rather than adds (the median).
        statistic: a function of an array and ``axis``.
        level: the coverage aimed at.
        resamples: the number of bootstrap resamples.
        seed: the seed of the resampling, so that a report can be made again.

    Returns:
        The ends of the interval, or ``None`` for fewer than two values.
    """
    data = np.asarray(values, dtype=np.float64)
    n = data.size
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    estimates = np.sort(statistic(data[rng.integers(0, n, size=(resamples, n))], axis=1))
    quantile = float(special.stdtrit(n - 1, 0.5 + level / 2))
    tail = float(special.ndtr(-math.sqrt(n / (n - 1)) * quantile))
    # Order statistics rather than interpolation, which has no meaning next to an infinite value.
    low = estimates[math.floor(tail * (resamples - 1))]
    high = estimates[math.ceil((1 - tail) * (resamples - 1))]
    return float(low), float(high)


def paired_p_value(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of "the mean difference is zero".

    Student's paired test, the only one with power at five seeds (the exact sign-flip test cannot fall below ``2/2^5``).
    Where all differences are equal and not zero, as rounded metrics like accuracy can make them, Student's statistic is
    infinite and means nothing; then the sign-flip test's ``2/2^n`` is returned.

    Returns:
        The p-value, or ``None`` for fewer than two pairs.
    """
    data = np.asarray(differences, dtype=np.float64)
    n = data.size
    if n < 2:
        return None
    mean = float(data.mean())
    deviation = float(data.std(ddof=1))
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - n)
    t = mean / (deviation / math.sqrt(n))
    return float(2.0 * special.stdtr(n - 1, -abs(t)))


def bonferroni(p_values: Sequence[float | None]) -> list[float | None]:
    """Bonferroni's adjustment: times the number of tests that could be made, at most 1; ``None`` stays ``None``."""
    family = sum(p is not None for p in p_values)
    return [None if p is None else min(1.0, family * p) for p in p_values]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: the family-wise error stays at the level that the adjusted values are compared with.

    ``None`` (a test that could not be made) stays ``None`` and does not count in the family.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[index] = running
    return adjusted
