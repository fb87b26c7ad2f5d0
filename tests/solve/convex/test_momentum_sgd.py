"""SGD with momentum: equal to the heavy-ball form and to torch's SGD for a constant momentum; its proved bound."""

import numpy as np
import pytest
import torch
from sums import Ridge, drawn, mean_and_error, paths

from steepest.core.regularizer import L1
from steepest.solve.convex import SGD, MomentumSGD
from steepest.solve.convex.momentum_sgd import CARD
from steepest.solve.convex.sgd_steps import Constant

D = torch.float64


def test_it_equals_the_form_with_a_momentum_buffer() -> None:
    ridge, size = Ridge(), 0.03
    indices = [3, 3, 0, 17, 5, 11, 2, 9]
    solver = MomentumSGD(step_size=size, inner=1)
    problem, x, buffer = ridge.problem(), torch.ones(4, dtype=D), torch.zeros(4, dtype=D)
    state = solver.init(problem, x, torch.Generator())
    before = x
    with drawn([[i] for i in indices]), torch.no_grad():
        for k, index in enumerate(indices):
            state = solver.step(problem, state)
            w, after = k / 2, (k + 1) / 2
            gradient = ridge.gradients(x)[index]
            buffer = w / (1 + w) * buffer + gradient
            # The same twice more: Polyak's heavy ball, and a momentum buffer.
            ball = x - size / (1 + after) * gradient + w / (1 + after) * (x - before)
            before, x = x, x - size / (1 + after) * buffer
            torch.testing.assert_close(state.point, x)
            torch.testing.assert_close(state.point, ball)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_constant_momentum_is_that_of_torch(momentum: float) -> None:
    ridge, size = Ridge(), 0.2
    problem, start = ridge.problem(), torch.ones(4, dtype=D)
    indices = [1, 8, 8, 19, 4, 0, 2]
    x = start.clone().requires_grad_()
    peer = torch.optim.SGD([x], lr=size * (1 - momentum), momentum=momentum)
    solver = MomentumSGD(step_size=size, momentum=momentum, inner=len(indices))
    state = solver.init(problem, start, torch.Generator())
    with drawn([[i] for i in indices]), torch.no_grad():
        ours = solver.step(problem, state).point
    for index in indices:
        x.grad = ridge.gradients(x.detach())[index]
        peer.step()
    torch.testing.assert_close(ours, x.detach())
    if momentum == 0:
        plain = SGD(step_rule=Constant(size), inner=len(indices))
        with drawn([[i] for i in indices]), torch.no_grad():
            torch.testing.assert_close(plain.step(problem, plain.init(problem, start, torch.Generator())).point, ours)


@pytest.mark.parametrize("part", [1.0, 0.25])
def test_the_last_iterate_lies_under_its_bound(part: float) -> None:
    ridge = Ridge(ridge=0.0)
    size, steps = part / (4 * ridge.worst), 200
    found = paths(MomentumSGD(step_size=size, inner=1), ridge.problem(), torch.full((4,), 2.0, dtype=D), steps, 40)
    mean, error = mean_and_error([[ridge.gap(s.point) for s in states] for states in found])
    bound = ridge.distance(found[0][0].point) / (size * np.arange(1, steps + 2)) + 2 * size * ridge.noise
    assert (mean <= bound + 3 * error).all()
    assert mean[-1] < 0.5 * mean[0]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="momentum"):
        MomentumSGD(momentum=1.0)
    with pytest.raises(ValueError, match="regularizer"):
        MomentumSGD().run(Ridge().problem(L1(0.1)), torch.zeros(4, dtype=D), budget="1steps")


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is MomentumSGD
    assert CARD.needs == MomentumSGD.needs
