"""What the rule of muP must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

_LAYERS = ("first", "second", "third", "output")

WINNER = {
    "seeds": 5,
    **{f"mup_slope_{layer}": slope for layer, slope in zip(_LAYERS, (0.0, 0.09, -0.09, 0.02), strict=True)},
    **{f"standard_slope_{layer}": slope for layer, slope in zip(_LAYERS, (0.0, 0.4, 0.8, 0.9), strict=True)},
    "mup_drift": 1,
    "standard_drift": 3,
    "mup_shift": 0,
    "standard_shift": -3,
    **spread("shift_standard_less_mup", -4.0, -2.0),
    **spread("mup_loss_wide_less_narrow", -0.3, -0.1),
    **spread("standard_loss_wide_less_narrow", -0.1, 0.1),
}

#: Each part by itself; neither the check nor the transfer; a run that diverges.
CHANGES = [
    ({"standard_slope_third": 0.0}, YES),
    ({"mup_slope_output": 0.11}, PARTLY),
    ({"mup_slope_output": -0.11}, PARTLY),
    ({"standard_slope_third": 0.4, "standard_slope_output": 0.4}, PARTLY),
    ({"mup_drift": 2}, PARTLY),
    ({"standard_shift": -1}, PARTLY),
    (spread("shift_standard_less_mup", -4.0, 0.0), PARTLY),
    (spread("mup_loss_wide_less_narrow", -0.3, 0.1), PARTLY),
    ({"mup_drift": 2, "mup_slope_first": 0.2}, NO),
    ({"mup_drift": 2, "standard_slope_third": 0.4, "standard_slope_output": 0.4}, NO),
    (spread("mup_loss_wide_less_narrow", None, None), UNKNOWN),
]
