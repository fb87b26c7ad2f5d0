"""Activation patterns that are looked for, not drawn: column generation for the convex program."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.core.ranges import Integer, Real
from steepest.core.result import Reason
from steepest.core.stopping import Stalled
from steepest.train.convexnet.admm import ADMM
from steepest.train.convexnet.certificate import into_domain
from steepest.train.convexnet.losses import has_kinks, smoothed
from steepest.train.convexnet.network import TwoLayerReLU
from steepest.train.convexnet.patterns import Patterns, activation_patterns, merge_patterns
from steepest.train.convexnet.program import ConvexProgram, own_patterns

__all__ = ["Grown", "Neurons", "find_neurons", "fitting_rho", "grow_patterns"]

#: Gradients of one local descent, and of one search for neurons.
_DESCENT = 1000
_SEARCH = 60
_POLISH = 40
#: Up to so many columns some searches begin at corners, where d - 1 samples are on the border.
_CORNERS = 32
#: By how much the objective may rise, in parts, where small neurons are dropped.
_PRUNED = 1e-5
#: Steps of ADMM per round at most, and the work in them: steps times samples times features times patterns.
_STEPS = 200
_CHEAP = 50_000_000


@dataclass(frozen=True, eq=False)
class Neurons:
    """What a search for neurons found, the best first.

    Attributes:
        weights: unit vectors, ``(m, d)``.
        gains: ``|r' (X u)_+|`` of each, for the slope ``r`` of its output.
        signs: that of the output weight with which the neuron lowers the objective, 1 or -1.
        outputs: which output each serves.
    """

    weights: Tensor
    gains: Tensor
    signs: Tensor
    outputs: Tensor

    def take(self, indices: Tensor) -> "Neurons":
        """Some of them, in the order given."""
        return Neurons(self.weights[indices], self.gains[indices], self.signs[indices], self.outputs[indices])


@dataclass(frozen=True, eq=False)
class Grown:
    """A convex program over patterns that were looked for.

    Attributes:
        program: the program over the last patterns.
        point: a feasible point of it, the best found.
        objective: that of the recovered network of ``point``.
        objectives: at the start and after each round; they never increase.
        violations: the largest violation of a dual constraint that was found before each round, in parts of the
            penalty; the last number is that after the last round.
        reason: ``"converged"`` where the last violation is at most the tolerance, ``"stalled"`` where two rounds
            brought nothing, otherwise ``"budget"``.
    """

    program: ConvexProgram
    point: Tensor
    objective: float
    objectives: tuple[float, ...]
    violations: tuple[float, ...]
    reason: Reason

    @property
    def patterns(self) -> Patterns:
        """The patterns found."""
        return self.program.patterns

    @property
    def rounds(self) -> int:
        """How many rounds were done."""
        return len(self.objectives) - 1

    @property
    def violation(self) -> float:
        """The largest violation found after the last round, in parts of the penalty; infinite where none was
        looked for."""
        return self.violations[-1] if self.violations else math.inf


def grow_patterns(
    program: ConvexProgram,
    start: Tensor | TwoLayerReLU | None = None,
    *,
    generator: torch.Generator,
    rounds: int = 5,
    tolerance: float = 1e-2,
    searches: int = 128,
    neurons: int = 30,
    limit: int = 100,
    steps: int | None = None,
    seconds: float = math.inf,
) -> Grown:
    r"""Improve the patterns of a convex program by column generation.

    The dual of the program over *all* patterns has one constraint for every neuron ``u`` of the unit ball and every
    output, ``|r' (X u)_+| <= penalty``, with ``r`` the slope of the loss at the prediction. A neuron that violates it
    lowers the objective when it is added with a small weight, and its pattern is one that the program lacks (or has not
    used fully yet). A round

    1. searches for such neurons (:func:`find_neurons`) at the slope of the present network, and adds up to ``neurons``
       of them with a small weight (to the zero network, the gates of the program and random ones as well, ``limit`` in
       all);
    2. minimizes the non-convex objective of that network from there by L-BFGS, so that its neurons move, across the
       borders of cones as well (losses with kinks are rounded off for that);
    3. solves the convex program over the patterns of the network before and after, those of the neurons found, and
       former ones, by ``steps`` steps of :class:`ADMM` from the better network, with its slope as the dual;
    4. keeps the best network, all patterns that it uses, and of the others the newest, up to ``limit`` in all.

    The objective never increases from round to round. The growth ends where no violation above ``tolerance`` is found.

    **What this proves.** A duality gap of the last program is a proof of optimality over its patterns. That
    ``searches`` local searches found no violated constraint is evidence that these patterns are enough, and no proof:
    the search is a non-convex problem. If no constraint were violated by more than the factor ``1 + e``, the slope
    scaled by ``1 / (1 + e)`` would be a dual point that proves the optimum over all networks to be near.

    Args:
        program: a program with cones; its patterns are the first ones. They need not be good.
        start: a point of the program, or a network (of the program's design), whose patterns are merged in. Default
            zero.
        generator: the source of all randomness, of the CPU or of the program's device.
        rounds: at most, >= 0. Default 5.
        tolerance: the violation at which to end, in parts of the penalty, >= 0. Default 1e-2.
        searches: local searches per round, >= 1, for each output. Default 128.
        neurons: how many of the neurons found are added in a round, >= 1, for each output. Default 30.
        limit: how many patterns to keep, >= 1; those in use are kept in any case. Default 100.
        steps: of ADMM per round, >= 0. Default: 5e7 divided by samples times features times patterns, at most
            200; where that is below 25, it is 0: the local descent then brings more in the same time (on digits, where
            it was measured), and the convex program is for the caller to solve at the end, for the proof.
        seconds: begin no round (and no part of one) after this time. Default no limit. What is found then depends on
            the machine.

    Raises:
        ValueError: the program is gated: its gates are fixed, and there is no slope with respect to them.
        ValueError, TypeError: an argument is of the wrong kind or out of its range.

    Source: Y. Bengio, N. Le Roux, P. Vincent, O. Delalleau, P. Marcotte (2006), Convex Neural Networks, NIPS 18
    (insertion of neurons); F. Bach (2017), Breaking the Curse of Dimensionality with Convex Neural Networks, arXiv
    1412.8690 (the subproblem for ReLUs, and how hard it is); N. Boyd, G. Schiebinger, B. Recht (2017), The Alternating
    Descent Conditional Gradient Method, arXiv 1507.01562 (local descent of all neurons after an insertion). The
    combination with the convex program and its certificate is this library's.
    """
    if not isinstance(program, ConvexProgram):
        raise TypeError(f"program must be a ConvexProgram, got {type(program).__name__}")
    if program.gated:
        raise ValueError("the patterns of a gated program cannot be grown: its gates are fixed, not trained")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    for name, number, low in (("rounds", rounds, 0), ("searches", searches, 1), ("neurons", neurons, 1)):
        Integer(low=low).check(name, number)
    Integer(low=1).check("limit", limit)
    if steps is not None:
        Integer(low=0).check("steps", steps)
    Real(low=0.0).check("tolerance", tolerance)
    deadline = time.monotonic() + seconds
    with torch.no_grad():
        return _grow(program, start, generator, rounds, tolerance, searches, neurons, limit, steps, deadline)


def _grow(
    program: ConvexProgram,
    start: Tensor | TwoLayerReLU | None,
    generator: torch.Generator,
    rounds: int,
    tolerance: float,
    searches: int,
    neurons: int,
    limit: int,
    steps: int | None,
    deadline: float,
) -> Grown:
    program, point = _started(program, start)
    value = float(program.network_value(point))
    objectives, violations = [value], []
    reason, idle = Reason.BUDGET, 0
    slopes = [_slope(program, program.predict(point))]
    while time.monotonic() < deadline:
        found = _best_search(program, slopes, searches, generator, point)
        violations.append(_violation(found, program.penalty))
        if violations[-1] <= tolerance:
            reason = Reason.CONVERGED
            break
        if idle == 2:
            reason = Reason.STALLED
            break
        if len(objectives) > rounds:
            break
        fresh = _distinct(program, found, neurons)
        if not bool(point.any()):
            fresh = _joined(fresh, _of_gates(program, slopes[0], limit, generator))
        moved = _descended(program, point, fresh, deadline)
        used = _used(program, point)
        merged = own_patterns(program.design, moved)
        if len(fresh.weights):
            merged = merge_patterns(merged, activation_patterns(program.design, fresh.weights))
        order = torch.cat([torch.nonzero(used)[:, 0], torch.nonzero(~used)[:, 0].flip(0)])
        kept = program.patterns.take(order[: int(used.sum())])
        merged = merge_patterns(kept, merged)
        if len(merged) < limit and len(kept) < len(order):
            rest = merge_patterns(merged, program.patterns.take(order[len(kept) :]))
            merged = rest.take(torch.arange(min(limit, len(rest)), device=rest.active.device))
        wider = _over(program, merged)
        points = [_lifted(wider, len(kept), point[:, order[: len(kept)]]), _point_of(wider, moved)]
        values = [float(wider.network_value(p)) for p in points]
        best = min(range(2), key=lambda i: values[i])
        program, point, after = wider, points[best], values[best]
        slopes = [_slope(program, program.predict(point))]
        turns = steps
        if turns is None:
            turns = min(_STEPS, _CHEAP // (program.design.numel() * len(program.patterns)))
            turns = turns if turns >= 25 else 0
        if turns and time.monotonic() < deadline:
            program, point, after, slope = _solved(program, point, after, turns)
            if slope is not None:
                slopes.append(slope)
        # ``after`` is at most the value before: the old point is among those compared, but for rounding.
        idle = idle + 1 if after > value - 1e-7 * abs(value) else 0
        value = min(value, after)
        objectives.append(value)
    program, point = _trimmed(program, point, limit)
    return Grown(program, point, value, tuple(objectives), tuple(violations), reason)


def find_neurons(
    program: ConvexProgram,
    slope: Tensor,
    searches: int,
    generator: torch.Generator,
    near: Tensor | None = None,
) -> Neurons:
    r"""Look for unit vectors ``u`` with a large ``|r' (X u)_+|``, by many local searches at once.

    For each sign ``s`` and output, ``|u|^2 / 2 - s r' (X u)_+`` is minimized, whose minimum is minus half the square of
    the largest gain, from random starts, by L-BFGS on all of them together and then by subgradients. A third of
    the starts is normally distributed with the mean sample on the border of the cone; a third are orthogonal to d - 1
    random samples (above 32 columns: normally distributed); the last third are neurons ``near``, disturbed, or
    differences of samples where none are given.

    Args:
        program: a program with cones; only its design is used.
        slope: ``r``, ``(n, outputs)``.
        searches: how many starts for each output, >= 1; at least two, one for each sign, are made.
        generator: the source of randomness.
        near: neurons ``(m, d)`` to begin near of.
    """
    design = program.design
    n, d = design.shape
    outputs = slope.shape[1]
    count = 2 * ((searches + 1) // 2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).to(design)

    def drawn(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=generator.device).to(design.device)

    starts = []
    kind = (torch.arange(count, device=design.device) // 2 % 3)[:, None]
    mean = design.mean(0)
    for _ in range(outputs):
        plain = normal(count, d)
        across = plain - (plain @ mean / mean.square().sum().clamp_min(1e-300))[:, None] * mean
        if near is not None and len(near):
            chosen = near[drawn(len(near))]
            length = torch.linalg.vector_norm(chosen, dim=1, keepdim=True)
            third = chosen + 0.5 / math.sqrt(d) * length * normal(count, d)
        else:
            third = design[drawn(n)] - design[drawn(n)]
        third = torch.where((third == 0).all(1, keepdim=True), plain, third)
        if 1 < d <= _CORNERS:
            few = torch.rand(count, n, generator=generator, dtype=torch.float64, device=generator.device).to(design)
            through = design[few.topk(min(d - 1, n), dim=1).indices]
            corner = torch.linalg.svd(through, full_matrices=True).Vh[:, -1]
            plain = torch.where((plain * corner).sum(1, keepdim=True) > 0, corner, -corner)
        starts.append(torch.where(kind == 0, across, torch.where(kind == 1, plain, third)))
    u = _unit(torch.cat(starts))
    sign = (1 - 2 * (torch.arange(len(u), device=u.device) % 2)).to(u)
    output = torch.arange(outputs, device=u.device).repeat_interleave(count)
    scale = float(torch.linalg.vector_norm(slope) * torch.linalg.matrix_norm(design, 2)) / math.sqrt(n)
    if scale > 0:
        weight = slope[:, output] * sign / scale

        def gradient(u: Tensor) -> tuple[Tensor, Tensor]:
            inner = (design @ u.mT).clamp_min(0)
            each = weight * inner
            active = torch.where(inner > 0, weight, 0.0)
            return 0.5 * u.square().sum() - each.sum(), u - active.mT @ design

        reached = _minimized(gradient, u, _SEARCH, math.inf)
        # Small basins are left by the long steps of L-BFGS, so the starts are polished as well.
        both = [_polished(design, slope[:, output] * sign, v) for v in (u, _unit(reached))]
        first, second = (sign * (slope[:, output] * (design @ v.mT).clamp_min(0)).sum(0) for v in both)
        u = torch.where((first >= second)[:, None], *both)
    gains = sign * (slope[:, output] * (design @ u.mT).clamp_min(0)).sum(0)
    # A neuron whose output weight is against the slope lowers the loss.
    order = gains.argsort(descending=True, stable=True)
    return Neurons(u, gains, -sign, output).take(order)


def _polished(design: Tensor, weight: Tensor, u: Tensor) -> Tensor:
    """Unit vectors of larger gain nearby, by subgradients along the sphere with steps that fall geometrically: maxima
    often lie at kinks, where a line search is stuck."""
    best, gains = u, torch.full_like(weight[0], -math.inf)
    for k in range(_POLISH):
        inner = design @ u.mT
        reached = (weight * inner.clamp_min(0)).sum(0)
        better = reached > gains
        best, gains = torch.where(better[:, None], u, best), torch.where(better, reached, gains)
        along = torch.where(inner > 0, weight, 0.0).mT @ design
        along = along - (along * u).sum(1, keepdim=True) * u
        u = _unit(best if k % 10 == 9 else u + 0.1 * 1e-5 ** (k / (_POLISH - 1)) * _unit(along))
    return best


def _best_search(
    program: ConvexProgram, slopes: list[Tensor], searches: int, generator: torch.Generator, point: Tensor
) -> Neurons:
    """The search at the slope that leaves the smallest violation: each slope is a dual point, and one is enough."""
    near = point.movedim(2, 3)[torch.linalg.vector_norm(point, dim=2) > 0]
    found = [find_neurons(program, slope, searches, generator, near) for slope in slopes]
    return min(found, key=lambda f: float(f.gains[0]))


def _violation(found: Neurons, penalty: float) -> float:
    largest = float(found.gains[0])
    if penalty > 0:
        return max(0.0, largest / penalty - 1)
    return math.inf if largest > 0 else 0.0


def _slope(program: ConvexProgram, prediction: Tensor) -> Tensor:
    """The slope of the loss, rounded off where it has kinks."""
    return smoothed(program.loss, prediction, program.target)[1]


def _unit(u: Tensor) -> Tensor:
    return u / torch.linalg.vector_norm(u, dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)


def _minimized(
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, evaluations: int, deadline: float
) -> Tensor:
    """The best point that L-BFGS sees; ``gradient`` gives value and gradient."""
    x = start.clone()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    best, least = start, math.inf

    def closure() -> Tensor:
        nonlocal best, least
        value, slope = gradient(x)
        if float(value) < least:
            best, least = x.clone(), float(value)
        # Out of time: a zero gradient ends the search.
        x.grad = slope if time.monotonic() < deadline else torch.zeros_like(slope)
        return value

    optimizer.step(closure)
    return best


def _distinct(program: ConvexProgram, found: Neurons, limit: int) -> Neurons:
    """The violating neurons of distinct pattern, sign and output, at most ``limit`` per output."""
    bad = found.take(torch.nonzero(found.gains > program.penalty)[:, 0])
    active = program.design @ bad.weights.mT >= 0
    # A direction found twice has the same gain, but for rounding, and mostly the same pattern.
    label = torch.cat([active.mT.to(torch.int8), bad.signs[:, None].to(torch.int8), bad.outputs[:, None]], 1)
    seen: set[bytes] = set()
    counts: dict[int, int] = {}
    keep = []
    for i, (row, output) in enumerate(zip(label.cpu().numpy(), bad.outputs.tolist(), strict=True)):
        key = row.tobytes()
        if key not in seen and counts.get(output, 0) < limit:
            seen.add(key)
            counts[output] = counts.get(output, 0) + 1
            keep.append(i)
    return bad.take(torch.tensor(keep, dtype=torch.long, device=bad.weights.device))


def _of_gates(program: ConvexProgram, slope: Tensor, count: int, generator: torch.Generator) -> Neurons:
    """The gates of a program, and random ones up to ``count``, as neurons for each output in turn, with the sign that
    lowers the objective."""
    gates = program.patterns.gates
    more = torch.randn(
        (max(0, count - len(gates)), gates.shape[1]), generator=generator, dtype=torch.float64, device=generator.device
    )
    u = _unit(torch.cat([gates, more.to(gates)]))
    output = torch.arange(len(u), device=u.device) % slope.shape[1]
    gains = (slope[:, output] * (program.design @ u.mT).clamp_min(0)).sum(0)
    return Neurons(u, gains.abs(), torch.where(gains > 0, -1.0, 1.0).to(u), output)


def _joined(first: Neurons, second: Neurons) -> Neurons:
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("weights", "gains", "signs", "outputs"))
    return Neurons(*(torch.cat(pair) for pair in pairs))


def _descended(program: ConvexProgram, point: Tensor, fresh: Neurons, deadline: float) -> TwoLayerReLU:
    """The network of a point and fresh neurons, after a local descent of its objective. Each neuron serves one
    output."""
    design, target, penalty = program.design, program.target, program.penalty
    outputs = target.shape[1]
    present = torch.linalg.vector_norm(point, dim=2) > 0
    copy, _, output = torch.nonzero(present, as_tuple=True)
    blocks = point.movedim(2, 3)[present]
    length = torch.linalg.vector_norm(blocks, dim=1)
    root = length.sqrt()
    # The larger a violation, the larger the weight; how large they are together is found below.
    excess = (fresh.gains - penalty).clamp_min(0)
    if len(length):
        size = (excess / excess.max().clamp_min(1e-300)).sqrt() * math.sqrt(float(length.mean()))
        parts = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
    else:  # all are new
        size, parts = torch.full_like(excess, 0.3), (1.0,)
    old = torch.cat([blocks / root[:, None], (root * (1 - 2 * copy))[:, None]], 1)
    new = size[:, None] * torch.cat([fresh.weights, fresh.signs[:, None]], 1)
    serves = torch.nn.functional.one_hot(torch.cat([output, fresh.outputs]), outputs).to(design)
    d = design.shape[1]

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        u, a = x[:, :d], x[:, d]
        inner = (design @ u.mT).clamp_min(0)
        loss, slope = smoothed(program.loss, inner @ (a[:, None] * serves), target)
        back = torch.where(inner > 0, slope @ (a[:, None] * serves).mT, 0.0)
        along = ((inner.mT @ slope) * serves).sum(1)
        return loss + 0.5 * penalty * x.square().sum(), torch.cat([back.mT @ design, along[:, None]], 1) + penalty * x

    before = float(gradient(torch.cat([old, 0 * new]))[0])
    starts = [torch.cat([old, part * new]) for part in parts]
    x = _minimized(gradient, min(starts, key=lambda s: float(gradient(s)[0])), _DESCENT, deadline)
    # The descent makes superfluous neurons small, and zero only in the limit.
    size = torch.linalg.vector_norm(x[:, :d], dim=1) * x[:, d].abs()
    least = float(gradient(x)[0])
    allowed = min(_PRUNED * abs(least), 0.5 * max(0.0, before - least))
    keep = size > 0
    for part in (1e-4, 1e-3, 1e-2):
        larger = size > part * size.max()
        if float(gradient(x * larger[:, None])[0]) <= least + allowed:
            keep = larger
    network = TwoLayerReLU(d, max(1, int(keep.sum())), outputs, dtype=design.dtype, device=design.device)
    network.hidden.weight.zero_()
    network.output.weight.zero_()
    if bool(keep.any()):
        network.hidden.weight.copy_(x[keep, :d])
        network.output.weight.copy_((x[keep, d, None] * serves[keep]).mT)
    return network


def _over(program: ConvexProgram, patterns: Patterns) -> ConvexProgram:
    return ConvexProgram(program.design, program.target, patterns, program.loss, program.penalty)


def _started(program: ConvexProgram, start: Tensor | TwoLayerReLU | None) -> tuple[ConvexProgram, Tensor]:
    if start is None:
        return program, program.zeros()
    if isinstance(start, TwoLayerReLU):
        program = _over(program, merge_patterns(program.patterns, own_patterns(program.design, start)))
        return program, _point_of(program, start)
    program.check_start(start)
    return program, program.repair(start.detach().to(program.design))


def _point_of(program: ConvexProgram, network: TwoLayerReLU) -> Tensor:
    return program.repair(program.point_of(network))


def _lifted(program: ConvexProgram, count: int, point: Tensor) -> Tensor:
    """A point over the first ``count`` patterns of a program."""
    lifted = program.zeros()
    lifted[:, :count] = point
    return lifted


def _used(program: ConvexProgram, point: Tensor) -> Tensor:
    """Which patterns have a block that is not zero."""
    return (torch.linalg.vector_norm(point, dim=2) > 0).flatten(2).any(2).any(0)


def _trimmed(program: ConvexProgram, point: Tensor, limit: int) -> tuple[ConvexProgram, Tensor]:
    """Without unused patterns beyond the limit."""
    used = _used(program, point)
    if len(used) <= limit:
        return program, point
    order = torch.cat([torch.nonzero(used)[:, 0], torch.nonzero(~used)[:, 0].flip(0)])
    order = order[: max(limit, int(used.sum()))]
    return _over(program, program.patterns.take(order)), point[:, order]


def _solved(
    program: ConvexProgram, point: Tensor, value: float, steps: int
) -> tuple[ConvexProgram, Tensor, float, Tensor | None]:
    """Some steps of ADMM from a point; the best point, its value, and for a loss with kinks a slope."""
    solver = ADMM(rho=fitting_rho(program, point), check_every=steps, warm_dual=True)
    state = solver.init(program, point, torch.Generator())  # it draws nothing
    with contextlib.suppress(Stalled):
        for _ in range(steps):
            state = solver.step(program, state)
    if float(program.network_value(state.point)) < value:
        point, value = state.point, float(program.network_value(state.point))
    if state.network_value < value:  # that network can have further patterns
        network = program.network(state.blocks)
        wider = _over(program, merge_patterns(program.patterns, own_patterns(program.design, network)))
        other = _point_of(wider, network)
        reached = float(wider.network_value(other))
        if reached < value:
            program, point, value = wider, other, reached
    slope = None
    if has_kinks(program.loss) and state.fit_dual is not None:
        slope = into_domain(program.loss, state.fit_rho * state.fit_dual, program.target)
    return program, point, value, slope


def fitting_rho(program: ConvexProgram, point: Tensor) -> float:
    """A penalty parameter of ADMM that suits a point near the optimum: a move of a dual by the penalty goes with one of
    a block by its length."""
    length = torch.linalg.vector_norm(point, dim=2)
    length = length[length > 0]
    return max(1.0, program.penalty / float(length.mean())) if len(length) else 1.0
