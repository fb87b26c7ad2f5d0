"""TrAct against ridge regression, its limits, and the plain layers; and that it takes a layer's place unnoticed."""

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from steepest.train.parametrize import TrActConv2d, remove_tract, tract

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (20, 5)),
    "linear, fewer rows than inputs": (lambda: nn.Linear(9, 3), (4, 9)),
    "linear, tokens": (lambda: nn.Linear(5, 3, bias=False), (4, 6, 5)),
    "linear, one row": (lambda: nn.Linear(5, 3), (5,)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (5, 2, 11)),
    "conv1d, same": (lambda: nn.Conv1d(2, 4, 4, padding="same"), (5, 2, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (4, 3, 6, 7)),
    "conv2d, stride and dilation": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2), (2, 3)), (4, 3, 9, 8)),
    "conv2d, patches": (lambda: nn.Conv2d(3, 4, 4, 4), (4, 3, 8, 8)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4, 6, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3), (4, 3, 6, 6)),
    "conv2d, reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (4, 3, 6, 6)),
    "conv2d, circular": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), (4, 3, 6, 6)),
    "conv2d, one image": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 6)),
}
layers = pytest.mark.parametrize("name", LAYERS)
DAMPING = 0.3


def pair(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain layer, its twin with TrAct, and an input."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = make().double()
    return plain, tract(copy.deepcopy(plain), DAMPING), torch.randn(shape, dtype=torch.float64) + 0.5


def loss(z: Tensor) -> Tensor:
    weights = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).reshape(z.shape)
    return (weights * z + 0.1 * z.square()).mean()


def columns(layer: nn.Module, x: Tensor) -> np.ndarray:
    """The layer's inputs, one column per output position: a patch is found by which inputs an impulse kernel reads."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T.numpy()[None]
    groups, width = layer.groups, layer.weight[0].numel()
    reader = copy.deepcopy(layer)
    reader.bias = None
    found = []
    for entry in range(width):
        kernel = torch.zeros_like(layer.weight)
        kernel.view(len(kernel), -1)[:, entry] = 1.0
        reader.weight = nn.Parameter(kernel, requires_grad=False)
        z = reader(x if x.dim() == 2 + len(layer.kernel_size) else x[None])
        found.append(z.movedim(1, 0).reshape(groups, len(kernel) // groups, -1)[:, 0])
    return torch.stack(found, 1).numpy()


def outputs_first(layer: nn.Module, z: Tensor) -> np.ndarray:
    """(groups, outputs of each, positions)."""
    if isinstance(layer, nn.Linear):
        return z.reshape(-1, z.shape[-1]).T.numpy()[None]
    batched = z if z.dim() == 2 + len(layer.kernel_size) else z[None]
    return batched.movedim(1, 0).reshape(layer.groups, layer.out_channels // layer.groups, -1).numpy()


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    x = x.clone().requires_grad_()
    z = layer(x)
    found = torch.autograd.grad(loss(z), [x, *layer.parameters()])
    return z.detach(), list(found[1:]), found[0]


@layers
def test_the_gradient_is_that_of_ridge_regression(name: str) -> None:
    plain, ours, x = pair(name)
    z = plain(x).detach().requires_grad_()
    (grad_z,) = torch.autograd.grad(loss(z), z)
    expected = []
    for cols, out in zip(columns(plain, x), outputs_first(plain, grad_z), strict=True):
        n, b = cols.shape
        # min |b out - D cols|^2 + damping b |D|^2, as least squares with n more rows
        design = np.vstack([cols.T, np.sqrt(DAMPING * b) * np.eye(n)])
        target = np.vstack([b * out.T, np.zeros((n, len(out)))])
        expected.append(np.linalg.lstsq(design, target, rcond=None)[0].T)
    found = gradients(ours, x)[1][0].reshape(len(expected), -1, expected[0].shape[1])
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-9, atol=1e-12)


def test_many_patches_are_taken_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours, x = pair("conv2d")
    whole = gradients(ours, x)[1][0]
    monkeypatch.setattr(sys.modules[TrActConv2d.__module__], "_ENTRIES", 3 * (3 * 42 * 9))  # three of four
    torch.testing.assert_close(gradients(ours, x)[1][0], whole)


@layers
def test_all_else_is_the_plain_layers(name: str) -> None:
    plain, ours, x = pair(name)
    z, (_, *bias), into = gradients(ours, x)
    theirs, (_, *their_bias), their_into = gradients(plain, x)
    assert torch.equal(z, theirs)
    torch.testing.assert_close(into, their_into)
    torch.testing.assert_close(bias, their_bias)


@layers
def test_large_damping_is_the_plain_gradient(name: str) -> None:
    plain, ours, x = pair(name)
    ours.damping = 1e8
    torch.testing.assert_close(1e8 * gradients(ours, x)[1][0], gradients(plain, x)[1][0], rtol=1e-5, atol=1e-7)


def test_on_whitened_inputs_it_only_scales() -> None:
    plain, ours, x = pair("linear")
    x = torch.linalg.qr(x)[0] * len(x) ** 0.5
    torch.testing.assert_close(gradients(ours, x)[1][0] * (1 + DAMPING), gradients(plain, x)[1][0])


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv2d, stride and dilation"])
def test_a_convolution_is_a_linear_layer_of_patches(name: str) -> None:
    _, ours, x = pair(name)
    flat = nn.Linear(ours.weight[0].numel(), len(ours.weight), bias=ours.bias is not None).double()
    flat.load_state_dict({k: v.flatten(1) if v.dim() > 1 else v for k, v in ours.state_dict().items()})
    if x.dim() == 3:
        geometry = [(1, *ours.kernel_size), (1, *ours.dilation), (0, *ours.padding), (1, *ours.stride)]
        patches = functional.unfold(x[:, :, None], *geometry)
    else:
        patches = functional.unfold(x, ours.kernel_size, ours.dilation, ours.padding, ours.stride)
    z = tract(flat, DAMPING)(patches.mT).mT.reshape(ours(x).shape)
    expected = torch.autograd.grad(loss(z), list(flat.parameters()))
    for one, other in zip(gradients(ours, x)[1], expected, strict=True):
        torch.testing.assert_close(one.flatten(1) if one.dim() > 1 else one, other)


@layers
def test_the_gradient_of_the_input_is_that_of_finite_differences(name: str) -> None:
    _, ours, x = pair(name)
    for p in ours.parameters():
        p.requires_grad_(False)
    small = x[:2] if x.dim() > 3 or name == "linear" else x
    assert torch.autograd.gradcheck(lambda t: loss(ours(t)), small.clone().requires_grad_(), fast_mode=True)


def test_training_is_the_papers_formula_step_by_step() -> None:
    """Momentum on a two-layer network, transcribed to numpy."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    w1, b1, w2, b2 = (p.detach().numpy().copy() for p in model.parameters())
    tract(model[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = np.random.default_rng(0)
    velocity: list[Any] = [0.0] * 4
    for b in (12, 12, 4):  # the last has fewer rows than inputs
        x, y = generator.normal(size=(6, b)), generator.normal(size=(2, b))
        optimizer.zero_grad()
        (0.5 * (model(torch.tensor(x.T)) - torch.tensor(y.T)).square().sum(1)).mean().backward()
        optimizer.step()
        hidden = np.tanh(w1 @ x + b1[:, None])
        error = (w2 @ hidden + b2[:, None] - y) / b
        grad_z = (w2.T @ error) * (1 - hidden**2)
        inverse = np.linalg.inv(x @ x.T / b + 0.1 * np.eye(6))
        grads = [grad_z @ x.T @ inverse, grad_z.sum(1), error @ hidden.T, error.sum(1)]
        for k, (p, g) in enumerate(zip((w1, b1, w2, b2), grads, strict=True)):
            velocity[k] = 0.9 * velocity[k] + g
            p -= 0.1 * velocity[k]
        for ours, theirs in zip(model.parameters(), (w1, b1, w2, b2), strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-10, atol=1e-12)


def test_it_comes_and_goes_in_place() -> None:
    layer = nn.Conv2d(3, 4, 3)
    weight, state, calls = layer.weight, layer.state_dict(), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    plain = str(layer)
    assert tract(layer) is layer
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight is weight
    assert {k: v.data_ptr() for k, v in layer.state_dict().items()} == {k: v.data_ptr() for k, v in state.items()}
    assert "damping=0.1" in str(layer)
    layer(torch.randn(2, 3, 5, 5))
    assert calls == [1]
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(tract(nn.Conv2d(3, 4, 3))))):
        assert type(copied) is TrActConv2d
        assert copied.damping == 0.1
    assert remove_tract(layer) is layer
    assert type(layer) is nn.Conv2d
    assert str(layer) == plain
    assert not hasattr(layer, "damping")


def test_in_a_network_only_the_first_weight_changes() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten())
    ours = copy.deepcopy(plain)
    tract(ours[0])
    x = torch.randn(6, 3, 6, 6)
    for model in (plain, ours):
        torch.manual_seed(3)
        loss(model(x)).backward()
    for (name, p), q in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad) == (name != "0.weight")
    for p, q in zip(plain.buffers(), ours.buffers(), strict=True):
        assert torch.equal(p, q)


def test_what_needs_no_gradient_gets_none() -> None:
    layer = tract(nn.Linear(3, 2))
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 3, requires_grad=True)
    loss(layer(x)).backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None
    empty = tract(nn.Linear(3, 2))
    empty(torch.zeros(0, 3)).sum().backward()
    assert empty.weight.grad.eq(0).all()


@pytest.mark.parametrize("make", [lambda: nn.Linear(12, 4), lambda: nn.Conv1d(1, 4, 3)])
def test_autocast_solves_in_full_precision(make: Any) -> None:
    torch.manual_seed(0)
    layer = tract(make())
    x = torch.randn(64, 1, 12) if isinstance(layer, nn.Conv1d) else torch.randn(64, 12)
    x.requires_grad_()
    exact = torch.autograd.grad(loss(layer(x)), [layer.weight, x])
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(x)
        assert z.dtype is torch.bfloat16
    found = torch.autograd.grad(loss(z.float()), [layer.weight, x])
    for one, other in zip(found, exact, strict=True):
        assert one.dtype is torch.float32
        assert (one - other).norm() <= 0.02 * other.norm()
    half = layer.bfloat16()
    (grad,) = torch.autograd.grad(loss(half(x.bfloat16())), half.weight)
    assert grad.dtype is torch.bfloat16
    assert (grad.float() - exact[0]).norm() <= 0.05 * exact[0].norm()


def test_memory_formats_agree() -> None:
    _, ours, x = pair("conv2d")
    one = gradients(ours, x)[1][0]
    other = gradients(ours.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))[1][0]
    torch.testing.assert_close(one, other)


def test_it_compiles_in_one_graph() -> None:
    _, ours, x = pair("conv2d")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for one, other in zip(gradients(compiled, x)[1], gradients(ours, x)[1], strict=True):
        torch.testing.assert_close(one, other)


def test_data_parallelism_sees_its_gradient() -> None:
    _, ours, x = pair("conv2d")
    expected = gradients(ours, x)[1]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        loss(DistributedDataParallel(ours)(x)).backward()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close([p.grad for p in ours.parameters()], expected)


def test_gradients_of_micro_batches_add_up() -> None:
    _, ours, x = pair("linear")
    expected = sum(gradients(ours, part)[1][0] for part in x.split(10))
    for part in x.split(10):
        loss(ours(part)).backward()
    torch.testing.assert_close(ours.weight.grad, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs_show_in_the_gradient(bad: float) -> None:
    _, ours, x = pair("linear")
    x[0, 0] = bad
    assert not gradients(ours, x)[1][0].isfinite().all()


def test_second_derivatives_are_refused() -> None:
    _, ours, x = pair("linear")
    (grad,) = torch.autograd.grad(loss(ours(x)), ours.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("damping", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_damping_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match=r"tract: damping must be a finite number in \(0, inf\), got"):
        tract(nn.Linear(2, 2), damping)


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"layer must be one of nn.Linear, nn.Conv1d, nn.Conv2d, got ConvTranspose2d"):
        tract(nn.ConvTranspose2d(2, 2, 2))
    with pytest.raises(TypeError, match="must be real"):
        tract(nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="has TrAct already"):
        tract(tract(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="remove_tract: layer must have TrAct, got Linear"):
        remove_tract(nn.Linear(2, 2))
