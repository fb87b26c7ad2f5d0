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
    "data-efficient-augmentation": "data_efficient_augmentation",
    "diffgrad": "diffgrad",
    "drop-muon": "drop_muon",
    "egn": "exact_gauss_newton",
    "forward-gradient": "forward_gradient",
    "frugal": "frugal",
    "gb-nn": "gb_nn",
    "ghost-batch-norm": "ghost_batch_norm",
    "grad-normalized-newton": "grad_normalized_newton",
    "grades": "grades",
    "gradient-noise": "gradient_noise",
    "gradient-regularization": "gradient_regularization",
    "hessian-alignment": "hessian_alignment",
    "induced-metric": "induced_metric",
    "intrinsic-dimension": "intrinsic_dimension",
    "lanczos-learning-rate": "lanczos_learning_rate",
    "langevin-averaging": "langevin_averaging",
    "large-scale-ml": "large_scale_ml",
    "last-iterate": "last_iterate",
    "lazy-hessian": "lazy_hessian",
    "lion": "lion",
    "lion-k": "lion_k",
    "marsadamw": "mars",
    "mfac": "mfac",
    "model-based": "model_based",
    "muon": "muon",
    "mup": "mup",
    "nesterov": "convex_handbook",
    "normalized-lr-gd": "normalized_lr_gd",
    "oasis": "oasis",
    "optimistic-amsgrad": "optimistic_amsgrad",
    "psgd": "psgd",
    "refined-schedule": "refined_schedule",
    "reg": "reg",
    "saddle-free-newton": "saddle_free_newton",
    "sam": "sam",
    "sania": "sania",
    "shampoo": "shampoo",
    "slow-start-fast-decay": "slow_start_fast_decay",
    "smb": "smb",
    "sophia": "sophia",
    "target-surrogate": "target_surrogate",
    "tngd": "thermodynamic",
    "tpsgd": "tpsgd",
    "tract": "tract",
    "trust-region": "trust_region",
    "udim": "udim",
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
