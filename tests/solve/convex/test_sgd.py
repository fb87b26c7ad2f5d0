"""Proximal SGD: samples and their counts, exact expectations, the bounds of its docstring, scikit-learn's optimum."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sums import Ridge, drawn, expectation, mean_and_error, paths

from steepest.core.budget import Budget
from steepest.core.oracle import OracleCounts, counting
from steepest.core.regularizer import L1
from steepest.solve.convex import SGD, FiniteSum, LinearModel
from steepest.solve.convex.sgd import CARD
from steepest.solve.convex.sgd_steps import (
    Constant,
    Decreasing,
    PolyakStep,
    PolynomialAverage,
    PowerDecay,
    StepAverage,
    Switching,
    UniformAverage,
)
from steepest.solve.convex.stochastic import draw, smoothness, spread

D = torch.float64
SEEDS = 50


def linear(layout: str = "dense", loss: str = "squared", scale: Any = "mean", outputs: int = 0) -> LinearModel:
    generator = torch.Generator().manual_seed(1)
    design = torch.randn(7, 3, dtype=D, generator=generator)
    target = torch.randn(7, *([outputs] if outputs else []), dtype=D, generator=generator)
    target = torch.sign(target) if loss == "logistic" else target
    design = torch.where(design.abs() < 0.3, 0.0, design)
    return LinearModel(design if layout == "dense" else design.to_sparse_csr(), target, loss, scale=scale)


def batches(samples: int, batch: int, replacement: bool) -> list[tuple[int, ...]]:
    """All that can be drawn."""
    every = range(samples)
    return list(itertools.product(every, repeat=batch) if replacement else itertools.permutations(every, batch))


def problems() -> list[Any]:
    choices = [
        linear(layout, loss, scale)
        for layout in ("dense", "csr")
        for loss in ("squared", "logistic")
        for scale in ("mean", "sum")
    ]
    ridge = Ridge(n=7, d=3)
    return [*choices, linear(outputs=2), ridge.finite_sum(), ridge.problem()]


@pytest.mark.parametrize("problem", problems())
def test_every_oracle_of_samples_is_the_mean_of_single_samples(problem: Any) -> None:
    shape = (3, 2) if isinstance(problem, LinearModel) and problem.target.dim() == 2 else (3,)
    x = torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(2))
    every = torch.arange(7)
    full = problem.smooth_gradient(x)
    singles = torch.stack([problem.sample_gradient(x, every[i : i + 1]) for i in every])
    torch.testing.assert_close(singles.mean(0), full)
    torch.testing.assert_close(problem.sample_gradient(x, every), full)
    torch.testing.assert_close(problem.full_gradient(x), full)
    torch.testing.assert_close(problem.sample_values(x, every).mean(), problem.smooth_value(x))
    some = torch.tensor([3, 0, 3])
    torch.testing.assert_close(problem.sample_gradient(x, some), singles[some].mean(0))
    compact = problem.compact_gradients(x, some)
    torch.testing.assert_close(problem.mean_of_compact(compact, some), singles[some].mean(0))
    value, gradient = problem.sample_value_and_gradient(x, some)
    torch.testing.assert_close(value, problem.sample_values(x, some).mean())
    torch.testing.assert_close(gradient, singles[some].mean(0))
    # The stated constant bounds every single gradient's, and is attained for a squared loss.
    y = x + 0.1 * torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(3))
    other = torch.stack([problem.sample_gradient(y, every[i : i + 1]) for i in every])
    assert float((other - singles).flatten(1).norm(dim=1).max()) <= problem.sample_lipschitz * float((x - y).norm())


@pytest.mark.parametrize("problem", [linear(), Ridge(n=7, d=3).finite_sum()])
def test_gradients_are_counted_in_samples(problem: Any) -> None:
    x, some = torch.zeros(3, dtype=D), torch.tensor([1, 4, 4])
    for call, expected in (
        (lambda: problem.sample_gradient(x, some), {"samples": 3}),
        (lambda: problem.sample_values(x, some), {"sample values": 3}),
        (lambda: problem.sample_value_and_gradient(x, some), {"samples": 3, "sample values": 3}),
        (lambda: problem.compact_gradients(x, some), {"samples": 3}),
        (lambda: problem.full_gradient(x), {"samples": 7}),
    ):
        counts = OracleCounts()
        with counting(counts):
            call()
        assert counts.snapshot() == expected
    result = SGD(step_rule=Constant(1e-3), batch=2).run(problem, x, budget="3steps")
    assert result.calls == {"prox": 12, "samples": 24}  # three epochs of ceil(7 / 2) batches of two
    result = SGD(step_rule=Constant(1e-3)).run(problem, x, budget=Budget(calls={"samples": 20}))
    assert result.calls["samples"] == 21


def test_a_problem_is_told_from_another_by_its_data() -> None:
    prints = [p.fingerprint() for p in problems()]
    assert len(set(prints)) == len(prints)
    assert linear().fingerprint() == linear().fingerprint()


def test_batches_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    for samples, batch, replacement in ((5, 2, False), (5, 3, False), (5, 2, True), (9, 3, False)):
        found = draw(samples, batch, 40_000, generator, replacement=replacement)
        assert found.shape == (40_000, batch)
        ordered = [tuple(row) for row in found.tolist()]
        possible = batches(samples, batch, replacement)
        counts = np.array([ordered.count(p) if len(possible) < 100 else 0 for p in possible])
        if len(possible) < 100:
            assert counts.sum() == 40_000
            expected = 40_000 / len(possible)
            assert abs(counts - expected).max() < 5 * np.sqrt(expected)
        else:
            assert all(len(set(row)) == batch for row in ordered)
            single = np.bincount(found.flatten().numpy(), minlength=samples)
            assert abs(single - single.mean()).max() < 5 * np.sqrt(single.mean())


@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (2, True), (2, False), (3, False), (4, False)])
def test_variance_and_smoothness_of_batches_by_enumeration(batch: int, replacement: bool) -> None:
    ridge = Ridge(n=4, d=3)
    problem = ridge.problem()
    share = spread(4, batch, replacement=replacement)
    choices = batches(4, batch, replacement)

    def moment(x: torch.Tensor, y: torch.Tensor) -> float:
        found = [(ridge.gradients(x) - ridge.gradients(y))[list(b)].mean(0).square().sum() for b in choices]
        return float(torch.stack(found).mean())

    zero = ridge.gradients(ridge.minimizer)
    variance = [zero[list(b)].mean(0).square().sum() for b in choices]
    assert float(torch.stack(variance).mean()) == pytest.approx(share * ridge.noise)
    constant = smoothness(problem, batch, replacement=replacement)
    assert constant is not None
    for seed in range(20):
        x = ridge.minimizer + torch.randn(3, dtype=D, generator=torch.Generator().manual_seed(seed))
        assert moment(x, ridge.minimizer) <= 2 * constant * ridge.gap(x) * (1 + 1e-9)
    if batch == 4 and not replacement:
        assert constant == pytest.approx(ridge.lipschitz)


@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (2, True), (2, False)])
def test_a_step_is_a_gradient_step_in_the_mean(batch: int, replacement: bool) -> None:
    ridge = Ridge(n=4, d=3)
    problem, x = ridge.problem(), torch.ones(3, dtype=D)
    solver = SGD(step_rule=Constant(0.07), batch=batch, replacement=replacement, inner=1)
    state = solver.init(problem, x, torch.Generator())
    mean = expectation(lambda: solver.step(problem, state).point, 4, batch, replacement=replacement)
    torch.testing.assert_close(mean, x - 0.07 * ridge.gradients(x).mean(0))


def test_the_distance_follows_its_exact_recursion_and_its_bound_and_ends_in_the_noise_ball() -> None:
    ridge = Ridge()
    problem, start = ridge.problem(), torch.full((4,), 3.0, dtype=D)
    eye, ends = torch.eye(4, dtype=D), []
    for size in (0.5 / ridge.worst, 0.25 / ridge.worst):
        steps = 150
        found = paths(SGD(step_rule=Constant(size), inner=1), problem, start, steps, SEEDS)
        mean, error = mean_and_error([[ridge.distance(s.point) for s in states] for states in found])
        bound = (1 - size * ridge.m) ** np.arange(steps + 1) * mean[0] + 2 * size * ridge.noise / ridge.m
        assert (mean <= bound + 3 * error).all()
        # e+ = (I - t H_i) e - t g_i in the exact second moment, with g_i the gradients at the minimizer.
        e = start - ridge.minimizer
        maps, kicks = eye - size * ridge.hessians, size * ridge.gradients(ridge.minimizer)
        first, second, exact = e, torch.outer(e, e), [float(e @ e)]
        for _ in range(20 * steps):
            cross = torch.einsum("nij,j,nk->ik", maps, first, kicks) / ridge.n
            second = (maps @ second @ maps.mT).mean(0) - cross - cross.T + kicks.T @ kicks / ridge.n
            first = maps.mean(0) @ first
            exact.append(float(second.trace()))
        assert (abs(mean - np.array(exact[: steps + 1])) <= 4 * error + 1e-12).all()
        # From the minimizer itself the iterates leave, and end in the same ball.
        away = paths(SGD(step_rule=Constant(size), inner=200), problem, ridge.minimizer, 1, SEEDS)
        distance, error = mean_and_error([[ridge.distance(s[-1].point)] for s in away])
        assert 0.3 * exact[-1] < distance[0] < exact[-1] + 3 * error[0]
        assert exact[-1] <= 2 * size * ridge.noise / ridge.m
        ends.append(exact[-1])
    assert ends[0] / ends[1] == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (5, True), (5, False), (20, False)])
def test_batches_shrink_the_noise_ball_as_the_bound_says(batch: int, replacement: bool) -> None:
    ridge = Ridge()
    problem, start = ridge.problem(), torch.full((4,), 3.0, dtype=D)
    constant = smoothness(problem, batch, replacement=replacement)
    assert constant is not None
    size, steps = 0.5 / constant, 60
    noise = ridge.noise * spread(ridge.n, batch, replacement=replacement)
    solver = SGD(step_rule=Constant(size), batch=batch, replacement=replacement, inner=1)
    found = paths(solver, problem, start, steps, 40)
    mean, error = mean_and_error([[ridge.distance(s.point) for s in states] for states in found])
    bound = (1 - size * ridge.m) ** np.arange(steps + 1) * mean[0] + 2 * size * noise / ridge.m
    assert (mean <= bound + 3 * error + 1e-12).all()
    if batch == 20:  # all samples without replacement: gradient descent
        x = start
        for state in found[0]:
            torch.testing.assert_close(state.point, x)
            x = x - size * ridge.gradients(x).mean(0)


def test_without_noise_at_the_minimizer_there_is_no_ball() -> None:
    ridge = Ridge(ridge=0.0, noise=0.0)
    assert ridge.noise < 1e-20
    size = 0.5 / ridge.worst
    found = paths(SGD(step_rule=Constant(size), inner=20), ridge.problem(), torch.ones(4, dtype=D), 60, 10)
    mean, error = mean_and_error([[ridge.distance(s.point) for s in states] for states in found])
    assert (mean <= (1 - size * ridge.m) ** (20 * np.arange(61)) * mean[0] + 3 * error + 1e-24).all()
    assert mean[-1] < 1e-6 * mean[0]


@pytest.mark.parametrize("rule", ["constant", "power"])
def test_the_gap_of_the_weighted_average_lies_under_its_bound(rule: str) -> None:
    ridge = Ridge(ridge=0.0)
    problem, start, steps = ridge.problem(), torch.full((4,), 2.0, dtype=D), 150
    size = 0.25 / ridge.worst
    step_rule = Constant(size) if rule == "constant" else PowerDecay(size, 0.5)
    solver = SGD(step_rule=step_rule, average=StepAverage(ridge.worst), inner=1)
    found = paths(solver, problem, start, steps, SEEDS)
    mean, error = mean_and_error([[ridge.gap(solver.solution(problem, s)) for s in states[1:]] for states in found])
    sizes = np.array([step_rule.size(k) for k in range(steps)])
    weights = np.cumsum(sizes * (1 - 2 * sizes * ridge.worst))
    bound = ridge.distance(start) / (2 * weights) + ridge.noise * np.cumsum(sizes**2) / weights
    assert (mean <= bound + 3 * error).all()


def test_averages_are_the_weighted_means_of_the_iterates() -> None:
    ridge = Ridge()
    problem, start = ridge.problem(), torch.ones(4, dtype=D)
    rule = PowerDecay(0.05, 0.7)
    plain = paths(SGD(step_rule=rule, inner=1), problem, start, 12, 1)[0]
    points = torch.stack([s.point for s in plain])
    sizes = [rule.size(k) for k in range(12)]
    for average, weights in (
        (UniformAverage(), [1.0] * 12),
        (UniformAverage(start=5), [0.0] * 5 + [1.0] * 7),
        (StepAverage(2.0), [t * (1 - 4 * t) for t in sizes]),
        (PolynomialAverage(), [k + 1.0 for k in range(12)]),
    ):
        solver = SGD(step_rule=rule, average=average, inner=4)
        last = paths(solver, problem, start, 3, 1)[0][-1]
        # An inner loop draws its batches at once, so compare on the draws of single steps.
        assert last.iteration == 12
        one = paths(SGD(step_rule=rule, average=average, inner=1), problem, start, 12, 1)[0]
        weight = torch.tensor(weights, dtype=D)
        expected = (weight[:, None] * points[:12]).sum(0) / weight.sum()
        torch.testing.assert_close(one[-1].average, expected)
        assert torch.equal(one[-1].point, points[-1])
        if isinstance(average, UniformAverage) and average.start == 5:
            assert one[5].average is None
            assert torch.equal(solver.solution(problem, one[5]), one[5].point)


def test_the_switching_rule_keeps_its_bound() -> None:
    ridge = Ridge(d=2, ridge=2.0)
    rule = Switching(ridge.worst, ridge.m)
    assert rule.size(rule.switch) == 0.5 / ridge.worst
    k = rule.switch + 1
    assert rule.size(k) == (2 * k + 1) / ((k + 1) ** 2 * ridge.m)
    steps = 4 * rule.switch
    problem, start = ridge.problem(), torch.full((2,), 5.0, dtype=D)
    found = paths(SGD(step_rule=rule, inner=1), problem, start, steps, 30)
    mean, error = mean_and_error([[ridge.distance(s.point) for s in states] for states in found])
    k = np.arange(rule.switch, steps + 1)
    ceil = rule.switch / 4
    bound = 8 * ridge.noise / (ridge.m**2 * k) + 16 * ceil**2 * mean[0] / (np.e**2 * k**2)
    assert (mean[rule.switch :] <= bound + 3 * error[rule.switch :]).all()
    constant = paths(SGD(step_rule=Constant(rule.size(0)), inner=1), problem, start, steps, 30)
    ball, _ = mean_and_error([[ridge.distance(s.point) for s in states[-20:]] for states in constant])
    assert mean[-20:].mean() < 0.5 * ball.mean()


def test_the_decreasing_rule_keeps_the_bound_of_bottou_curtis_and_nocedal() -> None:
    ridge = Ridge(d=2, ridge=2.0)
    # V[g] <= M + M_V |grad F|^2 by enumeration: on a grid of points, the least M for an M_V that covers far points.
    generator = torch.Generator().manual_seed(3)
    points = ridge.minimizer + 6 * torch.randn(4000, 2, dtype=D, generator=generator)
    gradients = torch.stack([ridge.gradients(x) for x in points])
    means = gradients.mean(1)
    variance, slope = (gradients - means[:, None]).square().sum(2).mean(1), means.square().sum(1)
    extra = 2 * float((variance / slope)[slope > 4 * slope.median()].max())
    noise = float((variance - extra * slope).max().clamp_min(ridge.noise))
    numerator = 2.0 / ridge.m
    offset = numerator * ridge.lipschitz * (1 + extra)  # so that the first step is 1 / (L M_G)
    start, steps = torch.full((2,), 4.0, dtype=D), 200
    # Their iterations begin at 1 and their step is numerator / (gamma + k): gamma = offset - 1.
    found = paths(SGD(step_rule=Decreasing(numerator, offset), inner=1), ridge.problem(), start, steps, 60)
    mean, error = mean_and_error([[ridge.gap(s.point) for s in states] for states in found])
    top = max(numerator**2 * ridge.lipschitz * noise / (2 * (numerator * ridge.m - 1)), offset * mean[0])
    assert (mean <= top / (offset + np.arange(steps + 1)) + 3 * error).all()


def test_polyaks_step_keeps_its_linear_rate_and_its_formula() -> None:
    for noise in (0.0, 1.0):
        ridge = Ridge(ridge=0.5, noise=noise)
        problem, start, cap, steps = ridge.problem(), torch.full((4,), 2.0, dtype=D), 0.4, 80
        # The least value of f_i, a ridge in one direction.
        square = ridge.design.square().sum(1)
        optima = 0.5 * ridge.target.square() * ridge.ridge / (ridge.ridge + square)
        rule = PolyakStep(cap=cap, scale=0.5, optima=optima)
        found = paths(SGD(step_rule=rule, inner=1), problem, start, steps, SEEDS)
        mean, error = mean_and_error([[ridge.distance(s.point) for s in states] for states in found])
        alpha = min(1 / ridge.worst, cap)
        spare = ridge.optimum - float(optima.mean())
        rate = 1 - ridge.ridge * alpha  # every f_i is convex with the modulus of the ridge
        bound = rate ** np.arange(steps + 1) * mean[0] + 2 * cap * spare / (ridge.ridge * alpha)
        assert (mean <= bound + 3 * error).all()
        state = found[0][3]
        with drawn([[2]]), torch.no_grad():
            moved = SGD(step_rule=rule, inner=1).step(problem, state).point
        loss, gradient = ridge.losses(state.point)[2], ridge.gradients(state.point)[2]
        size = min(float((loss - optima[2]) / (0.5 * gradient @ gradient)), cap)
        torch.testing.assert_close(moved, state.point - size * gradient)


def test_a_zero_gradient_stays_where_it_is_under_polyaks_step() -> None:
    for dtype in (torch.float32, torch.float64):
        problem = FiniteSum(lambda x, i: x.square().sum() + 0.0 * i, 3)
        result = SGD(step_rule=PolyakStep(cap=1.0)).run(problem, torch.zeros(2, dtype=dtype), budget="2steps")
        assert torch.equal(result.solution, torch.zeros(2, dtype=dtype))


def test_interpolated_least_squares_by_polyaks_step_is_kaczmarz() -> None:
    # (f_i - 0) / (|g|^2 / 2) = 1 / |a_i|^2: the projection onto the sample's hyperplane.
    generator = torch.Generator().manual_seed(5)
    design = torch.randn(6, 3, dtype=D, generator=generator)
    target = design @ torch.tensor([1.0, -2.0, 0.5], dtype=D)
    problem = LinearModel(design, target)
    solver = SGD(step_rule=PolyakStep(cap=1e9), inner=3)
    state = solver.init(problem, torch.zeros(3, dtype=D), torch.Generator())
    with drawn([[4], [0], [4]]), torch.no_grad():
        x = solver.step(problem, state).point
    expected = torch.zeros(3, dtype=D)
    for i in (4, 0, 4):
        expected = expected - (design[i] @ expected - target[i]) / design[i].square().sum() * design[i]
    torch.testing.assert_close(x, expected)


def test_the_prox_steps_reach_the_lasso_of_scikit_learn_to_the_noise_ball() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(2)
    design = torch.randn(60, 6, dtype=D, generator=generator)
    target = design[:, 0] - 2 * design[:, 1] + 0.3 * torch.randn(60, dtype=D, generator=generator)
    peer = linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-12).fit(design.numpy(), target.numpy())
    best = torch.from_numpy(peer.coef_)
    problem = LinearModel(design, target, regularizer=L1(0.1))
    modulus = float(torch.linalg.eigvalsh(design.T @ design / 60)[0])
    per_sample = (design @ best - target)[:, None] * design
    noise = float((per_sample - per_sample.mean(0)).square().sum(1).mean())
    assert problem.sample_lipschitz is not None
    size = 0.5 / problem.sample_lipschitz
    found = paths(SGD(step_rule=Constant(size), inner=20), problem, torch.full((6,), 2.0, dtype=D), 20, 40)
    mean, error = mean_and_error([[float((s.point - best).square().sum()) for s in states] for states in found])
    bound = (1 - size * modulus) ** (20 * np.arange(21)) * mean[0] + 2 * size * noise / modulus
    assert (mean <= bound + 3 * error).all()
    solver = SGD(step_rule=Switching(problem.sample_lipschitz, modulus))
    result = solver.run(problem, torch.zeros(6, dtype=D), budget="100steps", record_every=50)
    torch.testing.assert_close(result.solution, best, rtol=0, atol=0.03)
    assert (result.solution[best == 0] == 0).any()


def test_pytrees_and_kinks() -> None:
    design = torch.randn(9, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    problem = FiniteSum(lambda p, i: (design[i] @ p["w"] + p["b"] - 1).square(), 9)
    result = SGD(step_rule=Constant(0.05)).run(
        problem, {"w": torch.zeros(2, dtype=D), "b": torch.zeros((), dtype=D)}, budget="90steps"
    )
    torch.testing.assert_close(result.solution["b"], torch.ones((), dtype=D), atol=1e-4, rtol=0)
    # A loss with kinks: the median, by subgradients and the average, within D G / sqrt(T).
    target = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0], dtype=D)
    kinked = LinearModel(torch.ones(5, 1, dtype=D), target, "absolute")
    with pytest.raises(ValueError, match="step_rule"):
        SGD().run(kinked, torch.zeros(1, dtype=D), budget="1steps")
    steps = 400
    solver = SGD(step_rule=Constant(2 / steps**0.5), average=UniformAverage(), inner=steps)
    found = paths(solver, kinked, torch.zeros(1, dtype=D), 1, 50)
    gaps = [float(kinked.value(solver.solution(kinked, s[-1]))) - 2.4 for s in found]
    assert np.mean(gaps) <= 2 * 1 / steps**0.5
    result = solver.run(kinked, torch.zeros(1, dtype=D), budget="1steps")
    assert result.stationarity is None
    assert result.value == pytest.approx(2.4, abs=0.2)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="step_rule"):
        SGD(step_rule=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="average"):
        SGD(average=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch"):
        SGD(batch=0)
    with pytest.raises(ValueError, match="batch must be at most the number of samples, 7"):
        SGD(batch=8, replacement=False).run(linear(), torch.zeros(3, dtype=D), budget="1steps")
    for make in (
        lambda: Constant(0.0),
        lambda: Decreasing(1.0, 0.0),
        lambda: PowerDecay(1.0, 2.0),
        lambda: PolyakStep(1.0, 0.4),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
    with pytest.raises(ValueError, match="optima"):
        SGD(step_rule=PolyakStep(1.0, optima=torch.zeros(3))).run(linear(), torch.zeros(3, dtype=D), budget="1steps")
    with pytest.raises(ValueError, match="samples"):
        FiniteSum(lambda x, i: x, 0)
    with pytest.raises(ValueError, match="one number per sample"):
        SGD(step_rule=Constant(0.1)).run(FiniteSum(lambda x, i: x.sum(), 3), torch.zeros(3), budget="1steps")


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is SGD
    assert CARD.needs == SGD.needs
