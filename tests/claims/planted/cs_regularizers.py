"""What the rule of the Cauchy-Schwarz regularizers must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

_KINDS = ("two_valued", "one_sided", "ternary")

WINNER = {
    "seeds": 20,
    **spread("saving_two_valued", 0.03, 0.06),
    **spread("saving_one_sided", 0.1, 0.3),
    **spread("saving_ternary", 0.1, 0.3),
    **{f"crossing_{kind}_{who}": 0.5 for kind in _KINDS for who in ("ours", "norm")},
}
_NOTHING = {name: figure for kind in _KINDS for name, figure in spread(f"saving_{kind}", 0, 0.01).items()}

#: Too small a saving, an open one, two of them; none, open or refuted.
CHANGES = [
    (spread("saving_two_valued", 0.01, 0.02), PARTLY),
    (spread("saving_ternary", -0.01, 0.2), PARTLY),
    ({**spread("saving_two_valued", -0.1, 0.2), **spread("saving_one_sided", -0.1, 0.0)}, PARTLY),
    (_NOTHING | spread("saving_two_valued", -0.01, 0.04), UNKNOWN),
    (_NOTHING, NO),
    ({"crossing_ternary_norm": None}, YES),
]
