"""What the rule of PSGD must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 5,
    **{k: v for n in ("0", "0.01", "0.1") for k, v in spread(f"log10_error_ratio_noise_{n}", -2.0, -1.0).items()},
    **{
        k: v
        for what in ("steps", "seconds", "gradients")
        for problem in ("rosenbrock", "logistic")
        for rival in ("adam", "sgd", "lbfgs")
        for k, v in spread(f"log10_{what}_ratio_{problem}_{rival}", -1.0, -0.5).items()
    },
}

#: Each part open or refuted; estimation without noise does not count; neither of the first two.
CHANGES = [
    (spread("log10_error_ratio_noise_0", 1.0, 2.0), YES),
    (spread("log10_error_ratio_noise_0.1", -0.5, 0.1), PARTLY),
    (spread("log10_steps_ratio_logistic_sgd", -0.5, 0.1), PARTLY),
    (spread("log10_seconds_ratio_rosenbrock_adam", 0.1, 0.2), PARTLY),
    (spread("log10_gradients_ratio_logistic_lbfgs", 0.1, 0.2), PARTLY),
    ({**spread("log10_error_ratio_noise_0.01", 0.1, 0.2), **spread("log10_steps_ratio_rosenbrock_adam", 0.1, 0.2)}, NO),
]
