"""Hugging Face's Trainer and Accelerate train, save and resume with these optimizers; offline, on the CPU."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the packages are imported

transformers = pytest.importorskip("transformers", reason="needs Hugging Face: pip install transformers")
accelerate = pytest.importorskip("accelerate", reason="needs Accelerate: pip install accelerate")

from steepest.catalogue import card, cards  # noqa: E402

pytestmark = pytest.mark.integration

#: The Trainer calls ``step()``: methods that need a closure or the loss are not for it.
#: Trainers call backward themselves: not for methods that want a closure, or differentiate the loss twice.
OURS = sorted(
    name
    for name, entry in cards("optim").items()
    if not (entry.wraps or entry.differentiates or {"closure", "batch"} & set(entry.needs))
)


@pytest.fixture(autouse=True)
def _one_run_forgets_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate keeps its settings (precision, accumulation) in process-wide singletons."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    for (name, p), q in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q), f"{name} differs by {(p - q).abs().max().item():.3g}"


def schedule_of(opt: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=8)


# ------------------------------------------------------------------------------------------------ Trainer


def gpt() -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=2, n_head=2, n_embd=16, n_positions=8, vocab_size=23, bos_token_id=0, eos_token_id=0
        )
    )


def sentences() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(23, (16, 8), generator=draw)
    return [{"input_ids": row, "labels": row} for row in rows]


def hugging_face_run(method: str, folder: Path, *, steps: int, resume: Path | None = None) -> Any:
    model = gpt()
    opt = card(method).build(model, lr=0.003)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            save_strategy="steps",
            save_steps=2,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=3,
        ),
        train_dataset=sentences(),
        optimizers=(opt, schedule_of(opt)),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return model


@pytest.mark.parametrize("method", OURS)
def test_trainer_resumes_as_if_uninterrupted(tmp_path: Path, method: str) -> None:
    """Two steps, a checkpoint, two more, with dropout: the model of four steps in one go, bit for bit."""
    start = gpt()
    straight = hugging_face_run(method, tmp_path / "straight", steps=4)
    moved = [not torch.equal(p, q) for p, q in zip(straight.parameters(), start.parameters(), strict=True)]
    assert all(moved)
    hugging_face_run(method, tmp_path / "parts", steps=2)
    resumed = hugging_face_run(method, tmp_path / "parts", steps=4, resume=tmp_path / "parts" / "checkpoint-2")
    assert_equal(resumed, straight)


def test_muon_routes_a_transformer() -> None:
    """The tied embedding follows AdamW; the matrices of attention and of the feed-forward layers follow Muon.

    GPT-2 in this package stores its matrices as ``Conv1D``, a class of its own.
    """
    model = gpt()
    routing = card("muon").build(model).routing
    matrices = {name for name, _ in routing.named("matrix")}
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert matrices == {f"transformer.h.{i}.{layer}.weight" for i in range(2) for layer in layers}
    assert routing.role("transformer.wte.weight") == "embedding"


# ------------------------------------------------------------------------------------------------ Accelerate


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(size: int = 4) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(16, 6, generator=draw)
    return DataLoader(TensorDataset(inputs, inputs[:, :1].sin()), batch_size=size)


class Run:
    """A training run under Accelerate."""

    def __init__(self, method: str, folder: Path, **settings: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, project_dir=folder, **settings)
        model = network()
        opt = card(method).build(model, lr=0.01)
        self.model, self.opt, self.loader, self.schedule = self.accelerator.prepare(
            model, opt, batches(), schedule_of(opt)
        )

    def epoch(self) -> None:
        for inputs, targets in self.loader:
            with self.accelerator.accumulate(self.model):
                loss = (self.model(inputs) - targets).square().mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.opt.step()
                self.schedule.step()
                self.opt.zero_grad()


@pytest.mark.parametrize("method", OURS)
def test_accelerate_resumes_as_if_uninterrupted(tmp_path: Path, method: str) -> None:
    """With accumulation over two batches: two steps, a checkpoint, two more on other initial values."""
    straight = Run(method, tmp_path, gradient_accumulation_steps=2)
    straight.epoch()
    straight.accelerator.save_state(str(tmp_path / "half"))
    straight.epoch()
    rates = straight.schedule.get_last_lr()

    resumed = Run(method, tmp_path, gradient_accumulation_steps=2)
    with torch.no_grad():
        for p in resumed.model.parameters():
            p.add_(1.0)
    resumed.accelerator.load_state(str(tmp_path / "half"))
    resumed.epoch()
    assert resumed.schedule.get_last_lr() == rates
    assert_equal(resumed.model, straight.model)


def test_accelerate_equals_a_plain_loop(tmp_path: Path) -> None:
    """Accumulated, clipped and scheduled steps are those of a loop without Accelerate."""
    run = Run("adamp", tmp_path, gradient_accumulation_steps=2)
    run.epoch()
    model = network()
    opt = card("adamp").build(model, lr=0.01)
    schedule = schedule_of(opt)
    for index, (inputs, targets) in enumerate(batches()):
        ((model(inputs) - targets).square().mean() / 2).backward()
        if index % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
    assert_equal(run.model, model)


@pytest.mark.parametrize("method", ["ademamix", "lion", "muon"])
def test_accelerate_mixed_precision(tmp_path: Path, method: str) -> None:
    """Under bf16 autocast parameters and state stay float32, the schedule runs, and a resumed run is exact."""
    straight = Run(method, tmp_path, mixed_precision="bf16")
    straight.epoch()
    straight.accelerator.save_state(str(tmp_path / "half"))
    straight.epoch()
    state = [s for entry in straight.opt.optimizer.state.values() for s in entry.values() if isinstance(s, Tensor)]
    assert {t.dtype for t in (*straight.model.parameters(), *state)} == {torch.float32}
    assert straight.schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12), "eight steps end the cosine"

    resumed = Run(method, tmp_path, mixed_precision="bf16")
    resumed.accelerator.load_state(str(tmp_path / "half"))
    resumed.epoch()
    assert_equal(resumed.model, straight.model)


@pytest.mark.parametrize("method", OURS)
def test_grad_scaler_leaves_out_overflowing_steps(method: str) -> None:
    """``torch.amp.GradScaler``: scaled and unscaled gradients step alike, and an overflow changes nothing."""
    scaled, plain = network(), network()
    opt, reference = card(method).build(scaled, lr=0.01), card(method).build(plain, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: scaling is exact
    for index, (inputs, targets) in enumerate(batches()):
        opt.zero_grad()
        reference.zero_grad()
        bad = index == 1
        loss = (scaled(inputs) - targets).square().mean()
        scaler.scale(loss * float("inf") if bad else loss).backward()
        before = [p.detach().clone() for p in scaled.parameters()]
        scaler.step(opt)
        scaler.update()
        if bad:
            assert all(torch.equal(p, q) for p, q in zip(before, scaled.parameters(), strict=True))
        else:
            (plain(inputs) - targets).square().mean().backward()
            reference.step()
    assert scaler.get_scale() == 512.0
    assert_equal(scaled, plain)
