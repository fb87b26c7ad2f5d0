"""Take arithmetic on scalars out of a traced kernel, so that its loop over elements loads their results instead.

A rule writes ``(1 - beta) * g``. Traced with hyper-parameters as data, the subtraction would be done again for every
vector of elements, in float64. Here the graph is split: whatever depends on the hyper-parameters alone goes to a small
graph that runs once per step, and the kernel gets its results as one vector in the kernel's own dtype.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["hoist_scalars"]


def hoist_scalars(module: GraphModule, hyper: Node, dtype: torch.dtype) -> tuple[GraphModule, Callable[..., Tensor]]:
    """Split a traced kernel.

    Args:
        module: the kernel's graph; left as it is.
        hyper: the placeholder of the hyper-parameters, a vector.
        dtype: of the vector that takes its place.

    Returns:
        The kernel that takes, in the same place, the vector of hoisted results, and the function from hyper-parameters
        to that vector.
    """
    scalars = {hyper}
    for node in module.graph.nodes:
        inputs = node.all_input_nodes
        if node.op in ("call_function", "call_method") and inputs and scalars.issuperset(inputs):
            scalars.add(node)
    wanted = [
        node
        for node in module.graph.nodes
        if node in scalars and node is not hyper and any(user not in scalars for user in node.users)
    ]

    host = Graph()
    copies: dict[Node, Node] = {hyper: host.placeholder("hyper")}
    for node in module.graph.nodes:
        if node in scalars and node is not hyper:
            copies[node] = host.node_copy(node, lambda n: copies[n])
    host.output(tuple(copies[node] for node in wanted))
    prepare = GraphModule(torch.nn.Module(), host)

    kernel = Graph()
    places: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node is hyper:
            vector = kernel.placeholder("scalars")
            places[node] = vector
        elif node not in scalars:
            for source in node.all_input_nodes:
                if source in scalars and source not in places:
                    places[source] = kernel.call_function(torch.select, (vector, 0, wanted.index(source)))
            places[node] = kernel.node_copy(node, lambda n: places[n])

    def pack(values: Tensor) -> Tensor:
        return torch.stack([torch.as_tensor(v) for v in prepare(values)]).to(dtype)

    return GraphModule(module, kernel), pack
