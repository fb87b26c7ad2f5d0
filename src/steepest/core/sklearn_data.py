"""The check of data that all estimators with the interface of scikit-learn share; scikit-learn is imported on use."""

from typing import Any

__all__ = ["validated"]


def validated(estimator: Any, *data: Any, **settings: Any) -> Any:
    """``sklearn.utils.validation.validate_data``, in every version of scikit-learn."""
    try:
        from sklearn.utils.validation import validate_data  # type: ignore[import-untyped, unused-ignore]
    except ImportError:  # before scikit-learn 1.6 it was a method
        return estimator._validate_data(*data, **settings)
    return validate_data(estimator, *data, **settings)
