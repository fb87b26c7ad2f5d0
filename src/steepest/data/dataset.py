"""What a loader returns: tensors in three parts that share no row, and the transform that made them comparable."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.data.split import split_indices

__all__ = ["Dataset", "Split", "Standardize", "check_dtype", "make_dataset"]


@dataclass(frozen=True, eq=False)
class Standardize:
    """The affine transform ``x -> (x - mean) / scale``; its inverse is :meth:`invert`.

    ``mean`` and ``scale`` are either 0-dim (one number for all entries, for pixels) or of the shape of one row.
    :meth:`fit` takes them from the rows it is given, which the loaders of this room restrict to the training part.
    ``scale`` is the population standard deviation, and 1 where that is 0, so that a constant column becomes 0 and not
    NaN.
    """

    mean: Tensor
    scale: Tensor

    @staticmethod
    def fit(rows: np.ndarray, *, per_column: bool = True) -> "Standardize":
        """Statistics of ``rows``, accumulated in float64: per column, or one pair for all entries."""
        axis = 0 if per_column else None
        mean = np.mean(rows, axis=axis, dtype=np.float64)
        scale = np.std(rows, axis=axis, dtype=np.float64)
        # A constant column has a standard deviation of rounding errors, not of exactly 0.
        constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return Standardize(torch.as_tensor(mean), torch.as_tensor(np.where(constant, 1.0, scale)))

    def __call__(self, x: Tensor) -> Tensor:
        """``(x - mean) / scale`` in the dtype and on the device of ``x``."""
        return (x - self.mean.to(x)) / self.scale.to(x)

    def invert(self, x: Tensor) -> Tensor:
        """``x * scale + mean`` in the dtype and on the device of ``x``."""
        return x * self.scale.to(x) + self.mean.to(x)


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        inputs: shape (n, ...), floating point; a sparse CSR tensor of shape (n, features) where the loader says so.
        targets: shape (n,): int64 class numbers 0 .. classes - 1, or floating point for regression.
        indices: shape (n,), int64: the rows of the source that these are.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, *args: Any, **kwargs: Any) -> "Split":
        """``inputs`` and ``targets`` moved as by ``Tensor.to`` (a dtype applies to the inputs and to regression
        targets)."""
        inputs = self.inputs.to(*args, **kwargs)
        if self.targets.is_floating_point():
            targets = self.targets.to(*args, **kwargs)
        else:
            targets = self.targets.to(inputs.device)
        return replace(self, inputs=inputs, targets=targets)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three parts that share no row and together hold every row of the source.

    Attributes:
        name: the name :func:`steepest.data.load` knows it by.
        train, validation, test: see :class:`Split`. Rows are in shuffled order.
        classes: what the class numbers stand for, or ``None`` for regression.
        features: names of the columns, or ``()`` when they have none.
        transform: what was applied to the inputs (statistics of the training part alone), or ``None``.
        target_transform: the same for regression targets; ``target_transform.invert`` gives the original units.
        source: where it was read from.
        seed: the seed of the split, or ``None`` when the source fixes it.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] | None = None
    features: tuple[str, ...] = ()
    transform: Standardize | None = None
    target_transform: Standardize | None = None
    source: str = ""
    seed: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of the inputs."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """How many numbers a model must give per row: the number of classes, or 1 for regression."""
        return 1 if self.classes is None else len(self.classes)

    def to(self, *args: Any, **kwargs: Any) -> "Dataset":
        """All three parts moved as by ``Tensor.to``."""
        parts = {part: getattr(self, part).to(*args, **kwargs) for part in ("train", "validation", "test")}
        return replace(self, **parts)

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        kind = "regression" if self.classes is None else f"{len(self.classes)} classes"
        return f"Dataset({self.name!r}, {sizes}, inputs={self.input_shape}, {kind})"


def check_dtype(dtype: torch.dtype) -> None:
    """Raise unless ``dtype`` is one the loaders make."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")


def make_dataset(
    name: str,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    validation: float,
    test: float,
    seed: int,
    classes: tuple[str, ...] | None,
    features: tuple[str, ...] = (),
    standardize: bool = True,
    per_column: bool = True,
    dtype: torch.dtype = torch.float32,
    source: str = "",
    parts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Dataset:
    """Split rows, standardise them with the statistics of the training part, and make tensors of them.

    Args:
        inputs: shape (n, ...), any real dtype.
        targets: shape (n,): class numbers when ``classes`` is given (the split is then stratified), else real numbers.
        validation, test, seed: see :func:`~steepest.data.split.split_indices`; not used when ``parts`` is given.
        per_column: standardise each column by its own statistics; else all entries by one mean and one scale.
        parts: row numbers of train, validation and test, for data sets that come with a split.
    """
    check_dtype(dtype)
    if parts is None:
        labels = targets if classes is not None else None
        parts = split_indices(len(targets), labels, validation=validation, test=test, seed=seed)
    rows = parts[0]
    transform = Standardize.fit(inputs[rows], per_column=per_column) if standardize else None
    target_transform = Standardize.fit(targets[rows]) if standardize and classes is None else None

    def part(index: np.ndarray) -> Split:
        # Standardised in float64 and rounded once, so that the float32 tensors have the statistics to full accuracy.
        x, y = torch.from_numpy(inputs[index]), torch.from_numpy(targets[index])
        x = (x.to(dtype) if transform is None else transform(x.double()).to(dtype)).contiguous()
        if classes is not None:
            y = y.long()
        else:
            y = (y.double() if target_transform is None else target_transform(y.double())).to(dtype)
        return Split(x, y, torch.from_numpy(index))

    train, val, held = (part(index) for index in parts)
    return Dataset(
        name,
        train,
        val,
        held,
        classes=classes,
        features=features,
        transform=transform,
        target_transform=target_transform,
        source=source,
        seed=seed,
    )
