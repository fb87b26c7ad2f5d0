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
    "adabound": {
        "seeds": 8,
        **spread("points_over_sgd", -0.3, 0.4),
        **spread("points_over_adam", 0.1, 0.8),
        **spread("points_over_amsgrad", 0.1, 0.8),
        "early_train_loss_over_adams": 0.9,
    },
}
WINNER["psgd"] = {
    "seeds": 5,
    **{k: v for n in ("0", "0.01", "0.1") for k, v in spread(f"log10_error_ratio_noise_{n}", -2.0, -1.0).items()},
    **{
        k: v
        for what in ("steps", "seconds", "gradients")
        for problem in ("rosenbrock", "logistic")
        for rival in ("adam", "sgd", "lbfgs")
        for k, v in spread(f"log10_{what}_ratio_{problem}_{rival}", -1.0, -0.5).items()
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
