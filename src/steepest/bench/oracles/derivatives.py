"""Hessian-vector products, per-sample gradients and spectra, against the packages that offer them."""

import copy
import importlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ...analyze import spectrum
from ...core import tree
from ...core.operators import Hessian, per_sample_gradients
from ..contenders import installed
from .models import Setting, mlp, settings
from .turns import Promise, Row, Way, most, turns

__all__ = ["hvp", "per_sample", "spectra"]


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return tree.ravel([t.detach() for t in parts])


def _curvlinops(setting: Setting, vector: Tensor) -> Iterator[Way]:
    if installed("curvlinops-for-pytorch"):
        batches = [(setting.inputs, setting.targets)]
        made = importlib.import_module("curvlinops").HessianLinearOperator(
            setting.model, nn.CrossEntropyLoss(), setting.parameters, batches
        )
        yield Way("HessianLinearOperator", "curvlinops", lambda: made @ vector, lambda found: found)


def _pyhessian(setting: Setting, vector: Tensor) -> Iterator[Way]:
    if installed("pyhessian"):
        utils: Any = importlib.import_module("pyhessian.utils")
        parts = list(tree.unravel(vector, setting.parameters))
        gradients = torch.autograd.grad(setting.value(), setting.parameters, create_graph=True)
        yield Way(
            "hessian_vector_product, graph kept",
            "pyhessian",
            lambda: utils.hessian_vector_product(gradients, setting.parameters, parts),
            _joined,
        )


def hvp(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """Products with the Hessian in units of a gradient."""
    rows: list[Row] = []
    repeated: list[float | None] = []
    for setting in settings(smoke):
        batches = [(setting.inputs, setting.targets)]
        once = Hessian(setting.model, setting.loss, batches, keep=False)
        kept = Hessian(setting.model, setting.loss, batches, keep=True)
        vector = torch.randn(kept.size)
        ways = [
            Way("gradient", "torch", setting.gradient),
            Way("product, repeated at a point", "steepest", partial(kept, vector), lambda found: found),
            Way("product, once", "steepest", partial(once, vector), lambda found: found),
            *_curvlinops(setting, vector),
            *_pyhessian(setting, vector),
        ]
        found = turns("Hessian-vector products", setting.name, ways, rounds)
        repeated.append(found[1].ratio)
        rows += found
    return rows, [most("Hessian-vector product: at most 2.5 gradients", 2.5, repeated, not smoke)]


def _opacus(setting: Setting) -> Iterator[Way]:
    if installed("opacus"):
        wrapped: Any = importlib.import_module("opacus").GradSampleModule
        model = wrapped(copy.deepcopy(setting.model).train(), loss_reduction="mean")

        def run() -> list[Tensor]:
            model.zero_grad()
            setting.loss(model(setting.inputs), setting.targets).backward()
            return [p.grad_sample for p in model.parameters()]

        yield Way("GradSampleModule", "opacus", run, _joined)


def _backpack(setting: Setting) -> Iterator[Way]:
    if installed("backpack-for-pytorch"):
        pack: Any = importlib.import_module("backpack")
        extension = importlib.import_module("backpack.extensions").BatchGrad
        model = pack.extend(copy.deepcopy(setting.model))
        loss = pack.extend(nn.CrossEntropyLoss(reduction="sum"))

        def run() -> list[Tensor]:
            model.zero_grad()
            with pack.backpack(extension()):
                loss(model(setting.inputs), setting.targets).backward()
            return [p.grad_batch for p in model.parameters()]

        yield Way("BatchGrad", "backpack", run, _joined)


def per_sample(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """Gradients of every sample by itself."""
    rows: list[Row] = []
    ratios: list[float | None] = []
    sizes = settings(smoke) if smoke else [mlp((256, 512, 256, 10), 64), settings(False)[1]]
    for setting in sizes:
        ours = partial(per_sample_gradients, setting.model, setting.loss, setting.inputs, setting.targets)
        ways = [
            Way("per_sample_gradients", "steepest", ours, lambda found: _joined(found.values())),
            *_opacus(setting),
            *_backpack(setting),
        ]
        found = turns("per-sample gradients", setting.name, ways, rounds)
        rows += found
        peers = [r.milliseconds for r in found[1:] if r.milliseconds is not None]
        own = found[0].milliseconds
        ratios += [own / min(peers)] if own is not None and peers else []
    text = "per-sample gradients: at least as fast as opacus and BackPACK (ours over the faster)"
    return rows, [most(text, 1.0, ratios, not smoke)]


def spectra(smoke: bool, rounds: int) -> tuple[list[Row], list[Promise]]:
    """The spectral density of a Hessian by as many Lanczos steps."""
    setting = mlp((8, 16, 10), 16) if smoke else mlp((256, 1024, 700, 10), 256)
    steps = 5 if smoke else 40
    batch = (setting.inputs, setting.targets)
    ways = [
        Way("spectrum", "steepest", lambda: spectrum(setting.model, setting.loss, [batch], steps=steps, probes=1)),
    ]
    if installed("pyhessian"):
        package: Any = importlib.import_module("pyhessian")

        def eig(matrix: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor]:
            values, vectors = torch.linalg.eigh(matrix)
            return torch.stack([values, torch.zeros_like(values)], 1), vectors

        def theirs() -> Any:
            found = package.hessian(setting.model, nn.CrossEntropyLoss(), data=batch, cuda=False)
            # It calls torch.eig on its (symmetric) tridiagonal matrix, which torch has removed since.
            with mock.patch.object(torch, "eig", eig):
                return found.density(iter=steps, n_v=1)

        ways.append(Way("density", "pyhessian", theirs))
    rows = turns(f"spectral density, {steps} Lanczos steps", setting.name, ways, 1 if smoke else max(3, rounds // 3))
    ratios = [1 / r.ratio for r in rows[1:] if r.ratio is not None]
    text = "Lanczos spectrum: at least as fast as pyhessian's (ours over theirs)"
    return rows, [most(text, 1.0, ratios, not smoke)]
