"""Anybody's optimizer in a comparison: ``package.module:CARD``."""

import sys
from pathlib import Path

import pytest
import torch

from steepest.catalogue import card
from steepest.core.errors import BadReference

MODULE = """
import torch
from steepest.core.card import Float, MethodCard

class Half(torch.optim.SGD):
    pass

CARD = MethodCard(name="half-sgd", title="Half", room="optim", family="own", summary="SGD.", papers=(),
                  target="my_optimizer_module:Half", search={"lr": Float(1e-3, 1.0, log=True)})
TAKEN = MethodCard(name="lion", title="Lion", room="optim", family="own", summary="", papers=(), target="x:Y")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_optimizer_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *sys.path])
    return "my_optimizer_module"


def test_a_card_from_the_current_folder_builds_its_optimizer(module: str) -> None:
    entry = card(f"{module}:CARD")
    model = torch.nn.Linear(2, 2)
    optimizer = entry.build(model, lr=0.5)
    assert type(optimizer).__name__ == "Half"
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_what_is_wrong_with_a_reference_is_said(module: str) -> None:
    with pytest.raises(BadReference, match="has no MethodCard 'CART'; it has CARD, TAKEN"):
        card(f"{module}:CART")
    with pytest.raises(BadReference, match="'lion' is taken"):
        card(f"{module}:TAKEN")
    with pytest.raises(BadReference, match="importing 'no_such_module' fails"):
        card("no_such_module:CARD")
