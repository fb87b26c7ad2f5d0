"""The engines with rules of their own: what they show a rule, and what they write back."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.core.engine import PACK_BELOW, WIDTH, Item, apply, choose_engine
from steepest.core.optimizer import RuleOptimizer
from steepest.core.ranges import Real
from steepest.core.rule import Rule, compute_dtype, spread


def item(*shape: int, states: int = 0) -> Item:
    generator = torch.Generator().manual_seed(sum(shape))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2 + states)]
    return Item(tensors[0], tensors[1], tuple(tensors[2:]))


class Swap(RuleOptimizer):
    """Keeps the two last parameters: a rule whose results are its own inputs."""

    state_tensors = {"last": torch.zeros_like, "before_last": torch.zeros_like}
    ranges = {"lr": Real(0.0)}

    def __init__(self, params: Any, lr: float = 1.0, **common: Any) -> None:
        super().__init__(params, {"lr": lr}, **common)

    @staticmethod
    def rule(x: Tensor, g: Tensor, last: Tensor, before_last: Tensor, *, lr: float) -> tuple[Tensor, Tensor, Tensor]:
        return x - lr * g, x, last


@pytest.mark.parametrize("sizes", [[3], [3, 4], [PACK_BELOW + 5]])
def test_a_rule_may_return_its_inputs_as_state(sizes: list[int]) -> None:
    params = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes]
    opt = Swap(params, engine="eager")
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    for p in params:
        assert (p == -3).all()
        assert (opt.state[p]["last"] == -2).all()
        assert (opt.state[p]["before_last"] == -1).all()


@pytest.mark.parametrize("granularity", ["elementwise", "tensor", "matrix"])
def test_what_a_rule_is_shown(granularity: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def update(x: Tensor, g: Tensor, s: Tensor, *, lr: float) -> tuple[Tensor, Tensor]:
        assert x.shape == g.shape == s.shape
        seen.append(tuple(x.shape))
        return x - lr * g, s + g

    shapes = [(4, 3), (4, 3), (2, 3, 2, 2), (40, 1000)] + ([] if granularity == "matrix" else [(), (5,)])
    items = [item(*shape, states=1) for shape in shapes] + [item(0, 3, states=1)]
    expected = [(i.x - 0.5 * i.g, i.state[0] + i.g) for i in items]
    rule = Rule("r", update, {"s": torch.zeros_like}, granularity)
    apply(rule, {"lr": 0.5}, 1, items, engine="eager")
    for i, (x, s) in zip(items, expected, strict=True):
        assert torch.equal(i.x, x)
        assert torch.equal(i.state[0], s)
    if granularity == "elementwise":
        assert sorted(seen) == [(2, WIDTH), (40000 // WIDTH, WIDTH)]
    if granularity == "tensor":
        assert seen == [(4, 3), (4, 3), (2, 12), (40, 1000), (), (5,)]
    if granularity == "matrix":
        assert seen == [(2, 4, 3), (1, 2, 12), (1, 40, 1000)]


def test_auto_compiles_what_is_large() -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert choose_engine("auto", 1000, cpu) == "eager"
    assert choose_engine("auto", 10**8, cpu) == "compiled"
    assert choose_engine("auto", 10**8, meta) == "eager"
    assert choose_engine("compiled", 1, cpu) == "compiled"
    assert choose_engine("eager", 10**9, cpu) == "eager"


def test_numbers_of_a_rule() -> None:
    def update(x: Tensor, g: Tensor, *, lr: float, beta2: float, late: float, kind: str) -> tuple[Tensor]:
        return (x,)

    rule = Rule("r", update, coefficients=lambda t, s: {"late": t * s["beta1"]}, static=("kind",))
    settings = {"lr": 0.1, "betas": (0.5, 0.9), "kind": "a", "unused": 3}
    values = rule.values(4, settings)
    assert rule.numbers(values) == {"lr": 0.1, "beta2": 0.9, "late": 2.0}
    assert rule.statics(values) == (("kind", "a"),)
    with pytest.raises(TypeError, match="rule 'r' takes 'lr', which neither settings nor coefficients give"):
        rule.numbers(rule.values(1, {"betas": (0.5, 0.9)}))
    assert spread({"params": [1, 2], "betas": [3, 4], "k": 5}) == {"params": [1, 2], "beta1": 3, "beta2": 4, "k": 5}


def test_compute_dtypes() -> None:
    assert {compute_dtype(d) for d in (torch.float16, torch.bfloat16, torch.float32)} == {torch.float32}
    assert compute_dtype(torch.float64) == torch.float64
