"""What the rule of ASGO must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, asgo
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("convex_percent_over_shampoo", -40.0, 5.0),
    **spread("convex_percent_over_adagrad", -60.0, -20.0),
    **spread("convex_percent_over_sgd", -60.0, -20.0),
    **spread("percent_over_adamw", -4.0, -1.0),
    **spread("percent_over_shampoo", -2.0, 0.5),
}

#: Each part open; the language model worse than either rival; nothing decided.
CHANGES = [
    (spread("convex_percent_over_shampoo", 5.0, 9.0), PARTLY),
    (spread("convex_percent_over_adagrad", -5.0, 9.0), PARTLY),
    (spread("percent_over_adamw", -1.0, 1.0), PARTLY),
    (spread("percent_over_shampoo", 0.5, 1.5), PARTLY),
    ({**spread("percent_over_adamw", -1.0, 1.0), **spread("percent_over_shampoo", 0.5, 1.5)}, UNKNOWN),
    (spread("percent_over_adamw", 1.0, 2.0), NO),
    (spread("percent_over_shampoo", 1.5, 2.0), NO),
    (spread("percent_over_shampoo", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return asgo._sides(asgo._SCALES[size])
