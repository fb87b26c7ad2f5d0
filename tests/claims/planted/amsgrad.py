"""What the rule of AMSGrad must say of planted figures."""

from collections.abc import Iterable

from steepest.claims import Size, amsgrad
from steepest.claims.experiment import Side

from . import NO, PARTLY, UNKNOWN, spread

WINNER = {
    "seeds": 6,
    "periodic_lowest_end_adam": 0.99,
    "periodic_highest_end_amsgrad": -0.99,
    "periodic_smallest_regret_growth_adam": 1.0,
    "periodic_largest_regret_growth_amsgrad": 0.32,
    **spread("stochastic_end_tuned_adam", 0.9, 0.99),
    **spread("stochastic_end_tuned_amsgrad", -0.9, -0.5),
    "stochastic_regret_tuned_adam": 0.4,
    "stochastic_regret_tuned_amsgrad": 0.1,
    "stochastic_regret_growth_tuned_adam": 1.0,
    "stochastic_regret_growth_tuned_amsgrad": 0.5,
    **spread("loss_percent_amsgrad_logistic", -1.0, 1.0),
    **spread("loss_percent_amsgrad_perceptron", -4.0, 4.0),
}

#: Each part of the counterexamples by itself; no vanishing regret; networks that train worse.
CHANGES = [
    ({"periodic_lowest_end_adam": 0.5}, NO),
    ({"periodic_highest_end_amsgrad": -0.5}, NO),
    ({"periodic_smallest_regret_growth_adam": 0.4}, NO),
    ({"periodic_largest_regret_growth_amsgrad": 0.9}, NO),
    (spread("stochastic_end_tuned_amsgrad", -0.5, 0.1), NO),
    (spread("stochastic_end_tuned_adam", -0.1, 0.5), NO),
    ({"stochastic_regret_tuned_amsgrad": 0.25}, PARTLY),
    ({"stochastic_regret_growth_tuned_amsgrad": 1.1}, PARTLY),
    ({"stochastic_regret_growth_tuned_adam": 0.4}, PARTLY),
    (spread("loss_percent_amsgrad_logistic", -1.0, 6.0), PARTLY),
    (spread("loss_percent_amsgrad_perceptron", 20.0, 30.0), PARTLY),
    (spread("loss_percent_amsgrad_perceptron", None, None), UNKNOWN),
]


def sides(size: Size) -> Iterable[Side]:
    return amsgrad._sides(amsgrad._SCALES[size].rates)
