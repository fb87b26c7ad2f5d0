"""The contract of every method, part 4: bad input is refused early, in words that name it."""

import math
from typing import Any

import pytest
import torch
from optim_helpers import CASES, OURS, Case, parameters
from torch import nn

from steepest.optim import AdaBound, AdEMAMix, Lion, LionK, Muon

methods = pytest.mark.parametrize("case", [c for c in CASES if not c.variant], ids=str)
BAD_NUMBERS = [-1e-3, math.nan, math.inf, -math.inf, "0.1", True, [0.1], 1 + 0j]


def refused(case: Case, argument: str, value: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        case.build(parameters(), **{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{case.cls.__name__}: {argument}"), message
    assert repr(value) in message or argument == "betas"
    assert "must be" in message
    return message


@methods
@pytest.mark.parametrize("value", [*BAD_NUMBERS, None], ids=repr)
@pytest.mark.parametrize("argument", ["lr", "weight_decay", "eps"])
def test_step_size_decay_and_epsilon(case: Case, argument: str, value: Any) -> None:
    if argument not in case.cls.ranges:
        pytest.skip(f"has no {argument}")
    allowed = case.cls.ranges[argument].describe()
    assert "a finite number in [0, inf)" in allowed or argument == "eps" or case.method == "adabound"
    assert allowed in refused(case, argument, value) or case.method == "adabound"


@methods
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, math.inf, "0.9", True, None], ids=repr)
def test_betas(case: Case, value: Any) -> None:
    if "betas" not in case.cls.ranges:
        for name in sorted({"momentum", "beta", "beta2"} & set(case.cls.ranges)):
            allowed = case.cls.ranges[name].describe()
            if value == 1.0 and allowed.endswith("1]"):
                continue  # a sum in place of an average
            message = refused(case, name, value)
            assert allowed in message
            assert message.count(", 1)") + message.count(", 1]") == 1
        return
    length = case.cls.ranges["betas"].length  # type: ignore[union-attr]
    for place in range(length):
        betas = [0.5] * length
        betas[place] = value
        message = refused(case, "betas", tuple(betas))
        assert message.startswith(f"{case.cls.__name__}: betas[{place}]")
        assert "in [0, 1)" in message
        assert repr(value) in message
    for wrong in ((0.9,) * (length - 1), (0.9,) * (length + 1), 0.9, None, ()):
        assert f"a sequence of {length} numbers" in refused(case, "betas", wrong)


@methods
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("maximize", 1),
        ("maximize", None),
        ("engine", "fast"),
        ("engine", None),
        ("nonfinite", "ignore"),
        ("nonfinite", 0),
    ],
)
def test_common_settings(case: Case, argument: str, value: Any) -> None:
    message = refused(case, argument, value)
    assert "True or False" in message or "one of 'auto', 'eager', 'compiled'" in message or "'propagate'" in message


@methods
def test_every_declared_setting_is_checked(case: Case) -> None:
    for argument in case.cls.ranges:
        refused(case, argument, object())


@methods
def test_settings_of_groups_are_checked(case: Case) -> None:
    params = parameters()
    for argument, value in (("lr", -1.0), ("weight_decay", math.nan), ("maximize", "no")):
        with pytest.raises(
            (TypeError, ValueError), match=f"{case.cls.__name__}: parameter group 1: {argument} must be"
        ):
            case.cls([case.group(params[0]), case.group(params[1], **{argument: value})], **case.settings)
        opt = case.cls([case.group(params[0])], **case.settings)
        with pytest.raises((TypeError, ValueError), match=f"parameter group 1: {argument} must be"):
            opt.add_param_group(case.group(params[1], **{argument: value}))
        assert len(opt.param_groups) == 1


@methods
def test_bad_parameters(case: Case) -> None:
    name = case.cls.__name__
    p, q = parameters(((3, 3), (3, 3)))
    with pytest.raises(ValueError, match="empty parameter list"):
        case.cls([], **case.settings)
    with pytest.raises(ValueError, match=f"{name}: parameter 1 appears twice"):
        case.cls([p, p], **case.settings)
    with pytest.raises(ValueError, match="more than one parameter group"):
        case.cls([{"params": [p]}, {"params": [q, p]}], **case.settings)
    with pytest.raises(TypeError, match=f"{name}: parameter 'n' must be floating point, got dtype torch.int64"):
        case.cls([("n", torch.zeros(3, 3, dtype=torch.int64))], **case.settings)
    with pytest.raises(TypeError, match=f"{name}: parameter 1 must be a tensor, got float"):
        case.cls([p, 3.0], **case.settings)
    with pytest.raises(TypeError):
        case.cls(p, **case.settings)  # one bare tensor would be iterated over its rows
    with pytest.raises(ValueError, match="non-leaf"):
        case.cls([p * 2], **case.settings)
    with pytest.raises(TypeError, match="fixed order, got a set"):
        case.cls([{"params": {p, q}}], **case.settings)
    with pytest.raises(ValueError, match=r"parameter group 0 must have an entry 'params', got the keys \['lr'"):
        case.cls([{"lr": 0.1}], **case.settings)
    with pytest.raises(ValueError, match=f"{name}: rule must be one of .*got 'sgd'"):
        case.cls([{"params": [p], "rule": "sgd"}], **case.settings)
    with pytest.raises(ValueError, match="the module ReLU has no trainable parameters"):
        case.cls(nn.ReLU(), **case.settings)


@pytest.mark.parametrize("name", OURS)
def test_settings_on_the_edge_of_their_range_are_taken(name: str) -> None:
    cls = OURS[name].load()
    decay = {"weight_decay": 0} if "weight_decay" in cls.ranges else {}
    cls([torch.zeros(2, 2)], lr=torch.tensor(0.1), **decay)
    cls([torch.zeros(2, 2)], lr=0.0 if "base_lr" not in cls.ranges else 1)


def test_settings_of_single_methods() -> None:
    p = [torch.zeros(2, 2)]
    for make, words in (
        (lambda: AdaBound(p, gamma=0.0), r"AdaBound: gamma must be a finite number in \(0, inf\), got 0.0"),
        (lambda: AdaBound(p, lr=0.0), r"AdaBound: lr must be .* unless base_lr is given, got 0.0"),
        (lambda: AdaBound(p, final_lr=-1), "AdaBound: final_lr must be"),
        (lambda: AdEMAMix(p, warmup=0), "AdEMAMix: warmup must be an integer >= 1 or None, got 0"),
        (lambda: AdEMAMix(p, warmup=2.5), "AdEMAMix: warmup must be an integer >= 1 or None, got 2.5"),
        (lambda: AdEMAMix(p, alpha=-1), "AdEMAMix: alpha must be"),
        (lambda: LionK(p, kappa="l3"), "LionK: kappa must be one of 'l1', 'l2'.*got 'l3'"),
        (lambda: LionK(p, p=0.5), r"LionK: p must be a finite number in \[1, inf\), got 0.5"),
        (lambda: LionK(p, k=0), "LionK: k must be an integer >= 1, got 0"),
        (lambda: LionK(p, epsilon=0), r"LionK: epsilon must be a finite number in \(0, inf\), got 0"),
        (lambda: Muon(p, scale="big"), "Muon: scale must be one of 'spectral', 'rms', got 'big'"),
        (lambda: Muon(p, adamw_lr=-1), r"Muon: adamw_lr must be a finite number in \[0, inf\), got -1"),
        (lambda: Muon(p, adamw_betas=(0.9, 1.0)), r"Muon: adamw_betas\[1\] must be"),
        (lambda: Muon(p, orthogonalization_steps=0), "Muon: orthogonalization_steps must be"),
        (lambda: Muon([torch.zeros(3)]), r"Muon: parameter 0 of shape \(3,\) is not a matrix; give .* rule='adamw'"),
        (lambda: Muon(p, routing={"*": "head"}), "Muon: routing needs the whole model"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            make()


def test_lion_takes_no_routing() -> None:
    with pytest.raises(TypeError, match="routing"):
        Lion(nn.Linear(2, 2), routing={"*": "matrix"})  # type: ignore[call-arg]
