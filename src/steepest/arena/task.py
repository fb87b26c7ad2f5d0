"""A task: what is trained, on which data, and how the result is scored.

Built-in tasks live in :mod:`steepest.arena.tasks`. A user's own is a function that returns a :class:`Task`, named on
the command line as ``path/to/task.py:make_task``.
"""

import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steepest.core.errors import UnknownName

from .errors import BadInput
from .results import TaskInfo

__all__ = ["Data", "Examples", "Task", "load_task", "names"]


class Examples(NamedTuple):
    """One split: as many inputs as targets (a training split whose batches the task draws itself may be anything)."""

    inputs: Tensor
    targets: Tensor


class Data(NamedTuple):
    """The three splits; nothing but the final score ever sees ``test``."""

    train: Examples
    validation: Examples
    test: Examples


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A model, data, a loss and a metric, and the budget that one run gets by default.

    Args:
        name: short, for the command line and file names: ``"digits-mlp"``.
        title: for people: ``"Handwritten digits, two-layer perceptron"``.
        model: makes the model, on the CPU, from torch's global random state (which the arena seeds).
        data: loads the splits; called once per process.
        loss: ``loss(outputs, targets)``, a 0-dim tensor: the mean over the batch, to be minimized.
        metric: ``metric(outputs, targets)``, the mean over the batch; evaluated under ``no_grad`` and averaged over
            batches in proportion to their size. ``None``: the loss itself.
        metric_name: as it stands in sentences and on axes: ``"accuracy"``.
        higher_is_better: the direction of the metric.
        batch_size: examples per mini-batch.
        budget: what one run gets unless the user says otherwise: ``"300steps"`` or ``"30s"``.
        evaluations: how often a run is evaluated on the validation split, evenly spread over its budget.
        draw: draws a mini-batch ``draw(train, batch_size, generator)``; by default the training rows are shuffled anew
            in every epoch.
        eval_batch_size: examples per batch of an evaluation.
        sample: ``sample(outputs)``: targets drawn from the model's own prediction, for methods that estimate curvature
            from them (Sophia); uses torch's global random state. None: such methods cannot take part.
        description: a sentence for ``steepest show``.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], Tensor] | None = None
    metric_name: str = "loss"
    higher_is_better: bool = False
    batch_size: int = 64
    budget: str = "300steps"
    evaluations: int = 20
    draw: Callable[[Examples, int, torch.Generator], Batch] | None = None
    eval_batch_size: int = 2048
    sample: Callable[[Tensor], Tensor] | None = None
    description: str = ""
    _cache: dict[str, Data] = field(default_factory=dict, repr=False, compare=False)

    def splits(self) -> Data:
        """The data, loaded on first use."""
        if "data" not in self._cache:
            self._cache["data"] = self.data()
        return self._cache["data"]

    def __getstate__(self) -> dict[str, Any]:
        # The data stay behind when a task travels to a worker, which loads its own.
        return {**self.__dict__, "_cache": {}}

    def build(self, seed: int) -> nn.Module:
        """The model with initial parameters drawn from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model()

    def info(self) -> TaskInfo:
        """The task as the results describe it."""
        data = self.splits()
        sizes = {name: len(getattr(data, name).targets) for name in Data._fields}
        parameters = sum(p.numel() for p in self.build(0).parameters() if p.requires_grad)
        return TaskInfo(
            self.name, self.title, self.metric_name, self.higher_is_better, parameters, sizes, self.batch_size
        )

    def signature(self) -> dict[str, Any]:
        """What must stay the same for results to be comparable; figures that rounding may touch are floats."""
        info, data = self.info(), self.splits()
        digest = hashlib.sha256()
        for part in data:
            for tensor in part:
                dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
                digest.update(f"{dense.dtype} {tuple(dense.shape)}".encode())
                digest.update(dense.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
        rows = slice(0, min(64, info.sizes["validation"]))
        inputs, targets = data.validation.inputs[rows], data.validation.targets[rows]
        model = self.build(0).eval()
        with torch.no_grad():
            loss = float(self.loss(model(inputs), targets))
        return {
            "metric": self.metric_name,
            "higher_is_better": self.higher_is_better,
            "batch_size": self.batch_size,
            "evaluations": self.evaluations,
            "parameters": info.parameters,
            "sizes": dict(info.sizes),
            "data": digest.hexdigest()[:16],
            "initial_loss": loss,
        }


def check(task: Task, where: str) -> Task:
    """Try everything that a run needs on a few examples.

    Args:
        where: what the error message begins with.

    Raises:
        BadInput: a part is missing or does not work; the message says which.
    """

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise BadInput(f"{where}: {message}")

    def attempt(what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"{where}: {what} fails: {type(error).__name__}: {_line(error)}") from error

    require(
        isinstance(task.name, str) and bool(task.name.strip()), f"name must be a non-empty string, got {task.name!r}"
    )
    require("/" not in task.name and ":" not in task.name, f"name must not contain '/' or ':', got {task.name!r}")
    for setting in ("batch_size", "evaluations", "eval_batch_size"):
        value = getattr(task, setting)
        require(type(value) is int and value > 0, f"{setting} must be a positive integer, got {value!r}")
    data = attempt("data()", task.splits)
    for part in Data._fields:
        split = getattr(data, part, None)
        parts = (getattr(split, "inputs", None), getattr(split, "targets", None))
        require(
            all(isinstance(t, Tensor) for t in parts),
            f"data() must return Data(train, validation, test) of Examples(inputs, targets), got {type(data).__name__} "
            f"whose {part!r} is {type(split).__name__}",
        )
        if part != "train" or task.draw is None:
            n, m = len(parts[0]), len(parts[1])
            require(n == m and n > 0, f"the {part} split has {n} inputs and {m} targets; as many of each, at least one")
    model = attempt("model()", lambda: task.build(0))
    require(isinstance(model, nn.Module), f"model() must return a torch.nn.Module, got {type(model).__name__}")
    require(any(p.requires_grad for p in model.parameters()), "the model has no parameters to train")
    few = data.validation.inputs[:2], data.validation.targets[:2]
    outputs = attempt("the model on two validation examples", lambda: model.eval()(few[0]))
    loss = attempt("loss(outputs, targets)", lambda: task.loss(outputs, few[1]))
    require(isinstance(loss, Tensor) and loss.numel() == 1, f"loss must return one number as a tensor, got {loss!r}")
    require(loss.requires_grad, "the loss does not depend on the model's parameters")
    initial = float(loss.detach())
    require(math.isfinite(initial), f"the loss of the untrained model is {initial}")
    if task.metric is not None:
        metric = attempt("metric(outputs, targets)", lambda: float(task.metric(outputs.detach(), few[1])))
        require(math.isfinite(metric), f"the metric of the untrained model is {metric}")
    return task


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no message)"


def names() -> list[str]:
    """The names of the built-in tasks."""
    from .tasks import TASKS

    return sorted(TASKS)


def load_task(reference: str | Task) -> Task:
    """A task by name, by ``path/to/task.py:function``, or itself.

    Raises:
        UnknownName: no built-in task has this name; the message suggests the nearest.
        BadInput: the file or the function cannot be used; the message names both and what is expected.
    """
    if isinstance(reference, Task):
        return reference
    if reference in _LOADED:
        return _LOADED[reference]
    path, colon, function = reference.rpartition(":")
    if colon or reference.endswith(".py") or "/" in reference:
        task = _from_file(Path(path or reference), function if colon else "")
    else:
        from .tasks import TASKS

        if reference not in TASKS:
            raise UnknownName("task", reference, TASKS)
        task = TASKS[reference]()
    _LOADED[reference] = task
    return task


#: Tasks of this process by reference, so that a worker loads the data once.
_LOADED: dict[str, Task] = {}


def _from_file(path: Path, function: str) -> Task:
    expected = "a function without arguments that returns a steepest.arena.Task is expected"
    if not function:
        raise BadInput(f"task file {str(path)!r} needs the function's name, as in {path}:make_task")
    if not path.is_file():
        raise BadInput(
            f"task file {str(path)!r} does not exist ({path.resolve()}); path/to/task.py:function is expected"
        )
    module = _import(path.resolve())
    if not hasattr(module, function):
        known = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        there = f"it has {', '.join(known)}" if known else "it defines no functions"
        raise BadInput(f"task file {str(path)!r} has no function {function!r}; {there}")
    try:
        task = getattr(module, function)()
    except Exception as error:
        raise BadInput(f"{path}:{function} fails: {type(error).__name__}: {_line(error)}; {expected}") from error
    if not isinstance(task, Task):
        raise BadInput(f"{path}:{function} returned {task!r:.80} of type {type(task).__name__}; {expected}")
    return task


def _import(path: Path) -> ModuleType:
    name = f"steepest_task_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise BadInput(f"task file {str(path)!r} is not a Python file; path/to/task.py:function is expected")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadInput(f"task file {str(path)!r} fails to import: {type(error).__name__}: {_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
