"""What the rule of MARS must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, mars
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    **spread("gap_percent_mars_to_adamw", -3.0, -1.0),
    **spread("gap_percent_mars_to_no_correction", -2.0, -0.5),
    **spread("gap_percent_mars_to_muon", -2.0, -0.5),
    **spread("gap_percent_mars_to_mars_exact", -0.5, 0.5),
}

#: Muon or the exact form is better; all of it is the clip; a loss; a gain that is too small, or open.
CHANGES = [
    (spread("gap_percent_mars_to_muon", 1.0, 3.0), PARTLY),
    (spread("gap_percent_mars_to_mars_exact", 1.5, 3.0), PARTLY),
    (spread("gap_percent_mars_to_no_correction", -0.1, 0.1), NO),
    (spread("gap_percent_mars_to_adamw", 1.0, 2.0), NO),
    (spread("gap_percent_mars_to_adamw", -0.2, 0.1), NO),
    (spread("gap_percent_mars_to_adamw", -2.0, 0.5), UNKNOWN),
    (spread("gap_percent_mars_to_muon", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return mars._sides(mars._SCALES[size]).values()
