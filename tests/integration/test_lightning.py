"""Lightning's Trainer trains, saves and resumes with these optimizers as with PyTorch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="needs Lightning: pip install lightning")

from steepest.catalogue import card, cards  # noqa: E402

# Lightning suggests more data loader workers, and names private parts of torch that will change.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

#: Lightning calls backward itself: not for methods that differentiate the loss twice.
OURS = sorted(
    name
    for name, entry in cards("optim").items()
    if not (entry.wraps or entry.differentiates or "batch" in entry.needs)
)


class Regression(lightning.LightningModule):
    """A small network, an optimizer from its card, and a schedule that changes the rate in every step."""

    def __init__(self, method: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.method = method
        self.net = nn.Sequential(
            nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 1)
        )
        self.rates: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, targets = batch
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (self.net(inputs) - targets).square().mean()

    def configure_optimizers(self) -> dict[str, Any]:
        entry = card(self.method)
        opt = entry.build(self, lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=8)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data() -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 6, generator=draw)
    return DataLoader(TensorDataset(inputs, inputs[:, :1].sin()), batch_size=4)  # an epoch has two batches


def fit(module: Regression, folder: Path, epochs: int, *, ckpt: Path | None = None, **settings: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(module, data(), ckpt_path=ckpt, weights_only=True if ckpt else None)
    return trainer


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    for (name, p), q in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q), f"{name} differs by {(p - q).abs().max().item():.3g}"


@pytest.mark.parametrize("method", OURS)
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, method: str) -> None:
    """Two steps, a checkpoint (loaded with weights_only), two more: as four in one go, schedule included."""
    straight = Regression(method)
    fit(straight, tmp_path, 2)
    first = Regression(method)
    start = {name: p.detach().clone() for name, p in first.named_parameters()}
    trainer = fit(first, tmp_path, 1)
    moved = [not torch.equal(start[name], p) for name, p in first.named_parameters()]
    assert any(moved) if method == "drop-muon" else all(moved), "something did not train"  # it leaves layers out
    trainer.save_checkpoint(tmp_path / "half.ckpt")

    resumed = Regression(method)
    trainer = fit(resumed, tmp_path, 2, ckpt=tmp_path / "half.ckpt")
    assert trainer.global_step == 4
    assert first.rates + resumed.rates == straight.rates
    assert_equal(resumed, straight)


def test_equals_a_plain_loop(tmp_path: Path) -> None:
    """The trainer adds nothing to the method: its closure-driven steps are the ordinary ones."""
    module = Regression("ademamix")
    fit(module, tmp_path, 2)
    plain = Regression("ademamix")
    configured = plain.configure_optimizers()
    opt, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for inputs, targets in [*data(), *data()]:
        opt.zero_grad()
        (plain.net(inputs) - targets).square().mean().backward()
        opt.step()
        schedule.step()
    assert_equal(module, plain)


def test_accumulation_and_clipping(tmp_path: Path) -> None:
    """Two batches accumulated, then clipped, for each step: as in a plain loop."""
    module = Regression("lion")
    fit(module, tmp_path, 2, accumulate_grad_batches=2, gradient_clip_val=0.5)
    plain = Regression("lion")
    configured = plain.configure_optimizers()
    opt, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for _ in range(2):
        opt.zero_grad()
        for inputs, targets in data():
            ((plain.net(inputs) - targets).square().mean() / 2).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        opt.step()
        schedule.step()
    assert_equal(module, plain)


def test_mixed_precision_keeps_float32_parameters(tmp_path: Path) -> None:
    """bf16-mixed rounds the forward pass only: the parameters stay near those of the float32 run."""
    exact, mixed = Regression("muon"), Regression("muon")
    fit(exact, tmp_path, 1)
    trainer = fit(mixed, tmp_path, 1, precision="bf16-mixed")
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert {s["momentum"].dtype for s in trainer.optimizers[0].state.values() if "momentum" in s} == {torch.float32}
    differences = [(p - q).abs().max().item() for p, q in zip(mixed.parameters(), exact.parameters(), strict=True)]
    assert 0 < max(differences) < 0.02
