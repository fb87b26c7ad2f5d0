"""What the rule of FRUGAL must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, frugal
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 4,
    **spread("frugal_less_galore", -0.05, -0.01),
    **spread("frugal_less_midway", -0.03, -0.005),
    **spread("no_state_less_frugal", 0.01, 0.02),
    "galore_less_adamw": 0.05,
    "matrix_state_bytes_per_parameter_frugal": 2.0,
    "matrix_state_bytes_per_parameter_adamw": 8.0,
    "state_bytes_per_parameter_frugal": 3.3,
    "state_bytes_per_parameter_galore": 3.5,
    "state_bytes_per_parameter_adamw": 8.0,
}

#: Better than GaLore, but not by half; a tie; worse; too much state.
CHANGES = [
    (spread("frugal_less_midway", -0.01, 0.01), PARTLY),
    (spread("frugal_less_galore", -0.01, 0.01), UNKNOWN),
    (spread("frugal_less_galore", 0.01, 0.02), NO),
    ({"matrix_state_bytes_per_parameter_frugal": 3.0}, NO),
    ({"state_bytes_per_parameter_frugal": 3.6}, NO),
    (spread("no_state_less_frugal", -0.01, 0.01), YES),
    (spread("frugal_less_midway", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return frugal._sides(frugal._SCALES[size])
