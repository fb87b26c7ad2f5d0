"""What the rule of diffGrad must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 6,
    **spread("points_over_adam_tuned", 0.2, 0.9),
    **spread("points_over_adam_at_default", 0.2, 0.9),
    **spread("points_over_adam_at_half_the_default", 0.2, 0.9),
    "best_share_of_starts_diffgrad": 90.0,
    "best_share_of_starts_adam": 80.0,
    "functions_where_diffgrad_ends_lower_less_higher": 2,
    **{f"F{k}_end_{m}": 0.1 for k in (1, 2, 3) for m in ("adam", "diffgrad", "adam_at_half_the_rate")},
}

#: A tie on digits; the control explains the toys; nothing left; worse.
CHANGES = [
    (spread("points_over_adam_tuned", -0.4, 0.4), PARTLY),
    ({"best_share_of_starts_adam": 89.0}, PARTLY),
    ({"functions_where_diffgrad_ends_lower_less_higher": 1}, PARTLY),
    ({**spread("points_over_adam_tuned", -0.4, 0.4), "functions_where_diffgrad_ends_lower_less_higher": 1}, NO),
    ({**spread("points_over_adam_tuned", -0.9, -0.4), "best_share_of_starts_adam": 90.0}, NO),
    (spread("points_over_adam_tuned", None, None), UNKNOWN),
]
