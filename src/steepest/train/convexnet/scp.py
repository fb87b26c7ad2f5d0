"""The sampled convex program: a lasso on random ReLU features."""

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.card import MethodCard
from steepest.core.fingerprint import fingerprint
from steepest.core.losses import Loss, Squared
from steepest.core.ranges import Integer, OneOf
from steepest.core.regularizer import L1
from steepest.core.solver import Solver, State
from steepest.core.stopping import Stalled
from steepest.solve.convex.problem import LinearModel
from steepest.train.convexnet.admm import PAPER
from steepest.train.convexnet.losses import as_loss
from steepest.train.convexnet.network import TwoLayerReLU

__all__ = ["CARD", "SCP", "SCPState", "SampledProgram", "sample_features", "sampled_network", "sampled_program"]

CARD = MethodCard(
    name="convexnet-scp",
    title="Sampled convex program",
    room="convexnet",
    family="random features",
    summary="Trains the output layer of a two-layer ReLU network over random hidden neurons: a lasso.",
    target="steepest.train.convexnet.scp:SCP",
    papers=(PAPER,),
    needs=frozenset({"smooth gradient", "prox", "gap"}),
    buffers=2,
    claim="A lasso on sampled neurons replaces the cone-constrained program, with the same bound on how many suffice.",
)


def sample_features(design: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hidden neurons uniform on the unit sphere, ``(count, d)``, and their features ``(X U')_+``, ``(n, count)``.

    Args:
        design: ``(n, d)``.
        count: the number of neurons, >= 1; :func:`~steepest.train.convexnet.patterns.patterns_needed` says how many.
        generator: the source of randomness; it draws in float64 on its own device.
    """
    Integer(low=1).check("count", count)
    design = design if design.is_floating_point() else design.double()
    shape = (count, design.shape[1])
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    neurons = (drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)).to(design)
    return neurons, torch.relu(design @ neurons.mT)


class SampledProgram(LinearModel):
    """A lasso on the features of sampled neurons; see :func:`sampled_program`."""

    def fingerprint(self) -> str:
        """A digest of the data, the loss and the penalty."""
        return fingerprint((type(self).__qualname__, self.design, self.target, self.loss, self.regularizer, self.scale))


def sampled_program(
    features: Tensor,
    target: Tensor,
    loss: Loss | str | Callable[[Tensor, Tensor], Tensor] = "squared",
    penalty: float = 1e-3,
) -> SampledProgram:
    r"""``min_a sum_k loss((H a)_k, y_k) + penalty |a|_1`` over the features ``H`` of sampled neurons; the loss is
    summed.

    A neuron of unit length with output weight ``a_j`` has the penalty ``|a_j|`` after balancing, so the optimum is an
    upper bound on that of :func:`~steepest.train.convexnet.network.nonconvex_objective`. ``Lasso(alpha=penalty / n,
    fit_intercept=False)`` of scikit-learn solves the same problem.
    """
    target = target.to(features).reshape(len(target), -1)
    return SampledProgram(features, target, as_loss(loss, target), L1(float(penalty)), scale="sum")


def sampled_network(neurons: Tensor, output: Tensor, *, bias: bool = False) -> TwoLayerReLU:
    """The network of sampled neurons ``(N, d)`` and output weights ``(N, outputs)``, balanced, without idle neurons.

    A neuron that serves several outputs is split, one for each, as the penalty counts them.
    """
    neuron, place = torch.nonzero(output, as_tuple=True)
    width = max(1, len(neuron))
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and overwritten
        network = TwoLayerReLU(
            neurons.shape[1] - bias, width, output.shape[1], bias=bias, dtype=neurons.dtype, device=neurons.device
        )
    with torch.no_grad():
        network.hidden.weight.zero_()
        network.output.weight.zero_()
        if len(neuron):
            weight = output[neuron, place]
            root = weight.abs().sqrt()
            network.hidden.weight.copy_(root[:, None] * neurons[neuron])
            network.output.weight[place, torch.arange(width, device=neurons.device)] = torch.sign(weight) * root
    return network


@dataclass(frozen=True, kw_only=True, eq=False)
class SCPState(State):
    """The output weights (``point``), the objective, the duality gap (``stationarity``), and:

    Attributes:
        ahead: where the next gradient is taken.
        momentum: the sequence of the accelerated method.
    """

    ahead: Tensor
    momentum: float = 1.0


@dataclass(frozen=True)
class SCP(Solver[LinearModel, SCPState]):
    r"""The sampled convex program::

        min_a  sum_k loss( (H a)_k, y_k ) + penalty |a|_1,       H = (X U)_+,  u_j uniform on the unit sphere

    The network is ``(U, a)``. :func:`sample_features` and :func:`sampled_program` make the problem; it has no
    constraints, and the sampling bound of the patterns holds for the neurons. The stationarity is the duality gap, so
    it bounds how far the value is above the optimum over the sampled neurons.

    For the squared loss with one output a step is ``passes`` passes of scikit-learn's coordinate descent, where it is
    installed. Otherwise it is ``passes`` steps of the accelerated proximal gradient method (rate ``O(1/k^2)``) with a
    restart wherever the momentum points uphill; that takes a smooth loss.

    Args:
        passes: per step, >= 1. Default 10.
        engine: ``"auto"`` (default), ``"sklearn"`` or ``"torch"``.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of its range; scikit-learn is asked for and missing, or for a
            loss that it has not.
        Stalled: the weights no longer change.

    Source: Y. Bai, T. Gautam, S. Sojoudi (2022), arXiv 2201.01965, section 5. The paper leaves the solver open.
    """

    passes: int = 10
    engine: str = "auto"

    needs = CARD.needs
    ranges = {"passes": Integer(low=1), "engine": OneOf(("auto", "sklearn", "torch"))}

    def init(self, problem: LinearModel, start: Tensor, generator: torch.Generator) -> SCPState:
        """The start, its value and its duality gap."""
        if math.isinf(problem.loss.curvature):
            raise ValueError(f"SCP: loss must be smooth with a known curvature, got {type(problem.loss).__name__}")
        return self._state(problem, start.to(problem.design), start.to(problem.design), 1.0)

    def step(self, problem: LinearModel, state: SCPState) -> SCPState:
        """``passes`` passes.

        Raises:
            Stalled: the weights no longer change.
        """
        if self._by_sklearn(problem):
            point = _passes_of_sklearn(problem, state.point, self.passes)
            ahead, momentum = point, 1.0
        else:
            point, ahead, momentum = self._accelerated(problem, state)
        if torch.equal(point, state.point) and torch.equal(ahead, state.ahead):
            raise Stalled("the weights no longer change")
        return self._state(problem, point, ahead, momentum)

    def _state(self, problem: LinearModel, point: Tensor, ahead: Tensor, momentum: float) -> SCPState:
        gap = problem.gap(point).clamp_min(0)
        return SCPState(point=point, value=problem.value(point), stationarity=gap, ahead=ahead, momentum=momentum)

    def _by_sklearn(self, problem: LinearModel) -> bool:
        fits = isinstance(problem.loss, Squared) and problem.target.shape[1:] in ((), (1,))
        fits = fits and isinstance(problem.regularizer, L1) and problem.regularizer.weight > 0
        found = importlib.util.find_spec("sklearn") is not None
        if self.engine == "sklearn":
            if not found:
                raise ValueError("SCP: engine='sklearn' needs scikit-learn: pip install scikit-learn")
            if not fits:
                raise ValueError(
                    "SCP: engine='sklearn' takes the squared loss with one output and a positive penalty; "
                    "use engine='torch'"
                )
        return self.engine != "torch" and found and fits

    def _accelerated(self, problem: LinearModel, state: SCPState) -> tuple[Tensor, Tensor, float]:
        lipschitz = problem.lipschitz
        assert lipschitz is not None
        point, ahead, momentum = state.point, state.ahead, state.momentum
        for _ in range(self.passes):
            following = problem.prox(ahead - problem.smooth_gradient(ahead) / lipschitz, 1 / lipschitz)
            if float(((ahead - following) * (following - point)).sum()) > 0:
                momentum = 1.0
            grown = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
            ahead = following + (momentum - 1) / grown * (following - point)
            point, momentum = following, grown
        return point, ahead, momentum


def _passes_of_sklearn(problem: LinearModel, point: Tensor, passes: int) -> Tensor:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    weight = problem.regularizer.weight  # type: ignore[attr-defined]
    alpha = weight / (problem.scale * problem.samples)
    engine = Lasso(alpha=alpha, fit_intercept=False, max_iter=passes, tol=0.0, warm_start=True)
    engine.coef_ = point.reshape(-1).detach().cpu().numpy().copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine.fit(problem.design.cpu().numpy(), problem.target.reshape(-1).cpu().numpy())
    return torch.as_tensor(engine.coef_).to(point).reshape(point.shape)
