"""What the rule of REG must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, reg
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 5,
    **spread("scratch_percent_reg_over_adamw", -3.0, -1.0),
    **spread("percent_reg_over_adamw", -3.0, -1.0),
    **spread("percent_muon_over_adamw", 1.0, 3.0),
    **spread("percent_muon_over_reg", 2.0, 5.0),
    **spread("percent_reg_at_adamws_rates_over_adamw", -2.0, -1.0),
    **spread("percent_muon_at_adamws_rates_over_adamw", 5.0, 9.0),
    **spread("rise_reg_less_adamw", -0.5, -0.1),
    "rise_reg": 0.1,
    "rise_adamw": 0.4,
}
_TIE = {**spread("scratch_percent_reg_over_adamw", -0.5, 0.5), **spread("percent_reg_over_adamw", -0.5, 0.5)}
_MUON_AS_GOOD = spread("percent_muon_over_adamw", -1.0, 1.0)

#: Each part by itself; what Muon does against one rival alone; a tie, a loss, and what the intervals leave open.
CHANGES = [
    (spread("scratch_percent_reg_over_adamw", -1.0, 1.0), PARTLY),
    (spread("percent_reg_over_adamw", -1.0, 1.0), PARTLY),
    (_MUON_AS_GOOD, PARTLY),
    (spread("percent_muon_over_reg", -1.0, 1.0), PARTLY),
    (spread("rise_reg_less_adamw", -0.1, 0.1), PARTLY),
    (_TIE, PARTLY),
    ({**_TIE, **_MUON_AS_GOOD}, NO),
    ({**_TIE, **spread("percent_muon_over_reg", -1.0, 1.0)}, NO),
    ({**_TIE, **_MUON_AS_GOOD, **spread("percent_reg_over_adamw", 2.0, 4.0)}, NO),
    ({**_TIE, **_MUON_AS_GOOD, **spread("percent_reg_over_adamw", -4.0, 1.0)}, UNKNOWN),
    (spread("percent_muon_over_adamw", None, None), UNKNOWN),
    (spread("percent_muon_at_adamws_rates_over_adamw", None, None), YES),
]


def sides(size: Size) -> Iterable[Side]:
    return reg._sides(reg._SCALES[size]).values()
