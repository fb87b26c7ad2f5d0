"""What the rule of SGD's bounds must say of planted figures."""

from . import NO, PARTLY, YES

WINNER = {
    "seeds": 30,
    "largest_over_bound": 0.98,
    "ball_over_half_step_synthetic": 2.1,
    "ball_over_half_step_diabetes": 1.9,
    "batch_ball_over_predicted_synthetic": 0.8,
    "batch_ball_over_predicted_diabetes": 1.4,
    "interpolated_over_ball_synthetic": 1e-9,
    "interpolated_over_ball_diabetes": 1e-3,
}

#: A bound that is just met; shapes that fail one by one; a bound that is broken.
CHANGES = [
    ({"largest_over_bound": 1.0}, YES),
    ({"ball_over_half_step_diabetes": 1.3}, PARTLY),
    ({"batch_ball_over_predicted_synthetic": 0.4}, PARTLY),
    ({"interpolated_over_ball_diabetes": 0.02}, PARTLY),
    ({"largest_over_bound": 1.05}, NO),
]
