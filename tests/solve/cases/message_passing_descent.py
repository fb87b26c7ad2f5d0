"""Message passing on a lattice of springs whose minimum is known."""

import torch
from solver_case import Case

from steepest.solve.convex import MessagePassingDescent, Quadratic

SIDE = 5


def problem(dtype: torch.dtype) -> Quadratic:
    """The graph Laplacian of a lattice plus 1/2; the minimum is at 1, ..., 25."""
    path = torch.diag(torch.ones(SIDE - 1), 1) + torch.diag(torch.ones(SIDE - 1), -1)
    edges = torch.kron(path, torch.eye(SIDE)) + torch.kron(torch.eye(SIDE), path)
    matrix = torch.diag(edges.sum(1) + 0.5) - edges
    solution = torch.arange(1.0, SIDE * SIDE + 1)
    return Quadratic(matrix.to(dtype).to_sparse_csr(), (matrix @ solution).to(dtype))


def case(blocks: str, steps: int) -> Case:
    exact = problem(torch.float64)
    return Case(
        name="message-passing-descent" + ("" if blocks == "greedy" else f"/{blocks}"),
        solver=MessagePassingDescent(blocks=blocks),
        problem=problem,
        start=lambda dtype: torch.zeros(SIDE * SIDE, dtype=dtype),
        optimum=-0.5 * float(exact.linear @ torch.arange(1.0, SIDE * SIDE + 1, dtype=torch.float64)),
        accuracy=1e-8,
        accuracy32=1e-2,
        steps=steps,
    )


CASES = (case("greedy", 40), case("random", 90), case("forests", 80), case("colors", 120))
