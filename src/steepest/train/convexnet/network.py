r"""Two-layer ReLU networks, and the way from a solution of the convex program to one.

Convention of the whole room: **the loss is summed over samples** (and outputs), never averaged, and the network's
objective is

.. math:: \sum_k \ell(f(x_k), y_k) + \tfrac{\beta}{2} \sum_j (\|u_j\|^2 + \|a_j\|^2), \qquad
          f(x) = \sum_j (x \cdot u_j)_+ a_j

with :math:`\beta` the ``penalty``. To compare with a mean over samples divide loss and penalty by ``n``: scikit-learn's
``Lasso`` has ``alpha = penalty / n``, and ``scnn``, whose squared loss is :math:`\|f - y\|^2 / (2 n)`, has
``lambda = penalty / n`` (with ``unitize_data=False``).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from steepest.core.losses import Loss
from steepest.core.ranges import Flag, Integer, Real
from steepest.train.convexnet.losses import as_loss, sum_of

__all__ = ["TwoLayerGatedReLU", "TwoLayerReLU", "nonconvex_objective", "recover", "recover_gated", "with_bias"]


def with_bias(features: Tensor, bias: bool = True) -> Tensor:
    """The design of a network: ``features`` with a column of ones behind, where there is a bias."""
    return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], dim=-1) if bias else features


class TwoLayerReLU(nn.Module):
    r""":math:`f(x) = A (U x)_+`, an ordinary module.

    The hidden bias is the weight of a last input that is always 1, and is penalized like the others. The output has
    none.

    Args:
        inputs: the number of features, without the ones.
        width: the number of hidden neurons.
        outputs: the number of outputs. Default 1.
        bias: whether the design has a column of ones. Default False.
        dtype, device: of the parameters.

    Attributes:
        hidden: ``hidden.weight`` is ``U``, ``(width, inputs)``, or ``(width, inputs + 1)`` with a bias.
        output: ``output.weight`` is ``A``, ``(outputs, width)``.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int = 1,
        *,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("inputs", inputs), ("width", width), ("outputs", outputs)):
            Integer(low=1).check(name, number)
        Flag().check("bias", bias)
        self.bias = bias
        self.hidden = nn.Linear(inputs + bias, width, bias=False, dtype=dtype, device=device)
        self.output = nn.Linear(width, outputs, bias=False, dtype=dtype, device=device)

    @property
    def width(self) -> int:
        """The number of hidden neurons."""
        return self.hidden.out_features

    def design(self, features: Tensor) -> Tensor:
        """What the hidden layer sees: the features, and ones where there is a bias."""
        return with_bias(features, self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Predictions ``(..., outputs)`` of features ``(..., inputs)``."""
        return self.output(torch.relu(self.hidden(self.design(features))))

    def squared_weights(self) -> Tensor:
        r""":math:`\sum_j \|u_j\|^2 + \|a_j\|^2`, a 0-dim tensor."""
        return self.hidden.weight.square().sum() + self.output.weight.square().sum()


class TwoLayerGatedReLU(TwoLayerReLU):
    r""":math:`f(x) = A (1[H x \ge 0] \circ U x)`: which samples a neuron lets through is fixed by its gate.

    Args:
        gates: ``H``, ``(width, inputs)`` (with a bias, ``inputs + 1``); a buffer, not trained.
        outputs: the number of outputs. Default 1.
        bias: whether the design has a column of ones. Default False.
    """

    gates: Tensor

    def __init__(self, gates: Tensor, outputs: int = 1, *, bias: bool = False) -> None:
        width, columns = gates.shape
        super().__init__(columns - bias, width, outputs, bias=bias, dtype=gates.dtype, device=gates.device)
        self.register_buffer("gates", gates.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Predictions ``(..., outputs)`` of features ``(..., inputs)``."""
        design = self.design(features)
        return self.output(self.hidden(design) * (design @ self.gates.mT >= 0))


def recover(v: Tensor, w: Tensor, *, bias: bool = False) -> TwoLayerReLU:
    r"""The network of a solution of the convex program.

    A block ``v_i`` that is not zero becomes the neuron :math:`u = v_i / \sqrt{\|v_i\|}`, :math:`a = \sqrt{\|v_i\|}`,
    and ``w_i`` the same with ``-a``. Where the blocks keep their cones, the network's objective
    (:func:`nonconvex_objective`) equals the convex one. With several outputs each neuron serves one of them.

    Args:
        v, w: the blocks, ``(P, d)``, or ``(P, d, outputs)``.
        bias: whether the last of the ``d`` columns of the design is ones.

    Returns:
        A network in the dtype and on the device of ``v``, as wide as there are blocks that are not zero; where all are
        zero, it has one neuron, zero.
    """
    Flag().check("bias", bias)
    if not isinstance(v, Tensor) or not isinstance(w, Tensor) or v.shape != w.shape or v.dim() not in (2, 3):
        raise ValueError("v and w must be tensors of one shape, (P, d) or (P, d, outputs)")
    v, w = (block.detach().reshape(*block.shape[:2], -1) for block in (v, w))
    outputs = v.shape[2]
    # (sign, pattern, output, d), so that the neurons come in an order that can be told.
    blocks = torch.stack([v, w]).movedim(-1, 2)
    length = torch.linalg.vector_norm(blocks, dim=-1)
    sign, pattern, output = torch.nonzero(length > 0, as_tuple=True)
    # Without initial weights, which would be drawn from the global generator and then overwritten.
    network = nn.utils.skip_init(
        TwoLayerReLU, v.shape[1] - bias, max(1, len(sign)), outputs, bias=bias, dtype=v.dtype, device=v.device
    )
    with torch.no_grad():
        network.hidden.weight.zero_()
        network.output.weight.zero_()
        if len(sign):
            root = length[sign, pattern, output].sqrt()
            network.hidden.weight.copy_(blocks[sign, pattern, output] / root[:, None])
            neurons = torch.arange(len(sign), device=v.device)
            network.output.weight[output, neurons] = root * (1 - 2 * sign).to(root)
    return network


def recover_gated(v: Tensor, gates: Tensor, *, bias: bool = False) -> TwoLayerGatedReLU:
    r"""The gated network of a solution of the program without cones.

    The block of each pattern, a ``(d, outputs)`` matrix, is split by its singular values,
    :math:`V_i = \sum_r \sigma_r p_r q_r^T`, into the neurons :math:`u = \sqrt{\sigma_r} p_r`,
    :math:`a = \sqrt{\sigma_r} q_r`, all with the gate ``h_i``; the network's penalty is then ``penalty`` times the sum
    of nuclear norms, which for one output is that of Euclidean norms.

    Args:
        v: the blocks, ``(P, d)`` or ``(P, d, outputs)``.
        gates: ``(P, d)``.
        bias: whether the last of the ``d`` columns of the design is ones.
    """
    Flag().check("bias", bias)
    if v.dim() not in (2, 3) or gates.shape != v.shape[:2]:
        raise ValueError(f"v must be (P, d) or (P, d, outputs) and gates (P, d), got {v.shape} and {gates.shape}")
    v = v.detach().reshape(*v.shape[:2], -1)
    left, values, right = torch.linalg.svd(v, full_matrices=False)
    top = values.max() if values.numel() else values.new_zeros(())
    pattern, rank = torch.nonzero(values > torch.finfo(v.dtype).eps * top, as_tuple=True)
    keep = pattern if len(pattern) else pattern.new_zeros(1)
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and overwritten
        network = TwoLayerGatedReLU(gates.to(v)[keep], v.shape[2], bias=bias)
    with torch.no_grad():
        network.hidden.weight.zero_()
        network.output.weight.zero_()
        if len(pattern):
            root = values[pattern, rank].sqrt()[:, None]
            network.hidden.weight.copy_(root * left[pattern, :, rank])
            network.output.weight.copy_((root * right[pattern, rank]).mT)
    return network


def nonconvex_objective(
    network: TwoLayerReLU,
    features: Tensor,
    target: Tensor,
    loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "squared",
    penalty: float = 0.0,
) -> Tensor:
    r""":math:`\sum_k \ell(f(x_k), y_k) + \tfrac{\beta}{2} (\sum_j \|u_j\|^2 + \|a_j\|^2)`, a 0-dim tensor.

    It is differentiable, so that it can be minimized by any optimizer.

    Args:
        network: a two-layer network.
        features: ``(n, inputs)``, without the ones.
        target: ``(n,)`` or ``(n, outputs)``; for margin losses -1 and 1.
        loss: a :class:`~steepest.core.losses.Loss`, its name, or an elementwise function; **summed** over samples.
        penalty: :math:`\beta \ge 0`.
    """
    Real(low=0.0).check("penalty", penalty)
    prediction = network(features)
    target = target.to(prediction).reshape(len(target), -1)
    if prediction.shape != target.shape:
        raise ValueError(f"target must fit predictions {list(prediction.shape)}, got {list(target.shape)}")
    return sum_of(as_loss(loss), prediction, target) + 0.5 * penalty * network.squared_weights()
