"""Frank-Wolfe and its variants with away and pairwise steps: equations, rates, invariants and other packages."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from first_order import Box, Simplex, cvxpy_minimum, lasso, quadratic, states

from steepest.core.problem import MissingOracle
from steepest.core.regularizer import L1
from steepest.core.result import Reason
from steepest.solve.convex import AwayFrankWolfe, CompositeProblem, FrankWolfe, LinearModel
from steepest.solve.convex.away_frank_wolfe import CARD as AWAY_CARD
from steepest.solve.convex.frank_wolfe import CARD
from steepest.solve.convex.frank_wolfe_steps import Backtracking, ExactQuadratic, OpenLoop, ShortStep

RULES = {"open": OpenLoop(), "short": ShortStep(30.0), "exact": ExactQuadratic(), "backtracking": Backtracking()}


def vertex(size: int, index: int = 0) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64)[index]


def simplex_problem(seed: int = 0) -> tuple[CompositeProblem, torch.Tensor, torch.Tensor, float]:
    """A quadratic on the simplex; its matrix, its center, and the least value by long projected gradient descent."""
    problem, matrix, center = quadratic(torch.linspace(1.0, 30.0, 8), Simplex(), seed=seed)
    x = torch.full((8,), 0.125, dtype=torch.float64)
    for _ in range(3000):
        x = Simplex().prox(x - matrix @ (x - center) / 30, 1.0)
    return problem, matrix, center, float(problem.value(x))


def edge_problem(size: int) -> tuple[CompositeProblem, torch.Tensor, torch.Tensor]:
    """``sum_i i (x_i - c_i)^2 / 2`` on the simplex, its matrix and center; the minimizer lies inside an edge."""
    scale = torch.arange(1.0, size + 1, dtype=torch.float64)
    center = torch.full((size,), -0.1, dtype=torch.float64)
    center[0], center[1] = 0.55, 0.45
    problem = CompositeProblem(lambda x: 0.5 * (scale * (x - center).square()).sum(), Simplex())
    return problem, torch.diag(scale), center


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_value_stays_under_the_proved_rate_and_the_gap_bounds_it(rule: str, seed: int) -> None:
    problem, _, _, least = simplex_problem(seed)
    factor = 2.0 if rule == "backtracking" else 1.0
    found = states(FrankWolfe(RULES[rule]), problem, vertex(8), 200)
    assert len(found) > 50
    lowest = math.inf
    for steps, state in enumerate(found):
        assert state.value - least <= state.stationarity + 1e-12
        lowest = min(lowest, state.stationarity)
        if steps:
            assert state.value - least <= factor * 2 * 30 * 2 / (steps + 2)  # the simplex has the squared diameter 2
            assert lowest <= factor * 27 / 4 * 30 * 2 / (steps + 2)  # Jaggi, theorem 2
    if rule != "open":
        assert all(after.value <= before.value + 1e-12 for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("rule", ["open", "short", "exact"])
def test_it_equals_its_equations_in_numpy(rule: str) -> None:
    problem, matrix, center, _ = simplex_problem()
    h, c, x = matrix.numpy(), center.numpy(), np.eye(8)[0]
    for steps, state in enumerate(states(FrankWolfe(RULES[rule]), problem, vertex(8), 40)):
        np.testing.assert_allclose(state.point.numpy(), x, atol=1e-11)
        g = h @ (x - c)
        s = np.eye(8)[g.argmin()]
        assert state.stationarity == pytest.approx(g @ (x - s), abs=1e-11)
        d = s - x
        t = {"open": 2 / (steps + 2), "short": -g @ d / (30 * d @ d), "exact": -g @ d / (d @ h @ d)}[rule]
        x = x + min(t, 1.0) * d


@pytest.mark.parametrize("direction", ["away", "pairwise"])
def test_steps_equal_the_papers_boxes_in_numpy(direction: Any) -> None:
    kinds = set()
    for seed in range(4):
        problem, matrix, center, _ = simplex_problem(seed) if seed else (*edge_problem(8), 0.0)
        h, c = matrix.numpy(), center.numpy()
        found = states(AwayFrankWolfe(direction, ExactQuadratic()), problem, vertex(8, 3), 40)
        for state, after in itertools.pairwise(found):
            x, active = state.point.numpy(), {int(a.argmax()) for a in state.atoms}
            g = h @ (x - c)
            if state.stationarity < 1e-9:
                break
            candidates = []  # an exact step leaves slopes equal, so that rounding may choose either vertex
            for s in [j for j in range(8) if g[j] <= g.min() + 1e-9]:
                for v in [j for j in active if g[j] >= max(g[list(active)]) - 1e-9]:
                    if direction == "pairwise":
                        kind, d, longest = "pairwise", np.eye(8)[s] - np.eye(8)[v], x[v]
                    elif g @ x - g[s] >= g[v] - g @ x:
                        kind, d, longest = "towards", np.eye(8)[s] - x, 1.0
                    else:
                        kind, d, longest = "away", x - np.eye(8)[v], x[v] / (1 - x[v])
                    t = min(-g @ d / (d @ h @ d), longest)
                    end = t == longest and kind != "towards"
                    left = active | ({s} if kind != "away" else set())
                    left = left - ({v} if end else set()) if not (kind == "towards" and t == 1) else {s}
                    candidates.append((x + t * d, left, kind, end))
            match = [item for item in candidates if np.abs(item[0] - after.point.numpy()).max() < 1e-9]
            assert match
            _, left, kind, end = match[0]
            assert {int(a.argmax()) for a in after.atoms} == left
            assert after.drops - state.drops == end
            kinds |= {kind} | ({"drop"} if end else set())
    assert kinds >= ({"towards", "away", "drop"} if direction == "away" else {"pairwise", "drop"})


@pytest.mark.parametrize("direction", ["away", "pairwise"])
@pytest.mark.parametrize("rule", ["short", "exact", "backtracking"])
def test_the_combination_is_the_point(direction: Any, rule: str) -> None:
    problem, _, _, least = simplex_problem()
    found = states(AwayFrankWolfe(direction, RULES[rule]), problem, vertex(8), 400)
    for state in found:
        torch.testing.assert_close(state.weights @ state.atoms, state.point, rtol=0, atol=1e-12)
        assert (state.weights > 0).all()
        assert float(state.weights.sum()) == pytest.approx(1, abs=1e-12)
        assert len(torch.unique(state.atoms, dim=0)) == len(state.atoms)
        assert state.value - least <= state.stationarity + 1e-12
    assert found[-1].stationarity < 1e-9


def test_away_steps_converge_at_the_proved_linear_rate_where_frank_wolfe_zigzags() -> None:
    # The minimizer is in the middle of an edge of the simplex in four dimensions: pyramidal width 2 / sqrt(4) = 1.
    problem, matrix, center = edge_problem(4)
    x = vertex(4)
    for _ in range(2000):
        x = Simplex().prox(x - matrix @ (x - center) / 4, 1.0)
    least = float(problem.value(x))
    assert (x > 0).sum() == 2
    for rule in (ShortStep(4.0), ExactQuadratic()):
        found = states(AwayFrankWolfe("away", rule), problem, vertex(4, 3), 300)
        ratio = 1.0 * 1.0**2 / (4 * 4.0 * 2)
        first = found[0].value - least
        for steps, state in enumerate(found):
            assert state.value - least <= (1 - ratio) ** (steps / 2) * first + 1e-14
            assert state.drops <= steps / 2
    plain = states(FrankWolfe(ExactQuadratic()), problem, vertex(4, 3), len(found) - 1)[-1]
    assert plain.stationarity > 1e4 * found[-1].stationarity


@pytest.mark.parametrize("solver", [FrankWolfe(), AwayFrankWolfe(), AwayFrankWolfe("pairwise")])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_agrees_with_clarabel(solver: Any, loss: str, sparse: bool) -> None:
    plain = lasso(30, 12, loss=loss)
    for regularizer in (Simplex(), Box(-0.1, 0.3)):
        design = plain.design.to_sparse_csr() if sparse else plain.design
        problem = LinearModel(design, plain.target, loss, regularizer)
        start = torch.full((12,), 5.0, dtype=torch.float64)  # outside
        tolerance = 1e-3 if isinstance(solver, FrankWolfe) else 1e-8
        result = solver.run(problem, start, budget="4000steps", tolerance=tolerance, record_every=1000)
        assert result.success
        least = cvxpy_minimum(LinearModel(plain.design, plain.target, loss, regularizer))
        assert -1e-7 <= result.value - least <= tolerance + 1e-7  # Clarabel errs by that much
        assert torch.isfinite(regularizer.value(result.solution))


def test_a_step_costs_one_pair_of_products() -> None:
    class Counted(LinearModel):
        products = 0

        def predict(self, x: torch.Tensor) -> torch.Tensor:
            Counted.products += 1
            return super().predict(x)

    plain = lasso(30, 12)
    for solver in (FrankWolfe(), FrankWolfe(ExactQuadratic()), AwayFrankWolfe(), AwayFrankWolfe("pairwise")):
        Counted.products = 0
        problem = Counted(plain.design, 0.1 * plain.target, "squared", Simplex())
        result = solver.run(problem, vertex(12), budget="20steps", divergence=None)
        stalled = "rounding" in result.message  # found out in a step that is not counted
        assert Counted.products == 1 + result.steps + stalled
        assert result.calls["smooth gradient"] == result.calls["lmo"] == 1 + result.steps
        fresh = plain.predict(result.solution)  # images that follow the steps do not drift away
        torch.testing.assert_close(result.state.image, fresh, rtol=1e-12, atol=1e-12)


def test_a_linear_function_is_solved_in_one_step() -> None:
    slope = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    problem = CompositeProblem(lambda x: slope @ x, Simplex())
    for solver in (FrankWolfe(), FrankWolfe(ExactQuadratic()), AwayFrankWolfe("pairwise")):
        result = solver.run(problem, vertex(3), budget="50steps", tolerance=1e-12)
        assert result.success
        assert result.steps <= 2
        torch.testing.assert_close(result.solution, vertex(3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["away", "pairwise"])
def test_a_tolerance_below_rounding_ends(dtype: torch.dtype, direction: Any) -> None:
    plain = lasso(30, 12)
    problem = LinearModel(plain.design.to(dtype), plain.target.to(dtype), "squared", Simplex())
    start = vertex(12).to(dtype)
    result = AwayFrankWolfe(direction).run(problem, start, budget="5000steps", tolerance=0.0, record_every=1000)
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    least = cvxpy_minimum(LinearModel(plain.design, plain.target, "squared", Simplex()))
    assert result.value - least <= (1e-4 if dtype == torch.float32 else 1e-8)


def test_what_does_not_fit_is_refused() -> None:
    problem = lasso()
    with pytest.raises(MissingOracle, match="lmo"):
        FrankWolfe().run(problem, torch.zeros(100).double(), budget="1steps")
    assert isinstance(problem.regularizer, L1)
    for solver in (FrankWolfe, AwayFrankWolfe):
        with pytest.raises(TypeError, match="rule must be a FrankWolfeStep"):
            solver(rule=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="direction must be"):
        AwayFrankWolfe("sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lipschitz must be"):
        ShortStep(0.0)
    with pytest.raises(ValueError, match="grow must be"):
        Backtracking(grow=1.0)


def test_the_cards_tell_the_truth() -> None:
    assert CARD.load() is FrankWolfe
    assert AWAY_CARD.load() is AwayFrankWolfe
