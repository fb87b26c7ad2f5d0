"""Transforms beside independent oracles: numpy, torch's own clip and decay, optax's noise, a peer's cautious Lion."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, assign, gradients, parameters, run
from oracle_helpers import STEPS, random_shapes, schedule
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from steepest.optim import (
    Cautious,
    CoordinateClip,
    GradientNoise,
    Lion,
    NormClip,
    WeightDecay,
    cautious_adamw,
    sgd_with_coordinate_clip,
    sgd_with_gradient_noise,
)
from steepest.optim.coordinate_clip import threshold

# ------------------------------------------------------------------------------------------------ coordinate clip


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_clipped_sgd_against_numpy(fraction: float) -> None:
    """Momentum on gradients that are clipped at one order statistic of all coordinates together."""
    params = parameters(random_shapes(0))
    opt = sgd_with_coordinate_clip(
        [{"params": params[::2]}, {"params": params[1::2], "lr": 0.3, "weight_decay": 0.05}],
        lr=0.1,
        fraction=fraction,
    )
    numbers = [p.detach().numpy().copy() for p in params]
    momentum = [np.zeros_like(x) for x in numbers]
    for t, step in enumerate(gradients(params, STEPS), start=1):
        rates = [0.1 * schedule(t), 0.3 * schedule(t)]
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate
        run(opt, params, [step])
        everything = np.sort(np.abs(np.concatenate([g.numpy().ravel() for g in step])))[::-1]
        tau = everything[math.floor(everything.size * fraction)]
        for i, g in enumerate(step):
            clipped = np.sign(g.numpy()) * np.minimum(np.abs(g.numpy()), tau) + (0.05 if i % 2 else 0.0) * numbers[i]
            momentum[i] = 0.9 * momentum[i] + clipped
            numbers[i] = numbers[i] - rates[i % 2] * momentum[i]
    for p, x in zip(params, numbers, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-11, atol=1e-11)


def transformed(make: Any, grads: list[Tensor]) -> list[Tensor]:
    """The gradients that the base sees, read off a plain step of SGD."""
    params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    assign(params, grads)
    make(SGD(params, lr=1.0)).step()
    return [-p.detach() for p in params]


def test_exactly_the_fraction_is_clipped() -> None:
    (grads,) = gradients(parameters(((40, 25), (500,))), 1)
    found = transformed(lambda b: CoordinateClip(b, 0.1), grads)
    changed = sum(int((f != g).sum()) for f, g in zip(found, grads, strict=True))
    assert changed == 150
    assert len({float(f.abs().max()) for f in found}) == 1, "one threshold for all tensors"


def test_all_but_one_clipped_and_rescaled_is_the_sign() -> None:
    (grads,) = gradients(parameters(), 1)
    found = transformed(lambda b: CoordinateClip(b, 1 - 1e-9), grads)
    smallest = min(float(g.abs().min()) for g in grads)
    for f, g in zip(found, grads, strict=True):
        torch.testing.assert_close(f / smallest, g.sign())


def test_zeros_do_not_clip_everything() -> None:
    """An embedding's gradient is mostly zero: the rank falls on a zero, the threshold on the smallest above it."""
    g = torch.zeros(100)
    g[:5] = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0])
    (found,) = transformed(lambda b: CoordinateClip(b, 0.1), [g])
    assert found[:5].tolist() == [1.0, -1.0, 1.0, -1.0, 1.0]
    assert not found[5:].any()
    assert not transformed(lambda b: CoordinateClip(b, 0.1), [torch.zeros(10)])[0].any()


def test_infinite_coordinates_are_passed_on() -> None:
    g = torch.tensor([math.inf, -math.inf, math.nan, *range(1, 8)])
    (found,) = transformed(lambda b: CoordinateClip(b, 0.5), [g])
    assert found[:2].tolist() == [math.inf, -math.inf]
    assert found[2].isnan()
    assert found[3:].tolist() == [1, 2, 3, 4, 5, 5, 5]  # the three rank highest


def test_the_sampled_threshold_is_as_exact_as_documented() -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(200_000, generator=generator) * s for s in (1.0, 10.0)] + [torch.randn(7)]
    every = torch.cat(tensors).abs()
    sample = 4000
    for fraction in (0.05, 0.1, 0.5):
        above = float((every > threshold(tensors, fraction, sample)).double().mean())
        error = math.sqrt(fraction * (1 - fraction) / sample)
        assert abs(above - fraction) < 4 * error
        assert above != fraction
        assert torch.equal(threshold(tensors, fraction, sample), threshold(tensors, fraction, sample))
    assert torch.equal(threshold(tensors, 0.1, 500_000), threshold(tensors, 0.1, None))


# ------------------------------------------------------------------------------------------------ norm clip


@pytest.mark.parametrize("bound", [1e-3, 1.0, 100.0])
def test_norm_clip_is_torchs(bound: float) -> None:
    params, twins = parameters(), parameters()
    opt, twin = NormClip(SGD(params, lr=0.1, momentum=0.9), bound), SGD(twins, lr=0.1, momentum=0.9)
    for step in gradients(params, STEPS):
        run(opt, params, [step])
        assign(twins, step)
        nn.utils.clip_grad_norm_(twins, bound)
        twin.step()
    assert_same([p.detach() for p in params], [p.detach() for p in twins])


# ------------------------------------------------------------------------------------------------ weight decay


def test_decoupled_decay_over_adam_is_adamw() -> None:
    params, twins = parameters(), parameters()
    opt = WeightDecay(Adam([{"params": params[:2]}, {"params": params[2:], "lr": 0.03}], lr=0.01), 0.2)
    twin = AdamW([{"params": twins[:2]}, {"params": twins[2:], "lr": 0.03}], lr=0.01, weight_decay=0.2)
    for t, step in enumerate(gradients(params, STEPS), start=1):
        for each in (opt, twin):
            for group, rate in zip(each.param_groups, (0.01, 0.03), strict=True):
                group["lr"] = rate * schedule(t)
        run(opt, params, [step])
        run(twin, twins, [step])
    assert_same([p.detach() for p in params], [p.detach() for p in twins])


@pytest.mark.parametrize("maximize", [False, True])
def test_coupled_decay_over_sgd_is_sgds(maximize: bool) -> None:
    params, twins = parameters(), parameters()
    opt = WeightDecay(SGD(params, lr=0.1, momentum=0.9, maximize=maximize), 0.2, decoupled=False)
    twin = SGD(twins, lr=0.1, momentum=0.9, weight_decay=0.2, maximize=maximize)
    grads = gradients(params, STEPS)
    run(opt, params, grads)
    run(twin, twins, grads)
    assert_same([p.detach() for p in params], [p.detach() for p in twins])


# ------------------------------------------------------------------------------------------------ gradient noise


def noise_at(t: int, size: int, **settings: Any) -> np.ndarray:
    p = nn.Parameter(torch.zeros(size, dtype=torch.float64))
    opt = GradientNoise(SGD([p], lr=1.0), **settings)
    opt.steps = t
    p.grad = torch.zeros_like(p)
    opt.step()
    return p.detach().numpy()


def within_chi_square(values: np.ndarray, variance: float) -> None:
    """The sum of squares over the variance lies in the central part of its distribution."""
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], values.size)
    assert low < (values**2).sum() / variance < high


@pytest.mark.parametrize("t", [0, 10, 1000])
@pytest.mark.parametrize(("eta", "gamma"), [(0.01, 0.55), (1.0, 0.3), (0.3, 0.0)])
def test_the_noise_has_the_papers_variance(t: int, eta: float, gamma: float) -> None:
    size = 100_000
    values = noise_at(t, size, eta=eta, gamma=gamma, seed=7)
    within_chi_square(values, eta / (1 + t) ** gamma)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(size)
    assert stats.kstest(values / values.std(), "norm").pvalue > 1e-4


def test_the_schedule_is_optax_add_noise() -> None:
    """optax's noise of step 0, 1, ..., 30 has the variance that ours is made with."""
    import jax
    import jax.numpy as jnp
    import optax

    p = nn.Parameter(torch.zeros(3))
    opt = GradientNoise(SGD([p], lr=1.0), eta=0.3, gamma=0.8)
    transform = optax.add_noise(eta=0.3, gamma=0.8, key=1)
    zero = jnp.zeros(50_000)
    state = transform.init(zero)
    for _ in range(31):
        noise, state = transform.update(zero, state)
        within_chi_square(np.asarray(jax.device_get(noise), dtype=np.float64), opt.deviation**2)
        p.grad = torch.zeros_like(p)
        opt.step()


def test_noise_is_of_seed_and_step_alone() -> None:
    size = 20_000
    same = noise_at(3, size, seed=1)
    np.testing.assert_array_equal(same, noise_at(3, size, seed=1))
    state = torch.get_rng_state()
    others = [
        noise_at(4, size, seed=1),
        noise_at(3, size, seed=2),
        noise_at(1, size, seed=3),
        noise_at(2, size, seed=2),
    ]
    assert torch.equal(state, torch.get_rng_state()), "torch's global random state is the caller's"
    for other in others:  # steps and seeds are independent of each other
        assert abs(np.corrcoef(same, other)[0, 1]) < 4 / math.sqrt(size)
    halves = noise_at(0, size, seed=1).reshape(2, -1)
    assert abs(np.corrcoef(halves)[0, 1]) < 4 / math.sqrt(size / 2)


def test_all_evaluations_of_a_step_meet_the_same_noise() -> None:
    """LBFGS on a bowl with noise is LBFGS on a tilted bowl: its minimum moves by the noise, within one step."""
    p = nn.Parameter(torch.ones(4, dtype=torch.float64))
    opt = GradientNoise(torch.optim.LBFGS([p], max_iter=20), eta=1.0, seed=3)

    def closure() -> Tensor:
        opt.zero_grad()
        (loss := 0.5 * p.square().sum()).backward()
        return loss

    opt.step(closure)
    q = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    q.grad = torch.zeros_like(q)
    GradientNoise(SGD([q], lr=1.0), eta=1.0, seed=3).step()
    torch.testing.assert_close(p.detach(), q.detach())


def test_without_noise_a_network_of_zeros_does_not_move_and_with_it_does() -> None:
    def network() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        for p in net.parameters():
            nn.init.zeros_(p)
        return net

    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    for eta in (0.0, 0.01):
        net = network()
        opt = sgd_with_gradient_noise(net.parameters(), lr=0.1, eta=eta)
        for step in range(5):
            opt.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            hidden = [*net[0].parameters(), *net[2].parameters(), net[4].weight]
            if eta == 0 or step == 0:
                assert all(not p.grad.any() for p in hidden)
                assert net[4].bias.grad.any()
            opt.step()
        assert all(bool(p.any()) is (eta > 0) for p in hidden)


# ------------------------------------------------------------------------------------------------ cautious


def masked(update: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The paper's: d / (agreeing + 1) times the agreeing coordinates."""
    phi = (update * g > 0).astype(np.float64)
    return update * phi * (phi.size / (phi.sum() + 1))


def test_cautious_adamw_against_numpy() -> None:
    params = parameters(random_shapes(1))
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.03, "weight_decay": 0.0}]
    opt = cautious_adamw(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    numbers = [p.detach().numpy().copy() for p in params]
    state = [{"m": np.zeros_like(x), "v": np.zeros_like(x)} for x in numbers]
    waited = 0
    for t, step in enumerate(gradients(params, STEPS), start=1):
        rates = [0.01 * schedule(t), 0.03 * schedule(t)]
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate
        run(opt, params, [step])
        for i, (grad, s) in enumerate(zip(step, state, strict=True)):
            g, rate = grad.numpy(), rates[i % 2]
            s["m"] = 0.8 * s["m"] + 0.2 * g
            s["v"] = 0.95 * s["v"] + 0.05 * g * g
            update = s["m"] / (1 - 0.8**t) / (np.sqrt(s["v"] / (1 - 0.95**t)) + 1e-3)
            waited += int((update * g <= 0).sum())
            numbers[i] = numbers[i] * (1 - rate * 0.1) - rate * masked(update, g)
    assert waited > 1000
    for p, x in zip(params, numbers, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_cautious_lion_is_a_peers(decay: float) -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    params, twins = parameters(), parameters()
    opt = WeightDecay(Cautious(Lion(params, lr=0.01)), decay)
    twin = pytorch_optimizer.Lion(twins, lr=0.01, weight_decay=decay, cautious=True)
    for t, step in enumerate(gradients(params, STEPS), start=1):
        for group in (*opt.param_groups, *twin.param_groups):
            group["lr"] = 0.01 * schedule(t)
        run(opt, params, [step])
        run(twin, twins, [step])
    assert_close(params, twins, 1e-12)


def test_without_momentum_only_the_factor_is_left() -> None:
    params = parameters(((4, 5),))
    (grads,) = gradients(params, 1)
    start = params[0].detach().clone()
    run(Cautious(SGD(params, lr=0.1)), params, [grads])
    torch.testing.assert_close(params[0].detach(), start - 0.1 * grads[0] * 20 / 21, rtol=1e-12, atol=1e-12)


def test_no_coordinate_moves_against_its_gradient() -> None:
    params = parameters()
    opt = Cautious(SGD(params, lr=0.1, momentum=0.95))
    held = 0
    for step in gradients(params, STEPS):
        before = [p.detach().clone() for p in params]
        run(opt, params, [step])
        for p, old, g in zip(params, before, step, strict=True):
            assert ((old - p.detach()) * g >= 0).all()
            held += int((old == p.detach()).sum())
    assert held > 500
