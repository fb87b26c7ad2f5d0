"""Where the parameters of common architectures go."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from steepest.core.routing import Role, route


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)


BLOCK: dict[str, Role] = {
    "attention.in_proj_weight": "matrix",
    "attention.in_proj_bias": "vector",
    "attention.out_proj.weight": "matrix",
    "attention.out_proj.bias": "vector",
    "norm.weight": "vector",
    "norm.bias": "vector",
    "up.weight": "matrix",
    "up.bias": "vector",
    "down.weight": "matrix",
    "down.bias": "vector",
}


class GPT(nn.Module):
    def __init__(self, tied: bool, head: str = "lm_head", head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.add_module(head, nn.Linear(8, 11, bias=False))
        self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.block = Block()
        if not head_first:
            self.add_module(head, nn.Linear(8, 11, bias=False))
        if tied:
            getattr(self, head).weight = self.wte.weight


def block(prefix: str) -> dict[str, Role]:
    return {f"{prefix}.{name}": role for name, role in BLOCK.items()}


EMBEDDINGS: dict[str, Role] = {"wte.weight": "embedding", "wpe.weight": "embedding"}


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.patch_embed = nn.Conv2d(3, 8, 4)
        self.block = Block()
        self.head = nn.Linear(8, 3)
        self.aux = nn.Linear(8, 2)


VIT: dict[str, Role] = {
    "cls_token": "embedding",
    "pos_embed": "embedding",
    "patch_embed.weight": "matrix",
    "patch_embed.bias": "vector",
    **block("block"),
    "head.weight": "head",
    "head.bias": "vector",
    "aux.weight": "matrix",  # the head is known by its name, so the last layer is not taken for one
    "aux.bias": "vector",
}


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv1d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4, 6),
        nn.Linear(6, 2),
    )


CNN: dict[str, Role] = {
    "0.weight": "matrix",
    "0.bias": "vector",
    "1.weight": "vector",
    "1.bias": "vector",
    "2.weight": "vector",
    "2.bias": "vector",
    "3.weight": "matrix",
    "3.bias": "vector",
    "5.weight": "matrix",
    "5.bias": "vector",
    "6.weight": "head",
    "6.bias": "vector",
}


def odd() -> nn.Module:
    net = nn.Module()
    net.norm = nn.LayerNorm((3, 4))
    net.scale = nn.Parameter(torch.ones(()))
    net.cube = nn.Parameter(torch.ones(2, 3, 4))
    net.bag = nn.EmbeddingBag(5, 3)
    net.lstm = nn.LSTM(3, 4)
    net.slope = nn.PReLU()
    return net


ODD: dict[str, Role] = {
    "scale": "vector",
    "cube": "vector",
    "norm.weight": "vector",
    "norm.bias": "vector",
    "bag.weight": "embedding",
    "lstm.weight_ih_l0": "matrix",
    "lstm.weight_hh_l0": "matrix",
    "lstm.bias_ih_l0": "vector",
    "lstm.bias_hh_l0": "vector",
    "slope.weight": "vector",
}

MODELS: dict[str, tuple[Any, dict[str, Role]]] = {
    "gpt": (lambda: GPT(tied=False), {**EMBEDDINGS, **block("block"), "lm_head.weight": "head"}),
    "gpt-tied": (lambda: GPT(tied=True), {**EMBEDDINGS, **block("block")}),
    "gpt-tied, head first": (
        lambda: GPT(tied=True, head_first=True),
        {"lm_head.weight": "embedding", "wpe.weight": "embedding", **block("block")},
    ),
    "gpt, unnamed head": (
        lambda: GPT(False, head="unembed_proj"),
        {**EMBEDDINGS, **block("block"), "unembed_proj.weight": "head"},
    ),
    "vit": (ViT, VIT),
    "cnn": (cnn, CNN),
    "single layer": (lambda: nn.Linear(3, 2), {"weight": "matrix", "bias": "vector"}),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
        {"0.weight": "matrix", "0.bias": "vector", "2.weight": "head", "2.bias": "vector"},
    ),
    "odd": (odd, ODD),
}


@pytest.mark.parametrize("model", MODELS)
def test_roles(model: str) -> None:
    make, expected = MODELS[model]
    net = make()
    routing = route(net)
    assert {name: role for name, _, role, _ in routing.entries} == expected
    assert [name for name, *_ in routing.entries] == [name for name, _ in net.named_parameters()]
    for name, p in net.named_parameters():
        assert routing.role(name) == expected[name]
        assert any(q is p for _, q in routing.named(expected[name]))


def test_frozen_parts_are_left_out() -> None:
    net = GPT(tied=False)
    net.wte.weight.requires_grad_(False)
    net.block.up.requires_grad_(False)
    names = {name for name, *_ in route(net).entries}
    assert names == set(dict(net.named_parameters())) - {"wte.weight", "block.up.weight", "block.up.bias"}


def test_overrides() -> None:
    net = GPT(tied=False)
    routing = route(net, {"block.attention.*": "vector", "block.*.weight": "head", "wpe.weight": "matrix"})
    assert routing.role("block.attention.out_proj.weight") == "vector"  # the first match wins
    assert routing.role("block.up.weight") == "head"
    assert routing.role("wpe.weight") == "matrix"
    assert routing.role("lm_head.weight") == "head"
    assert next(why for name, *_, why in routing.entries if name == "wpe.weight") == "pattern 'wpe.weight'"


def test_bad_overrides() -> None:
    net = GPT(tied=False)
    with pytest.raises(ValueError, match=r"routing\['wte.*'\] must be one of 'matrix', 'embedding'.*got 'table'"):
        route(net, {"wte.*": "table"})
    with pytest.raises(ValueError, match=r"the pattern 'blocks.\*' matches no trainable parameter"):
        route(net, {"blocks.*": "matrix"})
    with pytest.raises(ValueError, match=r"block.norm.weight of shape \(8,\) cannot be a matrix"):
        route(net, {"block.norm.weight": "matrix"})
    with pytest.raises(KeyError):
        route(net).role("nothing")


def test_repr_is_a_table() -> None:
    text = repr(route(cnn()))
    lines = text.splitlines()
    assert lines[0] == "matrix: 3 tensors, 272 elements"
    assert "  0.weight  (8, 3, 3, 3)       convolution as 8 x 27" in lines
    assert "  2.weight  (8, 1, 3, 3)       convolution with 8 groups" in lines
    assert "  6.weight  (2, 6)             output layer" in lines
    assert all(f"  {name} " in text for name in CNN)


def test_a_copy_points_to_the_copied_parameters() -> None:
    net = cnn()
    net2, routing = copy.deepcopy((net, route(net)))
    assert [id(p) for _, p, *_ in routing.entries] == [id(p) for p in net2.parameters()]
