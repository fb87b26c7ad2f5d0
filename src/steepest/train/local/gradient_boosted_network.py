"""Networks with one hidden layer that are trained by gradient boosting, a few neurons at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import Integer, OneOf, Range, Real

__all__ = [
    "ACTIVATIONS",
    "CARD",
    "RANGES",
    "BinaryLoss",
    "BoostLoss",
    "Boosted",
    "SoftmaxLoss",
    "SquaredLoss",
    "boost",
    "fit_stage",
]

CARD = MethodCard(
    name="gb-nn",
    title="GB-NN",
    room="local",
    family="boosting",
    summary="Trains the neurons of a hidden layer in stages, each on the gradient that the stages before have left.",
    target="steepest.train.local.estimators:GradientBoostedNetworkClassifier",
    papers=(
        Paper(
            "S. Emami, G. Martinez-Munoz",
            2023,
            "Sequential Training of Neural Networks with Gradient Boosting",
            arxiv="1909.12098",
            venue="IEEE Access 11",
        ),
    ),
    needs=frozenset({"estimator"}),
    buffers=0,
    claim="Networks that are trained by boosting generalize as well as those of equal size trained by Adam, L-BFGS or "
    "SGD, or better, and lose little when half of their neurons are switched off.",
)

#: Name -> module, and the derivative as a function of the activation's output.
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "logistic": (nn.Sigmoid, lambda a: a * (1 - a)),
    "tanh": (nn.Tanh, lambda a: 1 - a * a),
    "relu": (nn.ReLU, lambda a: (a > 0).to(a.dtype)),
}

#: The settings of :func:`boost`.
RANGES: dict[str, Range] = {
    "stages": Integer(low=1),
    "units": Integer(low=1),
    "learning_rate": Real(low=0.0, low_open=True, high=1.0),
    "subsample": Real(low=0.0, low_open=True, high=1.0),
    "activation": OneOf(tuple(ACTIVATIONS)),
    "max_iter": Integer(low=1),
    "tol": Real(low=0.0),
    "penalty": Real(low=0.0),
}


class BoostLoss(ABC):
    """A loss of scores ``F`` and targets ``y``, both ``(n, outputs)``, as boosting sees it.

    ``scale`` is what scores are multiplied by in the network, so that its outputs are those of the usual loss.
    """

    scale = 1.0

    @abstractmethod
    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        """The loss, summed."""

    @abstractmethod
    def start(self, y: Tensor) -> Tensor:
        """The constant scores to begin with, ``(outputs,)``."""

    @abstractmethod
    def residual(self, scores: Tensor, y: Tensor) -> Tensor:
        """The negative gradient."""

    @abstractmethod
    def curvature(self, residual: Tensor, y: Tensor) -> Tensor:
        """The diagonal of the Hessian in the scores, from the residual."""

    def line_step(self, scores: Tensor, direction: Tensor, residual: Tensor, y: Tensor, damping: float = 1.0) -> float:
        """The damped step along new scores by one step of Newton's method, halved until the loss does not rise; 0 where
        they do not curve the loss."""
        curved = float((direction.square() * self.curvature(residual, y)).sum())
        step = damping * float((direction * residual).sum()) / curved if curved > 1e-150 else 0.0
        before = float(self.value(scores, y))
        for _ in range(60):
            if float(self.value(scores + step * direction, y)) <= before:
                return step
            step /= 2
        return 0.0


class SquaredLoss(BoostLoss):
    r""":math:`\tfrac12 (F - y)^2`."""

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (scores - y).square().sum()

    def start(self, y: Tensor) -> Tensor:
        return y.mean(0)

    def residual(self, scores: Tensor, y: Tensor) -> Tensor:
        return y - scores

    def curvature(self, residual: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(y)


class BinaryLoss(BoostLoss):
    r""":math:`\log(1 + e^{-2 y F})` with ``y`` -1 or 1; the network's output ``2 F`` is the logarithm of the odds."""

    scale = 2.0

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        return nn.functional.softplus(-2 * y * scores).sum()

    def start(self, y: Tensor) -> Tensor:
        return torch.atanh(y.mean(0))

    def residual(self, scores: Tensor, y: Tensor) -> Tensor:
        return 2 * y * torch.sigmoid(-2 * y * scores)

    def curvature(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual * (2 * y - residual)


class SoftmaxLoss(BoostLoss):
    """Cross-entropy of a softmax with one-hot ``y``; of its Hessian, the diagonal."""

    def value(self, scores: Tensor, y: Tensor) -> Tensor:
        return (torch.logsumexp(scores, 1) - (scores * y).sum(1)).sum()

    def start(self, y: Tensor) -> Tensor:
        return y.new_zeros(y.shape[1])

    def residual(self, scores: Tensor, y: Tensor) -> Tensor:
        return y - torch.softmax(scores, 1)

    def curvature(self, residual: Tensor, y: Tensor) -> Tensor:
        return (y - residual) * (1 - y + residual)


@dataclass(frozen=True)
class Boosted:
    """A network that was trained in stages.

    Args:
        hidden, offset: weights ``(stages * units, d)`` and biases of the hidden layer.
        output: weights ``(outputs, stages * units)``, steps included.
        bias: of the output, after so many stages as its row says: ``(stages + 1, outputs)``.
        units: neurons per stage.
        activation: of the hidden layer.
        steps: the step of each stage.
        iterations: the most that a stage took.
    """

    hidden: Tensor
    offset: Tensor
    output: Tensor
    bias: Tensor
    units: int
    activation: str
    steps: list[float]
    iterations: int

    def network(self, stages: int | None = None) -> nn.Sequential:
        """The network of the first stages, by default of all: the later ones are switched off."""
        total = len(self.steps)
        Integer(low=1, high=total, optional=True).check("stages", stages)
        stages = total if stages is None else stages
        kept = stages * self.units
        layers = nn.utils.skip_init(nn.Linear, self.hidden.shape[1], kept, device=self.hidden.device).to(self.hidden)
        last = nn.utils.skip_init(nn.Linear, kept, len(self.output), device=self.hidden.device).to(self.hidden)
        with torch.no_grad():
            layers.weight.copy_(self.hidden[:kept])
            layers.bias.copy_(self.offset[:kept])
            last.weight.copy_(self.output[:, :kept])
            last.bias.copy_(self.bias[stages])
        return nn.Sequential(layers, ACTIVATIONS[self.activation][0](), last)


Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def _start(inputs: int, units: int, outputs: int, activation: str, generator: torch.Generator, like: Tensor) -> Weights:
    """Glorot's uniform weights, and biases from the same interval, as in scikit-learn's networks."""
    gain = 2.0 if activation == "logistic" else 6.0

    def drawn(bound: float, *shape: int) -> Tensor:
        return ((2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound).to(like)

    first, second = math.sqrt(gain / (inputs + units)), math.sqrt(gain / (units + outputs))
    return drawn(first, units, inputs), drawn(first, units), drawn(second, outputs, units), drawn(second, outputs)


def fit_stage(
    features: Tensor, residual: Tensor, start: Weights, activation: str, max_iter: int, tol: float, penalty: float
) -> tuple[Weights, int]:
    r"""A small network fitted to residuals by L-BFGS.

    .. math:: \min_{W, b, V, c} \; \frac{1}{2 n} \|V \sigma(W x + b) + c - r\|^2
        + \frac{\text{penalty}}{2 n} \big(\|W\|^2 + \|V\|^2\big)

    with the squares summed over ``n`` samples and all outputs.

    Args:
        features, residual: ``(n, d)`` and ``(n, m)``.
        start: ``(W, b, V, c)``.
        activation: a name in :data:`ACTIVATIONS`.
        max_iter: of L-BFGS, >= 1.
        tol: the largest entry of the gradient at which to end, >= 0.
        penalty: >= 0.

    Returns:
        The weights, and the iterations.
    """
    make, slope = ACTIVATIONS[activation]
    function = make()
    shapes, sizes = [t.shape for t in start], [t.numel() for t in start]
    n = len(features)

    def unpack(flat: np.ndarray) -> list[Tensor]:
        parts = torch.from_numpy(np.array(flat)).to(features).split(sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b, v, c = unpack(flat)
        a = function(torch.addmm(b, features, w.mT))
        error = torch.addmm(c, a, v.mT) - residual
        value = error.square().sum() / (2 * n) + penalty / (2 * n) * (w.square().sum() + v.square().sum())
        error = error / n
        back = (error @ v) * slope(a)
        gradient = [
            torch.addmm(w, back.mT, features, beta=penalty / n),
            back.sum(0),
            torch.addmm(v, error.mT, a, beta=penalty / n),
            error.sum(0),
        ]
        return float(value), torch.cat([g.reshape(-1) for g in gradient]).double().cpu().numpy()

    found = minimize(
        objective,
        torch.cat([t.reshape(-1) for t in start]).double().cpu().numpy(),
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": max_iter, "gtol": tol},
    )
    w, b, v, c = unpack(found.x)
    return (w, b, v, c), int(found.nit)


@torch.no_grad()
def boost(
    features: Tensor,
    targets: Tensor,
    loss: BoostLoss,
    *,
    stages: int = 200,
    units: int = 1,
    learning_rate: float = 1.0,
    subsample: float = 0.5,
    activation: str = "logistic",
    max_iter: int = 200,
    tol: float = 0.0,
    penalty: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Boosted:
    r"""Train a network with one hidden layer by gradient boosting.

    From constant scores :math:`F_0`, stage ``t`` fits a small network :math:`h_t` to the residuals
    :math:`r = -\partial \ell / \partial F` of a random part of the samples by least squares, and adds it with
    a step of Newton's method on all samples, damped by the learning rate:

    .. math:: F_t = F_{t-1} + \nu \rho_t h_t, \qquad
        \rho_t = \frac{\sum r\, h_t}{\sum h_t^2\, \partial^2 \ell / \partial F^2}.

    A step that would raise the loss is halved until it does not. All stages together are one network, whose output
    weights have the steps in them.

    Args:
        features: ``(n, d)``, of columns of similar sizes.
        targets: ``(n, outputs)``, coded as ``loss`` says.
        loss: :class:`SquaredLoss`, :class:`BinaryLoss` or :class:`SoftmaxLoss`.
        stages: >= 1. Default 200.
        units: neurons per stage, >= 1. Default 1.
        learning_rate: in (0, 1]. Default 1.
        subsample: the part of the samples that a stage is fitted to, drawn without replacement, in (0, 1]. Default 0.5.
        activation: ``"logistic"`` (default), ``"tanh"``, ``"relu"``.
        max_iter, tol, penalty: see :func:`fit_stage`. Defaults 200, 0, 1e-4.
        generator: of torch, on the CPU.

    Raises:
        ValueError, TypeError: an argument is out of its range.

    Source: S. Emami, G. Martinez-Munoz (2023), Sequential Training of Neural Networks with Gradient Boosting, arXiv
    1909.12098. The authors' code takes the step 1 for the squared loss; here it is Newton's there, too, which is the
    exact minimizer on all samples. It does not halve steps; on classes that can be separated, where the curvature
    vanishes, such steps may undo all that was learned.
    """
    given = locals()
    for name, allowed in RANGES.items():
        allowed.check(name, given[name])
    if generator is None:
        generator = torch.Generator().manual_seed(torch.initial_seed())
    n, d = features.shape
    function = ACTIVATIONS[activation][0]()
    bias = [loss.start(targets)]
    scores = bias[0].expand_as(targets)
    hidden, offset, output, steps, iterations = [], [], [], [], 0
    part = max(1, int(subsample * n))
    for _ in range(stages):
        residual = loss.residual(scores, targets)
        rows = torch.randperm(n, generator=generator)[:part].to(features.device) if part < n else slice(None)
        begin = _start(d, units, targets.shape[1], activation, generator, features)
        (w, b, v, c), count = fit_stage(features[rows], residual[rows], begin, activation, max_iter, tol, penalty)
        direction = torch.addmm(c, function(torch.addmm(b, features, w.mT)), v.mT)
        step = loss.line_step(scores, direction, residual, targets, learning_rate)
        scores = scores + step * direction
        hidden.append(w)
        offset.append(b)
        output.append(step * v)
        bias.append(bias[-1] + step * c)
        steps.append(step)
        iterations = max(iterations, count)
    return Boosted(
        torch.cat(hidden),
        torch.cat(offset),
        loss.scale * torch.cat(output, 1),
        loss.scale * torch.stack(bias),
        units,
        activation,
        steps,
        iterations,
    )
