"""Rows into train, validation and test: disjoint, complete, stratified, and the same on every machine for a seed."""

import numpy as np

from steepest.core.ranges import Integer, Real

__all__ = ["block_bounds", "check_fractions", "split_indices"]

_FRACTION = Real(0.0, 1.0, high_open=True)
_SEED = Integer(0, 2**32 - 1)


def check_fractions(validation: float, test: float) -> None:
    """Raise unless both fractions lie in [0, 1) and leave something to train on."""
    _FRACTION.check("validation", validation)
    _FRACTION.check("test", test)
    if validation + test >= 1.0:
        raise ValueError(
            f"validation + test must be below 1, got {validation!r} + {test!r}: nothing is left for training"
        )


def split_indices(
    rows: int, labels: np.ndarray | None = None, *, validation: float = 0.2, test: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of train, validation and test, each shuffled; disjoint, and together all of ``range(rows)``.

    With ``labels`` the split is stratified: every class keeps at least one row in train, and gives each other part its
    share to within one row; a class of so few rows that both cannot hold gives less. Sizes are
    ``round(fraction * rows)`` where that rule allows. The test part does not depend on ``validation``, so tuning with
    another validation fraction leaves it untouched.

    Args:
        rows: number of rows, at least 1.
        labels: shape (rows,), the class of each row, or ``None`` for an unstratified split.
        validation, test: fractions in [0, 1), sum below 1; 0 gives an empty part.
        seed: an integer in [0, 2**32 - 1].

    Raises:
        ValueError: a fraction is out of range, or so small that its part would be empty.
    """
    check_fractions(validation, test)
    _SEED.check("seed", seed)
    classes = np.zeros(rows, dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    # RandomState and not Generator: its stream is frozen for good, so a split never changes with a NumPy release.
    random = np.random.RandomState(seed)
    order = random.permutation(rows)
    members = [order[classes[order] == c] for c in range(int(classes.max(initial=-1)) + 1)]
    sizes = np.array([len(m) for m in members])
    test_counts = _apportion(sizes, test, "test", room=sizes - 1)
    validation_counts = _apportion(sizes, validation, "validation", room=sizes - 1 - test_counts)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for own, t, v in zip(members, test_counts, validation_counts, strict=True):
        for part, piece in zip(parts, (own[t + v :], own[t : t + v], own[:t]), strict=True):
            part.append(piece)
    # Classes are mixed again by rank in the first permutation; drawing further random numbers here would make the
    # order of one part depend on the sizes of the others.
    rank = np.empty(rows, dtype=np.int64)
    rank[order] = np.arange(rows)
    joined = [np.concatenate(part).astype(np.int64) if part else np.zeros(0, np.int64) for part in parts]
    train, val, held = (part[np.argsort(rank[part], kind="stable")] for part in joined)
    if len(train) == 0:
        raise ValueError(f"the data must have at least one row to train on, got {rows} rows")
    return train, val, held


def _apportion(sizes: np.ndarray, fraction: float, name: str, room: np.ndarray) -> np.ndarray:
    """``round(fraction * total)`` rows shared out over classes by largest remainder, at most ``room`` from each."""
    exact = sizes * fraction
    counts: np.ndarray = np.minimum(np.floor(exact).astype(np.int64), room)
    wanted = round(fraction * int(sizes.sum()))
    for c in np.argsort(np.floor(exact) - exact, kind="stable"):  # largest remainder first, ties by class
        if counts.sum() >= wanted:
            break
        if counts[c] < room[c]:
            counts[c] += 1
    if fraction > 0 and counts.sum() == 0:
        raise ValueError(
            f"{name}={fraction!r} leaves no row for that part of {int(sizes.sum())} rows; use more, or 0 for none"
        )
    return counts


def block_bounds(length: int, validation: float, test: float) -> tuple[int, int]:
    """Ends of the train and the validation block when ``length`` items are cut into train | validation | test.

    Raises:
        ValueError: a fraction is out of range, or a part that was asked for would be empty.
    """
    check_fractions(validation, test)
    held, val = round(length * test), round(length * validation)
    for name, fraction, size in (("test", test, held), ("validation", validation, val)):
        if fraction > 0 and size == 0:
            raise ValueError(f"{name}={fraction!r} leaves nothing for that part of {length} characters; use more, or 0")
    if length - held - val <= 0:
        raise ValueError(
            f"validation={validation!r} and test={test!r} leave nothing to train on of {length} characters"
        )
    return length - held - val, length - held
