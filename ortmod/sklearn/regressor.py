"""OnnxRegressor: numbers from rows of numbers."""

from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d, validate_data

from ortmod._errors import ShapeError
from ortmod.sklearn._base import OnnxEstimator
from ortmod.sklearn._errors import typed
from ortmod.sklearn._losses import REGRESSION
from ortmod.training.sgd_learning_loss import BaseLearningLoss


class OnnxRegressor(RegressorMixin, OnnxEstimator):
    """A linear model, a network or any ONNX graph, trained by a composed plan; arguments are those of MLPRegressor and

    Args:
        model: an ONNX graph X -> y (path, bytes, ModelProto), trained from its own weights; None: a network is built.
        hidden_layer_sizes: of the network; () is a linear model, which starts at zero.
        loss: 'squared_error' (d^2 / 2), 'absolute_error', 'huber', 'epsilon_insensitive', or a BaseLearningLoss.
        solver: 'sgd', 'adam', 'adamw'.
        learning_rate: 'constant', 'invscaling', 'adaptive', 'optimal', 'cosine', or a BaseLearningRate in place of solver and rate.
        penalty: None: alpha is divided by the rows of the batch, as in MLPRegressor; 'l2', 'l1', 'elasticnet': it is not, as in
            SGDRegressor; or a BaseLearningPenalty.
        tol: None: all max_iter epochs.
        output, trainable, frozen: of `model`, the output to train and the weights (names, globs, a predicate).
        callback: called after each epoch with a dict; False ends the fit.

    Attributes: coefs_, intercepts_ (coef_, intercept_ of a linear model), weights_ (by name), onnx_,
        loss_curve_, validation_losses_, best_loss_, n_iter_, t_.
    Errors are those of docs/errors.md; after one the estimator is what it was.
    """

    n_outputs_: int
    _flat: bool
    _losses = tuple(REGRESSION)

    def __init__(
        self,
        model: Any = None,
        *,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        loss: Any = "squared_error",
        solver: str = "sgd",
        learning_rate: Any = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        alpha: float = 0.0,
        penalty: Any = None,
        l1_ratio: float = 0.15,
        batch_size: Any = "auto",
        max_iter: int = 200,
        tol: float | None = 1e-4,
        n_iter_no_change: float = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        shuffle: bool = True,
        random_state: Any = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        output: str | None = None,
        trainable: Any = None,
        frozen: Any = None,
        callback: Any = None,
        verbose: int = 0,
        device: Any = "cpu",
    ) -> None:
        self._store(locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OnnxRegressor":
        """Trains for max_iter epochs, or until the loss stops falling; with `warm_start` it goes on where the last fit ended."""
        resume = bool(self.warm_start) and self.__sklearn_is_fitted__()
        with self._unharmed(resume):
            self._learn(X, y, sample_weight, resume, single=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OnnxRegressor":
        """One epoch over these rows, from where the last call ended."""
        resume = self.__sklearn_is_fitted__()
        with self._unharmed(resume):
            self._learn(X, y, sample_weight, resume, single=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Shape (n,), or (n, outputs) where y had columns."""
        values = self._outputs(X)
        return values.ravel() if self._flat else values

    def _validate(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), multi_output=True, y_numeric=True, order="C", reset=reset)
        if issparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _target(self, y: np.ndarray, resume: bool, classes: Any) -> np.ndarray:
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if resume and outputs != self.n_outputs_:
            raise ShapeError(f"[data] y: got {outputs} columns, expected {self.n_outputs_} as before")
        self.n_outputs_ = outputs
        self._flat = y.ndim == 1
        with typed():
            return y.astype(np.float64, copy=False) if y.dtype.kind != "f" else y

    def _check_columns(self, columns: int) -> None:
        if columns != self.n_outputs_:
            raise ShapeError(f"[data] y: got {self.n_outputs_} columns, but the graph's output has {columns}")

    def _units(self) -> int:
        return self.n_outputs_

    def _loss(self, columns: int) -> BaseLearningLoss:
        return self.loss if isinstance(self.loss, BaseLearningLoss) else REGRESSION[self.loss]()

    @classmethod
    def from_estimator(cls, estimator: Any, *, dtype: Any = None, **params: Any) -> "OnnxRegressor":
        """A fitted OnnxRegressor with the graph of a fitted linear model, MLPRegressor or pipeline ending in one; predicts the
        same, and `partial_fit` and `fit` go on from its weights. Loss, penalty and, where they mean the same, rates are taken
        over unless given in `params`. `dtype`: that of the graph, default that of the coefficients.

        Raises:
            EstimatorError: an estimator that has nothing a gradient can train (trees, kernels), or is no linear model.
        """
        from ortmod.sklearn._convert import convert

        found = convert(estimator, dtype, params, classifier=False)
        result = cls(found.model, **{**found.params, **params})
        result.n_outputs_, result._flat = found.outputs, found.flat
        result._adopt(found.features, found.feature_names, found.progress)
        found.check(result)
        return result

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
