"""Target-based surrogates against SGD, least squares and the inequality that makes them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.optim import Sophia, TargetSurrogate, target_surrogate_sgd


def net(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *extra, nn.Linear(5, 3)).double()


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def oracle(y: Tensor) -> Any:
    def ask(z: Tensor) -> tuple[Tensor, Tensor]:
        z.requires_grad_()
        loss = functional.cross_entropy(z, y)
        return loss.detach(), torch.autograd.grad(loss, z)[0]

    return ask


def test_one_inner_step_is_a_step_of_the_base() -> None:
    model, twin = net(nn.Dropout(0.3)), net(nn.Dropout(0.3))
    opt = TargetSurrogate(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), inner_steps=1)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    for step in range(3):
        torch.manual_seed(step)
        loss = opt.step(lambda: model(x), oracle(y))
        state = torch.get_rng_state()
        torch.manual_seed(step)
        sgd.zero_grad()
        expected = functional.cross_entropy(twin(x), y)
        expected.backward()
        sgd.step()
        torch.testing.assert_close(loss, expected.detach())
        assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(flat(model), flat(twin))


@pytest.mark.parametrize("line_search", [False, True])
def test_an_exact_inner_solution_is_least_squares(line_search: bool) -> None:
    """Linear model, half squared error, eta = 1, all samples: the surrogate is the loss, and one call is enough."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    base = torch.optim.SGD(model.parameters(), lr=10.0 if line_search else 0.5)
    opt = TargetSurrogate(base, inner_steps=200, line_search=line_search)
    opt.step(lambda: model(x), lambda z: (z - y) / 20)
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1).double()], 1), y).solution
    torch.testing.assert_close(
        torch.cat([model.weight, model.bias[:, None]], 1).detach(), exact.T, rtol=1e-4, atol=1e-5
    )
    assert opt.oracle_calls == 1


def test_an_exact_inner_solution_projects_a_step_in_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 1, dtype=torch.float64).sign()
    z = model(x).detach()
    slope = -y / (1 + (y * z).exp()) / 12  # of the mean logistic loss
    opt = TargetSurrogate(torch.optim.LBFGS(model.parameters(), max_iter=100, tolerance_grad=1e-12), 2.5, inner_steps=1)
    opt.step(lambda: model(x), lambda _: slope)
    torch.testing.assert_close(
        model(x).detach(), x @ torch.linalg.pinv(x) @ (z - 2.5 * 12 * slope), rtol=1e-4, atol=1e-6
    )
    assert opt.gradient_evaluations > 1


@pytest.mark.parametrize("line_search", [False, True])
def test_the_surrogate_bounds_the_loss(line_search: bool) -> None:
    """With eta = 1 / L, where L = 1/2 for the cross-entropy: l(z') <= l(z) + S(x')."""
    model = net()
    x, y = batch()
    opt = TargetSurrogate(torch.optim.SGD(model.parameters(), lr=0.5), 2.0, inner_steps=5, line_search=line_search)
    for _ in range(10):
        z = model(x).detach()
        loss, slope = oracle(y)(z.clone())
        opt.step(lambda: model(x), oracle(y))
        change = model(x).detach() - z
        bound = float(loss + (slope * change).sum() + change.square().sum() / (2 * 2.0 * len(x)))
        assert float(functional.cross_entropy(model(x), y)) <= bound + 1e-12
        assert bound < float(loss)


def test_inner_steps_follow_the_definition() -> None:
    """Five steps on a surrogate that is written out, with a decaying eta and a loss that is a sum."""
    model, twin = net(), net()
    x, y = batch()
    opt = TargetSurrogate(torch.optim.Adam(model.parameters(), lr=0.02), 0.7, 5, decay=0.5, reduction="sum")
    inner = torch.optim.Adam(twin.parameters(), lr=0.02)
    for t in (1, 2, 3):
        opt.step(lambda: model(x), lambda z: z.softmax(1) - functional.one_hot(y, 3))
        z = twin(x).detach()
        q = z.softmax(1) - functional.one_hot(y, 3)
        for _ in range(5):
            inner.zero_grad()
            ((q * (twin(x) - z)).sum() + (twin(x) - z).square().sum() * t**0.5 / (2 * 0.7)).backward()
            inner.step()
    torch.testing.assert_close(flat(model), flat(twin))
    assert opt.gradient_evaluations == 5


def test_the_line_search_grows_shrinks_and_demands() -> None:
    """S(w) = w + w^2 / 2, of which steps up to 1 have half of the decrease that the slope promises."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    seen: list[float] = []

    def outputs() -> Tensor:
        seen.append(w.item())
        return w * 1.0

    TargetSurrogate(torch.optim.SGD([w], lr=0.5), 1.0, 3, line_search=True).step(outputs, torch.ones_like)
    trials = [1.8 * 0.9 * 0.9**k for k in range(6)]
    assert trials[-1] < 1 < trials[-2]
    first, second = -0.5, -0.5 - 0.9 * 0.5
    third = [second - size * (1 + second) for size in trials]
    assert seen == pytest.approx([0.0, first, first, second, second, *third])
    assert w.item() == pytest.approx(third[-1])


@pytest.mark.parametrize("line_search", [False, True])
def test_masks_are_replayed_and_statistics_counted_once(line_search: bool) -> None:
    """The model of one step has one mask; its batch norm sees the batch once, at the parameters of the beginning."""
    model = net(nn.BatchNorm1d(5), nn.Dropout(0.5))
    x, y = batch()
    seen: list[Tensor] = []
    model[3].register_forward_hook(lambda _, given, made: seen.append((made == 0).detach()))
    expected = net(nn.BatchNorm1d(5), nn.Dropout(0.5))
    expected(x)
    opt = TargetSurrogate(torch.optim.SGD(model.parameters(), lr=0.1), inner_steps=4, line_search=line_search)
    opt.step(lambda: model(x), oracle(y))
    assert len(seen) >= 4
    assert all(torch.equal(mask, seen[0]) for mask in seen)
    assert 0 < int(seen[0].sum()) < seen[0].numel()
    torch.testing.assert_close(model[2].running_mean, expected[2].running_mean)
    assert int(model[2].num_batches_tracked) == 1


def test_gradients_and_frozen_parameters_are_left_alone() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before, mine = model[0].weight.clone(), torch.ones_like(model[3 - 1].weight)
    model[2].weight.grad = mine
    opt = TargetSurrogate(torch.optim.SGD(model.parameters(), lr=0.1))
    x, y = batch()
    opt.step(lambda: model(x), oracle(y))
    assert torch.equal(model[0].weight, before)
    assert model[2].weight.grad is mine
    assert model[0].bias.grad is None


def test_the_count_of_calls_is_saved() -> None:
    def made(model: nn.Module) -> TargetSurrogate:
        return TargetSurrogate(torch.optim.Adam(model.parameters(), lr=0.01), decay=1.0, inner_steps=3)

    model, twin = net(), net()
    x, y = batch()
    opt, other = made(model), made(twin)
    for _ in range(3):
        opt.step(lambda: model(x), oracle(y))
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert other.oracle_calls == 3
    opt.step(lambda: model(x), oracle(y))
    other.step(lambda: twin(x), oracle(y))
    assert torch.equal(flat(model), flat(twin))


def test_bad_arguments_are_named() -> None:
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"TargetSurrogate: step_size must be a finite number in \(0, inf\), got 0.0"):
        TargetSurrogate(base, step_size=0.0)
    with pytest.raises(ValueError, match="TargetSurrogate: inner_steps must be an integer >= 1, got 0"):
        TargetSurrogate(base, inner_steps=0)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', got 'none'"):
        TargetSurrogate(base, reduction="none")
    with pytest.raises(TypeError, match="base must be an optimizer"):
        TargetSurrogate(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="TargetSurrogate: base must not be Sophia, which differentiates the loss"):
        TargetSurrogate(Sophia(model.parameters(), estimator="hutchinson"))
    x, y = batch()
    with pytest.raises(ValueError, match=r"their shape \(8, 3\), got \(8,\)"):
        TargetSurrogate(base).step(lambda: model(x), lambda z: z[:, 0])
    with pytest.raises(TypeError, match="step_on needs a model and a loss"):
        TargetSurrogate(base).step_on(x, y)
    with pytest.raises(ValueError, match="loss must be one of"):
        target_surrogate_sgd(model, "mse")  # type: ignore[arg-type]
