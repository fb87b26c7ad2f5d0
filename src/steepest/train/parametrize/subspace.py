"""Training in a random subspace: d numbers in place of all parameters."""

import hashlib
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from steepest.core.card import MethodCard, Paper
from steepest.core.ranges import WEIGHT_DECAY, Flag, Integer, OneOf

from .projections import Kind, project

__all__ = ["CARD", "Subspace"]


class Subspace(nn.Module):
    r"""A model whose parameters move in a random subspace alone, through where they are.

    .. math::
        \theta = \theta_0 + P z, \qquad z \in \mathbb{R}^d, \; z_0 = 0

    with a fixed random :math:`P` whose columns have norm one: :math:`E \lVert P z \rVert^2 = \lVert z \rVert^2`.
    Structure-aware, every parameter tensor has a projection and a scale of its own, with the same z, and the budget of
    d numbers includes the m scales:

    .. math::
        \theta_i = \theta_{0,i} + \lambda_i P_i z, \qquad z \in \mathbb{R}^{d - m}, \; \lambda_i = 1 \text{ at first}

    where the columns of each :math:`P_i` have norm one.

    - ``"dense"``: normal entries, columns normalized exactly. Memory of D d numbers for D parameters.
    - ``"sparse"``: :math:`\sqrt D` entries of random sign in every column, normalized exactly. Memory and time of
      :math:`d \sqrt D`.
    - ``"fastfood"``: :math:`P z \propto H G \Pi H B z` with the Walsh-Hadamard matrix H, random signs B, a random
      permutation :math:`\Pi` and normal diagonal G; columns have norm one on average. Memory of 2 to 4 D numbers for
      any d, time of :math:`D \log D`.

    It is a module like the model: ``forward`` takes the same arguments, and ``parameters()`` are z and the scales
    alone, for any optimizer. The model inside keeps its parameters, frozen at :math:`\theta_0`; those that were frozen
    before stay out. Shared parameters stay shared; buffers (batch statistics) are the model's. P follows from the seed
    (or is given) and is not in the ``state_dict``, which has :math:`\theta_0`, z, the scales and what P was made from:
    loading into a subspace with another P is refused.

    Args:
        model: what is trained; its parameters are frozen until :meth:`merge`.
        dimension: d, from 1 (structure-aware: m + 1) to D.
        kind: the projection; or a matrix of D x d of one's own, with ``structure_aware=False``.
        structure_aware: a projection and a scale for every tensor.
        seed: of the projection, an integer >= 0.

    Raises:
        ValueError, TypeError: a bad argument, or a model without trainable parameters.

    Sources: Aghajanyan, Zettlemoyer, Gupta (2020), Intrinsic Dimensionality Explains the Effectiveness of Language
    Model Fine-Tuning, arXiv 2012.13255; Li, Farkhoor, Liu, Yosinski (2018), Measuring the Intrinsic Dimension of
    Objective Landscapes, arXiv 1804.08838. Where the former's code gives Fastfood's backward pass a scale of its own,
    here it is the transpose of the forward pass; the latter's sparse entries fall independently of each other, here one
    in each part of the rows.
    """

    z: nn.Parameter
    scales: nn.Parameter | None

    def __init__(
        self,
        model: nn.Module,
        dimension: int,
        kind: Kind | Tensor = "fastfood",
        structure_aware: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("Subspace: the model has no trainable parameters")
        Flag().check("Subspace: structure_aware", structure_aware)
        Integer().check("Subspace: seed", seed)
        sizes = [p.numel() for p in named.values()]
        scales = len(sizes) if structure_aware else 0
        Integer(low=scales + 1, high=sum(sizes)).check("Subspace: dimension", dimension)
        if isinstance(kind, Tensor):
            if structure_aware or kind.shape != (sum(sizes), dimension):
                wanted = f"a matrix of {sum(sizes)} x {dimension} without structure_aware"
                raise ValueError(f"Subspace: kind must be {wanted}, got a tensor of shape {tuple(kind.shape)}")
        else:
            OneOf(get_args(Kind)).check("Subspace: kind", kind)
        like = next(iter(named.values()))
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.model = model
        self.names, self.sizes = list(named), sizes
        self.made_from = {
            "dimension": dimension,
            "kind": "matrix" if isinstance(kind, Tensor) else kind,
            "structure_aware": structure_aware,
            "seed": seed,
        }
        if isinstance(kind, Tensor):  # it follows from no seed: what tells it from others
            self.made_from["matrix"] = hashlib.sha256(kind.detach().double().cpu().numpy().tobytes()).hexdigest()
        rows = sizes if structure_aware else [sum(sizes)]
        self.projections = nn.ModuleList(
            project(kind, n, dimension - scales, dtype, (seed, index)) for index, n in enumerate(rows)
        ).to(like.device)
        self.z = nn.Parameter(torch.zeros(dimension - scales, dtype=dtype, device=like.device))
        ones = nn.Parameter(torch.ones(scales, dtype=dtype, device=like.device))
        self.register_parameter("scales", ones if structure_aware else None)
        for p in named.values():
            p.requires_grad_(False)

    def moved(self) -> dict[str, Tensor]:
        """The parameters as they are used, by name."""
        parts = [projection(self.z) for projection in self.projections]
        if self.scales is None:
            parts = list(parts[0].split(self.sizes))
        else:
            parts = [scale * part for scale, part in zip(self.scales, parts, strict=True)]
        start = [self.model.get_parameter(name) for name in self.names]
        return {
            name: p + part.reshape(p.shape).to(p.dtype) for name, p, part in zip(self.names, start, parts, strict=True)
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives with the moved parameters."""
        return functional_call(self.model, self.moved(), args, kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained: z and the scales."""
        frozen = {id(p) for p in self.model.parameters()}
        return (entry for entry in super().named_parameters(*args, **kwargs) if id(entry[1]) not in frozen)

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups that decay z, towards the start, and not the scales, whose place of rest is one.

        Args:
            weight_decay: >= 0.
        """
        WEIGHT_DECAY.check("Subspace: weight_decay", weight_decay)
        found: list[dict[str, Any]] = [{"params": [self.z], "weight_decay": weight_decay}]
        if self.scales is not None:
            found.append({"params": [self.scales], "weight_decay": 0.0})
        return found

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Move the model's own parameters to where they are, make them trainable again and return the model.

        The subspace then starts there, with z = 0.
        """
        for name, value in self.moved().items():
            self.model.get_parameter(name).copy_(value).requires_grad_(True)
        self.z.zero_()
        return self.model

    def get_extra_state(self) -> dict[str, Any]:
        """What the projection was made from."""
        return self.made_from

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the state of a subspace with another projection."""
        if state != self.made_from:
            raise ValueError(f"Subspace: the state is of a subspace of {state}, and this one is of {self.made_from}")


CARD = MethodCard(
    name="intrinsic-dimension",
    title="Intrinsic dimension",
    room="parametrize",
    family="subspace",
    summary="Trains a few numbers that move all parameters in a random subspace, and finds how few suffice.",
    target="steepest.train.parametrize.subspace:Subspace",
    papers=(
        Paper(
            "Aghajanyan, Zettlemoyer, Gupta",
            2020,
            "Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning",
            arxiv="2012.13255",
        ),
        Paper(
            "Li, Farkhoor, Liu, Yosinski",
            2018,
            "Measuring the Intrinsic Dimension of Objective Landscapes",
            arxiv="1804.08838",
        ),
    ),
    buffers=0,
    usage='steepest.train.parametrize.Subspace(model, dimension=750, kind="fastfood")',
    claim=(
        "A network trained in a random subspace of a few hundred dimensions reaches 90 % of the accuracy of training "
        "all its parameters, and pre-training makes that dimension smaller."
    ),
)
