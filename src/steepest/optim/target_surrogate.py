"""Target-based surrogates: several steps of the model for every expensive gradient in its outputs."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ..core.card import Choice, Float, MethodCard, Paper
from ..core.linesearch import armijo
from ..core.operators import Loss, trainable
from ..core.output_loss import LossName, output_loss
from ..core.ranges import Flag, Integer, OneOf, Real
from ..core.transform import Transform
from ..core.twopoint import RandomState, buffers_put_back

__all__ = ["CARD", "TargetSurrogate", "target_surrogate_sgd"]


class TargetSurrogate(Transform):
    r"""Takes many steps on a surrogate of the loss in the space of the outputs, per call of its gradient there.

    For a model :math:`z = f(x)` on a batch of :math:`n` samples and a loss :math:`\ell(z)` whose gradient is expensive
    (a simulator, an adversary, a person), step :math:`t` asks for it once and then minimizes

    .. math::
        q_t = \nabla_z \ell(z_t), \qquad
        S_t(x) = \langle q_t, f(x) - z_t \rangle + \frac{1}{2 \eta_t n} \|f(x) - z_t\|^2, \qquad
        \eta_t = \eta\, t^{-p}

    by ``inner_steps`` steps of the base from where it stands. One step of gradient descent is one of SGD on
    :math:`\ell`; an exact minimization projects a gradient step in the outputs on what the model can output. If the
    loss of every sample is :math:`L`-smooth in its outputs and :math:`\eta \le 1 / L` (1 for half the squared error, 4
    for the logistic loss, 2 for the cross-entropy), then :math:`\ell(z_t) + S_t` bounds the loss of the batch from
    above, and what lowers the one lowers the other. On mini-batches :math:`\eta` must decay for the limit to be a
    minimum, unless the model can fit all samples.

    Use::

        optimizer = TargetSurrogate(torch.optim.SGD(model.parameters(), lr=0.1), inner_steps=10)
        loss = optimizer.step(lambda: model(inputs), oracle)

    The first function evaluates the model and is called up to once per inner step (in a line search, per trial); the
    second gets the outputs, detached, and returns the gradient of the loss in them, or the loss and it; it is called
    once. The random state is put back before every evaluation of the model, so that dropout draws the same masks and
    :math:`S_t(x_t) = 0`, and buffers (the statistics of batch norms) change once per step. ``.grad`` is left as it was.

    Args:
        base: the inner optimizer; one that takes a closure may evaluate it as often as it likes.
        step_size: :math:`\eta > 0`, in units of one sample.
        inner_steps: :math:`m \ge 1`.
        decay: :math:`p \ge 0`.
        line_search: take steps of gradient descent with backtracking in place of the base's, whose learning rate
            (of its first group) is the first trial of every outer step. Later ones begin at 1.8 times the one before,
            shrink by 0.9 and want half of the decrease that the slope promises. It sees the surrogate, never the loss.
        reduction: whether the loss is a ``"mean"`` over the samples or a ``"sum"``; :math:`n = 1` for the latter.

    Raises:
        ValueError, TypeError: a setting is out of its range, ``base`` is no optimizer, or what the oracle returns has
            another shape than the outputs.

    The authors' code takes the inverse of :math:`\eta`, leaves out the 1/2, and averages once more over all outputs:
    its ``1 / eta`` is :math:`1 / (2 \eta)` here where the mean is over samples with one output.

    Source: Lavington, Vaswani, Babanezhad, Schmidt, Le Roux (2023), Target-based Surrogates for Stochastic
    Optimization, arXiv 2302.02607.
    """

    ranges = {
        "step_size": Real(low=0.0, low_open=True),
        "inner_steps": Integer(low=1),
        "decay": Real(low=0.0),
        "line_search": Flag(),
        "reduction": OneOf(("mean", "sum")),
    }
    counts = ("oracle_calls",)
    step_size: float
    inner_steps: int
    decay: float
    line_search: bool
    reduction: str
    oracle_calls: int

    def __init__(
        self,
        base: Optimizer,
        step_size: float = 1.0,
        inner_steps: int = 10,
        decay: float = 0.0,
        line_search: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            base,
            step_size=step_size,
            inner_steps=inner_steps,
            decay=decay,
            line_search=line_search,
            reduction=reduction,
        )
        if self.blind:
            raise ValueError(
                f"{type(self).__name__}: base must not be {type(self.unwrapped).__name__}, which differentiates the "
                "loss itself; here the gradients are those of the surrogate"
            )
        #: Gradients of the model that the latest step took.
        self.gradient_evaluations = 0
        self._of_model: tuple[nn.Module, LossName | Loss] | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = {"gradient_evaluations": self.gradient_evaluations, "_of_model": self._of_model}
        return {**super().__getstate__(), **own}

    @torch.no_grad()
    def step(self, outputs: Callable[[], Tensor], oracle: Callable[[Tensor], Any]) -> Any:  # type: ignore[override]
        """Take one outer step.

        Args:
            outputs: evaluates the model on the batch.
            oracle: from the outputs (detached) to the gradient of the loss in them, or to the loss and the gradient.

        Returns:
            The loss, if the oracle gave it, else None.
        """
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        start, held = RandomState(params), [p.grad for p in params]
        with torch.enable_grad():
            first: Tensor | None = outputs()
        after = RandomState(params)
        assert first is not None
        here = first.detach()
        with torch.enable_grad():
            answer = oracle(here.clone())
        loss, slope = answer if isinstance(answer, tuple) else (None, answer)
        if not isinstance(slope, Tensor) or slope.shape != here.shape:
            shape = tuple(slope.shape) if isinstance(slope, Tensor) else type(slope).__name__
            raise ValueError(
                f"{type(self).__name__}: the oracle must return the gradient in the outputs, of their shape "
                f"{tuple(here.shape)}, got {shape}"
            )
        slope = slope.detach()
        self.oracle_calls += 1
        self.gradient_evaluations = 0
        eta = self.step_size * self.oracle_calls**-self.decay
        weight = 0.5 / (eta * (len(here) if self.reduction == "mean" else 1))

        def evaluate(differentiate: bool) -> Tensor:
            """The surrogate where the parameters stand, and its gradient into ``.grad``."""
            nonlocal first
            z, first = first, None
            # Where the step begins, the model has been evaluated. The backward pass reads buffers as they were.
            with buffers_put_back() if z is None else nullcontext(), torch.set_grad_enabled(differentiate):
                if z is None:
                    start.restore()
                    z = outputs()
                change = z - here
                value = (slope * change).sum() + weight * change.square().sum()
                if differentiate:
                    found = torch.autograd.grad(value, params, allow_unused=True)
                    for p, g in zip(params, found, strict=True):
                        p.grad = g
                    self.gradient_evaluations += 1
            return value.detach()

        try:
            if self.line_search:
                self._descend(params, evaluate)
            else:
                for _ in range(self.inner_steps):
                    self.base.step(lambda: evaluate(True))  # type: ignore[arg-type,return-value]
        finally:
            for p, grad in zip(params, held, strict=True):
                p.grad = grad
            after.restore()
        return loss

    def _descend(self, params: list[Tensor], evaluate: Callable[[bool], Tensor]) -> None:
        initial = float(self.param_groups[0]["lr"])
        for _ in range(self.inner_steps):
            value = float(evaluate(True))
            moved = [(p, p.detach().clone(), p.grad) for p in params if p.grad is not None]
            square = float(sum(g.square().sum() for _, _, g in moved if g is not None))
            if not square > 1e-12 or not initial:
                return

            def go(size: float, moved: Any = moved) -> float:
                for p, old, g in moved:
                    p.copy_(old - size * g)
                return float(evaluate(False))

            found = armijo(go, value, -square, initial=initial, decrease=0.5, shrink=0.9, max_trials=100)
            for p, old, g in moved:
                p.copy_(old - found.size * g)  # type: ignore[operator]
            if not found.size:
                return
            initial = 1.8 * found.size

    def step_on(self, inputs: Any, targets: Any) -> Tensor:
        """A step on a batch, of an optimizer that :func:`target_surrogate_sgd` has made."""
        if self._of_model is None:
            raise TypeError(f"{type(self).__name__}: step_on needs a model and a loss; call step(outputs, oracle)")
        model, loss = self._of_model
        found: Tensor = self.step(lambda: model(inputs), lambda z: _value_and_slope(loss, z, targets))
        return found


def _value_and_slope(loss: LossName | Loss, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The mean loss and its gradient in the outputs."""
    if callable(loss):
        z = outputs.requires_grad_()
        value = loss(z, targets)
        (slope,) = torch.autograd.grad(value, z)
        return value.detach(), slope
    named, flat = output_loss(loss), outputs.flatten(1)
    return named.value(flat, targets), -named.residual(flat, targets).view_as(outputs) / len(outputs)


def target_surrogate_sgd(
    model: nn.Module,
    loss: LossName | Loss = "cross-entropy",
    lr: float = 0.1,
    momentum: float = 0.0,
    step_size: float = 1.0,
    inner_steps: int = 10,
    decay: float = 0.0,
    line_search: bool = False,
) -> TargetSurrogate:
    """:class:`TargetSurrogate` over SGD, with ``step_on(inputs, targets)`` for losses that are no trouble to evaluate.

    Args:
        model: all its trainable parameters are trained.
        loss: ``"squared"``, ``"cross-entropy"``, ``"binary"``, or a function ``(outputs, targets) -> mean``.
        lr, momentum: of SGD on the surrogate.
        step_size, inner_steps, decay, line_search: see :class:`TargetSurrogate`.

    Source: Lavington, Vaswani, Babanezhad, Schmidt, Le Roux (2023), arXiv 2302.02607.
    """
    if not callable(loss):
        output_loss(loss)
    base = SGD(list(trainable(model).values()), lr=lr, momentum=momentum)
    made = TargetSurrogate(base, step_size, inner_steps, decay, line_search)
    made._of_model = (model, loss)
    return made


CARD = MethodCard(
    name="target-surrogate",
    title="Target-based surrogates",
    room="optim",
    family="transform",
    summary="Several steps of a base on a surrogate in the space of the outputs, per gradient of the loss in them.",
    target="steepest.optim.target_surrogate:target_surrogate_sgd",
    papers=(
        Paper(
            "Lavington, Vaswani, Babanezhad, Schmidt, Le Roux",
            2023,
            "Target-based Surrogates for Stochastic Optimization",
            arxiv="2302.02607",
        ),
    ),
    needs=frozenset({"batch"}),
    buffers=0,
    search={
        "lr": Float(1e-3, 1.0, log=True),
        "step_size": Float(1e-1, 1e2, log=True),
        "inner_steps": Choice((2, 5, 10)),
    },
    takes_model=True,
    claim="With 10 or more steps per gradient in the outputs, the loss after equally many such gradients is lower than "
    "with one.",
)
