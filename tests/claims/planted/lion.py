"""What the rule of Lion must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, lion
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("gap_percent_largest_batch", -3.0, 0.5),
    **spread("gap_change", -4.0, -1.0),
    "state_bytes_per_parameter_lion": 4.0,
    "state_bytes_per_parameter_adamw": 8.003,
}

#: No trend; a loss; a gap that the interval does not decide; no saving of state.
CHANGES = [
    (spread("gap_change", -1.0, 1.0), PARTLY),
    (spread("gap_change", 0.5, 1.0), PARTLY),
    (spread("gap_percent_largest_batch", 1.1, 4.0), NO),
    (spread("gap_percent_largest_batch", -2.0, 4.0), UNKNOWN),
    ({"state_bytes_per_parameter_lion": 8.0}, NO),
    (spread("gap_change", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return lion._sides(lion._SCALES[size])
