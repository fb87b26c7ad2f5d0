"""What the rule of gradient-normalized Newton must say of planted figures."""

from steepest.claims.grad_normalized_newton import _LABELS

from . import NO, PARTLY, spread

_NAMES = tuple(_LABELS.values())


def _on(name: str, low: float, high: float, count: int = 5) -> dict[str, float | None]:
    """The same interval on some of the problems."""
    return {k: v for each in _NAMES[:count] for k, v in spread(f"{name}_{each}", low, high).items()}


WINNER = {
    "seeds": 5,
    **_on("steps_over_exact", 1.1, 1.8),
    **_on("time_of_gradients_over_ours", 1.5, 4.0),
    **_on("late_over_early_steps", 0.5, 1.5),
    **{f"missed_{each}": 0 for each in _NAMES},
}

#: Too many steps; too slow; both; a rate that is not linear; runs that do not arrive.
CHANGES = [
    (_on("steps_over_exact", 1.5, 4.0, 2), PARTLY),
    (_on("time_of_gradients_over_ours", 0.5, 1.5, 2), PARTLY),
    ({**_on("steps_over_exact", 3.0, 4.0, 2), **_on("time_of_gradients_over_ours", 0.2, 0.5, 2)}, NO),
    (_on("late_over_early_steps", 1.5, 2.5, 1), NO),
    ({f"missed_{_NAMES[4]}": 1}, NO),
]
