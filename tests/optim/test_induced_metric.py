"""The induced metric against its equations, the metric written out, and SGD and Adam, which it becomes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import assert_close, assert_same, gradients, parameters, run, snapshot
from oracle_helpers import STEPS, random_shapes, schedule
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from steepest.optim import InducedMetric, InducedMetricLog, InducedMetricRMS

METHODS = (InducedMetric, InducedMetricLog, InducedMetricRMS)


def losses(count: int) -> list[float]:
    return [float(v) for v in np.random.default_rng(5).uniform(0.05, 3.0, count)]


def one_step(
    kind: Any, xs: list[Any], gs: list[Any], s: dict[str, Any], t: int, loss: float, lr: float, o: dict[str, Any]
) -> list[Any]:
    """The equations for all tensors of a group."""
    mu, beta = o["momentum"], o["smoothing"]
    m = s["m"] = [mu * a + (1 - mu) * g for a, g in zip(s.get("m", [0.0] * len(gs)), gs, strict=True)]
    d: list[Any] = [1.0] * len(gs)
    if kind is InducedMetricRMS:
        rho = o["rms_decay"]
        s["v"] = [rho * a + (1 - rho) * g**2 for a, g in zip(s.get("v", [0.0] * len(gs)), gs, strict=True)]
        d = [np.sqrt(v / (1 - rho**t)) + o["eps"] for v in s["v"]]
    s["s"] = beta * s.get("s", 0.0) + (1 - beta) * o["xi"] * sum((g**2 / e).sum() for g, e in zip(gs, d, strict=True))
    smoothed = s["s"] / (1 - beta**t)
    c = loss / (loss**2 + smoothed) if kind is InducedMetricLog else 1 / (1 + smoothed)
    return [(1 - lr * o["weight_decay"]) * x - lr * c * a / (1 - mu**t) / e for x, a, e in zip(xs, m, d, strict=True)]


def told(kind: Any, loss: float) -> dict[str, float]:
    return {"loss": loss} if kind is InducedMetricLog else {}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_paper(kind: Any, smoothing: float) -> None:
    """Thirty scheduled steps in float64; two groups with rates and decays of their own, each with its own metric."""
    params = parameters(random_shapes(2), seed=2)
    own = {"momentum": 0.8, "xi": 0.3, "smoothing": smoothing}
    own |= {"rms_decay": 0.97, "eps": 1e-6} if kind is InducedMetricRMS else {}
    parts = (params[::2], params[1::2])
    given = ({"lr": 0.02, "weight_decay": 0.1}, {"lr": 0.06, "weight_decay": 0.02})
    opt = kind([{"params": part, **g} for part, g in zip(parts, given, strict=True)], **own)
    numbers = [[p.detach().numpy().copy() for p in part] for part in parts]
    states: list[dict[str, Any]] = [{}, {}]
    for t, (step, loss) in enumerate(zip(gradients(params, STEPS), losses(STEPS), strict=True), start=1):
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        for index, group in enumerate(opt.param_groups):
            group["lr"] = rate = given[index]["lr"] * schedule(t)
            gs = [p.grad.numpy() for p in parts[index]]
            numbers[index] = one_step(kind, numbers[index], gs, states[index], t, loss, rate, {**own, **given[index]})
        opt.step(**told(kind, loss))
    for part, xs in zip(parts, numbers, strict=True):
        for p, x in zip(part, xs, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-11, atol=1e-11)


def test_the_metric_written_out() -> None:
    """(I + xi g g^T)^{-1} g, and for the logarithm (I + xi z z^T)^{-1} z with z the gradient of log L."""
    p = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def loss_of(x: Tensor) -> Tensor:
        return 0.3 + (x**2 + 0.5 * x.roll(1) * x).square().sum()

    for cls in (InducedMetric, InducedMetricLog):
        opt = cls([p], lr=0.1, momentum=0.0, smoothing=0.0, xi=0.7)
        for _ in range(3):
            x = p.detach().clone()
            h = 1e-6
            surface = torch.log if cls is InducedMetricLog else (lambda v: v)
            z = torch.stack(
                [(surface(loss_of(x + h * e)) - surface(loss_of(x - h * e))) / (2 * h) for e in torch.eye(5).double()]
            )
            expected = torch.linalg.solve(torch.eye(5).double() + 0.7 * torch.outer(z, z), z)

            def closure(opt: Any = opt) -> Tensor:
                opt.zero_grad()
                loss = loss_of(p)
                loss.backward()
                return loss

            assert opt.step(closure) == loss_of(x)
            assert_close([(x - p.detach()) / 0.1], [expected], 1e-7)


def test_steps_are_bounded_by_the_metric() -> None:
    """At most lr / (2 sqrt(xi)), and that for a gradient of norm 1 / sqrt(xi)."""
    for scale in (1e-3, 0.1, 1.0, 2.0, 10.0, 1e4):
        p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
        g = gradients([p], 1)[0][0]
        g = scale * g / g.norm()
        run(InducedMetric([p], lr=0.3, xi=0.25, momentum=0.0, smoothing=0.0), [p], [[g]])
        length = p.detach().norm().item()
        assert length <= 0.3 / (2 * 0.5) * (1 + 1e-12)
        assert length == pytest.approx(0.3 * scale / (1 + 0.25 * scale**2))


def test_without_the_loss_in_the_metric_it_is_sgd_and_adam() -> None:
    params, twins = parameters(), parameters()
    grads = gradients(params, 20)
    run(InducedMetric(params, lr=0.1, momentum=0.0, xi=0.0), params, grads)
    run(torch.optim.SGD(twins, lr=0.1), twins, grads)
    assert_close(params, twins)
    # torch's momentum sums gradients where this one averages them, and corrects the start of the average.
    params, twins = parameters(), parameters()
    opt, twin = InducedMetric(params, xi=0.0, momentum=0.8), torch.optim.SGD(twins, momentum=0.8)
    for t, step in enumerate(grads, start=1):
        opt.param_groups[0]["lr"], twin.param_groups[0]["lr"] = 0.1, 0.1 * 0.2 / (1 - 0.8**t)
        run(opt, params, [step])
        run(twin, twins, [step])
    assert_close(params, twins)
    params, twins = parameters(), parameters()
    shared: dict[str, Any] = {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.1}
    run(InducedMetricRMS(params, momentum=0.9, rms_decay=0.99, xi=0.0, **shared), params, grads)
    run(torch.optim.AdamW(twins, betas=(0.9, 0.99), **shared), twins, grads)
    assert_close(params, twins)


def test_the_log_form_at_a_loss_of_one_is_the_plain_one() -> None:
    params, twins = parameters(), parameters()
    opt, twin = InducedMetricLog(params), InducedMetric(twins)
    for step in gradients(params, 10):
        for p, q, g in zip(params, twins, step, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        assert opt.step(loss=1.0) == 1.0
        assert twin.step() is None
    assert_same(snapshot(opt, params), snapshot(twin, twins))


def test_the_log_form_needs_the_loss() -> None:
    params = parameters()
    opt = InducedMetricLog(params)
    for p in params:
        p.grad = torch.ones_like(p)
    before = snapshot(opt, params)
    words = r"needs the loss: call step\(closure\) with a closure that returns it, or step\(loss=loss\)"
    with pytest.raises(TypeError, match=words):
        opt.step()
    assert_same(before, snapshot(opt, params))
    with pytest.raises(TypeError, match=words):
        opt.step(lambda: None)
    pure = InducedMetricLog.functional()
    values = {"w": torch.ones(2)}
    with pytest.raises(TypeError, match=words):
        pure.update(values, values, pure.init(values))


def test_checkpoint_tools_make_a_template_of_the_log_form() -> None:
    net = nn.Linear(3, 2)
    opt = InducedMetricLog(net)
    before = [p.detach().clone() for p in net.parameters()]
    assert get_optimizer_state_dict(net, opt)["state"].keys() == {"weight", "bias"}
    assert_same(before, [p.detach() for p in net.parameters()])
    net(torch.ones(3)).sum().backward()
    opt.param_groups[0]["lr"] = 0.0
    with pytest.raises(TypeError, match="needs the loss"):
        opt.step()


def test_a_loss_that_is_not_positive_moves_nothing_far() -> None:
    for loss in (0.0, -3.0, 1e-300):
        p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        p.grad = torch.ones(4, dtype=torch.float64)
        InducedMetricLog([p]).step(loss=loss)
        assert p.detach().abs().max() < 1e-10


@pytest.mark.parametrize("loss", [0.7, torch.tensor(0.7), torch.tensor([0.7], dtype=torch.float64).squeeze()])
def test_forms_of_the_loss(loss: Any) -> None:
    params, twins = parameters(((3, 4),)), parameters(((3, 4),))
    opt, twin = InducedMetricLog(params), InducedMetricLog(twins)
    for step in gradients(params, 5):
        params[0].grad, twins[0].grad = step[0].clone(), step[0].clone()
        opt.step(loss=loss)
        twin.step(lambda: torch.tensor(0.7, dtype=torch.float64, requires_grad=True))
    assert_close(params, twins, 1e-7)


@pytest.mark.parametrize("kind", METHODS)
def test_the_average_is_saved_with_the_group(kind: Any) -> None:
    params = parameters()
    opt = kind([{"params": params[:2]}, {"params": params[2:], "xi": 1.0}], lr=0.01)
    steps = list(zip(gradients(params, 8), losses(8), strict=True))

    def advance(opt: Any, params: Any, steps: Any) -> None:
        for step, loss in steps:
            for p, g in zip(params, step, strict=True):
                p.grad = g.clone()
            opt.step(**told(kind, loss))

    advance(opt, params, steps[:4])
    assert opt.param_groups[0]["shared"] != opt.param_groups[1]["shared"]
    assert all(type(v) in (int, float) for group in opt.param_groups for v in group["shared"].values())
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    twin = kind([{"params": twins[:2]}, {"params": twins[2:]}])
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    advance(opt, params, steps[4:])
    advance(twin, twins, steps[4:])
    assert_same(snapshot(opt, params), snapshot(twin, twins))


@pytest.mark.parametrize("kind", METHODS)
def test_functional_equals_the_optimizer_with_complex_parameters_too(kind: Any) -> None:
    params = [*parameters(((3, 4),)), *parameters(((2, 3),), torch.complex128)]
    opt = kind(params, lr=0.05)
    pure = kind.functional(lr=0.05)
    values = {str(i): p.detach().clone() for i, p in enumerate(params)}
    state = pure.init(values)
    for step, loss in zip(gradients(params, 6), losses(6), strict=True):
        for p, g in zip(params, step, strict=True):
            p.grad = g.clone()
        opt.step(**told(kind, loss))
        values, state = pure.update(values, {str(i): g for i, g in enumerate(step)}, state, **told(kind, loss))
    assert_close(values.values(), params)


def test_a_step_may_be_differentiated_through_the_coupling() -> None:
    pure = InducedMetric.functional(momentum=0.5)
    start = {"a": torch.tensor([1.0, -2.0]).double(), "b": torch.tensor([0.5]).double()}

    def after(lr: Tensor) -> Tensor:
        values, state = start, pure.init(start)
        for _ in range(3):
            values, state = pure.update(values, {k: v**3 for k, v in values.items()}, state, lr=lr)
        return sum(v.square().sum() for v in values.values())  # type: ignore[return-value]

    at, h = torch.tensor(0.2, dtype=torch.float64), 1e-6
    slope = torch.func.grad(after)(at)
    assert slope.item() == pytest.approx(((after(at + h) - after(at - h)) / (2 * h)).item(), rel=1e-6)


def test_bad_settings() -> None:
    p = [torch.zeros(2, 2)]
    for cls in METHODS:
        for settings, words in (
            ({"xi": -1.0}, r"xi must be a finite number in \[0, inf\), got -1.0"),
            ({"smoothing": 1.0}, r"smoothing must be a finite number in \[0, 1\), got 1.0"),
        ):
            with pytest.raises(ValueError, match=f"{cls.__name__}: {words}"):
                cls(p, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="InducedMetricRMS: rms_decay must be"):
        InducedMetricRMS(p, rms_decay=1.5)
