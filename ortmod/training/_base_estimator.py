"""What both optimizers share: data in, a fit in C++, weights and states out."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import torch

from ortmod import _C
from ortmod._errors import ModelError, ShapeError
from ortmod._model import load
from ortmod.training._engine import Engine, History
from ortmod.training._params import Parameters, is_number
from ortmod.training._pieces import piece
from ortmod.training._random import drawing, draws, generators
from ortmod.training._values import all_finite, float_type, like, rows_of, to_array, to_tensor
from ortmod.training.excs import DataError, ParameterError
from ortmod.training.onnx_helper import as_proto, initializer_names, replace_initializers_into_onnx
from ortmod.training.sgd_learning_penalty import BaseLearningPenalty
from ortmod.training.sgd_learning_rate import BaseLearningRate, LearningRateAdamW

_INITS = ("normal", "model")
_SEEDS = (1 << 63) - 1  # what a generator of torch takes
_logger = logging.getLogger("ortmod")


def as_list(value: Any) -> list[Any]:
    return (
        list(value)
        if isinstance(value, list | tuple) and value and not np.isscalar(value[0]) and hasattr(value[0], "shape")
        else [value]
    )


def finite(name: str, value: Any) -> torch.Tensor:
    """A weight or state that is given; DataError where it is not finite."""
    tensor = to_tensor(value)
    if tensor.is_floating_point() and not all_finite(tensor):
        raise DataError(f"[train] state of {name!r} contains NaN or infinity")
    return tensor


def check_weights(sample_weight: Any) -> None:
    """DataError unless all weights of rows are at least 0 and one is above."""
    weights = to_tensor(sample_weight)
    if bool((weights < 0).any()):
        raise DataError(f"[train] sample_weight: got {float(weights.min())}, expected weights of at least 0")
    if weights.numel() and not bool((weights != 0).any()):
        raise DataError("[train] sample_weight: all weights are 0, so there is nothing to train on; give one above 0")


class BaseEstimator(Parameters):
    """Trains a standalone ONNX graph; see OrtGradientOptimizer and OrtGradientForwardBackwardOptimizer."""

    model_onnx: Any
    weights_to_train: Sequence[str] | None
    max_iter: int
    training_optimizer_name: str
    batch_size: int
    learning_rate: BaseLearningRate
    device: Any
    warm_start: bool
    verbose: int
    validation_every: float
    init: str
    random_state: int | None
    _state: dict[str, Any] | None
    shuffle: bool
    accumulate: int
    clip_norm: float
    clip_value: float
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    master_dtype: Any
    callback: Callable[[dict[str, Any]], Any] | None
    exc: bool = True

    def _check(self) -> None:
        self.learning_rate = BaseLearningRate.select(self.learning_rate)
        for name, least in (("max_iter", 0), ("batch_size", 0), ("accumulate", 1), ("n_iter_no_change", 0), ("random_state", 0)):
            value = getattr(self, name)
            if name == "random_state" and value is None:
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= _SEEDS:
                raise ParameterError(f"[train] {name}: got {value!r}, expected a whole number of at least {least}")
        for name in ("clip_norm", "clip_value", "tol"):
            value = getattr(self, name)
            if not is_number(value) or math.isnan(value) or (value < 0 and name != "tol"):
                raise ParameterError(f"[train] {name}: got {value!r}, expected a number" + " of at least 0" * (name != "tol"))
        if not is_number(self.validation_every) or not 0 < self.validation_every < math.inf:
            raise ParameterError(
                f"[train] validation_every: got {self.validation_every!r}, expected epochs, or a share of max_iter below 1"
            )
        if not isinstance(self.verbose, int | np.integer):
            raise ParameterError(f"[train] verbose: got {self.verbose!r}, expected 0, 1 or 2")
        if self.callback is not None and not callable(self.callback):
            raise ParameterError(f"[train] callback: got {self.callback!r}, expected a function of the report of an epoch")
        if self.master_dtype is not None:
            float_type("master_dtype", self.master_dtype)
        names = self.weights_to_train
        if isinstance(names, Iterator):
            names = self.weights_to_train = list(names)
        if names is not None and not isinstance(names, str):
            if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
                raise ParameterError(f"[train] weights_to_train: got {names!r}, expected names of weights")
        if self.init not in _INITS:
            raise ParameterError(f"[train] init: got {self.init!r}, expected one of {', '.join(map(repr, _INITS))}")
        if self.training_optimizer_name not in ("SGDOptimizer", "AdamWOptimizer"):
            raise NotImplementedError(
                f"training_optimizer_name: got {self.training_optimizer_name!r}, expected 'SGDOptimizer' or 'AdamWOptimizer'; "
                "other updates are given as learning_rate"
            )

    def _rate(self) -> BaseLearningRate:
        if self.training_optimizer_name == "AdamWOptimizer" and not isinstance(self.learning_rate, LearningRateAdamW):
            return LearningRateAdamW(lr=self.learning_rate.eta0)
        return self.learning_rate

    def _weight_names(self, model: _C.Model | None = None) -> list[str]:
        if self.weights_to_train is not None:
            names = self.weights_to_train
            return [names] if isinstance(names, str) else list(names)
        return initializer_names(self.model_onnx, model or load(self.model_onnx))

    def _engine_options(self, model: _C.Model, weighted: bool) -> dict[str, Any]:
        raise NotImplementedError

    def _make_engine(self, weighted: bool, gradient_norm: bool = False) -> Engine:
        model = load(self.model_onnx)
        return Engine(
            model,
            self._weight_names(model),
            self._rate(),
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            dtype=self.master_dtype,
            device=self.device,
            gradient_norm=gradient_norm,
            **self._engine_options(model, weighted),
        )

    def _columns(self, engine: Engine, X: Any, y: Any, sample_weight: Any) -> list[Any]:
        columns = [*as_list(X), *as_list(y)]
        if sample_weight is not None:
            weight = to_tensor(sample_weight)
            rows = rows_of(columns[0])
            if weight.dim() == 0 or weight.numel() != len(weight) or len(weight) != rows:
                raise ShapeError(
                    f"[train] sample_weight: got shape {tuple(weight.shape)}, expected one number for each of {rows} rows"
                )
            columns.append(weight.reshape(-1))
        return columns

    def _fit(self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> History:
        self._check()
        if (X_val is None) != (y_val is None):
            raise ParameterError("[train] X_val and y_val come together: got one of them")
        engine = self._make_engine(sample_weight is not None, gradient_norm=self.callback is not None)
        previous = self._reached() if self.warm_start else None
        if previous is not None:
            self._resume(engine, previous)
        else:
            engine.seed(self.random_state)
            if self.init == "normal" and not self.warm_start:
                self._draw(engine)
        if not draws(engine.model):
            return self._fit_columns(engine, X, y, sample_weight, X_val, y_val)
        states = None if previous is None else previous.get("generators")
        with drawing(engine.trainer.progress["seed"] & _SEEDS, states, torch.device(self.device)):
            return self._fit_columns(engine, X, y, sample_weight, X_val, y_val)

    def _fit_columns(self, engine: Engine, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> History:
        columns = self._columns(engine, X, y, sample_weight)
        if sample_weight is not None:
            check_weights(sample_weight)
        validation = None
        if X_val is not None:
            ones = None if sample_weight is None else np.ones(rows_of(as_list(X_val)[0]) or 0)
            validation = self._columns(engine, X_val, y_val, ones)
        every = self.validation_every
        self._watch(engine, validation is not None)
        self._as_tensor = isinstance(as_list(X)[0], torch.Tensor)
        begun = engine.trainer.progress["updates"]
        try:
            history = engine.fit(
                columns,
                validation,
                epochs=self.max_iter,
                batch_size=self.batch_size,
                shuffle=self.shuffle,
                accumulate=self.accumulate,
                validate_every=max(1, int(self.max_iter * every)) if every < 1 else int(every),
                tol=self.tol,
                patience=self.n_iter_no_change if self.early_stopping or engine.lowers else 0,
                watch_validation=self.early_stopping and validation is not None,
                keep_best=self.early_stopping and validation is not None,
                least_rate=1e-6 if engine.lowers else 0.0,
                callback=self._reporting(engine, sample_weight is not None),
                verbose=self.verbose,
                exc=self.exc,
            )
        except BaseException:
            if engine.trainer.progress["updates"] > begun:  # interrupted: what was reached stays
                self._keep(engine, sample_weight is not None)
            raise
        self._keep(engine, sample_weight is not None)
        self.n_iter_ = len(history.epochs)
        self.history_ = history.epochs
        self.train_losses_ = history.losses
        self.input_names_ = [name for name, _, _ in engine.model.inputs]
        self.output_names_ = [name for name, _, _ in engine.model.outputs]
        return history

    def _watch(self, engine: Engine, validates: bool) -> None:
        """A fit with a warm start goes on counting epochs without progress, unless it looks at another loss than the last one."""
        names = ("learning_loss", "learning_penalty", "loss_output_name", "loss_reduction")
        self._watched = repr((self.early_stopping and validates, [repr(getattr(self, name, None)) for name in names]))
        previous = getattr(self, "_rest", {}).get("watched")
        if self.warm_start and previous not in (None, self._watched):
            engine.trainer.progress = {**engine.trainer.progress, "best": math.inf, "without_progress": 0}

    def _reporting(self, engine: Engine, has_weights: bool) -> Callable[[dict[str, Any]], Any] | None:
        """The callback; while it runs, the estimator is that after the epoch."""
        callback = self.callback
        if callback is None:
            return None

        def report(values: dict[str, Any]) -> Any:
            self._keep(engine, has_weights)
            return callback(values)

        return report

    def _keep(self, engine: Engine, has_weights: bool) -> None:
        self._engine_ = engine
        self._has_weights = has_weights
        self._state = None
        self._rest = {
            **engine.full_state(tensors=False),
            "generators": generators(torch.device(self.device)),
            "update": self._rate().states_meaning(),
            "watched": self._watched,
        }

    def _reached(self) -> dict[str, Any] | None:
        """The full state after the last fit; its tensors are copied from the engine when they are asked for."""
        if getattr(self, "_state", None) is None and getattr(self, "_engine_", None) is not None:
            self._state = {**self._engine_.full_state(), **self._rest}
        return getattr(self, "_state", None)

    def _resume(self, engine: Engine, state: Mapping[str, Any]) -> None:
        """Goes on from a state. States of another update mean something else: they start at zero, and so do its steps."""
        live = engine.trainer.tensors()
        known = {name: t for name, t in state["tensors"].items() if name in live and live[name].shape == t.shape}
        if state.get("update", self._rate().states_meaning()) != self._rate().states_meaning():
            known = {name: t for name, t in known.items() if name not in engine.trainer.states}
            if any(name == "step" for name, _, _ in piece(self._rate(), dtype=np.float32).inputs):
                state = {**state, "progress": {**state["progress"], "updates": 0}}
        if "parameters" not in known:
            raise ModelError(
                "[train] warm_start: the weights to train are not those of the last fit; set warm_start=False or init='model'"
            )
        engine.load_full_state({**state, "tensors": known})

    def _draw(self, engine: Engine) -> None:
        random = np.random.default_rng(self.random_state)
        for name, weight in engine.weights().items():
            engine.set_weights({name: random.standard_normal(tuple(weight.shape))})

    def _fitted(self) -> Engine:
        if getattr(self, "_engine_", None) is None:
            state = getattr(self, "_state", None)
            if state is None:
                raise AttributeError("Method fit must be called before: there is no state yet")
            self._engine_ = self._make_engine(self._has_weights)
            self._resume(self._engine_, state)
        return self._engine_

    def _given(self, value: torch.Tensor) -> Any:
        return value if getattr(self, "_as_tensor", False) else to_array(value)

    # What is known after a fit.

    @property
    def trained_coef_(self) -> dict[str, Any]:
        """The trained weights by name."""
        return {name: self._given(t) for name, t in self._fitted().weights().items()}

    def _set(self, state: Mapping[str, Any]) -> None:
        engine = self._fitted()
        engine.set_weights({name: finite(name, value) for name, value in state.items()})
        self._state = {**self._rest, **engine.full_state()}

    def predict(self, X: Any) -> Any:
        """The outputs of the graph with the trained weights (a list when there are several)."""
        inputs = as_list(X)
        outputs = [like(t, inputs[0]) for t in self._fitted().outputs(inputs)]
        return outputs[0] if len(outputs) == 1 else outputs

    def get_trained_onnx(self, model: Any = None) -> onnx.ModelProto:
        """A copy of `model` (default: the trained graph) with the trained weights and running statistics as its initializers."""
        values = {name: to_array(t) for name, t in self._fitted().all_weights().items()}
        proto = as_proto(model if model is not None else self.model_onnx)
        if model is None and values.keys() - {w.name for w in proto.graph.initializer}:  # weights that were attributes
            graph = load(self.model_onnx).with_training(False)
            return onnx.load_from_string(graph.to_bytes({name: torch.from_numpy(v) for name, v in values.items()}))
        return replace_initializers_into_onnx(proto, values, missing=model is not None)

    def build_onnx_functions(self) -> dict[str, Any]:
        graphs: dict[str, Any] = {"model": as_proto(self.model_onnx), "learning_rate": self._rate()}
        engine = getattr(self, "_engine_", None)
        if engine is not None:
            with suppress(ModelError):  # parts of a newer opset than the model's cannot be written in one file with it
                graphs["step"] = onnx.load_from_string(engine.trainer.graph.expanded().to_bytes())
        return graphs

    def __getstate__(self) -> dict[str, Any]:
        self._reached()
        state = {key: value for key, value in self.__dict__.items() if key not in ("_engine_",)}
        state["model_onnx"] = as_proto(self.model_onnx).SerializeToString()
        return copy.copy(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.model_onnx = onnx.load_from_string(state["model_onnx"])

    def __sklearn_clone__(self) -> Any:
        return type(self)(**copy.deepcopy(self.get_params()))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's model selection asks for; `score` ranks, and folds are not stratified."""
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=True))

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "_engine_", None) is not None or getattr(self, "_state", None) is not None


def select_penalties(value: Any) -> list[BaseLearningPenalty]:
    """One penalty, several, or a dict from names of weights to penalties."""
    if isinstance(value, Mapping):
        chosen = []
        for name, penalty in value.items():
            own = copy.copy(BaseLearningPenalty.select(penalty))
            own.weights = [name]
            chosen.append(own)
        return chosen
    if isinstance(value, list | tuple):
        return [BaseLearningPenalty.select(v) for v in value]
    return [BaseLearningPenalty.select(value)]
