"""Blocks: what is cut and merged again is the same, and blocks are as few and as equal as they can be."""

import pytest
import torch

from steepest.core.blocks import Blocks


@pytest.mark.parametrize(
    ("shape", "size", "cut", "expected"),
    [
        ((300, 128), 128, (True, True), (3, 1, 100, 128)),
        ((256, 512), 128, (True, True), (2, 4, 128, 128)),
        ((129, 5), 128, (True, True), (2, 1, 65, 5)),
        ((9000, 300), 128, (False, True), (1, 3, 9000, 100)),
        ((300, 9000), 128, (True, False), (3, 1, 100, 9000)),
        ((1, 7), 3, (False, False), (1, 1, 1, 7)),
        ((5, 5), 2, (True, True), (3, 3, 2, 2)),
    ],
)
def test_grid(shape, size, cut, expected) -> None:
    blocks = Blocks.of(*shape, size, cut)
    matrix = torch.randn(shape)
    pieces = blocks.split(matrix)
    assert (blocks.down, blocks.across, blocks.height, blocks.width) == tuple(pieces.shape) == expected
    assert torch.equal(blocks.merge(pieces), matrix)
    assert pieces.square().sum().item() == pytest.approx(matrix.square().sum().item(), rel=1e-4)  # padded with zeros
    top = matrix[: blocks.height, : blocks.width]
    assert torch.equal(pieces[0, 0, : len(top), : top.shape[1]], top)
