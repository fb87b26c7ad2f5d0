"""What the rule of Coordinate clipping must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, coordinate_clip
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    **spread("loss_clip_less_sgd", -0.3, -0.1),
    "loss_sgd": 2.5,
    "loss_sgd_clip": 2.3,
    "loss_adam": 2.2,
    "transformer_percent_sgd_over_adam": 95.0,
    "transformer_percent_sgd_over_clip": 85.0,
    "convolutional_percent_sgd_over_adam": 40.0,
    **{f"transformer_median_sharpness_{name}": 1.0 for name in ("sgd", "sgd_clip", "adam")},
}

#: Each part by itself; a clip that flattens and does not help; one that harms.
CHANGES = [
    ({"transformer_percent_sgd_over_adam": 79.0}, PARTLY),
    ({"transformer_percent_sgd_over_clip": 79.0}, PARTLY),
    ({"convolutional_percent_sgd_over_adam": 80.0}, PARTLY),
    (spread("loss_clip_less_sgd", -0.1, 0.1), PARTLY),
    ({**spread("loss_clip_less_sgd", -0.1, 0.1), "transformer_percent_sgd_over_clip": 79.0}, NO),
    (spread("loss_clip_less_sgd", 0.1, 0.2), NO),
    (spread("loss_clip_less_sgd", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return coordinate_clip._sides(coordinate_clip._SCALES[size])
