"""What the rule of Lion-K must say of planted figures."""

from . import NO, PARTLY

WINNER = {
    "seeds": 5,
    "largest_above_decay_bound": 1e-15,
    "outward_decay_relative_error": 1e-13,
    "largest_rise_of_violation": 1e-15,
    "digits_largest_over_box": 1e-7,
    "largest_solution_gap": 1e-3,
    "largest_lyapunov_rise_over_fall": 1e-6,
    "digits_most_weights_at_edge": 0.3,
}

#: Every part by itself.
CHANGES = [
    ({"outward_decay_relative_error": 1e-3}, NO),
    ({"largest_above_decay_bound": 1e-3}, NO),
    ({"largest_rise_of_violation": 1e-3}, NO),
    ({"digits_largest_over_box": 1e-3}, NO),
    ({"largest_solution_gap": 0.2}, PARTLY),
    ({"largest_lyapunov_rise_over_fall": 0.2}, PARTLY),
]
