"""The methods under contract, and small runs of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from steepest.catalogue import card, cards
from steepest.core.curvature import CurvatureOptimizer
from steepest.core.optimizer import RuleOptimizer
from steepest.core.rule import compute_dtype
from steepest.optim import adahessian, oasis, sania, sophia

#: Methods with a rule; transforms wrap others and have a contract of their own, ``test_contract_transforms.py``, as
#: have methods that take the batch, ``test_contract_batch.py``.
OURS = {
    name: e for name, e in cards("optim").items() if not e.wraps and e.family != "transform" and "batch" not in e.needs
}


class _Fed(CurvatureOptimizer):
    """A curvature method that feeds itself estimates made of the gradients, so that it runs like any other here."""

    def advance(self, closure: Any = None, loss: Any = None) -> Any:
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        given = [p.grad for p in params if p.grad is not None and p.grad.layout == torch.strided]
        finite = self.nonfinite == "propagate" or all(bool(g.isfinite().all()) for g in given)
        if self.wants_estimate and finite and all(p.grad is None or p.grad.layout == torch.strided for p in params):
            wide = [None if p.grad is None else p.grad.to(compute_dtype(p.dtype)) for p in params]
            self.observe([None if g is None else g * g.abs() for g in wide])
        super().advance(None, loss)
        return loss


class AdaHessian(_Fed, adahessian.AdaHessian):
    pass


class Sophia(_Fed, sophia.Sophia):
    pass


class OASIS(_Fed, oasis.OASIS):
    pass


class OASISMomentum(_Fed, oasis.OASISMomentum):
    pass


class SANIA(sania.SANIA):
    """Told a loss of one where it is told none."""

    def advance(self, closure: Any = None, loss: Any = None) -> Any:
        found = super().advance(closure, 1.0 if closure is None and loss is None else loss)
        return None if closure is None and loss is None else found

    @staticmethod
    def measure(pieces: Any, settings: Any, memory: Any, loss: Any) -> Any:
        gap = -1.0 if settings["maximize"] else 1.0
        return sania.SANIA.measure(pieces, settings, memory, gap)

    rule = staticmethod(sania.SANIA.rule)


FED = {"adahessian": AdaHessian, "oasis": OASIS, "oasis-momentum": OASISMomentum, "sania": SANIA, "sophia": Sophia}


@dataclass(frozen=True)
class Case:
    """A method with settings that make every term of its update count.

    ``buffers`` is the state in units of the parameter's size, where the settings make it another than the card's.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    buffers: float | None = None

    def __str__(self) -> str:
        return f"@{self.method}" + (f"+{self.variant}" if self.variant else "")

    @property
    def cls(self) -> type[RuleOptimizer]:
        return FED.get(self.method) or card(self.method).load()

    @property
    def coupled(self) -> bool:
        """Whether the tensors of a group influence each other: by a norm of all their gradients, say."""
        return self.cls.algorithm.measure is not None

    @property
    def pure(self) -> bool:
        """Whether the method has a functional form, which those lack that write in place or are fed from outside."""
        try:
            self.cls.functional(**self.settings)
        except TypeError:
            return False
        return True

    @property
    def groups_coupled(self) -> bool:
        """Whether those of all groups do."""
        return self.cls.couples_groups

    def build(self, params: Sequence[Tensor], **over: Any) -> RuleOptimizer:
        """The optimizer of these parameters; vectors go to the fallback rule where the method has one."""
        return self.cls(self.groups(params), **{**self.settings, **over})

    def groups(self, params: Sequence[Tensor]) -> Any:
        if self.cls.fallback is None:
            return list(params)
        own = [p for p in params if p.dim() > 1]
        rest = [p for p in params if p.dim() <= 1]
        groups = [{"params": own}, {"params": rest, "rule": self.cls.fallback.name}]
        return [group for group in groups if group["params"]]

    def group(self, p: Tensor, **settings: Any) -> dict[str, Any]:
        """A group of one parameter."""
        vector = self.cls.fallback is not None and p.dim() < 2
        return {"params": [p], **({"rule": self.cls.fallback.name} if vector else {}), **settings}  # type: ignore[union-attr]


#: Seed 4 makes the first entry of the first matrix one of those with state, for the tests that poison it.
FRUGAL = {"lr": 0.01, "weight_decay": 0.1, "density": 0.25, "gap": 3, "free_scale": 0.3, "seed": 4}
CASES = (
    Case("lion", {"lr": 0.01, "weight_decay": 0.1}),
    Case("lion-k", {"lr": 0.01, "weight_decay": 0.1, "kappa": "huber", "epsilon": 0.3}),
    Case("lion-k", {"lr": 0.01, "weight_decay": 0.1, "kappa": "rows"}, "rows"),
    Case("lion-k", {"lr": 0.01, "weight_decay": 0.1, "kappa": "top-k", "k": 3}, "top-k"),
    Case("lion-k", {"lr": 0.01, "weight_decay": 0.1, "kappa": "nuclear"}, "nuclear"),
    Case("adabelief", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-8}),
    Case("diffgrad", {"lr": 0.01, "weight_decay": 0.1}),
    Case("ademamix", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99, 0.999), "warmup": 9}),
    Case("adabound", {"lr": 0.01, "weight_decay": 0.1, "gamma": 0.05}),
    Case("amsbound", {"lr": 0.01, "weight_decay": 0.1, "gamma": 0.05}),
    Case("adamp", {"lr": 0.01, "weight_decay": 0.1, "delta": 2.0}),
    Case("adamp", {"lr": 0.01, "weight_decay": 0.1, "nesterov": True}, "nesterov"),
    Case("sgdp", {"lr": 0.01, "weight_decay": 0.01, "momentum": 0.9, "dampening": 0.1, "delta": 2.0}),
    Case("adahessian", {"lr": 0.01, "weight_decay": 0.1, "block_size": 2}),
    Case("sophia", {"lr": 0.01, "weight_decay": 0.1, "update_every": 1, "gamma": 0.5}),
    Case("muon", {"lr": 0.02, "weight_decay": 0.1}),
    Case("muon", {"lr": 0.02, "weight_decay": 0.1, "orthogonalization": "exact", "scale": "rms"}, "exact"),
    Case("amsgrad", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.9)}),
    Case("amsgrad", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.9), "bias_correction": "before"}, "before"),
    Case("adamomentum", {"lr": 0.01, "weight_decay": 0.1}),
    Case("ano", {"lr": 0.01, "weight_decay": 0.1}),
    Case("anolog", {"lr": 0.01, "weight_decay": 0.1, "beta2": 0.9}),
    Case("trust-region", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "l2"}),
    Case("trust-region", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "max"}, "max"),
    Case("trust-region", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "column"}, "column"),
    Case("trust-region", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "spectral"}, "spectral"),
    Case("trust-region", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "nuclear"}, "nuclear"),
    Case("trust-region-extrapolated", {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "norm": "l2"}),
    Case("trust-region-extrapolated", {"lr": 0.02, "weight_decay": 0.1, "norm": "spectral"}, "spectral"),
    Case("auon", {"lr": 0.2, "weight_decay": 0.1, "gamma": 2.0}),
    Case("auon", {"lr": 0.2, "weight_decay": 0.1, "mode": "code", "gamma": 2.0}, "code"),
    Case("hybrid-auon", {"lr": 0.2, "weight_decay": 0.1, "gamma": 2.0}),
    Case("reg", {"lr": 0.02, "weight_decay": 0.1}),
    Case("asgo", {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-3}),
    Case("asgo", {"lr": 0.02, "weight_decay": 0.1, "beta": 1.0, "eps": 1e-3, "rescale": False}, "theory"),
    Case("dasgo", {"lr": 0.02, "weight_decay": 0.1}),
    Case("dasgo", {"lr": 0.02, "weight_decay": 0.1, "beta": 1.0, "rescale": False}, "theory"),
    Case("shampoo", {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-3, "start": 2, "precondition_every": 2}),
    Case("psgd", {"lr": 0.01, "weight_decay": 0.1, "damping": 1e-3, "clip_value": 1.5}),
    Case("psgd", {"lr": 0.01, "weight_decay": 0.1, "curvature": "momentum", "update_probability": 0.4}, "momentum"),
    Case("psgd-lra", {"lr": 0.01, "weight_decay": 0.1, "damping": 1e-3, "clip_value": 1.5}),
    Case("psgd-xmat", {"lr": 0.01, "weight_decay": 0.1, "damping": 1e-3, "clip_value": 1.5}),
    Case("marsadamw", {"lr": 0.01, "weight_decay": 0.1, "gamma": 0.2}),
    Case("marsadamw", {"lr": 0.01, "weight_decay": 0.1, "gamma": 0.2, "max_norm": None}, "no-clip"),
    Case("marslion", {"lr": 0.01, "weight_decay": 0.1, "gamma": 0.2}),
    Case("marsshampoo", {"lr": 0.02, "weight_decay": 0.1, "gamma": 0.2}),
    Case("marsshampoo", {"lr": 0.02, "weight_decay": 0.1, "gamma": 0.2, "orthogonalization": "exact"}, "exact"),
    Case("mfac", {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.8, "damping": 0.1, "history_size": 3}, buffers=4),
    Case("optimistic-amsgrad", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)}),
    Case("induced-metric", {"lr": 0.01, "weight_decay": 0.1, "xi": 0.05}),
    Case("induced-metric-rms", {"lr": 0.01, "weight_decay": 0.1, "xi": 0.05}),
    Case("oasis", {"lr": 1.0, "weight_decay": 0.1, "exact": False, "truncation": 0.1}),
    Case("oasis-momentum", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.9), "truncation": 0.1}),
    Case("sania", {"lr": 1.0, "weight_decay": 0.1, "beta2": 0.9, "eps": 0.01}),
    Case("sania", {"lr": 1.0, "weight_decay": 0.1, "preconditioner": "adagrad", "eps": 0.01}, "adagrad"),
    Case("frugal", FRUGAL | {"projection": "columns"}),
    Case("frugal", FRUGAL | {"projection": "random", "state_free": "sgd"}, "random"),
    Case("frugal", FRUGAL | {"projection": "svd"}, "svd", buffers=0.75),
    Case("frugal", FRUGAL | {"projection": "block", "density": 1.0}, "block", buffers=2),
    Case("drop-muon", {"lr": 0.02, "weight_decay": 0.1, "probabilities": 1.0}),
)
SHAPES = ((4, 6), (3, 2, 3, 2), (5,), (7, 3), (2,))


def parameters(shapes: Iterable[Sequence[int]] = SHAPES, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Fresh parameters; equal seeds give equal values."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.complex128 if dtype.is_complex else torch.float64
    return [Parameter(torch.randn(tuple(s), generator=generator, dtype=draw).to(dtype)) for s in shapes]


def gradients(params: Sequence[Tensor], steps: int, seed: int = 1) -> list[list[Tensor]]:
    """A gradient for every parameter and step."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randn(p.shape, generator=generator, dtype=torch.complex128 if p.is_complex() else torch.float64).to(
                p.dtype
            )
            for p in params
        ]
        for _ in range(steps)
    ]


def assign(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else g.clone()


def run(opt: torch.optim.Optimizer, params: Sequence[Tensor], grads: Sequence[Sequence[Tensor | None]]) -> None:
    """One step for each list of gradients."""
    for step in grads:
        assign(params, step)
        opt.step()


def snapshot(opt: torch.optim.Optimizer, params: Sequence[Tensor]) -> list[Any]:
    """Everything a step may change: values and states, copied."""
    found: list[Any] = [p.detach().clone() for p in params]
    for p in params:
        for name in sorted(opt.state.get(p, {})):
            value = opt.state[p][name]
            found.append(value.clone() if isinstance(value, Tensor) else value)
    return found


def assert_same(left: Sequence[Any], right: Sequence[Any]) -> None:
    """Equal bit for bit."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a, b), f"differs by {(a - b).abs().max()}"
        else:
            assert a == b


def assert_close(left: Iterable[Tensor], right: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def cosine(steps: int) -> Callable[[int], float]:
    """A schedule's factor."""
    return lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
