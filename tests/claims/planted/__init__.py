"""Planted figures of every claim, one file per claim: what its rule must say of them.

The file of ``lion-k`` is ``lion_k.py``. It holds

- ``WINNER``: figures with which the claim is reproduced;
- ``CHANGES``: pairs of what is changed in the winner's figures and the verdict that must follow, ``NO`` at least once;
- ``sides(size)``, where the claim's module has ``_sides``: all sides of its comparison at that size.
"""

import importlib
import pkgutil
from types import ModuleType

from steepest.claims import Verdict

YES, PARTLY, NO, UNKNOWN = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE


def spread(name: str, low: float | None, high: float | None) -> dict[str, float | None]:
    """A difference with its interval."""
    middle = None if low is None or high is None else (low + high) / 2
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def planted() -> dict[str, ModuleType]:
    """Claim -> its file; the name of a claim is the file's, with dashes."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
