"""The trust-region methods against the equations, the methods they are special cases of, and their bounds."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, gradients, parameters, run, snapshot
from oracle_helpers import STEPS, against_numpy, schedule
from torch import nn

from steepest.core.lmo import NORMS, dual, norm
from steepest.optim import ExtrapolatedTrustRegion, Muon, NonEuclideanTrustRegion

norms = pytest.mark.parametrize("name", NORMS)


def descent(name: str, m: Any) -> Any:
    """The steepest direction of unit length, on the matrix view; vectors are columns."""
    a = m.reshape(m.shape[0], -1)
    if name == "l2":
        s = a / np.linalg.norm(a)
    elif name == "max":
        s = np.sign(a)
    elif name == "column":
        s = a / np.linalg.norm(a, axis=0)
    else:
        u, _, vt = np.linalg.svd(a, full_matrices=False)
        s = u @ vt if name == "spectral" else np.outer(u[:, 0], vt[0])
    return -s.reshape(m.shape)


def averaged(g: Any, s: dict[str, Any], momentum: float) -> Any:
    s["m"] = g if "m" not in s else momentum * s["m"] + (1 - momentum) * g
    return s["m"]


def trust_region(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, momentum: float, weight_decay: float, norm: str
) -> Any:
    return (1 - lr * weight_decay) * x + lr * descent(norm, averaged(g, s, momentum))


def extrapolated(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, momentum: float, weight_decay: float, norm: str
) -> Any:
    """``x`` is the extrapolated point; the iterate is kept in ``s``."""
    old = s.get("x", x)
    new = (1 - lr * weight_decay) * old + lr * descent(norm, averaged(g, s, momentum))
    s["x"] = new
    return old + (new - old) / (1 - momentum)


SHAPES = [(4, 6), (7, 3), (5,), (3, 2, 3, 3), (8, 2, 2), (5, 4)]


@norms
@pytest.mark.parametrize(
    ("cls", "oracle"), [(NonEuclideanTrustRegion, trust_region), (ExtrapolatedTrustRegion, extrapolated)]
)
def test_paper(cls: Any, oracle: Any, name: str) -> None:
    chosen = {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.3, "norm": name}
    against_numpy(cls, oracle, chosen, shapes=SHAPES, tolerance=1e-9)


def from_zero(grads: list[list[torch.Tensor]], momentum: float) -> list[list[torch.Tensor]]:
    """Gradients under which a momentum that begins as the first gradient equals one that begins as zero."""
    return [[(1 - momentum) * g for g in grads[0]], *grads[1:]]


def test_muon_is_the_spectral_norm() -> None:
    shapes = ((4, 6), (6, 6), (3, 2, 2, 2))
    params, twins = parameters(shapes), parameters(shapes)
    grads = gradients(params, STEPS)
    opt = NonEuclideanTrustRegion(params, momentum=0.9, weight_decay=0.1, norm="spectral")
    muon = Muon(twins, momentum=0.9, weight_decay=0.1, nesterov=False, orthogonalization="exact")
    for t, (ours, theirs) in enumerate(zip(from_zero(grads, 0.9), grads, strict=True), start=1):
        for group in (*opt.param_groups, *muon.param_groups):
            group["lr"] = 0.1 * schedule(t)
        run(opt, params, [ours])
        run(muon, twins, [theirs])
    assert_close(params, twins, 1e-10)


def test_signum_is_the_max_norm() -> None:
    """pytorch_optimizer's SignSGD keeps ``m <- momentum m + (1 - momentum) g`` from zero and steps by its sign."""
    peer = pytest.importorskip("pytorch_optimizer")
    params, twins = parameters(), parameters()
    grads = gradients(params, STEPS)
    run(NonEuclideanTrustRegion(params, lr=0.01, momentum=0.9, norm="max"), params, from_zero(grads, 0.9))
    run(peer.SignSGD(twins, lr=0.01, momentum=0.9), twins, grads)
    assert_close(params, twins, 1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_normalized_sgd_with_momentum_is_the_euclidean_norm(momentum: float) -> None:
    """torch's SGD with the rate divided by the length of the buffer it is about to use."""
    params, twins = parameters(((4, 6),)), parameters(((4, 6),))
    grads = gradients(params, STEPS)
    opt = NonEuclideanTrustRegion(params, lr=0.05, momentum=momentum, norm="l2")
    sgd = torch.optim.SGD(twins, lr=1.0, momentum=momentum, dampening=momentum)
    buffer = torch.zeros(4, 6, dtype=torch.float64)
    for step in grads:  # torch's buffer begins as the first gradient too
        buffer = step[0] if not buffer.any() else momentum * buffer + (1 - momentum) * step[0]
        sgd.param_groups[0]["lr"] = 0.05 / float(buffer.norm())
        run(opt, params, [step])
        run(sgd, twins, [step])
    assert_close(params, twins, 1e-12)


@norms
def test_without_momentum_extrapolation_changes_nothing(name: str) -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, STEPS)
    settings: dict[str, Any] = {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.1, "norm": name}
    run(NonEuclideanTrustRegion(params, **settings), params, grads)
    run(ExtrapolatedTrustRegion(twins, **settings), twins, grads)
    assert_close(params, twins, 1e-10)


def test_on_a_quadratic_the_extrapolated_momentum_is_the_gradient_at_the_iterate() -> None:
    """Gradients of a quadratic are affine, so that no lag is left at all; without extrapolation there is one."""
    hessian = torch.diag(torch.tensor([1.0, 3.0, 0.3, 2.0], dtype=torch.float64))

    def lag(cls: Any) -> list[float]:
        p = parameters(((4, 1),))[0]
        opt = cls([p], lr=0.1, momentum=0.9, norm="l2")
        found = []
        for _ in range(40):
            at = opt.state[p].get("point", p.detach()).clone()
            p.grad = hessian @ p.detach()
            opt.step()
            found.append(float((opt.state[p]["momentum"] - hessian @ at).norm()))
        return found

    assert max(lag(ExtrapolatedTrustRegion)) < 1e-12
    assert max(lag(NonEuclideanTrustRegion)) > 0.1


@norms
def test_every_step_has_the_radius(name: str) -> None:
    params = parameters(((4, 6),))
    opt = NonEuclideanTrustRegion(params, lr=0.3, norm=name)
    for step in gradients(params, 5):
        before = params[0].detach().clone()
        run(opt, params, [step])
        assert norm(name, params[0].detach() - before).item() == pytest.approx(0.3)


@norms
def test_decay_keeps_the_iterates_in_the_ball(name: str) -> None:
    params = parameters(((4, 6),))
    params[0].data.mul_(0.5 / norm(name, params[0].detach()))
    opt = NonEuclideanTrustRegion(params, lr=0.05, weight_decay=2.0, norm=name)
    for step in gradients(params, 100):
        run(opt, params, [[step[0] + 1.0]])
        assert norm(name, params[0].detach()).item() <= 0.5 + 1e-12


@norms
def test_deterministic_descent_while_the_gradient_is_large(name: str) -> None:
    """f falls by at least eta ||grad||_* - L eta^2 / 2 in every step without noise and momentum."""
    curvature = torch.rand(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    # <s, H s> <= L ||s||^2: for the max norm the sum of the curvatures; the others' balls lie in Frobenius balls.
    radius = {"l2": 1.0, "max": 24.0, "spectral": 4.0, "nuclear": 1.0, "column": 6.0}[name]  # of ||s||_F^2
    smoothness = float(curvature.max()) * radius
    p = parameters(((4, 6),))[0]
    opt = NonEuclideanTrustRegion([p], lr=0.02, momentum=0.0, norm=name)
    values = []
    for _ in range(100):
        p.grad = curvature * p.detach()
        values.append(float(0.5 * (curvature * p.detach().square()).sum()))
        promised = 0.02 * float(dual(name, p.grad)) - 0.5 * smoothness * 0.02**2
        opt.step()
        fall = values[-1] - float(0.5 * (curvature * p.detach().square()).sum())
        assert fall >= promised - 1e-12
    assert values[-1] < 0.9 * values[0]


def test_the_iterate_is_shown_and_the_parameters_come_back() -> None:
    params = [*parameters(((4, 6),)), *parameters(((3, 5),), torch.bfloat16)]
    never = parameters(((2, 2),))[0]
    opt = ExtrapolatedTrustRegion([*params, never], lr=0.1)
    run(opt, params, gradients(params, 3))
    before = snapshot(opt, params)
    with opt.at_iterate():
        for p in params:
            assert torch.equal(p.detach(), opt.state[p]["point"].to(p.dtype))
        assert not torch.equal(params[0], before[0])
        with pytest.raises(RuntimeError, match=r"ExtrapolatedTrustRegion: step\(\) inside at_iterate\(\)"):
            opt.step()
    assert_same(before, snapshot(opt, params))
    with pytest.raises(ZeroDivisionError), opt.at_iterate():
        raise ZeroDivisionError
    assert_same(before, snapshot(opt, params))
    run(opt, params, gradients(params, 1))  # stepping is allowed again


def test_what_is_no_matrix_follows_adamw_when_the_model_is_passed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    opt = ExtrapolatedTrustRegion(net, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6)
    rest = [p for n, p in twins.items() if n != "1.weight"]
    adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in gradients(list(net.parameters()), 10):
        for (n, p), g in zip(net.named_parameters(), step, strict=True):
            p.grad, twins[n].grad = g.clone(), g.clone()
        opt.step()
        adam.step()
    with opt.at_iterate():  # has nothing to do with the fallback's parameters
        assert_close([p for n, p in net.named_parameters() if n != "1.weight"], rest)
    assert "point" in opt.state[net[1].weight]


@pytest.mark.parametrize("cls", [NonEuclideanTrustRegion, ExtrapolatedTrustRegion])
def test_bad_settings(cls: Any) -> None:
    p = [torch.zeros(2, 2)]
    with pytest.raises(ValueError, match=f"{cls.__name__}: norm must be one of 'l2', 'max'.*got 'l1'"):
        cls(p, norm="l1")
    with pytest.raises(ValueError, match=rf"{cls.__name__}: momentum must be a finite number in \[0, 1\), got 1.0"):
        cls(p, momentum=1.0)
    with pytest.raises(ValueError, match=rf"{cls.__name__}: adamw_betas\[1\] must be"):
        cls(p, adamw_betas=(0.9, 1.0))
