"""Compiled kernels: arithmetic on hyper-parameters leaves the loop, and calls go to the compiled code directly."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from steepest.core import kernel
from steepest.core.hoist import hoist_scalars
from steepest.core.kernel import WIDTH, Runner
from steepest.optim import AdEMAMix, Lion


def traced(hyper: Tensor, x: Tensor, g: Tensor) -> Tensor:
    lr, beta = hyper[0], hyper[1]
    return x - lr * (1 - beta) * (g * beta) + g


def test_hoisting_moves_exactly_the_scalar_arithmetic() -> None:
    module = fx.symbolic_trace(traced)
    hyper = next(n for n in module.graph.nodes if n.name == "hyper")
    inner, pack = hoist_scalars(module, hyper, torch.float32)
    values = torch.tensor([0.1, 0.9999], dtype=torch.float64)
    x, g = torch.randn(2, 5), torch.randn(2, 5)

    scalars = pack(values)
    assert scalars.dtype == torch.float32
    # beta itself and lr (1 - beta), computed in float64: in float32, 1 - 0.9999 keeps four digits.
    assert sorted(scalars.tolist()) == pytest.approx([0.1 * (1 - 0.9999), 0.9999], rel=1e-6)
    torch.testing.assert_close(inner(scalars, x, g), traced(values, x, g).float())

    def takes(node: fx.Node) -> bool:
        return any(source.name == "scalars" for source in node.all_input_nodes)

    assert {n.target for n in inner.graph.nodes if takes(n)} == {torch.select}
    left = [n.target for n in inner.graph.nodes if n.op == "call_function" and n.target is not torch.select]
    assert left.count(operator.mul) == 2
    assert left.count(operator.sub) == 1


def test_hoisting_leaves_a_kernel_without_hyper_parameters_alone() -> None:
    module = fx.symbolic_trace(lambda hyper, x: x + x)
    hyper = next(n for n in module.graph.nodes if n.op == "placeholder")
    inner, _ = hoist_scalars(module, hyper, torch.float32)
    assert torch.equal(inner(torch.zeros(0), torch.ones(3)), 2 * torch.ones(3))


SETTINGS: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.01}


def _pieces(rows: int) -> list[Tensor]:
    return [torch.randn(rows, WIDTH) for _ in range(3)]


@pytest.mark.slow
def test_after_the_first_call_dynamo_is_left_out_and_results_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_compiled", {})
    Runner(Lion.algorithm, SETTINGS, 1, torch.device("cpu"), True)(_pieces(2), flat=True)
    [made] = kernel._compiled.values()
    assert made.order is not None
    assert made.is_direct(_pieces(3))
    monkeypatch.setattr(made, "guarded", lambda *_: pytest.fail("went through Dynamo"))
    for rows, lr in ((2, 0.1), (7, 0.2), (64, 0.3)):
        run = Runner(Lion.algorithm, {**SETTINGS, "lr": lr}, 2, torch.device("cpu"), True)
        pieces = _pieces(rows)
        twins = [p.clone() for p in pieces]
        versions = [p._version for p in pieces]
        run(pieces, flat=True)
        Runner(Lion.algorithm, {**SETTINGS, "lr": lr}, 2, torch.device("cpu"), False)(twins, flat=True)
        torch.testing.assert_close(pieces, twins, rtol=1e-6, atol=1e-7)
        # Autograd must see that the parameter and the state were written to, and the gradient was not.
        assert [p._version > v for p, v in zip(pieces, versions, strict=True)] == [True, False, True]


@pytest.mark.slow
def test_arguments_that_cannot_be_matched_keep_every_call_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_compiled", {})
    monkeypatch.setattr(kernel, "_positions", lambda *_: None)
    settings = {"lr": 0.1, "betas": (0.9, 0.99, 0.999), "alpha": 2.0, "warmup": None, "eps": 1e-8, "weight_decay": 0.1}
    pieces = [torch.rand(2, WIDTH) for _ in range(5)]
    twins = [p.clone() for p in pieces]
    for step in (1, 2):
        Runner(AdEMAMix.algorithm, settings, step, torch.device("cpu"), True)(pieces, flat=True)
        Runner(AdEMAMix.algorithm, settings, step, torch.device("cpu"), False)(twins, flat=True)
    [made] = kernel._compiled.values()
    assert not made.is_direct(pieces)
    torch.testing.assert_close(pieces, twins, rtol=1e-5, atol=1e-6)


def test_a_settled_number_is_the_same_number_under_gradients_and_vmap_eager_and_compiled() -> None:
    from steepest.core.settled import settled

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x / settled(x.square().sum().sqrt())

    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    [expected] = torch.autograd.grad(scaled(x).pow(3).sum(), x)
    compiled = torch.compile(scaled, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x.detach()), scaled(x.detach()), rtol=1e-14, atol=0)
    [gradient] = torch.autograd.grad(compiled(x).pow(3).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    rows = torch.compile(torch.func.vmap(scaled), fullgraph=True)(x.detach())
    torch.testing.assert_close(rows, x.detach() / x.detach().norm(dim=1, keepdim=True), rtol=1e-14, atol=0)
