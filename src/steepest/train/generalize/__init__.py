"""Training for data of another kind than those at hand: several environments, perturbed copies, chosen subsets.

- :class:`HessianAlignment`: a loss for several training environments, which aligns the head's gradients and Hessians.
- :class:`UDIM`: sharpness-aware steps that also agree on worst-case copies of the data, for one or several sources.
- :class:`SubsetAugmentation`: which examples to augment, when augmenting all of them is too slow.
"""

from steepest.train.generalize import hessian_alignment, subset_augmentation, udim
from steepest.train.generalize.hessian_alignment import AlignmentTerms, HessianAlignment
from steepest.train.generalize.subset_augmentation import Subset, SubsetAugmentation
from steepest.train.generalize.udim import UDIM, inconsistency

__all__ = ["UDIM", "AlignmentTerms", "HessianAlignment", "Subset", "SubsetAugmentation", "inconsistency"]

CARDS = (hessian_alignment.CARD, subset_augmentation.CARD, udim.CARD)
