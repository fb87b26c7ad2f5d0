"""What the rule of intrinsic dimension must say of planted figures."""

from . import NO, PARTLY, UNKNOWN, YES, spread

WINNER = {
    "seeds": 5,
    **spread("dimension_ten_classes", 700.0, 800.0),
    "accuracy_ten_classes": 0.95,
    **spread("times_fewer_pretrained", 2.0, 4.0),
    **spread("widest_over_narrowest_pretrained", 0.6, 0.9),
}

#: Each part by itself; a dimension that is not found.
CHANGES = [
    (spread("widest_over_narrowest_pretrained", 0.9, 1.5), YES),
    (spread("widest_over_narrowest_pretrained", 1.1, 1.5), PARTLY),
    (spread("dimension_ten_classes", 400.0, 500.0), PARTLY),
    (spread("dimension_ten_classes", 1100.0, 1300.0), PARTLY),
    (spread("times_fewer_pretrained", 1.2, 2.0), PARTLY),
    (spread("times_fewer_pretrained", 0.9, 4.0), PARTLY),
    ({**spread("times_fewer_pretrained", 0.5, 0.9), **spread("dimension_ten_classes", 100.0, 200.0)}, NO),
    (spread("dimension_ten_classes", None, None), UNKNOWN),
    (spread("times_fewer_pretrained", None, None), UNKNOWN),
]
