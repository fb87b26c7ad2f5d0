"""What the rule of SMB must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 5,
    "decades_over_the_range_smb": 0.3,
    "decades_over_the_range_sgd": 2.0,
    "good_learning_rates_smb": 6,
    "good_learning_rates_sgd": 3,
    "percent_corrected_smb": 12.0,
    **spread("log10_loss_over_sgd", -0.5, 0.05),
    **spread("log10_loss_over_adam", -0.3, -0.1),
    **spread("points_over_sgd", -0.4, 0.6),
    **spread("points_over_adam", -0.4, 0.6),
}

#: Every part by itself, and together.
CHANGES = [
    ({"decades_over_the_range_smb": 0.9}, PARTLY),
    ({"decades_over_the_range_sgd": 0.2}, PARTLY),
    (spread("log10_loss_over_sgd", -0.1, 0.3), PARTLY),
    (spread("log10_loss_over_adam", -0.1, 0.3), PARTLY),
    (spread("points_over_sgd", -1.5, 0.5), PARTLY),
    ({"decades_over_the_range_smb": 0.9, **spread("log10_loss_over_sgd", 0.2, 0.3)}, NO),
    ({"decades_over_the_range_smb": 0.9, **spread("points_over_sgd", -2.5, -1.5)}, NO),
    (spread("points_over_adam", -2.5, -1.5), YES),
    ({"seeds": 2}, UNKNOWN),
]
