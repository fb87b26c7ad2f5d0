"""The layers of a model in the order of its forward pass, for methods that treat layers differently."""

from torch import Tensor, nn

__all__ = ["layers_of"]


def layers_of(model: nn.Module) -> list[list[nn.Module | Tensor]]:
    """The layers of a model, taken to be registered in the order of its forward pass.

    They are the children of the model, with ``nn.Sequential`` and ``nn.ModuleList`` opened, so that each block of a
    transformer is a layer. Embeddings in a row are one layer. A child without a matrix (a norm, an activation with
    parameters) belongs to the layer before it, or to the first; the model's own tensors (position embeddings) belong to
    the first. What is a single layer by this is opened in turn.
    """
    children: list[nn.Module] = []

    def collect(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, (nn.Sequential, nn.ModuleList)):
                collect(child)
            elif any(p.requires_grad for p in child.parameters()):
                children.append(child)

    collect(model)
    own: list[nn.Module | Tensor] = list(model.parameters(recurse=False))
    layers: list[list[nn.Module | Tensor]] = []
    last: nn.Module | None = None  # the child with a matrix in the current layer
    for child in children:
        weighty = any(p.dim() > 1 for p in child.parameters())
        beside = isinstance(child, nn.Embedding) and isinstance(last, nn.Embedding)
        if not layers or (weighty and last is not None and not beside):
            layers.append([child])
        else:
            layers[-1].append(child)
        last = child if weighty else last
    if not layers:
        return [own] if own else []
    if len(layers) == 1 and any(True for _ in children[0].children()):
        layers = layers_of(children[0])
        layers[-1] += children[1:]
    layers[0] = [*own, *layers[0]]
    return layers
