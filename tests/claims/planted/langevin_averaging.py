"""What the rule of Langevin averaging must say of planted figures."""

from . import NO, PARTLY, UNKNOWN

WINNER = {
    "seeds": 10,
    "least_odd_average_low": 0.85,
    "least_even_average_low": 0.9,
    "most_even_first_order_high": 0.3,
    "most_iterate_rms_over_random": 1.1,
    "order_3_size_20_ascent": 0.8,
}

#: Every part by itself, and two at a time.
CHANGES = [
    ({"least_odd_average_low": 0.79}, PARTLY),
    ({"least_even_average_low": 0.79}, PARTLY),
    ({"most_even_first_order_high": 0.51}, PARTLY),
    ({"most_iterate_rms_over_random": 2.1}, NO),
    ({"least_odd_average_low": 0.7, "least_even_average_low": 0.7}, NO),
    ({"least_odd_average_low": None}, UNKNOWN),
]
