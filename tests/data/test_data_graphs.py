"""Cora: the npz file, Planetoid's own files, and what must not get through."""

import hashlib
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from steepest import data
from steepest.data import graphs
from steepest.data.locate import ChecksumMismatch, CorruptData, DataNotFound

# Six nodes, four words. Test nodes 5 and 4 come in that order in tx; edge 1-4 is listed from one side only, 2-2 is a
# loop.
FEATURES = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]])
LABELS = np.array([0, 1, 2, 0, 1, 6])
GRAPH = {0: [1, 2], 1: [0, 4, 0], 2: [0, 2], 3: [5], 4: [], 5: [3]}
EDGES = [(0, 1), (0, 2), (1, 4), (3, 5)]


def npz_arrays() -> dict[str, np.ndarray]:
    sparse = csr_matrix(FEATURES)
    return {
        "indices": sparse.indices,
        "indptr": sparse.indptr,
        "shape": np.array(FEATURES.shape),
        "labels": LABELS.astype(np.int8),
        "edges": np.array(EDGES, dtype=np.int32),
        "train": np.array([0, 1]),
        "val": np.array([2, 3]),
        "test": np.array([4, 5]),
    }


def write_npz(folder: Path, **changes: np.ndarray) -> Path:
    path = folder / "cora" / "cora.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **{**npz_arrays(), **changes})
    return path


def write_planetoid(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    one_hot = np.eye(7, dtype=np.int32)[LABELS]
    graph: defaultdict[int, list[int]] = defaultdict(list, GRAPH)
    parts = {
        "x": csr_matrix(FEATURES[:2].astype(np.float32)),
        "allx": csr_matrix(FEATURES[:4].astype(np.float32)),
        "tx": csr_matrix(FEATURES[[5, 4]].astype(np.float32)),
        "y": one_hot[:2],
        "ally": one_hot[:4],
        "ty": one_hot[[5, 4]],
        "graph": graph,
    }
    for name, value in parts.items():
        (folder / f"ind.cora.{name}").write_bytes(pickle.dumps(value, protocol=3))
    (folder / "ind.cora.test.index").write_text("5\n4\n")


def check(graph: data.GraphDataset) -> None:
    np.testing.assert_array_equal(graph.inputs.numpy(), FEATURES)
    assert graph.inputs.dtype == torch.float32
    assert graph.targets.tolist() == LABELS.tolist()
    assert sorted(map(tuple, graph.edges.T.tolist())) == sorted(EDGES + [(b, a) for a, b in EDGES])
    assert [p.tolist() for p in (graph.train, graph.validation, graph.test)] == [[0, 1], [2, 3], [4, 5]]
    assert graph.outputs == 7


def test_npz_by_hand(folder: Path) -> None:
    write_npz(folder)
    check(data.cora())
    assert data.cora(dtype=torch.float64).inputs.dtype == torch.float64


def test_planetoid_files_by_hand(folder: Path) -> None:
    write_planetoid(folder / "cora")
    check(data.cora())


def test_planetoid_files_are_downloaded(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_planetoid(tmp_path / "www")
    monkeypatch.delenv("STEEPEST_OFFLINE")
    monkeypatch.delenv("STEEPEST_DATA", raising=False)
    monkeypatch.setattr(graphs, "_REPOSITORY", (tmp_path / "www").as_uri() + "/")
    with pytest.raises(ChecksumMismatch, match=r"ind.cora.x"):
        data.cora()
    assert not list(cache.rglob("ind.cora*"))
    sums = {
        p.name.removeprefix("ind.cora."): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (tmp_path / "www").iterdir()
    }
    monkeypatch.setattr(graphs, "_SHA256", sums)
    check(data.cora())
    assert len(list(cache.rglob("ind.cora.*"))) == 8


def test_a_pickle_that_calls_something_is_refused(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "touched",))

    write_planetoid(folder / "cora")
    (folder / "cora" / "ind.cora.graph").write_bytes(pickle.dumps(Evil(), protocol=3))
    with pytest.raises(CorruptData, match=r"ind.cora.graph is not a Planetoid file: .* is not allowed"):
        data.cora()
    assert not (tmp_path / "touched").exists()


def test_damaged_planetoid_files(folder: Path) -> None:
    write_planetoid(folder / "cora")
    (folder / "cora" / "ind.cora.test.index").write_text("5\n3\n")
    with pytest.raises(CorruptData, match=r"test.index does not list the rows of"):
        data.cora()
    (folder / "cora" / "ind.cora.test.index").write_text("five\n")
    with pytest.raises(CorruptData, match=r"test.index is not a list of node numbers"):
        data.cora()
    path = folder / "cora" / "ind.cora.allx"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptData, match=r"ind.cora.allx is not a Planetoid file"):
        data.cora()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": np.array([3, 5])}, "the parts share nodes"),
        ({"test": np.array([4, 6])}, "the parts lie outside the nodes"),
        ({"edges": np.array([[0, 6]])}, "edges lie outside the nodes"),
        ({"labels": np.array([0, 1, 2, 0, 1, 7])}, "labels lie outside the classes"),
        ({"labels": np.array([0, 1])}, "labels do not fit the nodes"),
        ({"indptr": np.array([0, 1])}, "indptr does not fit"),
        ({"indices": np.full(9, 4)}, "indices lie outside the features"),
    ],
)
def test_inconsistent_arrays(folder: Path, changes: dict[str, np.ndarray], message: str) -> None:
    path = write_npz(folder, **changes)
    with pytest.raises(CorruptData, match=message) as caught:
        data.cora()
    assert str(path) in str(caught.value)


def test_damaged_npz(folder: Path) -> None:
    path = write_npz(folder)
    content = path.read_bytes()
    middle = len(content) // 3
    for damaged in (content[:-50], b"hello", b"", content[:middle] + b"\xff" * 20 + content[middle + 20 :]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptData, match=r"cora.npz is a damaged npz file"):
            data.cora()
    np.savez(path, indices=np.arange(3))
    with pytest.raises(CorruptData, match=r"cora.npz lacks the array 'indptr'"):
        data.cora()


def test_missing(folder: Path) -> None:
    with pytest.raises(DataNotFound, match=r"cora/cora.npz, which holds the same in one file") as caught:
        data.cora()
    assert str(folder / "cora" / "ind.cora.x") in str(caught.value)


def test_real_cora(real_data: Path) -> None:
    graph = data.cora()
    assert graph.inputs.shape == (2708, 1433)
    assert int(graph.inputs.sum()) == 49216
    assert graph.edges.shape == (2, 2 * 5278)
    assert graph.targets.bincount().tolist() == [351, 217, 418, 818, 426, 298, 180]  # as published
    assert graph.targets[graph.train].bincount().tolist() == [20] * 7
    assert (len(graph.train), len(graph.validation), len(graph.test)) == (140, 500, 1000)
    assert len(torch.cat([graph.train, graph.validation, graph.test]).unique()) == 1640
    forward = set(map(tuple, graph.edges.T.tolist()))
    assert all((b, a) in forward and a != b for a, b in forward)
    # Citations join papers of one class far more often than the 18% of chance: edges and labels belong together.
    same = graph.targets[graph.edges[0]] == graph.targets[graph.edges[1]]
    assert 0.8 < same.float().mean() < 0.82
