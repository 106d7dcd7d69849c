"""OrtGradientForwardBackwardOptimizer: partial training; the loss and its penalty are graphs of their own."""

from collections.abc import Sequence
from typing import Any

import torch

from ortmod import _C
from ortmod._errors import DTypeError, ModelError, RunError
from ortmod._model import ONNX_TO_TORCH, load
from ortmod.training._base_estimator import BaseEstimator, select_penalties
from ortmod.training._values import to_tensor
from ortmod.training.excs import ParameterError
from ortmod.training.ortgradient import OrtGradientForwardBackward, OrtGradientForwardBackwardFunction
from ortmod.training.sgd_learning_loss import BaseLearningLoss
from ortmod.training.sgd_learning_rate import BaseLearningRate


class OrtGradientForwardBackwardOptimizer(BaseEstimator):
    """Trains a graph by a loss of its outputs. Graph, loss, penalty and update are composed into one step and run in C++.

    Args:
        model_onnx: the graph; several inputs and outputs work.
        weights_to_train: names, in any order; default: every float initializer.
        loss_output_name: kept for onnxcustom; the loss is not part of the graph.
        learning_loss: a BaseLearningLoss or its name, for the first output of floats; a list: one per such output and target.
        weight_name: kept for onnxcustom; weights of rows are given to `fit`.
        learning_penalty: a BaseLearningPenalty, its name, a list of them, or a dict from names of weights to penalties.
        exc: False warns (ConvergenceWarning) where the loss is not finite, and ends the fit.

    Other arguments and what a fit leaves are those of OrtGradientOptimizer; `validation_losses_` is None without validation data.
    """

    def __init__(
        self,
        model_onnx: Any,
        weights_to_train: Sequence[str] | None = None,
        loss_output_name: str = "loss",
        max_iter: int = 100,
        training_optimizer_name: str = "SGDOptimizer",
        batch_size: int = 10,
        learning_rate: Any = "SGD",
        device: Any = "cpu",
        warm_start: bool = False,
        verbose: int = 0,
        validation_every: float = 0.1,
        learning_loss: Any = "square_error",
        enable_logging: bool = False,
        weight_name: str | None = None,
        learning_penalty: Any = None,
        exc: bool = True,
        init: str = "normal",
        random_state: int | None = None,
        shuffle: bool = True,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        tol: float = 0.0,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        master_dtype: Any = None,
        callback: Any = None,
    ) -> None:
        self.model_onnx = model_onnx
        self.weights_to_train = weights_to_train
        self.loss_output_name = loss_output_name
        self.max_iter = max_iter
        self.training_optimizer_name = training_optimizer_name
        self.batch_size = batch_size
        self.learning_rate: BaseLearningRate = BaseLearningRate.select(learning_rate)
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.validation_every = validation_every
        self.learning_loss = (
            [BaseLearningLoss.select(v) for v in learning_loss]
            if isinstance(learning_loss, list | tuple)
            else BaseLearningLoss.select(learning_loss)
        )
        self.enable_logging = enable_logging
        self.weight_name = weight_name
        self.learning_penalty = (
            learning_penalty if isinstance(learning_penalty, dict | list | tuple) else select_penalties(learning_penalty)[0]
        )
        self.exc = exc
        self.init = init
        self.random_state = random_state
        self.shuffle = shuffle
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.master_dtype = master_dtype
        self.callback = callback
        self._check()

    def _check(self) -> None:
        super()._check()
        if not isinstance(self.learning_loss, list):
            self.learning_loss = BaseLearningLoss.select(self.learning_loss)
        select_penalties(self.learning_penalty)

    @property
    def needs_grad(self) -> bool:
        return self._rate().needs_grad

    def _engine_options(self, model: _C.Model, weighted: bool) -> dict[str, Any]:
        losses = self.learning_loss if isinstance(self.learning_loss, list) else [self.learning_loss]
        outputs = [name for name, (dtype, _, kind), _ in model.outputs if kind == 0 and ONNX_TO_TORCH[dtype].is_floating_point]
        if len(losses) > len(outputs):
            raise ModelError(f"[compose] learning_loss: got {len(losses)} losses for {len(outputs)} outputs of floats")
        return {
            "losses": list(zip(losses, outputs, strict=False)),
            "penalties": select_penalties(self.learning_penalty),
            "weighted": weighted,
        }

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None
    ) -> "OrtGradientForwardBackwardOptimizer":
        """Trains; `X` and `y` may be lists, one array per input, one target per loss.

        Raises:
            ConvergenceError: the loss is not finite; weights are those before that epoch.
            EvaluationError: the validation loss is not finite.
        """
        history = self._fit(X, y, sample_weight, X_val, y_val)
        self.validation_losses_ = history.validation_losses if X_val is not None else None
        if self.enable_logging:
            self._log(history.epochs)
        return self

    @staticmethod
    def _log(reports: list[dict[str, Any]]) -> None:
        import logging

        for report in reports:
            logging.getLogger("ortmod").info("epoch %d: loss %g, rate %g", report["epoch"], report["loss"], report["learning_rate"])

    def losses(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """The weighted loss of each row, in the order of the rows, of shape (n,)."""
        engine = self._fitted()
        columns = self._columns(X, y, sample_weight)
        if sample_weight is not None and not engine.takes_weights:
            other = self._make_engine(True)
            other.set_weights(engine.weights())
            engine = other
        scores = engine.loss(columns)[1]
        if scores is None:
            raise ModelError("[train] the loss graph has no scores of the rows: its second output")
        return self._given(scores.reshape(-1))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Minus the mean of the losses of the rows."""
        return -float(to_tensor(self.losses(X, y, sample_weight)).double().mean())

    # States as lists, as onnxcustom has them.

    def _lists(self, kind: str) -> list[Any]:
        engine = self._fitted()
        if kind == "weight":
            return list(self.trained_coef_.values())
        if kind == "grad":
            states = engine.trainer.states
            names = self._weight_names()
            return [self._given(engine.state(states[0], name).clone()) for name in names] if states else []
        raise ParameterError(f"[train] kind: got {kind!r}, expected 'weight' or 'grad'")

    def get_state(self, kind: str = "weight") -> list[Any]:
        """The trained weights, or their velocities (`kind="grad"`), in the order of weights_to_train."""
        return self._lists(kind)

    def get_full_state(self, kind: Any = "weight") -> Any:
        """The same with a None for each input of the graph before them; several kinds give several lists."""
        if isinstance(kind, list | tuple):
            return [self.get_full_state(k) for k in kind]
        return [None] * len(load(self.model_onnx).inputs) + self._lists(kind)

    def set_state(self, state: Sequence[Any], check_trained: bool = True, kind: str = "weight", zero: bool = False) -> None:
        """Sets weights or velocities, in the order of weights_to_train (leading Nones for inputs may be there); None leaves one
        as it is."""
        engine = self._fitted()
        names = self._weight_names()
        values = list(state)
        if len(values) == len(names) + len(load(self.model_onnx).inputs):
            values = values[-len(names) :]
        if len(values) != len(names):
            raise ModelError(f"[train] state: got {len(values)} values, expected {len(names)} ({', '.join(names)})")
        if kind == "grad" and not engine.trainer.states:
            raise RunError(f"[train] {type(self._rate()).__name__} has no velocities")
        if kind not in ("weight", "grad"):
            raise ParameterError(f"[train] kind: got {kind!r}, expected 'weight' or 'grad'")
        for name, value in zip(names, values, strict=True):
            if value is None:
                continue
            if not hasattr(value, "shape") and not hasattr(value, "__dlpack__"):
                raise DTypeError(f"[train] state of {name!r}: got {type(value).__name__}, expected an array or None")
            live = engine.trainer.weight(name) if kind == "weight" else engine.state(engine.trainer.states[0], name)
            tensor = to_tensor(value)
            if check_trained and tensor.shape != live.shape:
                raise ModelError(f"[train] state of {name!r}: got shape {tuple(tensor.shape)}, expected {tuple(live.shape)}")
            live.copy_(torch.zeros_like(live) if zero else tensor)
        self._state = {**engine.full_state(), "generators": self._rest.get("generators")}

    @property
    def train_session_(self) -> OrtGradientForwardBackward:
        return OrtGradientForwardBackward(self.get_trained_onnx(), self._weight_names(), device=self.device)

    @property
    def train_function_(self) -> OrtGradientForwardBackwardFunction:
        return self.train_session_.new_instance()

    def build_onnx_functions(self) -> dict[str, Any]:
        losses = self.learning_loss if isinstance(self.learning_loss, list) else [self.learning_loss]
        graphs = super().build_onnx_functions()
        graphs.update({f"learning_loss{'' if i == 0 else i}": loss for i, loss in enumerate(losses)})
        for i, penalty in enumerate(select_penalties(self.learning_penalty)):
            graphs[f"learning_penalty{'' if i == 0 else i}"] = penalty
        return graphs
