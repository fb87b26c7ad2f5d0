"""What the rule of AuON must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, auon
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("gap_percent_to_muon", -2.0, 0.5),
    **spread("gap_percent_to_adamw", -3.0, -1.0),
    **spread("gap_percent_to_control", -1.0, -0.5),
    **spread("gap_percent_hybrid_to_muon", -1.0, 1.0),
    "step_time_over_muon_at_largest_matrix": 0.1,
}

#: The control is as good; behind Muon or AdamW; open; dear.
CHANGES = [
    (spread("gap_percent_to_control", -0.1, 0.1), PARTLY),
    (spread("gap_percent_to_muon", 2.0, 4.0), PARTLY),
    (spread("gap_percent_to_adamw", 2.0, 4.0), PARTLY),
    ({**spread("gap_percent_to_muon", 0.0, 4.0), **spread("gap_percent_to_adamw", 0.0, 4.0)}, UNKNOWN),
    ({**spread("gap_percent_to_muon", 2.0, 4.0), **spread("gap_percent_to_control", -0.1, 0.1)}, NO),
    ({**spread("gap_percent_to_muon", 2.0, 4.0), **spread("gap_percent_to_adamw", 2.0, 4.0)}, NO),
    ({"step_time_over_muon_at_largest_matrix": 0.8}, NO),
    (spread("gap_percent_hybrid_to_muon", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return auon._sides(auon._SCALES[size]).values()
