"""The watch on a run: it changes nothing, and what it says is what the instruments say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.analyze import RunExplanation, RunWatch, gradient_noise_scale, sharpness
from steepest.optim.schedules import refine

STEPS = 12


def data(n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(1)


def train(watched: bool) -> tuple[nn.Module, RunExplanation | None, list[float]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    x, y = data()
    batches = [(x[k : k + 16], y[k : k + 16]) for k in range(0, 64, 16)]
    watch = RunWatch(model, cross_entropy, batches, optimizer, every=5, batch_size=16, lanczos_steps=10)
    norms = []
    for step in range(STEPS):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
        if watched:
            watch.step()
        optimizer.step()
        schedule.step()
    return model, watch.finish() if watched else None, norms


def test_the_run_is_the_same_with_and_without() -> None:
    with_watch, _, _ = train(True)
    without, _, _ = train(False)
    for ours, theirs in zip(with_watch.state_dict().values(), without.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_says_what_the_instruments_say(tmp_path: Path) -> None:
    model, found, norms = train(True)
    assert found is not None
    x, y = data()
    batches = [(x[k : k + 16], y[k : k + 16]) for k in range(0, 64, 16)]
    assert found.looked_at == [0, 5, 10, 12]
    assert np.allclose(found.norms, norms, rtol=1e-6)
    assert np.allclose(found.rates, 0.2 * (1 - 0.9 * np.arange(STEPS) / STEPS))
    assert found.sharpness[-1] == pytest.approx(sharpness(model, cross_entropy, batches).largest, rel=0.02)
    assert found.noise_scale[-1] == pytest.approx(gradient_noise_scale(model, cross_entropy, batches).batch_size)
    assert np.allclose(found.schedule, 0.2 * refine(norms))
    assert found.after.largest == pytest.approx(found.sharpness[-1], rel=0.02)
    text = str(found)
    for word in ("Sharpness", "Spectrum", "Gradient noise", "Schedule"):
        assert word in text
    figure = found.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000
    assert [axes.get_title() for axes in figure.axes] == [
        "Sharpness",
        "Gradient noise",
        "Spectrum of the Hessian",
        "Schedule",
    ]


def test_bad_input() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="every must be"):
        RunWatch(model, cross_entropy, [], optimizer, every=0)
    with pytest.raises(ValueError, match="RunWatch: batches must hold at least two pairs"):
        RunWatch(model, cross_entropy, [data()], optimizer)
    watch = RunWatch(model, cross_entropy, [data(), data()], optimizer)
    with pytest.raises(RuntimeError, match="no step was recorded"):
        watch.finish()
