"""Hessian alignment: the closed form against double differentiation and explicit Hessians, and what must vanish."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional

from steepest.train.generalize import HessianAlignment

WIDTH, CLASSES = 4, 3
BINARY = functional.binary_cross_entropy_with_logits


def twice(loss: Any) -> Any:
    """The same loss under another name: differentiated twice, as there is no closed form for it."""
    return lambda outputs, targets: loss(outputs, targets)


def environments(binary: bool = False, sizes: tuple[int, ...] = (7, 5, 9)) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    h = [torch.randn(n, WIDTH, generator=g, dtype=torch.float64) for n in sizes]
    if binary:
        return h, [torch.rand(n, CLASSES, generator=g, dtype=torch.float64).round() for n in sizes]
    return h, [torch.randint(0, CLASSES, (n,), generator=g) for n in sizes]


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, CLASSES, bias=bias, dtype=torch.float64)


def explicit(head: nn.Module, features: list[Tensor], targets: list[Tensor], loss: Any) -> dict[str, Tensor]:
    """Both penalties of gradients and Hessians that are formed."""
    shapes = {name: p.shape for name, p in head.named_parameters()}
    point = torch.cat([p.detach().reshape(-1) for p in head.parameters()])

    def value(vector: Tensor, h: Tensor, y: Tensor) -> Tensor:
        parts = vector.split([s.numel() for s in shapes.values()])
        values = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return loss(functional_call(head, values, (h,)), y)

    pairs = list(zip(features, targets, strict=True))
    g = torch.stack([torch.func.grad(value)(point, h, y) for h, y in pairs])
    curved = torch.stack([hessian(value)(point, h, y) for h, y in pairs])
    v = torch.einsum("eij,ej->ei", curved, g)
    d = curved.diagonal(dim1=1, dim2=2)
    gaps = curved - curved.mean(0)
    return {
        "gradient": (g - g.mean(0)).square().sum(),
        "hgp": (v - curved.mean(0) @ g.mean(0)).square().sum(),
        "hutchinson": (d - d.mean(0)).square().sum(),
        "frobenius": gaps.square().sum(),
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", [functional.cross_entropy, BINARY])
def test_closed_form_and_double_differentiation_against_explicit_hessians(loss: Any, bias: bool) -> None:
    head = linear(bias)
    h, y = environments(loss is BINARY)
    expected = explicit(head, h, y, loss)
    exact = HessianAlignment(method="hutchinson").terms(head, h, y, loss)
    assert torch.allclose(exact.hessian, expected["hutchinson"], rtol=1e-12)
    for form in (loss, twice(loss)):
        terms = HessianAlignment(method="hgp").terms(head, h, y, form)
        assert torch.allclose(terms.gradient, expected["gradient"], rtol=1e-12)
        assert torch.allclose(terms.hessian, expected["hgp"], rtol=1e-10)
        assert torch.allclose(terms.risk, torch.stack([loss(head(a), b) for a, b in zip(h, y, strict=True)]).mean())


def test_any_head_and_loss_against_explicit_hessians() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    h, _ = environments()
    y = [x.sum(1, keepdim=True).sin() for x in h]
    terms = HessianAlignment().terms(head, h, y, functional.mse_loss)
    expected = explicit(head, h, y, functional.mse_loss)
    assert torch.allclose(terms.gradient, expected["gradient"], rtol=1e-10)
    assert torch.allclose(terms.hessian, expected["hgp"], rtol=1e-10)


def test_authors_form_of_the_product() -> None:
    """The norm of the gradient times its derivative, written with autograd alone."""
    head = linear()
    h, y = environments()
    w = list(head.parameters())
    losses = [functional.cross_entropy(head(a), b) for a, b in zip(h, y, strict=True)]

    def product(value: Tensor) -> Tensor:
        g = torch.autograd.grad(value, w, create_graph=True)
        norm = torch.cat([p.reshape(-1) for p in g]).norm()
        return torch.cat([norm * p.reshape(-1) for p in torch.autograd.grad(norm, w, retain_graph=True)])

    mean = product(torch.stack(losses).mean())
    expected = sum((product(value) - mean).square().sum() for value in losses)
    assert torch.allclose(HessianAlignment().terms(head, h, y).hessian, expected, rtol=1e-10)


@pytest.mark.parametrize("closed", [True, False])
def test_the_mean_over_probes_is_the_diagonal_and_its_bias_is_known(closed: bool) -> None:
    head = linear()
    h, y = environments()
    loss = functional.cross_entropy if closed else twice(functional.cross_entropy)
    expected = explicit(head, h, y, functional.cross_entropy)
    off = expected["frobenius"] - expected["hutchinson"]
    single = HessianAlignment(method="hutchinson", probes=1)
    found = torch.stack([single.terms(head, h, y, loss).hessian.detach() for _ in range(400)])
    error = found.std() / len(found) ** 0.5
    assert (found.mean() - expected["frobenius"]).abs() < 4 * error
    assert error < 0.1 * expected["frobenius"]
    many = HessianAlignment(method="hutchinson", probes=400).terms(head, h, y, loss).hessian
    assert (many - expected["hutchinson"]).abs() < 0.2 * expected["hutchinson"] + 4 * off / 400


def test_both_forms_draw_the_same_probes_up_to_the_layout() -> None:
    head = linear(bias=False)
    h, y = environments()
    closed, double = (HessianAlignment(method="hutchinson", probes=3, seed=5) for _ in range(2))
    for _ in range(2):
        a = closed.terms(head, h, y).hessian
        b = double.terms(head, h, y, twice(functional.cross_entropy)).hessian
        assert torch.allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"method": "hutchinson"}, {"method": "hutchinson", "probes": 2}])
@pytest.mark.parametrize("closed", [True, False])
def test_identical_environments_have_no_penalty(settings: dict[str, Any], closed: bool) -> None:
    if not closed and settings == {"method": "hutchinson"}:
        settings = {**settings, "probes": 1}
    h, y = environments(sizes=(6,))
    loss = functional.cross_entropy if closed else twice(functional.cross_entropy)
    head = linear()
    terms = HessianAlignment(**settings).terms(head, h * 3, y * 3, loss)
    assert terms.gradient.item() == pytest.approx(0, abs=1e-28)
    assert terms.hessian.item() == pytest.approx(0, abs=1e-28)
    assert torch.equal(HessianAlignment(alpha=0.0, beta=0.0)(head, h * 3, y * 3, loss), terms.risk)


@pytest.mark.parametrize("settings", [{}, {"method": "hutchinson"}, {"method": "hutchinson", "probes": 2}])
def test_order_of_environments_and_of_samples_does_not_matter(settings: dict[str, Any]) -> None:
    h, y = environments()
    head = linear()
    here = HessianAlignment(10.0, 10.0, **settings)(head, h, y)
    there = HessianAlignment(10.0, 10.0, **settings)(head, h[::-1], list(y[::-1]))
    flipped = HessianAlignment(10.0, 10.0, **settings)(head, [x.flip(0) for x in h], [t.flip(0) for t in y])
    assert torch.allclose(here, there, rtol=1e-12)
    assert torch.allclose(here, flipped, rtol=1e-12)


def test_two_environments_are_half_the_squared_difference() -> None:
    h, y = environments(sizes=(4, 6))
    head = linear()
    grads = [
        torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(functional.cross_entropy(head(a), b), list(head.parameters()))]
        )
        for a, b in zip(h, y, strict=True)
    ]
    terms = HessianAlignment().terms(head, h, y)
    assert torch.allclose(terms.gradient, 0.5 * (grads[0] - grads[1]).square().sum())


FORMS = [
    (functional.cross_entropy, {}),
    (functional.cross_entropy, {"method": "hutchinson"}),
    (functional.cross_entropy, {"method": "hutchinson", "probes": 2}),
    (twice(functional.cross_entropy), {}),
    (twice(functional.cross_entropy), {"method": "hutchinson", "probes": 2}),
]


@pytest.mark.parametrize(("loss", "settings"), FORMS)
def test_finite_differences_in_the_features(loss: Any, settings: dict[str, Any]) -> None:
    h, y = environments(sizes=(3, 2))
    head = linear()
    value = lambda *features: HessianAlignment(3.0, 2.0, **settings)(head, features, y, loss)  # noqa: E731
    assert torch.autograd.gradcheck(value, tuple(x.requires_grad_() for x in h), atol=1e-8)


@pytest.mark.parametrize(("loss", "settings"), FORMS)
def test_finite_differences_in_the_head(loss: Any, settings: dict[str, Any]) -> None:
    h, y = environments(sizes=(3, 2))
    head = linear()
    HessianAlignment(3.0, 2.0, **settings)(head, h, y, loss).backward()
    for p in head.parameters():
        for entry in range(p.numel()):
            sides = []
            for shift in (1e-5, -1e-5):
                moved = copy.deepcopy(head)
                dict(moved.named_parameters())["weight" if p.dim() == 2 else "bias"].data.view(-1)[entry] += shift
                sides.append(HessianAlignment(3.0, 2.0, **settings)(moved, h, y, loss).item())
            assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(p.grad.view(-1)[entry].item(), rel=1e-5, abs=1e-8)


def test_trains_the_body_and_the_head_alike_in_both_forms() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3)).double()
    x = [torch.randn(6, 5, dtype=torch.float64) for _ in range(2)]
    y = [torch.randint(0, CLASSES, (6,)) for _ in range(2)]
    results = []
    for loss in (functional.cross_entropy, twice(functional.cross_entropy)):
        own, head = copy.deepcopy(body), linear()
        torch.manual_seed(3)
        value = HessianAlignment(5.0, 5.0)(head, [own(a) for a in x], y, loss)
        value.backward()
        assert own[1].num_batches_tracked == 2, "one forward pass per environment, which is the caller's"
        results.append([p.grad for p in (*own.parameters(), *head.parameters())])
    for a, b in zip(*results, strict=True):
        assert a.abs().max() > 0
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_frozen_head_still_trains_the_body() -> None:
    h, y = environments()
    h = [x.requires_grad_() for x in h]
    values = []
    for loss in (functional.cross_entropy, twice(functional.cross_entropy)):
        head = linear().requires_grad_(False)
        value = HessianAlignment(1.0, 1.0)(head, h, y, loss)
        values.append(torch.cat(torch.autograd.grad(value, h)))
        assert head.weight.grad is None
    assert torch.allclose(values[0], values[1], rtol=1e-10)
    assert values[0].abs().max() > 0


def test_a_head_without_curvature_and_a_parameter_that_is_not_used() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(2))

        def forward(self, h: Tensor) -> Tensor:
            return h.float() @ self.used

    h, _ = environments()
    terms = HessianAlignment().terms(Head(), h, h, lambda outputs, _: outputs.mean())
    assert terms.hessian.item() == 0
    assert terms.gradient.item() > 0


def test_state_of_the_probes_is_saved() -> None:
    h, y = environments()
    head = linear()
    first = HessianAlignment(1.0, 0.0, method="hutchinson", probes=1)
    values = [first(head, h, y) for _ in range(2)]
    assert values[0] != values[1], "each call has its own probes"
    second = HessianAlignment(1.0, 0.0, method="hutchinson", probes=1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(head, h, y), second(head, h, y))


def test_values_that_are_not_finite_pass_through() -> None:
    h, y = environments()
    h[0][0, 0] = float("nan")
    assert HessianAlignment()(linear(), h, y).isnan()


def test_targets_that_are_probabilities_take_the_general_form() -> None:
    h, y = environments()
    soft = [functional.one_hot(t, CLASSES).double() for t in y]
    head = linear()
    assert torch.allclose(HessianAlignment(1.0, 1.0)(head, h, soft), HessianAlignment(1.0, 1.0)(head, h, y))


def test_annealing_by_attributes_is_checked() -> None:
    alignment = HessianAlignment()
    alignment.alpha = alignment.beta = 91257.0
    with pytest.raises(ValueError, match=r"HessianAlignment: alpha must be a finite number in \[0, inf\), got -1"):
        alignment.alpha = -1.0


def test_bad_arguments() -> None:
    h, y = environments()
    for settings, message in (
        ({"beta": float("nan")}, r"beta must be a finite number in \[0, inf\), got nan"),
        ({"method": "exact"}, "method must be one of 'hgp', 'hutchinson', got 'exact'"),
        ({"probes": 0}, "probes must be an integer >= 1 or None, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            HessianAlignment(**settings)
    call = HessianAlignment()
    with pytest.raises(ValueError, match="the same length >= 2, one entry per environment, got 1 and 1"):
        call(linear(), h[:1], y[:1])
    with pytest.raises(TypeError, match=r"features must be a sequence .* got one tensor of shape"):
        call(linear(), h[0], y[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 3 and 2"):
        call(linear(), h, y[:2])
    with pytest.raises(ValueError, match=r"environment 1 must hold as many targets as features, .* got 0 features"):
        call(linear(), [h[0], h[1][:0]], [y[0], y[1][:0]])
    with pytest.raises(ValueError, match="head must have parameters, got Identity without any"):
        call(nn.Identity(), h, y)
    with pytest.raises(ValueError, match="probes must be an integer >= 1 for a head and loss without a closed form"):
        HessianAlignment(method="hutchinson")(linear(), h, y, twice(functional.cross_entropy))
