"""What the rule of stochastic against full gradients must say of planted figures."""

from . import NO, PARTLY, YES, spread

WINNER = {
    "seeds": 5,
    **spread("log10_early_gap_sgd_over_lbfgs", -0.9, -0.3),
    "runs_lbfgs_did_not_arrive": 0,
    "runs_sgd_did_not_arrive": 5,
    "ball_over_that_of_half_the_step": 2.1,
    "runs_saga_did_not_arrive": 0,
    "runs_svrg_did_not_arrive": 0,
    "straightness_of_growing_batches": 0.98,
}

#: Every part by itself, then two at once.
CHANGES = [
    (spread("log10_early_gap_sgd_over_lbfgs", -0.3, 0.1), PARTLY),
    ({"runs_lbfgs_did_not_arrive": 1}, PARTLY),
    ({"runs_sgd_did_not_arrive": 4}, PARTLY),
    ({"ball_over_that_of_half_the_step": 1.3}, PARTLY),
    ({"ball_over_that_of_half_the_step": 1.6}, YES),
    ({"runs_svrg_did_not_arrive": 2}, PARTLY),
    ({"straightness_of_growing_batches": 0.9}, PARTLY),
    ({"runs_saga_did_not_arrive": 1, "ball_over_that_of_half_the_step": 3.0}, NO),
    ({**spread("log10_early_gap_sgd_over_lbfgs", 0.1, 0.4), "straightness_of_growing_batches": 0.5}, NO),
]
