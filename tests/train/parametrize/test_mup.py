"""muP against the authors' package, the multiplier-free table of the paper, closed forms, and over widths."""

import copy
import io
import itertools
import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.optim import AdaBelief, Lion, Muon
from steepest.train.parametrize import (
    attention_scale,
    coordinate_check,
    mup,
    parameter_shapes,
    transfer,
)

BASE, WIDTH = 8, 24
M = WIDTH / BASE


def perceptron(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.Linear(2 * width, 3)
    ).double()


class Everything(nn.Module):
    """A tied embedding, positions, attention, a recurrent layer, convolutions with and without groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.positions = nn.Parameter(torch.zeros(1, 4, width))
        self.attention = nn.MultiheadAttention(width, width // 4, batch_first=True)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.first = nn.GRU(3, width)
        self.conv = nn.Conv1d(width, 2 * width, 3)
        self.depthwise = nn.Conv1d(2 * width, 2 * width, 3, groups=2 * width)
        self.up = nn.ConvTranspose1d(2 * width, width, 1)
        self.norm = nn.LayerNorm(width)
        self.back = nn.ConvTranspose1d(width, 3, 1)
        self.temperature = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(width, 11)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions
        return self.head(self.norm(self.attention(x, x, x)[0]))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(7)
    return [
        (torch.randn(6, 5, generator=draw, dtype=torch.float64), torch.randint(0, 3, (6,), generator=draw))
        for _ in range(count)
    ]


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> nn.Module:
    for x, y in batches(count):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


OPTIMIZERS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "adam": ("adam", torch.optim.Adam, {}),
    "adamw": ("adam", torch.optim.AdamW, {"weight_decay": 0.3}),
    "sgd": ("sgd", torch.optim.SGD, {"momentum": 0.9}),
    "sgd with decay": ("sgd", torch.optim.SGD, {"weight_decay": 0.3}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_by_step_as_the_authors_package(name: str) -> None:
    peer = pytest.importorskip("mup", reason="the authors' package")
    kind, cls, settings = OPTIMIZERS[name]

    def theirs(width: int) -> nn.Module:
        found = perceptron(width)
        readout = peer.MuReadout(2 * width, 3).double()
        readout.load_state_dict(found[-1].state_dict())
        found[-1] = readout
        return found

    model = theirs(WIDTH)
    peer.set_base_shapes(model, theirs(BASE), delta=theirs(2 * BASE))
    ours = perceptron(WIDTH)
    made = mup(ours, perceptron, widths=(BASE, 2 * BASE))
    for (label, p), q in zip(ours.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0, msg=label)
    optimizer = {"adam": peer.MuAdam, "sgd": peer.MuSGD}[kind](model.parameters(), impl=cls, lr=0.01, **settings)
    descend(model, optimizer)
    groups = made.groups(kind, lr=0.01, weight_decay=settings.get("weight_decay"))  # type: ignore[arg-type]
    descend(ours, cls(groups, **settings))
    for (label, p), q in zip(ours.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=label)


@pytest.mark.parametrize("kind", ["adam", "sign", "sgd"])
def test_equals_the_form_of_the_table_without_multipliers(kind: Any) -> None:
    """Table 3 of Tensor Programs V: the readout's weight and its rate divided by m, in place of a multiplier."""

    def build(params: Any) -> torch.optim.Optimizer:
        if kind == "adam":
            return torch.optim.Adam(params, eps=0.0)
        return Lion(params, betas=(0.5, 0.9)) if kind == "sign" else torch.optim.SGD(params, momentum=0.5)

    ours = perceptron(WIDTH)
    made = mup(ours, perceptron(BASE))
    table = perceptron(WIDTH)
    table.load_state_dict(ours.state_dict())
    with torch.no_grad():
        table[-1].weight.div_(M)  # type: ignore[operator]
    hidden, readout = table[2].weight, table[4].weight
    rest = [p for p in table.parameters() if p is not hidden and p is not readout and p is not table[4].bias]
    eta = 0.02
    rates = {"sgd": (eta, eta / M, M * eta)}.get(kind, (eta / M, eta / M, eta))
    by_hand = [
        {"params": [hidden], "lr": rates[0]},
        {"params": [readout], "lr": rates[1]},
        {"params": rest, "lr": rates[2]},
        {"params": [table[4].bias], "lr": eta},
    ]
    torch.testing.assert_close(ours(batches(1)[0][0]), table(batches(1)[0][0]))
    descend(ours, build(made.groups(kind, lr=eta)))
    descend(table, build(by_hand))
    torch.testing.assert_close(ours[-1].weight / M, readout, rtol=1e-8, atol=1e-12)  # type: ignore[operator]
    torch.testing.assert_close(ours(batches(1)[0][0]), table(batches(1)[0][0]), rtol=1e-8, atol=1e-10)


def test_at_the_base_width_nothing_changes() -> None:
    plain, ours = perceptron(BASE), perceptron(BASE)
    made = mup(ours, perceptron, widths=(BASE, 3 * BASE))
    assert {e.role for e in made.scalings.values()} == {"vector", "matrix", "readout", "finite"}
    descend(plain, torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1))
    for kind in ("adam", "sgd"):
        groups = made.groups(kind, lr=0.01, weight_decay=0.1, eps=1e-8)  # type: ignore[arg-type]
        assert len(groups) == 1
    descend(ours, torch.optim.AdamW(made.groups("adam", lr=0.01, weight_decay=0.1)))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), ours.parameters(), strict=True))


def test_a_sign_step_moves_hidden_weights_by_the_rate_over_m_and_all_others_by_the_rate() -> None:
    model = perceptron(WIDTH)
    made = mup(model, perceptron(BASE))
    before = [p.detach().clone() for p in model.parameters()]
    descend(model, Lion(made.groups("sign", lr=0.01)), 1)
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        expected = 0.01 / M if name == "2.weight" else 0.01
        torch.testing.assert_close((p - old).abs(), torch.full_like(p, expected), msg=name)


def test_roles_and_factors_of_every_kind_of_layer() -> None:
    base, model = Everything(BASE), Everything(WIDTH)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    made = mup(model, base)
    roles = {name: entry.role for name, entry in made.scalings.items()}
    matrices = {"attention.in_proj_weight", "attention.out_proj.weight", "recurrent.weight_ih_l0"}
    matrices |= {"recurrent.weight_hh_l0", "first.weight_hh_l0", "conv.weight", "up.weight"}
    assert {name for name, role in roles.items() if role == "matrix"} == matrices
    assert {name for name, role in roles.items() if role == "readout"} == {"back.weight"}
    assert {name for name, role in roles.items() if role == "finite"} == {"temperature", "head.bias", "back.bias"}
    for name in ("embedding.weight", "positions", "depthwise.weight", "norm.weight", "first.weight_ih_l0"):
        entry = made.scalings[name]
        assert (entry.role, entry.fan_in, entry.fan_out, entry.multiplier) == ("vector", 1.0, M, 1.0), name
    grown = {"head.bias", "conv.bias", "up.bias", "attention.out_proj.bias"}
    grown |= {f"first.{k}_l0" for k in ("weight_ih", "bias_ih", "bias_hh")}
    grown |= {f"recurrent.{k}_l0" for k in ("bias_ih", "bias_hh")}
    for name, p in model.named_parameters():
        factor = math.sqrt(M) if name in grown else 1.0
        torch.testing.assert_close(p, start[name] * factor, msg=name)
    # The readout that shares the embedding has the multiplier, by position and by keyword.
    x = torch.randn(2, WIDTH)
    expected = functional.linear(x / M, model.embedding.weight, model.head.bias)
    torch.testing.assert_close(model.head(x), expected)
    torch.testing.assert_close(model.head(input=x), expected)
    assert "embedding.weight" in repr(made)


def test_initial_values_scale_as_they_should() -> None:
    torch.manual_seed(1)
    small, large = Everything(32), Everything(512)
    made = mup(large, small)
    for (name, p), q in zip(small.named_parameters(), large.parameters(), strict=True):
        if float(p.detach().std()) > 0 and p.numel() > 16:
            wanted = 0.25 if made.scalings[name].role == "matrix" else 1.0
            assert float(q.detach().std() / p.detach().std()) == pytest.approx(wanted, rel=0.3), name
    start = [p.detach().clone() for p in perceptron(640).parameters()]
    small = perceptron(40)
    constant = perceptron(640)
    mup(constant, small, init="constant")
    for entry, p, q in zip(range(8), constant.parameters(), start, strict=True):
        torch.testing.assert_close(p, q / 4 if entry == 2 else q)
    kept = perceptron(640)
    mup(kept, small, init="keep")
    assert all(torch.equal(p, q) for p, q in zip(kept.parameters(), start, strict=True))


def test_entries_of_the_gradient_scale_as_eps_does() -> None:
    sizes = {}
    for width in (64, 1024):
        total: dict[str, float] = {}
        for seed in range(8):
            model = perceptron(width, seed)
            made = mup(model, perceptron, widths=(64, 128))
            x, y = batches(1)[0]
            functional.cross_entropy(model(x), 0 * y).backward()  # as balanced classes would cancel in biases
            for name, p in model.named_parameters():
                assert p.grad is not None
                total[name] = total.get(name, 0.0) + float(p.grad.abs().mean()) / made.scalings[name].gradient
        sizes[width] = total
    for name in sizes[64]:
        assert 0.7 < sizes[1024][name] / sizes[64][name] < 1.4, name
    groups = made.groups("adam", lr=1.0, eps=1e-8)
    assert sorted({g["eps"] for g in groups}) == pytest.approx([1e-8 / 16, 1e-8])


@pytest.mark.parametrize("scale", ["spectral", "rms"])
def test_orthogonalized_steps_have_the_spectral_norm_of_the_condition(scale: Any) -> None:
    """Of the base, times the root of the growth of fan-out over that of fan-in."""

    def build(width: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, width), nn.Linear(width, width * width // 4, bias=False), nn.Linear(width * width // 4, 3)
        ).double()

    norms = []
    for width in (4, 12):
        model = build(width)
        made = mup(model, build, widths=(4, 8))
        groups = made.groups("muon", lr=0.1, scale=scale, fallback_lr=0.01, weight_decay=0.5)
        assert {g.get("rule") for g in groups} == {None, "adamw"}
        optimizer = Muon(groups, scale=scale, orthogonalization="exact")
        before = model[1].weight.detach().clone()  # type: ignore[union-attr]
        decayed = next(g for g in groups if any(p is model[1].weight for p in g["params"]))  # type: ignore[union-attr]
        assert decayed["lr"] * decayed["weight_decay"] == pytest.approx(0.05)
        descend(model, optimizer, 1)
        step = model[1].weight - 0.95 * before  # type: ignore[union-attr]
        norms.append(float(torch.linalg.matrix_norm(step.detach(), 2)))
    m_in, m_out = 3.0, 9.0
    assert norms[1] / norms[0] == pytest.approx(math.sqrt(m_out / m_in), rel=1e-6)


def test_weight_decay_keeps_its_product_with_the_rate() -> None:
    made = mup(perceptron(WIDTH), perceptron(BASE))
    for kind in ("adam", "sign", "sgd"):
        coupled = made.groups(kind, lr=0.1, weight_decay=0.2)  # type: ignore[arg-type]
        assert all(g["lr"] * g["weight_decay"] == pytest.approx(0.02) for g in coupled)
        alone = made.groups(kind, lr=0.1, weight_decay=0.2, independent_decay=True)  # type: ignore[arg-type]
        assert {g["weight_decay"] for g in alone} == {0.2}


def test_groups_of_ones_own_are_split() -> None:
    model = perceptron(WIDTH)
    model[3].weight.requires_grad_(False)  # type: ignore[union-attr]
    made = mup(model, perceptron(BASE))
    assert sum(len(g["params"]) for g in made.groups("adam", lr=0.1)) == 7, "frozen parameters are left out"
    own = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "lr": 0.5, "weight_decay": 0.1},
        {"params": model[0].bias},  # type: ignore[union-attr]
    ]
    groups = made.groups("adam", lr=0.2, params=own, betas=(0.5, 0.6))
    assert [(g["lr"], len(g["params"])) for g in groups] == [(0.5, 2), (0.5 / M, 1), (0.2, 1)]
    assert [g.get("weight_decay") for g in groups] == [0.1, pytest.approx(0.1 * M), None]
    assert all(g["betas"] == (0.5, 0.6) for g in groups)
    AdaBelief(groups)
    scheduled = torch.optim.SGD(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(scheduled, 4)
    descend(model, scheduled, 1)
    schedule.step()
    rates = [g["lr"] for g in scheduled.param_groups]
    assert rates[0] / rates[1] == pytest.approx(M)


def test_a_second_call_changes_nothing_and_copies_stay_parametrized() -> None:
    model = perceptron(WIDTH)
    shapes = json.loads(json.dumps(parameter_shapes(perceptron(BASE))))
    first = mup(model, shapes)
    x = batches(1)[0][0]
    before, expected = copy.deepcopy(model.state_dict()), model(x)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for other in (model, twin):
        again = mup(other, shapes)
        assert list(again.scalings.values()) == list(first.scalings.values())
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
        assert torch.equal(other(x), expected)
    with pytest.raises(ValueError, match="parametrized with another base"):
        mup(model, perceptron(2 * BASE))
    with pytest.raises(ValueError, match="part of the model has been parametrized"):
        mup(nn.Sequential(model), nn.Sequential(perceptron(BASE)))


def test_checkpoints_have_plain_names_and_resume() -> None:
    model = perceptron(WIDTH)
    made = mup(model, perceptron(BASE))
    assert list(model.state_dict()) == list(perceptron(WIDTH).state_dict())
    optimizer = torch.optim.AdamW(made.groups("adam", lr=0.01, weight_decay=0.1))
    descend(model, optimizer, 3)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer)
    for late in (False, True):  # loaded after the call, or before one that keeps the values
        twin = perceptron(WIDTH, seed=5)
        if late:
            twin.load_state_dict(saved["model"])
            groups = mup(twin, perceptron(BASE), init="keep").groups("adam", lr=0.01, weight_decay=0.1)
        else:
            groups = mup(twin, perceptron(BASE)).groups("adam", lr=0.01, weight_decay=0.1)
            twin.load_state_dict(saved["model"])
        other = torch.optim.AdamW(groups)
        other.load_state_dict(copy.deepcopy(saved["optimizer"]))
        continued = copy.deepcopy(model)
        mine = torch.optim.AdamW(mup(continued, perceptron(BASE)).groups("adam", lr=0.01, weight_decay=0.1))
        mine.load_state_dict(copy.deepcopy(saved["optimizer"]))
        descend(continued, mine, 2)
        descend(twin, other, 2)
        assert all(torch.equal(p, q) for p, q in zip(continued.parameters(), twin.parameters(), strict=True))


def test_dimensions_of_modules_that_are_not_torchs() -> None:
    class Own(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.ones(width, width * width))
            self.out = nn.Parameter(torch.ones(width, 3))

    base, model = Own(2), Own(6)
    by_default = mup(model, base).scalings
    assert (by_default["mix"].fan_in, by_default["mix"].fan_out) == (9.0, 3.0)
    assert by_default["out"].role == "vector"
    told = mup(Own(6), base, fan_in={"mix": 0, "out": 0}).scalings
    assert (told["mix"].fan_in, told["mix"].fan_out) == (3.0, 9.0)
    assert (told["out"].role, told["out"].multiplier) == ("readout", pytest.approx(1 / 3))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_learning_rate_that_is_a_tensor_is_the_callers(kind: Any) -> None:
    lr = torch.tensor(0.5, dtype=torch.float64)
    found = mup(perceptron(WIDTH), perceptron(BASE)).groups(kind, lr=lr)
    plain = mup(perceptron(WIDTH), perceptron(BASE)).groups(kind, lr=0.5)
    assert float(lr) == 0.5
    assert [float(group["lr"]) for group in found] == [group["lr"] for group in plain]
    assert [len(group["params"]) for group in found] == [len(group["params"]) for group in plain]


def test_bad_arguments() -> None:
    model, base = perceptron(WIDTH), perceptron(BASE)
    with pytest.raises(ValueError, match="mup: init must be one of 'fan_in', 'constant', 'keep', got 'zero'"):
        mup(model, base, init="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs widths=\(base, delta\)"):
        mup(model, perceptron)
    with pytest.raises(TypeError, match="mup: base must be a model or its shapes by name, got 8"):
        mup(model, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goes with a function"):
        mup(model, base, widths=(2, 3))
    with pytest.raises(ValueError, match=r"the base has no parameter '4\.weight'"):
        mup(model, base[:4])  # type: ignore[index]
    with pytest.raises(ValueError, match=r"the base has a parameter '4\.bias' that the model has not"):
        mup(model[:4], base)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"fan_in: the pattern 'nothing\.\*' matches no parameter"):
        mup(model, base, fan_in={"nothing.*": 0})
    with pytest.raises(ValueError, match=r"at most two dimensions .* 'weight' are \[0, 1, 2\]"):
        mup(nn.Bilinear(4, 4, 4), nn.Bilinear(2, 2, 2))
    with pytest.raises(ValueError, match="readout in a GRU"):
        mup(nn.GRU(4, 3), nn.GRU(2, 3))
    with pytest.raises(ValueError, match="has no shape yet"):
        mup(nn.LazyLinear(3), nn.Linear(2, 3))
    assert not hasattr(model, "_maximal_update"), "a refused model is left as it was"
    made = mup(model, base)
    with pytest.raises(ValueError, match="groups: kind must be one of 'adam', 'sign', 'sgd', 'muon', got 'adamw'"):
        made.groups("adamw", lr=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"groups: lr must be a finite number in \[0, inf\), got -1"):
        made.groups("adam", lr=-1)
    with pytest.raises(ValueError, match=r"groups: weight_decay must be .* got -2"):
        made.groups("adam", lr=1, weight_decay=-2)
    with pytest.raises(ValueError, match="group 0 has a tensor that is no parameter of the model"):
        made.groups("adam", lr=1, params=[{"params": [nn.Parameter(torch.ones(2))]}])
    with pytest.raises(ValueError, match="base_head_dim must be an integer >= 1, got 0"):
        attention_scale(4, 0)
    with pytest.raises(ValueError, match=r"widths must be at least two, ascending, got \[8, 4\]"):
        coordinate_check(perceptron, [8, 4], torch.optim.Adam, *batches(1)[0])
    with pytest.raises(ValueError, match=r"lrs must be at least two, ascending, got \[0\.1\]"):
        transfer(perceptron, [4, 8], [0.1], torch.optim.Adam, lambda *_: 0.0)


def test_attention_scale_keeps_the_product_of_correlated_vectors() -> None:
    for dim in (16, 64, 256):
        x = torch.randn(200, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert float((x * x).sum(1).mean() * attention_scale(dim, 16)) == pytest.approx(4.0, rel=0.05)
    assert attention_scale(16, 16) == 16**-0.5
    with pytest.warns(UserWarning, match="the heads of '' grow from 4 to 12 dimensions"):
        mup(nn.MultiheadAttention(24, 2), nn.MultiheadAttention(8, 2))


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 3),
    )  # fmt: skip


CHECKS: dict[str, tuple[Any, Any, float]] = {
    "adam": ("adam", torch.optim.Adam, 1e-3),
    "lion": ("sign", Lion, 3e-4),
    "sgd": ("sgd", torch.optim.SGD, 0.1),
    "muon": ("muon", Muon, 0.02),
}


@pytest.mark.parametrize("name", CHECKS)
def test_activations_change_by_as_much_at_every_width(name: str) -> None:
    kind, optimizer, lr = CHECKS[name]
    draw = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(32, 5, generator=draw), torch.randint(0, 3, (32,), generator=draw)
    found = {}
    for standard in (False, True):
        found[standard] = coordinate_check(
            network, [64, 128, 256, 512], optimizer, inputs, targets,
            kind=kind, lr=lr, steps=3, seeds=range(4), standard=standard,
        )  # fmt: skip
    slopes = found[False].slopes()
    assert list(slopes) == ["0", "1", "2", "3", "4", "5", "6", "output"]
    assert all(abs(slope) < 0.15 for slope in slopes.values()), slopes
    if name in ("adam", "lion"):
        assert found[True].slopes()["output"] > 0.5
    at_base = [[row for row in found[s].rows if row[0] == 64] for s in (False, True)]
    assert at_base[0] == at_base[1], "at the base width both are the same"
    table = str(found[False])
    assert "slope" in table
    assert table.count("\n") == 8


def test_coordinates_are_measured_as_they_say() -> None:
    """One linear layer and one step of gradient descent: the change of the outputs in closed form."""

    x, y = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).sum()

    class Four(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Linear(4, width, bias=False).double()
            self.drop = nn.Dropout(0.0)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(inputs)

    state = torch.get_rng_state()
    found = coordinate_check(Four, [2, 6], torch.optim.SGD, x, y, loss=loss, kind="sgd", lr=0.1, steps=2, seeds=[0])
    assert torch.equal(torch.get_rng_state(), state)
    # d loss / d W = 1 x^T, so that an output changes by lr m |x|^2 per step.
    changes = {(width, step, layer): change for width, _, step, layer, _, change in found.rows}
    for width, step in itertools.product((2, 6), (1, 2)):
        assert changes[width, step, "body"] == pytest.approx(0.1 * (width / 2) * 4 * step)
    assert found.slopes()["body"] == pytest.approx(1.0)
    figure = found.plot()
    assert len(figure.axes) == 2


def test_transfer_finds_the_best_rate_of_every_width() -> None:
    lrs = [2.0**k for k in range(-5, 3)]
    seen = []

    def fit(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
        width = model[0].out_features  # type: ignore[index, union-attr]
        rates = sorted({g["lr"] for g in optimizer.param_groups})
        seen.append((width, rates[-1]))
        if rates[-1] > 2:
            return math.nan
        return (math.log2(rates[0]) + 2) ** 2 + 0.01 * seed  # best where the least rate is 1/4

    found = transfer(perceptron, [4, 8, 16], lrs, torch.optim.Adam, fit, seeds=(0, 1))
    assert found.best == {4: 0.25, 8: 0.5, 16: 1.0}
    assert found.drift == 2
    assert found.losses[0][-1] == [math.inf, math.inf]
    assert len(seen) == 3 * 8 * 2
    assert "*" in str(found)
    assert len(found.plot().axes[0].lines) == 3
    plain = transfer(perceptron, [4, 8], lrs, torch.optim.Adam, fit, standard=True)
    assert plain.drift == 0
