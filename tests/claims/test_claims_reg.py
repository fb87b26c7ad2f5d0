"""REG's claim: the second text is in the symbols of the first, and fine-tuning starts from what was trained."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from steepest.arena.train import evaluate
from steepest.claims import Size, reg
from steepest.claims.characters import characters
from steepest.claims.claim import Context
from steepest.claims.experiment import Side
from steepest.claims.handwriting import handwriting
from steepest.data import PYTEXT_VOCABULARY


def test_plays_are_in_the_symbols_of_the_python_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text("To be, or not to be:\n" * 500)
    monkeypatch.setenv("STEEPEST_DATA", str(tmp_path))
    train, validation, _ = characters(batch=2, context=21, windows=4, text="shakespeare").splits()
    assert "To be, or not to be:\n" in "".join(PYTEXT_VOCABULARY[k] for k in train.inputs[:60])
    assert torch.equal(validation.inputs[:, 1:], validation.targets[:, :-1])


def test_what_is_fine_tuned_is_what_was_trained() -> None:
    task = handwriting("perceptron")
    context = Context(Size.SMOKE)
    side = Side("SGD", "sgd", (), {})
    weights, loss = reg._pretrained(context, task, side, {"lr": 0.1}, 3, 20)
    begun = replace(task, model=partial(reg._loaded, task.model, weights))
    untrained = evaluate(task, task.build(3), task.splits().test)[1]
    assert loss < 0.9 * untrained
    (still,), (kept,) = reg._finetuned(context, {5: begun}, task, side, {"lr": 0.0}, 4)
    assert still == kept == loss
