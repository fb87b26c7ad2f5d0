"""Who takes part in the step benchmark, ours and peers'."""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

__all__ = ["CONTENDERS", "REFERENCE", "Contender", "installed"]


@dataclass(frozen=True)
class Contender:
    """One optimizer as benchmarked.

    Args:
        method: what it implements; contenders of one method are compared with each other.
        package: where it comes from; ``"steepest"`` for ours.
        variant: the engine or mode, for the table.
        build: from parameters to optimizer.
        buffers: state in units of the parameter's size; sets the bytes that a step must move. Of matrix methods it is
            only known from measuring.
        matrices: takes matrices only and is measured on those.
        interval: steps after which the work repeats (a preconditioner is refreshed every so often); the time of a step
            is the mean over that many.
        goal: the largest multiple of the reference's time per byte that we promise, for ours.
        step_goal: the largest multiple of the reference's time per step.
        memory_goal: the most bytes of state per parameter.
        lead: how many times faster than every other package's contender of the same method we promise to be.
    """

    method: str
    package: str
    variant: str
    build: Callable[[Sequence[Tensor]], Any]
    buffers: float
    matrices: bool = False
    interval: int = 1
    goal: float | None = None
    step_goal: float | None = None
    memory_goal: float | None = None
    lead: float | None = None

    @property
    def key(self) -> str:
        """A name for the command line: ``steepest:lion:compiled``."""
        return f"{self.package}:{self.method}:{self.variant}"

    @property
    def bytes_per_element(self) -> float:
        """Bytes a float32 step must move per parameter: read the gradient, read and write parameter and state."""
        return 4 * (1 + 2 * (1 + self.buffers))


def installed(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _make(target: str, params: Sequence[Tensor], **settings: Any) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(params, **settings)


def _ours(
    method: str,
    name: str,
    buffers: int,
    goal: float | None = 1.25,
    *,
    matrices: bool = False,
    engines: Sequence[str] = ("compiled",),
    **settings: Any,
) -> list[Contender]:
    return [
        Contender(
            method,
            "steepest",
            engine,
            partial(_make, f"steepest.optim:{name}", engine=engine, **settings),
            buffers,
            matrices,
            goal=goal if engine == "compiled" else None,
        )
        for engine in engines
    ]


def _matrix(
    method: str, name: str, variant: str = "default", buffers: float = 1, interval: int = 1, **settings: Any
) -> Contender:
    """One of ours for matrices, measured on those; goals, if there are some, are set with ``replace``."""
    build = partial(_make, f"steepest.optim:{name}", **settings)
    return Contender(method, "steepest", variant, build, buffers, True, interval)


def _eight_bits(method: str, name: str, buffers: int, memory_goal: float) -> Contender:
    build = partial(_make, f"steepest.optim:{name}", engine="compiled", state_dtype="8bit")
    return Contender(method, "steepest", "8-bit state", build, buffers, memory_goal=memory_goal)


def _peer(
    method: str,
    package: str,
    target: str,
    buffers: int,
    variant: str = "default",
    matrices: bool = False,
    interval: int = 1,
    **settings: Any,
) -> Contender:
    return Contender(method, package, variant, partial(_make, target, **settings), buffers, matrices, interval)


_PO = "pytorch_optimizer"


def _marked(params: Sequence[Tensor], **settings: Any) -> Any:
    """pytorch_optimizer's Muon wants its groups to say whom it is for."""
    return _make(f"{_PO}:Muon", [{"params": list(params), "use_muon": True}], **settings)  # type: ignore[list-item]


REFERENCE = _peer("adamw", "torch", "torch.optim:AdamW", 2, "fused", fused=True)

_BOTH = ("compiled", "eager")
#: Steps between two refreshes: Shampoo's lower end in its paper; for PSGD the probability with which the authors'
#: schedule ends, 0.03.
_EVERY, _PSGD_EVERY = 20, 33

CONTENDERS: tuple[Contender, ...] = (
    REFERENCE,
    _peer("adamw", "torch", "torch.optim:AdamW", 2, "foreach", foreach=True),
    _peer("adamw", "heavyball", "heavyball:AdamW", 2),
    # Element by element.
    *_ours("lion", "Lion", 1, engines=_BOTH),
    _eight_bits("lion", "Lion", 1, memory_goal=1.1),
    _peer("lion", _PO, f"{_PO}:Lion", 1),
    *_ours("adabelief", "AdaBelief", 2, engines=_BOTH),
    _eight_bits("adabelief", "AdaBelief", 2, memory_goal=2.1),
    _peer("adabelief", _PO, f"{_PO}:AdaBelief", 2),
    *_ours("diffgrad", "DiffGrad", 3),
    _peer("diffgrad", _PO, f"{_PO}:DiffGrad", 3),
    *_ours("ademamix", "AdEMAMix", 3, engines=_BOTH),
    _peer("ademamix", _PO, f"{_PO}:AdEMAMix", 3),
    _peer("ademamix", "heavyball", "heavyball:AdEMAMix", 3, betas=(0.9, 0.999, 0.9999)),
    *_ours("adabound", "AdaBound", 2),
    _peer("adabound", _PO, f"{_PO}:AdaBound", 2),
    *_ours("amsbound", "AMSBound", 3),
    *_ours("amsgrad", "AMSGrad", 3),
    _peer("amsgrad", "torch", "torch.optim:AdamW", 3, "fused", fused=True, amsgrad=True),
    *_ours("adamomentum", "AdaMomentum", 2),
    *_ours("ano", "Ano", 2),
    _peer("ano", _PO, f"{_PO}:Ano", 2),
    *_ours("anolog", "Anolog", 2),
    *_ours("sophia", "Sophia", 2),
    *_ours("induced-metric", "InducedMetric", 1, goal=None),
    *_ours("induced-metric-rms", "InducedMetricRMS", 2, goal=None),
    # Whole tensors.
    *_ours("adamp", "AdamP", 2, goal=2.0, engines=_BOTH),
    _peer("adamp", _PO, f"{_PO}:AdamP", 2),
    *_ours("sgdp", "SGDP", 1, goal=2.0),
    _peer("sgdp", _PO, f"{_PO}:SGDP", 1, lr=0.1),
    *_ours("marsadamw", "MARSAdamW", 3, goal=2.0),
    _peer("marsadamw", _PO, f"{_PO}:MARS", 3),
    *_ours("marslion", "MARSLion", 2, goal=2.0),
    *_ours("auon", "AuON", 1, goal=2.0, matrices=True),
    *_ours("reg", "REG", 1, goal=2.0, matrices=True),
    # Matrices.
    replace(_matrix("muon", "Muon", "polar-express"), lead=2.0),
    _matrix("muon", "Muon", "polar-express, 5 steps", orthogonalization_steps=5),
    _matrix("muon", "Muon", "newton-schulz", orthogonalization="newton-schulz"),
    _peer("muon", "torch", "torch.optim:Muon", 1, matrices=True),
    Contender("muon", _PO, "default", _marked, 1, matrices=True),
    _peer("muon", "heavyball", "heavyball:Muon", 1, matrices=True),
    _matrix("marsshampoo", "MARSShampoo", buffers=2),
    _matrix("asgo", "ASGO", buffers=2),
    _matrix("frugal", "FRUGAL", "columns", buffers=0.5, projection="columns"),
    replace(
        _matrix("shampoo", "Shampoo", f"roots every {_EVERY}", 6, _EVERY, precondition_every=_EVERY, start=1),
        step_goal=3.0,
        lead=2.0,
    ),
    replace(
        _matrix("shampoo", "Shampoo", "roots every 100", 6, 100, precondition_every=100, statistics_every=10, start=1),
        step_goal=3.0,
    ),
    _peer(
        "shampoo",
        _PO,
        f"{_PO}:ScalableShampoo",
        6,
        f"roots every {_EVERY}",
        matrices=True,
        interval=_EVERY,
        preconditioning_compute_steps=_EVERY,
        start_preconditioning_step=1,
        block_size=128,
    ),
    replace(
        _matrix("psgd", "PSGD", f"refitted every {_PSGD_EVERY}", 3, _PSGD_EVERY, update_probability=1 / _PSGD_EVERY),
        step_goal=3.0,
        lead=2.0,
    ),
    _peer(
        "psgd",
        "heavyball",
        "heavyball:PSGDKron",
        3,
        f"refitted every {_PSGD_EVERY}",
        matrices=True,
        interval=_PSGD_EVERY,
        preconditioner_update_probability=1 / _PSGD_EVERY,
        max_size_triangular=8192,
    ),
)
