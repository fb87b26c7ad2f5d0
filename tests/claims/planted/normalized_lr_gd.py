"""What the rule of normalized gradient descent must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 10,
    "worst_case_counts_unlike_the_papers": 0,
    "growth_exponent_normalized": 0.0,
    "growth_exponent_plain": 0.97,
    **spread("imbalanced_log10_plain_over_normalized_steps", 0.2, 0.6),
    **spread("balanced_log10_plain_over_normalized_steps", -0.2, 0.1),
    **spread("log10_steps_at_1_over_100", 0.2, 0.6),
    **spread("log10_highest_loss_at_100_over_1", 0.5, 1.5),
}

#: Every part by itself; balanced data are not judged.
CHANGES = [
    ({"worst_case_counts_unlike_the_papers": 1}, NO),
    ({"growth_exponent_normalized": 0.3}, NO),
    ({"growth_exponent_plain": 0.5}, NO),
    (spread("imbalanced_log10_plain_over_normalized_steps", -0.1, 0.4), PARTLY),
    (spread("imbalanced_log10_plain_over_normalized_steps", -0.4, -0.1), PARTLY),
    (spread("log10_steps_at_1_over_100", -0.1, 0.1), PARTLY),
    (spread("log10_highest_loss_at_100_over_1", -0.1, 0.1), PARTLY),
    (spread("balanced_log10_plain_over_normalized_steps", -0.9, -0.5), YES),
]
