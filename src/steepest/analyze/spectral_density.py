"""The spectrum of a loss' curvature: its density, its ends, its trace."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from steepest.core.card import MethodCard, Paper
from steepest.core.lanczos import SpectralDensity, spectral_density
from steepest.core.operators import CurvatureOperator, EmpiricalFisher, GaussNewton, Hessian
from steepest.core.ranges import OneOf, check_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CARD", "Matrix", "Spectrum", "evaluating", "operator", "spectrum"]

Matrix = Literal["hessian", "gauss-newton", "empirical-fisher"]
_OPERATORS: dict[str, type[CurvatureOperator]] = {
    "hessian": Hessian,
    "gauss-newton": GaussNewton,
    "empirical-fisher": EmpiricalFisher,
}
_TITLES = {
    "hessian": "Hessian",
    "gauss-newton": "Gauss-Newton matrix",
    "empirical-fisher": "empirical Fisher matrix",
}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of the model in evaluation mode inside; afterwards each in the mode it had."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def operator(model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterable[Any], matrix: Matrix) -> Any:
    """The curvature matrix of that name, as an operator on the trainable parameters."""
    check_settings("analyze", {"matrix": matrix}, {"matrix": OneOf(tuple(_OPERATORS))})
    return _OPERATORS[matrix](model, loss, batches)


@dataclass(frozen=True)
class Spectrum:
    """What :func:`spectrum` found.

    Attributes:
        matrix: which matrix it is the spectrum of.
        size: its dimension, the number of trainable parameters.
        density: nodes and weights, see :class:`~steepest.core.lanczos.SpectralDensity`.
    """

    matrix: str
    size: int
    density: SpectralDensity

    @property
    def largest(self) -> float:
        """The largest eigenvalue: the largest Ritz value, which is a lower bound and close after some tens of steps."""
        return float(self.density.nodes.max())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue: the smallest Ritz value, an upper bound."""
        return float(self.density.nodes.min())

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues, estimated."""
        return self.size * self.density.mean_of(lambda t: t)

    @property
    def negative_share(self) -> float:
        """The part of the spectrum below minus a thousandth of the largest magnitude: what is not rounding or flat."""
        floor = -1e-3 * max(abs(self.largest), abs(self.smallest))
        return self.density.mean_of(lambda t: (t < floor).to(t))

    def plot(self, axes: "Axes | None" = None, points: int = 1000) -> "Axes":
        """Draw the density on a logarithmic scale; needs matplotlib.

        Args:
            axes: where; by default a new figure.
            points: of the curve.
        """
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(figsize=(6, 3.5), layout="constrained").subplots()
        span = max(self.largest - self.smallest, 1e-12)
        grid = torch.linspace(self.smallest - 0.05 * span, self.largest + 0.05 * span, points, dtype=torch.float64)
        values = self.density.on(grid, width=0.01 * span)
        axes.semilogy(grid.numpy(), values.clamp_min(1e-12).numpy(), color="#1f77b4", linewidth=1.2)
        axes.set_ylim(max(1e-7 / span, 1e-12), 3 * float(values.max()))
        axes.axvline(0.0, color="0.6", linewidth=0.8)
        axes.set_xlabel(f"eigenvalue of the {_TITLES[self.matrix]}")
        axes.set_ylabel("density")
        return axes


def spectrum(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    matrix: Matrix = "hessian",
    steps: int = 80,
    probes: int = 1,
    seed: int = 0,
) -> Spectrum:
    r"""The eigenvalue density of a model's curvature, by stochastic Lanczos quadrature.

    .. math::
        \phi(t) = \frac1d \sum_{i=1}^d \delta(t - \lambda_i)
                 \approx \frac1k \sum_{j=1}^{k} \sum_{l=1}^{m} \omega_{jl}\, \delta(t - \theta_{jl})

    with the Ritz values :math:`\theta` and weights :math:`\omega` of :math:`m` Lanczos steps from each of :math:`k`
    random vectors. Every vector is orthogonalized against all before. The model is measured in evaluation mode and left
    as it was.

    Args:
        model: its outputs are ``model(inputs)``.
        loss: ``loss(outputs, targets)``, a mean over samples.
        batches: pairs ``(inputs, targets)``; the matrix is the average over all their samples.
        matrix: ``"hessian"``, ``"gauss-newton"`` (:math:`J^\top H_L J`), or ``"empirical-fisher"``
            (:math:`\frac1n \sum_i g_i g_i^\top` over single samples).
        steps: Lanczos steps :math:`m`; as many products, and vectors held, per probe.
        probes: random vectors :math:`k`. One is enough for many parameters.
        seed: of the random vectors.

    Raises:
        ValueError: a setting is out of its range, there are no batches or no trainable parameters.

    Source: Ghorbani, Krishnan, Xiao (2019), An Investigation into Neural Net Optimization via Hessian Eigenvalue
    Density, arXiv 1901.10159.

    Example:
        >>> import torch
        >>> from steepest.analyze import spectrum
        >>> model = torch.nn.Linear(3, 1)
        >>> batch = (torch.randn(20, 3), torch.randn(20, 1))
        >>> found = spectrum(model, torch.nn.functional.mse_loss, [batch], steps=4)
        >>> found.smallest >= -1e-5
        True
    """
    with evaluating(model):
        product = operator(model, loss, batches, matrix)
        density = spectral_density(product, product.like, steps=steps, probes=probes, seed=seed)
    return Spectrum(matrix, product.size, density)


CARD = MethodCard(
    name="spectrum",
    title="Spectral density",
    room="analyze",
    family="curvature",
    summary="The eigenvalue density of the Hessian, Gauss-Newton or Fisher matrix by stochastic Lanczos quadrature.",
    target="steepest.analyze.spectral_density:spectrum",
    papers=(
        Paper(
            "Ghorbani, Krishnan, Xiao",
            2019,
            "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
            arxiv="1901.10159",
        ),
    ),
    needs=frozenset({"hvp", "function"}),
    usage="steepest.analyze.spectrum(model, loss, batches).plot()",
)
