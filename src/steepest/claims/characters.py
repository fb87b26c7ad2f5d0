"""Next-character prediction at any scale: the language model that several claims are tested on."""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data
from steepest.arena.task import Data, Examples, Task
from steepest.arena.tasks.common import draw_classes
from steepest.arena.tasks.pytext_gpt import GPT

__all__ = ["Text", "characters"]

Text = Literal["python", "shakespeare"]


def characters(
    *,
    batch: int,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    context: int = 32,
    windows: int = 128,
    corpus: int = 2_000_000,
    text: Text = "python",
) -> Task:
    """A decoder-only transformer on the sources of Python's standard library, scored by its loss in nats.

    Args:
        batch: windows per mini-batch.
        width, layers, heads: of the transformer.
        context: characters per window.
        windows: of the validation and of the test split that are scored, evenly spread.
        corpus: characters in all three splits; Python has some 4 million.
        text: ``"shakespeare"`` for his plays in place of Python's sources, all of them, in the same symbols.
    """
    return Task(
        name=f"characters-{width}x{layers}-{batch}{'' if text == 'python' else f'-{text}'}",
        title=f"Characters of {'Python sources' if text == 'python' else 'plays'}, small transformer",
        model=partial(_model, context, width, layers, heads),
        data=partial(_data, text, context, windows, corpus),
        loss=_loss,
        sample=draw_classes,
        batch_size=batch,
        evaluations=10,
        draw=partial(_draw, context),
        eval_batch_size=64,
    )


def _model(context: int, width: int, layers: int, heads: int) -> nn.Module:
    return GPT(len(data.PYTEXT_VOCABULARY), context, width, layers, heads)


def _plays() -> data.TextDataset:
    plays = data.tiny_shakespeare()
    places = torch.tensor([data.PYTEXT_VOCABULARY.index(symbol) for symbol in plays.vocabulary])
    train, validation, test = (places[block] for block in (plays.train, plays.validation, plays.test))
    return replace(plays, vocabulary=data.PYTEXT_VOCABULARY, train=train, validation=validation, test=test)


def _data(text: Text, context: int, windows: int, corpus: int) -> Data:
    found = data.pytext(size=corpus) if text == "python" else _plays()
    held = []
    for part in ("validation", "test"):
        inputs, targets = found.consecutive(part, context)
        rows = torch.linspace(0, len(inputs) - 1, min(windows, len(inputs))).long()
        held.append(Examples(inputs[rows], targets[rows]))
    return Data(Examples(found.train, found.train), *held)


def _draw(context: int, train: Examples, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    text = train.inputs
    starts = torch.randint(len(text) - context, (size, 1), generator=generator).to(text.device)
    at = starts + torch.arange(context, device=text.device)
    return text[at], text[at + 1]


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
