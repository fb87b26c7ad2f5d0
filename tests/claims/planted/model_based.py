"""What the rule of stochastic model-based minimization must say of planted figures."""

from . import NO, PARTLY, YES, spread

_KEYS = [f"{problem}_{name}" for problem in ("phase", "blind") for name in ("prox_linear", "prox_point")]

WINNER = {
    "seeds": 6,
    **{k: v for key in _KEYS for k, v in spread(f"decades_wider_{key}", 1.2, 2.0).items()},
    **{k: v for key in _KEYS for k, v in spread(f"epochs_ratio_{key}", 0.4, 0.9).items()},
    **{
        f"{what}_{problem}_{name}": 2.0
        for what in ("window_decades", "best_epochs")
        for problem in ("phase", "blind")
        for name in ("subgradient", "prox_linear", "prox_point")
    },
}

#: A little slower is as fast; one window too narrow; one model too slow; both.
CHANGES = [
    (spread("epochs_ratio_phase_prox_point", 1.1, 1.9), YES),
    (spread("decades_wider_blind_prox_linear", 0.5, 1.5), PARTLY),
    (spread("epochs_ratio_blind_prox_point", 1.5, 2.5), PARTLY),
    ({**spread("decades_wider_phase_prox_point", 0.0, 0.5), **spread("epochs_ratio_phase_prox_linear", 1.0, 3.0)}, NO),
]
