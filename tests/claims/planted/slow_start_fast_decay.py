"""What the rule of adversarial fine-tuning must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 10,
    "part_of_the_cost": 0.15,
    **spread("robust_less_scratch_all_epochs", -0.5, 0.5),
    **spread("clean_less_scratch_all_epochs", -0.5, 0.5),
    **spread("robust_less_scratch_equal_cost", 0.5, 2.0),
    **spread("robust_less_constant", 0.5, 2.0),
    **spread("robust_less_cosine", 0.1, 1.0),
    **spread("robust_less_step_decay", 0.1, 1.0),
}

#: Every part by itself; being better than adversarial training from scratch is not asked for, and does not hurt.
CHANGES = [
    (spread("robust_less_scratch_all_epochs", 1.0, 2.0), YES),
    (spread("robust_less_scratch_all_epochs", -0.99, 0.0), YES),
    (spread("robust_less_scratch_all_epochs", -1.1, 1.0), NO),
    ({"part_of_the_cost": 0.25}, NO),
    (spread("clean_less_scratch_all_epochs", -1.1, 1.0), PARTLY),
    (spread("robust_less_scratch_equal_cost", -0.1, 2.0), PARTLY),
    (spread("robust_less_constant", -0.1, 2.0), PARTLY),
    (spread("robust_less_cosine", -0.1, 1.0), PARTLY),
    (spread("robust_less_step_decay", -0.1, 1.0), PARTLY),
]
