"""What the rule of gradient regularization must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, gradient_regularization
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 8,
    "gamma": 0.03,
    "large_eps": 0.3,
    "small_eps": 0.01,
    **spread("log10_forward_over_double", -0.5, -0.2),
    **spread("log10_double_over_backward", -0.3, -0.1),
    **spread("log10_large_over_small_eps", -0.5, -0.2),
    **spread("tuned_log10_forward_over_double", -0.4, -0.1),
    **spread("points_forward_less_double", 0.2, 0.8),
    **spread("centred_log10_forward_over_double", 0.0, 0.1),
    **spread("centred_log10_double_over_none", 0.0, 0.1),
    "percent_right_forward": 96.0,
    "percent_right_double": 95.5,
    "percent_right_backward": 95.3,
    "median_seconds_double_over_forward": 1.5,
}

_DISORDER = spread("log10_double_over_backward", -0.1, 0.1)

#: Each part by itself; combinations; double backpropagation ahead.
CHANGES = [
    (_DISORDER, PARTLY),
    (spread("log10_large_over_small_eps", -0.1, 0.1), PARTLY),
    (spread("tuned_log10_forward_over_double", -0.1, 0.1), PARTLY),
    (spread("points_forward_less_double", -0.1, 0.5), PARTLY),
    ({"median_seconds_double_over_forward": 1.2}, PARTLY),
    ({**_DISORDER, "median_seconds_double_over_forward": 1.2}, NO),
    (
        {
            **_DISORDER,
            **spread("tuned_log10_forward_over_double", -0.1, 0.1),
            **spread("points_forward_less_double", -0.1, 0.1),
        },
        NO,
    ),
    (
        {
            **spread("tuned_log10_forward_over_double", 0.1, 0.2),
            **spread("points_forward_less_double", -0.9, -0.1),
        },
        NO,
    ),
    (spread("points_forward_less_double", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return gradient_regularization._sides(gradient_regularization._SCALES[size])
