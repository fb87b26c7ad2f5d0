"""One contender in a fresh process, measured in alternation with the reference; prints one line of JSON."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.memory import state_bytes
from ..core.orthogonal import fast_dtype, newton_schulz, polar_express
from .contenders import CONTENDERS, REFERENCE

#: Seconds after which no further round is begun (three are always made), and a first step that counts as slow.
PATIENCE, SLOW = 30.0, 20.0


def gpt_shapes(elements: int) -> list[tuple[int, ...]]:
    """Shapes of a GPT's parameters, close to ``elements`` in all: embedding, eight blocks, biases and norms.

    At 30 million: width 512, a vocabulary of 8,192, eight blocks.
    """
    width = max(16, round((elements / (16 + 8 * 12)) ** 0.5 / 16) * 16)
    shapes: list[tuple[int, ...]] = [(16 * width, width)]
    for _ in range(8):
        shapes += [(width,), (width,)]  # first norm
        shapes += [(3 * width, width), (3 * width,), (width, width), (width,)]  # attention
        shapes += [(width,), (width,)]  # second norm
        shapes += [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]  # feed-forward
    return [*shapes, (width,), (width,)]


def parameters(elements: int, matrices: bool, seed: int = 0) -> list[Tensor]:
    """Parameters with fixed random gradients; for matrix methods the blocks' matrices alone."""
    generator = torch.Generator().manual_seed(seed)
    shapes = gpt_shapes(elements)
    if matrices:
        shapes = [s for s in shapes[1:] if len(s) == 2]
    made = []
    for shape in shapes:
        p = torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        p.grad = 0.01 * torch.randn(shape, generator=generator)
        made.append(p)
    return made


def _milliseconds(step: Callable[[], Any], params: Sequence[Tensor], grads: Sequence[Tensor]) -> float:
    """Time one step; gradients are put in place first, since some optimizers (heavyball's) take them away."""
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def measure(key: str, elements: int, threads: int, rounds: int) -> dict[str, Any]:
    """First-step seconds, and step times in alternation with the reference on tensors of the same shapes."""
    torch.set_num_threads(threads)
    contender = next(c for c in CONTENDERS if c.key == key)
    params = parameters(elements, contender.matrices)
    rivals = parameters(elements, contender.matrices)
    reference = REFERENCE.build(rivals)
    optimizer = contender.build(params)
    grads, rival_grads = _gradients(params), _gradients(rivals)
    first = _milliseconds(optimizer.step, params, grads) / 1e3
    count = sum(p.numel() for p in params)
    warm_up = max(3, contender.interval - 1) if contender.matrices and contender.package == "steepest" else 3
    for _ in range(warm_up if first < SLOW else 1):
        _milliseconds(optimizer.step, params, grads)
        _milliseconds(reference.step, rivals, rival_grads)
    own: list[float] = []
    base: list[float] = []
    begin = time.perf_counter()
    while len(own) < rounds and (len(own) < 3 or time.perf_counter() - begin < PATIENCE):
        # Work that is done every so often is spread over the interval, as a training run sees it.
        spread = [_milliseconds(optimizer.step, params, grads) for _ in range(contender.interval)]
        own.append(statistics.fmean(spread))
        base.append(_milliseconds(reference.step, rivals, rival_grads))
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    bytes_ratio = contender.bytes_per_element / REFERENCE.bytes_per_element
    result: dict[str, Any] = {
        "key": key,
        "elements": count,
        "first_step_seconds": first,
        "rounds": len(own),
        "milliseconds": statistics.median(own),
        "reference_milliseconds": statistics.median(base),
        "per_step": statistics.median(ratios),
        "per_byte": statistics.median(ratios) / bytes_ratio,
        "state_bytes": state_bytes(optimizer) / count,
        "graphs": _graphs(),
        "recompilations": _recompilations(optimizer) if contender.variant == "compiled" else None,
    }
    if contender.method == "muon":
        result["orthogonality_error"] = orthogonality_error(contender.build)
    if contender.method == "muon" and contender.package == "steepest":
        result["matmul_share"] = matmul_share(optimizer)
    return result


def _gradients(params: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _graphs() -> int:
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _recompilations(optimizer: Any, steps: int = 100) -> int:
    """Graphs compiled during 100 steps of a cosine schedule."""
    before = _graphs()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    return _graphs() - before


def orthogonality_error(build: Callable[[Sequence[Tensor]], Any]) -> float:
    """Relative Frobenius distance of a first step's direction from the exact polar factor, 512 x 512 Gaussian.

    The direction is scaled to fit best first, so that conventions about the step's length do not count.
    """
    generator = torch.Generator().manual_seed(1)
    p = torch.nn.Parameter(torch.zeros(512, 512))
    gradient = torch.randn(512, 512, generator=generator)
    p.grad = gradient.clone()
    build([p]).step()
    step = -p.detach().double()
    u, _, vh = torch.linalg.svd(gradient.double())
    exact = u @ vh
    step = step * ((step * exact).sum() / (step * step).sum())
    return float(torch.linalg.matrix_norm(step - exact) / torch.linalg.matrix_norm(exact))


def matmul_share(optimizer: Any, shape: tuple[int, int] = (512, 2048)) -> float:
    """The speed of orthogonalization in FLOP/s over that of a large matrix product of the same dtype."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = optimizer.param_groups[0]
    method = {"polar-express": polar_express, "newton-schulz": newton_schulz}[settings["orthogonalization"]]
    steps = settings["orthogonalization_steps"]
    arguments = () if steps is None else (steps,)
    m = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    with FlopCounterMode(display=False) as counter:
        method(m, *arguments)
    square = torch.randn(2048, 2048).to(fast_dtype(m))
    ours = counter.get_total_flops() / _fastest(lambda: method(m, *arguments))
    best = 2 * 2048**3 / _fastest(lambda: square @ square)
    return ours / best


def _fastest(call: Callable[[], Any], rounds: int = 7) -> float:
    """Seconds of the fastest of some calls, after a first one."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    name, size, thread_count, round_count = sys.argv[1:5]
    print("RESULT " + json.dumps(measure(name, int(size), int(thread_count), int(round_count))))
