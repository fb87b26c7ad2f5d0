"""AdaHessian: Adam with Hutchinson estimates of the Hessian's diagonal in place of the squared gradient."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..core.card import Float, MethodCard, Paper
from ..core.curvature import CurvatureOptimizer
from ..core.optimizer import Common, Parameters
from ..core.ranges import BETAS, EPSILON, STEP_SIZE, WEIGHT_DECAY, Integer, Real
from ..core.rule import lerp

__all__ = ["CARD", "AdaHessian"]


class AdaHessian(CurvatureOptimizer):
    r"""AdaHessian: Adam whose second moment is that of a Hessian diagonal estimate, not of the gradient.

    .. math::
        D_t &= \operatorname{average}\!\Big(\frac1n \sum_{k=1}^n z_k \odot H_t z_k\Big), \qquad z_k \in \{-1, 1\}^d \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) D_t^2 \\
        x_t &= (1 - \eta\lambda) x_{t-1}
               - \eta \, \frac{m_t / (1 - \beta_1^t)}{\big(v_t / (1 - \beta_2^t)\big)^{k/2} + \varepsilon}

    :math:`H_t` is the Hessian of the mini-batch loss; its products with the random probes come from a second
    differentiation. A convolution kernel's estimates are averaged over its spatial window, and a matrix's over blocks
    of ``block_size`` neighbours in a row. Since :math:`\mathbb E (z \odot Hz)_i^2 = \sum_j H_{ij}^2`, the root of
    :math:`v` is the norm of a row of the Hessian rather than its diagonal entry, unless averaging or several probes
    bring it down; on a diagonal Hessian one probe is exact.

    Train with ``optimizer.backward(loss)`` in place of ``loss.backward()``, or with ``step(closure)`` whose closure
    returns the loss without calling backward; a trainer that calls backward itself cannot drive it. A step costs about
    two gradients, and the memory of a graph that is kept for the second differentiation.

    Args:
        params: parameters, groups, named parameters or a module.
        lr: learning rate :math:`\eta \ge 0`. Not on Adam's scale: about a hundred times larger.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\varepsilon \ge 0`; it matters where the curvature is small.
        weight_decay: decoupled weight decay :math:`\lambda \ge 0`, multiplied by ``lr``.
        hessian_power: :math:`k` in [0, 1].
        block_size: neighbours in a row of a matrix whose estimates are averaged; 1 for none. The last block of a row
            may be shorter.
        n_probes: random probes :math:`n \ge 1` per step.
        seed: of the probes; they depend on it, the step and the shapes alone.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`.

    Raises:
        RuntimeError: a step is taken although no curvature was ever estimated.

    The authors' code averages :math:`|Hz|` over the window; the paper, and this, average the signed estimates, which is
    what reduces their variance. Their code takes gradients by ``backward(create_graph=True)``, which leaks memory.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney (2020), ADAHESSIAN: An Adaptive Second Order Optimizer for
    Machine Learning, arXiv 2006.00719.
    """

    granularity = "tensor"
    complex_as_real = False
    nonnegative = ("hessian_sq",)
    ranges = {
        "lr": STEP_SIZE,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": WEIGHT_DECAY,
        "hessian_power": Real(low=0.0, high=1.0),
        "block_size": Integer(low=1),
        "n_probes": Integer(low=1),
        "seed": Integer(low=0),
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        hessian_power: float = 1.0,
        block_size: int = 1,
        n_probes: int = 1,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "hessian_power": hessian_power,
            "block_size": block_size,
            "n_probes": n_probes,
            "seed": seed,
        }
        super().__init__(params, settings, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Moments, and how many estimates are in the second (a parameter may miss some)."""
        count = torch.zeros((), dtype=torch.float32, device=x.device)
        return {"exp_avg": torch.zeros_like(x), "hessian_sq": torch.zeros_like(x), "estimates": count}

    @property
    def probes(self) -> int:
        """Random vectors per estimate."""
        return int(self.param_groups[0]["n_probes"])

    @staticmethod
    def absorb(stored: Mapping[str, Tensor], estimate: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """The second moment with an estimate of the diagonal, averaged in space, squared and averaged in time."""
        average = spatial_average(estimate.to(stored["hessian_sq"].dtype), settings["block_size"])
        moment = lerp(stored["hessian_sq"], average * average, 1 - settings["betas"][1])
        return {"hessian_sq": moment, "estimates": stored["estimates"] + 1}

    def check_ready(self, params: list[Tensor]) -> None:
        """Without any estimate the denominator is 0 / 0."""
        for p in params:
            state = self.state.get(p)
            # Once a step was taken there is an estimate, and no need to look at the device.
            if not state or (state["step"] == 0 and not state["estimates"] > 0):
                raise RuntimeError(
                    f"AdaHessian: no curvature was estimated for parameter {self.label(p)}; call "
                    "optimizer.backward(loss) in place of loss.backward(), or pass a closure that returns the loss"
                )

    @staticmethod
    def rule(
        x: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        hessian_sq: Tensor,
        estimates: Tensor,
        *,
        lr: float,
        beta1: float,
        eps: float,
        weight_decay: float,
        hessian_power: float,
        correction1: float,
        log_beta2: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exp_avg = lerp(exp_avg, g, 1 - beta1)
        corrected = hessian_sq / -torch.expm1(estimates * log_beta2)
        direction = exp_avg / correction1 / (corrected ** (hessian_power / 2) + eps)
        return x - lr * (direction + weight_decay * x), exp_avg, hessian_sq, estimates

    @staticmethod
    def coefficients(step: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """The first moment's bias correction; the second's, ``1 - beta2^n``, counts estimates, not steps."""
        beta2 = settings["beta2"]
        return {
            "correction1": 1 - settings["beta1"] ** step,
            "log_beta2": math.log(beta2) if beta2 > 0 else -math.inf,
        }


def spatial_average(estimate: Tensor, block_size: int) -> Tensor:
    """Means over the window of a convolution kernel (all but its first two dimensions), or over blocks of a row.

    Args:
        estimate: of a parameter's shape.
        block_size: consecutive elements in a row of a matrix that share their mean.
    """
    if estimate.dim() > 2:
        window = tuple(range(2, estimate.dim()))
        return estimate.mean(window, keepdim=True).expand_as(estimate)
    if estimate.dim() < 2 or block_size == 1 or estimate.numel() == 0:
        return estimate
    parts = estimate.split(block_size, dim=1)
    return torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in parts], 1)


CARD = MethodCard(
    name="adahessian",
    title="AdaHessian",
    room="optim",
    family="curvature",
    summary="Adam with a Hutchinson estimate of the Hessian diagonal in the denominator.",
    target="steepest.optim.adahessian:AdaHessian",
    papers=(
        Paper(
            "Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney",
            2020,
            "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning",
            arxiv="2006.00719",
        ),
    ),
    needs=frozenset({"gradient", "hvp"}),
    buffers=2,
    search={"lr": Float(1e-3, 1.0, log=True), "weight_decay": Float(1e-5, 1e-1, log=True)},
    claim="Generalizes as well as the best of SGD and AdamW and better than Adam, whatever the learning rate's scale.",
)
