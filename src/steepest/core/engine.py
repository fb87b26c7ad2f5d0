"""Engines: they run an update rule over many tensors, in place.

Both engines do the same arithmetic on the same pieces. An elementwise rule sees flat pieces: every tensor's leading
multiple of ``WIDTH`` elements as a ``(rows, WIDTH)`` view, and everything smaller (biases, norms, tails) packed into
one buffer, so that a step costs one call per large tensor plus one.

Why rows of fixed width: a kernel over a flat view of unknown length handles a ragged end inside its loop, which on a
CPU costs an integer division per vector; with a static width the generated loop has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .kernel import WIDTH, Runner, compiler_is_broken
from .rule import Rule
from .sharding import full, is_sharded, local, write_full

__all__ = ["PACK_BELOW", "Engine", "Item", "apply", "apply_sharded", "choose_engine"]

Engine = Literal["auto", "eager", "compiled"]

#: Tensors with fewer elements are packed into one buffer per dtype and device.
PACK_BELOW = 16 * WIDTH
#: ``engine="auto"`` compiles from this many elements per optimizer on. Scaled down from the step times of 30
#: million in the docs, a step of this size saves about 15 ms, which wins a cold start of 7 s back in 500 steps.
COMPILE_FROM = 2_000_000


class Item(NamedTuple):
    """One tensor to update: real-valued, dense, all of one dtype but for the state's."""

    x: Tensor
    g: Tensor
    state: tuple[Tensor, ...]


def choose_engine(engine: Engine, elements: int, device: torch.device) -> Literal["eager", "compiled"]:
    """What ``"auto"`` stands for: compiled for large problems on a device that a compiler serves."""
    if engine != "auto":
        return engine
    return "compiled" if elements >= COMPILE_FROM and device.type in ("cpu", "cuda") else "eager"


# ------------------------------------------------------------------------------------------------ layouts


def _flat(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Flat views of tensors of one shape, in one memory order; None when there are none."""
    first = tensors[0]
    if all(t.is_contiguous() for t in tensors):
        return list(tensors) if first.dim() == 1 else [t.view(-1) for t in tensors]
    if all(t.stride() == first.stride() for t in tensors) and _is_dense(first):
        return [t.as_strided((t.numel(),), (1,)) for t in tensors]
    return None


def _is_dense(t: Tensor) -> bool:
    """Whether the tensor's elements fill one block of memory without holes or overlap (any dimension order)."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(t.stride(), t.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _elementwise(run: Runner, items: Sequence[Item]) -> None:
    small: list[list[Tensor]] = []
    for item in items:
        tensors = [item.x, item.g, *item.state]
        if any(t.shape != item.x.shape for t in item.state):
            raise TypeError(f"the elementwise rule {run.rule.name!r} has a state tensor of another shape")
        pieces = _flat(tensors)
        if pieces is None:
            _through_copies(run, tensors)
            continue
        size = pieces[0].numel()
        if size < PACK_BELOW:
            small.append(pieces)
            continue
        tail = size % WIDTH
        if tail:
            small.append([p[size - tail :] for p in pieces])
            pieces = [p[: size - tail] for p in pieces]
        run([p.view(-1, WIDTH) for p in pieces], flat=True)
    if small:
        _packed(run, small)


def _packed(run: Runner, small: Sequence[Sequence[Tensor]]) -> None:
    """Update many small pieces in one call: gather into a buffer, run, scatter."""
    if len(small) == 1 and not run.compiled:
        run(small[0], flat=False)
        return
    sizes = [pieces[0].numel() for pieces in small]
    # At least two rows: torch.compile specializes sizes of 0 and 1, which would be a second compilation.
    padding = max(2 * WIDTH - sum(sizes), -sum(sizes) % WIDTH)
    columns = list(zip(*small, strict=True))  # all x, all g, all of each state
    buffers = [torch.cat([*column, column[0].new_zeros(padding)]) for column in columns]
    run([b.view(-1, WIDTH) for b in buffers], flat=True)
    for index, (column, buffer) in enumerate(zip(columns, buffers, strict=True)):
        if index != 1:  # the gradient is not written back
            parts: tuple[Tensor, ...] = buffer.split([*sizes, padding])
            torch._foreach_copy_(list(column), list(parts[:-1]))


def _through_copies(run: Runner, tensors: Sequence[Tensor]) -> None:
    """For memory layouts without a flat view (holes, mixed orders): work on contiguous copies."""
    copies = [t.contiguous().view(-1).clone() for t in tensors]
    _packed(run, [copies])
    for index, (target, copy) in enumerate(zip(tensors, copies, strict=True)):
        if index != 1:
            target.copy_(copy.view(target.shape))


def _tensor(run: Runner, item: Item) -> None:
    """Update one whole tensor; with more than two dimensions as ``(out, rest)``, for which one kernel serves all."""
    if item.x.dim() > 2:
        _viewed(run, item, (item.x.shape[0], -1))
    else:
        run([item.x, item.g, *item.state], flat=False)


def _viewed(run: Runner, item: Item, shape: tuple[int, ...], stacked: bool = False) -> None:
    """Update a tensor seen in another shape (a view where the memory order allows it, else a copy).

    Its states of another shape are seen as they are, ``stacked`` as a stack of one.
    """
    tensors = [item.x, item.g, *item.state]
    own = (item.x.shape, item.g.shape)
    pieces = [t.reshape(shape) if t.shape in own else t.unsqueeze(0) if stacked else t for t in tensors]
    run(pieces, flat=False)
    for index, (target, piece) in enumerate(zip(tensors, pieces, strict=True)):
        if index != 1 and piece.data_ptr() != target.data_ptr():
            target.copy_(piece.view(target.shape))


def _matrices(run: Runner, items: Sequence[Item]) -> None:
    """Stack equal shapes (convolutions as ``(out, in * kernel)``) and update each stack in one batched call."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[Item]] = {}
    for item in items:
        shape: tuple[int, ...] = (item.x.shape[0], item.x[0].numel())
        own = (tuple(s.shape) for s in item.state if s.shape != item.x.shape)
        by_shape.setdefault((shape, *own), []).append(item)
    for (shape, *_), members in by_shape.items():
        per_stack = max(1, STACK_ELEMENTS // (shape[0] * shape[1]))
        for start in range(0, len(members), per_stack):
            part = members[start : start + per_stack]
            if len(part) == 1:
                _viewed(run, part[0], (1, *shape), stacked=True)
            else:
                _stacked(run, part, shape)


def _stacked(run: Runner, items: Sequence[Item], shape: tuple[int, ...]) -> None:
    columns = list(zip(*([m.x, m.g, *m.state] for m in items), strict=True))
    of_parameter = [all(t.shape == m.x.shape for t, m in zip(column, items, strict=True)) for column in columns]
    pieces = [
        torch.stack([t.reshape(shape) for t in column] if viewed else list(column))
        for column, viewed in zip(columns, of_parameter, strict=True)
    ]
    before = [piece._version for piece in pieces]
    run(pieces, flat=False)
    for index, (column, stacked) in enumerate(zip(columns, pieces, strict=True)):
        if index != 1 and stacked._version != before[index]:  # what a rule leaves as it is need not be written
            for target, result in zip(column, stacked, strict=True):
                target.copy_(result.view(target.shape))


#: A stack of matrices holds at most about this many elements, which bounds the extra memory of a step.
STACK_ELEMENTS = 4_000_000


def apply(
    rule: Rule,
    settings: Mapping[str, Any],
    step: int,
    items: Sequence[Item],
    *,
    engine: Literal["eager", "compiled"],
) -> None:
    """Advance every item by one step of the rule, in place.

    Args:
        rule: the update rule.
        settings: a parameter group's settings.
        step: the count of this step, from 1, the same for all items.
        items: tensors of one dtype on one device; empty ones are skipped.
        engine: ``"eager"`` or ``"compiled"``; a failing compiler falls back to eager with one warning per process.
    """
    kinds: dict[str, list[Item]] = {}
    for item in items:
        if item.x.numel():
            kinds.setdefault(rule.granularity_of(item.x, settings), []).append(item)
    if not kinds:
        return
    device = items[0].x.device
    compiled = engine == "compiled" and not compiler_is_broken()
    if "elementwise" in kinds:
        _elementwise(Runner(rule, settings, step, device, compiled), kinds["elementwise"])
    if "tensor" in kinds:
        run = Runner(rule, settings, step, device, compiled)
        for item in kinds["tensor"]:
            _tensor(run, item)
    if "shaped" in kinds:
        run = Runner(rule, settings, step, device, False)
        for item in kinds["shaped"]:
            run([item.x, item.g, *item.state], flat=False)
    if "matrix" in kinds:
        # Matrix products dominate and are library calls already; compiling around them only adds a start-up.
        _matrices(Runner(rule, settings, step, device, False), kinds["matrix"])


def apply_sharded(
    rule: Rule,
    settings: Mapping[str, Any],
    step: int,
    items: Sequence[Item],
    *,
    engine: Literal["eager", "compiled"],
) -> None:
    """:func:`apply` for DTensors.

    An elementwise rule works on the local shards; others gather, update alike everywhere, and keep their shard.
    """
    shown: list[Item] = []
    gathered: list[tuple[list[Tensor], Item]] = []
    for item in items:
        tensors = [item.x, item.g, *item.state]
        if not is_sharded(item.x) or rule.granularity_of(item.x, settings) == "elementwise":
            x, g, *state = [local(t) for t in tensors]
            shown.append(Item(x, g, tuple(state)))
        else:
            x, g, *state = [full(t) for t in tensors]
            shown.append(Item(x, g, tuple(state)))
            gathered.append((tensors, shown[-1]))
    apply(rule, settings, step, shown, engine=engine)
    for targets, whole in gathered:
        for target, result in zip([targets[0], *targets[2:]], [whole.x, *whole.state], strict=True):
            if is_sharded(target):
                write_full(target, result)
