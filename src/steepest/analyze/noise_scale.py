"""How noisy mini-batch gradients are, and the batch size from which larger ones stop paying."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steepest.analyze.spectral_density import evaluating
from steepest.core import tree
from steepest.core.card import MethodCard, Paper
from steepest.core.operators import pairs, trainable

__all__ = ["CARD", "GradientNoiseScale", "gradient_noise_scale"]


@dataclass(frozen=True)
class GradientNoiseScale:
    """What :func:`gradient_noise_scale` found.

    Attributes:
        batch_size: the simple noise scale, the critical batch size; infinite where noise hides the gradient, NaN where
            a gradient is not finite.
        variance: the trace of the covariance of single samples' gradients, estimated without bias.
        square: the squared norm of the true gradient, estimated without bias; it may come out negative.
        samples: that were looked at.
    """

    batch_size: float
    variance: float
    square: float
    samples: int


def gradient_noise_scale(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterable[Any]
) -> GradientNoiseScale:
    r"""The simple noise scale: the batch size at which noise and signal in a gradient are equally large.

    .. math:: B_{\text{simple}} = \frac{\operatorname{tr} \Sigma}{\|G\|^2}

    with the true gradient :math:`G` and the covariance :math:`\Sigma` of single samples' gradients. From the gradients
    :math:`g_j` of :math:`k` batches of :math:`b` samples and their mean :math:`\bar g`,

    .. math::
        \operatorname{tr} \Sigma \approx \frac{b}{k - 1} \sum_j \|g_j - \bar g\|^2, \qquad
        \|G\|^2 \approx \|\bar g\|^2 - \frac{\operatorname{tr} \Sigma}{b k}

    Far below this batch size twice the batch makes about twice the progress; far above it, hardly more. The model is
    measured in evaluation mode and left as it was.

    Args:
        model: its outputs are ``model(inputs)``.
        loss: ``loss(outputs, targets)``, a mean over samples.
        batches: at least two pairs ``(inputs, targets)`` of one size, drawn independently.

    Raises:
        ValueError: there are fewer than two batches, or their sizes differ.

    Source: McCandlish, Kaplan, Amodei, OpenAI Dota Team (2018), An Empirical Model of Large-Batch Training,
    arXiv 1812.06162, section 2.2 and appendix A.1; here with any number of equal batches in place of two sizes.
    """
    params = list(trainable(model).values())
    mean: Tensor | None = None
    squares, sizes = 0.0, []
    with evaluating(model):
        for inputs, targets in pairs(batches):
            found = torch.autograd.grad(loss(model(inputs), targets), params, allow_unused=True, materialize_grads=True)
            g = tree.ravel(list(found)).double()
            sizes.append(len(tree.leaves(targets)[0]))
            # Welford's update: the spread about the mean so far, without holding the gradients.
            if mean is None:
                mean = g
            else:
                change = g - mean
                mean = mean + change / len(sizes)
                squares += float(change @ (g - mean))
    if len(sizes) < 2:
        raise ValueError(f"batches must hold at least two pairs (inputs, targets), got {len(sizes)}")
    if len(set(sizes)) > 1:
        raise ValueError(f"batches must be of one size, got the sizes {sorted(set(sizes))}")
    assert mean is not None
    variance = sizes[0] * squares / (len(sizes) - 1)
    square = float(mean @ mean) - variance / sum(sizes)
    ratio = float("inf") if square <= 0 else variance / square
    return GradientNoiseScale(ratio, variance, square, sum(sizes))


CARD = MethodCard(
    name="gradient-noise-scale",
    title="Gradient noise scale",
    room="analyze",
    family="noise",
    summary="The batch size at which the noise of a gradient equals its signal.",
    target="steepest.analyze.noise_scale:gradient_noise_scale",
    papers=(
        Paper(
            "McCandlish, Kaplan, Amodei, OpenAI Dota Team",
            2018,
            "An Empirical Model of Large-Batch Training",
            arxiv="1812.06162",
        ),
    ),
    needs=frozenset({"gradient", "function"}),
    usage="steepest.analyze.gradient_noise_scale(model, loss, batches).batch_size",
)
