"""What the rule of Muon must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, muon
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("steps_over_adamw", 0.4, 0.6),
    **spread("time_over_adamw", 0.7, 0.9),
    "seconds_per_step_over_adamw": 1.5,
    "loss_less_adamw": -0.2,
}

#: Fewer steps that take longer; as many steps; more; a tie.
CHANGES = [
    (spread("time_over_adamw", 0.9, 1.1), PARTLY),
    (spread("time_over_adamw", 1.2, 1.6), PARTLY),
    (spread("steps_over_adamw", 1.0, 1.0), NO),
    ({**spread("steps_over_adamw", 1.1, 1.3), **spread("time_over_adamw", 1.5, 1.9)}, NO),
    (spread("steps_over_adamw", 0.9, 1.1), UNKNOWN),
    (spread("steps_over_adamw", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return muon._sides(muon._SCALES[size])
