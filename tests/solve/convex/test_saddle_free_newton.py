"""Saddle-free Newton against closed forms, a transcription, SciPy's eigenvalues, Newton and gradient descent."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from steepest.core.lanczos import lanczos
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import SquaredL2
from steepest.core.result import Reason
from steepest.solve.convex import (
    GradientDescent,
    KrylovSaddleFreeNewton,
    LinearModel,
    SaddleFreeNewton,
)


def well(x: torch.Tensor) -> torch.Tensor:
    return x[0] ** 2 - x[1] ** 2 + 0.5 * x[1] ** 4


def states(solver: Any, problem: SmoothProblem, start: Any, steps: int, **settings: Any) -> tuple[Any, list[Any]]:
    found: list[Any] = []
    result = solver.run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)], **settings
    )
    return result, found


def network(seed: int = 0) -> tuple[SmoothProblem, dict[str, torch.Tensor]]:
    """A small network of three tanh units, and its symmetric saddle with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    teacher = torch.tanh(inputs @ torch.randn(3, 3, dtype=torch.float64, generator=generator)).sum(1)

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return (torch.tanh(inputs @ p["in"]) @ p["out"] - teacher).square().mean()

    noise = 1e-3 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    return SmoothProblem(loss), {"in": noise, "out": torch.full((3,), 1e-3, dtype=torch.float64)}


def test_steps_equal_a_transcription_in_numpy() -> None:
    problem = SmoothProblem(lambda x: (x[0] ** 3 - 3 * x[0] * x[1] ** 2) + (x**4).sum() / 4)  # a monkey saddle, bounded

    def value(x: np.ndarray) -> float:
        return float(x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x**4).sum() / 4)

    x = np.array([0.3, 0.2])
    _, found = states(SaddleFreeNewton(), problem, torch.from_numpy(x), 8)
    compared = 0
    for state in found:
        g = np.array([3 * x[0] ** 2 - 3 * x[1] ** 2, -6 * x[0] * x[1]]) + x**3
        if np.linalg.norm(g) < 1e-7:
            break
        h = np.array([[6 * x[0], -6 * x[1]], [-6 * x[1], -6 * x[0]]]) + np.diag(3 * x**2)
        w, q = np.linalg.eigh(h)
        trials = [x - q @ ((q.T @ g) / (np.abs(w) + damping)) for damping in 10.0 ** np.arange(-6, 1)]
        values = [value(t) for t in trials]
        x = trials[int(np.argmin(values))]
        assert state.damping == pytest.approx(10.0 ** (int(np.argmin(values)) - 6))
        assert state.lowest == pytest.approx(w[0])
        assert state.negative == np.mean(w < 0)
        np.testing.assert_allclose(state.point.numpy(), x, rtol=1e-8, atol=1e-10)
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("solver", [SaddleFreeNewton(), KrylovSaddleFreeNewton(subspace=6)])
def test_on_a_positive_definite_quadratic_it_is_newtons_method(solver: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = factor @ factor.T + torch.eye(6).double()
    b = torch.randn(6, dtype=torch.float64, generator=generator)
    problem = SmoothProblem(lambda x: 0.5 * x @ matrix @ x - b @ x)
    result, found = states(solver, problem, torch.zeros(6).double(), 5, tolerance=1e-10)
    assert result.success
    assert result.steps <= 3
    torch.testing.assert_close(found[0].point, torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-6)  # damped by 1e-6


@pytest.mark.parametrize("solver", [SaddleFreeNewton(), KrylovSaddleFreeNewton()])
@pytest.mark.parametrize("offset", [0.1, 1e-4, 1e-8])
def test_it_leaves_the_saddle_to_which_newton_goes(solver: Any, offset: float) -> None:
    start = torch.tensor([1.0, offset], dtype=torch.float64)
    problem = SmoothProblem(well)
    newton = start - torch.linalg.solve(problem.hessian(start), problem.gradient(start))
    assert float(newton.norm()) < 3 * offset**3 + 1e-12  # the pure method falls into the saddle
    result, found = states(solver, problem, start, 60, tolerance=1e-9)
    assert result.success
    assert result.value == pytest.approx(-0.5, abs=1e-12)
    # Away from the saddle the offset grows by |H|^-1: nearly doubled in a step, whatever the curvature's size.
    steps = next(k for k, state in enumerate(found, 1) if abs(float(state.point[1])) > 0.5)
    assert steps <= math.log2(0.5 / offset) + 4


@pytest.mark.parametrize("curvature", [1e-1, 1e-2, 1e-3])
def test_its_time_on_a_saddle_does_not_depend_on_the_curvature_but_that_of_gradients_does(curvature: float) -> None:
    problem = SmoothProblem(lambda x: 5 * x[0] ** 2 - curvature * (x[1] ** 2 - 0.5 * x[1] ** 4))
    start = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    _, ours = states(SaddleFreeNewton(), problem, start, 60)
    _, theirs = states(GradientDescent(step_size=0.1), problem, start, 3000)

    def escape(found: list[Any]) -> int:
        return next((k for k, state in enumerate(found, 1) if abs(float(state.point[1])) > 0.5), 10**6)

    assert escape(ours) <= 14
    assert escape(theirs) >= 0.8 * math.log(500) / math.log1p(0.2 * curvature) - 1  # growth by 1 + 2 t curvature a step
    assert escape(ours) < escape(theirs) / 10


def test_from_a_symmetric_saddle_of_a_network_it_escapes_far_sooner_than_gradient_descent() -> None:
    problem, start = network()
    begin = float(problem.value(start))
    ours, found = states(SaddleFreeNewton(), problem, start, 60)
    krylov, _ = states(KrylovSaddleFreeNewton(subspace=12), problem, start, 60)
    descent, _ = states(GradientDescent(step_size=0.5), problem, start, 60)
    assert found[0].negative > 0
    assert ours.value is not None
    assert krylov.value is not None
    assert descent.value is not None
    assert ours.value < 0.05 * begin
    assert krylov.value < 0.05 * begin
    assert ours.value < 0.5 * descent.value
    values = [state.value for state in found]
    assert all(b <= a + 1e-13 for a, b in zip([begin, *values], values, strict=False))


def test_a_whole_krylov_space_gives_the_dense_step() -> None:
    problem, start = network(1)
    for offset in (0.1, 1.0):
        point = {
            name: leaf + offset * torch.sin(torch.arange(leaf.numel())).reshape(leaf.shape)
            for name, leaf in start.items()
        }
        _, dense = states(SaddleFreeNewton(smallest=1e-3), problem, point, 1)
        _, krylov = states(KrylovSaddleFreeNewton(smallest=1e-3, subspace=12), problem, point, 1)
        assert dense[0].damping == krylov[0].damping
        assert krylov[0].lowest == pytest.approx(dense[0].lowest, rel=1e-6)
        for name in point:
            torch.testing.assert_close(krylov[0].point[name], dense[0].point[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lanczos_against_scipys_eigenvalues(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(120, 120, dtype=torch.float64, generator=generator)).Q
    values = torch.cat([torch.tensor([-50.0, -8.0, 90.0]), torch.linspace(-1, 1, 117)]).double()
    matrix = (basis * values) @ basis.T
    start = torch.randn(120, dtype=torch.float64, generator=generator)
    rows, small = lanczos(lambda v: matrix.to(dtype) @ v, start.to(dtype), 40)
    tight = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(rows @ rows.T, torch.eye(40, dtype=dtype), rtol=0, atol=tight)
    expected = scipy.sparse.linalg.eigsh(matrix.numpy(), k=1, which="SA", return_eigenvectors=False)[0]
    found = torch.linalg.eigvalsh(small)
    assert float(found[0]) == pytest.approx(expected, rel=tight)
    assert float(found[1]) == pytest.approx(-8.0, rel=1e-4)
    # An invariant subspace ends it early.
    rows, small = lanczos(lambda v: matrix @ v, basis[:, 0] + basis[:, 2], 40)
    assert rows.shape == (2, 120)
    np.testing.assert_allclose(torch.linalg.eigvalsh(small).numpy(), [-50.0, 90.0], rtol=1e-9)


def test_counts_equal_a_hand_count() -> None:
    problem = SmoothProblem(well)
    start = torch.tensor([1.0, 0.1], dtype=torch.float64)
    dense = SaddleFreeNewton().run(problem, start, budget="2steps")
    assert dense.calls == {"value": 1 + 2 * 8, "gradient": 3, "hessian": 2, "factorization": 2}  # 7 dampings
    krylov = KrylovSaddleFreeNewton(inner=2).run(problem, start, budget="2steps")
    assert krylov.calls["hvp"] == 4  # two variables, two vectors
    assert krylov.calls["gradient"] == 1 + 2 * 2
    assert "hessian" not in krylov.calls


def test_a_start_on_a_saddle_is_called_one() -> None:
    result = SaddleFreeNewton().run(SmoothProblem(well), torch.zeros(2).double(), budget="5steps")
    assert result.reason is Reason.STALLED
    assert "1 negative eigenvalues of 2" in result.message
    result = KrylovSaddleFreeNewton().run(SmoothProblem(well), torch.zeros(2).double(), budget="5steps")
    assert result.reason is Reason.STALLED
    assert "saddle" in result.message


def test_singular_and_unbounded_problems_end_honestly() -> None:
    generator = torch.Generator().manual_seed(1)
    design = torch.randn(12, 20, dtype=torch.float64, generator=generator)  # n < d: 8 directions without curvature
    target = torch.sign(torch.randn(12, dtype=torch.float64, generator=generator))
    least = LinearModel(design, target).as_smooth()
    for solver in (SaddleFreeNewton(), KrylovSaddleFreeNewton()):
        result, _ = states(solver, least, torch.zeros(20).double(), 20, tolerance=1e-9)
        assert result.success
        torch.testing.assert_close(result.solution, torch.linalg.pinv(design) @ target, rtol=0, atol=1e-6)
        ridge = LinearModel(design, target, "logistic", SquaredL2(0.1)).as_smooth()
        result, _ = states(solver, ridge, torch.zeros(20).double(), 500, tolerance=0.0)
        assert result.reason in (Reason.STALLED, Reason.CONVERGED)
        assert result.stationarity is not None
        assert result.stationarity < 1e-13
        result, _ = states(solver, SmoothProblem(lambda x: -x.square().sum()), torch.ones(2).double(), 60)
        assert result.reason in (Reason.DIVERGED, Reason.BUDGET, Reason.STALLED)
        assert result.value is not None
        assert result.value < -1e3
        separable = LinearModel(design, target, "logistic").as_smooth()
        result, _ = states(solver, separable, torch.zeros(20).double(), 100, tolerance=0.0)
        assert result.reason in (Reason.STALLED, Reason.BUDGET)
        assert result.value is not None
        assert 0 <= result.value < 1e-3


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"largest": 0.0}, "largest"), ({"smallest": 2.0}, "smallest"), ({"max_trials": 0}, "max_trials")],
)
def test_bad_hyper_parameters_are_named(settings: dict[str, Any], name: str) -> None:
    for kind in (SaddleFreeNewton, KrylovSaddleFreeNewton):
        with pytest.raises(ValueError, match=f"{kind.__name__}: {name} must be"):
            kind(**settings)
    with pytest.raises(ValueError, match="subspace must be"):
        KrylovSaddleFreeNewton(subspace=0)
