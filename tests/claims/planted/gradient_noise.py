"""What the rule of Gradient noise must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 5,
    **spread("simple_gain", 2.0, 12.0),
    "he_clip_gain": -0.2,
    **{f"{c}_{k}_without": 50.0 for c in ("simple", "he_clip") for k in ("best", "average")},
    **{f"{c}_{k}_with": 60.0 for c in ("simple", "he_clip") for k in ("best", "average")},
    "deviation_of_weights_by_noise_alone": 0.2,
    "zero_clip_best_with": 94.5,
    "zero_clip_average_with": 49.7,
    "zero_clip_best_without": 11.4,
    "zero_clip_average_without": 10.1,
}

#: No gain from the simple values; harm with good ones; zeros stay; neither.
CHANGES = [
    (spread("simple_gain", -2.0, 8.0), PARTLY),
    ({"simple_best_with": 49.0}, PARTLY),
    ({"he_clip_gain": -1.5}, PARTLY),
    ({"zero_clip_best_with": 60.0}, PARTLY),
    ({"zero_clip_best_without": 30.0}, PARTLY),
    ({**spread("simple_gain", -2.0, 8.0), "zero_clip_best_with": 60.0}, NO),
    ({f"{c}_best_{k}": 15.0 for c in ("simple", "zero_clip") for k in ("with", "without")}, UNKNOWN),
]
