"""Real data sets and their loaders.

One convention for all: a loader returns a frozen dataclass of tensors with the parts ``train``, ``validation`` and
``test``, which never share a row, a character or a label; splits depend on the seed alone; classification is
stratified; statistics for standardisation come from the training part only.

- tables and images: :class:`Dataset` of three :class:`Split`;
- text: :class:`TextDataset`, with ``encode``, ``decode`` and random ``windows``;
- graphs: :class:`GraphDataset`.

Files are looked for in the folder that the environment variable ``STEEPEST_DATA`` names, then in the user's cache,
then on the network (see :mod:`steepest.data.locate`). :func:`available` lists the names, :func:`load` loads one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from steepest.core.errors import UnknownName
from steepest.data.dataset import Dataset, Split, Standardize
from steepest.data.graphs import GraphDataset, cora
from steepest.data.images import mnist, mnist10k, read_idx
from steepest.data.libsvm_format import KNOWN as _LIBSVM
from steepest.data.libsvm_format import libsvm, read_libsvm
from steepest.data.locate import ChecksumMismatch, CorruptData, DataNotFound
from steepest.data.split import split_indices
from steepest.data.tables import breast_cancer, diabetes, digits, wine
from steepest.data.text import PYTEXT_VOCABULARY, TextDataset, pytext, tiny_shakespeare

__all__ = [
    "PYTEXT_VOCABULARY",
    "ChecksumMismatch",
    "CorruptData",
    "DataNotFound",
    "Dataset",
    "GraphDataset",
    "Split",
    "Standardize",
    "TextDataset",
    "available",
    "breast_cancer",
    "cora",
    "diabetes",
    "digits",
    "libsvm",
    "load",
    "mnist",
    "mnist10k",
    "pytext",
    "read_idx",
    "read_libsvm",
    "split_indices",
    "tiny_shakespeare",
    "wine",
]

AnyDataset = Dataset | TextDataset | GraphDataset

_LOADERS: dict[str, tuple[Callable[..., AnyDataset], str]] = {
    "digits": (digits, "handwritten digits: 1,797 images of 8 x 8 pixels, 10 classes (scikit-learn)"),
    "breast_cancer": (breast_cancer, "breast cancer: 569 rows, 30 features, 2 classes (scikit-learn)"),
    "wine": (wine, "wine cultivars: 178 rows, 13 features, 3 classes (scikit-learn)"),
    "diabetes": (diabetes, "diabetes progression: 442 rows, 10 features, regression (scikit-learn)"),
    "mnist10k": (mnist10k, "MNIST's 10,000 test images of 28 x 28 pixels, split anew, 10 classes"),
    "mnist": (mnist, "MNIST: 70,000 images of 28 x 28 pixels, official test part, 10 classes"),
    **{name: (partial(libsvm, name), known.about) for name, known in _LIBSVM.items()},
    "tiny_shakespeare": (tiny_shakespeare, "tiny Shakespeare: 1.1 million characters, vocabulary of 65"),
    "pytext": (pytext, "sources of Python's standard library: 2 million characters, vocabulary of 96"),
    "cora": (cora, "Cora: citation graph of 2,708 papers, 7 classes, Planetoid's split"),
}


def available() -> dict[str, str]:
    """The names :func:`load` knows, each with a one-line description. Nothing is read or downloaded."""
    return {name: about for name, (_, about) in _LOADERS.items()}


def load(name: str, **options: Any) -> AnyDataset:
    """The data set of that name; ``options`` are the keyword arguments of its loader (``seed``, ``validation``,
    ``dtype``, ...).

    Raises:
        UnknownName: there is no such data set; the message suggests the nearest name.
        TypeError: the loader has no such option.
        DataNotFound, CorruptData: see the loaders.
    """
    if name not in _LOADERS:
        raise UnknownName("data set", name, _LOADERS)
    return _LOADERS[name][0](**options)
