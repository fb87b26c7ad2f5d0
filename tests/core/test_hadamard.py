"""The fast transform against the matrix."""

import pytest
import scipy.linalg
import torch

from steepest.core.hadamard import _matrix, walsh_hadamard


@pytest.mark.parametrize("size", [2**k for k in range(10)])
def test_equals_the_matrix(size: int) -> None:
    x = torch.randn(3, 2, size, dtype=torch.float64)
    matrix = torch.tensor(scipy.linalg.hadamard(size), dtype=torch.float64)
    torch.testing.assert_close(walsh_hadamard(x), x @ matrix)
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(x)), size * x)


def test_whole_numbers_are_exact() -> None:
    x = torch.randint(-3, 4, (2**14,)).float()
    assert torch.equal(walsh_hadamard(walsh_hadamard(x)), 2**14 * x)


def test_its_derivative_is_itself() -> None:
    x = torch.randn(2, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(walsh_hadamard, x)
    assert torch.autograd.gradgradcheck(walsh_hadamard, x)
    torch.testing.assert_close(torch.func.vmap(walsh_hadamard)(x), walsh_hadamard(x))


def test_a_backward_pass_after_inference_mode() -> None:
    """What is kept from one call to the next must not be a tensor of inference mode."""
    _matrix.cache_clear()
    with torch.inference_mode():
        walsh_hadamard(torch.ones(8))
    x = torch.ones(8, requires_grad=True)
    walsh_hadamard(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [8.0, *[0.0] * 7]


@pytest.mark.parametrize("shape", [(3,), (2, 0), (4, 12), ()])
def test_other_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be a power of two, got"):
        walsh_hadamard(torch.zeros(shape))
