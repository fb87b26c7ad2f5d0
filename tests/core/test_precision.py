"""Low-precision storage: right in the mean, as small as promised, the same again for the same step."""

import math

import pytest
import torch
from torch import Tensor

from steepest.core.precision import BLOCK, decode, encode, layout, round_stochastically


def through(t: Tensor, kind: str, step: int, nonnegative: bool = False) -> Tensor:
    return decode("s", encode("s", t, kind, nonnegative, step, False), t, False)  # type: ignore[arg-type]


def draw(count: int = 8192, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(4 * torch.randn(count, generator=generator))  # eight orders of magnitude
    return size * torch.sign(torch.randn(count, generator=generator))


@pytest.mark.parametrize(("kind", "nonnegative"), [("bfloat16", False), ("8bit", False), ("8bit", True)])
def test_rounding_is_right_in_the_mean(kind: str, nonnegative: bool) -> None:
    """The mean over many steps' random numbers approaches the value: the deviation is that of a mean, and no bias."""
    t = draw(4096).abs() if nonnegative else draw(4096)
    trials = 400
    rounded = torch.stack([through(t, kind, step, nonnegative).double() for step in range(trials)])
    spread = rounded.std(0)
    upper = (rounded == rounded.amax(0)).double().mean(0)
    moved = (upper > 0.05) & (upper < 0.95)  # where one of both values is rare, a mean of 400 is not normal yet
    z = (rounded.mean(0) - t.double())[moved] / (spread[moved] / math.sqrt(trials))
    assert moved.float().mean() > 0.3
    assert z.abs().max() < 6  # 4,096 standard normal numbers reach 4
    assert z.mean().abs() < 0.1
    assert 0.9 < z.std() < 1.1


def test_nearest_rounding_would_stall() -> None:
    """An average with decay 0.999 towards 1: exact to 2 % after 2,000 steps; rounded to nearest it stands still."""
    exact, nearest, ours = 0.0, torch.zeros(1, dtype=torch.bfloat16), torch.zeros(64)
    for step in range(2000):
        exact += 0.001 * (1 - exact)
        nearest = (nearest.float() + 0.001 * (1 - nearest.float())).to(torch.bfloat16)
        ours = through(ours + 0.001 * (1 - ours), "bfloat16", step)
    assert nearest.item() < 0.3
    assert ours.mean().item() == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_eight_bits_in_an_average(nonnegative: bool) -> None:
    """The same with 8 bits, for values of very different size in one block."""
    target = torch.logspace(-4, 0, 4096)[torch.randperm(4096, generator=torch.Generator().manual_seed(0))]
    t = torch.zeros_like(target)
    for step in range(3000):
        t = through(t + 0.005 * (target - t), "8bit", step, nonnegative)
    assert (t / target).log().abs().mean() < 0.15
    assert (t / target).mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_error_of_one_rounding(nonnegative: bool) -> None:
    t = torch.linspace(0.1, 1.0, 4096)
    error = (through(t, "8bit", 1, nonnegative) / t - 1).abs()
    assert error.max() < 0.06
    assert through(torch.zeros(4096), "8bit", 1, nonnegative).abs().max() == 0
    for exact in (1.0, 3e-30, 2e30):  # the largest of a block is kept
        assert torch.equal(through(torch.full((4096,), exact), "8bit", 3, nonnegative), torch.full((4096,), exact))


def test_positive_second_moments_stay_positive() -> None:
    t = torch.full((4096,), 1e-20)
    t[::BLOCK] = 1.0
    assert through(t, "8bit", 1, True).min() > 0


@pytest.mark.parametrize("kind", ["bfloat16", "8bit"])
def test_bytes_and_layout(kind: str) -> None:
    t = draw(10_000).view(100, 100)
    for nonnegative in (False, True):
        stored = encode("s", t.abs(), kind, nonnegative, 1, False)  # type: ignore[arg-type]
        expected = layout("s", torch.empty(100, 100, device="meta"), kind, nonnegative)  # type: ignore[arg-type]
        assert {k: (v.shape, v.dtype) for k, v in stored.items()} == {
            k: (v.shape, v.dtype) for k, v in expected.items()
        }
        taken = sum(v.numel() * v.element_size() for v in stored.values()) / t.numel()
        assert taken <= (2.0 if kind == "bfloat16" else 1.02)
        assert decode("s", stored, t, False).shape == t.shape


def test_small_tensors_stay_as_they_are() -> None:
    t = draw(4095)
    assert encode("s", t, "8bit", False, 1, False)["s"] is t
    double = draw(8192).double()
    assert encode("s", double, "8bit", False, 1, False)["s"] is double


def test_steps_and_names_draw_differently_and_repeatably() -> None:
    t = draw()
    assert torch.equal(through(t, "8bit", 5), through(t, "8bit", 5))
    assert not torch.equal(through(t, "8bit", 5), through(t, "8bit", 6))
    same = (
        encode("a", t, "bfloat16", False, 1, False)["a"] == encode("b", t, "bfloat16", False, 1, False)["b"]
    ).float()
    assert 0.4 < same.mean() < 0.8


def test_the_random_bits_are_uniform() -> None:
    from steepest.core.precision import _seed, _uniform

    for step in (1, 2, 1000):
        u = _uniform(torch.zeros(100_000), _seed("s", step))
        assert 0 <= u.min() <= u.max() < 1
        counts = torch.histc(u, 20, 0, 1)
        assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi-square with 19 degrees of freedom
        assert abs(torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]) < 0.02
        assert abs(torch.corrcoef(torch.stack([u, _uniform(u, _seed("s", step + 1))]))[0, 1]) < 0.02


def test_what_is_not_finite_stays_so() -> None:
    t = draw(4096)
    t[3], t[700] = math.nan, math.inf
    half = round_stochastically(t, 1)
    assert half[3].isnan()
    assert half[700] == math.inf
    assert half.isfinite().sum() == 4094
    assert not through(t, "8bit", 1)[3].isfinite()
    assert through(t, "8bit", 1)[BLOCK : 2 * BLOCK].isfinite().all()
    top = torch.full((8,), torch.finfo(torch.float32).max)
    assert (round_stochastically(top, 1) == math.inf).all()  # as to nearest: bfloat16 has no such number


@pytest.mark.slow
@pytest.mark.parametrize("nonnegative", [False, True])
def test_compiled_storage_is_the_same(nonnegative: bool) -> None:
    """The same random numbers; arithmetic may differ in the last digit, which moves few codes by one."""
    t = draw(5000).abs() if nonnegative else draw(5000)
    plain, fused = (encode("s", t, "8bit", nonnegative, 7, compiled) for compiled in (False, True))
    assert torch.equal(plain["s:scale"], fused["s:scale"])
    differing = plain["s"].int() - fused["s"].int()
    assert (differing != 0).float().mean() < 0.01
    assert differing.abs().max() <= 1
    torch.testing.assert_close(decode("s", fused, t, True), decode("s", fused, t, False))
    assert torch.equal(
        encode("s", t, "bfloat16", False, 7, True)["s"], encode("s", t, "bfloat16", False, 7, False)["s"]
    )
