"""Attacks: sign conventions, projections, clip range, and what they must find where the worst case is known."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from steepest.train.convexnet import TwoLayerReLU, adversarial_training, fgsm, pgd
from steepest.train.convexnet.ball import Ball


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights: torch.Tensor, offset: float = 0.3) -> nn.Linear:
    model = nn.Linear(len(weights), 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weights[None])
        model.bias.fill_(offset)
    return model


SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0, 3.0])
@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_both_attacks_find_the_worst_case_of_a_linear_model(norm: float, loss: str) -> None:
    # The margin falls by exactly r |w|_q; a residual grows by as much.
    w, x, r = normal(4), normal(5, 4, seed=1), 0.37
    model, dual = linear(w), torch.linalg.vector_norm(w, ord=Ball(r, norm).dual)
    clean = model(x).detach()[:, 0]
    for found in (fgsm(model, x, SIGNS, r, loss=loss, norm=norm), pgd(model, x, SIGNS, r, loss=loss, norm=norm)):
        moved = model(found).detach()[:, 0]
        side = -SIGNS if loss == "logistic" else torch.sign(clean - SIGNS)
        torch.testing.assert_close(moved - clean, side * r * dual, rtol=1e-9, atol=1e-9)
        length = torch.linalg.vector_norm(found - x, ord=norm, dim=1)
        torch.testing.assert_close(length, torch.full_like(length, r))


def test_fgsm_is_the_sign_of_the_gradient_of_the_loss() -> None:
    network = TwoLayerReLU(3, 6, bias=True, dtype=torch.float64)
    x = normal(5, 3, seed=2)
    moved = x.clone().requires_grad_()
    functional.softplus(-SIGNS * network(moved)[:, 0]).sum().backward()
    assert moved.grad is not None
    assert torch.equal(fgsm(network, x, SIGNS, 0.1, loss="logistic"), x + 0.1 * torch.sign(moved.grad))


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
def test_perturbed_inputs_stay_in_the_ball_and_in_the_range(norm: float) -> None:
    network = TwoLayerReLU(4, 20, dtype=torch.float64)
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for found in (
        fgsm(network, x, SIGNS, 0.6, norm=norm, clip=(0.0, 1.0)),
        pgd(network, x, SIGNS, 0.6, norm=norm, clip=(0.0, 1.0), restarts=3),
        pgd(network, x, SIGNS, 0.6, norm=norm, clip=(0.0, 1.0), keep="last", restarts=1),
    ):
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert float(torch.linalg.vector_norm(found - x, ord=norm, dim=1).max()) <= 0.6 * (1 + 1e-12)


@pytest.mark.parametrize("norm", [2.0, 1.0])
def test_projections_are_the_nearest_points(norm: float) -> None:
    # Variational inequality: (delta - P delta) . (b - P delta) <= 0 for every b of the ball.
    ball, delta = Ball(0.8, norm), normal(6, 5, seed=4)
    found = ball.project(delta)
    points = ball.project(3 * normal(400, 5, seed=5))
    for one, own in zip(delta, found, strict=True):
        assert float(((one - own) * (points - own)).sum(1).max()) <= 1e-12
    inside = 0.01 * delta
    torch.testing.assert_close(ball.project(inside), inside)


def test_pgd_is_at_least_as_strong_as_fgsm_and_more_restarts_never_hurt() -> None:
    torch.manual_seed(0)
    network = TwoLayerReLU(6, 40, bias=True, dtype=torch.float64)
    x, y = normal(60, 6), torch.sign(normal(60, seed=1))

    def harm(found: torch.Tensor) -> torch.Tensor:
        return functional.softplus(-y * network(found)[:, 0]).detach()

    single, one, five = (
        harm(fgsm(network, x, y, 0.5, loss="logistic")),
        harm(pgd(network, x, y, 0.5, loss="logistic", restarts=1)),
        harm(pgd(network, x, y, 0.5, loss="logistic", restarts=5)),
    )
    assert bool((one >= single).all())
    assert bool((five >= one).all())
    assert float((five - single).max()) > 1e-3
    assert bool((single >= 0).all())
    assert float(one.sum()) > float(harm(x).sum())


def test_attacks_leave_the_model_alone_and_take_no_radius_as_no_change() -> None:
    network = TwoLayerReLU(4, 5, dtype=torch.float64).train()
    x = normal(5, 4)
    for attack in (fgsm, pgd):
        assert torch.equal(attack(network, x, SIGNS, 0.0), x)
        attack(network, x, SIGNS, 0.1)
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert not x.requires_grad


def test_attacks_take_other_losses_and_many_classes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, dtype=torch.float64))
    x, y = normal(7, 3, 4), torch.arange(7) % 3
    loss = partial(functional.cross_entropy, reduction="none")
    found = pgd(model, x, y, 0.2, loss=loss)
    assert found.shape == x.shape
    assert float((loss(model(found), y) - loss(model(x), y)).detach().min()) > 0
    with pytest.raises(ValueError, match="for each of 7 samples"):
        pgd(model, x, y, 0.2, loss=functional.cross_entropy)


def test_random_starts_come_from_the_generator_alone() -> None:
    network = TwoLayerReLU(4, 30, dtype=torch.float64)
    x = normal(5, 4)
    one, two, other = (
        pgd(network, x, SIGNS, 0.5, steps=1, keep="last", restarts=1, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_training_against_an_attack_finds_the_robust_solution(attack: str) -> None:
    # One strong but fragile feature and one weak but stable: clean training uses the first, robust training cannot.
    g = torch.Generator().manual_seed(0)
    y = torch.where(torch.rand(200, generator=g, dtype=torch.float64) < 0.5, 1.0, -1.0).double()
    x = torch.stack([0.2 * y, y * (torch.rand(200, generator=g, dtype=torch.float64) * 0.4 + 0.8)], dim=1)
    x[::10, 1] *= -1  # the stable one is wrong on a tenth
    accuracy = {}
    for kind in (attack, "none"):
        torch.manual_seed(1)
        network = TwoLayerReLU(2, 20, dtype=torch.float64)
        history = adversarial_training(
            network, x, y, 0.25, attack=kind, loss="logistic", epochs=150, batch_size=50, lr=0.02
        )
        assert len(history) == 150
        assert history[-1] < history[0]
        found = pgd(network, x, y, 0.25, loss="logistic")
        accuracy[kind] = float((y * network(found)[:, 0] > 0).double().mean())
    assert accuracy[attack] >= 0.89 > 0.6 > accuracy["none"]


def test_bad_input_is_named() -> None:
    network, x = TwoLayerReLU(2, 3), torch.tensor([[0.5, 2.0]])
    y = torch.ones(1)
    with pytest.raises(ValueError, match="adversarial_radius"):
        fgsm(network, x, y, -0.1)
    with pytest.raises(ValueError, match="adversarial_radius"):
        pgd(network, x, y, math.nan)
    with pytest.raises(ValueError, match=r"must lie in clip=\(0.0, 1.0\), got values from 0.5 to 2"):
        pgd(network, x, y, 0.1, clip=(0.0, 1.0))
    with pytest.raises(ValueError, match="low < high"):
        fgsm(network, x, y, 0.1, clip=(1.0, 0.0))
    with pytest.raises(ValueError, match="finite"):
        fgsm(network, x * math.nan, y, 0.1)
    with pytest.raises(ValueError, match="norm"):
        fgsm(network, x, y, 0.1, norm=0.5)
    with pytest.raises(ValueError, match="attack"):
        adversarial_training(network, x, y, 0.1, attack="cw")
