"""What the rule of M-FAC must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, mfac
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    "pruned_m-fac": 80.0,
    "pruned_diagonal": 70.0,
    "pruned_magnitude": 60.0,
    "accuracy_mfac": 95.0,
    "accuracy_sgd": 94.0,
    "accuracy_adam": 94.0,
}
for _name in mfac._NAMES:
    WINNER |= spread(_name, 0.5, 1.5)
PRUNING, TRAINING = mfac._NAMES[:2], mfac._NAMES[2:]


def _lost(*names: str) -> dict[str, float | None]:
    changes: dict[str, float | None] = {}
    for name in names:
        changes |= spread(name, -0.5, 0.5)
    return changes


#: Neither optimizer beaten; neither pruner; one of each; three lost; a missing score.
CHANGES = [
    (_lost(*TRAINING), PARTLY),
    (_lost(*PRUNING), PARTLY),
    (_lost(PRUNING[0], TRAINING[1]), PARTLY),
    (_lost(*PRUNING, TRAINING[0]), NO),
    (spread(TRAINING[0], None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return mfac._sides(mfac._SCALES[size])
