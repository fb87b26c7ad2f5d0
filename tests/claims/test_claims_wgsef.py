"""The sides of the group sparse envelope's claim: fits, where the norms' paths begin, pruning."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from planted import wgsef as planted

from steepest.claims import Size, wgsef
from steepest.claims.claim import Context
from steepest.core.regularizer import L1, GroupL2, GroupSparseEnvelope

SMALL = wgsef._Scale(seeds=1, images=40, neurons=8, steps=5000, tolerance=1e-8)


@pytest.fixture(scope="module")
def train() -> wgsef.Split:
    return wgsef.splits(SMALL, "neurons", seed=3)[0]


def test_a_fit_is_cvxpys(train: wgsef.Split) -> None:
    """The envelope by its variational form, a second-order cone."""
    weight, k = 0.05, 3
    x = cp.Variable((8, wgsef.CLASSES))
    u = cp.Variable(8)
    scores = train.features.numpy() @ x
    chosen = np.eye(wgsef.CLASSES)[train.labels.numpy()]
    loss = cp.sum(cp.log_sum_exp(scores, axis=1)) - cp.sum(cp.multiply(chosen, scores))
    envelope = 0.5 * sum(cp.quad_over_lin(x[j], u[j]) for j in range(8))
    peer = cp.Problem(cp.Minimize(loss / len(chosen) + weight * envelope), [u >= 0, u <= 1, cp.sum(u) <= k])
    peer.solve(solver=cp.CLARABEL)
    found, met = wgsef.fit(SMALL, train, GroupSparseEnvelope(weight, k), torch.zeros(8, wgsef.CLASSES).double())
    assert met
    np.testing.assert_allclose(found.numpy(), x.value, atol=1e-4)


@pytest.mark.parametrize(("name", "norm"), [("l1", L1), ("group_l2", GroupL2)])
def test_the_paths_of_the_norms_begin_where_the_first_group_comes_in(train: wgsef.Split, name: str, norm: type) -> None:
    top = wgsef.largest(train, name)
    zero = torch.zeros(8, wgsef.CLASSES, dtype=torch.float64)
    assert wgsef.active(wgsef.fit(SMALL, train, norm(1.001 * top), zero)[0]) == 0
    assert wgsef.active(wgsef.fit(SMALL, train, norm(0.98 * top), zero)[0]) >= 1


def test_pruning_keeps_the_largest_rows() -> None:
    weights = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    assert torch.equal(wgsef.keep(weights, 2), weights * torch.tensor([1.0, 0, 0, 1])[:, None])
    assert [wgsef.active(weights), wgsef.active(wgsef.keep(weights, 2))] == [3, 2]


def test_the_sparsest_fit_is_chosen_among_the_good(train: wgsef.Split) -> None:
    good = train.features.mT @ torch.nn.functional.one_hot(train.labels, wgsef.CLASSES).double()
    sparse = wgsef.keep(good, 4)
    floor = min(train.accuracy(good), train.accuracy(sparse))
    assert wgsef._sparse([good, sparse], train, floor) is sparse
    assert wgsef._sparse([good, sparse], train, 101.0) is None


def test_both_sides_have_as_many_fits_and_the_parts_are_disjoint() -> None:
    assert len(wgsef.PATH) == len(wgsef.SHARES) * len(wgsef.WEIGHTS)
    assert list(wgsef.PATH) == sorted(wgsef.PATH, reverse=True)
    train, validation, test = wgsef.splits(wgsef._SCALES[Size.LAPTOP], "pixels", seed=1)
    assert len(train.labels) + len(validation.labels) + len(test.labels) == 1797
    torch.testing.assert_close(train.features.mean(0), torch.zeros(64).double(), rtol=0, atol=1e-12)
    assert float(train.features.square().mean()) == pytest.approx(1.0)


def test_the_experiment_measures_what_the_rule_reads() -> None:
    assert set(planted.WINNER) <= set(wgsef.measure(Context(Size.SMOKE)).figures)
