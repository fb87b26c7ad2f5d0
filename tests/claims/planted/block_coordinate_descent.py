"""What the rule of block coordinate descent must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

_PROBLEMS = ("least_squares", "logistic", "images", "two_moons")


def _all(name: str, low: float, high: float, count: int = 4) -> dict[str, float | None]:
    """The same interval on some of the problems."""
    return {k: v for each in _PROBLEMS[:count] for k, v in spread(f"{name}_{each}", low, high).items()}


WINNER = {
    "seeds": 5,
    "newton_late": 0,
    **_all("greedy", 0.5, 1.0),
    **_all("curvature", 0.1, 0.3),
    **_all("sorted", 0.1, 0.3),
    **_all("variable", 0.1, 0.3),
    **_all("matrix_small", 0.1, 0.3),
    **_all("matrix_large", 0.5, 1.0),
    **spread("forest_lattice", 0.5, 1.0),
    **spread("forest_two_moons", 0.5, 1.0),
    **spread("fewer", 10.0, 20.0),
}
_NOTHING = {k: v for name in ("greedy", "curvature", "sorted", "matrix_small") for k, v in _all(name, -1, 0.1).items()}

#: One problem may fail, two may not; part by part; the two main parts suffice for a part, as do any four.
CHANGES = [
    (_all("greedy", -1.0, 1.0, 1), YES),
    (_all("greedy", -1.0, 1.0, 2), PARTLY),
    (_all("curvature", -0.1, 0.2, 2), PARTLY),
    (_all("sorted", -0.1, 0.2, 2), PARTLY),
    (_all("variable", -0.1, 0.2, 2), PARTLY),
    (_all("matrix_large", 0.05, 0.1, 2), PARTLY),
    (_all("matrix_small", -0.1, 0.1, 2), PARTLY),
    (spread("forest_lattice", -0.1, 0.5), PARTLY),
    (spread("fewer", 3.0, 9.0), PARTLY),
    ({"newton_late": 1}, PARTLY),
    (_all("greedy", -1.0, 1.0) | _all("matrix_large", -1.0, 0.0) | _all("sorted", -1.0, 0.0), PARTLY),
    (_NOTHING, NO),
    ({"seeds": 2}, UNKNOWN),
]
