"""The windows of step sizes that the claim of model-based minimization compares, and the problems that it runs on."""

import pytest
import torch

from steepest.claims.model_based import _instance, window

STEPS = tuple(10 ** (k / 2) for k in range(-4, 3))


@pytest.mark.parametrize(
    ("epochs", "decades"),
    [
        ([100, 100, 100, 100, 100, 100, 100], 0.0),  # never reached
        ([100, 100, 10, 100, 100, 100, 100], 0.5),  # one step size
        ([100, 20, 10, 21, 100, 100, 100], 1.0),  # twice the best is good, more is not
        ([10, 10, 10, 10, 10, 10, 10], 3.5),  # all of the grid
        ([10, 100, 10, 9, 18, 100, 9.5], 1.5),  # what is not next to the best does not count
        ([100, 60, 99, 100, 100, 100, 100], 1.0),  # the most epochs are never good, even within twice the best
    ],
)
def test_windows_by_hand(epochs: list[float], decades: float) -> None:
    assert window(epochs, STEPS, 100) == pytest.approx(decades)


@pytest.mark.parametrize("problem", ["phase", "blind"])
def test_problems_have_their_least_value_at_the_truth(problem: str) -> None:
    made, start = _instance(problem, 4, 12, 3)
    again, _ = _instance(problem, 4, 12, 3)
    assert made.fingerprint() == again.fingerprint() != _instance(problem, 4, 12, 4)[0].fingerprint()
    generator = torch.Generator().manual_seed(3)
    torch.randn(12, 4, dtype=torch.float64, generator=generator)
    if problem == "phase":
        truth = torch.randn(4, dtype=torch.float64, generator=generator)
        assert float(made.value(truth / truth.norm())) < 1e-15
    assert start.norm() == pytest.approx(1.0 if problem == "phase" else 2**0.5)
