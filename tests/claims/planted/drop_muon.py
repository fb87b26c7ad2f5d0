"""What the rule of Drop-Muon must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, drop_muon
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 5,
    **spread("convolutional_drop_muon_speed_up", 1.1, 1.5),
    **spread("convolutional_drop_muon_speed_up_by_backward", 1.05, 1.4),
    **spread("convolutional_drop_muon_speed_up_by_update", 0.8, 0.9),
    "convolutional_drop_muon_steps": 40.0,
    "convolutional_muon_steps": 30.0,
    "convolutional_drop_muon_test_points": -0.2,
    "perceptron_drop_muon_speed_up": 1.3,
}

#: Less than the gain; owed to orthogonalization; undecided; slower; as fast at best.
CHANGES = [
    (spread("convolutional_drop_muon_speed_up", 1.05, 1.15), PARTLY),
    (spread("convolutional_drop_muon_speed_up_by_backward", 0.9, 1.1), PARTLY),
    (spread("convolutional_drop_muon_speed_up", 0.9, 1.3), UNKNOWN),
    (spread("convolutional_drop_muon_speed_up", 0.9, 1.15), NO),
    (spread("convolutional_drop_muon_speed_up", 0.6, 0.8), NO),
    (spread("convolutional_drop_muon_speed_up", None, None), UNKNOWN),
    ({"perceptron_drop_muon_speed_up": None}, YES),
]


def sides(size: Size) -> Iterable[Side]:
    return drop_muon._sides(drop_muon._SCALES[size])
