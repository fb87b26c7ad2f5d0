"""Layers and parametrizations that change what an optimizer sees: conditioning, subspaces, widths."""

__all__: list[str] = []

CARDS = ()
