"""What the rule of TrAct must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, tract
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

NAMES = [f"{network}_{method}" for network, method in tract.PAIRS]
WINNER = {
    "seeds": 5,
    **{f"{name}_error_plain": 5.0 for name in NAMES},
    **{f"{name}_part_of_steps": 0.6 for name in NAMES},
    **{key: value for name in NAMES for key, value in spread(f"{name}_difference", -0.5, -0.1).items()},
}
EVEN = {key: value for name in NAMES for key, value in spread(f"{name}_difference", -0.2, 0.2).items()}
SLOW = {f"{name}_part_of_steps": 0.9 for name in NAMES}

#: No gain at the end; harm in one comparison; not sooner; neither sooner nor better; only worse.
CHANGES = [
    (EVEN, PARTLY),
    (spread("transformer_sgd_difference", 0.1, 0.5), PARTLY),
    (SLOW, PARTLY),
    ({**SLOW, **spread("transformer_sgd_difference", 0.1, 0.5)}, PARTLY),
    ({**EVEN, **SLOW}, NO),
    ({**EVEN, **spread("transformer_sgd_difference", 0.1, 0.5)}, NO),
    (spread("transformer_sgd_difference", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return tract._sides(tract._SCALES[size]).values()
