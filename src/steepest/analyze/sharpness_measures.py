"""How sharp a loss is: along its sharpest direction, along an update, and within a ball."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steepest.analyze.spectral_density import Matrix, evaluating, operator
from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.curvature import hvp, twice_differentiable
from steepest.core.lanczos import extreme_eigenvalues
from steepest.core.operators import Hessian
from steepest.core.ranges import Real, check_settings

__all__ = ["CARDS", "Sharpness", "ascent_sharpness", "directional_sharpness", "sharpness"]


@dataclass(frozen=True)
class Sharpness:
    """What :func:`sharpness` found.

    Attributes:
        largest: the largest eigenvalue. Gradient descent with a learning rate above ``2 / largest`` leaves a quadratic
            with this curvature.
        smallest: the smallest eigenvalue.
        direction: the eigenvector of the largest, by the parameter's name, of norm 1.
        products: with the matrix that it took.
        converged: whether both eigenvalues are within the tolerance.
    """

    largest: float
    smallest: float
    direction: dict[str, Tensor]
    products: int
    converged: bool


def sharpness(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    matrix: Matrix = "hessian",
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
) -> Sharpness:
    r"""The largest (and the smallest) eigenvalue of a model's curvature, by Lanczos' method.

    .. math:: \lambda_{\max} = \max_{\|u\| = 1} u^\top \nabla^2 f(w)\, u

    The model is measured in evaluation mode and left as it was.

    Args:
        model, loss, batches, matrix: as in :func:`~steepest.analyze.spectral_density.spectrum`.
        tolerance: relative to the larger magnitude of both, > 0.
        max_products: at most so many Hessian-vector products with all the batches.
        seed: of the first vector.

    Raises:
        ValueError: a setting is out of its range, there are no batches or no trainable parameters.

    Source: Cohen, Kaur, Li, Kolter, Talwalkar (2021), Gradient Descent on Neural Networks Typically Occurs at the Edge
    of Stability, arXiv 2103.00065 (the name, and the threshold 2 / learning rate).
    """
    with evaluating(model):
        product = operator(model, loss, batches, matrix)
        found = extreme_eigenvalues(product, product.like, tolerance=tolerance, max_products=max_products, seed=seed)
    named = dict(zip(product.names, tree.unravel(found.highest, product.parameters), strict=True))
    return Sharpness(
        found.largest, found.smallest, {k: v.detach() for k, v in named.items()}, found.products, found.converged
    )


def directional_sharpness(
    loss: Callable[[], Tensor], params: Iterable[Tensor], directions: Sequence[Sequence[Tensor]]
) -> list[float]:
    r"""The curvature of a loss along directions, such as the updates of several optimizers at one point.

    .. math:: \frac{u^\top \nabla^2 f(w)\, u}{\|u\|^2}

    A step :math:`-\eta u` changes the loss by about
    :math:`-\eta \nabla f^\top u + \tfrac12 \eta^2 u^\top \nabla^2 f u`.

    Args:
        loss: computes the loss with its graph.
        params: the parameters.
        directions: each with a tensor of the shape of every parameter.

    Returns:
        One number per direction; NaN for the direction zero.

    Raises:
        ValueError: a direction does not have the parameters' shapes.

    Source: Pan, Li (2023), Toward Understanding Why Adam Converges Faster Than SGD for Transformers, arXiv 2306.00204.
    """
    params = list(params)
    shapes = [p.shape for p in params]
    for u in directions:
        if [v.shape for v in u] != shapes:
            raise ValueError(
                "directional_sharpness: each of the directions must hold a tensor of the shape of every parameter, "
                f"{[tuple(s) for s in shapes]}, got {[tuple(v.shape) for v in u]}"
            )
    with twice_differentiable():
        gradients = torch.autograd.grad(loss(), params, create_graph=True, allow_unused=True, materialize_grads=True)
        found = []
        for u in directions:
            vector = [v.to(p.dtype) for v, p in zip(u, params, strict=True)]
            product = hvp(gradients, params, vector)
            top = sum((v.double() * h.double()).sum() for v, h in zip(u, product, strict=True))
            found.append(float(top / sum(v.double().square().sum() for v in u)))
    return found


def ascent_sharpness(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterable[Any], *, rho: float = 0.05
) -> float:
    r"""How much the loss rises within a ball, to first order: at the end of a step along the gradient.

    .. math:: f\big(w + \rho\, \nabla f(w) / \|\nabla f(w)\|\big) - f(w)

    The model is measured in evaluation mode; its parameters are put back to the bit.

    Args:
        model, loss, batches: as in :func:`~steepest.analyze.spectral_density.spectrum`.
        rho: the radius, > 0.

    Source: Foret, Kleiner, Mobahi, Neyshabur (2021), Sharpness-Aware Minimization for Efficiently Improving
    Generalization, arXiv 2010.01412, equation 2.
    """
    check_settings("ascent_sharpness", {"rho": rho}, {"rho": Real(low=0.0, low_open=True)})
    with evaluating(model):
        product = Hessian(model, loss, batches, keep=False)
        here, gradient = product.value(), product.gradient()
        length = float(gradient.norm())
        if length == 0:
            return 0.0
        kept = [p.detach().clone() for p in product.parameters]
        try:
            with torch.no_grad():
                for p, g in zip(product.parameters, tree.unravel(gradient, kept), strict=True):
                    p.add_(g, alpha=rho / length)
            return product.value() - here
        finally:
            with torch.no_grad():
                for p, old in zip(product.parameters, kept, strict=True):
                    p.copy_(old)


def _card(name: str, title: str, summary: str, function: str, usage: str, paper: Paper, needs: str) -> MethodCard:
    return MethodCard(
        name=name,
        title=title,
        room="analyze",
        family="curvature",
        summary=summary,
        target=f"steepest.analyze.sharpness_measures:{function}",
        papers=(paper,),
        needs=frozenset({needs, "function"}),
        usage=usage,
    )


CARDS = (
    _card(
        "sharpness",
        "Sharpness",
        "The largest and the smallest eigenvalue of the Hessian, by Lanczos' method to a tolerance.",
        "sharpness",
        "steepest.analyze.sharpness(model, loss, batches).largest",
        Paper(
            "Cohen, Kaur, Li, Kolter, Talwalkar",
            2021,
            "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
            arxiv="2103.00065",
        ),
        "hvp",
    ),
    _card(
        "directional-sharpness",
        "Directional sharpness",
        "The curvature of the loss along given updates.",
        "directional_sharpness",
        "steepest.analyze.directional_sharpness(lambda: loss(model(x), y), model.parameters(), updates)",
        Paper(
            "Pan, Li",
            2023,
            "Toward Understanding Why Adam Converges Faster Than SGD for Transformers",
            arxiv="2306.00204",
        ),
        "hvp",
    ),
    _card(
        "ascent-sharpness",
        "Sharpness within a ball",
        "How much the loss rises at the end of a short step along its gradient.",
        "ascent_sharpness",
        "steepest.analyze.ascent_sharpness(model, loss, batches, rho=0.05)",
        Paper(
            "Foret, Kleiner, Mobahi, Neyshabur",
            2021,
            "Sharpness-Aware Minimization for Efficiently Improving Generalization",
            arxiv="2010.01412",
        ),
        "gradient",
    ),
)
