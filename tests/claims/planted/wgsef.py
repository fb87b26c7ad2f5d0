"""What the rule of the group sparse envelope must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

_LABELS = [f"{task}_{share}_percent" for task in ("pixels", "neurons") for share in (10, 20, 30, 40, 50)]
_RATIOS = [f"groups_over_{name}_{task}" for name in ("l1", "group_l2") for task in ("pixels", "neurons")]


def _active(value: float, count: int) -> dict[str, float | None]:
    return {f"active_{label}": value for label in _LABELS[:count]}


def _ratios(low: float, high: float, count: int = 4) -> dict[str, float | None]:
    return {k: v for name in _RATIOS[:count] for k, v in spread(name, low, high).items()}


WINNER = {
    "seeds": 5,
    **{f"k_{label}": 20 for label in _LABELS},
    **_active(20.4, 10),
    **spread("points_pixels_30_percent", -0.9, 0.3),
    **spread("points_neurons_30_percent", -0.5, 0.5),
    **_ratios(0.5, 0.9),
}
_MORE = _ratios(0.8, 1.2)

#: Cells that miss k, losses and ratios on one task alone; combinations of those.
CHANGES = [
    (_active(22.0, 2), YES),
    (_active(21.1, 3), PARTLY),
    (_active(18.0, 3), PARTLY),
    (spread("points_neurons_30_percent", -3.0, -1.2), PARTLY),
    (_ratios(0.8, 1.2, 1), PARTLY),
    (_MORE, PARTLY),
    (_MORE | _active(22.0, 3), NO),
    (_MORE | spread("points_pixels_30_percent", -3.0, -1.2), NO),
    (_MORE | spread("points_pixels_30_percent", -3.0, -0.5), UNKNOWN),
    (_MORE | spread("points_pixels_30_percent", -3.0, -0.5) | _active(22.0, 3), NO),
]
