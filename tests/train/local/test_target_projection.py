"""Target projection: each step is the gradient of its own local loss, and nothing else moves or is kept."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import SGD, Adam

from steepest.core.memory import peak_graph_size
from steepest.train.local import RecurrentBlock, TargetProjection, blocks_of

CLASSES = 3
sgd = partial(SGD, lr=0.1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int = 6) -> Tensor:
    return torch.arange(n) % CLASSES


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)
    ).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES)).double()


def recurrent(last: bool) -> list[nn.Module]:
    torch.manual_seed(0)
    first, second = RecurrentBlock(nn.RNNCell(2, 5)), RecurrentBlock(nn.LSTMCell(5, 4), last=True)
    if last:
        first = RecurrentBlock(nn.GRUCell(2, 5), last=True)
        return [first.double(), nn.Linear(5, CLASSES).double()]
    return [first.double(), second.double(), nn.Linear(4, CLASSES).double()]


NETWORKS = {
    "dense": (dense, (5,), {}),
    "map": (convolutional, (2, 8, 8), {}),
    "channel": (convolutional, (2, 8, 8), {"spatial": "channel"}),
    "recurrent": (partial(recurrent, False), (4, 2), {}),
    "recurrent, last": (partial(recurrent, True), (4, 2), {}),
}


@pytest.mark.parametrize("local_loss", ["l2", "l1"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_the_gradient_of_the_local_loss_and_moves_one_block(name: str, local_loss: str) -> None:
    make, shape, settings = NETWORKS[name]
    blocks = blocks_of(make())
    x, y = normal(6, *shape), labels()
    trainer = TargetProjection(blocks, CLASSES, sgd, local_loss=local_loss, **settings)
    trainer.step(x, y, layers=[])  # nothing is trained, nothing is made
    assert not trainer.projections
    for number, block in enumerate(blocks):
        start = copy.deepcopy(blocks)
        values = trainer.step(x, y, layers=[number])
        assert len(values) == 1
        inputs = x
        for before in start[:number]:
            inputs = before(inputs)  # here everything is connected
        outputs = start[number](inputs.detach())
        if number == len(blocks) - 1:
            wanted = cross_entropy(outputs, y)
        else:
            matrix = trainer.projections[number]
            target = torch.einsum("nc,c...->n...", one_hot(y, CLASSES).double(), matrix)
            gap = target - outputs
            size = gap.square() / 2 if local_loss == "l2" else gap.abs()
            if name == "channel":
                assert matrix.shape[2:] == (1, 1)[: matrix.dim() - 2]
                size = size.mean((2, 3)) if size.dim() == 4 else size
            elif name == "recurrent" and number == 0:
                assert matrix.shape == (CLASSES, 1, 5)
                size = size.mean(1)
            else:
                assert matrix.shape[1:] == outputs.shape[1:]
            wanted = size.flatten(1).sum(1).mean()
        assert float(values[0]) == pytest.approx(float(wanted.detach()), rel=1e-12)
        wanted.backward()
        for other, (mine, before) in enumerate(zip(blocks, start, strict=True)):
            for p, q in zip(mine.parameters(), before.parameters(), strict=True):
                assert p.grad is None
                if other == number:
                    torch.testing.assert_close(p, q - 0.1 * q.grad)
                    assert not torch.equal(p, q)
                else:
                    assert torch.equal(p, q)
                    assert q.grad is None or other == number
        assert block is blocks[number]


@pytest.mark.parametrize("local_loss", ["l2", "l1"])
def test_a_dense_layer_moves_by_the_delta_rule(local_loss: str) -> None:
    """A transcription in numpy of three layers in one step, in which all see outputs from before it."""
    network = dense()
    trainer = TargetProjection(network, CLASSES, sgd, local_loss=local_loss)
    x, y = normal(6, 5), labels()
    before = [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in network[::2]]
    values = trainer.step(x, y)
    assert len(values) == 4
    h, star = x.numpy(), np.eye(CLASSES)[y.numpy()]
    for k, (w, b) in enumerate(before):
        z = h @ w.T + b
        out = np.tanh(z)
        if k < 3:
            gap = star @ trainer.projections[k].numpy() - out
            delta = (gap if local_loss == "l2" else np.sign(gap)) * (1 - out**2)
        else:
            delta = star - np.exp(z) / np.exp(z).sum(1, keepdims=True)
        layer = network[2 * k]
        np.testing.assert_allclose(layer.weight.detach().numpy(), w + 0.1 * delta.T @ h / 6, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(layer.bias.detach().numpy(), b + 0.1 * delta.mean(0), rtol=1e-12, atol=1e-15)
        h = out


def test_one_layer_is_ordinary_training() -> None:
    network, twin = nn.Linear(5, CLASSES).double(), nn.Linear(5, CLASSES).double()
    twin.load_state_dict(network.state_dict())
    trainer, peer = TargetProjection([network], CLASSES, partial(Adam, lr=0.02)), Adam(twin.parameters(), lr=0.02)
    for seed in range(4):
        x, y = normal(6, 5, seed=seed), labels()
        (value,) = trainer.step(x, y)
        loss = cross_entropy(twin(x), y)
        peer.zero_grad()
        loss.backward()
        peer.step()
        assert float(value) == float(loss.detach())
    assert torch.equal(network.weight, twin.weight)
    assert torch.equal(network.bias, twin.bias)


def test_with_the_label_as_the_error_it_is_direct_random_target_projection() -> None:
    network = dense()
    start = copy.deepcopy(network)
    trainer = TargetProjection(network, CLASSES, sgd, local_loss=lambda y, t: t * y)
    x, y = normal(6, 5), labels()
    trainer.step(x, y)
    hidden = start[:2](x).detach().requires_grad_()
    wanted = torch.autograd.grad(start[2:4](hidden), start[2].weight, trainer.projections[1][y] / 6)[0]
    torch.testing.assert_close(network[2].weight, start[2].weight - 0.1 * wanted)


@pytest.mark.parametrize("depth", [2, 6])
def test_no_more_than_one_block_is_held(depth: int) -> None:
    """Of what autograd keeps; backpropagation keeps that of all layers."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(depth)), nn.Linear(8, CLASSES))
    x, y = torch.randn(6, 8), labels()
    trainer = TargetProjection(network, CLASSES, sgd)
    ours = peak_graph_size(lambda: trainer.step(x, y))
    assert 0 < ours < 400  # input, output, residual, weight and target of one layer: 5 x 48 or 64
    theirs = peak_graph_size(lambda: cross_entropy(network(x), y).backward())
    assert theirs > depth * 80


def test_frozen_blocks_batch_norm_and_dropout() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()
    twin = copy.deepcopy(network)
    network[4].requires_grad_(False)
    network[6].bias.requires_grad_(False)
    trainer = TargetProjection(network, CLASSES, sgd)
    assert trainer.optimizers[1] is None
    x, y = normal(6, 5), labels()
    torch.manual_seed(3)
    values = trainer.step(x, y)
    after = torch.rand(1)
    torch.manual_seed(3)
    loss = cross_entropy(twin(x), y)
    assert torch.equal(torch.rand(1), after)
    assert len(values) == 2
    assert float(values[-1]) == pytest.approx(float(loss.detach()), rel=1e-12)  # the same masks, one pass
    assert int(network[1].num_batches_tracked) == 1
    torch.testing.assert_close(network[1].running_mean, twin[1].running_mean)
    assert torch.equal(network[4].weight, twin[4].weight)
    assert torch.equal(network[6].bias, twin[6].bias)


def test_optimizers_of_their_own_for_each_block_and_vectors_as_targets() -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    start = copy.deepcopy(network)
    trainer = TargetProjection(network, 2, [partial(SGD, lr=0.0), partial(SGD, lr=0.5)], loss=mse_loss)
    x, y = normal(6, 5), normal(6, 2, seed=1)
    trainer.step(x, y)
    assert torch.equal(network[0].weight, start[0].weight)
    assert not torch.equal(network[2].weight, start[2].weight)
    torch.testing.assert_close(trainer.target(0, y, start[:2](x)), y @ trainer.projections[0])
    assert 0.4 < float(trainer.projections[0].abs().max()) <= 0.5


def test_resuming_is_exact_to_the_bit() -> None:
    def steps(trainer: TargetProjection, count: int) -> None:
        for seed in range(count):
            trainer.step(normal(6, 5, seed=seed), labels())

    network, twin = dense(), dense()
    trainer = TargetProjection(network, CLASSES, partial(Adam, lr=0.1))
    steps(trainer, 2)
    twin.load_state_dict(network.state_dict())
    other = TargetProjection(twin, CLASSES, partial(Adam, lr=0.1), seed=5)
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    steps(trainer, 3)
    steps(other, 3)
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="network with 2 blocks"):
        TargetProjection(dense()[3:], CLASSES).load_state_dict(trainer.state_dict())


def test_losses_that_are_not_finite_show() -> None:
    values = TargetProjection(dense(), CLASSES).step(normal(6, 5) * math.nan, labels())
    assert all(value.isnan() for value in values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 0}, "classes must be an integer >= 1, got 0"),
        ({"local_loss": "l3"}, "local_loss must be one of 'l2', 'l1', got 'l3'"),
        ({"span": (1, 0)}, r"span must be two numbers in ascending order, got \(1, 0\)"),
        ({"span": (0, math.inf)}, r"span\[1\] must be a finite number"),
        ({"spatial": "all"}, "spatial must be one of 'map', 'channel', got 'all'"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"optimizer": [sgd]}, "optimizer must be one, or one for each of 4 blocks, got 1"),
    ],
)
def test_bad_arguments_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetProjection(**{"network": dense(), "classes": CLASSES, **settings})


def test_what_is_easily_mistaken_is_told() -> None:
    with pytest.raises(TypeError, match=r"optimizer must make an optimizer .* got an SGD that is made already"):
        TargetProjection(dense(), CLASSES, SGD(dense().parameters(), lr=0.1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets must be below classes = 1, got"):
        TargetProjection(dense(), 1).step(normal(6, 5), labels())


def test_bad_blocks_are_named() -> None:
    with pytest.raises(ValueError, match="network must have trainable parameters, got none"):
        TargetProjection([nn.Tanh()], CLASSES)
    with pytest.raises(TypeError, match="a block must return a tensor, got tuple from RNN"):
        TargetProjection([nn.RNN(5, 2)], CLASSES).step(torch.ones(3, 5), labels(3))
    with pytest.raises(ValueError, match="layers must be an integer >= -4 and <= 3, got 4"):
        TargetProjection(dense(), CLASSES).step(normal(6, 5), labels(), layers=[4])


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_recurrent_block_is_torchs_layer_with_errors_that_do_not_pass_through_time(kind: str) -> None:
    torch.manual_seed(0)
    peer = getattr(nn, kind)(2, 4, batch_first=True).double()
    cell = getattr(nn, f"{kind}Cell")(2, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in peer.state_dict().items()})
    x = normal(3, 5, 2)
    wanted, _ = peer(x)
    whole, cut = RecurrentBlock(cell, truncate=False), RecurrentBlock(cell)
    torch.testing.assert_close(cut(x), wanted)
    torch.testing.assert_close(RecurrentBlock(cell, last=True)(x), wanted[:, -1])
    weights = normal(3, 5, 4, seed=1)
    (gradient,) = torch.autograd.grad((wanted * weights).sum(), peer.weight_hh_l0)
    (mine,) = torch.autograd.grad((whole(x) * weights).sum(), cell.weight_hh)
    torch.testing.assert_close(mine, gradient)
    # Cut off, a loss at one time is that of one step from the state before it, which is a constant.
    inputs = x.clone().requires_grad_()
    (seen,) = torch.autograd.grad(cut(inputs)[:, 3].sum(), inputs)
    assert seen[:, 3].any()
    assert not seen[:, :3].any()
