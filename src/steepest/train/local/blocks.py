"""A network as blocks in a row, and the gradient of a loss that sees one block alone."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["add_gradients", "blocks_of", "local_gradients"]


def blocks_of(network: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """The blocks of a network, in the order of its forward pass; each is fed the output of the one before.

    Args:
        network: an ``nn.Sequential``, in which every module with a weight (of two dimensions or more) begins a block
            and takes along what follows without one (activations, norms, pooling); or the blocks themselves.

    Raises:
        TypeError: it is a module of another kind, whose blocks cannot be known.
        ValueError: it has no trainable parameters, or two blocks share one.
    """
    if isinstance(network, nn.Module) and not isinstance(network, (nn.Sequential, nn.ModuleList)):
        raise TypeError(f"network must be an nn.Sequential or a list of blocks, got {type(network).__name__}")
    if isinstance(network, nn.Sequential):
        rows: list[list[nn.Module]] = []
        for child in network:
            if rows and not (_weighty(child) and any(map(_weighty, rows[-1]))):
                rows[-1].append(child)
            else:
                rows.append([child])
        blocks: list[nn.Module] = [row[0] if len(row) == 1 else nn.Sequential(*row) for row in rows]
    else:
        blocks = list(network)
    owner: dict[int, int] = {}
    for number, block in enumerate(blocks):
        for p in block.parameters():
            if owner.setdefault(id(p), number) != number:
                raise ValueError(
                    f"blocks must not share parameters, got one of shape {tuple(p.shape)} in both block "
                    f"{owner[id(p)]} and block {number}"
                )
    if not any(p.requires_grad for block in blocks for p in block.parameters()):
        raise ValueError(f"network must have trainable parameters, got none in {len(blocks)} blocks")
    return blocks


def _weighty(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters())


def local_gradients(
    block: nn.Module, inputs: Tensor, objective: Callable[[Tensor], Tensor], *others: nn.Module
) -> tuple[Tensor, Tensor, dict[nn.Parameter, Tensor]]:
    """One forward pass of a block, and the gradient of a loss of its outputs with respect to its own parameters.

    The inputs are cut off from whatever made them, and the graph is gone when this returns.

    Args:
        block: the module.
        inputs: a batch.
        objective: from the block's outputs to a scalar.
        others: modules that ``objective`` runs and that are differentiated, too.

    Returns:
        The outputs, the loss, and the gradients by parameter; those of which the loss does not depend are left out.
    """
    with torch.enable_grad():
        outputs = block(inputs.detach())
        if not isinstance(outputs, Tensor):
            raise TypeError(f"a block must return a tensor, got {type(outputs).__name__} from {type(block).__name__}")
        loss = objective(outputs)
    params = [p for module in (block, *others) for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, params, allow_unused=True) if params and loss.requires_grad else ()
    used = {p: g for p, g in zip(params, found, strict=False) if g is not None}
    return outputs.detach(), loss.detach(), used


def add_gradients(found: dict[nn.Parameter, Tensor]) -> None:
    """Add gradients to ``.grad``, as ``backward`` does."""
    for p, g in found.items():
        p.grad = g if p.grad is None else p.grad + g
