"""Coordinate descent: the rules step by step against a transcription in numpy, their proved rates, scikit-learn."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model
import torch

from steepest.core.regularizer import L1, Box, ElasticNet, GroupL2, Nonnegative, Regularizer, SquaredL2, Zero
from steepest.core.result import Reason
from steepest.solve.convex import CoordinateDescent, LinearModel, WorkingSetNewton
from steepest.solve.convex.coordinate_descent import Cyclic

RULES = ("random", "lipschitz-sampling", "cyclic", "gauss-southwell", "gauss-southwell-lipschitz", "gauss-southwell-q")


def data(n: int = 30, d: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, d, dtype=torch.float64, generator=generator) * torch.logspace(-1, 1, d).double()
    return design, torch.randn(n, dtype=torch.float64, generator=generator) * 3


def points(problem: LinearModel, start: torch.Tensor, rule: Any, steps: int, **settings: Any) -> list[np.ndarray]:
    found = [start.numpy().copy()]
    CoordinateDescent(rule=rule).run(
        problem,
        start,
        budget=f"{steps}steps",
        callbacks=[lambda r: found.append(r.state.point.numpy().copy())],
        **settings,
    )
    return found


@pytest.mark.parametrize("rule", ["cyclic", "gauss-southwell", "gauss-southwell-lipschitz", "gauss-southwell-q"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("l1", [0.0, 0.2])
def test_every_update_is_the_papers(rule: str, loss: str, l1: float) -> None:
    design, target = data()
    target = target if loss == "squared" else target.sign()
    start = torch.linspace(-1, 1, 8, dtype=torch.float64)
    problem = LinearModel(design, target, loss, L1(l1) if l1 else Zero())
    found = points(problem, start, rule, 25)
    a, y, x = design.numpy(), target.numpy(), start.numpy().copy()
    n, d = a.shape
    lipschitz = (a**2).sum(0) / n * (1.0 if loss == "squared" else 0.25)
    for k in range(25):
        z = a @ x
        g = a.T @ ((z - y) if loss == "squared" else -y / (1 + np.exp(y * z))) / n
        trial = np.array([soft(x[i] - g[i] / lipschitz[i], l1 / lipschitz[i]) for i in range(d)])
        if rule == "cyclic":
            i = k % d
        elif rule == "gauss-southwell-q":
            delta = trial - x
            decrease = -(g * delta + lipschitz / 2 * delta**2 + l1 * (abs(trial) - abs(x)))
            i = int(np.argmax(decrease))
        else:
            slope = np.where(x != 0, abs(g + l1 * np.sign(x)), np.maximum(abs(g) - l1, 0))
            i = int(np.argmax(slope / (np.sqrt(lipschitz) if "lipschitz" in rule else 1)))
        x[i] = trial[i]
        np.testing.assert_allclose(found[k + 1], x, rtol=0, atol=1e-12)


def soft(value: float, by: float) -> float:
    return float(np.sign(value) * max(abs(value) - by, 0))


def test_random_rules_draw_with_their_probabilities() -> None:
    design, target = data(30, 3)
    problem = LinearModel(design, target, "squared", SquaredL2(1.0))
    weights = (design**2).sum(0)
    for rule, expected in (("random", torch.ones(3) / 3), ("lipschitz-sampling", weights / weights.sum())):
        solver: Any = CoordinateDescent(rule=rule)
        generator = torch.Generator().manual_seed(0)
        lipschitz = weights / 30
        chosen = torch.tensor([_rule(solver).choose(0, lipschitz, None, generator) for _ in range(3000)])
        share = torch.bincount(chosen, minlength=3) / 3000
        assert bool(((share - expected).abs() < 4 * (expected * (1 - expected) / 3000).sqrt() + 1e-3).all())
    moved = np.abs(np.diff(np.stack(points(problem, torch.ones(3).double(), "random", 30)), axis=0)) > 0
    assert moved.sum(1).max() == 1


def _rule(solver: CoordinateDescent) -> Any:
    from steepest.solve.convex.coordinate_descent import _RULES

    return _RULES[solver.rule] if isinstance(solver.rule, str) else solver.rule


def modulus(hessian: np.ndarray, weight: np.ndarray) -> float:
    """The strong convexity of a quadratic in the norm ``sum_i weight_i |x_i|``: over all signs, for few variables."""
    inverse = np.linalg.inv(hessian)
    vectors = (np.array(signs) * weight for signs in itertools.product((-1.0, 1.0), repeat=len(weight)))
    return 1 / max(float(v @ inverse @ v) for v in vectors)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", ["gauss-southwell", "gauss-southwell-lipschitz"])
def test_the_greedy_rules_stay_under_their_proved_rates(seed: int, rule: str) -> None:
    design, target = data(seed=seed)
    problem = LinearModel(design, target)
    hessian = (design.mT @ design / 30).numpy()
    lipschitz = np.diag(hessian)
    if rule == "gauss-southwell":
        rate = 1 - modulus(hessian, np.ones(8)) / lipschitz.max()
    else:
        rate = 1 - modulus(hessian, np.sqrt(lipschitz))
    assert 0 < rate < 1
    least = float(problem.value(torch.linalg.lstsq(design, target[:, None]).solution[:, 0]))
    trace = CoordinateDescent(rule=rule).run(problem, torch.ones(8).double() * 5, budget="60steps").trace.value
    for k, value in enumerate(trace):
        assert value - least <= rate**k * (trace[0] - least) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("regularizer", [L1(0.3), Nonnegative(), ElasticNet(0.2, 0.1)])
def test_gauss_southwell_q_keeps_its_rate_with_a_regularizer(regularizer: Regularizer) -> None:
    design, target = data()
    problem = LinearModel(design, target, "squared", regularizer)
    start = torch.ones(8).double() * 5
    least = WorkingSetNewton().run(problem, start, budget="30steps", tolerance=1e-13).value
    assert least is not None
    lipschitz = (design**2).sum(0) / 30
    scaled = design / lipschitz.sqrt()  # strong convexity in the norm that the Lipschitz constants weigh
    strong = float(torch.linalg.eigvalsh(scaled.mT @ scaled / 30)[0])
    trace = CoordinateDescent(rule="gauss-southwell-q").run(problem, start, budget="300steps").trace.value
    for before, after in itertools.pairwise(trace):
        assert after - least <= (1 - strong / 8) * (before - least) + 1e-12


def test_greedy_rules_need_fewer_updates_than_random_ones_where_lengths_differ() -> None:
    design, target = data(60, 20)
    problem = LinearModel(design, target, "squared", L1(0.05))
    steps = {
        rule: CoordinateDescent(rule=rule, updates=5)
        .run(problem, torch.zeros(20).double(), budget="2000steps", tolerance=1e-4)
        .steps
        for rule in ("random", "gauss-southwell-lipschitz", "gauss-southwell-q")
    }
    assert steps["gauss-southwell-q"] < steps["random"] / 2
    assert steps["gauss-southwell-lipschitz"] < steps["random"] / 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_elastic_net_is_that_of_scikit_learn(rule: str, sparse: bool) -> None:
    design, target = data(40, 6)
    design = design / design.norm(dim=0)
    problem = LinearModel(design.to_sparse_csr() if sparse else design, target, "squared", ElasticNet(0.01, 0.02))
    result = CoordinateDescent(rule=rule, updates=12).run(problem, torch.zeros(6).double(), budget="600steps")
    peer = sklearn.linear_model.ElasticNet(alpha=0.03, l1_ratio=1 / 3, fit_intercept=False, tol=1e-15, max_iter=10**5)
    np.testing.assert_allclose(result.solution.numpy(), peer.fit(design.numpy(), target.numpy()).coef_, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "regularizer"),
    [
        ("huber", L1(0.1)),
        ("logistic", GroupL2(0.05, 2)),
        ("squared-hinge", ElasticNet(0.02, 0.1)),
        ("logistic", L1(0.02)),
    ],
)
def test_other_losses_and_groups_agree_with_the_working_set_solver(loss: str, regularizer: Regularizer) -> None:
    design, target = data(40, 6)
    design = design / design.norm(dim=0) * 2
    problem = LinearModel(design, target if loss == "huber" else target.sign(), loss, regularizer)
    best = WorkingSetNewton().run(problem, torch.zeros(6).double(), budget="50steps", tolerance=1e-12)
    for rule in ("cyclic", "gauss-southwell-q", "random"):
        result = CoordinateDescent(rule=rule, updates=20).run(
            problem, torch.zeros(6).double(), budget="800steps", tolerance=1e-11
        )
        assert result.success, (rule, result)
        assert result.value == pytest.approx(best.value, abs=2e-11)


def test_bounds_give_what_scipy_gives() -> None:
    design, target = data(40, 6)
    design = design / design.norm(dim=0)
    for regularizer, low, high in ((Nonnegative(), 0.0, np.inf), (Box(-0.5, 0.2), -0.5, 0.2)):
        problem = LinearModel(design, target, "squared", regularizer)
        result = CoordinateDescent(updates=10).run(problem, torch.ones(6).double(), budget="500steps", tolerance=1e-14)
        peer = scipy.optimize.lsq_linear(design.numpy(), target.numpy(), (low, high), method="bvls", tol=1e-14).x
        np.testing.assert_allclose(result.solution.numpy(), peer, atol=1e-8)


@pytest.mark.parametrize("rule", ["cyclic", "gauss-southwell", "gauss-southwell-lipschitz", "gauss-southwell-q"])
def test_an_orthogonal_design_takes_one_pass(rule: str) -> None:
    basis = torch.linalg.qr(torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    target = basis @ torch.arange(1.0, 7.0).double()
    problem = LinearModel(basis, target, "squared", L1(0.5), scale="sum")
    result = CoordinateDescent(rule=rule).run(problem, torch.zeros(6).double(), budget="6steps")
    torch.testing.assert_close(result.solution, torch.arange(1.0, 7.0).double() - 0.5)


@pytest.mark.parametrize("rule", RULES)
def test_it_stalls_where_nothing_moves(rule: str) -> None:
    design, target = data(30, 4)
    design = torch.cat([design / design.norm(dim=0), torch.zeros(30, 1), design[:, :1]], 1)  # a zero and a twin
    problem = LinearModel(design, target, "squared", L1(0.01))
    result = CoordinateDescent(rule=rule, updates=6).run(
        problem, torch.zeros(6).double(), budget="5000steps", tolerance=0.0
    )
    assert result.reason in (Reason.STALLED, Reason.CONVERGED)
    assert result.stationarity is not None
    assert result.stationarity < 1e-12


def test_a_rule_may_be_an_object_and_an_unknown_one_is_named() -> None:
    design, target = data()
    problem, start = LinearModel(design, target), torch.zeros(8).double()
    names = points(problem, start, "cyclic", 9)
    objects = points(problem, start, Cyclic(), 9)
    assert all(np.array_equal(a, b) for a, b in zip(names, objects, strict=True))
    with pytest.raises(ValueError, match="CoordinateDescent: rule must be a CoordinateRule or one of"):
        CoordinateDescent(rule="greedy")
