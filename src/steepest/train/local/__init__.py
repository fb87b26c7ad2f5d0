"""Training without backpropagation through the whole network: local losses, forward gradients, stage by stage."""

__all__: list[str] = []

CARDS = ()
