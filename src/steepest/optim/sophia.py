"""Sophia: momentum over an average of the Hessian's diagonal, clipped element by element."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.curvature import CurvatureOptimizer, check_loss
from ..core.optimizer import Common, Parameters, RuleOptimizer
from ..core.ranges import BETAS, STEP_SIZE, WEIGHT_DECAY, Integer, OneOf, Real
from ..core.rule import lerp
from ..core.sharding import average_over_processes

__all__ = ["CARD", "Sophia"]


class Sophia(CurvatureOptimizer):
    r"""Sophia: a clipped diagonal Newton step, with a curvature estimate every few steps.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        h_t &= \begin{cases} \beta_2 h_{t-1} + (1 - \beta_2) \hat h_t & \text{if } t \equiv 1 \pmod k \\
                             h_{t-1} & \text{otherwise} \end{cases} \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \operatorname{clip}\!\Big(\frac{m_t}{\max(\gamma h_t, \varepsilon)}, -1, 1\Big)

    Nothing is bias-corrected. Where :math:`\gamma h` is small or negative the step is the sign of the momentum, so that
    the learning rate has Lion's scale; ``estimator`` says what :math:`\hat h` is:

    - ``"gauss-newton"`` (Gauss-Newton-Bartlett; Sophia-G): :math:`\hat h = B\, \hat g \odot \hat g` with the gradient
      of the mean loss on labels that are drawn from the model's own prediction, not the true ones, of :math:`B`
      independent examples (tokens, for a language model). It is unbiased for the diagonal of the Gauss-Newton matrix.
      When :attr:`wants_estimate` is true, draw labels and call :meth:`estimate`; train as with any optimizer.
    - ``"hutchinson"`` (Sophia-H): :math:`\hat h = u \odot Hu` with Gaussian :math:`u`. Train with
      ``optimizer.backward(loss)`` or ``step(closure)`` whose closure returns the loss without calling backward.

    Until the first estimate, and where there is never one, :math:`h = 0` and the method is signed momentum.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`: that of Lion, or somewhat below AdamW's.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        gamma: :math:`\gamma \ge 0`, the scale of the curvature; the paper uses 0.05 for the Gauss-Newton estimator and
            0.01 for Hutchinson's. Tune it until 10 to 50 % of the coordinates are not clipped.
        eps: :math:`\varepsilon > 0`.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        update_every: steps :math:`k \ge 1` between two estimates.
        estimator: ``"gauss-newton"`` or ``"hutchinson"``.
        seed: of Hutchinson's probes; they depend on it, the step and the shapes alone.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`.

    The authors' code leaves the factor :math:`B` out of the average and puts it, as ``bs``, into the step; the
    trajectory is the same.

    Source: Liu, Li, Hall, Liang, Ma (2023), Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
    Pre-training, arXiv 2305.14342, Algorithms 1 to 3.

    Example:
        >>> import torch
        >>> from torch.nn.functional import cross_entropy
        >>> from steepest.optim import Sophia
        >>> model = torch.nn.Linear(4, 3)
        >>> inputs, labels = torch.randn(8, 4), torch.randint(3, (8,))
        >>> optimizer = Sophia(model.parameters(), lr=1e-3)
        >>> for _ in range(20):
        ...     if optimizer.wants_estimate:
        ...         outputs = model(inputs)
        ...         drawn = torch.distributions.Categorical(logits=outputs.detach()).sample()
        ...         optimizer.estimate(cross_entropy(outputs, drawn), samples=len(drawn))
        ...     optimizer.zero_grad()
        ...     cross_entropy(model(inputs), labels).backward()
        ...     optimizer.step()
    """

    state_tensors = {"momentum": torch.zeros_like, "hessian": torch.zeros_like}
    gaussian = True
    complex_as_real = False
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "gamma": Real(low=0.0),
        "eps": Real(low=0.0, low_open=True),
        "weight_decay": WEIGHT_DECAY,
        "update_every": Integer(low=1),
        "estimator": OneOf(("gauss-newton", "hutchinson")),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 6e-4,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.05,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        update_every: int = 10,
        estimator: Literal["gauss-newton", "hutchinson"] = "gauss-newton",
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "update_every": update_every,
            "estimator": estimator,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        """Whether it differentiates the loss of a closure itself; with the Gauss-Newton estimator closures do so."""
        return not self.samples_targets

    @property
    def every(self) -> int:
        """Steps between two estimates."""
        return int(self.param_groups[0]["update_every"])

    @property
    def samples_targets(self) -> bool:
        """Whether estimates come from :meth:`estimate`, on labels drawn from the model."""
        return bool(self.param_groups[0]["estimator"] == "gauss-newton")

    @staticmethod
    def absorb(stored: Mapping[str, Tensor], estimate: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The average with a new estimate."""
        hessian = stored["hessian"]
        return {"hessian": lerp(hessian, estimate.to(hessian.dtype), 1 - settings["betas"][1])}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to ``.grad``; with Hutchinson's estimator, estimate curvature if it is due."""
        if self.samples_targets:
            check_loss(type(self).__name__, loss)
            loss.backward()
        else:
            super().backward(loss)

    def advance(self, closure: Any = None, loss: Any = None) -> Any:
        """What :meth:`step` does; with the Gauss-Newton estimator, a closure calls backward as usual."""
        if self.samples_targets:
            return RuleOptimizer.advance(self, closure, loss)
        return super().advance(closure, loss)

    def estimate(self, loss: Tensor, samples: int) -> None:
        """Take the Gauss-Newton-Bartlett estimate into the average; ``.grad`` stays as it is.

        Args:
            loss: the *mean* loss, with its graph, on labels drawn from the model's prediction.
            samples: the number :math:`B` of independent predictions in that mean: examples, or tokens that count.

        Raises:
            ValueError: ``samples`` is below one.
            RuntimeError: the loss has no graph.
        """
        if samples < 1:
            raise ValueError(f"Sophia: samples must be an integer >= 1, got {samples!r}")
        check_loss(type(self).__name__, loss)
        params = [(group, p) for group in self.param_groups for p in group["params"]]
        trained = [p for _, p in params if p.requires_grad]
        found = dict(zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True))
        squares = {p: samples * g * g for p, g in found.items() if g is not None}
        means = dict(zip(squares, average_over_processes(list(squares.values())), strict=True))
        # Observing changes the sign where a group is maximized; a Gauss-Newton matrix has none.
        self.observe([-means[p] if group["maximize"] and p in means else means.get(p) for group, p in params])

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        momentum: Tensor,
        hessian: Tensor,
        *,
        lr: float,
        beta1: float,
        gamma: float,
        eps: float,
        weight_decay: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        momentum = lerp(momentum, g, 1 - beta1)
        curvature = gamma * hessian
        ratio = momentum / torch.where(curvature > eps, curvature, eps)
        return (1 - lr * weight_decay) * x - lr * ratio.clamp(-1.0, 1.0), momentum, hessian


CARD = MethodCard(
    name="sophia",
    title="Sophia",
    room="optim",
    family="curvature",
    summary="Momentum over a cheap estimate of the Hessian's diagonal, clipped element by element.",
    target="steepest.optim.sophia:Sophia",
    papers=(
        Paper(
            "Liu, Li, Hall, Liang, Ma",
            2023,
            "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
            arxiv="2305.14342",
        ),
    ),
    needs=frozenset({"gradient", "sampled targets"}),
    buffers=2,
    search={
        "lr": Float(1e-5, 1e-2, log=True),
        "weight_decay": Float(1e-3, 1.0, log=True),
        "gamma": Float(3e-3, 0.3, log=True),
    },
    claim="Reaches AdamW's validation loss in half the steps.",
)
