"""What the rule of OASIS must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

SETS = ("breast_cancer", "a8a", "w8a")


def gaps(kind: str, low: float, high: float, sets: tuple[str, ...] = SETS) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in sets:
        found |= spread(f"{name}_{kind}_log10_error_over_best_rival", low, high)
    return found


WINNER = {
    "seeds": 5,
    **gaps("raw", -0.4, 0.2),
    **gaps("scaled", -3.0, -1.0),
    **gaps("wild", -0.2, 0.2),
    **gaps("mini", -0.3, 0.1),
    **{f"{name}_decades_over_initial_steps": 0.2 for name in SETS},
}

#: Every part by itself, and together; wild scales are not judged.
CHANGES = [
    (gaps("wild", 1.0, 2.0), YES),
    (gaps("raw", 0.2, 0.6, SETS[:1]), YES),
    (gaps("raw", 0.2, 0.6, SETS[:2]), PARTLY),
    (gaps("scaled", -0.5, 0.1, SETS[1:]), PARTLY),
    (gaps("mini", 0.5, 0.9, SETS[1:]), PARTLY),
    ({"w8a_decades_over_initial_steps": 0.7}, PARTLY),
    ({**gaps("raw", 0.5, 0.9), **gaps("scaled", 0.5, 0.9)}, NO),
    ({**gaps("mini", 0.5, 0.9), **gaps("scaled", -0.5, 0.5)}, NO),
    ({"seeds": 2}, UNKNOWN),
]
