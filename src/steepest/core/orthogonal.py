r"""The orthogonal polar factor of a matrix: exactly, and by matrix products alone.

For :math:`M = U \Sigma V^\top` the polar factor is :math:`U V^\top`, the direction of steepest descent in the spectral
norm. The iterations apply odd polynomials :math:`X \leftarrow aX + b(XX^\top)X + c(XX^\top)^2X`, which act on the
singular values alone and drive them to one.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "NEWTON_SCHULZ",
    "fast_dtype",
    "newton_schulz",
    "orthogonalize",
    "polar",
    "polar_express",
    "polar_express_coefficients",
]

#: Quintic coefficients of Jordan et al. (2024), Muon: steep at zero, singular values end in about [0.68, 1.13].
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def polar(m: Tensor, rtol: float | None = None) -> Tensor:
    """The exact polar factor by a singular value decomposition, ``(..., rows, columns)``.

    Directions with singular values of at most ``rtol`` times the largest (default: machine precision times the larger
    side) are left out, so a rank-deficient matrix gives a partial isometry and zero gives zero.
    """
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    tolerance = max(m.shape[-2:]) * torch.finfo(m.dtype).eps if rtol is None else rtol
    keep = s > tolerance * s[..., :1]
    factor: Tensor = (u * keep.unsqueeze(-2).to(m.dtype)) @ vh
    return factor


@functools.cache
def polar_express_coefficients(lower: float, steps: int) -> tuple[tuple[float, float, float], ...]:
    r"""The composition of ``steps`` odd quintics that is the best approximation of one on ``[lower, 1]``.

    Each polynomial is the minimax one on the interval to which its predecessors have mapped ``[lower, 1]``; their
    composition is then optimal among all compositions of that length. Found by exchange: four points where the error
    is :math:`\mp E` alternately, the inner two moved to the polynomial's extrema until they stand still.

    Source: Amsel, Persson, Musco, Gower (2025), The Polar Express: Optimal Matrix Sign Methods and Their Application
    to the Muon Algorithm, arXiv 2505.16932.

    Args:
        lower: the smallest singular value to be mapped to one, relative to the largest; in (0, 1).
        steps: the number of polynomials.
    """
    if not 0 < lower < 1:
        raise ValueError(f"lower must be in (0, 1), got {lower!r}")
    low, high = lower, 1.0
    found: list[tuple[float, float, float]] = []
    for _ in range(steps):
        a, b, c = _minimax_quintic(low, high)
        found.append((a, b, c))
        low = a * low + b * low**3 + c * low**5  # the error equioscillates: the image is [low, 2 - low]
        high = 2 - low
    return tuple(found)


def _minimax_quintic(low: float, high: float) -> tuple[float, float, float]:
    import numpy as np

    if high / low - 1 < 2e-4:  # the exchange is ill-conditioned on a point; the limit is the Pade quintic
        scale = 2 / (low + high)
        return 1.875 * scale, -1.25 * scale**3, 0.375 * scale**5
    inner = ((3 * low + high) / 4, (low + 3 * high) / 4)
    previous = math.inf
    for _ in range(100):
        points = np.array([low, *inner, high])
        system = np.stack([points, points**3, points**5, np.array([1.0, -1.0, 1.0, -1.0])], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        root = math.sqrt(9 * b * b - 20 * a * c)
        extrema = sorted(math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
        inner = (extrema[0], extrema[1])
        if abs(error - previous) <= 1e-14 * max(1.0, abs(error)):
            break
        previous = error
    return float(a), float(b), float(c)


def polar_express(m: Tensor, steps: int = 4, lower: float = 3e-3) -> Tensor:
    """The polar factor by the Polar Express: the fastest convergence that quintic polynomials allow.

    Args:
        m: matrices ``(..., rows, columns)``; a zero matrix gives zero.
        steps: matrix polynomials to apply.
        lower: smallest relative singular value that the polynomials are made for; smaller ones end below one.
    """
    polynomials = polar_express_coefficients(lower, steps)
    if fast_dtype(m) == torch.bfloat16:
        polynomials = (*(_deflated(p) for p in polynomials[:-1]), *polynomials[-1:])
    return _iterate(m, polynomials)


def newton_schulz(m: Tensor, steps: int = 5, coefficients: tuple[float, float, float] = NEWTON_SCHULZ) -> Tensor:
    """An approximate polar factor by ``steps`` equal quintics (Jordan et al., 2024)."""
    return _iterate(m, (coefficients,) * steps)


def orthogonalize(m: Tensor, kind: str, steps: int | None = None) -> Tensor:
    """The polar factor by one of the ways above, as methods name them.

    Args:
        m: matrices ``(..., rows, columns)``.
        kind: ``"exact"``, ``"newton-schulz"`` or ``"polar-express"``.
        steps: polynomials to apply, by default 5 and 4 respectively.
    """
    if kind == "exact":
        return polar(m)
    return newton_schulz(m, steps or 5) if kind == "newton-schulz" else polar_express(m, steps or 4)


def fast_dtype(m: Tensor) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware (the iterations tolerate its rounding), else float32."""
    if m.dtype == torch.float64:
        return torch.float64
    if m.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if m.device.type == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    def supported(name: str) -> bool:
        probe = getattr(torch.cpu, name, None)  # private in some releases, absent in others
        return bool(probe is not None and probe())

    return supported("_is_avx512_bf16_supported") or supported("_is_amx_tile_supported")


def _iterate(m: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    x = m.mT if m.shape[-2] > m.shape[-1] else m
    dtype = fast_dtype(m)
    # By the largest entry, whose square can neither overflow nor vanish; a zero matrix stays zero.
    largest = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
    x = (x / _or_one(largest)).to(dtype)
    # ||X X^T||_F^(1/2) bounds the spectral norm far better than ||X||_F does (for a Gaussian matrix with r rows by a
    # factor of (r/2)^(1/4)), and the Gram matrix is needed anyway. The margin keeps rounding below one.
    gram = x @ x.mT
    bound = _or_one(
        MARGIN * torch.linalg.matrix_norm(gram.to(torch.promote_types(dtype, torch.float32)), keepdim=True).sqrt()
    )
    x, gram = (x / bound).to(dtype), (gram / bound.square()).to(dtype)
    if dtype == torch.bfloat16:
        # Gram matrices rounded to bfloat16 lose the small singular values (squared, they drown in the rounding of the
        # large ones), and accumulated polynomials blow them up: measured 20 in place of 1. The matrix itself is safe.
        x = _on_matrix(x, gram, polynomials)
    elif x.shape[-1] >= 1.5 * x.shape[-2]:
        x = _on_gram(x, gram, polynomials)
    else:
        x = _on_matrix(x, gram, polynomials)
    return (x.mT if m.shape[-2] > m.shape[-1] else x).to(m.dtype)


MARGIN = 1.01


def _deflated(polynomial: tuple[float, float, float]) -> tuple[float, float, float]:
    """The polynomial of ``x / MARGIN``: rounding may leave singular values above the interval it was made for."""
    a, b, c = polynomial
    return a / MARGIN, b / MARGIN**3, c / MARGIN**5


def _or_one(size: Tensor) -> Tensor:
    """A divisor: 1 in place of 0."""
    return torch.where(size > 0, size, 1.0)


def _on_matrix(x: Tensor, gram: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    for index, (a, b, c) in enumerate(polynomials):
        if index:
            gram = x @ x.mT
        x = _add_product(a, x, _add_product(b, gram, gram, gram, c), x)
    return x


def _on_gram(x: Tensor, gram: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    """The same polynomials accumulated on the small Gram matrix: one product with the wide matrix per restart.

    Every iterate is a polynomial in the Gram matrix times ``x``, and such polynomials commute. Accumulating squares
    the condition number, so it is done in float32 at least and restarted from the matrix itself after
    :data:`GRAM_STEPS` polynomials.
    """
    dtype = x.dtype
    for start in range(0, len(polynomials), GRAM_STEPS):
        part = polynomials[start : start + GRAM_STEPS]
        if start:
            gram = x @ x.mT
        gram = gram.to(torch.promote_types(dtype, torch.float32))
        total = gram
        for index, (a, b, c) in enumerate(part):
            factor = _add_product(b, gram, gram, gram, c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            total = factor if index == 0 else factor @ total
            if index + 1 < len(part):
                gram = factor @ gram @ factor
        x = total.to(dtype) @ x
    return x


#: Polynomials applied to one Gram matrix before it is formed anew.
GRAM_STEPS = 3


def _add_product(scale: float, term: Tensor, left: Tensor, right: Tensor, factor: float = 1.0) -> Tensor:
    """``scale * term + factor * left @ right`` in one call, for matrices or stacks of them."""
    if term.dim() == 2:
        return torch.addmm(term, left, right, beta=scale, alpha=factor)
    shape = term.shape
    flat = [t.reshape(-1, *t.shape[-2:]) for t in (term, left, right)]
    return torch.baddbmm(*flat, beta=scale, alpha=factor).view(shape)
