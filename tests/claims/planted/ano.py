"""What the rule of Ano must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, ano
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 8,
    **spread("points_over_adam_noise_0", -0.5, 0.2),
    **spread("points_over_adam_noise_005", 0.1, 0.9),
    **spread("points_over_adam_noise_02", 0.5, 2.0),
    **spread("growth_of_points_over_adam", 0.4, 2.0),
}

#: A tie at one amount of noise; no growth; neither.
CHANGES = [
    (spread("points_over_adam_noise_005", -0.3, 0.3), PARTLY),
    (spread("points_over_adam_noise_02", -0.3, 0.3), PARTLY),
    (spread("growth_of_points_over_adam", -0.3, 0.3), PARTLY),
    ({**spread("growth_of_points_over_adam", -0.3, 0.3), **spread("points_over_adam_noise_02", -1.0, 0.3)}, NO),
    (spread("points_over_adam_noise_0", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return ano._sides(ano._SCALES[size].rates)
