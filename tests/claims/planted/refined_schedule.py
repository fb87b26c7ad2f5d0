"""What the rule of refined schedules must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 10,
    "problems": 6,
    "percent_of_problems_with_linear_among_the_best": 83.3,
    "percent_of_problems_with_linear_best": 50.0,
    **spread("log10_refined_over_linear", -0.3, -0.1),
    "worst_case_growth_linear": 1.0,
    "worst_case_growth_one_over_root": 1.4,
    "worst_case_growth_constant": 1.4,
}

#: Every part by itself, two at a time; how often linear decay wins outright is told, and not judged.
CHANGES = [
    ({"percent_of_problems_with_linear_among_the_best": 79.0}, PARTLY),
    (spread("log10_refined_over_linear", -0.3, 0.1), PARTLY),
    ({"percent_of_problems_with_linear_among_the_best": 79.0, **spread("log10_refined_over_linear", 0.1, 0.2)}, NO),
    ({"worst_case_growth_linear": 1.1}, NO),
    ({"worst_case_growth_one_over_root": 1.1}, NO),
    ({"worst_case_growth_constant": 1.1}, NO),
    (spread("log10_refined_over_linear", None, None) | {"log10_refined_over_linear": -0.1}, PARTLY),
    ({"percent_of_problems_with_linear_best": 0.0}, YES),
]
