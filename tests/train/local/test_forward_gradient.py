"""Forward gradients: unbiased, a projection where normalized, equal to finite differences, without a graph."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from steepest.train.local import ForwardGradient, LocalLosses


def network(*, noisy: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    extra = [nn.BatchNorm1d(6), nn.Dropout(0.4)] if noisy else []
    return nn.Sequential(nn.Linear(5, 6), *extra, nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def heads() -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 3)).double(), nn.Linear(4, 3).double()]


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, torch.arange(n) % 3


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def true_gradient(model: nn.Module) -> Tensor:
    x, y = batch()
    found = torch.autograd.grad(cross_entropy(model(x), y), [p for p in model.parameters() if p.requires_grad])
    return torch.cat([g.flatten() for g in found])


def guesses(model: nn.Module, seed: int = 3) -> dict[nn.Parameter, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {p: torch.randn(p.shape, generator=g, dtype=p.dtype) for p in model.parameters()}


@pytest.mark.parametrize(("guess", "kurtosis"), [("gaussian", 3.0), ("rademacher", 1.0)])
def test_random_estimates_have_the_gradient_as_mean_and_the_known_variance(guess: str, kurtosis: float) -> None:
    model, draws = network(), 1000
    truth = true_gradient(model)
    estimator = ForwardGradient(model, cross_entropy, guess, n_directions=draws)
    value = estimator.estimate(*batch())
    x, y = batch()
    assert float(value) == pytest.approx(float(cross_entropy(model(x), y).detach()), rel=1e-12)
    # E|u<u,t> - t|^2 = (d + E u^4 - 2) |t|^2, and the mean of many has it divided by their number.
    expected = (len(truth) + kurtosis - 2) * float(truth.square().sum()) / draws
    missed = float((flat(model) - truth).square().sum())
    assert 0.5 * expected < missed < 2 * expected  # about 60 directions: far from zero and from twice
    assert missed < 0.06 * float(truth.square().sum())


def test_the_variance_of_groups_is_that_of_each_by_itself() -> None:
    model, draws = network(), 100
    truth = true_gradient(model)
    parts = truth.split([p.numel() for p in model.parameters()])
    estimator = ForwardGradient(model, cross_entropy, groups="tensor", n_directions=draws)
    estimator.estimate(*batch())
    expected = sum((len(t) + 1) * float(t.square().sum()) for t in parts) / draws
    assert 0.5 * expected < float((flat(model) - truth).square().sum()) < 2 * expected


@pytest.mark.parametrize("groups", ["model", "tensor"])
def test_the_normalized_estimate_is_the_projection_on_the_guess(groups: str) -> None:
    model = network()
    truth, g = true_gradient(model), guesses(model)
    ForwardGradient(model, cross_entropy, lambda *_: g, groups=groups).estimate(*batch())
    sizes = [p.numel() for p in model.parameters()] if groups == "tensor" else [len(truth)]
    direction = torch.cat([v.flatten() for v in g.values()])
    wanted = [(t @ u) / (u @ u) * u for t, u in zip(truth.split(sizes), direction.split(sizes), strict=True)]
    torch.testing.assert_close(flat(model), torch.cat(wanted), rtol=1e-10, atol=1e-14)


def test_a_guess_that_is_the_gradient_gives_the_gradient() -> None:
    model = network()
    x, y = batch()

    def guess(*_: Tensor) -> dict[nn.Parameter, Tensor]:
        params = list(model.parameters())
        with torch.enable_grad():
            found = torch.autograd.grad(cross_entropy(model(x), y), params)
        return {p: -3 * g for p, g in zip(params, found, strict=True)}  # of any length and sign

    ForwardGradient(model, cross_entropy, guess).estimate(x, y)
    torch.testing.assert_close(flat(model), true_gradient(model), rtol=1e-10, atol=1e-14)


def test_the_derivative_is_that_of_finite_differences() -> None:
    model, (x, y), h = network(), batch(), 1e-5
    g = guesses(model)
    ForwardGradient(model, cross_entropy, lambda *_: g, normalized=False).estimate(x, y)
    slope = float(flat(model)[0] / next(iter(g.values())).flatten()[0])

    def moved(by: float) -> float:
        values = {name: p.detach() + by * g[p] for name, p in model.named_parameters()}
        return float(cross_entropy(torch.func.functional_call(model, values, (x,)), y))

    assert slope == pytest.approx((moved(h) - moved(-h)) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("grad", [True, False])
def test_no_graph_is_built_for_random_guesses(grad: bool) -> None:
    model, saved = network(noisy=True), []
    with torch.set_grad_enabled(grad), saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        value = ForwardGradient(model, cross_entropy, n_directions=2, groups="tensor").estimate(*batch())
    assert not saved
    assert not value.requires_grad
    assert all(p.grad is not None and not p.grad.requires_grad for p in model.parameters())


def test_local_guesses_are_projected_block_by_block_and_the_last_block_is_exact() -> None:
    model, aux = network(), heads()
    for head in aux:
        head.eval()
    truth = true_gradient(model)
    local = LocalLosses(model, aux, cross_entropy)
    losses, found = local.gradients(*batch())
    value = ForwardGradient(model, cross_entropy, local).estimate(*batch())
    assert value == losses[-1]
    sizes = [36, 28, 15]
    true, made = truth.split(sizes), flat(model).split(sizes)
    torch.testing.assert_close(made[2], true[2])
    for k in range(2):
        g = torch.cat([found[p].flatten() for p in local.blocks[k].parameters()])
        torch.testing.assert_close(made[k], (true[k] @ g) / (g @ g) * g, rtol=1e-10, atol=1e-14)
        assert float((made[k] - true[k]) @ made[k]) == pytest.approx(0, abs=1e-14)  # a projection
    for p in local.heads.parameters():
        assert torch.equal(p.grad, found[p])


def test_local_losses_do_not_reach_into_other_blocks() -> None:
    model, aux = network(), heads()
    x, y = batch()
    local = LocalLosses(model, [head.eval() for head in aux], cross_entropy)
    local.backward(x, y)
    first, second, _ = local.blocks
    for block, head, inputs in ((first, aux[0], x), (second, aux[1], first(x).detach())):
        params = [*block.parameters(), *head.parameters()]
        wanted = torch.autograd.grad(cross_entropy(head(block(inputs)), y), params)
        for p, g in zip(params, wanted, strict=True):
            torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("local", [False, True])
def test_dropout_has_one_mask_and_statistics_count_once(local: bool) -> None:
    """Per call, whatever the number of passes; and as many random numbers are used up as by one pass."""
    model, twin = network(noisy=True), network(noisy=True)
    x, y = batch()
    torch.manual_seed(5)
    loss = cross_entropy(twin(x), y)
    truth = torch.autograd.grad(loss, list(twin.parameters()))
    after = torch.rand(1)
    torch.manual_seed(5)
    if local:
        estimator = ForwardGradient(model, cross_entropy, LocalLosses(model, heads(), cross_entropy))
    else:
        given = dict(zip(model.parameters(), truth, strict=True))  # only the same masks make it the gradient
        estimator = ForwardGradient(model, cross_entropy, lambda *_: given, groups="tensor")
    torch.manual_seed(5)
    value = estimator.estimate(x, y)
    assert torch.equal(torch.rand(1), after)
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-12)
    for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    if not local:
        for p, g in zip(model.parameters(), truth, strict=True):
            torch.testing.assert_close(p.grad, g)


def test_gradients_accumulate_and_frozen_parameters_have_none() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    model.forward = lambda x: nn.Sequential.forward(model, x)  # type: ignore[method-assign]
    estimator = ForwardGradient(model, cross_entropy, groups="tensor")
    estimator.estimate(*batch())
    assert model[0].weight.grad is None
    assert not model.unused.grad.any()  # its own derivative is zero
    once = flat(model).clone()
    state = estimator.state_dict()
    estimator.estimate(*batch())
    twice = flat(model).clone()
    model.zero_grad()
    other = ForwardGradient(model, cross_entropy, groups="tensor", seed=9)
    other.load_state_dict(state)
    other.estimate(*batch())
    torch.testing.assert_close(twice - once, flat(model))
    assert not torch.equal(once, flat(model))


def test_resuming_is_exact_to_the_bit() -> None:
    def steps(model: nn.Module, estimator: ForwardGradient, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            estimator.estimate(*batch())
            optimizer.step()

    def made() -> tuple[nn.Module, ForwardGradient, torch.optim.Optimizer]:
        model = network()
        groups = [{"params": model[0].parameters()}, {"params": model[2:].parameters(), "lr": 0.01}]
        return model, ForwardGradient(model, cross_entropy), torch.optim.Adam(groups, lr=0.02)

    model, estimator, optimizer = made()
    steps(model, estimator, optimizer, 2)
    twin, again, other = made()
    twin.load_state_dict(model.state_dict())
    again.load_state_dict(estimator.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch keeps the very tensors
    steps(model, estimator, optimizer, 2)
    steps(twin, again, other, 2)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_attention_and_recurrent_models_have_forward_derivatives() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
            self.read = nn.GRU(4, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.attend(x, x, x, need_weights=False)[0])[0][:, -1]

    torch.manual_seed(0)
    model = Reader().double()
    x, y = torch.randn(5, 6, 4, dtype=torch.float64), torch.arange(5) % 3
    g = guesses(model)
    truth = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    slope = sum((t * u).sum() for t, u in zip(truth, g.values(), strict=True))
    ForwardGradient(model, cross_entropy, lambda *_: g, normalized=False).estimate(x, y)
    torch.testing.assert_close(model.read.bias_hh_l0.grad, slope * g[model.read.bias_hh_l0])


def test_losses_that_are_not_finite_show_and_an_empty_guess_gives_zero() -> None:
    model = network()
    x, y = batch()
    ForwardGradient(model, cross_entropy).estimate(x * math.nan, y)
    assert flat(model).isnan().all()
    model.zero_grad()
    zero = {p: torch.zeros_like(p) for p in model.parameters()}
    ForwardGradient(model, cross_entropy, lambda *_: zero).estimate(x, y)
    assert not flat(model).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guess": "cauchy"}, "guess must be one of 'gaussian', 'rademacher', got 'cauchy'"),
        ({"guess": 3}, "guess must be a name, LocalLosses or a function, got 3"),
        ({"n_directions": 0}, "n_directions must be an integer >= 1, got 0"),
        ({"n_directions": 2, "guess": lambda *_: {}}, "n_directions must be an integer >= 1 and <= 1, got 2"),
        ({"groups": "block"}, "groups must be one of 'model', 'tensor', got 'block'"),
        ({"normalized": 1}, "normalized must be True or False, got 1"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments_are_named(settings: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ForwardGradient(network(), cross_entropy, **settings)


def test_what_does_not_fit_together_is_told() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got <function"):
        ForwardGradient(nn.functional.mse_loss, nn.Linear(2, 2))  # type: ignore[arg-type]
    model = network()
    with pytest.raises(ValueError, match="every trainable parameter of the model once"):
        ForwardGradient(model, cross_entropy, groups=[model[0], model[2]])
    with pytest.raises(ValueError, match="once and no other"):
        ForwardGradient(model, cross_entropy, LocalLosses(network(), heads(), cross_entropy))
    with pytest.raises(ValueError, match="heads must be one for each of the 3 blocks but the last, got 1"):
        LocalLosses(model, heads()[:1], cross_entropy)
    with pytest.raises(TypeError, match=r"network must be an nn.Sequential or a list of blocks, got Linear"):
        LocalLosses(nn.Linear(2, 2), [], cross_entropy)
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="must not share parameters"):
        LocalLosses([shared, nn.Sequential(shared)], heads()[:1], cross_entropy)
    with pytest.raises(ValueError, match="guess must hold at least one trainable parameter"):
        ForwardGradient(model, cross_entropy, lambda *_: {}).estimate(*batch())
    with pytest.raises(ValueError, match="state must hold 'seed' and 'calls'"):
        ForwardGradient(model, cross_entropy).load_state_dict({"seed": 1})
