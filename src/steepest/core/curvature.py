r"""Optimizers that average estimates of curvature: Hessian-vector products, diagonals, and the way to feed them.

The estimates come from a second differentiation, through ``torch.autograd.grad``; nothing here calls
``backward(create_graph=True)``, whose cycles between gradients and graph leak memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from .optimizer import RuleOptimizer
from .random import normal, signs
from .sharding import average_over_processes

__all__ = ["CurvatureOptimizer", "check_loss", "derivatives", "hutchinson", "hvp", "twice_differentiable"]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention in a form that can be differentiated twice, which the fused kernels cannot.

    Put the forward pass into it when a method needs Hessian-vector products.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def check_loss(owner: str, loss: Any) -> None:
    """Refuse what is no tensor with one element and a graph."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(f"{owner}: the loss must be a tensor with one element, got {loss!r:.80}")
    if not loss.requires_grad:
        raise RuntimeError(
            f"{owner}: the loss has no graph to differentiate; a closure must return the loss without calling backward"
        )


def derivatives(owner: str, loss: Any, params: Sequence[Tensor], create_graph: bool = False) -> list[Tensor | None]:
    """The gradients of a loss by a method that differentiates it itself.

    Args:
        owner: the class name that messages begin with.
        loss: a tensor with one element and its graph.
        params: what to differentiate by.
        create_graph: whether the gradients will be differentiated again.

    Returns:
        One gradient per parameter; ``None`` for parameters that the loss does not depend on.

    Raises:
        TypeError: the loss is no tensor with one element.
        RuntimeError: it has no graph, or backward has used the graph up.
    """
    check_loss(owner, loss)
    try:
        return list(torch.autograd.grad(loss, params, create_graph=create_graph, allow_unused=True))
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise RuntimeError(
            f"{owner} differentiates the loss itself; return it from the closure, or pass it to "
            "backward, without calling loss.backward() before"
        ) from error


def hvp(gradients: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Products of the Hessian with a vector, by differentiating ``<gradients, vectors>``; keeps the graph.

    Args:
        gradients: of the loss with respect to ``params``, made with ``create_graph=True``.
        params: what to differentiate by.
        vectors: one of the shape of each parameter.

    Returns:
        One tensor per parameter; zero where the gradient does not depend on it.
    """
    depending = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g.requires_grad]
    if not depending:
        return [torch.zeros_like(p) for p in params]
    products = torch.autograd.grad(
        [g for g, _ in depending],
        list(params),
        grad_outputs=[v for _, v in depending],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return [h.detach() for h in products]


def hutchinson(gradients: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    r"""Hutchinson's estimate :math:`z \odot Hz` of the diagonal of the Hessian, unbiased for probes with unit variance.

    For Rademacher probes its second moment is :math:`\sum_j H_{ij}^2`: the squared norm of a row, which is the square
    of the diagonal only where the Hessian is diagonal.
    """
    return [v * h for v, h in zip(vectors, hvp(gradients, params, vectors), strict=True)]


class CurvatureOptimizer(RuleOptimizer):
    """A rule optimizer with a state tensor that averages estimates of curvature.

    Train with ``optimizer.backward(loss)`` in place of ``loss.backward()``: it puts the gradients into ``.grad`` and,
    where an estimate is due (:attr:`wants_estimate`), makes one of the same loss. ``step(closure)`` wants a closure
    that returns the loss and does *not* call backward. Estimates of one's own go in through :meth:`observe`.

    With several processes (``torch.distributed``), gradients and estimates of :meth:`backward` are averaged over them;
    do not wrap the model in DDP, whose hooks these derivatives do not pass.
    """

    #: Whether it differentiates the loss that a closure returns.
    differentiates: bool = True
    #: Random vectors of the Hutchinson estimate.
    gaussian: ClassVar[bool] = False
    #: Products of the Hessian with a vector that :meth:`backward` has taken so far.
    hessian_products: int = 0

    @property
    def every(self) -> int:
        """Steps between two estimates."""
        return 1

    @property
    def probes(self) -> int:
        """Random vectors per estimate."""
        return 1

    @property
    def steps_taken(self) -> int:
        """The largest step count of any parameter."""
        return max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)

    @property
    def wants_estimate(self) -> bool:
        """Whether an estimate is due before the next step; the first step wants one."""
        return self.steps_taken % self.every == 0

    @staticmethod
    def absorb(stored: Mapping[str, Tensor], estimate: Tensor, settings: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The state tensors that an estimate changes, from the state, the estimate and the group's settings.

        ``settings["step"]`` is the number of steps that the parameter has taken.
        """
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to ``.grad`` as ``loss.backward()`` does, and estimate curvature if it is due.

        Args:
            loss: a 0-dim tensor with its graph; where attention is involved, computed within
                :func:`twice_differentiable`.
        """
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        due = self.wants_estimate
        found = derivatives(type(self).__name__, loss, params, create_graph=due)
        used = [(p, g) for p, g in zip(params, found, strict=True) if g is not None]
        if due:
            gradients, own = [g for _, g in used], [p for p, _ in used]
            total: list[Tensor] | None = None
            for number in range(self.probes):
                vectors = self._probe_vectors(own, number)
                one = hutchinson(gradients, own, vectors)
                total = one if total is None else [a + b for a, b in zip(total, one, strict=True)]
            self.hessian_products += self.probes
            estimates = dict(zip(own, average_over_processes(total or []), strict=True))
            self.observe([estimates[p] / self.probes if p in estimates else None for p in self._all()])
        averaged = average_over_processes([g.detach() for _, g in used])
        for (p, _), g in zip(used, averaged, strict=True):
            p.grad = g if p.grad is None else p.grad + g

    def _probe_vectors(self, params: Sequence[Tensor], number: int) -> list[Tensor]:
        draw = normal if self.gaussian else signs
        keys = (self.param_groups[0].get("seed", 0), self.steps_taken, number)
        return [draw(p.detach(), *keys, index) for index, p in enumerate(params)]

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def observe(self, estimates: Sequence[Tensor | None]) -> None:
        """Take an estimate of curvature into the average.

        It is that of the loss; where a group is maximized, its sign is changed as the gradient's is.

        Args:
            estimates: one tensor for every parameter, in the order of the groups, of its shape; None for parameters
                that have none. A non-finite estimate is left out whole if ``nonfinite="skip"``.

        Raises:
            ValueError: their number or a shape is wrong.
            FloatingPointError: one is not finite, and ``nonfinite="raise"``.
        """
        params = self._all()
        me = type(self).__name__
        if len(estimates) != len(params):
            raise ValueError(f"{me}: there are {len(params)} parameters, got {len(estimates)} estimates")
        given = [e for e in estimates if e is not None]
        for p, e in zip(params, estimates, strict=True):
            if e is not None and e.shape != p.shape:
                raise ValueError(
                    f"{me}: the estimate for parameter {self.label(p)} has shape {tuple(e.shape)}, "
                    f"expected {tuple(p.shape)}"
                )
        if self.nonfinite != "propagate" and not all(bool(torch.isfinite(e).all()) for e in given):
            if self.nonfinite == "raise":
                raise FloatingPointError(f"{me}: an estimate of curvature is not finite; nothing was changed")
            return
        places = [(group, p) for group in self.param_groups for p in group["params"]]
        for (group, p), e in zip(places, estimates, strict=True):
            if e is None:
                continue
            rule = self.rule_named(group["rule"])
            state = self.state[p]
            if not state:
                state.update(self.store.begin(rule, p, group))
            item = self.store.lend(p, state, group, "eager", gradient=e)
            names = self.store.names(state)
            settings = {**group, "step": state["step"]}
            changed = self.absorb(dict(zip(names, item.state, strict=True)), item.g, settings)
            for name, t in zip(names, item.state, strict=True):
                if name in changed:
                    t.copy_(changed[name])
            self.store.keep_state(rule, p, state, item, "eager")

    def advance(self, closure: Any = None, loss: Any = None) -> Any:
        """Take one step with the gradients in ``.grad``.

        Args:
            closure: returns the loss with its graph, without calling backward; gradients are cleared before.
            loss: the value of the loss where there is no closure.
        """
        if closure is None:
            return super().advance(None, loss)
        self.zero_grad()
        with torch.enable_grad():
            found = closure()
            self.backward(found)
        super().advance(None, found.detach())
        return found.detach()

    @classmethod
    def functional(cls, **settings: Any) -> Any:
        """Not offered: the curvature comes from outside the rule.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{cls.__name__} has no functional form: its curvature comes from outside the rule")
