"""A task that trains in milliseconds, and cards of torch's own optimizers."""

import torch
from torch import nn
from torch.nn import functional

from steepest.arena import Data, Examples, Task
from steepest.core.card import Choice, Float, Integers, MethodCard

WEIGHTS = torch.linspace(-1.0, 1.0, 5)


def _data() -> Data:
    generator = torch.Generator().manual_seed(7)
    parts = []
    for rows in (64, 32, 32):
        x = torch.randn(rows, 5, generator=generator)
        parts.append(Examples(x, x @ WEIGHTS + 0.1 * torch.randn(rows, generator=generator)))
    return Data(*parts)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))


def tiny_task(**changes) -> Task:
    """Linear regression with five weights; lower is better."""
    settings = {
        "name": "tiny",
        "title": "Tiny regression",
        "model": _model,
        "data": _data,
        "loss": functional.mse_loss,
        "metric_name": "squared error",
        "batch_size": 16,
        "budget": "20steps",
        "evaluations": 5,
    }
    return Task(**{**settings, **changes})


def card(name: str, target: str, search: dict, **more) -> MethodCard:
    """A card for a class of ``torch.optim``."""
    return MethodCard(
        name=name,
        title=name.upper(),
        room="optim",
        family="test",
        summary="for tests",
        target=target,
        papers=(),
        search=search,
        wraps="torch.optim",
        **more,
    )


ADAMW = card("adamw", "torch.optim:AdamW", {"lr": Float(1e-3, 1e-1, log=True), "weight_decay": Float(0.0, 0.1)})
SGD = card("sgd", "torch.optim:SGD", {"lr": Float(1e-3, 1e-1, log=True), "momentum": Choice((0.0, 0.9))})
ADAM = card("adam", "torch.optim:Adam", {"lr": Float(1e-3, 1e-1), "betas": Choice(((0.9, 0.999), (0.8, 0.9)))})
LBFGS = card(
    "lbfgs",
    "torch.optim:LBFGS",
    {"history_size": Integers(2, 9)},
    settings={"lr": 0.5},
    needs=frozenset({"gradient", "closure"}),
)
WILD = card("wild", "torch.optim:SGD", {"lr": Float(1e6, 1e8, log=True)})
BROKEN = card("broken", "torch.optim:SGD", {"lr": Float(-2.0, -1.0)})

TASK_FILE = """
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from steepest.arena import Data, Examples, Task

STEPS = 0


def data():
    generator = torch.Generator().manual_seed(7)
    x = [torch.randn(rows, 5, generator=generator) for rows in (64, 32, 32)]
    return Data(*(Examples(part, part.sum(1)) for part in x))


def loss(outputs, targets):
    global STEPS
    if outputs.requires_grad:
        STEPS += 1
        time.sleep(PAUSE)
        if STEPS == 3:  # the first gradient is that of the check
            Path(__file__).with_name("training").touch()
    return functional.mse_loss(outputs, targets)


def model():
    return nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))


def make_task():
    return Task(name="slow", title="Slow", model=model, data=data, loss=loss, metric_name="error",
                batch_size=16, evaluations=4)
"""


def write_task(folder, pause: float = 0.0):
    """The file of a task whose steps take ``pause`` seconds; it touches ``training`` beside it when training begins."""
    path = folder / "task.py"
    path.write_text(f"PAUSE = {pause}\n{TASK_FILE}")
    return path
