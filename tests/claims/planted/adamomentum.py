"""What the rule of AdaMomentum must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, adamomentum
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 8,
    **spread("points_over_adam", 0.1, 0.8),
    **spread("points_over_adabelief", 0.1, 0.8),
    **spread("points_over_sgd", -0.3, 0.4),
}

#: A tie with each rival; with both adaptive ones.
CHANGES = [
    (spread("points_over_adam", -0.3, 0.3), PARTLY),
    (spread("points_over_adabelief", -0.3, 0.3), PARTLY),
    (spread("points_over_sgd", -0.6, 0.3), PARTLY),
    ({**spread("points_over_adam", -0.3, 0.3), **spread("points_over_adabelief", -0.3, 0.3)}, NO),
    (spread("points_over_sgd", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return adamomentum._sides(adamomentum._SCALES[size])
