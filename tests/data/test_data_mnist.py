"""IDX files and both MNISTs, from hand-made bytes and from the real files."""

import gzip
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from steepest import data
from steepest.data.locate import CorruptData, DataNotFound

RANDOM = np.random.RandomState(0)


def images_file(images: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    return header + images.astype(np.uint8).tobytes()


def labels_file(labels: np.ndarray) -> bytes:
    return bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels.astype(np.uint8).tobytes()


def put_pair(folder: Path, part: str, rows: int, zipped: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Write a pair of IDX files with random images, each class equally often."""
    images, labels = RANDOM.randint(0, 256, (rows, 28, 28)), np.arange(rows) % 10
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in (("images-idx3", images_file(images)), ("labels-idx1", labels_file(labels))):
        end, content = (".gz", gzip.compress(content)) if zipped else ("", content)
        (folder / f"{part}-{kind}-ubyte{end}").write_bytes(content)
    return images, labels


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 255]), np.array([7, 0, 255], np.uint8)),
        (bytes([0, 0, 9, 1, 0, 0, 0, 2, 1, 255]), np.array([1, -1], np.int8)),
        (bytes([0, 0, 11, 1, 0, 0, 0, 2, 1, 0, 255, 254]), np.array([256, -2], np.int16)),
        (bytes([0, 0, 12, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0]), np.array([[65536]], np.int32)),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0x3F, 0xC0, 0, 0]), np.array([1.5], np.float32)),
        (bytes([0, 0, 14, 1, 0, 0, 0, 1, 0xC0, 0, 0, 0, 0, 0, 0, 0]), np.array([-2.0], np.float64)),
        (bytes([0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 5]), np.zeros((0, 5), np.uint8)),
    ],
)
def test_idx_by_hand(tmp_path: Path, content: bytes, expected: np.ndarray) -> None:
    for name, raw in (("plain", content), ("zipped.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(raw)
        array = data.read_idx(tmp_path / name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x00", "it starts with bytes '01 00 08 01'"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x00", "is not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "ends inside its header of 16 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03ab", r"shape \(3,\) needs 11 bytes, it has 10"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01ab", r"shape \(1,\) needs 9 bytes, it has 10"),
    ],
)
def test_damaged_idx_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "some-file").write_bytes(content)
    with pytest.raises(CorruptData, match=message) as caught:
        data.read_idx(tmp_path / "some-file")
    assert str(tmp_path / "some-file") in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist10k_from_hand_made_files(folder: Path, zipped: bool) -> None:
    images, labels = put_pair(folder / "mnist10k", "t10k", 100, zipped)
    table = data.mnist10k(validation=0.2, test=0.3, standardize=False, seed=4)
    assert [len(p) for p in (table.train, table.validation, table.test)] == [50, 20, 30]
    for part in (table.train, table.validation, table.test):
        assert part.inputs.shape[1:] == (1, 28, 28)
        np.testing.assert_array_equal(part.inputs[:, 0].numpy(), images[part.indices])
        np.testing.assert_array_equal(part.targets.numpy(), labels[part.indices])
        assert part.targets.bincount().unique().numel() == 1  # stratified
    scaled = data.mnist10k(validation=0.2, test=0.3, seed=4)
    mean, scale = table.train.inputs.double().mean(), table.train.inputs.double().std(correction=0)
    torch.testing.assert_close(scaled.test.inputs, ((table.test.inputs.double() - mean) / scale).float())


def test_mnist10k_refuses_files_that_do_not_belong_together(folder: Path) -> None:
    put_pair(folder / "mnist10k", "t10k", 100)
    label_file = folder / "mnist10k" / "t10k-labels-idx1-ubyte.gz"
    label_file.write_bytes(labels_file(np.zeros(99)))
    with pytest.raises(CorruptData, match=r"labels of shape \(99,\) for 100 images"):
        data.mnist10k()
    label_file.write_bytes(labels_file(np.full(100, 10)))
    with pytest.raises(CorruptData, match=r"holds label 10, expected 0 .. 9"):
        data.mnist10k()
    (folder / "mnist10k" / "t10k-images-idx3-ubyte.gz").write_bytes(images_file(np.zeros((100, 27, 28))))
    with pytest.raises(CorruptData, match=r"shape \(100, 27, 28\), expected uint8 of shape \(n, 28, 28\)"):
        data.mnist10k()


def test_missing_mnist10k_names_the_place_and_the_address(folder: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        data.mnist10k()
    assert str(folder / "mnist10k" / "t10k-images-idx3-ubyte.gz") in str(caught.value)
    assert "https://" in str(caught.value)


def check_full(table: data.Dataset, train: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray]) -> None:
    """60 training images and 20 test images, the official parts kept apart."""
    assert [len(p) for p in (table.train, table.validation, table.test)] == [40, 20, 20]
    assert sorted(torch.cat([table.train.indices, table.validation.indices]).tolist()) == list(range(60))
    assert table.test.indices.tolist() == list(range(60, 80))
    np.testing.assert_array_equal(table.test.inputs[:, 0].numpy(), held[0])
    np.testing.assert_array_equal(table.test.targets.numpy(), held[1])
    np.testing.assert_array_equal(table.validation.inputs[:, 0].numpy(), train[0][table.validation.indices])
    np.testing.assert_array_equal(table.validation.targets.numpy(), train[1][table.validation.indices])
    assert table.validation.targets.bincount().tolist() == [2] * 10


def test_full_mnist_from_idx(folder: Path) -> None:
    train, held = put_pair(folder / "mnist", "train", 60), put_pair(folder / "mnist10k", "t10k", 20)
    check_full(data.mnist(validation=1 / 3, standardize=False), train, held)


def test_full_mnist_through_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's interface, stood in for: it is not a dependency, and its download needs the network."""
    train, held = put_pair(folder / "unused", "train", 60), put_pair(folder / "unused", "t10k", 20)
    asked = []

    class MNIST:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            asked.append((train, download))
            images, labels = pairs[train]
            self.data, self.targets = torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)

    pairs = {True: train, False: held}
    package, room = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    room.MNIST = MNIST
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", room)
    check_full(data.mnist(validation=1 / 3, standardize=False), train, held)
    assert asked == [(True, False), (False, False)]  # no download: the tests are offline


def test_full_mnist_says_why_every_way_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataNotFound) as caught:
        data.mnist()
    message = str(caught.value)
    assert str(folder / "mnist" / "train-images-idx3-ubyte.gz") in message
    assert "torchvision: not installed" in message
    assert "huggingface: not tried, STEEPEST_OFFLINE is set" in message
    with pytest.raises(ValueError, match=r"via must be .* got 'web'"):
        data.mnist(via="web")


def test_real_mnist10k(real_data: Path) -> None:
    table = data.mnist10k()
    assert [len(p) for p in (table.train, table.validation, table.test)] == [7000, 1000, 2000]
    whole = torch.cat([p.targets for p in (table.train, table.validation, table.test)])
    assert whole.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published
    assert abs(table.train.inputs.double().mean()) < 1e-6
    # The published mean and deviation of MNIST's training pixels are 0.1307 and 0.3081 of 255.
    assert float(table.transform.mean) / 255 == pytest.approx(0.1307, abs=0.005)
    assert float(table.transform.scale) / 255 == pytest.approx(0.3081, abs=0.005)
