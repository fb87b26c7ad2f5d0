"""What the rule of learning rates from curvature must say of planted figures."""

from . import NO, PARTLY, spread

WINNER = {
    "seeds": 5,
    "eigenvalue_median_error_percent": 15.0,
    "slope_sgd": 0.95,
    "slope_adam": 0.5,
    "accuracy_learnt": 96.0,
    "accuracy_tuned": 97.0,
    **spread("accuracy_learnt_less_tuned", -1.5, -0.5),
}

#: Every part by itself, all of them, and no interval.
CHANGES = [
    ({"eigenvalue_median_error_percent": 26.0}, PARTLY),
    ({"slope_sgd": 0.7}, PARTLY),
    ({"slope_adam": 0.7}, PARTLY),
    (spread("accuracy_learnt_less_tuned", -2.5, -0.5), PARTLY),
    (spread("accuracy_learnt_less_tuned", None, None), PARTLY),
    (
        {
            "eigenvalue_median_error_percent": 26.0,
            "slope_sgd": 1.3,
            **spread("accuracy_learnt_less_tuned", -2.5, -0.5),
        },
        NO,
    ),
]
