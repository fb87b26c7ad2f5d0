"""What the rule of AdEMAMix must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, ademamix
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 4,
    **spread("loss_less_adamw", -0.05, -0.01),
    **spread("part_kept_more", 0.1, 0.3),
    "adamw_budgets_for_same_loss": 1.8,
    "valley_steps_ademamix": 300,
    "valley_steps_adamw_beta1_09": 900,
    "valley_steps_adamw_beta1_0999": None,
    "part_kept_ademamix": 0.5,
    "part_kept_adamw": 0.3,
}

#: A tie in both; one of the two; too little saved; the wrong direction.
CHANGES = [
    ({**spread("loss_less_adamw", -0.01, 0.01), **spread("part_kept_more", -0.1, 0.1)}, UNKNOWN),
    (spread("loss_less_adamw", -0.01, 0.01), PARTLY),
    (spread("part_kept_more", -0.1, 0.1), PARTLY),
    ({"adamw_budgets_for_same_loss": 1.2}, PARTLY),
    ({"valley_steps_ademamix": 2000}, PARTLY),
    ({"valley_steps_ademamix": None}, PARTLY),
    (spread("loss_less_adamw", 0.01, 0.02), NO),
    (spread("part_kept_more", -0.2, -0.1), NO),
    ({"adamw_budgets_for_same_loss": None}, UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return ademamix._sides(ademamix._SCALES[size], 10)
