"""Runs of a method beside an independent oracle: equations in numpy, a peer package, optax."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from optim_helpers import assert_close, gradients, parameters, run

STEPS = 30
#: ``(x, g, state, t, **settings) -> x``: one step of the paper's algorithm on one numpy array; ``state`` is its own.
Oracle = Callable[..., Any]


def random_shapes(seed: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(int(n) for n in rng.integers(1, 7, size=rank)) for rank in (1, 2, 2, 3, 4, 1)]


def schedule(t: int) -> float:
    """A factor on the learning rate: warm-up, then cosine."""
    return min(1.0, t / 5) * 0.5 * (1 + math.cos(math.pi * t / (2 * STEPS)))


def against_numpy(
    cls: Any,
    oracle: Oracle,
    settings: dict[str, Any],
    seed: int = 0,
    *,
    tolerance: float = 1e-11,
    shapes: list[tuple[int, ...]] | None = None,
    make_gradients: Callable[[Any], Any] | None = None,
) -> None:
    """Thirty scheduled steps in float64, two groups with other learning rates and decays, random shapes."""
    params = parameters(shapes or random_shapes(seed), seed=seed)
    second = {"lr": settings["lr"] * 3, **({"weight_decay": 0.05} if "weight_decay" in settings else {})}
    opt = cls([{"params": params[::2]}, {"params": params[1::2], **second}], **settings)
    numbers = [p.detach().numpy().copy() for p in params]
    state: list[dict[str, Any]] = [{} for _ in params]
    for t, step in enumerate(gradients(params, STEPS, seed + 100), start=1):
        if make_gradients is not None:
            step = make_gradients([p.detach() for p in params])
        rates = [settings["lr"] * schedule(t), second["lr"] * schedule(t)]
        for group, rate in zip(opt.param_groups, rates, strict=True):
            group["lr"] = rate
        run(opt, params, [step])
        for i, g in enumerate(step):
            own = {**settings, **(second if i % 2 else {}), "lr": rates[i % 2]}
            extra = {"base_lr": second["lr"] if i % 2 else settings["lr"]} if "base_lr" in cls.ranges else {}
            numbers[i] = oracle(numbers[i], g.numpy(), state[i], t, **own, **extra)
    for p, x in zip(params, numbers, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=tolerance, atol=tolerance)


def peer_run(
    cls: Any,
    peer: Any,
    settings: dict[str, Any],
    peer_settings: dict[str, Any] | None = None,
    *,
    tolerance: float = 1e-10,
    steps: int = STEPS,
) -> None:
    """Scheduled steps beside a peer's optimizer, in float64."""
    params, twins = parameters(), parameters()
    opt, other = cls(params, **settings), peer(twins, **{**settings, **(peer_settings or {})})
    for t, step in enumerate(gradients(params, steps), start=1):
        for group in (*opt.param_groups, *other.param_groups):
            group["lr"] = settings["lr"] * schedule(t)
        run(opt, params, [step])
        run(other, twins, [step])
    assert_close(params, twins, tolerance)


def optax_run(cls: Any, make: Any, settings: dict[str, Any], **names: Any) -> None:
    """Steps beside an optax transformation, in float64; ``names`` are further arguments of optax."""
    import jax
    import jax.numpy as jnp
    import optax

    params = parameters()
    grads = gradients(params, STEPS)
    opt = cls(params, **settings)
    with jax.enable_x64(True):
        arguments: dict[str, Any] = {"learning_rate": settings["lr"], **names}
        arguments.update({f"b{i}": b for i, b in enumerate(settings.get("betas", ()), start=1)})
        if settings.get("weight_decay"):
            arguments["weight_decay"] = settings["weight_decay"]
        transform = make(**arguments)
        values = [jnp.asarray(p.detach().numpy()) for p in params]
        state = transform.init(values)
        for step in grads:
            updates, state = transform.update([jnp.asarray(g.numpy()) for g in step], state, values)
            values = optax.apply_updates(values, updates)
        results = [torch.from_numpy(np.asarray(v).copy()) for v in values]
    run(opt, params, grads)
    assert all(r.dtype == torch.float64 for r in results)
    assert_close(params, results, 1e-10)
