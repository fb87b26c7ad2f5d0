"""Boosted networks: residuals and steps by differentiation, stages against scikit-learn's network, the estimators."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import check_estimator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.train.local import (
    BinaryLoss,
    Boosted,
    GradientBoostedNetworkClassifier,
    GradientBoostedNetworkRegressor,
    SoftmaxLoss,
    SquaredLoss,
    boost,
)
from steepest.train.local import gradient_boosted_network as module


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOSSES = {
    "squared": (SquaredLoss(), normal(9, 2, seed=1), lambda f, y: 0.5 * (f - y).square().sum()),
    "binary": (
        BinaryLoss(),
        2.0 * (torch.arange(9)[:, None] % 3 == 0) - 1.0,
        lambda f, y: torch.log1p(torch.exp(-2 * y * f)).sum(),
    ),
    "softmax": (
        SoftmaxLoss(),
        torch.eye(3, dtype=torch.float64)[torch.arange(9) % 3],
        lambda f, y: cross_entropy(f, y, reduction="sum"),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_residual_curvature_and_start_are_those_of_the_loss(name: str) -> None:
    loss, y, value = LOSSES[name]
    y = y.double()
    scores = normal(*y.shape, seed=2)
    gradient = torch.autograd.functional.jacobian(lambda f: value(f, y), scores)
    residual = loss.residual(scores, y)
    torch.testing.assert_close(residual, -gradient)
    hessian = torch.autograd.functional.hessian(lambda f: value(f, y), scores).reshape(y.numel(), y.numel())
    torch.testing.assert_close(loss.curvature(residual, y).flatten(), hessian.diagonal())
    constant = torch.autograd.functional.jacobian(lambda c: value(c.expand_as(y), y), loss.start(y))
    torch.testing.assert_close(constant, torch.zeros_like(constant))  # it minimizes the loss
    direction = normal(*y.shape, seed=3)
    wanted = -(gradient * direction).sum() / (direction.square().flatten() @ hessian.diagonal())
    torch.testing.assert_close(loss.value(scores, y), value(scores, y))
    found = loss.line_step(scores, direction, residual, y, 0.1)
    assert found == pytest.approx(0.1 * float(wanted), rel=1e-9)
    assert loss.line_step(scores, torch.zeros_like(direction), residual, y) == 0.0
    full = loss.line_step(scores, direction, residual, y)
    halvings = math.log2(float(wanted) / full)
    assert halvings == pytest.approx(round(halvings), abs=1e-9)
    assert value(scores + full * direction, y) <= value(scores, y)


@pytest.mark.parametrize(("activation", "units"), [("logistic", 1), ("tanh", 3), ("relu", 4)])
def test_a_stage_is_fitted_as_scikit_learn_does(activation: str, units: int) -> None:
    """From the same initial weights, the same number of iterations leads to the same network."""
    x, r = normal(30, 4), normal(30, 1, seed=1)
    random = np.random.RandomState(5)
    gain = 2.0 if activation == "logistic" else 6.0
    one, two = math.sqrt(gain / (4 + units)), math.sqrt(gain / (units + 1))
    w, b = random.uniform(-one, one, (4, units)), random.uniform(-one, one, units)
    v, c = random.uniform(-two, two, (units, 1)), random.uniform(-two, two, 1)
    start = tuple(torch.tensor(t) for t in (w.T, b, v.T, c))
    found, iterations = module.fit_stage(x, r, start, activation, 12, 0.0, 1e-2)
    peer = MLPRegressor(
        hidden_layer_sizes=(units,),
        activation=activation,
        solver="lbfgs",
        alpha=1e-2,
        max_iter=12,
        tol=0,
        random_state=5,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(x.numpy(), r[:, 0].numpy())
    assert iterations == peer.n_iter_ == 12
    for mine, theirs in zip(found[::2], peer.coefs_, strict=True):
        np.testing.assert_allclose(mine.T, theirs, rtol=1e-6, atol=1e-9)
    for mine, theirs in zip(found[1::2], peer.intercepts_, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_a_stage_with_several_outputs_ends_at_a_stationary_point_of_its_objective(activation: str) -> None:
    x, r = normal(30, 3), normal(30, 2, seed=1)
    start = module._start(3, 2, 2, activation, torch.Generator().manual_seed(0), x)
    ends = {}
    for iterations in (1, 2000):
        found, _ = module.fit_stage(x, r, start, activation, iterations, 1e-9, 0.5)
        w, b, v, c = (t.requires_grad_() for t in found)
        out = module.ACTIVATIONS[activation][0]()(x @ w.T + b) @ v.T + c
        value = (out - r).square().sum(1).mean() / 2 + 0.5 / 60 * (w.square().sum() + v.square().sum())
        gradient = torch.autograd.grad(value, found)
        ends[iterations] = max(float(g.abs().max()) for g in gradient)
    assert ends[2000] < 1e-4 < 1e-2 < ends[1]


@pytest.mark.parametrize("name", LOSSES)
def test_the_network_is_the_sum_of_its_stages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played through by hand from the pieces that each stage made."""
    loss, y, _ = LOSSES[name]
    y, x, made = y.double(), normal(9, 3), []
    fit = module.fit_stage

    def watched(*arguments):
        found = fit(*arguments)
        made.append((arguments[:2], found[0]))
        return found

    monkeypatch.setattr(module, "fit_stage", watched)
    settings = {"stages": 5, "units": 2, "learning_rate": 0.5, "subsample": 0.7, "max_iter": 15}
    found = boost(x, y, loss, generator=torch.Generator().manual_seed(0), **settings)
    scores = loss.start(y).expand_as(y)
    for stage, ((features, given), (w, b, v, c)) in enumerate(made):
        residual = loss.residual(scores, y)
        rows = [next(k for k in range(9) if torch.equal(x[k], row)) for row in features]
        assert len(set(rows)) == 6  # of 9, without replacement
        torch.testing.assert_close(given, residual[rows])
        h = torch.sigmoid(x @ w.T + b) @ v.T + c
        step = loss.line_step(scores, h, residual, y, 0.5)
        assert found.steps[stage] == step
        scores = scores + step * h
        torch.testing.assert_close(found.network(stage + 1)(x), loss.scale * scores, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.network()(x), loss.scale * scores, rtol=1e-12, atol=1e-12)
    assert found.network()[0].weight.shape == (10, 3)
    assert len({tuple(features[0].tolist()) for (features, _), _ in made}) > 1  # other samples every time


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_never_rises(name: str) -> None:
    """Also on few samples, which are soon separated, and at full steps."""
    loss, y, _ = LOSSES[name]
    x, y = normal(9, 3), y.double()
    settings = {"stages": 25, "max_iter": 20, "subsample": 0.5}
    found = boost(x, y, loss, generator=torch.Generator().manual_seed(1), **settings)
    with torch.no_grad():
        scores = [loss.start(y).expand_as(y)] + [found.network(k)(x) / loss.scale for k in range(1, 26)]
        values = [float(loss.value(f, y)) for f in scores]
    assert all(b <= a * (1 + 1e-9) + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] < 0.7 * values[0]


def test_stages_of_constants_stay_at_the_start() -> None:
    x, y = torch.ones(8, 2, dtype=torch.float64), LOSSES["binary"][1][:8].double()
    found = boost(x, y, BinaryLoss(), stages=3, subsample=1.0, generator=torch.Generator().manual_seed(0))
    chance = torch.sigmoid(found.network()(x)).detach()
    torch.testing.assert_close(chance, (0.5 + 0.5 * y.mean()).expand_as(chance), rtol=1e-4, atol=1e-5)
    assert all(math.isfinite(step) for step in found.steps)


@pytest.mark.parametrize(
    "estimator",
    [
        GradientBoostedNetworkClassifier(n_estimators=12, hidden_units=2, max_iter=20),
        GradientBoostedNetworkRegressor(n_estimators=12, hidden_units=2, max_iter=20),
    ],
    ids=lambda e: type(e).__name__,
)
def test_scikit_learns_checks(estimator: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator)


def test_real_data_are_learned_and_stages_can_be_switched_off() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = GradientBoostedNetworkClassifier(n_estimators=20, random_state=0).fit(scale(x), names)
    assert model.score(scale(x), names) > 0.95
    np.testing.assert_allclose(model.predict_proba(scale(x)).sum(1), 1)
    staged = list(model.staged_predict(scale(x)))
    assert len(staged) == 20
    assert (staged[-1] == model.predict(scale(x))).all()
    outputs = model.truncated(10)(torch.as_tensor(scale(x)))
    assert (staged[9] == names[[0, 50, 100]][outputs.argmax(1)]).all()
    assert isinstance(model._boosted, Boosted)


def test_two_classes_are_the_logarithm_of_the_odds() -> None:
    x = normal(60, 2).numpy()
    y = x[:, 0] * x[:, 1] > 0
    model = GradientBoostedNetworkClassifier(n_estimators=20, random_state=0).fit(x, y)
    assert model.score(x, y) > 0.9
    odds = model.decision_function(x)
    assert odds.shape == (60,)
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], 1 / (1 + np.exp(-odds)), rtol=1e-12)
    with torch.no_grad():
        np.testing.assert_array_equal(model.network_(torch.as_tensor(x))[:, 0], odds)


def test_seeds_and_dtypes() -> None:
    x, y = normal(30, 2).numpy(), normal(30, seed=1).numpy()
    settings = {"n_estimators": 6, "max_iter": 10}
    state = torch.get_rng_state()
    one = GradientBoostedNetworkRegressor(random_state=1, **settings).fit(x, y)
    again = GradientBoostedNetworkRegressor(random_state=1, **settings).fit(x, y)
    other = GradientBoostedNetworkRegressor(random_state=2, **settings).fit(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(one.predict(x), again.predict(x))
    assert not np.array_equal(one.predict(x), other.predict(x))
    narrow = GradientBoostedNetworkRegressor(random_state=1, **settings).fit(x.astype(np.float32), y)
    assert narrow.network_[0].weight.dtype == torch.float32
    assert narrow.predict(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(narrow.predict(x), one.predict(x), rtol=1e-2, atol=1e-2)
    assert isinstance(one.network_, nn.Sequential)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_estimators": 0}, "^n_estimators must be an integer >= 1, got 0"),
        ({"hidden_units": 0}, "^hidden_units must be an integer >= 1, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be a finite number in \(0, 1\], got 0.0"),
        ({"subsample": 1.5}, r"subsample must be a finite number in \(0, 1\], got 1.5"),
        ({"activation": "step"}, "activation must be one of 'logistic', 'tanh', 'relu', got 'step'"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1.0}, "tol must be a finite number"),
        ({"alpha": -1.0}, "^alpha must be a finite number"),
    ],
)
def test_bad_arguments_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientBoostedNetworkRegressor(**settings).fit(np.eye(4), np.arange(4.0))


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="y must have at least two classes, got one class"):
        GradientBoostedNetworkClassifier().fit(np.eye(4), np.ones(4))
