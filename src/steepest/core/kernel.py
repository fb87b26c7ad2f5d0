"""Kernels: a rule's arithmetic on one set of pieces, in place, eagerly or compiled.

A compiled kernel is compiled once per rule, static settings, dtype and device, for any number of rows; hyper-parameters
enter as data, so a schedule never recompiles.
"""

import functools
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .hoist import hoist_scalars
from .rule import Rule, compute_dtype

__all__ = ["WIDTH", "Runner", "compiled_or_plain", "compiler_is_broken"]

#: Columns of the flat views that compiled elementwise kernels see.
WIDTH = 1024
#: From this many elements on, generated code may need wider indices: the guarded path decides.
_NARROW_INDEX = 2**31


def in_place(rule: Rule, statics: Mapping[str, Any], pieces: Sequence[Tensor], numbers: Mapping[str, Any]) -> None:
    """Run the rule on ``(x, g, *state)`` and write its results over ``x`` and the state."""
    dtype = compute_dtype(pieces[0].dtype)
    inputs = [t.to(dtype) for t in pieces]
    x, *results = rule.update(*inputs, **numbers, **statics)
    # A rule may keep one of its inputs as another state (the old parameter, say), which must not be overwritten first
    # (the gradient never is); a state that it returns as it was is not written.
    written = (inputs[0], *inputs[2:])
    results = [
        _copied(r) if any(r is t for t in written) and r is not old else r
        for r, old in zip(results, inputs[2:], strict=True)
    ]
    if x is not inputs[0]:
        pieces[0].copy_(x)
    for target, old, result in zip(pieces[2:], inputs[2:], results, strict=True):
        if result is not old:
            target.copy_(result)


def _copied(t: Tensor) -> Tensor:
    """A copy. Inductor (of torch 2.13) drops ``clone`` and then reads what has been written over; this it keeps."""
    return torch.maximum(t, t) if torch.compiler.is_compiling() else t.clone()


class _Kernel:
    """A compiled kernel, ``kernel(hyper, x, g, *state)``.

    On a CPU a flat kernel is made faster in two ways. Its arithmetic on hyper-parameters is hoisted out of the loop
    and done once per step (:attr:`pack`). And Dynamo, which checks guards at every call (measured: 60 of a call's 75
    microseconds), is left out once it has made the code: the guards of a flat kernel hold by construction, since its
    key fixes dtypes and device and its views are contiguous rows of fixed width. Where what Dynamo hands to its backend
    cannot be matched with our arguments, every call stays guarded.
    """

    def __init__(self, rule: Rule, statics: tuple[tuple[str, Any], ...], flat: bool, device: torch.device) -> None:
        settings, names = dict(statics), rule.arguments

        def kernel(hyper: Tensor, *pieces: Tensor) -> None:
            if flat:
                for piece in pieces:  # a guard: makes the width static and leaves the number of rows dynamic
                    assert piece.shape[1] == WIDTH
            in_place(rule, settings, pieces, dict(zip(names, hyper.unbind(), strict=True)))

        # Dynamo limits recompilations per code object: each key gets one of its own, or dtypes, ranks and sizes of one
        # would use up the allowance of the others.
        code = kernel.__code__.replace(co_name=f"{rule.name.replace('-', '_')}_kernel")
        own = types.FunctionType(code, kernel.__globals__, code.co_name, kernel.__defaults__, kernel.__closure__)
        self.pack: Callable[[Tensor], Tensor] | None = None
        self.compiled: Callable[..., Any] | None = None
        self.arguments: Sequence[Any] = ()
        self.order: list[int] | None = None
        if flat and device.type == "cpu":
            self.guarded = torch.compile(own, fullgraph=True, dynamic=True, backend=self._backend)
        else:
            self.guarded = torch.compile(own, fullgraph=True, dynamic=True, options=_compiler_options())

    def _backend(self, graph: Any, examples: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        [place] = [k for k, e in enumerate(examples) if isinstance(e, Tensor) and e.dim() == 1]
        pieces = [e for k, e in enumerate(examples) if isinstance(e, Tensor) and k != place]
        dtype = compute_dtype(pieces[0].dtype)
        kernel, pack = hoist_scalars(graph, placeholders[place], dtype)
        vector = pack(torch.ones(len(examples[place]), dtype=torch.float64))
        mode = getattr(examples[place], "fake_mode", None)
        inputs = list(examples)
        inputs[place] = vector if mode is None else mode.from_tensor(vector)
        compiled: Any = compile_fx(kernel, inputs, config_patches=_compiler_options())
        self.pack, self.compiled = pack, compiled

        def call(*arguments: Any) -> Any:
            self.arguments = arguments
            return compiled(*arguments[:place], pack(arguments[place]), *arguments[place + 1 :])

        return call

    def is_direct(self, pieces: Sequence[Tensor]) -> bool:
        """Whether the compiled code may be called without Dynamo."""
        return self.order is not None and pieces[0].numel() < _NARROW_INDEX

    def call_direct(self, scalars: Tensor, pieces: Sequence[Tensor]) -> None:
        """Run the compiled code; ``scalars`` is what :attr:`pack` makes of the hyper-parameters."""
        assert self.order is not None
        assert self.compiled is not None
        given: tuple[Any, ...] = (pieces[0].shape[0], scalars, *pieces)
        self.compiled(*[given[index] for index in self.order])

    def call_guarded(self, hyper: Tensor, pieces: Sequence[Tensor]) -> None:
        """Run through Dynamo, which compiles where it must; learns how to call the result directly.

        Sizes that happen to be equal in the first call (rows and columns of a square matrix, rows and the width of flat
        pieces, rows and the number of hyper-parameters) are not taken to be the same size for ever.
        """
        config = _shape_config()
        before, config.use_duck_shape = config.use_duck_shape, False  # its own patch() takes longer than a kernel
        try:
            self.guarded(hyper, *pieces)
        finally:
            config.use_duck_shape = before
        if self.compiled is not None:
            self.order = _positions(self.arguments, (pieces[0].shape[0], hyper, *pieces))
            self.arguments = ()


def _positions(arguments: Sequence[Any], given: tuple[Any, ...]) -> list[int] | None:
    """Where each of the graph's arguments stands in ``given`` (the row count, then tensors); None if one does not."""
    found: list[int] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            places = [k for k, g in enumerate(given) if g is argument]
        else:
            places = [0] if argument == given[0] else []
        if len(places) != 1:
            return None
        found.append(places[0])
    return found


_compiled: dict[tuple[Any, ...], _Kernel] = {}


def _key(rule: Rule, statics: tuple[tuple[str, Any], ...], flat: bool, pieces: Sequence[Tensor]) -> tuple[Any, ...]:
    x = pieces[0]
    return (rule.update, statics, flat, x.device.type, x.dim(), *(t.dtype for t in pieces))


#: Measured on two cores with an empty cache: 21 s of processor time for the first kernel by default, 8 s with these.
_FAST_START = {
    # Do not compile test programs for every instruction set that the processor reports; a compiler that cannot use
    # them makes the kernel fail to build, which falls back to the eager engine.
    "cpp.vec_isa_ok": True,
    # Precompiling the headers takes 7 s and saves 2 s for each kernel; most runs need one or two.
    "cpp_cache_precompile_headers": False,
}


@functools.cache
def _compiler_options() -> dict[str, Any]:
    """Those of our options that this version of PyTorch has."""
    known = set(torch._inductor.list_options())
    return {name: value for name, value in _FAST_START.items() if name in known}


@functools.cache
def _shape_config() -> Any:
    import torch.fx.experimental._config as config

    return config


class Runner:
    """The kernel call of one bucket of tensors: same rule, settings, step, dtype and device."""

    def __init__(
        self, rule: Rule, settings: Mapping[str, Any], step: int, device: torch.device, compiled: bool
    ) -> None:
        self.rule = rule
        values = rule.values(step, settings)
        self.statics = rule.statics(values)
        self.numbers = {name: float(value) for name, value in rule.numbers(values).items()}
        self.compiled = compiled
        self.scalars: dict[tuple[Any, ...], Tensor] = {}
        if compiled:
            # Hyper-parameters enter as data, so a schedule never recompiles; float64 keeps the digits of 1 - beta.
            self.hyper = torch.tensor(tuple(self.numbers.values()), dtype=torch.float64).to(device, non_blocking=True)

    def __call__(self, pieces: Sequence[Tensor], flat: bool) -> None:
        key = _key(self.rule, self.statics, flat, pieces) if self.compiled else None
        if key is not None and key not in _failed:
            try:
                if key not in _compiled:
                    _compiled[key] = _Kernel(self.rule, self.statics, flat, pieces[0].device)
                self._run(key, _compiled[key], pieces)
                return
            except Exception as error:  # every compiler failure has its own type
                if not _is_compiler_failure(error):
                    raise
                _failed.add(key)
                _warn(self.rule.name, error)
                self.compiled = not _broken_compiler
        in_place(self.rule, dict(self.statics), pieces, self.numbers)

    def _run(self, key: tuple[Any, ...], kernel: _Kernel, pieces: Sequence[Tensor]) -> None:
        if not kernel.is_direct(pieces):
            kernel.call_guarded(self.hyper, pieces)
            return
        if key not in self.scalars:
            assert kernel.pack is not None
            self.scalars[key] = kernel.pack(self.hyper)
        kernel.call_direct(self.scalars[key], pieces)


def compiled_or_plain(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """``function(*arguments)``, compiled for any sizes; as it stands, with a warning, where torch cannot compile it."""
    key = (function,)
    if not _broken_compiler and key not in _failed:
        try:
            return _compiled_function(function)(*arguments)
        except Exception as error:  # every compiler failure has its own type
            if not _is_compiler_failure(error):
                raise
            _failed.add(key)
            _warn(function.__name__, error)
    return function(*arguments)


@functools.cache
def _compiled_function(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=True, options=_compiler_options())
    return compiled


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
