"""Cora (McCallum et al., 2000): a citation graph with the fixed split of Planetoid (Yang, Cohen and Salakhutdinov,
2016)."""

import io
import pickle
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.data.dataset import check_dtype
from steepest.data.locate import CorruptData, DataNotFound, Source, find

__all__ = ["GraphDataset", "cora", "read_planetoid"]

_CLASSES = (
    "Theory",
    "Reinforcement_Learning",
    "Genetic_Algorithms",
    "Neural_Networks",
    "Probabilistic_Methods",
    "Case_Based",
    "Rule_Learning",
)
_REPOSITORY = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/"
_SHA256 = {
    "x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
    "ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
}
_KEYS = ("indices", "indptr", "shape", "labels", "edges", "train", "val", "test")


@dataclass(frozen=True, eq=False)
class GraphDataset:
    """A graph whose nodes carry features and classes. All nodes and edges are seen in training (transductive); labels
    are split.

    Attributes:
        name: the name :func:`steepest.data.load` knows it by.
        inputs: shape (nodes, features), floating point.
        targets: shape (nodes,), int64, class numbers.
        edges: shape (2, 2 x undirected edges), int64; every edge in both directions, sorted, no loops and no
            duplicates.
        train, validation, test: node numbers, int64; disjoint, but not all nodes belong to one.
        classes: what the class numbers stand for.
        source: where it was read from.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    edges: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    classes: tuple[str, ...]
    source: str

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def to(self, device: torch.device | str) -> "GraphDataset":
        """All tensors on another device."""
        tensors = ("inputs", "targets", "edges", "train", "validation", "test")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def __repr__(self) -> str:
        parts = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"GraphDataset({self.name!r}, {len(self.targets)} nodes, {self.edges.shape[1] // 2} edges, {parts})"


def cora(*, dtype: torch.dtype = torch.float32) -> GraphDataset:
    """Cora: 2,708 papers, 5,278 citations, 7 classes; 140 training nodes (20 per class), 500 for validation, 1,000
    for test.

    Inputs are a binary bag of words of shape (2708, 1433), not normalised. The split is Planetoid's, the one published
    results use; there is no seed. Files: ``cora/cora.npz`` (arrays ``indices``, ``indptr``, ``shape`` of the features
    in CSR, ``labels``, ``edges`` of shape (m, 2), ``train``, ``val``, ``test``), else Planetoid's eight
    ``cora/ind.cora.*``, which are downloaded when they are missing.

    Args:
        dtype: ``torch.float32`` or ``torch.float64``, of the inputs.

    Raises:
        DataNotFound: the files are nowhere and cannot be downloaded.
        CorruptData: a file is damaged.
    """
    check_dtype(dtype)
    archive = Source(("cora/cora.npz",))
    try:
        path: Path | None = find(archive)
    except DataNotFound:
        path = None
    if path is not None:
        arrays = _read_npz(path)
    else:
        hint = "cora/cora.npz, which holds the same in one file, was looked for in the same folders."
        names = {part: f"cora/ind.cora.{part}" for part in _SHA256}
        files = {
            part: find(Source((name,), url=f"{_REPOSITORY}ind.cora.{part}", sha256=_SHA256[part], hint=hint))
            for part, name in names.items()
        }
        path = files["x"].parent
        arrays = read_planetoid(files)
    return _graph(path, arrays, dtype)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                raise CorruptData(f"{path} lacks the array {missing[0]!r}")
            return {key: archive[key] for key in _KEYS}
    except CorruptData:
        raise
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise CorruptData(f"{path} is a damaged npz file: {error}") from error


def _graph(path: Path, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> GraphDataset:
    nodes, features = (int(n) for n in arrays["shape"])
    edges, indices, indptr = (arrays[key].astype(np.int64) for key in ("edges", "indices", "indptr"))
    parts = [arrays[key].astype(np.int64) for key in ("train", "val", "test")]
    together = np.concatenate(parts)
    for what, good in (
        ("indptr does not fit shape and indices", len(indptr) == nodes + 1 and indptr[-1] == len(indices)),
        ("indices lie outside the features", not len(indices) or 0 <= indices.min() <= indices.max() < features),
        ("labels do not fit the nodes", len(arrays["labels"]) == nodes),
        ("labels lie outside the classes", not nodes or 0 <= arrays["labels"].min() <= arrays["labels"].max() < 7),
        ("edges lie outside the nodes", not edges.size or 0 <= edges.min() <= edges.max() < nodes),
        ("the parts share nodes", len(np.unique(together)) == len(together)),
        ("the parts lie outside the nodes", not len(together) or 0 <= together.min() <= together.max() < nodes),
    ):
        if not good:
            raise CorruptData(f"{path}: {what}")
    inputs = torch.zeros(nodes, features, dtype=dtype)
    inputs[torch.from_numpy(np.repeat(np.arange(nodes), np.diff(indptr))), torch.from_numpy(indices)] = 1.0
    edges = edges[edges[:, 0] != edges[:, 1]]
    both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    return GraphDataset(
        "cora",
        inputs,
        torch.from_numpy(arrays["labels"].astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(both.T)),
        train=torch.from_numpy(parts[0]),
        validation=torch.from_numpy(parts[1]),
        test=torch.from_numpy(parts[2]),
        classes=_CLASSES,
        source=str(path),
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles that hold arrays, sparse matrices and adjacency lists; any other object in them is an error,
    never called."""

    def find_class(self, module: str, name: str) -> Any:
        from collections import defaultdict

        from scipy.sparse import csr_matrix

        module = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("scipy.sparse.csr", "csr_matrix"): csr_matrix,
            ("scipy.sparse._csr", "csr_matrix"): csr_matrix,
            ("collections", "defaultdict"): defaultdict,
            ("__builtin__", "list"): list,
            ("builtins", "list"): list,
        }
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return super().find_class(*_reconstruct_name())
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[module, name]


def _reconstruct_name() -> tuple[str, str]:
    # NumPy 2 moved it, and keeps the old place with a deprecation warning.
    return ("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray"), "_reconstruct"


def _unpickle(path: Path) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise CorruptData(f"{path} is not a Planetoid file: {error}") from error


def read_planetoid(files: dict[str, Path]) -> dict[str, np.ndarray]:
    """Planetoid's eight files (keys x, tx, allx, y, ty, ally, graph, test.index) as the arrays of ``cora.npz``.

    Nodes 0 .. len(allx) - 1 are ``allx``; the rows of ``tx`` are the nodes that ``test.index`` lists, in its order.
    Training nodes are the first len(x), validation the 500 after them (fewer when there are fewer before the test
    nodes).
    """
    from scipy.sparse import csr_matrix, vstack

    parts = {key: _unpickle(path) for key, path in files.items() if key != "test.index"}
    try:
        test = np.array(files["test.index"].read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise CorruptData(f"{files['test.index']} is not a list of node numbers: {error}") from error
    whole = vstack([parts["allx"], parts["tx"]]).tocsr()
    one_hot = np.concatenate([parts["ally"], parts["ty"]])
    nodes = whole.shape[0]
    if len(test) != parts["tx"].shape[0] or not np.array_equal(np.sort(test), np.arange(parts["allx"].shape[0], nodes)):
        raise CorruptData(f"{files['test.index']} does not list the rows of {files['tx']}")
    row_of = np.arange(nodes)
    row_of[test] = np.arange(parts["allx"].shape[0], nodes)
    features: csr_matrix = whole[row_of]
    features.sort_indices()
    edges = np.array([(a, b) for a, ends in parts["graph"].items() for b in ends], dtype=np.int64).reshape(-1, 2)
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    train = parts["x"].shape[0]
    return {
        "indices": features.indices,
        "indptr": features.indptr,
        "shape": np.array(features.shape),
        "labels": one_hot[row_of].argmax(axis=1),
        "edges": edges,
        "train": np.arange(train),
        "val": np.arange(train, min(train + 500, parts["allx"].shape[0])),
        "test": np.sort(test),
    }
