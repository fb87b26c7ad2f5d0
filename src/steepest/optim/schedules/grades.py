"""GradES: weight matrices that stop training one by one, when their gradient is small."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.card import MethodCard, Paper
from ...core.ranges import Integer, OneOf, Range, Real, check_settings
from ...core.routing import Role, route
from ...core.rule import compute_dtype
from ...core.sharding import full

__all__ = ["CARD", "GradES"]

Signal = Literal["grad", "grad_change", "weight_change"]

#: That of the authors' code.
_THRESHOLD = 1e-4


class GradES:
    r"""Freezes each weight matrix for good once its training signal falls below a threshold.

    At every ``interval``-th step :math:`t`, for each matrix :math:`W` with gradient :math:`G_t`:

    .. math::
        s_t = \|G_t\|_{1,1}, \qquad
        t \ge \alpha T \ \text{ and } \ s_t < \tau \ \Rightarrow\ W \text{ is frozen}

    (:math:`\|\cdot\|_{1,1}`: the sum of magnitudes). A frozen matrix has ``requires_grad=False`` and no gradient: the
    backward pass leaves out its weight gradient but still goes through it to the layers below, and optimizers leave it
    alone, their weight decay and momentum included. When all are frozen the run is ``finished``.

    ```python
    stopping = GradES(model, total_steps=1000)
    for inputs, targets in batches:
        loss(model(inputs), targets).backward()
        optimizer.step()
        stopping.step()  # between the optimizer's step and zero_grad
        optimizer.zero_grad()
        if stopping.finished:  # before a backward pass without anything to differentiate
            break
    ```

    The sources give three signals. The paper's first version has the gradient, which is the default here; a later one
    its change :math:`\|G_t - G_{t-1}\|_{1,1}`; the authors' code the change of the weights
    :math:`\|W_t - W_{t-1}\|_{1,1}`, which a decaying learning rate alone brings to zero. Changes are from one check to
    the next, and the first check, which has none before it, freezes nothing (in the authors' code its change is zero).

    The sum grows with the size of the matrix, the gradient with that of the loss, so that no threshold fits two models;
    ``quantile`` sets one for each matrix from what was seen of it. ``patience`` guards against a single batch with a
    small gradient; neither is in the paper.

    ``torch.compile`` compiles anew whenever a matrix freezes. ``DistributedDataParallel`` needs
    ``find_unused_parameters=True`` and no static graph; processes decide alike, because they have the same gradients.

    Args:
        model: its matrices are those of :func:`steepest.core.routing.route`: hidden weight matrices and convolutions,
            without embeddings and the output layer. What is frozen already is left out.
        total_steps: :math:`T \ge 1`, the planned number of optimizer steps.
        threshold: :math:`\tau \ge 0`, or infinity. 0 never freezes. By default 1e-4, that of the authors' code, unless
            there is a quantile. Their thresholds for language models range from 1e-3 to 2.4.
        quantile: in [0, 1]: each matrix's threshold is this quantile of its own signals before :math:`\alpha T`.
        signal: ``"grad"``, ``"grad_change"`` or ``"weight_change"``.
        grace: :math:`\alpha \in [0, 1]`, the part of the run before which nothing is frozen; 0.3 in the authors' code.
        interval: steps from one check to the next, >= 1; a check waits for the device once.
        patience: checks in a row with the signal below the threshold before a matrix is frozen, >= 1.
        max_frozen: the part of the matrices, in (0, 1], that must be frozen for the run to be finished.
        routing: ``{pattern: role}`` over the choice of matrices, as for :func:`~steepest.core.routing.route`:
            ``{"blocks.0.*": "vector"}`` leaves the first block alone.

    Raises:
        ValueError, TypeError: a setting is out of its range, both ``threshold`` and ``quantile`` are given, a quantile
            without grace, or the model has no matrix that trains.

    Source: Wen, Zeng, Zhou, Liu, Hosseinzadeh, Su, Rawassizadeh (2025), GradES: Significantly Faster Training in
    Transformers with Gradient-Based Early Stopping, arXiv 2509.01842.
    """

    ranges: Mapping[str, Range] = {
        "total_steps": Integer(low=1),
        "threshold": Real(low=0.0, infinite=True, optional=True),
        "quantile": Real(low=0.0, high=1.0, optional=True),
        "signal": OneOf(("grad", "grad_change", "weight_change")),
        "grace": Real(low=0.0, high=1.0),
        "interval": Integer(low=1),
        "patience": Integer(low=1),
        "max_frozen": Real(low=0.0, high=1.0, low_open=True),
    }

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        threshold: float | None = None,
        *,
        quantile: float | None = None,
        signal: Signal = "grad",
        grace: float = 0.3,
        interval: int = 1,
        patience: int = 1,
        max_frozen: float = 1.0,
        routing: Mapping[str, Role] | None = None,
    ) -> None:
        check_settings("GradES", locals(), self.ranges)
        if threshold is not None and quantile is not None:
            raise ValueError(f"GradES: give threshold or quantile, got {threshold!r} and {quantile!r}")
        self.quantile, self.signal = quantile, signal
        self.interval, self.patience, self.max_frozen = interval, patience, max_frozen
        self.grace_steps = math.ceil(round(grace * total_steps, 6))  # 0.55 * 100 is 55 and a bit
        if quantile is not None and self.grace_steps <= interval:
            raise ValueError(
                f"GradES: a quantile needs checks before the end of the grace period, which is step "
                f"{self.grace_steps}; the first check is at step {interval}"
            )
        self._matrices = dict(route(model, routing).named("matrix"))
        if not self._matrices:
            raise ValueError("GradES: model must have a weight matrix that trains, it has none")
        self.steps = 0
        #: The step at which each frozen matrix was frozen, by its name.
        self.frozen: dict[str, int] = {}
        #: The threshold of each matrix; empty until a quantile is known.
        self.thresholds: dict[str, float] = {}
        if quantile is None:
            self.thresholds = dict.fromkeys(self._matrices, _THRESHOLD if threshold is None else float(threshold))
        self._seen: dict[str, list[float]] = {name: [] for name in self._matrices} if quantile is not None else {}
        self._below = dict.fromkeys(self._matrices, 0)
        self._previous: dict[str, Tensor] = {}

    @property
    def frozen_share(self) -> float:
        """The part of the matrices that is frozen."""
        return len(self.frozen) / len(self._matrices)

    @property
    def finished(self) -> bool:
        """Whether so many matrices are frozen that training should end."""
        return len(self.frozen) >= self.max_frozen * len(self._matrices)

    @torch.no_grad()
    def step(self) -> list[str]:
        """Looks at the gradients of a step; call it after the optimizer's step and before ``zero_grad``.

        Returns:
            The names of the matrices that were frozen now. Without a gradient, or with a NaN, none is.

        Raises:
            RuntimeError: no matrix that trains has a gradient.
        """
        self.steps += 1
        if self.steps % self.interval or len(self.frozen) == len(self._matrices):
            return []
        graced = self.steps < self.grace_steps
        last = self.signal != "grad" and self.steps + self.interval >= self.grace_steps
        if graced and not (self._seen or last):
            return []
        signals = self._measure()
        if graced:
            for name in self._seen.keys() & signals.keys():
                self._seen[name].append(signals[name])
            return []
        if not self.thresholds:
            assert self.quantile is not None
            for name, seen in self._seen.items():
                known = torch.tensor([value for value in seen if math.isfinite(value)], dtype=torch.float64)
                self.thresholds[name] = float(known.quantile(self.quantile)) if len(known) else 0.0
            self._seen = {}
        for name, value in signals.items():
            self._below[name] = self._below[name] + 1 if value < self.thresholds[name] else 0
        ready = [name for name in signals if self._below[name] >= self.patience]
        for name in ready:
            self._freeze(name, self.steps)
        return ready

    def _measure(self) -> dict[str, float]:
        """The signal of each matrix that trains and has a gradient, in one transfer from the device."""
        training = {name: p for name, p in self._matrices.items() if name not in self.frozen and p.grad is not None}
        if not training:
            raise RuntimeError(
                "GradES.step: no matrix that trains has a gradient; call it after backward and before zero_grad"
            )
        of: dict[str, Tensor] = {
            name: p.detach() if self.signal == "weight_change" or p.grad is None else p.grad.detach()
            for name, p in training.items()
        }
        if self.signal != "grad":
            changes = {name: now - self._previous[name] for name, now in of.items() if name in self._previous}
            self._previous.update({name: now.clone() for name, now in of.items()})
            of = changes
        if not of:
            return {}
        sums = [full(torch.linalg.vector_norm(t, 1, dtype=compute_dtype(t.dtype))) for t in of.values()]
        return dict(zip(of, torch.stack([s.to(sums[0]) for s in sums]).tolist(), strict=True))

    def _freeze(self, name: str, step: int) -> None:
        self.frozen[name] = step
        self._previous.pop(name, None)
        p = self._matrices[name]
        p.requires_grad_(False)
        p.grad = None  # a stale one would keep the optimizer going

    def release(self) -> None:
        """Makes what was frozen train again, after the run."""
        for name in self.frozen:
            self._matrices[name].requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; settings and the weights themselves are not in it."""
        return {
            "steps": self.steps,
            "frozen": dict(self.frozen),
            "thresholds": dict(self.thresholds),
            "seen": {name: list(values) for name, values in self._seen.items()},
            "below": dict(self._below),
            "previous": dict(self._previous),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a run, and freezes what was frozen in it.

        Raises:
            ValueError: the state is of other matrices.
        """
        if state["below"].keys() != self._matrices.keys():
            other = sorted(state["below"].keys() ^ self._matrices.keys())
            raise ValueError(f"GradES: the state must be of the same matrices; {other[0]!r} is in one of the two only")
        self.release()
        self.steps, self.frozen = state["steps"], {}
        self.thresholds, self._below = dict(state["thresholds"]), dict(state["below"])
        self._seen = {name: list(values) for name, values in state["seen"].items()}
        self._previous = {name: t.to(self._matrices[name].device) for name, t in state["previous"].items()}
        for name, step in state["frozen"].items():
            self._freeze(name, step)


CARD = MethodCard(
    name="grades",
    title="GradES",
    room="schedules",
    family="freezing",
    summary="Freezes each weight matrix for good once its gradient falls below a threshold, and ends the run when all "
    "are frozen.",
    target="steepest.optim.schedules.grades:GradES",
    papers=(
        Paper(
            "Wen, Zeng, Zhou, Liu, Hosseinzadeh, Su, Rawassizadeh",
            2025,
            "GradES: Significantly Faster Training in Transformers with Gradient-Based Early Stopping",
            "2509.01842",
        ),
    ),
    buffers=0,
    usage="steepest.optim.schedules.GradES(model, total_steps=total_steps)",
    claim="Transformers are fine-tuned 1.3 to 1.6 times faster, with 29 to 45 % fewer operations, at equal or better "
    "accuracy, when each matrix is frozen as soon as its gradient is small.",
)
