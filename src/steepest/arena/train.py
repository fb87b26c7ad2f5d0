"""One training run: the same schedule, batches and evaluations for every method.

Budget
    In steps, one step is one gradient evaluation on a mini-batch: a closure method that evaluates the gradient twenty
    times in one ``step`` call uses twenty of them (and may overshoot the budget by the last call); a Hessian-vector
    product, or a gradient on sampled targets, counts as one more. A method that takes the mini-batch itself says how
    many gradients its step took: one for every output of which it makes the Jacobian. In seconds, the clock counts
    training alone: evaluations stop it, and what a first step costs a process (imports, compilation) is not on it.
Schedule
    The learning rate of every parameter group is its own value times a factor: linear warm-up over the first 5 % of the
    budget, then a cosine down to 0 at its end. Where a method sets its own step size, ``lr`` is a factor on the step,
    so the schedule shortens what the method has chosen.
Randomness
    The seed fixes the initial parameters, the mini-batches (a generator of their own) and torch's global state, alike
    for every method: runs of two methods with the same seed are paired.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from steepest.core.card import MethodCard
from steepest.core.curvature import twice_differentiable
from steepest.core.memory import state_bytes

from .measure import PeakMemory
from .results import CurvePoint, Status
from .task import Batch, Examples, Task

__all__ = ["WARMUP", "Outcome", "evaluate", "factor", "train"]

#: The part of the budget over which the learning rate rises.
WARMUP = 0.05
#: A run whose mean training loss between two evaluations exceeds its first loss by this factor has diverged.
BLOWN_UP = 100.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Status
    reason: str | None
    steps: int
    seconds: float
    curve: tuple[CurvePoint, ...] = ()
    metric: float | None = None  # validation, at the end; None unless complete
    loss: float | None = None
    test_metric: float | None = None
    test_loss: float | None = None
    peak_memory_bytes: int | None = None
    state_bytes_per_parameter: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the pruner wants to remember


#: Task, method and device that this process has run before.
_WARM: set[tuple[str, str, str]] = set()


class _Stop(Exception):
    """Ends a run early."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status


def factor(begin: float, end: float) -> float:
    """The schedule's factor for a step that covers the fractions ``begin`` to ``end`` of the budget."""
    if end <= WARMUP:
        return end / WARMUP
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, (begin - WARMUP) / (1.0 - WARMUP)))))


def evaluate(task: Task, model: nn.Module, split: Examples) -> tuple[float, float]:
    """Metric and loss of a model on a split, averaged over its rows."""
    training = model.training
    model.eval()
    rows = len(split.targets)
    metric = loss = 0.0
    with torch.no_grad():
        for start in range(0, rows, task.eval_batch_size):
            inputs, targets = (t[start : start + task.eval_batch_size] for t in split)
            outputs = model(inputs)
            value = float(task.loss(outputs, targets))
            loss += value * len(targets) / rows
            metric += (value if task.metric is None else float(task.metric(outputs, targets))) * len(targets) / rows
    model.train(training)
    return metric, loss


def _batches(task: Task, train: Examples, generator: torch.Generator) -> Iterator[Batch]:
    if task.draw is not None:
        while True:
            yield task.draw(train, task.batch_size, generator)
    rows = len(train.targets)
    size = min(task.batch_size, rows)
    while True:
        order = torch.randperm(rows, generator=generator).to(train.targets.device)
        for start in range(0, rows - size + 1, size):  # a short last batch would be a noisier step
            index = order[start : start + size]
            yield train.inputs[index], train.targets[index]


class _Clock:
    """Training time alone; waits for the device before it is read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total = 0.0
        self.since: float | None = None

    def start(self) -> None:
        self.since = time.perf_counter()

    def stop(self) -> None:
        self.total = self.read()
        self.since = None

    def read(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.total + (0.0 if self.since is None else time.perf_counter() - self.since)


def train(
    task: Task,
    card: MethodCard,
    settings: Mapping[str, Any],
    *,
    seed: int,
    steps: int | None = None,
    seconds: float | None = None,
    device: str = "cpu",
    test: bool = False,
    watch: Callable[[int, CurvePoint], str | None] | None = None,
) -> Outcome:
    """Train a fresh model with one method and one setting of it.

    Args:
        task, card, settings, seed: what to run.
        steps, seconds: the budget; one of them.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        test: whether to score the final model on the test split, and measure memory.
        watch: called after each evaluation with its number (1, 2, ...) and the point; a returned text prunes the run.

    Returns:
        The outcome; exceptions of the method or the model are outcomes too (``"failed"``), except for
        ``KeyboardInterrupt`` and its like.
    """
    if (steps is None) == (seconds is None):
        raise ValueError(f"a budget of either steps or seconds is needed, got steps={steps!r}, seconds={seconds!r}")
    run = _Run(task, card, dict(settings), seed, steps, seconds, torch.device(device), test, watch)
    cuda = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return run()


class _Run:
    def __init__(
        self,
        task: Task,
        card: MethodCard,
        settings: dict[str, Any],
        seed: int,
        steps: int | None,
        seconds: float | None,
        device: torch.device,
        test: bool,
        watch: Callable[[int, CurvePoint], str | None] | None,
    ) -> None:
        self.task, self.card, self.settings, self.seed = task, card, settings, seed
        self.limit_steps, self.limit_seconds = steps, seconds
        self.device, self.test, self.watch = device, test, watch
        self.clock = _Clock(device)
        self.steps = 0
        self.curve: list[CurvePoint] = []
        self.extra: dict[str, Any] = {}

    def __call__(self) -> Outcome:
        try:
            return self._train()
        except _Stop as stop:
            return self._ended(stop.status, str(stop))
        except Exception as error:
            text = str(error).strip().splitlines()
            return self._ended("failed", f"{type(error).__name__}: {text[0] if text else 'no message'}"[:300])

    def _ended(self, status: Status, reason: str) -> Outcome:
        return Outcome(status, reason, self.steps, self.clock.read(), tuple(self.curve))

    def _train(self) -> Outcome:
        task, device = self.task, self.device
        splits = [Examples(*(t.to(device) for t in split)) for split in task.splits()]
        training, validation, held_out = splits
        self._warm_up(training)
        memory = PeakMemory(device) if self.test else None
        torch.manual_seed(self.seed)
        model = task.build(self.seed).to(device).train()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)  # a method may freeze some later
        optimizer = self._build(model)
        groups = optimizer.param_groups
        rates = [float(group["lr"]) if "lr" in group else None for group in groups]
        batches = _batches(task, training, torch.Generator().manual_seed(self.seed))
        check_every = 1 if device.type == "cpu" else 10

        start = evaluate(task, model, validation)
        self.curve.append(CurvePoint(0, 0.0, None, _number(start[0])))
        total = torch.zeros((), device=device)
        since = 0
        first: float | None = None
        done = 0
        begin = 0.0
        width = 1.0 / self.limit_steps if self.limit_steps else 1e-3
        inputs, targets = next(batches)

        def closure() -> Tensor:
            nonlocal total, since
            self.steps += self._estimate(model, optimizer, inputs)
            optimizer.zero_grad()
            loss, cost = self._differentiate(model, optimizer, inputs, targets)
            total = total + loss.detach()
            self.steps += cost
            since += 1
            return loss

        self.clock.start()
        calls = 0
        while True:
            scale = factor(begin, begin + width)
            for group, rate in zip(groups, rates, strict=True):
                if rate is not None:
                    current = group["lr"]
                    if isinstance(current, Tensor):
                        current.fill_(rate * scale)
                    else:
                        group["lr"] = rate * scale
            if "batch" in self.card.needs:
                total = total + optimizer.step_on(inputs, targets).detach()
                self.steps += optimizer.gradient_evaluations
                since += 1
            elif "closure" in self.card.needs:
                products = getattr(optimizer, "hessian_products", 0)
                optimizer.step(closure)
                self.steps += getattr(optimizer, "hessian_products", 0) - products
            else:
                closure()
                optimizer.step()
            calls += 1
            if calls % check_every == 0 or calls == 1:
                summed = float(total)
                if not math.isfinite(summed):
                    raise _Stop("diverged", f"the training loss is {summed} at step {self.steps}")
                if first is None:
                    first = summed / since
                    self.curve[0] = CurvePoint(0, 0.0, first, self.curve[0].validation_metric)
            begin, width = self._progress(begin, calls, check_every)
            if begin * task.evaluations >= done + 1 - 1e-9:
                done = min(task.evaluations, int(begin * task.evaluations + 1e-9))
                self.clock.stop()
                point, loss = self._evaluate(model, validation, float(total) / max(since, 1), first)
                total, since = torch.zeros((), device=device), 0
                if begin >= 1.0 - 1e-9:
                    break
                why = self.watch(done, point) if self.watch is not None else None
                if why is not None:
                    raise _Stop("pruned", why)
                self.clock.start()
            inputs, targets = next(batches)

        outcome = {"metric": self.curve[-1].validation_metric, "loss": loss}
        if self.test:
            outcome["test_metric"], outcome["test_loss"] = (_number(v) for v in evaluate(task, model, held_out))
            if outcome["test_metric"] is None or outcome["test_loss"] is None:
                raise _Stop("diverged", "the final test loss is not finite")
            outcome["peak_memory_bytes"] = memory.peak() if memory is not None else None
            outcome["state_bytes_per_parameter"] = state_bytes(optimizer) / trained
        return Outcome("complete", None, self.steps, self.clock.total, tuple(self.curve), **outcome)

    def _build(self, model: nn.Module) -> Any:
        """The optimizer; one that takes the batch is given the task's loss, since it evaluates the model itself."""
        own = {"loss": self.task.loss} if "batch" in self.card.needs else {}
        return self.card.build(model, **{**own, **self.settings})

    def _estimate(self, model: nn.Module, optimizer: Any, inputs: Tensor) -> int:
        """An estimate of curvature from sampled targets, where the method wants one; the gradients it took."""
        if "sampled targets" not in self.card.needs or not optimizer.wants_estimate:
            return 0
        if self.task.sample is None:
            raise ValueError(f"{self.card.title} needs targets drawn from the model; the task has no sample()")
        outputs = model(inputs)
        with torch.no_grad():
            drawn = self.task.sample(outputs)
        optimizer.estimate(self.task.loss(outputs, drawn), samples=drawn.numel())
        return 1

    def _differentiate(self, model: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """The loss of a mini-batch, with its gradients in place, and the gradient evaluations that it took.

        A Hessian-vector product counts as one more. Where a closure is wanted by a method that differentiates the loss
        itself, the gradients are left to it; each call counts as one evaluation.
        """
        if not self.card.differentiates:
            loss = self.task.loss(model(inputs), targets)
            loss.backward()
            return loss, 1
        if "closure" in self.card.needs:
            with twice_differentiable():
                return self.task.loss(model(inputs), targets), 1
        with twice_differentiable():
            loss = self.task.loss(model(inputs), targets)
        products = optimizer.hessian_products
        optimizer.backward(loss)
        return loss, 1 + optimizer.hessian_products - products

    def _warm_up(self, training: Examples) -> None:
        """One step of a throwaway model, the first time that this process meets the method on this task.

        Imports, compilation and caches that a first step brings are paid once per process, not once per run: on the
        clock they would fall on whichever run came first.
        """
        key = (self.task.name, self.card.name, str(self.device))
        if key in _WARM:
            return
        model = self.task.build(self.seed).to(self.device).train()
        optimizer = self._build(model)
        inputs, targets = next(_batches(self.task, training, torch.Generator().manual_seed(self.seed)))

        def closure() -> Tensor:
            self._estimate(model, optimizer, inputs)
            optimizer.zero_grad()
            return self._differentiate(model, optimizer, inputs, targets)[0]

        if "batch" in self.card.needs:
            optimizer.step_on(inputs, targets)
        elif "closure" in self.card.needs:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        evaluate(self.task, model, Examples(inputs, targets))
        _WARM.add(key)

    def _progress(self, begin: float, calls: int, check_every: int) -> tuple[float, float]:
        """The used fraction of the budget, and that which the next step will take."""
        if self.limit_steps is not None:
            return min(1.0, self.steps / self.limit_steps), 1.0 / self.limit_steps
        assert self.limit_seconds is not None
        if calls % check_every:  # on a device that runs ahead, reading the clock means waiting
            return begin, 0.0
        elapsed = self.clock.read()
        return min(1.0, elapsed / self.limit_seconds), elapsed / calls / self.limit_seconds

    def _evaluate(
        self, model: nn.Module, validation: Examples, train_loss: float, first: float | None
    ) -> tuple[CurvePoint, float]:
        metric, loss = evaluate(self.task, model, validation)
        point = CurvePoint(self.steps, self.clock.total, _number(train_loss), _number(metric))
        self.curve.append(point)
        if not (math.isfinite(train_loss) and math.isfinite(loss) and math.isfinite(metric)):
            raise _Stop("diverged", f"a loss is not finite at step {self.steps}")
        if first is not None and first > 0 and train_loss > BLOWN_UP * first:
            raise _Stop(
                "diverged",
                f"the training loss {train_loss:.3g} at step {self.steps} is over {BLOWN_UP:g} times the first",
            )
        return point, loss


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
