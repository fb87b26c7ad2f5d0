"""LIBSVM files (sparse rows ``label index:value ...``): a8a, a9a.t, w8a, and any other path."""

import gzip
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
import torch

from steepest.core.errors import did_you_mean
from steepest.core.ranges import Integer
from steepest.data.dataset import Dataset, Split, check_dtype
from steepest.data.locate import CorruptData, DataNotFound, Source, find, folders
from steepest.data.split import split_indices

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["KNOWN", "Known", "libsvm", "read_libsvm"]

_SITE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/"


@dataclass(frozen=True)
class Known:
    """A LIBSVM file known by name: SHA-256 of the plain file, number of features, what it is."""

    sha256: str
    features: int
    about: str

    def source(self, name: str) -> Source:
        """Where :func:`~steepest.data.locate.find` looks for it."""
        names = (f"libsvm/{name}.gz", f"libsvm/{name}")
        return Source(names, url=f"{_SITE}{name}", sha256=self.sha256, saved_as=f"libsvm/{name}")


KNOWN = {
    "a8a": Known(
        "d08a37b3fadd4bd3c8b3fc30bdc93b54d7c0f371265c90cbfb931a7efe97cd28",
        123,
        "Adult, census income: 22,696 rows, 123 binary features, 2 classes (UCI; Platt, 1998)",
    ),
    "a9a.t": Known(
        "1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9",
        123,
        "Adult, the test file: 16,281 rows, 123 binary features, 2 classes (UCI; Platt, 1998)",
    ),
    "w8a": Known(
        "b464b4f6ce6a5d9e181ffc793e19a04751036273722312398ef7673705014902",
        300,
        "web pages: 49,749 rows, 300 binary features, 2 classes, 3% positive (Platt, 1998)",
    ),
}

# Possessive quantifiers, so that a long bad line fails in linear time. Ten digits keep indices far inside int64.
_NUMBER = rb"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?"
_ROW = re.compile(rb"\s*+" + _NUMBER + rb"(?:[ \t]++\d{1,10}+:" + _NUMBER + rb")*+\s*+")
_BLOCK = 1 << 24  # bytes parsed at a time, to bound the memory of the token lists


def read_libsvm(
    path: str | Path, *, features: int | None = None, zero_based: bool = False
) -> tuple["csr_matrix", np.ndarray]:
    """The rows of a LIBSVM file, plain or gzip, as a SciPy CSR matrix of shape (n, features) and labels of shape
    (n,), float64.

    One row per line: a label, then ``index:value`` pairs with strictly rising indices. Empty lines and what follows a
    ``#`` are skipped. ``qid:`` fields, several labels per line and non-finite numbers are errors.

    Args:
        features: number of columns. Default: the largest index in the file.
        zero_based: whether indices count from 0. Default: from 1, as the format says.

    Raises:
        CorruptData: a line is malformed (the message names file and line), or the gzip stream is damaged.
    """
    from scipy.sparse import csr_matrix

    Integer(1, optional=True).check("features", features)
    path = Path(path)
    labels: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for first_line, lines in _blocks(path):
        parsed = _parse(path, first_line, lines, 0 if zero_based else 1, features)
        for whole, piece in zip((labels, counts, columns, values), parsed, strict=True):
            whole.append(piece)
    if not any(map(len, labels)):
        raise CorruptData(f"{path} holds no rows")
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    column = np.concatenate(columns)
    width = features if features is not None else int(column.max(initial=-1)) + 1
    matrix = csr_matrix((np.concatenate(values), column, pointers), shape=(len(pointers) - 1, width))
    return matrix, np.concatenate(labels)


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Runs of lines with the number (from 1) of the first."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if zipped else raw
        number = 1
        try:
            while lines := stream.readlines(_BLOCK):
                yield number, lines
                number += len(lines)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorruptData(f"{path} is a damaged gzip file: {error}") from error


def _parse(
    path: Path, first_line: int, lines: list[bytes], base: int, features: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, entries per row, columns and values of some lines."""
    rows, numbers = [], []
    for number, line in enumerate(lines, first_line):
        row = line.partition(b"#")[0]
        if not row.strip():
            continue
        if _ROW.fullmatch(row) is None:
            shown = row.strip().decode("ascii", "replace")
            raise CorruptData(
                f"{path}, line {number}: expected 'label index:value index:value ...' with finite numbers, "
                f"got {shown if len(shown) <= 80 else shown[:77] + '...'!r}"
            )
        rows.append(row)
        numbers.append(number)
    counts = np.array([row.count(b":") for row in rows], dtype=np.int64)
    tokens = b" ".join(rows).replace(b":", b" ").split()
    flat = np.fromiter(map(float, tokens), np.float64, count=len(tokens))
    starts = np.concatenate([[0], np.cumsum(2 * counts + 1)])[:-1].astype(np.int64)
    pairs = np.delete(flat, starts).reshape(-1, 2)
    row_of = np.repeat(np.arange(len(rows)), counts)
    columns = pairs[:, 0].astype(np.int64) - base

    def fail(bad: np.ndarray, owner: np.ndarray, what: str) -> None:
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            found = f", got index {columns[at] + base}" if owner is row_of else ""
            raise CorruptData(f"{path}, line {numbers[owner[at]]}: {what}{found}")

    fail(~np.isfinite(flat[starts]), np.arange(len(rows)), "the label is not finite")
    fail(~np.isfinite(pairs[:, 1]), row_of, "a value is not finite")
    fail(columns < 0, row_of, "indices count from 1 (zero_based=True reads files that count from 0)")
    fail((np.diff(columns, prepend=-1) <= 0) & (np.diff(row_of, prepend=-1) == 0), row_of, "indices must rise strictly")
    if features is not None:
        fail(columns >= features, row_of, f"there are {features} features")
    return flat[starts], counts, columns, pairs[:, 1]


def _locate(name_or_path: str | Path) -> tuple[str, Path, int | None]:
    """Name, file and number of features (where known)."""
    text = os.fspath(name_or_path)
    if text in KNOWN:
        return text, find(KNOWN[text].source(text)), KNOWN[text].features
    path = Path(text).expanduser()
    tried = [path, *(folder / "libsvm" / f"{text}{end}" for folder in folders() for end in (".gz", ""))]
    for candidate in tried:
        if candidate.is_file():
            return path.name.removesuffix(".gz"), candidate, None
    looked = "\n".join(f"  {candidate}" for candidate in tried)
    raise DataNotFound(
        f"name_or_path={text!r} is no file and no known LIBSVM data set ({did_you_mean(text, KNOWN)}). "
        f"Looked for:\n{looked}\n"
        f"Many such files: {_SITE}. Give the path of one, "
        f"or put it into the folder libsvm/ of the folder that STEEPEST_DATA names."
    )


def libsvm(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    dense: bool = False,
    task: Literal["classification", "regression"] = "classification",
    features: int | None = None,
    zero_based: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A LIBSVM file as a data set.

    Inputs have shape (n, features), sparse CSR, or dense on request; values are those of the file. For
    classification, targets are int64 numbers of the sorted labels (-1 and +1 become 0 and 1; ``classes`` keeps the
    labels) and the split is stratified; for regression they are the labels themselves, of ``dtype``. Equal rows in
    the file are different rows here.

    Args:
        name_or_path: ``"a8a"``, ``"a9a.t"``, ``"w8a"``; or the path of a file, plain or gzip; or the name of a file
            in the folder ``libsvm/`` of a data folder.
        seed: of the split, an integer in [0, 2**32 - 1].
        validation, test: fractions of the rows in [0, 1), sum below 1.
        dense: whether inputs are dense tensors (w8a: 60 MB in float32).
        task: ``"classification"`` or ``"regression"``.
        features: number of columns. Default: as known for the name, else the largest index in the file.
        zero_based: whether indices count from 0.
        dtype: ``torch.float32`` or ``torch.float64``, of the inputs (and of regression targets).

    Raises:
        DataNotFound: there is no such file; the message lists the places searched.
        CorruptData: the file is damaged; the message names the line.
        ValueError: an argument is out of range, or the labels of a classification are not integers.
    """
    check_dtype(dtype)
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    name, path, known_features = _locate(name_or_path)
    matrix, labels = read_libsvm(path, features=known_features if features is None else features, zero_based=zero_based)
    if task == "classification":
        if (labels != np.round(labels)).any():
            bad = labels[labels != np.round(labels)][0]
            raise ValueError(
                f"{path} has the label {bad:g}, which is not an integer; task='regression' reads real labels"
            )
        values, targets = np.unique(labels, return_inverse=True)
        classes = tuple(f"{value:g}" for value in values)
        parts = split_indices(len(targets), targets, validation=validation, test=test, seed=seed)
    else:
        targets, classes = labels, None
        parts = split_indices(len(targets), validation=validation, test=test, seed=seed)

    def part(index: np.ndarray) -> Split:
        y = torch.from_numpy(targets[index])
        y = y.long() if classes is not None else y.to(dtype)
        return Split(_tensor(matrix[index], dense, dtype), y, torch.from_numpy(index))

    train, val, held = (part(index) for index in parts)
    return Dataset(name, train, val, held, classes=classes, source=str(path), seed=seed)


def _tensor(rows: "csr_matrix", dense: bool, dtype: torch.dtype) -> torch.Tensor:
    if dense:
        return torch.from_numpy(rows.astype(np.float32 if dtype == torch.float32 else np.float64).toarray())
    with warnings.catch_warnings():
        # PyTorch warns on every first use that its CSR layout is in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(np.int64)),
            torch.from_numpy(rows.indices.astype(np.int64)),
            torch.from_numpy(rows.data).to(dtype),
            size=rows.shape,
            check_invariants=True,
        )
