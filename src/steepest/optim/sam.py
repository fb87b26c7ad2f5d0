"""Sharpness-aware minimization: the gradient is taken where a small step uphill leads; and two simpler relatives."""

from collections.abc import Iterable
from typing import Any

from torch.optim import SGD, Optimizer

from ..core.ascent import TwoPointTransform
from ..core.card import Float, MethodCard, Paper
from ..core.ranges import MOMENTUM, Real

__all__ = ["CARDS", "DNSAM", "SAM", "USAM", "dnsam_sgd", "sam_sgd", "usam_sgd"]

#: Where a gradient's norm is below this, it is not normalized any more, so that a zero gradient stays put.
_TINY = 1e-12


class USAM(TwoPointTransform):
    r"""Unnormalized SAM: the gradient at a step along the gradient itself.

    For the loss :math:`L` of a mini-batch, the base is given

    .. math::
        g' = \nabla L(x + \rho\, g), \qquad g = \nabla L(x)

    (:math:`x - \rho g` in groups that maximize). Up to :math:`O(\rho^2)` it descends
    :math:`L + \frac{\rho}{2} \|\nabla L\|^2`; it is :class:`GradientRegularization` with
    :math:`\gamma = \varepsilon = \rho`. Near a saddle a direction of curvature :math:`\lambda < -1/\rho` attracts.

    Args:
        base: any optimizer; its weight decay is not part of the loss that is perturbed.
        rho: :math:`\rho \ge 0`, in units of a step size (the ascent is as long as the gradient). 0 is the base itself.

    Raises:
        ValueError, TypeError: see :class:`~steepest.core.ascent.TwoPointTransform`; or a setting is out of its range.

    Source: Andriushchenko, Flammarion (2022), Towards Understanding Sharpness-Aware Minimization, arXiv 2206.06232.
    """

    ranges = {"rho": Real(low=0.0)}
    rho: float

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        super().__init__(base, rho=rho)

    def ascent(self, norm: float) -> float:
        """The same for every gradient."""
        return self.rho


class SAM(USAM):
    r"""Sharpness-aware minimization: descends with the gradient at the worst point nearby, to first order.

    For the loss :math:`L` of a mini-batch, with the norm over all parameters together, the base is given

    .. math::
        g' = \nabla L\Big(x + \rho\, \frac{g}{\|g\|_2}\Big), \qquad g = \nabla L(x)

    (:math:`x - \rho g / \|g\|` in groups that maximize). Up to :math:`O(\rho^2)` it descends
    :math:`L + \rho \|\nabla L\|`. The move has the length :math:`\rho` however small the gradient is, so that SAM does
    not settle closer to a minimum than about half the step size times :math:`\rho` times the curvature, and saddles
    hold it when it is nearer to them than about :math:`\rho`.

    As in the authors' code :math:`\|g\| + 10^{-12}` is divided by, and the denominator is not differentiated.

    Args:
        base: any optimizer; its weight decay is not part of the loss that is perturbed.
        rho: the radius :math:`\rho \ge 0` in the parameter space. 0 is the base itself.

    Raises:
        ValueError, TypeError: see :class:`~steepest.core.ascent.TwoPointTransform`; or a setting is out of its range.

    Source: Foret, Kleiner, Mobahi, Neyshabur (2021), Sharpness-Aware Minimization for Efficiently Improving
    Generalization, arXiv 2010.01412, Algorithm 1.
    """

    def ascent(self, norm: float) -> float:
        """The radius over the norm of this gradient."""
        return self.rho / (norm + _TINY)


class DNSAM(USAM):
    r"""DNSAM: SAM whose denominator is the norm of the *full* gradient, in place of the mini-batch's.

    .. math::
        g' = \nabla L\Big(x + \rho\, \frac{g}{\|\nabla f(x)\|_2}\Big), \qquad g = \nabla L(x)

    with the loss :math:`L` of a mini-batch and :math:`f`, its mean over all data. It is a model of SAM that can be
    analysed; with full batches it is SAM.

    An optimizer does not see :math:`f`. Set ``optimizer.full_norm`` before a step where you know it. Else the root of
    an exponential average of :math:`\|g\|^2` stands in for it,

    .. math::
        a \leftarrow \delta a + (1 - \delta) \|g\|^2, \qquad \|\nabla f\|^2 \approx a

    which starts at the first gradient. It estimates
    :math:`\|\nabla f\|^2 + \operatorname{tr} \operatorname{Cov}(g)`, as single mini-batches cannot tell the two apart:
    where the noise dominates it is too large, and the move too short. The norms of every evaluation enter.

    Args:
        base: any optimizer; its weight decay is not part of the loss that is perturbed.
        rho: the radius :math:`\rho \ge 0` of the full gradient's move. 0 is the base itself.
        full_norm: :math:`\|\nabla f\| > 0`, if known; ``None`` for the average.
        decay: :math:`\delta` in [0, 1) of the average; with 0 it is SAM.

    Raises:
        ValueError, TypeError: see :class:`~steepest.core.ascent.TwoPointTransform`; or a setting is out of its range.

    Source: Monzio Compagnoni et al. (2023), An SDE for Modeling SAM: Theory and Insights, arXiv 2301.08203; the average
    is ours.
    """

    ranges = {
        "rho": Real(low=0.0),
        "full_norm": Real(low=0.0, low_open=True, optional=True),
        "decay": MOMENTUM,
        "average": Real(low=0.0, optional=True),  # no setting, but saved with them
    }
    full_norm: float | None
    decay: float
    average: float | None

    def __init__(self, base: Optimizer, rho: float = 0.05, full_norm: float | None = None, decay: float = 0.9) -> None:
        super(USAM, self).__init__(base, rho=rho, full_norm=full_norm, decay=decay, average=None)

    def ascent(self, norm: float) -> float:
        """The radius over the norm of the full gradient, known or estimated."""
        if self.full_norm is not None:
            return self.rho / (self.full_norm + _TINY)
        square = norm**2
        self.average = square if self.average is None else self.decay * self.average + (1 - self.decay) * square
        return self.rho / (self.average**0.5 + _TINY)


def sam_sgd(
    params: Iterable[Any], lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, rho: float = 0.05
) -> SAM:
    """:class:`SAM` over ``torch.optim.SGD``.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's; the momentum averages gradients at the perturbed points.
        rho: the radius.

    Source: Foret, Kleiner, Mobahi, Neyshabur (2021), arXiv 2010.01412.
    """
    return SAM(SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay), rho)


def usam_sgd(
    params: Iterable[Any], lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, rho: float = 0.05
) -> USAM:
    """:class:`USAM` over ``torch.optim.SGD``.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's.
        rho: the ascent's step size.

    Source: Andriushchenko, Flammarion (2022), arXiv 2206.06232.
    """
    return USAM(SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay), rho)


def dnsam_sgd(
    params: Iterable[Any],
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    rho: float = 0.05,
    decay: float = 0.9,
) -> DNSAM:
    """:class:`DNSAM` over ``torch.optim.SGD``, with an estimate of the full gradient's norm.

    Args:
        params: parameters, groups or named parameters.
        lr, momentum, weight_decay: SGD's.
        rho: the radius.
        decay: of the average that estimates the norm.

    Source: Monzio Compagnoni et al. (2023), arXiv 2301.08203.
    """
    return DNSAM(SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay), rho, decay=decay)


_FORET = Paper(
    "Foret, Kleiner, Mobahi, Neyshabur",
    2021,
    "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    arxiv="2010.01412",
)
_SDE = Paper(
    "Monzio Compagnoni, Biggio, Orvieto, Proske, Kersting, Lucchi",
    2023,
    "An SDE for Modeling SAM: Theory and Insights",
    arxiv="2301.08203",
)
_NEEDS = frozenset({"gradient", "closure"})
_SEARCH = {
    "lr": Float(1e-3, 1.0, log=True),
    "weight_decay": Float(1e-6, 1e-2, log=True),
    "rho": Float(0.01, 0.5, log=True),
}

CARDS = (
    MethodCard(
        name="sam",
        title="SAM",
        room="optim",
        family="transform",
        summary="The gradient at the worst point nearby, a step of fixed length uphill; here over SGD with momentum.",
        target="steepest.optim.sam:sam_sgd",
        papers=(_FORET, _SDE),
        needs=_NEEDS,
        buffers=1,
        search=_SEARCH,
        claim="SDEs whose drift and noise depend on rho follow SAM and its variants with a weak error linear in the "
        "step size, as the SDE of SGD does not; and SAM is held by saddles that SGD leaves.",
    ),
    MethodCard(
        name="usam",
        title="USAM",
        room="optim",
        family="transform",
        summary="The gradient at a step along the gradient, not normalized; here over SGD with momentum.",
        target="steepest.optim.sam:usam_sgd",
        papers=(
            Paper(
                "Andriushchenko, Flammarion",
                2022,
                "Towards Understanding Sharpness-Aware Minimization",
                arxiv="2206.06232",
            ),
            _SDE,
        ),
        needs=_NEEDS,
        buffers=1,
        search=_SEARCH,
    ),
    MethodCard(
        name="dnsam",
        title="DNSAM",
        room="optim",
        family="transform",
        summary="SAM normalized by the norm of the full gradient, or an estimate of it; here over SGD with momentum.",
        target="steepest.optim.sam:dnsam_sgd",
        papers=(_SDE,),
        needs=_NEEDS,
        buffers=1,
        search=_SEARCH,
    ),
)
