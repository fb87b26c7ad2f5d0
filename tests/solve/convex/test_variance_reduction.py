"""SVRG, SAGA, SARAH, SpiderBoost and growing batches: unbiased by enumeration, special cases that are gradient descent,
the papers' equations in numpy, proved linear rates with their constants, honest counts, scikit-learn's optimum."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sums import Ridge, drawn, expectation, mean_and_error, paths

from steepest.core.regularizer import L1
from steepest.solve.convex import SAGA, SARAH, SVRG, FiniteSum, GrowingBatches, LinearModel, SpiderBoost
from steepest.solve.convex.growing_batches import CARD as GROWING_BATCHES
from steepest.solve.convex.saga import CARD as SAGA_CARD
from steepest.solve.convex.sarah import CARD as SARAH_CARD
from steepest.solve.convex.spider_boost import CARD as SPIDER_BOOST
from steepest.solve.convex.stochastic import spread
from steepest.solve.convex.svrg import CARD as SVRG_CARD

D = torch.float64


def gradient_descent(ridge: Ridge, x: torch.Tensor, size: float, steps: int) -> torch.Tensor:
    for _ in range(steps):
        x = x - size * ridge.gradients(x).mean(0)
    return x


# Unbiased and exact.


@pytest.mark.parametrize(("batch", "replacement"), [(1, True), (2, True), (2, False)])
def test_steps_of_svrg_are_unbiased(batch: int, replacement: bool) -> None:
    ridge = Ridge(n=4, d=3)
    problem, start, size = ridge.problem(), torch.ones(3, dtype=D), 0.05
    solver = SVRG(step_size=size, snapshot="last", batch=batch, replacement=replacement, inner=2)
    state = solver.init(problem, start, torch.Generator())
    mean = expectation(lambda: solver.step(problem, state).point, 4, batch, 2, replacement)
    torch.testing.assert_close(mean, gradient_descent(ridge, start, size, 2))  # linear gradients: means follow the mean


@pytest.mark.parametrize("batch", [1, 2])
def test_steps_of_saga_are_unbiased_and_its_table_is_what_was_seen_last(batch: int) -> None:
    for problem, ridge in (_linear(), (Ridge(n=4, d=3).finite_sum(), Ridge(n=4, d=3))):
        start, size = torch.ones(3, dtype=D), 0.05
        solver = SAGA(step_size=size, batch=batch, inner=1)
        warm = [[2, 0], [3, 0], [0, 1], [3, 2]]
        state = solver.init(problem, start, torch.Generator())
        seen = start.expand(4, 3).clone()
        with drawn([b[:batch] for b in warm]), torch.no_grad():
            for chosen in warm:
                seen[chosen[:batch]] = state.point
                state = solver.step(problem, state)
        table = torch.stack([problem.compact_gradients(seen[i], torch.tensor([i]))[0] for i in range(4)])
        torch.testing.assert_close(state.table, table)
        torch.testing.assert_close(state.mean, problem.mean_of_compact(table, torch.arange(4)))
        if isinstance(problem, LinearModel):
            assert state.table.shape == (4,)  # a number per sample, not a gradient
        step = functools.partial(solver.step, problem, state)
        mean = expectation(lambda step=step: step().point, 4, batch, replacement=False)
        torch.testing.assert_close(mean, gradient_descent(ridge, state.point, size, 1))


def _linear() -> tuple[LinearModel, Ridge]:
    ridge = Ridge(n=4, d=3, ridge=0.0)
    return LinearModel(ridge.design, ridge.target), ridge


@pytest.mark.parametrize("batch", [1, 3])
def test_saga_equals_its_equations(batch: int) -> None:
    generator = np.random.default_rng(0)
    design, target = generator.normal(size=(9, 4)), generator.normal(size=9)
    problem = LinearModel(torch.from_numpy(design), torch.from_numpy(np.sign(target)), "logistic", L1(0.02))
    batches = [generator.choice(9, batch, replace=False).tolist() for _ in range(30)]
    solver = SAGA(step_size=0.3, batch=batch, inner=30)
    state = solver.init(problem, torch.zeros(4, dtype=D), torch.Generator())
    with drawn(batches), torch.no_grad():
        ours = solver.step(problem, state)

    def gradient(i: int, x: np.ndarray) -> np.ndarray:
        y = np.sign(target[i])
        return -y * design[i] / (1 + np.exp(y * design[i] @ x))

    x = np.zeros(4)
    table = np.stack([gradient(i, x) for i in range(9)])
    for chosen in batches:
        fresh = np.stack([gradient(i, x) for i in chosen])
        z = x - 0.3 * ((fresh - table[chosen]).mean(0) + table.mean(0))
        table[chosen] = fresh
        x = np.sign(z) * np.maximum(abs(z) - 0.3 * 0.02, 0)
    np.testing.assert_allclose(ours.point.numpy(), x, atol=1e-13)
    np.testing.assert_allclose(ours.mean.numpy(), table.mean(0), atol=1e-13)


@pytest.mark.parametrize("name", ["svrg", "sarah", "spider-boost"])
def test_inner_loops_equal_the_equations(name: str) -> None:
    ridge, size, count = Ridge(), 0.04, 6
    problem, start = ridge.problem(), torch.ones(4, dtype=D)
    batches = [[3], [1], [1], [19], [0], [7]]
    used = batches if name == "svrg" else batches[: count - 1]
    solver: Any
    if name == "svrg":
        solver = SVRG(step_size=size, inner=count)
    elif name == "sarah":
        solver = SARAH(step_size=size, inner=count + 1)
    else:
        solver = SpiderBoost(step_size=size, batch=1, inner=count)
    generator = torch.Generator()
    if name == "sarah":  # a seed whose draw keeps the last iterate
        for seed in range(1000):
            if int(torch.randint(count + 1, (), generator=generator.manual_seed(seed))) == count:
                generator.manual_seed(seed)
                break
    with drawn(used), torch.no_grad():
        ours = solver.step(problem, solver.init(problem, start, generator)).point

    def g(i: int, x: torch.Tensor) -> torch.Tensor:
        return ridge.gradients(x)[i]

    x, v, visited = start, ridge.gradients(start).mean(0), []
    if name == "svrg":
        for (i,) in batches:
            x = x - size * (g(i, x) - g(i, start) + v)
            visited.append(x)
        torch.testing.assert_close(ours, torch.stack(visited).mean(0))
    else:
        before, x = x, x - size * v
        for (i,) in used:
            v = g(i, x) - g(i, before) + v
            before, x = x, x - size * v
        torch.testing.assert_close(ours, x)


def test_with_all_samples_they_are_gradient_descent() -> None:
    ridge, size = Ridge(), 0.07
    problem, start = ridge.problem(), torch.ones(4, dtype=D)
    expected = gradient_descent(ridge, start, size, 6)
    whole: dict[str, Any] = {"step_size": size, "batch": 20, "replacement": False}
    for solver, steps in (
        (SVRG(**whole, snapshot="last", inner=3), 2),
        (SVRG(**whole, inner=1), 6),
        (SAGA(step_size=size, batch=20, inner=3), 2),
        (SpiderBoost(**whole, inner=2), 3),
        (GrowingBatches(step_size=size, batch=20, inner=2), 3),
    ):
        torch.testing.assert_close(solver.run(problem, start, budget=f"{steps}steps").solution, expected)


def test_sarah_begins_the_next_epoch_at_an_iterate_drawn_uniformly() -> None:
    ridge = Ridge(n=5, d=2)
    problem, start = ridge.problem(), torch.ones(2, dtype=D)
    solver = SARAH(step_size=0.05, batch=5, replacement=False, inner=4)  # all samples: the iterates are known
    path = torch.stack([gradient_descent(ridge, start, 0.05, k) for k in range(4)])
    counts = np.zeros(4)
    with torch.no_grad():
        state = solver.init(problem, start, torch.Generator().manual_seed(0))
        for _ in range(800):
            point = solver.step(problem, state).point
            distance = (path - point).norm(dim=1)
            assert distance.min() < 1e-12
            counts[int(distance.argmin())] += 1
    assert abs(counts - 200).max() < 5 * math.sqrt(150)


def test_samples_are_counted_honestly() -> None:
    ridge = Ridge()
    problem, start = ridge.problem(), torch.ones(4, dtype=D)
    n = 20
    assert SVRG(batch=3, inner=5).run(problem, start, budget="2steps").calls["samples"] == 2 * (n + 2 * 3 * 5)
    assert SAGA(batch=3).run(problem, start, budget="2steps").calls["samples"] == n + 2 * 7 * 3
    spider = SpiderBoost().run(problem, start, budget="2steps").calls["samples"]
    assert spider == 2 * (n + 2 * 5 * 4)  # batch and inner ceil(sqrt(20)) = 5
    growing = GrowingBatches(growth=2.0, step_size=0.01)
    assert growing.run(problem, start, budget="7steps").calls["samples"] == 1 + 2 + 4 + 8 + 16 + 20 + 20
    draws: list[int] = []
    generator = torch.Generator().manual_seed(0)
    SARAH(inner=6).run(
        problem, start, budget="1steps", seed=0, callbacks=[lambda r: draws.append(r.calls.get("samples", 0))]
    )
    drawn_stop = int(torch.randint(6, (), generator=generator))
    assert draws == [0 if drawn_stop == 0 else n + 2 * (drawn_stop - 1)]


# Proved rates.


@pytest.mark.parametrize(
    ("batch", "replacement", "weight"), [(1, True, 0.0), (4, True, 0.0), (4, False, 0.0), (1, True, 0.1)]
)
def test_svrg_keeps_its_linear_rate(batch: int, replacement: bool, weight: float) -> None:
    ridge = Ridge(ridge=2.0)
    problem = ridge.problem(L1(weight) if weight else None)
    part = spread(ridge.n, batch, replacement=replacement)
    size = min(1 / ridge.worst, 0.05 / (ridge.worst * part))
    inner = math.ceil(4 / (ridge.m * size))
    waste = 4 * size * ridge.worst * part
    rate = 1 / (ridge.m * size * (1 - waste) * inner) + waste * (inner + 1) / ((1 - waste) * inner)
    assert rate < 0.8
    optimum = float(problem.value(_minimize(problem)))
    solver = SVRG(step_size=size, batch=batch, replacement=replacement, inner=inner)
    found = paths(solver, problem, torch.full((4,), 3.0, dtype=D), 5, 5)
    mean, error = mean_and_error([[float(problem.value(s.point)) - optimum for s in states] for states in found])
    assert (mean <= rate ** np.arange(6) * mean[0] + 3 * error + 1e-12).all()
    default = SVRG(batch=batch, replacement=replacement).run(problem, torch.zeros(4, dtype=D), budget="150steps")
    assert default.value is not None
    assert default.value - optimum < 1e-9


def _minimize(problem: Any) -> torch.Tensor:
    """By proximal gradient steps until nothing moves."""
    x = torch.zeros(4, dtype=D)
    for _ in range(20_000):
        following = problem.prox(x - problem.smooth_gradient(x) / problem.lipschitz, 1 / problem.lipschitz)
        if torch.equal(following, x):
            break
        x = following
    return x


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_saga_keeps_its_linear_rate(weight: float) -> None:
    ridge = Ridge(ridge=0.5)
    problem = ridge.problem(L1(weight) if weight else None)
    best = _minimize(problem)
    start, steps = torch.full((4,), 3.0, dtype=D), 400
    found = paths(SAGA(inner=20), problem, start, steps // 20, 25)
    mean, error = mean_and_error([[float((s.point - best).square().sum()) for s in states] for states in found])
    # Every f_i is convex with the modulus of the ridge.
    rate = 1 - min(1 / (4 * ridge.n), ridge.ridge / (3 * ridge.worst))
    slope = ridge.gradients(best).mean(0)
    bregman = float(ridge.losses(start).mean() - ridge.losses(best).mean() - slope @ (start - best))
    constant = mean[0] + 2 * ridge.n / (3 * ridge.worst) * bregman
    assert (mean <= rate ** (20 * np.arange(steps // 20 + 1)) * constant + 3 * error).all()
    assert mean[-1] < 1e-3 * mean[0]


def test_sarah_keeps_its_linear_rate() -> None:
    for batch in (1, 4):
        ridge = Ridge(ridge=0.5)
        size = 0.5 / ridge.worst
        inner = math.ceil(4 / (ridge.m * size))
        rate = 1 / (ridge.m * size * inner) + size * ridge.worst / (2 - size * ridge.worst)
        assert rate < 0.6
        solver = SARAH(step_size=size, inner=inner, batch=batch)
        found = paths(solver, ridge.problem(), torch.full((4,), 3.0, dtype=D), 5, 25)
        norms = [[float(ridge.gradients(s.point).mean(0).square().sum()) for s in states] for states in found]
        mean, error = mean_and_error(norms)
        assert (mean <= rate ** np.arange(6) * mean[0] + 3 * error).all()


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_spider_boost_keeps_its_rate_on_a_function_that_is_not_convex(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(49, 3, dtype=D, generator=generator)
    target = torch.randn(49, dtype=D, generator=generator)
    # r -> r^2 / (1 + r^2) has second derivatives in [-1/2, 2].
    worst = 2 * float(design.square().sum(1).max())

    def function(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        squared = (design[i] @ x - target[i]).square()
        return squared / (1 + squared)

    problem = FiniteSum(function, 49, L1(weight) if weight else None, sample_lipschitz=worst)
    size, start, epochs, seeds = 0.5 / worst, torch.full((3,), 2.0, dtype=D), 12, 5
    totals = []
    solver = SpiderBoost()
    for seed in range(seeds):
        visited: list[torch.Tensor] = []
        prox = problem.prox

        def watched(z: torch.Tensor, t: float, visited: list[Any] = visited, prox: Any = prox) -> torch.Tensor:
            visited.append(prox(z, t))
            return visited[-1]

        problem.prox = watched  # type: ignore[method-assign]
        with torch.no_grad():
            state = solver.init(problem, start, torch.Generator().manual_seed(seed))
            for _ in range(epochs):
                state = solver.step(problem, state)
        del problem.prox
        iterates = [start, *visited[:-1]]
        assert len(iterates) == epochs * 7
        mappings = [
            float(((x - problem.prox(x - size * problem.smooth_gradient(x), size)) / size).square().sum())
            for x in iterates
        ]
        totals.append(np.mean(mappings))
    bound = 40 * worst * float(problem.value(start)) / (epochs * 7)  # the value is at least 0
    assert np.mean(totals) <= bound
    assert float(problem.value(state.point)) < float(problem.value(start))


def test_growing_batches_keep_their_linear_rate() -> None:
    ridge = Ridge(n=400, ridge=0.5)
    problem, start, steps = ridge.problem(), torch.full((4,), 2.0, dtype=D), 60
    size, growth = 1 / ridge.lipschitz, 1.1
    found = paths(GrowingBatches(growth=growth), problem, start, steps, 25)
    visited = [s.point for states in found for s in states]
    variance = max(float((ridge.gradients(x) - ridge.gradients(x).mean(0)).square().sum(1).mean()) for x in visited)
    mean, error = mean_and_error([[ridge.gap(s.point) for s in states] for states in found])
    top = max(size * ridge.lipschitz * variance / ridge.m, mean[0])
    rate = max(1 - size * ridge.m / 2, 1 / growth)
    assert (mean <= top * rate ** np.arange(steps + 1) + 3 * error).all()
    # It does go on where a constant batch ends in its ball.
    assert mean[-1] < 0.01 * np.mean([ridge.gap(states[10].point) for states in found])
    solver = GrowingBatches(batch=3, growth=1.5)
    assert [solver.batch_at(k, 20) for k in range(6)] == [3, 5, 7, 11, 16, 20]
    assert solver.batch_at(10**9, 20) == 20


# Against others.


def test_the_optimum_of_logistic_regression_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    datasets = pytest.importorskip("sklearn.datasets")
    data, label = datasets.load_breast_cancer(return_X_y=True)
    data = ((data - data.mean(0)) / data.std(0)).clip(-2, 2)[:, [1, 4, 7, 8, 14, 18, 24, 28]]
    design, sign = torch.from_numpy(data), torch.from_numpy(2.0 * label - 1)
    n, weight = len(sign), 0.02
    problem = LinearModel(design, sign, "logistic", L1(weight))
    peer = linear_model.LogisticRegression(
        l1_ratio=1.0, C=1 / (n * weight), solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(data, label)
    best = float(problem.value(torch.from_numpy(peer.coef_[0])))
    start = torch.zeros(8, dtype=D)
    for solver, epochs in ((SAGA(batch=8), 150), (SVRG(batch=8, snapshot="last"), 60), (SpiderBoost(), 150)):
        result = solver.run(problem, start, budget=f"{epochs}steps")
        assert result.value is not None
        assert -1e-7 < result.value - best < 1e-4, type(solver).__name__
    csr = LinearModel(design.to_sparse_csr(), sign, "logistic", L1(weight))
    dense = SAGA(batch=16).run(problem, start, budget="3steps")
    sparse = SAGA(batch=16).run(csr, start, budget="3steps")
    torch.testing.assert_close(sparse.solution, dense.solution)


def test_epochs_are_fast() -> None:
    # 20,000 samples in batches of 64 are some 300 inner steps; a Python loop over samples would take seconds.
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(20_000, 50, generator=generator)
    problem = LinearModel(design, torch.sign(design[:, 0]), "logistic")
    for solver in (SAGA(batch=64), SVRG(batch=64, inner=313), SpiderBoost(batch=64, inner=150)):
        result = solver.run(problem, torch.zeros(50), budget="2steps")
        assert result.seconds < 4


@pytest.mark.parametrize("shape", [(5, 8), (24, 8)])
def test_flat_directions_duplicates_and_constant_columns(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    design = torch.randn(*shape, dtype=D, generator=generator)
    design[:, 1] = 1.0
    design[1] = design[0]
    target = design @ torch.ones(shape[1], dtype=D)
    problem = LinearModel(design, target)
    for solver in (SVRG(snapshot="last"), SAGA(), SARAH(), SpiderBoost(), GrowingBatches()):
        result = solver.run(problem, torch.zeros(shape[1], dtype=D), budget="600steps", tolerance=1e-5)
        assert result.success, type(solver).__name__
    nothing = LinearModel(torch.zeros(3, 2, dtype=D), torch.ones(3, dtype=D))
    for solver in (SVRG(), SAGA(), SARAH(), SpiderBoost(), GrowingBatches()):
        result = solver.run(nothing, torch.ones(2, dtype=D), budget="3steps", tolerance=0.0)
        assert (result.success, result.steps) == (True, 0)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="replacement"):
        SAGA(replacement=True)
    with pytest.raises(ValueError, match="snapshot"):
        SVRG(snapshot="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="regularizer"):
        SARAH().run(Ridge().problem(L1(0.1)), torch.zeros(4, dtype=D), budget="1steps")
    unknown = FiniteSum(lambda x, i: x.square().sum() + 0.0 * i, 4)
    for solver in (SVRG(), SAGA(), SARAH(), SpiderBoost(), GrowingBatches()):
        with pytest.raises(ValueError, match="step_size must be given"):
            solver.run(unknown, torch.ones(2), budget="1steps")
    for solver in (SVRG(batch=5, replacement=False), SAGA(batch=5), SpiderBoost(batch=5, replacement=False)):
        with pytest.raises(ValueError, match="batch must be at most the number of samples, 4"):
            solver.run(unknown, torch.ones(2), budget="1steps")


@pytest.mark.parametrize(
    ("card", "solver"),
    [
        (SVRG_CARD, SVRG),
        (SAGA_CARD, SAGA),
        (SARAH_CARD, SARAH),
        (SPIDER_BOOST, SpiderBoost),
        (GROWING_BATCHES, GrowingBatches),
    ],
)
def test_the_cards_tell_the_truth(card: Any, solver: Any) -> None:
    assert card.load() is solver
    assert card.needs == solver.needs
