"""Forests in the graph of a sparse symmetric matrix: how to find large ones, and the linear solve on them in O(n)."""

import torch
from torch import Tensor

__all__ = ["color_classes", "grow_forest", "solve_forest"]


def grow_forest(matrix: Tensor, order: Tensor) -> Tensor:
    """Variables that induce a forest: in the order given, each that closes no cycle with those taken before.

    Args:
        matrix: symmetric, CSR; its off-diagonal entries are the edges.
        order: the variables to look at, ``(k,)``, the most wanted first.

    Returns:
        those taken, in the order in which they were.
    """
    start, neighbors = matrix.crow_indices().tolist(), matrix.col_indices().tolist()
    tree: dict[int, int] = {}  # union-find: the parent of each variable taken

    def root(node: int) -> int:
        while tree[node] != node:
            tree[node] = tree[tree[node]]
            node = tree[node]
        return node

    taken: list[int] = []
    for node in order.tolist():
        roots = [root(other) for other in neighbors[start[node] : start[node + 1]] if other != node and other in tree]
        if len(set(roots)) == len(roots):
            tree[node] = node
            for other in roots:
                tree[other] = node
            taken.append(node)
    return torch.tensor(taken, dtype=torch.long, device=matrix.device)


def color_classes(matrix: Tensor) -> list[Tensor]:
    """A greedy coloring in the variables' order: classes without an edge inside. Of a lattice in its usual order, red
    and black."""
    start, neighbors = matrix.crow_indices().tolist(), matrix.col_indices().tolist()
    color = [-1] * (len(start) - 1)
    for node in range(len(color)):
        used = {color[other] for other in neighbors[start[node] : start[node + 1]] if other != node}
        color[node] = next(c for c in range(len(color)) if c not in used)
    colors = torch.tensor(color, device=matrix.device)
    return [(colors == c).nonzero()[:, 0] for c in range(int(colors.max()) + 1)]


def solve_forest(matrix: Tensor, block: Tensor, right: Tensor) -> Tensor:
    """The solution of ``A_bb x = r`` where the graph of ``A_bb`` is a forest.

    Gaussian elimination from the leaves inwards, then back (for Gaussian models this is belief propagation); all leaves
    of a round at once, so that the work is linear in the number of entries, and the rounds are as many as the deepest
    tree has levels.

    Args:
        matrix: ``A``, symmetric positive definite, CSR.
        block: ``b``, distinct variables, ``(k,)``.
        right: ``r``, ``(k,)``.

    Raises:
        ValueError: the graph has a cycle.
    """
    count, device = len(block), block.device
    place = torch.full((len(matrix),), -1, dtype=torch.long, device=device)
    place[block] = torch.arange(count, device=device)
    all_rows = torch.repeat_interleave(torch.arange(len(matrix), device=device), matrix.crow_indices().diff())
    row, column, value = place[all_rows], place[matrix.col_indices()], matrix.values()
    own = (row == column) & (row >= 0)
    diagonal = value.new_zeros(count).index_add(0, row[own], value[own])
    edge = (row >= 0) & (column >= 0) & (row != column) & (value != 0)
    row, column, value = row[edge], column[edge], value[edge]
    # Each variable keeps the number of its remaining edges and the sum of their numbers: with one left, the sum is it.
    numbers = torch.arange(len(row), device=device)
    degree = torch.zeros(count, dtype=torch.long, device=device).index_add(0, row, torch.ones_like(row))
    sums = torch.zeros(count, dtype=torch.long, device=device).index_add(0, row, numbers)
    size = max(count, 1)
    keys, order = (row * size + column).sort()
    reverse = order[
        torch.searchsorted(keys, column * size + row)
    ]  # the number of the same edge seen from its other end
    right = right.clone()
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    left = count
    alive = torch.ones(count, dtype=torch.bool, device=device)
    while left:
        leaves = (alive & (degree == 1)).nonzero()[:, 0]
        if len(leaves):
            edges = sums[leaves]
            parents = column[edges]
            # Of two leaves that have only each other, the one with the smaller number goes first.
            first = (degree[parents] > 1) | (leaves < parents)
            leaves, edges, parents = leaves[first], edges[first], parents[first]
            factor = value[edges] / diagonal[leaves]
            diagonal = diagonal.index_add(0, parents, -factor * value[edges])
            right = right.index_add(0, parents, -factor * right[leaves])
            degree = degree.index_add(0, parents, -torch.ones_like(parents))
            sums = sums.index_add(0, parents, -reverse[edges])
            rounds.append((leaves, edges, parents))
            alive[leaves] = False
            left -= len(leaves)
        elif bool((alive & (degree > 1)).any()):
            raise ValueError("block must induce a forest, but its graph has a cycle")
        else:
            break  # what is left stands alone
    solution = right / diagonal
    for leaves, edges, parents in reversed(rounds):
        solution = solution.index_copy(0, leaves, (right[leaves] - value[edges] * solution[parents]) / diagonal[leaves])
    return solution
