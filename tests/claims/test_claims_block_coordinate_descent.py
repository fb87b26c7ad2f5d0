"""The problems of the claim of block coordinate descent are those that it tells of."""

import itertools

import pytest
import torch

from steepest.claims import block_coordinate_descent as claim
from steepest.solve.convex import BlockCoordinateDescent


def test_label_propagation_is_the_energy_of_the_edges() -> None:
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [1, 3], [1, 0]])  # the last one twice
    labels = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=torch.float64)
    found = claim.propagation(edges, 4, labels)
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)
    values = torch.tensor([1.0, 0.3, -1.0, -0.7], dtype=torch.float64)
    energy = 0.5 * sum(float((values[i] - values[j]) ** 2) for i, j in edges[:5].tolist())
    energy += 0.5e-3 * float(x.square().sum())
    # The labels' own part does not depend on x.
    at_zero = 0.5 * sum(float((labels[i] - labels[j]) ** 2) for i, j in edges[:5].tolist())
    difference = found.smooth_value(x) - found.smooth_value(torch.zeros(2, dtype=torch.float64))
    assert float(difference) == pytest.approx(energy - at_zero)


def test_the_lattice_has_four_neighbours_inside() -> None:
    found = claim.lattice(9, torch.Generator().manual_seed(0))
    diagonal = found.design.to_dense().diagonal()
    assert {round(float(value), 3) for value in diagonal} <= {2.001, 3.001, 4.001}
    assert float(diagonal.max()) == pytest.approx(4.001)
    assert float(found.linear.abs().sum()) > 0


def test_the_least_value_is_no_larger_than_what_blocks_reach() -> None:
    for problem, least in claim.problems(claim._SCALES[claim.Size.SMOKE], claim.Size.SMOKE, 3).values():
        solver = BlockCoordinateDescent(size=20)
        start = torch.zeros(problem.design.shape[1], dtype=torch.float64)
        reached = solver.run(problem, start, budget="60steps", progress=False).value
        assert reached is not None
        assert reached >= least - 1e-9
        gaps = claim.descend(solver, problem, 60, 0, least)
        assert len(gaps) == 60
        assert all(b <= a + 1e-9 for a, b in itertools.pairwise(gaps)), "blocks descend"
        assert gaps[0] <= 0


def test_random_data_has_columns_of_very_different_sizes_and_few_entries() -> None:
    design, response = claim.sparse_design(200, 400, torch.Generator().manual_seed(0))
    part = float((design != 0).double().mean())
    assert part == pytest.approx(10 * 5.298 / 200, rel=0.05)
    norms = design.norm(dim=0)
    assert norms.quantile(0.9) > 5 * norms.quantile(0.1)
    assert response.shape == (200,)
