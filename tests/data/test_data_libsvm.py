"""The LIBSVM parser against hand-written files and scikit-learn's parser; the data sets made of it."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from steepest import data
from steepest.data import libsvm_format as room
from steepest.data.locate import CorruptData, DataNotFound

HAND = b"""+1 1:0.5 3:-2e-1  # a comment with 4:9
-1

# a whole line of it
-1 2:.25\t4:3. \r
2.0 4:+1E2"""
HAND_X = [[0.5, 0, -0.2, 0], [0, 0, 0, 0], [0, 0.25, 0, 3], [0, 0, 0, 100]]
HAND_Y = [1, -1, -1, 2]


def put(path: Path, content: bytes = HAND) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["plain.txt", "zipped.gz"])
def test_hand_written(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, gzip.compress(HAND) if name.endswith("gz") else HAND)
    matrix, labels = data.read_libsvm(path)
    np.testing.assert_array_equal(matrix.toarray(), HAND_X)
    np.testing.assert_array_equal(labels, HAND_Y)
    assert data.read_libsvm(path, features=9)[0].shape == (4, 9)


def test_block_borders_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a")
    monkeypatch.setattr(room, "_BLOCK", 5)  # a block per line
    matrix, labels = data.read_libsvm(path)
    np.testing.assert_array_equal(matrix.toarray(), HAND_X)
    np.testing.assert_array_equal(labels, HAND_Y)
    put(path, HAND + b"\n1 2:3\n1 oops\n")
    with pytest.raises(CorruptData, match="line 8: "):
        data.read_libsvm(path)


@pytest.mark.parametrize("zero_based", [False, True])
def test_agrees_with_scikit_learn(tmp_path: Path, zero_based: bool) -> None:
    random = np.random.RandomState(0)
    dense = random.standard_normal((200, 30)) * (random.rand(200, 30) < 0.2)
    path = tmp_path / "random"
    dump_svmlight_file(dense, random.standard_normal(200), str(path), zero_based=zero_based, comment="made by a test")
    matrix, labels = data.read_libsvm(path, features=30, zero_based=zero_based)
    expected, expected_labels = load_svmlight_file(str(path), n_features=30, zero_based=zero_based)
    np.testing.assert_array_equal(matrix.toarray(), expected.toarray())
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 2:3 oops", "expected 'label index:value .* got '1 2:3 oops'"),
        (b"1 2:", "expected 'label"),
        (b"1 :3", "expected 'label"),
        (b"1 2:3:4", "expected 'label"),
        (b"1 2: 3", "expected 'label"),
        (b"2:3", "expected 'label"),
        (b"1,2 3:4", "expected 'label"),
        (b"1 qid:3 4:5", "expected 'label"),
        (b"1 2:nan", "expected 'label"),
        (b"1 -2:3", "expected 'label"),
        (b"1 99999999999999999999:3", "expected 'label"),
        (b"1 " + b"7" * 200, "expected 'label .*[.][.][.]"),
        (b"\x89PNG", "expected 'label"),
        (b"1 2:1e999", "a value is not finite"),
        (b"1e999 2:1", "the label is not finite"),
        (b"1 0:3 2:4", "indices count from 1 .*zero_based=True.*, got index 0"),
        (b"1 3:1 2:1", "indices must rise strictly, got index 2"),
        (b"1 3:1 3:1", "indices must rise strictly, got index 3"),
        (b"1 3:1 8:1", "there are 7 features, got index 8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = put(tmp_path / "bad.txt", b"1 3:2\n\n-1\n" + line + b"\n1 1:1\n")
    with pytest.raises(CorruptData, match=rf"bad.txt, line 4: {message}"):
        data.read_libsvm(path, features=7)


def test_rising_indices_are_checked_within_a_row_only(tmp_path: Path) -> None:
    matrix, _ = data.read_libsvm(put(tmp_path / "a", b"1 5:1\n1 2:1\n1\n1 2:1\n"))
    assert matrix.toarray().argmax(axis=1).tolist() == [4, 1, 0, 1]


def test_damaged_and_empty_files(tmp_path: Path) -> None:
    zipped = gzip.compress(HAND * 100)
    with pytest.raises(CorruptData, match=r"short.gz is a damaged gzip file"):
        data.read_libsvm(put(tmp_path / "short.gz", zipped[:-12]))
    with pytest.raises(CorruptData, match=r"bits.gz is a damaged gzip file"):
        data.read_libsvm(put(tmp_path / "bits.gz", zipped[:-6] + b"\0\0" + zipped[-4:]))
    with pytest.raises(CorruptData, match="empty holds no rows"):
        data.read_libsvm(put(tmp_path / "empty", b"\n# nothing\n"))
    with pytest.raises(ValueError, match="features must be an integer >= 1"):
        data.read_libsvm(put(tmp_path / "a"), features=0)


def rows_file(path: Path, rows: int = 40) -> Path:
    """Row i has i + 1 in column 1 and a 1 in column 2 + i % 3; every fourth label is +1."""
    lines = [f"{'+1' if i % 4 == 0 else '-1'} 1:{i + 1} {2 + i % 3}:1" for i in range(rows)]
    return put(path, "\n".join(lines).encode())


@pytest.mark.parametrize("dense", [False, True])
def test_splits_hold_every_row_once(tmp_path: Path, dense: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = data.libsvm(rows_file(tmp_path / "rows"), dense=dense, validation=0.2, test=0.3, seed=2)
    parts = (table.train, table.validation, table.test)
    assert [len(p) for p in parts] == [20, 8, 12]
    assert sorted(torch.cat([p.indices for p in parts]).tolist()) == list(range(40))
    assert table.classes == ("-1", "1")
    for part in parts:
        assert part.inputs.layout == (torch.strided if dense else torch.sparse_csr)
        assert part.inputs.dtype == torch.float32
        inputs = part.inputs.to_dense()
        assert inputs.shape == (len(part), 4)
        assert (inputs[:, 0] - 1).tolist() == part.indices.tolist()
        assert (inputs[:, 1:].argmax(1)).tolist() == (part.indices % 3).tolist()
        assert part.targets.tolist() == (part.indices % 4 == 0).long().tolist()
        assert part.targets.sum() * 4 == len(part)  # stratified


def test_regression_keeps_the_labels(tmp_path: Path) -> None:
    path = put(tmp_path / "r", b"\n".join(b"%.1f 1:%d" % (i / 2, i) for i in range(10)))
    table = data.libsvm(path, task="regression", dense=True, dtype=torch.float64)
    assert table.classes is None
    for part in (table.train, table.validation, table.test):
        assert part.targets.dtype == torch.float64
        torch.testing.assert_close(part.targets * 2, part.inputs[:, 0])
    with pytest.raises(ValueError, match=r"label 0.5, which is not an integer; task='regression'"):
        data.libsvm(path)
    with pytest.raises(ValueError, match="task must be 'classification' or 'regression', got 'ranking'"):
        data.libsvm(path, task="ranking")


def test_a_file_in_the_data_folder_is_found_by_its_name(folder: Path) -> None:
    rows_file(folder / "libsvm" / "mine.t")
    assert data.libsvm("mine.t").name == "mine.t"
    put(folder / "libsvm" / "a8a", b"\n".join(b"%d 1:1" % ((-1) ** i) for i in range(20)))
    assert data.load("a8a").input_shape == (123,)  # as the data set has, whatever occurs in the file


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="did you mean 'w8a'") as caught:
        data.libsvm("w8aa")
    assert str(folder / "libsvm" / "w8aa.gz") in str(caught.value)
    with pytest.raises(DataNotFound, match=r"csie.ntu.edu.tw.*/w8a: not tried") as caught:
        data.libsvm("w8a")
    assert str(folder / "libsvm" / "w8a.gz") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rows", "positive", "features"),
    [("a8a", 22696, 5506, 123), ("a9a.t", 16281, 3846, 123), ("w8a", 49749, 1479, 300)],
)
def test_real_files(real_data: Path, name: str, rows: int, positive: int, features: int) -> None:
    matrix, labels = data.read_libsvm(real_data / "libsvm" / f"{name}.gz", features=features)
    expected, expected_labels = load_svmlight_file(str(real_data / "libsvm" / f"{name}.gz"), n_features=features)
    assert (matrix != expected).nnz == 0
    np.testing.assert_array_equal(labels, expected_labels)
    table = data.load(name)
    parts = (table.train, table.validation, table.test)
    assert sum(len(p) for p in parts) == rows
    assert sum(int(p.targets.sum()) for p in parts) == positive
    assert table.input_shape == (features,)
