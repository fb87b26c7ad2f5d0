"""The estimators and the functional interface: scikit-learn's own checks, agreement with CVXPY, and bad input."""

import math
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("cvxpy")
import reference
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import check_estimator

from steepest.core.budget import Budget
from steepest.core.result import Reason
from steepest.train.convexnet import (
    ADMM,
    ConvexProgram,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    convex_relu_path,
    nonconvex_objective,
    train_convex_relu,
    with_bias,
    worst_case_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        ConvexReLUClassifier(n_patterns=20, max_iter=60, rounds=0),
        ConvexReLURegressor(n_patterns=20, max_iter=60, rounds=0),
    ],
    ids=lambda e: type(e).__name__,
)
def test_scikit_learns_checks(estimator: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator)


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge"])
@pytest.mark.parametrize("solver", ["admm", "interior-point"])
def test_the_trained_network_has_the_optimum_of_cvxpy(loss: str, solver: str) -> None:
    x = normal(30, 2)
    y = torch.sign(x[:, 0] * x[:, 1])
    found = train_convex_relu(
        x, y, loss=loss, penalty=0.3, n_patterns=12, solver=solver, tolerance=1e-4, budget="1500steps"
    )
    program = ConvexProgram(with_bias(x), y, found.patterns, loss, 0.3)
    optimum = reference.optimum(program)
    assert found.bound <= optimum * (1 + 1e-7)
    assert found.objective <= optimum * (1 + 1e-3)
    assert found.bound >= optimum * (1 - 2.5e-2)  # the dual point arrives later than the network
    value = float(nonconvex_objective(found.network, x, y, loss, 0.3).detach())
    assert value == pytest.approx(found.objective, rel=1e-9)


def test_several_outputs_are_one_program_each() -> None:
    x, y = normal(25, 2), normal(25, 3, seed=1)
    settings = {"penalty": 0.5, "n_patterns": 8, "tolerance": 1e-4, "budget": "1500steps", "rounds": 0}
    together = train_convex_relu(x, y, **settings)
    alone = [train_convex_relu(x, y[:, c], **settings).objective for c in range(3)]
    assert together.objective == pytest.approx(sum(alone), rel=1e-2)
    joint = train_convex_relu(x, y, gated=True, joint=True, **settings)
    separate = train_convex_relu(x, y, gated=True, **settings)
    # Neurons that serve all outputs have less penalty; without cones there is more freedom.
    assert joint.bound <= joint.objective < separate.objective < together.objective


def test_real_data_are_learned() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    a, b, ya, yb = train_test_split(scale(x), y, random_state=0)
    for solver in ("admm", "scp"):
        model = ConvexReLUClassifier(solver=solver, penalty=1.0, max_iter=100, random_state=0).fit(a, ya)
        assert model.score(b, yb) >= 0.94
        assert np.allclose(model.predict_proba(b).sum(1), 1)
    x, y = load_iris(return_X_y=True)
    assert ConvexReLUClassifier(penalty=0.5, max_iter=100, random_state=0).fit(scale(x), y).score(scale(x), y) > 0.95


def test_labels_in_every_usual_coding_give_one_model() -> None:
    x = normal(40, 2).numpy()
    sign = x[:, 0] * x[:, 1] > 0
    found = []
    for y in (sign, sign.astype(int), 2 * sign.astype(int) - 1, np.where(sign, "yes", "no"), sign.astype(float)):
        model = ConvexReLUClassifier(random_state=1, max_iter=30, n_patterns=10, rounds=0).fit(x, y)
        assert set(model.predict(x)) <= set(y)
        found.append(model.decision_function(x))
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("solver", ["admm", "admm-rbcd", "scp", "interior-point"])
def test_dtypes_are_kept_and_computation_is_in_float64(solver: str) -> None:
    x, y = normal(20, 2).float(), normal(20, seed=1)
    narrow = train_convex_relu(x, y, solver=solver, n_patterns=6, penalty=0.5, budget="30steps", rounds=0)
    wide = train_convex_relu(x.double(), y, solver=solver, n_patterns=6, penalty=0.5, budget="30steps", rounds=0)
    assert narrow.network(x).dtype == torch.float32
    assert wide.network(x.double()).dtype == torch.float64
    assert narrow.objective == pytest.approx(wide.objective, rel=1e-9)
    integers = train_convex_relu((10 * x).long(), y, solver=solver, n_patterns=6, budget="5steps", rounds=0)
    assert integers.network.hidden.weight.dtype == torch.float32
    model = ConvexReLURegressor(solver=solver, n_patterns=5, max_iter=5, rounds=0).fit(x.numpy(), y.numpy())
    assert model.predict(x.numpy()).dtype == np.float32


def test_a_path_warms_up_and_agrees_with_cold_starts() -> None:
    x = normal(40, 3)
    y = torch.sign(x[:, 0] * x[:, 1])
    settings = {"n_patterns": 10, "loss": "squared", "tolerance": 1e-3, "budget": "3000steps", "rounds": 0}
    path = convex_relu_path(x, y, [0.5, 2.0, 1.0, 1e6], **settings)
    assert list(path) == [1e6, 2.0, 1.0, 0.5]
    assert float(path[1e6].network.squared_weights().detach()) == 0.0
    objectives = [path[p].objective for p in path]
    assert objectives == sorted(objectives, reverse=True)
    for penalty in (2.0, 1.0, 0.5):
        cold = train_convex_relu(x, y, penalty=penalty, **settings)
        assert path[penalty].objective == pytest.approx(cold.objective, rel=3e-3)
    model = ConvexReLUClassifier(random_state=0, n_patterns=10, loss="squared", max_iter=50)
    models = model.path(x.numpy(), y.numpy(), [2.0, 0.5])
    assert [m.penalty for m in models.values()] == [2.0, 0.5]
    assert models[0.5].score(x.numpy(), y.numpy()) >= models[2.0].score(x.numpy(), y.numpy())


def test_any_convex_loss_and_a_warning_for_one_that_is_not() -> None:
    x, y = normal(15, 2), normal(15, seed=1)
    quartic = train_convex_relu(x, y, loss=lambda z, t: (z - t) ** 4, n_patterns=5, budget="60steps", rounds=0)
    assert quartic.objective < float((y**4).sum())
    assert quartic.gap <= quartic.objective
    with pytest.warns(UserWarning, match="not convex"):
        train_convex_relu(
            x, y, loss=lambda z, t: 1 - torch.exp(-((z - t) ** 2)), n_patterns=5, budget="2steps", rounds=0
        )


def test_a_budget_that_ends_before_the_first_step_is_honest() -> None:
    x, y = normal(15, 2), normal(15, seed=1)
    for solver in ("admm", "admm-rbcd", "scp"):
        found = train_convex_relu(x, y, solver=solver, budget=Budget(seconds=1e-12))
        assert (found.steps, found.reason) == (0, Reason.BUDGET)
        assert found.objective == pytest.approx(0.5 * float(y.square().sum()))
        assert 0 <= found.bound < found.objective
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        ConvexReLURegressor(max_iter=1, rounds=0).fit(x.numpy(), y.numpy())


def test_bad_input_is_named() -> None:
    x, y = normal(10, 2), normal(10, seed=1)
    for bad, error, words in (
        (lambda: train_convex_relu(x * math.nan, y), ValueError, "features"),
        (lambda: train_convex_relu(x, y * math.nan), ValueError, "target"),
        (lambda: train_convex_relu(x, y, solver="adam"), ValueError, "solver must be one of"),
        (lambda: train_convex_relu(x, y, penalty=-1.0), ValueError, "penalty"),
        (lambda: train_convex_relu(x, y, n_patterns=0), ValueError, "n_patterns"),
        (lambda: train_convex_relu(x, y, rounds=-1), ValueError, "rounds"),
        (lambda: train_convex_relu(x, y, gated=True, rounds=1), ValueError, "rounds must be 0 with gated"),
        (lambda: train_convex_relu(x, y, solver="scp", rounds=1), ValueError, "rounds must be 0"),
        (lambda: train_convex_relu(x, y, loss="logistic"), ValueError, "target"),
        (lambda: train_convex_relu(x, y, solver="scp", gated=True), ValueError, "scp"),
        (lambda: train_convex_relu(x, y, solver=ADMM(), rho=2.0), TypeError, "rho"),
        (lambda: train_convex_relu(x, y, loss=lambda z, t: (z - t).sum()), ValueError, "elementwise"),
        (lambda: ConvexReLURegressor(loss="hinge").fit(x.numpy(), y.numpy()), ValueError, "regression"),
        (lambda: ConvexReLUClassifier().fit(x.numpy(), np.ones(10)), ValueError, "one class"),
        (lambda: convex_relu_path(x, y, []), ValueError, "penalties"),
    ):
        with pytest.raises(error, match=words):
            bad()
    model = ConvexReLUClassifier(loss="squared", max_iter=3).fit(x.numpy(), y.numpy() > 0)
    with pytest.raises(AttributeError, match="logistic"):
        model.predict_proba(x.numpy())


def test_digits_in_a_few_rounds() -> None:
    x, y = load_digits(return_X_y=True)
    a, b, ya, yb = train_test_split(x[:700] / 16, y[:700] % 2, random_state=0)
    found = train_convex_relu(torch.tensor(a), torch.tensor(2.0 * ya - 1), penalty=0.01, n_patterns=40, budget="6steps")
    guess = found.network(torch.tensor(b))[:, 0].detach().numpy() > 0
    assert (guess == (yb == 1)).mean() >= 0.9


def _product(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).uniform(-1, 1, (n, 2))
    return x, np.where(x[:, 0] * x[:, 1] >= 0, "same", "other")


@pytest.mark.parametrize("solver", ["interior-point", "admm"])
def test_an_adversarial_radius_trains_the_robust_program(solver: str) -> None:
    x, labels = _product()
    made = ConvexReLUClassifier(
        adversarial_radius=0.04, loss="hinge", penalty=0.05, solver=solver, random_state=0, max_iter=800, tol=0.1
    ).fit(x, labels)
    assert made.objective_ >= made.lower_bound_ > 0
    signs = torch.as_tensor(np.where(labels == made.classes_[1], 1.0, -1.0))
    worst = worst_case_loss(made.network_, torch.as_tensor(x), signs, 0.04, "hinge")
    decay = 0.025 * float(made.network_.squared_weights().detach())
    assert worst.total + decay == pytest.approx(made.objective_, rel=1e-9)
    clean = ConvexReLUClassifier(loss="hinge", penalty=0.05, solver="interior-point", random_state=0).fit(x, labels)
    attacked = worst_case_loss(clean.network_, torch.as_tensor(x), signs, 0.04, "hinge", method="exact")
    assert worst.total < attacked.total
    assert made.score(x, labels) > 0.7


def test_the_adversarial_radius_has_its_limits_and_says_so() -> None:
    x, labels = _product(20)
    with pytest.raises(ValueError, match="adversarial_radius must be"):
        ConvexReLUClassifier(adversarial_radius=-0.1).fit(x, labels)
    with pytest.raises(ValueError, match="gated=False"):
        ConvexReLUClassifier(adversarial_radius=0.1, gated=True).fit(x, labels)
    with pytest.raises(ValueError, match="'admm' or 'interior-point'"):
        ConvexReLUClassifier(adversarial_radius=0.1, solver="scp").fit(x, labels)
    with pytest.raises(ValueError, match="one output"):
        ConvexReLUClassifier(adversarial_radius=0.1).fit(x, np.arange(20) % 3)
    regressor = ConvexReLURegressor(adversarial_radius=0.02, solver="interior-point", penalty=0.01, random_state=0)
    target = x[:, 0] * x[:, 1]
    found = regressor.fit(x, target)
    worst = worst_case_loss(found.network_, torch.as_tensor(x), torch.as_tensor(target), 0.02, "squared")
    assert worst.total <= found.objective_ < 0.5 * float(np.square(target).sum())
