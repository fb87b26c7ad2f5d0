"""UDIM: SAM as a special case, the penalty against gradients that are formed, the ascent against finite differences."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.core.operators import per_sample_gradients
from steepest.core.twopoint import gradients_at
from steepest.optim import AdaBelief
from steepest.train.generalize import UDIM, inconsistency


def network(batch_norm: bool = False, dropout: float = 0.0) -> nn.ModuleDict:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(5)] if batch_norm else []
    body = nn.Sequential(nn.Linear(4, 5, bias=not batch_norm), *middle, nn.Tanh(), nn.Dropout(dropout))
    return nn.ModuleDict({"body": body, "head": nn.Linear(5, 3)}).double()


def batch(n: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def run(net: nn.ModuleDict, x: Tensor) -> Tensor:
    return net["head"](net["body"](x))


def sam_step(net: nn.ModuleDict, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, rho: float) -> Tensor:
    """SAM (Foret et al., 2021), written out."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = torch.get_rng_state()
    optimizer.zero_grad()
    loss = functional.cross_entropy(run(net, x), y)
    loss.backward()
    norm = torch.cat([p.grad.reshape(-1) for p in params]).norm()
    points = [p + rho * p.grad / norm for p in params]

    def closure() -> None:
        torch.set_rng_state(state)  # the same masks
        functional.cross_entropy(run(net, x), y).backward()

    _, grads = gradients_at(closure, params, points)
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    optimizer.step()
    return loss.detach()


OPTIMIZERS = [
    lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=1e-2),
    lambda params: AdaBelief(params, lr=0.01),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("settings", [{"penalty": 0.0}, {"warmup": 5}])
def test_without_a_penalty_it_is_sam(make: Any, settings: dict[str, Any]) -> None:
    ours = network(batch_norm=True, dropout=0.3)
    theirs = copy.deepcopy(ours)
    groups = lambda net: [{"params": net["body"].parameters()}, {"params": net["head"].parameters(), "lr": 0.02}]  # noqa: E731
    method, other = UDIM(ours["body"], ours["head"], make(groups(ours)), rho=0.2, **settings), make(groups(theirs))
    for step in range(5):
        x, y = batch(seed=step)
        torch.manual_seed(step)
        mine = method.step(x, y)
        torch.manual_seed(step)
        assert torch.allclose(mine, sam_step(theirs, other, x, y, 0.2), rtol=1e-10)
        drawn = torch.rand(1)
        torch.manual_seed(step)
        theirs["body"][3](torch.empty(8, 5))
        assert torch.equal(drawn, torch.rand(1)), "the masks of one pass are drawn"
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11), name
    assert ours["body"][1].num_batches_tracked == 5


def formed(net: nn.ModuleDict, x: Tensor, there: Tensor, y: Tensor) -> Tensor:
    """The inconsistency from gradients of single samples."""
    head, loss = net["head"], functional.cross_entropy
    g = per_sample_gradients(head, loss, net["body"](x).detach(), y)
    g_there = per_sample_gradients(head, loss, net["body"](there).detach(), y)
    v = torch.cat([(g[n] - g[n].mean(0)).square().mean(0).reshape(-1) for n in g])
    v_there = torch.cat([(g_there[n] - g[n].mean(0)).square().mean(0).reshape(-1) for n in g])
    middle = (v + v_there) / 2
    gap = 0.5 * ((v - middle).square().mean() + (v_there - middle).square().mean())
    norms = [g_there[n].reshape(len(y), -1).square().sum(1).mean() / g_there[n][0].numel() for n in g]
    return gap + torch.stack(norms).sum()


def penalty(net: nn.ModuleDict, x: Tensor, there: Tensor, y: Tensor) -> Tensor:
    h, h_there = net["body"](x), net["body"](there)
    return inconsistency(net["head"], (h, net["head"](h)), (h_there, net["head"](h_there)), y)


@pytest.mark.parametrize("bias", [True, False])
def test_inconsistency_against_gradients_of_single_samples(bias: bool) -> None:
    net = network()
    if not bias:
        net["head"] = nn.Linear(5, 3, bias=False).double()
    (x, y), (there, _) = batch(), batch(seed=2)
    assert torch.allclose(penalty(net, x, there, y), formed(net, x, there, y), rtol=1e-12)


def test_its_gradient_in_the_whole_network_against_finite_differences() -> None:
    net = network()
    (x, y), (there, _) = batch(), batch(seed=2)
    params = dict(net.named_parameters())

    def value(*values: Tensor) -> Tensor:
        named = dict(zip(params, values, strict=True))

        def call(part: str, inputs: Tensor) -> Tensor:
            own = {n.removeprefix(f"{part}."): v for n, v in named.items() if n.startswith(part)}
            return torch.func.functional_call(net[part], own, (inputs,))

        h, h_there = call("body", x), call("body", there)
        return inconsistency(net["head"], (h, call("head", h)), (h_there, call("head", h_there)), y)

    assert torch.autograd.gradcheck(value, tuple(params.values()))


def test_equal_copies_leave_the_norms_alone() -> None:
    """Without perturbation the variances agree: what remains is the mean square of the gradients."""
    net = network()
    x, y = batch()
    g = per_sample_gradients(net["head"], functional.cross_entropy, net["body"](x).detach(), y)
    assert torch.allclose(penalty(net, x, x, y), torch.stack([v.square().mean() for v in g.values()]).sum())
    # And the gap alone is that of Fishr where the means agree: a quarter of the squared difference of variances.
    flipped = y.flip(0)
    assert torch.allclose(penalty(net, x, x.flip(0), flipped), formed(net, x, x.flip(0), flipped))


class Probe(UDIM):
    """Remembers the ascent direction and what it made of it."""

    def perturbed(self, inputs: Tensor, ascent: Tensor) -> Tensor:
        self.ascent, self.moved = ascent, super().perturbed(inputs, ascent)
        return self.moved


def sharp_loss(net: nn.ModuleDict, x: Tensor, y: Tensor, rho: float) -> Tensor:
    loss = functional.cross_entropy(run(net, x), y)
    g = torch.autograd.grad(loss, list(net.parameters()))
    return loss + rho * torch.cat([v.reshape(-1) for v in g]).norm()


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_ascent_direction_against_finite_differences(rho: float) -> None:
    net = network()
    x, y = batch()
    start = copy.deepcopy(net)
    probe = Probe(net["body"], net["head"], torch.optim.SGD(net.parameters(), lr=0.1), rho=rho)
    probe.step(x, y)
    for place in ((0, 0), (3, 2), (7, 3)):
        e = torch.zeros_like(x)
        e[place] = 1e-5
        slope = (sharp_loss(start, x + e, y, rho) - sharp_loss(start, x - e, y, rho)) / 2e-5
        assert slope.item() == pytest.approx(probe.ascent[place].item(), rel=1e-6)


def test_the_step_is_the_sum_of_both_gradients() -> None:
    net = network(batch_norm=True)
    x, y = batch()
    start = copy.deepcopy(net)
    probe = Probe(net["body"], net["head"], torch.optim.SGD(net.parameters(), lr=1.0), penalty=3.0, step_size=0.7)
    probe.step(x, y)
    sam = copy.deepcopy(start)
    sam_step(sam, torch.optim.SGD(sam.parameters(), lr=1.0), x, y, 0.05)
    extra = torch.autograd.grad(penalty(start, x, probe.moved, y), list(start.parameters()))
    for (name, p), q, g in zip(net.named_parameters(), sam.parameters(), extra, strict=True):
        assert torch.allclose(p, q - 3.0 * g, rtol=1e-10, atol=1e-12), name
    assert net["body"][1].num_batches_tracked == 1
    for a, b in zip(net.buffers(), sam.buffers(), strict=True):
        assert torch.equal(a, b)


def test_pixels_move_by_the_step_size() -> None:
    net = network()
    x, _ = batch()
    make = lambda **settings: UDIM(net["body"], net["head"], torch.optim.SGD(net.parameters(), lr=0.1), **settings)  # noqa: E731
    ascent = torch.randn_like(x)
    moved = make(step_size=2.0).perturbed(x, ascent)
    assert torch.allclose((moved - x).norm(dim=1), torch.full((8,), 2.0, dtype=torch.float64))
    assert torch.allclose(functional.cosine_similarity(moved - x, ascent), torch.ones(8, dtype=torch.float64))
    one = make(step_size=2.0).perturbed(x[:1], ascent[:1])
    assert torch.allclose(one, moved[:1]), "a sample's perturbation does not depend on the others"
    theirs = make(step_size=2.0, normalize="batch").perturbed(x, ascent)
    assert torch.allclose(theirs, x + 2.0 * functional.normalize(ascent, dim=0))
    assert torch.equal(make(step_size=0.0).perturbed(x, ascent), x)


def test_style_moves_mean_and_deviation_of_each_channel() -> None:
    net = network()
    method = UDIM(
        net["body"], net["head"], torch.optim.SGD(net.parameters(), lr=0.1), perturbation="style", step_size=0.3
    )
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    target = torch.randn_like(x)
    mean, scale = x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + 1e-6).sqrt()
    plain = (x - mean) / scale
    m, s = mean.clone().requires_grad_(), scale.clone().requires_grad_()
    objective = lambda image: (image * target).sin().sum()  # noqa: E731
    by_mean, by_scale = torch.autograd.grad(objective(plain * s + m), (m, s))
    image = x.clone().requires_grad_()
    moved = method.perturbed(x, torch.autograd.grad(objective(image), image)[0])
    assert torch.allclose(moved, plain * (scale + 0.3 * by_scale) + mean + 0.3 * by_mean, rtol=1e-9)
    with pytest.raises(ValueError, match=r"inputs must have the shape \(n, channels, ...\) .*, got \(8, 4\)"):
        method.step(*batch())


def test_save_and_resume() -> None:
    net = network(batch_norm=True, dropout=0.2)
    method = UDIM(net["body"], net["head"], torch.optim.Adam(net.parameters(), lr=0.01), warmup=3)
    for step in range(2):
        method.step(*batch(seed=step))
    twin = copy.deepcopy(net)
    other = UDIM(twin["body"], twin["head"], torch.optim.Adam(twin.parameters(), lr=0.01), warmup=3)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for m in (method, other):
        torch.manual_seed(9)
        for step in range(2, 5):
            m.step(*batch(seed=step))
    for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_frozen_and_idle_parameters_and_those_of_no_optimizer() -> None:
    net = network()
    net["body"][0].bias.requires_grad_(False)
    net["idle"] = nn.Linear(2, 2).double()
    before = copy.deepcopy(net)
    own = [*net["body"].parameters(), *net["idle"].parameters(), net["head"].weight]
    x, y = batch()
    UDIM(net["body"], net["head"], torch.optim.Adam(own, lr=0.1)).step(x, y)
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, dict(before.named_parameters())[n])}
    assert changed == {"body.0.weight", "head.weight"}
    assert net["head"].bias.grad is None, "it would gather there"
    assert net["idle"].weight.grad is None
    assert x.grad is None
    assert not x.requires_grad


def test_values_that_are_not_finite_reach_the_optimizer() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    x, y = batch()
    x[0, 0] = float("nan")
    method = UDIM(net["body"], net["head"], AdaBelief(net.parameters(), nonfinite="skip"))
    assert method.step(x, y).isnan()
    assert method.optimizer.skipped_steps == 1  # type: ignore[attr-defined]
    assert all(torch.equal(a, before[n]) for n, a in net.state_dict().items())


def test_bad_arguments() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for settings, message in (
        ({"rho": -1.0}, r"UDIM: rho must be a finite number in \[0, inf\), got -1.0"),
        ({"penalty": float("inf")}, "penalty must be a finite number"),
        ({"step_size": -1.0}, "step_size must be"),
        ({"perturbation": "colour"}, "perturbation must be one of 'pixel', 'style', got 'colour'"),
        ({"normalize": "none"}, "normalize must be one of 'sample', 'batch', got 'none'"),
        ({"warmup": -1}, "warmup must be an integer >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            UDIM(net["body"], net["head"], optimizer, **settings)
    with pytest.raises(TypeError, match=r"UDIM: head must be a torch.nn.Linear, got Tanh"):
        UDIM(net["body"], nn.Tanh(), optimizer)  # type: ignore[arg-type]
    rows, classes = torch.ones(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"inputs must be floating-point numbers, .* got torch.int64"):
        UDIM(net["body"], net["head"], optimizer).step(rows, classes)
    x, y = batch()
    for held, message in (([torch.zeros(2)], "it holds none"), (nn.Linear(2, 2).parameters(), "it holds others alone")):
        with pytest.raises(ValueError, match=f"optimizer must hold a parameter .*, {message}"):
            UDIM(net["body"], net["head"], torch.optim.SGD(held, lr=0.1)).step(x, y)
