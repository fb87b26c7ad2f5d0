"""What the rule of forward gradients must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 5,
    **spread("points_over_random_guess", 3, 6),
    **spread("points_over_backprop", -4, -1),
    **spread("points_over_local_only", -1, 1),
    **{f"cosine_local_{k}": 0.5 for k in (1, 2, 3)},
    **{f"cosine_random_{k}": 0.03 for k in (1, 2, 3)},
}

#: Each part by itself; a random cosine below zero; what refutes it.
CHANGES = [
    ({"cosine_random_1": -0.01}, YES),
    (spread("points_over_random_guess", 0.5, 3), PARTLY),
    ({"cosine_local_2": 0.1}, PARTLY),
    (spread("points_over_backprop", -6, -4), PARTLY),
    (spread("points_over_local_only", -2, -1), PARTLY),
    ({**spread("points_over_random_guess", 0.5, 3), "cosine_local_2": -0.1, "cosine_random_2": -0.2}, NO),
    (spread("points_over_random_guess", -1, 1) | spread("points_over_backprop", -8, -6), NO),
]
