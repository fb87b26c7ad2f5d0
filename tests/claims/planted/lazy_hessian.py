"""What the rule of lazy Hessians must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

_NAMES = ("breast_cancer", "digits", "synthetic", "soft_maximum")


def _all(name: str, low: float, high: float, count: int = 4) -> dict[str, float | None]:
    """The same interval on some of the problems."""
    return {k: v for each in _NAMES[:count] for k, v in spread(f"{name}_{each}", low, high).items()}


WINNER = {
    "seeds": 5,
    **_all("saving", 3.5, 5.0),
    **_all("saving_over_gradients", 4.0, 9.0),
    **{f"cheapest_place_{each}": 4 for each in _NAMES},
    **{f"best_saving_{each}": 5.0 for each in _NAMES},
    **{f"failed_{each}": 0 for each in _NAMES},
}

#: Too small a saving; a monotone sweep; no gain over gradients; no saving at all; runs that do not arrive.
CHANGES = [
    (_all("saving", 2.0, 4.0, 2), PARTLY),
    ({f"cheapest_place_{each}": 6 for each in _NAMES[:2]}, PARTLY),
    ({f"cheapest_place_{each}": 0 for each in _NAMES[2:]}, PARTLY),
    (_all("saving_over_gradients", 0.5, 2.0, 2), PARTLY),
    (_all("saving", 0.9, 1.5, 2), NO),
    (_all("saving", 0.2, 0.5), NO),
    ({f"failed_{each}": 1 for each in _NAMES[:2]}, UNKNOWN),
]
