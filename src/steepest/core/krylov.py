"""Linear systems known by products alone: conjugate gradients and GMRES for one vector."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients", "gmres"]

Product = Callable[[Tensor], Tensor]


def conjugate_gradients(
    product: Product, b: Tensor, tolerance: float, max_steps: int, diagonal: Tensor | None = None
) -> Tensor:
    """Solve ``A x = b`` for a symmetric positive (semi)definite ``A``, from zero.

    Args:
        product: ``v -> A v``.
        b: the right-hand side, a vector.
        tolerance: on the residual's norm, relative to that of ``b``.
        max_steps: products at most.
        diagonal: a preconditioner: positive numbers near the diagonal of ``A``; ``None`` for none.

    Where the curvature along a direction is not positive, the solution of the steps before is returned: zero, if that
    is the first direction.

    Source: M. Hestenes and E. Stiefel (1952), "Methods of conjugate gradients for solving linear systems", Journal of
    Research of the National Bureau of Standards 49, 409-436.
    """
    x, r = torch.zeros_like(b), b.clone()
    p = r.clone() if diagonal is None else r / diagonal
    square, size = float(r @ p), float(r @ r)
    limit = tolerance**2 * size
    for _ in range(max_steps):
        if not size > limit:
            break
        image = product(p)
        curvature = float(p @ image)
        if not curvature > 0:  # not positive definite along p, or rounding alone is left
            break
        length = square / curvature
        x, r = x + length * p, r - length * image
        size, z = float(r @ r), r if diagonal is None else r / diagonal
        square, before = size if diagonal is None else float(r @ z), square
        p = z + (square / before) * p
    return x


def gmres(product: Product, b: Tensor, tolerance: float, max_steps: int, restart: int = 50) -> Tensor:
    """Solve ``A x = b`` for any regular ``A``, from zero, by restarted GMRES with two Gram-Schmidt passes.

    Args:
        product: ``v -> A v``.
        b: the right-hand side, a vector.
        tolerance: on the residual's norm, relative to that of ``b``.
        max_steps: products at most.
        restart: vectors that are kept, >= 1; they take ``restart * len(b)`` numbers.

    Source: Y. Saad and M. Schultz (1986), "GMRES: a generalized minimal residual algorithm for solving nonsymmetric
    linear systems", SIAM Journal on Scientific and Statistical Computing 7, 856-869.
    """
    x, limit, done = torch.zeros_like(b), tolerance * float(b.norm()), 0
    residual = b
    while done < max_steps:
        size = float(residual.norm())
        if not size > limit:
            break
        width = min(restart, len(b), max_steps - done)
        basis = b.new_zeros(width + 1, len(b))
        basis[0] = residual / size
        hessenberg = torch.zeros(width + 1, width, dtype=torch.float64)
        right = torch.zeros(width + 1, dtype=torch.float64)
        right[0] = size
        solution = hessenberg.new_zeros(0)
        for j in range(width):
            w = product(basis[j])
            done += 1
            for _ in range(2):
                along = basis[: j + 1] @ w
                w = w - along @ basis[: j + 1]
                hessenberg[: j + 1, j] += along.double().cpu()
            length = float(w.norm())
            hessenberg[j + 1, j] = length
            block = hessenberg[: j + 2, : j + 1]
            solution = torch.linalg.lstsq(block, right[: j + 2, None], driver="gelsd").solution[:, 0]
            rest = float((right[: j + 2] - block @ solution).norm())
            if rest <= limit or length <= torch.finfo(b.dtype).eps * float(hessenberg[: j + 1, j].norm()):
                break
            basis[j + 1] = w / length
        x = x + solution.to(b) @ basis[: len(solution)]
        before, residual = size, b - product(x)
        done += 1
        if not float(residual.norm()) < before:  # rounding, or a singular matrix: more rounds would change nothing
            break
    return x
