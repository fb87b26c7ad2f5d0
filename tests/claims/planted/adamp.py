"""What the rule of AdamP must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, adamp
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 6,
    "largest_identity_error": 1e-12,
    **spread("norm_growth_adamp_less_adamw", -0.3, -0.2),
    **spread("norm_growth_sgdp_less_sgd", -0.5, -0.4),
    **spread("points_adamp_over_better_adam", 0.1, 0.5),
    **spread("points_sgdp_over_sgd", 0.2, 0.6),
    "norm_growth_adamp": 1.1,
    "norm_growth_adamw": 1.4,
    "norm_growth_sgdp": 1.2,
    "norm_growth_sgd": 1.7,
}

#: A tie in accuracy; a loss of accuracy; the mechanism fails.
CHANGES = [
    (spread("points_adamp_over_better_adam", -0.3, 0.5), PARTLY),
    (spread("points_sgdp_over_sgd", -0.3, 0.5), PARTLY),
    (spread("points_sgdp_over_sgd", -0.8, -0.1), NO),
    ({"largest_identity_error": 1e-3}, NO),
    (spread("norm_growth_adamp_less_adamw", -0.1, 0.1), NO),
    (spread("points_sgdp_over_sgd", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return adamp._sides(adamp._SCALES[size]).values()
