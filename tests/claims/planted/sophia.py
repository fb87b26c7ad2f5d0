"""What the rule of Sophia must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, sophia
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("budget_over_adamw", 0.4, 0.6),
    **spread("loss_less_signed_momentum", -0.2, -0.1),
    "loss_less_adamw": -0.2,
}

#: Some gain; no gain from curvature; none at all; open.
CHANGES = [
    (spread("budget_over_adamw", 0.5, 0.8), PARTLY),
    (spread("loss_less_signed_momentum", -0.1, 0.1), PARTLY),
    (spread("budget_over_adamw", 0.95, 1.3), NO),
    (spread("budget_over_adamw", 0.7, 1.3), UNKNOWN),
    (spread("budget_over_adamw", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return sophia._sides(sophia._SCALES[size])
