"""What the rule of Optimistic AMSGrad must say of planted figures."""

from collections.abc import Iterable
from typing import Any

from steepest.claims import Size, optimistic_amsgrad
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, YES, spread


def _gaps(of: str, *ends: tuple[float, float]) -> dict[str, Any]:
    """The intervals on the three tasks."""
    kinds = ("convolutional", "autoencoder", "transformer")
    return {k: v for kind, e in zip(kinds, ends, strict=True) for k, v in spread(f"{of}_{kind}", *e).items()}


_BETTER, _TIE, _SLIGHT, _WIDE, _WORSE = (-9.0, -4.0), (-0.5, 0.5), (-0.9, -0.1), (-5.0, 5.0), (2.0, 4.0)
_AMSGRAD, _ADAM, _TEST = "train_percent_over_amsgrad", "train_percent_over_adam", "test_percent_over_amsgrad"

WINNER = {
    "seeds": 6,
    **_gaps(_AMSGRAD, _BETTER, _BETTER, _TIE),
    **_gaps(_ADAM, _BETTER, _TIE, _BETTER),
    **_gaps(_TEST, _TIE, _BETTER, _BETTER),
    **_gaps("train_percent_over_one_gradient", _TIE, _TIE, _TIE),
}

#: Each part by better on one task alone, and by worse on one; the control; no gain, a slight one, and what is open.
CHANGES = [
    (_gaps(_AMSGRAD, _BETTER, _TIE, _TIE), PARTLY),
    (_gaps(_AMSGRAD, _BETTER, _BETTER, _WORSE), PARTLY),
    (_gaps(_ADAM, _BETTER, _TIE, _TIE), PARTLY),
    (_gaps(_ADAM, _BETTER, _WORSE, _BETTER), PARTLY),
    (_gaps(_TEST, _TIE, _TIE, _BETTER), PARTLY),
    (_gaps(_TEST, _WORSE, _BETTER, _BETTER), PARTLY),
    (spread("train_percent_over_one_gradient_autoencoder", None, None), YES),
    ({**_gaps(_AMSGRAD, _BETTER, _TIE, _TIE), **_gaps(_ADAM, _TIE, _TIE, _BETTER)}, NO),
    ({**_gaps(_AMSGRAD, _SLIGHT, _SLIGHT, _WORSE), **_gaps(_ADAM, _WORSE, _BETTER, _BETTER)}, NO),
    ({**_gaps(_AMSGRAD, _BETTER, _WIDE, _TIE), **_gaps(_ADAM, _TIE, _TIE, _TIE)}, UNKNOWN),
    (spread(f"{_ADAM}_transformer", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return optimistic_amsgrad._sides(optimistic_amsgrad._SCALES[size])
