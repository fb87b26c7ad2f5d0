"""Implicit differentiation against closed forms and finite differences, of first and second order."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.core.implicit import implicit, proximal_optimality, smooth_optimality
from steepest.core.krylov import conjugate_gradients, gmres
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import L1, GroupL2, Nuclear, Simplex, SquaredL2, TotalVariation
from steepest.solve.convex import CompositeProblem, LinearModel

SOLVERS = ("auto", "dense", "cg", "gmres", "normal-cg")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def number(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


# ---- ridge regression, which has a closed form


def ridge_problem(design: Tensor, target: Tensor, weight: Tensor) -> SmoothProblem:
    return SmoothProblem(lambda x: 0.5 * (design @ x - target).square().sum() + 0.5 * weight * x.square().sum())


def ridge_solution(design: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    unit = torch.eye(design.shape[1], dtype=design.dtype)
    return torch.linalg.solve(design.mT @ design + weight * unit, design.mT @ target)


def ridge_data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    design, target = draw(8, 4, dtype=dtype), draw(8, seed=1, dtype=dtype)
    return design.requires_grad_(), target.requires_grad_(), number(0.5, dtype)


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_ridge_has_the_derivatives_of_its_closed_form(linear_solver: Any) -> None:
    decorate = implicit(smooth_optimality(ridge_problem), symmetric=True, linear_solver=linear_solver)
    solve = decorate(ridge_solution)
    data = ridge_data()
    weight = draw(4, seed=2)
    found = torch.autograd.grad(weight @ solve(*data), data, create_graph=True)
    expected = torch.autograd.grad(weight @ ridge_solution(*data), data, create_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    # Second derivatives, all of them mixed: of one number made of the first ones.
    twice = torch.autograd.grad(sum((g * g.detach().roll(1)).sum() + g.square().sum() for g in found), data)
    peers = torch.autograd.grad(sum((g * g.detach().roll(1)).sum() + g.square().sum() for g in expected), data)
    for a, b in zip(twice, peers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_finite_differences_agree_to_second_order(linear_solver: Any) -> None:
    solve = implicit(smooth_optimality(ridge_problem), symmetric=True, linear_solver=linear_solver)(ridge_solution)
    assert torch.autograd.gradcheck(solve, ridge_data())
    assert torch.autograd.gradgradcheck(solve, ridge_data())


def test_the_hypergradient_in_float32() -> None:
    solve = implicit(smooth_optimality(ridge_problem), symmetric=True)(ridge_solution)
    data = ridge_data(torch.float32)
    found = torch.autograd.grad(solve(*data).sum(), data)
    expected = torch.autograd.grad(ridge_solution(*data).sum(), data)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- one unknown, derivatives of higher order


def cubic_root(theta: Tensor) -> Tensor:
    """The real root of ``x^3 + x = theta``, by Newton's method."""
    x = torch.zeros_like(theta)
    for _ in range(60):
        x = x - (x**3 + x - theta) / (3 * x**2 + 1)
    return x


@pytest.mark.parametrize("linear_solver", ["dense", "gmres", "normal-cg"])
def test_one_number_to_third_order(linear_solver: Any) -> None:
    solve = implicit(lambda x, theta: x**3 + x - theta, linear_solver=linear_solver)(cubic_root)
    theta = number(1.7)
    x = solve(theta)
    assert x.shape == ()
    (first,) = torch.autograd.grad(x, theta, create_graph=True)
    (second,) = torch.autograd.grad(first, theta, create_graph=True)
    (third,) = torch.autograd.grad(second, theta)
    r = x.item()
    d = 3 * r * r + 1
    assert first.item() == pytest.approx(1 / d, rel=1e-9)
    assert second.item() == pytest.approx(-6 * r / d**3, rel=1e-8)
    assert third.item() == pytest.approx((-6 * d + 108 * r * r) / d**5, rel=1e-7)


def test_many_numbers_at_once() -> None:
    solve = implicit(lambda x, theta: x**3 + x - theta)(cubic_root)
    theta = draw(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(solve, (theta,))
    assert torch.autograd.gradgradcheck(solve, (theta,))


# ---- lasso and its kin: the fixed point of a proximal gradient step


def iterate(problem: Any, start: Tensor, steps: int = 600) -> Tensor:
    """Proximal gradient steps until nothing moves."""
    step = 1 / problem.lipschitz
    x = start
    for _ in range(steps):
        moved = problem.prox(x - step * problem.smooth_gradient(x), step)
        if (moved - x).abs().max() <= 1e-15:
            return moved
        x = moved
    return x


def lasso_problem(design: Tensor, target: Tensor, weight: Tensor) -> LinearModel:
    return LinearModel(design, target, "squared", L1(weight))


def test_the_lasso_on_its_support() -> None:
    design, target, weight = draw(20, 8), draw(20, seed=1), number(0.15)
    target = (design[:, :3].sum(1) + 0.3 * target).requires_grad_()

    @implicit(proximal_optimality(lasso_problem))
    def lasso(design: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return iterate(lasso_problem(design, target, weight), torch.zeros(8, dtype=torch.float64))

    x = lasso(design, target, weight)
    support = x != 0
    assert 2 <= support.sum() <= 6
    part = design[:, support]
    inverse = torch.linalg.inv(part.T @ part)
    for i in range(8):
        by_target, by_weight = torch.autograd.grad(x[i], (target, weight), retain_graph=True)
        if support[i]:
            row = inverse[int(support[:i].sum())]
            torch.testing.assert_close(by_target, row @ part.T, rtol=1e-8, atol=1e-10)
            torch.testing.assert_close(by_weight, -20 * row @ x[support].sign().detach(), rtol=1e-8, atol=1e-10)
        else:
            assert by_target.abs().max() < 1e-12
            assert by_weight.abs() < 1e-12
    design = design.clone().requires_grad_()
    assert torch.autograd.gradcheck(lasso, (design, target, weight), atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda t, w: lasso(design.detach(), t, w), (target, weight), atol=1e-5)


@pytest.mark.parametrize("step", [0.05, 4.0])
@pytest.mark.parametrize(
    "make",
    [lambda w: GroupL2(w, 2), lambda w: TotalVariation(0.3 * w), Simplex, SquaredL2],
    ids=["group", "total variation", "simplex", "ridge"],
)
def test_other_regularizers_at_any_step(make: Any, step: float) -> None:
    design, target = draw(20, 6), draw(20, seed=1).requires_grad_()

    def problem(target: Tensor, weight: Tensor) -> LinearModel:
        return LinearModel(design, target, "squared", make(weight))

    @implicit(proximal_optimality(problem, step))
    def solve(target: Tensor, weight: Tensor) -> Tensor:
        return iterate(problem(target, weight), torch.full((6,), 1 / 6, dtype=torch.float64))

    assert torch.autograd.gradcheck(solve, (target, number(0.2)), atol=1e-6)


def test_a_matrix_with_the_nuclear_norm() -> None:
    target = draw(4, 3).requires_grad_()
    design = draw(9, 4, seed=2)

    def problem(target: Tensor, weight: Tensor) -> LinearModel:
        return LinearModel(design, design @ target, "squared", Nuclear(weight))

    @implicit(proximal_optimality(problem))
    def solve(target: Tensor, weight: Tensor) -> Tensor:
        return iterate(problem(target, weight), torch.zeros(4, 3, dtype=torch.float64))

    weight = number(0.9)
    assert 0 < torch.linalg.matrix_rank(solve(target, weight), tol=1e-8) < 3
    assert torch.autograd.gradcheck(solve, (target, weight), atol=1e-6)


def test_the_derivative_of_a_validation_loss_by_the_weight_of_logistic_regression() -> None:
    design, label = draw(40, 5), draw(40, seed=1).sign()
    fresh, answer = draw(30, 5, seed=2), draw(30, seed=3).sign()

    def problem(weight: Tensor) -> LinearModel:
        return LinearModel(design, label, "logistic", SquaredL2(weight))

    @implicit(proximal_optimality(problem, 4.0))
    def solve(log_weight: Tensor) -> Tensor:
        return iterate(problem(log_weight), torch.zeros(5, dtype=torch.float64))

    def validation(log_weight: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-answer * (fresh @ solve(log_weight.exp()))).mean()

    assert torch.autograd.gradcheck(validation, (number(-2.0),))
    assert torch.autograd.gradgradcheck(validation, (number(-2.0),))


# ---- structures, and what is passed on


def test_points_and_data_may_be_trees_and_hold_anything() -> None:
    def problem(data: dict[str, Any], power: int, note: str) -> SmoothProblem:
        assert note == "x"

        def value(x: dict[str, Any]) -> Tensor:
            prediction = data["features"] @ x["weight"] + x["rest"][0]
            fit = (prediction - data["target"][data["rows"]]).square().sum()
            return fit + data["ridge"] * (x["weight"] ** power).sum() + x["rest"][0] ** 2

        return SmoothProblem(value)

    rows = torch.arange(6)
    made = problem({"features": torch.zeros(6, 2), "target": torch.zeros(6), "rows": rows, "ridge": 1}, 2, "x")
    assert isinstance(made, SmoothProblem)

    calls: list[bool] = []

    @implicit(smooth_optimality(problem), symmetric=True)
    def solve(data: dict[str, Any], power: int, note: str, *, steps: int) -> dict[str, Any]:
        calls.append(torch.is_grad_enabled())
        assert (power, note, steps) == (2, "x", 7)
        design = torch.cat([data["features"], torch.ones(6, 1, dtype=torch.float64)], dim=1)
        penalty = torch.cat([data["ridge"].expand(2), torch.ones(1, dtype=torch.float64)])
        found = torch.linalg.solve(design.T @ design + penalty.diag(), design.T @ data["target"])
        return {"weight": found[:2], "rest": [found[2]]}

    def flat(features: Tensor, target: Tensor, ridge: Tensor) -> Tensor:
        data = {"features": features, "target": target, "rows": rows, "ridge": ridge, "unused": None}
        x = solve(data, 2, "x", steps=7)
        return torch.cat([x["weight"], x["rest"][0].reshape(1)])

    inputs = (draw(6, 2).requires_grad_(), draw(6, seed=1).requires_grad_(), number(0.7))
    assert torch.autograd.gradcheck(flat, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(flat, inputs, atol=1e-5)
    assert not any(calls)  # the solver runs without recording


def test_a_composite_problem_with_a_tree() -> None:
    def problem(center: Tensor, weight: Tensor) -> CompositeProblem:
        def smooth(x: dict[str, Tensor]) -> Tensor:
            return 0.5 * (x["a"] - center).square().sum() + 0.5 * (x["b"] - center.sum()).square()

        return CompositeProblem(smooth, {"a": L1(weight), "b": None})

    @implicit(proximal_optimality(problem, 0.5))
    def solve(center: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"a": center.sign() * (center.abs() - weight).clamp_min(0), "b": center.sum()}

    center, weight = draw(4).requires_grad_(), number(0.6)
    x = solve(center, weight)
    by_center, by_weight = torch.autograd.grad(x["a"].sum() + 3 * x["b"], (center, weight))
    above = center.abs() > 0.6
    torch.testing.assert_close(by_center, above.double() + 3)
    torch.testing.assert_close(by_weight, -(above * center.sign()).sum())


def test_nothing_is_recorded_where_nothing_asks_for_it() -> None:
    solve = implicit(lambda x, theta: x - theta)(lambda theta: theta * 1)
    assert not solve(torch.ones(2)).requires_grad
    assert not solve(torch.ones(2, dtype=torch.long).double()).requires_grad
    with torch.no_grad():
        assert not solve(number(1.0)).requires_grad
    theta = number(1.0)
    data: Any = (theta, torch.arange(2))
    x = implicit(lambda x, t: x - t[0] * t[1])(lambda t: t[0] * t[1].double())(data)
    x.sum().backward()
    assert theta.grad == 1


def test_a_solution_that_is_there_can_be_attached_afterwards() -> None:
    theta = number(2.0)
    x = cubic_root(theta.detach())
    attached = implicit(lambda x, theta: x**3 + x - theta)(lambda theta: x)(theta)
    attached.backward()
    assert theta.grad == pytest.approx(1 / (3 * x.item() ** 2 + 1))
    assert not x.requires_grad


def test_the_graph_is_freed() -> None:
    theta = number(2.0)
    solve = implicit(lambda x, theta: x**3 + x - theta)(cubic_root)
    x = solve(theta)
    (slope,) = torch.autograd.grad(x, theta, create_graph=True)
    (second,) = torch.autograd.grad(slope, theta)
    dead = weakref.ref(x)
    del x, slope, second
    gc.collect()
    assert dead() is None


# ---- many unknowns


@pytest.mark.parametrize("linear_solver", ["auto", "gmres", "normal-cg", "dense"])
def test_a_large_system_that_is_not_symmetric(linear_solver: Any) -> None:
    n = 300
    matrix = torch.eye(n, dtype=torch.float64) + 0.03 * draw(n, n)
    b = draw(n, seed=1).requires_grad_()
    solve = implicit(lambda x, b: matrix @ x - b, linear_solver=linear_solver)(lambda b: torch.linalg.solve(matrix, b))
    weight = draw(n, seed=2)
    (found,) = torch.autograd.grad(weight @ solve(b), b)
    torch.testing.assert_close(found, torch.linalg.solve(matrix.T, weight), rtol=1e-7, atol=1e-8)


def test_a_large_symmetric_system_takes_few_products() -> None:
    n, rounds = 20_000, 0
    diagonal = torch.linspace(1, 10, n, dtype=torch.float64)

    class Diagonal(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return diagonal * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            nonlocal rounds
            rounds += 1
            return diagonal * g

    def optimality(x: Tensor, b: Tensor) -> Tensor:
        return Diagonal.apply(x) - b

    b = torch.ones(n, dtype=torch.float64, requires_grad=True)
    solve = implicit(optimality, symmetric=True)(lambda b: b / diagonal)
    (found,) = torch.autograd.grad(solve(b).sum(), b)
    torch.testing.assert_close(found, 1 / diagonal, rtol=1e-8, atol=0)
    assert 3 < rounds < 50  # the condition is 10: each product takes off half of the error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_krylov_methods_solve_linear_systems(dtype: torch.dtype) -> None:
    n = 120
    general = torch.eye(n, dtype=dtype) + 0.05 * draw(n, n, dtype=dtype)
    definite = general.T @ general
    b = draw(n, seed=1, dtype=dtype)
    rtol = 1e-3 if dtype == torch.float32 else 1e-8
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for restart in (10, 50, 200):
        x = gmres(lambda v: general @ v, b, tolerance, 2000, restart)
        torch.testing.assert_close(x, torch.linalg.solve(general, b), rtol=rtol, atol=10 * rtol)
    x = conjugate_gradients(lambda v: definite @ v, b, tolerance, 2000)
    torch.testing.assert_close(x, torch.linalg.solve(definite, b), rtol=rtol, atol=50 * rtol)
    for method in (gmres, conjugate_gradients):
        assert not method(lambda v: definite @ v, torch.zeros_like(b), 1e-6, 10).any()
        few = method(lambda v: definite @ v, b, 1e-30, 3)  # ends, with what it has
        assert torch.isfinite(few).all()


def test_gmres_ends_after_as_many_products_as_there_are_different_eigenvalues() -> None:
    values = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(40)
    count = 0

    def product(v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return values * v

    b = draw(120)
    torch.testing.assert_close(gmres(product, b, 1e-10, 100), b / values)
    assert count <= 4
    count = 0
    torch.testing.assert_close(conjugate_gradients(product, b, 1e-10, 100), b / values)
    assert count <= 4
    count = 0
    torch.testing.assert_close(conjugate_gradients(product, b, 1e-10, 100, diagonal=values), b / values)
    assert count == 1  # preconditioned by the matrix itself


def test_conjugate_gradients_end_before_negative_curvature() -> None:
    values = torch.tensor([4.0, 1.0, -0.5], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    x = conjugate_gradients(lambda v: values * v, b, 1e-12, 10)
    assert 0 < float(x @ (values * x)) == pytest.approx(float(b @ x))  # a minimizer in the space that was searched
    assert not conjugate_gradients(lambda v: -v, b, 1e-12, 10).any()


# ---- what goes wrong is said


def test_a_solution_that_is_not_unique() -> None:
    matrix = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)

    def optimality(x: Tensor, b: Tensor) -> Tensor:
        return matrix @ x - b.sum()

    def solve(b: Tensor) -> Tensor:
        return b.sum().expand(2) / 2

    b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="singular"):
        implicit(optimality)(solve)(b).sum().backward()
    with pytest.raises(RuntimeError, match="gmres left a residual of"):
        implicit(optimality, linear_solver="gmres")(solve)(b)[0].backward()
    (slope,) = torch.autograd.grad(implicit(optimality, linear_solver="normal-cg")(solve)(b).sum(), b)
    torch.testing.assert_close(slope, torch.ones(2, dtype=torch.float64))  # the sum is unique
    (slope,) = torch.autograd.grad(implicit(optimality, ridge=1e-6)(solve)(b).sum(), b)
    torch.testing.assert_close(slope, torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_ridge_is_part_of_second_derivatives() -> None:
    solve = implicit(lambda x, theta: x - theta**2, ridge=1.0)(lambda theta: theta**2)
    theta = number(3.0)
    (first,) = torch.autograd.grad(solve(theta), theta, create_graph=True)
    (second,) = torch.autograd.grad(first, theta)
    assert (first.item(), second.item()) == (pytest.approx(3.0), pytest.approx(1.0))  # half of 6 and of 2


def test_too_few_products() -> None:
    n = 200
    matrix = draw(n, n)
    b = draw(n, seed=1).requires_grad_()
    solve = implicit(lambda x, b: matrix @ x - b, max_steps=5)(lambda b: torch.linalg.solve(matrix, b))
    with pytest.raises(RuntimeError, match="after at most 5 products"):
        solve(b).sum().backward()


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    solve = implicit(lambda x, theta: x - theta)(lambda theta: theta * 1)
    theta = torch.ones(2, requires_grad=True)
    (slope,) = torch.autograd.grad((solve(theta) * torch.inf).sum(), theta)
    assert torch.isnan(slope).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"linear_solver": "lu"}, "implicit: linear_solver must be one of"),
        ({"linear_solver": "cg"}, "say symmetric=True"),
        ({"ridge": -1.0}, "implicit: ridge must be"),
        ({"tolerance": 0.0}, "implicit: tolerance must be"),
        ({"max_steps": 0}, "implicit: max_steps must be"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        implicit(lambda x: x, **settings)


def test_bad_functions_are_named() -> None:
    with pytest.raises(TypeError, match="optimality must be callable, got 3"):
        implicit(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proximal_optimality: step must be"):
        proximal_optimality(lambda: None, 0.0)  # type: ignore[arg-type, return-value]
    theta = number(1.0)
    with pytest.raises(TypeError, match="solution must consist of floating-point tensors, got 3"):
        implicit(lambda x, t: x)(lambda t: 3)(theta)
    with pytest.raises(ValueError, match=r"structure of the solution, float64\[\]; got float64\[1\]"):
        implicit(lambda x, t: (x - t).reshape(1))(lambda t: t * 1)(theta).backward()
    with pytest.raises(ValueError, match="one dtype and device"):
        implicit(lambda x, t: x)(lambda t: [t.float(), t.double()])(theta)
