"""What the rule of Shampoo must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, shampoo
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("steps_shampoo_every_1", 0.3, 0.4),
    **spread("steps_shampoo_every_10", 0.4, 0.6),
    **spread("steps_shampoo_every_50", 0.5, 0.7),
    **spread("time_shampoo_every_1", 1.3, 1.4),
    **spread("time_shampoo_every_10", 0.9, 1.1),
    **spread("time_shampoo_every_50", 0.7, 0.9),
}

#: Rare roots lose the gain; no time saved; too few steps saved, for certain and perhaps.
CHANGES = [
    (spread("steps_shampoo_every_50", 0.8, 0.9), PARTLY),
    (spread("time_shampoo_every_50", 0.9, 1.1), PARTLY),
    (spread("steps_shampoo_every_10", 0.7, 0.8), UNKNOWN),
    (spread("steps_shampoo_every_10", 0.8, 0.9), NO),
    (spread("steps_shampoo_every_10", 1.9, 2.1), NO),
    (spread("steps_shampoo_every_1", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return shampoo._sides(shampoo._SCALES[size])
