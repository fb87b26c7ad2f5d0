"""What the rule of SANIA must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

SETS = ("separable", "a8a", "w8a")


def ratios(kind: str, low: float, high: float, sets: tuple[str, ...] = SETS) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in sets:
        found |= spread(f"{name}_{kind}_log10_loss_over_best_rival_adam_sqr", low, high)
    return found


def unjudged(low: float, high: float) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in SETS:
        for kind in ("raw", "scaled"):
            for side in ("adagrad_sqr", "adam_sqr_eps_1e_8"):
                found |= spread(f"{name}_{kind}_log10_loss_over_best_rival_{side}", low, high)
    return found


WINNER = {
    "seeds": 5,
    **{f"{n}_largest_difference_{s}": 1e-9 for n in SETS for s in ("adam_sqr", "adagrad_sqr", "adam_sqr_eps_1e_8")},
    **ratios("raw", -0.2, 0.01),
    **ratios("scaled", -1.0, -0.1),
    **unjudged(-0.1, 0.1),
}

#: Every part by itself, and together; two sides are not judged.
CHANGES = [
    (unjudged(3.0, 5.0), YES),
    ({"a8a_largest_difference_adam_sqr_eps_1e_8": 0.5}, YES),
    (ratios("raw", 0.5, 1.5, SETS[:1]), YES),
    (ratios("raw", -0.1, 0.1, SETS[:2]), PARTLY),
    (ratios("scaled", -0.1, 0.1, SETS[1:]), PARTLY),
    ({"a8a_largest_difference_adagrad_sqr": 1e-3}, NO),
    ({**ratios("raw", 0.5, 1.5), **ratios("scaled", 0.5, 1.5)}, NO),
    ({"seeds": 2}, UNKNOWN),
]
