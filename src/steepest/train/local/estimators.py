"""Estimators with the interface of scikit-learn; they need scikit-learn."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from steepest.core.sklearn_data import validated
from steepest.train.local.gradient_boosted_network import RANGES, BinaryLoss, BoostLoss, SoftmaxLoss, SquaredLoss, boost

__all__ = ["GradientBoostedNetworkClassifier", "GradientBoostedNetworkRegressor"]

#: What the settings of ``boost`` are called here, where scikit-learn has a name for them.
_NAMES = {"stages": "n_estimators", "units": "hidden_units", "penalty": "alpha"}


class _GradientBoostedNetwork(BaseEstimator):
    def __init__(
        self,
        *,
        n_estimators: int = 200,
        hidden_units: int = 1,
        learning_rate: float = 1.0,
        subsample: float = 0.5,
        activation: str = "logistic",
        max_iter: int = 200,
        tol: float = 0.0,
        alpha: float = 1e-4,
        random_state: Any = None,
        device: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.hidden_units = hidden_units
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.activation = activation
        self.max_iter = max_iter
        self.tol = tol
        self.alpha = alpha
        self.random_state = random_state
        self.device = device

    def _train(self, features: np.ndarray, target: np.ndarray, loss: BoostLoss) -> None:
        for name, allowed in RANGES.items():
            allowed.check(_NAMES.get(name, name), getattr(self, _NAMES.get(name, name)))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._boosted = boost(
            torch.as_tensor(features, device=self.device).double(),
            torch.as_tensor(target, device=self.device).double(),
            loss,
            stages=self.n_estimators,
            units=self.hidden_units,
            learning_rate=self.learning_rate,
            subsample=self.subsample,
            activation=self.activation,
            max_iter=self.max_iter,
            tol=self.tol,
            penalty=self.alpha,
            generator=torch.Generator().manual_seed(seed),
        )
        self._dtype = torch.as_tensor(features).dtype
        self.network_ = self.truncated(self.n_estimators)
        self.steps_ = np.array(self._boosted.steps)
        self.n_iter_ = max(1, self._boosted.iterations)

    def truncated(self, n_estimators: int) -> torch.nn.Sequential:
        """The network of the first stages alone, in the dtype of the training data."""
        check_is_fitted(self, "_boosted")
        return self._boosted.network(n_estimators).to(self._dtype)

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "network_")
        data = validated(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._outputs_of(self.network_, data)

    @staticmethod
    def _outputs_of(network: torch.nn.Sequential, data: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network(torch.as_tensor(data).to(network[0].weight)).cpu().numpy()
        return found.astype(data.dtype, copy=False)

    def _staged_scores(self, X: Any) -> Iterator[np.ndarray]:
        check_is_fitted(self, "network_")
        data = validated(self, X, dtype=[np.float64, np.float32], reset=False)
        for stage in range(1, len(self.steps_) + 1):
            yield self._outputs_of(self.truncated(stage), data)

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Predictions of the first stage, of the first two, and so on."""
        for scores in self._staged_scores(X):
            yield self._decide(scores)

    def predict(self, X: Any) -> np.ndarray:
        """The prediction for each sample."""
        return self._decide(self._scores(X))

    def _decide(self, scores: np.ndarray) -> np.ndarray:
        raise NotImplementedError


_ABOUT = """
    The hidden layer is trained in stages. Each adds a few neurons, fitted by least squares to the negative gradient of
    the loss that the stages before have left, with a step of Newton's method; see
    :func:`~steepest.train.local.gradient_boosted_network.boost`. The result is one ordinary network, of which the last
    stages may be switched off. Computation is in float64.

    Args:
        n_estimators: stages, >= 1. Default 200.
        hidden_units: neurons per stage, >= 1. Default 1.
        learning_rate: multiplies the steps, in (0, 1]. Default 1.
        subsample: the part of the samples that each stage is fitted to, drawn without replacement, in (0, 1].
            Default 0.5.
        activation: ``"logistic"`` (default), ``"tanh"`` or ``"relu"``.
        max_iter: iterations of L-BFGS per stage, at most, >= 1. Default 200.
        tol: the largest entry of a stage's gradient at which its fit ends, >= 0. Default 0.
        alpha: weight decay of each stage, divided by the number of its samples, >= 0. Default 1e-4.
        random_state: an int, a generator of numpy, or None.
        device: where to compute; default the CPU.

    Attributes:
        network_: the network, ``nn.Sequential(Linear, activation, Linear)``, in the dtype of ``X`` (float32 or
            float64).
        steps_: the step of each stage, ``(n_estimators,)``; 0 where its neurons were of no use.
        n_iter_: the most iterations of L-BFGS that a stage took.
"""
_SOURCE = """
    Source: S. Emami, G. Martinez-Munoz (2023), Sequential Training of Neural Networks with Gradient Boosting, IEEE
    Access 11, arXiv 1909.12098.
    """


class GradientBoostedNetworkClassifier(ClassifierMixin, _GradientBoostedNetwork):
    __doc__ = f"""Networks with one hidden layer for classification, trained by gradient boosting (GB-NN).

    Two classes are one output, the logarithm of the odds of the second; more are one output for each, with a softmax.
{_ABOUT}
        classes_: the labels.
{_SOURCE}"""

    def fit(self, X: Any, y: Any) -> "GradientBoostedNetworkClassifier":
        """Train on features ``(n, d)`` of columns of similar sizes, and labels ``(n,)``."""
        X, y = validated(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        if len(self.classes_) == 2:
            self._train(X, 2.0 * index[:, None] - 1, BinaryLoss())
        else:
            self._train(X, np.eye(len(self.classes_))[index], SoftmaxLoss())
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The outputs: ``(n,)`` for two classes, else ``(n, classes)``."""
        found = self._scores(X)
        return found[:, 0] if len(self.classes_) == 2 else found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, ``(n, classes)``."""
        scores = torch.as_tensor(self._scores(X))
        if scores.shape[1] == 1:
            return torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], 1).numpy()
        return torch.softmax(scores, 1).numpy()

    def _decide(self, scores: np.ndarray) -> np.ndarray:
        return self.classes_[(scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(1)]


class GradientBoostedNetworkRegressor(RegressorMixin, _GradientBoostedNetwork):
    __doc__ = f"""Networks with one hidden layer for regression, trained by gradient boosting (GB-NN).
{_ABOUT}{_SOURCE}"""

    def fit(self, X: Any, y: Any) -> "GradientBoostedNetworkRegressor":
        """Train on features ``(n, d)`` of columns of similar sizes, and targets ``(n,)`` or ``(n, outputs)``."""
        X, y = validated(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True)
        self._targets = y.ndim
        self._train(X, y.astype(np.float64).reshape(len(y), -1), SquaredLoss())
        return self

    def _decide(self, scores: np.ndarray) -> np.ndarray:
        return scores[:, 0] if self._targets == 1 else scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        return {"multioutput": True}
