"""What the rule of Trust region must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 16,
    "largest_measured_over_bound": 0.5,
    "flattest_slope": -0.3,
    **spread("log_ratio_gaussian", -0.5, -0.1),
    **spread("log_ratio_skewed", -2.0, -1.0),
}

#: A bound broken; too slow; one order or the other open or refuted.
CHANGES = [
    ({"largest_measured_over_bound": 1.01}, NO),
    ({"flattest_slope": -0.1}, NO),
    (spread("log_ratio_gaussian", -0.1, 0.1), PARTLY),
    (spread("log_ratio_skewed", 0.1, 0.3), PARTLY),
    ({**spread("log_ratio_gaussian", 0.1, 0.2), **spread("log_ratio_skewed", 0.1, 0.3)}, NO),
    ({**spread("log_ratio_gaussian", -0.1, 0.2), **spread("log_ratio_skewed", 0.1, 0.3)}, UNKNOWN),
]
