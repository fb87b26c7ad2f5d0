"""Ghost batch norms against PyTorch's on each part, and the running averages against their closed form."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.train.parametrize import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, ghost_batch_norm

KINDS = {
    "rows": (GhostBatchNorm1d, nn.BatchNorm1d, (12, 3)),
    "sequences": (GhostBatchNorm1d, nn.BatchNorm1d, (12, 3, 5)),
    "images": (GhostBatchNorm2d, nn.BatchNorm2d, (12, 3, 4, 5)),
    "volumes": (GhostBatchNorm3d, nn.BatchNorm3d, (12, 3, 2, 3, 2)),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, ghost_size: int, **settings: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    ours, plain, shape = KINDS[kind]
    one, other = ours(3, ghost_size, **settings).double(), plain(3, **settings).double()
    if one.affine:
        nn.init.normal_(one.weight)
        nn.init.normal_(one.bias)
    other.load_state_dict(one.state_dict())
    return one, other, 2 * torch.randn(shape, dtype=torch.float64) + 1


def passed(layer: Any, x: Tensor) -> list[Tensor]:
    """Output, and gradients of a loss of it."""
    x = x.clone().requires_grad_()
    y = layer(x)
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []
    return [y.detach(), *torch.autograd.grad((y**3).sum(), [x, *parameters])]


@kinds
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("ghost_size", [7, 12, 100])
def test_one_ghost_batch_is_a_batch_norm(kind: str, momentum: float | None, ghost_size: int) -> None:
    ours, plain, x = made(kind, ghost_size, momentum=momentum)
    for _ in range(3):
        for one, other in zip(passed(ours, x), passed(plain, x), strict=True):
            assert torch.equal(one, other)
        x = x + 1
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


@kinds
def test_each_ghost_batch_is_normalized_alone_and_running_averages_are_the_closed_form(kind: str) -> None:
    ours, _, x = made(kind, 4, momentum=0.3)
    mean, var = ours.running_mean.clone(), ours.running_var.clone()
    parts = x.unflatten(0, (3, 4))
    over = [d for d in range(1, parts.dim()) if d != 2]
    shape = [1, -1] + [1] * (x.dim() - 2)

    def formula(x: Tensor) -> Tensor:
        """All parts at once, by formulas."""
        parts = x.unflatten(0, (3, 4))
        biased, centre = torch.var_mean(parts, over, correction=0, keepdim=True)
        normalized = ((parts - centre) / (biased + ours.eps).sqrt()).flatten(0, 1)
        return normalized * ours.weight.view(shape) + ours.bias.view(shape)

    found = passed(ours, x)
    for one, other in zip(found[:2], passed(formula, x), strict=True):
        torch.testing.assert_close(one, other)
    for name, before, values in (
        ("running_mean", mean, parts.mean(over)),
        ("running_var", var, parts.var(over, correction=1)),
    ):
        expected = 0.7**3 * before + sum(0.7 ** (2 - k) * 0.3 * values[k] for k in range(3))
        torch.testing.assert_close(getattr(ours, name), expected)
    assert ours.num_batches_tracked == 3


@kinds
def test_evaluation_is_the_plain_norms(kind: str) -> None:
    ours, plain, x = made(kind, 4)
    ours(x)
    plain.load_state_dict(ours.state_dict())
    for one, other in zip(passed(ours.eval(), x), passed(plain.eval(), x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("rows", "sizes"), [(8, [4, 4]), (11, [6, 5]), (7, [7]), (14, [5, 5, 4]), (3, [3])])
def test_no_ghost_batch_is_smaller_than_asked(rows: int, sizes: list[int]) -> None:
    ours, plain, _ = made("images", 4)
    x = torch.randn(rows, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), torch.cat([plain(part) for part in x.split(sizes)]))
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_is_that_of_small_batches_accumulated() -> None:
    """The authors' loop: forward and backward per ghost batch, then one step with the mean gradient."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8))
    plain = nn.Sequential(*plain, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    ours = ghost_batch_norm(copy.deepcopy(plain), 6)
    optimizers = [
        torch.optim.SGD(
            [{"params": list(m[:4].parameters())}, {"params": list(m[4:].parameters()), "lr": 0.3}], 0.1, momentum=0.9
        )
        for m in (plain, ours)
    ]
    for _ in range(3):
        x, y = torch.randn(24, 2, 5, 5, dtype=torch.float64), torch.randint(3, (24,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(ours(x), y).backward()
        for inputs, targets in zip(x.split(6), y.split(6), strict=True):
            (nn.functional.cross_entropy(plain(inputs), targets) / 4).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_the_converter_keeps_everything() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm3d(2)))
    model.append(nn.SyncBatchNorm(2))
    kept = {name: t.data_ptr() for name, t in model.state_dict().items()}
    assert ghost_batch_norm(model, 16) is model
    assert {name: t.data_ptr() for name, t in model.state_dict().items()} == kept
    assert [type(m) for m in (model[1], *model[2], model[3])] == [
        GhostBatchNorm1d,
        GhostBatchNorm2d,
        GhostBatchNorm3d,
        nn.SyncBatchNorm,
    ]
    assert "ghost_size=16" in str(model[1])
    ghost_batch_norm(model, 8)
    assert copy.deepcopy(model)[1].ghost_size == 8


def test_non_finite_values_stay_in_their_ghost_batch() -> None:
    ours, _, x = made("images", 4, track_running_stats=False)
    x[0, 0, 0, 0] = float("nan")
    y = ours(x)
    assert y[:4, 0].isnan().all()
    assert y[4:].isfinite().all()
    assert y[:, 1:].isfinite().all()


@pytest.mark.parametrize("size", [0, -1])
def test_bad_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"GhostBatchNorm2d: ghost_size must be an integer >= 1, got {size}"):
        GhostBatchNorm2d(3, size)
    with pytest.raises(ValueError, match=f"ghost_batch_norm: ghost_size must be an integer >= 1, got {size}"):
        ghost_batch_norm(nn.BatchNorm1d(2), size)
    with pytest.raises(ValueError, match="must have a batch norm"):
        ghost_batch_norm(nn.Linear(2, 2))
