"""AuON and its hybrid against the equations, what they reduce to, and Muon."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import STEPS, against_numpy
from torch import nn

from steepest.optim import AuON, HybridAuON


def look_ahead(g: Any, s: dict[str, Any], momentum: float) -> Any:
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    return (1 - momentum) * g + momentum * s["m"]


def braked(a: Any, gamma: float, eps: float) -> tuple[Any, float]:
    unit = a / (np.linalg.norm(a) + eps)
    return unit, np.sqrt(np.mean(np.cosh(gamma * unit) ** 2)) + 1e-8


def auon(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    gamma: float,
    mode: str,
    eps: float,
) -> Any:
    a = look_ahead(g, s, momentum).reshape(x.shape[0], -1)
    unit, rms = braked(a, gamma, eps)
    rows, columns = a.shape
    step = a / rms if mode == "code" else np.sqrt(max(1, rows / columns)) * unit / rms
    return (1 - lr * weight_decay) * x - lr * step.reshape(x.shape)


def hybrid(
    x: Any,
    g: Any,
    s: dict[str, Any],
    t: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    gamma: float,
    ns_steps: int,
    eps: float,
) -> Any:
    """The polynomial acts on the singular values alone."""
    a = look_ahead(g, s, momentum).reshape(x.shape[0], -1)
    u, sigma, vt = np.linalg.svd(a / (np.linalg.norm(a) + eps), full_matrices=False)
    for _ in range(ns_steps):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    unit, rms = braked((u * sigma) @ vt, gamma, eps)
    rows, columns = a.shape
    return (1 - lr * weight_decay) * x - lr * np.sqrt(max(1, rows / columns)) * (unit / rms).reshape(x.shape)


SHAPES = [(4, 6), (7, 3), (4, 6), (3, 2, 3, 3), (8, 2, 2), (2, 2)]


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_paper(mode: str, gamma: float) -> None:
    chosen = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3, "gamma": gamma, "mode": mode, "eps": 1e-2}
    against_numpy(AuON, auon, chosen, shapes=SHAPES)


@pytest.mark.parametrize("ns_steps", [1, 3])
def test_hybrid_paper(ns_steps: int) -> None:
    chosen = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3, "gamma": 3.0, "ns_steps": ns_steps, "eps": 1e-7}
    against_numpy(HybridAuON, hybrid, chosen, shapes=SHAPES, tolerance=1e-10)


def direction(cls: Any, g: torch.Tensor, **settings: Any) -> torch.Tensor:
    """The first update of a zero weight at rate one, without the shape's factor."""
    p = nn.Parameter(torch.zeros_like(g))
    run(cls([p], lr=1.0, eps=0.0, **settings), [p], [[g]])
    return -p.detach() / max(1.0, g.shape[0] / g.shape[1]) ** 0.5


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("kind", ["gaussian", "one entry", "constant", "heavy tail"])
@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (2, 3)])
def test_the_cosh_factor_is_one_up_to_gamma_squared_over_n(kind: str, shape: tuple[int, int], gamma: float) -> None:
    g = parameters((shape,))[0].detach()
    if kind == "one entry":
        g = torch.zeros(shape, dtype=torch.float64)
        g[1, 2 % shape[1]] = -3.0
    elif kind == "constant":
        g = torch.ones(shape, dtype=torch.float64)
    elif kind == "heavy tail":
        g = g**7
    u, unit = direction(AuON, g, gamma=gamma), g / g.norm()
    deviation = float((u - unit).norm())
    assert deviation <= np.sinh(gamma) ** 2 / (2 * g.numel()) + 2e-8  # at any size
    if g.numel() >= 4096:
        assert deviation <= 1.01 * gamma**2 / g.numel() + 2e-8
        assert torch.linalg.matrix_norm(u, 2) <= 1.0
    if kind == "one entry" and gamma:
        assert deviation > 0.1 * gamma**2 / g.numel()  # in small matrices the factor is there


def test_training_with_and_without_cosh_is_the_same_run() -> None:
    params, twins = parameters(((64, 64),)), parameters(((64, 64),))
    grads = gradients(params, STEPS)
    run(AuON(params), params, grads)
    run(AuON(twins, gamma=0.0), twins, grads)  # cosh(0) = 1
    start = parameters(((64, 64),))[0]
    assert (params[0] - twins[0]).norm() < 3e-4 * (twins[0] - start).norm()


def test_the_code_is_sgd_with_momentum() -> None:
    """With ``gamma=0`` exactly: an exponential average that looks ahead."""
    params, twins = parameters(((6, 4),)), parameters(((6, 4),))
    grads = gradients(params, STEPS)
    run(AuON(params, lr=0.1, momentum=0.9, mode="code", gamma=0.0), params, grads)
    sgd = torch.optim.SGD(twins, lr=0.1 * 0.1, momentum=0.9, nesterov=True)  # its buffer is ours / (1 - momentum)
    run(sgd, twins, grads)
    assert_close(params, twins, 1e-7)


@pytest.mark.parametrize("cls", [AuON, HybridAuON])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_gradients_does_not_matter(cls: Any, scale: float) -> None:
    params, twins = parameters(((4, 6), (6, 4))), parameters(((4, 6), (6, 4)))
    grads = gradients(params, 10)
    run(cls(params, eps=0.0), params, grads)
    run(cls(twins, eps=0.0), twins, [[scale * g for g in step] for step in grads])
    assert_close(params, twins, 1e-10)


def test_without_cosh_and_with_five_polynomials_the_hybrid_is_muon_of_unit_length() -> None:
    """torch's Muon rounds to bfloat16 and does not normalize its result."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    for shape in ((24, 60), (60, 24)):
        params, twins = parameters((shape,)), parameters((shape,))
        start = params[0].detach().clone()
        grads = gradients(params, 1)
        run(HybridAuON(params, lr=0.1, gamma=0.0, ns_steps=5), params, grads)
        run(torch.optim.Muon(twins, lr=0.1, weight_decay=0.0), twins, grads)
        ours, theirs = params[0].detach() - start, twins[0].detach() - start
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.995
        factor = max(1, shape[0] / shape[1]) ** 0.5
        assert ours.norm().item() == pytest.approx(0.1 * factor, rel=1e-6)


def test_one_polynomial_flattens_little_and_five_flatten() -> None:
    g = parameters(((40, 60),))[0].detach()

    def condition(k: int) -> float:
        s = torch.linalg.svdvals(direction(HybridAuON, g, ns_steps=k))
        return float(s[0] / s[-1])

    s = torch.linalg.svdvals(g)
    plain = torch.linalg.svdvals(direction(AuON, g))
    assert float(plain[0] / plain[-1]) == pytest.approx(float(s[0] / s[-1]))
    assert 0.8 * condition(1) < float(s[0] / s[-1]) < 1.6 * condition(1)
    assert condition(5) < 0.35 * condition(1)


@pytest.mark.parametrize("cls", [AuON, HybridAuON])
def test_untouched_matrices_decay_only(cls: Any) -> None:
    params = parameters(((4, 6), (5, 5)))
    before = [p.detach().clone() for p in params]
    run(cls(params, lr=0.1, weight_decay=0.5), params, [[torch.zeros_like(p) for p in params]])
    assert_close(params, [0.95 * p for p in before])


def test_a_vector_is_a_row() -> None:
    params, twins = parameters(((6,),)), [nn.Parameter(p.detach().reshape(1, 6)) for p in parameters(((6,),))]
    grads = gradients(params, 5)
    run(AuON(params), params, grads)
    run(AuON(twins), twins, [[g.reshape(1, 6) for g in step] for step in grads])
    assert_close([params[0].detach().reshape(1, 6)], twins)


def test_bad_settings() -> None:
    p = [torch.zeros(2, 2)]
    for make, words in (
        (lambda: AuON(p, mode="fast"), "AuON: mode must be one of 'paper', 'code', got 'fast'"),
        (lambda: AuON(p, gamma=-1), r"AuON: gamma must be a finite number in \[0, inf\), got -1"),
        (lambda: HybridAuON(p, ns_steps=0), "HybridAuON: ns_steps must be an integer >= 1, got 0"),
        (lambda: HybridAuON([torch.zeros(3)]), r"HybridAuON: parameter 0 of shape \(3,\) is not a matrix; .*'adamw'"),
        (lambda: AuON(p, adamw_eps=-1), "AuON: adamw_eps must be"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
