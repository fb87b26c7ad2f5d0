"""What the rule of Induced metric must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, induced_metric
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 8,
    **spread("success_metric_less_sgd", 2.0, 6.0),
    **spread("success_metric_less_clipped_sgd", 1.0, 4.0),
    **spread("accuracy_metric_less_sgd", 0.1, 0.5),
    **spread("accuracy_metric_less_adam", -0.3, 0.3),
    **{f"success_{side}": 60.0 for side in ("metric", "sgd", "clipped_sgd", "adam")},
}

#: No more than a clip; behind Adam; on functions alone; nothing, or a loss.
CHANGES = [
    (spread("success_metric_less_clipped_sgd", -1.0, 1.0), PARTLY),
    (spread("accuracy_metric_less_adam", -0.9, -0.6), PARTLY),
    (spread("accuracy_metric_less_sgd", -0.3, 0.3), PARTLY),
    (spread("success_metric_less_sgd", -1.0, 1.0), PARTLY),
    (spread("success_metric_less_sgd", -4.0, -1.0), NO),
    (spread("accuracy_metric_less_sgd", -0.9, -0.1), NO),
    ({**spread("success_metric_less_sgd", -1.0, 1.0), **spread("accuracy_metric_less_adam", -0.9, -0.6)}, NO),
    (spread("accuracy_metric_less_adam", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return induced_metric._sides(induced_metric._SCALES[size]).values()
