"""Estimators with the interface of scikit-learn; they need scikit-learn."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from steepest.core.ranges import Integer, Real
from steepest.core.result import Reason
from steepest.core.sklearn_data import validated
from steepest.train.convexnet.losses import as_loss
from steepest.train.convexnet.robust import RobustFit, train_robust_convex_relu
from steepest.train.convexnet.train import default_rounds, train_convex_relu

__all__ = ["ConvexReLUClassifier", "ConvexReLURegressor"]


class _ConvexReLU(BaseEstimator):
    def __init__(
        self,
        *,
        solver: Any = "admm",
        loss: Any = "squared",
        n_patterns: int = 50,
        penalty: float = 0.1,
        gated: bool = False,
        joint: bool = False,
        bias: bool = True,
        adversarial_radius: float = 0.0,
        max_iter: int = 500,
        tol: float = 1e-2,
        random_state: Any = None,
        device: Any = None,
        rounds: int | None = None,
    ) -> None:
        self.solver = solver
        self.loss = loss
        self.n_patterns = n_patterns
        self.penalty = penalty
        self.gated = gated
        self.joint = joint
        self.bias = bias
        self.adversarial_radius = adversarial_radius
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device
        self.rounds = rounds

    def _train(self, features: np.ndarray, target: np.ndarray, start: Any = None) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        Real(low=0.0).check("adversarial_radius", self.adversarial_radius)
        if self.adversarial_radius > 0:
            self._train_robust(features, target, seed, start)
            return
        trained = train_convex_relu(
            torch.as_tensor(features, device=self.device),
            torch.as_tensor(target, device=self.device),
            loss=self.loss,
            penalty=self.penalty,
            n_patterns=self.n_patterns,
            solver=self.solver,
            gated=self.gated,
            joint=self.joint,
            bias=self.bias,
            budget=f"{self.max_iter}steps",
            tolerance=self.tol,
            seed=seed,
            patterns=None if start is None else start.patterns,
            start=None if start is None else start.point,
            rounds=default_rounds(self.gated, self.solver) if self.rounds is None else self.rounds,
        )
        if trained.reason is Reason.BUDGET and trained.relative_gap > self.tol and self.solver != "interior-point":
            warnings.warn(
                f"after max_iter={self.max_iter} steps the objective {trained.objective:.6g} is proved to be within "
                f"{trained.gap:.3g} of the optimum, which is more than tol={self.tol:g} of it; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        self._trained = trained
        self.network_ = trained.network
        self.objective_, self.lower_bound_, self.gap_ = trained.objective, trained.bound, trained.gap
        self.n_iter_ = max(1, trained.steps)
        self.rounds_, self.violation_ = trained.rounds, trained.violation

    def _train_robust(self, features: np.ndarray, target: np.ndarray, seed: int, start: RobustFit | None) -> None:
        if target.size != len(target):
            raise ValueError(
                f"adversarial_radius={self.adversarial_radius!r} needs one output (two classes), got {target.shape[1]}"
            )
        if self.gated or self.joint or self.solver not in ("admm", "interior-point"):
            raise ValueError(
                f"adversarial_radius={self.adversarial_radius!r} needs gated=False, joint=False and the solver "
                f"'admm' or 'interior-point', got gated={self.gated!r}, joint={self.joint!r}, solver={self.solver!r}"
            )
        Integer(low=1).check("max_iter", self.max_iter)
        trained = train_robust_convex_relu(
            torch.as_tensor(features, device=self.device).double(),
            torch.as_tensor(target.reshape(-1), device=self.device).double(),
            adversarial_radius=self.adversarial_radius,
            loss=self.loss,
            n_patterns=self.n_patterns,
            draws=self.n_patterns,
            penalty=self.penalty,
            bias=self.bias,
            solver=self.solver,
            accuracy=self.tol,
            steps=self.max_iter,
            generator=torch.Generator().manual_seed(seed),
            patterns=None if start is None else start.program.patterns,
        )
        if self.solver == "admm" and trained.gap > self.tol * max(1.0, trained.value):
            warnings.warn(
                f"after max_iter={self.max_iter} steps the objective {trained.value:.6g} is proved to be within "
                f"{trained.gap:.3g} of the optimum, which is more than tol={self.tol:g} of it; raise max_iter or tol, "
                "or take solver='interior-point'",
                ConvergenceWarning,
                stacklevel=4,
            )
        self._trained = trained
        self.network_ = trained.network.to(torch.as_tensor(features).dtype)
        self.objective_, self.lower_bound_, self.gap_ = trained.value, trained.bound, trained.gap
        self.n_iter_ = trained.steps

    def _predict(self, features: Any) -> np.ndarray:
        check_is_fitted(self, "network_")
        data = validated(self, features, dtype=[np.float64, np.float32], reset=False)
        weight = self.network_.hidden.weight
        with torch.no_grad():
            found = self.network_(torch.as_tensor(data).to(weight)).cpu().numpy()
        return found.astype(data.dtype, copy=False)

    def path(self, X: Any, y: Any, penalties: Iterable[float]) -> dict[float, Any]:
        """Fitted copies for several penalties, from the largest down, each from the patterns and the point of the one
        before.

        Args:
            X, y: as in ``fit``.
            penalties: each >= 0.

        Returns:
            Estimators by penalty, the largest first.
        """
        found: dict[float, Any] = {}
        before: Any = None
        # One seed for all, so that random neurons (solver "scp") are the same ones, too.
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        for penalty in sorted({float(p) for p in penalties}, reverse=True):
            made = clone(self).set_params(penalty=penalty, random_state=seed)
            made._fit(X, y, before)
            before = made._trained
            found[penalty] = made
        return found

    def fit(self, X: Any, y: Any) -> Any:
        """Train the network.

        Args:
            X: features ``(n, d)``; scale the columns to similar sizes first.
            y: targets.
        """
        return self._fit(X, y, None)

    def _fit(self, X: Any, y: Any, start: Any) -> Any:
        raise NotImplementedError


_ARGUMENTS = """
    Args:
        solver: ``"admm"`` (default), ``"admm-rbcd"``, ``"scp"``, ``"interior-point"``, or a solver of this room.
        loss: {losses}, another loss of the library, or an elementwise convex function of predictions and targets
            (tensors). It is **summed over samples**.
        n_patterns: random gates (neurons, for ``"scp"``) to draw. Default 50.
        penalty: weight decay: ``penalty / 2`` on the squares of all weights, >= 0. Default 0.1.
        gated: train gated ReLUs, which is easier: no cones. Default False.
        joint: with ``gated``: several outputs share their neurons (nuclear norms). Default False: each has its own.
        bias: give the hidden neurons a bias, penalized like a weight. Default True.
        adversarial_radius: train against perturbations of each feature by at most so much, >= 0, in units of ``X``:
            the robust program of :func:`~steepest.train.convexnet.robust.train_robust_convex_relu`, for one output and
            a loss of the library, by ``"admm"`` or ``"interior-point"``. Default 0.
        max_iter: steps of the solver, >= 1. Default 500.
        tol: relative duality gap at which to end, >= 0. Default 1e-2.
        random_state: an int, a generator of numpy, or None.
        device: where to compute; default the CPU.
        rounds: of pattern growth, at most, >= 0 (see :func:`~steepest.train.convexnet.train.train_convex_relu`); None,
            the default, is 3, or 0 where it does not apply (``gated``, ``"scp"``).

    Attributes:
        network_: the trained :class:`~steepest.train.convexnet.network.TwoLayerReLU`, in the dtype of ``X`` (float32 or
            float64); computation is in float64.
        objective_: its objective.
        lower_bound_: a proved lower bound on the optimum over the patterns.
        gap_: ``objective_ - lower_bound_``, at least 0.
        n_iter_: steps of the solver.
        rounds_: rounds of pattern growth.
        violation_: the largest violation of a dual constraint over all patterns that was found, in parts of the
            penalty; None where none was looked for.
"""


class ConvexReLUClassifier(ClassifierMixin, _ConvexReLU):
    __doc__ = f"""Two-layer ReLU networks for classification, trained to global optimality.

    Two classes are one output with targets -1 and 1; more are one output for each class against the rest.
{_ARGUMENTS.format(losses='``"logistic"`` (default), ``"hinge"``, ``"squared"``')}
        classes_: the labels.

    Source: M. Pilanci, T. Ergen (2020), arXiv 2002.10553; Y. Bai, T. Gautam, S. Sojoudi (2022), arXiv 2201.01965.
    """

    def __init__(
        self,
        *,
        solver: Any = "admm",
        loss: Any = "logistic",
        n_patterns: int = 50,
        penalty: float = 0.1,
        gated: bool = False,
        joint: bool = False,
        bias: bool = True,
        adversarial_radius: float = 0.0,
        max_iter: int = 500,
        tol: float = 1e-2,
        random_state: Any = None,
        device: Any = None,
        rounds: int | None = None,
    ) -> None:
        super().__init__(
            solver=solver,
            loss=loss,
            n_patterns=n_patterns,
            penalty=penalty,
            gated=gated,
            joint=joint,
            bias=bias,
            adversarial_radius=adversarial_radius,
            max_iter=max_iter,
            tol=tol,
            random_state=random_state,
            device=device,
            rounds=rounds,
        )

    def _fit(self, X: Any, y: Any, start: Any) -> "ConvexReLUClassifier":
        X, y = validated(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        signs = 2.0 * np.eye(len(self.classes_))[index] - 1
        self._train(X, signs[:, 1:] if len(self.classes_) == 2 else signs, start)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The outputs: ``(n,)`` for two classes (positive for the second), else ``(n, classes)``."""
        found = self._predict(X)
        return found[:, 0] if len(self.classes_) == 2 else found

    def predict(self, X: Any) -> np.ndarray:
        """The label of each sample."""
        score = self.decision_function(X)
        return self.classes_[(score > 0).astype(int) if score.ndim == 1 else score.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes; for the logistic loss only. With more than two classes, the probabilities of
        each against the rest are divided by their sum.

        Raises:
            AttributeError: the loss is another.
        """
        if type(as_loss(self.loss)).__name__ != "Logistic":
            raise AttributeError("predict_proba needs loss='logistic'")
        score = torch.as_tensor(self.decision_function(X))
        chance = torch.sigmoid(score).numpy()
        if chance.ndim == 1:
            return np.stack([1 - chance, chance], axis=1)
        total = chance.sum(1, keepdims=True)
        return np.where(total > 0, chance / np.where(total > 0, total, 1), 1 / chance.shape[1])


class ConvexReLURegressor(RegressorMixin, _ConvexReLU):
    __doc__ = f"""Two-layer ReLU networks for regression, trained to global optimality.
{_ARGUMENTS.format(losses='``"squared"`` (default), ``"huber"``, ``"absolute"``')}
    Source: M. Pilanci, T. Ergen (2020), arXiv 2002.10553; Y. Bai, T. Gautam, S. Sojoudi (2022), arXiv 2201.01965.
    """

    def _fit(self, X: Any, y: Any, start: Any) -> "ConvexReLURegressor":
        X, y = validated(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True)
        if as_loss(self.loss).margin:
            raise ValueError(f"loss must be one for regression, got {self.loss!r}; ConvexReLUClassifier takes it")
        self._outputs = y.ndim
        self._train(X, y.astype(np.float64), start)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions, ``(n,)`` or ``(n, outputs)`` like the targets."""
        found = self._predict(X)
        return found[:, 0] if self._outputs == 1 else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        return {"multioutput": True}
