"""Watch a training run: gradient norms in every step; sharpness and gradient noise now and then; what they suggest."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.analyze.noise_scale import gradient_noise_scale
from steepest.analyze.sharpness_measures import sharpness
from steepest.analyze.spectral_density import Spectrum, spectrum
from steepest.core.card import MethodCard, Paper
from steepest.core.operators import trainable
from steepest.core.ranges import Integer, check_settings
from steepest.optim.schedules import GradientNorms, refine

__all__ = ["CARD", "RunExplanation", "RunWatch"]


@dataclass(frozen=True)
class RunExplanation:
    """What a run looked like from the inside.

    Attributes:
        norms: the norm of the mini-batch gradient in every step.
        rates: the learning rate of every step (of the first parameter group).
        looked_at: the steps at which the rest was measured; 0 is before the first.
        sharpness: the largest eigenvalue of the Hessian there.
        noise_scale: the batch size at which noise equals signal there; infinite where noise hides the gradient.
        batch_size: the batch size of the run, or None.
        before, after: the spectrum of the Hessian at the start and at the end.
        schedule: the learning rates that suit these gradient norms, with the peak of ``rates``.
    """

    norms: npt.NDArray[np.float64]
    rates: npt.NDArray[np.float64]
    looked_at: list[int]
    sharpness: list[float]
    noise_scale: list[float]
    batch_size: int | None
    before: Spectrum
    after: Spectrum
    schedule: npt.NDArray[np.float64]

    def __str__(self) -> str:
        """In a few sentences."""
        lines = [
            f"Sharpness: {self.sharpness[0]:.3g} at the start, {max(self.sharpness):.3g} at most, "
            f"{self.sharpness[-1]:.3g} at the end. Plain gradient descent is stable below a learning rate of "
            f"{2 / max(self.sharpness):.3g}."
            if max(self.sharpness) > 0
            else "Sharpness: the loss curves downwards everywhere.",
            f"Spectrum at the end: from {self.after.smallest:.3g} to {self.after.largest:.3g}; "
            f"{self.after.negative_share:.1%} of the eigenvalues are clearly negative.",
        ]
        last = self.noise_scale[-1]
        if not np.isfinite(last):
            lines.append("Gradient noise: at the end it hides the gradient of the whole; larger batches still pay.")
        else:
            compared = ""
            if self.batch_size is not None:
                pays = "larger ones still pay" if self.batch_size < last else "smaller ones would do"
                compared = f" The run's batches of {self.batch_size}: {pays}."
            lines.append(f"Gradient noise: at the end it equals the signal at a batch size of {last:.3g}.{compared}")
        peak = int(np.argmax(self.schedule))
        part = peak / max(1, len(self.schedule) - 1)
        half = int(np.argmax(self.schedule[peak:] < 0.5 * self.schedule[peak])) + peak
        lines.append(
            f"Schedule: the norms suggest the largest learning rate after {part:.0%} of the steps, and half of it "
            f"after {half / len(self.schedule):.0%} (linear decay: 0% and 50%). Tune the peak again for it."
        )
        return "\n".join(textwrap.fill(line, 80, subsequent_indent="  ") for line in lines)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw four panels; needs matplotlib.

        Args:
            path: where to save the picture.

        Returns:
            The figure.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 6.2), layout="constrained")
        (sharp, noise), (density, plan) = figure.subplots(2, 2)
        steps = np.arange(1, len(self.norms) + 1)
        sharp.plot(self.looked_at, self.sharpness, marker="o", ms=3, color="#3f51b5", label="largest eigenvalue")
        used = self.rates > 0
        sharp.plot(steps[used], 2 / self.rates[used], color="0.5", ls="--", lw=1, label="2 / learning rate")
        positive = [s for s in self.sharpness if s > 0]
        sharp.set(xlabel="step", ylabel="sharpness", title="Sharpness", yscale="log")
        if positive:
            sharp.set_ylim(min(positive) / 3, max(positive) * 10)
        noise.plot(self.looked_at, self.noise_scale, marker="o", ms=3, color="#e65100", label="noise equals signal")
        if self.batch_size is not None:
            noise.axhline(self.batch_size, color="0.5", ls="--", lw=1, label="batch size of the run")
        noise.set(xlabel="step", ylabel="samples", title="Gradient noise", yscale="log")
        self.before.plot(density)
        density.lines[0].set(color="0.6", label="at the start")
        bottom, top = density.get_ylim()
        self.after.plot(density)
        density.lines[-2].set(color="#3f51b5", label="at the end")
        density.set_ylim(min(bottom, density.get_ylim()[0]), max(top, density.get_ylim()[1]))
        density.set_title("Spectrum of the Hessian")
        plan.plot(steps, self.rates, color="0.5", ls="--", lw=1, label="learning rate of the run")
        plan.plot(steps, self.schedule, color="#2e7d32", label="refined")
        plan.set(xlabel="step", ylabel="learning rate", title="Schedule", ylim=(0, None))
        for axes in (sharp, noise, density, plan):
            axes.legend(frameon=False, fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


@dataclass
class RunWatch:
    """Looks at a model in training, and says afterwards what went on and what schedule suits it.

    Call :meth:`step` after ``backward()`` and before gradients are clipped and ``optimizer.step()``; at the end
    :meth:`finish`. The model is measured in evaluation mode and left as it was, and no random numbers of the run are
    used: the run is the same with and without. A look costs some tens of Hessian-vector products with all ``batches``.

    Args:
        model: in training.
        loss: ``loss(outputs, targets)``, a mean over samples.
        batches: fixed pairs ``(inputs, targets)`` of one size to measure on, at least two; some hundred samples do.
        optimizer: of the run.
        every: steps between two looks.
        order: of the gradient norm: 2 for SGD and its relatives, 1 for Adam and its relatives.
        batch_size: of the run; only drawn.
        max_products: of the search for the largest eigenvalue.
        lanczos_steps: of the spectra at both ends.

    Raises:
        ValueError: a setting is out of its range.

    Source: the parts are those of :func:`~steepest.analyze.sharpness_measures.sharpness`,
    :func:`~steepest.analyze.noise_scale.gradient_noise_scale`, :func:`~steepest.analyze.spectral_density.spectrum` and
    :class:`~steepest.optim.schedules.refined_schedule.RefinedSchedule`.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batches: Iterable[Any]
    optimizer: Optimizer
    every: int = 50
    order: int = 2
    batch_size: int | None = None
    max_products: int = 30
    lanczos_steps: int = 40
    _rates: list[float] = field(default_factory=list, repr=False)
    _looks: list[tuple[int, float, float]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        positive = Integer(low=1)
        given = {"every": self.every, "max_products": self.max_products, "lanczos_steps": self.lanczos_steps}
        check_settings("RunWatch", given, dict.fromkeys(given, positive))
        self.batches = list(self.batches)
        trainable(self.model)
        self._norms = GradientNorms(self.optimizer, self.order)
        self._before: Spectrum | None = None

    def step(self) -> None:
        """Record the gradients that are in place; at the start and every ``every`` steps look at more."""
        if not self._rates:
            self._before = self._spectrum()
        if len(self._rates) % self.every == 0:
            self._look()
        self._norms.record()
        self._rates.append(float(self.optimizer.param_groups[0]["lr"]))

    def finish(self) -> RunExplanation:
        """What was seen; looks once more.

        Raises:
            RuntimeError: there was no step.
        """
        if self._before is None:
            raise RuntimeError("RunWatch: no step was recorded; call step() after every backward()")
        if self._looks[-1][0] != len(self._rates):
            self._look()
        norms, rates = self._norms.values, np.array(self._rates)
        return RunExplanation(
            norms=norms,
            rates=rates,
            looked_at=[look[0] for look in self._looks],
            sharpness=[look[1] for look in self._looks],
            noise_scale=[look[2] for look in self._looks],
            batch_size=self.batch_size,
            before=self._before,
            after=self._spectrum(),
            schedule=refine(norms, order=self.order) * rates.max(),
        )

    def _spectrum(self) -> Spectrum:
        return spectrum(self.model, self.loss, self.batches, steps=self.lanczos_steps)

    def _look(self) -> None:
        top = sharpness(self.model, self.loss, self.batches, tolerance=1e-2, max_products=self.max_products)
        noise = gradient_noise_scale(self.model, self.loss, self.batches)
        self._looks.append((len(self._rates), top.largest, noise.batch_size))


CARD = MethodCard(
    name="run-watch",
    title="Run watch",
    room="analyze",
    family="runs",
    summary="Explains a training run: sharpness, gradient noise, spectrum, and the schedule they suggest.",
    target="steepest.analyze.run_watch:RunWatch",
    papers=(
        Paper(
            "Defazio, Cutkosky, Mehta, Mishchenko",
            2023,
            "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
            arxiv="2310.07831",
        ),
    ),
    needs=frozenset({"gradient", "hvp"}),
    usage="steepest.analyze.RunWatch(model, loss, batches, optimizer)",
)
