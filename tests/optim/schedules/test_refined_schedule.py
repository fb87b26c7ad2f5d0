"""Refined schedules: special cases, invariances, and the bound behind them against its definition and brute force."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from steepest.optim import NormClip
from steepest.optim.schedules import (
    GradientNorms,
    LinearDecay,
    RefinedSchedule,
    minimize_bound,
    refine,
    subgradient_bound,
)
from steepest.optim.schedules.refined_schedule import _bound_and_slope

RNG = np.random.default_rng(0)


def optimizer(lr: float = 0.5) -> SGD:
    first, second = torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    frozen = torch.ones(2)
    return SGD([{"params": [first]}, {"params": [second, frozen], "lr": 2 * lr}], lr=lr)


def rates(opt: SGD, scheduler: Any, count: int) -> list[list[float]]:
    found = []
    for _ in range(count):
        found.append([group["lr"] for group in opt.param_groups])
        opt.step()
        scheduler.step()
    return found


# ------------------------------------------------------------------------------------------------------- refinement


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_constant_norms_give_exact_linear_decay(order: int, smoothing: float) -> None:
    ours, theirs = optimizer(), optimizer()
    found = rates(ours, RefinedSchedule(ours, [3.7] * 40, order, smoothing), 42)
    assert np.allclose(found, rates(theirs, LinearDecay(theirs, 40), 42), rtol=1e-12, atol=1e-15)


def test_the_definition_as_a_double_loop() -> None:
    norms = RNG.uniform(0.5, 3.0, 12)
    weights = [g**-2 for g in [*norms, norms[-1]]]
    expected = np.array([weights[t] * sum(weights[s] for s in range(t + 1, 13)) for t in range(12)])
    assert np.allclose(refine(norms, 2, smoothing=0), expected / expected.max(), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 5.0, 1e150])
def test_the_scale_of_the_norms_does_not_matter(scale: float) -> None:
    norms = RNG.uniform(0.5, 3.0, 50)
    assert np.allclose(refine(scale * norms), refine(norms), rtol=1e-9)


def test_smoothing_is_a_running_median_that_is_reflected_at_the_end() -> None:
    spiky = np.ones(60)
    spiky[[10, 11, 30, 59]] = 100.0, 50.0, 100.0, 100.0
    assert np.allclose(refine(spiky, smoothing=0.1), refine(np.ones(60)))  # a window of 7, at most three outliers
    growing = np.linspace(1.0, 3.0, 40)
    window, half = 5, 2
    padded = np.concatenate([[growing[0]] * half, growing, growing[-2 : -2 - half : -1]])
    medians = [np.median(padded[t : t + window]) for t in range(40)]
    assert np.allclose(refine(growing, smoothing=0.125), refine(medians, smoothing=0))


def test_falling_norms_warm_up_and_growing_ones_decay_early() -> None:
    falling = refine(np.linspace(5.0, 1.0, 100), smoothing=0)
    assert 20 < int(np.argmax(falling)) < 99
    growing = refine(np.linspace(1.0, 5.0, 100), smoothing=0)
    assert int(np.argmax(growing)) == 0
    assert (growing[1:] < refine(np.ones(100))[1:]).all()


def test_useless_norms_are_interpolated() -> None:
    norms = np.linspace(1.0, 2.0, 20)
    holes = norms.copy()
    holes[[3, 8, 13]] = np.nan, np.inf, 0.0
    assert np.allclose(refine(holes, smoothing=0), refine(norms, smoothing=0))


def test_a_longer_run_stretches_the_schedule() -> None:
    norms = 1 + np.sin(np.linspace(0, 3, 200)) ** 2
    short, long = RefinedSchedule(optimizer(), norms), RefinedSchedule(optimizer(), norms, steps=1000)
    assert len(long.factors) == 1000
    assert max(long.factors) == 1.0
    assert np.allclose(np.array(long.factors).reshape(200, 5).mean(1), short.factors, atol=0.01)


def test_a_resumed_run_keeps_the_refined_schedule() -> None:
    norms = RNG.uniform(0.5, 2.0, 15)
    whole = optimizer()
    expected = rates(whole, RefinedSchedule(whole, norms, 1), 15)
    first = optimizer()
    scheduler = RefinedSchedule(first, norms, 1)
    found = rates(first, scheduler, 6)
    saved = json.loads(json.dumps(scheduler.state_dict()))
    second = optimizer()
    resumed = RefinedSchedule(second, [1.0])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(saved)
    assert found + rates(second, resumed, 9) == expected


# ------------------------------------------------------------------------------------------------------- the recorder


@pytest.mark.parametrize("order", [1, 2])
def test_norms_are_of_all_groups_together_and_before_clipping(order: int) -> None:
    opt = optimizer()
    norms = GradientNorms(opt, order)
    params = [p for group in opt.param_groups for p in group["params"] if p.requires_grad]
    expected = []
    for step in range(3):
        for p in params:
            p.grad = torch.full_like(p, 1.0 + step)
        params[0].grad[0] = -30.0
        norms.record()
        expected.append(float(torch.cat([p.grad.flatten() for p in params]).norm(order)))
        clip_grad_norm_(params, 0.1)
        opt.step()
    assert np.allclose(norms.values, expected)
    assert len(norms) == 3


def test_attached_to_the_outermost_transform_it_sees_what_comes_before_the_clip() -> None:
    opt = NormClip(optimizer(), 0.1)
    norms = GradientNorms(opt)
    handle = norms.attach()
    for p in (p for group in opt.param_groups for p in group["params"] if p.requires_grad):
        p.grad = torch.full_like(p, 2.0)
    opt.step()
    handle.remove()
    opt.step()
    assert norms.values == pytest.approx([2 * 7**0.5])


def test_half_precision_sparse_and_missing_gradients() -> None:
    half = torch.zeros(4, dtype=torch.float16, requires_grad=True)
    table = torch.nn.Embedding(5, 2, sparse=True)
    opt = SGD([half, table.weight], lr=0.1)
    norms = GradientNorms(opt)
    norms.record()
    half.grad = torch.full_like(half, 6e4)  # its square is beyond the dtype
    table(torch.tensor([1, 1])).sum().backward()
    norms.record()
    assert norms.values[0] == 0
    assert norms.values[1] == pytest.approx((4 * float(half.grad[0]) ** 2 + 2 * 4) ** 0.5, rel=1e-9)


def test_the_recorder_is_saved_and_goes_on() -> None:
    opt = optimizer()
    p = opt.param_groups[0]["params"][0]
    norms = GradientNorms(opt, 1)
    for step in range(4):
        p.grad = torch.full_like(p, 1.0 + step)
        norms.record()
    again = GradientNorms(opt, 2)
    again.load_state_dict(json.loads(json.dumps(norms.state_dict())))
    again.record()
    assert again.values.tolist() == [3.0, 6.0, 9.0, 12.0, 12.0]
    schedule = RefinedSchedule(optimizer(), again, order=1, smoothing=0)
    assert schedule.factors == refine([3, 6, 9, 12, 12], 1, 0).tolist()
    with pytest.raises(ValueError, match="order must be that of the recorded norms, 1, got 2"):
        RefinedSchedule(optimizer(), again)


# ------------------------------------------------------------------------------------------------------- the bound


def as_in_the_paper(sizes: Any, norms: Any, distance: float) -> float:
    """The double sum."""
    energy = sizes**2 * norms**2
    total = (distance**2 + energy.sum()) / (2 * sizes.sum())
    for k in range(len(sizes) - 1):
        total += 0.5 * sizes[k] / (sizes[k + 1 :].sum() * sizes[k:].sum()) * energy[k:].sum()
    return float(total)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_bound_is_the_papers_double_sum(steps: int) -> None:
    sizes, norms = RNG.uniform(0.2, 2.0, (2, steps))
    assert subgradient_bound(sizes, norms, 1.3) == pytest.approx(as_in_the_paper(sizes, norms, 1.3), rel=1e-12)
    slope = _bound_and_slope(sizes, norms**2, 1.3)[1]
    for k, unit in enumerate(np.eye(steps)):
        ahead, behind = (subgradient_bound(sizes + h * unit, norms, 1.3) for h in (1e-6, -1e-6))
        assert slope[k] == pytest.approx((ahead - behind) / 2e-6, abs=1e-7)


def test_the_bound_holds_for_the_subgradient_method() -> None:
    """On ``f(x) = |A x - b|_1 / n`` with ``b = A x*``, whose minimum is 0."""
    design, solution = RNG.normal(size=(30, 4)), RNG.normal(size=4)
    for sizes in (0.3 / np.sqrt(np.arange(1, 51)), 0.3 * np.linspace(1, 0.02, 50), RNG.uniform(0.01, 0.5, 50)):
        x, norms = np.zeros(4), []
        for size in sizes:
            g = design.T @ np.sign(design @ (x - solution)) / 30
            norms.append(float(np.linalg.norm(g)))
            last = x
            x = x - size * g
        value = np.abs(design @ (last - solution)).mean()
        assert value <= subgradient_bound(sizes, norms, float(np.linalg.norm(solution)))


def test_five_steps_against_brute_force() -> None:
    norms = np.array([2.0, 1.0, 0.7, 1.0, 1.5])
    found = minimize_bound(norms, distance=2.0)
    best = subgradient_bound(found, norms, 2.0)
    draws = found * np.exp(RNG.normal(size=(4000, 5)) * RNG.choice([0.01, 0.1, 1.0, 2.0], size=(4000, 1)))
    assert all(subgradient_bound(sizes, norms, 2.0) >= best for sizes in draws)
    # And from far away: the best of a coarse grid, refined coordinate by coordinate.
    sizes = np.ones(5)
    for width in (4.0, 2.0, 1.3, 1.1, 1.03, 1.01, 1.003):
        for _ in range(30):
            for k in range(5):
                tries = [sizes * np.where(np.arange(5) == k, c, 1.0) for c in (1 / width, 1.0, width)]
                sizes = min(tries, key=lambda s: subgradient_bound(s, norms, 2.0))
    assert subgradient_bound(sizes, norms, 2.0) == pytest.approx(best, rel=1e-4)
    assert np.allclose(sizes, found, rtol=0.05)


def test_the_minimizer_scales_with_the_distance_and_against_the_norms() -> None:
    norms = RNG.uniform(0.5, 2.0, 20)
    base = minimize_bound(norms)
    assert np.allclose(minimize_bound(10 * norms, distance=3.0), 0.3 * base, rtol=1e-4)


def test_for_constant_norms_the_minimizer_is_linear_decay_but_for_its_end() -> None:
    steps = 400
    found = minimize_bound(np.ones(steps))
    line = np.arange(steps, 0, -1) / steps
    assert np.abs(found / found[0] - line)[:-1].max() < 0.01  # the last one moves no iterate
    best_line = min(subgradient_bound(c * line / steps**0.5, 1.0) for c in np.geomspace(0.5, 2, 100))
    best = subgradient_bound(found, 1.0)
    assert best <= best_line <= 1.01 * best


@pytest.mark.parametrize("shape", ["falling", "growing"])
def test_the_closed_form_is_near_the_minimizer(shape: str) -> None:
    """The two come from different bounds of one thing; in the value of this one they differ little."""
    norms = np.geomspace(3.0, 1.0, 200) if shape == "falling" else np.geomspace(1.0, 3.0, 200)
    best = subgradient_bound(minimize_bound(norms), norms)

    def tuned(factors: Any) -> float:
        return min(subgradient_bound(c * factors, norms) for c in np.geomspace(1e-3, 1, 200))

    refined, linear = tuned(refine(norms, smoothing=0)), tuned(refine(np.ones(200)))
    assert best <= refined < linear


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: refine([1.0], 3), "refine: order must be one of 1, 2, got 3"),
        (lambda: refine([1.0], smoothing=1.5), r"refine: smoothing must be a finite number in \[0, 1\], got 1.5"),
        (lambda: refine([]), "norms must be a sequence of at least one number"),
        (lambda: refine([1.0, -2.0]), "norms must not be negative"),
        (lambda: refine([0.0, np.nan]), "norms must hold a positive finite number, got none among 2"),
        (lambda: GradientNorms(optimizer(), 0), "GradientNorms: order must be one of 1, 2, got 0"),
        (lambda: RefinedSchedule(optimizer(), [1.0], steps=0), "RefinedSchedule: steps must be an integer >= 1"),
        (lambda: subgradient_bound([1.0, 0.0], 1.0), "step_sizes must be a sequence of positive finite numbers"),
        (lambda: subgradient_bound([1.0, 1.0], [1.0]), r"norms must be .* or one for each of 2 steps, got"),
        (lambda: subgradient_bound([1.0], float("nan")), "norms must be a non-negative finite number"),
        (lambda: subgradient_bound([1.0], 1.0, -1.0), r"subgradient_bound: distance must be .* got -1.0"),
        (lambda: minimize_bound([1.0], 0.0), r"minimize_bound: distance must be a finite number in \(0, inf\)"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
