"""The built-in tasks, one per file; each is made when it is first asked for."""

import importlib
from collections.abc import Callable
from functools import partial

from ..task import Task

__all__ = ["TASKS"]


def _make(module: str) -> Task:
    task: Task = importlib.import_module(f"{__name__}.{module}").make_task()
    return task


#: Name -> a function that makes the task.
TASKS: dict[str, Callable[[], Task]] = {
    "digits-mlp": partial(_make, "digits_mlp"),
    "mnist10k-cnn": partial(_make, "mnist10k_cnn"),
    "pytext-gpt": partial(_make, "pytext_gpt"),
    "w8a-logistic": partial(_make, "w8a_logistic"),
}
