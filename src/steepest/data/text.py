"""Character corpora for language models: tiny Shakespeare, and the Python standard library's own sources."""

import hashlib
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steepest.core.ranges import Integer
from steepest.data.locate import CorruptData, DataNotFound, Source, find, read_bytes
from steepest.data.split import block_bounds

__all__ = ["PYTEXT_VOCABULARY", "TextDataset", "pytext", "tiny_shakespeare"]

Part = Literal["train", "validation", "test"]

PYTEXT_VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
"""The 96 symbols of :func:`pytext`: the newline and the printable ASCII characters, in code order."""

_DROPPED = bytes(set(range(256)) - set(PYTEXT_VOCABULARY.encode()))


@dataclass(frozen=True, eq=False)
class TextDataset:
    """A text as symbol numbers, in three contiguous blocks: train, then validation, then test. They share no character.

    Attributes:
        name: the name :func:`steepest.data.load` knows it by.
        vocabulary: the symbols, sorted; symbol number i is ``vocabulary[i]``.
        train, validation, test: shape (length,), int64, numbers in 0 .. len(vocabulary) - 1.
        source: where the text was read from.
        sha256: of the whole text in UTF-8, to tell whether two machines have the same one.
    """

    name: str
    vocabulary: str
    train: Tensor
    validation: Tensor
    test: Tensor
    source: str
    sha256: str

    @property
    def outputs(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """Symbol numbers of a text: shape (len(text),), int64. A character outside the vocabulary is a
        ``ValueError``."""
        return torch.from_numpy(_encode(text, self.vocabulary))

    def decode(self, symbols: Tensor) -> str:
        """The text of a 1-D tensor of symbol numbers; the inverse of :meth:`encode`."""
        if symbols.ndim != 1 or symbols.is_floating_point():
            raise ValueError(
                f"symbols must be a 1-D integer tensor, got {symbols.dtype} of shape {tuple(symbols.shape)}"
            )
        numbers = symbols.tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self.vocabulary):
            raise ValueError(
                f"symbols must lie in 0 .. {len(self.vocabulary) - 1}, got {min(numbers)} .. {max(numbers)}"
            )
        return "".join(self.vocabulary[number] for number in numbers)

    def windows(self, part: Part, length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random contiguous windows: inputs and targets, both of shape (count, length), int64.

        Targets are the inputs shifted by one: ``targets[i, t]`` follows ``inputs[i, t]`` in the text. Starts are
        uniform, with replacement, over all windows that lie within the part.

        Args:
            part: ``"train"``, ``"validation"`` or ``"test"``.
            length: characters per window, at least 1 and less than the part has.
            count: number of windows, at least 1.
            generator: a CPU generator; the only source of randomness.

        Raises:
            ValueError: the part is too short for such a window.
        """
        block = self._block(part, length)
        Integer(1).check("count", count)
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
        starts = torch.randint(len(block) - length, (count,), generator=generator)
        rows = block.unfold(0, length + 1, 1)[starts]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def consecutive(self, part: Part, length: int) -> tuple[Tensor, Tensor]:
        """All windows of a part one after the other, for evaluation: inputs and targets of shape (n, length), int64.

        Every character but the first, and but fewer than ``length`` at the end, is a target exactly once.
        """
        block = self._block(part, length)
        n = (len(block) - 1) // length
        return block[: n * length].view(n, length), block[1 : n * length + 1].view(n, length)

    def _block(self, part: Part, length: int) -> Tensor:
        if part not in ("train", "validation", "test"):
            raise ValueError(f"part must be 'train', 'validation' or 'test', got {part!r}")
        Integer(1).check("length", length)
        block: Tensor = getattr(self, part)
        if len(block) <= length:
            raise ValueError(
                f"length must be less than the {len(block)} characters of {self.name}'s {part} part, got {length}"
            )
        return block

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"TextDataset({self.name!r}, {sizes} characters, vocabulary of {len(self.vocabulary)})"


def _encode(text: str, vocabulary: str) -> np.ndarray:
    known = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)  # sorted
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    numbers = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    wrong = np.flatnonzero(known[numbers] != codes)
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"text holds {text[at]!r} at position {at}, which is not among the {len(known)} symbols")
    return numbers.astype(np.int64)


def _corpus(name: str, text: str, vocabulary: str, validation: float, test: float, source: str) -> TextDataset:
    first, second = block_bounds(len(text), validation, test)
    symbols = torch.from_numpy(_encode(text, vocabulary))
    # Cloned, so that saving or moving one part does not carry the storage of all three.
    train, val, held = symbols[:first].clone(), symbols[first:second].clone(), symbols[second:].clone()
    return TextDataset(name, vocabulary, train, val, held, source, hashlib.sha256(text.encode()).hexdigest())


def tiny_shakespeare(*, validation: float = 0.1, test: float = 0.1) -> TextDataset:
    """Tiny Shakespeare (Karpathy, 2015): 1,115,394 characters of plays, vocabulary of the 65 characters that occur.

    The first 80% are train, the next 10% validation, the last 10% test; nothing is random. File:
    ``text/tinyshakespeare.txt``, plain or ``.gz``.

    Args:
        validation, test: fractions of the characters in [0, 1), sum below 1.

    Raises:
        DataNotFound: the file is nowhere and cannot be downloaded.
        CorruptData: it is damaged.
    """
    name = "text/tinyshakespeare.txt"
    path = find(
        Source(
            (f"{name}.gz", name),
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            saved_as=name,
        )
    )
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path} is not UTF-8 text: {error}") from error
    if not text:
        raise CorruptData(f"{path} is empty")
    return _corpus("tiny_shakespeare", text, "".join(sorted(set(text))), validation, test, str(path))


def pytext(*, size: int = 2_000_000, validation: float = 0.1, test: float = 0.1) -> TextDataset:
    """A corpus that every machine has: the sources of the Python standard library's own modules.

    The top-level public modules that are single files (``argparse.py``, ``ast.py``, ...), in order of their names,
    are joined until there are ``size`` characters. Line ends become newlines, tabs are expanded to 8 columns, and
    every character outside the vocabulary, which is :data:`PYTEXT_VOCABULARY` whatever the text, is dropped. Parts
    are contiguous blocks: the first 80% train, then 10% validation, then 10% test. Nothing is random; the text
    depends on the Python release alone (and on a distribution's patches), and ``sha256`` identifies it.

    Args:
        size: characters in all, at least 1,000. Python 3.11 has 4.2 million; asking for more than there is
            gives what there is.
        validation, test: fractions of the characters in [0, 1), sum below 1.

    Raises:
        DataNotFound: this Python has no source files (some embedded builds keep compiled ones only).
    """
    Integer(1_000).check("size", size)
    folder = Path(sysconfig.get_path("stdlib"))
    # Names with an underscore are left out: among them are files generated for one machine (_sysconfigdata_...).
    modules = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    pieces: list[str] = []
    total = 0
    for module in modules:
        path = folder / f"{module}.py"
        if total >= size or not path.is_file():
            continue
        pieces.append(_ascii(path.read_bytes()))
        total += len(pieces[-1])
    if total < 1_000:
        raise DataNotFound(
            f"no Python sources found in {folder}; pytext is made from the standard library's *.py files there"
        )
    release = ".".join(map(str, sys.version_info[:3]))
    text = "".join(pieces)[:size]
    return _corpus("pytext", text, PYTEXT_VOCABULARY, validation, test, f"standard library of Python {release}")


def _ascii(raw: bytes) -> str:
    text = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").expandtabs(8)
    return text.translate(None, _DROPPED).decode("ascii")
