"""One contender in a fresh process, measured in alternation with the reference; prints one line of JSON."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
    for _ in range(3 if first < SLOW else 1):
        _milliseconds(optimizer.step, params, grads)
        _milliseconds(reference.step, rivals, rival_grads)
    own: list[float] = []
    base: list[float] = []
    begin = time.perf_counter()
    while len(own) < rounds and (len(own) < 3 or time.perf_counter() - begin < PATIENCE):
        own.append(_milliseconds(optimizer.step, params, grads))
        base.append(_milliseconds(reference.step, rivals, rival_grads))
    per_byte = [
        (a / contender.bytes_per_element) / (b / REFERENCE.bytes_per_element) for a, b in zip(own, base, strict=True)
    ]
    result: dict[str, Any] = {
        "key": key,
        "elements": count,
        "first_step_seconds": first,
        "rounds": len(own),
        "milliseconds": statistics.median(own),
        "reference_milliseconds": statistics.median(base),
        "per_byte": statistics.median(per_byte),
        "per_byte_quartiles": statistics.quantiles(per_byte, n=4) if len(own) > 1 else [],
        "graphs": _graphs(),
        "recompilations": _recompilations(optimizer) if contender.variant == "compiled" else None,
    }
    if contender.method == "muon":
        result["orthogonality_error"] = orthogonality_error(contender.build)
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


if __name__ == "__main__":
    name, size, thread_count, round_count = sys.argv[1:5]
    print("RESULT " + json.dumps(measure(name, int(size), int(thread_count), int(round_count))))
