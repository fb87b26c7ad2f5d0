"""What the rule of AdaBound must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, adabound
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 8,
    **spread("points_over_sgd", -0.3, 0.4),
    **spread("points_over_adam", 0.1, 0.8),
    **spread("points_over_amsgrad", 0.1, 0.8),
    "early_train_loss_over_adams": 0.9,
}

#: Each part open or refuted.
CHANGES = [
    (spread("points_over_adam", -0.3, 0.3), PARTLY),
    (spread("points_over_amsgrad", -0.3, 0.3), PARTLY),
    (spread("points_over_sgd", -0.9, 0.1), PARTLY),
    ({"early_train_loss_over_adams": 1.5}, PARTLY),
    ({**spread("points_over_sgd", -2.0, -1.0), **spread("points_over_amsgrad", -2.0, -1.0)}, NO),
    (
        {
            **spread("points_over_sgd", -2.0, -1.0),
            **spread("points_over_amsgrad", -1.0, 1.0),
            "early_train_loss_over_adams": 1.5,
        },
        NO,
    ),
    (spread("points_over_sgd", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return adabound._sides(adabound._SCALES[size].choices)
