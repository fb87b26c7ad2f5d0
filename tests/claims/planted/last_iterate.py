"""What the rule of the last iterate must say of planted figures."""

from . import NO, PARTLY, spread

WINNER = {
    "seeds": 10,
    "worst_case_slope_linear": -1e-4,
    "worst_case_slope_one_over_root": 0.046,
    "worst_case_slope_constant": 0.046,
    "measured_above_the_bound": 0,
    **spread("slope_linear", -0.55, -0.45),
    **spread("slope_one_over_root", -0.55, -0.45),
    **spread("slope_constant", -0.55, -0.45),
    **spread("slope_strongly_convex", -1.05, -0.95),
    **spread("slope_heavy_tailed", -0.4, -0.3),
    **spread("log10_mean_linear_over_one_over_root", -0.3, -0.1),
    **spread("log10_tail_linear_over_one_over_root", -0.3, -0.1),
}

#: Every part by itself.
CHANGES = [
    ({"worst_case_slope_linear": 0.01}, NO),
    ({"worst_case_slope_one_over_root": 0.02}, NO),
    ({"worst_case_slope_constant": 0.02}, NO),
    ({"measured_above_the_bound": 1}, NO),
    (spread("slope_linear", -0.5, -0.35), PARTLY),
    (spread("slope_one_over_root", -0.5, -0.35), PARTLY),
    (spread("slope_constant", -0.5, -0.35), PARTLY),
    (spread("slope_strongly_convex", -1.0, -0.85), PARTLY),
    (spread("slope_heavy_tailed", -0.2, -0.15), PARTLY),
    (spread("log10_mean_linear_over_one_over_root", -0.1, 0.05), PARTLY),
    (spread("log10_tail_linear_over_one_over_root", 0.05, 0.1), PARTLY),
    ({**spread("slope_linear", -0.5, -0.35), **spread("log10_mean_linear_over_one_over_root", 0.0, 0.1)}, PARTLY),
]
