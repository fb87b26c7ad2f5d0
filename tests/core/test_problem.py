"""Problems and their oracles: derivatives, offers, counts, fingerprints."""

import threading

import pytest
import torch

from steepest.core import tree
from steepest.core.fingerprint import fingerprint
from steepest.core.oracle import OracleCounts, counting, oracle, tally, uncounted
from steepest.core.problem import MissingOracle, Problem, SmoothProblem

MATRIX = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


def rational(x: dict[str, torch.Tensor]) -> torch.Tensor:
    """A function of two tensors whose Hessian has blocks off the diagonal."""
    return (x["a"] ** 3).sum() * torch.exp(-x["b"][0]) + x["a"][0] * x["b"][1] ** 2


POINT = {
    "a": torch.tensor([0.7, -1.2], dtype=torch.float64),
    "b": torch.tensor([0.3, 0.9], dtype=torch.float64),
}


def test_gradient_and_hvp_equal_the_closed_form_of_a_quadratic() -> None:
    problem = SmoothProblem(lambda x: 0.5 * x @ MATRIX @ x)
    x, v = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 4.0], dtype=torch.float64)
    value, gradient = problem.value_and_gradient(x)
    torch.testing.assert_close(value, 0.5 * x @ MATRIX @ x)
    torch.testing.assert_close(gradient, MATRIX @ x)
    torch.testing.assert_close(problem.gradient(x), MATRIX @ x)
    torch.testing.assert_close(problem.hvp(x, v), MATRIX @ v)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_derivatives_of_a_tree_equal_central_differences() -> None:
    problem = SmoothProblem(rational)
    generator = torch.Generator().manual_seed(3)
    direction = tree.tree_map(lambda t: torch.randn(t.shape, dtype=t.dtype, generator=generator), POINT)
    h = 1e-5
    ahead, behind = tree.add_scaled(POINT, h, direction), tree.add_scaled(POINT, -h, direction)
    slope = (problem.value(ahead) - problem.value(behind)) / (2 * h)
    torch.testing.assert_close(tree.dot(problem.gradient(POINT), direction), slope, rtol=1e-8, atol=1e-8)
    change = tree.tree_map(lambda p, m: (p - m) / (2 * h), problem.gradient(ahead), problem.gradient(behind))
    torch.testing.assert_close(problem.hvp(POINT, direction), change, rtol=1e-7, atol=1e-7)


def test_a_tensor_that_plays_no_part_has_a_zero_gradient() -> None:
    problem = SmoothProblem(lambda x: x["used"].square().sum())
    gradient = problem.gradient({"used": torch.ones(2), "unused": torch.ones(3)})
    assert torch.equal(gradient["unused"], torch.zeros(3))
    constant = SmoothProblem(lambda x: torch.tensor(1.0))
    assert torch.equal(constant.gradient(torch.ones(2)), torch.zeros(2))


def test_gradients_work_inside_no_grad_and_leave_the_point_alone() -> None:
    x = torch.ones(2)
    with torch.no_grad():
        gradient = SmoothProblem(lambda x: x.square().sum()).gradient(x)
    assert torch.equal(gradient, torch.full((2,), 2.0))
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x, ValueError, r"shape \[2\]"),
        (lambda x: 1.0, TypeError, "got float"),
        (lambda x: x.sum() * 1j, TypeError, "complex64"),
    ],
)
def test_functions_that_return_no_number(function: object, error: type[Exception], message: str) -> None:
    problem = SmoothProblem(function)  # type: ignore[arg-type]
    for ask in (problem.value, problem.gradient, problem.value_and_gradient):
        with pytest.raises(error, match=message):
            ask(torch.ones(2))


def test_a_function_must_be_callable() -> None:
    with pytest.raises(TypeError, match="function must be callable, got 3"):
        SmoothProblem(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ({}, ValueError, "at least one tensor"),
        ([1.0, 2.0], TypeError, "holds 1.0 of type float"),
        (torch.tensor([1.0, float("nan")]), ValueError, "must be finite"),
        (torch.tensor([1, 2]), TypeError, r"int64\[2\]"),
    ],
)
def test_bad_starts(start: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SmoothProblem(rational).check_start(start)


class Lasso(Problem):
    """A problem with an optional proximal operator."""

    def __init__(self, has_prox: bool) -> None:
        self.has_prox = has_prox

    @oracle("value")
    def value(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs().sum()

    @oracle("prox")
    def prox(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softshrink(x, 1.0)

    @property
    def offers(self) -> frozenset[str]:
        return super().offers if self.has_prox else super().offers - {"prox"}


class MessagingLasso(Lasso):
    """Inherits its offers and adds one."""

    @oracle("lmo")
    def lmo(self, x: torch.Tensor) -> torch.Tensor:
        tally("bytes", x.numel() * x.element_size())
        return -x.sign()


def test_offers_come_from_the_marked_methods() -> None:
    assert SmoothProblem(rational).offers == {"value", "gradient", "hvp", "hessian"}
    assert Lasso(True).offers == {"value", "prox"}
    assert MessagingLasso(True).offers == {"value", "prox", "lmo"}
    assert MessagingLasso(False).offers == {"value", "lmo"}


def test_a_missing_oracle_is_named_with_what_there_is() -> None:
    Lasso(True).require({"prox"}, by="ProximalGradient")
    with pytest.raises(MissingOracle) as caught:
        Lasso(False).require({"prox", "value", "hvp"}, by="ProximalNewton")
    message = str(caught.value)
    assert message.startswith("ProximalNewton needs 'hvp', 'prox', 'value'")
    assert "Lasso does not offer 'hvp', 'prox' (it offers 'value')" in message


def test_every_call_is_counted_once_under_each_name() -> None:
    problem, x = SmoothProblem(lambda x: x.square().sum()), torch.ones(3)
    problem.value(x)  # no count is open
    with counting(OracleCounts()) as counts:
        problem.value(x)
        problem.gradient(x)
        problem.value_and_gradient(x)
        problem.hvp(x, x)
        MessagingLasso(True).lmo(x)
        with uncounted():
            problem.value(x)
    problem.value(x)
    assert counts.snapshot() == {"value": 2, "gradient": 2, "hvp": 1, "lmo": 1, "bytes": 12}


def test_an_inner_run_counts_in_the_outer_one_too() -> None:
    problem, x = SmoothProblem(lambda x: x.square().sum()), torch.ones(3)
    with counting(OracleCounts()) as outer:
        problem.value(x)
        with counting(OracleCounts()) as inner:
            problem.value(x)
    assert (outer.snapshot(), inner.snapshot()) == ({"value": 2}, {"value": 1})


def test_threads_on_one_problem_count_apart_and_a_shared_count_loses_nothing() -> None:
    problem, x, shared = SmoothProblem(lambda x: x.square().sum()), torch.ones(3), OracleCounts()
    own: dict[int, dict[str, int]] = {}

    def work(index: int) -> None:
        with counting(shared), counting(OracleCounts()) as counts:
            for _ in range(100 * (index + 1)):
                problem.value(x)
        own[index] = counts.snapshot()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert own == {index: {"value": 100 * (index + 1)} for index in range(4)}
    assert shared.snapshot() == {"value": 1000}


def test_an_oracle_needs_a_name() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        oracle()


def scaled(factor: float) -> SmoothProblem:
    return SmoothProblem(lambda x: factor * x.square().sum())


def with_data(data: torch.Tensor) -> SmoothProblem:
    return SmoothProblem(lambda x: (data @ x).square().sum())


def test_fingerprints_see_functions_data_and_constants() -> None:
    assert scaled(1.0).fingerprint() == scaled(1.0).fingerprint()
    assert scaled(1.0).fingerprint() != scaled(1.5).fingerprint()
    data = torch.eye(2)
    changed = data.clone()
    changed[0, 1] = 1e-30
    assert with_data(data).fingerprint() == with_data(data.clone()).fingerprint()
    assert with_data(data).fingerprint() != with_data(changed).fingerprint()
    assert SmoothProblem(lambda x: x.sum() * 2).fingerprint() != SmoothProblem(lambda x: x.sum() * 3).fingerprint()
    assert SmoothProblem(lambda x: x.sum()).fingerprint() != SmoothProblem(lambda x: x.mean()).fingerprint()
    problem = scaled(1.0)
    problem._cache = torch.ones(3)  # type: ignore[attr-defined]
    assert problem.fingerprint() == scaled(1.0).fingerprint()


def test_fingerprints_tell_values_of_equal_content_apart() -> None:
    values = [0, 0.0, -0.0, False, None, "0", b"0", [0], (0,), {0: 0}, {0}, torch.zeros(1), torch.zeros(1, 1)]
    values += [torch.zeros(1, dtype=torch.float64), torch.zeros(0), torch.zeros(1).numpy(), [[0], []], [[], [0]]]
    values += [torch.zeros(2, 2).to_sparse(), torch.eye(2).to_sparse(), scaled(1.0), scaled(2.0), torch.nn.Linear]
    assert len({fingerprint(value) for value in values}) == len(values)
    loop: list[object] = [1]
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)
