"""Tables that scikit-learn carries in its wheel: digits, breast cancer, wine, diabetes. No file or network is
needed."""

from types import ModuleType

import numpy as np
import torch

from steepest.data.dataset import Dataset, make_dataset

__all__ = ["breast_cancer", "diabetes", "digits", "wine"]


def _sklearn(name: str) -> tuple[ModuleType, str]:
    try:
        import sklearn
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            f'data.{name}() reads scikit-learn\'s copy: pip install "steepest[arena]" or scikit-learn'
        ) from error
    return sklearn.datasets, f"scikit-learn {sklearn.__version__}"


def digits(
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Handwritten digits: 1,797 images of 8 x 8 pixels, 10 classes (Alpaydin and Kaynak, 1998; UCI).

    Inputs have shape (n, 64), pixels row by row, originally 0 .. 16. They are standardised with one mean and one
    standard deviation over all pixels of the training part: per-pixel statistics would blow up the corner pixels,
    which are almost always 0. Targets are int64. The split is stratified.

    Args:
        seed: of the split, an integer in [0, 2**32 - 1].
        validation, test: fractions of the rows in [0, 1), sum below 1.
        standardize: whether to apply that transform; else the raw values.
        dtype: ``torch.float32`` or ``torch.float64``, of the inputs.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    datasets, source = _sklearn("digits")
    raw = datasets.load_digits()
    return make_dataset(
        "digits",
        raw.data,
        raw.target,
        validation=validation,
        test=test,
        seed=seed,
        classes=tuple(str(c) for c in raw.target_names),
        features=tuple(raw.feature_names),
        standardize=standardize,
        per_column=False,
        dtype=dtype,
        source=source,
    )


def breast_cancer(
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Breast cancer Wisconsin (diagnostic): 569 rows, 30 features, classes malignant (0) and benign (1) (Wolberg et
    al., 1995).

    Inputs have shape (n, 30), each column standardised with the training part's mean and standard deviation. Targets
    are int64. The split is stratified. Arguments and errors as for :func:`digits`.
    """
    return _classification("breast_cancer", "load_breast_cancer", seed, validation, test, standardize, dtype)


def wine(
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Wine recognition: 178 rows, 13 chemical features, 3 cultivars (Aeberhard and Forina, 1991; UCI).

    Inputs have shape (n, 13), each column standardised with the training part's mean and standard deviation. Targets
    are int64. The split is stratified. Arguments and errors as for :func:`digits`.
    """
    return _classification("wine", "load_wine", seed, validation, test, standardize, dtype)


def _classification(
    name: str, loader: str, seed: int, validation: float, test: float, standardize: bool, dtype: torch.dtype
) -> Dataset:
    datasets, source = _sklearn(name)
    raw = getattr(datasets, loader)()
    return make_dataset(
        name,
        raw.data,
        raw.target,
        validation=validation,
        test=test,
        seed=seed,
        classes=tuple(str(c) for c in raw.target_names),
        features=tuple(str(f) for f in raw.feature_names),
        standardize=standardize,
        dtype=dtype,
        source=source,
    )


def diabetes(
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Diabetes progression: 442 patients, 10 features, regression (Efron, Hastie, Johnstone and Tibshirani, 2004).

    Inputs have shape (n, 10) and targets (n,), both of ``dtype``. Columns and targets are standardised with the
    training part's statistics, so predicting 0 has a mean squared error of exactly 1 on the training part;
    ``target_transform.invert`` gives the original units (25 .. 346). The raw table is read, because scikit-learn's
    scaled one was scaled with the statistics of all rows, test rows included. Arguments and errors as for
    :func:`digits`.
    """
    datasets, source = _sklearn("diabetes")
    raw = datasets.load_diabetes(scaled=False)
    return make_dataset(
        "diabetes",
        raw.data,
        np.asarray(raw.target, dtype=np.float64),
        validation=validation,
        test=test,
        seed=seed,
        classes=None,
        features=tuple(raw.feature_names),
        standardize=standardize,
        dtype=dtype,
        source=source,
    )
