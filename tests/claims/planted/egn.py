"""What the rule of EGN must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, exact_gauss_newton
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

KINDS = ("egn_less_sgd", "egn_less_adam", "egn_fewer_less_adam")
WINNER = {
    "seeds": 5,
    **{
        key: value
        for name in ("diabetes", "digits")
        for kind in KINDS
        for key, value in spread(f"{name}_{kind}", -0.2, 0.1).items()
    },
    **{f"{name}_{side}": 1.0 for name in ("diabetes", "digits") for side in ("egn", "egn_fewer", "sgd", "adam")},
    **{f"{name}_seconds_{side}": 1.0 for name in ("diabetes", "digits") for side in ("egn", "sgd", "adam")},
}

#: Worse than one of them; worse with fewer iterations; both; a run without a score.
CHANGES = [
    (spread("digits_egn_less_sgd", 0.1, 0.2), PARTLY),
    (spread("diabetes_egn_less_adam", 0.1, 0.2), PARTLY),
    (spread("digits_egn_fewer_less_adam", 0.1, 0.2), PARTLY),
    ({**spread("digits_egn_less_sgd", 0.1, 0.2), **spread("diabetes_egn_fewer_less_adam", 0.1, 0.2)}, NO),
    (spread("digits_egn_less_adam", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return exact_gauss_newton._sides(exact_gauss_newton._SCALES[size])
