"""Drop-Muon: what it updates is Muon's step, what it drops costs no backward work, and how often it drops what."""

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import test_contract_state as state
import test_contract_step as step_contract
import torch
from optim_helpers import Case, assert_close, assert_same, gradients, parameters, run, snapshot
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steepest.arena.tasks.pytext_gpt import GPT
from steepest.core.layers import layers_of
from steepest.optim import DropMuon, Muon

WIDTH, DEPTH = 6, 5


def perceptron(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for _ in range(DEPTH - 1):
        parts += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(WIDTH, 3)).double()


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(7, WIDTH, generator=source, dtype=torch.float64),
            torch.randint(3, (7,), generator=source),
        )
        for _ in range(count)
    ]


def train(net: nn.Module, opt: torch.optim.Optimizer, count: int, seed: int = 0) -> list[float]:
    losses = []
    for x, y in batches(count, seed):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def cut_at(first: int, count: int = DEPTH) -> list[float]:
    """The distribution of a fixed first layer."""
    return [float(k == first) for k in range(count)]


def pure_muon_by_hand(w: Any, g: Any, s: dict[str, Any], lr: float, mu: float, decay: float) -> Any:
    """Muon without look-ahead, with singular values: the paper's form with a linear minimization oracle."""
    s["m"] = mu * s.get("m", 0.0) + (1 - mu) * g
    u, _, vt = np.linalg.svd(s["m"], full_matrices=False)
    rows, columns = g.shape
    return (1 - lr * decay) * w - lr * max(1, rows / columns) ** 0.5 * (u @ vt)


# ------------------------------------------------------------------------------------------------ the step


def test_always_all_layers_is_muon() -> None:
    net, other = perceptron(), perceptron()
    settings: Any = {"lr": 0.05, "weight_decay": 0.1, "adamw_lr": 0.01}
    opt, twin = DropMuon(net, probabilities=1.0, **settings), Muon(other, **settings)
    assert train(net, opt, 12) == train(other, twin, 12)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))


def test_paper() -> None:
    """Thirty steps on matrices alone, each a layer: M and X of layer i change when s <= i and only then."""
    shapes = [(4, 6), (7, 3), (5, 5), (3, 2)]
    params = parameters(shapes)
    chances = [0.2, 0.3, 0.1, 0.4]
    opt = DropMuon(
        params, lr=0.02, momentum=0.8, nesterov=False, weight_decay=0.3, orthogonalization="exact",
        probabilities=chances, seed=3,
    )  # fmt: skip
    numbers = [p.detach().numpy().copy() for p in params]
    memory: list[dict[str, Any]] = [{} for _ in params]
    seen = set()
    for step in gradients(params, 30):
        first = opt.first
        seen.add(first)
        run(opt, params, [step])  # gradients are set on frozen tensors, too, and must not count
        for i in range(first, len(params)):
            numbers[i] = pure_muon_by_hand(numbers[i], step[i].numpy(), memory[i], 0.02, 0.8, 0.3)
        for p, x, s in zip(params, numbers, memory, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-9)
            held = opt.state[p].get("momentum", opt.state[p].get("momentum_buffer")) if opt.state.get(p) else None
            assert (held is None) == ("m" not in s)
            if held is not None:
                np.testing.assert_allclose(held.numpy(), s["m"], rtol=1e-12, atol=1e-12)
    assert seen == {0, 1, 2, 3}


def test_dropped_layers_are_frozen_as_a_whole() -> None:
    """Weights, momentum, decay, and the AdamW state of biases and norms."""
    net = perceptron()
    opt = DropMuon(net, lr=0.05, weight_decay=0.5, probabilities=1.0)
    train(net, opt, 2)
    for group in opt.param_groups:
        group["probabilities"] = cut_at(2)
    train(net, opt, 1)  # its layers were chosen before
    frozen = [p for layer in opt.layers[:2] for p in layer]
    active = [p for layer in opt.layers[2:] for p in layer]
    assert len(frozen) == 8
    before, counts = snapshot(opt, frozen), [opt.state[p]["step"] for p in active]
    moving = snapshot(opt, active)[: len(active)]
    train(net, opt, 3)
    assert_same(before, snapshot(opt, frozen))
    assert [opt.state[p]["step"] for p in active] == [c + 3 for c in counts]
    assert all(not torch.equal(a, b) for a, b in zip(moving, active, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert all(p.grad is not None and p.requires_grad for p in active)


# ------------------------------------------------------------------------------------------------ backward work


def nodes(loss: Tensor) -> int:
    """Nodes of the autograd graph that a backward pass would run."""
    found, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [following for following, _ in node.next_functions]
    return len(found)


def test_backward_work_is_skipped() -> None:
    """The products of the backward pass are counted: two for each layer above the first active one, one for it."""
    (x, y), sizes, hooked = batches(1)[0], [], []
    flops, graph = [], []
    for first in range(DEPTH):
        net = perceptron()
        DropMuon(net, probabilities=cut_at(first))
        ran: list[int] = []
        for index, module in enumerate(m for m in net if isinstance(m, nn.Linear)):

            def watch(m: Any, i: Any, out: Tensor, index: int = index, ran: list[int] = ran) -> None:
                if out.requires_grad:
                    out.register_hook(lambda g: ran.append(index))

            module.register_forward_hook(watch)
        loss = nn.functional.cross_entropy(net(x), y)
        graph.append(nodes(loss))
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        flops.append(counter.get_total_flops())
        sizes.append(sum(p.grad is not None for p in net.parameters()))
        hooked.append(sorted(ran))
    square, last = 2 * 7 * WIDTH * WIDTH, 2 * 7 * WIDTH * 3
    assert flops == [*(2 * last + (2 * (DEPTH - 1 - k) - 1) * square for k in range(DEPTH - 1)), last]
    assert hooked == [list(range(first, DEPTH)) for first in range(DEPTH)]
    assert all(a > b for a, b in itertools.pairwise(graph))
    assert sizes == [4 * (DEPTH - 1 - first) + 2 for first in range(DEPTH)]


def test_no_orthogonalization_of_dropped_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.optim import muon

    seen: list[int] = []
    original = muon.orthogonalize
    monkeypatch.setattr(muon, "orthogonalize", lambda m, *how: (seen.append(len(m)), original(m, *how))[1])
    net = perceptron()
    train(net, DropMuon(net, probabilities=cut_at(2)), 1)
    assert sum(seen) == 2  # layers 2 and 3; the last is the head, which follows AdamW


def test_equal_layers_are_updated_together_whatever_they_have_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    from steepest.optim import muon

    seen: list[int] = []
    original = muon.orthogonalize
    monkeypatch.setattr(muon, "orthogonalize", lambda m, *how: (seen.append(len(m)), original(m, *how))[1])
    net = perceptron()
    opt = DropMuon(net, probabilities=cut_at(2))
    train(net, opt, 2)
    with opt.release():
        train(net, opt, 1)
    assert seen == [2, 2, 4]


# ------------------------------------------------------------------------------------------------ draws


@pytest.mark.parametrize("chances", [None, 0.5, [0.1, 0.0, 0.2, 0.3, 0.4]], ids=str)
def test_how_often_each_layer_is_updated(chances: Any) -> None:
    """Layer i with probability p_1 + ... + p_i: counted over 500 steps, within five standard deviations."""
    params = parameters(((1, 1),) * 5)
    opt = DropMuon(params, lr=0.0, probabilities=chances, seed=11)
    count = 500
    run(opt, params, [[torch.ones_like(p) for p in params]] * count)
    p = {None: [0.2] * 5, 0.5: [0.5, *[0.125] * 4]}.get(chances if not isinstance(chances, list) else "", chances)
    for i, param in enumerate(params):
        expected = sum(p[: i + 1])
        allowed = 5 * (expected * (1 - expected) / count) ** 0.5
        assert abs(opt.state[param]["step"] / count - expected) <= allowed + 1e-12


def test_draws_depend_on_seed_and_step_alone() -> None:
    def sequence(seed: int, disturb: bool) -> list[int]:
        params = parameters(((2, 2),) * 6)
        opt = DropMuon(params, seed=seed)
        found = []
        for step in gradients(params, 30):
            if disturb:
                torch.manual_seed(0)
                torch.rand(3)
            found.append(opt.first)
            assert [p.requires_grad for p in params] == [k >= found[-1] for k in range(6)]
            run(opt, params, [step])
        return found

    assert sequence(1, False) == sequence(1, True)
    assert sequence(1, False) != sequence(2, False)
    assert set(sequence(1, False)) == set(range(6))


def test_probabilities_can_be_scheduled() -> None:
    net = perceptron()
    opt = DropMuon(net, probabilities=cut_at(4))
    for first in (3, 0, 2):
        for group in opt.param_groups:
            group["probabilities"] = cut_at(first)
        train(net, opt, 1)
        assert opt.first == first
        assert all(p.requires_grad == (i >= first) for i, layer in enumerate(opt.layers) for p in layer)


# ------------------------------------------------------------------------------------------------ layers


def names(net: nn.Module, layers: list[list[Tensor]]) -> list[list[str]]:
    found = {id(p): n for n, p in net.named_parameters()}
    return [[found[id(p)] for p in layer] for layer in layers]


def test_layers_of_a_perceptron() -> None:
    net = perceptron()
    own = names(net, DropMuon(net).layers)
    assert own[0] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert own[-1] == ["12.weight", "12.bias"]
    assert len(own) == DEPTH


def test_layers_of_a_transformer() -> None:
    net = GPT(11, 8, 16, 3, 2)
    own = names(net, DropMuon(net).layers)
    assert own[0] == ["tokens.weight", "positions.weight"]
    assert [{n.split(".")[1] for n in layer if n.startswith("blocks")} for layer in own[1:4]] == [{"0"}, {"1"}, {"2"}]
    assert own[3][-2:] == ["norm.weight", "norm.bias"]
    assert own[4:] == [["head.weight"]]


class Wrapped(nn.Module):
    """Own parameters, a norm in front, and a body that must be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4))
        self.body = nn.Module()
        self.body.norm = nn.LayerNorm(4)
        self.body.stages = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 4)])
        self.last = nn.LayerNorm(4)


def test_layers_of_nested_models() -> None:
    net = Wrapped()
    own = names(net, DropMuon(net).layers)
    assert [layer[0] for layer in own] == ["pos_embed", "body.stages.0.2.weight", "body.stages.1.weight"]
    assert own[0] == [
        "pos_embed",
        "body.norm.weight",
        "body.norm.bias",
        "body.stages.0.0.weight",
        "body.stages.0.0.bias",
    ]
    assert own[2][-2:] == ["last.weight", "last.bias"]
    lone = nn.Linear(2, 2)
    assert layers_of(lone) == [[lone.weight, lone.bias]]


def test_layers_can_be_given() -> None:
    net = perceptron()
    chosen = [[net[0], net[1], net[3]], net[4], net[6].weight]
    own = names(net, DropMuon(net, layers=chosen).layers)
    assert own[0] == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert own[1:3] == [["4.weight", "4.bias"], ["6.weight"]]
    assert all(len(layer) == 1 for layer in own[3:])  # what was not named, each tensor by itself
    assert {n for layer in own for n in layer} == {n for n, _ in net.named_parameters()}


def test_bad_layers_and_probabilities() -> None:
    net = perceptron()
    for given, error, words in (
        (
            {"layers": [net[0], "1"]},
            TypeError,
            r"layers\[1\] must be a module, a tensor or a sequence of them, got '1'",
        ),
        ({"layers": [net[0], nn.Linear(2, 2)]}, ValueError, r"layers\[1\] must hold a tensor of the optimizer"),
        ({"probabilities": [0.5, 0.5]}, ValueError, "probabilities must be None, a number in .0, 1., or 5 of them"),
        ({"probabilities": [0.5] * 5}, ValueError, "probabilities must be .* that sum to 1"),
        ({"probabilities": [2.0, -1.0, 0, 0, 0]}, ValueError, "probabilities must be"),
        ({"probabilities": -0.1}, ValueError, "probabilities must be .* got -0.1"),
        ({"probabilities": 1.1}, ValueError, "probabilities must be .* got 1.1"),
        ({"probabilities": float("nan")}, ValueError, "probabilities must be"),
        ({"probabilities": "uniform"}, TypeError, "probabilities must be .* got 'uniform'"),
        ({"probabilities": True}, TypeError, "probabilities must be .* got True"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"adamw_lr": -1.0}, ValueError, "adamw_lr must be"),
    ):
        with pytest.raises(error, match=f"DropMuon: {words}"):
            DropMuon(net, **given)  # type: ignore[arg-type]
        assert all(p.requires_grad for p in net.parameters())


def test_a_tied_head_is_updated_with_the_first_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(9, 4)
            self.hidden = nn.Linear(4, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.hidden(self.tokens(x))))

    torch.manual_seed(0)
    net = Tied()
    opt = DropMuon(net, probabilities=[0.0, 1.0])
    assert names(net, opt.layers) == [["tokens.weight"], ["hidden.weight", "hidden.bias"]]
    tied = net.tokens.weight.detach().clone()
    x = torch.arange(9)
    for _ in range(2):
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), x).backward()
        assert net.tokens.weight.grad is None
        opt.step()
    assert torch.equal(tied, net.tokens.weight)
    assert opt.state[net.hidden.weight]["step"] == 2
    with opt.release():
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), x).backward()
        opt.step()
    assert not torch.equal(tied, net.tokens.weight)


# ------------------------------------------------------------------------------------------------ freezing


def test_release() -> None:
    net = perceptron()
    net[3].weight.requires_grad_(False)  # somebody else's choice
    own = [p for p in net.parameters() if p is not net[3].weight]
    opt = DropMuon(net, probabilities=cut_at(4))
    assert sum(p.requires_grad for p in own) == 2
    with opt.release():
        assert all(p.requires_grad for p in own)
        train(net, opt, 2)
        assert all(p.requires_grad for p in own)
        assert all(opt.state[p]["step"] == 2 for p in own)
    assert sum(p.requires_grad for p in own) == 2
    train(net, opt, 1)
    assert sum(p.requires_grad for p in own) == 2
    opt.release()
    train(net, opt, 1)
    assert all(p.requires_grad for p in own)
    assert not net[3].weight.requires_grad
    with pytest.raises(KeyError), opt.release():
        raise KeyError
    assert sum(p.requires_grad for p in own) == 2


def test_accumulated_gradients_see_one_choice_of_layers() -> None:
    net = perceptron()
    opt = DropMuon(net, seed=2)
    for x, y in batches(10):
        opt.zero_grad()
        chosen = [p.requires_grad for p in net.parameters()]
        for half in (slice(0, 4), slice(4, 7)):
            nn.functional.cross_entropy(net(x[half]), y[half]).backward()
            assert chosen == [p.requires_grad for p in net.parameters()]
        assert chosen == [p.grad is not None for p in net.parameters()]
        opt.step()


def test_a_skipped_step_keeps_its_layers() -> None:
    params = parameters(((2, 2),) * 6)
    opt = DropMuon(params, nonfinite="skip", seed=1)
    for step in gradients(params, 6):
        before = opt.first
        bad = [g.clone() for g in step]
        bad[-1][0, 0] = torch.nan
        run(opt, params, [bad])
        assert opt.first == before
        poisoned = [g.clone() for g in step]
        for g in poisoned[:before]:
            g.fill_(torch.nan)  # of frozen layers: not looked at
        skipped = opt.skipped_steps
        run(opt, params, [poisoned])
        assert opt.skipped_steps == skipped
    assert opt.param_groups[0]["draws"] == 6


def test_groups_added_later_are_layers() -> None:
    params = parameters(((2, 2),) * 3)
    opt = DropMuon(params[:2], probabilities=0.0)
    opt.add_param_group({"params": [params[2]]})
    assert [len(layer) for layer in opt.layers] == [1, 1, 1]
    run(opt, params, gradients(params, 20))
    assert opt.state[params[2]]["step"] == 20
    assert opt.param_groups[1]["draws"] == opt.param_groups[0]["draws"] == 20
    assert not opt.state.get(params[0])
    assert 0 < opt.state[params[1]]["step"] < 20


# ------------------------------------------------------------------------------------------------ saving

DROPPING = Case("drop-muon", {"lr": 0.02, "weight_decay": 0.1, "seed": 1}, "dropping")


@pytest.mark.parametrize(
    "clause",
    [
        state.test_loaded_state_is_a_copy,
        state.test_state_dict_is_plain,
        step_contract.test_step_hooks,
    ],
    ids=lambda f: f.__name__,
)
def test_dropping_keeps_the_contract(clause: Any) -> None:
    clause(DROPPING)


@pytest.mark.parametrize("damage", state.DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_foreign_state_is_refused(damage: Any) -> None:
    state.test_foreign_state_is_refused_and_nothing_changes(Case("drop-muon", {"probabilities": 1.0}), damage)


@pytest.mark.parametrize("at", [0, 1, 4, 7])
@pytest.mark.parametrize("way", ["file", "pickle", "deepcopy"])
def test_resumes_bit_for_bit(at: int, way: str) -> None:
    net = perceptron()
    opt = DropMuon(net, lr=0.05, weight_decay=0.1, probabilities=0.3, seed=5)
    train(net, opt, at)
    other: nn.Module
    if way == "file":
        other = perceptron(seed=9)
        twin = DropMuon(other, lr=0.5, seed=77)
        other.load_state_dict(net.state_dict())
        twin.load_state_dict(state.through_file(opt.state_dict()))
    elif way == "pickle":
        other, twin = pickle.loads(pickle.dumps((net, opt)))
    else:
        other, twin = copy.deepcopy((net, opt))
    assert twin.first == opt.first
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in net.parameters()]
    assert train(net, opt, 9, seed=1) == train(other, twin, 9, seed=1)
    assert_same(snapshot(opt, list(net.parameters())), snapshot(twin, list(other.parameters())))
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in net.parameters()]
    twin.release()  # the copy thaws its own tensors
    assert all(p.requires_grad for p in other.parameters())


def test_distributed_checkpoint_of_a_released_optimizer() -> None:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    net, other = perceptron(), perceptron(seed=9)
    opt, twin = DropMuon(net, seed=5), DropMuon(other, seed=6)
    train(net, opt, 30)
    other.load_state_dict(net.state_dict())
    options = StateDictOptions(full_state_dict=True)
    with opt.release(), twin.release():
        saved = get_optimizer_state_dict(net, opt, options=options)
        set_optimizer_state_dict(other, twin, saved, options=options)
    assert train(net, opt, 9, seed=1) == train(other, twin, 9, seed=1)


# ------------------------------------------------------------------------------------------------ expectation


def test_expected_decrease_on_a_separable_quadratic() -> None:
    """f = sum of L_i/2 ||X_i||^2 with momentum 0: a spectral step of size t on orthogonal X_i lowers the part of layer
    i by L_i (t ||X_i||_* - t^2 r / 2), r its rank, and the mean over the draws weighs that by p_1 + ... + p_i."""
    curvature, radius, size = [1.0, 3.0, 2.0], 0.1, 4
    chances = [0.2, 0.5, 0.3]
    falls = []
    for seed in range(300):
        params = [nn.Parameter(2 * torch.eye(size, dtype=torch.float64)) for _ in curvature]
        opt = DropMuon(
            params, lr=radius, momentum=0.0, nesterov=False, orthogonalization="exact", probabilities=chances, seed=seed
        )
        value = sum(c / 2 * p.square().sum() for c, p in zip(curvature, params, strict=True))
        value.backward()
        opt.step()
        after = sum(c / 2 * p.detach().square().sum() for c, p in zip(curvature, params, strict=True))
        falls.append(float(value.detach() - after))
    each = [c * (radius * 2 * size - radius**2 * size / 2) for c in curvature]
    expected = sum(sum(chances[: i + 1]) * fall for i, fall in enumerate(each))
    assert np.mean(falls) == pytest.approx(expected, abs=5 * np.std(falls) / 300**0.5)
    assert max(falls) == pytest.approx(sum(each))
    assert_close([torch.tensor(min(falls))], [torch.tensor(each[-1])], 1e-6)


def test_the_arena_counts_frozen_parameters() -> None:
    """Bytes of state per parameter are per parameter of the model, not of those that happen to be awake at the end."""
    from steepest.arena.train import train as run_task
    from steepest.catalogue import card
    from steepest.claims.drop_muon import _SCALES, _task
    from steepest.claims.evidence import Size

    task = _task("convolutional", _SCALES[Size.SMOKE])
    settings = {"lr": 0.01, "probabilities": [0.0, 0.0, 0.0, 1.0]}
    task._cache["data"] = task.splits()._replace(validation=task.splits().test)
    ended = run_task(task, card("drop-muon"), settings, seed=0, steps=2, test=True)
    assert ended.status == "complete"
    model = task.build(0)
    head = sum(p.numel() for p in model[-1].parameters())
    every = sum(p.numel() for p in model.parameters())
    assert ended.state_bytes_per_parameter == pytest.approx(8 * head / every)
