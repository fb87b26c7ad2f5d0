"""REG against its equations, and what row-and-column scaling does and does not do."""

from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, gradients, parameters, run
from oracle_helpers import against_numpy
from torch import Tensor, nn

from steepest.optim import REG, Muon


def reg(
    x: Any, g: Any, s: dict[str, Any], t: int, *, lr: float, momentum: float, weight_decay: float, eps: float
) -> Any:
    s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
    z = s["m"].reshape(x.shape[0], -1)
    z = z / (np.linalg.norm(z, axis=1, keepdims=True) + eps)
    z = z / (np.linalg.norm(z, axis=0, keepdims=True) + eps)
    z = z * 0.2 * np.sqrt(z.size) / np.linalg.norm(z)
    return (1 - lr * weight_decay) * x - lr * z.reshape(x.shape)


@pytest.mark.parametrize("eps", [1e-8, 0.3])
def test_paper(eps: float) -> None:
    chosen = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "eps": eps}
    against_numpy(REG, reg, chosen, shapes=[(4, 6), (7, 3), (5,), (3, 2, 3, 3), (8, 2, 2), (5, 5)])


def direction(m: Tensor, eps: float = 0.0) -> Tensor:
    """The first update of a zero weight at rate one."""
    p = nn.Parameter(torch.zeros_like(m))
    run(REG([p], lr=1.0, weight_decay=0.0, eps=eps), [p], [[m]])
    return -p.detach()


def draw(rows: int, columns: int) -> Tensor:
    return parameters(((rows, columns),))[0].detach()


def test_rank_one_gives_the_signs() -> None:
    u, v = draw(5, 1), draw(1, 7)
    assert_close([direction(u @ v)], [0.2 * torch.sign(u) @ torch.sign(v)])


def test_row_scales_do_not_matter_and_columns_are_equal() -> None:
    m = draw(6, 9)
    scales = torch.tensor([1e-6, 1.0, 3.0, 1e4, 0.1, 7.0], dtype=torch.float64)[:, None]
    u = direction(m)
    assert_close([direction(scales * m)], [u])
    assert_close([u.norm(dim=0)], [torch.full((9,), 0.2 * 6**0.5, dtype=torch.float64)])
    assert u.norm().item() == pytest.approx(0.2 * 54**0.5)
    rows = u.norm(dim=1)
    assert rows.max() / rows.min() < 2  # nearly equal; here 1.5


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_the_gradients_does_not_matter(scale: float) -> None:
    m = draw(6, 9)
    assert_close([direction(scale * m)], [direction(m)])


def test_bad_scales_are_repaired_and_bad_rotations_are_not() -> None:
    def condition(a: Tensor) -> float:
        s = torch.linalg.svdvals(a)
        return float(s[0] / s[-1])

    scaled = torch.logspace(0, 3, 20, dtype=torch.float64)[:, None] * draw(20, 60)
    assert condition(scaled) > 100
    assert condition(direction(scaled)) < 10
    u, _, vh = torch.linalg.svd(draw(20, 60), full_matrices=False)
    rotated = u @ torch.diag(torch.logspace(0, -3, 20, dtype=torch.float64)) @ vh
    assert condition(direction(rotated)) > 300


def test_an_orthogonal_momentum_gives_the_step_of_muon() -> None:
    q = torch.linalg.qr(draw(8, 8)).Q
    p, twin = (nn.Parameter(torch.zeros(8, 8, dtype=torch.float64)) for _ in range(2))
    run(REG([p], lr=0.1, eps=0.0, weight_decay=0.0), [p], [[q]])
    run(Muon([twin], lr=0.1, scale="rms", orthogonalization="exact"), [twin], [[q]])
    assert_close([p], [twin])


def test_zero_rows_and_columns_stay_zero() -> None:
    m = draw(5, 6)
    m[1], m[:, 4] = 0.0, 0.0
    for eps in (0.0, 1e-8):
        u = direction(m, eps)
        assert u.isfinite().all()
        assert not u[1].any()
        assert not u[:, 4].any()
    assert torch.equal(direction(torch.zeros(3, 4)).abs(), torch.zeros(3, 4))


def test_eps_keeps_vanishing_rows_small() -> None:
    m = draw(5, 6)
    m[1] *= 1e-12
    assert direction(m, 0.0)[1].norm() > 0.3 * direction(m, 0.0)[0].norm()
    assert direction(m, 1e-8)[1].norm() < 1e-3 * direction(m, 1e-8)[0].norm()


def test_what_is_no_matrix_follows_adamw_when_the_model_is_passed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    opt = REG(net, weight_decay=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6)
    rest = [p for n, p in twins.items() if n != "0.weight"]
    adam = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in gradients(list(net.parameters()), 10):
        for (n, p), g in zip(net.named_parameters(), step, strict=True):
            p.grad, twins[n].grad = g.clone(), g.clone()
        opt.step()
        adam.step()
    assert_close([p for n, p in net.named_parameters() if n != "0.weight"], rest)
    assert set(opt.state[net[0].weight]) == {"step", "momentum"}


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"REG: eps must be a finite number in \[0, inf\), got -1"):
        REG([torch.zeros(2, 2)], eps=-1)
    with pytest.raises(ValueError, match="REG: adamw_lr must be"):
        REG([torch.zeros(2, 2)], adamw_lr=-1)
