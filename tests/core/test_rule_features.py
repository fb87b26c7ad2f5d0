"""What a rule may ask for beyond tensors of the parameter's shape: factors, refreshes, numbers measured on a group."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.core.optimizer import RuleOptimizer
from steepest.core.random import generator, normal, signs
from steepest.core.ranges import STEP_SIZE, Integer
from steepest.core.rule import Rule


class Factored(RuleOptimizer):
    """Whitens rows by an accumulated Gram matrix, refreshed every other step; the state has shapes of its own."""

    granularity = "matrix"
    static = ("refresh", "every")
    ranges = {"lr": STEP_SIZE, "every": Integer(low=1)}

    def __init__(self, params: Any, lr: float = 0.1, every: int = 2, **common: Any) -> None:
        super().__init__(params, {"lr": lr, "every": every}, **common)

    @staticmethod
    def state_tensors(x: Tensor, settings: Any) -> dict[str, Tensor]:
        rows = x.shape[0]
        return {
            "gram": torch.zeros(rows, rows, dtype=x.dtype, device=x.device),
            "root": torch.eye(rows, dtype=x.dtype, device=x.device),
            "momentum": torch.zeros_like(x),
        }

    @staticmethod
    def coefficients(step: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"refresh": (step - 1) % settings["every"] == 0}

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, gram: Tensor, root: Tensor, momentum: Tensor, *, lr: float, refresh: bool
    ) -> tuple[Tensor, ...]:
        gram = gram + g @ g.mT
        if refresh:
            values, vectors = torch.linalg.eigh(gram)
            root = (vectors / (values.clamp_min(0) + 1e-3).sqrt().unsqueeze(-2)) @ vectors.mT
        momentum = 0.5 * momentum + g
        return x - lr * root @ momentum, gram, root, momentum


def matrices(*shapes: tuple[int, ...], seed: int = 0) -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=source, dtype=torch.float64)) for s in shapes]


def steps(opt: Any, params: list[nn.Parameter], count: int, seed: int = 1) -> None:
    source = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype)
        opt.step()


def by_hand(x: Tensor, grads: list[Tensor], every: int) -> Tensor:
    x = x.reshape(x.shape[0], -1)
    gram = torch.zeros(len(x), len(x), dtype=x.dtype)
    momentum = torch.zeros_like(x)
    for t, grad in enumerate(grads):
        g = grad.reshape(x.shape)
        gram = gram + g @ g.T
        if t % every == 0:
            values, vectors = torch.linalg.eigh(gram)
            root = vectors @ torch.diag(1 / (values.clamp_min(0) + 1e-3).sqrt()) @ vectors.T
        momentum = 0.5 * momentum + g
        x = x - 0.1 * root @ momentum
    return x


@pytest.mark.parametrize("every", [1, 2, 3])
def test_factors_and_refreshes(every: int) -> None:
    shapes = ((3, 5), (3, 5), (2, 2, 2), (3, 3))  # two of them stacked, a convolution, a square
    params = matrices(*shapes)
    starts = [p.detach().clone() for p in params]
    grads: list[list[Tensor]] = [[] for _ in params]
    opt = Factored(params, every=every)
    source = torch.Generator().manual_seed(5)
    for _ in range(7):
        for p, seen in zip(params, grads, strict=True):
            p.grad = torch.randn(p.shape, generator=source, dtype=torch.float64)
            seen.append(p.grad.clone())
        opt.step()
    for p, start, seen in zip(params, starts, grads, strict=True):
        torch.testing.assert_close(p.detach().reshape(p.shape[0], -1), by_hand(start, seen, every))
        assert opt.state[p]["gram"].shape == (p.shape[0], p.shape[0])


def test_what_a_rule_leaves_alone_is_not_written() -> None:
    params = matrices((3, 5), (3, 5))
    opt = Factored(params, every=2)
    steps(opt, params, 1)
    versions = [opt.state[p]["root"]._version for p in params]
    steps(opt, params, 1)
    assert versions == [opt.state[p]["root"]._version for p in params]
    steps(opt, params, 1)
    assert all(opt.state[p]["root"]._version > v for p, v in zip(params, versions, strict=True))


def test_state_of_its_own_shape_is_saved_and_checked() -> None:
    params, twins = matrices((3, 5), (4, 2)), matrices((3, 5), (4, 2))
    opt, twin = Factored(params), Factored(twins)
    steps(opt, params, 3)
    saved = copy.deepcopy(opt.state_dict())
    # As a checkpoint service may return it: in another order.
    saved["state"] = {k: dict(sorted(v.items())) for k, v in saved["state"].items()}
    twin.load_state_dict(saved)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    steps(opt, params, 3, seed=2)
    steps(twin, twins, 3, seed=2)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
    saved["state"][0]["gram"] = torch.zeros(5, 5)
    with pytest.raises(ValueError, match=r"'gram' of parameter 0 of group 0 .* has shape \(5, 5\), expected \(3, 3\)"):
        twin.load_state_dict(saved)


def test_functional_form_of_factors() -> None:
    params = matrices((3, 5))
    opt, pure = Factored(params), Factored.functional()
    values = {"w": params[0].detach().clone()}
    state = pure.init(values)
    source = torch.Generator().manual_seed(3)
    for _ in range(4):
        g = torch.randn(3, 5, generator=source, dtype=torch.float64)
        params[0].grad = g
        opt.step()
        values, state = pure.update(values, {"w": g}, state)
    torch.testing.assert_close(values["w"], params[0].detach())


def test_an_elementwise_rule_cannot_have_factors() -> None:
    class Wrong(Factored):
        granularity = "elementwise"

        @staticmethod
        def rule(x: Tensor, g: Tensor, *state: Tensor, lr: float) -> tuple[Tensor, ...]:
            return x, *state

    params = matrices((3, 5))
    with pytest.raises(TypeError, match="the elementwise rule 'wrong' has a state tensor of another shape"):
        steps(Wrong(params), params, 1)


class Normalized(RuleOptimizer):
    """Gradient descent on the gradient over the running norm of the whole group."""

    ranges = {"lr": STEP_SIZE}

    def __init__(self, params: Any, lr: float = 0.1, **common: Any) -> None:
        super().__init__(params, {"lr": lr}, **common)

    @staticmethod
    def measure(pieces: Any, settings: Any, memory: Any, loss: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        norm = sum((g * g).sum() for _, g, *_ in pieces) ** 0.5
        running = 0.5 * memory.get("norm", 0.0) + 0.5 * float(norm)
        return {"norm": running}, {"norm": running}

    @staticmethod
    def rule(x: Tensor, g: Tensor, *, lr: float, norm: float) -> tuple[Tensor]:
        return (x - lr / norm * g,)


def test_what_couples_a_group() -> None:
    params = matrices((3, 5), (2,))
    starts = [p.detach().clone() for p in params]
    opt = Normalized(params)
    running = 0.0
    for scale in (1.0, 4.0):
        for p in params:
            p.grad = torch.full_like(p, scale)
        opt.step()
        running = 0.5 * running + 0.5 * scale * 17**0.5
        starts = [s - 0.1 * scale / running for s in starts]
    for p, s in zip(params, starts, strict=True):
        torch.testing.assert_close(p.detach(), s)
    twin = Normalized(matrices((3, 5), (2,)))
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert twin.param_groups[0]["shared"] == {"norm": running}
    pure = Normalized.functional()
    values = {"a": torch.ones(3, 5), "b": torch.ones(2)}
    values, state = pure.update(values, values, pure.init(values))
    assert state["shared"]["norm"] == pytest.approx(0.5 * 17**0.5)


def test_random_numbers_depend_on_their_keys_alone() -> None:
    x = torch.zeros(4, 5)
    assert torch.equal(normal(x, 1, 2), normal(torch.ones(4, 5), 1, 2))
    assert not torch.equal(normal(x, 1, 2), normal(x, 1, 3))
    assert not torch.equal(normal(x, 12), normal(x, 1, 2))
    assert set(signs(torch.zeros(100), 0).tolist()) == {-1.0, 1.0}
    drawn = normal(torch.zeros(100_000), 7)
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert generator(torch.device("cpu"), 3).initial_seed() == generator(torch.device("cpu"), 3).initial_seed()


class Remembering(RuleOptimizer):
    """Gradient descent that remembers the last gradients and the last parameter."""

    state_tensors = dict.fromkeys(("first", "second", "parameter"), torch.zeros_like)
    ranges = {"lr": STEP_SIZE}

    def __init__(self, params: Any, lr: float = 0.1, **common: Any) -> None:
        super().__init__(params, {"lr": lr}, **common)

    @staticmethod
    def rule(
        x: Tensor, g: Tensor, first: Tensor, second: Tensor, parameter: Tensor, *, lr: float
    ) -> tuple[Tensor, ...]:
        return x - lr * (g + second), g, first, x


class RememberingWhole(Remembering):
    granularity = "tensor"
    rule = staticmethod(Remembering.rule)


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", [Remembering, RememberingWhole])
def test_a_rule_may_keep_its_inputs(cls: type[RuleOptimizer], engine: Any) -> None:
    params = matrices((33, 41))
    opt = cls(params, engine=engine)
    source = torch.Generator().manual_seed(1)
    x, seen = params[0].detach().clone(), [torch.zeros(33, 41, dtype=torch.float64)] * 2
    for _ in range(4):
        params[0].grad = torch.randn(33, 41, generator=source, dtype=torch.float64)
        opt.step()
        state = opt.state[params[0]]
        assert torch.equal(state["parameter"], x)
        x = x - 0.1 * (params[0].grad + seen[-2])
        seen.append(params[0].grad.clone())
        assert torch.equal(state["first"], seen[-1])
        assert torch.equal(state["second"], seen[-2])
        torch.testing.assert_close(params[0].detach(), x)
        x = params[0].detach().clone()


def test_a_rule_without_its_number_says_so() -> None:
    rule = Rule("odd", lambda x, g, *, missing: (x,))
    with pytest.raises(TypeError, match="rule 'odd' takes 'missing'"):
        rule.numbers(rule.values(1, {}))


def test_hooks_run_once_also_where_a_parent_class_is_in_use() -> None:
    class Child(Factored):
        def advance(self, closure: Any = None, loss: Any = None) -> Any:
            return super().advance(closure, loss)

    Factored(matrices((2, 2)))
    params = matrices((2, 2))
    opt = Child(params)
    seen: list[str] = []
    opt.register_step_post_hook(lambda *_: seen.append("post"))
    steps(opt, params, 1)
    assert seen == ["post"]
