"""Engines: they run an update rule over many tensors, in place.

Both engines do the same arithmetic on the same pieces. An elementwise rule sees flat pieces: every tensor's leading
multiple of :data:`WIDTH` elements as a ``(rows, WIDTH)`` view, and everything smaller (biases, norms, tails) packed
into one buffer, so that a step costs one call per large tensor plus one.

Why rows of fixed width: a kernel over a flat view of unknown length handles a ragged end inside its loop, which on a
CPU costs an integer division per vector; with a static width the generated loop has none.
"""

import functools
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .rule import Rule, compute_dtype

__all__ = ["PACK_BELOW", "WIDTH", "Engine", "Item", "apply", "choose_engine"]

Engine = Literal["auto", "eager", "compiled"]

#: Columns of the flat views that compiled elementwise kernels see.
WIDTH = 1024
#: Tensors with fewer elements are packed into one buffer per dtype and device.
PACK_BELOW = 16 * WIDTH
#: ``engine="auto"`` compiles from this many elements per optimizer on (measured: below, a compiler start-up of
#: seconds is not won back within thousands of steps).
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


# ------------------------------------------------------------------------------------------------ kernels


def _in_place(rule: Rule, statics: Mapping[str, Any], pieces: Sequence[Tensor], numbers: Mapping[str, Any]) -> None:
    """Run the rule on ``(x, g, *state)`` and write its results over ``x`` and the state."""
    dtype = compute_dtype(pieces[0].dtype)
    inputs = [t.to(dtype) for t in pieces]
    x, *results = rule.update(*inputs, **numbers, **statics)
    # A rule may keep one of its inputs as state (the old parameter, say), which must not be overwritten first.
    results = [r.clone() if any(r is t for t in inputs) else r for r in results]
    pieces[0].copy_(x)
    for target, result in zip(pieces[2:], results, strict=True):
        target.copy_(result)


_compiled: dict[tuple[Any, ...], Callable[..., None]] = {}


def _key(rule: Rule, statics: tuple[tuple[str, Any], ...], flat: bool, x: Tensor) -> tuple[Any, ...]:
    return (rule.update, statics, flat, x.dtype, x.device.type, x.dim())


def _compiled_kernel(rule: Rule, statics: tuple[tuple[str, Any], ...], flat: bool, x: Tensor) -> Callable[..., None]:
    key = _key(rule, statics, flat, x)
    if key in _compiled:
        return _compiled[key]
    settings, names = dict(statics), rule.arguments

    def kernel(hyper: Tensor, *pieces: Tensor) -> None:
        if flat:
            for piece in pieces:  # a guard: makes the width static and leaves the number of rows dynamic
                assert piece.shape[1] == WIDTH
        _in_place(rule, settings, pieces, dict(zip(names, hyper.unbind(), strict=True)))

    # Dynamo limits recompilations per code object: each key gets one of its own, or dtypes, ranks and sizes of one
    # would use up the allowance of the others.
    code = kernel.__code__.replace(co_name=f"{rule.name.replace('-', '_')}_kernel")
    own = types.FunctionType(code, kernel.__globals__, code.co_name, kernel.__defaults__, kernel.__closure__)
    _compiled[key] = torch.compile(own, fullgraph=True, dynamic=True, options=_compiler_options())
    return _compiled[key]


#: Measured on two cores with an empty cache: 21 s of processor time for the first kernel by default, 8 s with these.
_FAST_START = {
    # Do not compile test programs for every instruction set that the processor reports; a compiler that cannot use
    # them makes the kernel fail to build, which falls back to the eager engine.
    "cpp.vec_isa_ok": True,
    # Precompiling the headers pays from the third kernel on; most runs need one or two.
    "cpp_cache_precompile_headers": False,
}


@functools.cache
def _compiler_options() -> dict[str, Any]:
    """Those of our options that this version of PyTorch has."""
    known = set(torch._inductor.list_options())
    return {name: value for name, value in _FAST_START.items() if name in known}


class _Runner:
    """The kernel call of one bucket of tensors: same rule, settings, step, dtype and device."""

    def __init__(
        self, rule: Rule, settings: Mapping[str, Any], step: int, device: torch.device, compiled: bool
    ) -> None:
        self.rule = rule
        self.statics = rule.statics(settings)
        self.numbers = {name: float(value) for name, value in rule.numbers(step, settings).items()}
        self.compiled = compiled
        if compiled:
            # Hyper-parameters enter as data, so a schedule never recompiles; float64 keeps the digits of 1 - beta.
            self.hyper = torch.tensor(tuple(self.numbers.values()), dtype=torch.float64).to(device, non_blocking=True)

    def __call__(self, pieces: Sequence[Tensor], flat: bool) -> None:
        if self.compiled and _key(self.rule, self.statics, flat, pieces[0]) not in _failed:
            try:
                _compiled_kernel(self.rule, self.statics, flat, pieces[0])(self.hyper, *pieces)
                return
            except Exception as error:  # every compiler failure has its own type
                if not _is_compiler_failure(error):
                    raise
                _failed.add(_key(self.rule, self.statics, flat, pieces[0]))
                _warn(self.rule.name, error)
                self.compiled = not _broken_compiler
        _in_place(self.rule, dict(self.statics), pieces, self.numbers)


#: Kernels that did not compile; the eager engine runs them.
_failed: set[tuple[Any, ...]] = set()
#: Whether no kernel can compile here.
_broken_compiler = False


def compiler_is_broken() -> bool:
    """Whether a missing or failing C++ compiler made this process fall back to the eager engine."""
    return _broken_compiler


def _is_compiler_failure(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor")) or isinstance(error, OSError)


def _warn(name: str, error: Exception) -> None:
    """One warning per kernel that torch cannot compile, and a single one where the machine has no working compiler."""
    global _broken_compiler
    if _broken_compiler:
        return
    said = str(error).strip()
    signs = ("InvalidCxxCompiler", "C++ compile error", "TritonMissing")
    _broken_compiler = isinstance(error, OSError) or any(sign in said for sign in signs)
    whom = "this process uses" if _broken_compiler else "for it, this process uses"
    warnings.warn(
        f"torch.compile failed for the rule {name!r} ({said.splitlines()[0] if said else type(error).__name__}); "
        f"{whom} the eager engine from now on, which is slower on large models. Pass engine='eager' to silence this.",
        RuntimeWarning,
        stacklevel=5,
    )


# ------------------------------------------------------------------------------------------------ layouts


def _flat(t: Tensor, like: Tensor) -> Tensor | None:
    """A flat view of ``t`` in the memory order of ``like``; None when there is none."""
    if t.is_contiguous() and like.is_contiguous():
        return t.view(-1)
    if t.stride() == like.stride() and _is_dense(t):
        return t.as_strided((t.numel(),), (1,))
    return None


def _is_dense(t: Tensor) -> bool:
    """Whether the tensor's elements fill one block of memory without holes or overlap (any dimension order)."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(t.stride(), t.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _elementwise(run: _Runner, items: Sequence[Item]) -> None:
    small: list[list[Tensor]] = []
    for item in items:
        tensors = [item.x, item.g, *item.state]
        flats = [_flat(t, item.x) for t in tensors]
        if any(f is None for f in flats):
            _through_copies(run, tensors)
            continue
        pieces: list[Tensor] = flats  # type: ignore[assignment]
        size = pieces[0].numel()
        if size < PACK_BELOW:
            small.append(pieces)
            continue
        main = size - size % WIDTH
        run([p[:main].view(-1, WIDTH) for p in pieces], flat=True)
        if main < size:
            small.append([p[main:] for p in pieces])
    if small:
        _packed(run, small)


def _packed(run: _Runner, small: Sequence[Sequence[Tensor]]) -> None:
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


def _through_copies(run: _Runner, tensors: Sequence[Tensor]) -> None:
    """For memory layouts without a flat view (holes, mixed orders): work on contiguous copies."""
    copies = [t.contiguous().view(-1).clone() for t in tensors]
    _packed(run, [copies])
    for index, (target, copy) in enumerate(zip(tensors, copies, strict=True)):
        if index != 1:
            target.copy_(copy.view(target.shape))


def _tensor(run: _Runner, item: Item) -> None:
    """Update one whole tensor; with more than two dimensions as ``(out, rest)``, for which one kernel serves all."""
    tensors = [item.x, item.g, *item.state]
    if item.x.dim() <= 2:
        run(tensors, flat=False)
        return
    pieces = [t.reshape(t.shape[0], -1) for t in tensors]  # a view where the memory order allows it, else a copy
    run(pieces, flat=False)
    for index, (target, piece) in enumerate(zip(tensors, pieces, strict=True)):
        if index != 1 and piece.data_ptr() != target.data_ptr():
            target.copy_(piece.view(target.shape))


def _matrices(run: _Runner, items: Sequence[Item]) -> None:
    """Stack equal shapes (convolutions as ``(out, in * kernel)``) and update each stack in one batched call."""
    by_shape: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        by_shape.setdefault((item.x.shape[0], item.x[0].numel()), []).append(item)
    for shape, members in by_shape.items():
        per_stack = max(1, STACK_ELEMENTS // (shape[0] * shape[1]))
        for start in range(0, len(members), per_stack):
            part = members[start : start + per_stack]
            columns = list(zip(*([m.x, m.g, *m.state] for m in part), strict=True))
            pieces = [torch.stack([t.reshape(shape) for t in column]) for column in columns]
            run(pieces, flat=False)
            for index, (column, stacked) in enumerate(zip(columns, pieces, strict=True)):
                if index != 1:
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
    compiled = engine == "compiled" and not _broken_compiler
    if "elementwise" in kinds:
        _elementwise(_Runner(rule, settings, step, device, compiled), kinds["elementwise"])
    if "tensor" in kinds:
        run = _Runner(rule, settings, step, device, compiled)
        for item in kinds["tensor"]:
            _tensor(run, item)
    if "matrix" in kinds:
        # Matrix products dominate and are library calls already; compiling around them only adds a start-up.
        _matrices(_Runner(rule, settings, step, device, False), kinds["matrix"])
