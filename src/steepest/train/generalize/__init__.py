"""Training for data of another kind than those at hand: several environments, perturbed copies, chosen subsets."""

__all__: list[str] = []

CARDS = ()
