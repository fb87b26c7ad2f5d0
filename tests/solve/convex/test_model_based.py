"""Model-based steps against brute force, cvxpy and closed forms; special cases that are other methods; the proved rate;
the robustness to the step size that the paper claims."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from sums import drawn

from steepest.core.losses import Huber, Squared
from steepest.core.regularizer import L1, Regularizer
from steepest.solve.convex import (
    SGD,
    BlindDeconvolution,
    CompositeSum,
    CovarianceEstimation,
    LinearModel,
    ModelBased,
    PhaseRetrieval,
)
from steepest.solve.convex.model_based import CARD
from steepest.solve.convex.model_steps import Clipped, ProxLinear, ProxPoint, Subgradient, linear_step, proximal_point
from steepest.solve.convex.sgd_steps import Constant, PolyakStep, PowerDecay
from steepest.solve.convex.stochastic import StochasticSolver

D = torch.float64
MODELS = (Subgradient(), Clipped(), ProxLinear(), ProxPoint())


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def phase(n: int = 12, d: int = 3, seed: int = 0, noise: float = 0.0, **settings: Any) -> PhaseRetrieval:
    vectors, truth = rand(n, d, seed=seed), rand(d, seed=seed + 50)
    target = (vectors @ truth).square() + noise * rand(n, seed=seed + 70)
    return PhaseRetrieval(vectors, target, **settings)


def blind(n: int = 12, seed: int = 0) -> BlindDeconvolution:
    left, right = rand(n, 2, seed=seed), rand(n, 3, seed=seed + 1)
    return BlindDeconvolution(left, right, (left @ rand(2, seed=seed + 2)) * (right @ rand(3, seed=seed + 3)))


def covariance(n: int = 12, seed: int = 0) -> CovarianceEstimation:
    vectors = rand(n, 3, seed=seed)
    return CovarianceEstimation(vectors, (vectors @ rand(3, 2, seed=seed + 5)).square().sum(1))


def affine(loss: Any = "absolute", regularizer: Regularizer | None = None) -> CompositeSum:
    design, target = rand(12, 3), rand(12, seed=9)
    return CompositeSum(lambda x, i: design[i] @ x, target, loss, regularizer, weak_convexity=0.0)


def step(problem: Any, model: Any, x: torch.Tensor, size: float, indices: list[int]) -> torch.Tensor:
    solver = ModelBased(model=model, step_rule=Constant(size), batch=len(indices), inner=1)
    with drawn([indices]), torch.no_grad():
        return solver.step(problem, solver.init(problem, x, torch.Generator())).point


@pytest.mark.parametrize("make", [phase, blind, covariance])
def test_linearizations_are_those_of_autograd_and_losses_are_weakly_convex(make: Any) -> None:
    problem = make()
    shape = {PhaseRetrieval: (3,), BlindDeconvolution: (5,), CovarianceEstimation: (3, 2)}[type(problem)]
    x, some = rand(*shape, seed=20), torch.tensor([4, 0, 4, 11])
    values, derivative = problem.linearize(x, some)
    general = CompositeSum(problem.inner, problem.target)
    expected = general.linearize(x, some)
    torch.testing.assert_close(values, expected[0])
    torch.testing.assert_close(derivative, expected[1])
    torch.testing.assert_close(problem.sample_gradient(x, some), general.sample_gradient(x, some))
    every = torch.arange(12)
    for seed in range(30):
        a, b = 3 * rand(*shape, seed=100 + seed), 3 * rand(*shape, seed=200 + seed)
        middle, quarter = (a + b) / 2, float((a - b).square().sum()) / 8
        convex = (problem.sample_values(a, every).mean() + problem.sample_values(b, every).mean()) / 2
        assert problem.sample_values(middle, every).mean() <= convex + problem.weak_convexity * quarter + 1e-12


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_closed_forms_of_phase_retrieval(size: float, seed: int) -> None:
    problem = phase(seed=seed, noise=3.0)
    x, i = 2 * rand(3, seed=seed + 8), seed
    a, y = problem.vectors[i], problem.target[i]
    u, n = float(a @ x), float(a @ a)
    t = torch.linspace(-6, 6, 400_001, dtype=D)  # the minimizers lie on the line along a
    far = t.square() * n / (2 * size)
    models = {
        Subgradient(): (u * u - y).abs() + torch.sign(u * u - y) * 2 * u * n * t,
        ProxLinear(): (u * u + 2 * u * n * t - y).abs(),
        ProxPoint(): ((u + t * n).square() - y).abs(),
        Clipped(): ((u * u - y).abs() + torch.sign(u * u - y) * 2 * u * n * t).clamp_min(0),
    }
    for model, values in models.items():
        best = t[(values + far).argmin()]
        found = step(problem, model, x, size, [i])
        if abs(float(best)) < 5.9:
            moved = float((found - x) @ a) / n
            at = {k: float((v + far)[(t - moved).abs().argmin()]) for k, v in models.items()}[model]
            assert at <= float((values + far).min()) + 1e-3 * (1 + abs(at)), model  # several minimizers may tie
            torch.testing.assert_close(found - x, moved * a)
            if not isinstance(model, ProxPoint):
                assert moved == pytest.approx(float(best), abs=1e-4)


def test_prox_linear_is_the_formula_of_the_paper() -> None:
    for problem, x in ((phase(noise=1.0), rand(3, seed=4)), (blind(), rand(5, seed=4))):
        for i in range(8):
            values, derivative = problem.linearize(x, torch.tensor([i]))
            residual, g = float(values[0] - problem.target[i]), derivative[0]
            expected = x - max(-0.2, min(0.2, residual / float(g @ g))) * g
            torch.testing.assert_close(step(problem, ProxLinear(), x, 0.2, [i]), expected)


@pytest.mark.parametrize("loss", ["absolute", Huber(0.3), Squared()])
@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("size", [0.1, 3.0])
def test_batches_and_regularizers_agree_with_cvxpy(loss: Any, weight: float, size: float) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    vectors = rand(12, 3)
    problem = CompositeSum(
        lambda x, i: (vectors[i] @ x).square(), rand(12, seed=3).abs(), loss, L1(weight) if weight else None
    )
    x, some = rand(3, seed=6), torch.tensor([0, 3, 7, 7, 2])
    values, derivative = problem.linearize(x, some)
    found, _ = linear_step(problem, x, values, derivative, problem.loss, problem.target[some], size)
    z = cvxpy.Variable(3)
    residual = values.numpy() + derivative.numpy() @ (z - x.numpy()) - problem.target[some].numpy()
    if loss == "absolute":
        parts = cvxpy.abs(residual)
    elif isinstance(loss, Huber):
        parts = 0.5 * cvxpy.huber(residual, 0.3)
    else:
        parts = 0.5 * cvxpy.square(residual)
    goal = cvxpy.sum(parts) / 5 + weight * cvxpy.norm1(z) + cvxpy.sum_squares(z - x.numpy()) / (2 * size)
    cvxpy.Problem(cvxpy.Minimize(goal)).solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    np.testing.assert_allclose(found.numpy(), z.value, atol=2e-5)
    z.value = found.numpy()
    ours = float(goal.value)
    cvxpy.Problem(cvxpy.Minimize(goal)).solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert ours <= float(goal.value) + 1e-9
    one = torch.tensor([3])
    single = step(problem, ProxLinear(), x, size, [3])
    v, j = problem.linearize(x, one)
    twice, _ = linear_step(problem, x, v.repeat(2), j.repeat(2, 1), problem.loss, problem.target[one].repeat(2), size)
    torch.testing.assert_close(single, twice, atol=1e-5, rtol=0)  # the closed form, and the dual method


@pytest.mark.parametrize("make", [phase, blind, covariance])
def test_proximal_points_agree_with_scipy(make: Any) -> None:
    problem = make()
    shape = {PhaseRetrieval: (3,), BlindDeconvolution: (5,), CovarianceEstimation: (3, 2)}[type(problem)]
    for seed in range(2):
        x, some = rand(*shape, seed=seed + 30), torch.tensor([1, 5, 6, 2, 9])
        rho = float((problem.linearize(x, some)[1].flatten(1).norm(dim=1)).max())
        size = min(0.5 / problem.weak_convexity, 1 / rho)
        found = proximal_point(problem, x, some, size, tolerance=1e-10)

        def objective(z: Any, x: Any = x, some: Any = some, size: float = size) -> float:
            point = torch.as_tensor(z).reshape(x.shape)
            far = (point - x).square().sum() / (2 * size)
            return float(problem.sample_values(point, some).mean() + far)

        ours = objective(found.flatten())
        peer = min(
            scipy.optimize.minimize(
                objective,
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-11, "fatol": 1e-13, "maxiter": 20_000, "maxfev": 20_000},
            ).fun
            for start in (x.flatten().numpy(), found.flatten().numpy())
        )
        assert ours <= peer + 1e-8
    if make is phase:  # one sample: the closed form, and Gauss-Newton around the dual method
        x, one = rand(3, seed=3), torch.tensor([4])
        closed = problem.point_step(x, one, 0.02)
        torch.testing.assert_close(proximal_point(problem, x, one, 0.02), closed, atol=1e-6, rtol=0)


def test_special_cases_are_other_methods() -> None:
    x = rand(3, seed=2)
    # c affine: the model of prox-linear is the function, so it is the proximal point, and exact.
    for problem in (affine(), affine(Huber(0.5)), affine("absolute", L1(0.2))):
        for indices in ([4], [1, 8, 8]):
            linear = step(problem, ProxLinear(), x, 0.7, indices)
            torch.testing.assert_close(linear, step(problem, ProxPoint(), x, 0.7, indices), atol=1e-5, rtol=0)
    # A linear loss of a smooth map: prox-linear is the gradient step; so it is on a linear piece of the absolute value.
    vectors = rand(12, 3)
    below = CompositeSum(lambda z, i: -(vectors[i] @ z).square() - 100, torch.zeros(12, dtype=D))
    torch.testing.assert_close(step(below, ProxLinear(), x, 0.01, [3]), step(below, Subgradient(), x, 0.01, [3]))
    plain = SGD(step_rule=Constant(0.01), inner=1)
    with drawn([[3]]), torch.no_grad():
        sgd = plain.step(below, plain.init(below, x, torch.Generator())).point
    torch.testing.assert_close(step(below, Subgradient(), x, 0.01, [3]), sgd)
    # The subgradient model with a regularizer is a proximal subgradient step of the linear model.
    problem = affine("absolute", L1(0.2))
    design, target = rand(12, 3), problem.target
    peer = LinearModel(design, target, "absolute", L1(0.2))
    with drawn([[5, 2]]), torch.no_grad():
        solver = SGD(step_rule=Constant(0.3), batch=2, inner=1)
        sgd = solver.step(peer, solver.init(peer, x, torch.Generator())).point
    torch.testing.assert_close(step(problem, Subgradient(), x, 0.3, [5, 2]), sgd)
    # The clipped model is Polyak's step, capped.
    problem = phase(noise=1.0)
    polyak = SGD(step_rule=PolyakStep(cap=0.05, scale=1.0), batch=2, inner=1)
    for indices in ([0, 1], [5, 9], [2, 7]):
        with drawn([indices]), torch.no_grad():
            expected = polyak.step(problem, polyak.init(problem, x, torch.Generator())).point
        torch.testing.assert_close(step(problem, Clipped(), x, 0.05, indices), expected)
    # Rank one covariance estimation is phase retrieval.
    rank_one = CovarianceEstimation(problem.vectors, problem.target)
    for model in (Subgradient(), ProxLinear()):
        torch.testing.assert_close(step(rank_one, model, x[:, None], 0.1, [6])[:, 0], step(problem, model, x, 0.1, [6]))


def test_stationarity_is_the_gradient_of_the_envelope() -> None:
    problem = phase(d=2, n=6, noise=1.0)
    solver = ModelBased()
    p = 1 / (2 * problem.weak_convexity)
    grid = torch.linspace(-0.7, 0.7, 801, dtype=D)
    offsets = torch.cartesian_prod(grid, grid)

    def envelope(x: torch.Tensor) -> float:
        z = x + offsets
        values = ((problem.vectors @ z.T).square() - problem.target[:, None]).abs().mean(0)
        return float((values + offsets.square().sum(1) / (2 * p)).min())

    for seed in range(3):
        x = rand(2, seed=seed + 4)
        measures = solver.measure(problem, solver.init(problem, x, torch.Generator()))
        assert measures.stationarity is not None
        e = torch.tensor([0.05, 0.0], dtype=D)
        slopes = [(envelope(x + d) - envelope(x - d)) / 0.1 for d in (e, e.flip(0))]
        assert measures.stationarity == pytest.approx(float(np.hypot(*slopes)), rel=0.05, abs=0.02)
    # Zero at a solution, and no value where rho is not known.
    exact = phase()
    truth = rand(3, seed=50)
    assert solver.measure(exact, solver.init(exact, truth, torch.Generator())).stationarity == pytest.approx(
        0, abs=1e-6
    )
    unknown = CompositeSum(exact.inner, exact.target)
    result = solver.run(unknown, truth + 0.1, budget="2steps")
    assert result.stationarity is None
    assert result.value is not None


@pytest.mark.parametrize("model", [Subgradient(), ProxLinear(), ProxPoint()])
def test_the_rate_of_the_envelopes_gradient(model: Any) -> None:
    problem = phase(n=8, d=2, noise=2.0)  # noise makes it dull: no sharp minimum at zero
    rho, steps, start = problem.weak_convexity, 60, rand(2, seed=1)
    assert rho is not None
    size = 0.3 / math.sqrt(steps)
    solver = ModelBased(model=model, step_rule=Constant(size), inner=1)
    squares, moments = [], []
    with torch.no_grad():
        for seed in range(3):
            state = solver.init(problem, start, torch.Generator().manual_seed(seed))
            for k in range(steps):
                if k % 12 == 0:
                    squares.append(float(solver.measure(problem, state).stationarity or 0.0) ** 2)
                slopes = problem.linearize(state.point, torch.arange(8))[1]
                moments.append(float(slopes.square().sum(1).mean()))
                state = solver.step(problem, state)
        envelope = proximal_point(problem, start, torch.arange(8), 1 / (2 * rho))
        first = float(problem.value(envelope)) + rho * float((envelope - start).square().sum())
    lowest = min(
        scipy.optimize.minimize(
            lambda z: float(problem.value(torch.as_tensor(z))), rand(2, seed=s).numpy(), method="Nelder-Mead"
        ).fun
        for s in range(5)
    )
    bound = 2 * (first - lowest + rho * max(moments) * steps * size**2) / (steps * size)
    assert np.mean(squares) <= bound
    assert np.mean(squares[-2:]) < squares[0]


def test_prox_models_stand_steps_a_hundred_times_as_long_as_subgradients() -> None:
    problem = phase(n=45, d=4)
    problem.weak_convexity = None  # without measuring the envelope
    truth = rand(4, seed=50)
    start = truth + 0.3 * truth.norm() * rand(4, seed=3) / rand(4, seed=3).norm()
    reached: dict[str, list[float]] = {}
    for model in MODELS:
        reached[type(model).__name__] = []
        for size in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
            solver = ModelBased(model=model, step_rule=PowerDecay(size))
            result = solver.run(problem, start, budget="40steps", divergence=None)
            if result.value is not None and result.value < 1e-4:
                reached[type(model).__name__].append(size)
    widest = {name: sizes[-1] / sizes[0] if sizes else 0.0 for name, sizes in reached.items()}
    assert min(widest["ProxLinear"], widest["ProxPoint"], widest["Clipped"]) >= 100 * max(widest["Subgradient"], 1.0)


@pytest.mark.parametrize("make", [phase, blind, covariance])
def test_the_truth_is_found_from_nearby(make: Any) -> None:
    problem = make(n=40)
    truth = {
        PhaseRetrieval: lambda: rand(3, seed=50),
        BlindDeconvolution: lambda: torch.cat([rand(2, seed=2), rand(3, seed=3)]),
        CovarianceEstimation: lambda: rand(3, 2, seed=5),
    }[type(problem)]()
    problem.weak_convexity = None
    start = truth + 0.2 * rand(*truth.shape, seed=77)
    for model in (Clipped(), ProxLinear(), ProxPoint(repeats=20)):
        result = ModelBased(model=model, step_rule=Constant(1.0)).run(problem, start, budget="40steps")
        assert result.value is not None
        assert result.value < 1e-7, model


def test_calls_are_counted() -> None:
    problem = phase()
    problem.weak_convexity = None
    x = rand(3, seed=2)
    calls = {type(m).__name__: ModelBased(model=m).run(problem, x, budget="2steps").calls for m in MODELS}
    assert calls["Subgradient"] == {"prox": 24, "samples": 24}
    assert calls["ProxLinear"] == {"models": 24, "samples": 24}
    assert calls["ProxPoint"] == {"samples": 24}
    assert calls["Clipped"] == {"sample values": 24, "samples": 24}


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="model"):
        ModelBased(model="prox-linear")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step_rule"):
        ModelBased(step_rule=PolyakStep(1.0))
    with pytest.raises(ValueError, match="repeats"):
        ProxPoint(repeats=0)
    with pytest.raises(ValueError, match="least"):
        Clipped(least=math.nan)
    with pytest.raises(ValueError, match="vectors must have 3 rows"):
        PhaseRetrieval(rand(4, 2), rand(3))
    with pytest.raises(ValueError, match="right must have 3 rows"):
        BlindDeconvolution(rand(3, 2), rand(4, 2), rand(3))
    with pytest.raises(ValueError, match="vectors must be"):
        CovarianceEstimation(torch.ones(4, 2, dtype=torch.int64), rand(4))
    with pytest.raises(ValueError, match="target"):
        CompositeSum(lambda x, i: x, torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="one tensor"):
        ModelBased().run(phase(), {"x": rand(3)}, budget="1steps")
    assert phase().fingerprint() == phase().fingerprint() != phase(seed=1).fingerprint()


def test_the_card_tells_the_truth() -> None:
    assert CARD.load() is ModelBased
    assert CARD.needs == ModelBased.needs
    assert issubclass(ModelBased, StochasticSolver)
