"""Block coordinate descent: transcriptions in numpy step by step, guaranteed decrease, rates, finite identification of
the active set, the superlinear finish, and scikit-learn and SciPy."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model
import torch

from steepest.core.regularizer import L1, Box, ElasticNet, GroupL2, Nonnegative, Regularizer, SquaredL2, Zero
from steepest.core.result import Reason
from steepest.solve.convex import BlockCoordinateDescent, CoordinateDescent, LinearModel, Quadratic, WorkingSetNewton
from steepest.solve.convex.block_coordinate_descent import partition_of


def data(n: int = 30, d: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator) * torch.logspace(-0.5, 0.5, d).double()
    return design, torch.randn(n, dtype=torch.float64, generator=generator) * 3


def states(problem: Any, start: torch.Tensor, steps: int, **settings: Any) -> list[Any]:
    found: list[Any] = []
    BlockCoordinateDescent(**settings).run(
        problem, start, budget=f"{steps}steps", callbacks=[lambda report: found.append(report.state)]
    )
    return found


FIXED = (
    "cyclic",
    "gauss-southwell",
    "gauss-southwell-lipschitz",
    "gauss-southwell-diagonal",
    "gauss-southwell-quadratic",
)


@pytest.mark.parametrize("update", ["gradient", "matrix", "newton"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize(
    ("partition", "rule"),
    [("variable", "gauss-southwell"), ("variable", "gauss-southwell-diagonal")]
    + [("order", rule) for rule in FIXED]
    + [("sorted", "gauss-southwell-lipschitz"), ("average", "gauss-southwell")],
)
def test_every_step_is_the_papers(partition: str, rule: str, loss: str, update: str) -> None:
    design, target = data()
    target = target if loss == "squared" else target.sign()
    start = torch.linspace(-1, 1, 12, dtype=torch.float64)
    found = states(LinearModel(design, target, loss), start, 12, size=3, partition=partition, rule=rule, update=update)
    a, y, x = design.numpy(), target.numpy(), start.numpy().copy()
    n, d = a.shape
    bound = a.T @ a / n * (1 if loss == "squared" else 0.25)
    lipschitz = np.diag(bound)
    by_size = np.argsort(-lipschitz, kind="stable")
    order = {
        "order": np.arange(d),
        "sorted": by_size,
        "average": np.array([by_size[i // 2] if i % 2 == 0 else by_size[-1 - i // 2] for i in range(d)]),
    }

    def value(x: np.ndarray) -> float:
        z = a @ x
        return float(np.mean((z - y) ** 2 / 2 if loss == "squared" else np.logaddexp(0, -y * z)))

    for k in range(12):
        z = a @ x
        g = a.T @ ((z - y) if loss == "squared" else -y / (1 + np.exp(y * z))) / n
        if partition == "variable":
            score = g**2 / (lipschitz if "diagonal" in rule else 1)
            b = np.argsort(-score)[:3]
        else:
            blocks = order[partition].reshape(-1, 3)
            scores = {
                "cyclic": lambda b, k=k, blocks=blocks: float(np.array_equal(b, blocks[k % 4])),
                "gauss-southwell": lambda b, g=g: (g[b] ** 2).sum(),
                "gauss-southwell-lipschitz": lambda b, g=g: (g[b] ** 2).sum() / np.linalg.norm(bound[np.ix_(b, b)], 2),
                "gauss-southwell-diagonal": lambda b, g=g: (g[b] ** 2 / lipschitz[b]).sum(),
                "gauss-southwell-quadratic": lambda b, g=g: g[b] @ np.linalg.solve(bound[np.ix_(b, b)], g[b]),
            }
            b = max(blocks, key=scores[rule])
        matrix = bound[np.ix_(b, b)]
        if update == "gradient":
            move = -g[b] / np.linalg.norm(matrix, 2)
        elif update == "matrix":
            move = -np.linalg.solve(matrix, g[b])
        else:
            p = 1 / (1 + np.exp(-z))
            weight = np.ones(n) if loss == "squared" else p * (1 - p)
            move = -np.linalg.solve((a[:, b].T * weight) @ a[:, b] / n, g[b])
            before, slope, t = value(x), float(g[b] @ move), 1.0
            while value(x + np.bincount(b, t * move, d)) > before + 1e-4 * t * slope:
                t /= 2
            move = t * move
        x[b] += move
        np.testing.assert_allclose(found[k].point.numpy(), x, rtol=0, atol=1e-10)
        assert sorted(found[k].block.tolist()) == sorted(b.tolist())


@pytest.mark.parametrize("update", ["gradient", "matrix"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("rule", ["random", "gauss-southwell", "gauss-southwell-diagonal"])
def test_every_step_decreases_the_value_as_much_as_is_proved(update: str, loss: str, rule: str) -> None:
    design, target = data()
    problem = LinearModel(design, target if loss == "squared" else target.sign(), loss)
    bound = design.mT @ design / 30 * problem.loss.curvature
    x = torch.ones(12, dtype=torch.float64)
    for state in states(problem, x, 40, size=4, rule=rule, update=update):
        b = state.block
        g, matrix = problem.smooth_gradient(x)[b], bound[b[:, None], b]
        if update == "gradient":
            least = g.square().sum() / (2 * torch.linalg.matrix_norm(matrix, 2))
        else:
            least = 0.5 * g @ torch.linalg.solve(matrix, g)
        assert problem.value(state.point) <= problem.value(x) - least + 1e-12
        x = state.point


@pytest.mark.parametrize("seed", range(3))
def test_gauss_southwell_stays_under_its_rate(seed: int) -> None:
    design, target = data(seed=seed)
    problem = LinearModel(design, target)
    hessian = design.mT @ design / 30
    least = float(problem.value(torch.linalg.lstsq(design, target[:, None]).solution[:, 0]))
    blocks = partition_of("sorted", hessian.diagonal(), 3)
    top = max(float(torch.linalg.matrix_norm(hessian[b[:, None], b], 2)) for b in blocks)
    rate = 1 - float(torch.linalg.eigvalsh(hessian)[0]) / (len(blocks) * top)
    solver = BlockCoordinateDescent(size=3, partition="sorted", rule="gauss-southwell", update="gradient")
    trace: list[Any] = solver.run(problem, torch.ones(12).double(), budget="80steps").trace.value
    for before, after in itertools.pairwise(trace):
        assert after - least <= rate * (before - least) + 1e-12
    # With single coordinates, the modulus of the 1-norm: its inverse is the largest s . H^{-1} s over all signs.
    inverse = torch.linalg.inv(hessian).numpy()
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=12)))
    rate = 1 - 1 / float(np.einsum("ki,ij,kj->k", signs, inverse, signs).max()) / float(hessian.diagonal().max())
    solver = BlockCoordinateDescent(size=1, rule="gauss-southwell", update="gradient")
    trace = solver.run(problem, torch.ones(12).double(), budget="80steps").trace.value
    for before, after in itertools.pairwise(trace):
        assert after - least <= rate * (before - least) + 1e-12


def test_single_coordinates_are_coordinate_descent() -> None:
    design, target = data()
    problem = LinearModel(design, target, "squared", L1(0.2))
    for rule, same in (("gauss-southwell-diagonal", "gauss-southwell-q"), ("gauss-southwell", "gauss-southwell")):
        ours = BlockCoordinateDescent(size=1, rule=rule, update="gradient")
        other = CoordinateDescent(rule=same)
        start = torch.ones(12).double()
        left, right = ours.run(problem, start, budget="60steps"), other.run(problem, start, budget="60steps")
        torch.testing.assert_close(left.solution, right.solution, rtol=0, atol=1e-10)
        assert left.trace.value == pytest.approx(right.trace.value, abs=1e-12)


def test_the_largest_block_is_newtons_method() -> None:
    design, target = data()
    start = torch.zeros(12).double()
    one = BlockCoordinateDescent(size=99).run(LinearModel(design, target), start, budget="1steps")
    torch.testing.assert_close(one.solution, torch.linalg.lstsq(design, target[:, None]).solution[:, 0])
    problem = LinearModel(design, target.sign(), "logistic", SquaredL2(0.1))
    x = start
    for state in states(problem, start, 5, size=12, update="newton"):
        gradient = problem.smooth_gradient(x) + 0.1 * x
        x = x - torch.linalg.solve(problem.hessian(x) + 0.1 * torch.eye(12).double(), gradient)
        torch.testing.assert_close(state.point, x, rtol=0, atol=1e-10)
    lasso = LinearModel(design, target, "squared", L1(0.3))
    whole = BlockCoordinateDescent(size=12).run(lasso, start, budget="1steps")
    torch.testing.assert_close(
        whole.solution, WorkingSetNewton().run(lasso, start, budget="20steps", tolerance=1e-12).solution
    )


@pytest.mark.parametrize("rule", ["cyclic", "lipschitz-sampling", *FIXED[1:]])
def test_fixed_blocks_solve_the_elastic_net_as_scikit_learn_does(rule: str) -> None:
    design, target = data(40, 10)
    problem = LinearModel(design, target, "squared", ElasticNet(0.1, 0.05))
    solver = BlockCoordinateDescent(size=3, partition="sorted", rule=rule)
    result = solver.run(problem, torch.zeros(10).double(), budget="4000steps")
    peer = sklearn.linear_model.ElasticNet(alpha=0.15, l1_ratio=2 / 3, fit_intercept=False, tol=1e-15, max_iter=10**5)
    np.testing.assert_allclose(result.solution.numpy(), peer.fit(design.numpy(), target.numpy()).coef_, atol=1e-8)


@pytest.mark.parametrize("update", ["gradient", "matrix", "newton"])
@pytest.mark.parametrize("sparse", [False, True])
def test_bounds_give_what_scipy_gives(update: str, sparse: bool) -> None:
    design, target = data(40, 10)
    a = design.to_sparse_csr() if sparse else design
    for regularizer, low, high in ((Nonnegative(), 0.0, np.inf), (Box(-0.5, 0.2), -0.5, 0.2)):
        problem = LinearModel(a, target, "squared", regularizer)
        result = BlockCoordinateDescent(update=update).run(problem, torch.ones(10).double(), budget="800steps")
        peer = scipy.optimize.lsq_linear(design.numpy(), target.numpy(), (low, high), method="bvls", tol=1e-14).x
        np.testing.assert_allclose(result.solution.numpy(), peer, atol=1e-8)


def margin(problem: LinearModel, x: torch.Tensor, weight: float) -> float:
    """How far the gradients of the zero coordinates are from the threshold, at the least."""
    gradient = problem.smooth_gradient(x)
    return float((weight - gradient[x == 0].abs()).min())


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_active_set_is_found_within_the_bound(loss: str) -> None:
    design, target = data(60, 12, seed=4)
    design = design / design.norm(dim=0) * math.sqrt(60)
    target = target if loss == "squared" else (target + design[:, 0] * 3).sign()
    weight = 0.3 if loss == "squared" else 0.08
    problem = LinearModel(design, target, loss, L1(weight))
    best = WorkingSetNewton().run(problem, torch.zeros(12).double(), budget="60steps", tolerance=1e-15).solution
    delta, top = margin(problem, best, weight), problem.lipschitz
    assert top is not None
    zero = best == 0
    assert 2 <= int(zero.sum()) <= 10
    assert delta > 1e-3
    near = delta / (2 * top)
    start = torch.ones(12).double() * 2
    # An update sets the wrong coordinates of its block to zero as soon as the iterate is near.
    x, wrong = start, 0
    for state in states(problem, start, 300, size=3, partition="order", rule="cyclic", update="gradient"):
        if float((x - best).norm()) <= near:
            block = state.block
            assert not bool(state.point[block][zero[block]].any())
            wrong += int((x[block][zero[block]] != 0).sum())
        x = state.point
    assert float((x - best).norm()) <= near
    # With one block (proximal gradient) the rate says when: as soon as it guarantees that distance.
    if loss == "squared":
        strong = float(torch.linalg.eigvalsh(design.mT @ design / 60)[0])
        steps = math.ceil(math.log(2 * top * float((start - best).norm()) / delta) / -math.log(1 - strong / top))
        run = states(problem, start, steps + 30, size=12, update="gradient")
        assert all(not bool(state.point[zero].any()) for state in run[steps:])
        assert all(bool((state.point[~zero] != 0).all()) for state in run[steps:])


@pytest.mark.parametrize("regularizer", [L1(0.08), Nonnegative()])
def test_the_finish_is_superlinear_once_the_support_is_found(regularizer: Regularizer) -> None:
    design, target = data(60, 20, seed=4)
    design = design / design.norm(dim=0) * math.sqrt(60)
    sign = (target + design[:, 0] * 2 - design[:, 3]).sign()
    problem = LinearModel(design, sign, "logistic", regularizer)
    best = WorkingSetNewton().run(problem, torch.zeros(20).double(), budget="80steps").solution
    support = int((best != 0).sum())
    assert 3 <= support <= 14
    run = states(problem, torch.zeros(20).double(), 60, size=support + 2, update="newton", rule="gauss-southwell")
    errors = [float((state.point - best).norm()) for state in run]
    fast = next(k for k, error in enumerate(errors) if error < 1e-2)
    for before, after in itertools.pairwise(errors[fast:]):
        assert after <= 30 * before**2 + 1e-9  # quadratic, down to where the peer's solution ends
        if before < 1e-8:
            break
    else:
        pytest.fail("it did not arrive")
    # On the squared loss the finish is a single step.
    problem = LinearModel(design, target, "squared", L1(0.4))
    best = WorkingSetNewton().run(problem, torch.zeros(20).double(), budget="80steps").solution
    support = int((best != 0).sum())
    run = states(problem, torch.zeros(20).double(), 60, size=support, rule="gauss-southwell")
    errors = [float((state.point - best).norm()) for state in run]
    last = next(k for k, error in enumerate(errors) if error < 1e-10)
    assert torch.equal(run[last - 1].point != 0, best != 0) or last == 0
    assert errors[last - 1] > 1e-6 or last == 0


def test_greedy_rules_and_matrix_updates_are_worth_their_price() -> None:
    design, target = data(100, 40)
    problem = LinearModel(design, target)
    least = float(problem.value(torch.linalg.lstsq(design, target[:, None]).solution[:, 0]))

    def left(**settings: str) -> float:
        run = BlockCoordinateDescent(size=5, **settings).run(problem, torch.zeros(40).double(), budget="40steps")
        return float(run.value or 0.0) - least

    random = left(rule="random", update="gradient")
    greedy = left(rule="gauss-southwell-diagonal", update="gradient")
    assert greedy < 0.5 * random
    assert left(rule="gauss-southwell-diagonal", update="matrix") < 0.5 * greedy


def test_partitions_are_the_papers() -> None:
    constants = torch.tensor([3.0, 9.0, 1.0, 7.0, 5.0])
    assert [b.tolist() for b in partition_of("order", constants, 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in partition_of("sorted", constants, 2)] == [[1, 3], [4, 0], [2]]
    assert [b.tolist() for b in partition_of("average", constants, 2)] == [[1, 2], [3, 0], [4]]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_quadratic_with_bounds_equals_scipy(sparse: bool) -> None:
    design, target = data(40, 10)
    matrix, linear = design.mT @ design, design.mT @ target
    problem = Quadratic(matrix.to_sparse_csr() if sparse else matrix, linear, Nonnegative())
    result = BlockCoordinateDescent(size=3).run(problem, torch.ones(10).double(), budget="500steps", tolerance=1e-9)
    assert result.success
    np.testing.assert_allclose(
        result.solution.numpy(), scipy.optimize.nnls(design.numpy(), target.numpy())[0], atol=1e-8
    )
    free = Quadratic(problem.design, linear)
    result = BlockCoordinateDescent(size=10).run(free, torch.ones(10).double(), budget="1steps")
    torch.testing.assert_close(result.solution, torch.linalg.solve(matrix, linear))


def test_it_stalls_below_rounding_and_survives_degenerate_data() -> None:
    design, target = data(30, 6)
    design = torch.cat([design, design[:, :2], torch.zeros(30, 1)], 1)
    for regularizer in (L1(0.05), Zero()):
        problem = LinearModel(design, target, "squared", regularizer)
        for update in ("gradient", "matrix", "newton"):
            solver = BlockCoordinateDescent(size=4, update=update)
            result = solver.run(problem, torch.zeros(9).double(), budget="4000steps", tolerance=0.0)
            assert result.reason in (Reason.STALLED, Reason.CONVERGED)
            assert float(result.stationarity or 0.0) < 1e-8


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="rule='gauss-southwell-quadratic' needs a fixed partition"):
        BlockCoordinateDescent(rule="gauss-southwell-quadratic")
    with pytest.raises(ValueError, match="BlockCoordinateDescent: update must be one of"):
        BlockCoordinateDescent(update="exact")
    design, target = data()
    with pytest.raises(TypeError, match="separable over coordinates"):
        BlockCoordinateDescent().run(
            LinearModel(design, target, "squared", GroupL2(0.1, 3)), torch.zeros(12).double(), budget="1steps"
        )
    with pytest.raises(ValueError, match="symmetric"):
        Quadratic(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2))
    with pytest.raises(ValueError, match="matrix must be"):
        Quadratic(torch.ones(2, 3), torch.ones(2))
