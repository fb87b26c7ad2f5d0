"""The convex program: operators against dense matrices, the linear systems, and its optimum against CVXPY."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("cvxpy")
import reference

from steepest.train.convexnet import (
    ADMM,
    ConvexProgram,
    enumerate_patterns,
    nonconvex_objective,
    sample_patterns,
    with_bias,
)
from steepest.train.convexnet.cones import project
from steepest.train.convexnet.linear import NormalEquations


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(loss: str = "squared", n: int = 25, d: int = 3, outputs: int = 1, penalty: float = 0.3, **settings: bool):
    x = normal(n, d)
    y = torch.sign(normal(n, outputs, seed=1) + x[:, :1])
    return ConvexProgram(x, y, sample_patterns(x, 9, torch.Generator().manual_seed(2)), loss, penalty, **settings)


def dense(program: ConvexProgram) -> tuple[torch.Tensor, torch.Tensor]:
    """``F`` and ``G`` as matrices from their definition, block by block."""
    copies, count, _, outputs = program.shape
    eye = torch.eye(outputs, dtype=torch.float64)
    f, g = [], []
    for copy in range(copies):
        for i in range(count):
            diagonal = torch.diag(program.patterns.active[:, i].double())
            f.append(torch.kron((1 - 2 * copy) * diagonal @ program.design, eye))
            g.append(torch.kron((2 * diagonal - torch.eye(len(diagonal))) @ program.rows, eye))
    return torch.cat(f, 1), torch.block_diag(*g)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_operators_equal_their_matrices(gated: bool, outputs: int) -> None:
    program = make(outputs=outputs, gated=gated)
    f, g = dense(program)
    point = normal(*program.shape, seed=3)
    torch.testing.assert_close(program.predict(point).reshape(-1), f @ point.reshape(-1))
    residual = normal(25, outputs, seed=4)
    torch.testing.assert_close(program.adjoint(residual).reshape(-1), f.mT @ residual.reshape(-1))
    margins = program.margins(point)  # (n, copies, P, outputs); the matrix has the blocks outside
    torch.testing.assert_close(margins.movedim(0, 2).reshape(-1), g @ point.reshape(-1))
    slack = normal(*margins.shape, seed=5)
    torch.testing.assert_close(program.margins_adjoint(slack).reshape(-1), g.mT @ slack.movedim(0, 2).reshape(-1))
    slope = torch.func.grad(program._plain_value)(point) - torch.func.grad(
        lambda p: program.penalty * program.norms(p).sum()
    )(point)
    torch.testing.assert_close(program.gradient(point), slope)


@pytest.mark.parametrize("method", ["samples", "weights", "cg"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("weight", [0.02, 1.0, 50.0])
def test_the_woodbury_form_equals_the_dense_solution(method: str, gated: bool, weight: float) -> None:
    program = make(outputs=2, gated=gated)
    f, g = dense(program)
    matrix = torch.eye(f.shape[1], dtype=torch.float64) + weight * f.mT @ f
    if not gated:
        matrix += g.mT @ g
    right = normal(*program.shape, seed=6)
    system = NormalEquations(
        program.design, program._active, None if gated else program.rows, weight, program.copies, method
    )
    found, dual = system.solve(right)
    torch.testing.assert_close(found.reshape(-1), torch.linalg.solve(matrix, right.reshape(-1)), rtol=1e-10, atol=1e-10)
    if method == "cg":  # a solve that begins at its own answer does not move
        torch.testing.assert_close(system.solve(right, dual)[0], found, rtol=1e-12, atol=1e-12)


def test_conjugate_gradients_keep_their_tolerance() -> None:
    x = normal(500, 8)
    program = ConvexProgram(x, normal(500), sample_patterns(x, 30, torch.Generator().manual_seed(0)))
    system = NormalEquations(program.design, program._active, program.rows, 30.0, 2, "cg")
    right = normal(500, 1, seed=3)
    for tolerance in (1e-1, 1e-3, 1e-6):
        dual = system._cg(right, None, tolerance)
        assert float((system._matrix(dual) - right).norm()) <= tolerance * float(right.norm()) * (1 + 1e-6)


def cases() -> ModuleType:
    path = Path(__file__).parents[2] / "solve" / "cases" / "convexnet.py"
    spec = importlib.util.spec_from_file_location("convexnet_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_optima_of_the_contract_come_from_cvxpy() -> None:
    module = cases()
    for key, optimum in module.OPTIMA.items():
        if key != "lasso":
            loss, gated, joint = key
            program = module.program(loss, torch.float64, gated, joint)
            assert reference.optimum(program) == pytest.approx(optimum, rel=1e-6)


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "huber", "absolute", "squared-hinge"])
def test_a_solution_makes_a_network_of_equal_objective(loss: str) -> None:
    program = make(loss)
    value, blocks = reference.solve(program)
    point = program.repair(torch.as_tensor(blocks))
    assert float(program.violation(point)) <= 1e-14
    convex = float(program.value(point))
    assert convex == pytest.approx(value, rel=1e-5)
    network = program.network(point)
    found = float(nonconvex_objective(network, program.design, program.target, loss, program.penalty).detach())
    assert found == pytest.approx(convex, rel=1e-9)
    assert float(program.network_value(point)) == pytest.approx(convex, rel=1e-9)
    # And back: the network's own point has the same value.
    assert float(program.value(program.point_of(network))) == pytest.approx(convex, rel=1e-9)


def test_the_optimum_over_all_patterns_is_below_every_trained_network_and_falls_with_patterns() -> None:
    x = with_bias(torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None])
    y = torch.sin(4 * x[:, 0])
    everything = enumerate_patterns(x)
    optima = []
    for count in (1, 3, 6, len(everything)):
        patterns = everything.take(torch.arange(count))
        optima.append(reference.optimum(ConvexProgram(x, y, patterns, "squared", 0.02)))
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(optima))
    assert optima[-1] < optima[0]
    for seed in range(3):
        torch.manual_seed(seed)
        from steepest.train.convexnet import TwoLayerReLU

        network = TwoLayerReLU(1, 30, bias=True, dtype=torch.float64)
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=400, line_search_fn="strong_wolfe")

        def closure(network=network, optimizer=optimizer):
            optimizer.zero_grad()
            objective = nonconvex_objective(network, x[:, :1], y, "squared", 0.02)
            objective.backward()
            return objective

        optimizer.step(closure)
        assert float(nonconvex_objective(network, x[:, :1], y, "squared", 0.02).detach()) >= optima[-1] * (1 - 1e-6)


def test_repair_projects_on_the_cones() -> None:
    program = make()
    point = normal(*program.shape, seed=9)
    repaired = program.repair(point)
    assert float(program.violation(repaired)) <= 1e-15
    torch.testing.assert_close(program.repair(repaired), repaired, rtol=1e-12, atol=1e-12)
    import cvxpy as cp

    for i in (0, 3):
        v = cp.Variable(3)
        sign = (program.patterns.active[:, i].double() * 2 - 1).numpy()
        cone = cp.multiply(sign, program.rows.numpy() @ v) >= 0
        goal = point[0, i, :, 0].numpy()
        least = cp.Problem(cp.Minimize(cp.norm(v - goal)), [cone]).solve(solver=cp.CLARABEL)
        assert float((repaired[0, i, :, 0] - point[0, i, :, 0]).norm()) == pytest.approx(least, rel=1e-5, abs=1e-7)


def test_projections_on_cones_meet_moreaus_conditions() -> None:
    program = make(n=60, d=5)
    sign = program._active * 2 - 1
    goal = normal(len(program.patterns), 5, seed=4)
    found, multipliers = project(program.rows, sign, goal)
    margin = sign * (program.rows @ found.mT)
    assert float(margin.min()) >= -1e-11
    assert float(multipliers.min()) >= 0
    torch.testing.assert_close(found, goal + (program.rows.mT @ (sign * multipliers)).mT)
    assert float((found * (goal - found)).sum(1).abs().max()) <= 1e-10


def test_the_critical_penalty_makes_zero_optimal() -> None:
    for settings in ({}, {"gated": True}, {"gated": True, "joint": True}):
        program = make(outputs=2, **settings)
        zero = float(program.value(program.zeros()))
        critical = program.critical_penalty
        above = ADMM().run(program.with_penalty(critical * 1.0001), program.zeros(), budget="400steps", tolerance=1e-7)
        assert above.value == pytest.approx(zero)
        assert above.stationarity <= 1e-7 * zero + 1e-7
        if settings:
            assert reference.optimum(program.with_penalty(critical * 0.97)) < zero * (1 - 1e-6)


def test_rank_deficient_constant_duplicate_and_zero_data() -> None:
    x = normal(12, 3)
    x = torch.cat([x, x[:4], torch.zeros(2, 3)])
    x = torch.cat([x, x[:, :1], torch.ones(len(x), 1), torch.zeros(len(x), 1)], 1)
    y = normal(len(x), seed=8)
    program = ConvexProgram(x, y, sample_patterns(x, 8, torch.Generator().manual_seed(0)), "squared", 0.2)
    result = ADMM().run(program, program.zeros(), budget="1500steps", tolerance=1e-4)
    assert result.value == pytest.approx(reference.optimum(program), abs=2e-3)
    assert result.value - result.stationarity <= reference.optimum(program) + 1e-6


@pytest.mark.parametrize(("n", "d"), [(5, 30), (1, 1), (1, 4), (40, 1)])
def test_extreme_shapes(n: int, d: int) -> None:
    x, y = normal(n, d), normal(n, seed=1)
    program = ConvexProgram(x, y, sample_patterns(x, 6, torch.Generator().manual_seed(0)), "squared", 0.1)
    result = ADMM().run(program, program.zeros(), budget="500steps", tolerance=1e-6)
    optimum = reference.optimum(program)
    assert optimum - 1e-6 <= result.value <= optimum + 2e-3
    assert result.value - result.stationarity <= optimum + 1e-6


def test_penalty_zero_fits_as_well_as_its_patterns_allow() -> None:
    program = make(penalty=0.0, gated=True)
    f, _ = dense(program)
    target = program.target.reshape(-1)
    least = 0.5 * (f @ torch.linalg.lstsq(f, target, driver="gelsd").solution - target).square().sum()
    result = ADMM().run(program, program.zeros(), budget="300steps")
    assert result.value == pytest.approx(float(least), abs=1e-6)


def test_bad_input_is_named() -> None:
    x, y = normal(6, 2), normal(6, seed=1)
    patterns = sample_patterns(x, 4, torch.Generator())
    for bad, error, words in (
        (lambda: ConvexProgram(x, y[:5], patterns), ValueError, "target"),
        (lambda: ConvexProgram(x * math.nan, y, patterns), ValueError, "design must be finite"),
        (lambda: ConvexProgram(x, y, sample_patterns(normal(7, 2), 4, torch.Generator())), ValueError, "patterns"),
        (lambda: ConvexProgram(x, y, patterns, penalty=-1.0), ValueError, "penalty"),
        (lambda: ConvexProgram(x, y, patterns, joint=True), ValueError, "gated"),
        (lambda: ConvexProgram(x, y, patterns, "logistic"), ValueError, "target"),
        (lambda: ConvexProgram(x, y, patterns, "nonsense"), ValueError, "nonsense"),
        (lambda: ConvexProgram(x.to_sparse_csr(), y, patterns), TypeError, "design"),
        (lambda: ADMM().run(ConvexProgram(x, y, patterns), torch.zeros(3), budget="1steps"), ValueError, "shape"),
    ):
        with pytest.raises(error, match=words):
            bad()
    with pytest.warns(UserWarning, match="not convex"):
        ConvexProgram(x, y, patterns, lambda z, t: torch.sin(z - t))
