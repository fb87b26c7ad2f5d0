"""What the rule of Hessian alignment must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 5,
    **spread("accuracy_hgp", 64.0, 68.0),
    **spread("accuracy_hutchinson", 63.0, 67.0),
    "accuracy_irm": 65.0,
    "accuracy_vrex": 66.0,
    "accuracy_plain": 25.0,
    **spread("hgp_less_plain", 38.0, 43.0),
    **spread("hgp_less_irm", -1.0, 3.0),
    **spread("hgp_less_vrex", -3.0, 1.0),
    **spread("hutchinson_less_plain", 36.0, 42.0),
}

#: Each part by itself; both forms by the colour; a tie with plain training.
CHANGES = [
    (spread("hgp_less_irm", 1.0, 3.0), YES),
    (spread("hgp_less_irm", -4.0, -1.0), PARTLY),
    (spread("hgp_less_vrex", -4.0, -1.0), PARTLY),
    (spread("accuracy_hutchinson", 45.0, 60.0), PARTLY),
    (spread("hutchinson_less_plain", -1.0, 2.0), PARTLY),
    (spread("hgp_less_plain", -1.0, 2.0), PARTLY),
    ({**spread("hgp_less_plain", -1.0, 2.0), **spread("hutchinson_less_plain", -1.0, 2.0)}, NO),
    ({**spread("accuracy_hgp", 30.0, 45.0), **spread("accuracy_hutchinson", 30.0, 45.0)}, NO),
    (spread("hgp_less_plain", None, None), UNKNOWN),
]
