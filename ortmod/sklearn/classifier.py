"""OnnxClassifier: classes from rows of numbers."""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from ortmod._errors import ModelError, ShapeError
from ortmod.sklearn import _network as network
from ortmod.sklearn._base import OnnxEstimator
from ortmod.sklearn._errors import DataError, ParameterError, typed
from ortmod.sklearn._losses import CLASSIFICATION, HingeLearningLoss, classification_loss
from ortmod.training.sgd_learning_loss import BaseLearningLoss, CrossEntropyLearningLoss


def _has_probabilities(estimator: Any) -> bool:
    return not (estimator.loss in ("hinge", "squared_hinge") or isinstance(estimator.loss, HingeLearningLoss))


def _sorted(classes: Any) -> np.ndarray:
    try:
        return np.unique(np.asarray(list(classes) if isinstance(classes, Set) else classes))
    except (TypeError, ValueError):
        raise DataError(f"[data] classes: got {classes!r}, expected labels of one kind, numbers or strings") from None


class OnnxClassifier(ClassifierMixin, OnnxEstimator):
    """A linear model, a network or any ONNX graph that gives raw scores, trained by a composed plan; two classes, several, or
    labels that do not exclude each other (y of zeros and ones, a column each).

    Args:
        model: an ONNX graph X -> raw scores (no sigmoid or softmax at its end): one column, or one per class.
        loss: 'log_loss' (softmax over the classes; sigmoid for one column), 'binary_log_loss', 'hinge', 'squared_hinge' (one class
            against the rest, as SGDClassifier), or a BaseLearningLoss.
        class_weight: what a row weighs by its class, times its sample_weight: a dict by class (1 where it has none), or 'balanced'
            (`fit` only): inversely to the weight of the classes in y.

    Other arguments are those of OnnxRegressor. Attributes: also `classes_`; `onnx_` ends with `label` and `probabilities`.
    """

    class_weight: Any
    classes_: np.ndarray
    n_outputs_: int
    _multilabel: bool
    _losses = CLASSIFICATION
    _output_name = "scores"

    def __init__(
        self,
        model: Any = None,
        *,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        loss: Any = "log_loss",
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
        class_weight: Any = None,
        callback: Any = None,
        verbose: int = 0,
        device: Any = "cpu",
    ) -> None:
        self._store(locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "OnnxClassifier":
        """Trains for max_iter epochs, or until the loss stops falling; with `warm_start` it goes on where the last fit ended."""
        resume = bool(self.warm_start) and self.__sklearn_is_fitted__()
        with self._unharmed(resume):
            self._learn(X, y, sample_weight, resume, single=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> "OnnxClassifier":
        """One epoch over these rows, from where the last call ended; the first call needs all `classes`."""
        resume = self.__sklearn_is_fitted__()
        if classes is None and not resume:
            raise DataError("[data] classes must be passed on the first call to partial_fit: got None")
        with self._unharmed(resume):
            self._learn(X, y, sample_weight, resume, single=True, classes=classes)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Raw scores: (n,) for two classes, positive for the second one, else (n, classes)."""
        scores = self._outputs(X)
        if self._multilabel or len(self.classes_) > 2:
            return scores
        return scores.ravel() if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]

    def predict(self, X: Any) -> np.ndarray:
        scores = self.decision_function(X)
        if self._multilabel:
            return (scores > 0).astype(np.int64)
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(np.int64)]

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, in the order of `classes_`."""
        scores = torch.from_numpy(self._outputs(X))
        form = self._form()
        if form == "labels":
            return scores.sigmoid().numpy()
        if form == "sigmoid":
            return torch.cat([(-scores).sigmoid(), scores.sigmoid()], 1).numpy()
        return torch.softmax(scores if form == "softmax" else torch.nn.functional.logsigmoid(scores), 1).numpy()

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba`, finite also where a probability is too small for its type."""
        scores = torch.from_numpy(self._outputs(X))
        form = self._form()
        if form == "sigmoid":
            scores = torch.cat([-scores, scores], 1)
        logs = scores if form == "softmax" else torch.nn.functional.logsigmoid(scores)
        return (torch.log_softmax(logs, 1) if form in ("softmax", "rest") else logs).numpy()

    def _form(self) -> str:
        if not _has_probabilities(self):
            return "none"
        if self._multilabel:
            return "labels"
        if self.n_columns_ == 1:
            return "sigmoid"
        return "softmax" if isinstance(self._loss(self.n_columns_), CrossEntropyLearningLoss) else "rest"

    @property
    def onnx_(self) -> Any:
        """The graph with the trained weights, X -> scores, `label` and, where the loss has some, `probabilities`."""
        session = self._fitted()
        return network.add_labels(session.trained(whole=False), session.output, self.n_columns_, self.classes_, self._form())

    def _validate(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), multi_output=True, order="C", reset=reset)
        if issparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return X, y

    def _target(self, y: np.ndarray, resume: bool, classes: Any) -> np.ndarray:
        with typed():
            kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise DataError(
                "[data] y: got columns of several classes, expected one column of classes, or columns of zeros and ones"
            )
        multilabel = kind == "multilabel-indicator"
        known = np.arange(y.shape[1]) if multilabel else np.unique(y)
        if resume and multilabel != self._multilabel:
            raise DataError(f"[data] y: got {'columns' if multilabel else 'one column'} of labels, unlike before")
        if multilabel and resume and y.shape[1] != len(self.classes_):
            raise ShapeError(f"[data] y: got {y.shape[1]} columns of labels, expected {len(self.classes_)} as before")
        if resume or classes is not None:
            given = _sorted(classes) if classes is not None else self.classes_
            if multilabel and len(given) != len(known):
                raise ShapeError(f"[data] classes: got {len(given)}, expected {len(known)}, one per column of y")
            if resume and not np.array_equal(given, self.classes_):
                raise DataError(f"[data] classes={given.tolist()} is not the same as in the last call: {self.classes_.tolist()}")
            unknown = np.setdiff1d(known, given)
            if len(unknown):
                raise DataError(
                    f"[data] y: got labels {unknown.tolist()} that are none of the known classes {given.tolist()}; "
                    "give all classes to the first call of partial_fit, or fit anew"
                )
            known = given
        if not multilabel and len(known) < 2:
            raise DataError(f"[data] y: got one class, {known.tolist()}, expected at least two classes")
        self.classes_, self._multilabel = known, multilabel
        self.n_outputs_ = len(known) if multilabel or len(known) > 2 else 1
        if multilabel:
            return y.astype(np.int64)
        return np.searchsorted(known, y).astype(np.int64)

    def _check(self) -> None:
        super()._check()
        given = self.class_weight
        if given is None:
            return
        if not isinstance(given, Mapping) and not (isinstance(given, str) and given == "balanced"):
            raise ParameterError(f"[fit] class_weight: got {given!r}, expected None, 'balanced' or a dict of weights by class")
        for label, value in given.items() if isinstance(given, Mapping) else ():
            if not isinstance(value, int | float | np.integer | np.floating) or not 0 <= value < np.inf:
                raise ParameterError(
                    f"[fit] class_weight: got {value!r} for class {label!r}, expected a finite number of at least 0"
                )
        if self.batch_size == 1:
            raise ParameterError(
                "[fit] class_weight has no effect at batch_size=1, as the loss of a batch is divided by its sum of weights; "
                "give more rows, or batch_size='auto'"
            )

    def _scale(self, target: np.ndarray, weight: np.ndarray | None, single: bool) -> np.ndarray | None:
        given = self.class_weight
        if given is None:
            return None
        if self._multilabel:
            raise ParameterError("[fit] class_weight is for classes that exclude each other, not for columns of labels")
        if isinstance(given, Mapping):
            known = self.classes_.tolist()
            unknown = [label for label in given if label not in known]
            if unknown and not all(label in given for label in known):
                raise ParameterError(f"[fit] class_weight: got weights for {unknown!r}, which are none of the classes {known!r}")
            return np.array([given.get(label, 1.0) for label in known], np.float64)[target]
        if single:
            raise ParameterError(
                "[fit] class_weight='balanced' is not for partial_fit, which sees a part of the rows; give a dict of the weights "
                "that sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y) finds for all rows"
            )
        sums = np.bincount(target, weight, len(self.classes_))
        return (sums.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1)))[target]

    def _check_columns(self, columns: int) -> None:
        if columns != self.n_outputs_ and not (self.n_outputs_ == 1 and columns == 2):
            raise ShapeError(f"[data] y: got {len(self.classes_)} classes, but the graph's output has {columns} columns of scores")

    def _look(self, rows: torch.Tensor) -> None:
        super()._look(rows)
        sums = rows.sum(1)
        shares = rows.shape[1] > 1 and bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        last = self._session.producer()
        if not isinstance(self.loss, BaseLearningLoss) and (shares or last in ("Sigmoid", "Softmax")):
            made = f" ({last})" if last else ""
            raise ModelError(
                f"[train] output {self._session.output!r} gives probabilities{made}, expected raw scores; name the value before "
                "them with output=, or convert a fitted estimator with OnnxClassifier.from_estimator"
            )

    def _units(self) -> int:
        return self.n_outputs_

    def _loss(self, columns: int) -> BaseLearningLoss:
        if isinstance(self.loss, BaseLearningLoss):
            return self.loss
        return classification_loss("binary_log_loss" if self._multilabel and self.loss == "log_loss" else self.loss, columns)

    def _labels(self, target: np.ndarray) -> np.ndarray:
        """Class numbers for losses over classes, a column of zeros and ones per class for the others."""
        if self._multilabel or self.n_columns_ == 1 or isinstance(self._loss(self.n_columns_), CrossEntropyLearningLoss):
            return target
        return (target[:, None] == np.arange(self.n_columns_)).astype(np.int64)

    def _stratify(self, target: np.ndarray) -> np.ndarray | None:
        return target if not self._multilabel and len(self.classes_) == 2 and target.ndim == 1 else None

    @classmethod
    def from_estimator(cls, estimator: Any, *, dtype: Any = None, **params: Any) -> "OnnxClassifier":
        """As OnnxRegressor.from_estimator, for linear classifiers, MLPClassifier and pipelines ending in one."""
        from ortmod.sklearn._convert import convert

        found = convert(estimator, dtype, params, classifier=True)
        result = cls(found.model, **{**found.params, **params})
        result.classes_, result.n_outputs_, result._multilabel = found.classes, found.outputs, found.multilabel
        result._adopt(found.features, found.feature_names, found.progress)
        found.check(result)
        return result

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
