"""What the rule of GB-NN must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 5,
    "sets": 5,
    "sets_kept": 4,
    **{f"rank_{side}": 2.5 for side in ("gb_nn", "adam", "lbfgs", "sgd")},
    **spread("rank_over_best_rival", -0.4, 0.3),
}
_BEHIND = spread("rank_over_best_rival", 0.2, 0.6)

#: A little behind is allowed, not more; most of the sets.
CHANGES = [
    (spread("rank_over_best_rival", 0.1, 0.5), YES),
    ({"sets_kept": 3}, YES),
    (_BEHIND, PARTLY),
    ({"sets_kept": 2}, PARTLY),
    ({**_BEHIND, "sets_kept": 2}, NO),
]
