"""The robust convex program: its special cases, brute force over boxes, and equality with the network it makes."""

import itertools
import math
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

from steepest.core.losses import loss_of
from steepest.train.convexnet import (
    RobustProgram,
    certified_accuracy,
    enumerate_patterns,
    nonconvex_objective,
    pgd,
    robust_patterns,
    sample_patterns,
    train_robust_convex_relu,
    with_bias,
    worst_case_loss,
)
from steepest.train.convexnet.robust_admm import solve_admm
from steepest.train.convexnet.robust_interior_point import solve_interior_point

LOSSES = ["hinge", "squared", "logistic", "squared-hinge", "absolute", "huber"]


def toy(n: int = 30, d: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a box, labelled by the sign of a product: no linear classifier is good."""
    x = 2 * torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    return x, torch.where(x[:, 0] * x[:, 1] >= 0, 1.0, -1.0).double()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def program(
    radius: float, loss: str = "hinge", penalty: float = 0.1, norm: float = math.inf, limit: int = 25, n: int = 30
) -> RobustProgram:
    x, y = toy(n)
    patterns = robust_patterns(x, 60, generator(1), radius=radius, limit=limit, norm=norm, bias=True)
    return RobustProgram(x, y, patterns, loss, penalty, radius=radius, norm=norm, bias=True)


def corners(x: torch.Tensor, radius: float) -> torch.Tensor:
    """All corners of the box around each sample, ``(2^d, n, d)``."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=x.shape[1])), dtype=x.dtype)
    return x + radius * signs[:, None, :]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", [math.inf, 2.0])
def test_the_value_is_the_attacked_objective_of_the_recovered_network(loss: str, norm: float) -> None:
    robust = program(0.03, loss, norm=norm)
    point, bound = solve_interior_point(robust)
    value, x, y = float(robust.value(point)), robust.features, robust.target
    assert robust.violation(point) == 0
    assert 0 <= value - bound <= 2e-6 * max(1.0, value)
    network = robust.network(point)
    # Weight decay of the network is the penalty of the program.
    decay = 0.5 * robust.penalty * float(network.squared_weights().detach())
    worst = worst_case_loss(network, x, y, 0.03, loss, norm=norm)
    assert worst.total + decay == pytest.approx(value, rel=1e-9)
    # An attack attains it: no looseness anywhere.
    # (With the logistic loss for margins: the slope of a hinge is 0 where the margin is above 1.)
    found = pgd(network, x, y, 0.03, loss="logistic" if robust.loss.margin else loss, norm=norm, steps=60)
    attacked = loss_of(loss).value(network(found).detach()[:, 0], y)
    assert bool((attacked <= worst.each + 1e-9).all())
    assert float(attacked.sum()) == pytest.approx(worst.total, rel=1e-6)
    assert worst.total > float(loss_of(loss).value(network(x).detach()[:, 0], y).sum()) + 0.01


@pytest.mark.parametrize("d", [1, 3, 6])
@pytest.mark.parametrize("loss", ["hinge", "squared", "logistic"])
def test_the_worst_case_is_that_of_the_corners_of_the_box(d: int, loss: str) -> None:
    x, y = toy(20, max(d, 2), seed=d)
    x, radius = x[:, :d], 0.02
    patterns = robust_patterns(x, 80, generator(1), radius=radius, limit=15, bias=True)
    robust = RobustProgram(x, y, patterns, loss, 0.05, radius=radius, bias=True)
    point, _ = solve_interior_point(robust)
    network = robust.network(point)
    each = torch.stack([loss_of(loss).value(network(c).detach()[:, 0], y) for c in corners(x, radius)])
    torch.testing.assert_close(each.amax(0), robust.losses(point), rtol=1e-8, atol=1e-10)
    assert bool(point.any())
    # No neuron that is used changes its sign on any corner.
    inner = network.design(corners(x, radius)) @ network.hidden.weight.detach().mT
    assert bool(((inner.amin(0) >= -1e-10) | (inner.amax(0) <= 1e-10)).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_radius_zero_is_the_clean_program(loss: str) -> None:
    x, y = toy(25)
    design = with_bias(x)
    patterns = sample_patterns(design, 20, generator(2))
    robust = RobustProgram(x, y, patterns, loss, 0.2, radius=0.0, bias=True)
    point, bound = solve_interior_point(robust)
    rows, active = design.numpy(), patterns.active.numpy().astype(float)
    v, w = cp.Variable((3, len(patterns))), cp.Variable((3, len(patterns)))
    fit = sum(np.diag(a) @ rows @ (v[:, i] - w[:, i]) for i, a in enumerate(active.T))
    own = y.numpy()
    terms = {
        "hinge": lambda: cp.sum(cp.pos(1 - cp.multiply(own, fit))),
        "squared": lambda: cp.sum_squares(fit - own) / 2,
        "logistic": lambda: cp.sum(cp.logistic(-cp.multiply(own, fit))),
        "squared-hinge": lambda: cp.sum_squares(cp.pos(1 - cp.multiply(own, fit))) / 2,
        "absolute": lambda: cp.norm1(fit - own),
        "huber": lambda: cp.sum(cp.huber(fit - own, 1.0)) / 2,
    }[loss]()
    norms = cp.sum(cp.norm(v, 2, axis=0)) + cp.sum(cp.norm(w, 2, axis=0))
    cones = [np.diag(2 * a - 1) @ rows @ b[:, i] >= 0 for i, a in enumerate(active.T) for b in (v, w)]
    clean = cp.Problem(cp.Minimize(terms + 0.2 * norms), cones).solve(solver=cp.CLARABEL)
    assert float(robust.value(point)) == pytest.approx(clean, rel=1e-5)
    assert bound <= clean * (1 + 1e-6)
    objective = nonconvex_objective(robust.network(point), x, y, loss, 0.2)
    assert float(objective.detach()) == pytest.approx(float(robust.value(point)), rel=1e-9)


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0])
@pytest.mark.parametrize("radius", [0.0, 0.3, 0.6, 0.9, 1.1])
def test_one_feature_without_a_bias_in_closed_form(norm: float, radius: float) -> None:
    # x = +-1 with y = +-1, hinge loss. The patterns are "right side" and "left side"; with slope s on the right the
    # loss there is (1 - (1 - r) s)_+, and a neuron costs penalty |s|; the same on the left. While r < 1 and
    # penalty < 1 - r the optimum is s = 1 / (1 - r); else it is 0. From r = 1 on no neuron can keep its sign.
    x, y = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    penalty = 0.2
    patterns = robust_patterns(x, 10, generator(), radius=radius, norm=norm)
    assert len(patterns) == (2 if radius < 1 else 0)
    robust = RobustProgram(x, y, patterns, "hinge", penalty, radius=radius, norm=norm)
    point, bound = solve_interior_point(robust)
    expected = 2 * penalty / (1 - radius) if radius < 1 - penalty else 2.0
    assert float(robust.value(point)) == pytest.approx(expected, rel=1e-6)
    assert bound == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "squared", "logistic"])
def test_the_optimum_grows_with_the_radius_and_falls_with_patterns(loss: str) -> None:
    x, y = toy(24)
    # Patterns that are open at the largest radius are open at all; the same ones for all radii.
    patterns = robust_patterns(x, 150, generator(3), radius=0.06, bias=True)
    assert len(patterns) >= 6

    def optimum(radius: float, count: int) -> float:
        part = patterns.take(torch.arange(count))
        robust = RobustProgram(x, y, part, loss, 0.1, radius=radius, bias=True)
        return float(robust.value(solve_interior_point(robust)[0]))

    values = [optimum(r, len(patterns)) for r in (0.0, 0.02, 0.04, 0.06)]
    assert all(b > a + 1e-4 for a, b in itertools.pairwise(values))
    values = [optimum(0.04, count) for count in (1, 2, len(patterns) // 2, len(patterns))]
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(values))
    assert values[-1] < values[0] - 1e-3


@pytest.mark.parametrize("norm", [math.inf, 2.0, 1.0, 3.0])
def test_the_cone_form_of_the_squared_loss_equals_the_direct_one(norm: float) -> None:
    # The source's form: minimize a + ..., |(r, 2a - 1/4)| <= 2a + 1/4, whose meaning is |r|^2 <= 2a.
    robust = program(0.03, "squared", norm=norm, limit=12, n=20)
    point, _ = solve_interior_point(robust)
    x, y, active = robust.design.numpy(), robust.target.numpy(), robust.active.numpy()
    (n, d), count, q = x.shape, active.shape[1], robust.ball.dual
    v, w, a, t = cp.Variable((d, count)), cp.Variable((d, count)), cp.Variable(), cp.Variable(n + 1)
    limits = [cp.norm(t, 2) <= 2 * a + 0.25, t[n] >= cp.abs(2 * a - 0.25)]
    for k in range(n):
        z = (v - w) @ active[k]
        limits.append(t[k] >= cp.abs(x[k] @ z - y[k]) + 0.03 * cp.norm(z[: d - 1], q))
        for i in range(count):
            for b in (v, w):
                limits.append((2 * active[k, i] - 1) * (x[k] @ b[:, i]) >= 0.03 * cp.norm(b[: d - 1, i], q))
    norms = cp.sum(cp.norm(v, 2, axis=0)) + cp.sum(cp.norm(w, 2, axis=0))
    value = cp.Problem(cp.Minimize(a + robust.penalty * norms), limits).solve(solver=cp.CLARABEL)
    assert float(robust.value(point)) == pytest.approx(value, rel=1e-5)


def test_no_convex_loss_of_the_slopes_separately_is_as_good() -> None:
    # The norm of the sum of slopes, not the sum of norms: v and w that cancel cost no robustness.
    x, y = toy(12)
    patterns = robust_patterns(x, 5, generator(), radius=0.1, limit=1, bias=True)  # "all on"
    robust = RobustProgram(x, y, patterns, "hinge", 0.0, radius=0.1, bias=True)
    block = torch.tensor([0.3, -0.2, 5.0], dtype=torch.float64)
    other = torch.tensor([0.3, -0.2, 4.5], dtype=torch.float64)
    point = torch.stack([block, other])[:, None]
    assert robust.violation(point) == 0
    torch.testing.assert_close(robust.losses(point), (1 - 0.5 * y).clamp_min(0))


def test_the_bias_is_not_perturbed() -> None:
    robust = program(0.05)
    point = robust.zeros()
    point[0, 0, -1] = 3.0  # "all on", bias only
    assert robust.violation(point) == 0
    torch.testing.assert_close(robust.losses(point), (1 - 3 * robust.target).clamp_min(0))


def test_patterns_are_kept_on_all_perturbed_data_and_the_closed_ones_are_left_out() -> None:
    x, _ = toy(14)
    radius = 0.05
    found = robust_patterns(x, 400, generator(1), radius=radius, bias=True)
    for moved in corners(x, radius):
        assert torch.equal(with_bias(moved) @ found.gates.mT >= 0, found.active)
    # Against all patterns there are, each asked for a vector with margins of 1 by another solver.
    everything = enumerate_patterns(with_bias(x))
    open_ = set()
    for column in everything.active.mT:
        v = cp.Variable(3)
        sign = np.where(column.numpy(), 1.0, -1.0)
        inside = cp.multiply(sign, with_bias(x).numpy() @ v) >= 1e-3 + radius * cp.norm1(v[:2])
        problem = cp.Problem(cp.Minimize(cp.norm(v, 2)), [inside, cp.norm(v, "inf") <= 20])
        problem.solve(solver=cp.CLARABEL)
        if problem.status == "optimal":
            open_.add(tuple(column.tolist()))
    own = {tuple(column.tolist()) for column in found.active.mT}
    assert own <= {tuple(c.tolist()) for c in everything.active.mT}
    assert len(own) >= 8
    assert len(own - open_) <= 1  # the two thresholds differ on a thin one


def test_perturbed_draws_find_patterns_that_clean_ones_miss() -> None:
    x, _ = toy(20)
    clean, perturbed = (robust_patterns(x, 25, generator(1), radius=0.05, bias=True, perturbations=p) for p in (0, 20))
    assert len(perturbed) > 0
    assert len(clean) > 0
    sets = [{tuple(c.tolist()) for c in p.active.mT} for p in (clean, perturbed)]
    more = robust_patterns(x, 25, generator(1), radius=0.05, bias=True, perturbations=20, limit=3)
    assert len(more) == 3
    assert sets[1] - sets[0]


@pytest.mark.parametrize("norm", [math.inf, 2.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_admm_agrees_with_clarabel_and_its_bound_holds(loss: str, norm: float) -> None:
    robust = program(0.08, loss, norm=norm, limit=8, n=16)
    reference, _ = solve_interior_point(robust)
    optimum = float(robust.value(reference))
    point, bound, _ = solve_admm(robust, steps=2000, accuracy=1e-2)
    value = float(robust.value(point))
    assert robust.violation(point) == 0
    assert bound <= optimum * (1 + 1e-7)
    assert optimum * (1 - 1e-6) <= value <= optimum * 1.05


@pytest.mark.parametrize("norm", [math.inf, 2.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_proximal_operators_of_admm_minimize(loss: str, norm: float) -> None:
    # Projection on the cone and the prox of the worst loss, against Clarabel.
    from steepest.train.convexnet.robust_admm import _Splitting

    robust = program(0.3, loss, norm=norm, limit=2, n=8)
    splitting, rho, q = _Splitting(robust), 0.7, robust.ball.dual
    goals = [
        2 * torch.randn(part.shape, generator=generator(4), dtype=part.dtype)
        for part in splitting.forward(robust.zeros())
    ]
    u, s, part, a, z = splitting.proximal(goals, rho)
    for c, i in itertools.product(range(2), range(len(robust.patterns))):
        sv, qv = cp.Variable(8), cp.Variable(2)
        far = cp.sum_squares(sv - goals[1][c, :, i].numpy()) + cp.sum_squares(qv - goals[2][c, i].numpy())
        cp.Problem(cp.Minimize(far), [sv >= splitting.narrow * 0.3 * cp.norm(qv, q)]).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11
        )
        np.testing.assert_allclose(s[c, :, i].numpy(), sv.value, atol=1e-5)
        np.testing.assert_allclose(part[c, i].numpy(), qv.value, atol=1e-5)
    moved = goals[0] * (1 - robust.penalty / rho / goals[0].norm(dim=-1, keepdim=True)).clamp_min(0)
    torch.testing.assert_close(u, moved)

    def objective(a: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        slope = z / splitting.wide
        spread = 0.3 * torch.linalg.vector_norm(slope, ord=q, dim=1)
        y = robust.target
        worst = torch.maximum(robust.loss.value(a - spread, y), robust.loss.value(a + spread, y))
        return worst + rho / 2 * ((a - goals[3]) ** 2 + (z - goals[4]).square().sum(1))

    best = objective(a, z)
    for k in range(60):
        noise = torch.randn(8, 3, generator=generator(k), dtype=a.dtype) * 10.0 ** -(k % 5)
        assert bool((objective(a + noise[:, 0], z + noise[:, 1:]) >= best - 1e-9).all())


def test_training_gives_a_network_with_its_certificate() -> None:
    x, y = toy(40)
    fit = train_robust_convex_relu(x, y, adversarial_radius=0.03, penalty=0.05, n_patterns=30)
    clean = train_robust_convex_relu(x, y, adversarial_radius=0.0, penalty=0.05, n_patterns=30)
    assert bool(fit.worst.exact.all())
    assert not fit.empty
    decay = 0.025 * float(fit.network.squared_weights().detach())
    assert fit.value == pytest.approx(fit.worst.total + decay, rel=1e-9)
    assert 0 <= fit.gap <= 1e-5 * fit.value
    # What the clean network promises is broken by the ball; the robust one keeps its word on every training sample.
    robust = certified_accuracy(fit.network, x, y, 0.03)
    assert robust.exact
    assert robust.accuracy >= certified_accuracy(clean.network, x, y, 0.03, method="exact").accuracy
    found = pgd(fit.network, x, y, 0.03)
    attacked = float((y * fit.network(found).detach()[:, 0] > 0).double().mean())
    assert attacked == pytest.approx(robust.accuracy)


def test_float32_gives_nearly_the_same() -> None:
    x, y = toy(20)
    wide = train_robust_convex_relu(x, y, adversarial_radius=0.05, penalty=0.1, n_patterns=10)
    narrow = train_robust_convex_relu(x.float(), y.float(), adversarial_radius=0.05, penalty=0.1, n_patterns=10)
    assert narrow.network.hidden.weight.dtype == torch.float32
    assert narrow.value == pytest.approx(wide.value, rel=1e-3)


def test_a_radius_that_is_too_large_is_told() -> None:
    x, y = toy(20)
    with pytest.warns(UserWarning, match="the network is zero: 0 patterns can be kept"):
        fit = train_robust_convex_relu(x, y, adversarial_radius=2.0, bias=False)
    assert fit.empty
    assert fit.value == 20.0 == fit.bound
    assert torch.equal(fit.network(x), torch.zeros(20, 1, dtype=torch.float64))
    with pytest.warns(UserWarning, match="penalty=500"):
        assert train_robust_convex_relu(x, y, adversarial_radius=0.01, penalty=500.0, draws=5).empty
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_robust_convex_relu(x, y, adversarial_radius=0.01, penalty=0.01, draws=5)


def test_equal_generators_give_equal_networks() -> None:
    x, y = toy(15)
    one, two = (
        train_robust_convex_relu(x, y, adversarial_radius=0.05, draws=10, generator=generator(5)) for _ in range(2)
    )
    assert torch.equal(one.point, two.point)


def test_bad_input_is_named() -> None:
    x, y = toy(6)

    def train(x: torch.Tensor = x, y: torch.Tensor = y, radius: float = 0.1, **settings: object) -> object:
        return train_robust_convex_relu(x, y, adversarial_radius=radius, draws=2, **settings)  # type: ignore[arg-type]

    for settings, message in (
        ({"radius": -0.1}, "adversarial_radius"),
        ({"radius": math.nan}, "adversarial_radius"),
        ({"clip": (0.0, 1.0)}, "must lie in clip"),
        ({"y": torch.ones(6)}, "both classes, -1 and 1, got only 1"),
        ({"y": torch.tensor([0.0, 1, 0, 1, 0, 1])}, "must be -1 or 1"),
        ({"y": torch.tensor([-1.0, 1, 2, 1, -1, 1])}, "must be -1 or 1"),
        ({"y": y[:5]}, "each of 6 samples"),
        ({"y": y * math.nan, "loss": "squared"}, "target must be finite"),
        ({"x": x * math.nan}, "features must be finite"),
        ({"penalty": -1.0}, "penalty"),
        ({"n_patterns": 0}, "n_patterns"),
        ({"solver": "mosek"}, "solver"),
        ({"norm": 0.5}, "norm"),
        ({"loss": "cross"}, "loss"),
        ({"norm": 3.0, "solver": "admm"}, "norm=inf and norm=2"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patterns must be of the design"):
        RobustProgram(x, y, sample_patterns(x, 3, generator()), radius=0.1, bias=True)


def test_without_cvxpy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    x, y = toy(8)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r"pip install 'steepest\[convex\]'"):
        train_robust_convex_relu(x, y, adversarial_radius=0.05, draws=3, solver="interior-point")
    fit = train_robust_convex_relu(x, y, adversarial_radius=0.05, draws=3, steps=50)  # does without
    assert fit.bound <= fit.value
