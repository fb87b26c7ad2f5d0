"""``pytext-gpt``: a small decoder-only transformer that predicts the characters of Python sources."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest import data

from ..task import Data, Examples, Task
from .common import draw_classes

__all__ = ["GPT", "make_task"]

CONTEXT = 64
WIDTH = 64
LAYERS = 2
HEADS = 4
#: Windows of the validation and of the test split that are scored: 12 thousand characters each.
WINDOWS = 192


class Attention(nn.Module):
    """Causal self-attention, ``(batch, time, width) -> (batch, time, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))


class GPT(nn.Module):
    """A decoder-only transformer: tokens ``(batch, time)`` to logits ``(batch, time, vocabulary)``.

    Args:
        vocabulary: the number of different tokens.
        context: the longest sequence.
        width: of the residual stream; a multiple of ``heads``.
        layers, heads: of the transformer.
    """

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # GPT-2's scheme: what feeds the residual stream starts smaller, so that its variance does not grow.
                residual = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _data() -> Data:
    text = data.pytext()
    held = []
    for part in ("validation", "test"):
        inputs, targets = text.consecutive(part, CONTEXT)
        # Evenly spread over the part: neighbouring windows come from the same source file.
        rows = torch.linspace(0, len(inputs) - 1, min(WINDOWS, len(inputs))).long()
        held.append(Examples(inputs[rows], targets[rows]))
    return Data(Examples(text.train, text.train), *held)


def _draw(train: Examples, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    text = train.inputs
    starts = torch.randint(len(text) - CONTEXT, (size, 1), generator=generator).to(text.device)
    at = starts + torch.arange(CONTEXT, device=text.device)
    return text[at], text[at + 1]


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def _bits(outputs: Tensor, targets: Tensor) -> Tensor:
    return _loss(outputs, targets) / math.log(2)


def _model() -> nn.Module:
    return GPT(len(data.PYTEXT_VOCABULARY), CONTEXT, WIDTH, LAYERS, HEADS)


def make_task() -> Task:
    """Next-character prediction on Python's standard library, 64 characters of context."""
    return Task(
        name="pytext-gpt",
        title="Characters of Python sources, small transformer",
        model=_model,
        data=_data,
        loss=_loss,
        sample=draw_classes,
        metric=_bits,
        metric_name="bits per character",
        higher_is_better=False,
        batch_size=16,
        budget="300steps",
        draw=_draw,
        eval_batch_size=64,
        description="The Python standard library's own sources, 115 thousand parameters; minutes per method.",
    )
