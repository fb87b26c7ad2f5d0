"""What the rule of GradES must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    "percent_saved_grades": 35.0,
    "loss_grades": 2.0,
    **spread("grades_less_plain", -0.004, 0.004),
    **spread("grades_less_random", -0.02, -0.01),
    **spread("grades_less_shorter", -0.02, -0.01),
}

#: Each part by itself; equal, but no better than chance and shorter runs; neither.
CHANGES = [
    ({"percent_saved_grades": 20.0}, NO),
    (spread("grades_less_plain", 0.005, 0.008), PARTLY),
    (spread("grades_less_random", -0.02, 0.01), PARTLY),
    (spread("grades_less_shorter", -0.02, 0.01), PARTLY),
    ({**spread("grades_less_shorter", -0.02, 0.01), **spread("grades_less_random", -0.02, 0.01)}, PARTLY),
    ({**spread("grades_less_plain", 0.05, 0.08), **spread("grades_less_random", -0.02, 0.01)}, NO),
    ({**spread("grades_less_plain", -0.02, 0.08), **spread("grades_less_shorter", 0.01, 0.02)}, NO),
    (spread("grades_less_random", None, None), UNKNOWN),
]
