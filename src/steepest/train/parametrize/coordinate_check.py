"""Coordinate check: whether activations change by as much per step at every width."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.core.ranges import STEP_SIZE, Flag, Integer

from .mup import MaximalUpdate, mup
from .widths import Kind, parameter_shapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Coordinates", "check_widths", "coordinate_check", "parametrized"]


@dataclass(frozen=True)
class Coordinates:
    """What a coordinate check found.

    Args:
        rows: for every width, seed, step and layer: ``(width, seed, step, layer, size, change)`` with the mean absolute
            value of the layer's outputs, and of their difference from those before training.
    """

    rows: Sequence[tuple[int, int, int, str, float, float]]

    @property
    def layers(self) -> list[str]:
        """The layers in the order of the forward pass; ``"output"`` is the whole model."""
        return list(dict.fromkeys(row[3] for row in self.rows))

    def changes(self, layer: str, step: int | None = None) -> dict[int, float]:
        """Width -> the mean change of a layer after ``step`` steps (by default the last), over seeds."""
        last = max(row[2] for row in self.rows) if step is None else step
        found: dict[int, list[float]] = {}
        for width, _, at, name, _, change in self.rows:
            if name == layer and at == last:
                found.setdefault(width, []).append(change)
        return {width: sum(values) / len(values) for width, values in found.items()}

    def slopes(self, step: int | None = None) -> dict[str, float]:
        """Layer -> the least-squares slope of the logarithm of its change over that of the width.

        Zero is what muP aims at; ``nan`` where a layer does not change or diverges.
        """
        return {layer: _slope(self.changes(layer, step)) for layer in self.layers}

    def __str__(self) -> str:
        changes = {layer: self.changes(layer) for layer in self.layers}
        widths = list(next(iter(changes.values())))
        names = max(map(len, [*changes, "layer"]))
        lines = [f"{'layer':<{names}}" + "".join(f"{w:>11}" for w in widths) + "      slope"]
        for layer, slope in self.slopes().items():
            numbers = "".join(f"{changes[layer][w]:>11.3g}" for w in widths)
            lines.append(f"{layer:<{names}}{numbers}{slope:>+11.2f}")
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """The change of every layer over the width, a panel per step; needs matplotlib."""
        from matplotlib.figure import Figure

        steps = sorted({row[2] for row in self.rows})
        figure = Figure(figsize=(2.8 * len(steps), 3.2), layout="constrained")
        panels = figure.subplots(1, len(steps), sharey=True, squeeze=False)[0]
        for panel, step in zip(panels, steps, strict=True):
            for layer in self.layers:
                panel.plot(*zip(*self.changes(layer, step).items(), strict=True), marker="o", label=layer)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel("width")
            panel.set_title(f"after {step} step{'s' if step > 1 else ''}")
        panels[0].set_ylabel("mean |change of the outputs|")
        panels[-1].legend()
        return figure


def coordinate_check(
    make_model: Callable[[int], nn.Module],
    widths: Sequence[int],
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    inputs: Tensor,
    targets: Tensor,
    *,
    kind: Kind = "adam",
    lr: float = 1e-3,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    steps: int = 4,
    seeds: Sequence[int] = (0, 1, 2),
    standard: bool = False,
) -> Coordinates:
    """Take a few steps at several widths and measure how much the outputs of every layer change.

    The check of a parametrization: with a slope of zero over the width all layers learn, at any width; a positive slope
    ends in divergence, a negative one in a layer that stands still. Layers are the modules without children, looked at
    in evaluation mode on the very batch that is trained on.

    Args:
        make_model: from a width to a new model; its initial values follow torch's global generator.
        widths: ascending, at least two; the first is the base.
        optimizer: from parameter groups to an optimizer: a class, or a function that adds settings.
        inputs, targets: the batch; ``loss(model(inputs), targets)`` is what is trained.
        kind: of optimizer, as for :meth:`~steepest.train.parametrize.mup.MaximalUpdate.groups`.
        lr: learning rate at the base width.
        steps: how many, >= 1.
        seeds: of the models.
        standard: the standard parametrization in place of muP: initial values as they come, one learning rate.

    Raises:
        ValueError, TypeError: a bad argument.

    Source: Yang, Hu et al. (2022), Tensor Programs V, arXiv 2203.03466, appendix D.1.
    """
    check_widths("coordinate_check", widths)
    Integer(low=1).check("coordinate_check: steps", steps)
    STEP_SIZE.check("coordinate_check: lr", lr)
    Flag().check("coordinate_check: standard", standard)
    rows: list[tuple[int, int, int, str, float, float]] = []
    for width in widths:
        for seed in seeds:
            made = parametrized(make_model, width, widths, seed, standard=standard)
            model = made.model
            chosen = optimizer(made.groups(kind, lr))
            first = _outputs(model, inputs)
            for step in range(1, steps + 1):
                chosen.zero_grad()
                loss(model(inputs), targets).backward()
                chosen.step()
                for layer, now in _outputs(model, inputs).items():
                    change = float((now - first[layer]).abs().mean())
                    rows.append((width, seed, step, layer, float(now.abs().mean()), change))
    return Coordinates(rows)


def parametrized(
    make_model: Callable[[int], nn.Module], width: int, widths: Sequence[int], seed: int, *, standard: bool
) -> MaximalUpdate:
    """A new model of a seed, in muP with the least of the widths as base, or in the standard parametrization."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_model(width)
    if standard:  # a model that is its own base has factors of one everywhere
        return mup(model, parameter_shapes(model))
    return mup(model, make_model, widths=(widths[0], widths[-1]))


def check_widths(owner: str, widths: Sequence[int]) -> None:
    """Refuse what is no ascending sequence of at least two widths."""
    for index, width in enumerate(widths):
        Integer(low=1).check(f"{owner}: widths[{index}]", width)
    if len(widths) < 2 or list(widths) != sorted(set(widths)):
        raise ValueError(f"{owner}: widths must be at least two, ascending, got {list(widths)}")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which no statistics are counted and no random numbers drawn."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _outputs(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = output.detach().clone()  # an activation in place must not change it

        return keep

    leaves = {name: module for name, module in model.named_modules() if name and not any(module.children())}
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves.items()]
    try:
        with torch.no_grad(), _evaluation(model):
            output = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(output, Tensor) and "output" not in found:
        found["output"] = output.detach().clone()
    return found


def _slope(points: dict[int, float]) -> float:
    logs = [(math.log(w), math.log(v)) for w, v in points.items() if v > 0 and math.isfinite(v)]
    if len(logs) < len(points) or len(logs) < 2:
        return math.nan
    x, y = torch.tensor(logs, dtype=torch.float64).unbind(1)
    x = x - x.mean()
    return float((x @ y) / (x @ x))
