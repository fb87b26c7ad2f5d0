"""Drop-Muon: Muon that updates the last layers at each step, and the first ones now and then."""

import contextlib
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from ..core.card import Float, MethodCard, Paper
from ..core.layers import layers_of
from ..core.optimizer import Common, Parameters
from ..core.random import generator
from ..core.ranges import Integer
from .muon import Muon

__all__ = ["CARD", "DropMuon"]

#: A layer: a module, a tensor, or several of them.
Layer = nn.Module | Tensor | Sequence[nn.Module | Tensor]


class DropMuon(Muon):
    r"""Drop-Muon with randomised progressive training: :class:`~steepest.optim.muon.Muon` on a random run of layers.

    With the layers :math:`1, \dots, b` in the order of the forward pass, each step draws the first one :math:`s_t`
    and updates those from it to the last:

    .. math::
        s_t \sim (p_1, \dots, p_b), \qquad
        X_{i,t} = \begin{cases} \text{Muon's step} & i \ge s_t \\ X_{i,t-1} & i < s_t \end{cases}

    A layer below :math:`s_t` is frozen as a whole: weights, momentum, weight decay, and the AdamW state of its biases
    and norms. Layer :math:`i` is updated with probability :math:`p_1 + \dots + p_i`, the last one always.

    This saves the backward pass below :math:`s_t` and the orthogonalization of what is frozen. So the draw for the next
    step is made when the optimizer is built and after each step, and the tensors of the layers below are set to
    ``requires_grad=False`` (their gradients to ``None``): autograd stops there by itself. :meth:`release` thaws
    everything, for good or for the time of a ``with`` block. Tensors that were frozen by somebody else are left alone.

    Args:
        params: the model; or matrices, or parameter groups with ``rule="dropmuon"`` (default) or ``rule="adamw"``.
        lr, momentum, weight_decay, nesterov, scale, orthogonalization, orthogonalization_steps, adamw_lr, adamw_betas,
            adamw_eps, routing: as for Muon, with its defaults. The paper analyses ``nesterov=False``. Since early
            layers move less often, tune the learning rate anew.
        layers: the layers from input to output, each a module, a tensor, or a sequence of them. By default those that
            :func:`~steepest.core.layers.layers_of` finds in a model; without a model, every tensor is a layer of its
            own, in the order of the groups. Tensors that no layer names come last, each by itself; of those in several
            layers, the first counts (so a head that is tied to the embedding is updated with the first layer).
        probabilities: :math:`p_1, \dots, p_b`; or :math:`p_1` alone, the rest being spread evenly; or None: all equal.
            Kept in each parameter group and read from the first one before each draw, so it may be scheduled
            (``for group in optimizer.param_groups: group["probabilities"] = ...``).
        seed: of the draws, which depend on it and on the number of steps alone.
        common: ``maximize``, ``engine``, ``nonfinite``, ``state_dtype``, ``rounding``: see
            :class:`~steepest.core.optimizer.RuleOptimizer`. A step skipped for its gradients keeps its layers.

    Raises:
        ValueError, TypeError: the probabilities are not ``b`` numbers in [0, 1] that sum to 1; a layer is neither
            module nor tensor or holds no tensor of the optimizer; a vector is in a group of matrices.

    The state dict has what a run needs to go on bit for bit; loading it freezes what its next step leaves out. The
    functional form is Muon's. Out of scope: ``DistributedDataParallel`` and sharded models, which fix at their
    construction which tensors get gradients. A compiled model is compiled anew for each of the ``b`` cuts. Running
    statistics of batch norms move in frozen layers, too. ``torch.distributed.checkpoint`` makes its template by a step
    of all layers: do it ``with optimizer.release():``.

    Source: Gruntkowska, Maziane, Qu, Richtarik (2025), Drop-Muon: Update Less, Converge Faster, arXiv 2510.02239; its
    form with a linear minimization oracle.
    """

    ranges = {**Muon.ranges, "seed": Integer(low=0)}
    rule = staticmethod(Muon.rule)

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        scale: Literal["spectral", "rms"] = "spectral",
        orthogonalization: Literal["polar-express", "newton-schulz", "exact"] = "polar-express",
        orthogonalization_steps: int | None = None,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        *,
        layers: Sequence[Layer] | None = None,
        probabilities: float | Sequence[float] | None = None,
        seed: int = 0,
        routing: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        self.ranges["seed"].check("DropMuon: seed", seed)
        self._draw_from = {"seed": seed, "probabilities": probabilities}
        self._asleep: list[Tensor] = []
        self._released = True  # until all groups and layers are there
        self._layers: list[list[Tensor]] = []
        super().__init__(
            params,
            lr,
            momentum,
            weight_decay,
            nesterov,
            scale,
            orthogonalization,
            orthogonalization_steps,
            adamw_lr,
            adamw_betas,
            adamw_eps,
            routing=routing,
            **common,
        )
        if layers is None and isinstance(params, nn.Module):
            layers = layers_of(params)
        self._layers = self._tensors_of(layers or ())
        self._released = False
        self._freeze()

    # ---------------------------------------------------------------------------------------- layers

    @property
    def layers(self) -> list[list[Tensor]]:
        """The tensors of each layer, from input to output."""
        named = {id(p) for layer in self._layers for p in layer}
        rest = [[p] for group in self.param_groups for p in group["params"] if id(p) not in named]
        return self._layers + rest

    @property
    def first(self) -> int:
        """Index of the first layer that the next step updates, counted from 0."""
        group, count = self.param_groups[0], len(self.layers)
        chances = _distribution(group["probabilities"], count)
        source = generator(torch.device("cpu"), "drop-muon", group["seed"], group["draws"])
        at = float(torch.rand((), generator=source, dtype=torch.float64))
        for index, chance in enumerate(chances):
            at -= chance
            if at < 0:
                return index
        return max(index for index, chance in enumerate(chances) if chance)  # the sum was a rounding error below 1

    def _tensors_of(self, layers: Sequence[Layer]) -> list[list[Tensor]]:
        known = {id(p) for group in self.param_groups for p in group["params"]}
        taken: set[int] = set()
        found: list[list[Tensor]] = []
        for index, layer in enumerate(layers):
            parts = [layer] if isinstance(layer, (nn.Module, Tensor)) else list(layer)
            tensors: list[Tensor] = []
            for part in parts:
                if not isinstance(part, (nn.Module, Tensor)):
                    raise TypeError(
                        f"DropMuon: layers[{index}] must be a module, a tensor or a sequence of them, got {layer!r}"
                    )
                tensors += part.parameters() if isinstance(part, nn.Module) else [part]
            if not any(id(p) in known for p in tensors):
                raise ValueError(f"DropMuon: layers[{index}] must hold a tensor of the optimizer, got {layer!r}")
            own = [p for p in dict.fromkeys(tensors) if id(p) in known - taken]
            taken |= {id(p) for p in own}
            if own:  # empty where all are shared with layers before
                found.append(own)
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._freeze()

    def group_settings(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.param_groups:
            return {name: self.param_groups[0][name] for name in ("seed", "probabilities", "draws")}
        return {**self._draw_from, "draws": 0}

    # ---------------------------------------------------------------------------------------- freezing

    def release(self) -> contextlib.AbstractContextManager[None]:
        """Thaw all layers now; steps then update every layer that has gradients.

        Used in a ``with`` statement, the layers that the next step leaves out are frozen again at its end.
        """
        self._released = True
        self._thaw()
        return self._until_exit()

    @contextlib.contextmanager
    def _until_exit(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._released = False
            self._freeze()

    def _thaw(self) -> None:
        for p in self._asleep:
            p.requires_grad_(True)
        self._asleep = []

    def _freeze(self) -> None:
        """Let the layers take part that the next step updates, and no others."""
        self._thaw()
        if self._released:
            return
        self._asleep = [p for layer in self.layers[: self.first] for p in layer if p.requires_grad]
        for p in self._asleep:
            p.requires_grad_(False)
            p.grad = None

    def _with_gradient(self, group: Mapping[str, Any]) -> list[Tensor]:
        asleep = {id(p) for p in self._asleep}  # somebody may have set a gradient by hand
        return [p for p in super()._with_gradient(group) if id(p) not in asleep]

    def after_step(self) -> None:
        for group in self.param_groups:
            group["draws"] += 1
        self._freeze()

    # ---------------------------------------------------------------------------------------- saving

    def _restore_state(self, state_dict: Mapping[str, Any]) -> None:
        super()._restore_state(state_dict)
        self._freeze()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_draw_from", "_asleep", "_released", "_layers")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}


def _distribution(given: Any, count: int) -> list[float]:
    """The probabilities of the first layer to be updated."""
    allowed = f"None, a number in [0, 1], or {count} of them that sum to 1 (one for each layer)"
    single = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if given is None:
        return [1 / count] * count
    if not single and not isinstance(given, (list, tuple)):
        raise TypeError(f"DropMuon: probabilities must be {allowed}, got {given!r}")
    if single:
        rest = 1 - float(given)
        chances = [float(given), *[rest / (count - 1)] * (count - 1)] if count > 1 else [1.0]
    else:
        if not all(isinstance(p, numbers.Real) and not isinstance(p, bool) for p in given):
            raise TypeError(f"DropMuon: probabilities must be {allowed}, got {given!r}")
        chances = [float(p) for p in given]
    inside = all(0 <= p <= 1 for p in chances) and (not single or 0 <= given <= 1)
    if not inside or len(chances) != count or not math.isclose(sum(chances), 1, abs_tol=1e-6):
        raise ValueError(f"DropMuon: probabilities must be {allowed}, got {given!r}")
    return chances


CARD = MethodCard(
    name="drop-muon",
    title="Drop-Muon",
    room="optim",
    family="matrix",
    summary="Muon on a random run of last layers; back-propagation stops below them.",
    target="steepest.optim.drop_muon:DropMuon",
    papers=(
        Paper(
            "Gruntkowska, Maziane, Qu, Richtarik",
            2025,
            "Drop-Muon: Update Less, Converge Faster",
            arxiv="2510.02239",
        ),
    ),
    buffers=1,
    search={
        "lr": Float(1e-3, 0.3, log=True),
        "adamw_lr": Float(1e-4, 3e-2, log=True),
        "weight_decay": Float(1e-4, 0.3, log=True),
    },
    takes_model=True,
    claim="Reaches the same training accuracy as full Muon up to 1.4 times faster in wall-clock time.",
)
