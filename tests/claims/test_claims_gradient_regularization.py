"""Runs side by side are the optimizer's, one by one."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from steepest.claims.gradient_regularization import MODES, Regression, regularized
from steepest.optim import GradientRegularization


@pytest.mark.parametrize("mode", MODES)
def test_runs_side_by_side_are_the_optimizers(mode: str) -> None:
    problem = Regression.drawn([1, 2], 20, 1.0)
    problem = Regression(problem.design.double(), problem.solution.double())
    start = torch.rand(2, 3, 2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gammas, epsilons = (torch.tensor(v).double()[None, :, None, None] for v in ([0.01, 0.02, 0.03], [0.1, 0.2, 0.05]))
    signed = {"forward": epsilons, "backward": -epsilons, "double-backprop": None}[mode]
    found = regularized(problem.loss, start, gammas, signed)
    for row in range(2):
        alone = Regression(problem.design[row : row + 1], problem.solution[row : row + 1])
        for column in range(3):
            weights = nn.Parameter(start[row : row + 1, column : column + 1].clone())
            base = SGD([weights], lr=1.0)
            opt = GradientRegularization(base, float(gammas[0, column]), float(epsilons[0, column]), mode)

            def closure(
                weights: nn.Parameter = weights, opt: GradientRegularization = opt, alone: Regression = alone
            ) -> torch.Tensor:
                opt.zero_grad()
                loss = alone.loss(weights).sum()
                opt.backward(loss) if mode == "double-backprop" else loss.backward()
                return loss

            before = weights.detach().clone()
            opt.step(closure)
            torch.testing.assert_close((before - weights.detach())[0, 0], found[row, column])


def test_the_problem() -> None:
    problem = Regression.drawn([3], 40, 1.0)
    weights = torch.zeros(1, 1, 2, 40)
    weights[0, 0, 0] = problem.solution[0].sqrt()
    assert problem.loss(weights).item() == problem.error(weights).item() == 0.0
    assert problem.solution.sum() == 2
    assert problem.design.shape == (1, 20, 40)
    assert problem.error(torch.zeros(1, 1, 2, 40)).item() == 2.0
