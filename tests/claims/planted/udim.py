"""What the rule of UDIM must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    "accuracy_elsewhere_udim": 70.0,
    "accuracy_elsewhere_sam": 67.0,
    "accuracy_elsewhere_plain": 66.0,
    **spread("udim_less_sam", 1.0, 5.0),
    **spread("udim_less_plain", 2.0, 6.0),
}

#: Level with SAM, worse than it, and no better than plain training.
CHANGES = [
    (spread("udim_less_sam", -1.0, 2.0), PARTLY),
    (spread("udim_less_plain", -1.0, 2.0), PARTLY),
    (spread("udim_less_sam", -3.0, -1.0), NO),
    ({**spread("udim_less_sam", -1.0, 2.0), **spread("udim_less_plain", -1.0, 2.0)}, NO),
    (spread("udim_less_sam", None, None), UNKNOWN),
]
