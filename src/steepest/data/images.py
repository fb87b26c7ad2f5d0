"""MNIST (LeCun, Cortes and Burges, 1998): the 10,000 test images alone, or the full set; and the IDX format they come
in."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from steepest.data.dataset import Dataset, make_dataset
from steepest.data.locate import CorruptData, DataNotFound, Source, cache_folder, find, offline, read_bytes
from steepest.data.split import split_indices

__all__ = ["mnist", "mnist10k", "read_idx"]

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CLASSES = tuple(str(digit) for digit in range(10))
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

Arrays = tuple[np.ndarray, np.ndarray]


def read_idx(path: str | Path) -> np.ndarray:
    """An IDX file, plain or gzip, as an array of native byte order.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian int32, the
    entries.

    Raises:
        CorruptData: the magic number, the type code or the length is wrong; the message names the file.
    """
    data = read_bytes(Path(path))
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise CorruptData(
            f"{path} is not an IDX file: it starts with bytes {data[:4].hex(' ')!r}, expected '00 00 TYPE DIMS'"
        )
    dtype, dims = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * dims
    if len(data) < start:
        raise CorruptData(f"{path} is a truncated IDX file: it ends inside its header of {start} bytes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=dims, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise CorruptData(f"{path} is a damaged IDX file: shape {shape} needs {expected} bytes, it has {len(data)}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _source(stem: str, folder_names: tuple[str, ...]) -> Source:
    names = tuple(f"{folder}/{stem}{end}" for folder in folder_names for end in (".gz", ""))
    return Source(names, url=f"{_MIRROR}{stem}.gz", sha256=_SHA256[stem])


def _read_pair(part: Literal["train", "t10k"], folder_names: tuple[str, ...]) -> Arrays:
    image_file = find(_source(f"{part}-images-idx3-ubyte", folder_names))
    label_file = find(_source(f"{part}-labels-idx1-ubyte", folder_names))
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
        raise CorruptData(
            f"{image_file} holds {images.dtype} of shape {images.shape}, expected uint8 of shape (n, 28, 28)"
        )
    if labels.shape != images.shape[:1]:
        raise CorruptData(f"{label_file} holds labels of shape {labels.shape} for {len(images)} images in {image_file}")
    if labels.size and (labels.min() < 0 or labels.max() > 9):
        raise CorruptData(f"{label_file} holds label {labels.max()}, expected 0 .. 9")
    return images, labels.astype(np.int64)


def mnist10k(
    *,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """The 10,000 test images of MNIST, split anew into train, validation and test (stratified): small, real, quick to
    fetch.

    Inputs have shape (n, 1, 28, 28), originally 0 .. 255, standardised with one mean and one standard deviation over
    all pixels of the training part; with ``standardize=False`` the raw values. Targets are int64 digits. Scores are
    not comparable with those published for MNIST, which train on other images.

    Files: ``mnist10k/t10k-images-idx3-ubyte`` and ``mnist10k/t10k-labels-idx1-ubyte``, each plain or ``.gz``.

    Args:
        seed: of the split, an integer in [0, 2**32 - 1].
        validation, test: fractions of the rows in [0, 1), sum below 1.
        standardize: whether to apply that transform.
        dtype: ``torch.float32`` or ``torch.float64``, of the inputs.

    Raises:
        DataNotFound: the files are nowhere and cannot be downloaded.
        CorruptData: a file is damaged.
    """
    images, labels = _read_pair("t10k", ("mnist10k", "mnist"))
    return make_dataset(
        "mnist10k",
        images[:, None],
        labels,
        validation=validation,
        test=test,
        seed=seed,
        classes=_CLASSES,
        standardize=standardize,
        per_column=False,
        dtype=dtype,
        source="IDX files",
    )


def _from_idx() -> tuple[Arrays, Arrays]:
    return _read_pair("train", ("mnist",)), _read_pair("t10k", ("mnist", "mnist10k"))


def _from_torchvision() -> tuple[Arrays, Arrays]:
    from torchvision.datasets import MNIST

    root = str(cache_folder() / "torchvision")
    parts = [MNIST(root, train=train, download=not offline()) for train in (True, False)]
    train, held = ((part.data.numpy(), part.targets.numpy().astype(np.int64)) for part in parts)
    return train, held


def _from_huggingface() -> tuple[Arrays, Arrays]:
    if offline():
        raise DataNotFound("not tried, STEEPEST_OFFLINE is set")
    from datasets import load_dataset

    whole = load_dataset("ylecun/mnist")

    def arrays(part: str) -> Arrays:
        rows = whole[part].with_format("numpy")
        return np.stack(list(rows["image"])).astype(np.uint8), np.asarray(rows["label"], dtype=np.int64)

    return arrays("train"), arrays("test")


_WAYS: dict[str, Callable[[], tuple[Arrays, Arrays]]] = {
    "idx": _from_idx,
    "torchvision": _from_torchvision,
    "huggingface": _from_huggingface,
}


def mnist(
    *,
    seed: int = 0,
    validation: float = 1 / 12,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
    via: Literal["auto", "idx", "torchvision", "huggingface"] = "auto",
) -> Dataset:
    """The full MNIST: the official 10,000 test images, and the 60,000 others in a stratified train and validation part.

    Inputs have shape (n, 1, 28, 28), standardised as in :func:`mnist10k`; float32 takes 220 MB in all. Targets are
    int64. In ``indices``, 0 .. 59,999 are the official training images and 60,000 .. 69,999 the test images.

    Args:
        seed: of the split between train and validation, an integer in [0, 2**32 - 1].
        validation: fraction of the official training images, in [0, 1). Default: 5,000 of them.
        standardize: whether to standardise; else raw values 0 .. 255.
        dtype: ``torch.float32`` or ``torch.float64``, of the inputs.
        via: ``"idx"`` reads the four IDX files from ``mnist/`` in the data folders, or downloads them;
            ``"torchvision"`` and ``"huggingface"`` use those packages (``torchvision``, ``datasets``), which download
            to the cache themselves. ``"auto"`` tries the three in this order.

    Raises:
        DataNotFound: no way worked; the message tells why each failed.
        CorruptData: a file is damaged.
    """
    if via != "auto" and via not in _WAYS:
        raise ValueError(f"via must be 'auto', 'idx', 'torchvision' or 'huggingface', got {via!r}")
    failures = []
    for way in _WAYS if via == "auto" else (via,):
        try:
            (train_x, train_y), (test_x, test_y) = _WAYS[way]()
            break
        except CorruptData:
            raise
        except ImportError as error:
            failures.append(f"{way}: not installed ({error})")
        except Exception as error:  # the packages raise many kinds for a missing network
            failures.append(f"{way}: {error}")
    else:
        raise DataNotFound("MNIST could not be had:\n" + "\n".join(failures))
    train, val, _ = split_indices(len(train_y), train_y, validation=validation, test=0.0, seed=seed)
    return make_dataset(
        "mnist",
        np.concatenate([train_x, test_x])[:, None],
        np.concatenate([train_y, test_y]),
        validation=validation,
        test=0.0,
        seed=seed,
        classes=_CLASSES,
        standardize=standardize,
        per_column=False,
        dtype=dtype,
        source={"idx": "IDX files", "torchvision": "torchvision", "huggingface": "Hugging Face ylecun/mnist"}[way],
        parts=(train, val, np.arange(len(train_y), len(train_y) + len(test_y))),
    )
