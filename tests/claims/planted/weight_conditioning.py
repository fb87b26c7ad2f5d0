"""What the rule of weight conditioning must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, weight_conditioning
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    "error_conditioned": 4.0,
    "condition_conditioned": 3.0,
    "condition_plain": 6.0,
    **spread("decades_of_condition", -0.4, -0.2),
    **{
        key: value
        for kind in ("plain", *weight_conditioning.RIVALS)
        for key, value in spread(f"conditioned_less_{kind}", -0.6, -0.2).items()
    },
}
EVEN = spread("conditioned_less_plain", -0.2, 0.2)

#: Each part by itself; neither comparison of errors; a run without a score.
CHANGES = [
    (EVEN, PARTLY),
    (spread("conditioned_less_spectral", -0.2, 0.2), PARTLY),
    (spread("decades_of_condition", -0.1, 0.1), PARTLY),
    ({**EVEN, **spread("conditioned_less_spectral", -0.2, 0.2)}, NO),
    ({**EVEN, **spread("conditioned_less_normalized", 0.2, 0.4)}, NO),
    (spread("conditioned_less_plain", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return weight_conditioning._sides(weight_conditioning._SCALES[size]).values()
