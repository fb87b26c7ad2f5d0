"""The claims there are, one file per method."""

import importlib

from steepest.core.errors import UnknownName

from .claim import Claim

__all__ = ["load", "registry"]

#: Method -> the module that tests its claim.
_MODULES = {
    "adabound": "adabound",
    "adahessian": "adahessian",
    "adamomentum": "adamomentum",
    "adamp": "adamp",
    "ademamix": "ademamix",
    "amsgrad": "amsgrad",
    "ano": "ano",
    "asgo": "asgo",
    "auon": "auon",
    "block-coordinate-descent": "block_coordinate_descent",
    "convergence-handbook": "convergence_handbook",
    "convex-relu-robust": "convex_relu_robust",
    "convexnet-admm": "convexnet_admm",
    "coordinate-clip": "coordinate_clip",
    "cs-regularizers": "cs_regularizers",
    "diffgrad": "diffgrad",
    "drop-muon": "drop_muon",
    "frugal": "frugal",
    "grades": "grades",
    "ghost-batch-norm": "ghost_batch_norm",
    "grad-normalized-newton": "grad_normalized_newton",
    "gradient-noise": "gradient_noise",
    "induced-metric": "induced_metric",
    "lazy-hessian": "lazy_hessian",
    "lion": "lion",
    "lion-k": "lion_k",
    "marsadamw": "mars",
    "muon": "muon",
    "optimistic-amsgrad": "optimistic_amsgrad",
    "nesterov": "convex_handbook",
    "normalized-lr-gd": "normalized_lr_gd",
    "psgd": "psgd",
    "reg": "reg",
    "saddle-free-newton": "saddle_free_newton",
    "shampoo": "shampoo",
    "sophia": "sophia",
    "tract": "tract",
    "trust-region": "trust_region",
    "weight-conditioning": "weight_conditioning",
    "wgsef": "wgsef",
}


def registry() -> dict[str, Claim]:
    """All claims by the name of their method."""
    return {name: load(name) for name in sorted(_MODULES)}


def load(name: str) -> Claim:
    """The claim of one method.

    Raises:
        UnknownName: no claim of a method of that name is tested; the message suggests the nearest.
    """
    if name not in _MODULES:
        raise UnknownName("claim", name, _MODULES)
    claim: Claim = importlib.import_module(f"{__package__}.{_MODULES[name]}").CLAIM
    return claim
