"""What regressor and classifier share: arguments, data, one fit, and what is known after it."""

import glob
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ortmod._model import load
from ortmod.sklearn import _network as network
from ortmod.sklearn._errors import DataError, DivergenceError, ParameterError, typed
from ortmod.sklearn._session import Session
from ortmod.training._params import checked_choice, checked_number
from ortmod.training.excs import ConvergenceError
from ortmod.training.onnx_helper import as_proto
from ortmod.training.optimizers_partial import select_penalties
from ortmod.training.sgd_learning_loss import BaseLearningLoss
from ortmod.training.sgd_learning_penalty import BaseLearningPenalty, ElasticLearningPenalty
from ortmod.training.sgd_learning_rate import BaseLearningRate, LearningRateAdamW, LearningRateSGD, LearningRateSGDNesterov

T = TypeVar("T", bound="OnnxEstimator")

SOLVERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "invscaling", "adaptive", "optimal", "cosine")
PENALTIES = ("l2", "l1", "elasticnet")

# name: (least, most, whole)
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "learning_rate_init": (1e-300, math.inf, False),
    "power_t": (0, math.inf, False),
    "momentum": (0, 1, False),
    "alpha": (0, math.inf, False),
    "l1_ratio": (0, 1, False),
    "beta_1": (0, math.nextafter(1, 0), False),
    "beta_2": (0, math.nextafter(1, 0), False),
    "epsilon": (1e-300, math.inf, False),
    "weight_decay": (0, math.inf, False),
    "clip_norm": (0, math.inf, False),
    "clip_value": (0, math.inf, False),
    "max_iter": (1, 2**31 - 1, True),
    "n_iter_no_change": (1, math.inf, True),
    "validation_fraction": (0, 1, False),
}
_FLAGS = ("nesterovs_momentum", "early_stopping", "warm_start", "shuffle")


_STEP = (
    "loss solver learning_rate learning_rate_init power_t momentum nesterovs_momentum alpha penalty l1_ratio max_iter beta_1 "
    "beta_2 epsilon weight_decay clip_norm clip_value callback device"
).split()


def _checked(name: str, value: Any, least: float, most: float = math.inf, whole: bool = False) -> None:
    number = value.item() if isinstance(value, np.generic) else value
    checked_number(name, number, least, most)
    if whole and number != math.inf and isinstance(number, float):
        raise ParameterError(f"{name}: got {value!r}, expected a whole number")


class OnnxEstimator(BaseEstimator):
    """Base of OnnxRegressor and OnnxClassifier; see docs/estimators.md for the arguments."""

    model: Any
    hidden_layer_sizes: Any
    activation: str
    loss: Any
    solver: str
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    momentum: float
    nesterovs_momentum: bool
    alpha: float
    penalty: Any
    l1_ratio: float
    batch_size: Any
    max_iter: int
    tol: float | None
    n_iter_no_change: float
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    shuffle: bool
    random_state: Any
    beta_1: float
    beta_2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    clip_value: float
    output: str | None
    trainable: Any
    frozen: Any
    callback: Callable[[dict[str, Any]], Any] | None
    verbose: int
    device: Any

    _session: Session
    loss_curve_: list[float]
    validation_losses_: list[float] | None
    best_loss_: float | None
    n_iter_: int
    n_features_in_: int

    _losses: tuple[str, ...] = ()
    _output_name = "y"

    def _store(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # Arguments.

    def _check(self) -> None:
        try:
            for name, (least, most, whole) in _NUMBERS.items():
                _checked(name, getattr(self, name), least, most, whole)
            for name in _FLAGS:
                if not isinstance(getattr(self, name), bool | np.bool_) and getattr(self, name) not in (0, 1):
                    raise ParameterError(f"{name}: got {getattr(self, name)!r}, expected True or False")
            if not isinstance(self.verbose, bool | np.bool_ | int | np.integer):
                raise ParameterError(f"verbose: got {self.verbose!r}, expected True, False or a whole number")
            if self.callback is not None and not callable(self.callback):
                raise ParameterError(f"callback: got {self.callback!r}, expected a function of a dict, or None")
            checked_choice("activation", self.activation, tuple(network.ACTIVATIONS))
            checked_choice("solver", self.solver, SOLVERS)
            if not isinstance(self.learning_rate, BaseLearningRate):
                checked_choice("learning_rate", self.learning_rate, SCHEDULES)
            if self.learning_rate == "optimal":
                _checked("alpha (learning_rate='optimal' divides by it)", self.alpha, 1e-300)
            if not isinstance(self.loss, BaseLearningLoss):
                checked_choice("loss", self.loss, self._losses)
            if self.tol is not None:
                _checked("tol", self.tol, 0)
            if not isinstance(self.penalty, BaseLearningPenalty | Mapping | list | tuple | None):
                checked_choice("penalty", self.penalty, PENALTIES)
            if not isinstance(self.batch_size, str) or self.batch_size != "auto":
                _checked("batch_size ('auto', or rows)", self.batch_size, 1, 2**31 - 1, whole=True)
        except (ValueError, TypeError) as error:
            raise ParameterError(f"[fit] {str(error).removeprefix('[train] ')}") from None
        if self.model is None:
            sizes = self._hidden()
            if any(not isinstance(n, int | np.integer) or n < 1 for n in sizes):
                raise ParameterError(f"[fit] hidden_layer_sizes: got {self.hidden_layer_sizes!r}, expected numbers of units > 0")

    def _random(self) -> np.random.RandomState:
        try:
            return check_random_state(self.random_state)
        except ValueError as error:
            raise ParameterError(f"[fit] random_state: {error}; expected None, a whole number or a RandomState") from None

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        return list(sizes) if hasattr(sizes, "__iter__") else [sizes]

    def _rate(self) -> BaseLearningRate:
        if isinstance(self.learning_rate, BaseLearningRate):
            return self.learning_rate
        schedule: dict[str, Any] = {"learning_rate": self.learning_rate, "power_t": float(self.power_t), "period": "epoch"}
        if self.learning_rate == "invscaling":
            schedule["period"] = "samples"
        elif self.learning_rate == "optimal":
            schedule.update(alpha=float(self.alpha), period="update")
        elif self.learning_rate == "cosine":
            schedule["total"] = int(self.max_iter)
        rate = float(self.learning_rate_init)
        if self.solver == "sgd":
            if self.momentum == 0:
                return LearningRateSGD(rate, convention="sklearn", **schedule)
            momentum: dict[str, Any] = {"momentum": float(self.momentum), "nesterov": bool(self.nesterovs_momentum)}
            return LearningRateSGDNesterov(rate, convention="sklearn", **momentum, **schedule)
        adam = {"betas": (float(self.beta_1), float(self.beta_2)), "eps": float(self.epsilon), **schedule}
        if self.solver == "adam":
            return LearningRateAdamW(rate, weight_decay=0.0, convention="sklearn", **adam)
        return LearningRateAdamW(rate, weight_decay=float(self.weight_decay), convention="torch", **adam)

    def _penalties(self, session: Session) -> list[BaseLearningPenalty]:
        if isinstance(self.penalty, BaseLearningPenalty | Mapping | list | tuple):
            return select_penalties(self.penalty)
        if not self.alpha or not session.coefs:
            return []
        names = [glob.escape(name) for name in session.coefs]
        alpha = float(self.alpha)
        if self.penalty is None:
            return [ElasticLearningPenalty(0.0, alpha, weights=names, convention="sklearn")]
        share = {"l1": 1.0, "l2": 0.0, "elasticnet": float(self.l1_ratio)}[self.penalty]
        return [ElasticLearningPenalty(alpha * share, alpha * (1 - share), weights=names, convention="torch")]

    # Fitting.

    @contextmanager
    def _unharmed(self, resume: bool) -> Iterator[None]:
        """An error leaves the estimator as it was; Ctrl-C keeps what was reached."""
        before = dict(self.__dict__)
        session: Session | None = before["_session"] if resume else None
        state, options = (session.state(), session.options) if session is not None else (None, None)
        try:
            yield
        except Exception as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            if session is not None:
                session.restore(state, options)
            if isinstance(error, ConvergenceError) and not isinstance(error, ValueError):
                raise DivergenceError(str(error)) from None
            raise

    def _target(self, y: Any, resume: bool, classes: Any) -> np.ndarray:
        """The labels as the loss takes them."""
        raise NotImplementedError

    def _loss(self, columns: int) -> BaseLearningLoss:
        raise NotImplementedError

    def _check_columns(self, columns: int) -> None:
        raise NotImplementedError

    def _look(self, rows: torch.Tensor) -> None:
        """At what the graph gives before it is trained."""
        self.n_columns_ = rows.shape[1]

    def _units(self) -> int:
        raise NotImplementedError

    def _labels(self, target: np.ndarray) -> np.ndarray:
        return target

    def _stratify(self, target: np.ndarray) -> np.ndarray | None:
        return None

    def _validate(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _weights(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        if not np.any(weight > 0):
            raise DataError("[data] sample_weight must contain at least one non-zero number: got zero weights only")
        return weight

    def _scale(self, target: np.ndarray, weight: np.ndarray | None, single: bool) -> np.ndarray | None:
        """What the rows weigh by their labels, beside their own weights."""
        return None

    def _given(self, features: int) -> Session:
        load(self.model)
        proto = as_proto(getattr(self.model, "model_proto", self.model))
        session = Session(proto, self.output, self.trainable, self.frozen)
        session.check_features(features)
        return session

    def _open(self, X: np.ndarray, random: np.random.RandomState) -> Session:
        if self.model is not None:
            return self._given(X.shape[1])
        sizes = [X.shape[1], *self._hidden(), self._units()]
        layers = network.start(sizes, self.activation, X.dtype, random)
        names = [name for pair in network.layer_names(len(layers)) for name in pair]
        chosen = names if self.trainable is None else self.trainable
        return Session(network.network(layers, self.activation, self._output_name), self.output, chosen, self.frozen)

    def _learn(self, X: Any, y: Any, sample_weight: Any, resume: bool, single: bool, classes: Any = None) -> None:
        self._check()
        if single and self.early_stopping:
            raise ParameterError("[fit] partial_fit does not support early_stopping=True: it sees one batch of rows at a time")
        with typed():
            X, y = self._validate(X, y, not resume)
            weight = self._weights(sample_weight, X)
        if weight is not None and not weight.all():
            used = weight > 0
            X, y, weight = X[used], y[used], weight[used]
        if weight is not None and self.batch_size == 1 and np.ptp(weight) > 0:
            warnings.warn(
                "sample_weight has no effect at batch_size=1, as the loss of a batch is divided by its sum of weights", stacklevel=4
            )
        target = self._target(y, resume, classes)
        scale = self._scale(target, weight, single)
        if scale is not None:
            weight = scale.astype(X.dtype) if weight is None else (scale * weight).astype(X.dtype)
            if not weight.all():
                used = weight > 0
                if not used.any():
                    raise DataError("[data] class_weight: got zero for every class of these rows, expected a positive weight")
                X, target, weight = X[used], target[used], weight[used]
        random: Any = None if resume and not self.early_stopping else self._random()
        if not resume:
            self._session = self._open(X, random)
            self._look(self._session.probe(X[:32]))
            self.loss_curve_, self.validation_losses_, self.best_loss_ = [], None, None
            self.n_layers_ = len(self._session.coefs) + 1
        self._check_columns(self.n_columns_)
        target = self._labels(target)
        session = self._session
        columns = [X, target] if weight is None else [X, target, weight]
        validation = None
        if self.early_stopping:
            columns, validation = self._held_out(columns, random)
        if not resume:
            session.seed(int(random.randint(np.iinfo(np.int32).max)))
        engine = session.engine_for(self._key(weight is not None), lambda: self._engine_options(session, weight is not None))
        try:
            with session.running():
                history = engine.fit(
                    columns,
                    validation,
                    epochs=1 if single else int(self.max_iter),
                    batch_size=min(200, len(columns[0])) if self.batch_size == "auto" else int(self.batch_size),
                    shuffle=self.shuffle,
                    tol=self.tol or 0.0,
                    patience=0 if self.tol is None or self.n_iter_no_change == math.inf else int(self.n_iter_no_change),
                    watch_validation=self.early_stopping,
                    keep_best=self.early_stopping,
                    least_rate=1e-6,
                    callback=self.callback,
                    verbose=int(self.verbose),
                )
        except KeyboardInterrupt:
            self._finish([], [])
            raise
        self._finish(history.losses, history.validation_losses)
        if history.stop == "epochs" and not single and self.tol is not None and self.max_iter > self.n_iter_no_change:
            self._warn()

    def _key(self, weighted: bool) -> Any:
        """What the step depends on, if all of it is plain values."""
        values = tuple(getattr(self, name) for name in _STEP)
        return (*values, weighted) if all(v is None or isinstance(v, str | int | float) for v in values) else None

    def _engine_options(self, session: Session, weighted: bool) -> dict[str, Any]:
        return {
            "learning_rate": self._rate(),
            "losses": [(self._loss(self.n_columns_), session.output)],
            "penalties": self._penalties(session),
            "weighted": weighted,
            "clip_norm": float(self.clip_norm),
            "clip_value": float(self.clip_value),
            "gradient_norm": self.callback is not None,
            "device": self.device,
        }

    def _held_out(self, columns: list[np.ndarray], random: np.random.RandomState) -> tuple[list[np.ndarray], list[np.ndarray]]:
        with typed():
            parts = train_test_split(
                *columns, random_state=random, test_size=self.validation_fraction, stratify=self._stratify(columns[1])
            )
        if len(parts[1]) < 2:
            raise DataError("[data] the validation set is too small: give more rows or a larger validation_fraction")
        return parts[::2], parts[1::2]

    def _finish(self, losses: list[float], validation: list[float]) -> None:
        progress = self._session.engine().trainer.progress
        self.n_iter_ = len(losses)
        self.t_ = progress["samples"]
        self.loss_curve_.extend(losses)
        if self.early_stopping:
            self.validation_losses_ = (self.validation_losses_ or []) + validation
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else None
        watched = validation if self.early_stopping else losses
        if watched:
            self.best_loss_ = min(watched) if self.best_loss_ is None else min(self.best_loss_, *watched)

    def _warn(self) -> None:
        warnings.warn(f"max_iter={self.max_iter} epochs are over and the loss still falls", ConvergenceWarning, stacklevel=4)

    def _adopt(self, features: int, names: Any, progress: Mapping[str, int]) -> None:
        """Fitted by its model: nothing was learned yet."""
        self.n_features_in_ = features
        if names is not None:
            self.feature_names_in_ = names
        random = self._random()
        self._check()
        self._session = self._given(features)
        self._look(self._session.probe(np.zeros((2, features))))
        self._check_columns(self.n_columns_)
        self._session.seed(int(random.randint(np.iinfo(np.int32).max)))
        self.loss_curve_, self.validation_losses_, self.best_loss_ = [], None, None
        self.n_layers_ = len(self._session.coefs) + 1
        engine = self._session.engine(self._engine_options(self._session, False))
        engine.trainer.progress = dict(progress)
        self._finish([], [])

    # What is known after a fit.

    def __sklearn_is_fitted__(self) -> bool:
        return "_session" in self.__dict__

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        with typed():
            X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return self._session.outputs(X).reshape(len(X), -1)

    def _fitted(self) -> Session:
        check_is_fitted(self)
        return self._session

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The trained weights of at least two dimensions, layer by layer (in the order of the graph)."""
        session = self._fitted()
        return session.values(session.coefs)

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The other trained weights."""
        session = self._fitted()
        return session.values(session.intercepts)

    @property
    def coef_(self) -> np.ndarray:
        """Of a linear model on X: (features,) for one column of y, else (outputs, features); a classifier's (1 or classes,
        features)."""
        coef = self._linear("coef")[0].T
        return coef[0] if getattr(self, "_flat", False) else coef

    @property
    def intercept_(self) -> np.ndarray:
        """Of a linear model on X: (outputs,)."""
        return self._linear("intercept")[1]

    def _linear(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        layer = self._fitted().layer()
        if layer is None:
            raise AttributeError(
                f"{type(self).__name__} has no {name}_: its graph is no linear model on X; see coefs_, intercepts_ and weights_"
            )
        return layer

    @property
    def weights_(self) -> dict[str, np.ndarray]:
        """All trained weights by name."""
        session = self._fitted()
        return dict(zip(session.weights, session.values(session.weights), strict=True))

    @property
    def onnx_(self) -> onnx.ModelProto:
        """The graph with the trained weights."""
        return self._fitted().trained()

    def plot_loss_curve(self, ax: Any = None) -> Any:
        """Draws the loss of the epochs, and of the validation rows where there are some; returns the matplotlib axes."""
        import matplotlib.pyplot as plt

        self._fitted()
        if ax is None:
            _, ax = plt.subplots()
        ax.plot(range(1, len(self.loss_curve_) + 1), self.loss_curve_, label="training")
        if self.validation_losses_:
            ax.plot(range(1, len(self.validation_losses_) + 1), self.validation_losses_, label="validation")
            ax.legend()
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        ax.set_title(type(self).__name__)
        return ax

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "model": getattr(state["model"], "model_proto", state["model"])}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags
