"""What the rule of saddle-free Newton must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

_PLACES = ("small", "middle", "large")


def _gaps(rival: str, low: float, high: float, places: tuple[str, ...] = _PLACES) -> dict[str, float | None]:
    return {k: v for place in places for k, v in spread(f"percent_over_{rival}_{place}", low, high).items()}


WINNER = {
    "seeds": 5,
    **_gaps("damped_newton", -8, -2),
    **_gaps("gradient_descent", -8, -2),
    **spread("growth_damped_newton", -5, -1),
    **spread("growth_gradient_descent", -5, -1),
    **spread("steps_to_leave_damped_newton_over_ours", 2, 4),
    **spread("steps_to_leave_gradient_descent_over_ours", 10, 40),
}
_NONE = _gaps("damped_newton", -0.5, 0.5) | _gaps("gradient_descent", 1, 4)

#: One size may fail; each part may; a gain too small to count; neither rival beaten, told apart from open.
CHANGES = [
    (_gaps("damped_newton", -3, 3, ("middle", "large")), PARTLY),
    (_gaps("gradient_descent", -0.9, -0.1), PARTLY),
    (_gaps("gradient_descent", 1, 4), PARTLY),
    (spread("growth_damped_newton", -2, 1), PARTLY),
    (spread("growth_gradient_descent", -2, 1), PARTLY),
    (spread("steps_to_leave_damped_newton_over_ours", 0.9, 4), PARTLY),
    (spread("steps_to_leave_gradient_descent_over_ours", 0.2, 0.5), PARTLY),
    (_NONE, NO),
    (_gaps("damped_newton", -0.8, -0.2) | _gaps("gradient_descent", -0.8, -0.2), NO),
    (_NONE | _gaps("damped_newton", -9, 1, ("small", "middle")), UNKNOWN),
    (_NONE | _gaps("gradient_descent", -9, 1, ("large",)), NO),
]
