"""Weight conditioning against weight normalization with fixed gains, its invariants, and van der Sluis' bound."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from steepest.train.parametrize import WeightConditioning, weight_conditioning

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (6, 5), 0),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3), (6, 2, 7), 0),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (6, 4, 5, 5), 0),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3), (6, 2, 5, 5), 1),
}
layers = pytest.mark.parametrize("name", LAYERS)


def made(name: str) -> tuple[nn.Module, nn.Module, Tensor, int]:
    make, shape, dim = LAYERS[name]
    torch.manual_seed(0)
    plain = make().double()
    return plain, weight_conditioning(copy.deepcopy(plain)), torch.randn(shape, dtype=torch.float64), dim


@layers
def test_it_is_weight_normalization_with_gain_one(name: str) -> None:
    plain, ours, x, dim = made(name)
    peer = parametrizations.weight_norm(plain, dim=dim)
    gain = peer.parametrizations.weight.original0
    gain.data.fill_(1.0)
    direction = peer.parametrizations.weight.original1
    raw = ours.parametrizations.weight.original
    assert torch.equal(raw, direction)
    torch.testing.assert_close(ours(x), peer(x))
    found = torch.autograd.grad(ours(x).pow(3).sum(), [raw, ours.bias])
    torch.testing.assert_close(found, torch.autograd.grad(peer(x).pow(3).sum(), [direction, peer.bias]))


@layers
def test_rows_are_unit_and_their_gradients_orthogonal(name: str) -> None:
    _, ours, x, dim = made(name)
    raw = ours.parametrizations.weight.original
    rows = ours.weight.movedim(dim, 0).flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)).double())
    (grad,) = torch.autograd.grad(ours(x).pow(3).sum(), raw)
    inner = (grad * raw).movedim(dim, 0).flatten(1).sum(1)
    torch.testing.assert_close(inner, torch.zeros_like(inner), atol=1e-10, rtol=0)


def test_derivatives_are_those_of_finite_differences() -> None:
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WeightConditioning(), weight)
    assert torch.autograd.gradcheck(WeightConditioning(1), weight)
    assert torch.autograd.gradgradcheck(WeightConditioning(), weight)


@pytest.mark.parametrize("seed", range(4))
def test_van_der_sluis_bound(seed: int) -> None:
    """No diagonal scaling, found by descent from several starts, does better by more than the root of the rows."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(4, 6)) * np.logspace(0, 3, 4)[:, None]
    equilibrated = WeightConditioning()(torch.tensor(weight)).numpy()

    def kappa(scales: np.ndarray) -> float:
        return float(np.log(np.linalg.cond(np.exp(scales)[:, None] * equilibrated)))

    best = min(minimize(kappa, generator.normal(size=4), method="Nelder-Mead").fun for _ in range(3))
    assert best <= kappa(np.zeros(4)) <= best + 0.5 * np.log(4)
    assert np.linalg.cond(equilibrated) < 0.1 * np.linalg.cond(weight)


def test_steps_make_rows_grow_unless_the_weight_decays() -> None:
    _, ours, x, _ = made("linear")
    raw = ours.parametrizations.weight.original
    norms = [raw.detach().norm(dim=1)]
    for _ in range(5):
        optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
        optimizer.zero_grad()
        ours(x).pow(3).mean().backward()
        expected = (norms[-1] ** 2 + 0.01 * raw.grad.norm(dim=1) ** 2).sqrt()  # Pythagoras
        optimizer.step()
        norms.append(raw.detach().norm(dim=1))
        torch.testing.assert_close(norms[-1], expected)


def test_a_whole_model_saves_resumes_and_is_taken_back() -> None:
    torch.manual_seed(0)

    def net() -> nn.Module:
        return weight_conditioning(
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
        )

    x = torch.randn(8, 1, 4, 4)
    model, twin = net(), net()

    def step(m: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        m(x).square().mean().backward()
        optimizer.step()

    first = torch.optim.Adam(model.parameters())
    step(model, first)
    second = torch.optim.Adam(twin.parameters())
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(model, first)
    step(twin, second)
    for one, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert model[1].num_batches_tracked == 2
    expected = model.eval()(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    for layer in (model[0], model[4]):
        parametrize.remove_parametrizations(layer, "weight")
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(x), expected)


def test_zeros_and_non_finite_values() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0], [float("nan"), 1.0]], requires_grad=True)
    conditioned = WeightConditioning()(weight)
    assert torch.equal(conditioned[:2], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    assert conditioned[2].isnan().all()
    (grad,) = torch.autograd.grad(conditioned[:2].sum(), weight)
    assert torch.equal(grad[0], torch.ones(2))
    large = torch.full((1, 4), 4e4, dtype=torch.float16)  # its norm is infinite in float16
    assert WeightConditioning()(large).eq(0.5).all()


def test_a_frozen_weight_stays() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    weight_conditioning(layer)(torch.ones(1, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is None
    assert layer.bias.grad is not None


def test_misuse_is_told() -> None:
    model = weight_conditioning(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="layer '0' must not be conditioned already"):
        weight_conditioning(model)
    with pytest.raises(ValueError, match="must have a linear or convolutional layer"):
        weight_conditioning(nn.ReLU())
    with pytest.raises(ValueError, match="WeightConditioning: dim must be an integer >= 0, got -1"):
        WeightConditioning(-1)
