"""The step benchmark: what it counts, and the promises it judges. Times themselves are not tested."""

import json

import pytest
import torch

from steepest.bench import step as bench
from steepest.bench.contenders import CONTENDERS, REFERENCE, Contender
from steepest.bench.step import StepRow
from steepest.bench.worker import gpt_shapes, orthogonality_error, parameters
from steepest.catalogue import card
from steepest.cli import main
from steepest.core.errors import UnknownName


def test_bytes_per_element_of_adamw_is_28() -> None:
    # Read the gradient; read and write the parameter and two moments: seven passes of four bytes.
    assert REFERENCE.bytes_per_element == 28


# The compiled engine has the same state as the eager one. Matrix methods are not measured per byte.
EAGER = [c for c in CONTENDERS if c.package in ("steepest", "torch") and c.variant != "compiled" and not c.matrices]


@pytest.mark.parametrize("contender", [c for c in CONTENDERS if c.goal is not None], ids=lambda c: c.key)
def test_bytes_are_counted_with_the_buffers_of_the_card(contender: Contender) -> None:
    assert contender.buffers == card(contender.method).buffers


@pytest.mark.parametrize("contender", EAGER, ids=lambda c: c.key)
def test_declared_buffers_are_the_measured_ones(contender: Contender) -> None:
    params = [torch.nn.Parameter(torch.randn(8, 16))]
    params[0].grad = torch.randn(8, 16)
    optimizer = contender.build(params)
    optimizer.step()
    state = sum(v.numel() for v in optimizer.state[params[0]].values() if torch.is_tensor(v) and v.dim())
    assert state == contender.buffers * params[0].numel()


@pytest.mark.parametrize(
    "contender",
    [c for c in CONTENDERS if c.package == "steepest" and c.matrices and c.goal is None],
    ids=lambda c: c.key,
)
def test_every_matrix_contender_of_ours_steps(contender: Contender) -> None:
    params = [torch.nn.Parameter(torch.randn(8, 16))]
    before = params[0].detach().clone()
    params[0].grad = torch.randn(8, 16)
    contender.build(params).step()
    assert params[0].isfinite().all()
    assert not torch.equal(params[0], before)


def test_gpt_shapes_add_up_and_matrices_leave_the_embedding_out() -> None:
    for elements in (1_000_000, 30_000_000, 300_000_000):
        total = sum(torch.Size(s).numel() for s in gpt_shapes(elements))
        assert total == pytest.approx(elements, rel=0.25)
    shapes = [tuple(p.shape) for p in parameters(1_000_000, matrices=True)]
    assert len(shapes) == 32
    assert all(len(s) == 2 for s in shapes)
    assert gpt_shapes(1_000_000)[0] not in shapes


def test_orthogonality_error_is_zero_for_the_exact_factor_and_large_for_the_gradient() -> None:
    from steepest.optim import Muon

    assert orthogonality_error(lambda p: Muon(p, orthogonalization="exact")) < 1e-5
    assert orthogonality_error(lambda p: torch.optim.SGD(p, lr=0.1)) > 0.3


def _row(package: str, variant: str, **figures: float) -> StepRow:
    return StepRow("muon", package, variant, **figures)


def test_goals_are_judged_both_ways() -> None:
    fast = StepRow("lion", "steepest", "compiled", milliseconds=10.0, per_byte=1.2, goal=1.25, recompilations=0)
    slow = StepRow("lion", "steepest", "compiled", milliseconds=20.0, per_byte=1.3, goal=1.25, recompilations=1)
    assert bench._goals([fast])["lion (compiled): at most 1.25x fused AdamW per byte"] is True
    assert bench._goals([slow])["lion (compiled): at most 1.25x fused AdamW per byte"] is False

    ours = _row("steepest", "polar-express", milliseconds=100.0, orthogonality_error=0.1, matmul_share=0.6, lead=2.0)
    theirs = _row("torch", "default", milliseconds=190.0, orthogonality_error=0.2)
    goals = bench._goals([ours, theirs])
    assert goals == {
        "muon (polar-express): at least 70% of the matrix product's FLOP/s": False,
        "muon (polar-express): at least 2x faster than torch (default)": False,
        "muon (polar-express): at least as orthogonal as torch (default)": True,
    }
    small = StepRow("lion", "steepest", "8-bit", milliseconds=9.0, state_bytes=1.05, memory_goal=1.1)
    slow = StepRow("shampoo", "steepest", "every 20", milliseconds=9.0, per_step=3.5, step_goal=3.0)
    assert bench._goals([small, slow]) == {
        "lion (8-bit): at most 1.1 bytes of state per parameter": True,
        "shampoo (every 20): at most 3x fused AdamW's step": False,
    }


def test_unknown_method_and_bad_sizes_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match="did you mean 'lion'"):
        bench.run(methods=["lyon"])
    with pytest.raises(ValueError, match="threads must be an integer >= 1, got 0"):
        bench.run(threads=0)


def test_smoke_form_prints_json_with_figures_of_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "step", "--smoke", "--methods", "muon", "--no-peers", "--threads", "1", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in found["rows"]] == [
        "polar-express",
        "polar-express, 5 steps",
        "newton-schulz",
        "default",
    ]
    assert all(row["error"] is None and row["milliseconds"] > 0 for row in found["rows"])
    assert found["rows"][0]["orthogonality_error"] < found["rows"][-1]["orthogonality_error"]
    assert found["goals"]["muon (polar-express): at least as orthogonal as torch (default)"] is True
    assert found["rows"][0]["matmul_share"] > 0
    assert found["threads"] == 1
