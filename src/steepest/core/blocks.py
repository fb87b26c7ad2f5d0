"""Matrices cut into equal blocks, so that what is done to every block is a few batched calls."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Blocks"]


class Blocks(NamedTuple):
    """A grid of equal blocks over a matrix; the last ones of an axis are padded with zeros where it does not divide.

    Args:
        rows, columns: the matrix's shape.
        down, across: the number of blocks along either axis.
    """

    rows: int
    columns: int
    down: int
    across: int

    @classmethod
    def of(cls, rows: int, columns: int, size: int, cut: tuple[bool, bool] = (True, True)) -> "Blocks":
        """As few blocks of at most ``size`` per axis as possible, as equal as possible.

        300 rows in blocks of at most 128 are three blocks of 100. An axis that is not to be ``cut`` is one block.
        """
        return cls(rows, columns, -(-rows // size) if cut[0] else 1, -(-columns // size) if cut[1] else 1)

    @property
    def height(self) -> int:
        """Rows of a block."""
        return -(-self.rows // self.down)

    @property
    def width(self) -> int:
        """Columns of a block."""
        return -(-self.columns // self.across)

    def split(self, matrix: Tensor) -> Tensor:
        """``(rows, columns)`` to ``(down, across, height, width)``."""
        down, across, height, width = self.down, self.across, self.height, self.width
        padding = (across * width - self.columns, down * height - self.rows)
        if any(padding):
            matrix = torch.nn.functional.pad(matrix, (0, padding[0], 0, padding[1]))
        return matrix.reshape(down, height, across, width).transpose(1, 2)

    def merge(self, blocks: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        whole = blocks.transpose(1, 2).reshape(self.down * self.height, self.across * self.width)
        return whole[: self.rows, : self.columns]
