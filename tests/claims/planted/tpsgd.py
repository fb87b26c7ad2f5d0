"""What the rule of target projection must say of planted figures."""

from . import NO, PARTLY, YES, spread

_NETWORKS = ("one", "two", "cnn", "rnn")


def _points(side: str, low: float, high: float, networks: tuple[str, ...] = _NETWORKS) -> dict[str, float | None]:
    return {k: v for network in networks for k, v in spread(f"points_over_{side}_{network}", low, high).items()}


WINNER = {
    "seeds": 5,
    "accuracy_rnn_tpsgd": 90.0,
    "accuracy_rnn_tpsgd_last": 91.0,
    "accuracy_rnn_tpsgd_last_through": 92.0,
    **_points("backprop", -4, -1),
    **_points("last", 1, 3),
    **_points("drtp", 0.2, 2),
}

#: One network may fail against the rivals, none against backpropagation; each part by itself; all together.
CHANGES = [
    (_points("last", -1, 3, ("rnn",)), YES),
    (_points("drtp", -1, 3, ("cnn",)), YES),
    (_points("backprop", -6, -3, ("rnn",)), PARTLY),
    (_points("last", -1, 3, ("rnn", "one")), PARTLY),
    (_points("drtp", -1, 3, ("cnn", "two")), PARTLY),
    (_points("drtp", -1, 3) | _points("last", -1, 3), PARTLY),
    (_points("backprop", -6, -3) | _points("last", -1, 3), NO),
]
