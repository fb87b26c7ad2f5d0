"""Forward gradients: directional derivatives along guesses of the gradient, without backpropagation."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from steepest.core.card import MethodCard, Paper
from steepest.core.curvature import twice_differentiable
from steepest.core.operators import trainable
from steepest.core.oracle import tally
from steepest.core.random import normal, signs
from steepest.core.ranges import Flag, Integer, OneOf
from steepest.core.twopoint import RandomState
from steepest.train.local.blocks import add_gradients, blocks_of, local_gradients

__all__ = ["CARD", "ForwardGradient", "LocalLosses"]

CARD = MethodCard(
    name="forward-gradient",
    title="Forward gradient",
    room="local",
    family="forward mode",
    summary="Estimates the gradient by directional derivatives along random or locally learned guesses of it.",
    target="steepest.train.local.forward_gradient:ForwardGradient",
    papers=(
        Paper(
            "L. Fournier, S. Rivaud, E. Belilovsky, M. Eickenberg, E. Oyallon",
            2023,
            "Can Forward Gradient Match Backpropagation?",
            arxiv="2306.06968",
        ),
        Paper(
            "A. G. Baydin, B. A. Pearlmutter, D. Syme, F. Wood, P. Torr",
            2022,
            "Gradients without Backpropagation",
            arxiv="2202.08587",
        ),
    ),
    needs=frozenset({"jvp"}),
    buffers=1,
    usage="steepest.train.local.ForwardGradient(model, loss).estimate(inputs, targets)",
    claim="Guesses from local losses make forward gradients far better than random guesses do, close to "
    "backpropagation, though a gap remains.",
)

#: ``(inputs, targets) -> {parameter: guess}``.
Guess = Callable[[Any, Any], Mapping[nn.Parameter, Tensor]]
_DRAWS = {"gaussian": normal, "rademacher": signs}


class LocalLosses:
    r"""A loss for every block of a network, through an auxiliary head that sees that block's output alone.

    .. math:: \ell_k = \ell\big(a_k(x_k), y\big), \qquad x_k = f_k(\mathrm{detach}(x_{k-1})), \qquad k < K

    and :math:`\ell_K = \ell(x_K, y)` for the last block, which needs no head: its local gradient is the true one. By
    itself (:meth:`backward`) it trains every block greedily; as a guess it serves :class:`ForwardGradient`.

    Args:
        network: as for :func:`~steepest.train.local.blocks.blocks_of`.
        heads: a module for each block but the last, from its output to what ``loss`` takes. Their parameters need an
            optimizer, too.
        loss: ``loss(outputs, targets)``, a mean over the batch.

    Raises:
        ValueError: there are not as many heads as blocks but one; or see ``blocks_of``.
    """

    def __init__(
        self,
        network: nn.Module | Iterable[nn.Module],
        heads: Iterable[nn.Module],
        loss: Callable[[Any, Any], Tensor],
    ) -> None:
        self.blocks = blocks_of(network)
        self.heads = nn.ModuleList(heads)
        self.loss = loss
        if len(self.heads) != len(self.blocks) - 1:
            raise ValueError(
                f"heads must be one for each of the {len(self.blocks)} blocks but the last, got {len(self.heads)}"
            )

    def gradients(self, inputs: Any, targets: Any) -> tuple[list[Tensor], dict[nn.Parameter, Tensor]]:
        """The loss of every block, and the gradients of its own and its head's parameters.

        No graph is longer than a block and its head. The random numbers that heads draw (dropout) do not shift those
        of the blocks, so that a pass through the network alone has the same masks.
        """
        losses, gradients = [], {}
        for number, block in enumerate(self.blocks):
            head = self.heads[number] if number < len(self.heads) else None

            def objective(outputs: Tensor, head: nn.Module | None = head) -> Tensor:
                if head is None:
                    return self.loss(outputs, targets)
                here = RandomState([outputs])
                value = self.loss(head(outputs), targets)
                here.restore()
                return value

            inputs, value, found = local_gradients(block, inputs, objective, *(() if head is None else (head,)))
            losses.append(value)
            gradients.update(found)
        return losses, gradients

    def backward(self, inputs: Any, targets: Any) -> list[Tensor]:
        """Add the local gradients to ``.grad``, and return the losses of the blocks, the network's own last."""
        losses, found = self.gradients(inputs, targets)
        add_gradients(found)
        return losses


class ForwardGradient:
    r"""Estimates of the gradient along guesses, by forward-mode differentiation.

    With a guess :math:`g` of the gradient of a loss :math:`L` at parameters :math:`w`, one directional derivative
    :math:`\langle \nabla L(w), g\rangle` gives

    .. math:: \hat\nabla = \langle \nabla L(w), g \rangle\, g
        \qquad\text{or, normalized,}\qquad
        \hat\nabla = \frac{\langle \nabla L(w), g \rangle}{\|g\|^2}\, g .

    For random guesses with mean zero and covariance the identity the first is unbiased, with a variance that grows with
    the number of parameters :math:`d`: :math:`E\|\hat\nabla - \nabla L\|^2 = (d + 1) \|\nabla L\|^2` for one Gaussian
    direction. The second is the projection of the gradient on the guess: exact where the guess is parallel to it,
    smaller by a factor of about :math:`d` for a random one, and biased for one that is learned.

    With ``groups``, the same is done for parts of the parameters, one derivative for each: less variance, more passes.
    A pass costs about two evaluations of the loss, and its memory does not grow with depth; for random guesses no graph
    for backpropagation is built. Dropout draws the same masks in all passes of a call and the buffers of the model
    (running statistics) see one. The estimates are added to ``.grad``, for any optimizer of ``torch``::

        estimator = ForwardGradient(model, loss)
        for inputs, targets in loader:
            optimizer.zero_grad()
            value = estimator.estimate(inputs, targets)
            optimizer.step()

    The paper projects for every sample by itself, which it simulates by backpropagation; here a batch has one inner
    product for each group, which is what forward-mode derivatives can give. Guesses are of weights; those of
    activations are not done.

    Args:
        model: its outputs are ``model(inputs)``. Parameters that do not require gradients are left alone.
        loss: ``loss(outputs, targets) -> scalar``.
        guess: ``"gaussian"`` (default) or ``"rademacher"``; :class:`LocalLosses` over the blocks of the model, whose
            heads and last block then get their true gradients; or a function from ``(inputs, targets)`` to a mapping
            from parameters to guesses (those left out get no gradient), which leaves buffers as they are.
        n_directions: random guesses per call, whose estimates are averaged, >= 1. Default 1.
        normalized: whether to divide by the guess's squared norm; None, the default: for guesses that are not random.
        groups: ``"model"``: one derivative for all parameters; ``"tensor"``: one for each parameter; or modules, one
            for each. None, the default: the blocks of ``LocalLosses``, else the model.
        seed: of random guesses. With the number of the call it determines them, for each parameter by its name.

    Raises:
        ValueError, TypeError: an argument is out of its range; the groups or blocks do not cover the model.

    Source: L. Fournier, S. Rivaud, E. Belilovsky, M. Eickenberg, E. Oyallon (2023), Can Forward Gradient Match
    Backpropagation?, arXiv 2306.06968; the unbiased form: A. G. Baydin et al. (2022), arXiv 2202.08587. The authors'
    code divides random guesses by their squared norm, too (``normalized=True``).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        guess: str | LocalLosses | Guess = "gaussian",
        *,
        n_directions: int = 1,
        normalized: bool | None = None,
        groups: str | Iterable[nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
        random = isinstance(guess, str)
        if random:
            OneOf(tuple(_DRAWS)).check("guess", guess)
        elif not isinstance(guess, LocalLosses) and not callable(guess):
            raise TypeError(f"guess must be a name, LocalLosses or a function, got {guess!r}")
        Integer(low=1, high=None if random else 1).check("n_directions", n_directions)
        if normalized is not None:
            Flag().check("normalized", normalized)
        Integer(low=0).check("seed", seed)
        self.model, self.loss, self.guess = model, loss, guess
        self.n_directions, self.seed = n_directions, seed
        self.normalized = not random if normalized is None else normalized
        self.calls = 0
        if groups is None:
            groups = guess.blocks if isinstance(guess, LocalLosses) else "model"
        self.groups = self._resolve(groups)
        if isinstance(guess, LocalLosses):
            self._resolve(guess.blocks)

    def _resolve(self, groups: str | Iterable[nn.Module]) -> list[list[str]]:
        """Names of the parameters of each group."""
        names = {p: name for name, p in trainable(self.model).items()}
        if isinstance(groups, str):
            OneOf(("model", "tensor")).check("groups", groups)
            return [list(names.values())] if groups == "model" else [[name] for name in names.values()]
        parts = [[p for p in module.parameters() if p.requires_grad] for module in groups]
        counted = [p for part in parts for p in part]
        missing = [name for p, name in names.items() if sum(p is q for q in counted) != 1]
        if missing or len(counted) != len(names):
            raise ValueError(
                f"groups (or blocks) must hold every trainable parameter of the model once and no other, got "
                f"{len(counted)} of {len(names)}; not once: {', '.join(missing[:5]) or 'none'}"
            )
        return [[names[p] for p in part] for part in parts if part]

    @torch.no_grad()
    def estimate(self, inputs: Any, targets: Any) -> Tensor:
        """Add an estimate of the gradient to ``.grad``.

        Returns:
            The loss of the batch.
        """
        params = trainable(self.model)
        start, buffers = RandomState(list(params.values())), {n: b.clone() for n, b in self.model.named_buffers()}
        found: dict[nn.Parameter, Tensor] = {}
        value: Tensor | None = None
        learned: dict[str, Tensor] | None = None
        if not isinstance(self.guess, str):
            if isinstance(self.guess, LocalLosses):
                losses, gradients = self.guess.gradients(inputs, targets)
                value = losses[-1]
                exact = {*self.guess.heads.parameters(), *self.guess.blocks[-1].parameters()}
                found = {p: g for p, g in gradients.items() if p in exact}
                gradients = {p: g for p, g in gradients.items() if p not in exact}
            else:
                gradients = dict(self.guess(inputs, targets))
            learned = {name: gradients[p] for name, p in params.items() if p in gradients}
        first = learned is None or not isinstance(self.guess, LocalLosses)  # else the statistics are counted already
        for number in range(self.n_directions):
            guesses = self._draw(params, number) if learned is None else learned
            for group in self.groups:
                direction = {name: guesses[name] for name in group if name in guesses}
                if not direction:
                    continue
                start.restore()
                at, slope, held = self._derivative(params, direction, buffers, inputs, targets)
                if first:
                    for name, b in self.model.named_buffers():
                        b.copy_(held[name])
                    first, value = False, at
                if self.normalized:
                    length = sum(g.square().sum() for g in direction.values())
                    slope = torch.where(length > 0, slope / length, 0.0)
                for name, g in direction.items():
                    part = slope * g / self.n_directions
                    found[params[name]] = found[params[name]] + part if params[name] in found else part
        self.calls += 1
        add_gradients(found)
        if value is None:
            raise ValueError("guess must hold at least one trainable parameter of the model, got none")
        return value.detach()

    def _draw(self, params: Mapping[str, nn.Parameter], number: int) -> dict[str, Tensor]:
        draw = _DRAWS[str(self.guess)]
        return {name: draw(p, self.seed, self.calls, number, name) for name, p in params.items()}

    def _derivative(
        self,
        params: Mapping[str, nn.Parameter],
        direction: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Any,
        targets: Any,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss, its derivative along the direction, and the buffers as the pass leaves them."""
        still = {name: p.detach() for name, p in params.items() if name not in direction}

        def function(moved: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            held = {name: b.clone() for name, b in buffers.items()}  # made in here, where it may be written to
            value = self.loss(functional_call(self.model, {**still, **moved, **held}, (inputs,)), targets)
            return value, held

        tally("jvp")
        at = {name: params[name].detach() for name in direction}
        with twice_differentiable():  # the fused kernels of attention have no forward mode either
            return jvp(function, (at,), (direction,), has_aux=True)

    def state_dict(self) -> dict[str, int]:
        """What determines the random guesses to come."""
        return {"seed": self.seed, "calls": self.calls}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: the state is not one of this class.
        """
        if set(state) != {"seed", "calls"}:
            raise ValueError(f"state must hold 'seed' and 'calls', got {sorted(state)}")
        for name in ("seed", "calls"):
            Integer(low=0).check(name, state[name])
        self.seed, self.calls = int(state["seed"]), int(state["calls"])
