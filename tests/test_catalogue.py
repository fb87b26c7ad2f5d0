"""Every card tells the truth about its method, and the catalogue finds it."""

import ast
import copy
import importlib
import inspect
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

import steepest.optim
from steepest.catalogue import card, cards
from steepest.core.errors import UnknownName
from steepest.core.transform import Transform

OPTIM = cards("optim")
optimizers = pytest.mark.parametrize("name", OPTIM)
AT = (0.0, 0.5, math.nextafter(1.0, 0.0))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def _is_transform(thing: Any) -> bool:
    """Transforms take an optimizer, so the cards are of functions that put them over one."""
    return inspect.isclass(thing) and issubclass(thing, Transform)


def test_rooms() -> None:
    everything = cards()
    assert set(OPTIM) < set(everything)
    assert all(entry.room == "optim" for entry in OPTIM.values())
    assert all(name == entry.name for name, entry in everything.items())
    assert cards("nowhere") == {}


def test_the_first_methods_are_there() -> None:
    ours = {name for name, entry in OPTIM.items() if not entry.wraps}
    assert ours >= {
        "lion",
        "lion-k",
        "adabelief",
        "diffgrad",
        "ademamix",
        "adabound",
        "amsbound",
        "adamp",
        "sgdp",
        "muon",
        "coordinate-clip",
        "gradient-noise",
        "cautious-adamw",
    }
    assert {"sgd", "adam", "adamw", "lbfgs"} <= set(OPTIM) - ours
    transforms = {name for name in steepest.optim.__all__ if _is_transform(getattr(steepest.optim, name))}
    assert {OPTIM[name].load().__name__ for name in ours} == set(steepest.optim.__all__) - transforms
    assert transforms >= {"CoordinateClip", "NormClip", "GradientNoise", "WeightDecay", "Cautious"}


@pytest.mark.parametrize(("name", "meant"), [("loin", "lion"), ("admw", "adam"), ("Lion", "lion"), ("muonn", "muon")])
def test_unknown_names_suggest_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown method '{name}'; did you mean '{meant}"):
        card(name)


@pytest.mark.parametrize("name", cards())
def test_cards_are_complete(name: str) -> None:
    entry = card(name)
    assert re.fullmatch(r"[a-z0-9-]+", entry.name)
    assert entry.summary.endswith(".")
    assert entry.papers
    assert all(1900 < paper.year < 2100 and paper.title for paper in entry.papers)
    for paper in entry.papers:
        assert paper.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
        assert str(paper.year) in str(paper)
        assert paper.arxiv or paper.venue
    cls = entry.load()
    assert inspect.isclass(cls) or (
        (entry.family == "transform" or "function" in entry.needs) and inspect.isfunction(cls)
    )
    if not entry.wraps:
        assert "ource" in (cls.__doc__ or "")


@pytest.mark.parametrize("name", [name for name, entry in cards().items() if entry.usage])
def test_a_line_of_usage_names_what_users_can_import(name: str) -> None:
    entry = card(name)
    found = []
    for path in re.findall(r"\bsteepest(?:\.\w+)+", entry.line()):
        package, _, attribute = path.rpartition(".")
        found.append(getattr(importlib.import_module(package), attribute))
    assert entry.load() in found


@optimizers
@pytest.mark.parametrize("u", AT)
def test_every_point_of_the_search_space_trains(name: str, u: float) -> None:
    entry = OPTIM[name]
    assert "lr" in entry.search
    chosen = {k: space.at(u) for k, space in entry.search.items()}
    net = model()
    start = [p.detach().clone() for p in net.parameters()]
    opt = entry.build(net, **chosen)
    for key, value in chosen.items():
        groups = [g for g in opt.param_groups if g.get("rule") != "adamw"]  # not the fallback's
        held = {**groups[0], **(opt.settings if isinstance(opt, Transform) else {})}
        if key in held:
            assert held[key] == value
    x = torch.randn(8, 4)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = net(x).square().mean()
        if "hvp" not in entry.needs:  # those differentiate the loss themselves
            loss.backward()
        return loss

    for _ in range(2):
        opt.step(closure)
    assert all(p.isfinite().all() for p in net.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(net.parameters(), start, strict=True))


@pytest.mark.parametrize("name", [name for name, entry in OPTIM.items() if entry.wraps and name != "lbfgs"])
def test_buffers_of_wrapped_optimizers_are_what_is_measured(name: str) -> None:
    """The contract tests measure ours; LBFGS keeps flat histories, not buffers per parameter."""
    entry = OPTIM[name]
    net = nn.Linear(16, 16, bias=False)
    opt = entry.build(net)
    net(torch.randn(3, 16)).sum().backward()
    opt.step()
    state = opt.state[net.weight].values()
    held = sum(v.numel() for v in state if isinstance(v, torch.Tensor) and v.shape == net.weight.shape)
    assert held == entry.buffers * net.weight.numel()


@optimizers
def test_the_line_of_python_builds_the_same_optimizer(name: str) -> None:
    entry = OPTIM[name]
    chosen = {k: space.at(0.3) for k, space in entry.search.items()}
    line = entry.line(**chosen)
    ast.parse(line, mode="eval")
    net = model()
    built: Any = eval(line, {"steepest": steepest, "torch": torch, "model": net})
    expected = entry.build(net, **chosen)
    assert type(built) is type(expected)
    for ours, theirs in zip(built.param_groups, expected.param_groups, strict=True):
        for key, value in theirs.items():
            if key != "params":
                assert ours[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


@optimizers
def test_wrapped_or_ours_saves_and_resumes(name: str) -> None:
    entry = OPTIM[name]
    net, twin = model(), model()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def steps(m: nn.Module, opt: torch.optim.Optimizer, count: int) -> None:
        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = (m(x) - 1).square().mean()
            if "hvp" not in entry.needs:
                loss.backward()
            return loss

        for _ in range(count):
            opt.step(closure)

    opt = entry.build(net)
    steps(net, opt, 3)
    twin.load_state_dict(net.state_dict())
    other = entry.build(twin)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))  # torch keeps the very tensors
    steps(net, opt, 3)
    steps(twin, other, 3)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
