"""The sides of the Cauchy-Schwarz regularizers' claim solve the problems that the claim says they solve."""

import cvxpy as cp
import pytest
import torch

from steepest.claims import cs_regularizers as claim


@pytest.mark.parametrize("kind", claim._KINDS)
def test_the_least_norm_is_cvxpys(kind: str) -> None:
    matrix, truth = claim.problem(kind, 60, seed=1)
    found = claim.by_norm(kind, matrix, truth)
    torch.testing.assert_close(matrix @ found, matrix @ truth, rtol=0, atol=1e-6)
    x = cp.Variable(claim.N)
    norm = cp.norm_inf if kind == "two-valued" else cp.norm1
    peer = cp.Problem(cp.Minimize(norm(x)), [matrix.numpy() @ x == (matrix @ truth).numpy()])
    peer.solve(solver=cp.CLARABEL)
    ours = found.abs().max() if kind == "two-valued" else found.abs().sum()
    assert float(ours) == pytest.approx(peer.value, rel=1e-6)


@pytest.mark.parametrize("kind", claim._KINDS)
def test_recovery_ends_at_solutions_and_finds_the_vector_from_many_equations(kind: str) -> None:
    problems = [claim.problem(kind, equations, seed) for equations in (30, 95) for seed in (1, 2)]
    found = claim.recover(kind, problems, starts=2, steps=400, seed=0)
    for (matrix, truth), x in zip(problems, found, strict=True):
        torch.testing.assert_close(matrix @ x, matrix @ truth, rtol=0, atol=1e-8)
    hits = claim._hits(found, torch.stack([truth for _, truth in problems]))
    assert hits.tolist()[2:] == [1, 1]
    # What counts as solved is what the regularizer says, without a look at the truth.
    solved = claim._relative(claim._REGULARIZERS[kind], found) <= claim._SOLVED
    assert solved.tolist()[2:] == [True, True]


def test_vectors_hold_the_values_of_their_kind_and_equations_are_nested() -> None:
    for kind, values in claim._VALUES.items():
        matrix, truth = claim.problem(kind, 40, seed=3)
        assert tuple(truth.unique().tolist()) == values
        more, same = claim.problem(kind, 70, seed=3)
        assert torch.equal(more[:40], matrix)
        assert torch.equal(same, truth)


def test_the_crossing_is_interpolated() -> None:
    ratios = [0.3, 0.4, 0.5]
    assert claim.crossing(ratios, [0.0, 0.25, 0.75]) == pytest.approx(0.45)
    assert claim.crossing(ratios, [0.6, 0.7, 1.0]) == 0.3
    assert claim.crossing(ratios, [0.0, 0.0, 0.2]) is None
