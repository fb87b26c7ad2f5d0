"""Sweeps over widths and learning rates: does the best learning rate of a narrow network hold for a wide one?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steepest.core.ranges import STEP_SIZE, Flag

from .coordinate_check import check_widths, parametrized
from .widths import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Transfer", "transfer"]


@dataclass(frozen=True)
class Transfer:
    """What a sweep found.

    Args:
        widths: ascending.
        lrs: ascending.
        losses: ``losses[width][lr][seed]``, infinite where a run diverged.
    """

    widths: Sequence[int]
    lrs: Sequence[float]
    losses: Sequence[Sequence[Sequence[float]]]

    def means(self) -> list[list[float]]:
        """The mean loss over seeds, ``[width][lr]``."""
        return [[sum(runs) / len(runs) for runs in row] for row in self.losses]

    def places(self) -> list[int]:
        """For every width, the place in the grid of the learning rate with the least mean loss."""
        return [min(range(len(self.lrs)), key=row.__getitem__) for row in self.means()]

    @property
    def best(self) -> dict[int, float]:
        """Width -> the learning rate with the least mean loss."""
        return {width: self.lrs[place] for width, place in zip(self.widths, self.places(), strict=True)}

    @property
    def drift(self) -> int:
        """By how many steps of the grid the best learning rates differ at most."""
        return max(self.places()) - min(self.places())

    def __str__(self) -> str:
        lines = [f"{'lr':>10}" + "".join(f"{w:>11}" for w in self.widths)]
        places = self.places()
        for k, lr in enumerate(self.lrs):
            cells = (f"{row[k]:.4g}{'*' if k == p else ' '}" for row, p in zip(self.means(), places, strict=True))
            lines.append(f"{lr:>10.3g}" + "".join(f"{cell:>11}" for cell in cells))
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """The loss over the learning rate, a curve per width; needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        for width, row in zip(self.widths, self.means(), strict=True):
            axes.plot(self.lrs, [v if math.isfinite(v) else math.nan for v in row], marker="o", label=f"width {width}")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("learning rate at the base width")
        axes.set_ylabel("loss")
        axes.legend()
        return figure


def transfer(
    make_model: Callable[[int], nn.Module],
    widths: Sequence[int],
    lrs: Sequence[float],
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    fit: Callable[[nn.Module, torch.optim.Optimizer, int], float],
    *,
    kind: Kind = "adam",
    seeds: Sequence[int] = (0,),
    standard: bool = False,
    say: Callable[[str], None] | None = None,
) -> Transfer:
    """Train at every width with every learning rate.

    Args:
        make_model: from a width to a new model; its initial values follow torch's global generator.
        widths: ascending, at least two; the first is the base.
        lrs: learning rates at the base width, ascending, at least two.
        optimizer: from parameter groups to an optimizer: a class, or a function that adds settings.
        fit: ``fit(model, optimizer, seed)`` trains and returns a loss (lower is better; not finite: diverged).
        kind: of optimizer, as for :meth:`~steepest.train.parametrize.mup.MaximalUpdate.groups`.
        seeds: of the models, and for ``fit``.
        standard: the standard parametrization in place of muP.
        say: is told what is being done.

    Raises:
        ValueError, TypeError: a bad argument.

    Source: Yang, Hu et al. (2022), Tensor Programs V, arXiv 2203.03466.
    """
    check_widths("transfer", widths)
    for index, lr in enumerate(lrs):
        STEP_SIZE.check(f"transfer: lrs[{index}]", lr)
    if len(lrs) < 2 or list(lrs) != sorted(set(lrs)):
        raise ValueError(f"transfer: lrs must be at least two, ascending, got {list(lrs)}")
    Flag().check("transfer: standard", standard)
    losses = []
    for width in widths:
        row = []
        for lr in lrs:
            if say is not None:
                say(f"width {width}, learning rate {lr:.3g}")
            runs = []
            for seed in seeds:
                made = parametrized(make_model, width, widths, seed, standard=standard)
                loss = float(fit(made.model, optimizer(made.groups(kind, lr)), seed))
                runs.append(loss if math.isfinite(loss) else math.inf)
            row.append(runs)
        losses.append(row)
    return Transfer(list(widths), list(lrs), losses)
