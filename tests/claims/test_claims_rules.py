"""The rule of every claim, on planted figures: it can say yes, partly, no, and that it does not know."""

from typing import Any

import pytest

from steepest.claims import Verdict, load, registry

YES, PARTLY, NO, UNKNOWN = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE


def spread(name: str, low: float | None, high: float | None) -> dict[str, float | None]:
    """A difference with its interval."""
    middle = None if low is None or high is None else (low + high) / 2
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


#: Figures with which each claim is reproduced.
WINNER: dict[str, dict[str, Any]] = {
    "lion": {
        "seeds": 4,
        **spread("gap_percent_largest_batch", -3.0, 0.5),
        **spread("gap_change", -4.0, -1.0),
        "state_bytes_per_parameter_lion": 4.0,
        "state_bytes_per_parameter_adamw": 8.003,
    },
    "lion-k": {
        "seeds": 5,
        "largest_above_decay_bound": 1e-15,
        "outward_decay_relative_error": 1e-13,
        "largest_rise_of_violation": 1e-15,
        "digits_largest_over_box": 1e-7,
        "largest_solution_gap": 1e-3,
        "largest_lyapunov_rise_over_fall": 1e-6,
        "digits_most_weights_at_edge": 0.3,
    },
    "ademamix": {
        "seeds": 4,
        **spread("loss_less_adamw", -0.05, -0.01),
        **spread("part_kept_more", 0.1, 0.3),
        "adamw_budgets_for_same_loss": 1.8,
        "valley_steps_ademamix": 300,
        "valley_steps_adamw_beta1_09": 900,
        "valley_steps_adamw_beta1_0999": None,
        "part_kept_ademamix": 0.5,
        "part_kept_adamw": 0.3,
    },
    "adamp": {
        "seeds": 6,
        "largest_identity_error": 1e-12,
        **spread("norm_growth_adamp_less_adamw", -0.3, -0.2),
        **spread("norm_growth_sgdp_less_sgd", -0.5, -0.4),
        **spread("points_adamp_over_better_adam", 0.1, 0.5),
        **spread("points_sgdp_over_sgd", 0.2, 0.6),
        "norm_growth_adamp": 1.1,
        "norm_growth_adamw": 1.4,
        "norm_growth_sgdp": 1.2,
        "norm_growth_sgd": 1.7,
    },
    "diffgrad": {
        "seeds": 6,
        **spread("points_over_adam_tuned", 0.2, 0.9),
        **spread("points_over_adam_at_default", 0.2, 0.9),
        **spread("points_over_adam_at_half_the_default", 0.2, 0.9),
        "best_share_of_starts_diffgrad": 90.0,
        "best_share_of_starts_adam": 80.0,
        "functions_where_diffgrad_ends_lower_less_higher": 2,
        **{f"F{k}_end_{m}": 0.1 for k in (1, 2, 3) for m in ("adam", "diffgrad", "adam_at_half_the_rate")},
    },
    "amsgrad": {
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
    },
    "ano": {
        "seeds": 8,
        **spread("points_over_adam_noise_0", -0.5, 0.2),
        **spread("points_over_adam_noise_005", 0.1, 0.9),
        **spread("points_over_adam_noise_02", 0.5, 2.0),
        **spread("growth_of_points_over_adam", 0.4, 2.0),
    },
    "adamomentum": {
        "seeds": 8,
        **spread("points_over_adam", 0.1, 0.8),
        **spread("points_over_adabelief", 0.1, 0.8),
        **spread("points_over_sgd", -0.3, 0.4),
    },
    "coordinate-clip": {
        "seeds": 5,
        **spread("loss_clip_less_sgd", -0.3, -0.1),
        "loss_sgd": 2.5,
        "loss_sgd_clip": 2.3,
        "loss_adam": 2.2,
        "transformer_percent_sgd_over_adam": 95.0,
        "transformer_percent_sgd_over_clip": 85.0,
        "convolutional_percent_sgd_over_adam": 40.0,
        **{f"transformer_median_sharpness_{name}": 1.0 for name in ("sgd", "sgd_clip", "adam")},
    },
    "gradient-noise": {
        "seeds": 5,
        **spread("simple_gain", 2.0, 12.0),
        "he_clip_gain": -0.2,
        **{f"{c}_{k}_without": 50.0 for c in ("simple", "he_clip") for k in ("best", "average")},
        **{f"{c}_{k}_with": 60.0 for c in ("simple", "he_clip") for k in ("best", "average")},
        "deviation_of_weights_by_noise_alone": 0.2,
        "zero_clip_best_with": 94.5,
        "zero_clip_average_with": 49.7,
        "zero_clip_best_without": 11.4,
        "zero_clip_average_without": 10.1,
    },
    "adabound": {
        "seeds": 8,
        **spread("points_over_sgd", -0.3, 0.4),
        **spread("points_over_adam", 0.1, 0.8),
        **spread("points_over_amsgrad", 0.1, 0.8),
        "early_train_loss_over_adams": 0.9,
    },
    "muon": {
        "seeds": 4,
        **spread("steps_over_adamw", 0.4, 0.6),
        **spread("time_over_adamw", 0.7, 0.9),
        "seconds_per_step_over_adamw": 1.5,
        "loss_less_adamw": -0.2,
    },
    "auon": {
        "seeds": 4,
        **spread("gap_percent_to_muon", -2.0, 0.5),
        **spread("gap_percent_to_adamw", -3.0, -1.0),
        **spread("gap_percent_to_control", -1.0, -0.5),
        **spread("gap_percent_hybrid_to_muon", -1.0, 1.0),
        "step_time_over_muon_at_largest_matrix": 0.1,
    },
    "trust-region": {
        "seeds": 16,
        "largest_measured_over_bound": 0.5,
        "flattest_slope": -0.3,
        **spread("log_ratio_gaussian", -0.5, -0.1),
        **spread("log_ratio_skewed", -2.0, -1.0),
    },
    "induced-metric": {
        "seeds": 8,
        **spread("success_metric_less_sgd", 2.0, 6.0),
        **spread("success_metric_less_clipped_sgd", 1.0, 4.0),
        **spread("accuracy_metric_less_sgd", 0.1, 0.5),
        **spread("accuracy_metric_less_adam", -0.3, 0.3),
        **{f"success_{side}": 60.0 for side in ("metric", "sgd", "clipped_sgd", "adam")},
    },
    "marsadamw": {
        "seeds": 5,
        **spread("gap_percent_mars_to_adamw", -3.0, -1.0),
        **spread("gap_percent_mars_to_no_correction", -2.0, -0.5),
        **spread("gap_percent_mars_to_muon", -2.0, -0.5),
        **spread("gap_percent_mars_to_mars_exact", -0.5, 0.5),
    },
    "sophia": {
        "seeds": 4,
        **spread("budget_over_adamw", 0.4, 0.6),
        **spread("loss_less_signed_momentum", -0.2, -0.1),
        "loss_less_adamw": -0.2,
    },
    "adahessian": {
        "seeds": 6,
        **spread("points_over_sgd_equal_steps", -0.3, 0.4),
        **spread("points_over_adam_equal_steps", 0.1, 0.8),
        **spread("points_over_adamw_equal_steps", -0.3, 0.8),
        "points_over_adamw_equal_evaluations": -0.2,
        "good_learning_rates_adahessian": 5,
        "good_learning_rates_sgd": 5,
        "good_learning_rates_adam": 4,
        "good_learning_rates_adamw": 4,
    },
    "asgo": {
        "seeds": 4,
        **spread("convex_percent_over_shampoo", -40.0, 5.0),
        **spread("convex_percent_over_adagrad", -60.0, -20.0),
        **spread("convex_percent_over_sgd", -60.0, -20.0),
        **spread("percent_over_adamw", -4.0, -1.0),
        **spread("percent_over_shampoo", -2.0, 0.5),
    },
    "shampoo": {
        "seeds": 4,
        **spread("steps_shampoo_every_1", 0.3, 0.4),
        **spread("steps_shampoo_every_10", 0.4, 0.6),
        **spread("steps_shampoo_every_50", 0.5, 0.7),
        **spread("time_shampoo_every_1", 1.3, 1.4),
        **spread("time_shampoo_every_10", 0.9, 1.1),
        **spread("time_shampoo_every_50", 0.7, 0.9),
    },
    "frugal": {
        "seeds": 4,
        **spread("frugal_less_galore", -0.05, -0.01),
        **spread("frugal_less_midway", -0.03, -0.005),
        **spread("no_state_less_frugal", 0.01, 0.02),
        "galore_less_adamw": 0.05,
        "matrix_state_bytes_per_parameter_frugal": 2.0,
        "matrix_state_bytes_per_parameter_adamw": 8.0,
        "state_bytes_per_parameter_frugal": 3.3,
        "state_bytes_per_parameter_galore": 3.5,
        "state_bytes_per_parameter_adamw": 8.0,
    },
    "drop-muon": {
        "seeds": 5,
        **spread("convolutional_drop_muon_speed_up", 1.1, 1.5),
        **spread("convolutional_drop_muon_speed_up_by_backward", 1.05, 1.4),
        **spread("convolutional_drop_muon_speed_up_by_update", 0.8, 0.9),
        "convolutional_drop_muon_steps": 40.0,
        "convolutional_muon_steps": 30.0,
        "convolutional_drop_muon_test_points": -0.2,
        "perceptron_drop_muon_speed_up": 1.3,
    },
    "psgd": {
        "seeds": 5,
        **{k: v for n in ("0", "0.01", "0.1") for k, v in spread(f"log10_error_ratio_noise_{n}", -2.0, -1.0).items()},
        **{
            k: v
            for what in ("steps", "seconds", "gradients")
            for problem in ("rosenbrock", "logistic")
            for rival in ("adam", "sgd", "lbfgs")
            for k, v in spread(f"log10_{what}_ratio_{problem}_{rival}", -1.0, -0.5).items()
        },
    },
}

#: What is changed in the winner's figures, and the verdict that must follow.
CHANGES: list[tuple[str, dict[str, Any], Verdict]] = [
    # Lion: no trend; a loss; a gap that the interval does not decide; no saving of state.
    ("lion", spread("gap_change", -1.0, 1.0), PARTLY),
    ("lion", spread("gap_change", 0.5, 1.0), PARTLY),
    ("lion", spread("gap_percent_largest_batch", 1.1, 4.0), NO),
    ("lion", spread("gap_percent_largest_batch", -2.0, 4.0), UNKNOWN),
    ("lion", {"state_bytes_per_parameter_lion": 8.0}, NO),
    ("lion", spread("gap_change", None, None), UNKNOWN),
    # Lion-K: every part by itself.
    ("lion-k", {"outward_decay_relative_error": 1e-3}, NO),
    ("lion-k", {"largest_above_decay_bound": 1e-3}, NO),
    ("lion-k", {"largest_rise_of_violation": 1e-3}, NO),
    ("lion-k", {"digits_largest_over_box": 1e-3}, NO),
    ("lion-k", {"largest_solution_gap": 0.2}, PARTLY),
    ("lion-k", {"largest_lyapunov_rise_over_fall": 0.2}, PARTLY),
    # AdEMAMix: a tie in both; one of the two; too little saved; the wrong direction.
    ("ademamix", {**spread("loss_less_adamw", -0.01, 0.01), **spread("part_kept_more", -0.1, 0.1)}, UNKNOWN),
    ("ademamix", spread("loss_less_adamw", -0.01, 0.01), PARTLY),
    ("ademamix", spread("part_kept_more", -0.1, 0.1), PARTLY),
    ("ademamix", {"adamw_budgets_for_same_loss": 1.2}, PARTLY),
    ("ademamix", {"valley_steps_ademamix": 2000}, PARTLY),
    ("ademamix", {"valley_steps_ademamix": None}, PARTLY),
    ("ademamix", spread("loss_less_adamw", 0.01, 0.02), NO),
    ("ademamix", spread("part_kept_more", -0.2, -0.1), NO),
    ("ademamix", {"adamw_budgets_for_same_loss": None}, UNKNOWN),
    # AdamP: a tie in accuracy; a loss of accuracy; the mechanism fails.
    ("adamp", spread("points_adamp_over_better_adam", -0.3, 0.5), PARTLY),
    ("adamp", spread("points_sgdp_over_sgd", -0.3, 0.5), PARTLY),
    ("adamp", spread("points_sgdp_over_sgd", -0.8, -0.1), NO),
    ("adamp", {"largest_identity_error": 1e-3}, NO),
    ("adamp", spread("norm_growth_adamp_less_adamw", -0.1, 0.1), NO),
    ("adamp", spread("points_sgdp_over_sgd", None, None), UNKNOWN),
    # diffGrad: a tie on digits; the control explains the toys; nothing left; worse.
    ("diffgrad", spread("points_over_adam_tuned", -0.4, 0.4), PARTLY),
    ("diffgrad", {"best_share_of_starts_adam": 89.0}, PARTLY),
    ("diffgrad", {"functions_where_diffgrad_ends_lower_less_higher": 1}, PARTLY),
    (
        "diffgrad",
        {**spread("points_over_adam_tuned", -0.4, 0.4), "functions_where_diffgrad_ends_lower_less_higher": 1},
        NO,
    ),
    ("diffgrad", {**spread("points_over_adam_tuned", -0.9, -0.4), "best_share_of_starts_adam": 90.0}, NO),
    ("diffgrad", spread("points_over_adam_tuned", None, None), UNKNOWN),
    # AdaBound: each part open or refuted.
    ("adabound", spread("points_over_adam", -0.3, 0.3), PARTLY),
    ("adabound", spread("points_over_amsgrad", -0.3, 0.3), PARTLY),
    ("adabound", spread("points_over_sgd", -0.9, 0.1), PARTLY),
    ("adabound", {"early_train_loss_over_adams": 1.5}, PARTLY),
    ("adabound", {**spread("points_over_sgd", -2.0, -1.0), **spread("points_over_amsgrad", -2.0, -1.0)}, NO),
    (
        "adabound",
        {
            **spread("points_over_sgd", -2.0, -1.0),
            **spread("points_over_amsgrad", -1.0, 1.0),
            "early_train_loss_over_adams": 1.5,
        },
        NO,
    ),
    ("adabound", spread("points_over_sgd", None, None), UNKNOWN),
    # AMSGrad: each part of the counterexamples by itself; no vanishing regret; networks that train worse.
    ("amsgrad", {"periodic_lowest_end_adam": 0.5}, NO),
    ("amsgrad", {"periodic_highest_end_amsgrad": -0.5}, NO),
    ("amsgrad", {"periodic_smallest_regret_growth_adam": 0.4}, NO),
    ("amsgrad", {"periodic_largest_regret_growth_amsgrad": 0.9}, NO),
    ("amsgrad", spread("stochastic_end_tuned_amsgrad", -0.5, 0.1), NO),
    ("amsgrad", spread("stochastic_end_tuned_adam", -0.1, 0.5), NO),
    ("amsgrad", {"stochastic_regret_tuned_amsgrad": 0.25}, PARTLY),
    ("amsgrad", {"stochastic_regret_growth_tuned_amsgrad": 1.1}, PARTLY),
    ("amsgrad", {"stochastic_regret_growth_tuned_adam": 0.4}, PARTLY),
    ("amsgrad", spread("loss_percent_amsgrad_logistic", -1.0, 6.0), PARTLY),
    ("amsgrad", spread("loss_percent_amsgrad_perceptron", 20.0, 30.0), PARTLY),
    ("amsgrad", spread("loss_percent_amsgrad_perceptron", None, None), UNKNOWN),
    # Ano: a tie at one amount of noise; no growth; neither.
    ("ano", spread("points_over_adam_noise_005", -0.3, 0.3), PARTLY),
    ("ano", spread("points_over_adam_noise_02", -0.3, 0.3), PARTLY),
    ("ano", spread("growth_of_points_over_adam", -0.3, 0.3), PARTLY),
    ("ano", {**spread("growth_of_points_over_adam", -0.3, 0.3), **spread("points_over_adam_noise_02", -1.0, 0.3)}, NO),
    ("ano", spread("points_over_adam_noise_0", None, None), UNKNOWN),
    # AdaMomentum: a tie with each rival; with both adaptive ones.
    ("adamomentum", spread("points_over_adam", -0.3, 0.3), PARTLY),
    ("adamomentum", spread("points_over_adabelief", -0.3, 0.3), PARTLY),
    ("adamomentum", spread("points_over_sgd", -0.6, 0.3), PARTLY),
    ("adamomentum", {**spread("points_over_adam", -0.3, 0.3), **spread("points_over_adabelief", -0.3, 0.3)}, NO),
    ("adamomentum", spread("points_over_sgd", None, None), UNKNOWN),
    # Muon: fewer steps that take longer; as many steps; more; a tie.
    ("muon", spread("time_over_adamw", 0.9, 1.1), PARTLY),
    ("muon", spread("time_over_adamw", 1.2, 1.6), PARTLY),
    ("muon", spread("steps_over_adamw", 1.0, 1.0), NO),
    ("muon", {**spread("steps_over_adamw", 1.1, 1.3), **spread("time_over_adamw", 1.5, 1.9)}, NO),
    ("muon", spread("steps_over_adamw", 0.9, 1.1), UNKNOWN),
    ("muon", spread("steps_over_adamw", None, None), UNKNOWN),
    # AuON: the control is as good; behind Muon or AdamW; open; dear.
    ("auon", spread("gap_percent_to_control", -0.1, 0.1), PARTLY),
    ("auon", spread("gap_percent_to_muon", 2.0, 4.0), PARTLY),
    ("auon", spread("gap_percent_to_adamw", 2.0, 4.0), PARTLY),
    ("auon", {**spread("gap_percent_to_muon", 0.0, 4.0), **spread("gap_percent_to_adamw", 0.0, 4.0)}, UNKNOWN),
    ("auon", {**spread("gap_percent_to_muon", 2.0, 4.0), **spread("gap_percent_to_control", -0.1, 0.1)}, NO),
    ("auon", {**spread("gap_percent_to_muon", 2.0, 4.0), **spread("gap_percent_to_adamw", 2.0, 4.0)}, NO),
    ("auon", {"step_time_over_muon_at_largest_matrix": 0.8}, NO),
    ("auon", spread("gap_percent_hybrid_to_muon", None, None), UNKNOWN),
    # Trust region: a bound broken; too slow; one order or the other open or refuted.
    ("trust-region", {"largest_measured_over_bound": 1.01}, NO),
    ("trust-region", {"flattest_slope": -0.1}, NO),
    ("trust-region", spread("log_ratio_gaussian", -0.1, 0.1), PARTLY),
    ("trust-region", spread("log_ratio_skewed", 0.1, 0.3), PARTLY),
    ("trust-region", {**spread("log_ratio_gaussian", 0.1, 0.2), **spread("log_ratio_skewed", 0.1, 0.3)}, NO),
    ("trust-region", {**spread("log_ratio_gaussian", -0.1, 0.2), **spread("log_ratio_skewed", 0.1, 0.3)}, UNKNOWN),
    # Coordinate clipping: each part by itself; a clip that flattens and does not help; one that harms.
    ("coordinate-clip", {"transformer_percent_sgd_over_adam": 79.0}, PARTLY),
    ("coordinate-clip", {"transformer_percent_sgd_over_clip": 79.0}, PARTLY),
    ("coordinate-clip", {"convolutional_percent_sgd_over_adam": 80.0}, PARTLY),
    ("coordinate-clip", spread("loss_clip_less_sgd", -0.1, 0.1), PARTLY),
    ("coordinate-clip", {**spread("loss_clip_less_sgd", -0.1, 0.1), "transformer_percent_sgd_over_clip": 79.0}, NO),
    ("coordinate-clip", spread("loss_clip_less_sgd", 0.1, 0.2), NO),
    ("coordinate-clip", spread("loss_clip_less_sgd", None, None), UNKNOWN),
    # Gradient noise: no gain from the simple values; harm with good ones; zeros stay; neither.
    ("gradient-noise", spread("simple_gain", -2.0, 8.0), PARTLY),
    ("gradient-noise", {"simple_best_with": 49.0}, PARTLY),
    ("gradient-noise", {"he_clip_gain": -1.5}, PARTLY),
    ("gradient-noise", {"zero_clip_best_with": 60.0}, PARTLY),
    ("gradient-noise", {"zero_clip_best_without": 30.0}, PARTLY),
    ("gradient-noise", {**spread("simple_gain", -2.0, 8.0), "zero_clip_best_with": 60.0}, NO),
    ("gradient-noise", {f"{c}_best_{k}": 15.0 for c in ("simple", "zero_clip") for k in ("with", "without")}, UNKNOWN),
    # Induced metric: no more than a clip; behind Adam; on functions alone; nothing, or a loss.
    ("induced-metric", spread("success_metric_less_clipped_sgd", -1.0, 1.0), PARTLY),
    ("induced-metric", spread("accuracy_metric_less_adam", -0.9, -0.6), PARTLY),
    ("induced-metric", spread("accuracy_metric_less_sgd", -0.3, 0.3), PARTLY),
    ("induced-metric", spread("success_metric_less_sgd", -1.0, 1.0), PARTLY),
    ("induced-metric", spread("success_metric_less_sgd", -4.0, -1.0), NO),
    ("induced-metric", spread("accuracy_metric_less_sgd", -0.9, -0.1), NO),
    (
        "induced-metric",
        {**spread("success_metric_less_sgd", -1.0, 1.0), **spread("accuracy_metric_less_adam", -0.9, -0.6)},
        NO,
    ),
    ("induced-metric", spread("accuracy_metric_less_adam", None, None), UNKNOWN),
    # MARS: Muon or the exact form is better; all of it is the clip; a loss; a gain that is too small, or open.
    ("marsadamw", spread("gap_percent_mars_to_muon", 1.0, 3.0), PARTLY),
    ("marsadamw", spread("gap_percent_mars_to_mars_exact", 1.5, 3.0), PARTLY),
    ("marsadamw", spread("gap_percent_mars_to_no_correction", -0.1, 0.1), NO),
    ("marsadamw", spread("gap_percent_mars_to_adamw", 1.0, 2.0), NO),
    ("marsadamw", spread("gap_percent_mars_to_adamw", -0.2, 0.1), NO),
    ("marsadamw", spread("gap_percent_mars_to_adamw", -2.0, 0.5), UNKNOWN),
    ("marsadamw", spread("gap_percent_mars_to_muon", None, None), UNKNOWN),
    # Sophia: some gain; no gain from curvature; none at all; open.
    ("sophia", spread("budget_over_adamw", 0.5, 0.8), PARTLY),
    ("sophia", spread("loss_less_signed_momentum", -0.1, 0.1), PARTLY),
    ("sophia", spread("budget_over_adamw", 0.95, 1.3), NO),
    ("sophia", spread("budget_over_adamw", 0.7, 1.3), UNKNOWN),
    ("sophia", spread("budget_over_adamw", None, None), UNKNOWN),
    # AdaHessian: each part by itself.
    ("adahessian", spread("points_over_sgd_equal_steps", -0.8, 0.4), PARTLY),
    ("adahessian", spread("points_over_adam_equal_steps", -0.3, 0.4), PARTLY),
    ("adahessian", {"good_learning_rates_adam": 6}, PARTLY),
    ("adahessian", {**spread("points_over_sgd_equal_steps", -0.8, 0.4), "good_learning_rates_adam": 6}, NO),
    ("adahessian", spread("points_over_adam_equal_steps", None, None), UNKNOWN),
    # ASGO: each part open; the language model worse than either rival; nothing decided.
    ("asgo", spread("convex_percent_over_shampoo", 5.0, 9.0), PARTLY),
    ("asgo", spread("convex_percent_over_adagrad", -5.0, 9.0), PARTLY),
    ("asgo", spread("percent_over_adamw", -1.0, 1.0), PARTLY),
    ("asgo", spread("percent_over_shampoo", 0.5, 1.5), PARTLY),
    ("asgo", {**spread("percent_over_adamw", -1.0, 1.0), **spread("percent_over_shampoo", 0.5, 1.5)}, UNKNOWN),
    ("asgo", spread("percent_over_adamw", 1.0, 2.0), NO),
    ("asgo", spread("percent_over_shampoo", 1.5, 2.0), NO),
    ("asgo", spread("percent_over_shampoo", None, None), UNKNOWN),
    # Shampoo: rare roots lose the gain; no time saved; too few steps saved, for certain and perhaps.
    ("shampoo", spread("steps_shampoo_every_50", 0.8, 0.9), PARTLY),
    ("shampoo", spread("time_shampoo_every_50", 0.9, 1.1), PARTLY),
    ("shampoo", spread("steps_shampoo_every_10", 0.7, 0.8), UNKNOWN),
    ("shampoo", spread("steps_shampoo_every_10", 0.8, 0.9), NO),
    ("shampoo", spread("steps_shampoo_every_10", 1.9, 2.1), NO),
    ("shampoo", spread("steps_shampoo_every_1", None, None), UNKNOWN),
    # FRUGAL: better than GaLore, but not by half; a tie; worse; too much state.
    ("frugal", spread("frugal_less_midway", -0.01, 0.01), PARTLY),
    ("frugal", spread("frugal_less_galore", -0.01, 0.01), UNKNOWN),
    ("frugal", spread("frugal_less_galore", 0.01, 0.02), NO),
    ("frugal", {"matrix_state_bytes_per_parameter_frugal": 3.0}, NO),
    ("frugal", {"state_bytes_per_parameter_frugal": 3.6}, NO),
    ("frugal", spread("no_state_less_frugal", -0.01, 0.01), YES),
    ("frugal", spread("frugal_less_midway", None, None), UNKNOWN),
    # Drop-Muon: less than the gain; owed to orthogonalization; undecided; slower; as fast at best.
    ("drop-muon", spread("convolutional_drop_muon_speed_up", 1.05, 1.15), PARTLY),
    ("drop-muon", spread("convolutional_drop_muon_speed_up_by_backward", 0.9, 1.1), PARTLY),
    ("drop-muon", spread("convolutional_drop_muon_speed_up", 0.9, 1.3), UNKNOWN),
    ("drop-muon", spread("convolutional_drop_muon_speed_up", 0.9, 1.15), NO),
    ("drop-muon", spread("convolutional_drop_muon_speed_up", 0.6, 0.8), NO),
    ("drop-muon", spread("convolutional_drop_muon_speed_up", None, None), UNKNOWN),
    ("drop-muon", {"perceptron_drop_muon_speed_up": None}, YES),
    # PSGD: each part open or refuted; estimation without noise does not count; neither of the first two.
    ("psgd", spread("log10_error_ratio_noise_0", 1.0, 2.0), YES),
    ("psgd", spread("log10_error_ratio_noise_0.1", -0.5, 0.1), PARTLY),
    ("psgd", spread("log10_steps_ratio_logistic_sgd", -0.5, 0.1), PARTLY),
    ("psgd", spread("log10_seconds_ratio_rosenbrock_adam", 0.1, 0.2), PARTLY),
    ("psgd", spread("log10_gradients_ratio_logistic_lbfgs", 0.1, 0.2), PARTLY),
    (
        "psgd",
        {**spread("log10_error_ratio_noise_0.01", 0.1, 0.2), **spread("log10_steps_ratio_rosenbrock_adam", 0.1, 0.2)},
        NO,
    ),
]


def test_every_claim_is_planted() -> None:
    assert set(WINNER) == set(registry())
    assert {name for name, _, verdict in CHANGES if verdict is NO} == set(registry())


@pytest.mark.parametrize("name", WINNER)
def test_a_planted_winner_is_reproduced(name: str) -> None:
    judgement = load(name).decide(WINNER[name])
    assert judgement.verdict is YES
    assert judgement.sentence.endswith(".")


@pytest.mark.parametrize(("name", "change", "verdict"), CHANGES)
def test_planted_figures_get_their_verdict(name: str, change: dict[str, Any], verdict: Verdict) -> None:
    figures = WINNER[name]
    assert set(change) <= set(figures), "a figure that the rule does not read"
    assert load(name).decide({**figures, **change}).verdict is verdict


@pytest.mark.parametrize("name", WINNER)
@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing(name: str, seeds: int) -> None:
    judgement = load(name).decide({**WINNER[name], "seeds": seeds})
    assert judgement.verdict is UNKNOWN
    assert "too few" in judgement.sentence


def test_the_sentence_tells_of_winners_at_the_edge_of_the_grid() -> None:
    claim = load("lion")
    assert "edge" not in claim.decide({**WINNER["lion"], "winners_at_edge_of_grid": 0}).sentence
    assert claim.decide({**WINNER["lion"], "winners_at_edge_of_grid": 2}).sentence.endswith(
        "2 tuned settings lie at the edge of the learning rates tried."
    )


@pytest.mark.parametrize("name", WINNER)
def test_a_rule_names_every_verdict_it_can_give(name: str) -> None:
    for verdict in Verdict:
        assert f"**{verdict.value}**" in load(name).rule
