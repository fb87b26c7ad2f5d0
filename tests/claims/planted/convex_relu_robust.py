"""What the rule of robust convex training must say of planted figures."""

from typing import Any

from . import NO, PARTLY, spread

_SETS = ("digits", "cancer", "mnist")


def _gains(rival: str, *ends: tuple[float, float]) -> dict[str, Any]:
    """The intervals on the three data sets."""
    return {k: v for n, e in zip(_SETS, ends, strict=True) for k, v in spread(f"gain_over_{rival}_{n}", *e).items()}


_CLEAR, _SLIGHT, _WORSE = (3.0, 9.0), (0.0, 1.0), (-4.0, -1.0)

WINNER = {
    "seeds": 6,
    **_gains("pgd", _CLEAR, _CLEAR, _SLIGHT),
    **_gains("fgsm", _CLEAR, _SLIGHT, _CLEAR),
    **_gains("convex_clean", _CLEAR, _CLEAR, _CLEAR),
    **{f"deviation_adam_{rival}_{n}": 2.0 for rival in ("pgd", "fgsm") for n in _SETS},
}

#: Each part by a clear gain on one set alone, by a loss on one, by a rival that scatters; both of them; the control.
CHANGES = [
    (_gains("pgd", _CLEAR, _SLIGHT, _SLIGHT), PARTLY),
    (_gains("pgd", _CLEAR, _CLEAR, _WORSE), PARTLY),
    ({"deviation_adam_pgd_digits": 8.0}, PARTLY),
    (_gains("fgsm", _CLEAR, _WORSE, _CLEAR), PARTLY),
    (_gains("convex_clean", _CLEAR, _CLEAR, (-1.0, 9.0)), PARTLY),
    ({**_gains("pgd", _WORSE, _CLEAR, _CLEAR), **_gains("fgsm", _SLIGHT, _SLIGHT, _CLEAR)}, NO),
    ({**_gains("pgd", _WORSE, _WORSE, _WORSE), **_gains("fgsm", _WORSE, _WORSE, _WORSE)}, NO),
]
