"""Dense Hessians of smooth problems, and composite problems seen as smooth ones."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from steepest.core import tree
from steepest.core.losses import Huber
from steepest.core.matrix import transposed, weighted_gram
from steepest.core.oracle import OracleCounts, counting
from steepest.core.problem import SmoothProblem
from steepest.core.regularizer import L1, Regularizer, SquaredL2, Zero
from steepest.solve.convex import LBFGS, CompositeProblem, LinearModel, Newton

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")


def data(n: int = 40, d: int = 5, outputs: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator)
    design[design.abs() < 0.5] = 0
    shape = (n, outputs) if outputs else (n,)
    return design, torch.sign(torch.randn(*shape, dtype=torch.float64, generator=generator))


def test_the_hessian_is_the_closed_form_over_the_raveled_point() -> None:
    problem = SmoothProblem(lambda x: x["a"].pow(3).sum() + x["a"][0, 0] * x["b"][1] * x["b"][0])
    point = {
        "a": torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64),
        "b": torch.tensor([2.0, -1.0]).double(),
    }
    expected = torch.diag(torch.tensor([6.0, -12.0, 3.0, 18.0, 0.0, 0.0], dtype=torch.float64))
    expected[0, 4] = expected[4, 0] = -1.0  # b[1]
    expected[0, 5] = expected[5, 0] = 2.0  # b[0]
    expected[4, 5] = expected[5, 4] = 1.0  # a[0, 0]
    counts = OracleCounts()
    with counting(counts), torch.no_grad():
        found = problem.hessian(point)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert counts.snapshot() == {"hessian": 1}


def test_the_hessian_is_symmetric_to_the_bit_and_agrees_with_products_over_many_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(300, 300, dtype=torch.float64, generator=generator) / 17
    problem = SmoothProblem(lambda x: torch.tanh(weights @ x).square().sum())
    x, v = torch.randn(2, 300, dtype=torch.float64, generator=generator)
    hessian = problem.hessian(x)  # more columns than are made at once
    assert torch.equal(hessian, hessian.mT)
    torch.testing.assert_close(hessian @ v, problem.hvp(x, v))


def test_ravel_and_unravel_are_inverse() -> None:
    point = {"a": torch.randn(2, 3), "b": [torch.randn(()), torch.randn(1, 2).double()]}
    flat = tree.ravel(point)
    assert flat.shape == (9,)
    assert flat.dtype == torch.float64
    for left, right in zip(tree.leaves(tree.unravel(flat, point)), tree.leaves(point), strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.parametrize("loss", ["logistic", "squared", "squared-hinge", Huber(0.7)])
@pytest.mark.parametrize("regularizer", [Zero(), SquaredL2(0.3)])
def test_the_view_of_a_linear_model_equals_automatic_differentiation(
    layout: str, outputs: int, loss: Any, regularizer: Regularizer
) -> None:
    design, target = data(outputs=outputs)
    model = LinearModel(design.to_sparse_csr() if layout == "csr" else design, target, loss, regularizer)
    view = model.as_smooth()
    reference = SmoothProblem(
        lambda x: model.loss.value(design @ x, target).sum() / 40 + regularizer.value(x)  # on the dense data
    )
    generator = torch.Generator().manual_seed(2)
    shape = (5, outputs) if outputs else (5,)
    x, v = (torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    for name in ("value", "gradient", "hessian"):
        torch.testing.assert_close(getattr(view, name)(x), getattr(reference, name)(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(view.hvp(x, v), reference.hvp(x, v), rtol=1e-12, atol=1e-13)
    value, gradient = view.value_and_gradient(x)
    torch.testing.assert_close(value, model.value(x), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, view.gradient(x))
    if isinstance(regularizer, Zero):
        torch.testing.assert_close(model.hessian(x), view.hessian(x))


def test_a_composite_problem_is_differentiated_as_a_whole() -> None:
    class Quartic(Regularizer):
        smooth = True

        def value(self, x: torch.Tensor) -> torch.Tensor:
            return x.pow(4).sum()

        def prox(self, x: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    view = CompositeProblem(lambda x: x.square().sum(), Quartic()).as_smooth()
    torch.testing.assert_close(view.gradient(x), 2 * x + 4 * x**3)
    torch.testing.assert_close(view.hessian(x), torch.diag(2 + 12 * x**2))
    linear = LinearModel(torch.eye(2).double(), x, regularizer=Quartic(), scale="sum").as_smooth()
    torch.testing.assert_close(linear.hessian(x), torch.diag(1 + 12 * x**2))
    torch.testing.assert_close(linear.hvp(x, x), (1 + 12 * x**2) * x)
    torch.testing.assert_close(linear.gradient(x), 4 * x**3)


def test_what_is_not_smooth_is_refused() -> None:
    design, target = data()
    with pytest.raises(ValueError, match="regularizer must be smooth"):
        LinearModel(design, target, "logistic", L1(0.1)).as_smooth()
    with pytest.raises(ValueError, match="loss must be smooth"):
        LinearModel(design, target, "hinge").as_smooth()
    with pytest.raises(NotImplementedError, match="L1"):
        L1(0.1).hessian(target)
    view = LinearModel(design, target, "logistic").as_smooth()
    with pytest.raises(ValueError, match=r"shape \[5\]"):
        LBFGS().run(view, torch.zeros(4, dtype=torch.float64), budget="1steps")
    with pytest.raises(TypeError, match="one tensor"):
        LBFGS().run(view, {"x": torch.zeros(5, dtype=torch.float64)}, budget="1steps")


def test_one_line_of_logistic_and_ridge_regression_equals_scikit_learn() -> None:
    design, target = data()
    peer = LogisticRegression(C=2.0, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=200)
    expected = torch.from_numpy(peer.fit(design.numpy(), target.numpy()).coef_[0])
    for solver in (Newton(), LBFGS()):
        model = LinearModel(design, target, "logistic", SquaredL2(0.5), scale="sum")
        result = solver.run(model.as_smooth(), torch.zeros(5).double(), budget="100steps", tolerance=1e-10)
        assert result.success
        torch.testing.assert_close(result.solution, expected, rtol=0, atol=1e-8)
    ridge = Ridge(alpha=0.7, fit_intercept=False).fit(design.numpy(), target.numpy())
    model = LinearModel(design, target, "squared", SquaredL2(0.7), scale="sum")
    result = Newton().run(model.as_smooth(), torch.zeros(5).double(), budget="3steps", tolerance=1e-10)
    assert (result.success, result.steps) == (True, 1)  # a quadratic
    torch.testing.assert_close(result.solution, torch.from_numpy(ridge.coef_), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_gram_and_transpose_equal_the_plain_products(dtype: torch.dtype) -> None:
    design, _ = data(n=30, d=7)
    design[:, 2] = 0  # an empty column
    design[4] = 0  # an empty row
    design = design.to(dtype)
    weight = torch.rand(30, dtype=dtype)
    expected = design.T @ torch.diag(weight) @ design
    for matrix in (design, design.to_sparse_csr(), design.T.contiguous().T):
        gram = weighted_gram(matrix, weight)
        torch.testing.assert_close(gram, expected)
        assert torch.equal(gram, gram.T)
        back = transposed(matrix)
        assert back.layout is matrix.layout
        torch.testing.assert_close(back.to_dense(), design.T)
        torch.testing.assert_close(back @ weight, design.T @ weight)


def test_conjugate_and_prox_of_the_squared_norm() -> None:
    g, y = SquaredL2(0.8), torch.tensor([1.0, -2.0], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    brute = sum(float((grid * c - 0.4 * grid**2).max()) for c in y)
    assert float(g.conjugate(y)) == pytest.approx(brute, abs=1e-5)
    closest = [float(grid[(0.4 * grid**2 + (grid - c) ** 2 / (2 * 0.5)).argmin()]) for c in y]
    np.testing.assert_allclose(g.prox(y, 0.5).numpy(), closest, atol=3e-3)
    assert float(g.dual_scale(y)) == 1
    assert float(SquaredL2(0.0).conjugate(y)) == float("inf")
    with pytest.raises(ValueError, match="weight"):
        SquaredL2(-1.0)


def test_fingerprints_see_a_linear_model_and_its_sparse_data() -> None:
    design, target = data()
    for matrix, other in ((design, 2 * design), (design.to_sparse_csr(), (2 * design).to_sparse_csr())):
        digests = [
            LinearModel(m, target, "logistic").as_smooth().fingerprint() for m in (matrix, matrix.clone(), other)
        ]
        assert digests[0] == digests[1] != digests[2]
        assert LinearModel(matrix, target).fingerprint() != LinearModel(other, target).fingerprint()
