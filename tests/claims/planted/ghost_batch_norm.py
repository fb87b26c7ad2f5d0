"""What the rule of ghost batch normalization must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, ghost_batch_norm
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, YES, spread

LOWER, EVEN, HIGHER = (-0.6, -0.2), (-0.2, 0.2), (0.2, 0.6)
WINNER = {
    "seeds": 5,
    **{f"error_{name}": 4.0 for name in ghost_batch_norm.RUNS},
    **spread("large_less_small", *HIGHER),
    **spread("root_less_large", *LOWER),
    **spread("ghost_less_root", *LOWER),
    **spread("recipe_less_small", *EVEN),
    **spread("recipe_less_long", *LOWER),
    **spread("ghost_tuned_less_large_tuned", *EVEN),
}
NO_GHOSTS = {**spread("ghost_less_root", *EVEN), **spread("recipe_less_long", *EVEN)}

#: One effect of ghost norms is enough; none is not; each other part by itself; nothing at all.
CHANGES = [
    (spread("ghost_less_root", *EVEN), YES),
    (spread("recipe_less_long", *EVEN), YES),
    (NO_GHOSTS, PARTLY),
    (spread("large_less_small", *EVEN), PARTLY),
    (spread("root_less_large", *EVEN), PARTLY),
    (spread("recipe_less_small", *HIGHER), PARTLY),
    ({**NO_GHOSTS, **spread("recipe_less_small", *HIGHER)}, NO),
    ({**NO_GHOSTS, **spread("large_less_small", *EVEN)}, NO),
    (spread("recipe_less_small", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return ghost_batch_norm._sides(ghost_batch_norm._SCALES[size]).values()
