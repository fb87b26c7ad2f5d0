"""Message passing on forests against dense solves, and the greedy forests against fixed ones."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.csgraph
import torch

from steepest.core.regularizer import L1
from steepest.solve.convex import BlockCoordinateDescent, MessagePassingDescent, Quadratic
from steepest.solve.convex.forest import color_classes, grow_forest, solve_forest


def laplacian(edges: list[tuple[int, int]], count: int, seed: int = 0) -> torch.Tensor:
    """A weighted graph Laplacian plus a positive diagonal, dense."""
    generator = np.random.default_rng(seed)
    matrix = np.diag(generator.uniform(0.01, 0.5, count))
    for i, j in edges:
        weight = generator.uniform(0.2, 2.0)
        matrix[i, j] -= weight
        matrix[j, i] -= weight
        matrix[i, i] += weight
        matrix[j, j] += weight
    return torch.from_numpy(matrix)


def lattice(side: int) -> list[tuple[int, int]]:
    right = [(side * r + c, side * r + c + 1) for r in range(side) for c in range(side - 1)]
    down = [(side * r + c, side * (r + 1) + c) for r in range(side - 1) for c in range(side)]
    return right + down


def random_forest(count: int, seed: int, join: float) -> list[tuple[int, int]]:
    generator = np.random.default_rng(seed)
    names = generator.permutation(count)
    return [(int(names[i]), int(names[generator.integers(i)])) for i in range(1, count) if generator.uniform() < join]


SHAPES = {
    "path": ([(i, i + 1) for i in range(40)], 41),
    "star": ([(0, i) for i in range(1, 30)], 30),
    "alone": ([], 5),
    "one": ([], 1),
    "pair": ([(0, 1)], 2),
    **{f"random {seed}": (random_forest(60, seed, 1.0 if seed < 4 else 0.8), 60) for seed in range(8)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_forest_is_solved_as_by_a_dense_factor(shape: str) -> None:
    edges, count = SHAPES[shape]
    matrix = laplacian(edges, count)
    right = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
    found = solve_forest(matrix.to_sparse_csr(), order, right)
    torch.testing.assert_close(found, torch.linalg.solve(matrix[order[:, None], order], right), rtol=1e-11, atol=1e-11)


def test_forests_inside_a_larger_graph() -> None:
    matrix = laplacian(lattice(8), 64)
    sparse = matrix.to_sparse_csr()
    for seed in range(5):
        block = grow_forest(sparse, torch.randperm(64, generator=torch.Generator().manual_seed(seed)))
        right = torch.randn(len(block), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = solve_forest(sparse, block, right)
        torch.testing.assert_close(found, torch.linalg.solve(matrix[block[:, None], block], right))


@pytest.mark.parametrize("edges", [[(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4)]])
def test_a_cycle_is_refused(edges: list[tuple[int, int]]) -> None:
    matrix = laplacian(edges, 5).to_sparse_csr()
    with pytest.raises(ValueError, match="forest"):
        solve_forest(matrix, torch.arange(5), torch.ones(5).double())


def cycles(matrix: torch.Tensor, nodes: list[int]) -> int:
    """Edges minus nodes plus components: zero for a forest."""
    part = scipy.sparse.csr_matrix(matrix[nodes][:, nodes].numpy())
    components = scipy.sparse.csgraph.connected_components(part)[0]
    return (part.nnz - len(nodes)) // 2 - len(nodes) + int(components)


@pytest.mark.parametrize("seed", range(4))
def test_grown_forests_have_no_cycle_and_no_room_for_another_variable(seed: int) -> None:
    generator = np.random.default_rng(seed)
    edges = [(i, j) for i in range(30) for j in range(i) if generator.uniform() < 0.15]
    matrix = laplacian(edges, 30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    taken = grow_forest(matrix.to_sparse_csr(), order).tolist()
    assert cycles(matrix, taken) == 0
    assert taken[0] == int(order[0])
    for other in set(range(30)) - set(taken):
        assert cycles(matrix, [*taken, other]) > 0


def test_a_lattice_has_two_colors() -> None:
    classes = color_classes(laplacian(lattice(5), 25).to_sparse_csr())
    assert [c.tolist() for c in classes] == [list(range(0, 25, 2)), list(range(1, 25, 2))]


def problem(edges: list[tuple[int, int]], count: int) -> tuple[Quadratic, torch.Tensor]:
    matrix = laplacian(edges, count)
    linear = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Quadratic(matrix.to_sparse_csr(), linear), torch.linalg.solve(matrix, linear)


@pytest.mark.parametrize("blocks", ["greedy", "random", "forests"])
def test_a_forest_takes_one_step(blocks: str) -> None:
    quadratic, solution = problem(random_forest(80, 1, 0.9), 80)
    result = MessagePassingDescent(blocks=blocks).run(quadratic, torch.ones(80).double(), budget="1steps")
    torch.testing.assert_close(result.solution, solution, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("blocks", ["greedy", "random", "forests", "colors"])
def test_every_step_is_the_exact_minimum_over_its_block(blocks: str) -> None:
    quadratic, solution = problem(lattice(7), 49)
    matrix, found = quadratic.design.to_dense(), []
    x = torch.zeros(49, dtype=torch.float64)
    solver = MessagePassingDescent(blocks=blocks)
    run = solver.run(quadratic, x, budget="700steps", tolerance=1e-10, callbacks=[lambda r: found.append(r.state)])
    assert run.success
    torch.testing.assert_close(run.solution, solution, rtol=0, atol=1e-8)
    for state in found[:30]:
        b = state.block
        rest = torch.ones(49, dtype=torch.bool)
        rest[b] = False
        expected = x.clone()  # x_F = A_FF^{-1} (b_F - A_FR x_R)
        right = quadratic.linear[b] - matrix[b][:, rest] @ x[rest]
        expected[b] = torch.linalg.solve(matrix[b[:, None], b], right)
        torch.testing.assert_close(state.point, expected, rtol=0, atol=1e-11)
        g = (matrix @ x - quadratic.linear)[b]
        promised = 0.5 * g @ torch.linalg.solve(matrix[b[:, None], b], g)
        assert float(quadratic.value(x) - quadratic.value(state.point)) == pytest.approx(float(promised), abs=1e-11)
        x = state.point


def test_greedy_forests_beat_colors_and_small_blocks() -> None:
    quadratic, _ = problem(lattice(15), 225)
    start = torch.zeros(225).double()

    def steps(solver: Any) -> int:
        run = solver.run(quadratic, start, budget="900steps", tolerance=1e-6)
        assert run.success
        return int(run.steps)

    greedy = steps(MessagePassingDescent())
    assert greedy < 0.6 * steps(MessagePassingDescent(blocks="colors"))
    run = BlockCoordinateDescent(size=5).run(quadratic, start, budget=f"{greedy}steps")
    assert float(run.stationarity or 0.0) > 1e-3
    first = MessagePassingDescent().run(quadratic, start, budget="1steps")
    assert len(first.state.block) > 225 / 2


def test_what_it_cannot_do_is_said() -> None:
    matrix, ones = laplacian([(0, 1)], 2), torch.ones(2).double()
    with pytest.raises(TypeError, match="CSR"):
        MessagePassingDescent().run(Quadratic(matrix, ones), ones, budget="1steps")
    with pytest.raises(TypeError, match="regularizer must be none"):
        MessagePassingDescent().run(Quadratic(matrix.to_sparse_csr(), ones, L1(0.1)), ones, budget="1steps")
    with pytest.raises(ValueError, match="MessagePassingDescent: blocks must be one of"):
        MessagePassingDescent(blocks="trees")
