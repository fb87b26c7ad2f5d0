"""Lanczos' method: a symmetric matrix that is known by its products, in a Krylov space; its spectrum."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .random import normal
from .rule import compute_dtype

__all__ = ["Extremes", "SpectralDensity", "extreme_eigenvalues", "lanczos", "spectral_density"]

Product = Callable[[Tensor], Tensor]


def lanczos(
    product: Product,
    start: Tensor,
    size: int,
    until: Callable[[Tensor, float], bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the Krylov space of a symmetric matrix, and the matrix in it.

    Every vector is orthogonalized against all before, twice where it all but vanishes, so the basis stays orthonormal
    in any precision. It ends early where the space is exhausted.

    Args:
        product: maps a vector to the matrix times it; called once per basis vector.
        start: the first vector, not zero.
        size: the largest number of vectors.
        until: asked after every product with the tridiagonal matrix so far (float64, CPU) and the norm of what leads
            out of the space; True ends it.

    Returns:
        The basis, ``(k, d)`` by rows, and ``V H V'``, ``(k, k)`` and tridiagonal.
    """
    size = min(size, len(start))
    basis = start.new_empty(size, len(start))
    diagonal, beside = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    vector = start / torch.linalg.vector_norm(start)
    for index in range(size):
        basis[index] = vector
        image = product(vector)
        whole = float(torch.linalg.vector_norm(image))
        # The recurrence takes out nearly all; one pass over the basis the rest, unless much of it was rounding.
        alpha = float(vector @ image)
        image = image - alpha * vector
        if index:
            image.sub_(basis[index - 1], alpha=float(beside[index - 1]))
        before = basis[: index + 1]
        length = 0.0
        for _ in range(2):
            along = before @ image
            image = torch.addmv(image, before.mT, along, alpha=-1)
            alpha += float(along[index])
            length = float(torch.linalg.vector_norm(image))
            if float(torch.linalg.vector_norm(along)) <= 0.1 * length:
                break
        diagonal[index] = alpha
        if not length > 100 * torch.finfo(start.dtype).eps * whole:
            size = index + 1
            break
        beside[index] = length
        if until is not None and until(_tridiagonal(diagonal[: index + 1], beside[:index]), length):
            size = index + 1
            break
        vector = image / length
    return basis[:size], _tridiagonal(diagonal[:size], beside[: size - 1]).to(start)


def _widened(product: Product, like: Tensor) -> tuple[Product, Tensor]:
    """For half precision the same with vectors in float32: in fewer digits no basis is orthonormal."""
    wide = like.to(compute_dtype(like.dtype))
    return (product if wide is like else lambda v: product(v.to(like.dtype)).to(v.dtype)), wide


def _tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


@dataclass(frozen=True)
class Extremes:
    """The ends of a spectrum.

    Attributes:
        smallest, largest: the extreme eigenvalues, as far as they were found.
        lowest, highest: their eigenvectors, of norm 1.
        products: with the matrix that it took.
        converged: whether both are within the tolerance.
    """

    smallest: float
    largest: float
    lowest: Tensor
    highest: Tensor
    products: int
    converged: bool


def extreme_eigenvalues(
    product: Product,
    like: Tensor,
    *,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
) -> Extremes:
    """The smallest and the largest eigenvalue of a symmetric matrix, by Lanczos' method from a random vector.

    It ends when the residuals of both Ritz pairs, which bound their distance from an eigenvalue, are at most
    ``tolerance`` times the larger magnitude of the two.

    Args:
        product: maps a vector to the matrix times it.
        like: a vector of the size, dtype and device wanted.
        tolerance: relative, > 0.
        max_products: at most so many, >= 1; as many vectors are held.
        seed: of the first vector.

    Source: C. Lanczos (1950), "An iteration method for the solution of the eigenvalue problem of linear differential
    and integral operators", Journal of Research of the National Bureau of Standards 45(4), 255-282.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance!r}")
    if max_products < 1:
        raise ValueError(f"max_products must be at least 1, got {max_products!r}")
    reached = False

    def until(small: Tensor, length: float) -> bool:
        nonlocal reached
        values, vectors = torch.linalg.eigh(small)
        residual = length * float(vectors[-1, [0, -1]].abs().max())
        reached = residual <= tolerance * float(values.abs().max())
        return reached

    product, like = _widened(product, like)
    basis, small = lanczos(product, normal(like, seed, "extremes"), max_products, until)
    values, vectors = torch.linalg.eigh(small)
    lowest, highest = (basis.mT @ vectors[:, k] for k in (0, -1))
    exhausted = len(basis) < min(max_products, len(like)) or len(basis) == len(like)
    return Extremes(float(values[0]), float(values[-1]), lowest, highest, len(basis), reached or exhausted)


@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalues of a matrix as a distribution: points with weights that add up to one.

    Attributes:
        nodes: ``(probes, steps)``, the Ritz values of every probe in ascending order, float64 on the CPU.
        weights: their weights, of the same shape; those of a probe add up to 1. A probe whose Krylov space was
            exhausted early is filled up with weight 0.
    """

    nodes: Tensor
    weights: Tensor

    def on(self, grid: Tensor, width: float | None = None) -> Tensor:
        """The density on a grid, every node smoothed by a Gaussian.

        Args:
            grid: where, a vector.
            width: the standard deviation, > 0; by default a hundredth of the spread of the nodes.
        """
        if width is None:
            width = 0.01 * float(self.nodes.max() - self.nodes.min()) or 1e-3 * max(1.0, float(self.nodes.abs().max()))
        if not width > 0:
            raise ValueError(f"width must be positive, got {width!r}")
        grid = grid.to(self.nodes)
        distance = (grid[:, None, None] - self.nodes) / width
        bumps = torch.exp(-0.5 * distance.square()) / (width * (2 * torch.pi) ** 0.5)
        density: Tensor = (bumps * self.weights).sum(-1).mean(-1)
        return density

    def mean_of(self, function: Callable[[Tensor], Tensor]) -> float:
        """``tr f(A) / d``, the mean of a function over the eigenvalues, as the quadrature estimates it."""
        values = torch.where(self.weights > 0, function(self.nodes), torch.zeros_like(self.nodes))
        return float((values * self.weights).sum(-1).mean())


def spectral_density(
    product: Product, like: Tensor, *, steps: int = 80, probes: int = 1, seed: int = 0
) -> SpectralDensity:
    r"""Stochastic Lanczos quadrature: the spectral density of a symmetric matrix from its products with vectors.

    With random unit vectors :math:`v`, :math:`\operatorname{tr} f(A) / d = \mathbb E\, v^\top f(A) v`; Lanczos' method
    from :math:`v` gives a Gauss quadrature of it: the eigenvalues of the tridiagonal matrix, weighted by the squares of
    the first entries of its eigenvectors. It is exact for polynomials of degree up to ``2 steps - 1`` and that probe.

    Args:
        product: maps a vector to the matrix times it; called at most ``steps * probes`` times.
        like: a vector of the size, dtype and device wanted.
        steps: Lanczos steps per probe, >= 1; their basis takes ``steps * len(like)`` numbers.
        probes: random vectors (Gaussian, normalized), >= 1.
        seed: of the vectors.

    Source: S. Ubaru, J. Chen, Y. Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM
    Journal on Matrix Analysis and Applications 38(4), 1075-1099.
    """
    for name, value in (("steps", steps), ("probes", probes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    product, like = _widened(product, like)
    width = min(steps, len(like))
    nodes = torch.zeros(probes, width, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for probe in range(probes):
        _, small = lanczos(product, normal(like, seed, probe), width)
        values, vectors = torch.linalg.eigh(small.double().cpu())
        found = len(values)
        nodes[probe, :found], weights[probe, :found] = values, vectors[0].square()
        nodes[probe, found:] = values[-1]
    return SpectralDensity(nodes, weights)
