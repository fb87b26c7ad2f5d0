"""What the rule of AdaHessian must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, adahessian
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 6,
    **spread("points_over_sgd_equal_steps", -0.3, 0.4),
    **spread("points_over_adam_equal_steps", 0.1, 0.8),
    **spread("points_over_adamw_equal_steps", -0.3, 0.8),
    "points_over_adamw_equal_evaluations": -0.2,
    "good_learning_rates_adahessian": 5,
    "good_learning_rates_sgd": 5,
    "good_learning_rates_adam": 4,
    "good_learning_rates_adamw": 4,
}

#: Each part by itself.
CHANGES = [
    (spread("points_over_sgd_equal_steps", -0.8, 0.4), PARTLY),
    (spread("points_over_adam_equal_steps", -0.3, 0.4), PARTLY),
    ({"good_learning_rates_adam": 6}, PARTLY),
    ({**spread("points_over_sgd_equal_steps", -0.8, 0.4), "good_learning_rates_adam": 6}, NO),
    (spread("points_over_adam_equal_steps", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return adahessian._sides(adahessian._SCALES[size])
