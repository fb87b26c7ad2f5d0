"""SAM, USAM and DNSAM against their two lines in numpy, the usual implementation, closed forms and each other."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from steepest.optim import DNSAM, SAM, USAM, GradientRegularization, dnsam_sgd, sam_sgd

#: A least-squares problem with a cubic in it, per sample.
ROWS = np.random.default_rng(0).normal(size=(12, 5))
TARGETS = np.random.default_rng(1).normal(size=12)


def numpy_gradient(x: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Of the mean of (a.x - b)^2 / 2 + (a.x)^4 / 400."""
    a, b = ROWS[batch], TARGETS[batch]
    z = a @ x
    return a.T @ (z - b + z**3 / 100) / len(batch)


def loss(x: Tensor, batch: np.ndarray) -> Tensor:
    a, b = torch.from_numpy(ROWS[batch]), torch.from_numpy(TARGETS[batch])
    z = a @ x
    return ((z - b) ** 2 / 2 + z**4 / 400).mean()


def closure_of(opt: Any, parts: list[Tensor], batch: np.ndarray) -> Any:
    def closure() -> Tensor:
        opt.zero_grad()
        value = loss(torch.cat([p.flatten() for p in parts]), batch)
        value.backward()
        return value

    return closure


def split(x: np.ndarray) -> list[nn.Parameter]:
    """Two tensors of the five numbers."""
    t = torch.from_numpy(x)
    return [nn.Parameter(t[:2].clone()), nn.Parameter(t[2:].clone().reshape(3, 1))]


BATCHES = [np.random.default_rng(5 + k).choice(12, 4, replace=False) for k in range(12)]
START = np.linspace(-1.0, 1.5, 5)


@pytest.mark.parametrize("name", ["sam", "usam", "dnsam", "dnsam known"])
def test_the_two_lines_with_momentum(name: str) -> None:
    """In two groups with other learning rates; the norm is that of all of them together."""
    parts = split(START)
    base = SGD([{"params": parts[:1], "lr": 0.04}, {"params": parts[1:], "lr": 0.02}], lr=0.1, momentum=0.9)
    rho, decay = 0.3, 0.8
    opt = {
        "sam": lambda: SAM(base, rho),
        "usam": lambda: USAM(base, rho),
        "dnsam": lambda: DNSAM(base, rho, decay=decay),
        "dnsam known": lambda: DNSAM(base, rho),
    }[name]()
    x, momentum, average = START.copy(), np.zeros(5), None
    rates = np.array([0.04, 0.04, 0.02, 0.02, 0.02])
    for batch in BATCHES:
        if name == "dnsam known":
            opt.full_norm = float(np.linalg.norm(numpy_gradient(x, np.arange(12))))
        value = opt.step(closure_of(opt, parts, batch))
        g = numpy_gradient(x, batch)
        square = g @ g
        average = square if average is None else decay * average + (1 - decay) * square
        full = np.linalg.norm(numpy_gradient(x, np.arange(12)))
        divisor = {"sam": square**0.5, "usam": 1.0, "dnsam": average**0.5, "dnsam known": full}[name]
        assert value.item() == pytest.approx(loss(torch.from_numpy(x), batch).item(), rel=1e-12)
        there = numpy_gradient(x + rho * g / divisor, batch)
        momentum = 0.9 * momentum + there
        x = x - rates * momentum
        ours = torch.cat([p.detach().flatten() for p in parts]).numpy()
        np.testing.assert_allclose(ours, x, rtol=1e-10, atol=1e-11)


def test_pytorch_optimizers_sam_step_by_step() -> None:
    """As close as its norm, which is rounded to float32, allows."""
    peer = pytest.importorskip("pytorch_optimizer")
    ours, theirs = split(START), split(START)
    opt = SAM(SGD(ours, lr=0.02, momentum=0.9), 0.2)
    other = peer.SAM(theirs, SGD, rho=0.2, lr=0.02, momentum=0.9)
    for batch in BATCHES:
        opt.step(closure_of(opt, ours, batch))
        closure_of(other, theirs, batch)()
        other.step(closure_of(other, theirs, batch))
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-8)


def test_special_cases() -> None:
    """DNSAM that forgets at once is SAM; USAM is gradient regularization with equal constants, to the bit."""
    for one, two in (
        (lambda b: DNSAM(b, 0.3, decay=0.0), lambda b: SAM(b, 0.3)),
        (lambda b: USAM(b, 0.3), lambda b: GradientRegularization(b, 0.3, 0.3)),
    ):
        left, right = split(START), split(START)
        a, b = one(SGD(left, lr=0.02, momentum=0.9)), two(SGD(right, lr=0.02, momentum=0.9))
        exact = isinstance(a, USAM) and not isinstance(a, DNSAM)
        for batch in BATCHES:
            a.step(closure_of(a, left, batch))
            b.step(closure_of(b, right, batch))
        for p, q in zip(left, right, strict=True):
            torch.testing.assert_close(p, q, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-13)


def test_the_first_order_of_the_direction() -> None:
    """(SAM's gradient - g) / rho tends to H g / |g|, USAM's to H g: with an error linear in rho."""
    x = torch.from_numpy(START).requires_grad_()
    batch = BATCHES[0]
    (g,) = torch.autograd.grad(loss(x, batch), x, create_graph=True)
    (hg,) = torch.autograd.grad(g @ g.detach(), x)
    for cls, limit in ((SAM, hg / g.detach().norm()), (USAM, hg)):
        errors = []
        for rho in (1e-2, 1e-3, 1e-4):
            parts = split(START)
            opt = cls(SGD(parts, lr=1.0), rho)
            opt.step(closure_of(opt, parts, batch))
            moved = x.detach() - torch.cat([p.detach().flatten() for p in parts])
            errors.append(float(((moved - g.detach()) / rho - limit).norm()))
        assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
        assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def _walk(opt: Any, x: nn.Parameter, h: Tensor, steps: int) -> float:
    def closure() -> None:
        x.grad = h * x.detach()

    for _ in range(steps):
        opt.step(closure)
    return float(x.detach().norm())


@pytest.mark.parametrize(
    ("make", "start", "attracted"),
    [
        (lambda b: SAM(b, 0.1), 0.01, True),  # nearer than rho: held, whatever the sign of the curvature
        (lambda b: SAM(b, 0.1), 0.5, False),
        (lambda b: DNSAM(b, 0.1), 0.5, False),
        (lambda b: USAM(b, 0.1), 0.01, False),  # -1 > -1 / rho
        (lambda b: USAM(b, 2.0), 0.5, True),  # -1 < -1 / rho
        (lambda b: SAM(b, 0.0), 0.01, False),
    ],
)
def test_who_is_held_by_a_saddle(make: Any, start: float, attracted: bool) -> None:
    """f = (x^2 - y^2) / 2; the attracted ones end within the step size times rho."""
    h = torch.tensor([1.0, -1.0], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([start, start], dtype=torch.float64))
    end = _walk(make(SGD([x], lr=0.01)), x, h, 600)
    assert end < 0.01 * 0.2 if attracted else end > start


def test_the_distance_at_which_sam_stays() -> None:
    """f = h x^2 / 2: SAM flips between +-a with a = lr h rho / (2 - lr h)."""
    rho, rate, h = 0.3, 0.1, 2.0
    a = rate * h * rho / (2 - rate * h)
    x = nn.Parameter(torch.tensor([a], dtype=torch.float64))
    opt = SAM(SGD([x], lr=rate), rho)
    for sign in (-1, 1, -1):
        _walk(opt, x, torch.tensor([h], dtype=torch.float64), 1)
        assert x.item() == pytest.approx(sign * a, rel=1e-9)


def test_a_gradient_of_zero_moves_nothing() -> None:
    for cls in (SAM, USAM, DNSAM):
        x = nn.Parameter(torch.zeros(2))
        assert _walk(cls(SGD([x], lr=0.1), 0.5), x, torch.ones(2), 2) == 0.0


def test_the_average_of_dnsam_is_saved_and_a_known_norm_replaces_it() -> None:
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = dnsam_sgd([x], lr=0.1, rho=0.1)
    _walk(opt, x, torch.ones(2, dtype=torch.float64), 3)
    y = nn.Parameter(x.detach().clone())
    twin = dnsam_sgd([y], lr=0.3, rho=0.2)
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert twin.average == opt.average > 0
    kept = opt.average
    assert _walk(opt, x, torch.ones(2).double(), 2) == _walk(twin, y, torch.ones(2).double(), 2)
    assert opt.average != kept
    opt.full_norm, kept = 1.0, opt.average
    _walk(opt, x, torch.ones(2).double(), 1)
    assert opt.average == kept


def test_bad_settings() -> None:
    p = [nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=r"SAM: rho must be a finite number in \[0, inf\), got -0.1"):
        sam_sgd(p, rho=-0.1)
    with pytest.raises(ValueError, match=r"DNSAM: decay must be a finite number in \[0, 1\), got 1.0"):
        dnsam_sgd(p, decay=1.0)
    with pytest.raises(ValueError, match=r"DNSAM: full_norm must be .* or None, got 0.0"):
        DNSAM(SGD(p, lr=0.1), full_norm=0.0)
    opt = sam_sgd(p)
    with pytest.raises(TypeError, match="SAM: rho must be"):
        opt.rho = "1"
