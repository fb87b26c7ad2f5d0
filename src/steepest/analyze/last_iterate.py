"""The last iterate of stochastic gradient methods: step sizes, a proved bound, and the worst case."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..core.card import MethodCard, Paper
from ..core.ranges import Integer, OneOf, Real, check_settings

__all__ = ["CARD", "WorstCase", "last_iterate_bound", "step_sizes"]

_RULES = ("1/sqrt(t)", "constant", "linear", "1/t", "heavy-tailed")
_POSITIVE = Real(low=0.0, low_open=True)
_AT_LEAST_ZERO = Real(low=0.0)
Numbers = Sequence[float] | npt.NDArray[np.float64]


def step_sizes(
    rule: str, steps: int, scale: float = 1.0, *, smoothness: float = 0.0, power: float = 2.0
) -> npt.NDArray[np.float64]:
    r"""The step sizes :math:`\eta_1, \dots, \eta_T` for which rates of the last iterate are proved.

    =================  ==================================================  ==========================================
    ``rule``           :math:`\eta_t`                                      expected error of the last iterate
    =================  ==================================================  ==========================================
    ``"1/sqrt(t)"``    :math:`\eta / \sqrt t`                              :math:`O(\log T / \sqrt T)`
    ``"constant"``     :math:`\eta / \sqrt T`                              :math:`O(\log T / \sqrt T)`
    ``"linear"``       :math:`\eta (T - t + 1) / T^{3/2}`                  :math:`O(1 / \sqrt T)`
    ``"1/t"``          :math:`\eta / t`                                    :math:`\tilde O(1 / T)`, strongly convex
    ``"heavy-tailed"`` :math:`\eta / t^{1/p}`                              :math:`\tilde O(T^{1/p - 1})`
    =================  ==================================================  ==========================================

    ``"1/t"`` is for a function with strong convexity :math:`\mu` and :math:`\eta` between :math:`1 / \mu` and
    :math:`2 / \mu`; ``"heavy-tailed"`` for noise with a finite moment of order :math:`1 < p < 2` and no more, and for
    mirror descent with a map as convex as :math:`\|x\|^q / q`, :math:`q = p / (p - 1)`; Euclidean steps lack that rate.

    Args:
        rule: one of these.
        steps: :math:`T \ge 1`.
        scale: :math:`\eta > 0`.
        smoothness: the constant :math:`L \ge 0` of the gradient, 0 for a function that is Lipschitz only; no step is
            longer than :math:`1 / (2 L)`.
        power: :math:`p` in (1, 2] of ``"heavy-tailed"``.

    Raises:
        ValueError, TypeError: a setting is out of its range.

    Source: Liu, Zhou (2024), Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods, arXiv 2312.08531.
    """
    settings = {"rule": rule, "steps": steps, "scale": scale, "smoothness": smoothness, "power": power}
    ranges = {
        "rule": OneOf(_RULES),
        "steps": Integer(low=1),
        "scale": _POSITIVE,
        "smoothness": _AT_LEAST_ZERO,
        "power": Real(low=1.0, high=2.0, low_open=True),
    }
    check_settings("step_sizes", settings, ranges)
    t = np.arange(1, steps + 1, dtype=np.float64)
    sizes = {
        "1/sqrt(t)": lambda: t**-0.5,
        "constant": lambda: np.full(steps, steps**-0.5),
        "linear": lambda: (steps - t + 1) / steps**1.5,
        "1/t": lambda: 1 / t,
        "heavy-tailed": lambda: t ** (-1 / power),
    }[rule]()
    return np.minimum(scale * sizes, 1 / (2 * smoothness) if smoothness else np.inf)


def last_iterate_bound(
    step_sizes: Numbers, distance: float, lipschitz: float, noise: float = 0.0, *, smoothness: float = 0.0
) -> float:
    r"""What proximal stochastic subgradient steps are proved to reach in expectation at their last iterate.

    For :math:`F = f + h` with convex :math:`h` and :math:`f`, where :math:`f(x) - f(y) - \langle g, x - y \rangle \le
    \frac L2 \|x - y\|^2 + M \|x - y\|` for every subgradient :math:`g` at :math:`y`, subgradients with noise of
    variance at most :math:`\sigma^2`, and :math:`x_{t + 1} = \operatorname{prox}_{\eta_t h}(x_t - \eta_t g_t)`:

    .. math::
        \mathbb E F(x_{T + 1}) - F^* \le \frac{D^2}{2 S_1} + C \sum_{t = 1}^T \frac{\eta_t^2}{S_t}, \qquad
        S_t = \sum_{s = t}^T \eta_s, \qquad C = \frac{(M + \sigma)^2}{2 (1 - \eta_{\max} L)}.

    The domain may be unbounded, and nothing is averaged. Linear decay gives :math:`\eta_t^2 / S_t \le 2 \eta / T^{3/2}`
    and no logarithm.

    Where this differs from the paper: the constant is that of its proof, before it is rounded up to
    :math:`2 (M^2 + \sigma^2)`, and :math:`\eta_{\max} < 1 / L` suffices. A function with gradients of norm at most
    :math:`G` has :math:`M = 2 G`.

    Args:
        step_sizes: :math:`\eta_1, \dots, \eta_T`, positive, below ``1 / smoothness``.
        distance: :math:`D \ge 0`, of the start from a minimizer.
        lipschitz: :math:`M \ge 0`.
        noise: :math:`\sigma \ge 0`.
        smoothness: :math:`L \ge 0`.

    Raises:
        ValueError, TypeError: an argument is out of its range.

    Source: Liu, Zhou (2024), arXiv 2312.08531.
    """
    settings = {"distance": distance, "lipschitz": lipschitz, "noise": noise, "smoothness": smoothness}
    check_settings("last_iterate_bound", settings, dict.fromkeys(settings, _AT_LEAST_ZERO))
    sizes = np.asarray(step_sizes, dtype=np.float64)
    if sizes.ndim != 1 or not len(sizes) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"last_iterate_bound: step_sizes must be positive finite numbers, got {step_sizes!r}")
    if not sizes.max() * smoothness < 1:
        raise ValueError(
            f"last_iterate_bound: step_sizes must be below 1 / smoothness = {1 / smoothness:g}, got {sizes.max():g}"
        )
    tails = np.cumsum(sizes[::-1])[::-1]
    constant = (lipschitz + noise) ** 2 / (2 * (1 - sizes.max() * smoothness))
    return float(distance**2 / (2 * tails[0]) + constant * (sizes**2 / tails).sum())


@dataclass(frozen=True)
class WorstCase:
    r"""A convex function on which the last iterate of the subgradient method is off by the factor :math:`\log T`.

    On the unit ball of :math:`\mathbb R^T`, with :math:`a_j = 1 / (8 (T - j + 1))` and :math:`b_j = \sqrt j / (2 \sqrt
    T)`,

    .. math::
        f(x) = \max_{1 \le i \le T + 1} \left( \sum_{j < i} a_j x_j - b_i x_i \right), \qquad b_{T + 1} = 0.

    The minimum is 0, at 0, where the method starts; all subgradients are at most 1 long. The oracle answers with the
    first of the active pieces, and leads the method away. With steps :math:`1 / \sqrt t` it ends at a value of at least
    :math:`\log T / (32 \sqrt T)`.

    Args:
        steps: :math:`T \ge 1`.

    Source: Harvey, Liaw, Plan, Randhawa (2019), Tight analyses for non-smooth stochastic gradient descent, arXiv
    1812.05217; used by Liu, Zhou (2024), arXiv 2312.08531.
    """

    steps: int

    def __post_init__(self) -> None:
        check_settings("WorstCase", {"steps": self.steps}, {"steps": Integer(low=1)})

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        j = torch.arange(1, self.steps + 1, dtype=torch.float64)
        return 1 / (8 * (self.steps - j + 1)), j.sqrt() / (2 * self.steps**0.5)

    def pieces(self, x: Tensor) -> Tensor:
        """The :math:`T + 1` linear functions at a point of :math:`T` numbers in float64."""
        a, b = self._coefficients()
        before = torch.cat([x.new_zeros(1), torch.cumsum(a * x, 0)])
        return before - torch.cat([b * x, x.new_zeros(1)])

    def value(self, x: Tensor) -> float:
        """The function."""
        return float(self.pieces(x).max())

    def subgradient(self, x: Tensor) -> Tensor:
        """The gradient of the first active piece."""
        values = self.pieces(x)
        first = int(torch.nonzero(values >= values.max() - 1e-12)[0, 0])
        a, b = self._coefficients()
        gradient = torch.zeros_like(x)
        gradient[:first] = a[:first]
        if first < self.steps:
            gradient[first] = -b[first]
        return gradient

    def last_value(self, sizes: Numbers) -> float:
        """The value at the point that projected subgradient steps of these sizes lead to, from 0."""
        x = torch.zeros(self.steps, dtype=torch.float64)
        for size in sizes:
            x = x - float(size) * self.subgradient(x)
            x = x / max(1.0, float(torch.linalg.vector_norm(x)))
        return self.value(x)


CARD = MethodCard(
    name="last-iterate",
    title="Last iterate of stochastic gradient methods",
    room="analyze",
    family="bounds",
    summary="Step sizes for the last iterate of SGD, the error that is proved for them, and the worst case.",
    target="steepest.analyze.last_iterate:last_iterate_bound",
    papers=(
        Paper(
            "Liu, Zhou",
            2024,
            "Revisiting the Last-Iterate Convergence of Stochastic Gradient Methods",
            arxiv="2312.08531",
        ),
        Paper(
            "Harvey, Liaw, Plan, Randhawa",
            2019,
            "Tight analyses for non-smooth stochastic gradient descent",
            arxiv="1812.05217",
        ),
    ),
    needs=frozenset({"function"}),
    buffers=0,
    usage='steepest.analyze.last_iterate_bound(steepest.analyze.step_sizes("linear", 1000), distance=1, lipschitz=2)',
    claim="The last iterate of SGD converges on unbounded domains and without averaging, and linear decay of the step "
    "size removes the factor log T from its rate.",
)
