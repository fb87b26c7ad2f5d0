"""What the rule of the bounds of convex optimization (the claim of Nesterov's method) must say of planted figures."""

from . import NO, PARTLY, spread

WINNER = {
    "seeds": 5,
    "largest_gap_over_bound": 0.9,
    "flattest_slope_over_theory": 0.1,
    **spread("log10_subgradient_over_entropy_gap", 0.5, 1.5),
}

#: A bound exceeded; a slope too flat; no gain by the entropy.
CHANGES = [
    ({"largest_gap_over_bound": 1.01}, NO),
    ({"flattest_slope_over_theory": 0.3}, PARTLY),
    (spread("log10_subgradient_over_entropy_gap", -0.5, 0.5), PARTLY),
]
