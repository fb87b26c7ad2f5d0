"""What the rule of data-efficient augmentation must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 10,
    "accuracy_none": 88.0,
    "accuracy_full": 93.0,
    **spread("full_less_none", 4.5, 5.5),
    **spread("coreset_10_less_random", 0.2, 0.8),
    **spread("coreset_30_less_random", 0.2, 0.8),
    **spread("coreset_10_less_largest_loss", 0.2, 0.8),
    **spread("coreset_unweighted_10_less_random", 0.2, 0.8),
    **spread("coreset_unweighted_30_less_random", 0.2, 0.8),
    "share_of_gain_coreset_30": 0.7,
    "share_of_gain_random_30": 0.6,
    "time_of_coreset_30_over_full": 0.7,
}

#: Each part by itself; no better than a random subset; an augmentation that does not help.
CHANGES = [
    (spread("coreset_10_less_random", -0.2, 0.8), PARTLY),
    (spread("coreset_30_less_random", -0.2, 0.8), PARTLY),
    (spread("coreset_10_less_largest_loss", -0.9, -0.2), PARTLY),
    ({"share_of_gain_coreset_30": 0.4}, PARTLY),
    ({"time_of_coreset_30_over_full": 1.1}, PARTLY),
    ({**spread("coreset_10_less_random", -0.2, 0.8), **spread("coreset_30_less_random", -0.2, 0.8)}, NO),
    ({**spread("coreset_10_less_random", -0.8, -0.2), **spread("coreset_30_less_random", -0.8, -0.2)}, NO),
    (spread("full_less_none", -0.1, 0.5), UNKNOWN),
    ({"share_of_gain_coreset_30": None}, UNKNOWN),
]
