"""Learning rates from the curvature of mini-batches: an estimator, and how the rate scales with the batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.card import MethodCard, Paper
from ...core.lanczos import lanczos
from ...core.operators import Batch, Hessian, Loss
from ...core.random import generator, normal
from ...core.ranges import Integer, Real, check_settings

__all__ = [
    "CARD",
    "LearningRate",
    "effective_batch",
    "extreme_eigenvalue",
    "hessian_noise",
    "lanczos_learning_rate",
    "linear_scaling",
    "square_root_scaling",
    "stable_learning_rate",
]

_POSITIVE = Real(low=0.0, low_open=True)
_SETTINGS = {
    "eigenvalue": Real(),
    "noise": Real(low=0.0),
    "lr": _POSITIVE,
    "batch": Integer(low=1),
    "new_batch": Integer(low=1),
    "samples": Integer(low=1, optional=True),
    "steps": Integer(low=1),
    "pairs": Integer(low=1),
    "weight_decay": Real(low=0.0),
    "max_momentum": Real(low=0.0, high=1.0, high_open=True),
}


@dataclass(frozen=True)
class LearningRate:
    """What the curvature says of the learning rate.

    Attributes:
        lr: for SGD with this momentum.
        momentum: Polyak's, of ``torch.optim.SGD(momentum=...)``.
        largest, smallest: the ends of the spectrum that Lanczos' method saw, weight decay included.
    """

    lr: float
    momentum: float
    largest: float
    smallest: float


def lanczos_learning_rate(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    steps: int = 20,
    weight_decay: float = 0.0,
    max_momentum: float = 0.99,
    seed: int = 0,
) -> LearningRate:
    r"""Learning rate and momentum of the heavy ball that suit the curvature of the loss.

    With the largest and the smallest Ritz value :math:`\lambda_1, \lambda_P` of the Hessian, after some steps of
    Lanczos' method from one random vector,

    .. math::
        \alpha = \left(\frac{2}{\sqrt{\lambda_1} + \sqrt{|\lambda_P|}}\right)^2, \qquad
        \rho = \left(\frac{\sqrt{\lambda_1} - \sqrt{|\lambda_P|}}{\sqrt{\lambda_1} + \sqrt{|\lambda_P|}}\right)^2,

    which is optimal for a quadratic with these extreme eigenvalues. Then :math:`\rho` is lowered to ``max_momentum`` if
    it is above, and :math:`\alpha` to :math:`2 (1 + \rho) / \lambda_1`, beyond which the heavy ball is unstable.
    Call it once in a while, say every epoch, and write the results into the optimizer's groups.

    **Give it batches one at a time, of the size of training**: averaged over more samples the Hessian is less noisy,
    its largest eigenvalue smaller, and the learning rate too large. The model is used in the mode that it is in;
    batch normalization changes the Hessian, and dropout makes it random.

    The paper leaves open which eigenvalue near zero counts as the smallest; here it is the lower end of the spectrum.

    Args:
        model, loss, batches: as for :class:`~steepest.core.operators.Hessian`.
        steps: of Lanczos' method, >= 1; the paper uses 10 to 100. Each is a Hessian-vector product.
        weight_decay: of the optimizer (not decoupled), which adds to every eigenvalue.
        max_momentum: in [0, 1).
        seed: of the random vector.

    Raises:
        ValueError, TypeError: a setting is out of its range, or the largest eigenvalue is not positive.

    Source: Granziol, Zohren, Roberts (2022), Learning Rates as a Function of Batch Size: A Random Matrix Theory
    Approach to Neural Network Training, arXiv 2006.09092.
    """
    _check("lanczos_learning_rate", steps=steps, weight_decay=weight_decay, max_momentum=max_momentum)
    hessian = Hessian(model, loss, batches)
    small = lanczos(hessian, normal(hessian.like, seed), steps)[1]
    if not bool(small.isfinite().all()):
        raise ValueError("lanczos_learning_rate: the Hessian of the loss holds NaN or an infinity at these parameters")
    ritz = torch.linalg.eigvalsh(small.double().cpu()) + weight_decay
    largest, smallest = float(ritz[-1]), float(ritz[0])
    if not largest > 0:
        raise ValueError(
            f"lanczos_learning_rate: the largest eigenvalue must be positive, got {largest:g}; the loss has no "
            "curvature that limits the learning rate"
        )
    high, low = largest**0.5, min(abs(smallest), largest) ** 0.5
    momentum = min(max_momentum, ((high - low) / (high + low)) ** 2)
    lr = min((2 / (high + low)) ** 2, 2 * (1 + momentum) / largest)
    return LearningRate(lr, momentum, largest, smallest)


def effective_batch(batch: int, samples: int | None = None) -> float:
    r""":math:`b = B / (1 - B / N)`: how many independent samples the noise of a batch corresponds to.

    Args:
        batch: :math:`B`, drawn without replacement.
        samples: :math:`N \ge B` in the training set; ``None`` for a stream, whose batches have :math:`b = B`. With
            :math:`B = N` there is no noise and the result is infinite.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    _check("effective_batch", batch=batch, samples=samples)
    if samples is None:
        return float(batch)
    if batch > samples:
        raise ValueError(f"effective_batch: batch must be at most samples = {samples}, got {batch!r}")
    return float("inf") if batch == samples else batch / (1 - batch / samples)


def extreme_eigenvalue(eigenvalue: float, noise: float, batch: int, samples: int | None = None) -> float:
    r"""The extreme eigenvalue of a batch's Hessian, from that of the whole training set's.

    The Hessian of a batch is that of all samples plus a random symmetric matrix, with entries of variance
    :math:`\sigma^2 / b` for the effective batch :math:`b`. In the limit of many parameters :math:`P`

    .. math::
        \lambda' = \begin{cases} \lambda + \dfrac{P \sigma^2}{b\, \lambda} & \lambda > \sqrt{P \sigma^2 / b} \\[1ex]
        2 \sqrt{P \sigma^2 / b} & \text{otherwise,} \end{cases}

    an outlier that the noise pushes outwards, or the edge of the noise's own bulk. A negative :math:`\lambda`, the
    lower end of the spectrum, is treated alike with its sign.

    Args:
        eigenvalue: :math:`\lambda` of the Hessian over all samples.
        noise: :math:`P \sigma^2 \ge 0`, see :func:`hessian_noise`.
        batch, samples: as for :func:`effective_batch`.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    _check("extreme_eigenvalue", eigenvalue=eigenvalue, noise=noise)
    variance = noise / effective_batch(batch, samples)
    size, sign = abs(eigenvalue), -1.0 if eigenvalue < 0 else 1.0
    return float(sign * (size + variance / size if size > variance**0.5 else 2 * variance**0.5))


def stable_learning_rate(eigenvalue: float, noise: float, batch: int, samples: int | None = None) -> float:
    r"""The largest stable learning rate of SGD on batches of a size, :math:`2 / \lambda'`.

    It is proportional to the batch while the noise of an outlier dominates, and levels off at :math:`2 / \lambda`.

    Args:
        eigenvalue, noise, batch, samples: as for :func:`extreme_eigenvalue`; not both eigenvalue and noise are 0.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    extreme = extreme_eigenvalue(eigenvalue, noise, batch, samples)
    if not extreme > 0:
        raise ValueError(f"stable_learning_rate: the extreme eigenvalue must be positive, got {extreme:g}")
    return 2 / extreme


def hessian_noise(
    model: nn.Module, loss: Loss, inputs: Any, targets: Any, *, batch: int, pairs: int = 10, seed: int = 0
) -> float:
    r"""An estimate of :math:`P \sigma^2`, the noise of the Hessian of one sample.

    For random unit vectors :math:`v`, :math:`\mathbb E \|(H_{\text{batch}} - H) v\|^2 = P \sigma^2 / b`. With the
    Hessians :math:`H_i` of single samples, :math:`P \sigma^2 = \frac{1}{(N - 1) P} \sum_i \|H_i - H\|_F^2`. It costs
    ``pairs`` products over all samples and as many over a batch.

    Args:
        model, loss: as for :class:`~steepest.core.operators.Hessian`.
        inputs, targets: tensors with all training samples.
        batch: samples per batch, drawn without replacement; less than all.
        pairs: of a random batch and a random vector, >= 1.
        seed: of both.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    samples = len(targets)
    check_settings("hessian_noise", {"batch": batch}, {"batch": Integer(low=1, high=samples - 1)})
    _check("hessian_noise", pairs=pairs)
    whole = Hessian(model, loss, [(inputs, targets)])
    total = 0.0
    for pair in range(pairs):
        vector = normal(whole.like, seed, pair, "vector")
        vector = vector / torch.linalg.vector_norm(vector)
        source = generator(torch.device("cpu"), seed, pair, "batch")
        chosen = torch.randperm(samples, generator=source)[:batch].to(targets.device)
        part = Hessian(model, loss, [(inputs[chosen], targets[chosen])])
        total += float((part(vector) - whole(vector)).square().sum())
    return effective_batch(batch, samples) * total / pairs


def linear_scaling(lr: float, batch: int, new_batch: int) -> float:
    """The learning rate of SGD for another batch size, in proportion to it.

    Both batches must be small enough for the noise to dominate; see :func:`stable_learning_rate` for where it does not.

    Args:
        lr: the learning rate that suits ``batch``.
        batch, new_batch: sizes, >= 1.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    _check("linear_scaling", lr=lr, batch=batch, new_batch=new_batch)
    return lr * new_batch / batch


def square_root_scaling(lr: float, batch: int, new_batch: int) -> float:
    """The learning rate of Adam and other adaptive methods for another batch size, in proportion to its square root.

    Args:
        lr: the learning rate that suits ``batch``.
        batch, new_batch: sizes, >= 1, small enough for the noise of the gradient to dominate.

    Source: Granziol et al. (2022), arXiv 2006.09092.
    """
    _check("square_root_scaling", lr=lr, batch=batch, new_batch=new_batch)
    return float(lr * (new_batch / batch) ** 0.5)


def _check(owner: str, **settings: Any) -> None:
    check_settings(owner, settings, _SETTINGS)


CARD = MethodCard(
    name="lanczos-learning-rate",
    title="Learning rates from the curvature of batches",
    room="schedules",
    family="learning rate",
    summary="Sets learning rate and momentum from the extreme eigenvalues of a batch's Hessian; with rules for how the "
    "learning rate scales with the batch size.",
    target="steepest.optim.schedules.batch_scaling:lanczos_learning_rate",
    papers=(
        Paper(
            "Granziol, Zohren, Roberts",
            2022,
            "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
            arxiv="2006.09092",
        ),
    ),
    needs=frozenset({"hvp", "function"}),
    buffers=0,
    usage="steepest.optim.schedules.lanczos_learning_rate(model, loss, [(inputs, targets)])",
    claim="Small batches enlarge the extreme eigenvalues of the Hessian as random matrix theory predicts; the largest "
    "stable learning rate grows with the batch size linearly for SGD, and with its square root for Adam.",
)
