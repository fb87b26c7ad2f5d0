"""What the rule of ADMM for convex ReLU networks must say of planted figures."""

from . import NO, PARTLY, YES, spread

_SETS = ("breast_cancer", "digits", "MNIST_2_8")


def _all(name: str, value: float | None, count: int = 3) -> dict[str, float | None]:
    return {f"{name}_{each}": value for each in _SETS[:count]}


def _spreads(name: str, low: float | None, high: float | None, count: int = 3) -> dict[str, float | None]:
    return {k: v for each in _SETS[:count] for k, v in spread(f"{name}_{each}", low, high).items()}


WINNER = {
    "seeds": 3,
    **_all("arrived", 3),
    **_spreads("longer", 0.9, 1.5),
    **_spreads("behind", -1.0, 1.0),
    **_spreads("dearer", 20, 40),
    **_all("spread_admm_starts", 0.2),
    **_all("objective_admm", 10.0),
    **{k: v for key in ("sgd", "adam", "lbfgs") for k, v in _all(f"spread_{key}", 5.0).items()},
    **{k: v for key in ("sgd", "adam", "lbfgs") for k, v in _all(f"objective_{key}", 11.0).items()},
    **_all("within_bound", 1.0),
    **_spreads("last_doubling", 0.1, 0.5),
}
_SLOW = _spreads("longer", 8.0, 12.0, 2)
_LATE = _spreads("behind", 0.0, 5.0, 2)
_DEAR = _spreads("dearer", 2.0, 20.0, 2)

#: On one data set nothing is lost; on two, part by part; then all that matters.
CHANGES = [
    (_spreads("longer", 8.0, 12.0, 1) | _spreads("dearer", None, None, 1), YES),
    (_SLOW, PARTLY),
    (_all("arrived", 2, 2) | _spreads("longer", None, None, 2), PARTLY),
    (_LATE, PARTLY),
    (_spreads("dearer", None, None, 2), PARTLY),
    (_all("spread_admm_starts", 1.5, 2), PARTLY),
    (_all("spread_adam", 0.1, 2), PARTLY),
    (_all("objective_lbfgs", 9.0, 2), PARTLY),
    (_all("within_bound", 0.9, 2), PARTLY),
    (_spreads("last_doubling", 1.0, 2.0, 2), PARTLY),
    (_LATE | _DEAR, PARTLY),
    (_SLOW | _LATE, NO),
    (_SLOW | _DEAR, NO),
]
