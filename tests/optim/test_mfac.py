"""M-FAC against dense inverses."""

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assign, gradients, parameters, run
from torch import nn

from steepest.core.gram import GramSolver
from steepest.optim import MFAC


def flat(tensors):  # type: ignore[no-untyped-def]
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy()


@pytest.mark.parametrize("steps", [1, 4, 5, 13])
@pytest.mark.parametrize("damping", [1e-8, 1e-5, 0.3])
def test_the_step_is_that_of_the_dense_inverse(steps: int, damping: float) -> None:
    """Also after the buffer has wrapped around; written from the definition: the last m gradients, divided by m."""
    m, mu, decay, lr = 5, 0.7, 0.2, 0.01
    params = parameters()
    opt = MFAC(params, lr=lr, momentum=mu, weight_decay=decay, damping=damping, history_size=m)
    x, v, rows = flat(params), 0.0, []
    for step in gradients(params, steps):
        g = flat(step) + decay * x
        rows = [*rows, g][-m:]
        fisher = damping * np.eye(len(x)) + sum(np.outer(r, r) for r in rows) / m
        v = mu * v + (1 - mu) * np.linalg.solve(fisher, g)
        x = x - lr * v
        run(opt, params, [step])
    np.testing.assert_allclose(flat(params), x, rtol=1e-8, atol=1e-8)


def test_the_order_of_the_rows_does_not_matter() -> None:
    """Histories that were shifted around before the last gradient came lead to the same step."""
    grads = gradients(parameters(), 5)
    ends = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        params = parameters()
        opt = MFAC(params, lr=0.0, damping=1e-3, history_size=5)
        run(opt, params, [grads[k] for k in order])
        opt.param_groups[0]["lr"] = 0.1
        run(opt, params, [grads[4]])
        ends.append(params)
    assert_close(*ends, 1e-10)


def test_one_row_is_sherman_morrison() -> None:
    params = parameters()
    start = flat(params)
    g = gradients(params, 2)
    run(MFAC(params, lr=1.0, damping=0.4, history_size=1), params, g[:1])
    first = flat(g[0])
    np.testing.assert_allclose(start - flat(params), first / (0.4 + first @ first), rtol=1e-10, atol=1e-14)


def test_large_damping_is_gradient_descent() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 6)
    run(MFAC(params, lr=1e10 * 0.1, damping=1e10, history_size=4), params, grads)
    run(torch.optim.SGD(twins, lr=0.1), twins, grads)
    assert_close(params, twins, 1e-7)


def test_missing_gradients_are_zero_parts_of_their_rows() -> None:
    m, grads = 3, gradients(parameters(), 12)
    present = [[not (index == 0 and step in (1, 4, 5, 6, 7, 10)) for index in range(5)] for step in range(12)]
    params = parameters()
    opt = MFAC(params, lr=0.01, damping=0.1, history_size=m)
    x, rows = flat(params).copy(), []
    for step, has in zip(grads, present, strict=True):
        g = flat([t if h else torch.zeros_like(t) for t, h in zip(step, has, strict=True)])
        rows = [*rows, g][-m:]
        part = slice(0 if has[0] else params[0].numel(), None)
        fisher = 0.1 * np.eye(len(x)) + sum(np.outer(r, r) for r in rows) / m
        x[part] -= 0.01 * np.linalg.solve(fisher[part, part], g[part])
        run(opt, params, [[t if h else None for t, h in zip(step, has, strict=True)]])
        np.testing.assert_allclose(flat(params), x, rtol=1e-9, atol=1e-10)


def test_a_group_is_a_block() -> None:
    """The groups do not share a Fisher matrix; the tensors of one do."""
    params, twins = parameters(), parameters()
    grads = gradients(params, 4)
    run(MFAC([{"params": params[:2]}, {"params": params[2:]}], damping=0.1, history_size=3), params, grads)
    for part in (slice(0, 2), slice(2, 5)):
        run(MFAC(twins[part], damping=0.1, history_size=3), twins[part], [g[part] for g in grads])
    assert_close(params, twins)
    whole = parameters()
    run(MFAC(whole, damping=0.1, history_size=3), whole, grads)
    assert (params[0] - whole[0]).abs().max() > 1e-6


def test_tiny_damping_in_float32() -> None:
    """The rows are nearly dependent: what remains is the rounding of their products, far below that of a difference."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(2000))
    base = torch.randn(2000)
    opt = MFAC([p], lr=1.0, damping=1e-6, history_size=16)
    rows = [base + 0.01 * torch.randn(2000) for _ in range(16)]
    for g in rows:
        p.data.zero_()
        assign([p], [g])
        opt.step()
    G = torch.stack(rows)
    wide = G.double().numpy()
    exact = np.linalg.solve(1e-6 * np.eye(2000) + wide.T @ wide / 16, wide[-1])
    error = np.linalg.norm(-p.detach().numpy() - exact) / np.linalg.norm(exact)
    difference = GramSolver(G @ G.mT, 1e-6).solve(G, G[-1]).numpy()
    assert error < 0.02
    assert error < 0.2 * np.linalg.norm(difference - exact) / np.linalg.norm(exact)


def test_steps_after_a_gradient_that_was_not_finite() -> None:
    for policy in ("skip", "propagate"):
        params = parameters()
        opt = MFAC(params, damping=0.1, history_size=2, nonfinite=policy)
        grads = gradients(params, 5)
        grads[1][0] = torch.full_like(grads[1][0], torch.nan)
        run(opt, params, grads)
        assert all(bool(p.isfinite().all()) for p in params) == (policy == "skip")
