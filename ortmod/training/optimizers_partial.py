"""OrtGradientForwardBackwardOptimizer: partial training; the loss and its penalty are graphs of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ortmod import _C
from ortmod._errors import DTypeError, ModelError, RunError, ShapeError
from ortmod._model import ONNX_TO_TORCH
from ortmod.training._base_estimator import BaseEstimator, as_list, finite, select_penalties
from ortmod.training._values import to_tensor
from ortmod.training.excs import ParameterError
from ortmod.training.ortgradient import OrtGradientForwardBackward, OrtGradientForwardBackwardFunction
from ortmod.training.sgd_learning_loss import BaseLearningLoss
from ortmod.training.sgd_learning_rate import BaseLearningRate


def _broadcasts(tensor: torch.Tensor, live: torch.Tensor) -> bool:
    try:
        return torch.broadcast_shapes(tensor.shape, live.shape) == live.shape
    except RuntimeError:
        return False


class OrtGradientForwardBackwardOptimizer(BaseEstimator):
    """Trains a graph by a loss of its outputs. Graph, loss, penalty and update are composed into one step and run in C++.

    Args:
        model_onnx: the graph; several inputs and outputs work.
        weights_to_train: names, in any order; default: every float initializer.
        loss_output_name: kept for onnxcustom; the loss is not part of the graph.
        learning_loss: a BaseLearningLoss or its name, for the first output of floats; a list: one per such output and target,
            None for an output without; a dict from names of outputs to losses (targets in the order of the outputs).
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
        self.learning_loss = learning_loss
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
        given = self.learning_loss
        if isinstance(given, Mapping):
            self.learning_loss = {name: BaseLearningLoss.select(v) for name, v in given.items()}
        elif isinstance(given, list | tuple):
            self.learning_loss = [None if v is None else BaseLearningLoss.select(v) for v in given]
        else:
            self.learning_loss = BaseLearningLoss.select(given)
        if not self._losses():
            raise ParameterError(f"[train] learning_loss: got {given!r}, expected at least one loss")
        select_penalties(self.learning_penalty)

    def _losses(self) -> list[BaseLearningLoss]:
        losses = self.learning_loss
        if isinstance(losses, Mapping):
            return list(losses.values())
        return [loss for loss in losses if loss is not None] if isinstance(losses, list) else [losses]

    @property
    def needs_grad(self) -> bool:
        return self._rate().needs_grad

    def _engine_options(self, model: _C.Model, weighted: bool) -> dict[str, Any]:
        losses = self.learning_loss
        outputs = [name for name, (dtype, _, kind), _ in model.outputs if kind == 0 and ONNX_TO_TORCH[dtype].is_floating_point]
        if isinstance(losses, Mapping):
            unknown = [name for name in losses if name not in outputs]
            if unknown:
                raise ModelError(f"[compose] learning_loss: got {unknown}, expected outputs of floats: {', '.join(outputs)}")
            losses = [losses.get(name) for name in outputs]
        elif not isinstance(losses, list):
            losses = [losses]
        if len(losses) > len(outputs):
            raise ModelError(f"[compose] learning_loss: got {len(losses)} losses for {len(outputs)} outputs of floats")
        return {
            "losses": [(loss, output) for loss, output in zip(losses, outputs, strict=False) if loss is not None],
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
        """The weighted loss of each row, summed over the targets, in the order of the rows, of shape (n,)."""
        engine = self._fitted()
        columns = self._columns(engine, X, y, sample_weight)
        if len(engine.losses) == 1 and (sample_weight is None or engine.takes_weights):
            scores = engine.loss(columns)[1]
            if scores is None:
                raise ModelError("[train] the loss graph has no scores of the rows: its second output")
            return self._given(scores.reshape(-1))
        names = [name for name, _, _ in engine.model.outputs]
        outputs = dict(zip(names, engine.outputs(as_list(X)), strict=True))
        targets = as_list(y)
        if len(targets) != len(engine.losses):
            raise ShapeError(f"[train] y: got {len(targets)} targets, expected {len(engine.losses)}, one for each loss")
        total: Any = 0
        for (loss, output), target in zip(engine.losses, targets, strict=True):
            total = total + loss.loss_scores(target, outputs[output], sample_weight)
        return self._given(total.reshape(-1))

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
        return [None] * len(self._fitted().model.inputs) + self._lists(kind)

    def set_state(self, state: Sequence[Any], check_trained: bool = True, kind: str = "weight", zero: bool = False) -> None:
        """Sets weights or velocities, in the order of weights_to_train (leading Nones for inputs may be there); None leaves one
        as it is."""
        engine = self._fitted()
        names = self._weight_names()
        values = list(state)
        if len(values) == len(names) + len(self._fitted().model.inputs):
            values = values[-len(names) :]
        if len(values) != len(names):
            raise ModelError(f"[train] state: got {len(values)} values, expected {len(names)} ({', '.join(names)})")
        if kind == "grad" and not engine.trainer.states:
            raise RunError(f"[train] {type(self._rate()).__name__} has no velocities")
        if kind not in ("weight", "grad"):
            raise ParameterError(f"[train] kind: got {kind!r}, expected 'weight' or 'grad'")
        fresh = []
        for name, value in zip(names, values, strict=True):
            if value is None:
                continue
            if not hasattr(value, "shape") and not hasattr(value, "__dlpack__"):
                raise DTypeError(f"[train] state of {name!r}: got {type(value).__name__}, expected an array or None")
            live = engine.trainer.weight(name) if kind == "weight" else engine.state(engine.trainer.states[0], name)
            tensor = finite(name, value)
            if tensor.shape != live.shape and (check_trained or not _broadcasts(tensor, live)):
                raise ModelError(f"[train] state of {name!r}: got shape {tuple(tensor.shape)}, expected {tuple(live.shape)}")
            fresh.append((live, torch.zeros_like(live) if zero else tensor))
        for live, tensor in fresh:
            live.copy_(tensor)
        self._state = {**self._rest, **engine.full_state()}

    @property
    def train_session_(self) -> OrtGradientForwardBackward:
        return OrtGradientForwardBackward(self.get_trained_onnx(), self._weight_names(), device=self.device)

    @property
    def train_function_(self) -> OrtGradientForwardBackwardFunction:
        return self.train_session_.new_instance()

    def build_onnx_functions(self) -> dict[str, Any]:
        graphs = super().build_onnx_functions()
        graphs.update({f"learning_loss{'' if i == 0 else i}": loss for i, loss in enumerate(self._losses())})
        for i, penalty in enumerate(select_penalties(self.learning_penalty)):
            graphs[f"learning_penalty{'' if i == 0 else i}"] = penalty
        return graphs
