"""What the rule of TNGD must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, thermodynamic
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    "log10_loss_t_5": -0.5,
    "log10_loss_t_10": -0.6,
    "log10_loss_t_20": -0.7,
    "log10_loss_t_50": -0.8,
    "log10_loss_natural_gradient": -1.0,
    "log10_loss_sgd": -0.4,
    "log10_loss_adam": -0.6,
    **spread("long_less_short", -0.4, -0.2),
    **spread("very_long_less_natural_gradient", -0.01, 0.02),
    **spread("noise_less_none", -0.02, 0.01),
    **spread("long_less_adam", -0.3, -0.1),
}

#: Each part by itself: order, gain, limit, noise that matters or breaks a run, Adam; and a missing score.
CHANGES = [
    ({"log10_loss_t_20": -0.55}, NO),
    (spread("long_less_short", -0.1, 0.1), NO),
    (spread("very_long_less_natural_gradient", 0.02, 0.06), PARTLY),
    (spread("noise_less_none", -0.06, 0.01), PARTLY),
    (spread("noise_less_none", None, None), PARTLY),
    (spread("long_less_adam", -0.1, 0.1), PARTLY),
    (spread("long_less_adam", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return thermodynamic._sides(thermodynamic._SCALES[size])
